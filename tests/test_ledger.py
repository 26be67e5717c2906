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
    assert all(t.words and t.reason and t.unit for c in real.claims for t in c.tests if t.measured)
    assert {f["mark"] for c in real.claims for f in c.source["facts"]} == set(MARKS)
    for claim in real.claims:
        assert len({"measured" if t.measured else t.type for t in claim.deciding}) == 1, claim.id
        assert claim.combine == ("all" if len(claim.deciding) > 1 else ""), claim.id
        read = any(fact["mark"] == "read in source" for fact in claim.source["facts"])
        assert read or claim.source["status"] == "not found", claim.id


def test_statements_refer_to_each_other(real):
    for claim in real.claims:
        others = [*claim.duplicates, *claim.contradicts, *claim.parts, *(r["id"] for r in claim.related)]
        assert claim.id not in others
        assert all(find(real, other) for other in (*others, *(c for t in claim.tests for c in t.claims)))
        for key in ("duplicates", "contradicts"):
            assert all(claim.id in getattr(find(real, other), key) for other in getattr(claim, key))


def test_what_is_known_of_the_statements_is_in_the_ledger(real, data_dir):
    path = data_dir.parent / "facts" / "claims.csv"
    if not path.is_file():
        pytest.skip(f"no table of facts at {path}")
    for row in csv.DictReader(path.open(encoding="utf-8")):
        claim = find(real, row["id"])
        assert (claim.kind, claim.source["status"]) == (row["kind"], row["source_status"]), claim.id


def test_duplicates_share_one_test_and_never_copy_it(real):
    first, second = find(real, "S0-3"), find(real, "S1-23")
    assert [t.key for t in first.tests] == [t.key for t in second.tests]
    assert {t.test_of for t in second.tests} == {"S0-3"}
    (qa,) = find(real, "S1-18").deciding
    assert (qa.task, qa.metric) == ("qa", "f1")
    assert qa.key in [t.key for t in find(real, "S0-1").deciding]


def test_a_miss_names_the_nearest_statement(real):
    assert find(real, " s0-3 ").id == "S0-3"
    with pytest.raises(StudyError, match=r"no statement 'S0-33' .*S0-3"):
        find(real, "S0-33")


@pytest.mark.parametrize(
    ("place", "change", "message"),
    [
        ("claim", {"statment": "x"}, r"claims.yaml: S0-1: statment: .*did you mean statement\?"),
        ("claim", {"kind": None}, r"S0-1: kind: is missing"),
        ("claim", {"id": "S7-1"}, r"S7-1: id: "),
        ("claim", {"id": "S0-2"}, r"S0-2: id: is given twice"),
        ("claim", {"report_confidence": 1.5}, r"S0-1: report_confidence: found 1.5"),
        ("claim", {"tests": []}, r"S0-1: tests: none"),
        ("claim", {"tests": [{"test_of": "S0-9"}]}, r"S0-1: test_of: there is no statement 'S0-9'"),
        ("claim", {"tests": [{"test_of": "S0-1"}]}, r"S0-1: test_of: goes in a circle: S0-1 -> S0-1"),
        ("claim", {"tests": [{"test_of": "S0-2/x"}]}, r"S0-1: test_of: S0-2 has no test named 'x'"),
        ("claim", {"source": "S0-9"}, r"S0-1: source: 'S0-9' has no source check"),
        ("source", {"status": "unknown"}, r"S0-1: source: status: found 'unknown'"),
        ("source", {"searched": ["her"]}, r"S0-1: source: searched: 'her', expected it"),
        ("test", {"margin": -0.1}, r"S0-1: test 1: margin: found -0.1, expected greater than"),
        ("test", {"margin": "0.1"}, r"S0-1: test 1: margin: found '0.1'"),
        ("test", {"reason": None}, r"S0-1: test 1: reason: is missing"),
        ("test", {"marign": 0.1}, r"S0-1: test 1: marign: .*did you mean margin\?"),
        ("test", {"matters": 0.001, "margin": 0.01}, r"S0-1: test 1: matters: below the margin"),
        ("test", {"type": "better"}, r"S0-1: test 1: type: found 'better'"),
        ("test", {"b": None}, r"S0-1: test 1: b: expected either"),
        ("test", {"a": {"objective": "tml"}}, r"test 1: a: objective: .*did you mean tlm\?"),
        ("test", {"a": {"objectiv": "tlm"}}, r"test 1: a: objectiv: .*did you mean objective\?"),
        ("test", {"settings": "target"}, r"test 1: settings: found .*did you mean targets\?"),
        ("test", {"task": ["nli", "xnli"]}, r"test 1: task: found 'xnli'.*did you mean nli\?"),
        ("test", {"role": "control"}, r"S0-1: tests: none decides"),
    ],
)  # fmt: skip
def test_malformed_ledgers_are_refused_with_file_statement_and_key(tmp_path, place, change, message):
    path = small_ledger(tmp_path, better("tlm", "none"), better("weam", "tlm"))
    raw = yaml.safe_load(path.read_text())
    first = raw["claims"][0]
    changed = {"claim": first, "source": first["source"], "test": first["tests"][0]}[place]
    changed |= change
    for key in (key for key, value in change.items() if value is None):
        del changed[key]
    path.write_text(yaml.safe_dump(raw))
    with pytest.raises(StudyError, match=message):
        load_ledger(path)


def test_what_is_not_a_ledger_is_refused(tmp_path):
    path = small_ledger(tmp_path, {"type": "document"})
    text = path.read_text()
    for broken, message in [
        (text + "claims: []\n", "line .*claims is given twice"),
        (text + "  - [", "line .*not valid YAML"),
        ("- 1\n", r"claims.yaml: found \[1\], expected a valid dictionary"),
    ]:
        path.write_text(broken)
        with pytest.raises(StudyError, match=message):
            load_ledger(path)
    with pytest.raises(StudyError, match="no such file"):
        load_ledger(tmp_path / "none" / "claims.yaml")


def test_the_digest_changes_with_a_margin(tmp_path):
    paths = (small_ledger(tmp_path, better("tlm", "none", margin=m)) for m in (0, 0, 0.01))
    digests = [load_ledger(path).digest for path in paths]
    assert digests[0] == digests[1] != digests[2]


def test_formulas_follow_the_queries(tmp_path):
    path, _ = planted(tmp_path)
    formulas = [c.tests[0].formula for c in load_ledger(path).claims]
    assert formulas[2] == "|mean(tlm) - mean(mlm)| < 0.05  [nli; targets]"
    assert formulas[5] == "-slope of mean(weam) over mask_rate in (0.15, 0.3, 0.6) > 0  [nli; targets]"
    gain = "mean(none + rs_da - none | {})"
    assert formulas[6] == f"{gain.format('pairs')} - {gain.format('targets')} > 0  [nli]"
    assert formulas[8] == "mean(tlm) - 0.5 > 0  [nli; targets]"
