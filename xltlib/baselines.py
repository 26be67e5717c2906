"""Cheap baselines that any encoder must beat: the majority label, and n-grams of one sentence alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

import numpy as np
from scipy.optimize import minimize
from scipy.sparse import csr_matrix

from xltlib import StudyError
from xltlib.data.corpora import simple_tokenize

PENALTY = 3e-4  # L2 on the weights, against the mean loss: the held-out best for MultiNLI hypotheses


def best_of(baselines: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """The best score of each setting, from scores by baseline and setting."""
    best: dict[str, float] = {}
    for scores in baselines.values():
        for setting, score in scores.items():
            best[setting] = max(score, best.get(setting, score))
    return best


def majority_accuracy(train_labels: Sequence[int], test_labels: Sequence[int]) -> float:
    """Return the accuracy on the test labels of always answering the commonest training label."""
    majority = Counter(train_labels).most_common(1)[0][0]
    return float(np.mean(np.asarray(test_labels) == majority))


def one_sentence_accuracy(
    train_texts: Sequence[str],
    train_labels: Sequence[int],
    test_texts: Sequence[str],
    test_labels: Sequence[int],
) -> float:
    """Return the accuracy of `ngram_predictions`.

    Given the hypotheses alone, or the premises alone, it shows how much of a task needs no pair.
    """
    return float(np.mean(ngram_predictions(train_texts, train_labels, test_texts) == np.asarray(test_labels)))


def ngram_predictions(
    train_texts: Sequence[str], train_labels: Sequence[int], test_texts: Sequence[str]
) -> np.ndarray:
    """Predict (N,) labels by multinomial logistic regression on the n-grams of `_ngrams`.

    Each text is a unit vector over the n-grams that at least two training texts have.
    """
    if len(train_texts) != len(train_labels):
        raise StudyError(f"{len(train_texts)} training texts, but {len(train_labels)} labels")
    classes, targets = np.unique(np.asarray(train_labels), return_inverse=True)
    counts = Counter(gram for text in train_texts for gram in set(_ngrams(text)))
    vocabulary = {gram: index for index, gram in enumerate(g for g, n in counts.items() if n > 1)}
    inputs = _vectors(train_texts, vocabulary)
    weights = softmax_regression(inputs, targets, PENALTY)
    return classes[(_vectors(test_texts, vocabulary) @ weights).argmax(axis=1)]


def softmax_regression(inputs: np.ndarray | csr_matrix, targets: np.ndarray, penalty: float) -> np.ndarray:
    """Return the weights (V, C) of multinomial logistic regression on inputs (N, V) and targets (N,) from 0.

    The mean loss plus `penalty` / 2 times the sum of squares is minimised by L-BFGS.
    """
    classes = int(targets.max()) + 1
    one_hot = np.eye(classes)[targets]  # (N, C)

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weights = flat.reshape(-1, classes)  # (V, C)
        logits = inputs @ weights
        logits -= logits.max(axis=1, keepdims=True)
        log_sum = np.log(np.exp(logits).sum(axis=1, keepdims=True))
        value = -np.mean(((logits - log_sum) * one_hot).sum(axis=1)) + penalty / 2 * flat @ flat
        gradient = inputs.T @ (np.exp(logits - log_sum) - one_hot) / len(targets) + penalty * weights
        return value, gradient.ravel()

    start = np.zeros(inputs.shape[1] * classes)
    best = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 100}).x
    return best.reshape(-1, classes)


def _ngrams(text: str) -> Iterator[str]:
    """Yield words and word pairs, and the trigrams of each word's characters with its edges marked."""
    words = simple_tokenize(text.lower())
    yield from words
    yield from (f"{a} {b}" for a, b in pairwise(words))
    for word in words:
        edged = f"<{word}>"
        yield from (edged[i : i + 3] + "_" for i in range(len(edged) - 2))


def _vectors(texts: Sequence[str], vocabulary: dict[str, int]) -> csr_matrix:
    """Return unit count vectors, (N, V + 1); the last column is 1 for every text."""
    rows, columns, values = [], [], []
    for row, text in enumerate(texts):
        counts = Counter(vocabulary[gram] for gram in _ngrams(text) if gram in vocabulary)
        norm = np.sqrt(sum(count**2 for count in counts.values())) or 1.0
        rows += [row] * (len(counts) + 1)
        columns += [*counts, len(vocabulary)]
        values += [count / norm for count in counts.values()] + [1.0]
    return csr_matrix((values, (rows, columns)), shape=(len(texts), len(vocabulary) + 1))
