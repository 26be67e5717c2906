"""The content of claims.json: the ledger's tests on the scores of runs, or why there are none."""

from collections import ChainMap
from collections.abc import Callable, Mapping, Sequence
from pkgutil import resolve_name
from typing import Any

import numpy as np
import pandas as pd

from xltlib.claims.claim_text import reason
from xltlib.claims.ledger import Claim, Ledger, Test, find
from xltlib.claims.reports import CHECKS, arithmetic, calibration, report_checks, verdict_table
from xltlib.claims.scores import World, compare, ten_digits
from xltlib.claims.verdicts import (
    CONTRADICTED,
    INCONCLUSIVE,
    NOT_RUN,
    SUPPORTED,
    Judgement,
    flips_reach,
    judge,
    seeds_needed,
    two_sided,
    variants,
)
from xltlib.finetuning.options import METHODS
from xltlib.noise import questions
from xltlib.params import Params
from xltlib.pretraining.options import OBJECTIVES
from xltlib.runs import KINDS
from xltlib.significance.honesty import power_at, smallest_detectable
from xltlib.significance.resampling import second_opinions
from xltlib.significance.tests import outlook
from xltlib.store import plain

DOCUMENT = {
    "confirmed": "confirmed by source",
    "contradicted": "contradicted by source",
    "not found": "not found",
}
# all verdicts; of several tests that decide together, the first of these that one has
FIRST = (CONTRADICTED, "impossible", NOT_RUN, INCONCLUSIVE, SUPPORTED, *DOCUMENT.values(), "possible")
FAMILIES = {"decides": "deciding_tests", "second": "second_tests", "other": "other_tests"}  # role -> its key


def evaluate(ledger: Ledger, scores: pd.DataFrame, params: Params) -> dict:
    """All verdicts as plain data, the content of claims.json: the same runs give the same bytes.

    `scores` is the table of `scores.table`. Holm corrects three families, each distinct test once: the tests
    that decide, those of second verdicts, and the others. A confirmation is judged at the looks of the
    design, all else at once. StudyError where labels are ambiguous or scores are no scores.
    """
    design, families, results = ledger.design, judged(ledger, scores, params), {}
    for role, tests in families.items():
        for key, own in tests.items():
            entry = results[key] = _outcome(own, params.alpha)
            if own.effect and own.data.test.type in ("superiority", "equivalence"):
                both = own.data.rows(own.data.scores, own.seeds)
                told = second_opinions(*both, np.random.default_rng(0), alpha=params.alpha)
                entry["effect"]["second_opinions"] = ten_digits(told)
            if own.effect and role == "decides" and not own.why:
                entry["specifications"] = ten_digits(variants(own, params.alpha))
    claims = [_claim(claim, results, ledger, params) for claim in ledger.claims]
    verdicts = {c["id"]: c["verdict"] for c in claims}
    confirms = design.confirms(params.profile)
    sizes = {
        FAMILIES[role]: sum(confirms or own.outcome != NOT_RUN for own in tests.values())
        for role, tests in families.items()
    }
    return {
        "profile": params.profile, "scale": params.scale, "confirmatory": confirms,
        "ledger_digest": ledger.digest, "rules_digest": design.digest, "alpha": params.alpha,
        "correction": {"method": "Holm", **sizes, "looks": design.confirmation["looks"] if confirms else []},
        "counts": {name: list(verdicts.values()).count(name) for name in FIRST},
        "claims": claims,
        "questions": [_question(report, scores, params) for report in ledger.reports],
        "reports": report_checks(ledger) | {
            "their_verdict_and_ours": verdict_table(ledger.claims, verdicts),
            "calibration_by_our_verdict": calibration(ledger.claims, verdicts),
        },
    }  # fmt: skip


def evaluate_claims(ledger: Ledger, scores: pd.DataFrame, params: Params, claim_id: str = "") -> list[dict]:
    """The entries of all statements in claims.json, or of one, without second opinions and variants.

    For one statement no more is computed of others than the p-values of the families that correct its tests.
    """
    claims = [find(ledger, claim_id)] if claim_id else ledger.claims
    keys = {test.key for claim in claims for test in claim.tests if test.measured}
    tests = ChainMap(*judged(ledger, scores, params, keys).values())
    results = {key: _outcome(tests[key], params.alpha) for key in keys}
    return [_claim(claim, results, ledger, params) for claim in claims]


def judged(
    ledger: Ledger, scores: pd.DataFrame, params: Params, keys: set[str] | None = None
) -> dict[str, dict[str, Judgement]]:
    """The distinct measured tests by family and key: deciding tests, second verdicts, and all others.

    With `keys`, of those families alone that hold one of them.
    """
    world, families, taken = World.of(ledger, params), {}, set()
    measured = [test for claim in ledger.claims for test in claim.tests if test.measured]
    for role in FAMILIES:
        tests = {t.key: t for t in measured if role in (t.role, "other") and t.key not in taken}
        taken |= tests.keys()
        if keys is None or keys & tests.keys():
            families[role] = judge({key: compare(t, scores, world) for key, t in tests.items()}, world)
    return families


def _question(report: Mapping[str, Any], scores: pd.DataFrame, params: Params) -> dict[str, Any]:
    """What a report asks and none of its statements answers, with the answer where there are runs for it."""
    number = report["id"]
    told = {"id": f"Q{number}", "report": number, "question": report["question"], "scale": params.scale}
    why = f"this profile has no runs for it; it needs {report['question_needs']}"
    if number in params.questions:
        try:
            return told | questions.answer(number, scores, params)
        except questions.Unanswered as error:
            why = str(error)
    return told | {"status": NOT_RUN, "reason": why}


def _outcome(own: Judgement, alpha: float) -> dict[str, Any]:
    """What is known of a measured test after the correction: outcome, effect, runs, or why it was not run."""
    data = own.data
    if own.outcome == NOT_RUN:
        lacking = {"reason_not_run": data.reason, "missing": list(data.missing)}
        return {"outcome": NOT_RUN, "effect": None, "runs": [], **lacking}
    seeds = own.seeds or data.seeds  # of a look, those that it was at
    rows = [data.seeds.index(seed) for seed in seeds]
    runs = dict.fromkeys(digests[row] for digests in data.digests for row in rows)
    failed = {name: [s for s in seeds if s in those] for name, those in data.failed.items()}
    more = {"adds": own.adds, "obstacle": own.why, "mixed_seeds": [s for s in data.mixed if s in seeds]}
    more["failed"] = {name: those for name, those in failed.items() if those}
    return {
        "outcome": own.outcome, "effect": _effect(own, alpha) if own.effect else None,
        "runs": list(runs), "matters": ten_digits(own.data.test.matters),
        **{name: value for name, value in more.items() if value},
    }  # fmt: skip


def _effect(own: Judgement, alpha: float) -> dict[str, Any]:
    """The numbers of a judgement: the effect, what is known of it, and what this study could have seen."""
    test, effect, level = own.data.test, own.effect, own.level or alpha
    kind, beyond, interest = "superiority", test.margin, test.matters - test.margin
    if test.type == "equivalence":
        kind, beyond, interest = "equivalence", 0.0, test.margin
    sizes = (effect.components, effect.seeds, effect.examples)
    fewest = (own.trained or effect).seeds  # without their sign flips nothing is decided, whatever the effect
    sees = flips_reach(test, fewest, level)
    names = ("first gain", "second gain") if test.type == "interaction" else own.data.settings
    corrected, uncorrected = (effect.interval(two_sided(test, x)) for x in (level, alpha))
    numbers = {
        "estimate": effect.estimate, "low": uncorrected[0], "high": uncorrected[1],
        "low_holm": corrected[0], "high_holm": corrected[1], "level": level,
        "p": own.p, "p_holm": own.p_adjusted, "sd_seeds": effect.sd_seeds,
        "smallest_detectable": beyond + smallest_detectable(*sizes, level, kind=kind) if sees else None,
        "power_for": interest, "power_at_margin": power_at(interest, *sizes, level, kind=kind) * sees,
        "seeds": effect.seeds, "settings": effect.settings, "examples": effect.examples,
        "per_seed": list(effect.per_seed), "per_setting": dict(zip(names, effect.per_setting, strict=True)),
        "note": effect.note, **outlook(effect.per_seed, beyond, float(effect.variances.from_items)),
    }  # fmt: skip
    if own.trained:
        low, high = own.trained.interval(two_sided(test, alpha))
        trained = {"estimate": own.trained.estimate, "low": low, "high": high}
        numbers["trained"] = trained | {"seeds": own.trained.seeds}
    if own.look:
        numbers["look"] = own.look
    if own.outcome == INCONCLUSIVE and not own.why:
        numbers["seeds_needed"] = seeds_needed(test, effect, level, own.trained)
    return ten_digits(numbers)


def _claim(claim: Claim, results: Mapping[str, dict], ledger: Ledger, params: Params) -> dict[str, Any]:
    """A statement's entry; `results` has what is known of measured tests by their keys."""
    world, source, facts = World.of(ledger, params), claim.source, claim.source["facts"]
    tests = [_test(test, source, results, ledger, world) for test in claim.tests]
    deciding = [test for test in tests if test["role"] == "decides"]
    second = [test["outcome"] for test in tests if test["role"] == "second"]
    verdict = combined([test["outcome"] for test in deciding])
    told = {
        "fact": " ".join(f"{f['fact']} ({f['mark']})" for f in facts),
        "where": "; ".join(dict.fromkeys(f["where"] for f in facts)) or source["searched"],
    }
    return plain(vars(claim) | {
        "part_of": [c.id for c in ledger.claims if claim.id in c.parts],
        "source": source | told, "tests": tests, "verdict": verdict, "scale": params.scale,
        "second_verdict": combined(second) if second else "",
        "confirmatory": ledger.design.confirms(params.profile),
        "reason": reason(verdict, deciding, source),
        "code": list(dict.fromkeys(line for test in claim.tests for line in functions(test))),
        "command": f"xlt claim {claim.id} params/{params.profile}.yaml",
    })  # fmt: skip


def _test(test: Test, source: Mapping, results: Mapping[str, dict], ledger: Ledger, world: World) -> dict:
    """A test's entry: what it compares or calls, and what came out."""
    entry = {name: getattr(test, name) for name in ("type", "role", "words", "formula")} | test.given
    if test.type == "arithmetic":
        return entry | arithmetic(test, ledger)
    if test.type == "implementation":
        return entry | {"outcome": SUPPORTED if resolve_name(test.callable)() else CONTRADICTED}
    if test.type == "document":
        words = "The statement is compared with what the source says."
        return entry | {"words": words, "outcome": DOCUMENT[source["status"]]}
    always = ("task", "metric", "margin", "unit", "matters", "reason", "a", "b", "settings", "settings2")
    entry |= {name: getattr(test, name) for name in always}
    for name in ("settings", "settings2"):
        if words := entry.pop(name):
            entry[name] = [str(setting) for setting in world.settings(words)]
    return entry | results[test.key]


def functions(test: Test) -> list[str]:
    """Where the code stands that a test compares or calls: `xltlib/finetuning/salt.py: augment`.

    Of a measured test what its queries name, and what measures its task; the registries say where.
    """
    named: list[str | Callable | None] = []
    if test.measured:
        for query in test.queries:
            named += [OBJECTIVES[query["objective"]].function] if "objective" in query else []
            named += [METHODS[query["method"]].function] if "method" in query else []
        named += [kind.function for kind in KINDS.values() if kind.task == test.task]
    elif test.type == "arithmetic":
        named.append(CHECKS[test.check])
    elif test.type == "implementation":
        named.append(resolve_name(test.callable))
    places = [x.partition(":")[::2] if isinstance(x, str) else (x.__module__, x.__name__) for x in named if x]
    return [f"{module.replace('.', '/')}.py: {name}" for module, name in dict.fromkeys(places)]


def combined(outcomes: Sequence[str]) -> str:
    """The verdict of a bundle: it falls with one part and stands with all.

    A part that is not run or inconclusive leaves the rest open, unless another part settles the matter.
    """
    return min(outcomes, key=FIRST.index)
