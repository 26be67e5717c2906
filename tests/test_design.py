"""The design of the tests: what freezes it, and what is refused when it moves."""

from types import SimpleNamespace

import pytest
import yaml
from studies import better, small_ledger

from xltlib import StudyError, study
from xltlib.claims.ledger import load_ledger
from xltlib.params import Params
from xltlib.store import commit, write_json


@pytest.fixture
def path(tmp_path):
    """A small ledger with a design beside it."""
    return small_ledger(tmp_path, better("tlm", "none"))


def changed(path, *levels, **values):
    """The YAML file at `path`, or that of the design beside it, with other values below some levels."""
    file = path if levels[:1] == ("claims",) else path.with_name("design.yaml")
    raw = yaml.safe_load(file.read_text())
    place = raw
    for level in levels:
        place = place[level]
    place.update(values)
    file.write_text(yaml.safe_dump(raw))
    return load_ledger(path).design


def test_the_digest_is_of_the_rules_and_not_of_words(path):
    before, test = load_ledger(path).design.digest, ("claims", 0, "tests", 0)
    assert changed(path, *test, words="said otherwise", reason="for another reason").digest == before
    assert changed(path, frozen="another").digest == before
    moved = ({"matters": 0.01}, {"margin": 0.005}, {"task": "qa"})
    digests = [changed(path, *test, **values).digest for values in moved]
    digests.append(changed(path, "learnt", share=0.5).digest)
    assert len({before, *digests}) == 5


def test_a_design_that_cannot_be_used_is_refused(path):
    with pytest.raises(StudyError, match="looks: expected growing numbers of seeds"):
        changed(path, "confirmation", looks=[{"seeds": 24, "alpha": 0.02}] * 2)
    path.with_name("design.yaml").write_text("exploration: {profiles: []}\n")
    with pytest.raises(StudyError, match="design.yaml: confirmation: is missing"):
        load_ledger(path)


def test_confirmatory_runs_are_only_computed_under_the_frozen_rules(path):
    design = load_ledger(path).design
    with pytest.raises(StudyError, match="frozen is none"):
        design.require_frozen("confirmation")
    design.require_frozen("full")
    changed(path, frozen=design.digest).require_frozen("confirmation")


def test_the_studys_own_rules_are_frozen(root):
    design = load_ledger(root / "params" / "claims.yaml").design
    assert design.digest == design.frozen
    assert sum(look["alpha"] for look in design.confirmation["looks"]) == pytest.approx(0.05)
    assert len(commit(root)) >= 40 or not (root / ".git").exists()


def test_evidence_that_is_older_than_its_rules_is_a_problem(path, tmp_path):
    started = load_ledger(path).design.digest
    changed(path, frozen=started).require_older("confirmation", started, tmp_path)
    design = changed(path, "claims", 0, "tests", 0, matters=0.005)
    for each in (design, changed(path, frozen=design.digest)):  # also where it was frozen anew after the runs
        with pytest.raises(StudyError, match="is younger than the runs"):
            each.require_older("confirmation", started, tmp_path)
        each.require_older("full", started, tmp_path)
    write_json(tmp_path / "manifest.json", {"rules": {"digest": started}})
    session = SimpleNamespace(params=Params(profile="confirmation"), root=tmp_path, published=tmp_path)
    with pytest.raises(StudyError, match="undo the change"):
        study._rules(design, session)
