import csv

import pytest
import yaml
from studies import better, planted, small_ledger

from xltlib import StudyError
from xltlib.claims.ledger import MARKS, find, load_ledger


@pytest.fixture(scope="module")
def real():
    return load_ledger()


def test_the_ledger_holds_all_statements_with_a_deciding_test(real):
    rows = {0: 9, 1: 23, 2: 13, 3: 10, 4: 10}
    assert [c.id for c in real.claims] == [f"S{r}-{i}" for r, n in rows.items() for i in range(1, n + 1)]
    assert all(c.deciding for c in real.claims)
    assert all(t.words and t.reason and t.unit for c in real.claims for t in c.tests if t.measured)
    assert {f["mark"] for c in real.claims for f in c.source["facts"]} == set(MARKS)
    assert not any("recollection" in f["fact"] for c in real.claims for f in c.source["facts"])


def test_what_is_known_of_the_statements_is_in_the_ledger(real, data_dir):
    path = data_dir.parent / "facts" / "claims.csv"
    if not path.is_file():
        pytest.skip(f"no table of facts at {path}")
    for row in csv.DictReader(path.open(encoding="utf-8")):
        claim = find(real, row["id"])
        assert (claim.statement, claim.report_verdict) == (row["claim"], row["report_verdict"])
        assert (claim.report_confidence, claim.kind) == (float(row["report_confidence"]), row["kind"])
        assert claim.source["status"] == row["source_status"], claim.id


def test_duplicates_share_one_test_and_never_copy_it(real):
    first, second = find(real, "S0-3"), find(real, "S1-23")
    assert [t.key for t in first.tests] == [t.key for t in second.tests]
    assert {t.test_of for t in second.tests} == {"S0-3"}
    qa = find(real, "S1-18").deciding
    assert [t.task for t in qa] == ["qa"]
    assert qa[0].metric == "f1"
    assert qa[0].key in [t.key for t in find(real, "S0-1").deciding]


def test_a_miss_names_the_nearest_statement(real):
    assert find(real, " s0-3 ").id == "S0-3"
    with pytest.raises(StudyError, match=r"no statement 'S0-33' .*S0-3"):
        find(real, "S0-33")


def test_malformed_ledgers_are_refused_with_file_statement_and_key(tmp_path):
    path = small_ledger(tmp_path, better("tlm", "none"), better("weam", "tlm"))
    raw = yaml.safe_load(path.read_text())
    first = raw["claims"][0]
    test = first["tests"][0]
    cases = [
        (lambda: first.update(statment="x"), r"claims.yaml: S0-1: statment: .*did you mean statement\?"),
        (lambda: first.pop("kind"), r"S0-1: kind: is missing"),
        (lambda: first.update(id="S7-1"), r"S7-1: id: "),
        (lambda: first.update(id="S0-2"), r"S0-2: id: is given twice"),
        (lambda: first.update(duplicates=["S0-2"]), r"S0-1: duplicates: S0-2 does not name S0-1"),
        (lambda: first.update(contradicts=["S0-9"]), r"S0-1: contradicts: there is no other .*'S0-9'"),
        (lambda: first.update(report_confidence=1.5), r"S0-1: report_confidence: found 1.5"),
        (lambda: first.update(tests=[]), r"S0-1: tests: none"),
        (lambda: first.update(combine="all"), r"S0-1: combine: "),
        (lambda: test.update(margin=-0.1), r"S0-1: test 1: margin: found -0.1, expected greater than"),
        (lambda: test.update(margin="0.1"), r"S0-1: test 1: margin: found '0.1'"),
        (lambda: test.update(margin=2), r"S0-1: test 1: margin: found 2"),
        (lambda: test.pop("reason"), r"S0-1: test 1: reason: is missing"),
        (lambda: test.update(marign=0.1), r"S0-1: test 1: marign: .*did you mean margin\?"),
        (lambda: test.update(type="better"), r"S0-1: test 1: type: found 'better'"),
        (lambda: test.pop("b"), r"S0-1: test 1: b: expected either"),
        (lambda: test.update(a={"objective": "tml"}), r"test 1: a: objective: .*did you mean tlm\?"),
        (lambda: test.update(a={"objectiv": "tlm"}), r"test 1: a: objectiv: .*did you mean objective\?"),
        (lambda: test.update(settings="target"), r"test 1: settings: .*did you mean targets\?"),
        (lambda: test.update(task=["nli", "xnli"]), r"test 1: task: found 'xnli'.*did you mean nli\?"),
        (lambda: test.update(role="control"), r"S0-1: tests: none decides"),
        (lambda: first.update(tests=[{"test_of": "S0-9"}]), r"S0-1: test_of: there is no statement 'S0-9'"),
        (lambda: first.update(tests=[{"test_of": "S0-1"}]), r"S0-1: test_of: goes in a circle: S0-1 -> S0-1"),
        (lambda: first.update(tests=[{"test_of": "S0-2/x"}]), r"S0-1: test_of: S0-2 has no test named 'x'"),
        (lambda: first["source"].update(status="unknown"), r"S0-1: source: status: found 'unknown'"),
        (lambda: first["source"].update(status="confirmed"), r"S0-1: source: status: confirmed needs a fact"),
        (lambda: first.update(source="S0-9"), r"S0-1: source: 'S0-9' has no source check"),
    ]  # fmt: skip
    for change, message in cases:
        raw = yaml.safe_load(small_ledger(tmp_path, better("tlm", "none"), better("weam", "tlm")).read_text())
        first = raw["claims"][0]
        test = first["tests"][0]
        change()
        path.write_text(yaml.safe_dump(raw))
        with pytest.raises(StudyError, match=message):
            load_ledger(path)


def test_a_circle_of_two_references_is_told_whole(tmp_path):
    path = small_ledger(tmp_path, {"test_of": "S0-2"}, {"test_of": "S0-1"})
    with pytest.raises(StudyError, match="S0-1 -> S0-2 -> S0-1"):
        load_ledger(path)


def test_what_is_not_a_ledger_is_refused(tmp_path):
    path = small_ledger(tmp_path, {"type": "document"})
    text = path.read_text()
    for broken, message in [
        (text + "claims: []\n", "line .*claims is given twice"),
        (text + "  - [", "line .*not valid YAML"),
        ("- 1\n", "expected keys with values"),
    ]:
        path.write_text(broken)
        with pytest.raises(StudyError, match=message):
            load_ledger(path)
    with pytest.raises(StudyError, match="there is no such file"):
        load_ledger(tmp_path / "none" / "claims.yaml")


def test_the_digest_changes_with_a_margin(tmp_path):
    digests = [
        load_ledger(small_ledger(tmp_path, better("tlm", "none", margin=m))).digest for m in (0, 0, 0.01)
    ]
    assert digests[0] == digests[1] != digests[2]


def test_formulas_follow_the_queries(tmp_path):
    path, _ = planted(tmp_path)
    formulas = [c.tests[0].formula for c in load_ledger(path).claims]
    assert formulas[2] == "|mean(tlm) - mean(mlm)| < 0.05  [nli; targets]"
    assert formulas[5] == "-slope of mean(weam) over mask_rate in (0.15, 0.3, 0.6) > 0  [nli; targets]"
    gain = "mean(none + rs_da - none | {})"
    assert formulas[6] == f"{gain.format('pairs')} - {gain.format('targets')} > 0  [nli]"
    assert formulas[8] == "mean(tlm) - 0.5 > 0  [nli; targets]"
