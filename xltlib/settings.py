"""Typed settings with bounds: read from YAML, checked one by one, refused with the place where they stand."""

import difflib
import math
import re
import reprlib
from collections.abc import Mapping
from dataclasses import Field, field, fields
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import yaml

from xltlib import StudyError

T = TypeVar("T")


NAME = r"[a-z][a-z0-9_-]*"  # becomes a folder or a part of "src|near", so it holds no separator


def par(
    default: Any,
    doc: str,
    *,
    unit: str = "",
    low: float | None = None,
    high: float | None = None,
    choices: tuple = (),
    pattern: str = "",
    empty: bool = False,
) -> Any:
    """One setting: its default, what it means, and what it may be (in a tuple: each of its items).

    Bounds are inclusive. A tuple may be empty only where `empty` is true, and never repeats an item.
    """
    meta = {"doc": doc, "unit": unit, "low": low, "high": high}
    return field(default=default, metadata=meta | {"choices": choices, "pattern": pattern, "empty": empty})


def check(cls: type, values: Mapping[str, Any], places: Mapping[str, str], where: str) -> dict[str, Any]:
    """`values` with the types that the dataclass `cls` declares, and the defaults of all others.

    `places` says where a value stands, `where` where the others do. Raises StudyError for an unknown name
    and for a value of the wrong type, out of bounds or not among the choices.
    """
    types, known = _types(cls), {f.name: f for f in fields(cls)}
    clean = {name: f.default for name, f in known.items()}
    for name, value in values.items():
        place = places.get(name, where)
        if name not in known:
            raise StudyError(f"{place}: {unknown(cls, name)}")
        clean[name] = _checked(known[name], types[name], value, place)
    return clean


def read_mapping(path: str | Path) -> tuple[dict[str, Any], dict[str, str]]:
    """The names and values of a YAML file that holds one mapping, and the place (file, line) of each.

    Raises StudyError where the file is missing, empty, not UTF-8, not YAML, or gives a name twice.
    """
    path = Path(path)
    values, places = {}, {}
    for key, node in _compose(_read_text(path), path):
        place = f"{path}, line {key.start_mark.line + 1}"
        if not isinstance(key, yaml.ScalarNode):
            raise StudyError(f"{place}: expected a parameter's name, found a {key.id}")
        if key.value in values:
            first = places[key.value]
            raise StudyError(f"{place}: {key.value} is given twice, first in {first}: remove one of the two")
        values[key.value], places[key.value] = _construct(node, f"{place}: {key.value}"), place
    return values, places


def read_value(text: str, place: str) -> Any:
    """One value written as YAML, as on a command line; StudyError names `place` where it cannot be read."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError) as error:
        raise StudyError(f"{place}: the value is not valid YAML: {_first_line(error)}") from None
    return None if node is None else _construct(node, place)


def parse_options(cls: type[T], text: str, where: str) -> T:
    """The options of a method or an objective, written "threshold=0.7,synonyms=false", as a `cls`.

    A field whose name Python keeps for itself ends in "_" (`lambda_`); the text leaves that out.
    """
    values = {}
    for option in filter(None, text.split(",")):
        name, _, value = option.partition("=")
        if name in values:
            raise StudyError(f"{where}: option {name} is given twice")
        values[name] = read_value(value, f"{where}: {option}")
    names = {f.name.rstrip("_"): f.name for f in fields(cls)}
    wrong = next((name for name in values if name not in names), None)
    if wrong is not None:
        near = difflib.get_close_matches(wrong, names, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(names)}"
        raise StudyError(f"{where}: there is no option {reprlib.repr(wrong)}: {hint}")
    return cls(**check(cls, {names[name]: value for name, value in values.items()}, {}, where))


def in_order(cls: type, text: str) -> str:
    """Options as `parse_options` reads them, in the order of the fields: one text for the same options."""
    order = [f.name.rstrip("_") for f in fields(cls)]
    given = (option for option in text.split(",") if option)
    return ",".join(sorted(given, key=lambda option: order.index(option.partition("=")[0])))


def changed(options: Any) -> dict[str, Any]:
    """Those options that differ from their default, by name."""
    return {
        f.name: getattr(options, f.name) for f in fields(options) if getattr(options, f.name) != f.default
    }


def unknown(cls: type, name: str) -> str:
    """What to say of a name that the dataclass does not have, with the nearest one that it has."""
    near = difflib.get_close_matches(str(name), [f.name for f in fields(cls)], n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else "`xlt params` lists all of them"
    return f"there is no parameter {reprlib.repr(name)}: {hint}"


def literal(value: Any) -> str:
    """`value` as a notebook and a YAML file both write it (only True and False differ by their case)."""
    if isinstance(value, list | tuple):
        return "[" + ", ".join(literal(item) for item in value) + "]"
    return f'"{value}"' if isinstance(value, str) else repr(value)


def allowed(f: Field) -> str:
    """The choices or bounds of a setting in words."""
    low, high = f.metadata["low"], f.metadata["high"]
    if f.metadata["choices"]:
        return " | ".join(str(c) for c in f.metadata["choices"])
    if low is not None and high is not None:
        return f"{low} to {high}"
    if low is not None:
        return f"{low} or more"
    return f"{high} or less" if high is not None else ""


def type_name(cls: type, f: Field) -> str:
    """The type of a setting in one word or two: `int`, `list of str`."""
    wanted = _types(cls)[f.name]
    return f"list of {get_args(wanted)[0].__name__}" if get_origin(wanted) is tuple else wanted.__name__


@cache
def _types(cls: type) -> dict[str, Any]:
    return get_type_hints(cls)


def _checked(f: Field, wanted: Any, value: Any, place: str) -> Any:
    """`value` as the type `wanted`, within what the setting may be."""
    place = f"{place}: {f.name}"
    if get_origin(wanted) is not tuple:
        return _item(f, value, wanted, place)
    if not isinstance(value, list | tuple):
        raise _refused(place, value, f"a list, such as {literal(f.default)}")
    items = tuple(_item(f, item, get_args(wanted)[0], place) for item in value)
    if not items and not f.metadata["empty"]:
        raise _refused(place, value, f"at least one item, such as {literal(f.default)}")
    repeated = [item for i, item in enumerate(items) if item in items[:i]]
    if repeated:
        raise StudyError(f"{place}: {literal(repeated[0])} is given twice, expected each item once")
    return items


def _item(f: Field, value: Any, wanted: type, place: str) -> Any:
    """One plain value of type `wanted`, within the bounds, choices and pattern of the setting."""
    if wanted is float and type(value) is int and abs(value) < 2**53:
        value = float(value)
    if type(value) is not wanted:
        raise _refused(place, value, _WORDS[wanted] + _hint(value, wanted))
    if wanted is float and not math.isfinite(value):
        raise _refused(place, value, "a finite number")
    choices, low, high = (f.metadata[key] for key in ("choices", "low", "high"))
    if choices and value not in choices:
        near = difflib.get_close_matches(str(value), [str(c) for c in choices], n=1)
        raise _refused(place, value, f"one of {literal(choices)}" + (f": {near[0]}?" if near else ""))
    if (low is not None and value < low) or (high is not None and value > high):
        raise _refused(place, value, allowed(f))
    if f.metadata["pattern"] and not re.fullmatch(f.metadata["pattern"], value):
        plain = "small letters, digits, - and _, with a letter first"
        raise _refused(place, value, plain if f.metadata["pattern"] == NAME else f.metadata["doc"])
    return value


_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


def _hint(value: Any, wanted: type) -> str:
    """How to write in YAML what was probably meant."""
    if wanted is str and isinstance(value, bool):
        words = "yes, on or true" if value else "no, off or false"
        return f' (unquoted, YAML takes {words} for {value}: put the word in quotes, such as "no")'
    if wanted is str and isinstance(value, int | float):
        return " (put it in quotes)"
    if wanted in (int, float) and isinstance(value, str):
        if wanted is float and re.fullmatch(r"[-+]?\d+[eE][-+]?\d+", value):
            mantissa, exponent = re.split("[eE]", value)
            return f" (YAML takes {value} for text: write {mantissa}.0e{exponent})"
        return " (write it without quotes)" if re.fullmatch(r"[-+]?\d+(\.\d+)?", value) else ""
    if wanted is int and isinstance(value, float) and value.is_integer():
        return f" (write {value:.0f})"
    return ""


def _refused(place: str, found: Any, expected: str) -> StudyError:
    shown = "nothing" if found is None else f"{reprlib.repr(found)} ({type(found).__name__})"
    return StudyError(f"{place}: found {shown}, expected {expected}")


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__


def _read_text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        there = ", ".join(sorted(p.name for p in path.parent.glob("*.y*ml"))) if path.parent.is_dir() else ""
        raise StudyError(f"{path}: there is no such file" + (f"; there is {there}" * bool(there))) from None
    except UnicodeDecodeError as error:
        raise StudyError(f"{path}: byte {error.start} is not UTF-8: save the file as UTF-8") from None
    except OSError as error:
        raise StudyError(f"{path}: cannot be read: {error.strerror or error}") from None


def _compose(text: str, path: Path) -> list[tuple[yaml.Node, yaml.Node]]:
    """The key and value nodes of the one mapping in `text`."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{path}, line {mark.line + 1}" if mark else str(path)
        problem = getattr(error, "problem", None) or _first_line(error)
        raise StudyError(f"{place}: not valid YAML: {problem}") from None
    if node is None:
        raise StudyError(f"{path}: the file is empty: expected lines such as `seeds: 3`")
    if not isinstance(node, yaml.MappingNode):
        line = node.start_mark.line + 1
        raise StudyError(f"{path}, line {line}: expected lines such as `seeds: 3`, found a {node.id}")
    return node.value


def _construct(node: yaml.Node, place: str) -> Any:
    """A node as a Python value; a number that YAML 1.1 takes for octal or base 60 is refused."""
    for scalar in node.value if isinstance(node, yaml.SequenceNode) else [node]:
        number = scalar.tag in ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
        if number and re.match(r"[-+]?0\d|.*:", scalar.value):
            raise StudyError(
                f"{place}: YAML takes {scalar.value} for octal or base 60: write a decimal number"
            )
    try:
        return yaml.SafeLoader("").construct_document(node)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise StudyError(f"{place}: cannot be read: {_first_line(error)}") from None
