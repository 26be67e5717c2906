import copy
import importlib
import json
from dataclasses import replace

import numpy as np
import pytest
from studies import EXAMPLES, PARAMS, SEEDS, better, compared, planted, runs, small_ledger, table

from xltlib.claims import evaluate as evaluation
from xltlib.claims.claim_text import render_text
from xltlib.claims.evaluate import evaluate, evaluate_claims
from xltlib.claims.evidence import claim_runs
from xltlib.claims.ledger import load_ledger
from xltlib.claims.scores import World
from xltlib.runs import Runs


@pytest.fixture(scope="module")
def real():
    return load_ledger()


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    """A small ledger of every kind of test, runs with planted effects, and the content of its claims.json."""
    path, records = planted(tmp_path_factory.mktemp("planted"))
    return load_ledger(path), records, evaluate(load_ledger(path), table(records), PARAMS)


def outcomes(claims):
    return [c["verdict"] for c in claims]


def entries(path, records):
    """The entries of all statements of a small ledger in claims.json."""
    return evaluate_claims(load_ledger(path), table(records), PARAMS)


def settings(world, *words):
    return list(map(str, world.settings(*words)))


def test_settings_mean_languages_of_the_profile(real):
    world = World.of(real, PARAMS)
    assert settings(world, "targets") == ["near", "far"]
    assert settings(world, "all", "f1") == ["src#f1", "near#f1", "far#f1"]
    assert len(settings(world, "pairs")) == 6
    assert settings(world, ("far",)) == ["far"]
    assert world.defaults["mask_rate"] == 0.25


def test_settings_mean_the_languages_of_a_real_set(real):
    some = PARAMS.replace(data="real", scale="reduced", pair_languages=("src", "far"))
    world = World.of(real, some)
    assert settings(world, "pairs") == ["src|far", "far|src"]
    scores = {name: np.ones(1) for name in ("src", "far", "src|far")}
    rows = table([{"labels": {"task": "nli", "seed": 0}, "scores": scores, "digest": "x"}])
    assert settings(world.tested("nli", rows), "targets") == ["far"]
    assert settings(world.tested("qa", rows), "targets") == ["near", "far"]
    assert settings(World.of(real, PARAMS).tested("nli", rows), "targets") == ["near", "far"]


def test_the_runs_of_a_statement_are_those_that_its_tests_compare(real):
    runs = Runs(PARAMS.replace(seeds=1, statement_runs=("S",)))
    specs, absent = claim_runs(real, runs, "S0-3")
    assert [spec.params["labels"]["objective"] for spec in specs] == ["weam", "tlm", "word_aligned"]
    assert absent == []
    both, _ = claim_runs(real, runs, "S2-2")
    assert len(set(both)) == len(both)
    assert len(claim_runs(real, runs, "S2-2", deciding=True)[0]) < len(both)


def test_tests_of_the_confirmation_are_no_part_of_an_exploration(tmp_path):
    later = better("weam", "none", since="confirmation")
    ledger = load_ledger(small_ledger(tmp_path, better("tlm", "none"), later))
    records = compared(none=0, tlm=0.1, weam=0.1)
    for profile, verdict, specs in (("full", "not run", 0), ("real", "supported", 4)):
        params = PARAMS.replace(profile=profile)
        claims = evaluate_claims(ledger, table(records), params)
        assert outcomes(claims) == ["supported", verdict]
        effect = claims[0]["tests"][0]["effect"]
        assert effect["p_holm"] == (effect["p"] if verdict == "not run" else pytest.approx(2 * effect["p"]))
        assert len(claim_runs(ledger, Runs(params), "S0-2")[0]) == specs


def test_planted_effects_give_the_planted_verdicts(known):
    _, _, result = known
    assert outcomes(result["claims"]) == ["supported", "contradicted"] * 5
    effect = result["claims"][0]["tests"][0]["effect"]
    assert effect["estimate"] == pytest.approx(0.1, abs=0.02)
    assert effect["low"] < effect["estimate"] < effect["high"]
    assert list(effect["per_setting"]) == ["near", "far"]
    assert (effect["seeds"], len(effect["per_seed"]), effect["examples"]) == (SEEDS, SEEDS, EXAMPLES)
    assert effect["p"] <= effect["p_holm"] <= 0.05
    assert 0.02 < effect["smallest_detectable"] < 0.1


def test_a_gain_that_is_not_there_is_contradicted_with_enough_seeds_and_open_with_few(tmp_path):
    path = small_ledger(tmp_path, better("tlm", "none"), better("none", "tlm"))
    records = compared(none=0, tlm=0)
    claims = entries(path, records)
    assert outcomes(claims) == ["contradicted"] * 2
    assert "the gain is absent or too small to matter" in claims[0]["reason"]
    claims = entries(path, [r for r in records if r["labels"]["seed"] < 4])
    assert outcomes(claims) == ["inconclusive"] * 2
    assert "could have seen" in claims[0]["reason"]


def test_one_seed_gives_no_verdict(known):
    ledger, records, _ = known
    claims = evaluate_claims(ledger, table([r for r in records if r["labels"]["seed"] == 0]), PARAMS)
    assert set(outcomes(claims)) == {"inconclusive"}
    assert "one seed" in claims[0]["tests"][0]["effect"]["note"]


def test_systems_below_the_cheap_baselines_give_no_verdict(tmp_path):
    path = small_ledger(tmp_path, better("tlm", "none"))
    records = compared(none=0, tlm=0.1)
    for floor, verdict in ((0.0, "supported"), (1.0, "inconclusive")):
        floors = {"floors": dict.fromkeys(records[0]["scores"], floor)}
        (claim,) = entries(path, [r | floors for r in records])
        assert claim["verdict"] == verdict
        assert ("nothing was learnt that could be compared" in claim["reason"]) == (floor == 1)


def test_missing_runs_are_named(tmp_path):
    path = small_ledger(tmp_path, [better("tlm", "none"), better("weam", "none")], better("weam", "tlm"))
    first, second = entries(path, compared(none=0, tlm=0.1))
    assert outcomes([first, second]) == ["not run", "not run"]
    assert first["reason"] == "1 of 2 tests were run; no run of weam on nli."
    assert second["tests"][0]["missing"] == [{"objective": "weam", "task": "nli"}]
    assert second["tests"][0]["effect"] is None


def test_only_seeds_that_both_have_are_compared(tmp_path):
    path = small_ledger(tmp_path, better("tlm", "none"))
    none, tlm = runs({"objective": "none"}, seeds=range(4)), runs({"objective": "tlm"}, 0.1, range(2, 9))
    test = entries(path, none + tlm)[0]["tests"][0]
    assert test["effect"]["seeds"] == 2
    assert len(test["runs"]) == 4
    assert "no seed in common" in entries(path, none[:2] + tlm)[0]["reason"]


def test_holm_counts_each_distinct_deciding_test_once(tmp_path):
    first = [better("tlm", "none"), better("weam", "none", role="control")]
    others = ({"test_of": "S0-1"}, better("weam", "tlm"), better("mlm", "none"))
    path = small_ledger(tmp_path, first, *others)
    result = evaluate(load_ledger(path), table(compared(none=0, tlm=0.012, weam=0.03)), PARAMS)
    assert result["correction"] == {
        "method": "Holm", "deciding_tests": 2, "second_tests": 0, "other_tests": 1, "looks": [],
    }  # fmt: skip
    effects = [c["tests"][0]["effect"] for c in result["claims"][:3]]
    assert effects[0] == effects[1]
    small, large = sorted((effects[0], effects[2]), key=lambda e: e["p"])
    assert small["p_holm"] == pytest.approx(2 * small["p"])
    assert large["p_holm"] == pytest.approx(max(1.5 * large["p"], 2 * small["p"]))
    alone = result["claims"][0]["tests"][1]["effect"]
    assert alone["p_holm"] == alone["p"]


@pytest.mark.parametrize(
    ("outcomes", "verdict"),
    [
        (["supported", "supported"], "supported"),
        (["supported", "inconclusive"], "inconclusive"),
        (["supported", "not run"], "not run"),
        (["inconclusive", "not run"], "not run"),
        (["contradicted", "not run"], "contradicted"),
        (["supported", "contradicted"], "contradicted"),
        (["impossible", "possible"], "impossible"),
    ],
)
def test_bundles(outcomes, verdict):
    assert evaluation.combined(outcomes) == verdict


def test_properties_of_the_code_are_called_by_name(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation, "check_planted", lambda: True, raising=False)
    monkeypatch.setattr(evaluation, "check_broken", lambda: False, raising=False)
    check = {"type": "implementation", "words": "it holds"}
    names = (f"xltlib.claims.evaluate:check_{name}" for name in ("planted", "broken"))
    path = small_ledger(tmp_path, *(check | {"callable": name} for name in names))
    assert outcomes(entries(path, [])) == ["supported", "contradicted"]


def test_the_code_of_every_statement_is_where_it_says(real):
    claims = evaluate(real, table([]), PARAMS)["claims"]
    for claim in claims:
        for place in claim["code"]:
            path, _, name = place.partition(".py: ")
            function = getattr(importlib.import_module(path.replace("/", ".")), name)
            assert function.__module__.replace(".", "/") == path, f"{claim['id']}: {place}"
    code = {claim["id"]: claim["code"] for claim in claims}
    assert code["S0-3"][0] == "xltlib/pretraining/objectives.py: weam_loss"
    tested = {c.id for c in real.claims if {t.type for t in c.tests} != {"document"}}
    assert {name for name, own in code.items() if own} == tested


def test_claims_json_is_plain_the_same_twice_and_counts_itself(real):
    records = compared(("nli", "qa"), none=0, tlm=0.1)
    learnt = real.design.learnt | {"source_score": {}}  # these have .6 in the source
    real = replace(real, design=replace(real.design, learnt=learnt))
    first = json.dumps(evaluate(real, table(records), PARAMS), allow_nan=False)
    assert first == json.dumps(evaluate(real, table(records[::-1]), PARAMS), allow_nan=False)
    result = json.loads(first)
    told = result["reports"]["their_verdict_and_ours"]
    assert told["agree"] <= told["decided"] < 65
    assert sum(n for row in told["table"].values() for n in row.values()) == 65
    parts = {claim["id"]: claim["part_of"] for claim in result["claims"]}
    assert (parts["S4-10"], parts["S1-20"]) == ([], ["S0-2"])
    assert sum(result["counts"].values()) == 65
    assert [result["counts"][k] for k in ("possible", "impossible", "contradicted by source")] == [0, 4, 1]
    verdicts = {c["id"]: c["verdict"] for c in result["claims"]}
    assert (verdicts["S0-1"], verdicts["S1-18"], verdicts["S0-3"]) == ("supported", "supported", "not run")
    assert result["ledger_digest"] == real.digest


def test_text_of_a_statement_says_what_decided(known):
    _, _, result = known
    text = render_text(result["claims"][0])
    for part in (
        "Statement <b>1</b> & so on", "mean(tlm) - mean(none) > 0.02  [nli; targets]", f"{SEEDS} seeds",
        "Verdict: mechanism supported", "Again: xlt claim S0-1",
    ):  # fmt: skip
        assert part in text
    assert "Verdict: supported" in render_text(result["claims"][0] | {"scale": "paper"})


def test_one_statement_alone_has_the_entry_that_it_has_among_all(known):
    ledger, records, result = known
    for claim in copy.deepcopy(result["claims"][:2]):
        for test in claim["tests"]:
            del test["specifications"]
            test["effect"].pop("second_opinions", None)
        assert evaluate_claims(ledger, table(records), PARAMS, claim["id"])[0] == claim
