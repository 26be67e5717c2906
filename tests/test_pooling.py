"""One body of evidence: profiles of one design speak together, confirmatory runs alone and from a look on."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import tinystudy
import yaml

from xltlib import StudyError, cli, study
from xltlib.claims.evidence import bodies, check, read_all
from xltlib.claims.ledger import load_ledger
from xltlib.params import load
from xltlib.store import write_json


def published(root, **changes):
    """Publish the runs of another profile of the tiny study."""
    path = root / "params" / f"{changes['profile']}.yaml"
    path.write_text(yaml.safe_dump(tinystudy.SMALL | changes))
    tinystudy.fill(path)
    study.publish_runs(study.open(load(path)))


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A study with two seeds of one design, two more of it, and one of larger tests."""
    folder = tmp_path_factory.mktemp("made")
    tinystudy.make(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XLT_ROOT", str(folder))
        for changes in ({}, {"profile": "more", "first_seed": 2}, {"profile": "other", "test_examples": 20}):
            published(folder, **{"profile": "tiny"} | changes)
    return folder


@pytest.fixture
def root(made, tmp_path, monkeypatch) -> Path:
    """A copy of it that a test may change."""
    monkeypatch.setenv("XLT_ROOT", str(tmp_path))
    return shutil.copytree(made, tmp_path, dirs_exist_ok=True)


def entry(root):
    return json.loads((root / "figures/evidence.json").read_bytes())["scales"]["mechanism"]["S0-1"]


def problems(root):
    return list(check(root / "figures", root / "params/claims.yaml"))


def edit(file, change):
    """Write a JSON file anew after a change of its content."""
    content = json.loads(file.read_bytes())
    change(content)
    write_json(file, content)


def test_a_statement_is_shown_as_published(root, capsys):
    assert cli.main(["claim", "s0-1"]) == 0
    text = capsys.readouterr().out
    assert "Evidence: published runs of more and tiny" in text
    assert text.count("Verdict:") == 1  # at the one scale that has runs
    assert cli.main(["claim", "S0-1", "--set", "seeds=3"]) == 2
    assert "without a profile's file" in capsys.readouterr().err


def test_profiles_of_one_design_are_judged_together(root):
    ledger, profiles = load_ledger(root / "params/claims.yaml"), read_all(root / "figures")
    together = [[own.folder.name for own in body] for body in bodies(profiles, ledger)]
    assert sorted(map(sorted, together)) == [["more", "tiny"], ["other"]]
    pooled = entry(root)
    assert sorted(pooled["profiles"]) == ["more", "tiny"]
    assert pooled["tests"][0]["effect"]["seeds"] == 4
    assert "under_way" not in pooled
    more = next(own for own in profiles if own.folder.name == "more")
    newer = {  # as if one kind of run had been computed by another version of its code
        digest: SimpleNamespace(
            kind=run.kind, params=run.params, record={"version": f"{run.record['version']}.1"}
        )
        for digest, run in more.runs.items()
    }
    others = [own for own in profiles if own is not more]
    assert len(bodies([*others, replace(more, runs=newer)], ledger)) == 3


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
    told = (root / "figures/evidence.json").read_bytes()
    published(root, profile="confirmation", first_seed=12, seeds=4)
    assert (root / "figures/evidence.json").read_bytes() == told  # nothing of seeds after a look
    rules["confirmation"]["looks"] = [{"seeds": 2, "alpha": 0.05}]
    design.write_text(yaml.safe_dump(rules))
    with pytest.raises(StudyError, match=r"were started under the rules .* undo the change"):
        bodies(read_all(root / "figures"), load_ledger(ledger))


def test_a_slice_keeps_what_is_published_and_is_checked(root):
    folder = root / "figures/more"
    runs = json.loads((folder / "runs.json").read_bytes())
    session = study.open(load(root / "params/more.yaml", {"seeds": "1"}))
    assert study.publish_runs(session) == f"{len(runs)} runs"
    assert json.loads((folder / "runs.json").read_bytes()) == runs
    assert problems(root) == []  # a slice may have fewer seeds than its profile asks for
    edit(
        folder / "runs.json",
        lambda runs: [run["labels"].update(seed=0) for run in runs.values() if run["labels"]],
    )
    (root / "figures/evidence.json").unlink()
    told = "\n".join(problems(root))
    assert "its labels are not those of its parameters" in told
    assert "manifest.json" in told
    assert "evidence.json: there is no such file" in told


def test_a_slice_of_another_design_is_refused_and_foreign_runs_are_told(root):
    with pytest.raises(StudyError, match="published with test_examples = 16, the profile has 18: give"):
        study.publish_runs(study.open(load(root / "params/more.yaml", {"test_examples": "18"})))
    more = load(root / "params/more.yaml")
    shutil.copytree(root / "figures/other", root / "figures/more", dirs_exist_ok=True)
    edit(
        root / "figures/more/manifest.json",
        lambda manifest: manifest.update(parameters=more.model_dump(mode="json")),
    )
    assert "are none that these parameters ask for: take them out" in "\n".join(problems(root))


def test_damaged_verdicts_are_one_clear_error(root, capsys):
    for content in ([], {}, {"scales": {}}, {"scales": {"mechanism": {"S0-1": None}}}):
        write_json(root / "figures/evidence.json", content)
        assert cli.main(["claim", "S0-1"]) == 2
        assert "evidence.json: damaged, or edited by hand" in capsys.readouterr().err


def test_parameters_are_those_of_the_profile_and_of_this_version(root):
    file = root / "params/more.yaml"
    file.write_text(file.read_text().replace("test_examples: 16", "test_examples: 18"))
    (told,) = problems(root)
    assert told.endswith(f"manifest.json: parameters: test_examples is 16, in {file} it is 18")
    edit(root / "figures/more/manifest.json", lambda manifest: manifest["parameters"].update(grown=1))
    with pytest.raises(StudyError, match=r"more/manifest.json: parameters: there is no parameter 'grown'"):
        read_all(root / "figures")
    assert "there is no parameter 'grown'" in problems(root)[0]


def test_pooled_verdicts_follow_from_the_scores(root):
    def change(content):
        content["scales"]["mechanism"]["S0-1"]["verdict"] = "supported"

    edit(root / "figures/evidence.json", change)
    (told,) = problems(root)
    assert "mechanism: S0-1: verdict: 'supported', but its scores give" in told
