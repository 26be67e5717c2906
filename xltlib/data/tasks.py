"""Published sets: the table of them in `tasks.yaml`, the records of tasks' examples, and parallel text."""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from xltlib import StudyError
from xltlib.data import formats, hub
from xltlib.data.formats import LABELS, Row, label_of
from xltlib.data.words import clean
from xltlib.textfile import excerpt, read_lines

PLACEHOLDER = "NS"  # PAWS-X: what stands where a translator left a sentence out
TEXTS = {  # of each task the fields that are texts
    **dict.fromkeys(LABELS, ("text_a", "text_b")),
    "choice": ("premise", "choice1", "choice2"), "tagging": (), "qa": ("question", "context"),
}  # fmt: skip

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
    """A sentence as syntactic words with one tag and one dependency label each."""

    id: str
    words: tuple[str, ...]
    tags: tuple[str, ...]
    deprels: tuple[str, ...]
    text: str = ""  # with its multiword tokens whole

    texts = property(lambda self: (self.text,))


Record = PairExample | SpanExample | ChoiceExample | TaggedSentence

# The table of sets


@dataclass(frozen=True, slots=True)
class TaskSet:
    """One published set: examples of a task, or sentences with their translations (`task` is "text").

    `counts` gives, per split and language, the official number of examples (two where the sources differ), or
    of lines. `files` are patterns below the data folder, the first that exists is read; `hub` is a
    repository and the pattern of its parquet files. Both have the fields of `filled`.
    """

    task: str  # nli, paraphrase, qa, choice, tagging; text
    counts: dict[str, dict[str, int | list[int]]]
    files: list[str]
    source: str
    licence: str
    split_names: dict[str, str] = field(default_factory=dict)  # our name of a split -> the files'
    codes: dict[str, str] = field(default_factory=dict)  # our code of a language -> the files'
    hub: str = ""
    hub_languages: list[str] = field(default_factory=list)  # where the hub has not all: those that it has
    repeated_ids: list[str] = field(default_factory=list)  # splits with such: the row number goes in front
    drop_repeats: bool = False  # of text
    pairs_with: str = ""  # of text: the language that one side always is

    @property
    def languages(self) -> list[str]:
        """Every language of any split."""
        return sorted(set().union(*self.counts.values()))

    def translates(self, languages: Sequence[str], split: str = "train") -> bool:
        """Whether a split was published in both languages, one side as the translation of the other."""
        known = self.counts.get(split, ()) if self.task == "text" else ()
        return set(languages) <= set(known) and self.pairs_with in ("", *languages)

    def paths(self, split: str, language: str) -> list[str]:
        """The `files` of one split of one language, the usual one first."""
        split = self.split_names.get(split, split)
        return [self.filled(pattern, split, language) for pattern in self.files]

    def filled(self, pattern: str, split: str, language: str) -> str:
        """A pattern with its fields: {split}, {language}, {code} (its name in the set's files), {other}.

        `language` may be two, as "de|es": of a set in two languages context and question, of text the
        language that is read and the one on its other side; {other} is the second. Text may be published in
        pairs with English: {pair} is the code of the language beside it, {both} the two in order ("de-en").
        """
        own, _, other = language.partition("|")
        other, code = other or own, lambda name: self.codes.get(name, name)
        return pattern.format(
            split=split, language=own, code=code(own), other=other, pair=code(other if own == "en" else own),
            both="-".join(sorted((own, other))),
        )  # fmt: skip


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


def set_of(name: str, split: str, language: str = "") -> TaskSet:
    """A set by name; StudyError where it, or its split, or that in the language, was not published."""
    if name not in SETS:
        raise StudyError(f"set {name!r} is not known; known are {', '.join(SETS)}")
    task_set = SETS[name]
    if split not in task_set.counts:
        raise StudyError(f"{name} has no split {split!r}; it has {', '.join(task_set.counts)}")
    for each in filter(None, language.split("|") if task_set.task == "text" else [language]):
        if each not in task_set.counts[split]:
            known = ", ".join(task_set.counts[split])
            raise StudyError(f"{name}/{split} has no language {each!r}; it has {known}")
    return task_set


def find_file(folder: Path | str, names: Sequence[str], what: str) -> Path:
    """The first of `names` below `folder` that exists, plain or with `.gz` appended.

    `what` says, for the error message, which set is missing and where it is published.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise StudyError(f"{folder}: no such folder; expected {what}, as {names[0]} below it")
    for name in names:
        for path in (folder / name, folder / f"{name}.gz"):
            if path.is_file():
                return path
    raise StudyError(f"{folder}: {names[0]}[.gz] not found; download {what}, and put it there")


def file_of(name: str, split: str, language: str, folder: Path) -> Path:
    """The file below a folder that holds one split of one language; StudyError where it is missing."""
    task_set = set_of(name, split, language)
    return find_file(folder, task_set.paths(split, language), f"{name} ({task_set.source})")


def hub_place(name: str, split: str, language: str) -> tuple[str, str]:
    """The hub's repository that has one split of one language, and the pattern of its files' names."""
    task_set = set_of(name, split, language)
    if not task_set.hub or language not in (task_set.hub_languages or [language]):
        what = f"{name} in {language!r}" if task_set.hub else name
        raise StudyError(f"{what} is not read from the hub; download {task_set.source} and pass its folder")
    repo, pattern = task_set.filled(task_set.hub, "validation" if split == "dev" else split, language).split()
    return f"datasets/{repo}", pattern


def hub_files(name: str, split: str, language: str) -> list[Path]:
    """The parquet files of one split of one language, at the hub's pinned commit."""
    (repo, pattern), file = hub_place(name, split, language), SETS[name].paths(split, language)[0]
    otherwise = f"Or download {SETS[name].source}, and pass the folder that holds {file}."
    return sorted(hub.snapshot(repo, [pattern], otherwise).glob(pattern))


def is_there(name: str, split: str, language: str, folder: Path | None) -> bool:
    """Whether the folder, or without one the hub, has one split of one language."""
    try:
        file_of(name, split, language, folder) if folder else hub_files(name, split, language)
    except StudyError:
        return False
    return True


def hub_table(name: str, split: str, language: str) -> Any:
    """One split of one language as the hub has it, as one `datasets.Dataset`."""
    files = [str(path) for path in hub_files(name, split, language)]
    import datasets  # takes a second, and is needless where the files are missing

    datasets.disable_progress_bars()  # a bar for each of many small tables
    try:
        return datasets.load_dataset("parquet", data_files=files, split="train")
    except Exception as error:  # the readers' errors share no class
        raise StudyError(
            f"{files[0]}: cannot be read ({error}); a truncated download? remove it, and fetch it again"
        ) from error


# One split of one language


def load(
    name: str, split: str, language: str, folder: Path | None = None, *,
    strict: bool = True, unlabelled: bool = False,
) -> list[Record]:  # fmt: skip
    """The checked records of one split of one language of a set in `SETS`, for example "xnli", "dev", "de".

    MLQA's context and question languages are written "de|es". PAWS-X rows with a side `NS` are dropped, which
    a warning tells and which leaves languages with different ids: `align` them.

    folder : with the official files (plain or `.gz`); without one, the hub is asked
    strict : a number of examples that is not the official one is an error; otherwise a warning
    unlabelled : accept files without gold: labels are then -1, answers empty

    StudyError for an unknown set, split or language; a file that is missing, malformed, without gold or with
    a constant label; repeated ids; answers that are not where their offset says.
    """
    task_set, what = set_of(name, split, language), f"{name} {split} {language}"
    task, official = task_set.task, task_set.counts[split][language]
    if folder is None:
        path, rows = f"{name} {split} of the hub", _hub_rows(name, split, language)
    else:
        path = file_of(name, split, language, folder)
        rows = list(formats.READERS[task](read_lines(path), path, task))
    rows = formats.rows_of_language(rows, task_set.codes, language, str(path))
    if len(rows) not in (accepted := official if isinstance(official, list) else [official]):
        found, expected = f"{len(rows)} examples (first at {rows[0][0]})", " or ".join(map(str, accepted))
        message = f"{what}: {found}, officially {expected}"
        if strict:
            raise StudyError(f"{message}; fetch the official file, or set official_counts: false")
        warnings.warn(message, stacklevel=2)
    ids = formats.ids_of(rows) or [str(index) for index in range(len(rows))]
    if split in task_set.repeated_ids and len(set(ids)) < len(ids):
        ids = [f"{index}:{key}" for index, key in enumerate(ids)]
    records = [record_of(key, place, row, task) for key, (place, row) in zip(ids, rows, strict=True)]
    check_records(records, [place for place, _ in rows], unlabelled)
    whole = [x for x in records if task not in LABELS or PLACEHOLDER not in map(str.strip, x.texts)]
    if len(whole) < len(records):
        dropped = f"{len(records) - len(whole)} of {len(records)} rows"
        warnings.warn(f"{what}: {dropped} have a side {PLACEHOLDER} (not translated); dropped", stacklevel=2)
    return whole


def _hub_rows(name: str, split: str, language: str) -> list[Row]:
    """The rows of a set from the hub, at the pinned commit."""
    table, where = hub_table(name, split, language), " ".join(hub_place(name, split, language))
    names = getattr(table.features.get("label"), "names", None)
    rows = []
    for index, row in enumerate(table):
        place = f"{where} row {index}"
        fields = dict(zip(formats.renamed(row, SETS[name].task, place), row.values(), strict=True))
        if names and fields["label"] >= 0:
            fields["label"] = names[fields["label"]]
        if isinstance(answers := fields.get("answers"), dict):
            pairs = zip(answers["answer_start"], answers["text"], strict=True)
            fields["answers"] = tuple(pair for pair in pairs if pair[1])
        rows.append((place, fields))
    return rows


def record_of(key: str, place: str, row: dict, task: str) -> Record:
    """The record of a row of a task's set; StudyError where a part of it is missing, empty or wrong."""
    texts = [row.get(name) for name in TEXTS[task]]
    for name, value in zip(TEXTS[task], texts, strict=True):
        if not isinstance(value, str) or not value.strip():
            problem = "missing" if value is None else f"{excerpt(value)}, expected a text"
            raise StudyError(f"{place}: {name} is {'empty' if isinstance(value, str) else problem}")
    if task in LABELS:
        return PairExample(key, *texts, label_of(place, row, task))
    if task == "choice":
        asked, (premise, *choices) = row.get("question"), texts
        if asked not in ("cause", "effect"):
            raise StudyError(f"{place}: question is {excerpt(asked)}; expected 'cause' or 'effect'")
        return ChoiceExample(key, premise, asked, tuple(choices), label_of(place, row, task))
    if task == "tagging":
        heads = row["heads"]  # they are not used, but show where a word is lost
        if max(heads) > len(heads) or heads.count(0) != 1:
            shown = excerpt(" ".join(map(str, heads)))
            raise StudyError(f"{place}: heads {shown}; expected one 0, others to {len(heads)}")
        columns = (tuple(row[name]) for name in ("words", "tags", "deprels"))
        return TaggedSentence(key, *columns, row.get("text", ""))
    question, context = texts
    for start, answer in row["answers"]:
        there = context[start : start + len(answer)]
        if there != answer or start < 0:
            at = f"answer {excerpt(answer)} is not at offset {excerpt(start)}"
            raise StudyError(f"{place}: {at}; there is {excerpt(there)}")
    return SpanExample(key, question, context, row["answers"])


def check_records(records: list[Record], places: list[str], unlabelled: bool = False) -> None:
    """StudyError for repeated ids and, but for `unlabelled` sets, for records without gold."""
    formats.check_ids([record.id for record in records], places)
    golden = [getattr(x, "label", 0) >= 0 and bool(getattr(x, "answers", True)) for x in records]
    if not all(golden):
        first = places[golden.index(False)]
        if any(golden):
            raise StudyError(f"{first}: no label or answer, though other rows have one")
        if not unlabelled:
            raise StudyError(
                f"{first}: no label or answer in any row, as in XTREME's test files; use the original "
                "release, or put test.labels.tsv (with a column 'label') beside XNLI's files"
            )
    elif records and hasattr(records[0], "label"):
        formats.check_varied([record.label for record in records], places)


# Parallel text


def load_pairs(
    name: str, languages: Sequence[str], folder: Path | None = None, split: str = "train", *,
    nfkc: bool = False, strict: bool = True,
) -> list[tuple[str, str]]:  # fmt: skip
    """The sentences of a set of text in one language with their translations into another, cleaned.

    A pair with an empty side (a missing verse) is left out, and so are repeats where the set says so. With
    `strict` the number of lines must be the published one: in languages that differ, the smaller.
    """
    sides = "|".join(languages), "|".join(languages[::-1])
    task_set = set_of(name, split, sides[0])
    if folder is None:
        path, rows = f"{name} {split} of the hub", _hub_pairs(name, split, sides[0])
    else:
        path, other = (file_of(name, split, side, folder) for side in sides)
        if path == other:
            columns = list(task_set.counts[split])
            rows = _columns(path, *(columns.index(language) for language in languages))
        else:  # line n of one file with line n of the other
            own, theirs = read_lines(path), read_lines(other)
            if len(own) != len(theirs):
                counted = f"{len(theirs)} lines, but {path} has {len(own)}"
                raise StudyError(f"{other}: {counted}; line n must translate line n")
            rows = zip(own, theirs, strict=True)
    rows = list(rows)
    published = min(task_set.counts[split][language] for language in languages)
    if strict and len(rows) != published:
        raise StudyError(
            f"{path}: {len(rows)} lines, but the published file has {published}; fetch it again, or set "
            "official_counts: false to use it all the same"
        )
    rows = [(a, b) for a, b in ((clean(a, nfkc), clean(b, nfkc)) for a, b in rows) if a and b]
    return list(dict.fromkeys(rows)) if task_set.drop_repeats else rows


def _columns(path: Path, first: int, second: int) -> Iterator[tuple[str, str]]:
    """Two of the columns of a tab-separated file; empty lines are left out."""
    for number, line in enumerate(read_lines(path), start=1):
        cells = line.split("\t")
        if len(cells) > 1:
            yield cells[first], cells[second]
        elif line.strip():
            raise StudyError(f"{path}:{number}: no tab between two sentences")


def _hub_pairs(name: str, split: str, language: str) -> list[tuple[str, str]]:
    """The pairs of one configuration: OPUS-100 names its sides by language, Tatoeba has English on either."""
    rows, (own, other) = hub_table(name, split, language), language.split("|")
    if "translation" in rows.column_names:
        return [(row[own], row[other]) for row in rows["translation"]]
    pairs = [(row["source_lang"] == "eng", row["source_sentence"], row["target_sentence"]) for row in rows]
    return [(a, b) if from_english == (own == "en") else (b, a) for from_english, a, b in pairs]


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
