"""One body of evidence: profiles of one design speak together, confirmatory runs alone and from a look on."""

import json
from pathlib import Path

import pytest
import tinystudy
import yaml

from xltlib import StudyError, study
from xltlib.claims.evidence import check_pooled, check_runs
from xltlib.claims.ledger import load_ledger
from xltlib.claims.pooling import bodies
from xltlib.params import load
from xltlib.store import write_json


def published(root, **changes):
    """Publish the runs of another profile of the tiny study."""
    path = root / "params" / f"{changes['profile']}.yaml"
    path.write_text(yaml.safe_dump(tinystudy.SMALL | changes))
    tinystudy.fill(path)
    study.publish_runs(study.open(load(path)))


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    """A study with two seeds of one design, two more of it, and one of larger tests."""
    monkeypatch.setenv("XLT_ROOT", str(tmp_path))
    tinystudy.make(tmp_path)
    for changes in ({}, {"profile": "more", "first_seed": 2}, {"profile": "other", "test_examples": 20}):
        published(tmp_path, **{"profile": "tiny"} | changes)
    return tmp_path


def entry(root):
    return json.loads((root / "figures/evidence.json").read_bytes())["scales"]["mechanism"]["S0-1"]


def test_profiles_of_one_design_are_judged_together(root):
    designs = [body.profiles for body in bodies(root / "figures", load_ledger(root / "params/claims.yaml"))]
    assert sorted(map(sorted, designs)) == [["more", "tiny"], ["other"]]
    pooled = entry(root)
    assert sorted(pooled["profiles"]) == ["more", "tiny"]
    assert pooled["tests"][0]["effect"]["seeds"] == 4
    assert "under_way" not in pooled


def test_confirmatory_runs_wait_for_their_first_look_and_then_speak_alone(root):
    design, ledger = root / "params/design.yaml", root / "params/claims.yaml"
    rules = yaml.safe_load(design.read_text())
    rules["confirmation"]["looks"] = [{"seeds": 3, "alpha": 0.05}]
    design.write_text(yaml.safe_dump(rules))
    design.write_text(yaml.safe_dump(rules | {"frozen": load_ledger(ledger).design.digest}))
    published(root, profile="confirmation", first_seed=12, seeds=2)
    assert sorted(entry(root)["profiles"]) == ["more", "tiny"]
    assert entry(root)["under_way"] == "2 of the 3 seeds of the first look are there"
    published(root, profile="confirmation", first_seed=12, seeds=3)
    assert (entry(root)["profiles"], entry(root)["confirmatory"]) == (["confirmation"], True)
    assert entry(root)["tests"][0]["effect"]["seeds"] == 3
    rules["confirmation"]["looks"] = [{"seeds": 2, "alpha": 0.05}]
    design.write_text(yaml.safe_dump(rules))
    with pytest.raises(StudyError, match=r"were started under the rules .* undo the change"):
        bodies(root / "figures", load_ledger(ledger))


def test_a_slice_is_checked_as_a_whole_profile_is(root):
    folder = root / "figures/more"
    assert list(check_runs(folder)) == []
    runs = json.loads((folder / "runs.json").read_bytes())
    next(run for run in runs.values() if "seed" in run.get("labels", {}))["labels"]["seed"] = 0
    write_json(folder / "runs.json", runs)
    problems = "\n".join(check_runs(folder))
    assert "its labels are not those of its parameters" in problems
    assert "manifest.json" in problems
    (root / "figures/evidence.json").unlink()
    (told,) = check_pooled(root / "figures", root / "params/claims.yaml")
    assert "evidence.json is missing" in told


def test_a_slice_keeps_what_is_published(root):
    session = study.open(load(root / "params/more.yaml", {"seeds": "1"}))
    runs = json.loads((root / "figures/more/runs.json").read_bytes())
    assert study.publish_runs(session) == len(runs)
    assert json.loads((root / "figures/more/runs.json").read_bytes()) == runs


def test_pooled_verdicts_follow_from_the_scores(root):
    figures, ledger = root / "figures", root / "params/claims.yaml"
    assert list(check_pooled(figures, ledger)) == []
    content = json.loads((figures / "evidence.json").read_bytes())
    content["scales"]["mechanism"]["S0-1"]["verdict"] = "supported"
    write_json(figures / "evidence.json", content)
    (told,) = check_pooled(figures, ledger)
    assert "mechanism: S0-1: verdict: 'supported', but its scores give" in told
