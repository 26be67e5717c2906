"""What notebook 06 shows: all statements, the effects behind verdicts, and the reports as data."""

import html
from collections.abc import Mapping

import pandas as pd

from xltlib import drawing
from xltlib.claims.claim_text import render_text, shown_verdict
from xltlib.claims.verdicts import forest_row, robustness
from xltlib.drawing import Drawn, Session, counted

OPENING = {  # how itables shows `claim_table`: in its order, whole, filtered by any column, lines broken
    "allow_html": True, "layout": {"top1": "searchBuilder"}, "classes": "display compact", "order": [],
    "lengthMenu": [5, 10, 25, 100], "pageLength": 5, "maxBytes": 0, "showIndex": False, "autoWidth": False,
}  # fmt: skip


def claim_table(evidence: Mapping) -> pd.DataFrame:
    """All statements with the reports' verdict and ours; a statement opens to show its evidence.

    Cells are HTML in which everything that comes from data is escaped: show them by itables with `OPENING`.
    """
    rows = []
    for claim in evidence["claims"]:
        summary, full = (html.escape(x) for x in (f"{claim['id']} {claim['statement']}", render_text(claim)))
        details = full.replace("\n    ", " ").replace("\n", "<br>")  # the table breaks lines itself
        wide = '<details style="min-width: 24em; text-align: left">'
        cells = {
            "verdict": shown_verdict(claim), "report says": claim["report_verdict"],
            "confidence": claim["report_confidence"], "source says": claim["source"]["status"],
            "report": claim["report"], "method": claim["method"], "tasks": ", ".join(claim["tasks"]),
        }  # fmt: skip
        text = {k: html.escape(v) if isinstance(v, str) else v for k, v in cells.items()}
        rows.append({"statement": f"{wide}<summary>{summary}</summary>{details}</details>"} | text)
    return pd.DataFrame(rows)


def claim_effects(session: Session, evidence: Mapping) -> Drawn:
    """Every deciding test that has an effect: estimate, interval, margin and outcome."""
    deciding = [
        (claim["id"], test)
        for claim in evidence["claims"]
        for test in claim["tests"]
        if test["role"] == "decides" and test.get("effect")
    ]
    rows = [{"label": f"{name} {test['type']}, {test['task']}"} | forest_row(test) for name, test in deciding]
    tested = list(dict.fromkeys(name for name, _ in deciding))
    most = max((len(row["seeds"]) for row in rows), default=0)
    told = {"count": len(rows), "tested": len(tested), "most": counted(most, "seed")}
    return drawing.save(session, "claim_effects", rows, told, claims=tested)


def robustness_table(evidence: Mapping) -> pd.DataFrame:
    """How many variants of the analysis keep the outcome of each deciding test, in all and by choice."""
    rows = {}
    for claim in evidence["claims"]:
        for number, test in enumerate(claim["tests"], 1):
            if test["role"] == "decides" and (variants := robustness(test)):
                row = {"outcome": test["outcome"], "all": f"{variants['kept']} of {variants['variants']}"}
                row["reversed"] = variants["reversed"]
                row |= {choice: f"{kept} of {count}" for choice, kept, count in variants["by"]}
                rows[f"{claim['id']}, test {number} ({test['type']}, {test['task']})"] = row
    columns = ("outcome", "all", "reversed", "margin", "seeds", "languages", "correction")
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns).fillna("–")


def report_table(evidence: Mapping) -> pd.DataFrame:
    """What the reports say against themselves, counted."""
    checks = evidence["reports"]
    rule, copied, cited = checks["confidence_rule"], checks["copied_report"], checks["references"]
    wrong = [f"report {h['report']}" for h in checks["header_counts"] if not h["agrees"]]
    opposite = [" and ".join(pair["verdicts"]) for pair in checks["opposite_verdicts"]]
    off_topic = [f"report {r['report']}: {r['arxiv']}" for r in cited["off_topic"]]
    rows = {
        f"verdict is confidence above {rule['threshold']:g} or below, exceptions": rule["exceptions"],
        "headers whose counts are not those of their rows": wrong,
        "same fact, or whole and part, with opposite verdicts": opposite,
        "facts stated more than once": [" = ".join(group["ids"]) for group in checks["duplicates"]],
        "statements cut off": [row["id"] for row in checks["truncated"]],
        f"cited papers beside the point, of {cited['cited']}": off_topic,
        f"rows of report 3 repeated word for word in report 4, of {copied['rows']}": copied["same_words"],
    }
    counts = {k: (v, "") if isinstance(v, int) else (len(v), "; ".join(v)) for k, v in rows.items()}
    return pd.DataFrame(counts, index=["number", "which"]).T


def confidence(session: Session, evidence: Mapping, by: str = "report") -> Drawn:
    """The reports' confidences by `report`, or by our `verdict`, with the threshold of their verdicts."""
    name, words = {"report": ("confidence", "report {}"), "verdict": ("confidence_verdict", "{}")}[by]
    names = {"id": "id", by: "category", "report_confidence": "value", "report_verdict": "kind"}
    rows = pd.DataFrame(evidence["claims"], columns=list(names)).rename(columns=names)
    rows["category"], rows["kind"] = rows["category"].map(words.format), "report says " + rows["kind"]
    threshold, categories = evidence["reports"]["confidence_rule"]["threshold"], sorted({*rows["category"]})
    told = {"count": len(rows)}
    return drawing.save(session, name, rows, told, categories=categories, threshold=threshold)
