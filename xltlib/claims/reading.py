"""Scores of runs by label, told as effects in words and as lines with seeds and intervals."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from xltlib.claims.selection import Selection, canonical
from xltlib.claims.selection import select as select_runs
from xltlib.claims.verdicts import outcome
from xltlib.params import Params
from xltlib.significance.tests import ROUNDING, Components, Effect, difference

Records = Sequence[Mapping[str, Any]]
CHANCE = {"nli": 1 / 3, "paraphrase": 1 / 2, "qa": 0.0}


def ten_digits(x: float) -> float:
    """The number in ten digits: more differ between machines."""
    return float(f"{x:.10g}")


@dataclass(frozen=True)
class Told:
    """One effect of a question: what it is, its number, and whether the null (no effect) is refuted."""

    words: str
    effect: Effect
    unit: str

    def plain(self) -> dict[str, Any]:
        """The effect as plain data, rounded so that it is the same on every machine."""
        e = self.effect
        kept = {name: ten_digits(getattr(e, name)) for name in ("estimate", "low", "high", "p")}
        seeds = [ten_digits(x) for x in e.per_seed]
        return {
            "words": self.words,
            "unit": self.unit,
            "outcome": outcome(e.estimate, e.p, e.seeds, e.alpha),
            "seeds": e.seeds,
            "per_seed": seeds,
            **kept,
        }


class Reader:
    """Scores of a study's runs by label, as the questions ask for them.

    `defaults`: options that mean the same as leaving them out, as a ledger has them.
    """

    def __init__(self, records: Records, params: Params, defaults: Mapping[str, Any] | None = None) -> None:
        self.records, self.params, self.defaults = records, params, defaults or {}
        self.targets = params.targets

    def select(self, task: str, settings: Sequence[str], **labels: str) -> Selection:
        """The runs with these labels; F1 for question answering."""
        names = [f"{s}#f1" if task == "qa" else s for s in settings]
        return select_runs(self.records, {"task": task, **labels}, names, self.defaults)

    def scores(self, task: str, settings: Sequence[str], **labels: str) -> list[np.ndarray]:
        """K arrays (R, N); LookupError where runs are missing."""
        found = self.select(task, settings, **labels)
        if found.missing:
            raise LookupError(found.missing)
        return list(found.scores)

    def has(self, task: str) -> bool:
        """Whether the profile has this task."""
        return task in self.params.tasks


def of_shared_seeds(records: Records, variants: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The records with the labels of these variants, of the seeds that are complete in all of them.

    Where runs are missing, variants have different seeds, or some seeds were scored in fewer settings.
    """
    named = {_variant(labels) for labels in variants}
    found: dict[frozenset, dict[int, Mapping[str, Any]]] = {}
    for record in records:
        if (name := _variant(record["labels"])) in named:
            found.setdefault(name, {})[record["labels"]["seed"]] = record
    complete = []
    for by_seed in found.values():
        settings = set().union(*(record["scores"] for record in by_seed.values()))
        complete.append({seed for seed, record in by_seed.items() if set(record["scores"]) == settings})
    seeds = set.intersection(*complete) if complete else set()
    return [record for by_seed in found.values() for seed, record in by_seed.items() if seed in seeds]


def _variant(labels: Mapping[str, Any]) -> frozenset:
    return frozenset(canonical(labels, {}).items())


def sentence(effect: Mapping[str, Any]) -> str:
    """An effect in a sentence that its numbers alone decide."""
    word = {"supported": "Yes", "contradicted": "No, the reverse", "inconclusive": "Open"}[effect["outcome"]]
    numbers = f"{effect['estimate']:+.3f} [{effect['low']:+.3f}, {effect['high']:+.3f}] {effect['unit']}"
    return f"{word}: {effect['words']}: {numbers}, {effect['seeds']} seeds."


def ratio_effect(per_seed: Sequence[float], alpha: float, examples: int) -> Effect:
    """A statistic computed seed by seed (a ratio), with the t interval over seeds; H0: its mean is 0."""
    x = np.asarray(per_seed, dtype=float)
    if len(x) < 2:
        raise LookupError("one seed alone gives no interval: two or more are needed")
    mean, sd, n = float(x.mean()), float(x.std(ddof=1)), len(x)
    se = sd / math.sqrt(n)
    half = float(stats.t.ppf(1 - alpha / 2, n - 1)) * se
    p = float(2 * stats.t.sf(abs(mean) / se, n - 1)) if se > ROUNDING else 1.0
    note = "examples are fixed: the interval is over seeds"
    return Effect(
        mean, mean - half, mean + half, p, 0.0, alpha, se, n - 1, sd, Components(sd, 0.0, 0.0),
        tuple(x.tolist()), (mean,), n, 1, examples, note,
    )  # fmt: skip


def curve(
    name: str,
    xs: Sequence[float],
    levels: Sequence[list[np.ndarray]],
    alpha: float,
    against: Sequence[list[np.ndarray]] | None = None,
) -> dict[str, Any]:
    """A line of means over `xs`: a dot for each seed, and the band of the intervals at each level.

    `levels`: for each x K arrays (R, N). With `against`, the paired difference at each level.
    """
    found = []
    for k, level in enumerate(levels):
        other = against[k] if against else [np.zeros_like(s) for s in level]
        found.append(difference(level, other, alpha=alpha))
    seeds = [[round(e.per_seed[r], 6) for e in found] for r in range(found[0].seeds)] if found else []
    least, most = (-1.0, 1.0) if against else (0.0, 1.0)  # what a score can be
    low = [round(max(e.low, least), 6) for e in found]
    high = [round(min(e.high, most), 6) for e in found]
    dots = [{"x": list(xs), "y": y} for y in seeds]
    return {"name": name, "curves": dots, "band": {"x": list(xs), "low": low, "high": high}}


def line(
    name: str, xs: Sequence[float], at: Callable[[float], list[np.ndarray]], alpha: float
) -> dict[str, Any]:
    """`curve` of the scores that `at` gives for each x; without any curve where runs are missing."""
    try:
        return curve(name, xs, [at(x) for x in xs], alpha)
    except LookupError:
        return {"name": name, "curves": []}


def point(scores: np.ndarray, alpha: float) -> dict[str, Any]:
    """The mean of scores (R, N) with its interval over seeds and examples, and the means of the seeds."""
    effect = difference([scores], [np.zeros_like(scores)], alpha=alpha)
    low, high = max(effect.low, 0.0), min(effect.high, 1.0)
    named = {"mean": effect.estimate, "low": low, "high": high}
    return {k: round(v, 6) for k, v in named.items()} | {"seeds": [round(x, 6) for x in effect.per_seed]}


def caption(r: Reader, words: str) -> str:
    return (
        f"{words} Dots: {r.params.seeds} seeds; bands: {1 - r.params.alpha:.0%} intervals over seeds and "
        f"{r.params.test_examples} examples."
    )
