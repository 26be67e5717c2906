"""Clusters of examples: numbers by hand, means kept, honest intervals."""

import numpy as np
import pytest

from xltlib import StudyError
from xltlib.significance.honesty import simulate
from xltlib.significance.resampling import second_opinions
from xltlib.significance.tests import Clustered, by_cluster, by_setting, difference, interaction


def test_clusters_by_hand():
    scores = np.array([[1.0, 0, 1, 1], [0, 0, 0, 1]])
    found = by_cluster(Clustered.of(scores, [0, 1, 0, 0]))
    # means .75 and .25; cluster 0 has three of four, two clusters: .75 + 1.5 (1 - .75), .75 + .5 (0 - .75)
    assert found == pytest.approx(np.array([[1.125, 0.375], [0.375, 0.125]]))
    assert found.mean(1) == pytest.approx(scores.mean(1))
    assert np.array_equal(by_cluster(scores), scores)


def test_a_cluster_for_each_example_changes_nothing():
    rng = np.random.default_rng(0)
    a, b = rng.random((2, 3, 50))
    alone = rng.permutation(50)
    plain, told = difference([a], [b]), difference([Clustered.of(a, alone)], [Clustered.of(b, alone)])
    for name in ("estimate", "low", "high", "p", "examples"):
        assert getattr(told, name) == pytest.approx(getattr(plain, name))


def test_rows_and_constants_keep_their_clusters():
    scores = Clustered.of(np.eye(4), [0, 0, 1, 1])
    assert scores[[2, 0]].clusters.tolist() == [0, 0, 1, 1]
    assert np.zeros_like(scores).clusters.tolist() == [0, 0, 1, 1]
    assert [x.shape for x in by_setting([scores, np.full_like(scores, 0.5)])] == [(4, 2), (4, 2)]
    with pytest.raises(StudyError, match="expected finite ones in"):
        by_setting([scores * 100])


def test_a_true_null_is_rarely_decided_where_clusters_are_known():
    """Of clusters of one to five examples, out of order; `test_honesty` has what is decided without them."""
    rng, decided, repeats = np.random.default_rng(4), 0, 200
    a, b = simulate(6, 1000, 2, 0.0, 0.03, 0.5, 0.7, rng, repeats=repeats, group=5)
    kept = rng.permutation(1000)[:700]
    for both in zip(a[..., kept].astype(float), b[..., kept].astype(float), strict=True):
        sides = [[Clustered.of(setting, kept // 5) for setting in np.moveaxis(x, 1, 0)] for x in both]
        effect = difference(*sides)
        assert effect.estimate == pytest.approx((both[0] - both[1]).mean())
        decided += effect.p < 0.05
    assert decided / repeats <= 0.05 + 2 * (0.05 * 0.95 / repeats) ** 0.5


def test_every_test_takes_clusters():
    rng = np.random.default_rng(1)
    a, b = (
        [Clustered.of(rng.integers(0, 2, (3, n)).astype(float), np.arange(n) // 4) for n in (80, 60)]
        for _ in range(2)
    )
    assert difference(a, b).examples == 20 + 15
    assert interaction(a, b, b, a).estimate == pytest.approx(2 * difference(a, b).estimate)
    told = second_opinions(a, b, rng)
    assert told["bootstrap"][0] < difference(a, b).estimate < told["bootstrap"][1]
