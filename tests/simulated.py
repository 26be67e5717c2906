"""Made-up scores of two systems, for the tests of statistics."""

import numpy as np

from xltlib.significance.honesty import simulate


def two_systems(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Scores (R, S, N) of two systems whose means differ: six seeds, three settings, 200 items."""
    a, b = simulate(6, 200, 3, 0.05, 0.1, 0.5, 0.6, rng)
    return a[0].astype(float), b[0].astype(float)


def by_seed(means, items=5) -> np.ndarray:
    """Scores (R, 1, items) without any variance between items."""
    return np.repeat(np.asarray(means, dtype=float)[:, None, None], items, axis=2)
