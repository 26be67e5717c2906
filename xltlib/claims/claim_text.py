"""A statement's entry in claims.json in words: what decided, how sure it is, and all of it for a terminal."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from xltlib.claims.verdicts import CONTRADICTED, INCONCLUSIVE, NOT_RUN, SUPPORTED

TESTED = (SUPPORTED, CONTRADICTED, INCONCLUSIVE)  # verdicts that belong to a scale
NOTHING_SEEN = (
    "this run could have seen no effect, however large: it takes more seeds for sign flips to decide"
)
_WRAPPED = {"subsequent_indent": "    ", "break_on_hyphens": False, "break_long_words": False}


def reason(verdict: str, deciding: Sequence[Mapping], source: Mapping) -> str:
    """What decided, or why nothing could, from the outcomes of the deciding tests."""
    kind, outcomes = deciding[0]["type"], [t["outcome"] for t in deciding]
    if kind == "document":
        return {
            "confirmed": "The source was read and says so.",
            "contradicted": "The source was read and says otherwise.",
            "not found": f"Not found in the {source['searched']}. That is no verdict against the statement.",
        }[source["status"]]
    if kind == "arithmetic":
        return " ".join(t["sentence"] for t in deciding)
    if len(deciding) == 1:
        return evidence_sentence(deciding[0])
    if verdict == NOT_RUN:
        told = (why for t in deciding for why in t.get("reason_not_run", "").split("; ") if why)
        done = len(deciding) - outcomes.count(NOT_RUN)
        return f"{done} of {len(deciding)} tests were run; {'; '.join(dict.fromkeys(told))}."
    counts = ", ".join(f"{outcomes.count(o)} {o}" for o in dict.fromkeys(outcomes))
    decided = next(t for t in deciding if t["outcome"] == verdict)
    return f"Of {len(deciding)} tests {counts}. {decided['formula']}: {evidence_sentence(decided)}"


def evidence_sentence(test: Mapping) -> str:
    """One test's effect with its interval, or why there is none."""
    effect = test.get("effect")
    if not effect:
        why = test.get("reason_not_run") or test.get("obstacle")
        return f"{test['outcome'].capitalize()}: {why}." if why else f"{test['outcome'].capitalize()}."
    text = f"{_interval(effect)} against {test['margin']:g}, p = {effect['p_holm']:.2g} after Holm"
    text += f", {effect['seeds']} seeds"
    if test.get("obstacle"):
        return f"{text}; {test['obstacle']}."
    if test.get("adds"):
        text += f": {test['adds']}"
    if test["outcome"] == INCONCLUSIVE:
        seen, needed = effect["smallest_detectable"], effect["seeds_needed"]
        text += f"; {NOTHING_SEEN}" if seen is None else f"; this run could have seen {seen:.3f}"
        seeds = f"{needed} seeds" if needed else "more examples, and no number of seeds alone,"
        text += f"; {seeds} would decide an effect like this one"
    return text + "."


def _interval(effect: Mapping) -> str:
    return f"{effect['estimate']:+.3f} [{effect['low']:+.3f}, {effect['high']:+.3f}]"


def shown_verdict(claim: Mapping[str, Any]) -> str:
    """The verdict with its scale before it, where runs decided: `mechanism supported`."""
    by_runs = claim["verdict"] in TESTED and claim["scale"] != "paper"
    return f"{claim['scale']} {claim['verdict']}" if by_runs else claim["verdict"]


def render_text(claim: Mapping[str, Any]) -> str:
    """A statement's entry as text: statement, tests in words, evidence, verdict, limits, and the command."""
    truncated = " (cut off in the report)" if claim["truncated"] else ""
    source = claim["source"]
    lines = [
        f"{claim['id']}  {claim['statement']}{truncated}",
        f"Report {claim['report']}: {claim['report_verdict']}, confidence {claim['report_confidence']:g}",
        f"Source: {source['status']}. {source['fact']}",
        f"Searched: {source['searched']}",
    ]
    for name in ("duplicates", "parts", "part_of", "contradicts"):
        lines += [f"{name.replace('_', ' ').capitalize()}: {', '.join(claim[name])}"] if claim[name] else []
    for test in claim["tests"]:
        lines += ["", f"{test['role'].capitalize()}: {test['type']}, {test['outcome']}", test["words"]]
        lines += [test["formula"], *_evidence(test)]
    lines += ["", f"Verdict: {shown_verdict(claim)}", claim["reason"]]
    if claim.get("profiles"):
        lines.append(f"Evidence: published runs of {' and '.join(claim['profiles'])}")
    if claim["second_verdict"]:
        lines.append(f"What the statement describes matters at this scale: {claim['second_verdict']}")
    lines += [f"Limits: {claim['limits']}"] if claim["limits"] else []
    lines += [*(f"Code: {place}" for place in claim["code"]), f"Again: {claim['command']}"]
    return "\n".join(textwrap.fill(x, 100, **_WRAPPED) if x else "" for x in lines)


def _evidence(test: Mapping[str, Any]) -> list[str]:
    """A test's effect with all that is known of it: other intervals, failed trainings, a new seed."""
    effect = test.get("effect")
    if not effect:
        text = evidence_sentence(test) if test["outcome"] == NOT_RUN else test.get("sentence")
        return [text] if text else []
    lines = [
        f"{evidence_sentence(test)} Margin: {test['reason']}",
        f"at the level that the correction leaves ({effect['level']:.2g}): [{effect['low_holm']:+.3f},"
        f" {effect['high_holm']:+.3f}]; power there for {effect['power_for']:g} beyond the margin"
        f" {effect['power_at_margin']:.2f}",
    ]
    if own := effect.get("trained"):
        lines.append(f"over the {own['seeds']} seeds in which all systems have learnt: {_interval(own)}")
    if failed := [f"{name} in {len(seeds)}" for name, seeds in test.get("failed", {}).items()]:
        lines.append(f"has not learnt the task in the source: {', '.join(failed)} seeds")
    if "new_low" in effect:
        lines.append(
            f"a new seed: [{effect['new_low']:+.3f}, {effect['new_high']:+.3f}], positive with"
            f" {effect['new_gains']:.2f}; probability that the effect exceeds the margin:"
            f" {effect['probability']:.3f}"
        )
    lines.append("by seed: " + ", ".join(f"{x:+.3f}" for x in effect["per_seed"]))
    lines.append("by setting: " + ", ".join(f"{k} {x:+.3f}" for k, x in effect["per_setting"].items()))
    return lines + ([f"Note: {effect['note']}"] if effect["note"] else [])
