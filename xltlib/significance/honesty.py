"""How far the tests can be trusted: coverage and error rates over simulated studies, power."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from scipy import optimize, special, stats

from xltlib.significance.resampling import bootstrap_means, resampling_weights
from xltlib.significance.tests import Components, Variances, crossed_variances, half_width

CELLS = 4_000_000  # scores simulated at once: some 50 MB
WORLDS = {  # standard deviations on the latent scale, see `simulate`
    "seeds and items": {"sd_seed": 0.1, "sd_item": 0.5, "base": 0.7, "examples": 500, "settings": 2},
    "weak seeds": {"sd_seed": 0.03, "sd_item": 0.3, "base": 0.7, "examples": 500, "settings": 2},
    "strong seeds": {"sd_seed": 0.2, "sd_item": 0.2, "base": 0.6, "examples": 300, "settings": 1},
    "items only": {"sd_seed": 0.0, "sd_item": 0.7, "base": 0.6, "examples": 500, "settings": 4},
    "noise only": {"sd_seed": 0.0, "sd_item": 0.0, "base": 0.5, "examples": 500, "settings": 4},
    "high accuracy": {"sd_seed": 0.1, "sd_item": 0.3, "base": 0.95, "examples": 500, "settings": 2},
}
# five examples to a passage, all equally hard and equally suited to a system: what intervals must be told
GROUPED = {"sd_seed": 0.03, "sd_item": 0.5, "base": 0.7, "examples": 500, "settings": 2, "group": 5}


def simulate(
    seeds: int, examples: int, settings: int, mu: float, sd_seed: float, sd_item: float, base: float,
    rng: np.random.Generator, repeats: int = 1, group: int = 1,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Scores a and b, bool (repeats, R, K, N), from a latent crossed model: E[b] = base, E[a] = base + mu.

    A system is right where a latent normal exceeds a threshold: the item's difficulty (variance 1, shared by
    systems, settings and seeds), the system's own effect on the item (`sd_item`, shared by settings and
    seeds), its seed's luck (`sd_seed`, shared by settings and items) and noise of variance 1 per score.
    `group` items in a row share difficulty and effect. Standard deviations are on the latent scale; near
    accuracy 0.5, 0.1 of luck is 0.028 of accuracy. The sum is normal: the thresholds give the means exactly.
    """
    total = np.sqrt(2 + sd_item**2 + sd_seed**2)
    shape, passages = (repeats, seeds, settings, examples), -(-examples // group)

    def shared(sd: float, *axes: int) -> np.ndarray:
        return sd * rng.standard_normal(axes, dtype=np.float32)

    hard, scores = shared(1.0, repeats, 1, 1, passages), []
    for accuracy in (base + mu, base):
        item = (hard + shared(sd_item, *hard.shape)).repeat(group, -1)[..., :examples]
        luck = item + shared(sd_seed, repeats, seeds, 1, 1)
        chance = special.ndtr(luck + np.float32(stats.norm.ppf(accuracy) * total))  # the noise, integrated
        scores.append(rng.random(shape, dtype=np.float32) < chance)
    return scores[0], scores[1]


def _studies(
    repeats: int, rng: np.random.Generator, world: Mapping[str, float], clustered: bool = False
) -> Iterator[tuple[np.ndarray, np.ndarray, Variances]]:
    """Blocks of simulated studies that fit in memory: gains (B, R, N), means over settings, if `clustered`
    over groups too; their mean (B,) less the true one; and its variances."""
    size = max(1, CELLS // (world["seeds"] * world["settings"] * world["examples"]))
    for start in range(0, repeats, size):
        a, b = simulate(repeats=min(size, repeats - start), rng=rng, **world)
        gains = (a.sum(2, dtype=np.int8) - b.sum(2, dtype=np.int8)) / world["settings"]
        if clustered:  # groups of one size: their means are what `tests.by_cluster` gives
            gains = gains.reshape(*gains.shape[:2], -1, world["group"]).mean(-1)
        yield gains, gains.mean((1, 2)) - world["mu"], crossed_variances([gains])


def _rates(hits: Mapping[str, int], repeats: int, alpha: float) -> dict[str, float]:
    """Counts as shares, with the Monte Carlo standard error of a share at its nominal rate."""
    shares = {name: count / repeats for name, count in hits.items()}
    return {**shares, "error": float(np.sqrt(alpha * (1 - alpha) / repeats))}


def coverage(
    rng: np.random.Generator, repeats: int = 2000, resamples: int = 500, alpha: float = 0.05, **world: float
) -> dict[str, float]:
    """Share of simulated studies whose 1 - `alpha` interval holds the true `mu`, for four intervals.

    `world` are the arguments of `simulate`. crossed: `tests.difference`. bootstrap: seeds, then
    examples (`resampling.hierarchical_bootstrap`; all studies share one set of resamples). seeds_only: paired
    t over seed means, blind to the examples. examples_only: paired t over examples, blind to the seeds.
    `error` is the Monte Carlo standard error at the nominal rate.
    """
    seeds, examples, mu = world["seeds"], world["examples"], world["mu"]
    shares = resampling_weights(seeds, resamples, rng), resampling_weights(examples, resamples, rng)
    hits: Counter[str] = Counter()
    for gains, off, variances in _studies(repeats, rng, world):
        alone = variances._replace(from_items=np.zeros(len(gains)), noise=np.zeros(len(gains)))
        over_items = gains.mean(1).std(1, ddof=1) / np.sqrt(examples)
        for name, half in (
            ("crossed", half_width(variances, seeds, alpha)),
            ("seeds_only", half_width(alone, seeds, alpha)),
            ("examples_only", stats.t.isf(alpha / 2, examples - 1) * over_items),
        ):
            hits[name] += int((np.abs(off) <= half).sum())
        low, high = np.quantile(bootstrap_means(gains, *shares), [alpha / 2, 1 - alpha / 2], axis=1)
        hits["bootstrap"] += int(((low <= mu) & (mu <= high)).sum())
    return {"seeds": seeds, **_rates(hits, repeats, alpha)}


def error_rates(
    rng: np.random.Generator, gains: Sequence[float] = (0.0,), repeats: int = 2000,
    equivalence_margin: float = 0.02, alpha: float = 0.05, clustered: bool = False, **world: float,
) -> list[dict[str, float]]:  # fmt: skip
    """How often each verdict falls for one statement tested alone, a row for each of the true `gains`.

    `world` are the arguments of `simulate`; its studies are moved from their own `mu` to each gain. With
    `clustered` the test is told which examples share a `group`, whose number divides `examples`. supported
    and contradicted: the gain against no margin; false where it is 0, power where it is above. equivalent:
    within +-`equivalence_margin` by the 1 - 2 alpha interval; false where |gain| is not below that margin.
    covered: the 1 - alpha interval holds the truth.
    """
    seeds, hits = world["seeds"], [Counter() for _ in gains]
    for _, off, variances in _studies(repeats, rng, world, clustered):
        wide, narrow = (half_width(variances, seeds, level) for level in (alpha, 2 * alpha))
        for gain, counted in zip(gains, hits, strict=True):
            estimate = off + gain
            counted["supported"] += int((estimate - wide > 0).sum())
            counted["contradicted"] += int((estimate + wide < 0).sum())
            counted["equivalent"] += int((np.abs(estimate) + narrow < equivalence_margin).sum())
            counted["covered"] += int((np.abs(off) <= wide).sum())
    return [
        {"seeds": seeds, "gain": gain, **_rates(counted, repeats, alpha)}
        for gain, counted in zip(gains, hits, strict=True)
    ]


def power_at(
    distance: float, components: Components, seeds: int, examples: int, alpha: float = 0.05,
    kind: str = "superiority",
) -> float:  # fmt: skip
    """Chance of `supported`, exact under the crossed model with normal effects of known `components`.

    superiority (also interaction, trend): the true effect lies `distance` beyond the margin. equivalence: the
    true effect is 0 and the margin is `distance`. Without any variance it is 1 where the interval for
    constant differences is short enough, else 0.
    """
    level = 2 * alpha if kind == "equivalence" else alpha
    se, half = _possible_widths(components, seeds, examples, level)
    if se == 0:
        return float(distance > half.max())
    if kind == "equivalence":
        return float(np.maximum(1 - 2 * stats.norm.sf((distance - half) / se), 0.0).mean())
    return float(stats.norm.cdf((distance - half) / se).mean())


def smallest_detectable(
    components: Components, seeds: int, examples: int, alpha: float = 0.05, power: float = 0.8,
    kind: str = "superiority",
) -> float:  # fmt: skip
    """The distance from the margin (equivalence: the margin) at which `power_at` reaches `power`."""
    level = 2 * alpha if kind == "equivalence" else alpha
    se, half = _possible_widths(components, seeds, examples, level)
    if se == 0:
        return float(half.max())
    arguments, top = (components, seeds, examples, alpha, kind), float(half.max() + 10 * se)
    return float(optimize.brentq(lambda distance: power_at(distance, *arguments) - power, 0.0, top))


def _possible_widths(
    components: Components, seeds: int, examples: int, alpha: float
) -> tuple[float, np.ndarray]:
    """The true standard error, and half-widths over equally likely estimates of the seeds' part."""
    from_items, noise = components.item**2 / examples, components.noise**2 / (seeds * examples)
    from_seeds, df_items = components.seed**2 / seeds + noise, np.array([max(examples - 1.0, 1.0)])
    if from_seeds + from_items == 0:
        return 0.0, np.array([1 - alpha ** (1 / examples)])
    if seeds == 1:  # one seed cannot show what seeds add: what varies is taken for the items'
        items = np.array([from_items + noise])
        variances = Variances(0 * items, items, 0 * items, df_items)
        return float(np.sqrt(items[0])), half_width(variances, 1, alpha)
    chances = (np.arange(512) + 0.5) / 512
    estimates = from_seeds * stats.chi2.ppf(chances, seeds - 1) / (seeds - 1)
    variances = Variances(estimates, np.full(512, from_items), np.full(512, noise), df_items)
    return float(np.sqrt(from_seeds + from_items)), half_width(variances, seeds, alpha)
