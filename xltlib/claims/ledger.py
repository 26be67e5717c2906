"""The ledger: statements, what the sources say of them, and tests and rules that are fixed before a run.

`load_ledger` reads claims.yaml with the design.yaml and reports.yaml beside it, and refuses what it does not
know, naming the file, the statement and the key.
"""

import difflib
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired

from annotated_types import MinLen
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked_dataclass
from typing_extensions import TypedDict

from xltlib import StudyError
from xltlib.finetuning.options import METHODS
from xltlib.params import ZeroOrMore, read_value
from xltlib.pretraining.options import OBJECTIVES
from xltlib.textfile import read_text

LEDGER = Path(__file__).resolve().parents[2] / "params" / "claims.yaml"
DESIGN, REPORTS = "design.yaml", "reports.yaml"  # beside it
MEASURED = ("superiority", "equivalence", "interaction", "trend")  # types of tests that need runs
MARKS = ("read in source", "second-hand", "inference")  # how a fact is known; a recollection is no fact
SETTINGS = ("source", "targets", "all", "pairs")
# what of a test can change no verdict
TOLD = ("words", "name", "unit", "reason", "matters_reason", "published")

# What a test of each type must say, and what it may say besides words, role and name.
_MAY = {"settings", "published", "matters", "matters_reason", "since"}
_MUST = {"words", "a", "task", "margin", "unit", "reason"}
KEYS = {
    "superiority": (_MUST, _MAY | {"b", "level"}),
    "equivalence": (_MUST | {"b"}, _MAY),
    "interaction": (_MUST | {"b", "a2", "b2", "settings", "settings2"}, _MAY | {"share"}),
    "trend": (_MUST | {"over", "points", "direction"}, _MAY),
    "arithmetic": ({"words", "check", "claims"}, set()),
    "document": (set(), set()),
    "implementation": ({"words", "callable"}, set()),
}

# The schema

STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
Score = Annotated[float, Field(ge=0, le=1)]  # two points are 0.02
Where = Literal[("", *SETTINGS)] | ZeroOrMore[str]  # one word, or a list of languages
TASKS = ("nli", "paraphrase", "qa", "retrieval", "alignment", "lexicon")
Role = Literal["decides", "second", "control", "ablation"]


def _keys(total: bool = True, **kinds: Any) -> Any:
    """A mapping with these keys and no others, all of them unless not `total`."""
    kind = TypedDict("Keys", kinds, total=total)
    kind.__pydantic_config__ = STRICT
    return kind


# labels of the runs that a test compares; what is left out is the default
Query = _keys(
    total=False, objective=Literal[tuple(OBJECTIVES)], objective_options=str, method=Literal[tuple(METHODS)],
    method_options=str,
)  # fmt: skip
# what a primary source says of a statement, and how that is known
Source = _keys(
    status=Literal["confirmed", "contradicted", "not found"],
    searched=list[str],
    facts=NotRequired[list[_keys(fact=str, mark=Literal[MARKS], where=str)]],
)
# a paper that a report cites, and whether it bears on its subject
Paper = _keys(
    arxiv=str, title=str, relevant=Literal["yes", "partly", "weak", "no"], why=str, mark=Literal[MARKS]
)
Report = _keys(
    id=int, file=str, title=str, date=Any, examines=str, question=str, question_needs=str,
    papers_retrieved=int, claims_extracted=int, claims_verified=int, quality_score=float,
    abstract_truncated=bool, references=list[Paper],
)  # fmt: skip
# statements are looked into one by one
File = _keys(searched=dict[str, str], defaults=NotRequired[dict], matters=Score, claims=list[dict[str, Any]])
# the test of another statement, "S0-2" or by its name "S0-2/zero_shot", with a task and a role of its own
Reference = _keys(test_of=str, task=NotRequired[str], role=NotRequired[Role])
Looks = Annotated[list[_keys(seeds=int, alpha=Annotated[float, Field(gt=0, lt=0.5)])], MinLen(1)]


@checked_dataclass(frozen=True, config=STRICT)
class Test:
    """One test of one statement; a query names the labels of the runs that it compares.

    `a` should be the better one where the statement holds. For an interaction the gain of `a` over `b` under
    `settings` should exceed `share` of that of `a2` over `b2` under `settings2`; for a trend the mean score
    of `a` goes up or down (`direction`) with the number that `points` gives to each value of the label
    `over`. The role `decides` makes the verdict, `second` one beside what the source says; others explain.
    """

    type: Literal[tuple(KEYS)]
    words: str = ""
    role: Role = "decides"
    name: str = ""
    task: Literal[("", *TASKS)] = ""
    a: Query = field(default_factory=dict)
    b: Query = field(default_factory=dict)
    a2: Query = field(default_factory=dict)
    b2: Query = field(default_factory=dict)
    level: Score | None = None  # a score that `a` should exceed, in place of `b`
    settings: Where = "targets"
    settings2: Where = ""
    share: Score = 1.0  # of an interaction: how much of the second gain the first should exceed
    margin: Score = 0.0
    matters: Score = 0.0  # the smallest effect that matters: below it the statement is contradicted
    unit: str = ""
    reason: str = ""
    matters_reason: str = ""
    since: Literal["", "confirmation"] = ""  # "confirmation": no profile of the exploration runs it
    published: Annotated[float, Field(ge=-1, le=1)] | None = None  # the figure in the statement
    over: Literal["", "objective_options", "method_options"] = ""
    points: dict[str, float] = field(default_factory=dict)
    direction: Literal["", "up", "down"] = ""
    check: Literal["", "same_gain", "implied_language"] = ""
    claims: ZeroOrMore[str] = ()
    callable: Annotated[str, Field(pattern=r"^(xltlib(\.\w+)+:\w+)?$")] = ""
    test_of: str = ""

    @property
    def queries(self) -> list[dict[str, str]]:
        """The labels of the runs of a measured test, in the order in which its scores are compared."""
        systems = [self.a, *([self.b] if self.level is None else [])]
        systems += [self.a2, self.b2] if self.settings2 else []
        if self.type == "trend":
            systems = [{**self.a, self.over: option} for option in self.points]
        return [{**query, "task": self.task} for query in systems]

    @property
    def metric(self) -> str:
        """What its scores are measured by, where that is not the first measure of the task."""
        return "f1" if self.task == "qa" else ""

    @property
    def key(self) -> str:
        """What makes two tests one and the same: all of it but how it is told and where it stands."""
        told = {*TOLD, "role", "test_of", "since"}
        return json.dumps(_adapter(Test).dump_python(self, exclude=told), sort_keys=True)

    @property
    def given(self) -> dict[str, Any]:
        """Whatever is not as by default, without the name that other statements call it by."""
        return _adapter(Test).dump_python(self, exclude={"name"}, exclude_defaults=True)

    @property
    def measured(self) -> bool:
        """Whether it needs runs."""
        return self.type in MEASURED

    @property
    def formula(self) -> str:
        """The test in plain notation, derived from its queries."""
        where, other = (x if isinstance(x, str) else ", ".join(x) for x in (self.settings, self.settings2))
        task = f"{self.task}, F1" if self.metric else self.task
        a, b, a2, b2 = map(label, (self.a, self.b, self.a2, self.b2))
        match self.type:
            case "arithmetic":
                return f"{self.check}({', '.join(self.claims)})"
            case "document":
                return "what the source says"
            case "implementation":
                return f"{self.callable}() is true"
            case "equivalence":
                return f"|mean({a}) - mean({b})| < {self.margin:g}  [{task}; {where}]"
            case "interaction":
                share = "" if self.share == 1 else f"{self.share:g} "
                gain = f"mean({a} - {b} | {where}) - {share}mean({a2} - {b2} | {other})"
                return f"{gain} > {self.margin:g}  [{task}]"
            case "trend":
                options = [o.partition("=") for text in self.points for o in text.split(",")]
                levels = [f"{x:g}" for x in self.points.values()]
                # the option that is varied; the others are the same at all points
                varied = next((name for name, _, level in options if level in levels), options[0][0])
                sign = "" if self.direction == "up" else "-"
                slope = f"{sign}slope of mean({a}) over {varied} in ({', '.join(levels)})"
                return f"{slope} > {self.margin:g}  [{task}; {where}]"
        rival = f"mean({b})" if self.level is None else f"{self.level:g}"
        return f"mean({a}) - {rival} > {self.margin:g}  [{task}; {where}]"


@checked_dataclass(frozen=True, config=STRICT)
class Claim:
    """One statement of one report, verbatim, with all that is known of it before a run."""

    id: Annotated[str, Field(pattern=r"^S\d+-[1-9]\d*$")]
    report: int
    statement: str
    report_verdict: Literal["verified", "not verified"]
    report_confidence: Score
    kind: Literal["numeric result", "hyper-parameter", "method description", "background", "citation"]
    method: str
    source: dict
    tests: ZeroOrMore[Test]
    tasks: ZeroOrMore[Literal[TASKS]] = ()
    duplicates: ZeroOrMore[str] = ()
    contradicts: ZeroOrMore[str] = ()
    parts: ZeroOrMore[str] = ()
    related: ZeroOrMore[_keys(id=str, how=str)] = ()
    truncated: bool = False
    combine: Literal["", "all"] = ""  # "all": it holds where every deciding test does
    limits: str = ""

    @property
    def deciding(self) -> tuple[Test, ...]:
        """The tests that make the verdict."""
        return tuple(t for t in self.tests if t.role == "decides")


@checked_dataclass(frozen=True, config=STRICT)
class Design:
    """What decides and when: the content of design.yaml, with the digest of its rules and the ledger's tests.

    A look is at the first `seeds` confirmatory seeds, with its part of the error rate. `source_score` is, by
    task, what a system must reach in the source language at the scale of `learnt` to count as trained, in at
    least `share` of the seeds. `frozen` is the digest that confirmatory runs were started with.
    """

    exploration: _keys(profiles=list[str])
    confirmation: _keys(profile=str, first_seed=int, looks=Looks)
    learnt: _keys(scale=str, source_score=dict[str, Score], share=Score, analyses=NotRequired[list[str]])
    matters_real: Score
    frozen: str
    digest: str = ""

    def confirms(self, profile: str) -> bool:
        """Whether the runs of a profile are confirmatory."""
        return profile == self.confirmation["profile"]

    def require_older(self, profile: str, started: str, place: Path) -> None:
        """StudyError where confirmatory runs, those of `place`, were started under other rules.

        started : the digest of the rules that were then
        """
        if self.confirms(profile) and not started == self.digest == self.frozen:
            raise StudyError(
                f"{place}: its runs were started under the rules {started}, frozen is {self.frozen}, and"
                f" ledger and design now have {self.digest}: a margin, a smallest effect or a rule is younger"
                " than the runs that it judges: undo the change"
            )

    def require_frozen(self, profile: str) -> None:
        """StudyError where confirmatory runs would be judged by rules that are not the frozen ones."""
        if self.confirms(profile) and self.digest != self.frozen:
            raise StudyError(
                f"params/{DESIGN}: the rules have the digest {self.digest}, frozen is {self.frozen}: runs"
                " that confirm are judged by rules older than they are. Undo the change, or, before any"
                " such run, write the digest at `frozen`"
            )


@dataclass(frozen=True)
class Ledger:
    """All statements in the order of the file, the reports, the design, and the digest of claims.yaml."""

    claims: tuple[Claim, ...]
    reports: tuple[Report, ...]
    defaults: dict  # option of a query -> the value that leaving it out means
    digest: str
    design: Design


# Words


def find(ledger: Ledger, claim_id: str) -> Claim:
    """The statement with this id, in either case; StudyError names the nearest ids where there is none."""
    known = {c.id: c for c in ledger.claims}
    wanted = str(claim_id).strip().upper()
    if wanted in known:
        return known[wanted]
    near = difflib.get_close_matches(wanted, known, n=3, cutoff=0.3)
    hint = f"the nearest are {', '.join(near)}" if near else f"ids are like {next(iter(known))}"
    raise StudyError(f"there is no statement {str(claim_id)!r} in the ledger: {hint}")


def label(query: Mapping[str, Any]) -> str:
    """A query, or the labels of a run, in a few words: `weam(lambda=0.25) + salt`."""

    def part(name: str, default: str) -> str:
        options = query.get(f"{name}_options")
        return (query.get(name) or default) + (f"({options})" if options else "")

    objective, method = part("objective", "none"), part("method", "standard")
    return objective if method == "standard" else f"{objective} + {method}"


def _nearest(word: Any, known: Iterable[str]) -> str:
    """The end of an error message: the known word that was probably meant, if one is near."""
    near = difflib.get_close_matches(str(word), [str(k) for k in known], n=1, cutoff=0.5)
    return f": did you mean {near[0]}?" if near else ""


# Reading


def load_ledger(path: str | Path = LEDGER) -> Ledger:
    """Read and check `claims.yaml`, and the `design.yaml` and `reports.yaml` beside it.

    `digest` is the SHA-256 of claims.yaml. Raises StudyError, naming file, statement and key, for whatever is
    unknown, missing, out of bounds, or refers to nothing or to itself.
    """
    path = Path(path)
    design, beside = path.with_name(DESIGN), path.with_name(REPORTS)
    raw, rules = _checked(File, read_yaml(path), f"{path}"), read_yaml(design)
    reports = _checked(dict[str, list[Report]], read_yaml(beside), f"{beside}").get("reports", [])
    entries: dict[str, dict] = {}
    for number, entry in enumerate(raw["claims"], 1):
        name = str(entry.get("id", f"entry {number}"))
        if name in entries:
            raise StudyError(f"{path}: {name}: id: is given twice: every statement has an id of its own")
        entries[name] = entry
    claims = tuple(_claim(name, entries, raw, f"{path}: {name}") for name in entries)
    for claim in claims:
        if claim.report not in {r["id"] for r in reports} or not claim.id.startswith(f"S{claim.report}-"):
            place = f"{path}: {claim.id}: id"
            raise StudyError(f"{place}: expected S<report>-<row>, the report ({claim.report}) in {REPORTS}")
    known = _checked(Design, rules | {"digest": rules_digest(raw, rules)}, f"{design}")
    seeds = [look["seeds"] for look in known.confirmation["looks"]]
    if seeds != sorted(set(seeds)):
        raise StudyError(f"{design}: confirmation: looks: expected growing numbers of seeds, found {seeds}")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Ledger(claims, tuple(reports), raw.get("defaults", {}), digest, known)


def _claim(name: str, entries: Mapping[str, dict], ledger: Mapping[str, Any], place: str) -> Claim:
    """A statement with its tests, references replaced by what they refer to, and its source check."""
    entry, known = entries[name], ledger["searched"]
    resolved = _resolved(name, entries, (), place)
    tests = tuple(test for where, raw in resolved for test in _tests(raw, ledger["matters"], where))
    source = entry.get("source")
    if isinstance(source, str):  # the check of another statement
        source = entries.get(source, {}).get("source")
        if not isinstance(source, dict):
            hint = _nearest(entry["source"], entries)
            raise StudyError(f"{place}: source: {entry['source']!r} has no source check of its own{hint}")
    source = {"facts": [], **_checked(Source, source, f"{place}: source")}
    if unknown := [other for other in source["searched"] if other not in known]:
        raise StudyError(f"{place}: source: searched: {unknown[0]!r}, expected {' or '.join(known)}")
    source["searched"] = "; ".join(known[other] for other in source["searched"])
    claim = _checked(Claim, {**entry, "tests": tests, "source": source}, place)
    if not claim.deciding:
        raise StudyError(f"{place}: tests: none decides: where nothing can be run, `- type: document` does")
    return claim


def _resolved(
    name: str, entries: Mapping[str, dict], seen: tuple[str, ...], place: str
) -> Iterator[tuple[str, dict]]:
    """The raw tests of an entry with their places, each reference replaced by what it refers to.

    A reference keeps its own task and role.
    """
    if name in seen:
        raise StudyError(f"{place}: goes in a circle: {' -> '.join([*seen, name])}")
    tests = _checked(list[dict[str, Any]], entries[name].get("tests"), f"{place}: tests")
    for number, raw in enumerate(tests, 1):
        if "test_of" not in raw:
            yield f"{place}: test {number}", raw
            continue
        where = f"{place}: test_of"
        target, _, wanted = _checked(Reference, raw, where)["test_of"].partition("/")
        if target not in entries:
            raise StudyError(f"{where}: there is no statement {target!r}{_nearest(target, entries)}")
        originals = [own for _, own in _resolved(target, entries, (*seen, name), where)]
        key, value = ("name", wanted) if wanted else ("role", "decides")
        chosen = [t for t in originals if t.get(key, "decides") == value]
        if not chosen:
            names = [t["name"] for t in originals if "name" in t]
            raise StudyError(f"{where}: {target} has no test named {wanted!r}{_nearest(wanted, names)}")
        yield from ((where, {**t, "role": "decides", **raw, "test_of": target}) for t in chosen)


def _tests(raw: Mapping[str, Any], matters: float, place: str) -> Iterator[Test]:
    """The test of each of its tasks; qa is scored by F1.

    Without a smallest effect a test has its margin, or that of the ledger (a trend: in all).
    """
    kind = _checked(Literal[tuple(KEYS)], raw.get("type"), f"{place}: type")
    needed, more = KEYS[kind]
    for key in sorted(needed - raw.keys()):
        raise StudyError(f"{place}: {key}: is missing")
    for key in raw.keys() - needed - more - {"type", "role", "name", "test_of"}:
        raise StudyError(f"{place}: {key}: there is no such key{_nearest(key, needed | more)}")
    for task in raw["task"] if isinstance(raw.get("task"), list) else [raw.get("task", "")]:
        unit = "F1" if task == "qa" else raw.get("unit", "").split(",")[0]
        test = _checked(Test, {**raw, "task": task, "unit": unit}, place)
        for wrong, why in (
            (kind == "superiority" and ("b" in raw) == ("level" in raw), "b: expected either `b` or `level`"),
            ("matters" in raw and test.matters < test.margin, f"matters: below the margin, {test.margin:g}"),
            (kind == "equivalence" and not test.margin, "margin: nothing is equivalent within 0"),
            (kind == "trend" and len({*test.points.values()}) < 3, "points: expected three or more numbers"),
            (kind == "arithmetic" and len(test.claims) != 2, "claims: expected two ids"),
        ):
            if wrong:
                raise StudyError(f"{place}: {why}")
        if test.measured and "matters" not in raw:
            span = max(test.points.values(), default=1) - min(test.points.values(), default=0)
            test = replace(test, matters=test.margin or matters / span)
        yield test


_adapter = cache(TypeAdapter)


def _checked(kind: Any, value: Any, place: str) -> Any:
    """The value as what it should be; StudyError with the place of the first part that cannot be used."""
    try:
        return kind(**value) if is_dataclass(kind) else _adapter(kind).validate_python(value, strict=True)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
    # the kinds that a value may have, as "literal['source',...]", are no places
    place = ": ".join([place, *(str(part) for part in problem["loc"] if "[" not in str(part))])
    if problem["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        known = [*Query.__annotations__, *(f.name for each in (Claim, Test) for f in fields(each))]
        raise StudyError(f"{place}: there is no such key{_nearest(problem['loc'][-1], known)}")
    if problem["type"] == "missing":
        raise StudyError(f"{place}: is missing")
    expected = problem["msg"].removeprefix("Input should be ")
    hint = _nearest(problem["input"], re.findall(r"'([^']*)'", expected))
    raise StudyError(f"{place}: found {problem['input']!r}, expected {expected}{hint}")


def rules_digest(ledger: Mapping[str, Any], design: Mapping[str, Any]) -> str:
    """The digest of all that turns runs into verdicts: measured tests, how they combine, and the design.

    Statements, sources and the words of a test are no part of it, so that a spelling can be mended.
    """
    claims = []
    for claim in ledger["claims"]:
        measured = [test for test in claim["tests"] if "margin" in test or "test_of" in test]
        tests = [{name: value for name, value in test.items() if name not in TOLD} for test in measured]
        claims.append({"id": claim["id"], "combine": claim.get("combine", ""), "tests": tests})
    rules = {
        "claims": [claim for claim in claims if claim["tests"]],
        "defaults": ledger.get("defaults", {}),
        "matters": ledger["matters"],
        "design": {name: value for name, value in design.items() if name != "frozen"},
    }
    return hashlib.sha256(json.dumps(rules, sort_keys=True).encode()).hexdigest()[:16]


def read_yaml(path: Path) -> Any:
    """The content of a YAML file; StudyError, with the line, where it is not there or not valid."""
    return read_value(read_text(path), str(path))
