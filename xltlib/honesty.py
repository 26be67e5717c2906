"""How far the tests can be trusted: coverage and error rates over simulated studies, power."""

from collections.abc import Iterator

import numpy as np
from scipy import optimize, stats

from .resampling import bootstrap_means, resampling_weights
from .significance import Components, Variances, crossed_variances, half_width

CELLS = 4_000_000  # scores simulated at once: some 50 MB


def simulate(
    seeds: int,
    examples: int,
    settings: int,
    mu: float,
    sd_seed: float,
    sd_item: float,
    base: float,
    rng: np.random.Generator,
    repeats: int = 1,
    difficulty: float = 1.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Scores a and b, bool (repeats, R, K, N), from a latent crossed model: E[b] = base, E[a] = base + mu.

    A system is right where a latent normal exceeds a threshold: the item's difficulty (shared by systems,
    settings and seeds), the system's own effect on the item (`sd_item`, shared by settings and seeds), its
    seed's luck (`sd_seed`, shared by settings and items) and noise of variance 1 per score. Standard
    deviations are on the latent scale; near accuracy 0.5, 0.1 of luck is 0.028 of accuracy. The sum is
    normal, so the thresholds give the two means exactly.
    """
    total = np.sqrt(1 + difficulty**2 + sd_item**2 + sd_seed**2)
    shape = (repeats, seeds, settings, examples)
    hard = difficulty * rng.standard_normal((repeats, 1, 1, examples), dtype=np.float32)
    scores = []
    for accuracy in (base + mu, base):
        item = hard + sd_item * rng.standard_normal(hard.shape, dtype=np.float32)
        seed = sd_seed * rng.standard_normal((repeats, seeds, 1, 1), dtype=np.float32)
        threshold = item + seed + np.float32(stats.norm.ppf(accuracy) * total)
        scores.append(rng.standard_normal(shape, dtype=np.float32) < threshold)
    return scores[0], scores[1]


def _gains(repeats: int, rng: np.random.Generator, **world) -> Iterator[np.ndarray]:
    """Differences averaged over settings, (repeats, R, N), in blocks that fit in memory."""
    size = max(1, CELLS // (world["seeds"] * world["settings"] * world["examples"]))
    for start in range(0, repeats, size):
        a, b = simulate(repeats=min(size, repeats - start), rng=rng, **world)
        yield (a.sum(2, dtype=np.int8) - b.sum(2, dtype=np.int8)) / world["settings"]


def coverage(
    seeds: int,
    examples: int,
    settings: int,
    mu: float,
    sd_seed: float,
    sd_item: float,
    base: float,
    rng: np.random.Generator,
    repeats: int = 2000,
    resamples: int = 500,
    alpha: float = 0.05,
) -> dict[str, float]:
    """Share of simulated studies whose 1 - `alpha` interval holds the true `mu`, for four intervals.

    crossed: `significance.difference`. bootstrap: seeds, then examples (`resampling.hierarchical_bootstrap`;
    all studies share one set of resamples). seeds_only: paired t over seed means, blind to the examples.
    examples_only: paired t over examples, blind to the seeds. `error` is the Monte Carlo standard error at
    the nominal rate.
    """
    world = {"seeds": seeds, "examples": examples, "settings": settings, "mu": mu, "base": base}
    world |= {"sd_seed": sd_seed, "sd_item": sd_item}
    shares = resampling_weights(seeds, resamples, rng), resampling_weights(examples, resamples, rng)
    hits: dict[str, int] = dict.fromkeys(("crossed", "bootstrap", "seeds_only", "examples_only"), 0)
    for gains in _gains(repeats, rng, **world):
        distance = np.abs(gains.mean((1, 2)) - mu)
        variances = crossed_variances([gains])
        alone = variances._replace(from_items=np.zeros(len(gains)), noise=np.zeros(len(gains)))
        means = gains.mean(1)
        over_items = stats.t.isf(alpha / 2, examples - 1) * means.std(1, ddof=1) / np.sqrt(examples)
        halves = {
            "crossed": half_width(variances, seeds, alpha),
            "seeds_only": half_width(alone, seeds, alpha),
            "examples_only": over_items,
        }
        for name, half in halves.items():
            hits[name] += int((distance <= half).sum())
        low, high = np.quantile(bootstrap_means(gains, *shares), [alpha / 2, 1 - alpha / 2], axis=1)
        hits["bootstrap"] += int(((low <= mu) & (mu <= high)).sum())
    rates = {name: count / repeats for name, count in hits.items()}
    return {"seeds": seeds, **rates, "error": float(np.sqrt(alpha * (1 - alpha) / repeats))}


def error_rates(
    seeds: int,
    examples: int,
    settings: int,
    mu: float,
    sd_seed: float,
    sd_item: float,
    base: float,
    rng: np.random.Generator,
    repeats: int = 2000,
    margin: float = 0.0,
    equivalence_margin: float = 0.02,
    alpha: float = 0.05,
) -> dict[str, float]:
    """How often each verdict falls for one statement tested alone, when the true difference is `mu`.

    supported and contradicted: superiority beyond `margin`; false where mu = margin, power where mu > margin.
    equivalent: within +-`equivalence_margin` by the 1 - 2 alpha interval; false where |mu| is not below that
    margin.
    """
    world = {"seeds": seeds, "examples": examples, "settings": settings, "mu": mu, "base": base}
    world |= {"sd_seed": sd_seed, "sd_item": sd_item}
    counts = np.zeros(3, dtype=int)
    for gains in _gains(repeats, rng, **world):
        estimate, variances = gains.mean((1, 2)), crossed_variances([gains])
        wide, narrow = (half_width(variances, seeds, level) for level in (alpha, 2 * alpha))
        supported, contradicted = estimate - wide > margin, estimate + wide < margin
        equivalent = np.abs(estimate) + narrow < equivalence_margin
        counts += [int(flags.sum()) for flags in (supported, contradicted, equivalent)]
    names = ("supported", "contradicted", "equivalent")
    rates = dict(zip(names, (counts / repeats).tolist(), strict=True))
    return {"seeds": seeds, "mu": mu, **rates, "error": float(np.sqrt(alpha * (1 - alpha) / repeats))}


def power_at(
    distance: float,
    components: Components,
    seeds: int,
    examples: int,
    alpha: float = 0.05,
    kind: str = "superiority",
) -> float:
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
    components: Components,
    seeds: int,
    examples: int,
    alpha: float = 0.05,
    power: float = 0.8,
    kind: str = "superiority",
) -> float:
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
        return float(np.sqrt(items[0])), half_width(
            Variances(0 * items, items, 0 * items, df_items), 1, alpha
        )
    chances = (np.arange(512) + 0.5) / 512
    estimates = from_seeds * stats.chi2.ppf(chances, seeds - 1) / (seeds - 1)
    variances = Variances(estimates, np.full(512, from_items), np.full(512, noise), df_items)
    return float(np.sqrt(from_seeds + from_items)), half_width(variances, seeds, alpha)
