"""Corrections on shuffled p-values, the rules of verdicts, and how verdicts move."""

import json

import numpy as np
import pytest
from simulated import by_seed
from statsmodels.stats.multitest import multipletests

from xltlib import StudyError
from xltlib.claims.verdicts import (
    benjamini_hochberg,
    holm,
    specifications,
    verdict_interaction,
    verdict_superiority,
    verdict_trend,
)
from xltlib.significance.tests import difference, equivalence

pytestmark = pytest.mark.filterwarnings("error")


def test_holm_and_benjamini_hochberg_by_hand_on_shuffled_input():
    # sorted 0.005 0.01 0.03 0.04: Holm 4 * 0.005, 3 * 0.01, 2 * 0.03, then at least the one before
    assert holm([0.03, 0.005, 0.04, 0.01]) == pytest.approx([0.06, 0.02, 0.06, 0.03])
    # BH from above: 0.04, 0.03 * 4 / 3, 0.01 * 4 / 2, 0.005 * 4
    assert benjamini_hochberg([0.03, 0.005, 0.04, 0.01]) == pytest.approx([0.04, 0.02, 0.04, 0.02])


def test_corrections_agree_with_statsmodels(rng):
    p = rng.random(40) ** 3
    p[5] = p[17]
    assert holm(p) == pytest.approx(multipletests(p, method="holm")[1])
    assert benjamini_hochberg(p) == pytest.approx(multipletests(p, method="fdr_bh")[1])


def test_corrections_at_the_edges():
    assert holm([]).size == benjamini_hochberg([]).size == 0
    assert holm([0.2]) == benjamini_hochberg([0.2]) == 0.2
    assert (holm([1.0, 0.9]) == 1).all()
    for wrong in ([0.1, np.nan], [1.2], [[0.1]]):
        with pytest.raises(StudyError, match="p-values"):
            holm(wrong)


@pytest.mark.parametrize("verdict", [verdict_superiority, verdict_interaction, verdict_trend])
def test_verdict_needs_interval_and_adjusted_p(verdict):
    noise, base = 0.01 * np.array([1, -1, 2, -2, 0, 0.5]), by_seed(np.full(6, 0.5))
    high, same, low = (difference(by_seed(0.5 + gap + noise), base, margin=0.02) for gap in (0.1, 0.02, -0.1))
    assert verdict(high, 0.02, high.p) == "supported"
    assert verdict(high, 0.02, 0.06) == "inconclusive"
    assert verdict(same, 0.02, same.p) == "inconclusive"
    assert verdict(low, 0.02, low.p) == "contradicted"
    assert verdict(low, 0.02, 0.06) == "inconclusive"
    with pytest.raises(StudyError, match="tested against 0.02"):
        verdict(high, 0.0, high.p)


def test_specifications_vary_settings_seeds_margins_and_corrections(scores):
    rows = specifications(
        "superiority", scores, (0.0, 0.02), settings=["near", "mid", "far"], others=[0.001, 0.9]
    )
    assert len(rows) == (1 + 3 + 4) * 2 * 3  # whole data, three settings left out, first 2 to 5 seeds
    whole, effect = rows[0], difference(*scores)
    assert (whole["estimate"], whole["p"]) == (effect.estimate, effect.p)
    assert whole["verdict"] == verdict_superiority(effect, 0.0, effect.p)
    without_mid = next(row for row in rows if row["left_out"] == "mid")
    assert without_mid["estimate"] == difference(*(array[:, [0, 2]] for array in scores)).estimate
    two_seeds = next(row for row in rows if row["seeds"] == 2)
    assert two_seeds["low"] == difference(*(array[:2] for array in scores)).low
    assert {row["correction"] for row in rows} == {"none", "holm", "bh"}
    assert all(row["p_adjusted"] >= row["p"] for row in rows)
    json.dumps(rows)


def test_specifications_of_the_other_kinds(scores):
    a, b = scores
    assert specifications("equivalence", (a, b), [0.05])[0]["p"] == equivalence(a, b, 0.05).p
    assert specifications("trend", (b, a), [0.0], x=[0, 1])[0]["p"] == pytest.approx(difference(a, b).p)
    uneven = specifications("interaction", (a, b, a[:, :1], b[:, :1]), [0.0])
    assert {row["left_out"] for row in uneven} == {None}
    with pytest.raises(StudyError, match="kind"):
        specifications("better", (a, b), [0.0])
