"""Second opinions by resampling and counting: bootstrap, permutation, McNemar, almost stochastic order."""

from dataclasses import dataclass

import numpy as np
from scipy import stats

from xltlib import StudyError
from xltlib.significance.tests import Scores, by_items, by_setting, paired

BLOCK = 500  # resamples drawn at once: 20 MB of weights for 5,000 examples
EXACT_SEEDS = 14  # 2**14 sign patterns are enumerated, more are sampled


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its percentile interval at 1 - `alpha`, from `resamples` resamples."""

    estimate: float
    low: float
    high: float
    alpha: float
    resamples: int


@dataclass(frozen=True, slots=True)
class Permutation:
    """A sign-flip test over `n` differences; `p_least` is the smallest p-value it could have given."""

    estimate: float
    p: float
    p_least: float
    exact: bool
    n: int


@dataclass(frozen=True, slots=True)
class McNemar:
    """Examples right in a alone and in b alone; `odds` is their ratio (None without any of b's)."""

    only_a: int
    only_b: int
    odds: float | None
    p: float


@dataclass(frozen=True, slots=True)
class StochasticOrder:
    """`eps`: share of the squared quantile difference against a; `eps_min`: its upper bound."""

    eps: float
    eps_min: float
    confidence: float
    note: str = ""


def bootstrap_means(x: np.ndarray, seed_weights: np.ndarray, item_weights: np.ndarray) -> np.ndarray:
    """Weighted means of x (..., R, N) under weights (B, R) and (B, N) that sum to one: shape (..., B)."""
    return ((x @ item_weights.T) * seed_weights.T).sum(-2)


def resampling_weights(count: int, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """Shares (resamples, count) in which each of `count` units is drawn with replacement."""
    return rng.multinomial(count, np.full(count, 1 / count), size=resamples) / count


def hierarchical_bootstrap(
    a: Scores, b: Scores, rng: np.random.Generator, resamples: int = 2000, alpha: float = 0.05
) -> Interval:
    """Mean of a - b with the percentile interval of a bootstrap of seeds, then examples.

    The same examples are drawn for all seeds and settings of a size, as all of them are scored on the same
    items. With few seeds the interval is too narrow (R = 2 resamples have one distinct seed half of the
    time): see `tests.difference`, which decides verdicts, and `honesty.coverage`, which measures both.
    """
    gains = paired(a, b)
    groups = by_items(gains, [1 / len(gains)] * len(gains))
    means = []
    for start in range(0, resamples, BLOCK):
        count = min(BLOCK, resamples - start)
        seeds = resampling_weights(len(groups[0]), count, rng)
        means.append(
            sum(
                bootstrap_means(group, seeds, resampling_weights(group.shape[1], count, rng))
                for group in groups
            )
        )
    low, high = np.quantile(np.concatenate(means), [alpha / 2, 1 - alpha / 2])
    return Interval(float(sum(group.mean() for group in groups)), float(low), float(high), alpha, resamples)


def permutation(
    a: Scores,
    b: Scores,
    rng: np.random.Generator,
    over: str = "seeds",
    margin: float = 0.0,
    resamples: int = 9999,
) -> Permutation:
    """Paired sign-flip test; H0: the differences a - b, less `margin`, are symmetric about 0. Two-sided.

    over="seeds": units are the R differences of means; exact for up to 14 seeds, and then p >= 2 / 2**R, so
    that five seeds cannot reach 0.05. over="items": units are the examples (averaged over seeds), which
    speaks for these very runs only. Beyond 14 units signs are sampled `resamples` times and counted with the
    observed pattern.
    """
    gains = paired(a, b)
    groups = by_items(gains, [1 / len(gains)] * len(gains))
    if over == "seeds":
        units = sum(group.mean(1) for group in groups) - margin
        units = units / len(units)
    elif over == "items":
        shares = [sum(gain.shape[1] == group.shape[1] for gain in gains) / len(gains) for group in groups]
        parts = zip(groups, shares, strict=True)
        units = np.concatenate([(group.mean(0) - margin * share) / group.shape[1] for group, share in parts])
    else:
        raise StudyError(f"over: {over!r}, expected 'seeds' or 'items'")
    n, exact = len(units), len(units) <= EXACT_SEEDS
    p_least = min(1.0, 2 / (2**n if exact else resamples + 1))
    if n == 1 or np.allclose(units, 0, atol=1e-15):
        return Permutation(float(units.sum()) + margin, 1.0, p_least, exact, n)
    count = np.inf if exact else resamples
    test = stats.permutation_test(
        (units,), np.sum, permutation_type="samples", vectorized=True, n_resamples=count, batch=BLOCK, rng=rng
    )
    return Permutation(float(units.sum()) + margin, float(test.pvalue), p_least, exact, n)


def mcnemar(a: np.ndarray, b: np.ndarray) -> McNemar:
    """Exact McNemar test on 0/1 scores (N,) of two runs; H0: each alone is right equally often."""
    a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if a.ndim != 1 or a.shape != b.shape:
        raise StudyError(
            f"McNemar: shapes {a.shape} and {b.shape}, expected two runs on the same examples, (N,)"
        )
    if not np.isin(a, (0, 1)).all() or not np.isin(b, (0, 1)).all():
        raise StudyError("McNemar: scores other than 0 and 1, expected right or wrong per example")
    only_a, only_b = int((a > b).sum()), int((b > a).sum())
    p = stats.binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
    return McNemar(only_a, only_b, only_a / only_b if only_b else None, float(p))


def aso(
    a: np.ndarray, b: np.ndarray, rng: np.random.Generator, confidence: float = 0.95, resamples: int = 1000
) -> StochasticOrder:
    """Almost stochastic order of seed scores a (R,) over b (Q,); H0: eps >= tau. `a`: the better one.

    eps = integral of (F_a^-1 - F_b^-1)^2 where it speaks against a, over the whole integral (del Barrio et
    al. 2018; Dror et al. 2019). a is called better where `eps_min`, the upper bound from the bootstrap, is
    below tau: 0.5 at most, 0.2 as Ulmer et al. 2022 advise. Unpaired, and blind to the examples: a second
    opinion. Equal samples have no order: eps = 0.5.
    """
    a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if a.ndim != 1 or b.ndim != 1 or not a.size or not b.size or not np.isfinite([*a, *b]).all():
        raise StudyError(
            f"almost stochastic order: shapes {a.shape} and {b.shape}, expected finite scores per seed"
        )
    eps = float(violation_ratio(a, b))
    draws = [rng.choice(x, size=(resamples, x.size)) for x in (a, b)]
    scale = np.sqrt(a.size * b.size / (a.size + b.size))
    sigma = (scale * (violation_ratio(*draws) - eps)).std()
    eps_min = float(np.clip(eps - sigma / scale * stats.norm.ppf(1 - confidence), 0.0, 1.0))
    fewest = min(a.size, b.size)
    note = f"{fewest} scores: too few for the bound to hold" if fewest < 5 else ""
    return StochasticOrder(eps, eps_min, confidence, note)


def violation_ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """eps of the samples a (..., R) and b (..., Q), exact: quantile functions are steps. Shape (...)."""
    a, b = np.sort(a, axis=-1), np.sort(b, axis=-1)
    edges = np.union1d(np.arange(a.shape[-1] + 1) / a.shape[-1], np.arange(b.shape[-1] + 1) / b.shape[-1])
    middle, width = (edges[1:] + edges[:-1]) / 2, np.diff(edges)
    gap = a[..., (middle * a.shape[-1]).astype(int)] - b[..., (middle * b.shape[-1]).astype(int)]
    against = (np.minimum(gap, 0) ** 2 * width).sum(-1)
    total = (gap**2 * width).sum(-1)
    return np.divide(against, total, out=np.full(np.shape(total), 0.5), where=total > 0)


def second_opinions(
    a: Scores, b: Scores, rng: np.random.Generator, resamples: int = 2000, alpha: float = 0.05
) -> dict:
    """What other tests say of a - b, as plain numbers that stand beside `tests.difference`.

    `bootstrap`: the interval [low, high] of seeds, then examples. `p_seeds`: sign flips of the seeds'
    differences; `p_least`: the smallest value that so many seeds allow. `eps_min`: almost stochastic order of
    the seed means of the `better` one, "a" or "b", over those of the other.
    """
    interval = hierarchical_bootstrap(a, b, rng, resamples, alpha)
    flips = permutation(a, b, rng)
    means = [np.mean([setting.mean(1) for setting in by_setting(scores)], axis=0) for scores in (a, b)]
    better = "a" if interval.estimate >= 0 else "b"
    order = aso(*(means if better == "a" else means[::-1]), rng, confidence=1 - alpha)
    return {
        "bootstrap": [interval.low, interval.high], "p_seeds": flips.p, "p_least": flips.p_least,
        "better": better, "eps_min": order.eps_min, "note": order.note,
    }  # fmt: skip
