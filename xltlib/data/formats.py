"""Official formats: a reader for each gives one (place for messages, fields) per example, checked."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from xltlib import StudyError
from xltlib.textfile import excerpt, parse_json, read_lines

# The position of a name is the integer label: XNLI's and PAWS-X's own order.
LABELS = {
    "nli": ("entailment", "neutral", "contradiction"),
    "paraphrase": ("different", "paraphrase"),
}
# What files call a label, in lower case. NLI labels must be names, because tools number them in different
# orders; "contradictory" is the spelling of XNLI's translated training files, "choice1" SuperGLUE's.
NAMES = {
    "nli": {name: index for index, name in enumerate(LABELS["nli"])} | {"contradictory": 2},
    "paraphrase": {"0": 0, "1": 1},
    "choice": {"0": 0, "1": 1, "choice1": 0, "choice2": 1},
}

Row = tuple[str, dict[str, Any]]

FIELDS = {  # names of columns and keys, in lower case -> ours
    "sentence1": "text_a",
    "sentence2": "text_b",
    "premise": "text_a",
    "hypothesis": "text_b",
    "hypo": "text_b",
    "gold_label": "label",
    "pairid": "pair_id",
}
COLUMNS = (  # of files without a header, told apart by their number; five are SICK's
    ("label",),
    ("text_a", "text_b"),
    ("text_a", "text_b", "label"),
    ("id", "text_a", "text_b", "label"),
    ("id", "text_a", "text_b", "score", "label"),
)
# A schema is the types that a value may have, [the schema of all items], or {key: schema}; "?" ends a key
# that may be absent, and keys beyond those named are free.
LABELLED = {"id?": (str, int), "idx?": (str, int), "language?": str, "label?": (str, int, type(None))}
ARTICLES = [{"paragraphs": [{"context": str, "qas": [
    {"id": (str, int), "question": str, "answers": [{"answer_start": int, "text": str}]},
]}]}]  # fmt: skip
TYPES = {str: "a text", int: "a whole number", list: "a list", dict: "an object", type(None): "null"}


def check(value: Any, schema: Any, file: str, place: str = "") -> None:
    """StudyError, with file, place, finding and expectation, unless a JSON value has the form of a schema."""
    types = schema if isinstance(schema, tuple) else (schema if isinstance(schema, type) else type(schema),)
    if type(value) not in types:  # no isinstance: true is not a number
        expected = " or ".join(TYPES[each] for each in types)
        raise StudyError(f"{file}{place}: found {excerpt(value)}, expected {expected}")
    if isinstance(schema, list):
        for index, item in enumerate(value):
            check(item, schema[0], file, f"{place}[{index}]")
    elif isinstance(schema, dict):
        if "id" in schema and isinstance(value.get("id"), str | int):
            place = f": question {excerpt(value['id'])}"
        for key, inner in schema.items():
            name = key.removesuffix("?")
            if name in value:
                check(value[name], inner, file, f"{place}: {name}")
            elif name == key:
                raise StudyError(f"{file}{place}: no {name!r}, expected one in this object")


def renamed(keys: Iterable[str], task: str, place: str) -> list[str]:
    """Our names of columns or keys; StudyError where two would be one. Choices are named as we name them."""
    names = [key if task == "choice" else FIELDS.get(key.lower(), key.lower()) for key in keys]
    if len(set(names)) < len(names):
        name = next(name for name in names if names.count(name) > 1)
        raise StudyError(f"{place}: {excerpt(name)} stands there twice, expected once")
    return names


def tsv_rows(lines: Sequence[str], path: Path, task: str, beside: bool = True) -> Iterator[Row]:
    """Rows of tab-separated cells; the names come from a header if there is one, else from `COLUMNS`.

    Where a file has no header and no label, the labels are read from the file `beside` it.
    """
    cells = lines[0].split("\t")
    names = {FIELDS.get(cell.strip().lower(), cell.strip().lower()) for cell in cells}
    is_header = ("label" in names or {"text_a", "text_b"} <= names) and not names & NAMES[task].keys()
    if is_header:
        columns = renamed([cell.strip() for cell in cells], task, f"{path}:1")
    elif len(cells) <= len(COLUMNS):
        columns = list(COLUMNS[len(cells) - 1])
    else:
        raise StudyError(f"{path}:1: {len(cells)} columns found, a header expected that names them")
    lacking = beside and not is_header and "label" not in columns
    labels = _labels_beside(path, len(lines), task) if lacking else None
    for number, line in enumerate(lines[is_header:], start=1 + is_header):
        cells = [_unquoted(cell) for cell in line.split("\t")]
        if len(cells) != len(columns):
            expected = f"{len(columns)} expected ({', '.join(columns)})"
            raise StudyError(f"{path}:{number}: {len(cells)} columns found, {expected}")
        row = dict(zip(columns, cells, strict=True))
        yield f"{path}:{number}", row if labels is None else row | {"label": labels[number - 1]}


def _unquoted(cell: str) -> str:
    """A cell without a CSV writer's quoting: quotes at both ends, those inside doubled. Others are text."""
    inner = cell[1:-1]
    if len(cell) > 3 and cell[0] == cell[-1] == '"' and '""' in inner and '"' not in inner.replace('""', ""):
        return inner.replace('""', '"')
    return cell


def _labels_beside(path: Path, count: int, task: str) -> list[str] | None:
    """A test file's labels from `test.labels.tsv`, a header and one row per example, where that is beside."""
    split = path.name.split("-")[0]
    candidates = [path.parent / f"{split}.labels.tsv{suffix}" for suffix in ("", ".gz")]
    beside = next((candidate for candidate in candidates if candidate.is_file()), None)
    if beside is None:
        return None
    rows = [row for _, row in tsv_rows(read_lines(beside), beside, task)]
    if "label" not in rows[0]:
        raise StudyError(f"{beside}:1: no column 'label' in the header")
    if len(rows) != count:
        raise StudyError(f"{beside}: {len(rows)} labels, but {path} has {count} rows")
    return [row["label"] for row in rows]


def squad_rows(lines: Sequence[str], path: Path, task: str) -> Iterator[Row]:
    """Questions of SQuAD 1.1 JSON (`data`, `paragraphs`, `qas`), or of the bare list of articles.

    `answers` are (start, text) pairs; an empty text, as in files without gold, is none.
    """
    content = parse_json("\n".join(lines), str(path))
    if isinstance(content, dict):
        check(content, {"data": list}, str(path))
        content = content["data"]
    check(content, ARTICLES, str(path))
    for paragraph in (paragraph for article in content for paragraph in article["paragraphs"]):
        for question in paragraph["qas"]:
            answers = tuple((x["answer_start"], x["text"]) for x in question["answers"] if x["text"])
            row = {"id": str(question["id"]), "question": question["question"], "answers": answers}
            yield f"{path}: question {excerpt(question['id'])}", row | {"context": paragraph["context"]}


def jsonl_rows(lines: Sequence[str], path: Path, task: str) -> Iterator[Row]:
    """One JSON object a line."""
    for number, line in enumerate(lines, start=1):
        row, place = parse_json(line, str(path), number), f"{path}:{number}"
        check(row, {}, place)
        row = dict(zip(renamed(row, task, place), row.values(), strict=True))
        check(row, LABELLED, place)
        yield place, row


def conllu_rows(lines: Sequence[str], path: Path, task: str) -> Iterator[Row]:
    """Sentences as their syntactic words.

    Lines of multiword tokens (`3-4`: the surface of words 3 and 4) and empty nodes (`3.1`) are left out.
    """
    place, row = "", {}
    for number, line in enumerate([*lines, ""], start=1):
        if line.startswith("# sent_id ="):
            place, row["id"] = f"{path}:{number}", line.partition("=")[2].strip()
            if len(row["id"].split()) != 1:
                raise StudyError(f"{place}: sent_id {excerpt(row['id'])} found, one word expected")
        elif line.startswith("# text ="):
            row["text"] = line.partition("=")[2].strip()
        elif not line.strip():
            if "words" in row and "id" not in row:
                raise StudyError(f"{path}:{number}: no line '# sent_id = ...' above this sentence")
            if "words" in row:
                yield place, row
            place, row = "", {}
        elif not line.startswith("#"):
            cells = line.split("\t")
            if len(cells) != 10:
                raise StudyError(f"{path}:{number}: {len(cells)} columns found, 10 expected (CoNLL-U)")
            if not cells[0].isdecimal():
                continue
            if int(cells[0]) != (following := len(row.get("words", ())) + 1):
                raise StudyError(f"{path}:{number}: word {cells[0]} found, word {following} expected")
            if not cells[6].isdecimal():
                raise StudyError(f"{path}:{number}: head {excerpt(cells[6])} is not a number")
            for key, cell in (("words", 1), ("tags", 3), ("heads", 6), ("deprels", 7)):
                row.setdefault(key, []).append(int(cells[cell]) if key == "heads" else cells[cell])


READERS: dict[str, Callable[[Sequence[str], Path, str], Iterator[Row]]] = {
    "nli": tsv_rows, "paraphrase": tsv_rows, "qa": squad_rows, "choice": jsonl_rows, "tagging": conllu_rows,
}  # fmt: skip


def rows_of_language(rows: list[Row], codes: Mapping[str, str], language: str, file: str) -> list[Row]:
    """One language of a file that holds several: by its column `language`, or by TyDiQA's prefix of ids.

    codes : language -> its name in the ids
    file : where the rows are from; StudyError names it where none of them is of the language
    """
    named = {str(row["language"]) for _, row in rows if "language" in row}
    if named:
        own = [(place, row) for place, row in rows if row.get("language") == language]
    elif rows and str(rows[0][1].get("id", "")).partition("-")[0] in codes.values():
        own = [(place, row) for place, row in rows if row["id"].startswith(codes[language] + "-")]
    else:
        own = rows
    if not own:
        others = f"; it has {excerpt(', '.join(sorted(named)))}" if named else ""
        raise StudyError(f"{file}: no row of the language {language}{others}")
    return own


def ids_of(rows: Sequence[Row], names: Sequence[str] = ("id", "idx")) -> list[str]:
    """The ids that rows carry, by the first of the names that they have; none where no row carries one."""
    ids = [str(next((row[name] for name in names if name in row), "")) for _, row in rows]
    if any(ids) and "" in ids:
        raise StudyError(f"{rows[ids.index('')][0]}: no id, though other rows have one")
    return [key for key in ids if key]


def label_of(place: str, row: dict, task: str) -> int:
    """The integer of a row's label; -1 where there is none."""
    value = row.get("label")
    if value in (None, -1, ""):
        return -1
    name = str(value).strip().lower()
    if name not in NAMES[task]:
        raise StudyError(f"{place}: label {excerpt(value)} is not known; expected {', '.join(NAMES[task])}")
    return NAMES[task][name]


def check_ids(ids: Sequence[str], places: Sequence[str]) -> None:
    """StudyError where an id stands at two places."""
    first: dict[str, str] = {}
    for key, place in zip(ids, places, strict=True):
        if key in first:
            raise StudyError(f"{place}: id {excerpt(key)} was already at {first[key]}, expected once")
        first[key] = place


def check_varied(labels: Sequence[int], places: Sequence[str]) -> None:
    """StudyError where several labels are all the same."""
    if len(labels) > 1 and len(set(labels)) == 1:
        raise StudyError(
            f"{places[0]}: all {len(labels)} rows have label {labels[0]}; a constant column stands for "
            "labels that were not published, and scores against it mean nothing"
        )
