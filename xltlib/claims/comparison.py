"""What a test of the ledger compares: paired scores of its runs, who has learnt, and the effect."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from xltlib.claims.design import Design
from xltlib.claims.ledger import Test, label
from xltlib.claims.selection import World, select
from xltlib.significance.tests import Effect, difference, interaction, trend

TRAINED = ("nli", "paraphrase", "qa")  # tasks with a score in the source language


@dataclass(frozen=True)
class Comparison:
    """The scores of a test over the seeds that all its runs have; or why there are none.

    `scores` are the arguments of the test, each K arrays (R, N_k), rows in the order of `seeds`. `sources`
    are the scores (R, N) of each system in the source language, `failed` the seeds in which it has not learnt
    its task there, `mixed` those in which systems were trained from different weights of one encoder.
    """

    test: Test
    seeds: tuple[int, ...] = ()
    scores: tuple[list[np.ndarray], ...] = ()
    settings: tuple[str, ...] = ()
    digests: tuple[str, ...] = ()
    sources: dict[str, np.ndarray] = field(default_factory=dict)
    failed: dict[str, tuple[int, ...]] = field(default_factory=dict)
    mixed: tuple[int, ...] = ()
    reason: str = ""
    missing: tuple[dict, ...] = ()

    @property
    def even(self) -> bool:
        """Whether all arguments have the same settings, more than one, so that one can be left out."""
        counts = {len(arrays) for arrays in self.scores}
        return counts == {len(self.settings)} and len(self.settings) > 1

    def learnt(self, seeds: Sequence[int]) -> list[int]:
        """Those of the seeds in which all systems have learnt their task."""
        failed = {seed for own in self.failed.values() for seed in own}
        return [seed for seed in seeds if seed not in failed]

    def systems(self, seeds: Sequence[int]) -> list[list[np.ndarray]]:
        """The scores of each system in the settings of the test."""
        count = 2 if self.test.settings2 else len(queries(self.test))
        return self._rows(self.scores[:count], seeds)

    def source_scores(self, seeds: Sequence[int]) -> list[list[np.ndarray]]:
        """The scores of each system in the source language."""
        return self._rows([[scores] for scores in self.sources.values()], seeds)

    def effect(self, seeds: Sequence[int], alpha: float, without: str = "") -> Effect:
        """The effect over some of the seeds, tested against the margin; `without` one setting."""
        test, scores = self.test, self._rows(self.scores, seeds)
        if without:
            k = self.settings.index(without)
            scores = [arrays[:k] + arrays[k + 1 :] for arrays in scores]
        if test.type == "trend":
            return trend(scores, levels(test), margin=test.margin, alpha=alpha)
        if test.type == "interaction":
            return interaction(*scores, margin=test.margin, alpha=alpha, share=test.share)
        return difference(*scores, margin=0.0 if test.type == "equivalence" else test.margin, alpha=alpha)

    def _rows(self, scores: Sequence[Sequence[np.ndarray]], seeds: Sequence[int]) -> list[list[np.ndarray]]:
        rows = [self.seeds.index(seed) for seed in seeds]
        return [[array[rows] for array in arrays] for arrays in scores]


def queries(test: Test) -> list[dict[str, str]]:
    """The queries of a measured test in the order in which its scores are compared."""
    if test.type == "trend":
        systems = [{**test.a, test.over: option} for option in test.points]
    else:
        second = [test.b] if test.level is None else []
        systems = [test.a, *second, *([test.a2, test.b2] if test.settings2 else [])]
    return [{**query, "task": test.task} for query in systems]


def query_settings(test: Test, world: World) -> list[tuple[str, ...]]:
    """The settings of each of `queries`."""
    words = [test.settings2 if test.settings2 and i > 1 else test.settings for i in range(len(queries(test)))]
    return [world.settings(each, test.metric) for each in words]


def levels(test: Test) -> list[float]:
    """The numbers of a trend, negated where the score is expected to fall."""
    return [x if test.direction == "up" else -x for x in test.points.values()]


def compare(test: Test, records: Sequence[Mapping], world: World, design: Design, scale: str) -> Comparison:
    """The scores of one test from the runs that it names, over the seeds that all of them have.

    `records` are as in `select`; they may hold `weights`, the digests of the weights that a run was trained
    from.
    """
    world = world.tested(test.task, records)
    named, settings = queries(test), query_settings(test, world)
    selected = [
        select(records, q, s, world.defaults, world.nested) for q, s in zip(named, settings, strict=True)
    ]
    absent = [s for s in selected if s.missing]
    if absent:
        missing = tuple(q for q, s in zip(named, selected, strict=True) if s.missing)
        return Comparison(test, reason="; ".join(dict.fromkeys(s.missing for s in absent)), missing=missing)
    seeds = sorted(set.intersection(*(set(s.seeds) for s in selected)))
    if not seeds:
        have = "; ".join(f"{label(s.query)} has {s.seeds}" for s in selected)
        return Comparison(test, reason=f"no seed in common: {have}")
    selected = [s.only(seeds) for s in selected]
    scores = tuple(list(s.scores) for s in selected)
    if test.level is not None:
        scores = (*scores, [np.full_like(array, test.level, dtype=float) for array in scores[0]])
    if not _paired(test, scores):
        rivals = f"the runs of {label(test.a)} and its rivals have other examples"
        return Comparison(test, reason=f"not paired: {rivals}")
    digests = tuple(dict.fromkeys(d for s in selected for d in s.digests))
    sources, needed = _sources(test, records, world, seeds), design.source_score.get(test.task, 0.0)
    failed = {
        name: tuple(s for s, mean in zip(seeds, scores_of.mean(1), strict=True) if mean < needed)
        for name, scores_of in sources.items()
        if scale == design.learnt_scale
    }
    return Comparison(
        test, tuple(seeds), scores, settings[0], digests, sources, failed, _mixed(records, digests)
    )


def _paired(test: Test, scores: Sequence[list[np.ndarray]]) -> bool:
    """Whether the arrays that are compared example by example have the same shapes."""
    pairs = [(scores[k], scores[k + 1]) for k in range(0, len(scores), 2)] if test.type != "trend" else []
    pairs = pairs or [(scores[0], other) for other in scores[1:]]
    return all([x.shape for x in a] == [x.shape for x in b] for a, b in pairs)


def _sources(
    test: Test, records: Sequence[Mapping], world: World, seeds: Sequence[int]
) -> dict[str, np.ndarray]:
    """The scores of each system in the source language, as far as its task has any."""
    if test.task not in TRAINED:
        return {}
    setting = world.settings("source", test.metric)
    selected = {
        label(query): select(records, query, setting, world.defaults, world.nested) for query in queries(test)
    }
    have = {name: s for name, s in selected.items() if set(seeds) <= set(s.seeds)}
    return {name: s.only(seeds).scores[0] for name, s in have.items()}


def _mixed(records: Sequence[Mapping], digests: Sequence[str]) -> tuple[int, ...]:
    """The seeds whose runs were trained from different weights under one digest, on two processors."""
    weights: dict[int, dict[str, set[str]]] = {}
    for record in records:
        if record["digest"] in digests:
            own = weights.setdefault(record["labels"]["seed"], {})
            for run, digest in record.get("weights", {}).items():
                own.setdefault(run, set()).add(digest)
    return tuple(sorted(seed for seed, own in weights.items() if any(len(d) > 1 for d in own.values())))
