"""Published task sets: their records, one reader for each official format, and checks of all that enters.

`tasks.yaml` is the table of the sets; `load` reads one split of one language of them.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from xltlib import StudyError
from xltlib.data import hub
from xltlib.data.corpora import find_file, read_pairs
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
PLACEHOLDER = "NS"  # PAWS-X: what stands where a translator left a sentence out

# Records; `texts` are the sentences of one that no training text may hold


@dataclass(frozen=True, slots=True)
class PairExample:
    """Two sentences and one label (natural language inference, paraphrase).

    `label` is an index into `LABELS[task]`, or -1 where the set publishes no label.
    """

    id: str
    text_a: str
    text_b: str
    label: int

    texts = property(lambda self: (self.text_a, self.text_b))


@dataclass(frozen=True, slots=True)
class SpanExample:
    """One question about a context that contains its answer (extractive question answering).

    `answers` holds `(start, text)` pairs, at least one; `start` counts characters from 0 and
    `context[start:start + len(text)] == text`. Empty only where the set publishes no answers.
    """

    id: str
    question: str
    context: str
    answers: tuple[tuple[int, str], ...]

    texts = property(lambda self: (self.question,))


@dataclass(frozen=True, slots=True)
class ChoiceExample:
    """A premise, what is asked about it ("cause" or "effect"), and the choices.

    `label` is the index of the right choice, or -1 where the set publishes no label.
    """

    id: str
    premise: str
    question: str
    choices: tuple[str, ...]
    label: int

    texts = property(lambda self: (self.premise, *self.choices))


@dataclass(frozen=True, slots=True)
class TaggedSentence:
    """A sentence as syntactic words with one tag and one dependency label each.

    `heads` count words from 1, 0 is the root; `words`, `tags`, `heads` and `deprels` have equal length.
    """

    id: str
    words: tuple[str, ...]
    tags: tuple[str, ...]
    heads: tuple[int, ...]
    deprels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SentencePair:
    """A sentence in the set's language and its English translation (retrieval)."""

    id: str
    source: str
    target: str

    texts = property(lambda self: (self.source, self.target))


Record = PairExample | SpanExample | ChoiceExample | TaggedSentence | SentencePair

# The table of sets


@dataclass(frozen=True, slots=True)
class TaskSet:
    """One published set.

    `counts` gives, per split and language, the official number of examples (two where the sources differ).
    `files` are patterns below the data folder, the first that exists is read; they know `{split}` (renamed by
    `split_names`), `{language}`, `{code}` (the language renamed by `codes`) and, where a language is written
    `context|question`, `{context}` and `{question}`; `hub` is a repository and a configuration of it.
    """

    task: str  # nli, paraphrase, qa, choice, tagging, retrieval
    format: str  # tsv, squad, jsonl, conllu, lines
    counts: dict[str, dict[str, int | list[int]]]
    files: list[str]
    source: str
    licence: str
    split_names: dict[str, str] = field(default_factory=dict)  # our name of a split -> the files'
    codes: dict[str, str] = field(default_factory=dict)  # our code of a language -> the files'
    hub: list[str] | None = None
    hub_splits: dict[str, str] = field(default_factory=dict)
    hub_elsewhere: dict[str, list[str]] = field(default_factory=dict)  # languages of another repository
    hub_languages: list[str] = field(default_factory=list)  # where the hub has not all: those that it has
    repeated_ids: list[str] = field(default_factory=list)  # splits with such: the row number goes in front

    @property
    def languages(self) -> list[str]:
        """Every language of any split."""
        return sorted(set().union(*self.counts.values()))

    def filled(self, pattern: str, split: str, language: str) -> str:
        """A pattern of a file's or a configuration's name with its fields."""
        context, _, question = language.partition("|")
        code = self.codes.get(language, language)
        names = {"split": split, "language": language, "code": code, "context": context}
        return pattern.format(**names, question=question or context)


def _sets() -> dict[str, TaskSet]:
    """The table of sets; a pair of languages has one count for both directions."""
    table = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
    for entry in table.values():
        for split, counts in entry["counts"].items():
            own = {}
            for key, value in counts.items():
                own |= dict.fromkeys(value.split(), key) if isinstance(key, int) else {key: value}
            entry["counts"][split] = own | {"|".join(key.split("|")[::-1]): own[key] for key in own}
    return {name: TaskSet(**entry) for name, entry in table.items()}


SETS = _sets()

# Official formats: each reader gives one (place for messages, fields) per example

Row = tuple[str, dict[str, Any]]

FIELDS = {  # names of columns and keys, in lower case -> ours
    "sentence1": "text_a",
    "sentence2": "text_b",
    "premise": "text_a",
    "hypothesis": "text_b",
    "hypo": "text_b",
    "gold_label": "label",
    "pairid": "pair_id",
    "source_sentence": "source",
    "target_sentence": "target",
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


def _labels_beside(path: Path, count: int, task: str) -> list[str] | list[None]:
    """A test file's labels from `test.labels.tsv` beside it: a header, one row per example."""
    split = path.name.split("-")[0]
    candidates = [path.parent / f"{split}.labels.tsv{suffix}" for suffix in ("", ".gz")]
    beside = next((candidate for candidate in candidates if candidate.is_file()), None)
    if beside is None:
        return [None] * count
    rows = [row for _, row in tsv_rows(read_lines(beside), beside, task)]
    if "label" not in rows[0]:
        raise StudyError(f"{beside}:1: no column 'label' in the header")
    if len(rows) != count:
        raise StudyError(f"{beside}: {len(rows)} labels, but {path} has {count} rows")
    return [row["label"] for row in rows]


def squad_rows(lines: Sequence[str], path: Path, task: str) -> Iterator[Row]:
    """Questions of SQuAD 1.1 JSON (`data`, `paragraphs`, `qas`), or of the bare list of articles."""
    content = parse_json("\n".join(lines), str(path))
    if isinstance(content, dict):
        check(content, {"data": list}, str(path))
        content = content["data"]
    check(content, ARTICLES, str(path))
    for paragraph in (paragraph for article in content for paragraph in article["paragraphs"]):
        for question in paragraph["qas"]:
            answers = [(answer["answer_start"], answer["text"]) for answer in question["answers"]]
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


def line_rows(lines: Sequence[str], path: Path, task: str) -> Iterator[Row]:
    """The lines of `tatoeba.deu-eng.deu` with those of its English side."""
    suffix = ".gz" if path.suffix == ".gz" else ""
    english = path.with_name(path.name.removesuffix(suffix).rpartition(".")[0] + ".eng" + suffix)
    for number, (source, target) in enumerate(read_pairs(path, english), start=1):
        yield f"{path}:{number}", {"source": source, "target": target}


READERS: dict[str, Callable[[Sequence[str], Path, str], Iterator[Row]]] = {
    "tsv": tsv_rows, "squad": squad_rows, "jsonl": jsonl_rows, "conllu": conllu_rows, "lines": line_rows,
}  # fmt: skip


def rows_of_language(rows: list[Row], task_set: TaskSet, language: str) -> list[Row]:
    """One language of a file that holds several: by its column `language`, or by TyDiQA's prefix of ids."""
    if any("language" in row for _, row in rows):
        return [(place, row) for place, row in rows if row.get("language") == language]
    first = str(rows[0][1].get("id", "")).partition("-")[0] if rows else ""
    if first in task_set.codes.values():
        prefix = task_set.codes[language] + "-"
        return [(place, row) for place, row in rows if row["id"].startswith(prefix)]
    return rows


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


# One split of one language


def load(
    name: str,
    split: str,
    language: str,
    folder: Path | None = None,
    *,
    strict: bool = True,
    unlabelled: bool = False,
) -> list[Record]:
    """The checked records of one split of one language of a set in `SETS`.

    PAWS-X rows with a side `NS` are dropped, which a warning tells and which leaves languages with different
    ids: `align` them.

    Parameters
    ----------
    name, split, language
        For example `"xnli", "dev", "de"`. MLQA's context and question languages are written `"de|es"`.
    folder
        The folder with the official files (plain or `.gz`); without one, the hub is asked.
    strict
        A number of examples that is not the official one is an error; otherwise a warning.
    unlabelled
        Accept files without gold: labels are then -1, answers empty.

    Raises
    ------
    StudyError
        For an unknown set, split or language; a file that is missing, malformed, without gold or with a
        constant label; repeated ids; answers that are not where their offset says.
    """
    task_set = _set(name, split, language)
    task, official, what = task_set.task, task_set.counts[split][language], f"{name} {split} {language}"
    if folder is None:
        rows = hub_rows(name, split, language)
    else:
        path = file_of(name, split, language, folder)
        rows = list(READERS[task_set.format](read_lines(path), path, task))
        rows = rows_of_language(rows, task_set, language)
    if len(rows) not in (accepted := official if isinstance(official, list) else [official]):
        place = f"first at {rows[0][0]}" if rows else "no row of this language"
        message = f"{what}: {len(rows)} examples ({place}), officially {' or '.join(map(str, accepted))}"
        if strict:
            raise StudyError(f"{message}; fetch the official file, or set official_counts: false")
        warnings.warn(message, stacklevel=2)
    ids = ids_of(rows) or [str(index) for index in range(len(rows))]
    if split in task_set.repeated_ids and len(set(ids)) < len(ids):
        ids = [f"{index}:{key}" for index, key in enumerate(ids)]
    records = [record_of(key, place, row, task) for key, (place, row) in zip(ids, rows, strict=True)]
    check_records(records, [place for place, _ in rows], unlabelled)
    if task not in LABELS:
        return records
    whole = [x for x in records if PLACEHOLDER not in (x.text_a.strip(), x.text_b.strip())]
    if len(whole) < len(records):
        dropped = f"{len(records) - len(whole)} of {len(records)} rows"
        warnings.warn(f"{what}: {dropped} have a side {PLACEHOLDER} (not translated); dropped", stacklevel=2)
    return whole


def _set(name: str, split: str, language: str) -> TaskSet:
    """A set by name, which has the split in the language."""
    if name not in SETS:
        raise StudyError(f"task set {name!r} is not known; known are {', '.join(SETS)}")
    task_set = SETS[name]
    if split not in task_set.counts:
        raise StudyError(f"{name} has no split {split!r}; it has {', '.join(task_set.counts)}")
    if language not in task_set.languages:
        raise StudyError(f"{name} has no language {language!r}; it has {', '.join(task_set.languages)}")
    if language not in task_set.counts[split]:
        splits = [key for key, counts in task_set.counts.items() if language in counts]
        raise StudyError(f"{name} has no split {split!r} in {language!r}; there it has {', '.join(splits)}")
    return task_set


def file_of(name: str, split: str, language: str, folder: Path) -> Path:
    """The file below a folder that holds one split of one language; StudyError where it is missing."""
    task_set = _set(name, split, language)
    file_split = task_set.split_names.get(split, split)
    names = [task_set.filled(pattern, file_split, language) for pattern in task_set.files]
    return find_file(folder, names, f"{name} ({task_set.source})")


def on_hub(name: str, language: str) -> bool:
    """Whether the hub has a set in a language, as far as the table knows."""
    return SETS[name].hub is not None and language in (SETS[name].hub_languages or [language])


def hub_place(name: str, split: str, language: str) -> tuple[str, str, str]:
    """The repository, configuration and split in which the hub has one split of one language."""
    task_set = _set(name, split, language)
    if not on_hub(name, language):
        what = f"{name} in {language!r}" if task_set.hub else name
        raise StudyError(f"{what} is not read from the hub; download {task_set.source} and pass its folder")
    repo, pattern = task_set.hub_elsewhere.get(language, task_set.hub)
    config = task_set.filled(pattern, split, language)
    return f"datasets/{repo}", config, task_set.hub_splits.get(split, split)


def hub_rows(name: str, split: str, language: str) -> list[Row]:
    """The rows of a set from the hub, at the pinned commit."""
    repo, config, hub_split = hub_place(name, split, language)
    task_set = SETS[name]
    file = task_set.filled(task_set.files[0], task_set.split_names.get(split, split), language)
    folder = f"Or download {task_set.source}, and pass the folder that holds {file}."
    table = hub.table(repo, config, hub_split, folder)
    names = getattr(table.features.get("label"), "names", None)
    rows = []
    for index, row in enumerate(table):
        place = f"{repo} {config} {hub_split} row {index}"
        fields = dict(zip(renamed(row, task_set.task, place), row.values(), strict=True))
        if names and fields["label"] >= 0:
            fields["label"] = names[fields["label"]]
        if isinstance(answers := fields.get("answers"), dict):
            fields["answers"] = list(zip(answers["answer_start"], answers["text"], strict=True))
        if fields.get("source_lang") == "eng":  # English is the target of the official files
            fields["source"], fields["target"] = fields["target"], fields["source"]
        rows.append((place, fields))
    return rows_of_language(rows, task_set, language)


def record_of(key: str, place: str, row: dict, task: str) -> Record:
    """The record of a row of a task's set; StudyError where a part of it is missing, empty or wrong."""

    def text(name: str) -> str:
        value = row.get(name)
        if not isinstance(value, str) or not value.strip():
            problem = "missing" if value is None else f"{excerpt(value)}, expected a text"
            raise StudyError(f"{place}: {name} is {'empty' if isinstance(value, str) else problem}")
        return value

    if task in LABELS:
        return PairExample(key, text("text_a"), text("text_b"), label_of(place, row, task))
    if task == "retrieval":
        return SentencePair(key, text("source"), text("target"))
    if task == "choice":
        asked = row.get("question")
        if asked not in ("cause", "effect"):
            raise StudyError(f"{place}: question is {excerpt(asked)}; expected 'cause' or 'effect'")
        choices = (text("choice1"), text("choice2"))
        return ChoiceExample(key, text("premise"), asked, choices, label_of(place, row, task))
    if task == "tagging":
        heads = row["heads"]
        if max(heads) > len(heads) or heads.count(0) != 1:
            shown = excerpt(" ".join(map(str, heads)))
            raise StudyError(f"{place}: heads {shown}; expected one 0, others to {len(heads)}")
        return TaggedSentence(key, *(tuple(row[name]) for name in ("words", "tags", "heads", "deprels")))
    context, answers = text("context"), tuple((start, answer) for start, answer in row["answers"] if answer)
    for start, answer in answers:
        there = context[start : start + len(answer)]
        if there != answer or start < 0:
            at = f"answer {excerpt(answer)} is not at offset {excerpt(start)}"
            raise StudyError(f"{place}: {at}; there is {excerpt(there)}")
    return SpanExample(key, text("question"), context, answers)


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


def check_records(records: list[Record], places: list[str], unlabelled: bool = False) -> None:
    """StudyError for repeated ids and, but for `unlabelled` sets, for records without gold."""
    check_ids([record.id for record in records], places)
    bare = [
        place
        for record, place in zip(records, places, strict=True)
        if getattr(record, "label", 0) < 0 or not getattr(record, "answers", True)
    ]
    if bare and len(bare) < len(records):
        raise StudyError(f"{bare[0]}: no label or answer, though other rows have one")
    if bare and not unlabelled:
        raise StudyError(
            f"{bare[0]}: no label or answer in any row, as in XTREME's test files; use the original release, "
            "or put test.labels.tsv (with a column 'label') beside XNLI's files"
        )
    if not bare:
        check_varied([record.label for record in records if hasattr(record, "label")], places)


# Several languages


def align(by_language: dict[str, list[Record]]) -> dict[str, list[Record]]:
    """The examples whose id every language has, in the order of the first language."""
    shared = set.intersection(*({record.id for record in records} for records in by_language.values()))
    order = [record.id for record in next(iter(by_language.values())) if record.id in shared]
    tables = {key: {record.id: record for record in records} for key, records in by_language.items()}
    return {language: [table[key] for key in order] for language, table in tables.items()}


def cross(a: list[PairExample], b: list[PairExample]) -> list[PairExample]:
    """The first sentences of `a` with the second sentences of `b`: the generalised setting.

    The two lists are one set in two languages, aligned: equal ids and labels in equal order.
    """
    return [replace(x, text_b=y.text_b) for x, y in zip(a, b, strict=True)]
