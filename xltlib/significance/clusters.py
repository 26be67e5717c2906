"""Scores of examples that come in clusters: several questions on a passage, several hypotheses of a premise.

Examples of one cluster succeed and fail together, so that clusters, not examples, are what a test may count.
"""

from collections.abc import Sequence

import numpy as np

from xltlib import StudyError


class Clustered(np.ndarray):
    """Scores (R, N) that know which examples belong together: `clusters` (N,) holds whole numbers from 0."""

    clusters: np.ndarray | None

    @classmethod
    def of(cls, scores: np.ndarray, clusters: Sequence[int]) -> "Clustered":
        """The scores (R, N) with the cluster of each example; StudyError where their numbers differ."""
        found, numbers = np.asarray(scores).view(cls), np.asarray(clusters, dtype=np.int64)
        if numbers.shape != found.shape[-1:]:
            raise StudyError(f"clusters of {numbers.size} examples, but scores of {found.shape[-1]}")
        found.clusters = numbers
        return found

    def __array_finalize__(self, other: np.ndarray | None) -> None:
        self.clusters = getattr(other, "clusters", None)


class Nested(np.ndarray):
    """Scores (R, N), or their means (R, 1), of seeds that have examples of their own: column i is no item.

    Items are then nested in seeds, not crossed with them, and the seeds' means hold all there is to know:
    their spread is that of worlds, trainings and examples together. `examples` is their number for each seed.
    """

    examples: int

    @classmethod
    def of(cls, scores: np.ndarray) -> "Nested":
        """The scores (R, N) as those of examples that differ between seeds."""
        nested = np.asarray(scores, dtype=float).view(cls)
        nested.examples = nested.shape[-1]
        return nested

    def __array_finalize__(self, other: np.ndarray | None) -> None:
        self.examples = getattr(other, "examples", 0)


def examples_of(scores: np.ndarray) -> int:
    """How many examples a seed has in these scores (R, N), whose N may be the one mean of nested ones."""
    return scores.examples if isinstance(scores, Nested) else scores.shape[1]


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
    found: dict[str, int] = {}
    return [found.setdefault(name, len(found)) for name in names]
