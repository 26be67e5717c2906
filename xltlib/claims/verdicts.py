"""From effects to verdicts: the rules of params/design.yaml, families of tests at their looks, variants."""

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from xltlib.claims.ledger import Test
from xltlib.claims.scores import Comparison, World
from xltlib.data.synthetic import chance_score
from xltlib.significance.honesty import power_at
from xltlib.significance.tests import CORRECTIONS, Effect, difference, holm_both_ways

SUPPORTED, CONTRADICTED, INCONCLUSIVE = "supported", "contradicted", "inconclusive"
NOT_RUN = "not run"
MIN_SEEDS = 2  # one run speaks for its examples, not for another run: no verdict
MOST_SEEDS = 1000  # more are not told
# what a verdict adds to its word
SMALL = "the gain is smaller than what matters"
REVERSED = "the effect is reversed"
BELOW = "the gain is below the margin"
TOO_SMALL = "the gain is absent or too small to matter"
OUTSIDE = "the difference exceeds the margin"


def p_values(test: Test, effect: Effect, trained: Effect | None = None) -> tuple[float, float]:
    """Of H0: the statement does not hold; and of H0: it does. 1 where the effect lies on the other side.

    The larger ones of all seeds and of those in which all systems have learnt. Two-sided for a gain: it is
    the margin, and it is the smallest effect that matters. For an equivalence two one-sided tests at
    +-margin, and a two-sided one at the nearer of them.
    """
    if trained:
        return tuple(map(max, p_values(test, effect), p_values(test, trained)))
    if test.type == "equivalence":
        sides = effect.against(-test.margin), effect.against(test.margin)
        within = abs(effect.estimate) < test.margin
        return (max(sides) / 2, 1.0) if within else (1.0, sides[int(effect.estimate > 0)])
    holds = effect.against(test.margin) if effect.estimate > test.margin else 1.0
    fails = effect.against(test.matters) if effect.estimate < test.matters else 1.0
    return holds, fails


def position(
    test: Test, effect: Effect, level: float, p: tuple[float, float], trained: Effect | None = None
) -> tuple[str, str]:
    """The outcome at a level, by the two `p_values`, and what it adds: SMALL to OUTSIDE, or ""."""
    holds, fails = p
    if holds <= level:
        return SUPPORTED, SMALL if fails <= level else ""
    if fails > level:
        return INCONCLUSIVE, ""
    if test.type == "equivalence":
        return CONTRADICTED, OUTSIDE
    if all(each.estimate < 0 and each.against(0.0) <= level for each in (effect, trained) if each):
        return CONTRADICTED, REVERSED
    return CONTRADICTED, BELOW if test.margin == test.matters > 0 else TOO_SMALL


def two_sided(test: Test, level: float) -> float:
    """The level of a test's two-sided p-values and intervals: an equivalence is two one-sided tests."""
    return 2 * level if test.type == "equivalence" else level


def flips_reach(test: Test, seeds: int, level: float) -> bool:
    """Whether sign flips of so many seeds, all in one direction, can decide a test at its level."""
    return 2.0 ** (1 - seeds) <= two_sided(test, level)


def seeds_needed(
    test: Test, effect: Effect, level: float, trained: Effect | None = None, power: float = 0.8
) -> int | None:
    """The fewest seeds that decide with this power, effect and spread as seen; None where a thousand do not.

    It may be that no number does: what examples that all seeds share add to the spread stays. With `trained`,
    they decide over the seeds in which all systems have learnt, too, of as large a share. The looks at which
    a confirmation is judged are not asked for.
    """
    if trained:
        needed, learnt = (seeds_needed(test, x, level, power=power) for x in (effect, trained))
        return needed and learnt and max(needed, math.ceil(learnt * effect.seeds / trained.seeds))
    distance = max(effect.estimate - test.margin, test.matters - effect.estimate)
    if test.type == "equivalence":
        distance = abs(test.margin - abs(effect.estimate))

    def enough(seeds: int) -> bool:
        seen = power_at(distance, effect.components, seeds, effect.examples, two_sided(test, level))
        return flips_reach(test, seeds, level) and seen >= power

    numbers = range(MIN_SEEDS, MOST_SEEDS + 1)
    return numbers[bisect_left(numbers, True, key=enough)] if enough(MOST_SEEDS) else None


@dataclass(frozen=True)
class Judgement:
    """The outcome of one test in its family; without `effect` it has not come to its first look.

    `effect` is that of the `seeds`, `trained` that of those in which all systems have learnt, where these are
    fewer; `p_values` are the larger ones of both. `why` says what keeps it from a verdict, if anything does.
    `level` is what Holm leaves the test of `alpha`, the look's part of all, `p_adjusted` Holm's p-value;
    `others` are the p-values of the rest of the family at that look, before which so many were `decided`.
    """

    data: Comparison
    outcome: str = INCONCLUSIVE
    effect: Effect | None = None
    trained: Effect | None = None
    p_values: tuple[float, float] = (1.0, 1.0)
    adds: str = ""
    why: str = ""
    level: float = 0.0
    p_adjusted: float = 1.0
    others: tuple[float, ...] = ()
    alpha: float = 0.0
    decided: int = 0
    look: int = 0
    seeds: tuple[int, ...] = ()

    @property
    def p(self) -> float:
        """The smaller of both p-values; 1 where the test can have no verdict."""
        return 1.0 if self.why or len(self.seeds) < MIN_SEEDS else min(self.p_values)


def judge(family: Mapping[str, Comparison], world: World) -> dict[str, Judgement]:
    """The judgement of every test, corrected together: of the look that decided it, else of the last one.

    In a confirmation a look counts only its first seeds, all of them there, and tests without runs count in
    the correction. All else is judged at once. A test without runs is not run.
    """
    waits = world.design.confirms(world.params.profile)
    looks = world.design.confirmation["looks"] if waits else [{"seeds": 0, "alpha": world.params.alpha}]
    empty = {key: data for key, data in family.items() if not data.scores}
    done = {key: Judgement(data, NOT_RUN) for key, data in empty.items()}
    counted = left = [key for key in family if waits or key not in empty]
    for look in looks:
        seen = [_seen(family[key], look["seeds"], world) for key in left]
        p, rules = [own.p for own in seen], {"alpha": look["alpha"], "decided": len(counted) - len(left)}
        for k, (key, own, *corrected) in enumerate(zip(left, seen, *holm_both_ways(p, **rules), strict=True)):
            if own.effect is None:
                done.setdefault(key, own)
                continue
            adjusted, level = map(float, corrected)
            others = (*p[:k], *p[k + 1 :])
            done[key] = replace(own, p_adjusted=adjusted, level=level, others=others, **rules)
            if not own.why:
                outcome, adds = position(own.data.test, own.effect, level, own.p_values, own.trained)
                done[key] = replace(done[key], outcome=outcome, adds=adds)
        left = [key for key in left if done[key].outcome in (INCONCLUSIVE, NOT_RUN)]
    return {key: done[key] for key in family}


def _seen(data: Comparison, first: int, world: World) -> Judgement:
    """What a look at the `first` seeds of a confirmation, else at all, sees of a test, still uncorrected."""
    start = world.design.confirmation["first_seed"]
    seeds = [s for s in data.seeds if not first or s in range(start, start + first)]
    if not seeds or len(seeds) < first:
        return Judgement(data, why=f"{len(seeds)} of the {first} seeds of the first look are there")
    least = max(MIN_SEEDS, world.design.learnt["share"] * len(seeds))
    effect, trained = data.effects(seeds, least)
    mixed = [str(s) for s in data.mixed if s in seeds]
    if mixed and first:
        named = ", ".join(mixed)
        why = f"no pairs: in seed {named} the systems were trained from different weights of one encoder"
    elif len(data.learnt(seeds)) < least:
        counts = [f"{name} in {len(set(seeds) - set(failed))}" for name, failed in data.failed.items()]
        why = f"the source task was not learnt often enough: of {len(seeds)} seeds {', '.join(counts)}"
    else:
        why = _below_floor(data, seeds, world)
    told = {"p_values": p_values(data.test, effect, trained), "why": why, "look": first}
    return Judgement(data, effect=effect, trained=trained, seeds=tuple(seeds), **told)


def _below_floor(data: Comparison, seeds: Sequence[int], world: World) -> str:
    """Why nothing was learnt that could be compared: no lower bound exceeds what costs no encoder."""
    if data.floor is not None:
        count = 2 if data.test.settings2 else len(data.test.queries)  # of the first gain
        systems, floor = data.scores[:count], data.floor
    elif data.sources and world.simple:
        systems, floor = ([scores] for scores in data.sources.values()), chance_score(data.test.task)
    else:
        return ""
    systems = data.rows(systems, seeds)
    bounds = [difference(x, [np.full_like(s, floor, dtype=float) for s in x]).low for x in systems]
    if max(bounds) > 0:
        return ""
    best = max(float(np.mean([s.mean() for s in x])) for x in systems)
    told = f"none of the systems ({best:.3f} at best) beats the cheap baselines ({floor:.3f})"
    return f"{told}: nothing was learnt that could be compared"


def outcome(estimate: float, p: float, seeds: int, alpha: float) -> str:
    """What a difference from 0 says of "the first is better"; one seed alone leaves it open."""
    if seeds < MIN_SEEDS or p > alpha:
        return INCONCLUSIVE
    return SUPPORTED if estimate > 0 else CONTRADICTED


def variants(judgement: Judgement, alpha: float) -> list[dict[str, Any]]:
    """The test as planned, and with one choice moved: a setting, seeds, the lines, or the correction.

    Settings are left out where all arrays share them; first seeds are as many as can decide anything at the
    test's level, by sign flips. The intervals shown are those of 1 - `alpha`.
    """
    data, test, seeds = judgement.data, judgement.data.test, judgement.seeds
    margin, matters = test.margin, test.matters
    planned = {
        "left_out": "", "seeds": len(seeds), "margin": margin, "matters": matters, "correction": "holm",
    }  # fmt: skip
    even = {len(x) for x in data.scores} == {len(data.settings)} and len(data.settings) > 1
    moved = [{}, *({"left_out": name} for name in (data.settings if even else ()))]
    firsts = range(MIN_SEEDS, len(seeds))
    moved += [{"seeds": first} for first in firsts if flips_reach(test, first, judgement.level)]
    moved += [{"matters": x} for x in (matters / 2, 2 * matters) if x >= margin]
    moved += [{"margin": x, "matters": max(x, matters)} for x in (margin / 2, 2 * margin)]
    moved += [{"correction": name} for name in CORRECTIONS if name != "holm"]
    rows = []
    for row in {tuple(row.values()): row for row in (planned | change for change in moved)}.values():
        effect, trained = data.effects(seeds[: row["seeds"]], MIN_SEEDS, row["left_out"])
        own_test = replace(test, margin=row["margin"], matters=row["matters"])
        both = p_values(own_test, effect, trained)
        family = [min(both), *judgement.others]
        adjusted = float(CORRECTIONS[row["correction"]](family, judgement.decided)[0])
        level = judgement.alpha * min(both) / adjusted if adjusted else judgement.alpha
        reached = position(own_test, effect, level, both)[0]
        low, high = effect.interval(alpha)
        numbers = {"estimate": effect.estimate, "low": low, "high": high}
        rows.append(row | numbers | {"outcome": reached, "same": reached == judgement.outcome})
    return rows


def forest_row(test: Mapping[str, Any]) -> dict[str, Any]:
    """A row of `drawing.forest`, but its label, of a test's entry in claims.json that has an effect."""
    effect, signs = test["effect"], (-1, 1) if test["type"] == "equivalence" else (1,)
    numbers = {name: effect[name] for name in ("estimate", "low", "high")}
    margins = [sign * test["margin"] for sign in signs]
    return numbers | {"seeds": effect["per_seed"], "margin": margins, "outcome": test["outcome"]}


def robustness(test: Mapping[str, Any]) -> dict[str, Any] | None:
    """Whether the outcome stands when one choice of the analysis moves: {kept, reversed, variants, by}.

    `test` is a test's entry in claims.json with its `specifications`. `kept` variants have the same outcome,
    `reversed` ones say supported for contradicted or the other way round; what is between has become
    inconclusive, or decided. `by` gives (choice, kept, variants) for each choice that was moved. The analysis
    as planned is no variant of itself; None where there is no other.
    """
    rows, counted = test.get("specifications", []), {}
    seeds = max((row["seeds"] for row in rows), default=0)
    for row in rows:
        moved = {
            "margin": any(row.get(name) != test.get(name) for name in ("margin", "matters")),
            "languages": bool(row["left_out"]),
            "seeds": row["seeds"] < seeds,
            "correction": row["correction"] != "holm",
        }
        for choice in (name for name, is_moved in moved.items() if is_moved):
            counted.setdefault(choice, []).append(row["outcome"] == test["outcome"])
    if not counted:
        return None
    opposite = {SUPPORTED: CONTRADICTED, CONTRADICTED: SUPPORTED}.get(test["outcome"])
    same = [kept for each in counted.values() for kept in each]
    return {
        "kept": sum(same), "reversed": sum(row["outcome"] == opposite for row in rows),
        "variants": len(same), "by": [(choice, sum(each), len(each)) for choice, each in counted.items()],
    }  # fmt: skip
