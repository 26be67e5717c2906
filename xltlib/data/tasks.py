"""Published task sets as records: one reader per official format, and checks of everything that enters."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

from xltlib import StudyError
from xltlib.data import hub
from xltlib.data.corpora import find_file
from xltlib.data.records import LABELS, ChoiceExample, PairExample, SentencePair, SpanExample, TaggedSentence
from xltlib.data.task_files import FIELDS, READERS, Row
from xltlib.data.task_sets import SETS, TaskSet

__all__ = [
    "LABELS",
    "SETS",
    "TaskSet",
    "align",
    "cross",
    "file_of",
    "hub_place",
    "hub_rows",
    "load",
    "missing_gold",
    "on_hub",
]

Record = PairExample | SpanExample | ChoiceExample | TaggedSentence | SentencePair

PLACEHOLDER = "NS"  # PAWS-X: what stands where a translator left a sentence out


def load(
    name: str,
    split: str,
    language: str,
    folder: Path | str | None = None,
    *,
    revision: str | None = None,
    strict: bool = True,
    unlabelled: bool = False,
    placeholders: str = "drop",
) -> list[Record]:
    """Return one split of one language of a set in `SETS`, checked.

    Parameters
    ----------
    name, split, language
        For example `"xnli", "dev", "de"`. MLQA's context and question languages are written `"de|es"`.
    folder
        The folder with the official files (plain or `.gz`); without one, the hub is asked.
    revision
        The 40 hexadecimal digits of another commit of the hub's repository than the pinned one.
    strict
        A number of examples that is not the official one is an error; otherwise a warning.
    unlabelled
        Accept files without gold: labels are then -1, answers empty.
    placeholders
        `"drop"` or `"keep"` PAWS-X rows with a side `NS`; dropping tells how many and leaves languages with
        different ids: `align` them.

    Raises
    ------
    StudyError
        For an unknown set, split or language; a file that is missing, malformed, without gold or with a
        constant label; repeated ids; answers that are not where their offset says.
    """
    task_set = _find(name, split, language)
    if placeholders not in ("drop", "keep"):
        raise StudyError(f"placeholders is {placeholders!r}; expected 'drop' or 'keep'")
    if folder is None:
        rows = hub_rows(name, split, language, revision)
    else:
        rows = _file_rows(name, split, language, folder)
    _check_count(rows, task_set.counts[split][language], f"{name} {split} {language}", strict)
    make = MAKERS[task_set.task]
    records = [make(str(index), place, row, task_set) for index, (place, row) in enumerate(rows)]
    if split in task_set.repeated_ids and len({record.id for record in records}) < len(records):
        records = [replace(record, id=f"{index}:{record.id}") for index, record in enumerate(records)]
    _check_records(records, [place for place, _ in rows], unlabelled)
    return _drop_placeholders(records, f"{name} {split} {language}", placeholders)


def align(by_language: dict[str, list[Record]]) -> dict[str, list[Record]]:
    """Keep the examples whose id every language has, in the order of the first language."""
    shared = set.intersection(*({record.id for record in records} for records in by_language.values()))
    order = [record.id for record in next(iter(by_language.values())) if record.id in shared]
    tables = {key: {record.id: record for record in records} for key, records in by_language.items()}
    return {language: [table[key] for key in order] for language, table in tables.items()}


def cross(a: list[PairExample], b: list[PairExample]) -> list[PairExample]:
    """Pair the first sentences of `a` with the second sentences of `b`: the generalised setting.

    The two lists are one set in two languages, aligned: equal ids and labels in equal order.
    """
    if len(a) != len(b):
        raise StudyError(f"cannot cross {len(a)} with {len(b)} examples; align the two languages first")
    for index, (x, y) in enumerate(zip(a, b, strict=True)):
        if (x.id, x.label) != (y.id, y.label):
            found = f"id {x.id!r}, label {x.label} against id {y.id!r}, label {y.label}"
            raise StudyError(f"example {index}: {found}; align the two languages first")
    return [replace(x, text_b=y.text_b) for x, y in zip(a, b, strict=True)]


def missing_gold(record: Record) -> bool:
    """Tell whether a record carries no gold label and no answer."""
    return getattr(record, "label", 0) < 0 or not getattr(record, "answers", True)


def _find(name: str, split: str, language: str) -> TaskSet:
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


def _fill(pattern: str, task_set: TaskSet, split: str, language: str) -> str:
    context, _, question = language.partition("|")
    return pattern.format(
        split=split,
        language=language,
        code=(task_set.codes or {}).get(language, language),
        context=context,
        question=question or context,
    )


def file_of(name: str, split: str, language: str, folder: Path | str) -> Path:
    """Return the file below a folder that holds one split of one language; StudyError where it is missing."""
    task_set = _find(name, split, language)
    file_split = (task_set.split_names or {}).get(split, split)
    names = [_fill(pattern, task_set, file_split, language) for pattern in task_set.files]
    return find_file(folder, names, f"{name} ({task_set.source})")


def _file_rows(name: str, split: str, language: str, folder: Path | str) -> list[Row]:
    path, task_set = file_of(name, split, language, folder), SETS[name]
    return _of_language(list(READERS[task_set.format](path, task_set.columns)), task_set, language)


def _of_language(rows: list[Row], task_set: TaskSet, language: str) -> list[Row]:
    """Keep one language of a file that holds several: by its language column, or by TyDiQA's id prefix."""
    if rows and "language" in rows[0][1]:
        return [(place, row) for place, row in rows if row["language"] == language]
    first = str(rows[0][1].get("id", "")).partition("-")[0] if rows else ""
    if first in (task_set.codes or {}).values():
        prefix = task_set.codes[language] + "-"
        return [(place, row) for place, row in rows if row["id"].startswith(prefix)]
    return rows


def on_hub(name: str, language: str) -> bool:
    """Whether the hub has a set in a language, as far as the table knows."""
    return SETS[name].hub is not None and language in (SETS[name].hub_languages or [language])


def hub_place(name: str, split: str, language: str) -> tuple[str, str, str]:
    """Return the repository, configuration and split in which the hub has one split of one language."""
    task_set = _find(name, split, language)
    if not on_hub(name, language):
        what = f"{name} in {language!r}" if task_set.hub else name
        raise StudyError(f"{what} is not read from the hub; download {task_set.source} and pass its folder")
    repo, pattern = (task_set.hub_elsewhere or {}).get(language, task_set.hub)
    config = _fill(pattern, task_set, split, language)
    return f"datasets/{repo}", config, (task_set.hub_splits or {}).get(split, split)


def hub_rows(name: str, split: str, language: str, revision: str | None = None) -> list[Row]:
    """Return the rows of a set from the hub, at a pinned commit or at `revision`."""
    repo, config, hub_split = hub_place(name, split, language)
    task_set = SETS[name]
    file = _fill(task_set.files[0], task_set, (task_set.split_names or {}).get(split, split), language)
    folder = f"Or download {task_set.source}, and pass the folder that holds {file}."
    table = hub.table(repo, config, hub_split, revision, folder)
    names = getattr(table.features.get("label"), "names", None)
    rows = [
        (f"{repo} {config} {hub_split} row {index}", _hub_fields(row, names, task_set))
        for index, row in enumerate(table)
    ]
    return _of_language(rows, task_set, language)


def _hub_fields(row: dict, names: list[str] | None, task_set: TaskSet) -> dict:
    """Give one row of the hub the fields of the official files: named labels, answers as (start, text)."""
    fields = row if task_set.task == "choice" else {FIELDS.get(key, key): value for key, value in row.items()}
    if names and fields["label"] >= 0:
        fields["label"] = names[fields["label"]]
    if isinstance(fields.get("answers"), dict):
        answers = fields["answers"]
        fields["answers"] = list(zip(answers["answer_start"], answers["text"], strict=True))
    if fields.get("source_lang") == "eng":  # English is the target of the official files
        fields["source"], fields["target"] = fields["target"], fields["source"]
    return fields


def _label(place: str, row: dict, task_set: TaskSet) -> int:
    value = row.get("label")
    if value in (None, -1, ""):
        return -1
    name = str(value).strip().lower()
    if name not in task_set.labels:
        raise StudyError(f"{place}: label {value!r} is not known; expected {', '.join(task_set.labels)}")
    return task_set.labels[name]


def _text(place: str, row: dict, key: str) -> str:
    value = row.get(key)
    if not isinstance(value, str) or not value.strip():
        raise StudyError(f"{place}: {key} is {'missing' if value is None else 'empty'}")
    return value


def _make_pair(index: str, place: str, row: dict, task_set: TaskSet) -> PairExample:
    texts = _text(place, row, "text_a"), _text(place, row, "text_b")
    return PairExample(str(row.get("id", index)), *texts, _label(place, row, task_set))


def _make_choice(index: str, place: str, row: dict, task_set: TaskSet) -> ChoiceExample:
    if row.get("question") not in ("cause", "effect"):
        raise StudyError(f"{place}: question is {row.get('question')!r}; expected 'cause' or 'effect'")
    choices = (_text(place, row, "choice1"), _text(place, row, "choice2"))
    premise, label = _text(place, row, "premise"), _label(place, row, task_set)
    return ChoiceExample(str(row.get("idx", index)), premise, row["question"], choices, label)


def _make_span(index: str, place: str, row: dict, task_set: TaskSet) -> SpanExample:
    context = _text(place, row, "context")
    answers = tuple((start, text) for start, text in row["answers"] if text)
    for start, text in answers:
        if context[start : start + len(text)] != text:
            found = context[start : start + len(text)]
            raise StudyError(f"{place}: answer {text!r} is not at offset {start}; there is {found!r}")
    return SpanExample(str(row["id"]), _text(place, row, "question"), context, answers)


def _make_tagged(index: str, place: str, row: dict, task_set: TaskSet) -> TaggedSentence:
    columns = (tuple(row[key]) for key in ("words", "tags", "heads", "deprels"))
    return TaggedSentence(row.get("id", index), *columns)


def _make_sentences(index: str, place: str, row: dict, task_set: TaskSet) -> SentencePair:
    return SentencePair(index, _text(place, row, "source"), _text(place, row, "target"))


MAKERS = {
    "nli": _make_pair,
    "paraphrase": _make_pair,
    "qa": _make_span,
    "choice": _make_choice,
    "tagging": _make_tagged,
    "retrieval": _make_sentences,
}


def _check_count(rows: list[Row], official: int | tuple[int, ...], what: str, strict: bool) -> None:
    accepted = official if isinstance(official, tuple) else (official,)
    if len(rows) in accepted:
        return
    place = f"first at {rows[0][0]}" if rows else "no row of this language"
    message = f"{what}: {len(rows)} examples ({place}), officially {' or '.join(map(str, accepted))}"
    if strict:
        raise StudyError(f"{message}; fetch the official file, or pass strict=False to use this one anyway")
    warnings.warn(message, stacklevel=3)


def _check_records(records: list[Record], places: list[str], unlabelled: bool) -> None:
    seen: dict[str, str] = {}
    for record, place in zip(records, places, strict=True):
        if record.id in seen:
            raise StudyError(f"{place}: id {record.id!r} was already at {seen[record.id]}")
        seen[record.id] = place
    bare = [place for record, place in zip(records, places, strict=True) if missing_gold(record)]
    if bare and len(bare) < len(records):
        raise StudyError(f"{bare[0]}: no label or answer, though other rows have one")
    if bare and not unlabelled:
        raise StudyError(
            f"{bare[0]}: no label or answer in any row, as in XTREME's test files; use the original release, "
            "put test.labels.tsv (with a column 'label') beside XNLI's files, or pass unlabelled=True"
        )
    labels = {record.label for record in records if hasattr(record, "label")}
    if len(labels) == 1 and len(records) > 1 and not bare:
        raise StudyError(
            f"{places[0]}: all {len(records)} rows have label {labels.pop()}; a constant column stands for "
            "labels that were not published, and scores against it mean nothing"
        )


def _drop_placeholders(records: list[Record], what: str, policy: str) -> list[Record]:
    if policy == "keep" or not records or not isinstance(records[0], PairExample):
        return records
    kept = [record for record in records if PLACEHOLDER not in (record.text_a.strip(), record.text_b.strip())]
    if len(kept) < len(records):
        dropped = f"{len(records) - len(kept)} of {len(records)} rows"
        warnings.warn(f"{what}: {dropped} have a side {PLACEHOLDER} (not translated); dropped", stacklevel=3)
    return kept
