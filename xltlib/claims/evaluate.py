"""Verdicts: the ledger's tests on the scores of runs, and what is missing where there are none."""

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from xltlib import StudyError
from xltlib.claims.claim_text import NOT_RUN, reason
from xltlib.claims.ledger import Claim, Ledger, Look, Test, find
from xltlib.claims.reports import CHECKS, arithmetic, calibration, report_checks, verdict_table
from xltlib.claims.scores import Comparison, World, compare, queries, query_settings, ten_digits
from xltlib.claims.verdicts import Family, Judgement, Lines, variants
from xltlib.finetuning.options import METHODS
from xltlib.noise import questions
from xltlib.params import Params
from xltlib.pretraining.options import OBJECTIVES
from xltlib.runs import KINDS
from xltlib.significance.honesty import power_at, smallest_detectable
from xltlib.significance.resampling import second_opinions
from xltlib.significance.tests import outlook

DOCUMENT = {
    "confirmed": "confirmed by source",
    "contradicted": "contradicted by source",
    "not found": "not found",
}
COUNTED = (
    "supported", "contradicted", "inconclusive", NOT_RUN, *DOCUMENT.values(), "possible", "impossible"
)  # fmt: skip


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
            for query, settings in zip(queries(test), query_settings(test, world), strict=True):
                labels = world.labels(query)
                entry = {"labels": labels, "settings": [], "claims": [], "decides": False}
                entry = wanted.setdefault(tuple(labels.values()), entry)
                entry["settings"] = list(dict.fromkeys([*entry["settings"], *settings]))
                entry["claims"] = list(dict.fromkeys([*entry["claims"], claim.id]))
                entry["decides"] |= test.role == "decides"
    return list(wanted.values())


def evaluate(ledger: Ledger, scores: pd.DataFrame, params: Params) -> dict:
    """All verdicts as plain data, the content of claims.json: the same runs give the same bytes.

    `scores` is the table of `scores.table`. Holm corrects three families, each distinct test once: the tests
    that decide, those of second verdicts, and the others. A confirmation is judged at the looks of the
    design, all else at once. StudyError where labels are ambiguous or scores are no scores.
    """
    design, families = ledger.design, judged(ledger, scores, params)
    results = {
        key: _entry(test, params.alpha, opinions=True, moved=role == "decides")
        for role, tests in families.items()
        for key, test in tests.items()
    }
    claims = [_claim_result(claim, results, ledger, params) for claim in ledger.claims]
    verdicts = {c["id"]: c["verdict"] for c in claims}
    checks = report_checks(ledger)
    checks["their_verdict_and_ours"] = verdict_table(ledger.claims, verdicts)
    checks["calibration_by_our_verdict"] = calibration(ledger.claims, verdicts)
    confirms = design.confirms(params.profile)
    names = {"decides": "deciding_tests", "second": "second_tests", "other": "other_tests"}
    sizes = {
        names[role]: sum(confirms or test.judgement is not None for test in tests.values())
        for role, tests in families.items()
    }
    looks = [vars(look) for look in design.looks] if confirms else []
    return {
        "profile": params.profile,
        "scale": params.scale,
        "confirmatory": confirms,
        "ledger_digest": ledger.digest,
        "rules_digest": design.digest,
        "alpha": params.alpha,
        "correction": {"method": "Holm", **sizes, "looks": looks},
        "counts": {name: list(verdicts.values()).count(name) for name in COUNTED},
        "claims": claims,
        "questions": [_question(report, scores, params) for report in ledger.reports],
        "reports": checks,
    }


def evaluate_claims(ledger: Ledger, scores: pd.DataFrame, params: Params, claim_id: str = "") -> list[dict]:
    """The entries of all statements in claims.json, or of one, without second opinions and variants.

    For one statement no more is computed of others than the p-values of the families that correct its tests.
    """
    claims = [find(ledger, claim_id)] if claim_id else ledger.claims
    own = {test.key for claim in claims for test in claim.tests if test.measured}
    families = judged(ledger, scores, params, own)
    tests = {key: test for members in families.values() for key, test in members.items() if key in own}
    results = {key: _entry(test, params.alpha) for key, test in tests.items()}
    return [_claim_result(claim, results, ledger, params) for claim in claims]


@dataclass(frozen=True)
class Judged:
    """A measured test: its scores, its lines, its judgement, and the p-values of the rest of its family."""

    data: Comparison
    lines: Lines
    judgement: Judgement | None
    others: tuple[float, ...]


def judged(
    ledger: Ledger, scores: pd.DataFrame, params: Params, keys: set[str] | None = None
) -> dict[str, dict[str, Judged]]:
    """The distinct measured tests by family and key: deciding tests, second verdicts, and all others.

    With `keys`, of those families alone that hold one of them.
    """
    design, world = ledger.design, World.of(ledger, params)
    measured = [test for claim in ledger.claims for test in claim.tests if test.measured]
    distinct = {test.key: test for test in measured}
    confirms, families, taken = design.confirms(params.profile), {}, set()
    looks = design.looks if confirms else [Look(0, params.alpha)]
    for role in ("decides", "second", "other"):
        members = dict.fromkeys(t.key for t in measured if role in (t.role, "other"))
        tests = {key: distinct[key] for key in members if key not in taken}
        taken |= tests.keys()
        if keys is not None and not keys & tests.keys():
            continue
        data = {key: compare(test, scores, world, design, params.scale) for key, test in tests.items()}
        lines = {key: Lines.of(test, params.scale, design) for key, test in tests.items()}
        family = Family(data, lines, looks, design, params.scale, confirms, params.alpha)
        judgements = family.judgements()
        p = {key: judgement.p for key, judgement in judgements.items()}
        families[role] = {
            k: Judged(data[k], lines[k], judgements.get(k), tuple(p[x] for x in p if x != k)) for k in tests
        }
    return families


def _question(report: Mapping[str, Any], scores: pd.DataFrame, params: Params) -> dict[str, Any]:
    """What a report asks and none of its statements answers, with the answer where there are runs for it."""
    number = report["id"]
    told = {"id": f"Q{number}", "report": number, "question": report["question"], "scale": params.scale}
    if number not in params.questions:
        reason = f"this profile has no runs for it; it needs {report['question_needs']}"
        return told | {"status": NOT_RUN, "reason": reason}
    try:
        return told | questions.answer(number, scores, params)
    except LookupError as error:
        return told | {"status": NOT_RUN, "reason": str(error.args[0])}


def _entry(test: Judged, alpha: float, opinions: bool = False, moved: bool = False) -> dict[str, Any]:
    """What is known of a measured test after the correction: outcome, effect, runs, or why it was not run.

    `opinions`: with those of other tests; `moved`: with the outcomes where one choice is moved.
    """
    data, lines, judgement = test.data, test.lines, test.judgement
    if judgement is None:
        return {"outcome": NOT_RUN, "effect": None, "runs": [], "reason_not_run": data.reason,
                "missing": [dict(q) for q in data.missing]}  # fmt: skip
    effect = _effect(data, lines, judgement, alpha) if judgement.effect else None
    if effect and opinions and data.test.type in ("superiority", "equivalence") and len(data.scores) == 2:
        both = data.rows(data.scores, judgement.seeds)
        told = second_opinions(*both, np.random.default_rng(0), alpha=alpha)
        effect["second_opinions"] = {k: _plain(v) for k, v in told.items()}
    entry = {"outcome": judgement.outcome, "effect": effect, "runs": list(data.digests)}
    entry["matters"] = ten_digits(lines.matters)
    entry |= {"adds": judgement.adds} if judgement.adds else {}
    entry |= {"obstacle": judgement.why} if judgement.why else {}
    failed = {name: list(seeds) for name, seeds in data.failed.items() if seeds}
    entry |= {"failed": failed} if failed else {}
    entry |= {"mixed_seeds": list(data.mixed)} if data.mixed else {}
    if effect and moved and not judgement.why:
        rows = variants(data, lines, judgement, test.others, alpha)
        entry["specifications"] = [{k: _plain(v) for k, v in row.items()} for row in rows]
    return entry


def _effect(data: Comparison, lines: Lines, judgement: Judgement, alpha: float) -> dict[str, Any]:
    """The numbers of a judgement: the effect, what is known of it, and what this study could have seen."""
    test, effect, trained = data.test, judgement.effect, judgement.trained
    kind = "equivalence" if test.type == "equivalence" else "superiority"
    sizes = (effect.components, effect.seeds, effect.examples)
    level = judgement.level or alpha
    beyond = 0.0 if kind == "equivalence" else lines.margin
    interest = lines.margin if kind == "equivalence" else max(lines.matters - lines.margin, 0.0)
    sides = 2 if kind == "equivalence" else 1  # two one-sided tests: the 1 - 2 alpha interval
    names = ("first gain", "second gain") if test.type == "interaction" else data.settings
    corrected, uncorrected = effect.interval(sides * level), effect.interval(sides * alpha)
    seen = smallest_detectable(*sizes, level, kind=kind)
    numbers = {
        "estimate": effect.estimate, "low": uncorrected[0], "high": uncorrected[1],
        "low_holm": corrected[0], "high_holm": corrected[1], "level": level,
        "p": judgement.p, "p_holm": judgement.p_adjusted, "sd_seeds": effect.sd_seeds,
        "smallest_detectable": beyond + seen, "power_for": interest,
        "power_at_margin": power_at(interest, *sizes, level, kind=kind),
    }  # fmt: skip
    numbers |= outlook(effect.per_seed, beyond)
    more = {}
    if trained:
        low, high = trained.interval(sides * alpha)
        own = {"estimate": trained.estimate, "low": low, "high": high}
        more["trained"] = {k: ten_digits(v) for k, v in own.items()} | {"seeds": trained.seeds}
    if judgement.look:
        more["look"] = judgement.look
    if judgement.outcome == "inconclusive" and not judgement.why:
        more["seeds_needed"] = lines.seeds_needed(effect, level)
    return {k: ten_digits(v) for k, v in numbers.items()} | more | {
        "seeds": effect.seeds, "settings": effect.settings, "examples": effect.examples,
        "per_seed": [ten_digits(x) for x in effect.per_seed],
        "per_setting": {name: ten_digits(x) for name, x in zip(names, effect.per_setting, strict=True)},
        "note": effect.note,
    }  # fmt: skip


def _claim_result(claim: Claim, told: Mapping[str, dict], ledger: Ledger, params: Params) -> dict[str, Any]:
    tests = [_test_result(test, claim, told, ledger, World.of(ledger, params)) for test in claim.tests]
    deciding = [t for t in tests if t["role"] == "decides"]
    verdict = combined([t["outcome"] for t in deciding], claim.combine)
    second = [t["outcome"] for t in tests if t["role"] == "second"]
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
        "second_verdict": combined(second) if second else "",
        "confirmatory": ledger.design.confirms(params.profile),
        "reason": reason(verdict, deciding, claim.source), "limits": claim.limits,
        "code": list(dict.fromkeys(line for test in claim.tests for line in functions(test))),
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
        entry |= {"matters": test.matters, "reason": test.reason, **asked}
        entry["settings"] = list(world.settings(test.settings))
        if test.settings2:
            entry["settings2"] = list(world.settings(test.settings2))
        optional = ("level", "published", "over", "points", "direction", "matters_reason", "since")
        entry |= {"share": test.share} if test.share != 1 else {}
        entry |= {k: getattr(test, k) for k in optional if getattr(test, k) not in (None, "", {})}
        return entry | told[test.key]
    if test.type == "arithmetic":
        return entry | arithmetic(test, ledger)
    if test.type == "implementation":
        return entry | _implementation(test.callable)
    words = entry["words"] or "The statement is compared with what the source says."
    return entry | {"words": words, "outcome": DOCUMENT[claim.source["status"]]}


def functions(test: Test) -> list[str]:
    """Where the code stands that a test compares or calls: `xltlib/finetuning/salt.py: augment`.

    Of a measured test what its queries name, and what measures its task; the registries say where.
    """
    named: list[str | Callable | None] = []
    if test.measured:
        for query in queries(test):
            named += [OBJECTIVES[query["objective"]].function] if "objective" in query else []
            named += [METHODS[query["method"]].function] if "method" in query else []
        named += [kind.function for kind in KINDS.values() if kind.task == test.task]
    elif test.type == "arithmetic":
        named.append(CHECKS[test.check])
    elif test.type == "implementation":
        named.append(_function(test.callable))
    places = [x.partition(":")[::2] if isinstance(x, str) else (x.__module__, x.__name__) for x in named if x]
    return [f"{module.replace('.', '/')}.py: {name}" for module, name in dict.fromkeys(places)]


def _function(name: str) -> Callable | None:
    """The function of a name, "module:function"; None where there is none."""
    module, _, function = name.partition(":")
    try:
        return getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError):
        return None


def _implementation(name: str) -> dict[str, Any]:
    """Call a property of the code by its name; one that is not there is not run, and says so."""
    check = _function(name)
    if check is None:
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
