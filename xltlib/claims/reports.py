"""The five reports as data: verdicts against confidences, counts, copies, citations, impossible numbers."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from scipy import stats

from xltlib import StudyError
from xltlib.claims.ledger import Claim, Ledger, Test, find

POSSIBLE, IMPOSSIBLE = "possible", "impossible"
THRESHOLD = 0.15  # the confidence that parts "verified" from the rest; both sides have a row at it
TRUTH = {  # what a verdict or a source status says of a statement; all others leave it open
    "supported": True,
    "confirmed": True,
    "confirmed by source": True,
    "contradicted": False,
    "contradicted by source": False,
    IMPOSSIBLE: False,
}
AVERAGES = r"\d+\.\d+"  # in a statement that compares two systems' averages, the better one first


def report_checks(ledger: Ledger) -> dict:
    """What the reports say against what they say, as plain data, from the ledger alone."""
    claims = ledger.claims
    by_source = {c.id: c.source["status"] for c in claims}
    sums = {t.key: t for c in claims for t in c.tests if t.type == "arithmetic"}
    return {
        "confidence_rule": confidence_rule(claims),
        "header_counts": [_header(report, claims) for report in ledger.reports],
        "opposite_verdicts": opposite_verdicts(ledger),
        "duplicates": duplicates(claims),
        "truncated": [{"id": c.id, "ends": c.statement[-40:]} for c in claims if c.truncated],
        "references": _references(ledger.reports),
        "arithmetic": [arithmetic(test, ledger) for test in sums.values()],
        "copied_report": _copied_report(claims),
        "their_verdict_and_source": verdict_table(claims, by_source),
        "calibration": calibration(claims, by_source),
    }


def confidence_rule(claims: Sequence[Claim]) -> dict:
    """Whether one threshold on the confidence explains all the reports' verdicts, and the rows at it."""
    rows = [(c.id, c.report_confidence, c.report_verdict == "verified") for c in claims]
    verified, others = ([x for _, x, is_verified in rows if is_verified == own] for own in (True, False))
    exceptions = [name for name, x, own in rows if x != THRESHOLD and (x > THRESHOLD) != own]
    return {
        "threshold": THRESHOLD, "holds": not exceptions, "exceptions": exceptions,
        "lowest_verified": min(verified, default=None), "highest_not_verified": max(others, default=None),
        "highest": max(verified + others, default=None),
        "at_threshold": {c.id: c.report_verdict for c in claims if c.report_confidence == THRESHOLD},
    }  # fmt: skip


def opposite_verdicts(ledger: Ledger) -> list[dict]:
    """Pairs of statements of the same fact, or of whole and part, on which the reports' verdicts differ."""
    pairs_of = {}
    for claim in ledger.claims:
        pairs = [(o, "same fact") for o in claim.duplicates] + [(o, "whole and part") for o in claim.parts]
        pairs += [(r["id"], r["how"]) for r in claim.related if "sentence" in r["how"]]
        for other_id, how in pairs:
            other = find(ledger, other_id)
            if other.report_verdict != claim.report_verdict:
                verdicts = {claim.id: claim.report_verdict, other.id: other.report_verdict}
                pairs_of.setdefault(frozenset(verdicts), {"how": how, "verdicts": verdicts})
    return list(pairs_of.values())


def _distinct(claims: Sequence[Claim]) -> list[Claim]:
    """One statement of each fact: copies are not independent."""
    copies: set[str] = set()
    for claim in claims:
        copies |= set(claim.duplicates) if claim.id not in copies else set()
    return [claim for claim in claims if claim.id not in copies]


def duplicates(claims: Sequence[Claim]) -> list[dict]:
    """Each group of statements of the same fact once, with whether words and confidences are the same."""
    known = {c.id: c for c in claims}
    groups = [[c, *(known[o] for o in c.duplicates)] for c in _distinct(claims) if c.duplicates]
    return [
        {
            "ids": [c.id for c in members], "same_words": len({c.statement for c in members}) == 1,
            "confidences": [c.report_confidence for c in members],
        }
        for members in groups
    ]  # fmt: skip


def _header(report: dict, claims: Sequence[Claim]) -> dict:
    """The counts in a report's header against its rows."""
    rows = [c for c in claims if c.report == report["id"]]
    verified = sum(c.report_verdict == "verified" for c in rows)
    said = (report["claims_extracted"], report["claims_verified"])
    return {
        "report": report["id"], "says_extracted": said[0], "rows": len(rows),
        "says_verified": said[1], "rows_verified": verified, "agrees": said == (len(rows), verified),
    }  # fmt: skip


def _references(reports: Sequence[dict]) -> dict:
    """How many cited papers bear on the report that cites them, and those that do not."""
    cited = [{"report": r["id"], **reference} for r in reports for reference in r["references"]]
    levels = [c["relevant"] for c in cited]
    return {
        "cited": len(cited), "relevant": {x: levels.count(x) for x in ("yes", "partly", "weak", "no")},
        "off_topic": [
            {k: c[k] for k in ("report", "arxiv", "title", "why")} for c in cited if c["relevant"] == "no"
        ],
        "retrieved_and_cited": {str(r["id"]): [r["papers_retrieved"], len(r["references"])] for r in reports},
    }  # fmt: skip


def _copied_report(claims: Sequence[Claim]) -> dict:
    """Reports 3 and 4 row by row: the same sentences, and where words or confidences differ."""
    rows = [
        {
            "ids": [a.id, b.id], "confidences": [a.report_confidence, b.report_confidence],
            "statements": [a.statement, b.statement],
        }
        for a in claims for b in claims if (a.report, b.report) == (3, 4) and b.id in a.duplicates
    ]  # fmt: skip
    words, numbers = ([len(set(row[key])) == 1 for row in rows] for key in ("statements", "confidences"))
    return {
        "rows": len(rows), "same_words": sum(words), "same_confidence": sum(numbers),
        "changed": [row for row, *same in zip(rows, words, numbers, strict=True) if not all(same)],
    }  # fmt: skip


def verdict_table(claims: Sequence[Claim], ours: Mapping[str, str]) -> dict:
    """The reports' verdicts against `ours` (id -> verdict or source status), and the share that agrees.

    Agreement counts the statements on which ours is decided, a fact that stands in several of them once, with
    Wilson's 95 % interval; "verified" agrees with what holds, all else with what does not.
    """
    table: dict[str, Counter] = {}
    for c in claims:
        table.setdefault(c.report_verdict, Counter())[ours[c.id]] += 1
    decided = [c for c in _distinct(claims) if ours[c.id] in TRUTH]
    agree, interval = sum(TRUTH[ours[c.id]] == (c.report_verdict == "verified") for c in decided), None
    if decided:
        ends = stats.binomtest(agree, len(decided)).proportion_ci(0.95, method="wilson")
        interval = [round(float(end), 4) for end in ends]
    return {
        "table": {word: dict(row) for word, row in table.items()}, "decided": len(decided), "agree": agree,
        "interval": interval, "open": [c.id for c in claims if ours[c.id] not in TRUTH],
    }  # fmt: skip


def calibration(claims: Sequence[Claim], ours: Mapping[str, str]) -> dict:
    """The reports' mean confidence in statements that hold, that do not, and that are open (facts once).

    `auc` is the chance that a statement that holds got the higher confidence of two, with the p-value of the
    Mann-Whitney test; both are absent where one side is empty.
    """
    truths = [(TRUTH.get(ours[c.id]), c.report_confidence) for c in _distinct(claims)]
    right, wrong, undecided = ([x for truth, x in truths if truth is own] for own in (True, False, None))
    result: dict[str, Any] = {
        name: {"n": len(values), "mean_confidence": round(sum(values) / len(values), 4) if values else None}
        for name, values in (("holds", right), ("does not hold", wrong), ("open", undecided))
    }
    if right and wrong:
        test, both = stats.mannwhitneyu(right, wrong, alternative="two-sided"), right + wrong
        result["auc"] = round(float(test.statistic) / (len(right) * len(wrong)), 4)
        result["p"] = round(float(test.pvalue), 6)
        result["share_that_holds"] = round(len(right) / len(both), 4)
        result["mean_confidence"] = round(sum(both) / len(both), 4)
    few = f"{len(right)} statements hold and {len(wrong)} do not: too few to say how well"
    result["word"] = f"{few} the confidence is calibrated, only in which direction it errs."
    return result


def arithmetic(test: Test, ledger: Ledger) -> dict:
    """Whether the numbers of two statements can be right together, from their own words.

    Every number counts as rounded to its last digit. Returns the outcome, the sentence that shows it, and the
    numbers.
    """
    possible, sentence, numbers = CHECKS[test.check](*(find(ledger, claim_id) for claim_id in test.claims))
    outcome = POSSIBLE if possible else IMPOSSIBLE
    told = {"outcome": outcome, "sentence": sentence, "numbers": numbers}
    return {"check": test.check, "claims": list(test.claims), **told}


def same_gain(first: Claim, second: Claim) -> tuple[bool, str, dict]:
    """A stated gain against the difference of two stated averages."""
    (gain,) = _numbers(first, r"(\d+\.\d+)\s*% improvement on \d+ languages of XNLI", 1)
    system, baseline = _numbers(second, AVERAGES, 2)
    slack = _half_unit(gain) + _half_unit(system) + _half_unit(baseline)
    sentence = f"{system} - {baseline} = {system - baseline}, against {gain} in {first.id}"
    numbers = {"stated_gain": float(gain), "gain": float(system - baseline), "rounding": float(slack)}
    possible = abs(gain - (system - baseline)) <= slack
    return possible, f"{sentence}: rounding explains at most {slack}.", numbers


def implied_language(first: Claim, second: Claim) -> tuple[bool, str, dict]:
    """The score of the language left out, from the averages with it (first) and without it (second)."""
    left_out = re.search(r"without (\w+)", second.statement)
    if not left_out:
        raise StudyError(f"{second.id}: expected `without English`, or another language, in the statement")
    n, numbers, told = int(_numbers(first, r"(\d+) languages", 1)[0]), {}, []
    averages = (_numbers(claim, AVERAGES, 2) for claim in (first, second))
    for system, whole, rest in zip(("SALT", "mBERT"), *averages, strict=True):
        implied, slack = n * whole - (n - 1) * rest, n * _half_unit(whole) + (n - 1) * _half_unit(rest)
        low, high = float(implied - slack), float(implied + slack)
        numbers[system] = {"implied": float(implied), "low": low, "high": high}
        told.append(f"{float(implied):g} % for {system} ({low:g} to {high:g} with rounding)")
    whole = f"{left_out[1]} would be {n} times {first.id}'s average less {n - 1} times {second.id}'s"
    possible = all(v["low"] <= 100 and v["high"] >= 0 for v in numbers.values())
    return possible, f"{whole}: {', '.join(told)}.", numbers


CHECKS = {"same_gain": same_gain, "implied_language": implied_language}


def _numbers(claim: Claim, pattern: str, count: int) -> list[Decimal]:
    """The numbers that a pattern finds in a statement; StudyError unless there are so many."""
    found = [Decimal(x) for x in re.findall(pattern, claim.statement)]
    if len(found) != count:
        raise StudyError(f"{claim.id}: expected {count} numbers as {pattern!r} in it, found {len(found)}")
    return found


def _half_unit(number: Decimal) -> Decimal:
    return Decimal((0, (5,), number.as_tuple().exponent - 1))
