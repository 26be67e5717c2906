"""What the reviewer's page shows of the evidence: words, counts, and the geometry of its small plots."""

from __future__ import annotations

import math
import re
from collections import Counter
from typing import Any

from xltlib.claims.claim_text import NOT_RUN, TESTED, shown_verdict
from xltlib.claims.ledger import label
from xltlib.claims.verdicts import robustness

FAMILIES = {  # verdict families in the order of the first screen
    "Tested": TESTED,
    "Not run": (NOT_RUN,),
    "Checked against the source": ("confirmed by source", "contradicted by source", "not found"),
    "Arithmetic": ("possible", "impossible"),
}
KINDS = (  # of runs, in the order in which they build on one another
    "text", "pairs", "links", "baselines", "encoder", "probe", "tagging", "lexicon", "transfer", "evaluation",
    "seq2seq", "answers",
)  # fmt: skip
FACETS = ("report", "method", "task", "verdict", "scale", "their verdict")
WIDTH, LEFT, RIGHT = 360, 16, 344  # plot units; narrow, so that its text stays readable on a phone


def number(x: Any, signed: bool = False) -> str:
    """A number as text with three decimals ("-" where there is none); whole numbers keep all digits."""
    if not finite(x):
        return "–"
    if isinstance(x, int):
        return f"{x:+d}" if signed else f"{x:,}"
    digits = 3 if abs(x) < 100 else 1
    if x and abs(x) < 0.0005 and not signed:
        return f"{x:.1e}"
    return f"{x:{'+' if signed else ''}.{digits}f}".replace("-", "−")


def plain(x: Any) -> str:
    """A value of parameters or versions, as exactly as it was written."""
    return "–" if x is None else f"{x:.6g}" if isinstance(x, float) else str(x)


def p_value(p: Any) -> str:
    """A p-value as readers expect it."""
    return "–" if not finite(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"


def interval(effect: dict) -> str:
    """An estimate with its interval, "+0.050 [+0.020, +0.080]"."""
    text = number(effect.get("estimate"), signed=True)
    if finite(effect.get("low")) and finite(effect.get("high")):
        text += f" [{number(effect['low'], True)}, {number(effect['high'], True)}]"
    return text


def finite(x: Any) -> bool:
    """Whether `x` is a number that can be drawn (claims.json writes undefined results as null or NaN)."""
    return isinstance(x, (int, float)) and not isinstance(x, bool) and math.isfinite(x)


def slug(text: Any) -> str:
    """A class name or anchor part: lower-case letters, digits and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", str(text).lower()).strip("-")


def words(key: Any) -> str:
    """A key of the data as words ("peak_memory_mb" becomes "Peak memory mb")."""
    text = str(key).replace("_", " ")
    return text[:1].upper() + text[1:]


def headline(claims: list[dict]) -> list[dict]:
    """The first screen's counts: per family (and scale, where runs decided) every verdict and its number."""
    groups = []
    for family, verdicts in FAMILIES.items():
        members = [c for c in claims if c["verdict"] in verdicts]
        scales = sorted({c["scale"] for c in members}) if verdicts == TESTED else [None]
        for scale in scales:
            of_scale = [c for c in members if scale in (None, c["scale"])]
            counts = Counter(c["verdict"] for c in of_scale)
            if of_scale:
                groups.append(
                    {"family": family, "scale": scale, "counts": [(v, counts[v]) for v in verdicts]}
                )
    return groups


def facet_values(claim: dict) -> dict[str, list[str]]:
    """What a claim shows under each filter of the table; "none" where it has nothing."""
    values = {
        "report": [str(claim["report"])],
        "method": _listed(claim.get("method")),
        "task": _listed(claim.get("tasks")),
        "verdict": [claim["verdict"]],
        "scale": [claim["scale"]] if claim["verdict"] in TESTED else [],  # no other verdict has one
        "their verdict": _listed(claim.get("report_verdict")),
    }
    return {name: values[name] or ["none"] for name in FACETS}


def _listed(x: Any) -> list[str]:
    return [str(v) for v in (x if isinstance(x, (list, tuple)) else [x]) if v not in (None, "")]


def facets(claims: list[dict]) -> dict[str, list[tuple[str, int]]]:
    """Every filter with its values and how many claims each one keeps."""
    counted = {name: Counter() for name in FACETS}
    for claim in claims:
        for name, values in facet_values(claim).items():
            counted[name].update(set(values))
    return {name: sorted(c.items(), key=lambda item: natural(item[0])) for name, c in counted.items()}


def natural(text: str) -> list:
    """A sort key under which S1-9 comes before S1-10."""
    return [
        (0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", text) if part
    ]


def agreement(claims: list[dict]) -> list[dict]:
    """Our verdicts against theirs, as rows of counts."""
    theirs = sorted({str(c.get("report_verdict")) for c in claims}, reverse=True)
    counts = Counter((c["verdict"], str(c.get("report_verdict"))) for c in claims)
    ours = [v for verdicts in FAMILIES.values() for v in verdicts if any(counts[v, t] for t in theirs)]
    return [{"our verdict": v, **{f"theirs: {t}": counts[v, t] for t in theirs}} for v in ours]


def not_run(claims: list[dict]) -> list[tuple[str, list[str]]]:
    """Why claims were not run, each reason with the ids that it holds for, the most common first."""
    ids: dict[str, list[str]] = {}
    for claim in claims:
        if claim["verdict"] == NOT_RUN:
            ids.setdefault(claim.get("reason") or "no reason given", []).append(claim["id"])
    return sorted(ids.items(), key=lambda item: -len(item[1]))


def profiles(evidence: Any) -> list[dict]:
    """What the runs of each published profile decide, as rows of counts; none where there is one profile."""
    files = [evidence.claims_file, *evidence.beside] if evidence.beside else []
    rows = []
    for file in files:
        counts = Counter(c["verdict"] for c in file["claims"])
        row = {"": file["profile"], "scale": file["scale"], "seeds": _seeds(file["claims"])}
        rows.append(row | {v: counts[v] for v in (*TESTED, NOT_RUN)})
    return rows


def _seeds(claims: list[dict]) -> int | None:
    """The most seeds that a test of these claims rests on."""
    effects = [t.get("effect") or {} for c in claims for t in c.get("tests") or []]
    return max((e["seeds"] for e in effects if finite(e.get("seeds"))), default=None)


def elsewhere(claim: dict, beside: list[dict]) -> list[dict]:
    """What the runs of other published profiles say of a claim, a row for each that tested it."""
    rows = []
    for file in beside:
        for c in file["claims"]:
            if c["id"] == claim["id"] and c["verdict"] in TESTED:
                effect = main_effect(c) or {}
                row = {"profile": file["profile"], "verdict": shown_verdict(c)}
                rows.append(row | {"effect": interval(effect), "seeds": effect.get("seeds")})
    return rows


def repeated(evidence: Any) -> list[dict]:
    """Each deciding test of the profile that has an effect in another one too: a row of all their effects."""
    files = [evidence.claims_file, *evidence.beside]
    effects = [{(c["id"], n): t.get("effect") or {} for c, n, t in _tests(file)} for file in files]
    rows = []
    for claim, number, test in _tests(evidence.claims_file):
        found = [of_file.get((claim["id"], number), {}) for of_file in effects]
        there = [finite(effect.get("estimate")) for effect in found]
        if test.get("role", "decides") == "decides" and there[0] and sum(there) > 1:
            told = {"statement": claim["id"], "test": test.get("words"), "task": test.get("task")}
            shown = [interval(effect) if ok else "–" for effect, ok in zip(found, there, strict=True)]
            rows.append(told | {file["profile"]: text for file, text in zip(files, shown, strict=True)})
    return rows


def _tests(file: dict) -> list[tuple[dict, int, dict]]:
    """Every test of a claims file, with its claim and its number there."""
    return [(claim, n, test) for claim in file["claims"] for n, test in enumerate(claim.get("tests") or [])]


def few_seeds(claims: list[dict], enough: int = 6) -> int:
    """How many claims rest on a test with fewer than `enough` seeds."""
    seeds = [[(t.get("effect") or {}).get("seeds") for t in c.get("tests") or []] for c in claims]
    return sum(any(finite(n) and n < enough for n in ns) for ns in seeds)


def level(test: dict, alpha: float) -> float:
    """The interval's level in percent: an equivalence test at alpha reads the 1 - 2 alpha interval."""
    return round(100 * (1 - (2 if test.get("type") == "equivalence" else 1) * alpha), 4)


def source_facts(claim: dict) -> list[dict]:
    """What the sources say of a claim, as records of fact, mark and where."""
    source = claim.get("source") or {}
    found = source.get("facts") or ([source] if source.get("fact") else [])
    return [f if isinstance(f, dict) else {"fact": str(f)} for f in found]


def main_effect(claim: dict) -> dict | None:
    """The effect of the first deciding test that has one: what stands in a table of one line per claim."""
    deciding = [t for t in claim.get("tests") or [] if t.get("role", "decides") == "decides"]
    effects = (t.get("effect") or {} for t in deciding)
    return next((e for e in effects if finite(e.get("estimate"))), None)


def robust_claims(claims: list[dict]) -> tuple[int, int]:
    """How many tested statements keep the outcome of all deciding tests in all variants, and of how many."""
    found = []
    for claim in claims:
        deciding = [t for t in claim.get("tests") or [] if t.get("role", "decides") == "decides"]
        judged = [r for r in map(robustness, deciding) if r]
        if claim["verdict"] in TESTED and judged:
            found.append(all(r["kept"] == r["variants"] for r in judged))
    return sum(found), len(found)


def effect_plot(test: dict, ident: str, alpha: float = 0.05) -> dict | None:
    """Geometry of one effect: estimate, interval, a dot per seed, the null, the margin, the published value.

    `None` where there is no estimate. The margin is drawn at its own value, and at both signs for an
    equivalence test, whose region is shaded.
    """
    effect = test.get("effect") or {}
    if not finite(effect.get("estimate")):
        return None
    seeds = [s for s in effect.get("per_seed") or [] if finite(s)]
    rows = [{**effect, "mark": test.get("outcome") or ""}]
    plot = _geometry(rows, seeds, test, row_height=16)
    unit = test.get("unit", "")
    plot["id"] = f"plot-{ident}"
    plot["title"] = f"Effect {interval(effect)} {unit}".strip()
    plot["desc"] = (
        f"Estimate {number(effect['estimate'], True)}, {level(test, alpha):g} % interval from "
        f"{number(effect.get('low'), True)} to {number(effect.get('high'), True)}, "
        f"margin {number(test.get('margin'))}, {len(seeds)} seeds"
        + (f" from {number(min(seeds), True)} to {number(max(seeds), True)}" if seeds else "")
        + (f", published {number(test['published'], True)}." if finite(test.get("published")) else ".")
    )
    return plot


def specification_plot(test: dict, ident: str) -> dict | None:
    """Geometry of a specification curve: a thin row per variant of the analysis, by estimate."""
    rows = [s for s in test.get("specifications") or [] if finite(s.get("estimate"))]
    if not rows:
        return None
    rows = sorted(rows, key=lambda s: s["estimate"])
    rows = [{**s, "mark": s.get("outcome") or ""} for s in rows]
    plot = _geometry(rows, [], test, row_height=3 if len(rows) > 30 else 7)
    outcomes = Counter(s["mark"] or "no outcome" for s in rows)
    plot["id"] = f"spec-{ident}"
    plot["title"] = f"Specification curve over {len(rows)} variants of the analysis"
    plot["desc"] = "; ".join(f"{name}: {n}" for name, n in sorted(outcomes.items()))
    return plot


def _geometry(rows: list[dict], seeds: list[float], test: dict, row_height: int) -> dict:
    """Plot units of everything drawn; `rows` hold estimate, low, high, and `mark`, a class name."""
    margin = test.get("margin")
    margins = [margin] if finite(margin) and margin else []
    if test.get("type") == "equivalence" and margins:
        margins = [-abs(margin), abs(margin)]
    published = test.get("published") if finite(test.get("published")) else None
    drawn = [0.0, *margins, *seeds, *([] if published is None else [published])]
    drawn += [r[k] for r in rows for k in ("estimate", "low", "high") if finite(r.get(k))]
    low, high = min(drawn), max(drawn)
    pad = 0.06 * (high - low) or 0.01
    low, high = low - pad, high + pad

    def text(value: float, before: str = "") -> str:
        return before + plain(value).replace("-", "−")

    def x(value: float) -> float:
        return round(LEFT + (RIGHT - LEFT) * (value - low) / (high - low), 1)

    axis = 20 + row_height * len(rows) + (20 if seeds else 2)
    return {
        "width": WIDTH, "height": axis + 20, "left": LEFT, "right": RIGHT, "axis": axis, "null": x(0.0),
        "radius": min(5, row_height / 2.5),
        "margins": [(x(m), text(m, "margin "), _anchor(x(m), m, margins)) for m in margins],
        "band": (x(margins[0]), round(x(margins[-1]) - x(margins[0]), 1)) if len(margins) == 2 else None,
        "rows": [_row(r, x, 20 + row_height * (i + 0.5)) for i, r in enumerate(rows)],
        "seeds": [x(s) for s in seeds],
        "published": None if published is None else x(published),
        "ticks": [(x(t), text(t)) for t in ticks(low, high)],
    }  # fmt: skip


def _anchor(position: float, margin: float, margins: list[float]) -> str:
    """Which side of its line a label stands on: away from its twin, and never outside the drawing."""
    if position > RIGHT - 60:
        return "end"
    return "end" if len(margins) == 2 and margin < 0 and position > LEFT + 60 else "start"


def _row(row: dict, x, y: float) -> dict:
    ends = [row.get("low"), row.get("high")]
    return {
        "x": x(row["estimate"]),
        "y": y,
        "interval": [x(e) for e in ends] if all(map(finite, ends)) else None,
        "mark": "v-" + slug(row["mark"]),
    }


def ticks(low: float, high: float) -> list[float]:
    """Three to seven round values within [low, high], 0 always among the multiples."""
    raw = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= raw)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)  # 0.3 / 0.1 is below 3
    return [round(i * step, 10) for i in range(first, last + 1)]


def columns(rows: list[dict]) -> list[str]:
    """The keys of all records in the order of their first appearance, what names a record first."""
    keys = dict.fromkeys(key for row in rows for key in row)
    return sorted(keys, key=lambda key: key not in ("", "id", "ids", "claims", "report", "our verdict"))


def is_records(x: Any) -> bool:
    """Whether a value is a list of records, to be shown as a table."""
    return isinstance(x, list) and bool(x) and all(isinstance(row, dict) for row in x)


def is_flat(x: Any) -> bool:
    """Whether a list has only plain and short values, to be shown in one line of text."""
    return not any(isinstance(v, (dict, list)) or len(str(v)) > 40 for v in x)


def is_grid(x: dict) -> bool:
    """Whether a mapping holds records of plain values, to be shown as a table with its keys in front."""
    return bool(x) and all(isinstance(v, dict) and is_flat(v.values()) for v in x.values())


def grid(x: dict) -> list[dict]:
    """A mapping of records as a list of records that begin with their key."""
    return [{"": key, **record} for key, record in x.items()]


def rest(record: dict, shown: tuple[str, ...]) -> dict:
    """What a record holds beyond the keys that are shown already."""
    return {k: v for k, v in record.items() if k not in shown and v not in (None, "", [])}


def answered(question: dict) -> bool:
    """Whether an open question has an answer; one without a status has it where it has an effect."""
    return question.get("status", "answered") == "answered" and bool(question.get("effect"))


def run_summary(run: dict) -> str:
    """A run on one line: its kind, what was compared, task and seed; or the simple ones of its parameters."""
    labels, kind = run.get("labels") or {}, str(run.get("kind", "run"))
    if labels:
        seed = f"seed {labels['seed']}" if "seed" in labels else ""
        return ", ".join(x for x in (kind, label(labels), str(labels.get("task", "")), seed) if x)
    params = dict(run.get("params") or {})
    options = ", ".join(f"{k}={plain(v)}" for k, v in dict(params.pop("options", None) or {}).items())
    first = [f"{params.pop('objective')}{options and f'({options})'}"] if "objective" in params else []
    first += [f"seed {params.pop('seed')}"] if "seed" in params else []
    simple = [f"{k} {plain(v)}" for k, v in params.items() if not isinstance(v, (dict, list)) and v != ""]
    return ", ".join([kind, *first, *simple[: 6 - len(first)]])


def by_kind(runs: dict[str, dict]) -> dict[str, list[tuple[str, dict]]]:
    """Runs (digest and run) by kind, inputs before what builds on them; of a kind by what they compare."""
    found: dict[str, list[tuple[str, dict]]] = {}
    for digest, run in sorted(runs.items(), key=lambda each: (run_summary(each[1]), each[0])):
        found.setdefault(str(run.get("kind", "run")), []).append((digest, run))
    known = [kind for kind in KINDS if kind in found]
    return {kind: found[kind] for kind in [*known, *sorted(found.keys() - set(KINDS))]}


FILTERS = {  # what templates may call on a value
    "num": number, "p": p_value,
    **{f.__name__: f for f in (
        plain, interval, slug, words, finite, level, source_facts, main_effect, shown_verdict, facet_values,
        answered, few_seeds, elsewhere, robustness, robust_claims, columns, is_records, is_flat, is_grid,
        grid, rest, run_summary, by_kind,
    )},
}  # fmt: skip
