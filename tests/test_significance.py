"""Effects and intervals: hand-worked answers, agreement with scipy and statsmodels, symmetries, edges."""

import numpy as np
import pytest
from scipy import stats
from simulated import by_seed

from xltlib import StudyError
from xltlib.significance.tests import (
    Nested,
    Variances,
    crossed_variances,
    difference,
    half_width,
    interaction,
    outlook,
    sign_flips,
    trend,
)

pytestmark = pytest.mark.filterwarnings("error")


def flat(result):
    return [result.estimate, result.low, result.high, result.p]


def test_variances_of_a_hand_worked_layout():
    # [[1, 0, 2], [3, 2, 1]]: mean 1.5, seeds 1 and 2, items 2, 1, 1.5; mean squares 1.5, 0.5, 1.5
    parts = crossed_variances([np.array([[1.0, 0.0, 2.0], [3.0, 2.0, 1.0]])])
    assert parts.from_seeds == pytest.approx(1.5 / 6)
    assert parts.noise == pytest.approx(1.5 / 6)
    assert parts.from_items == 0  # (0.5 - 1.5) / 6 is negative
    assert parts.df_items == 2


@pytest.mark.parametrize(
    ("shape", "items", "note"),
    [((1, 7, 1), 5, ""), ((1, 5, 1), 1, "one example"), ((1, 1, 50), 1, "one seed")],
)
def test_where_seeds_or_items_alone_vary_it_is_the_paired_t_test(shape, items, note, rng):
    a, b = np.repeat(rng.random((2, *shape)), items, axis=-1)
    effect, units = difference(a, b), (a - b)[..., ::items].ravel()
    reference = stats.ttest_1samp(units, 0)
    interval = reference.confidence_interval()
    assert flat(effect) == pytest.approx([units.mean(), *interval, reference.pvalue])
    assert note in effect.note
    assert (effect.note == "") == (note == "")
    if a.shape[1] > 1:
        assert effect.components == pytest.approx((np.std(units, ddof=1), 0, 0), abs=1e-9)


def test_interval_excludes_the_null_exactly_where_p_is_below_alpha(scores):
    for alpha in (0.001, 0.05, 0.3):
        effect = difference(*scores, alpha=alpha)
        assert [effect.p_value(bound) for bound in (effect.low, effect.high)] == pytest.approx([alpha] * 2)
        assert difference(*scores).interval(alpha) == (effect.low, effect.high)


def test_swapping_turns_the_sign_and_order_does_not_matter(scores, rng):
    a, b = scores
    effect, swapped = difference(a, b), difference(b, a)
    assert (swapped.estimate, swapped.low, swapped.high) == pytest.approx(
        (-effect.estimate, -effect.high, -effect.low)
    )
    assert swapped.p == pytest.approx(effect.p)
    seeds, items = rng.permutation(6), rng.permutation(200)
    shuffled = difference(a[:, seeds][..., items], b[:, seeds][..., items])
    assert flat(shuffled) == pytest.approx(flat(effect))
    assert shuffled.per_seed == pytest.approx(np.array(effect.per_seed)[seeds])


def test_per_seed_and_per_setting_means(scores):
    a, b = scores
    effect = difference(a, b)
    assert effect.per_seed == pytest.approx((a - b).mean((0, 2)))
    assert effect.per_setting == pytest.approx((a - b).mean((1, 2)))
    assert effect.sd_seeds == pytest.approx((a - b).mean((0, 2)).std(ddof=1))
    assert (effect.seeds, effect.settings, effect.examples) == (6, 3, 200)


def test_ragged_settings_weigh_the_same(rng):
    a = [rng.random((4, n)) for n in (50, 7, 50)]
    b = [rng.random((4, n)) for n in (50, 7, 50)]
    effect = difference(a, b)
    assert effect.estimate == pytest.approx(np.mean([(x - y).mean() for x, y in zip(a, b, strict=True)]))
    assert effect.examples == 57


def test_components_are_recovered(rng):
    seed, item = 0.04 * rng.standard_normal((400, 1)), 0.1 * rng.standard_normal((1, 400))
    gains = seed + item + 0.2 * rng.standard_normal((400, 400))
    effect = difference([np.clip(0.5 + gains, 0, 1)], [np.full((400, 400), 0.5)])
    assert effect.components == pytest.approx((0.04, 0.1, 0.2), rel=0.1)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 2, 1), (1, 1, 9), (3, 6, 40)])
@pytest.mark.parametrize("gap", [0.0, 0.25, 1.0])
def test_constant_differences_are_defined_and_noted(shape, gap):
    effect = difference(np.full(shape, gap), np.zeros(shape))
    assert np.isfinite(flat(effect)).all()
    assert "do not vary" in effect.note
    assert -1 <= effect.low < effect.estimate == gap <= effect.high <= 1
    # with gap 0 an unseen share of 1 - 0.05**(1/N) may differ by 1 at most
    assert effect.high == pytest.approx(1 - 0.05 ** (1 / shape[2])) or gap > 0
    assert (effect.p == 1) if gap == 0 else (0 < effect.p <= 0.8 ** shape[2])


def test_two_equal_seeds_are_not_knowledge(rng):
    one = rng.integers(0, 2, 400).astype(float)
    a = np.stack([one, one[::-1]])  # equal means, unequal items
    effect = difference([a], [np.full_like(a, 0.5)])
    assert effect.sd_seeds == 0
    assert effect.high - effect.low > 0.02


@pytest.mark.parametrize(
    ("a", "b", "words"),
    [
        (np.zeros((2, 3)), np.zeros((2, 3)), "expected \\(seeds, examples\\) for each setting"),
        (np.zeros((1, 2, 3)), np.zeros((1, 2, 4)), "not paired"),
        (np.full((1, 2, 3), np.nan), np.zeros((1, 2, 3)), "finite"),
        (np.full((1, 2, 3), 63.0), np.zeros((1, 2, 3)), "divide percentages"),
        (np.zeros((1, 2, 0)), np.zeros((1, 2, 0)), "at least"),
        ([], [], "at least"),
        ([np.zeros((2, 3)), np.zeros((3, 3))], [np.zeros((2, 3)), np.zeros((3, 3))], "same seeds"),
    ],
)
def test_unusable_scores_are_refused(a, b, words):
    with pytest.raises(StudyError, match=words):
        difference(a, b)


def test_half_width_keeps_its_level_for_every_mixture_of_variances():
    # normal theory: X ~ N(0, seeds + items + noise), the estimate for seeds a scaled chi-square, others known
    chances = (np.arange(2000) + 0.5) / 2000
    for seeds, widest in ((2, 0.984), (3, 0.972), (4, 0.966), (6, 0.960), (12, 0.956)):
        chi = stats.chi2.ppf(chances, seeds - 1) / (seeds - 1)
        for seed, item in ((i / 10, j / 10) for i in range(11) for j in range(11 - i)):
            noise = max(0.0, 1 - seed - item)
            parts = Variances((seed + noise) * chi, np.full(2000, item), np.full(2000, noise), np.array(1e9))
            covered = 1 - 2 * stats.norm.sf(half_width(parts, seeds, 0.05)).mean()
            assert 0.9495 <= covered <= widest


def test_sign_flips_count_every_pattern(rng):
    for n in (2, 6, 11):
        units = rng.standard_normal(n) + 0.5
        exact = stats.permutation_test((units,), np.sum, permutation_type="samples", n_resamples=np.inf)
        assert sign_flips(units) == pytest.approx(exact.pvalue)
    assert sign_flips(np.full(8, 0.1)) == 2 / 2**8
    assert sign_flips([0.1, -0.1, 0.1, -0.1]) == sign_flips([3 / 7, 2 / 7, -4 / 7, -1 / 7]) == 1.0
    assert sign_flips([0.2]) == sign_flips(np.zeros(5)) == 1.0
    many = rng.standard_normal(50) + 0.1
    assert sign_flips(many) == pytest.approx(stats.ttest_1samp(many, 0).pvalue, abs=0.03)


def test_seeds_with_examples_of_their_own_are_tested_by_their_means(rng):
    a, b = ([Nested.of(rng.random((8, 50)) > level) for _ in range(3)] for level in (0.4, 0.5))
    effect = difference(a, b)
    gains = np.mean([x.mean(1) - y.mean(1) for x, y in zip(a, b, strict=True)], axis=0)
    paired = stats.ttest_1samp(gains, 0)
    assert effect.p == pytest.approx(paired.pvalue)
    assert (effect.low, effect.high) == pytest.approx(tuple(paired.confidence_interval()))
    assert (effect.examples, effect.note) == (50, "")
    assert effect.components.item == effect.components.noise == 0
    assert interaction(a, b, a, b, share=0.5).estimate == pytest.approx(effect.estimate / 2)
    assert difference([a[0][:1]], [b[0][:1]]).note.startswith("one seed")


def test_an_effect_at_other_levels_and_lines(rng):
    effect = difference(*(rng.random((2, 6, 40)) > level for level in (0.3, 0.5)))
    assert effect.interval(0.05) == (effect.low, effect.high)
    assert effect.interval(0.01)[0] < effect.low
    assert effect.against(0.0) == max(effect.p, sign_flips(effect.per_seed))


def test_what_a_new_seed_would_show(rng):
    x = 0.03 + 0.02 * rng.standard_normal(12)
    seen = outlook(x, 0.02)
    reach = stats.t.ppf(0.975, 11) * x.std(ddof=1) * np.sqrt(1 + 1 / 12)
    assert (seen["new_low"], seen["new_high"]) == pytest.approx((x.mean() - reach, x.mean() + reach))
    flat = stats.t.sf((0.02 - x.mean()) / (x.std(ddof=1) / np.sqrt(12)), 11)
    assert seen["probability"] == pytest.approx(flat, abs=0.02)  # the prior is weak
    assert outlook(100 * x, 2)["probability"] < 1e-3  # effects of several whole points are not believed
    assert outlook(x[:1], 0.0) == {}


def test_interaction_pairs_seeds(rng):
    a1, b1, a2, b2 = rng.random((4, 6))
    effect = interaction(*(by_seed(x) for x in (a1, b1)), *(by_seed(x, 9) for x in (a2, b2)))
    reference = stats.ttest_rel(a1 - b1, a2 - b2)
    assert effect.p == pytest.approx(reference.pvalue)
    assert effect.estimate == pytest.approx((a1 - b1 - a2 + b2).mean())
    assert effect.per_setting == pytest.approx([(a1 - b1).mean(), (a2 - b2).mean()])


def test_interaction_of_unrelated_items_adds_their_variances(rng):
    a1, a2 = rng.random((1, 1, 60)), rng.random((1, 1, 90))
    effect = interaction(a1, np.zeros_like(a1), a2, np.zeros_like(a2))
    assert sum(effect.variances[:2]) == pytest.approx(a1.var(ddof=1) / 60 + a2.var(ddof=1) / 90)


def test_trend_is_the_mean_of_slopes_over_seeds(rng):
    x, levels = [0.1, 0.4, 0.2], rng.random((3, 5))
    effect = trend([by_seed(level) for level in levels], x)
    slopes = [stats.linregress(x, levels[:, seed]).slope for seed in range(5)]
    assert effect.per_seed == pytest.approx(slopes)
    assert effect.p == pytest.approx(stats.ttest_1samp(slopes, 0).pvalue)
    shuffled = trend([by_seed(levels[i]) for i in (2, 0, 1)], [x[i] for i in (2, 0, 1)])
    assert flat(shuffled) == pytest.approx(flat(effect))


def test_trend_over_two_levels_is_the_difference(scores):
    a, b = scores
    slope, effect = trend([b, a], [0.0, 1.0]), difference(a, b)
    assert flat(slope) == pytest.approx(flat(effect))
    assert slope.per_setting == pytest.approx(effect.per_setting)
