"""Verdicts: the ledger's tests on the scores of runs, and what is missing where there are none."""

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from xltlib import StudyError
from xltlib.claims.claim_text import NOT_RUN, reason, render_text
from xltlib.claims.ledger import Claim, Ledger, Test, find, label
from xltlib.claims.ledger_file import load_ledger
from xltlib.claims.reading import ten_digits
from xltlib.claims.reports import arithmetic, calibration, report_checks, verdict_table
from xltlib.claims.selection import World, select
from xltlib.claims.verdicts import TESTS, VERDICTS, holm, specifications
from xltlib.noise import questions
from xltlib.params import Params
from xltlib.significance.honesty import power_at, smallest_detectable
from xltlib.significance.resampling import second_opinions
from xltlib.significance.tests import Effect, Equivalence, trend

__all__ = [
    "agreement",
    "claim_result",
    "evaluate",
    "find",
    "load_ledger",
    "measure",
    "needed",
    "queries",
    "render_text",
    "report_checks",
    "select",
]

DOCUMENT = {
    "confirmed": "confirmed by source",
    "contradicted": "contradicted by source",
    "not found": "not found",
}
COUNTED = (
    "supported", "contradicted", "inconclusive", NOT_RUN, *DOCUMENT.values(), "possible", "impossible"
)  # fmt: skip
MIN_SEEDS = 2  # one run speaks for its examples, not for another run: no verdict
OF_INTEREST = 0.02  # two points beyond a margin: power is told for an effect that readers would care about


@dataclass(frozen=True)
class Measured:
    """A measured test: its result and the arrays behind it; or why there is none, and the runs not found."""

    result: Effect | Equivalence | None = None
    scores: tuple = ()
    settings: tuple[str, ...] = ()
    digests: tuple[str, ...] = ()
    reason: str = ""
    missing: tuple[dict, ...] = ()

    @property
    def effect(self) -> Effect | None:
        """The effect with its interval; an equivalence holds one too."""
        return self.result.effect if isinstance(self.result, Equivalence) else self.result


def needed(ledger: Ledger, params: Params, claim_id: str | None = None) -> list[dict]:
    """The runs that the ledger, or one of its statements, asks for in a profile: each once, in its order.

    `labels` are complete (all but the seed), `settings` are the scores wanted of them, `claims` who asks, and
    `decides` whether a verdict rests on them.
    """
    world = World.of(ledger, params)
    wanted: dict[tuple, dict] = {}
    for claim in ledger.claims if claim_id is None else (find(ledger, claim_id),):
        for test in claim.tests:
            if not test.measured or (test.since and ledger.design.explores(params.profile)):
                continue
            for query, settings in zip(queries(test), asked_settings(test, world), strict=True):
                labels = world.labels(query)
                entry = {"labels": labels, "settings": [], "claims": [], "decides": False}
                entry = wanted.setdefault(tuple(labels.values()), entry)
                entry["settings"] = list(dict.fromkeys([*entry["settings"], *settings]))
                entry["claims"] = list(dict.fromkeys([*entry["claims"], claim.id]))
                entry["decides"] |= test.role == "decides"
    return list(wanted.values())


def asked_settings(test: Test, world: World) -> list[tuple[str, ...]]:
    """The settings of each of `queries`."""
    first, second = (world.settings(s, test.metric) if s else () for s in (test.settings, test.settings2))
    return [second if second and i > 1 else first for i in range(len(queries(test)))]


def queries(test: Test) -> list[dict[str, str]]:
    """The queries of a measured test in the order in which its scores are compared."""
    if test.type == "trend":
        chosen = ({**test.a, test.over: option} for option in test.points)
    else:
        chosen = [
            test.a,
            *([test.b] if test.level is None else []),
            *([test.a2, test.b2] if test.settings2 else []),
        ]
    return [{**query, "task": test.task} for query in chosen]


def measure(test: Test, records: Sequence[Mapping], world: World, alpha: float) -> Measured:
    """Run one test of the ledger on the runs that it names, over the seeds that all of them have."""
    asked, settings = queries(test), asked_settings(test, world.tested(test.task, records))
    found = [select(records, q, s, world.defaults) for q, s in zip(asked, settings, strict=True)]
    absent = [s for s in found if s.missing]
    if absent:
        missing = tuple(q for q, s in zip(asked, found, strict=True) if s.missing)
        return Measured(reason="; ".join(dict.fromkeys(s.missing for s in absent)), missing=missing)
    seeds = sorted(set.intersection(*(set(s.seeds) for s in found)))
    if not seeds:
        return Measured(
            reason="no seed in common: " + "; ".join(f"{label(s.query)} has {s.seeds}" for s in found)
        )
    chosen = [s.only(seeds) for s in found]
    scores = tuple(list(s.scores) for s in chosen)
    if test.level is not None:
        scores = (*scores, [np.full_like(array, test.level, dtype=float) for array in scores[0]])
    if not all(_shapes(x) == _shapes(y) for x, y in _compared(test, scores)):
        return Measured(reason=f"not paired: the runs of {label(test.a)} and its rivals have other examples")
    digests = tuple(dict.fromkeys(d for s in chosen for d in s.digests))
    return Measured(_test(test, scores, test.margin, alpha), scores, settings[0], digests)


def _compared(test: Test, scores: Sequence) -> list[tuple]:
    """The arrays that are paired example by example."""
    if test.type == "trend":
        return [(scores[0], level) for level in scores[1:]]
    return [(scores[k], scores[k + 1]) for k in range(0, len(scores), 2)]


def _shapes(arrays: list[np.ndarray]) -> list[tuple]:
    return [array.shape for array in arrays]


def _levels(test: Test) -> list[float]:
    """The numbers of a trend, negated where the score is expected to fall."""
    return [x if test.direction == "up" else -x for x in test.points.values()]


def _test(test: Test, scores: Sequence, margin: float, alpha: float) -> Effect | Equivalence:
    if test.type == "trend":
        return trend(scores, _levels(test), margin=margin, alpha=alpha)
    return TESTS[test.type](*scores, margin=margin, alpha=alpha)


def evaluate(
    ledger: Ledger, records: Sequence[Mapping], params: Params, specification_curves: bool = True
) -> dict:
    """All verdicts as plain data, the content of claims.json: the same runs give the same bytes.

    `records` are as in `select`. Holm corrects two families, each distinct test once: the tests that decide,
    and the controls and ablations. StudyError where labels are ambiguous or scores are no scores.
    """
    world = World.of(ledger, params)
    tests = {t.key: t for c in ledger.claims for t in c.tests if t.measured}
    measured = {key: measure(test, records, world, params.alpha) for key, test in tests.items()}
    deciding = {t.key for c in ledger.claims for t in c.deciding if t.measured}
    families = [
        [k for k in tests if (k in deciding) == side and measured[k].result] for side in (True, False)
    ]
    adjusted: dict[str, float] = {}
    others: dict[str, list[float]] = {}
    for family in families:
        p = [measured[key].result.p for key in family]
        adjusted |= dict(zip(family, holm(p).tolist() if p else [], strict=True))
        others |= {key: p[:i] + p[i + 1 :] for i, key in enumerate(family)}
    told, floors = {}, _floors(records, params)
    for key, test in tests.items():
        curve = others.get(key) if specification_curves and key in deciding else None
        unlearnt = _unlearnt(test, measured[key], floors)
        told[key] = _told(test, measured[key], adjusted.get(key), curve, params.alpha, unlearnt)
    claims = [_claim_result(claim, told, ledger, world, params) for claim in ledger.claims]
    verdicts = [c["verdict"] for c in claims]
    ours = {c["id"]: c["verdict"] for c in claims}
    checks = report_checks(None, ledger)
    checks["their_verdict_and_ours"] = verdict_table(ledger.claims, ours)
    checks["calibration_by_our_verdict"] = calibration(ledger.claims, ours)
    return {
        "profile": params.profile,
        "scale": params.scale,
        "ledger_digest": ledger.digest,
        "alpha": params.alpha,
        "correction": {"method": "Holm", "deciding_tests": len(families[0]), "other_tests": len(families[1])},
        "counts": {name: verdicts.count(name) for name in COUNTED},
        "claims": claims,
        "questions": [_question(report, records, params) for report in ledger.reports],
        "reports": checks,
    }


def _question(report: Mapping[str, Any], records: Sequence[Mapping], params: Params) -> dict[str, Any]:
    """What a report asks and none of its statements answers, with the answer where there are runs for it."""
    number = report["id"]
    told = {"id": f"Q{number}", "report": number, "question": report["question"], "scale": params.scale}
    if number not in params.questions:
        reason = f"this profile has no runs for it; it needs {report['question_needs']}"
        return told | {"status": NOT_RUN, "reason": reason}
    try:
        return told | questions.answer(number, records, params)
    except LookupError as error:
        return told | {"status": NOT_RUN, "reason": str(error.args[0])}


def _floors(records: Sequence[Mapping], params: Params) -> dict[tuple[str, str], float]:
    """The best cheap baseline of each fine-tuned task and setting, as far as the runs tell one."""
    told = ((r["labels"]["task"], r.get("floors", {})) for r in records)
    return {(task, s): x for task, floors in told if task in params.tasks for s, x in floors.items()}


def _unlearnt(test: Test, found: Measured, floors: Mapping[tuple[str, str], float]) -> str:
    """Why a test cannot decide: none of its systems beats the cheap baselines; "" where one does."""
    below = [floors.get((test.task, setting)) for setting in found.settings]
    if found.result is None or None in below:
        return ""
    systems = found.scores[: 2 if test.settings2 else len(queries(test))]
    best, floor = max(np.mean([x.mean() for x in arrays]) for arrays in systems), np.mean(below)
    told = f"none of the systems ({best:.3f} at best) beats the cheap baselines ({floor:.3f})"
    return "" if best > floor else f"{told}: nothing was learnt that could be compared"


def _told(
    test: Test,
    found: Measured,
    p_holm: float | None,
    others: list[float] | None,
    alpha: float,
    unlearnt: str = "",
) -> dict[str, Any]:
    """What is known of a measured test after the correction: outcome, effect, runs, or why it was not run.

    A test of systems that have learnt nothing is inconclusive: the interval is narrow because all fail alike.
    """
    if found.result is None:
        return {"outcome": NOT_RUN, "effect": None, "runs": [], "reason_not_run": found.reason,
                "missing": [dict(q) for q in found.missing]}  # fmt: skip
    outcome = VERDICTS[test.type](found.result, test.margin, p_holm, alpha)
    if found.effect.seeds < MIN_SEEDS or unlearnt:
        outcome = "inconclusive"
    told = {"outcome": outcome, "effect": _effect(test, found, p_holm, alpha), "runs": list(found.digests)}
    if unlearnt:
        told["unlearnt"] = unlearnt
    elif others is not None:
        told["specifications"] = _specifications(test, found, others, outcome, alpha)
    return told


def _effect(test: Test, found: Measured, p_holm: float, alpha: float) -> dict[str, Any]:
    result, effect = found.result, found.effect
    kind = "equivalence" if test.type == "equivalence" else "superiority"
    interest = test.margin if kind == "equivalence" else OF_INTEREST
    if test.type == "trend":  # a slope: two points over the whole range
        interest = OF_INTEREST / float(np.ptp(_levels(test)))
    sizes = (effect.components, effect.seeds, effect.examples)
    beyond = 0.0 if kind == "equivalence" else test.margin
    second = {}
    if test.type in ("superiority", "equivalence") and len(found.scores) == 2:
        opinions = second_opinions(*found.scores, np.random.default_rng(0), alpha=alpha)
        second["second_opinions"] = {k: _plain(v) for k, v in opinions.items()}
    names = ("first gain", "second gain") if test.type == "interaction" else found.settings
    return {
        **{name: ten_digits(getattr(result, name)) for name in ("estimate", "low", "high", "p")},
        "p_holm": ten_digits(p_holm), "seeds": effect.seeds, "settings": effect.settings,
        "examples": effect.examples, "sd_seeds": ten_digits(effect.sd_seeds),
        "smallest_detectable": ten_digits(beyond + smallest_detectable(*sizes, alpha, kind=kind)),
        "power_at_margin": ten_digits(power_at(interest, *sizes, alpha, kind=kind)),
        "power_for": ten_digits(interest),
        "per_seed": [ten_digits(x) for x in effect.per_seed],
        "per_setting": {name: ten_digits(x) for name, x in zip(names, effect.per_setting, strict=True)},
        "note": effect.note, **second,
    }  # fmt: skip


def _specifications(
    test: Test, found: Measured, others: list[float], outcome: str, alpha: float
) -> list[dict[str, Any]]:
    """How the outcome moves when one choice does: a setting left out, fewer seeds, margin, or correction."""
    margins = list(
        dict.fromkeys([test.margin, test.margin / 2, test.margin * 2 or OF_INTEREST / 2, OF_INTEREST])
    )
    if test.type == "equivalence":
        margins = [m for m in margins if m > 0]
    x = _levels(test) if test.type == "trend" else None
    rows = specifications(
        test.type, found.scores, margins, x=x, settings=found.settings, others=others, alpha=alpha
    )  # fmt: skip
    kept, seeds = [], rows[0]["seeds"]
    for row in rows:
        changed = [
            row["left_out"] is not None or row["seeds"] != seeds, row["margin"] != test.margin,
            row["correction"] != "holm",
        ]  # fmt: skip
        if sum(changed) <= 1:
            numbers = {k: ten_digits(row[k]) for k in ("estimate", "low", "high", "margin")}
            told = {"left_out": row["left_out"] or "", "seeds": row["seeds"], "correction": row["correction"]}
            kept.append({**told, **numbers, "outcome": row["verdict"], "same": row["verdict"] == outcome})
    return kept


def _claim_result(
    claim: Claim, told: Mapping[str, dict], ledger: Ledger, world: World, params: Params
) -> dict[str, Any]:
    tests = [_test_result(test, claim, told, ledger, world) for test in claim.tests]
    deciding = [t for t in tests if t["role"] == "decides"]
    verdict = combined([t["outcome"] for t in deciding], claim.combine)
    facts = claim.source["facts"]
    return {
        "id": claim.id, "report": claim.report, "statement": claim.statement,
        "report_verdict": claim.report_verdict, "report_confidence": claim.report_confidence,
        "kind": claim.kind, "method": claim.method, "tasks": list(claim.tasks),
        "duplicates": list(claim.duplicates), "contradicts": list(claim.contradicts),
        "parts": list(claim.parts), "part_of": [c.id for c in ledger.claims if claim.id in c.parts],
        "related": [dict(r) for r in claim.related], "truncated": claim.truncated,
        "source": {
            "status": claim.source["status"],
            "fact": " ".join(f"{f['fact']} ({f['mark']})" for f in facts),
            "where": "; ".join(dict.fromkeys(f["where"] for f in facts)) or claim.source["searched"],
            "searched": claim.source["searched"], "facts": [dict(f) for f in facts],
        },
        "combine": claim.combine, "tests": tests, "verdict": verdict, "scale": params.scale,
        "reason": reason(verdict, deciding, claim.source), "limits": claim.limits,
        "command": f"xlt claim {claim.id} params/{params.profile}.yaml",
    }  # fmt: skip


def _test_result(
    test: Test, claim: Claim, told: Mapping[str, dict], ledger: Ledger, world: World
) -> dict[str, Any]:
    entry = {"type": test.type, "role": test.role, "words": test.words, "formula": test.formula}
    if test.test_of:
        entry["test_of"] = test.test_of
    if test.measured:
        asked = {k: dict(getattr(test, k)) for k in ("a", "b", "a2", "b2") if getattr(test, k) or k in "ab"}
        entry |= {"task": test.task, "metric": test.metric, "margin": test.margin, "unit": test.unit}
        entry |= {"reason": test.reason, **asked, "settings": list(world.settings(test.settings))}
        if test.settings2:
            entry["settings2"] = list(world.settings(test.settings2))
        optional = ("level", "published", "over", "points", "direction")
        entry |= {k: getattr(test, k) for k in optional if getattr(test, k) not in (None, "", {})}
        return entry | told[test.key]
    if test.type == "arithmetic":
        return entry | arithmetic(test, ledger)
    if test.type == "implementation":
        return entry | _implementation(test.callable)
    words = entry["words"] or "The statement is compared with what the source says."
    return entry | {"words": words, "outcome": DOCUMENT[claim.source["status"]]}


def _implementation(name: str) -> dict[str, Any]:
    """Call a property of the code by its name; one that is not there is not run, and says so."""
    module_name, _, function_name = name.partition(":")
    try:
        check = getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError):
        return {"callable": name, "outcome": NOT_RUN, "reason_not_run": f"there is no {name}"}
    holds = check()
    if not isinstance(holds, bool):
        raise StudyError(f"{name}: returned {holds!r}, expected True or False")
    return {"callable": name, "outcome": "supported" if holds else "contradicted"}


def combined(outcomes: Sequence[str], combine: str = "all") -> str:
    """The verdict of a bundle: with `all` it falls with one part and stands with all; with `any` the reverse.

    A part that is not run or inconclusive leaves the rest open, unless another part settles the matter.
    """
    if len(set(outcomes)) == 1:
        return outcomes[0]
    settles, every = ("supported", "contradicted") if combine == "any" else ("contradicted", "supported")
    order = (settles, "impossible", DOCUMENT["contradicted"], NOT_RUN, "inconclusive", "not found", every)
    return next(outcome for outcome in (*order, *outcomes) if outcome in outcomes)


def _plain(value: Any) -> Any:
    """Numbers rounded, alone or in a list; words as they are."""
    if isinstance(value, list):
        return [_plain(x) for x in value]
    return ten_digits(value) if isinstance(value, float) else value


def agreement(claims_json: Mapping[str, Any]) -> dict[str, Any]:
    """The reports' verdicts against ours, as a table, with the share that agrees where ours is decided."""
    return claims_json["reports"]["their_verdict_and_ours"]


def claim_result(claims_json: Mapping[str, Any], ledger: Ledger, claim_id: str) -> dict[str, Any]:
    """One statement's entry in claims.json; StudyError with the nearest ids where there is none."""
    wanted = find(ledger, claim_id).id
    return next(c for c in claims_json["claims"] if c["id"] == wanted)
