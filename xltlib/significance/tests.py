"""Effects of one system over another, with intervals that stay honest for few seeds.

Scores are per example, in [0, 1], higher is better, paired on all axes: for each of K settings an array (R
seeds, N_k examples). The aggregate is the mean over settings of the mean over examples. Every statistic here
(difference, interaction, slope) is a weighted sum of setting means, so one crossed random-effects model
serves them all.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
from scipy import optimize, special, stats

from xltlib import StudyError

Scores = Sequence[np.ndarray]  # K arrays (R, N_k)
ROUNDING = 1e-12  # a standard error below this is rounding: the differences do not vary
LEAST_P = 1e-200  # smaller p-values are given as this: t quantiles are not reliable beyond
EXACT = 36  # units whose 2**36 sign patterns are counted exactly; of more, patterns are sampled
BLOCK = 500  # resamples drawn at once: 20 MB of numbers for 5,000 examples
TIE = 1 - 1e-9  # of the observed sum: sums that differ by rounding alone are ties
PRIOR_SD = 0.05  # of the true effect around 0: two thirds of all effects are taken to be below five points


# Scores whose examples are not independent


class _Dependent(np.ndarray):
    """Scores (R, N) that keep what is known of their examples, whatever is computed with them."""

    def __array_finalize__(self, other: np.ndarray | None) -> None:
        vars(self).update(getattr(other, "__dict__", {}))


class Clustered(_Dependent):
    """Scores (R, N) that know which examples belong together: `clusters` (N,) holds whole numbers from 0."""

    @classmethod
    def of(cls, scores: np.ndarray, clusters: Sequence[int]) -> "Clustered":
        """The scores (R, N) with the cluster of each example."""
        clustered = np.asarray(scores).view(cls)
        clustered.clusters = np.asarray(clusters, dtype=np.int64)
        return clustered


class Nested(_Dependent):
    """Scores (R, N), or their means (R, 1), of seeds that have examples of their own: column i is no item.

    Items are then nested in seeds, not crossed with them, and the seeds' means hold all there is to know:
    their spread is that of worlds, trainings and examples together. `examples` is their number for each seed.
    """

    @classmethod
    def of(cls, scores: np.ndarray) -> "Nested":
        """The scores (R, N) as those of examples that differ between seeds."""
        nested = np.asarray(scores, dtype=float).view(cls)
        nested.examples = nested.shape[-1]
        return nested


def examples_of(scores: np.ndarray) -> int:
    """How many examples a seed has in these scores (R, N), whose N may be the one mean of nested ones."""
    return getattr(scores, "examples", scores.shape[1])


def by_cluster(scores: np.ndarray) -> np.ndarray:
    """One number for each cluster (R, G), whose means are those of the examples; others as they are.

    Of examples that differ between seeds the one mean (R, 1) of each seed.

    With n examples in cluster g, m their mean and mu the mean of all N, it is mu + (G n / N) (m - mu): what a
    mean over clusters of different sizes varies by, to first order (a ratio estimate; Cochran, Sampling
    Techniques, chapter 9A). It is linear in the scores: a difference of two systems is that of their numbers.
    """
    if isinstance(scores, Nested):
        return scores.mean(1, keepdims=True) if len(scores) > 1 else scores
    clusters = getattr(scores, "clusters", None)
    plain = np.asarray(scores, dtype=float)
    if clusters is None:
        return plain
    sizes = np.bincount(clusters)
    sums = np.stack([np.bincount(clusters, row, len(sizes)) for row in plain])
    mean = plain.mean(1, keepdims=True)
    return (mean + len(sizes) / plain.shape[1] * (sums - sizes * mean))[:, sizes > 0]


def numbered(names: Sequence[str]) -> list[int]:
    """The clusters of examples by what those of one cluster share, numbered as they come."""
    numbers: dict[str, int] = {}
    return [numbers.setdefault(name, len(numbers)) for name in names]


# Effects


class Components(NamedTuple):
    """Standard deviations of a difference: Var(mean) = seed**2 / R + item**2 / N + noise**2 / (R N)."""

    seed: float
    item: float
    noise: float


class Variances(NamedTuple):
    """Parts of the variance of a mean difference, each an array of one shape (or a scalar).

    `from_seeds` is what seeds add, noise included (R - 1 degrees of freedom), `from_items` what items add
    beyond noise (`df_items` degrees of freedom), `noise` is noise**2 / (R N). The variance is from_seeds +
    from_items.
    """

    from_seeds: np.ndarray
    from_items: np.ndarray
    noise: np.ndarray
    df_items: np.ndarray


def sign_flips(units: Sequence[float]) -> float:
    """Two-sided p-value of H0: the distribution of the units (n,) is symmetric about 0; exact for n <= EXACT.

    The share of the 2**n patterns of signs whose sum is at least as far from 0 as the observed one, so that
    p >= 2 / 2**n. Sums of the two halves of the units are found apart: 2**(n/2) numbers, sorted and searched
    (meeting in the middle). Beyond, 9,999 patterns and the observed one.
    """
    units = np.asarray(units, dtype=float)
    total = np.abs(units).sum()
    if len(units) < 2 or total < ROUNDING:
        return 1.0
    if len(units) > EXACT:
        drawn = {"vectorized": True, "batch": BLOCK, "rng": np.random.default_rng(0)}
        test = stats.permutation_test((units,), np.sum, permutation_type="samples", **drawn)
        return float(test.pvalue)
    units = np.round(units * (2.0**50 / total)).astype(np.int64)  # whole numbers: sorted in half the time

    def sums(part: np.ndarray, start: int) -> np.ndarray:
        """The sums of all patterns of signs of the part, sorted."""
        found = np.array([start])
        for unit in part:  # two sorted runs, which a stable sort merges
            found = np.concatenate([found - unit, found + unit])
            found.sort(kind="stable")
        return found

    # the sums of the second half are those with its first unit as it is, and their negatives
    first, second = sums(units[::2], 0), sums(units[3::2], units[1])
    observed = int(abs(units.sum()) * TIE) - len(units)  # each unit was rounded
    below = sum(int(np.searchsorted(first, observed - y).sum()) for y in (second[::-1], -second))
    return min(1.0, 2 * (2 * len(first) * len(second) - below) / 2 ** len(units))


def by_setting(scores: Scores) -> list[np.ndarray]:
    """The K settings as float arrays (R, N_k), or (R, G_k) where items come in clusters.

    StudyError unless R, K and N_k are at least 1 and all scores are finite and in [0, 1].
    """
    arrays = [np.asanyarray(setting, dtype=float) for setting in scores]
    if not arrays or any(x.ndim != 2 or 0 in x.shape or len(x) != len(arrays[0]) for x in arrays):
        raise StudyError(
            f"scores of shapes {[x.shape for x in arrays]}, expected (seeds, examples) for each setting, one "
            "of each at least, and the same seeds in every setting"
        )
    for k, array in enumerate(arrays):
        if not (array.min() >= 0 and array.max() <= 1):  # NaN is not either
            raise StudyError(
                f"setting {k}: scores from {array.min():g} to {array.max():g}, expected finite ones in [0, 1]"
                " (divide percentages by 100, leave out examples without a score)"
            )
    return [by_cluster(array) for array in arrays]


def paired(a: Scores, b: Scores) -> list[np.ndarray]:
    """a - b by setting, K arrays (R, N_k); StudyError unless a and b agree in every shape."""
    first, second = by_setting(a), by_setting(b)
    shapes = [[setting.shape for setting in scores] for scores in (first, second)]
    if shapes[0] != shapes[1]:
        raise StudyError(f"a and b are not paired: (seeds, examples) per setting {shapes[0]} and {shapes[1]}")
    return [x - y for x, y in zip(first, second, strict=True)]


def by_items(arrays: list[np.ndarray], weights: Sequence[float]) -> list[np.ndarray]:
    """Weighted sums over settings of equal size: one array (R, N) for each size N.

    Settings of one size are summed item by item, which keeps the correlation of parallel items and does no
    harm where items are unrelated. Settings of different sizes cannot share their items and count as
    independent.
    """
    sums: dict[int, np.ndarray] = {}
    for array, weight in zip(arrays, weights, strict=True):
        sums[array.shape[1]] = sums.get(array.shape[1], 0.0) + weight * array
    return list(sums.values())


def crossed_variances(groups: list[np.ndarray]) -> Variances:
    """What the variance of the mean is made of when seeds and items are crossed random effects.

    Arrays have shape (..., R, N_g), the fields of the answer (...). From the mean squares of the two-way
    layout.
    """
    seeds, lead = groups[0].shape[-2], groups[0].shape[:-2]
    from_seeds, from_items, noise, spread = (np.zeros(lead) for _ in range(4))
    if seeds > 1:
        from_seeds = sum(group.mean(-1) for group in groups).var(-1, ddof=1) / seeds
    for group in groups:
        items = group.shape[-1]
        if items == 1:  # no variance between items to see: the caller says so
            continue
        item_means = group.mean(-2, keepdims=True)
        between, cells = item_means[..., 0, :].var(-1, ddof=1) / items, 0.0
        if seeds > 1:
            rest = group - item_means - (group.mean(-1, keepdims=True) - item_means.mean(-1, keepdims=True))
            cells = (rest**2).sum((-2, -1)) / ((seeds - 1) * (items - 1) * seeds * items)
        part = np.maximum(between - cells, 0.0)
        from_items, noise, spread = from_items + part, noise + cells, spread + part**2 / (items - 1)
    most = float(max(1, *(group.shape[-1] - 1 for group in groups)))
    df_items = np.divide(from_items**2, spread, out=np.full(lead, most), where=spread > 0)
    return Variances(from_seeds, from_items, noise, df_items)


def half_width(variances: Variances, seeds: int, alpha: float) -> np.ndarray:
    """Half the two-sided interval: t sqrt(variance) of seeds and of items, joined as a q-norm.

    With q = 2 this is Banerjee's (1960) interval for a sum of variances, which never covers less than 1 -
    alpha and covers too much with few seeds. q = 2 + 1/(R - 1) keeps the guarantee: over all shares of seeds,
    items and noise in the variance, exact integration gives an error of at most alpha for alpha <= 0.1 and R
    >= 2 (at 95 %, coverage 0.950-0.983 for R = 2, -0.971 for 3, -0.964 for 4, -0.958 for 6, -0.953 for 12).
    Satterthwaite's degrees of freedom go down to 0.88 for R = 2. The width is at least half of what items and
    noise alone demand: two seeds with equal means are a coincidence of 0/1 scores, not knowledge.
    """
    from_seeds, from_items, noise, df_items = variances
    # what stats.t.isf calls in the end, without its checks: a p-value takes hundreds of half-widths
    t_seeds, t_items = (-special.stdtrit(df, alpha / 2) for df in (max(seeds - 1, 1), df_items))
    widths = t_seeds * np.sqrt(from_seeds), t_items * np.sqrt(from_items)
    larger, q = np.maximum(*widths), 2 + 1 / max(seeds - 1, 1)
    ratio = np.divide(np.minimum(*widths), larger, out=np.zeros_like(larger), where=larger > 0)
    return np.maximum(larger * (1 + ratio**q) ** (1 / q), t_items * np.sqrt(from_items + noise) / 2)


class Effect:
    """A weighted mean of settings with its two-sided 1 - `alpha` interval and `p`-value of H0: it is 0.

    Made of K arrays (R, N_k) of scores, or of differences of scores, times their weights (K,). `groups` are
    the sums of `by_items`, `span` is the largest value that the effect can take. `per_setting` are means over
    seeds. `examples` counts items once where settings share them, and clusters of items in place of items
    where these come in such. `variances` are nothing where all that varies is rounding (`constant`).
    """

    def __init__(
        self, arrays: list[np.ndarray], weights: Sequence[float], per_setting: Sequence[float],
        alpha: float, settings: int = 0,
    ) -> None:  # fmt: skip
        self.groups, self.span = by_items(arrays, weights), float(np.abs(weights).sum())
        self.alpha, self.per_setting = alpha, tuple(float(x) for x in per_setting)
        self.settings, self.seeds = settings or len(self.per_setting), len(self.groups[0])
        self.examples = sum(examples_of(group) for group in self.groups)
        self.estimate = float(sum(group.mean() for group in self.groups))
        self.per_seed: tuple[float, ...] = tuple(sum(group.mean(1) for group in self.groups).tolist())
        self.sd_seeds = float(np.std(self.per_seed, ddof=1)) if self.seeds > 1 else 0.0
        self.variances = crossed_variances(self.groups)
        self.constant = bool(sum(self.variances[:3]) <= ROUNDING**2)
        if self.constant:
            self.variances = Variances(*np.zeros(3), self.variances.df_items)
        self.low, self.high = self.interval(alpha)

    @property
    def components(self) -> Components:
        from_seeds, from_items, noise, _ = (float(part) for part in self.variances)
        return Components(
            seed=float(np.sqrt(max(from_seeds - noise, 0.0) * self.seeds)),
            item=float(np.sqrt(from_items * self.examples)),
            noise=float(np.sqrt(noise * self.seeds * self.examples)),
        )

    def half(self, alpha: float) -> float:
        """Half-width; for constant differences, what an unseen share 1 - alpha**(1/N) of items could move."""
        if self.constant:
            fewest = min(group.shape[1] for group in self.groups)
            return (1 - alpha ** (1 / fewest)) * (self.span + abs(self.estimate))
        return float(half_width(self.variances, self.seeds, alpha))

    def interval(self, alpha: float) -> tuple[float, float]:
        """The two-sided interval at a level; where nothing varies, within what the effect can be."""
        half, most = self.half(alpha), self.span if self.constant else np.inf
        return max(self.estimate - half, -most), min(self.estimate + half, most)

    @cached_property
    def p(self) -> float:
        return self.p_value(0.0)

    def p_value(self, null: float) -> float:
        """The level at which the interval just excludes `null`, two-sided."""
        distance = abs(self.estimate - null)
        if distance <= ROUNDING:
            return 1.0
        from_seeds, from_items, noise, _ = self.variances
        if not from_items and not noise and from_seeds:  # seeds alone vary: the t test over their means
            return float(2 * special.stdtr(self.seeds - 1, -distance / np.sqrt(from_seeds)))
        if self.half(LEAST_P) <= distance:
            return LEAST_P
        log_p = optimize.brentq(lambda x: self.half(np.exp(x)) - distance, np.log(LEAST_P), 0.0, xtol=1e-13)
        return float(min(np.exp(log_p), 1.0))

    def against(self, null: float) -> float:
        """The larger of two two-sided p-values of H0: effect = `null`: the interval's and the sign flips'."""
        return max(self.p_value(null), sign_flips(np.asarray(self.per_seed) - null))

    @property
    def note(self) -> str:
        """What the interval leaves out; empty where it leaves out nothing."""
        notes = []
        if self.seeds == 1:
            notes.append("one seed: the interval speaks for the examples only, not for another training run")
        if any(examples_of(group) == 1 for group in self.groups):
            notes.append("one example in a setting: the interval cannot speak for other examples there")
        if self.constant:
            notes.append("the differences do not vary: the interval bounds what unseen examples could change")
        return "; ".join(notes)


def difference(a: Scores, b: Scores, alpha: float = 0.05) -> Effect:
    """Mean of a - b. `a` should be the better one.

    Seeds and items are crossed random effects: Var = seed**2/R + item**2/N + noise**2/(R N), estimated from
    the mean squares; the interval is that of `half_width`. In simulated studies with 0/1 scores
    (honesty.coverage, seven worlds, 4,000 studies each) the 95 % interval covered 0.953-0.987 for R = 2,
    0.950-0.968 for R = 3 and 0.946-0.961 for R = 4 to 12; the bootstrap of seeds, then examples covered
    0.83-0.99 for R = 2, 0.88-0.99 for R = 3 and 0.93-0.998 for R = 6: too little where seeds matter, too much
    where noise does. With one seed it is the paired t interval over examples. Where all differences are equal
    the interval has the width that N items without an exception leave open, 1 - alpha**(1/N) of what they
    could change.
    """
    gains = paired(a, b)
    return Effect(gains, [1 / len(gains)] * len(gains), [gain.mean() for gain in gains], alpha)


def interaction(
    a1: Scores, b1: Scores, a2: Scores, b2: Scores, alpha: float = 0.05, share: float = 1.0
) -> Effect:
    """Gain in 1 minus a share of gain in 2, (a1 - b1) - share (a2 - b2).

    The larger gain should come first. Paired on seeds. Items of the two are paired where their number is the
    same, else independent. `per_setting` holds the two gains.
    """
    first, second = paired(a1, b1), paired(a2, b2)
    weights = [1 / len(first)] * len(first) + [-share / len(second)] * len(second)
    gains = [float(np.mean([gain.mean() for gain in side])) for side in (first, second)]
    return Effect(first + second, weights, gains, alpha, len(first) + len(second))


def trend(scores: Sequence[Scores], x: Sequence[float], alpha: float = 0.05) -> Effect:
    """Least-squares slope of the mean score over `x`.

    `scores` has one entry per level of x, paired on seeds, settings and items. Unit: score per unit of x.
    Negate x when the score is expected to fall. `per_seed` and `per_setting` are slopes.
    """
    levels, at = [by_setting(level) for level in scores], np.asarray(x, dtype=float)
    slope = (at - at.mean()) / ((at - at.mean()) ** 2).sum()
    settings = len(levels[0])
    per_setting = slope @ np.array([[setting.mean() for setting in level] for level in levels])
    arrays = [setting for level in levels for setting in level]
    return Effect(arrays, np.repeat(slope, settings) / settings, per_setting, alpha)


# Corrections


def holm(p: Sequence[float]) -> np.ndarray:
    """Holm's adjusted p-values, in the order given: controls the chance of any false rejection."""
    return _stepped_down(np.asarray(p, dtype=float), np.arange(len(p), 0, -1))


def _stepped_down(p: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """Adjusted p-values; `counted` hypotheses correct the smallest one, the next one, and so on."""
    # by hand: statsmodels' version collects garbage in every call, 80 ms here
    adjusted, order = np.empty_like(p), np.argsort(p)
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * counted), 1.0)
    return adjusted


def holm_both_ways(p: Sequence[float], alpha: float, decided: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Holm's adjusted p-values, and the levels that they leave, of tests that can be decided either way.

    Each of m tests is one of two hypotheses: that its statement does not hold, and that it does. At most one
    is true. To reject one ends the test; the other may be true and is still to be counted, so that a
    rejection takes one of 2 m hypotheses away. After r of them a two-sided p-value has the level 2 alpha /
    (2 m - r). With Holm's own, alpha / (m - r), up to three in ten families of 21 tests without any gain had
    a false verdict: those whose last test was left alone with all of alpha. As at most m hypotheses are true,
    the chance of a false rejection is at most alpha m / (m + 1); an equivalence's p-value is one-sided, so
    that with E of those it is alpha (m + E) / (m + 1).

    p : (n,) two-sided, of the tests that are open
    decided : how many of the family were decided before

    Tests after the first that is not rejected have the level of that one.
    """
    p, step = np.asarray(p, dtype=float), np.arange(len(p))
    counted = (2 * len(p) + decided - step) / 2  # halves: of two-sided p-values
    adjusted, levels = _stepped_down(p, counted), np.empty_like(p)
    levels[np.argsort(p)] = alpha / counted[np.minimum(step, (adjusted <= alpha).sum())]
    return adjusted, levels


# adjusted p-values by name, of open tests after some that were decided; "bh": Benjamini and Hochberg's, which
# control false discoveries
CORRECTIONS = {
    "none": lambda p, decided: np.asarray(p),
    "holm": lambda p, decided: holm_both_ways(p, 0.0, decided)[0],
    "bh": lambda p, decided: stats.false_discovery_control(p),
}


def outlook(per_seed: Sequence[float], margin: float, from_items: float = 0.0) -> dict[str, float]:
    """What the seeds (R,) say of a new one, and the probability that the true effect exceeds a margin.

    `new_low` and `new_high` hold a new seed's effect on the same examples with 95 % (t prediction interval),
    `new_gains` is its chance to be positive. `probability`: seeds vary around the true effect mu by a normal
    distribution of unknown spread (prior 1 / sd), and `from_items` is what examples that they share add to
    the variance of the mean; mu has the weak prior N(0, PRIOR_SD**2). Without a second seed nothing is known
    of the spread: empty.
    """
    x = np.asarray(per_seed, dtype=float)
    n, mean, sd = len(x), float(x.mean()), float(x.std(ddof=1)) if len(x) > 1 else 0.0
    if n < 2 or sd <= ROUNDING:
        return {}
    spread = sd * np.sqrt(1 + 1 / n)
    reach = float(stats.t.isf(0.025, n - 1)) * spread
    error = np.sqrt(sd**2 / n + from_items)
    widest = max(10 * error, 4 * PRIOR_SD)
    mu = np.linspace(min(mean, 0) - widest, max(mean, 0) + widest, 20_001)
    posterior = stats.norm.pdf(mu, 0, PRIOR_SD) * stats.t.pdf((mu - mean) / error, n - 1)
    return {
        "new_low": mean - reach,
        "new_high": mean + reach,
        "new_gains": float(stats.t.cdf(mean / spread, n - 1)),
        "probability": float(posterior[mu > margin].sum() / posterior.sum()),
    }
