"""Power, coverage and error rates: exact cases, agreement with simulation, honesty at small size."""

import numpy as np
import pytest
from scipy import stats

from xltlib.significance.honesty import (
    GROUPED,
    coverage,
    error_rates,
    power_at,
    simulate,
    smallest_detectable,
)
from xltlib.significance.tests import Components, difference

pytestmark = pytest.mark.filterwarnings("error")

WORLD = {"examples": 300, "settings": 2, "sd_seed": 0.1, "sd_item": 0.5, "base": 0.7}


def test_power_without_item_noise_is_that_of_the_t_test():
    components = Components(seed=0.02, item=0.0, noise=0.0)
    reference = stats.nct.sf(stats.t.isf(0.025, 5), 5, 0.03 * np.sqrt(6) / 0.02)
    assert power_at(0.03, components, 6, 1000) == pytest.approx(reference, abs=2e-3)
    assert power_at(0.0, components, 6, 1000) == pytest.approx(0.025, abs=1e-3)


def test_smallest_detectable_effect_is_detected_with_that_power():
    components = Components(0.01, 0.2, 0.4)
    for kind in ("superiority", "equivalence"):
        smallest = smallest_detectable(components, 6, 500, kind=kind)
        assert power_at(smallest, components, 6, 500, kind=kind) == pytest.approx(0.8)
    assert smallest_detectable(components, 12, 500) < smallest_detectable(components, 3, 500)
    assert smallest_detectable(components, 1, 500) == pytest.approx(
        (stats.t.isf(0.025, 499) + stats.norm.isf(0.2)) * np.sqrt(0.2**2 / 500 + 0.4**2 / 500)
    )
    assert 0 < smallest_detectable(Components(0, 0, 0), 3, 500) < 0.01
    assert power_at(0.02, Components(0, 0, 0), 3, 500) == 1


@pytest.mark.parametrize("seeds", [2, 3, 6, 12])
def test_intervals_cover(seeds):
    rng = np.random.default_rng(seeds)
    rates = coverage(seeds=seeds, mu=0.03, rng=rng, repeats=1000, resamples=50, **WORLD)
    assert 0.93 <= rates["crossed"] <= 0.985
    assert rates["examples_only"] < 0.9


@pytest.mark.parametrize("seeds", [2, 6, 12])
def test_a_true_null_is_rarely_decided(seeds):
    """Nothing is decided without a difference, and nothing called equal at the margin, in most studies."""
    rng = np.random.default_rng(seeds)
    null, equal = error_rates(rng, (0.0, 0.02), repeats=1000, seeds=seeds, mu=0.02, **WORLD)
    limit = 0.05 + 2 * null["error"]
    assert null["supported"] + null["contradicted"] <= limit
    assert equal["equivalent"] <= limit
    assert null["covered"] == pytest.approx(1 - null["supported"] - null["contradicted"])


def test_examples_in_groups_are_more_alike_than_the_intervals_know_unless_told(rng):
    """The means are the asked ones; false verdicts are not rare, but where groups are told."""
    a, b = simulate(2, 501, 1, 0.1, 0.0, 0.5, 0.6, rng, repeats=400, group=5)
    assert a.shape == (400, 2, 1, 501)
    assert (a.mean(), b.mean()) == pytest.approx((0.7, 0.6), abs=0.01)
    rates = error_rates(rng, repeats=500, seeds=6, mu=0.0, **GROUPED)[0]
    assert rates["supported"] + rates["contradicted"] > 0.1
    told = error_rates(rng, repeats=500, seeds=6, mu=0.0, clustered=True, **GROUPED)[0]
    assert told["supported"] + told["contradicted"] <= 0.05 + 2 * told["error"]


def test_simulated_rates_are_those_of_difference():
    world = {"seeds": 3, **WORLD}
    rates = error_rates(np.random.default_rng(8), [0.05], repeats=60, mu=0.05, **world)[0]
    both = simulate(3, 300, 2, 0.05, 0.1, 0.5, 0.7, np.random.default_rng(8), repeats=60)
    effects = [difference(*pair) for pair in zip(*(x.swapaxes(1, 2) for x in both), strict=True)]
    assert rates["supported"] == np.mean([e.low > 0 for e in effects])
