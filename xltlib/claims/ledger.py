"""The ledger: statements, what the sources say of them, and tests and rules that are fixed before a run.

`load_ledger` reads claims.yaml with the design.yaml and reports.yaml beside it, and refuses what it does not
know, naming the file, the statement and the key.
"""

import difflib
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked_dataclass
from pydantic_core import PydanticCustomError
from typing_extensions import TypedDict

from xltlib import StudyError
from xltlib.finetuning.options import METHODS
from xltlib.params import ZeroOrMore
from xltlib.pretraining.options import OBJECTIVES

LEDGER = Path(__file__).resolve().parents[2] / "params" / "claims.yaml"
DESIGN, REPORTS = "design.yaml", "reports.yaml"  # beside it
MEASURED = ("superiority", "equivalence", "interaction", "trend")  # types of tests that need runs
MARKS = ("read in source", "second-hand", "inference")  # how a fact is known; a recollection is no fact
SETTINGS = ("source", "targets", "all", "pairs")
LABELS = ("objective", "objective_options", "method", "method_options")
# what of a test can change no verdict
TOLD = ("words", "name", "unit", "reason", "matters_reason", "published")

# What a test of each type must say, and what it may say besides words, role and name.
_MAY = {"settings", "metric", "published", "matters", "matters_reason", "since"}
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


def _settings(value: Any) -> Any:
    """Languages by one word, or a list of names."""
    if isinstance(value, list | tuple):
        return tuple(value)
    if value in (*SETTINGS, ""):
        return value
    words = {"words": " or ".join(map(repr, SETTINGS))}
    raise PydanticCustomError("literal_error", "Input should be {words}, or a list", words)


STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
Score = Annotated[float, Field(ge=0, le=1)]  # two points are 0.02
Where = Annotated[Any, BeforeValidator(_settings)]
TASKS = ("nli", "paraphrase", "qa", "retrieval", "alignment", "lexicon")
Mark = Literal[MARKS]
Status = Literal["confirmed", "contradicted", "not found"]


class Query(TypedDict, total=False):
    """Labels of the runs that a test compares; what is left out is the default."""

    __pydantic_config__ = STRICT
    objective: Literal[tuple(OBJECTIVES)]
    objective_options: str
    method: Literal[tuple(METHODS)]
    method_options: str


class Fact(TypedDict):
    """What a source says, where, and how that is known."""

    __pydantic_config__ = STRICT
    fact: str
    mark: Mark
    where: str


class Related(TypedDict):
    """A statement that bears on another one."""

    __pydantic_config__ = STRICT
    id: str
    how: str


class Reference(TypedDict):
    """A paper that a report cites, and whether it bears on its subject."""

    __pydantic_config__ = STRICT
    arxiv: str
    title: str
    relevant: Literal["yes", "partly", "weak", "no"]
    why: str
    mark: Mark


class Report(TypedDict):
    """A report: its header, its open question, and the papers that it cites."""

    __pydantic_config__ = STRICT
    id: int
    file: str
    title: str
    date: Any
    examines: str
    question: str
    question_needs: str
    papers_retrieved: int
    claims_extracted: int
    claims_verified: int
    quality_score: float
    abstract_truncated: bool
    references: list[Reference]


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
    role: Literal["decides", "second", "control", "ablation"] = "decides"
    name: str = ""
    task: Literal[("", *TASKS)] = ""
    a: Query = field(default_factory=dict)
    b: Query = field(default_factory=dict)
    a2: Query = field(default_factory=dict)
    b2: Query = field(default_factory=dict)
    level: Score | None = None  # a score that `a` should exceed, in place of `b`
    settings: Where = "targets"
    settings2: Where = ""
    metric: Literal["", "f1", "exact_match"] = ""  # "f1" reads the scores "near#f1" where "" reads "near"
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
    def key(self) -> str:
        """What makes two tests one and the same: all of it but how it is told and where it stands."""
        told = (*TOLD, "role", "test_of", "since")
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in told}
        return json.dumps(own, sort_keys=True)

    @property
    def measured(self) -> bool:
        """Whether it needs runs."""
        return self.type in MEASURED

    @property
    def formula(self) -> str:
        """The test in plain notation, derived from its queries."""
        if not self.measured:
            return {
                "arithmetic": f"{self.check}({', '.join(self.claims)})",
                "document": "what the source says",
                "implementation": f"{self.callable}() is true",
            }[self.type]
        where, other = (x if isinstance(x, str) else ", ".join(x) for x in (self.settings, self.settings2))
        task = f"{self.task}{', F1' if self.metric == 'f1' else ''}"
        a, b = f"mean({label(self.a)})", f"mean({label(self.b)})" if self.level is None else f"{self.level:g}"
        if self.type == "equivalence":
            return f"|{a} - {b}| < {self.margin:g}  [{task}; {where}]"
        if self.type == "interaction":
            first = f"mean({label(self.a)} - {label(self.b)} | {where})"
            second = f"mean({label(self.a2)} - {label(self.b2)} | {other})"
            second = second if self.share == 1 else f"{self.share:g} {second}"
            return f"{first} - {second} > {self.margin:g}  [{task}]"
        if self.type == "trend":
            options = [o.partition("=") for text in self.points for o in text.split(",") if o]
            varied = {f"{x:g}" for x in self.points.values()}  # the others are the same at all points
            options.sort(key=lambda option: option[2] not in varied)
            name = options[0][0] if options else self.over
            levels = ", ".join(f"{x:g}" for x in self.points.values())
            left = f"{'' if self.direction == 'up' else '-'}slope of {a} over {name} in ({levels})"
            return f"{left} > {self.margin:g}  [{task}; {where}]"
        return f"{a} - {b} > {self.margin:g}  [{task}; {where}]"


@checked_dataclass(frozen=True, config=STRICT)
class Claim:
    """One statement of one report, verbatim, with all that is known of it before a run."""

    id: str
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
    related: ZeroOrMore[Related] = ()
    truncated: bool = False
    combine: Literal["", "all", "any"] = ""
    limits: str = ""

    @property
    def deciding(self) -> tuple[Test, ...]:
        """The tests that make the verdict."""
        return tuple(t for t in self.tests if t.role == "decides")


@dataclass(frozen=True)
class Look:
    """A look at the first `seeds` confirmatory seeds, with its part of the error rate."""

    seeds: int
    alpha: float


@dataclass(frozen=True)
class Design:
    """What decides and when: the content of design.yaml, with the digest of its rules and the ledger's tests.

    `source_score` is, by task, what a system must reach in the source language at the scale `learnt_scale` to
    count as trained, in at least `learnt_share` of the seeds. `frozen` is the digest that confirmatory runs
    were started with.
    """

    exploration: tuple[str, ...]
    profile: str
    first_seed: int
    looks: tuple[Look, ...]
    learnt_scale: str
    source_score: dict[str, float]
    learnt_share: float
    matters_real: float
    digest: str
    frozen: str

    def confirms(self, profile: str) -> bool:
        """Whether the runs of a profile are confirmatory."""
        return profile == self.profile

    def explores(self, profile: str) -> bool:
        """Whether a profile leaves out the tests that came `since` the confirmation was planned."""
        return profile in self.exploration

    def younger_rules(self, profile: str, started: str) -> str:
        """What is wrong where runs of the confirmation were started under other rules; empty if nothing is.

        started : the digest of the rules that were then
        """
        if not self.confirms(profile) or started == self.digest == self.frozen:
            return ""
        return (
            f"its runs were started under the rules {started}, frozen is {self.frozen}, and ledger and design"
            f" now have {self.digest}: a margin, a smallest effect or a rule is younger than the runs that it"
            " judges"
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
    raw, beside = read_yaml(path), path.with_name(REPORTS)
    _check_keys(raw, {"matters", "searched", "claims"}, {"defaults"}, f"{path}")
    reports = _checked(dict[str, list[Report]], read_yaml(beside), f"{beside}").get("reports", [])
    _checked(Score, raw["matters"], f"{path}: matters")
    entries: dict[str, dict] = {}
    for number, entry in enumerate(_checked(list, raw["claims"], f"{path}: claims"), 1):
        named = entry.get("id") if isinstance(entry, dict) else None
        place = f"{path}: {named}" if isinstance(named, str) else f"{path}: entry {number}"
        _check_entry(entry, place, {r["id"] for r in reports}, raw)
        if named in entries:
            raise StudyError(f"{place}: id: is given twice: every statement has an id of its own")
        entries[named] = entry
    claims = tuple(_claim(entry, entries, raw, f"{path}: {name}") for name, entry in entries.items())
    return Ledger(
        claims,
        tuple(reports),
        raw.get("defaults", {}),
        hashlib.sha256(path.read_bytes()).hexdigest(),
        _design(path.with_name(DESIGN), read_yaml(path.with_name(DESIGN)), raw),
    )


def _check_entry(entry: Any, place: str, reports: set[int], ledger: Mapping[str, Any]) -> None:
    """What can be told of an entry alone: its keys, id, source check and tests."""
    names = [f.name for f in fields(Claim)]
    needed = names[: names.index("tests") + 1]
    _check_keys(entry, set(needed), set(names), place)
    match = re.fullmatch(r"S(\d+)-([1-9]\d*)", str(entry["id"]))
    if not match or int(match[1]) != entry["report"] or entry["report"] not in reports:
        raise StudyError(
            f"{place}: id: expected S<report>-<row>, the report ({entry['report']}) in reports.yaml"
        )
    if not isinstance(entry["source"], str):
        where = f"{place}: source"
        source = {"facts": [], **_checked(dict, entry["source"], where)}
        _check_keys(source, {"status", "searched", "facts"}, set(), where)
        status = _checked(Status, source["status"], f"{where}: status")
        _checked(list[Literal[tuple(ledger["searched"])]], source["searched"], f"{where}: searched")
        facts = _checked(list[Fact], source["facts"], f"{where}: facts")
        if status != "not found" and not any(f["mark"] == "read in source" for f in facts):
            raise StudyError(f"{where}: status: {status} needs a fact that was read in source")
    if not _checked(list[dict], entry["tests"], f"{place}: tests"):
        raise StudyError(f"{place}: tests: none: write `- type: document` where nothing can be run")
    for number, raw in enumerate(entry["tests"], 1):
        where = f"{place}: test {number}"
        if "test_of" in raw:
            _check_keys(raw, {"test_of"}, {"task", "role", "published"}, where)
            _checked(str, raw["test_of"], f"{where}: test_of")
        else:
            _checked(Literal[tuple(KEYS)], raw.get("type"), f"{where}: type")
            _check_keys(raw, KEYS[raw["type"]][0] | {"type"}, KEYS[raw["type"]][1] | {"role", "name"}, where)
            for test in _tests(raw, ledger["matters"], where):
                _check_test(test, raw, where)


def _check_test(test: Test, raw: Mapping[str, Any], place: str) -> None:
    """What only one type of test has to be."""
    if test.type == "superiority" and ("b" in raw) == ("level" in raw):
        raise StudyError(f"{place}: b: expected either a query `b` or a number `level`")
    if test.matters < test.margin:
        raise StudyError(f"{place}: matters: {test.matters:g} is below the margin, {test.margin:g}")
    if test.type == "equivalence" and test.margin == 0:
        raise StudyError(f"{place}: margin: nothing is equivalent within 0: expected more")
    if test.type == "trend" and len(test.points) < 3:
        raise StudyError(f"{place}: points: expected three or more options, each with its number")
    if test.type == "arithmetic" and len(test.claims) != 2:
        raise StudyError(f"{place}: claims: expected two ids")


def _tests(raw: Mapping[str, Any], matters: float, place: str) -> Iterable[Test]:
    """The test of each of its tasks; qa is scored by F1 unless it says otherwise.

    Without a smallest effect a test has its margin, or that of the ledger (a trend: in all).
    """
    for task in raw["task"] if isinstance(raw.get("task"), list) else [raw.get("task", "")]:
        metric = raw.get("metric", "f1" if task == "qa" else "")
        unit = "F1" if task == "qa" and metric == "f1" else raw.get("unit", "").split(",")[0]
        values = {**raw, "task": task, "unit": unit, "metric": "" if metric == "exact_match" else metric}
        test = _checked(Test, values, place)
        if test.measured and "matters" not in raw:
            points = test.points.values()
            usual = matters / (max(points) - min(points)) if points else matters
            test = _checked(Test, values | {"matters": test.margin or usual}, place)
        yield test


def _claim(entry: Mapping[str, Any], entries: Mapping[str, dict], ledger: Mapping, place: str) -> Claim:
    """A statement with its tests, references replaced by what they refer to, and its source check."""
    raw_tests = _resolved(entry, entries, (), f"{place}: test_of")
    tests = tuple(t for raw in raw_tests for t in _tests(raw, ledger["matters"], f"{place}: tests"))
    source = entry["source"]
    if isinstance(source, str):
        other = entries.get(source, {}).get("source")
        if not isinstance(other, dict):
            hint = _nearest(source, entries)
            raise StudyError(f"{place}: source: {source!r} has no source check of its own{hint}")
        source = other
    searched = "; ".join(ledger["searched"][name] for name in source["searched"])
    source = {"status": source["status"], "searched": searched, "facts": source.get("facts", [])}
    claim = _checked(Claim, {**entry, "tests": tests, "source": source}, place)
    named = {key: getattr(claim, key) for key in ("duplicates", "contradicts", "parts")}
    named["related"] = tuple(r["id"] for r in claim.related)
    named["claims"] = tuple(c for t in claim.tests for c in t.claims)
    for key, others in named.items():
        for other in others:
            if other not in entries or (other == claim.id and key != "claims"):
                hint = _nearest(other, entries)
                raise StudyError(f"{place}: {key}: there is no other statement {other!r}{hint}")
            if key in ("duplicates", "contradicts") and claim.id not in entries[other].get(key, []):
                raise StudyError(f"{place}: {key}: {other} does not name {claim.id}: write it on both")
    if not claim.deciding:
        raise StudyError(f"{place}: tests: none decides: leave out the role of one of them")
    kinds = sorted({"measured" if t.measured else t.type for t in claim.deciding})
    if len(kinds) > 1:
        raise StudyError(f"{place}: tests: {' and '.join(kinds)} cannot decide together: make one a control")
    if (len(claim.deciding) > 1) != bool(claim.combine):
        wanted = "nothing, as one test decides" if claim.combine else "all or any, as several tests decide"
        raise StudyError(f"{place}: combine: found {claim.combine or 'nothing'}, expected {wanted}")
    return claim


def _resolved(
    entry: Mapping[str, Any], entries: Mapping[str, dict], seen: tuple[str, ...], place: str
) -> Iterable[dict]:
    """The raw tests of an entry, each reference replaced by what it refers to, with its own task and role."""
    if entry["id"] in seen:
        raise StudyError(f"{place}: goes in a circle: {' -> '.join([*seen, entry['id']])}")
    for raw in entry["tests"]:
        if "test_of" not in raw:
            yield raw
            continue
        target, _, name = raw["test_of"].partition("/")
        if target not in entries:
            raise StudyError(f"{place}: there is no statement {target!r}{_nearest(target, entries)}")
        originals = list(_resolved(entries[target], entries, (*seen, entry["id"]), place))
        wanted = ("name", name) if name else ("role", "decides")
        tests = [t for t in originals if t.get(wanted[0], "decides") == wanted[1]]
        if not tests:
            names = [t["name"] for t in originals if "name" in t]
            raise StudyError(f"{place}: {target} has no test named {name!r}{_nearest(name, names)}")
        yield from ({**t, "role": "decides", **raw, "test_of": target} for t in tests)


def _check_keys(value: Any, needed: set[str], more: set[str], place: str) -> None:
    """StudyError unless the value is a mapping that has all the needed keys, and of others only `more`."""
    if not isinstance(value, dict):
        raise StudyError(f"{place}: expected keys with values, found {value!r}")
    for key in value.keys() - (needed | more):
        raise StudyError(f"{place}: {key}: there is no such key{_nearest(key, needed | more)}")
    for key in sorted(needed - value.keys()):
        raise StudyError(f"{place}: {key}: is missing")


_adapter = cache(TypeAdapter)


def _checked(kind: Any, value: Any, place: str) -> Any:
    """The value as what it should be; StudyError with the place of the first part that cannot be used."""
    try:
        return kind(**value) if is_dataclass(kind) else _adapter(kind).validate_python(value, strict=True)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
    place = ": ".join([place, *map(str, problem["loc"])])
    if problem["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        raise StudyError(f"{place}: there is no such key{_nearest(problem['loc'][-1], LABELS)}")
    if problem["type"] == "missing":
        raise StudyError(f"{place}: is missing")
    expected = problem["msg"].removeprefix("Input should be ")
    hint = _nearest(problem["input"], re.findall(r"'([^']*)'", expected))
    raise StudyError(f"{place}: found {problem['input']!r}, expected {expected}{hint}")


def _design(path: Path, raw: Mapping[str, Any], ledger: Mapping[str, Any]) -> Design:
    """The design that a file holds; StudyError where a key is missing or a value cannot be used."""
    try:
        confirmation, learnt = raw["confirmation"], raw["learnt"]
        looks = tuple(Look(int(look["seeds"]), float(look["alpha"])) for look in confirmation["looks"])
        design = Design(
            exploration=tuple(raw["exploration"]["profiles"]),
            profile=str(confirmation["profile"]),
            first_seed=int(confirmation["first_seed"]),
            looks=looks,
            learnt_scale=str(learnt["scale"]),
            source_score={str(task): float(x) for task, x in learnt["source_score"].items()},
            learnt_share=float(learnt["share"]),
            matters_real=float(raw["matters_real"]),
            digest=rules_digest(ledger, raw),
            frozen=str(raw["frozen"]),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise StudyError(
            f"{path}: expected the keys of the design, each with its values: {error!r}"
        ) from None
    counts = [look.seeds for look in looks]
    if not counts or counts != sorted(set(counts)) or not all(0 < look.alpha < 0.5 for look in looks):
        raise StudyError(f"{path}: looks: expected growing numbers of seeds, each with a level below 0.5")
    return design


def rules_digest(ledger: Mapping[str, Any], design: Mapping[str, Any]) -> str:
    """The digest of all that turns runs into verdicts: measured tests, how they combine, and the design.

    Statements, sources and the words of a test are no part of it, so that a spelling can be mended.
    """
    claims = [
        {
            "id": claim["id"],
            "combine": claim.get("combine", ""),
            "tests": [
                {name: value for name, value in test.items() if name not in TOLD}
                for test in claim["tests"]
                if "margin" in test or "test_of" in test
            ],
        }
        for claim in ledger["claims"]
    ]
    rules = {
        "claims": [claim for claim in claims if claim["tests"]],
        "defaults": ledger.get("defaults", {}),
        "matters": ledger["matters"],
        "design": {name: value for name, value in design.items() if name != "frozen"},
    }
    return hashlib.sha256(json.dumps(rules, sort_keys=True).encode()).hexdigest()[:16]


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
    """A safe loader that refuses a key given twice, where the later one would silently win."""

    def construct_mapping(self, node, deep=False):
        seen = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"{key.value} is given twice", problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> Any:
    """The content of a YAML file; StudyError, with the line, where it is not there or not valid."""
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except FileNotFoundError:
        raise StudyError(
            f"{path}: there is no such file: the ledger is claims.yaml, design.yaml and reports.yaml"
        ) from None
    except UnicodeDecodeError:
        raise StudyError(f"{path}: is not UTF-8: save it as UTF-8") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{path}, line {mark.line + 1}" if mark else f"{path}"
        raise StudyError(f"{place}: not valid YAML: {getattr(error, 'problem', None) or error}") from None
