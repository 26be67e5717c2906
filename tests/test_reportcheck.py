import re
from dataclasses import replace

import pytest
from studies import small_ledger

from xltlib import StudyError
from xltlib.claims import reports
from xltlib.claims.ledger import find, load_ledger


@pytest.fixture(scope="module")
def real():
    return load_ledger()


def differences(texts, ledger):
    """Where the ledger and the texts of the reports differ; each text has a header, and a table of claims."""
    verdicts, problems = {"✓": "verified", "×": "not verified"}, []
    for report in ledger.reports:
        number, text = report["id"], texts[report["id"]]
        header = re.search(r"(\d+) papers retrieved\. (\d+) claims extracted; (\d+) independently", text)
        rows = re.findall(r"^(.*)\t([✓×])\t(\d+\.\d+)$", text, flags=re.M)
        theirs = [(statement, verdicts[mark], float(x)) for statement, mark, x in rows]
        own = [c for c in ledger.claims if c.report == number]
        ours = [(c.statement, c.report_verdict, c.report_confidence) for c in own]
        problems += [f"{c.id}: {a} is not {b}" for c, a, b in zip(own, ours, theirs, strict=True) if a != b]
        counts = [report[k] for k in ("papers_retrieved", "claims_extracted", "claims_verified")]
        problems += [f"report {number}: counts"] * (counts != [int(x) for x in header.groups()])
        cited = [r["arxiv"] for r in report["references"]]
        problems += [f"report {number}: references"] * (cited != re.findall(r"arxiv\.org/abs/([\w.]+)", text))
        problems += [f"report {number}: {k}" for k in ("title", "question") if report[k] not in text]
    return problems


def test_statements_are_those_of_the_reports(real, data_dir):
    folder = data_dir.parent / "reports"
    if not folder.is_dir():
        pytest.skip(f"no reports at {folder}")
    texts = {r["id"]: (folder / r["file"]).read_text(encoding="utf-8") for r in real.reports}
    assert differences(texts, real) == []
    texts[2] = texts[2].replace("2.1 points", "2.2 points")
    assert differences(texts, real)[0].startswith("S2-1: ")


def test_the_reports_against_themselves(real):
    checks = reports.report_checks(real)
    rule = checks["confidence_rule"]
    assert rule["holds"]
    assert (rule["lowest_verified"], rule["highest_not_verified"]) == (0.15, 0.15)
    wrong = [h["report"] for h in checks["header_counts"] if not h["agrees"]]
    assert wrong == [1]
    assert checks["header_counts"][1]["rows"] == checks["header_counts"][1]["says_verified"] == 23
    pairs = {frozenset(o["verdicts"]) for o in checks["opposite_verdicts"]}
    assert {frozenset(p) for p in (("S0-5", "S1-11"), ("S0-6", "S1-13"), ("S2-1", "S2-2"))} <= pairs
    assert checks["copied_report"]["rows"] == 10
    assert checks["copied_report"]["same_words"] == 8
    assert [c["ids"] for c in checks["copied_report"]["changed"]] == [["S3-9", "S4-9"], ["S3-10", "S4-10"]]
    assert [t["id"] for t in checks["truncated"]] == ["S0-6", "S1-8", "S2-12", "S3-1", "S3-3", "S4-1", "S4-3"]
    assert checks["references"]["cited"] == 15
    assert checks["references"]["relevant"]["no"] == 5


def test_impossible_numbers_are_computed_from_the_statements(real):
    english, gain = find(real, "S3-9").tests
    found = reports.arithmetic(english, real)
    assert found["outcome"] == "impossible"
    assert found["numbers"]["SALT"] == {"implied": 111.8, "low": 110.35, "high": 113.25}
    assert found["numbers"]["mBERT"] == {"implied": 101.4, "low": 99.95, "high": 102.85}
    assert reports.arithmetic(gain, real)["numbers"] == {"stated_gain": 1.4, "gain": 2.0, "rounding": 0.15}
    changed = tuple(
        replace(c, statement=c.statement.replace("66.8", "69.1").replace("65.4", "67.0")) for c in real.claims
    )
    found = reports.arithmetic(english, replace(real, claims=changed))
    assert found["outcome"] == "possible"
    assert found["numbers"]["SALT"]["implied"] == pytest.approx(15 * 69.8 - 14 * 69.1)
    wordless = tuple(replace(c, statement=c.statement.replace("without English", "")) for c in real.claims)
    with pytest.raises(StudyError, match="S3-10: expected `without English`"):
        reports.arithmetic(english, replace(real, claims=wordless))


def test_agreement_and_calibration_by_hand(tmp_path):
    ledger = load_ledger(small_ledger(tmp_path, *[{"type": "document"}] * 5))
    confidences = (0.3, 0.2, 0.1, 0.25, 0.2)
    rows = [
        replace(c, report_confidence=x, report_verdict="verified" if x > 0.15 else "not verified")
        for c, x in zip(ledger.claims, confidences, strict=True)
    ]
    rows[4] = replace(rows[4], duplicates=("S0-2",))
    rows[1] = replace(rows[1], duplicates=("S0-5",))
    found = ("supported", "contradicted", "impossible", "not run", "contradicted")
    ours = {c.id: verdict for c, verdict in zip(rows, found, strict=True)}
    table = reports.verdict_table(rows, ours)
    assert (table["decided"], table["agree"], table["open"]) == (3, 2, ["S0-4"])
    assert table["interval"] == [0.2077, 0.9385]  # Wilson's interval of 2 in 3
    assert table["table"]["verified"] == {"supported": 1, "contradicted": 2, "not run": 1}
    told = reports.calibration(rows, ours)
    assert told["holds"] == {"n": 1, "mean_confidence": 0.3}
    assert told["does not hold"] == {"n": 2, "mean_confidence": 0.15}
    assert told["auc"] == 1.0
    nothing = reports.verdict_table(rows, dict.fromkeys(ours, "not run"))
    assert (nothing["decided"], nothing["interval"]) == (0, None)
    assert "auc" not in reports.calibration(rows, dict.fromkeys(ours, "not run"))
