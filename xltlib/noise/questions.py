"""The five open questions of the reports: which runs answer each one, and what these say.

A question is answered by one effect with its interval, decided by the two tests of a statement's verdict (t,
and sign flips over seeds) against 0, but alone: nothing corrects for the five questions, so that an answer
explores and confirms nothing. Further effects explain it. All of them were written down here before the runs,
but for the last two of question 0.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from operator import attrgetter
from typing import Any

import numpy as np
import pandas as pd

from xltlib import StudyError
from xltlib.claims.scores import SETTING, Setting, paired, rows_of, ten_digits
from xltlib.claims.verdicts import outcome
from xltlib.data import task_data
from xltlib.data.synthetic import LANGUAGES
from xltlib.data.tasks import SETS
from xltlib.finetuning.options import TYPO_RATES, first_task
from xltlib.params import Params, to_dict
from xltlib.pretraining import options as pretraining
from xltlib.runs import Runs
from xltlib.significance.tests import Effect, difference, interaction, trend
from xltlib.store import Spec

CHANCE = {"nli": 1 / 3, "paraphrase": 1 / 2, "qa": 0.0}
NOISE_NAMES = {"": "no noise", "noise=typo": "typing errors", "noise=token": "replaced tokens"}
MIXED_NAMES = {"none": "none", "mlm": "unmixed", "mixed": "mixed"}
SIZES = (  # of encoders, an order of magnitude in weights and more
    "hidden_size=16,num_layers=2,num_heads=1",
    "hidden_size=32,num_layers=2,num_heads=1",
    "",  # the profile's own
    "hidden_size=128,num_layers=4,num_heads=4",
)
LAYERS = (3, 6, 9, 12)  # the first ones of a published encoder
LEVELS = {"exchange": ("weam", "subword_weam"), "pulling": ("word_aligned", "subword_aligned")}
SHARES = (0.0625, 0.25, 0.5, 1.0)  # of its translation pairs that the language with little text keeps
SHARE_OPTIONS = {share: "" if share == 1 else f"pairs={share:g}" for share in SHARES}
BUDGETS = (125, 250, 500, 1000, 2000)  # intermediate examples for each language, at most

Scores = Callable[..., list[np.ndarray]]  # `arrays` of a question's rows in its languages
Effects = Iterator[tuple[str, str, Effect]]  # what it is, its unit, and its number


class Unanswered(StudyError):
    """Runs that a question needs are missing, or too few; the message says which."""


@dataclass(frozen=True)
class Question:
    """What answers a question: runs of its variants on its tasks, and effects, of which the first decides.

    `variants` are the labels of the runs that are compared, in `languages`; `typed`: under typing errors too.
    """

    asks: str
    tasks: tuple[str, ...]
    variants: Callable[[Params], list[dict[str, str]]]
    limits: str
    effects: Callable[[Scores, Params], Effects]
    languages: Callable[[Params], tuple[str, ...]] = attrgetter("targets")
    typed: bool = False

    def queries(self, params: Params) -> list[dict[str, str]]:
        """The labels of all runs but their seed, on those of the tasks that the profile has."""
        tasks = [task for task in self.tasks if task in params.tasks]
        return [{"task": task, "objective": "none"} | v for v in self.variants(params) for task in tasks]

    def runs(self, runs: Runs) -> list[Spec]:
        """The runs of all variants on all tasks, for all seeds."""
        trained = [
            runs.answers(seed, query["objective_options"])
            if query["objective"] == "span_corruption"
            else runs.transfer(seed=seed, **query)
            for seed in runs.params.every_seed
            for query in self.queries(runs.params)
        ]
        return [*trained, *(runs.evaluation("typo", spec) for spec in trained if self.typed)]


QUESTIONS: dict[int, Question] = {}  # by the report that asks it


def question(number: int, asks: str, **properties: Any) -> Callable:
    """The entry of a question, written above the function that yields its effects."""

    def enter(effects: Callable[[Scores, Params], Effects]) -> Callable:
        QUESTIONS[number] = Question(asks, effects=effects, **properties)
        return effects

    return enter


def answer(number: int, scores: pd.DataFrame, params: Params) -> dict[str, Any]:
    """A question's answer as plain data, equal on all machines; Unanswered where its runs are missing."""
    asked, effects = QUESTIONS[number], []
    of = partial(arrays, answering(scores, number, params), asked.languages(params))
    for words, unit, e in asked.effects(of, params):
        told = {name: getattr(e, name) for name in ("estimate", "low", "high", "seeds", "per_seed")}
        told["p"] = e.against(0.0)
        told["outcome"] = outcome(e.estimate, told["p"], e.seeds, e.alpha)
        effects.append({"words": words, "unit": unit, **ten_digits(told)})
    return {
        "status": "answered", "sentence": sentence(effects[0]), "effect": effects[0], "effects": effects,
        "figure": f"question_{number}", "limits": asked.limits,
    }  # fmt: skip


def answering(scores: pd.DataFrame, number: int, params: Params) -> pd.DataFrame:
    """The rows of a question's runs, of the seeds that are complete in all of its variants.

    Where runs are missing, variants have different seeds, or some seeds were scored in fewer settings.
    """
    groups = [rows_of(scores, query) for query in QUESTIONS[number].queries(params)]
    seeds = set(scores["seed"])
    for rows in (rows for rows in groups if len(rows)):
        sizes = rows.groupby("seed").size()
        seeds &= set(sizes.index[sizes == len(rows[list(SETTING)].drop_duplicates())])
    own = pd.concat(groups).sort_index()
    return own[own["seed"].isin(seeds)]


def sentence(effect: Mapping[str, Any]) -> str:
    """An effect in a sentence that its numbers alone decide."""
    word = {"supported": "Yes", "contradicted": "No, the reverse", "inconclusive": "Open"}[effect["outcome"]]
    numbers = f"{effect['estimate']:+.3f} [{effect['low']:+.3f}, {effect['high']:+.3f}] {effect['unit']}"
    return f"{word}: {effect['words']}: {numbers}, {effect['seeds']} seeds."


def arrays(
    scores: pd.DataFrame, languages: Sequence[str], task: str, rate: float = 0.0, **labels: str
) -> list[np.ndarray]:
    """K arrays (R, N) of scores in some languages, typing errors at `rate`; Unanswered where missing."""
    settings = [Setting(x, noise="typo" if rate else "", rate=rate) for x in languages]
    own = paired(scores, {"task": task, **labels}, settings)
    if own.missing:
        raise Unanswered(own.missing)
    return list(own.scores)


@question(
    0, "does noise in pre-training make an encoder-decoder robust?", tasks=("qa",),
    variants=lambda _: [{"objective": "span_corruption", "objective_options": n} for n in NOISE_NAMES],
    limits="One tiny encoder-decoder and one rate of noise, of the very kind that the noisy tests have. "
    "What typing errors take was asked when the gains were known.",
)  # fmt: skip
def _noise(of: Scores, params: Params) -> Effects:
    names = {noise: name for noise, name in NOISE_NAMES.items() if noise}
    f1 = {
        (noise, rate): of("qa", rate, objective="span_corruption", objective_options=noise)
        for noise in NOISE_NAMES
        for rate in (0.2, 0.0)
    }
    for rate, where in ((0.2, "at 20% typing errors"), (0.0, "on clean text")):
        for noise, name in names.items():
            words = f"gain in F1 from {name} in pre-training, zero-shot question answering {where}"
            yield words, "F1", difference(f1[noise, rate], f1["", rate], alpha=params.alpha)
    for noise, name in names.items():
        gains = [f1[pretrained, rate] for rate in (0.2, 0.0) for pretrained in (noise, "")]
        words = f"how much less F1 20% typing errors take after {name} in pre-training"
        yield words, "F1", interaction(*gains, alpha=params.alpha)


@question(
    1, "does mixed-language pre-training help classification?", tasks=("nli", "paraphrase"),
    variants=lambda _: [{"objective": name} for name in MIXED_NAMES],
    limits="One switch rate, a perfect lexicon of stems, and languages that share a grammar.",
)  # fmt: skip
def _mixing(of: Scores, params: Params) -> Effects:
    rivals = {"mlm": "unmixed text of the same size", "none": "no further pre-training"}
    for task in (t for t in ("nli", "paraphrase") if t in params.tasks):
        for rival, name in rivals.items():
            both = of(task, objective="mixed"), of(task, objective=rival)
            words = f"gain of mixed-language pre-training over {name}, zero-shot {task}"
            yield words, "accuracy", difference(*both, alpha=params.alpha)


def sizes(params: Params) -> tuple[str, ...]:
    """The options that make the encoders of all sizes, the smallest first."""
    if not params.model:
        return SIZES
    return tuple("" if n == params.depth else f"num_layers={n}" for n in LAYERS if n <= params.num_layers)


def weights(options: str, params: Params) -> int:
    """Weights of an encoder of this shape: embeddings, and per layer attention and gated feed-forward.

    Of a published encoder those of its layers alone: the embeddings are the same for all sizes.
    """
    chosen = pretraining.options("none", options)
    h = chosen.hidden_size or params.hidden_size
    layers = chosen.num_layers or params.depth
    if params.model:
        return layers * (4 * h * h + 2 * h * 4 * h)
    return params.vocab_size * h + layers * (4 * h * h + 3 * h * 2 * h)


def relative_drop(of: Scores, task: str, size: str, rate: float) -> np.ndarray:
    """(R,) share of the score above chance, over the targets, that typing errors at `rate` take away."""
    clean, noisy = (
        np.mean([s.mean(1) for s in of(task, at, objective_options=size)], axis=0) for at in (0.0, rate)
    )
    return (clean - noisy) / np.maximum(clean - CHANCE[task], 0.01)


@question(
    2, "do larger encoders lose less to typing errors?", tasks=("nli", "qa"),
    variants=lambda params: [{"objective_options": size} for size in sizes(params)],
    limits="Tiny encoders, the largest with forty times the weights, and one learning rate for all. The "
    "smallest are at chance in distant languages: nearly all that they lose they lose in the near one.",
    typed=True,
)  # fmt: skip
def _size(of: Scores, params: Params) -> Effects:
    rate, sized = TYPO_RATES[-1], sizes(params)
    x = np.log10([weights(size, params) for size in sized])
    slope = (x - x.mean()) / ((x - x.mean()) ** 2).sum()
    for task in (t for t in ("nli", "qa") if t in params.tasks):
        shrinks = -(slope @ np.stack([relative_drop(of, task, size, rate) for size in sized]))  # (R,)
        if len(shrinks) < 2:
            raise Unanswered("one seed alone gives no interval: two or more are needed")
        words = f"decrease of the relative drop for ten times the weights, {task}, {rate:.0%} typing errors"
        effect = Effect([shrinks[:, None]], [1.0], [shrinks.mean()], params.alpha)
        yield words, "of the score above chance", effect
        ends = [of(task, at, objective_options=sized[end]) for end in (0, -1) for at in (0.0, rate)]
        words = f"drop of the smallest minus drop of the largest encoder, {task}"
        yield words, "points from 0 to 1", interaction(*ends, alpha=params.alpha)


def low_resource(params: Params) -> tuple[str, ...]:
    """The languages with less text than the others; of real ones all targets, made poor by the shares."""
    if params.data == "real":
        return params.targets
    return tuple(t for t in params.targets if LANGUAGES[t].text_share < 1) or params.targets[-1:]


@question(
    3, "do subword-level alignment tasks help an under-resourced language?", tasks=("nli",),
    variants=lambda _: [
        {"objective": objective, "objective_options": option}
        for pair in LEVELS.values()
        for objective in pair
        for option in SHARE_OPTIONS.values()
    ],
    limits="One under-resourced language; only its parallel text varies.",
    languages=low_resource,
)  # fmt: skip
def _subwords(of: Scores, params: Params) -> Effects:
    for kind, (word, subword) in LEVELS.items():
        by_share = [
            [of("nli", objective=name, objective_options=share) for share in SHARE_OPTIONS.values()]
            for name in (subword, word)
        ]
        pooled = ([*chain(*levels)] for levels in by_share)  # as if all levels were settings of one system
        words = (
            f"gain of subword links over word links ({kind}), under-resourced language, all amounts of text"
        )
        yield words, "accuracy", difference(*pooled, alpha=params.alpha)
        ends = [levels[k] for k in (0, -1) for levels in by_share]
        words = f"that gain with the least text minus that with the most ({kind})"
        yield words, "accuracy", interaction(*ends, alpha=params.alpha)


def budgets(params: Params) -> list[int]:
    """The numbers of examples that are compared; of a real set no more than half of what a language has.

    The other half leaves room for what cannot be used, and for languages that are drawn more often.
    """
    if params.data == "synthetic":
        return [*BUDGETS]
    name, split = task_data.sets(to_dict(params), first_task("nli"), "train_sets")[0]
    counts = SETS[name].counts[split]
    least = min(np.min(counts[language]) for language in params.languages if language in counts)
    return [n for n in BUDGETS if 2 * n <= least]


def budget(n: int, sampling: str) -> dict[str, str]:
    """The labels of an intermediate task with `n` examples for each language."""
    return {"method": "intermediate", "method_options": f"n={n},sampling={sampling}"}


@question(
    4, "how do intermediate examples per language change transfer?", tasks=("nli",),
    variants=lambda params: [{}, *(budget(n, x) for n in budgets(params) for x in ("balanced", "random"))],
    limits="One intermediate task; translations are perfect in the synthetic languages.",
)  # fmt: skip
def _budget(of: Scores, params: Params) -> Effects:
    sizes = budgets(params)
    balanced, drawn = ([of("nli", **budget(n, kind)) for n in sizes] for kind in ("balanced", "random"))
    slope = trend(balanced, np.log2(sizes).tolist(), alpha=params.alpha)
    yield "change for twice the intermediate examples per language, balanced", "accuracy", slope
    gain = difference([*chain(*balanced)], [*chain(*drawn)], alpha=params.alpha)
    yield "balanced minus random sampling of the same total, all budgets", "accuracy", gain
    gain = difference(balanced[-1], of("nli"), alpha=params.alpha)
    yield "largest balanced budget minus none", "accuracy", gain
