import importlib
import inspect
import json
from dataclasses import replace

import numpy as np
import pytest
from studies import EXAMPLES, PARAMS, SEEDS, better, planted, runs, small_ledger, table

from xltlib import StudyError
from xltlib.claims import evaluate as evaluation
from xltlib.claims.claim_text import render_text
from xltlib.claims.evaluate import evaluate, evaluate_claims, judged, needed
from xltlib.claims.ledger import load_ledger
from xltlib.claims.scores import World


@pytest.fixture(scope="module")
def real():
    return load_ledger()


def outcomes(result):
    return [c["verdict"] for c in result["claims"]]


def verdicts_of(path, records, params=PARAMS):
    """The content of claims.json for a small ledger and runs."""
    return evaluate(load_ledger(path), table(records), params)


def test_settings_mean_languages_of_the_profile(real):
    world = World.of(real, PARAMS)
    assert world.settings("targets") == ("near", "far")
    assert world.settings("all", "f1") == ("src#f1", "near#f1", "far#f1")
    assert len(world.settings("pairs")) == 6
    assert world.settings(("far",)) == ("far",)
    assert world.defaults["mask_rate"] == 0.25


def test_settings_mean_the_languages_of_a_real_set(real):
    some = PARAMS.replace(data="real", scale="reduced", pair_languages=("src", "far"))
    world = World.of(real, some)
    assert world.settings("pairs") == ("src|far", "far|src")
    scores = {name: np.ones(1) for name in ("src", "far", "src|far")}
    rows = table([{"labels": {"task": "nli", "seed": 0}, "scores": scores, "digest": "x"}])
    assert world.tested("nli", rows).settings("targets") == ("far",)
    assert world.tested("qa", rows).settings("targets") == ("near", "far")
    assert World.of(real, PARAMS).tested("nli", rows).settings("targets") == ("near", "far")


def test_needed_runs_are_listed_once_with_who_asks(real):
    wanted = needed(real, PARAMS, "S0-3")
    assert [w["labels"]["objective"] for w in wanted] == ["weam", "tlm", "word_aligned"]
    assert all(w["decides"] and w["settings"] == ["near", "far"] for w in wanted)
    every = [tuple(w["labels"].items()) for w in needed(real, PARAMS)]
    assert len(every) == len(set(every))
    qa = next(w for w in needed(real, PARAMS, "S1-18") if w["labels"]["objective"] == "tlm")
    assert qa["settings"] == ["near#f1", "far#f1"]


def test_planted_effects_give_the_planted_verdicts(tmp_path):
    path, records = planted(tmp_path)
    result = verdicts_of(path, records)
    assert outcomes(result) == ["supported", "contradicted"] * 5
    effect = result["claims"][0]["tests"][0]["effect"]
    assert effect["estimate"] == pytest.approx(0.1, abs=0.02)
    assert effect["low"] < effect["estimate"] < effect["high"]
    assert list(effect["per_setting"]) == ["near", "far"]
    assert (effect["seeds"], len(effect["per_seed"]), effect["examples"]) == (SEEDS, SEEDS, EXAMPLES)
    assert effect["p"] <= effect["p_holm"] <= 0.05
    assert 0.02 < effect["smallest_detectable"] < 0.1
    assert all(c["scale"] == "mechanism" for c in result["claims"])


def test_a_gain_that_is_not_there_is_contradicted_with_enough_seeds_and_open_with_few(tmp_path):
    path = small_ledger(tmp_path, better("tlm", "none"), better("none", "tlm"))
    records = runs({"objective": "none"}) + runs({"objective": "tlm"})
    result = verdicts_of(path, records)
    assert outcomes(result) == ["contradicted"] * 2
    assert "the gain is absent or too small to matter" in result["claims"][0]["reason"]
    few = [r for r in records if r["labels"]["seed"] < 4]
    result = verdicts_of(path, few)
    assert outcomes(result) == ["inconclusive"] * 2
    assert "could have seen" in result["claims"][0]["reason"]


def test_a_true_null_gets_a_verdict_in_at_most_one_study_of_twenty(tmp_path):
    ledger = load_ledger(small_ledger(tmp_path, better("tlm", "none"), better("weam", "none")))
    rng, wrong, studies = np.random.default_rng(5), 0, 150
    for _ in range(studies):
        records = []
        for objective in ("none", "tlm", "weam"):
            for seed in range(4):
                rate = 0.6 + 0.03 * rng.standard_normal()  # training luck
                scores = {name: rng.random(100) < rate for name in ("near", "far")}
                labels = {"objective": objective, "task": "nli", "seed": seed}
                records.append({"digest": f"{objective}{seed}", "labels": labels, "scores": scores})
        tests = judged(ledger, table(records), PARAMS)["decides"].values()
        wrong += any(test.judgement.outcome != "inconclusive" for test in tests)
    assert wrong / studies < 0.05 + 2 * np.sqrt(0.05 * 0.95 / studies)


def test_few_examples_never_show_equivalence(tmp_path):
    path = small_ledger(tmp_path, better("tlm", "none") | {"type": "equivalence", "margin": 0.02})
    records = [r for o in ("tlm", "none") for r in runs({"objective": o}, seeds=(0, 1), examples=20)]
    assert outcomes(verdicts_of(path, records)) == ["inconclusive"]


def test_one_seed_gives_no_verdict(tmp_path):
    path, records = planted(tmp_path)
    result = verdicts_of(path, [r for r in records if r["labels"]["seed"] == 0])
    assert set(outcomes(result)) == {"inconclusive"}
    assert "one seed" in result["claims"][0]["tests"][0]["effect"]["note"]


@pytest.mark.parametrize(("floor", "decided"), [(0.0, True), (1.0, False)])
def test_systems_below_the_cheap_baselines_give_no_verdict(tmp_path, floor, decided):
    path, records = planted(tmp_path)
    floors = {setting: floor for r in records for setting in r["scores"]}
    result = verdicts_of(path, [r | {"floors": floors} for r in records])
    before = verdicts_of(path, records)
    assert "supported" in outcomes(before)
    assert outcomes(result) == (outcomes(before) if decided else ["inconclusive"] * len(outcomes(before)))
    told = ["nothing was learnt that could be compared" in c["reason"] for c in result["claims"]]
    assert told == [not decided] * len(told)


def test_missing_runs_are_named(tmp_path):
    path = small_ledger(tmp_path, [better("tlm", "none"), better("weam", "none")], better("weam", "tlm"))
    result = verdicts_of(path, runs({"objective": "none"}) + runs({"objective": "tlm"}, 0.1))
    first, second = result["claims"]
    assert (first["verdict"], second["verdict"]) == ("not run", "not run")
    assert first["reason"] == "1 of 2 tests were run; no run of weam on nli."
    assert second["tests"][0]["missing"] == [{"objective": "weam", "task": "nli"}]
    assert second["tests"][0]["effect"] is None


def test_only_seeds_that_both_have_are_compared(tmp_path):
    path = small_ledger(tmp_path, better("tlm", "none"))
    none, tlm = (
        runs({"objective": "none"}, seeds=range(4)),
        runs({"objective": "tlm"}, 0.1, seeds=range(2, 9)),
    )
    test = verdicts_of(path, none + tlm)["claims"][0]["tests"][0]
    assert test["effect"]["seeds"] == 2
    assert len(test["runs"]) == 4
    result = verdicts_of(path, none[:2] + tlm)
    assert "no seed in common" in result["claims"][0]["reason"]


def test_holm_counts_each_distinct_deciding_test_once(tmp_path):
    control = better("weam", "none", role="control")
    path = small_ledger(
        tmp_path,
        [better("tlm", "none"), control],
        {"test_of": "S0-1"},
        better("weam", "tlm"),
        better("mlm", "none"),
    )
    records = [r for o, g in (("none", 0), ("tlm", 0.012), ("weam", 0.03)) for r in runs({"objective": o}, g)]
    result = verdicts_of(path, records)
    assert result["correction"] == {
        "method": "Holm", "deciding_tests": 2, "second_tests": 0, "other_tests": 1, "looks": [],
    }  # fmt: skip
    effects = [c["tests"][0]["effect"] for c in result["claims"][:3]]
    assert effects[0] == effects[1]
    small, large = sorted((effects[0], effects[2]), key=lambda e: e["p"])
    assert small["p_holm"] == pytest.approx(2 * small["p"])
    assert large["p_holm"] == pytest.approx(max(large["p"], 2 * small["p"]))
    alone = result["claims"][0]["tests"][1]["effect"]
    assert alone["p_holm"] == alone["p"]


@pytest.mark.parametrize(
    ("outcomes", "combine", "verdict"),
    [
        (["supported", "supported"], "all", "supported"),
        (["supported", "inconclusive"], "all", "inconclusive"),
        (["supported", "not run"], "all", "not run"),
        (["inconclusive", "not run"], "all", "not run"),
        (["contradicted", "not run"], "all", "contradicted"),
        (["supported", "contradicted"], "all", "contradicted"),
        (["supported", "contradicted"], "any", "supported"),
        (["contradicted", "not run"], "any", "not run"),
        (["contradicted", "contradicted"], "any", "contradicted"),
        (["impossible", "possible"], "all", "impossible"),
    ],
)
def test_bundles(outcomes, combine, verdict):
    assert evaluation.combined(outcomes, combine) == verdict


def test_specification_curves_change_one_choice_at_a_time(tmp_path):
    path, records = planted(tmp_path)
    test = verdicts_of(path, records)["claims"][0]["tests"][0]
    rows = test["specifications"]
    planned = {"left_out": "", "seeds": SEEDS, "margin": 0.02, "matters": 0.02, "correction": "holm"}
    asked = [r for r in rows if r.items() >= planned.items()]
    assert [r["outcome"] for r in asked] == ["supported"]
    assert {r["left_out"] for r in rows} == {"", "near", "far"}
    assert {r["seeds"] for r in rows} == set(range(2, SEEDS + 1))
    assert {r["margin"] for r in rows} == {0.01, 0.02, 0.04}


def test_properties_of_the_code_are_called_by_name(tmp_path, monkeypatch):
    def check(name):
        return {"type": "implementation", "words": "it holds", "callable": name}

    monkeypatch.setattr(evaluation, "check_planted", lambda: True, raising=False)
    monkeypatch.setattr(evaluation, "check_broken", lambda: False, raising=False)
    names = [f"claims.evaluate:check_{name}" for name in ("planted", "broken", "none")]
    path = small_ledger(tmp_path, *(check(f"xltlib.{name}") for name in (*names, "nowhere:check")))
    result = verdicts_of(path, [])
    assert outcomes(result) == ["supported", "contradicted", "not run", "not run"]
    assert result["claims"][3]["reason"] == "Not run: there is no xltlib.nowhere:check."
    monkeypatch.setattr(evaluation, "check_planted", lambda: None)
    with pytest.raises(StudyError, match="check_planted: returned None"):
        verdicts_of(path, [])


def test_the_code_of_every_statement_is_where_it_says(real):
    claims = evaluate(real, table([]), PARAMS)["claims"]
    for claim in claims:
        for place in claim["code"]:
            path, _, name = place.partition(".py: ")
            function = getattr(importlib.import_module(path.replace("/", ".")), name)
            assert inspect.isfunction(function)
            assert function.__module__.replace(".", "/") == path, f"{claim['id']}: {place}"
    code = {claim["id"]: claim["code"] for claim in claims}
    assert code["S0-3"][0] == "xltlib/pretraining/objectives.py: weam_loss"
    assert not any(code[c.id] for c in real.claims if {t.type for t in c.tests} == {"document"})
    assert all(code[c.id] for c in real.claims if {t.type for t in c.tests} != {"document"})


def test_claims_json_is_plain_the_same_twice_and_counts_itself(real):
    records = runs({"objective": "none"}, tasks=("nli", "qa")) + runs(
        {"objective": "tlm"}, 0.1, tasks=("nli", "qa")
    )
    real = replace(real, design=replace(real.design, source_score={}))  # these have .6 in the source
    first = json.dumps(evaluate(real, table(records), PARAMS), allow_nan=False)
    assert first == json.dumps(evaluate(real, table(records[::-1]), PARAMS), allow_nan=False)
    result = json.loads(first)
    assert sum(result["counts"].values()) == 65
    assert [result["counts"][k] for k in ("possible", "impossible", "contradicted by source")] == [0, 4, 1]
    verdicts = {c["id"]: c["verdict"] for c in result["claims"]}
    assert (verdicts["S0-1"], verdicts["S1-18"], verdicts["S0-3"]) == ("supported", "supported", "not run")
    assert result["ledger_digest"] == real.digest


def test_evaluate_refuses_scores_that_are_none(tmp_path):
    path = small_ledger(tmp_path, better("tlm", "none"))
    records = runs({"objective": "none"}) + runs({"objective": "tlm"})
    records[0]["scores"]["near"] = np.full(EXAMPLES, np.nan)
    with pytest.raises(StudyError, match="finite"):
        verdicts_of(path, records)


def test_markup_in_statements_stays_text(real):
    text = render_text(evaluate_claims(real, table([]), PARAMS, "S2-5")[0])
    assert '<a href="https://github.com/uclanlp/Robust-XLT">' in " ".join(text.split())
    formula = evaluate_claims(real, table([]), PARAMS, "S3-7")[0]["statement"]
    assert r"$h_i = r \cdot h_{si} + (1 - r) \cdot h_{ti}$" in formula


def test_text_of_a_statement_says_what_decided(tmp_path):
    path, records = planted(tmp_path)
    ledger = load_ledger(path)
    text = render_text(evaluate_claims(ledger, table(records), PARAMS, "S0-1")[0])
    for part in (
        "Statement <b>1</b> & so on", "mean(tlm) - mean(none) > 0.02  [nli; targets]", f"{SEEDS} seeds",
        "Verdict: mechanism supported", "Again: xlt claim S0-1",
    ):  # fmt: skip
        assert part in text
    paper = evaluate_claims(ledger, table(records), PARAMS.model_copy(update={"scale": "paper"}), "S0-1")[0]
    assert "Verdict: supported" in render_text(paper)


def test_one_statement_alone_has_the_entry_that_it_has_among_all(tmp_path):
    path, records = planted(tmp_path)
    ledger, scores = load_ledger(path), table(records)
    for claim in evaluate(ledger, scores, PARAMS)["claims"]:
        for test in claim["tests"]:
            del test["specifications"]
            test["effect"].pop("second_opinions", None)
        assert evaluate_claims(ledger, scores, PARAMS, claim["id"])[0] == claim
