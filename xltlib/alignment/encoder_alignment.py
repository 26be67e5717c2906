"""Word alignment from an encoder's states: links as functions of one similarity matrix of two sentences.

A similarity matrix has shape (S, M): source by target units, words or subwords; values in [0, 1], higher is
more alike. Links are a sorted int32 array (L, 2) of (source, target) from 0. Source of the extractions:
Jalili Sabet et al., SimAlign (Findings of EMNLP 2020), and Dou and Neubig (EACL 2021) for optimal transport.
"""

from collections.abc import Sequence

import numpy as np

from xltlib import StudyError


def similarity(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """(1 + cosine) / 2 of source states (S, H) and target states (M, H): (S, M); 0.5 for a zero vector."""
    if source.ndim != 2 or target.ndim != 2 or source.shape[1] != target.shape[1]:
        raise StudyError(
            f"encoder states of shapes {source.shape} and {target.shape}: (S, H) and (M, H) expected"
        )
    unit = []
    for states in (source, target):
        norm = np.linalg.norm(states, axis=1, keepdims=True)
        unit.append(states / np.where(norm == 0, 1, norm))
    return (1 + unit[0] @ unit[1].T) / 2


def pool_words(
    states: np.ndarray, words: np.ndarray, how: str = "mean", count: int | None = None
) -> np.ndarray:
    """States of words (W, H) from those of subwords (T, H): each word's mean, first or last subword.

    `words` (T,) holds the word of each subword from 0, negative for none (special tokens). A word without a
    subword, one cut off for instance, has the state 0; W is `count`, or one more than the last word.
    """
    words = np.asarray(words)
    if words.shape != states.shape[:1]:
        raise StudyError(
            f"words of shape {words.shape} for states {states.shape}: one word number a subword expected"
        )
    if how not in ("mean", "first", "last"):
        raise StudyError(f"pooling {how!r} unknown; mean, first or last expected")
    kept = np.flatnonzero(words >= 0)
    pooled = np.zeros(
        (int(words.max(initial=-1)) + 1 if count is None else count, states.shape[1]), states.dtype
    )
    if how == "mean":
        np.add.at(pooled, words[kept], states[kept])
        return pooled / np.maximum(np.bincount(words[kept], minlength=len(pooled)), 1)[:, None].astype(
            states.dtype
        )
    kept = kept if how == "last" else kept[::-1]  # of several assignments to one word the last one stays
    pooled[words[kept]] = states[kept]
    return pooled


def centred(sentences: Sequence[np.ndarray]) -> list[np.ndarray]:
    """States of sentences, each (W, H), less the mean of them all: a language's own offset says nothing."""
    mean = np.concatenate(sentences).mean(0)
    return [states - mean for states in sentences]


def word_links(links: np.ndarray, source_words: np.ndarray, target_words: np.ndarray) -> np.ndarray:
    """Links of words from links of subwords: two words are linked if any of their subwords are."""
    pairs = np.stack([np.asarray(source_words)[links[:, 0]], np.asarray(target_words)[links[:, 1]]], axis=1)
    return np.unique(pairs[(pairs >= 0).all(axis=1)], axis=0).astype(np.int32)


def _mutual(matrix: np.ndarray) -> np.ndarray:
    """Cells (S, M) that are the first maximum of their row and of their column."""
    if not matrix.size:
        return np.zeros(matrix.shape, bool)
    forward, backward = np.zeros(matrix.shape, bool), np.zeros(matrix.shape, bool)
    forward[np.arange(len(matrix)), matrix.argmax(axis=1)] = True
    backward[matrix.argmax(axis=0), np.arange(matrix.shape[1])] = True
    return forward & backward


def _links(cells: np.ndarray) -> np.ndarray:
    return np.argwhere(cells).astype(np.int32)


def argmax_links(matrix: np.ndarray) -> np.ndarray:
    """Links between units that are each other's most similar one."""
    return _links(_mutual(matrix))


def itermax_links(matrix: np.ndarray, rounds: int = 2, discount: float = 0.9) -> np.ndarray:
    """Mutual argmax, repeated for the units it left over.

    After each round a cell counts for nothing if both its units are linked, and `discount` times if one is;
    values must not be negative. Ends early when a round adds no link.
    """
    linked = np.zeros(matrix.shape, bool)
    for _ in range(rounds):
        row, column = linked.any(axis=1)[:, None], linked.any(axis=0)[None, :]
        weight = np.where(row & column, 0.0, np.where(row | column, discount, 1.0))
        new = _mutual(matrix * weight) & (weight > 0)
        if not new.any():
            break
        linked |= new
    return _links(linked)


def transport_plan(matrix: np.ndarray, regularization: float = 0.05, iterations: int = 200) -> np.ndarray:
    """Entropy-regularised optimal transport (S, M) of uniform weights, at cost 1 - similarity (Sinkhorn).

    Rows sum to 1 / S and columns to 1 / M; a smaller regularization makes the plan sharper.
    """
    rows, columns = matrix.shape
    log_kernel = (matrix - 1) / regularization
    u, v = np.zeros((rows, 1)), np.zeros((1, columns))
    for _ in range(iterations):
        u = -np.log(rows) - np.logaddexp.reduce(log_kernel + v, axis=1, keepdims=True)
        v = -np.log(columns) - np.logaddexp.reduce(log_kernel + u, axis=0, keepdims=True)
    return np.exp(log_kernel + u + v)


def transport_links(matrix: np.ndarray, share: float = 0.5, regularization: float = 0.05) -> np.ndarray:
    """Links that carry more than `share` of what the optimal plan moves for the lighter of the two units."""
    if not matrix.size:
        return np.zeros((0, 2), np.int32)
    return _links(transport_plan(matrix, regularization) * max(matrix.shape) > share)


EXTRACTIONS = {"argmax": argmax_links, "itermax": itermax_links, "transport": transport_links}
