"""From effects to verdicts: the rules of params/design.yaml, families of tests at their looks, variants."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import stats

from xltlib.claims.ledger import Test
from xltlib.claims.scores import Comparison, World
from xltlib.data.synthetic import chance_score
from xltlib.significance.tests import CORRECTIONS, Effect, difference, holm, holm_levels

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


@dataclass(frozen=True)
class Lines:
    """What the effect of a test is held against: its margin, and the smallest effect that matters."""

    kind: str
    margin: float
    matters: float

    @classmethod
    def of(cls, test: Test, world: World) -> "Lines":
        """The lines of a test; for real languages the smallest effect is that of the design."""
        matters = test.matters
        if not world.simple and not test.margin:
            span = float(np.ptp(list(test.points.values()))) if test.points else 1.0
            matters = (abs(test.published) / 2 if test.published else world.design.matters_real) / span
        return cls(test.type, test.margin, max(matters, test.margin))

    def p_values(self, effect: Effect, trained: Effect | None = None) -> tuple[float, float]:
        """Of H0: the statement does not hold; and of H0: it does. 1 where the effect lies on the other side.

        The larger ones of all seeds and of those in which all systems have learnt. Two-sided for a gain: it
        is the margin, and it is the smallest effect that matters. For an equivalence two one-sided tests at
        +-margin, and a two-sided one at the nearer of them.
        """
        if trained:
            return tuple(map(max, self.p_values(effect), self.p_values(trained)))
        if self.kind == "equivalence":
            sides = effect.against(-self.margin), effect.against(self.margin)
            within = abs(effect.estimate) < self.margin
            return (max(sides) / 2, 1.0) if within else (1.0, sides[int(effect.estimate > 0)])
        holds = effect.against(self.margin) if effect.estimate > self.margin else 1.0
        fails = effect.against(self.matters) if effect.estimate < self.matters else 1.0
        return holds, fails

    def position(
        self, effect: Effect, level: float, p_values: tuple[float, float] | None = None
    ) -> tuple[str, str]:
        """The outcome at a level, and what it adds: see the readings above."""
        holds, fails = p_values or self.p_values(effect)
        if holds <= level:
            return SUPPORTED, SMALL if fails <= level else ""
        if fails > level:
            return INCONCLUSIVE, ""
        if self.kind == "equivalence":
            return CONTRADICTED, OUTSIDE
        if effect.estimate < 0 and effect.against(0.0) <= level:
            return CONTRADICTED, REVERSED
        return CONTRADICTED, BELOW if self.margin == self.matters > 0 else TOO_SMALL

    def seeds_needed(self, effect: Effect, level: float, power: float = 0.8) -> int | None:
        """The fewest seeds that decide with this power, effect and spread as seen; None above a thousand."""
        if self.kind == "equivalence":
            distance, tail = abs(self.margin - abs(effect.estimate)), level
        else:
            distance, tail = max(effect.estimate - self.margin, self.matters - effect.estimate), level / 2
        seeds = np.arange(MIN_SEEDS, MOST_SEEDS + 1)
        reach = effect.sd_seeds / np.sqrt(seeds) * (stats.t.isf(tail, seeds - 1) + stats.norm.ppf(power))
        flips = 2.0 ** (1 - seeds) <= 2 * tail  # sign flips can reach the level
        enough = seeds[(reach <= distance) & flips]
        return int(enough[0]) if len(enough) else None


@dataclass(frozen=True)
class Judgement:
    """The outcome of one test in its family; without `effect` it has not come to its first look.

    `effect` is that of all seeds, `trained` that of those in which all systems have learnt, where these are
    fewer; `p_values` those of `Lines`, the larger ones of both. `level` is what Holm leaves the test, `p` the
    smaller of the two, `p_adjusted` Holm's, `others` are the p-values of the rest of the family. `why` says
    what keeps it from a verdict, if anything does.
    """

    data: Comparison
    lines: Lines
    outcome: str = INCONCLUSIVE
    effect: Effect | None = None
    trained: Effect | None = None
    p_values: tuple[float, float] = (1.0, 1.0)
    adds: str = ""
    why: str = ""
    level: float = 0.0
    p: float = 1.0
    p_adjusted: float = 1.0
    others: tuple[float, ...] = ()
    look: int = 0
    seeds: tuple[int, ...] = ()


def judge(family: Mapping[str, Comparison], world: World) -> dict[str, Judgement]:
    """The judgement of every test, corrected together: of the look that decided it, else of the last one.

    In a confirmation a look counts only its first seeds, all of them there, and tests without runs count in
    the correction. All else is judged at once. A test without runs is not run.
    """
    waits = world.design.confirms(world.params.profile)
    looks = world.design.confirmation["looks"] if waits else [{"seeds": 0, "alpha": world.params.alpha}]
    done: dict[str, Judgement] = {}
    left = [key for key, data in family.items() if waits or data.scores]
    for look in looks:
        seen = {key: _seen(family[key], look["seeds"], world) for key in left}
        p = [seen[key].p for key in left]
        for key, adjusted, level in zip(left, holm(p), holm_levels(p, look["alpha"]), strict=True):
            own = seen[key]
            if own.effect is None:
                done.setdefault(key, own)
                continue
            outcome, adds = INCONCLUSIVE, ""
            if not own.why:
                outcome, adds = own.lines.position(own.effect, level, own.p_values)
            corrected = {"level": float(level), "p_adjusted": float(adjusted)}
            done[key] = replace(own, outcome=outcome, adds=adds, **corrected)
        left = [key for key in left if done[key].outcome == INCONCLUSIVE]
    ran = {key: own.p for key, own in done.items() if own.data.scores}
    others = {key: tuple(p for name, p in ran.items() if name != key) for key in ran}
    return {
        key: replace(done[key], others=others[key])
        if data.scores
        else Judgement(data, Lines.of(data.test, world), NOT_RUN)
        for key, data in family.items()
    }


def _seen(data: Comparison, first: int, world: World) -> Judgement:
    """What a look at the `first` seeds of a confirmation, else at all, sees of a test before the correction.

    p = 1 where it can have no verdict.
    """
    lines, start = Lines.of(data.test, world), world.design.confirmation["first_seed"]
    seeds = [s for s in data.seeds if not first or s in range(start, start + first)]
    if not seeds or len(seeds) < first:
        return Judgement(data, lines, why=f"{len(seeds)} of the {first} seeds of the first look are there")
    alpha, learnt = world.params.alpha, data.learnt(seeds)
    effect = data.effect(seeds, alpha)
    enough = len(learnt) >= max(MIN_SEEDS, world.design.learnt["share"] * len(seeds))
    trained = data.effect(learnt, alpha) if enough and learnt != seeds else None
    p_values, mixed = lines.p_values(effect, trained), [s for s in data.mixed if s in seeds]
    if mixed and first:
        named = ", ".join(map(str, mixed))
        why = f"no pairs: in seed {named} the systems were trained from different weights of one encoder"
    elif not enough:
        counts = [f"{name} in {len(set(seeds) - set(failed))}" for name, failed in data.failed.items()]
        why = f"the source task was not learnt often enough: of {len(seeds)} seeds {', '.join(counts)}"
    else:
        why = _below_floor(data, seeds, world)
    p = 1.0 if why or effect.seeds < MIN_SEEDS else min(p_values)
    told = {"why": why, "p": p, "look": first, "seeds": tuple(seeds)}
    return Judgement(data, lines, effect=effect, trained=trained, p_values=p_values, **told)


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


def decide(rows: Sequence[dict[str, Any]], alpha: float) -> None:
    """Give each row (`estimate`, `p`, `seeds`) of one family its p-value after Holm and its outcome."""
    for row, p in zip(rows, holm([row["p"] for row in rows]), strict=True):
        row["p_holm"] = float(p)
        row["outcome"] = outcome(row["estimate"], p, len(row["seeds"]), alpha)


def variants(judgement: Judgement, alpha: float) -> list[dict[str, Any]]:
    """The test as planned, and with one choice moved: a setting, seeds, the lines, or the correction.

    Settings are left out where all arrays share them.
    """
    data, lines, seeds = judgement.data, judgement.lines, judgement.seeds
    planned = {"left_out": "", "seeds": len(seeds), "margin": lines.margin, "matters": lines.matters}
    even = {len(x) for x in data.scores} == {len(data.settings)} and len(data.settings) > 1
    moved = [{}, *({"left_out": name} for name in (data.settings if even else ()))]
    moved += [{"seeds": first} for first in range(MIN_SEEDS, len(seeds))]
    moved += [{"matters": x} for x in (lines.matters / 2, 2 * lines.matters) if x >= lines.margin]
    moved += [{"margin": x, "matters": max(x, lines.matters)} for x in (lines.margin / 2, 2 * lines.margin)]
    moved += [{"correction": name} for name in CORRECTIONS if name != "holm"]
    rows = []
    distinct = {tuple(row.values()): row for row in ({**planned, "correction": "holm", **x} for x in moved)}
    for row in distinct.values():
        used = seeds[: row["seeds"]]
        effect, learnt = data.effect(used, alpha, row["left_out"]), data.learnt(used)
        enough = MIN_SEEDS <= len(learnt) < len(used)
        trained = data.effect(learnt, alpha, row["left_out"]) if enough else None
        own_lines = replace(lines, margin=row["margin"], matters=row["matters"])
        p_values = own_lines.p_values(effect, trained)
        p = min(p_values)
        adjusted = float(CORRECTIONS[row["correction"]]([p, *judgement.others])[0])
        level = alpha * p / adjusted if adjusted else alpha
        own = own_lines.position(effect, level, p_values)[0]
        numbers = {"estimate": effect.estimate, "low": effect.low, "high": effect.high}
        rows.append(row | numbers | {"outcome": own, "same": own == judgement.outcome})
    return rows


def robustness(test: Mapping[str, Any]) -> dict[str, Any] | None:
    """Whether the outcome stands when one choice of the analysis moves: {kept, reversed, variants, by}.

    `test` is a test's entry in claims.json with its `specifications`. `kept` variants have the same outcome,
    `reversed` ones say supported for contradicted or the other way round; what is between has become
    inconclusive, or decided. `by` gives (choice, kept, variants) for each choice that was moved. The analysis
    as planned is no variant of itself; None where there is no other.
    """
    rows = test.get("specifications", [])
    seeds = max((row["seeds"] for row in rows), default=0)
    counted: dict[str, list[bool]] = {}
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
    by = [(choice, sum(same), len(same)) for choice, same in counted.items()]
    kept, count = sum(own[1] for own in by), sum(own[2] for own in by)
    turned = sum(row["outcome"] == opposite for row in rows)
    return {"kept": kept, "reversed": turned, "variants": count, "by": by}
