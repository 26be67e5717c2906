"""Corrections on shuffled p-values, the rules of verdicts, looks, failed trainings, and how verdicts move."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import norm
from simulated import by_seed
from statsmodels.stats.multitest import multipletests

from xltlib.claims import campaign, verdicts
from xltlib.claims.campaign import campaigns
from xltlib.claims.ledger import Design
from xltlib.claims.ledger import Test as LedgerTest
from xltlib.claims.scores import Comparison, World
from xltlib.params import Params
from xltlib.runs import Runs
from xltlib.significance.tests import CORRECTIONS, difference, holm, holm_both_ways

pytestmark = pytest.mark.filterwarnings("error")
LOOKS = [{"seeds": 12, "alpha": 0.02}, {"seeds": 24, "alpha": 0.03}]
DESIGN = Design(
    exploration={"profiles": ["full"]},
    confirmation={"profile": "confirmation", "first_seed": 12, "looks": LOOKS},
    learnt={"scale": "mechanism", "source_score": {"nli": 0.9}, "share": 0.75},
    matters_real=0.01,
    frozen="",
)


def world_of(profile="full", scale="mechanism"):
    return World(Params(profile=profile).model_copy(update={"scale": scale}), DESIGN, {}, ())


def test_corrections_agree_with_statsmodels(rng):
    assert holm([]).size == 0
    p = rng.random(40) ** 3
    p[5] = p[17]
    assert holm(p) == pytest.approx(multipletests(p, method="holm")[1])
    assert CORRECTIONS["bh"](p, 0) == pytest.approx(multipletests(p, method="fdr_bh")[1])


def test_a_rejection_takes_one_of_a_tests_two_hypotheses_away(rng):
    adjusted, levels = holm_both_ways([0.03, 0.005, 0.04, 0.01], 0.05)
    assert levels == pytest.approx([0.1 / 6, 0.1 / 8, 0.1 / 6, 0.1 / 7])
    assert adjusted == pytest.approx([0.09, 0.02, 0.1, 0.035])
    assert holm_both_ways([0.02], 0.05, decided=3)[1] == pytest.approx([0.1 / 5])
    assert holm_both_ways([], 0.05)[1].size == 0
    for _ in range(50):
        adjusted, levels = holm_both_ways(p := rng.random(12) ** 6, 0.05)
        np.testing.assert_array_equal(p <= levels, adjusted <= 0.05)


def test_families_without_a_gain_have_few_false_verdicts_though_they_decide_nearly_all(rng):
    """With Holm's own correction, which a decided test leaves with both hypotheses, three in ten have one."""
    false, families, error = np.zeros(2), 1000, 0.005
    for _ in range(families):
        gains = error * rng.standard_normal(21)  # the true gain is 0; 0.02 would matter
        supports = np.where(gains > 0, 2 * norm.sf(gains / error), 1.0)
        p = np.minimum(supports, 2 * norm.sf((0.02 - gains) / error))
        false += [(p == supports)[x <= 0.05].any() for x in (holm_both_ways(p, 0.05)[0], holm(p))]
    chance = 3 * np.sqrt(0.05 * 0.95 / families)
    assert false[0] / families <= 0.05 + chance
    assert false[1] / families == pytest.approx(0.3, abs=0.05)


def effect_of(gains, noise=0.01):
    """The effect of seeds whose gains lie around a mean, 12 of them."""
    luck = noise * np.array([1, -1, 2, -2, 0, 0.5, -0.5, 1.5, -1.5, 0.2, -0.2, 0])
    return difference(by_seed(0.4 + gains + luck), by_seed(np.full(12, 0.4)))


def reading(effect, margin=0.0, matters=0.02, level=0.01, kind="superiority"):
    """What an effect says of a test at a level."""
    test = LedgerTest(kind, margin=margin, matters=matters)
    return verdicts.position(test, effect, level, verdicts.p_values(test, effect))


@pytest.mark.parametrize(
    ("gain", "noise", "expected"),
    [
        (0.1, 0.01, ("supported", "")),
        (0.01, 0.001, ("supported", verdicts.SMALL)),
        (0.0, 0.001, ("contradicted", verdicts.TOO_SMALL)),
        (-0.1, 0.01, ("contradicted", verdicts.REVERSED)),
        (0.015, 0.03, ("inconclusive", "")),
    ],
)
def test_a_gain_lies_above_the_margin_or_below_what_matters(gain, noise, expected):
    assert reading(effect_of(gain, noise)) == expected


def test_the_margin_is_what_matters_where_the_statement_has_one():
    gains = {0.01: ("contradicted", verdicts.BELOW), 0.05: ("supported", ""), 0.02: ("inconclusive", "")}
    assert {gain: reading(effect_of(gain, 0.001), margin=0.02) for gain in gains} == gains


def test_equivalence_is_shown_within_and_refuted_outside_the_margin():
    same = {"margin": 0.02, "kind": "equivalence"}
    assert reading(effect_of(0.005, 0.002), **same) == ("supported", "")
    assert reading(effect_of(-0.1, 0.01), **same) == ("contradicted", verdicts.OUTSIDE)
    assert reading(effect_of(0.0, 0.05), **same) == ("inconclusive", "")


def test_a_verdict_needs_sign_flips_too():
    alike = effect_of(0.05, 0.001)
    few = difference(by_seed(np.array([0.5, 0.501, 0.499, 0.5])), by_seed(np.full(4, 0.4)))
    assert few.p < 1e-5
    assert few.against(0.0) == 2 / 2**4
    assert reading(few, level=0.05) == ("inconclusive", "")
    assert alike.against(0.0) == max(alike.p, 2 / 2**12)


def test_the_seeds_that_would_decide():
    test = LedgerTest("superiority", matters=0.02)
    assert 12 < verdicts.seeds_needed(test, effect_of(0.02, 0.03), 0.01) < 60
    assert verdicts.seeds_needed(test, effect_of(0.1, 0.001), 0.001) == 11  # what sign flips need for 0.001
    assert verdicts.seeds_needed(test, effect_of(0.01, 0.19), 0.0001) is None
    nine = difference(by_seed(np.linspace(0.499, 0.501, 9)), by_seed(np.full(9, 0.4)))
    # of twelve seeds nine have learnt: eleven such take fifteen
    assert verdicts.seeds_needed(test, effect_of(0.1, 0.001), 0.001, nine) == 15


def test_no_number_of_seeds_decides_what_examples_leave_open(rng):
    """The examples that all seeds share differ much more than the effect is large."""
    gains = 0.3 * rng.standard_normal(200) + 0.01 * rng.standard_normal((6, 200))
    gains += 0.04 - gains.mean()
    effect = difference([np.clip(0.5 + gains / 2, 0, 1)], [np.clip(0.5 - gains / 2, 0, 1)])
    assert effect.sd_seeds < 0.01 < 0.02 < np.sqrt(effect.variances.from_items)
    assert verdicts.seeds_needed(LedgerTest("superiority", matters=0.02), effect, 0.05) is None


def test_the_analysis_as_planned_is_the_verdict_at_every_look(rng):
    """Also after a test of the family was decided, and with tests in it that have no runs."""
    gains = [mean + 0.03 * rng.standard_normal(24) for mean in (0.06, 0.03, 0.012, -0.01)]
    family = {str(k): data_of(x, DESIGN.confirmation["first_seed"]) for k, x in enumerate(gains)}
    family["absent"] = Comparison(LedgerTest("superiority", task="nli"))
    found = judged(family, "confirmation")
    assert len({own.outcome for own in found.values()}) > 2
    for own in found.values():
        if own.effect:
            assert verdicts.variants(own, 0.05)[0]["same"]


def test_smallest_effects_for_real_languages_are_those_of_the_design():
    def matters(scale, kind="superiority", **more):
        return world_of(scale=scale).scaled(LedgerTest(kind, matters=0.02, **more)).matters

    assert matters("mechanism") == 0.02
    assert matters("paper") == 0.01
    assert matters("paper", published=0.041) == 0.0205
    assert matters("paper", margin=0.02) == 0.02
    assert matters("reduced", "trend", points={"a": 0, "b": 1, "c": 4}) == 0.0025
    assert matters("paper", "interaction", share=0.62) == 0.02, "the share says what matters"


def data_of(gains, first=0, source=0.99, failing=(), **more):
    """What a test sees of seeds with these gains; `failing` seeds of the first system have not learnt."""
    seeds = tuple(range(first, first + len(gains)))
    a, b, learnt = (by_seed(x, 500)[0] for x in (0.4 + gains, 0.4 + 0 * gains, source + 0 * gains))
    scores, sources = ([a], [b]), {"tlm": learnt}
    return Comparison(
        LedgerTest("superiority", task="nli", matters=0.02), seeds, scores, ("near",), ("a", "b"), sources,
        {"tlm": tuple(failing), "none": ()}, **more,
    )  # fmt: skip


def judged(data, profile="full"):
    return verdicts.judge(data, world_of(profile))


def test_a_verdict_needs_all_seeds_and_those_that_have_learnt(rng):
    gains = 0.06 + 0.01 * rng.standard_normal(12)
    gains[[3, 7]] = -0.4
    accident = judged({"a": data_of(gains, failing=(3, 7))})["a"]
    assert (accident.outcome, accident.effect.seeds, accident.trained.seeds) == ("inconclusive", 12, 10)
    assert accident.trained.against(0.0) < 0.01 < accident.p
    gains[[3, 7]] = 0.03
    assert judged({"a": data_of(gains, failing=(3, 7))})["a"].outcome == "supported"
    gains[[3, 7]], gains[[0, 1, 2, 4, 5, 6]] = 0.5, -0.03  # only the failing seeds make the mean
    assert judged({"a": data_of(gains, failing=(3, 7))})["a"].outcome == "inconclusive"
    too_few = judged({"a": data_of(gains, failing=(0, 3, 7, 8))})["a"]
    assert (too_few.outcome, too_few.p) == ("inconclusive", 1.0)
    assert "not learnt often enough: of 12 seeds tlm in 8, none in 12" in too_few.why


def test_systems_that_do_not_beat_the_floor_in_the_source_have_shown_nothing(rng):
    gains = 0.06 + 0.01 * rng.standard_normal(12)
    assert judged({"a": data_of(gains, source=0.5)})["a"].outcome == "supported"
    below = judged({"a": data_of(gains, source=0.335)})["a"]  # 1/3 lies within what chance allows
    assert (below.outcome, "nothing was learnt" in below.why) == ("inconclusive", True)


def test_a_confirmation_waits_for_its_looks_and_stops_what_it_has_decided(rng):
    clear, weak = 0.06 + 0.01 * rng.standard_normal(24), 0.012 + 0.03 * rng.standard_normal(24)

    def at(seeds):
        data = {"clear": data_of(clear[:seeds], 12), "weak": data_of(weak[:seeds], 12)}
        return judged(data, "confirmation")

    waiting = at(11)["clear"]
    assert (waiting.effect, waiting.why) == (None, "11 of the 12 seeds of the first look are there")
    assert [j.look for j in at(20).values()] == [12, 12]
    both = at(24)
    assert (both["clear"].outcome, both["clear"].look, both["clear"].effect.seeds) == ("supported", 12, 12)
    assert (both["weak"].look, both["weak"].effect.seeds) == (24, 24)
    assert both["weak"].level == pytest.approx(0.06 / 3)  # one of four hypotheses was rejected
    assert at(20)["weak"].level == pytest.approx(0.04 / 3)


def test_pairs_from_different_weights_are_refused_in_a_confirmation_and_kept_in_exploration(rng):
    data = {"a": data_of(0.06 + 0.01 * rng.standard_normal(12), 12, mixed=(14,))}
    assert judged(data)["a"].outcome == "supported"
    refused = judged(data, "confirmation")["a"]
    assert (refused.outcome, "in seed 14" in refused.why) == ("inconclusive", True)


def test_variants_move_one_choice_at_a_time(rng):
    scores = tuple([rng.random((12, 200)) > level for _ in range(3)] for level in (0.4, 0.5))
    test = LedgerTest("superiority", margin=0.02, matters=0.02)
    data = Comparison(test, tuple(range(12)), scores, ("near", "mid", "far"), ("a",))
    judgement = replace(judged({"a": data})["a"], others=(0.001, 0.9))
    rows = verdicts.variants(judgement, 0.05)
    assert rows[0]["estimate"] == judgement.effect.estimate
    planned = {"left_out": "", "seeds": 12, "margin": 0.02, "correction": "holm"}
    moved = [[name for name, value in planned.items() if row[name] != value] for row in rows]
    assert moved[0] == []
    assert all(len(names) <= 1 for names in moved)
    assert {row["left_out"] for row in rows} == {"", "near", "mid", "far"}
    assert {row["seeds"] for row in rows} == set(range(6, 13)), "with fewer sign flips decide nothing"
    without_mid = next(row for row in rows if row["left_out"] == "mid")
    assert without_mid["estimate"] == difference(*([array[0], array[2]] for array in scores)).estimate


def test_simulated_confirmations_decide_rightly(rng):
    none, large = (campaigns(DESIGN, rng, 4, 25, [gain]) for gain in (0.0, 0.06))
    assert none["false"] <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 25)
    assert none["contradicted"] > 0.5
    assert large["supported"] > 0.9
    assert large["seeds"] < 20
    failing = campaigns(DESIGN, rng, 4, 25, [0.0], failing=0.1, depth=0.3)
    assert failing["false"] <= 0.2  # the trainings that succeed do gain
    assert failing["false_all"] > 0.05  # and a sample without a failure cannot know of one


def test_simulated_confirmations_are_shown_by_their_worlds():
    runs = Runs(Params(profile="confirmation"))
    known, *_ = campaign.specs(runs, DESIGN)
    values = {name: 0.5 for name in ("seeds", "decided", "contradicted", "supported", "false_all", "false")}
    shown = campaign.table([SimpleNamespace(params=known.params, values=values)])
    assert list(shown.index) == list(campaign.WORLDS)
    assert list(shown.columns) == ["false", "false_all", "supported", "contradicted", "decided", "seeds"]
    assert shown.loc["no gain"].tolist() == [0.5] * 6
    assert shown.drop("no gain").isna().all(axis=None)
