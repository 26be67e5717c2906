"""Made-up scores of two systems, for the tests of statistics."""

import numpy as np

from xltlib.significance.honesty import simulate


def two_systems(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Scores (K, R, N) of two systems whose means differ: three settings, six seeds, 200 items."""
    a, b = simulate(6, 200, 3, 0.05, 0.1, 0.5, 0.6, rng)
    return a[0].swapaxes(0, 1).astype(float), b[0].swapaxes(0, 1).astype(float)


def by_seed(means, items=5) -> np.ndarray:
    """Scores (1, R, items) without any variance between items."""
    return np.repeat(np.asarray(means, dtype=float)[None, :, None], items, axis=2)
