"""Bootstrap, McNemar and stochastic order: by hand, by loops, by reference implementations."""

from itertools import pairwise

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar as reference_mcnemar

from xltlib.significance.resampling import (
    aso,
    bootstrap_means,
    hierarchical_bootstrap,
    mcnemar,
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
    estimate, low, high = one
    assert low < estimate < high
    zero = hierarchical_bootstrap(scores[0], scores[0], np.random.default_rng(3), resamples=10)
    assert zero == (0, 0, 0)


def test_mcnemar_agrees_with_statsmodels(rng):
    a, b = rng.integers(0, 2, (2, 60))
    result = mcnemar(a, b)
    cells = [[np.sum(a & b), result["only_a"]], [result["only_b"], np.sum((1 - a) & (1 - b))]]
    assert result["p"] == pytest.approx(reference_mcnemar(cells, exact=True).pvalue)
    assert mcnemar(b, a)["p"] == result["p"]
    # 5 against 0: 2 / 2**5
    assert mcnemar(np.array([1, 1, 1, 1, 1, 0]), np.zeros(6))["p"] == pytest.approx(0.0625)
    assert mcnemar(a, a)["p"] == 1.0


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
    assert aso(better, worse, rng) == 0
    assert aso(worse, better, rng) == 1
    assert aso(better, rng.permutation(better), rng) > 0.5
    assert aso(np.array([0.5]), np.array([0.5]), rng) == 0.5


@pytest.mark.parametrize(("k", "theirs"), [(0, 0.8679), (1, 0.7531), (4, 0.3309), (5, 0.2269)])
def test_almost_stochastic_order_agrees_with_deep_significance(k, theirs):
    """eps_min of deepsig 1.2.8 at its defaults on the same samples; both resample a thousand times."""
    rng = np.random.default_rng(k)
    a = 0.6 + 0.02 * k / 3 + 0.03 * rng.standard_normal(6)
    b = 0.6 + 0.03 * rng.standard_normal(6)
    assert aso(a, b, rng) == pytest.approx(theirs, abs=0.05)


def test_second_opinions_are_those_of_each_test(scores):
    a, b = scores
    told = second_opinions(a, b, np.random.default_rng(1), resamples=200)
    _, low, high = hierarchical_bootstrap(a, b, np.random.default_rng(1), resamples=200)
    assert told["bootstrap"] == [low, high]
    exact = stats.permutation_test(((a - b).mean((0, 2)),), np.sum, permutation_type="samples")
    assert (told["p_seeds"], told["p_least"]) == (exact.pvalue, 2 / 64)
    assert told["note"] == ""
    assert "too few" in second_opinions(a[:, :4], b[:, :4], np.random.default_rng(1), resamples=9)["note"]
    swapped = second_opinions(b, a, np.random.default_rng(1), resamples=200)
    assert {told["better"], swapped["better"]} == {"a", "b"}
    assert swapped["eps_min"] == pytest.approx(told["eps_min"], abs=0.05)
