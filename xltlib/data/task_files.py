"""Readers of the official file formats: each gives one (place, fields) per example, fields unchecked."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from xltlib import StudyError
from xltlib.data.corpora import read_pairs
from xltlib.textfile import read_lines, read_text

Row = tuple[str, dict]  # (where the example stands, for messages; its fields)

FIELDS = {  # column names of the sets -> ours
    "sentence1": "text_a",
    "sentence2": "text_b",
    "premise": "text_a",
    "hypothesis": "text_b",
    "hypo": "text_b",
    "gold_label": "label",
    "source_sentence": "source",
    "target_sentence": "target",
}


def tsv_rows(path: Path, columns: tuple[str, ...] = ()) -> Iterator[Row]:
    """Read tab-separated cells. The names come from a header if there is one, else they are `columns`.

    Where files have no header and lack the last column, `label`, the labels are read from the file beside.
    """
    lines = read_lines(path)
    header = [FIELDS.get(cell.lower(), cell.lower()) for cell in lines[0].split("\t")]
    has_header = {"text_a", "text_b"} <= set(header)
    columns = header if has_header else list(columns)
    if not columns:
        raise StudyError(f"{path}:1: no header with two sentence columns; found {lines[0][:80]!r}")
    first = 1 if has_header else 0
    labels = None
    if not has_header and columns[-1] == "label" and lines[0].count("\t") == len(columns) - 2:
        columns, labels = columns[:-1], _labels_beside(path, len(lines))
    for index, line in enumerate(lines[first:]):
        place, cells = f"{path}:{index + first + 1}", [_unquote(cell) for cell in line.split("\t")]
        if len(cells) != len(columns):
            raise StudyError(f"{place}: {len(cells)} columns, expected {len(columns)} ({', '.join(columns)})")
        row = dict(zip(columns, cells, strict=True))
        yield place, (row if labels is None else row | {"label": labels[index]})


def _unquote(cell: str) -> str:
    """Undo a CSV writer's quoting of one cell: quotes at both ends, those inside doubled. Others are text."""
    inner = cell[1:-1]
    if len(cell) > 3 and cell[0] == cell[-1] == '"' and '""' in inner and '"' not in inner.replace('""', ""):
        return inner.replace('""', '"')
    return cell


def _labels_beside(path: Path, count: int) -> list[str] | list[None]:
    """Return a test file's labels from `test.labels.tsv` beside it (a header, one row per example)."""
    split = path.name.split("-")[0]
    beside = [path.parent / f"{split}.labels.tsv{suffix}" for suffix in ("", ".gz")]
    found = next((candidate for candidate in beside if candidate.is_file()), None)
    if found is None:
        return [None] * count
    rows = [line.split("\t") for line in read_lines(found)]
    if "label" not in rows[0]:
        raise StudyError(f"{found}:1: no column 'label' in the header {rows[0]}")
    column = rows[0].index("label")
    if len(rows) - 1 != count:
        raise StudyError(f"{found}: {len(rows) - 1} labels, but {path} has {count} rows")
    return [row[column] for row in rows[1:]]


def squad_rows(path: Path, columns: tuple[str, ...] = ()) -> Iterator[Row]:
    """Read SQuAD 1.1 JSON (`data`, `paragraphs`, `qas`), or the bare list of articles."""
    try:
        content = json.loads(read_text(path))
        articles = content["data"] if isinstance(content, dict) else content
        for article in articles:
            for paragraph in article["paragraphs"]:
                for question in paragraph["qas"]:
                    answers = [(answer["answer_start"], answer["text"]) for answer in question["answers"]]
                    row = {"id": question["id"], "question": question["question"], "answers": answers}
                    yield f"{path}: question {question['id']}", row | {"context": paragraph["context"]}
    except json.JSONDecodeError as error:
        raise StudyError(f"{path}:{error.lineno}: not JSON: {error.msg}") from None
    except (KeyError, TypeError) as error:
        raise StudyError(f"{path}: not in SQuAD's form; missing or misplaced: {error}") from None


def jsonl_rows(path: Path, columns: tuple[str, ...] = ()) -> Iterator[Row]:
    for number, line in enumerate(read_lines(path), start=1):
        try:
            yield f"{path}:{number}", json.loads(line)
        except json.JSONDecodeError as error:
            raise StudyError(f"{path}:{number}: not JSON: {error.msg}") from None


def conllu_rows(path: Path, columns: tuple[str, ...] = ()) -> Iterator[Row]:
    """Read sentences as their syntactic words.

    Lines of multiword tokens (`3-4`: the surface of words 3 and 4) and empty nodes (`3.1`) are left out.
    """
    place, row = "", {}
    for number, line in enumerate([*read_lines(path), ""], start=1):
        if line.startswith("# sent_id ="):
            place, row["id"] = f"{path}:{number}", line.partition("=")[2].strip()
        elif not line.strip():
            if "words" in row:
                yield place or f"{path}:{number}", row
            place, row = "", {}
        elif not line.startswith("#"):
            cells = line.split("\t")
            if len(cells) != 10:
                raise StudyError(f"{path}:{number}: {len(cells)} columns, CoNLL-U has 10")
            if not cells[0].isdigit():
                continue
            if not cells[6].isdigit():
                raise StudyError(f"{path}:{number}: head {cells[6]!r} is not a number")
            for key, cell in (("words", 1), ("tags", 3), ("heads", 6), ("deprels", 7)):
                row.setdefault(key, []).append(int(cells[cell]) if key == "heads" else cells[cell])


def line_rows(path: Path, columns: tuple[str, ...] = ()) -> Iterator[Row]:
    """Read `tatoeba.deu-eng.deu` with its English side."""
    suffix = ".gz" if path.suffix == ".gz" else ""
    english = path.with_name(path.name.removesuffix(suffix).rpartition(".")[0] + ".eng" + suffix)
    for number, (source, target) in enumerate(read_pairs(path, english), start=1):
        yield f"{path}:{number}", {"source": source, "target": target}


READERS = {
    "tsv": tsv_rows,
    "squad": squad_rows,
    "jsonl": jsonl_rows,
    "conllu": conllu_rows,
    "lines": line_rows,
}
