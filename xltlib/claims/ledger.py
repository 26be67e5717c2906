"""The ledger's own words: statements, what the sources say of them, and tests that are fixed before a run."""

import difflib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from xltlib import StudyError
from xltlib.claims.design import Design

MEASURED = ("superiority", "equivalence", "interaction", "trend")  # these need runs
TYPES = (*MEASURED, "arithmetic", "document", "implementation")
# the first makes the verdict, the second one beside what the source says; the others explain
ROLES = ("decides", "second", "control", "ablation")
MARKS = ("read in source", "second-hand", "inference")  # how a fact is known; a recollection is no fact
SOURCE_STATUS = ("confirmed", "contradicted", "not found")
REPORT_VERDICTS = ("verified", "not verified")
KINDS = ("numeric result", "hyper-parameter", "method description", "background", "citation")
RELEVANCE = ("yes", "partly", "weak", "no")
OBJECTIVES = ("none", "mlm", "tlm", "weam", "word_aligned", "mixed", "subword_weam", "subword_aligned")
METHODS = (
    "standard",
    "translate_train",
    "adversarial",
    "rs_rp",
    "rs_da",
    "salt",
    "code_switch",
    "intermediate",
)
TASKS = ("nli", "paraphrase", "qa", "retrieval", "alignment", "lexicon")
SETTINGS = ("source", "targets", "all", "pairs")
LABELS = ("objective", "objective_options", "method", "method_options")
CHECKS = ("same_gain", "implied_language")


@dataclass(frozen=True)
class Test:
    """One test of one statement; a query names the labels of the runs that it compares.

    `a` should be the better one where the statement holds. For an interaction the gain of `a` over `b` under
    `settings` should exceed `share` of that of `a2` over `b2` under `settings2`; for a trend the mean score
    of `a` goes up or down (`direction`) with the number that `points` gives to each value of the label
    `over`.
    """

    type: str
    words: str = ""
    role: str = "decides"
    name: str = ""
    task: str = ""
    a: dict = field(default_factory=dict)
    b: dict = field(default_factory=dict)
    a2: dict = field(default_factory=dict)
    b2: dict = field(default_factory=dict)
    level: float | None = None  # a score that `a` should exceed, in place of `b`
    settings: str | tuple[str, ...] = "targets"
    settings2: str | tuple[str, ...] = ""
    metric: str = ""  # "f1" reads the scores "near#f1" where "" reads "near"
    share: float = 1.0  # of an interaction: how much of the second gain the first should exceed
    margin: float = 0.0
    matters: float = 0.0  # the smallest effect that matters: below it the statement is contradicted
    unit: str = ""
    reason: str = ""
    matters_reason: str = ""
    since: str = ""  # "confirmation": no profile of the exploration runs it
    published: float | None = None  # the figure in the statement, drawn beside the measured one
    over: str = ""
    points: dict = field(default_factory=dict)
    direction: str = ""
    check: str = ""
    claims: tuple[str, ...] = ()
    callable: str = ""
    test_of: str = ""

    @property
    def key(self) -> str:
        """What makes two tests one and the same: all of it but how it is told and where it stands."""
        told = ("words", "role", "name", "reason", "matters_reason", "unit", "published", "test_of", "since")
        return json.dumps({k: v for k, v in vars(self).items() if k not in told}, sort_keys=True)

    @property
    def measured(self) -> bool:
        """Whether it needs runs."""
        return self.type in MEASURED

    @property
    def formula(self) -> str:
        """The test in plain notation, derived from its queries."""
        return _FORMULAS[self.type](self)


@dataclass(frozen=True)
class Claim:
    """One statement of one report, verbatim, with all that is known of it before a run."""

    id: str
    report: int
    statement: str
    report_verdict: str
    report_confidence: float
    kind: str
    method: str
    source: dict
    tests: tuple[Test, ...]
    tasks: tuple[str, ...] = ()
    duplicates: tuple[str, ...] = ()
    contradicts: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()
    related: tuple[dict, ...] = ()
    truncated: bool = False
    combine: str = ""
    limits: str = ""

    @property
    def deciding(self) -> tuple[Test, ...]:
        """The tests that make the verdict."""
        return tuple(t for t in self.tests if t.role == "decides")


@dataclass(frozen=True)
class Ledger:
    """All statements in the order of the file, the reports, the design, and the digest of claims.yaml."""

    claims: tuple[Claim, ...]
    reports: tuple[dict, ...]
    defaults: dict  # option of a query -> the value that leaving it out means
    digest: str
    design: Design


def find(ledger: Ledger, claim_id: str) -> Claim:
    """The statement with this id, in either case; StudyError names the nearest ids where there is none."""
    known = {c.id: c for c in ledger.claims}
    wanted = str(claim_id).strip().upper()
    if wanted in known:
        return known[wanted]
    near = difflib.get_close_matches(wanted, known, n=3, cutoff=0.3)
    hint = f"the nearest are {', '.join(near)}" if near else f"they run from {min(known)} to {max(known)}"
    raise StudyError(f"there is no statement {str(claim_id)!r} in the ledger: {hint}")


def label(query: Mapping[str, Any]) -> str:
    """A query, or the labels of a run, in a few words: `weam(lambda=0.25) + salt`."""
    objective, method = (
        f"{query.get(name) or default}({query[f'{name}_options']})"
        if query.get(f"{name}_options")
        else f"{query.get(name) or default}"
        for name, default in (("objective", "none"), ("method", "standard"))
    )
    return objective if method == "standard" else f"{objective} + {method}"


def nearest(word: Any, known: Iterable[str]) -> str:
    """The end of an error message: the known word that was probably meant, if one is near."""
    near = difflib.get_close_matches(str(word), [str(k) for k in known], n=1, cutoff=0.5)
    return f": did you mean {near[0]}?" if near else ""


def _where(settings: str | tuple[str, ...]) -> str:
    return settings if isinstance(settings, str) else ", ".join(settings)


def _tail(t: Test) -> str:
    return f"  [{t.task}{', F1' if t.metric == 'f1' else ''}; {_where(t.settings)}]"


def _superiority(t: Test) -> str:
    right = f"mean({label(t.b)})" if t.level is None else f"{t.level:g}"
    return f"mean({label(t.a)}) - {right} > {t.margin:g}{_tail(t)}"


def _interaction(t: Test) -> str:
    gains = [
        f"mean({label(a)} - {label(b)} | {_where(settings)})"
        for a, b, settings in ((t.a, t.b, t.settings), (t.a2, t.b2, t.settings2))
    ]
    second = gains[1] if t.share == 1 else f"{t.share:g} {gains[1]}"
    return f"{gains[0]} - {second} > {t.margin:g}  [{t.task}{', F1' if t.metric == 'f1' else ''}]"


def _trend(t: Test) -> str:
    name = next((option.split("=")[0] for option in t.points if option), t.over)
    sign, levels = ("" if t.direction == "up" else "-"), ", ".join(f"{x:g}" for x in t.points.values())
    return f"{sign}slope of mean({label(t.a)}) over {name} in ({levels}) > {t.margin:g}{_tail(t)}"


_FORMULAS = {
    "superiority": _superiority,
    "equivalence": lambda t: f"|mean({label(t.a)}) - mean({label(t.b)})| < {t.margin:g}{_tail(t)}",
    "interaction": _interaction,
    "trend": _trend,
    "arithmetic": lambda t: f"{t.check}({', '.join(t.claims)})",
    "document": lambda t: "what the source says",
    "implementation": lambda t: f"{t.callable}() is true",
}
