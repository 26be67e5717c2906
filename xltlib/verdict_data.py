"""The numbers behind the figures of notebooks 05 and 06: differences, how far to trust them, verdicts."""

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
import pandas as pd

from xltlib import honesty
from xltlib.claims import needed
from xltlib.figure_data import OBJECTIVE_CLAIMS, Records, chosen, rounded, short, targets
from xltlib.ledger import Ledger
from xltlib.params import Params, StudyError
from xltlib.resampling import hierarchical_bootstrap
from xltlib.significance import Effect, difference
from xltlib.verdicts import CONTRADICTED, INCONCLUSIVE, SUPPORTED, holm

# simulated studies like the measured ones: luck of seeds and items on the latent scale, the rival's accuracy
SIMULATED = {"sd_seed": 0.1, "sd_item": 0.5, "base": 0.6}
INTERVALS = {
    "crossed": "crossed model (used here)", "bootstrap": "bootstrap of seeds, then examples",
    "seeds_only": "t over seeds", "examples_only": "t over examples",
}  # fmt: skip

# Differences


def _row(name: str, effect: Effect) -> dict:
    return {
        "label": name, "estimate": short(effect.estimate), "p": effect.p,
        "low": short(effect.low), "high": short(effect.high), "seeds": rounded(effect.per_seed),
    }  # fmt: skip


def effect(records: Records, params: Params, task: str, a: str, b: str) -> Effect | None:
    """Mean gain of objective `a` over `b` in the target languages; None where runs are missing."""
    pair = [chosen(records, task, o, targets(params)) for o in (a, b)]
    if any(s.missing for s in pair):
        return None
    seeds = sorted(set(pair[0].seeds) & set(pair[1].seeds))
    return difference(*(list(s.only(seeds).scores) for s in pair), alpha=params.alpha) if seeds else None


def differences(records: Records, params: Params, against: str = "", resamples: int = 0) -> dict:
    """All pairwise differences of objectives, or those `against` one, with Holm's p and outcome (margin 0).

    With `resamples`, the bootstrap of seeds, then examples, beside each interval.
    """
    pairs = [(b, a) for a, b in combinations(params.objectives, 2) if not against or against in (a, b)]
    rows = []
    for task in params.tasks:
        for a, b in pairs:
            found = effect(records, params, task, a, b)
            if found:
                rows.append(_row(f"{task}: {a} − {b}", found))
                if resamples:
                    rows[-1]["second"] = _bootstrap(records, params, (task, a, b), resamples)
    for row, p in zip(rows, holm([row["p"] for row in rows]) if rows else [], strict=True):
        sure = len(row["seeds"]) > 1 and p <= params.alpha
        row["p_holm"] = float(p)
        row["state"] = INCONCLUSIVE if not sure else SUPPORTED if row["estimate"] > 0 else CONTRADICTED
    return {
        "title": "Differences between objectives" + (f", against {against}" if against else ""),
        "caption": f"Mean difference over the target languages, {params.seeds} seed(s), "
        f"{params.test_examples} examples a language, {1 - params.alpha:.0%} intervals; "
        f"outcome (is the first one better?) after Holm over {len(rows)} comparisons.",
        "alt": "Differences with their intervals, a row for each task and pair of objectives.",
        "claims": OBJECTIVE_CLAIMS, "rows": rows, "x_label": "difference in accuracy (qa: F1)",
        "second": "bootstrap of seeds, then examples",
    }  # fmt: skip


def _bootstrap(records: Records, params: Params, which: tuple[str, str, str], resamples: int) -> list[float]:
    task, a, b = which
    scores = [list(chosen(records, task, o, targets(params)).scores) for o in (a, b)]
    found = hierarchical_bootstrap(*scores, np.random.default_rng(0), resamples, params.alpha)
    return [short(found.low), short(found.high)]


def difference_table(data: Mapping) -> pd.DataFrame:
    """The rows of a `differences` figure with their p-values."""
    names = ("label", "estimate", "low", "high", "p", "p_holm", "state")
    rows = [{name: row[name] for name in names} for row in data["rows"]]
    return pd.DataFrame(rows, columns=names).set_index("label")


# Honesty and power


def coverage(params: Params, seeds: Sequence[int] = (2, 3, 4, 6, 9, 12), repeats: int = 500) -> dict:
    """How often each kind of interval holds the true difference in simulated studies of this size."""
    shape = {"examples": params.test_examples, "settings": len(targets(params)), "mu": 0.02, **SIMULATED}
    shape |= {"repeats": repeats, "alpha": params.alpha}
    rows = [honesty.coverage(count, rng=np.random.default_rng(count), **shape) for count in seeds]
    curves = [
        {"name": words, "curves": [{"x": list(seeds), "y": [row[kind] for row in rows]}]}
        for kind, words in INTERVALS.items()
    ]
    nominal, error = 1 - params.alpha, 2 * rows[0]["error"]
    panel = {
        "x_label": "seeds", "y_label": "share of intervals that hold the truth", "series": curves,
        "levels": [{"name": "nominal", "y": nominal}], "band": [nominal - error, nominal + error],
        "ticks": [[s, str(s)] for s in seeds],
    }  # fmt: skip
    return {
        "title": "Do intervals hold what they promise?", "panels": [panel], "width": 6.0, "height": 3.4,
        "caption": f"{repeats} simulated studies for each number of seeds, {params.test_examples} examples "
        f"in {len(targets(params))} languages; grey: two standard errors of the simulation.",
        "alt": "Coverage by number of seeds for four kinds of interval.", "claims": [],
    }  # fmt: skip


def error_table(
    params: Params, gains: Sequence[float] = (0.0, 0.01, 0.02, 0.05), repeats: int = 500
) -> pd.DataFrame:
    """How often each verdict falls in simulated studies of this size, by the true difference."""
    shape = {"examples": params.test_examples, "settings": len(targets(params)), **SIMULATED}
    shape |= {"seeds": max(params.seeds, 2), "repeats": repeats, "alpha": params.alpha}
    rows = [
        honesty.error_rates(mu=gain, rng=np.random.default_rng(k), **shape) for k, gain in enumerate(gains)
    ]
    table = pd.DataFrame(rows).rename(columns={"mu": "true difference"}).set_index("true difference")
    return table[["seeds", "supported", "contradicted", "equivalent"]]


def smallest_effects(
    records: Records, params: Params, a: str, b: str, seeds: Sequence[int] = range(2, 13)
) -> dict:
    """The gain of `a` over `b` seen with power 0.8, by number of seeds, from the measured spread."""
    series = []
    for task in params.tasks:
        found = effect(records, params, task, a, b)
        if found:
            known = (found.examples, params.alpha)
            y = [honesty.smallest_detectable(found.components, count, *known) for count in seeds]
            series.append({"name": task, "curves": [{"x": list(seeds), "y": rounded(y)}]})
    panel = {
        "x_label": "seeds", "y_label": "smallest difference seen", "series": series, "limits": [0, None],
        "ticks": [[s, str(s)] for s in seeds], "levels": [{"name": "two points", "y": 0.02}],
    }  # fmt: skip
    few = " One seed shows no spread of seeds: these are too hopeful." if params.seeds == 1 else ""
    return {
        "title": "The smallest effect that can be seen", "panels": [panel], "width": 6.0,
        "caption": f"Difference of {a} and {b} found with power 0.8 before correction, "
        f"{params.test_examples} examples a language; spread estimated from {params.seeds} seed(s).{few}",
        "alt": "The smallest detectable difference falls with the number of seeds, by task.",
        "claims": OBJECTIVE_CLAIMS,
    }  # fmt: skip


# Verdicts


def needed_table(ledger: Ledger, params: Params, report: int) -> pd.DataFrame:
    """For each statement of a report: its deciding tests, the runs that they compare, and what these are."""
    rows = {}
    for claim in (c for c in ledger.claims if c.report == report):
        kinds = dict.fromkeys(test.type for test in claim.deciding)
        runs = needed(ledger, params, claim.id) if any(test.measured for test in claim.deciding) else []
        words = dict.fromkeys(f"{r['labels']['objective']} {r['labels']['method']}" for r in runs)
        told = {"statement": claim.statement, "test": ", ".join(kinds), "runs": len(runs) * params.seeds}
        rows[claim.id] = told | {"compared": ", ".join(words)}
    return pd.DataFrame(rows).T


def claim_table(evidence: Mapping) -> pd.DataFrame:
    """All statements with the reports' verdict and ours."""
    names = ("id", "statement", "method", "report_verdict", "report_confidence", "verdict", "reason")
    table = pd.DataFrame([{k: claim[k] for k in names} for claim in evidence["claims"]]).set_index("id")
    return table.fillna("")


def claim_effects(evidence: Mapping) -> dict:
    """Every deciding test that has an effect: estimate, interval, margin and outcome."""
    rows = []
    for claim in evidence["claims"]:
        for test in claim["tests"]:
            if test["role"] == "decides" and test.get("effect"):
                e = test["effect"]
                row = {"label": f"{claim['id']} {test['type']}, {test['task']}", "margin": test["margin"]}
                row |= {"state": test["outcome"], "seeds": e["per_seed"]}
                rows.append(row | {name: e[name] for name in ("estimate", "low", "high")})
    tested = list(dict.fromkeys(row["label"].split()[0] for row in rows))
    seeds = max((len(row["seeds"]) for row in rows), default=0)
    return {
        "title": "Statements tested by runs", "rows": rows, "x_label": "effect in the unit of the test",
        "caption": f"{len(rows)} deciding tests of {len(tested)} statements, {seeds} seed(s) at most, scale "
        f"{evidence['scale']}; intervals before, outcomes after Holm's correction; dotted: the margin.",
        "alt": "Effects with intervals of all tested statements, marked by outcome.", "claims": tested,
    }  # fmt: skip


def report_table(evidence: Mapping) -> pd.DataFrame:
    """What the reports say against themselves, counted."""
    checks = evidence["reports"]
    rule, copied, cited = checks["confidence_rule"], checks["copied_report"], checks["references"]
    wrong = [f"report {h['report']}" for h in checks["header_counts"] if not h["agrees"]]
    opposite = [" and ".join(pair["verdicts"]) for pair in checks["opposite_verdicts"]]
    off_topic = [f"report {r['report']}: {r['arxiv']}" for r in cited["off_topic"]]
    rows = {
        f"verdict is confidence of {rule['threshold']:g} or more, exceptions": rule["exceptions"],
        "headers whose counts are not those of their rows": wrong,
        "same fact, or whole and part, with opposite verdicts": opposite,
        "facts stated more than once": [" = ".join(group["ids"]) for group in checks["duplicates"]],
        "statements cut off": [row["id"] for row in checks["truncated"]],
        f"cited papers beside the point, of {cited['cited']}": off_topic,
        f"rows of report 3 repeated word for word in report 4, of {copied['rows']}": copied["same_words"],
    }
    counted = {k: (v, "") if isinstance(v, int) else (len(v), "; ".join(v)) for k, v in rows.items()}
    return pd.DataFrame(counted, index=["number", "which"]).T


def confidence(evidence: Mapping, by: str = "report") -> dict:
    """The reports' confidences by `report`, or by our `verdict`."""
    if by not in ("report", "verdict"):
        raise StudyError(f"by: {by!r}, expected 'report' or 'verdict'")
    words = {"report": "report {}", "verdict": "{}"}[by]
    rows = [
        {
            "id": c["id"], "category": words.format(c[by]), "confidence": c["report_confidence"],
            "kind": f"report says {c['report_verdict']}",
        }
        for c in evidence["claims"]
    ]  # fmt: skip
    names = sorted({row["category"] for row in rows})
    return {
        "title": f"The reports' confidence, by {by if by == 'report' else 'our verdict'}",
        "caption": f"{len(rows)} statements; dashed: the confidence that parts verified from not verified.",
        "alt": "Confidence of every statement as a dot, by row and by the report's verdict.",
        "claims": [], "rows": rows, "categories": names, "x_label": "confidence that the report states",
        "threshold": evidence["reports"]["confidence_rule"]["threshold"],
    }  # fmt: skip
