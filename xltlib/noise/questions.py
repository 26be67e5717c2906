"""The five open questions of the reports: which runs answer each one, and what these say.

A question is answered by one effect with its interval, decided like a statement with margin 0; further
effects explain it. All of them were written down here before the runs, but for the last two of question 0.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from xltlib.claims.reading import (
    CHANCE,
    Reader,
    Records,
    Told,
    caption,
    line,
    of_shared_seeds,
    point,
    ratio_effect,
    sentence,
)
from xltlib.data.synthetic import LANGUAGES
from xltlib.finetuning.options import TYPO_RATES
from xltlib.params import Params
from xltlib.pretraining import options as pretraining
from xltlib.runs import Runs
from xltlib.significance.tests import difference, interaction, trend
from xltlib.store import Spec

SIZES = (  # of encoders, an order of magnitude in weights and more
    "hidden_size=16,num_layers=2,num_heads=1",
    "hidden_size=32,num_layers=2,num_heads=1",
    "",  # the profile's own
    "hidden_size=128,num_layers=4,num_heads=4",
)
SHARES = (0.0625, 0.25, 0.5, 1.0)  # of its translation pairs that the language with little text keeps
BUDGETS = (125, 250, 500, 1000, 2000)  # intermediate examples for each language
LAYERS = ("num_layers=3", "num_layers=6", "num_layers=9", "")  # the first ones of a published encoder
TYPED = "words with an error"
NOISE_NAMES = {"": "no noise", "noise=typo": "typing errors", "noise=token": "replaced tokens"}


@dataclass(frozen=True)
class Question:
    """What answers a question: its runs, its effects (the first decides), the data of its figure."""

    asks: str
    runs: Callable[[Runs], list[Spec]]
    effects: Callable[["Reader"], list[Told]]
    figure: Callable[["Reader"], dict[str, Any]]
    limits: str


def answer(number: int, records: Records, params: Params) -> dict[str, Any]:
    """A question's answer as plain data; LookupError where its runs are missing."""
    asked = QUESTIONS[number]
    effects = [told.plain() for told in asked.effects(_reader(asked, records, params))]
    return {
        "status": "answered",
        "sentence": sentence(effects[0]),
        "effect": effects[0],
        "effects": effects,
        "figure": f"question_{number}",
        "limits": asked.limits,
    }


def figure(number: int, records: Records, params: Params) -> dict[str, Any]:
    """The data of a question's figure; a panel without runs stays empty."""
    reader = _reader(QUESTIONS[number], records, params)
    return {
        "title": f"Question {number}: {QUESTIONS[number].asks}",
        "claims": [],
        "alt": "Lines with seeds as dots and intervals as bands.",
        **QUESTIONS[number].figure(reader),
    }


def _reader(asked: Question, records: Records, params: Params) -> Reader:
    """The scores of the question's runs, for the seeds that have all of them."""
    labels = (spec.params["labels"] for spec in asked.runs(Runs(params)) if "labels" in spec.params)
    return Reader(of_shared_seeds(records, labels), params)


def _grid(runs: Runs, tasks: Sequence[str], variants: Sequence[Mapping[str, str]]) -> list[Spec]:
    """Transfers of every variant on those of the tasks that the profile has, for all seeds."""
    return [
        runs.transfer(
            task,
            variant.get("objective", "none"),
            seed,
            variant.get("method", "standard"),
            variant.get("objective_options", ""),
            variant.get("method_options", ""),
        )
        for seed in runs.params.every_seed
        for variant in variants
        for task in tasks
        if task in runs.params.tasks
    ]


# 0: noise in span-corruption pre-training


def _q0_runs(runs: Runs) -> list[Spec]:
    return [runs.answers(seed, noise) for seed in runs.params.every_seed for noise in NOISE_NAMES]


def _q0_scores(r: Reader, noise: str, rate: float) -> list[np.ndarray]:
    at = f"@typo{rate:g}" if rate else ""
    return r.scores("qa", [t + at for t in r.targets], objective="span_corruption", objective_options=noise)


def _q0_effects(r: Reader) -> list[Told]:
    told, alpha, noises = [], r.params.alpha, tuple(NOISE_NAMES.items())[1:]
    for rate in (0.2, 0.0):
        clean = _q0_scores(r, "", rate)
        for noise, name in noises:
            where = f"at {rate:.0%} typing errors" if rate else "on clean text"
            words = f"gain in F1 from {name} in pre-training, zero-shot question answering {where}"
            told.append(Told(words, difference(_q0_scores(r, noise, rate), clean, alpha=alpha), "F1"))
    for noise, name in noises:
        gains = [_q0_scores(r, pretrained, rate) for rate in (0.2, 0.0) for pretrained in (noise, "")]
        words = f"how much less F1 20% typing errors take after {name} in pre-training"
        told.append(Told(words, interaction(*gains, alpha=alpha), "F1"))
    return told


def _q0_figure(r: Reader) -> dict[str, Any]:
    rates, panels = (0.0, *TYPO_RATES), []
    for language in r.params.languages:
        series = []
        for noise, name in NOISE_NAMES.items():
            labels = {"objective": "span_corruption", "objective_options": noise}
            at = partial(typed, r, "qa", language, labels)
            series.append(line(name, rates, at, r.params.alpha))
        panels.append({"name": language, "x_label": TYPED, "y_label": "F1", "series": series})
    words = "Encoder-decoder pre-trained by span corruption, by the noise in its input; question answering."
    return {"panels": panels, "columns": 3, "caption": caption(r, words)}


def typed(r: Reader, task: str, language: str, labels: Mapping[str, str], rate: float) -> list[np.ndarray]:
    """Scores of a language with typing errors in a share of the words."""
    return r.scores(task, [language + (f"@typo{rate:g}" if rate else "")], **labels)


# 1: mixed-language pre-training

MIXED_NAMES = {"none": "none", "mlm": "unmixed", "mixed": "mixed"}
MIXED = ({"objective": "none"}, {"objective": "mlm"}, {"objective": "mixed"})


def _q1_effects(r: Reader) -> list[Told]:
    told = []
    for task in ("nli", "paraphrase"):
        if r.has(task):
            mixed = r.scores(task, r.targets, objective="mixed")
            for other, name in (
                ("mlm", "unmixed text of the same size"),
                ("none", "no further pre-training"),
            ):
                found = difference(mixed, r.scores(task, r.targets, objective=other), alpha=r.params.alpha)
                words = f"gain of mixed-language pre-training over {name}, zero-shot {task}"
                told.append(Told(words, found, "accuracy"))
    return told


def _q1_figure(r: Reader) -> dict[str, Any]:
    names, panels = list(r.params.languages), []
    for task in (t for t in ("nli", "paraphrase") if r.has(t)):
        series = []
        for variant in MIXED:
            found = r.select(task, names, **variant)
            scores = found.scores or [None] * len(names)
            points = [None if s is None else point(s, r.params.alpha) for s in scores]
            series.append({"name": MIXED_NAMES[variant["objective"]], "points": points})
        chance = [{"name": "chance", "y": CHANCE[task]}]
        panel = {"name": task, "y_label": "accuracy", "limits": [0, 1.02]}
        panels.append(panel | {"series": series, "levels": chance})
    words = (
        "Zero-shot accuracy after pre-training on code-switched text, on the same text unmixed, and without."
    )
    return {"panels": panels, "categories": names, "caption": caption(r, words)}


# 2: model size and typing errors


def _q2_runs(runs: Runs) -> list[Spec]:
    made = _grid(runs, ("nli", "qa"), [{"objective_options": size} for size in sizes(runs.params)])
    return [*made, *(runs.evaluation("typo", transfer) for transfer in made)]


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


def relative_drop(r: Reader, task: str, size: str, rate: float) -> np.ndarray:
    """(R,) share of the score above chance, over the targets, that typing errors at `rate` take away."""
    clean, noisy = (
        np.mean(
            [s.mean(1) for s in r.scores(task, [t + at for t in r.targets], objective_options=size)], axis=0
        )
        for at in ("", f"@typo{rate:g}")
    )
    return (clean - noisy) / np.maximum(clean - CHANCE[task], 0.01)


def _q2_effects(r: Reader) -> list[Told]:
    told, rate, alpha = [], TYPO_RATES[-1], r.params.alpha
    x = np.log10([weights(size, r.params) for size in sizes(r.params)])
    slope = (x - x.mean()) / ((x - x.mean()) ** 2).sum()
    for task in (t for t in ("nli", "qa") if r.has(t)):
        drops = np.stack([relative_drop(r, task, size, rate) for size in sizes(r.params)])  # (sizes, R)
        words = f"decrease of the relative drop for ten times the weights, {task}, {rate:.0%} typing errors"
        shrinks = ratio_effect(-(slope @ drops), alpha, r.params.test_examples)
        told.append(Told(words, shrinks, "of the score above chance"))
        gains = []
        for size in (sizes(r.params)[0], sizes(r.params)[-1]):
            for at in ("", f"@typo{rate:g}"):
                gains.append(r.scores(task, [t + at for t in r.targets], objective_options=size))
        words = f"drop of the smallest minus drop of the largest encoder, {task}"
        told.append(Told(words, interaction(*gains, alpha=alpha), "points from 0 to 1"))
    return told


def _q2_figure(r: Reader) -> dict[str, Any]:
    rates, panels = (0.0, *TYPO_RATES), []
    for task in (t for t in ("nli", "qa") if r.has(t)):
        for language in r.params.languages:
            series = []
            for size in sizes(r.params):
                at = partial(typed, r, task, language, {"objective_options": size})
                series.append(line(f"{weights(size, r.params):,} weights", rates, at, r.params.alpha))
            y_label = "F1" if task == "qa" else "accuracy"
            chance = [{"name": "chance", "y": CHANCE[task]}] if CHANCE[task] else []
            panel = {"name": f"{task}, {language}", "x_label": TYPED, "y_label": y_label}
            panels.append(panel | {"series": series, "levels": chance})
    words = "Scores under typing errors by size of the encoder."
    return {"panels": panels, "columns": 5, "width": 2.6, "caption": caption(r, words)}


# 3: subword-level alignment

LEVELS = {"exchange": ("weam", "subword_weam"), "pulling": ("word_aligned", "subword_aligned")}


def _share(share: float) -> str:
    return "" if share == 1 else f"pairs={share:g}"


def _q3_runs(runs: Runs) -> list[Spec]:
    variants = [
        {"objective": o, "objective_options": _share(x)}
        for pair in LEVELS.values()
        for o in pair
        for x in SHARES
    ]
    return _grid(runs, ("nli",), variants)


def _q3_scores(r: Reader, objective: str, share: float) -> list[np.ndarray]:
    return r.scores("nli", poor(r), objective=objective, objective_options=_share(share))


def poor(r: Reader) -> tuple[str, ...]:
    """The under-resourced languages: those with less text than the others; of real ones all, made poor."""
    if r.params.data == "real":
        return r.targets
    return tuple(t for t in r.targets if LANGUAGES[t].text_share < 1) or r.targets[-1:]


def _q3_effects(r: Reader) -> list[Told]:
    told = []
    for kind, (word, subword) in LEVELS.items():
        both = [[_q3_scores(r, o, x) for x in SHARES] for o in (subword, word)]
        pooled = [[s for level in side for s in level] for side in both]
        words = (
            f"gain of subword links over word links ({kind}), under-resourced language, all amounts of text"
        )
        told.append(Told(words, difference(*pooled, alpha=r.params.alpha), "accuracy"))
        found = interaction(both[0][0], both[1][0], both[0][-1], both[1][-1], alpha=r.params.alpha)
        told.append(
            Told(f"that gain with the least text minus that with the most ({kind})", found, "accuracy")
        )
    return told


def _q3_figure(r: Reader) -> dict[str, Any]:
    panels = []
    for kind, pair in LEVELS.items():
        series = [
            line(name, SHARES, partial(_q3_scores, r, objective), r.params.alpha)
            for objective, name in zip(pair, ("word links", "subword links"), strict=True)
        ]
        panel = {"name": f"{kind} ({pair[0]})", "x_label": "share of its translation pairs"}
        panel |= {"log": True, "ticks": [[x, f"{x:g}"] for x in SHARES], "y_label": "accuracy"}
        panels.append(panel | {"series": series, "levels": [{"name": "chance", "y": CHANCE["nli"]}]})
    words = "Zero-shot nli in the under-resourced language by amount of parallel text and kind of links."
    return {"panels": panels, "caption": caption(r, words)}


# 4: intermediate examples per language


def _budget(n: int, sampling: str) -> str:
    return f"n={n},sampling={sampling}"


def _q4_runs(runs: Runs) -> list[Spec]:
    variants = [
        {"method": "intermediate", "method_options": _budget(n, s)}
        for n in BUDGETS
        for s in ("balanced", "random")
    ]
    return _grid(runs, ("nli",), [{}, *variants])


def _q4_scores(r: Reader, sampling: str, settings: Sequence[str], n: float) -> list[np.ndarray]:
    return r.scores("nli", settings, method="intermediate", method_options=_budget(int(n), sampling))


def _q4_effects(r: Reader) -> list[Told]:
    kinds = ("balanced", "random")
    both = {s: [_q4_scores(r, s, r.targets, n) for n in BUDGETS] for s in kinds}
    alpha, plain = r.params.alpha, r.scores("nli", r.targets)
    pooled = [[s for level in both[k] for s in level] for k in kinds]
    named = {
        "change for twice the intermediate examples per language, balanced":
            trend(both["balanced"], np.log2(BUDGETS).tolist(), alpha=alpha),
        "balanced minus random sampling of the same total, all budgets": difference(*pooled, alpha=alpha),
        "largest balanced budget minus none": difference(both["balanced"][-1], plain, alpha=alpha),
    }  # fmt: skip
    return [Told(words, effect, "accuracy") for words, effect in named.items()]


def _q4_figure(r: Reader) -> dict[str, Any]:
    panels = []
    for language in r.targets:
        series = []
        for sampling in ("balanced", "random"):
            at = partial(_q4_scores, r, sampling, (language,))
            series.append(line(sampling, BUDGETS, at, r.params.alpha))
        found = r.select("nli", [language])
        none = [] if found.missing else [float(found.scores[0].mean())]
        levels = [{"name": "no intermediate task", "y": round(y, 6)} for y in none]
        panel = {"name": language, "x_label": "intermediate examples per language", "y_label": "accuracy"}
        panel |= {"log": True, "ticks": [[n, str(n)] for n in BUDGETS], "series": series}
        panels.append(panel | {"levels": [*levels, {"name": "chance", "y": CHANCE["nli"], "line": ":"}]})
    words = "Zero-shot nli after an intermediate task, by its examples per language."
    return {"panels": panels, "columns": 4, "width": 2.8, "caption": caption(r, words)}


QUESTIONS: dict[int, Question] = {
    0: Question(
        "does noise in pre-training make an encoder-decoder robust?",
        _q0_runs,
        _q0_effects,
        _q0_figure,
        "One tiny encoder-decoder and one rate of noise, of the very kind that the noisy tests have. "
        "What typing errors take was asked when the gains were known.",
    ),
    1: Question(
        "does mixed-language pre-training help classification?",
        lambda runs: _grid(runs, ("nli", "paraphrase"), MIXED),
        _q1_effects,
        _q1_figure,
        "One switch rate, a perfect lexicon of stems, and languages that share a grammar.",
    ),
    2: Question(
        "do larger encoders lose less to typing errors?",
        _q2_runs,
        _q2_effects,
        _q2_figure,
        "Tiny encoders, the largest with forty times the weights, and one learning rate for all. The "
        "smallest are at chance in distant languages: nearly all that they lose they lose in the near one.",
    ),
    3: Question(
        "do subword-level alignment tasks help an under-resourced language?",
        _q3_runs,
        _q3_effects,
        _q3_figure,
        "One under-resourced language; only its parallel text varies.",
    ),
    4: Question(
        "how do intermediate examples per language change transfer?",
        _q4_runs,
        _q4_effects,
        _q4_figure,
        "One intermediate task; translations are perfect in the synthetic languages.",
    ),
}
