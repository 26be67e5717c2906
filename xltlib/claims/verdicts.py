"""From effects to verdicts: corrections for a family of tests, the rules, and how verdicts move."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from xltlib import StudyError
from xltlib.significance.tests import (
    Effect,
    Equivalence,
    Scores,
    checked,
    difference,
    equivalence,
    interaction,
    trend,
)

SUPPORTED, CONTRADICTED, INCONCLUSIVE = "supported", "contradicted", "inconclusive"


def holm(p: Sequence[float]) -> np.ndarray:
    """Holm's adjusted p-values, in the order given: controls the chance of any false rejection."""
    p = _check_p(p)  # by hand: statsmodels' version collects garbage in every call, 80 ms here
    order = np.argsort(p)
    steps = np.maximum.accumulate(p[order] * np.arange(p.size, 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(steps, 1.0)
    return adjusted


def outcome(estimate: float, p: float, seeds: int, alpha: float) -> str:
    """What a difference from 0 says of "the first is better"; one seed alone leaves it open."""
    if seeds < 2 or p > alpha:
        return INCONCLUSIVE
    return SUPPORTED if estimate > 0 else CONTRADICTED


def decide(rows: Sequence[dict[str, Any]], alpha: float) -> None:
    """Give each row (`estimate`, `p`, `seeds`) of one family its p-value after Holm and its outcome."""
    for row, p in zip(rows, holm([row["p"] for row in rows]) if rows else [], strict=True):
        row["p_holm"] = float(p)
        row["state"] = outcome(row["estimate"], p, len(row["seeds"]), alpha)


def benjamini_hochberg(p: Sequence[float]) -> np.ndarray:
    """Benjamini and Hochberg's adjusted p-values, in the order given: controls false discoveries."""
    p = _check_p(p)
    return stats.false_discovery_control(p, method="bh") if p.size else p


CORRECTIONS = {"none": lambda p: _check_p(p), "holm": holm, "bh": benjamini_hochberg}


def _check_p(p: Sequence[float]) -> np.ndarray:
    p = np.asarray(p, dtype=float)
    if p.ndim != 1 or not ((p >= 0) & (p <= 1)).all():
        raise StudyError(f"p-values: {p.tolist()}, expected a list of numbers in [0, 1]")
    return p


def verdict_superiority(effect: Effect, margin: float, p_adjusted: float, alpha: float = 0.05) -> str:
    """Claim: a is better than b by more than `margin`. `effect` must come from the test at that margin.

    supported: adjusted p <= alpha and the interval wholly above the margin. contradicted: adjusted p <= alpha
    and the interval wholly below it. Else inconclusive.
    """
    if effect.null != margin:
        raise StudyError(
            f"the effect was tested against {effect.null:g}, the verdict asks for margin {margin:g}"
        )
    if p_adjusted <= alpha and effect.low > margin:
        return SUPPORTED
    return CONTRADICTED if p_adjusted <= alpha and effect.high < margin else INCONCLUSIVE


def verdict_interaction(effect: Effect, margin: float, p_adjusted: float, alpha: float = 0.05) -> str:
    """Claim: the first gain exceeds the second by more than `margin`; rules of `verdict_superiority`."""
    return verdict_superiority(effect, margin, p_adjusted, alpha)


def verdict_trend(effect: Effect, margin: float, p_adjusted: float, alpha: float = 0.05) -> str:
    """Claim: the score rises by more than `margin` per unit of x; rules of `verdict_superiority`."""
    return verdict_superiority(effect, margin, p_adjusted, alpha)


def verdict_equivalence(result: Equivalence, margin: float, p_adjusted: float, alpha: float = 0.05) -> str:
    """Claim: a and b differ by less than `margin`.

    supported: adjusted p <= alpha and the 1 - 2 alpha interval within +-margin. contradicted: adjusted p <=
    alpha and the interval wholly outside. Else inconclusive: a wide interval never shows equivalence.
    """
    if result.margin != margin:
        raise StudyError(
            f"equivalence was tested at {result.margin:g}, the verdict asks for margin {margin:g}"
        )
    if p_adjusted <= alpha and -margin < result.low and result.high < margin:
        return SUPPORTED
    outside = result.low > margin or result.high < -margin
    return CONTRADICTED if p_adjusted <= alpha and outside else INCONCLUSIVE


VERDICTS = {
    "superiority": verdict_superiority,
    "equivalence": verdict_equivalence,
    "interaction": verdict_interaction,
    "trend": verdict_trend,
}
TESTS = {"superiority": difference, "equivalence": equivalence, "interaction": interaction}


def specifications(
    kind: str,
    scores: Sequence[Scores],
    margins: Sequence[float],
    *,
    x: Sequence[float] | None = None,
    settings: Sequence[str] | None = None,
    others: Sequence[float] = (),
    alpha: float = 0.05,
) -> list[dict]:
    """Verdicts without one setting, with the first seeds only, at each margin, under each correction.

    `scores` are the arguments of the test of that kind: (a, b), (a1, b1, a2, b2), or for a trend the levels
    that go with `x`. `others` are the p-values of the rest of the family. Settings are left out where all
    arrays share them. The first row of each margin and correction is the whole data (`left_out` None, all
    seeds).
    """
    if kind not in VERDICTS:
        raise StudyError(f"kind: {kind!r}, expected one of {', '.join(VERDICTS)}")
    arrays = [checked(array, f"scores {i}") for i, array in enumerate(scores)]
    if settings is not None and len(settings) != len(arrays[0]):
        raise StudyError(f"{len(settings)} names for {len(arrays[0])} settings: {list(settings)}")
    rows = []
    for left_out, seeds, subset in _subsets(arrays, settings):
        for margin in margins:
            if kind == "trend":
                result = trend(subset, x, margin=margin, alpha=alpha)
            else:
                result = TESTS[kind](*subset, margin=margin, alpha=alpha)
            for correction, adjust in CORRECTIONS.items():
                p_adjusted = float(adjust([result.p, *others])[0])
                verdict = VERDICTS[kind](result, margin, p_adjusted, alpha)
                row = {
                    "left_out": left_out,
                    "seeds": seeds,
                    "margin": float(margin),
                    "correction": correction,
                }
                numbers = {"estimate": result.estimate, "low": result.low, "high": result.high, "p": result.p}
                rows.append({**row, **numbers, "p_adjusted": p_adjusted, "verdict": verdict})
    return rows


def _subsets(arrays: list[list[np.ndarray]], names: Sequence[str] | None):
    """(setting left out, seeds, arrays): the whole data, without each setting, first seeds only."""
    seeds, count = len(arrays[0][0]), len(arrays[0])
    yield None, seeds, arrays
    if count > 1 and all(len(array) == count for array in arrays):
        for k in range(count):
            name = names[k] if names is not None else str(k)
            yield name, seeds, [array[:k] + array[k + 1 :] for array in arrays]
    for first in range(2, seeds):
        yield None, first, [[setting[:first] for setting in array] for array in arrays]


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
            "margin": row.get("margin") != test.get("margin"),
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
