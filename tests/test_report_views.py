"""What the page shows of the evidence: plots by hand-worked coordinates, numbers as text, groupings."""

import pytest
from sample_evidence import sample_claim, write_ledger, write_profile

from xltlib import report
from xltlib import report_views as views
from xltlib.claims.verdicts import robustness


def test_plot_geometry_by_hand():
    effect = {"estimate": 0.0, "low": -0.05, "high": 0.05, "per_seed": [0.0]}
    plot = views.effect_plot({"type": "equivalence", "margin": 0.1, "effect": effect}, "x")
    centre = (views.LEFT + views.RIGHT) / 2
    assert plot["null"] == centre == plot["rows"][0]["x"] == plot["seeds"][0]
    # the axis runs from -0.112 to 0.112: the margins with 6 % of 0.2 on either side
    half = (views.RIGHT - views.LEFT) / 2 * 0.1 / 0.112
    assert [m[0] for m in plot["margins"]] == pytest.approx([centre - half, centre + half], abs=0.1)
    assert [label for _, label in plot["ticks"]] == ["−0.1", "0", "0.1"]
    assert "90 % interval" in plot["desc"]  # two one-sided tests at 5 % read the 90 % interval


@pytest.mark.parametrize("effect", [None, {}, {"estimate": None}, {"estimate": float("nan")}])
def test_no_estimate_no_plot(effect):
    assert views.effect_plot({"effect": effect}, "x") is None


def test_numbers_and_words():
    assert views.interval({"estimate": -0.05, "low": -0.1, "high": 0.0}) == "−0.050 [−0.100, +0.000]"
    assert views.interval({"estimate": 0.05}) == "+0.050"
    assert views.p_value(0.00002) == "< 0.001"
    assert views.p_value(None) == views.number(float("nan")) == "–"
    assert sorted(["S1-10", "S1-9"], key=views.natural) == ["S1-9", "S1-10"]
    assert views.shown_verdict({"verdict": "supported", "scale": "mechanism"}) == "mechanism supported"
    assert views.shown_verdict({"verdict": "not found", "scale": "mechanism"}) == "not found"


def test_main_effect_is_that_of_a_deciding_test():
    control, deciding = {"estimate": 0.5}, {"estimate": 0.1}
    claim = {"tests": [{"role": "control", "effect": control}, {"role": "decides", "effect": deciding}]}
    assert views.main_effect(claim) is deciding
    assert views.main_effect({"tests": [{"role": "control", "effect": control}]}) is None


def test_not_run_groups_claims_by_reason():
    claims = [{"id": f"S0-{i}", "verdict": "not run", "reason": "ab"[i == 1]} for i in (1, 2, 3)]
    assert views.not_run([*claims, {"id": "S0-4", "verdict": "possible"}]) == [
        ("a", ["S0-2", "S0-3"]),
        ("b", ["S0-1"]),
    ]


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(-0.1, 0.3, [-0.1, 0.0, 0.1, 0.2, 0.3]), (0.0, 0.019, [0.0, 0.005, 0.01, 0.015])],
)
def test_ticks_are_round(low, high, expected):
    assert views.ticks(low, high) == expected


def test_robustness_counts_each_choice_by_hand():
    """The first row is the analysis as planned; of four variants, one with fewer seeds differs."""
    planned = {"margin": 0.02, "seeds": 6, "left_out": "", "correction": "holm", "outcome": "supported"}
    moved = (
        {"margin": 0.0}, {"seeds": 5}, {"seeds": 2, "outcome": "contradicted"}, {"left_out": "far"}
    )  # fmt: skip
    rows = [planned, *({**planned, **change} for change in moved)]
    test = {"margin": 0.02, "outcome": "supported", "specifications": rows}
    assert robustness(test) == {
        "kept": 3, "reversed": 1, "variants": 4,
        "by": [("margin", 1, 1), ("seeds", 1, 2), ("languages", 1, 1)],
    }  # fmt: skip
    assert robustness({**test, "specifications": rows[:1]}) is None
    assert robustness({}) is None
    claim = {"verdict": "supported", "tests": [test]}
    steady = {"verdict": "supported", "tests": [{**test, "specifications": rows[:2]}]}
    explained = {**steady, "tests": [*steady["tests"], {**test, "role": "ablation"}]}
    assert views.robust_claims([claim, steady, explained, {"verdict": "not run"}]) == (2, 3)


def test_a_question_is_answered_by_an_effect():
    effect = {"estimate": 0.1}
    assert views.answered({"effect": effect})
    assert views.answered({"status": "answered", "effect": effect})
    assert not views.answered({"status": "not run", "reason": "no runs"})
    assert not views.answered({"question": "And size?"})


def test_the_page_of_one_profile_tells_what_the_others_say(tmp_path, root):
    """Of three other profiles one has no test of the claim, and one had another ledger."""
    ledger = write_ledger(tmp_path / "params", root)
    claim, untested = sample_claim(0), {**sample_claim(0), "verdict": "not run", "tests": []}
    wider = {**claim, "verdict": "contradicted", "scale": "reduced"}
    for name, found in {"quick": claim, "real": wider, "other": untested, "old": wider}.items():
        write_profile(tmp_path / "figures" / name, [found], ledger)
    stale = tmp_path / "figures/old/claims.json"
    stale.write_text(stale.read_text().replace('"ledger_digest": "', '"ledger_digest": "x'))

    evidence = report.read_evidence(tmp_path / "figures/quick", ledger, tmp_path)
    told = {"profile": "real", "verdict": "reduced contradicted", "effect": "+0.060 [+0.030, +0.090]"}
    assert views.elsewhere(claim, evidence.beside) == [{**told, "seeds": 3}]
    counted = [(row[""], row["seeds"], row["supported"], row["not run"]) for row in views.profiles(evidence)]
    assert counted == [("quick", 3, 1, 0), ("other", None, 0, 1), ("real", 3, 0, 0)]
    effect = "+0.060 [+0.030, +0.090]"
    (repeated,) = views.repeated(evidence)
    assert repeated["statement"] == claim["id"]
    assert [repeated[name] for name in ("quick", "other", "real")] == [effect, "–", effect]
    made = report.pages(evidence, [])
    assert "reduced contradicted" in made["report-0"][1][1].fragment
    assert "all published profiles" in made["index"][1][0].fragment
    assert effect in made["profiles"][1][0].fragment

    write_profile(tmp_path / "alone/quick", [claim], ledger)
    evidence = report.read_evidence(tmp_path / "alone/quick", ledger, tmp_path)
    assert views.profiles(evidence) == views.elsewhere(claim, evidence.beside) == []
    assert views.repeated(evidence) == []
    assert "profiles" not in report.pages(evidence, [])


def test_runs_by_kind_say_what_they_compare():
    base = {"kind": "encoder", "params": {"batch_size": 8, "objective": "base", "seed": 1}}
    weam = {"kind": "encoder", "params": {"objective": "weam", "options": {"lambda_": 0.5}, "seed": 0}}
    scored = {"kind": "transfer", "labels": {"objective": "tlm", "method": "salt", "task": "qa", "seed": 2}}
    runs = {"c": scored, "d": {"kind": "new"}, "b": weam, "a": base, "e": {"kind": "text", "params": None}}
    found = views.by_kind(runs)
    assert {kind: [digest for digest, _ in each] for kind, each in found.items()} == {
        "text": ["e"], "encoder": ["a", "b"], "transfer": ["c"], "new": ["d"],
    }  # fmt: skip
    told = [views.run_summary(run) for run in (base, weam, scored)]
    assert told[:2] == ["encoder, base, seed 1, batch_size 8", "encoder, weam(lambda_=0.5), seed 0"]
    assert told[2].endswith("qa, seed 2")
