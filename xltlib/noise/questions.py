"""The five open questions of the reports: which runs answer each one, and what these say.

A question is answered by one effect with its interval, decided like a statement with margin 0; further
effects explain it. All of them were written down here before the runs, but for the last two of question 0.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from xltlib.claims.scores import LABELS, SETTING, Setting, canonical, paired, ten_digits
from xltlib.claims.verdicts import outcome
from xltlib.data.synthetic import LANGUAGES
from xltlib.finetuning.options import TYPO_RATES
from xltlib.params import Params
from xltlib.pretraining import options as pretraining
from xltlib.runs import Runs
from xltlib.significance.tests import Effect, difference, interaction, trend
from xltlib.store import Spec

CHANCE = {"nli": 1 / 3, "paraphrase": 1 / 2, "qa": 0.0}
SIZES = (  # of encoders, an order of magnitude in weights and more
    "hidden_size=16,num_layers=2,num_heads=1",
    "hidden_size=32,num_layers=2,num_heads=1",
    "",  # the profile's own
    "hidden_size=128,num_layers=4,num_heads=4",
)
SHARES = (0.0625, 0.25, 0.5, 1.0)  # of its translation pairs that the language with little text keeps
BUDGETS = (125, 250, 500, 1000, 2000)  # intermediate examples for each language
LAYERS = ("num_layers=3", "num_layers=6", "num_layers=9", "")  # the first ones of a published encoder
NOISE_NAMES = {"": "no noise", "noise=typo": "typing errors", "noise=token": "replaced tokens"}


Effects = Iterator[tuple[str, str, Effect]]  # what it is, its unit, and its number


@dataclass(frozen=True)
class Question:
    """What answers a question: its runs and its effects, of which the first decides."""

    asks: str
    runs: Callable[[Runs], list[Spec]]
    effects: Callable[[pd.DataFrame, Params], Effects]
    limits: str


def answer(number: int, scores: pd.DataFrame, params: Params) -> dict[str, Any]:
    """A question's answer as plain data, equal on all machines; LookupError where its runs are missing."""
    question, effects = QUESTIONS[number], []
    for words, unit, e in question.effects(answering(scores, number, params), params):
        numbers = {name: ten_digits(getattr(e, name)) for name in ("estimate", "low", "high", "p")}
        decided = {"outcome": outcome(e.estimate, e.p, e.seeds, e.alpha), "seeds": e.seeds}
        per_seed = [ten_digits(x) for x in e.per_seed]
        effects.append({"words": words, "unit": unit, **decided, "per_seed": per_seed, **numbers})
    return {
        "status": "answered", "sentence": sentence(effects[0]), "effect": effects[0], "effects": effects,
        "figure": f"question_{number}", "limits": question.limits,
    }  # fmt: skip


def answering(scores: pd.DataFrame, number: int, params: Params) -> pd.DataFrame:
    """The rows of a question's runs, of the seeds that are complete in all of its variants.

    Where runs are missing, variants have different seeds, or some seeds were scored in fewer settings.
    """
    labels = [spec.params["labels"] for spec in QUESTIONS[number].runs(Runs(params))]
    variants = {str(sorted(canonical(own, {}).items())) for own in labels}
    names = [str(sorted(canonical(own, {}).items())) for own in scores[list(LABELS)].to_dict("records")]
    own = scores.assign(variant=names)
    own = own[own["variant"].isin(variants)]
    complete = []
    for _, rows in own.groupby("variant"):
        sizes = rows.groupby("seed").size()
        complete.append(set(sizes.index[sizes == len(rows[list(SETTING)].drop_duplicates())]))
    return own[own["seed"].isin(set.intersection(*complete) if complete else set())].drop(columns="variant")


def sentence(effect: Mapping[str, Any]) -> str:
    """An effect in a sentence that its numbers alone decide."""
    word = {"supported": "Yes", "contradicted": "No, the reverse", "inconclusive": "Open"}[effect["outcome"]]
    numbers = f"{effect['estimate']:+.3f} [{effect['low']:+.3f}, {effect['high']:+.3f}] {effect['unit']}"
    return f"{word}: {effect['words']}: {numbers}, {effect['seeds']} seeds."


def arrays(
    scores: pd.DataFrame, task: str, languages: Sequence[str], rate: float = 0.0, **labels: str
) -> list[np.ndarray]:
    """K arrays (R, N) of scores in some languages, typing errors at `rate`; LookupError where missing."""
    settings = [Setting(x, noise="typo" if rate else "", rate=rate) for x in languages]
    own = paired(scores, {"task": task, **labels}, settings)
    if own.missing:
        raise LookupError(own.missing)
    return list(own.scores)


def ratio_effect(per_seed: Sequence[float], alpha: float) -> Effect:
    """A statistic computed seed by seed (a ratio), with the t interval over seeds; H0: its mean is 0."""
    x = np.asarray(per_seed, dtype=float)
    if len(x) < 2:
        raise LookupError("one seed alone gives no interval: two or more are needed")
    return Effect.of([x[:, None]], [1.0], [x.mean()], 0.0, alpha)


def _grid(runs: Runs, tasks: Sequence[str], variants: Sequence[Mapping[str, str]]) -> list[Spec]:
    """Transfers of every variant on those of the tasks that the profile has, for all seeds."""
    return [
        runs.transfer(
            task, v.get("objective", "none"), seed, v.get("method", "standard"),
            v.get("objective_options", ""), v.get("method_options", ""),
        )
        for seed in runs.params.every_seed
        for v in variants
        for task in tasks
        if task in runs.params.tasks
    ]  # fmt: skip


# 0: noise in span-corruption pre-training


def _q0_effects(scores: pd.DataFrame, params: Params) -> Effects:
    noises = {noise: name for noise, name in NOISE_NAMES.items() if noise}
    f1 = {
        (noise, rate): arrays(
            scores, "qa", params.targets, rate, objective="span_corruption", objective_options=noise
        )
        for noise in NOISE_NAMES
        for rate in (0.2, 0.0)
    }
    for rate, where in ((0.2, "at 20% typing errors"), (0.0, "on clean text")):
        for noise, name in noises.items():
            words = f"gain in F1 from {name} in pre-training, zero-shot question answering {where}"
            yield words, "F1", difference(f1[noise, rate], f1["", rate], alpha=params.alpha)
    for noise, name in noises.items():
        gains = [f1[pretrained, rate] for rate in (0.2, 0.0) for pretrained in (noise, "")]
        words = f"how much less F1 20% typing errors take after {name} in pre-training"
        yield words, "F1", interaction(*gains, alpha=params.alpha)


# 1: mixed-language pre-training

MIXED_NAMES = {"none": "none", "mlm": "unmixed", "mixed": "mixed"}


def _q1_effects(scores: pd.DataFrame, params: Params) -> Effects:
    rivals = {"mlm": "unmixed text of the same size", "none": "no further pre-training"}
    for task in (t for t in ("nli", "paraphrase") if t in params.tasks):
        mixed = arrays(scores, task, params.targets, objective="mixed")
        for rival, name in rivals.items():
            other = arrays(scores, task, params.targets, objective=rival)
            words = f"gain of mixed-language pre-training over {name}, zero-shot {task}"
            yield words, "accuracy", difference(mixed, other, alpha=params.alpha)


# 2: model size and typing errors


def _q2_runs(runs: Runs) -> list[Spec]:
    transfers = _grid(runs, ("nli", "qa"), [{"objective_options": size} for size in sizes(runs.params)])
    return [*transfers, *(runs.evaluation("typo", transfer) for transfer in transfers)]


def sizes(params: Params) -> tuple[str, ...]:
    """The options that make the encoders of all sizes, the smallest first."""
    return LAYERS if params.model else SIZES


def weights(options: str, params: Params) -> int:
    """Weights of an encoder of this shape: embeddings, and per layer attention and gated feed-forward.

    Of a published encoder those of its layers alone: the embeddings are the same for all sizes.
    """
    chosen = pretraining.options("none", options)
    h = chosen.hidden_size or params.hidden_size
    layers = chosen.num_layers or params.num_layers
    if params.model:
        return layers * (4 * h * h + 2 * h * 4 * h)
    return params.vocab_size * h + layers * (4 * h * h + 3 * h * 2 * h)


def relative_drop(scores: pd.DataFrame, params: Params, task: str, size: str, rate: float) -> np.ndarray:
    """(R,) share of the score above chance, over the targets, that typing errors at `rate` take away."""
    clean, noisy = (
        np.mean([s.mean(1) for s in arrays(scores, task, params.targets, at, objective_options=size)], axis=0)
        for at in (0.0, rate)
    )
    return (clean - noisy) / np.maximum(clean - CHANCE[task], 0.01)


def _q2_effects(scores: pd.DataFrame, params: Params) -> Effects:
    rate, alpha, sized = TYPO_RATES[-1], params.alpha, sizes(params)
    x = np.log10([weights(size, params) for size in sized])
    slope = (x - x.mean()) / ((x - x.mean()) ** 2).sum()
    for task in (t for t in ("nli", "qa") if t in params.tasks):
        drops = np.stack([relative_drop(scores, params, task, size, rate) for size in sized])  # (sizes, R)
        words = f"decrease of the relative drop for ten times the weights, {task}, {rate:.0%} typing errors"
        shrinks = ratio_effect(-(slope @ drops), alpha)
        yield words, "of the score above chance", shrinks
        ends = [
            arrays(scores, task, params.targets, at, objective_options=size)
            for size in (sized[0], sized[-1])
            for at in (0.0, rate)
        ]
        words = f"drop of the smallest minus drop of the largest encoder, {task}"
        yield words, "points from 0 to 1", interaction(*ends, alpha=alpha)


# 3: subword-level alignment

LEVELS = {"exchange": ("weam", "subword_weam"), "pulling": ("word_aligned", "subword_aligned")}
SHARE_OPTIONS = {share: "" if share == 1 else f"pairs={share:g}" for share in SHARES}


def low_resource(params: Params) -> tuple[str, ...]:
    """The languages with less text than the others; of real ones all targets, made poor by the shares."""
    if params.data == "real":
        return params.targets
    return tuple(t for t in params.targets if LANGUAGES[t].text_share < 1) or params.targets[-1:]


def _q3_effects(scores: pd.DataFrame, params: Params) -> Effects:
    for kind, (word, subword) in LEVELS.items():
        by_share = [
            [
                arrays(scores, "nli", low_resource(params), objective=objective, objective_options=option)
                for option in SHARE_OPTIONS.values()
            ]
            for objective in (subword, word)
        ]
        pooled = [[s for level in levels for s in level] for levels in by_share]
        words = (
            f"gain of subword links over word links ({kind}), under-resourced language, all amounts of text"
        )
        yield words, "accuracy", difference(*pooled, alpha=params.alpha)
        ends = [levels[k] for k in (0, -1) for levels in by_share]
        words = f"that gain with the least text minus that with the most ({kind})"
        yield words, "accuracy", interaction(*ends, alpha=params.alpha)


# 4: intermediate examples per language


def budget(n: int, sampling: str) -> dict[str, str]:
    """The labels of an intermediate task with `n` examples for each language."""
    return {"method": "intermediate", "method_options": f"n={n},sampling={sampling}"}


def _q4_effects(scores: pd.DataFrame, params: Params) -> Effects:
    balanced, drawn = (
        [arrays(scores, "nli", params.targets, **budget(n, sampling)) for n in BUDGETS]
        for sampling in ("balanced", "random")
    )
    alpha, plain = params.alpha, arrays(scores, "nli", params.targets)
    pooled = [[s for level in levels for s in level] for levels in (balanced, drawn)]
    words = "change for twice the intermediate examples per language, balanced"
    yield words, "accuracy", trend(balanced, np.log2(BUDGETS).tolist(), alpha=alpha)
    words = "balanced minus random sampling of the same total, all budgets"
    yield words, "accuracy", difference(*pooled, alpha=alpha)
    words = "largest balanced budget minus none"
    yield words, "accuracy", difference(balanced[-1], plain, alpha=alpha)


QUESTIONS: dict[int, Question] = {
    0: Question(
        "does noise in pre-training make an encoder-decoder robust?",
        lambda runs: [runs.answers(seed, noise) for seed in runs.params.every_seed for noise in NOISE_NAMES],
        _q0_effects,
        "One tiny encoder-decoder and one rate of noise, of the very kind that the noisy tests have. "
        "What typing errors take was asked when the gains were known.",
    ),
    1: Question(
        "does mixed-language pre-training help classification?",
        lambda runs: _grid(runs, ("nli", "paraphrase"), [{"objective": name} for name in MIXED_NAMES]),
        _q1_effects,
        "One switch rate, a perfect lexicon of stems, and languages that share a grammar.",
    ),
    2: Question(
        "do larger encoders lose less to typing errors?",
        _q2_runs,
        _q2_effects,
        "Tiny encoders, the largest with forty times the weights, and one learning rate for all. The "
        "smallest are at chance in distant languages: nearly all that they lose they lose in the near one.",
    ),
    3: Question(
        "do subword-level alignment tasks help an under-resourced language?",
        lambda runs: _grid(
            runs,
            ("nli",),
            [
                {"objective": objective, "objective_options": option}
                for pair in LEVELS.values()
                for objective in pair
                for option in SHARE_OPTIONS.values()
            ],
        ),
        _q3_effects,
        "One under-resourced language; only its parallel text varies.",
    ),
    4: Question(
        "how do intermediate examples per language change transfer?",
        lambda runs: _grid(
            runs, ("nli",), [{}, *(budget(n, kind) for n in BUDGETS for kind in ("balanced", "random"))]
        ),
        _q4_effects,
        "One intermediate task; translations are perfect in the synthetic languages.",
    ),
}
