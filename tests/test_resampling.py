"""Bootstrap, permutation, McNemar and stochastic order: by hand, by loops, by reference implementations."""

from itertools import pairwise

import numpy as np
import pytest
from scipy import stats
from simulated import by_seed
from statsmodels.stats.contingency_tables import mcnemar as reference_mcnemar

from xltlib import StudyError
from xltlib.significance.resampling import (
    aso,
    bootstrap_means,
    hierarchical_bootstrap,
    mcnemar,
    permutation,
    second_opinions,
    violation_ratio,
)

pytestmark = pytest.mark.filterwarnings("error")


def test_bootstrap_means_agree_with_a_loop(rng):
    x, seeds, items = rng.random((3, 5)), rng.integers(0, 3, (4, 3)), rng.integers(0, 5, (4, 5))
    shares = [
        np.array([np.bincount(row, minlength=n) for row in draw]) / n for draw, n in ((seeds, 3), (items, 5))
    ]
    slow = [x[np.ix_(s, i)].mean() for s, i in zip(seeds, items, strict=True)]
    assert bootstrap_means(x, *shares) == pytest.approx(slow)


def test_bootstrap_interval_holds_the_estimate_and_repeats(scores):
    one, two = (hierarchical_bootstrap(*scores, np.random.default_rng(3), resamples=700) for _ in range(2))
    assert one == two
    assert one.low < one.estimate < one.high
    zero = hierarchical_bootstrap(scores[0], scores[0], np.random.default_rng(3), resamples=10)
    assert (zero.low, zero.high) == (0, 0)


def test_seed_permutation_is_exact_by_hand(rng):
    # 1 of the 8 sign patterns reaches the sum of three positive gains, and 1 its negative
    gains = by_seed([0.1, 0.3, 0.2])
    result = permutation(gains, np.zeros_like(gains), rng)
    assert (result.p, result.p_least, result.exact, result.n) == (0.25, 0.25, True, 3)
    assert permutation(by_seed(np.full(5, 0.5) + 0.1 * np.arange(5)), by_seed(np.zeros(5)), rng).p == 2 / 32
    assert permutation(gains, np.zeros_like(gains), rng, margin=0.2).p == 1
    assert permutation(gains[:1], gains[:1], rng).p == permutation(gains, gains, rng).p == 1


def test_item_permutation_agrees_with_all_sign_patterns(rng):
    gains = rng.integers(-1, 2, 12) * rng.random(12)
    a, b = np.maximum(gains, 0)[None, None], np.maximum(-gains, 0)[None, None]
    signs = 1 - 2 * ((np.arange(4096)[:, None] >> np.arange(12)) & 1)
    exact = np.mean(np.abs(signs @ gains) >= abs(gains.sum()) - 1e-12)
    assert permutation(a, b, rng, over="items").p == pytest.approx(exact)
    many = [np.concatenate([x, x], axis=2) for x in (a, b)]  # 24 items: sampled
    sampled = permutation(*many, rng, over="items")
    assert not sampled.exact
    assert sampled.p == pytest.approx(
        stats.norm.sf(2 * abs(gains.sum()) / np.sqrt(2 * (gains**2).sum())) * 2, abs=0.05
    )
    with pytest.raises(StudyError, match="over"):
        permutation(a, b, rng, over="languages")


def test_mcnemar_agrees_with_statsmodels(rng):
    a, b = rng.integers(0, 2, (2, 60))
    result = mcnemar(a, b)
    cells = [[np.sum(a & b), result.only_a], [result.only_b, np.sum((1 - a) & (1 - b))]]
    assert result.p == pytest.approx(reference_mcnemar(cells, exact=True).pvalue)
    assert mcnemar(b, a).p == result.p
    # 5 against 0: 2 / 2**5
    assert mcnemar([1, 1, 1, 1, 1, 0], np.zeros(6)).p == pytest.approx(0.0625)
    same = mcnemar(a, a)
    assert (same.p, same.odds) == (1.0, None)
    with pytest.raises(StudyError, match="0 and 1"):
        mcnemar([0.5], [1])


def test_violation_ratio_by_hand_and_by_integration(rng):
    # sorted 1 2 4 against 0 3 3: gaps 1, -1, 1
    assert violation_ratio(np.array([4, 1, 2.0]), np.array([3, 0, 3.0])) == pytest.approx(1 / 3)
    a, b = rng.random(4), rng.random(7)

    def gap(t):
        return np.quantile(a, t, method="inverted_cdf") - np.quantile(b, t, method="inverted_cdf")

    edges = sorted({i / 4 for i in range(5)} | {i / 7 for i in range(8)})
    pieces = [gap((lo + hi) / 2) * np.sqrt(hi - lo) for lo, hi in pairwise(edges)]
    slow = sum(min(piece, 0) ** 2 for piece in pieces) / sum(piece**2 for piece in pieces)
    assert violation_ratio(a, b) == pytest.approx(slow)
    assert violation_ratio(b, a) == pytest.approx(1 - slow)


def test_almost_stochastic_order(rng):
    better, worse = 0.7 + 0.01 * rng.standard_normal((2, 10)) - np.array([[0], [0.2]])
    assert aso(better, worse, rng).eps_min == 0
    assert aso(worse, better, rng).eps_min == 1
    alike = aso(better, rng.permutation(better), rng)
    assert alike.eps == 0.5
    assert alike.eps_min > 0.5
    one = aso([0.5], [0.5], rng)
    assert (one.eps, one.eps_min) == (0.5, 0.5)
    assert "too few" in one.note


@pytest.mark.parametrize(("k", "theirs"), [(0, 0.8679), (1, 0.7531), (4, 0.3309), (5, 0.2269)])
def test_almost_stochastic_order_agrees_with_deep_significance(k, theirs):
    """eps_min of deepsig 1.2.8 at its defaults on the same samples; both resample a thousand times."""
    rng = np.random.default_rng(k)
    a = 0.6 + 0.02 * k / 3 + 0.03 * rng.standard_normal(6)
    b = 0.6 + 0.03 * rng.standard_normal(6)
    assert aso(a, b, rng).eps_min == pytest.approx(theirs, abs=0.05)


def test_second_opinions_are_those_of_each_test(scores):
    a, b = scores
    told = second_opinions(a, b, np.random.default_rng(1), resamples=200)
    interval = hierarchical_bootstrap(a, b, np.random.default_rng(1), resamples=200)
    assert told["bootstrap"] == [interval.low, interval.high]
    assert (told["p_seeds"], told["p_least"]) == (permutation(a, b, None).p, 2 / 64)
    swapped = second_opinions(b, a, np.random.default_rng(1), resamples=200)
    assert {told["better"], swapped["better"]} == {"a", "b"}
    assert swapped["eps_min"] == pytest.approx(told["eps_min"], abs=0.05)
