"""The numbers behind the figures of notebooks 05 and 06: differences, how far to trust them, verdicts."""

import html
from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
import pandas as pd
from statsmodels.stats.proportion import proportion_confint

from xltlib import StudyError
from xltlib.claims.claim_text import render_text, shown_verdict
from xltlib.claims.evaluate import needed
from xltlib.claims.ledger import Ledger
from xltlib.claims.verdicts import decide, robustness
from xltlib.figure_data import OBJECTIVE_CLAIMS, Records, chosen, rounded, short
from xltlib.params import Params
from xltlib.significance import honesty
from xltlib.significance.resampling import second_opinions
from xltlib.significance.tests import Effect, difference

SEEDS = (2, 3, 4, 6, 9, 12)  # numbers of seeds of simulated studies
EQUAL = 0.02  # two points: the difference whose power is shown, and the margin of equivalence
NOT_MODELLED, CLUSTERED = "five examples to a passage, not told", "five examples to a passage, told"
OPENING = {  # how itables shows `claim_table`: in its order, whole, filtered by any column, lines broken
    "allow_html": True, "layout": {"top1": "searchBuilder"}, "classes": "display compact", "order": [],
    "lengthMenu": [5, 10, 25, 100], "pageLength": 5, "maxBytes": 0, "showIndex": False, "autoWidth": False,
}  # fmt: skip
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
    pair = [chosen(records, task, o, params.targets) for o in (a, b)]
    if any(s.missing for s in pair):
        return None
    seeds = sorted(set(pair[0].seeds) & set(pair[1].seeds))
    return difference(*(list(s.only(seeds).scores) for s in pair), alpha=params.alpha) if seeds else None


def differences(records: Records, params: Params, against: str = "", resamples: int = 0) -> dict:
    """All pairwise differences of objectives, or those `against` one, with Holm's p and outcome (margin 0).

    With `resamples`, second opinions beside each interval: the bootstrap, sign flips, stochastic order.
    """
    pairs = [(b, a) for a, b in combinations(params.objectives, 2) if not against or against in (a, b)]
    rows = []
    for task in params.tasks:
        for a, b in pairs:
            found = effect(records, params, task, a, b)
            if found:
                rows.append(_row(f"{task}: {a} − {b}", found))
                if resamples:
                    rows[-1] |= _opinions(records, params, (task, a, b), resamples)
    decide(rows, params.alpha)
    return {
        "title": "Differences between objectives" + (f", against {against}" if against else ""),
        "caption": f"Mean difference over the target languages, {params.seeds} seed(s), "
        f"{params.test_examples} examples a language, {1 - params.alpha:.0%} intervals; "
        f"outcome (is the first one better?) after Holm over {len(rows)} comparisons.",
        "alt": "Differences with their intervals, a row for each task and pair of objectives.",
        "claims": OBJECTIVE_CLAIMS, "rows": rows, "x_label": "difference in accuracy (qa: F1)",
        "second": "bootstrap of seeds, then examples",
    }  # fmt: skip


def _opinions(records: Records, params: Params, which: tuple[str, str, str], resamples: int) -> dict:
    task, a, b = which
    scores = [list(chosen(records, task, o, params.targets).scores) for o in (a, b)]
    found = second_opinions(*scores, np.random.default_rng(0), resamples, params.alpha)
    second = [short(end) for end in found["bootstrap"]]
    return {"second": second, "p_flips": found["p_seeds"], "eps_min": short(found["eps_min"])}


def difference_table(data: Mapping) -> pd.DataFrame:
    """The rows of a `differences` figure with their p-values and what the second opinions say.

    `p_flips` is an exact test over seeds alone; `eps_min` near 0: the better one is so at all quantiles of
    its seeds; 0.5 and above: no order between the two.
    """
    names = ("label", "estimate", "low", "high", "p", "p_holm", "state", "p_flips", "eps_min")
    rows = [{name: row.get(name) for name in names} for row in data["rows"]]
    return pd.DataFrame(rows, columns=names).set_index("label").dropna(axis=1, how="all")


# Honesty and power


def coverage(params: Params, seeds: Sequence[int] = SEEDS, repeats: int = 2000) -> dict:
    """How often each kind of interval holds the true difference in simulated studies of this size."""
    shape = {"examples": params.test_examples, "settings": len(params.targets), "mu": 0.02, **SIMULATED}
    shape |= {"repeats": repeats, "alpha": params.alpha}
    rows = [honesty.coverage(np.random.default_rng(count), seeds=count, **shape) for count in seeds]
    series = [_by_seeds(words, seeds, [row[kind] for row in rows]) for kind, words in INTERVALS.items()]
    label = "share of intervals that hold the truth"
    return {
        "title": "Do intervals hold what they promise?", "width": 6.0, "height": 3.4,
        "panels": [_promise(label, seeds, series, 1 - params.alpha, rows[0])],
        "caption": f"{repeats} simulated studies for each number of seeds, {params.test_examples} examples "
        f"in {len(params.targets)} languages; grey: two standard errors of the simulation.",
        "alt": "Coverage by number of seeds for four kinds of interval.", "claims": [],
    }  # fmt: skip


def error_rates(params: Params, seeds: Sequence[int] = SEEDS, repeats: int = 2000) -> dict:
    """Coverage, false verdicts and power by number of seeds, in worlds that differ in what varies."""
    grouped = {CLUSTERED: honesty.GROUPED | {"clustered": True}, NOT_MODELLED: honesty.GROUPED}
    worlds = {**honesty.WORLDS, **grouped}
    found: dict[str, list] = {name: [] for name in worlds}
    for k, (name, world) in enumerate(worlds.items()):
        for count in seeds:
            shape = {"gains": (0.0, EQUAL), "repeats": repeats, "alpha": params.alpha, "mu": 0.02}
            rng = np.random.default_rng([k, count])
            found[name].append(
                honesty.error_rates(rng, seeds=count, equivalence_margin=EQUAL, **shape, **world)
            )
    told = {
        "intervals that hold the truth": (1 - params.alpha, lambda none, some: none["covered"]),
        "verdicts without any difference": (
            params.alpha, lambda none, some: none["supported"] + none["contradicted"]
        ),
        "called equal at the margin": (params.alpha, lambda none, some: some["equivalent"]),
        "power for two points": (None, lambda none, some: some["supported"]),
    }  # fmt: skip
    panels = []
    for words, (nominal, value) in told.items():
        series = [
            _by_seeds(name, seeds, [round(value(*row), 6) for row in rows]) for name, rows in found.items()
        ]
        panels.append(_promise("share", seeds, series, nominal, next(iter(found.values()))[0][0]))
        panels[-1]["name"] = words
    return {
        "title": "Honesty in simulated studies", "panels": panels, "columns": 2, "repeats": repeats,
        "caption": f"{repeats} simulated studies for each point; grey: the nominal rate with two standard "
        "errors of the simulation. Six worlds that differ in what varies, and one in which five examples "
        "share a passage: the intervals are told of it, or not.",
        "alt": "Coverage, false verdicts, false equivalence and power by number of seeds, a line a world.",
        "claims": [],
    }  # fmt: skip


def _by_seeds(name: str, seeds: Sequence[int], y: Sequence[float]) -> dict:
    return {"name": name, "curves": [{"x": list(seeds), "y": list(y)}]}


def _promise(
    label: str, seeds: Sequence[int], series: list, nominal: float | None, simulated: Mapping
) -> dict:
    """A panel of rates by number of seeds, with the nominal one and the error of the simulation."""
    panel = {
        "x_label": "seeds", "y_label": label, "series": series, "ticks": [[s, str(s)] for s in seeds]
    }  # fmt: skip
    if nominal is not None:
        error = 2 * simulated["error"]
        panel |= {"levels": [{"name": "nominal", "y": nominal}], "band": [nominal - error, nominal + error]}
    return panel


def honesty_table(data: Mapping) -> pd.DataFrame:
    """An `error_rates` figure by number of seeds, without the world that is not modelled.

    Rates over all worlds, and the worst world with Wilson's 95 % interval.
    """
    rows: dict[int, dict] = {}
    for panel in data["panels"]:
        worlds = [s["curves"][0] for s in panel["series"] if s["name"] != NOT_MODELLED]
        for k, seeds in enumerate(worlds[0]["x"]):
            rates = [world["y"][k] for world in worlds]
            row = rows.setdefault(seeds, {})
            row[panel["name"]] = f"{np.mean(rates):.3f} ({min(rates):.3f} to {max(rates):.3f})"
            if panel["name"].startswith("verdicts"):
                low, high = proportion_confint(max(rates) * data["repeats"], data["repeats"], method="wilson")
                row["worst world"] = f"{max(rates):.3f} [{low:.3f}, {high:.3f}]"
    return pd.DataFrame(rows).T.rename_axis("seeds")


def error_table(
    params: Params, gains: Sequence[float] = (0.0, 0.01, 0.02, 0.05), repeats: int = 2000
) -> pd.DataFrame:
    """How often each verdict falls in simulated studies of this size, by the true difference."""
    shape = {"examples": params.test_examples, "settings": len(params.targets), "mu": 0.02, **SIMULATED}
    shape |= {"seeds": max(params.seeds, 2), "repeats": repeats, "alpha": params.alpha}
    rows = honesty.error_rates(np.random.default_rng(0), gains, equivalence_margin=EQUAL, **shape)
    table = pd.DataFrame(rows).rename(columns={"gain": "true difference"}).set_index("true difference")
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
    """All statements with the reports' verdict and ours; a statement opens to show its evidence.

    Cells are HTML in which everything that comes from data is escaped: show them by itables with `OPENING`.
    """
    rows = []
    for claim in evidence["claims"]:
        shown = {
            "verdict": shown_verdict(claim), "report says": claim["report_verdict"],
            "confidence": claim["report_confidence"], "source says": claim["source"]["status"],
            "report": claim["report"], "method": claim["method"], "tasks": ", ".join(claim["tasks"]),
        }  # fmt: skip
        text = {k: html.escape(v) if isinstance(v, str) else v for k, v in shown.items()}
        summary, full = (html.escape(x) for x in (f"{claim['id']} {claim['statement']}", render_text(claim)))
        opened = full.replace("\n    ", " ").replace("\n", "<br>")  # the table breaks lines itself
        wide = '<details style="min-width: 24em; text-align: left">'
        rows.append({"statement": f"{wide}<summary>{summary}</summary>{opened}</details>", **text})
    return pd.DataFrame(rows)


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


def robustness_table(evidence: Mapping) -> pd.DataFrame:
    """How many variants of the analysis keep the outcome of each deciding test, in all and by choice."""
    rows = {}
    for claim in evidence["claims"]:
        for number, test in enumerate(claim["tests"], 1):
            found = robustness(test) if test["role"] == "decides" else None
            if found:
                row = {"outcome": test["outcome"], "all": f"{found['kept']} of {found['variants']}"}
                row["reversed"] = found["reversed"]
                row |= {choice: f"{kept} of {variants}" for choice, kept, variants in found["by"]}
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
