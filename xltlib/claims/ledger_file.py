"""Reads the ledger, and refuses what it does not know, naming the file, the statement and the key."""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from xltlib import StudyError
from xltlib.claims import ledger as words
from xltlib.claims.design import parse_design
from xltlib.claims.ledger import Claim, Ledger, Test, nearest

LEDGER = Path(__file__).resolve().parents[2] / "params" / "claims.yaml"  # reports.yaml lies beside it

# What a test of each type must say, and what it may say besides words, role and name.
_MAY = {"settings", "metric", "published", "matters", "matters_reason", "since"}
_MUST = {"words", "a", "task", "margin", "unit", "reason"}
_KEYS = {
    "superiority": (_MUST, _MAY | {"b", "level"}),
    "equivalence": (_MUST | {"b"}, _MAY),
    "interaction": (_MUST | {"b", "a2", "b2", "settings", "settings2"}, _MAY | {"share"}),
    "trend": (_MUST | {"over", "points", "direction"}, _MAY),
    "arithmetic": ({"words", "check", "claims"}, set()),
    "document": (set(), set()),
    "implementation": ({"words", "callable"}, set()),
}
_REPORT_KEYS = (
    "id file title date examines question question_needs papers_retrieved claims_extracted claims_verified"
    " quality_score abstract_truncated references"
)
_CHOICES = {
    "type": words.TYPES,
    "role": words.ROLES,
    "settings": words.SETTINGS,
    "settings2": words.SETTINGS,
    "check": words.CHECKS,
    "direction": ("up", "down"),
    "over": ("objective_options", "method_options"),
    "metric": ("f1", "exact_match"),
    "report_verdict": words.REPORT_VERDICTS,
    "kind": words.KINDS,
    "combine": ("all", "any"),
    "status": words.SOURCE_STATUS,
    "since": ("confirmation",),
    "mark": words.MARKS,
    "relevant": words.RELEVANCE,
}


@dataclass(frozen=True)
class _File:
    """The raw ledger: entries by id, and the names of what was searched."""

    path: Path
    entries: dict[str, dict]
    searched: dict[str, str]
    matters: float  # the smallest effect of tests that name none


def load_ledger(path: str | Path = LEDGER) -> Ledger:
    """Read and check `claims.yaml`, and the `design.yaml` and `reports.yaml` beside it.

    `digest` is the SHA-256 of claims.yaml. Raises StudyError, naming file, statement and key, for whatever is
    unknown, missing, out of bounds, or refers to nothing or to itself.
    """
    path = Path(path)
    raw, reports = read_yaml(path), _reports(path.with_name("reports.yaml"))
    _check_keys(
        raw, {"defaults", "matters", "searched", "claims"}, {"claims", "matters", "searched"}, f"{path}"
    )
    _check_number(raw["matters"], 0, f"{path}: matters")
    design = path.with_name("design.yaml")
    file = _File(path, {}, raw["searched"], float(raw["matters"]))
    for number, entry in enumerate(_list(raw["claims"], f"{path}: claims"), 1):
        named = entry.get("id") if isinstance(entry, dict) else None
        place = f"{path}: {named}" if isinstance(named, str) else f"{path}: entry {number}"
        _check_entry(entry, place, {r["id"] for r in reports}, file.searched)
        if named in file.entries:
            raise StudyError(f"{place}: id: is given twice: every statement has an id of its own")
        file.entries[named] = entry
    claims = tuple(_claim(entry, file) for entry in file.entries.values())
    return Ledger(
        claims,
        tuple(reports),
        raw.get("defaults", {}),
        hashlib.sha256(path.read_bytes()).hexdigest(),
        parse_design(design, read_yaml(design), raw),
    )


def _claim(entry: dict, file: _File) -> Claim:
    place = f"{file.path}: {entry['id']}"
    tests = tuple(_test(t, file.matters) for raw in _resolved(entry, file, ()) for t in _per_task(raw))
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in entry.items()}
    claim = Claim(**values | {"tests": tests, "source": _source(entry, file)})
    _check_links(claim, file)
    if not claim.deciding:
        raise StudyError(f"{place}: tests: none decides: leave out the role of one of them")
    kinds = sorted({"measured" if t.measured else t.type for t in claim.deciding})
    if len(kinds) > 1:
        raise StudyError(f"{place}: tests: {' and '.join(kinds)} cannot decide together: make one a control")
    if (len(claim.deciding) > 1) != bool(claim.combine):
        wanted = "nothing, as one test decides" if claim.combine else "all or any, as several tests decide"
        raise StudyError(f"{place}: combine: found {claim.combine or 'nothing'}, expected {wanted}")
    return claim


def _resolved(entry: dict, file: _File, seen: tuple[str, ...]) -> Iterable[dict]:
    """The raw tests of an entry, each reference replaced by what it refers to, with its own task and role."""
    place = f"{file.path}: {entry['id']}: test_of"
    if entry["id"] in seen:
        raise StudyError(f"{place}: goes in a circle: {' -> '.join([*seen, entry['id']])}")
    for raw in entry["tests"]:
        if "test_of" not in raw:
            yield raw
            continue
        target, _, name = raw["test_of"].partition("/")
        if target not in file.entries:
            raise StudyError(f"{place}: there is no statement {target!r}{nearest(target, file.entries)}")
        originals = list(_resolved(file.entries[target], file, (*seen, entry["id"])))
        wanted = ("name", name) if name else ("role", "decides")
        chosen = [t for t in originals if t.get(wanted[0], "decides") == wanted[1]]
        if not chosen:
            names = [t["name"] for t in originals if "name" in t]
            raise StudyError(f"{place}: {target} has no test named {name!r}{nearest(name, names)}")
        own = {k: v for k, v in raw.items() if k != "test_of"}
        yield from ({**t, "role": "decides", **own, "test_of": target} for t in chosen)


def _per_task(raw: dict) -> Iterable[dict]:
    """A test over a list of tasks is a test of each; qa is scored by F1 unless it says otherwise."""
    for task in raw["task"] if isinstance(raw.get("task"), list) else [raw.get("task", "")]:
        metric = raw.get("metric", "f1" if task == "qa" else "")
        unit = "F1" if task == "qa" and metric == "f1" else raw.get("unit", "").split(",")[0]
        yield {**raw, "task": task, "unit": unit, "metric": "" if metric == "exact_match" else metric}


def _test(raw: dict, matters: float) -> Test:
    """A test; without a smallest effect it has its margin, or that of the ledger (a trend: in all)."""
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in raw.items()}
    if raw["type"] in words.MEASURED:
        points = raw.get("points", {}).values()
        usual = matters / (max(points) - min(points)) if points else matters
        values.setdefault("matters", raw["margin"] or usual)
    return Test(**values)


def _source(entry: dict, file: _File) -> dict:
    """The source check, that of another statement where the entry names one; `searched` in full."""
    source = entry["source"]
    if isinstance(source, str):
        other = file.entries.get(source, {})
        if not isinstance(other.get("source"), dict):
            hint = nearest(source, file.entries)
            raise StudyError(
                f"{file.path}: {entry['id']}: source: {source!r} has no source check of its own{hint}"
            )
        source = other["source"]
    searched = "; ".join(file.searched[name] for name in source["searched"])
    return {"status": source["status"], "searched": searched, "facts": source.get("facts", [])}


def _check_entry(entry: Any, place: str, reports: set[int], searched: dict) -> None:
    known = [f.name for f in fields(Claim)]
    _check_keys(entry, set(known), set(known[: known.index("tests") + 1]), place)
    match = re.fullmatch(r"S(\d+)-([1-9]\d*)", str(entry["id"]))
    if not match or int(match[1]) != entry["report"] or entry["report"] not in reports:
        raise StudyError(
            f"{place}: id: expected S<report>-<row>, the report ({entry['report']}) in reports.yaml"
        )
    for key, kind in (("statement", str), ("method", str), ("limits", str), ("truncated", bool)):
        if not isinstance(entry.get(key, kind()), kind):
            raise StudyError(f"{place}: {key}: found {entry[key]!r}, expected {kind.__name__}")
    _check_number(entry["report_confidence"], 0, f"{place}: report_confidence")
    for key in ("duplicates", "contradicts", "parts", "related", "tasks"):
        _list(entry.get(key, []), f"{place}: {key}")
    for task in entry.get("tasks", []):
        _one_of(task, words.TASKS, f"{place}: tasks")
    for related in entry.get("related", []):
        _check_keys(related, {"id", "how"}, {"id", "how"}, f"{place}: related")
    if not isinstance(entry["source"], str):
        _check_source(entry["source"], f"{place}: source", searched)
    if not _list(entry["tests"], f"{place}: tests"):
        raise StudyError(f"{place}: tests: none: write `- type: document` where nothing can be run")
    for number, raw in enumerate(entry["tests"], 1):
        _check_test(raw, f"{place}: test {number}")


def _check_source(source: Any, place: str, searched: dict) -> None:
    _check_keys(source, {"status", "searched", "facts"}, {"status", "searched"}, place)
    for name in _list(source["searched"], f"{place}: searched"):
        _one_of(name, searched, f"{place}: searched")
    facts = _list(source.get("facts", []), f"{place}: facts")
    for fact in facts:
        _check_keys(fact, {"fact", "mark", "where"}, {"fact", "mark", "where"}, f"{place}: facts")
    if source["status"] != "not found" and not any(f["mark"] == "read in source" for f in facts):
        raise StudyError(f"{place}: status: {source['status']} needs a fact that was read in source")


def _check_test(raw: Any, place: str) -> None:
    if isinstance(raw, dict) and "test_of" in raw:
        _check_keys(raw, {"test_of", "task", "role", "published"}, {"test_of"}, place)
        if not isinstance(raw["test_of"], str):
            raise StudyError(f"{place}: test_of: found {raw['test_of']!r}, expected an id such as S0-1")
    else:
        kind = raw.get("type") if isinstance(raw, dict) else None
        _one_of(kind, words.TYPES, f"{place}: type")
        needed, allowed = _KEYS[kind]
        _check_keys(raw, {"type", "words", "role", "name"} | needed | allowed, needed, place)
    tasks = raw.get("task", [])
    for task in tasks if isinstance(tasks, list) else [tasks]:
        _one_of(task, words.TASKS, f"{place}: task")
    for name in ("a", "b", "a2", "b2"):
        query = raw.get(name, {})
        _check_keys(query, set(words.LABELS), set(), f"{place}: {name}")
        _one_of(query.get("objective", "none"), words.OBJECTIVES, f"{place}: {name}: objective")
        _one_of(query.get("method", "standard"), words.METHODS, f"{place}: {name}: method")
    for name in ("margin", "level", "matters", "published", "share"):
        _check_number(raw.get(name, 0), -1 if name == "published" else 0, f"{place}: {name}")
    _check_type(raw, place)


def _check_type(raw: dict, place: str) -> None:
    """What only one type of test has to be."""
    if raw.get("type") == "superiority" and ("b" in raw) == ("level" in raw):
        raise StudyError(f"{place}: b: expected either a query `b` or a number `level`")
    if raw.get("matters", raw.get("margin", 0)) < raw.get("margin", 0):
        raise StudyError(f"{place}: matters: {raw['matters']:g} is below the margin, {raw['margin']:g}")
    if raw.get("type") == "equivalence" and raw["margin"] == 0:
        raise StudyError(f"{place}: margin: nothing is equivalent within 0: expected more")
    if raw.get("type") == "trend":
        points = raw["points"] if isinstance(raw["points"], dict) else {}
        if len(points) < 3 or not all(isinstance(x, int | float) for x in points.values()):
            raise StudyError(f"{place}: points: expected three or more options, each with its number")
    if len(_list(raw.get("claims", [0, 0]), f"{place}: claims")) != 2:
        raise StudyError(f"{place}: claims: expected two ids")
    if not re.fullmatch(r"xltlib(\.\w+)+:\w+", str(raw.get("callable", "xltlib.a:b"))):
        raise StudyError(f"{place}: callable: found {raw['callable']!r}, expected xltlib.<module>:<function>")


def _check_links(claim: Claim, file: _File) -> None:
    named = {key: getattr(claim, key) for key in ("duplicates", "contradicts", "parts")}
    named["related"] = tuple(r["id"] for r in claim.related)
    named["claims"] = tuple(c for t in claim.tests for c in t.claims)
    for key, others in named.items():
        place = f"{file.path}: {claim.id}: {key}"
        for other in others:
            if other not in file.entries or (other == claim.id and key != "claims"):
                raise StudyError(
                    f"{place}: there is no other statement {other!r}{nearest(other, file.entries)}"
                )
            if key in ("duplicates", "contradicts") and claim.id not in file.entries[other].get(key, []):
                raise StudyError(f"{place}: {other} does not name {claim.id}: write it on both")


def _reports(path: Path) -> list[dict]:
    raw, needed = read_yaml(path), set(_REPORT_KEYS.split())
    _check_keys(raw, {"reports"}, {"reports"}, f"{path}")
    for number, report in enumerate(_list(raw["reports"], f"{path}: reports"), 1):
        _check_keys(report, needed, needed, f"{path}: report {number}")
        keys = {"arxiv", "title", "relevant", "why", "mark"}
        for reference in _list(report["references"], f"{path}: report {number}: references"):
            _check_keys(reference, keys, keys, f"{path}: report {number}: references")
    return raw["reports"]


def _check_keys(value: Any, known: set[str], needed: set[str], place: str) -> None:
    """A mapping with known keys only, all of `needed`, and values among the choices that a key has."""
    if not isinstance(value, dict):
        raise StudyError(f"{place}: expected keys with values, found {value!r}")
    for key, item in value.items():
        if key not in known:
            raise StudyError(f"{place}: {key}: there is no such key{nearest(key, known)}")
        if key in _CHOICES and not (key.startswith("settings") and isinstance(item, list)):
            _one_of(item, _CHOICES[key], f"{place}: {key}")
    for key in sorted(needed - value.keys()):
        raise StudyError(f"{place}: {key}: is missing")


def _check_number(value: Any, low: float, place: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= 1:
        raise StudyError(f"{place}: found {value!r}, expected a number from {low} to 1 (two points are 0.02)")


def _one_of(value: Any, choices: Iterable[str], place: str) -> None:
    if not isinstance(value, str) or value not in choices:
        hint = nearest(value, choices)
        raise StudyError(f"{place}: found {value!r}, expected one of {', '.join(choices)}{hint}")


def _list(value: Any, place: str) -> list:
    if not isinstance(value, list):
        raise StudyError(f"{place}: found {value!r}, expected a list")
    return value


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
