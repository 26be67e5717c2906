"""Second opinions by resampling and counting, and `xlt compare`, which has the scores of one run each.

Bootstrap, sign flips, almost stochastic order and McNemar stand beside `tests.difference`; no verdict rests
on them.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from xltlib import StudyError
from xltlib.params import table as text_table
from xltlib.significance.tests import BLOCK, ROUNDING, Scores, by_setting, difference, sign_flips
from xltlib.textfile import excerpt, parse_json, read_text

FEW_SEEDS = 5  # with fewer the bound of the almost stochastic order does not hold
ALPHA = 0.05  # 1 - level of the intervals of `xlt compare`
COLUMNS = ("metric", "n", "mean A", "mean B", "A - B", "interval", "p", "McNemar p", "only A : only B", "d_z")


# Second opinions


def second_opinions(
    a: Scores, b: Scores, rng: np.random.Generator, resamples: int = 2000, alpha: float = 0.05
) -> dict:
    """What other tests say of a - b, as plain numbers that stand beside `tests.difference`.

    `bootstrap`: the interval [low, high] of seeds, then examples. `p_seeds`: sign flips of the seeds'
    differences; `p_least`: the smallest value that so many seeds allow. `eps_min`: almost stochastic order of
    the seed means of the `better` one, "a" or "b", over those of the other.
    """
    estimate, low, high = hierarchical_bootstrap(a, b, rng, resamples, alpha)
    first, second = (np.mean([x.mean(1) for x in by_setting(scores)], axis=0) for scores in (a, b))
    better = "a" if estimate >= 0 else "b"
    eps_min = aso(*((first, second) if better == "a" else (second, first)), rng, 1 - alpha)
    few = f"{len(first)} scores: too few for the bound to hold" if len(first) < FEW_SEEDS else ""
    return {
        "bootstrap": [low, high], "p_seeds": sign_flips(first - second),
        "p_least": min(1.0, 2 / 2 ** len(first)), "better": better, "eps_min": eps_min, "note": few,
    }  # fmt: skip


def bootstrap_means(x: np.ndarray, seed_weights: np.ndarray, item_weights: np.ndarray) -> np.ndarray:
    """Weighted means of x (..., R, N) under weights (B, R) and (B, N) that sum to one: shape (..., B)."""
    return ((x @ item_weights.T) * seed_weights.T).sum(-2)


def resampling_weights(count: int, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """Shares (resamples, count) in which each of `count` units is drawn with replacement."""
    return rng.multinomial(count, np.full(count, 1 / count), size=resamples) / count


def hierarchical_bootstrap(
    a: Scores, b: Scores, rng: np.random.Generator, resamples: int = 2000, alpha: float = 0.05
) -> tuple[float, float, float]:
    """Mean of a - b, and low and high end of the percentile interval of a bootstrap of seeds, then examples.

    The same examples are drawn for all seeds and settings of a size, as all of them are scored on the same
    items. With few seeds the interval is too narrow (R = 2 resamples have one distinct seed half of the
    time): see `tests.difference`, which decides verdicts, and `honesty.coverage`, which measures both.
    """
    effect, means = difference(a, b), []
    for start in range(0, resamples, BLOCK):
        count = min(BLOCK, resamples - start)
        seeds = resampling_weights(effect.seeds, count, rng)
        groups = ((group, resampling_weights(group.shape[1], count, rng)) for group in effect.groups)
        means.append(sum(bootstrap_means(group, seeds, items) for group, items in groups))
    low, high = np.quantile(np.concatenate(means), [alpha / 2, 1 - alpha / 2])
    return effect.estimate, float(low), float(high)


def aso(
    a: np.ndarray, b: np.ndarray, rng: np.random.Generator, confidence: float = 0.95, resamples: int = 1000
) -> float:
    """eps_min of the almost stochastic order of seed scores a (R,) over b (Q,). `a`: the better one.

    eps = integral of (F_a^-1 - F_b^-1)^2 where it speaks against a, over the whole integral (del Barrio et
    al. 2018; Dror et al. 2019). H0: eps >= tau. a is called better where `eps_min`, the upper bound from the
    bootstrap, is below tau: 0.5 at most, 0.2 as Ulmer et al. 2022 advise. Unpaired, and blind to the
    examples. Equal samples have no order: eps = 0.5.
    """
    eps = violation_ratio(a, b)
    draws = [rng.choice(x, size=(resamples, x.size)) for x in (a, b)]
    scale = np.sqrt(a.size * b.size / (a.size + b.size))
    sigma = (scale * (violation_ratio(*draws) - eps)).std()
    return float(np.clip(eps - sigma / scale * stats.norm.ppf(1 - confidence), 0.0, 1.0))


def violation_ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """eps of the samples a (..., R) and b (..., Q), exact: quantile functions are steps. Shape (...)."""
    a, b = np.sort(a, axis=-1), np.sort(b, axis=-1)
    edges = np.union1d(np.arange(a.shape[-1] + 1) / a.shape[-1], np.arange(b.shape[-1] + 1) / b.shape[-1])
    middle, width = (edges[1:] + edges[:-1]) / 2, np.diff(edges)
    gap = a[..., (middle * a.shape[-1]).astype(int)] - b[..., (middle * b.shape[-1]).astype(int)]
    against = (np.minimum(gap, 0) ** 2 * width).sum(-1)
    total = (gap**2 * width).sum(-1)
    return np.divide(against, total, out=np.full(np.shape(total), 0.5), where=total > 0)


# Two runs


def compare_files(path_a: Path, path_b: Path) -> dict:
    """All metrics of both files, as {"a", "b", "task", "languages", "metrics": {...}}.

    Examples are paired by their ids, in the order of A; StudyError where both do not score the same ones.
    """
    (told_a, a), (told_b, b) = read_scores(path_a), read_scores(path_b)
    if told_a["task"] != told_b["task"]:
        tasks = f"A scores task {excerpt(told_a['task'])}, B {excerpt(told_b['task'])}"
        raise StudyError(f"{tasks}: two on one task expected")
    names = [name for name in a if name in b]
    if not names:
        raise StudyError(f"no metric of both: A has {', '.join(a)}; B has {', '.join(b)}")
    for name, own, other in (("A", a, b), ("B", b, a)):
        if len(ids := own.index.difference(other.index, sort=False)):
            raise StudyError(
                f"A ({len(a)} examples) and B ({len(b)}) do not score the same ones: {len(ids)} only in "
                f"{name}, such as {excerpt(ids[0])}; score both on one set"
            )
    rows = {name: compare(a[name].to_numpy(), b[name][a.index].to_numpy()) for name in names}
    languages = [told_a["language"], told_b["language"]]
    return {
        "a": str(path_a), "b": str(path_b), "task": told_a["task"], "languages": languages, "metrics": rows,
    }  # fmt: skip


def read_scores(path: Path) -> tuple[dict, pd.DataFrame]:
    """What a score file says of itself ("task", "language"), and its scores in [0, 1]: ids x metrics.

    The file has {"task", "language", "metric", "scores": {id: number}}, or with several metrics
    {"scores": {id: {metric: number}}}.
    """
    record = parse_json(read_text(path), str(path))
    scores = record.get("scores") if isinstance(record, dict) else None
    if not isinstance(scores, dict) or not scores:
        raise StudyError(f'{path}: no "scores", expected the file that `xlt score --per-example` writes')
    only = str(record.get("metric") or "score")
    rows = [value if isinstance(value, dict) else {only: value} for value in scores.values()]
    for example, row in zip(scores, rows, strict=True):
        for metric, number in row.items():
            if not isinstance(number, int | float) or not 0 <= number <= 1:  # NaN is not either
                place = f"{path}: {excerpt(metric)} of example {excerpt(example)}"
                wanted = "expected a number in [0, 1] (divide percentages by 100)"
                raise StudyError(f"{place}: {excerpt(number)}, {wanted}")
    table = pd.DataFrame(rows, index=list(scores), dtype=float)
    for metric, absent in table.isna().items():
        if absent.any():
            where = f"{absent.sum()} of {len(scores)} examples, such as {excerpt(absent.idxmax())}"
            raise StudyError(f"{path}: {metric} is missing in {where}")
    return {"task": record.get("task"), "language": record.get("language")}, table


def compare(a: np.ndarray, b: np.ndarray) -> dict:
    """One metric of two runs (N,): difference a - b with t interval over examples, tests and effect sizes.

    H0 of `p` (`sign_flips`): swapping A and B changes nothing. `d_z` is the mean difference over its standard
    deviation, None where differences do not vary. `mcnemar` only for 0/1 scores.
    """
    effect, gaps = difference([a[None]], [b[None]], ALPHA), a - b
    spread = float(gaps.std(ddof=1)) if gaps.size > 1 else 0.0
    return {
        "n": gaps.size, "mean_a": float(a.mean()), "mean_b": float(b.mean()), "difference": effect.estimate,
        "low": effect.low, "high": effect.high, "alpha": ALPHA, "note": effect.note,
        "p": sign_flips(gaps), "d_z": effect.estimate / spread if spread > ROUNDING else None,
        "mcnemar": mcnemar(a, b) if np.isin([a, b], (0, 1)).all() else None,
    }  # fmt: skip


def mcnemar(a: np.ndarray, b: np.ndarray) -> dict:
    """Exact McNemar test on 0/1 scores (N,) of two runs; H0: each alone is right equally often.

    `only_a`, `only_b`: examples right in one alone.
    """
    only_a, only_b = int((a > b).sum()), int((b > a).sum())
    p = float(stats.binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0
    return {"p": p, "only_a": only_a, "only_b": only_b}


def table(result: dict) -> str:
    """The comparison as text: what was compared, one line per metric, what the intervals mean."""
    lines = [COLUMNS]
    for name, row in result["metrics"].items():
        test = row["mcnemar"]
        counts = (f"{test['p']:.4g}", f"{test['only_a']} : {test['only_b']}") if test else ("-", "-")
        means = (f"{row['mean_a']:.4f}", f"{row['mean_b']:.4f}", f"{row['difference']:+.4f}")
        interval = f"[{row['low']:+.4f}, {row['high']:+.4f}]"
        d_z = "-" if row["d_z"] is None else f"{row['d_z']:+.3f}"
        lines.append((name, str(row["n"]), *means, interval, f"{row['p']:.4g}", *counts, d_z))
    languages = dict.fromkeys(map(str, result["languages"]))
    notes = dict.fromkeys(row["note"] for row in result["metrics"].values() if row["note"])
    return "\n".join([
        f"A: {result['a']}", f"B: {result['b']}",
        f"task {result['task']}, language {' against '.join(languages)}",
        "", text_table(lines), "",
        f"interval: {100 * (1 - ALPHA):g} %, paired t over examples; p: paired permutation, two-sided",
        *(f"note: {note}" for note in notes),
    ])  # fmt: skip
