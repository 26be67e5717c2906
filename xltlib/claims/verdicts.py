"""From effects to verdicts: the rules of params/design.yaml, families of tests at their looks, variants."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import stats

from xltlib.claims.ledger import Design, Look, Test
from xltlib.claims.scores import Comparison
from xltlib.data.synthetic import chance_score
from xltlib.significance.tests import CORRECTIONS, Effect, difference, holm, holm_levels

SUPPORTED, CONTRADICTED, INCONCLUSIVE = "supported", "contradicted", "inconclusive"
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
    def of(cls, test: Test, scale: str, design: Design) -> "Lines":
        """The lines of a test at a scale; for real languages the smallest effect is that of the design."""
        matters = test.matters
        if scale != design.learnt_scale and not test.margin:
            span = float(np.ptp(list(test.points.values()))) if test.points else 1.0
            matters = (abs(test.published) / 2 if test.published else design.matters_real) / span
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
            if abs(effect.estimate) < self.margin:
                return max(sides) / 2, 1.0
            return 1.0, sides[int(effect.estimate > 0)]
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
    """The outcome of one test in its family.

    `effect` is that of all seeds, `trained` that of those in which all systems have learnt, where these are
    fewer; `p_values` those of `Lines`, the larger ones of both. `level` is what Holm leaves the test, `p` the
    smaller of the two, `p_adjusted` Holm's. `why` says what keeps it from a verdict, if anything does.
    """

    outcome: str
    effect: Effect | None = None
    trained: Effect | None = None
    p_values: tuple[float, float] = (1.0, 1.0)
    adds: str = ""
    why: str = ""
    level: float = 0.0
    p: float = 1.0
    p_adjusted: float = 1.0
    look: int = 0
    seeds: tuple[int, ...] = ()


@dataclass(frozen=True)
class Family:
    """Tests that are corrected together, with the looks at their data.

    `waits`: a look counts only the first seeds of the confirmation, all of them there; and tests without runs
    count in the correction.
    """

    comparisons: Mapping[str, Comparison]
    lines: Mapping[str, Lines]
    looks: Sequence[Look]
    design: Design
    scale: str
    waits: bool = False
    alpha: float = 0.05  # 1 - level of the intervals that are shown

    def judgements(self) -> dict[str, Judgement]:
        """The judgement of every test that has runs: of the look that decided it, else of the last one."""
        done: dict[str, Judgement] = {}
        left = [k for k, c in self.comparisons.items() if self.waits or c.scores]
        for look in self.looks:
            seen = {k: self._seen(self.comparisons[k], self.lines[k], look) for k in left}
            p = [seen[k].p for k in left]
            for key, adjusted, level in zip(left, holm(p), holm_levels(p, look.alpha), strict=True):
                if seen[key].effect is None:
                    done.setdefault(key, seen[key])
                    continue
                outcome, adds = INCONCLUSIVE, ""
                if not seen[key].why:
                    outcome, adds = self.lines[key].position(seen[key].effect, level, seen[key].p_values)
                done[key] = replace(
                    seen[key], outcome=outcome, adds=adds, level=float(level), p_adjusted=float(adjusted)
                )
            left = [k for k in left if done[k].outcome == INCONCLUSIVE]
        return {k: j for k, j in done.items() if self.comparisons[k].scores}

    def _seen(self, data: Comparison, lines: Lines, look: Look) -> Judgement:
        """What a look sees of one test before the correction; p = 1 where it can have no verdict."""
        planned = range(self.design.first_seed, self.design.first_seed + look.seeds)
        seeds = [s for s in data.seeds if s in planned] if self.waits else list(data.seeds)
        if not seeds or (self.waits and len(seeds) < look.seeds):
            why = f"{len(seeds)} of the {look.seeds} seeds of the first look are there"
            return Judgement(INCONCLUSIVE, why=why)
        effect = data.effect(seeds, self.alpha)
        learnt = data.learnt(seeds)
        enough = len(learnt) >= max(MIN_SEEDS, self.design.learnt_share * len(seeds))
        trained = data.effect(learnt, self.alpha) if enough and learnt != seeds else None
        why = self._obstacle(data, seeds, learnt if enough else [])
        p_values = lines.p_values(effect, trained)
        p = 1.0 if why or effect.seeds < MIN_SEEDS else min(p_values)
        number = look.seeds if self.waits else 0
        return Judgement(
            INCONCLUSIVE, effect, trained, p_values, why=why, p=p, look=number, seeds=tuple(seeds)
        )

    def _obstacle(self, data: Comparison, seeds: Sequence[int], learnt: Sequence[int]) -> str:
        """What keeps a test from a verdict before any p-value; "" where nothing does."""
        mixed = [s for s in data.mixed if s in seeds]
        if mixed and self.waits:
            named = ", ".join(map(str, mixed))
            return f"no pairs: in seed {named} the systems were trained from different weights of one encoder"
        if not learnt:
            counts = [f"{name} in {len(set(seeds) - set(failed))}" for name, failed in data.failed.items()]
            return f"the source task was not learnt often enough: of {len(seeds)} seeds {', '.join(counts)}"
        return self._below_floor(data, seeds)

    def _below_floor(self, data: Comparison, seeds: Sequence[int]) -> str:
        """Why nothing was learnt that could be compared: no lower bound exceeds what costs no encoder."""
        if data.floor is not None:
            floor, systems = data.floor, data.systems(seeds)
        elif data.sources and self.scale == self.design.learnt_scale:
            floor, systems = chance_score(data.test.task), data.source_scores(seeds)
        else:
            return ""
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
    for row, p in zip(rows, holm([row["p"] for row in rows]) if rows else [], strict=True):
        row["p_holm"] = float(p)
        row["outcome"] = outcome(row["estimate"], p, len(row["seeds"]), alpha)


def variants(
    data: Comparison, lines: Lines, judgement: Judgement, others: Sequence[float], alpha: float
) -> list[dict[str, Any]]:
    """The test as planned, and with one choice moved: a setting, seeds, the lines, or the correction.

    `others` are the p-values of the rest of the family. Settings are left out where all arrays share them.
    """
    seeds = judgement.seeds
    planned = {"left_out": "", "seeds": len(seeds), "margin": lines.margin, "matters": lines.matters}
    moved = [{}, *({"left_out": name} for name in (data.settings if data.even else ()))]
    moved += [{"seeds": first} for first in range(MIN_SEEDS, len(seeds))]
    moved += [{"matters": x} for x in (lines.matters / 2, 2 * lines.matters) if x >= lines.margin]
    moved += [{"margin": x, "matters": max(x, lines.matters)} for x in (lines.margin / 2, 2 * lines.margin)]
    moved += [{"correction": name} for name in CORRECTIONS if name != "holm"]
    rows, known = [], set()
    for choice in moved:
        row = {**planned, "correction": "holm", **choice}
        if tuple(row.values()) in known:
            continue
        known.add(tuple(row.values()))
        used = seeds[: row["seeds"]]
        effect, learnt = data.effect(used, alpha, row["left_out"]), data.learnt(used)
        enough = MIN_SEEDS <= len(learnt) < len(used)
        trained = data.effect(learnt, alpha, row["left_out"]) if enough else None
        moved_lines = replace(lines, margin=row["margin"], matters=row["matters"])
        p_values = moved_lines.p_values(effect, trained)
        p = min(p_values)
        adjusted = float(CORRECTIONS[row["correction"]]([p, *others])[0])
        level = alpha * p / adjusted if adjusted else alpha
        moved_outcome = moved_lines.position(effect, level, p_values)[0]
        numbers = {"estimate": effect.estimate, "low": effect.low, "high": effect.high}
        rows.append(row | numbers | {"outcome": moved_outcome, "same": moved_outcome == judgement.outcome})
    return rows


def robustness(test: Mapping[str, Any]) -> dict[str, Any] | None:
    """Whether the outcome stands when one choice of the analysis moves: {kept, reversed, variants, by}.

    `test` is a test's entry in claims.json with its `specifications`. `kept` variants have the same outcome,
    `reversed` ones say supported for contradicted or the other way round; what is between has become
    inconclusive, or decided. `by` gives (choice, kept, variants) for each choice that was moved. The analysis
    as planned is no variant of itself; None where there is no other.
    """
    rows = test.get("specifications") or []
    seeds = max((s.get("seeds") or 0 for s in rows), default=0)
    counted: dict[str, list[bool]] = {}
    opposite, turned = {SUPPORTED: CONTRADICTED, CONTRADICTED: SUPPORTED}.get(test.get("outcome", "")), 0
    for row in rows:
        moved = {
            "margin": row.get("margin") != test.get("margin") or row.get("matters") != test.get("matters"),
            "languages": bool(row.get("left_out")),
            "seeds": (row.get("seeds") or 0) < seeds,
            "correction": row.get("correction") != "holm",
        }
        same = row.get("outcome") == test.get("outcome")
        turned += opposite is not None and row.get("outcome") == opposite
        for choice in (name for name, is_moved in moved.items() if is_moved):
            counted.setdefault(choice, []).append(same)
    variants = sum(map(len, counted.values()))
    if not variants:
        return None
    kept = sum(sum(same) for same in counted.values())
    by = [(choice, sum(same), len(same)) for choice, same in counted.items()]
    return {"kept": kept, "reversed": turned, "variants": variants, "by": by}
