"""The design of the tests: what freezes it, and what is refused when it moves."""

import pytest
import yaml
from studies import better, small_ledger

from xltlib import StudyError, study
from xltlib.claims.ledger import load_ledger
from xltlib.params import Params
from xltlib.store import commit, write_json


def changed(path, **values):
    """The file with other values, the keys written with __ for each level."""
    raw = yaml.safe_load(path.read_text())
    for name, value in values.items():
        *levels, last = name.split("__")
        place = raw
        for level in levels:
            place = place[level]
        place[last] = value
    path.write_text(yaml.safe_dump(raw))


def test_the_digest_is_of_the_rules_and_not_of_words(tmp_path):
    path = small_ledger(tmp_path, better("tlm", "none"))
    before = load_ledger(path).design.digest
    raw = yaml.safe_load(path.read_text())
    test = raw["claims"][0]["tests"][0]

    def digest_with(**values):
        test.update(values)
        path.write_text(yaml.safe_dump(raw))
        return load_ledger(path).design.digest

    assert digest_with(words="said otherwise", reason="for another reason") == before
    digests = [digest_with(matters=0.01), digest_with(margin=0.005), digest_with(task="qa")]
    changed(tmp_path / "design.yaml", learnt__share=0.5)
    digests.append(load_ledger(path).design.digest)
    changed(tmp_path / "design.yaml", frozen="another")
    assert load_ledger(path).design.digest == digests[-1]
    assert len({before, *digests}) == 5


def test_a_design_that_cannot_be_used_is_refused(tmp_path):
    path = small_ledger(tmp_path, better("tlm", "none"))
    changed(tmp_path / "design.yaml", confirmation__looks=[{"seeds": 24, "alpha": 0.02}] * 2)
    with pytest.raises(StudyError, match="looks: expected growing numbers of seeds"):
        load_ledger(path)
    (tmp_path / "design.yaml").write_text("exploration: {profiles: []}\n")
    with pytest.raises(StudyError, match="design.yaml: expected the keys of the design"):
        load_ledger(path)


def test_confirmatory_runs_are_only_computed_under_the_frozen_rules(tmp_path):
    path = small_ledger(tmp_path, better("tlm", "none"))
    with pytest.raises(StudyError, match="frozen is none"):
        load_ledger(path).design.require_frozen("confirmation")
    load_ledger(path).design.require_frozen("full")
    changed(tmp_path / "design.yaml", frozen=load_ledger(path).design.digest)
    load_ledger(path).design.require_frozen("confirmation")


def test_the_studys_own_rules_are_frozen(root):
    design = load_ledger(root / "params" / "claims.yaml").design
    assert design.digest == design.frozen
    assert sum(look.alpha for look in design.looks) == pytest.approx(0.05)
    assert len(commit(root)) >= 40 or not (root / ".git").exists()


def test_evidence_that_is_older_than_its_rules_is_a_problem(tmp_path):
    path = small_ledger(tmp_path, better("tlm", "none"))
    changed(tmp_path / "design.yaml", frozen=load_ledger(path).design.digest)
    ledger, folder = load_ledger(path), tmp_path / "figures" / "confirmation"

    started = ledger.design.digest
    assert ledger.design.younger_rules("confirmation", started) == ""
    raw = yaml.safe_load(path.read_text())
    raw["claims"][0]["tests"][0]["matters"] = 0.005
    path.write_text(yaml.safe_dump(raw))
    design = load_ledger(path).design
    assert "is younger than the runs" in design.younger_rules("confirmation", started)
    changed(tmp_path / "design.yaml", frozen=design.digest)
    design = load_ledger(path).design  # frozen anew after the runs
    assert "is younger than the runs" in design.younger_rules("confirmation", started)

    class Session:
        params, root, published = Params(profile="confirmation"), tmp_path, folder

    folder.mkdir(parents=True)
    write_json(folder / "manifest.json", {"rules": {"digest": started}})
    with pytest.raises(StudyError, match="undo the change"):
        study._rules(design, Session)
