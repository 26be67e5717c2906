"""The examples of a task by setting: made for synthetic languages, or read from published sets."""

import warnings
from collections.abc import Mapping, Sequence

import numpy as np

from xltlib import StudyError
from xltlib.data import real_data, synthetic, tasks
from xltlib.data.synthetic import World
from xltlib.data.tasks import SETS

ALIGNED = ("nli", "paraphrase", "tagging")  # tasks whose test sets have the same examples in every language


def examples(
    params: Mapping, task: str, split: str, count: int, translations: bool = False
) -> dict[str, list]:
    """At most `count` examples of a task by setting: a language, or "de@mlqa" for a further test set.

    Real examples are in an order shuffled once, so that a smaller count takes some of a larger one's, and the
    same ids in every language that has them. Languages that a set does not have are left out, and with
    `official_counts` false also those whose file is absent, which a warning tells.

    params : of a study: `source`, `languages`, `world_seed`; for real languages `train_sets`, `test_sets` and
        `official_counts`
    split : "train": the source's alone, or with `translations` those of all that the set has; "test": of all
        test sets of the task; "dev": the source's, of synthetic languages alone
    """
    if params.get("data", "synthetic") == "synthetic":
        languages = params["languages"] if translations or split == "test" else [params["source"]]
        world = World(tuple(languages), params["world_seed"])
        return synthetic.task_examples(world, task, count, split, 0)
    if split == "dev":
        raise StudyError("finetune_until: real tasks have no development examples to select by; set it to 0")
    if split == "train":
        ((name, part), *_), source = sets(params, task, "train_sets"), params["source"]
        own = _first_records(records_of(params, name, part, [source]), count)
        return own | (_translations(params, name, part, own[source]) if translations else {})
    by_setting = {}
    for number, (name, part) in enumerate(sets(params, task, "test_sets")):
        records = _first_records(records_of(params, name, part, params["languages"]), count)
        settings = {f"{language}@{name}" if number else language: x for language, x in records.items()}
        if shared := settings.keys() & by_setting:
            raise StudyError(f"test_sets: {min(shared)} would be two sets; name each further set once")
        by_setting |= settings
    return by_setting


def _translations(params: Mapping, name: str, split: str, own: Sequence) -> dict[str, list]:
    """The examples with the ids of the source's in every other language that the set has."""
    labels = {record.id: getattr(record, "label", None) for record in own}
    others = [language for language in params["languages"] if language != params["source"]]
    by_language = records_of(params, name, split, others)
    for language, records in by_language.items():
        by_language[language] = [record for record in records if record.id in labels]
        wrong = [x.id for x in by_language[language] if getattr(x, "label", None) != labels[x.id]]
        if wrong:
            raise StudyError(
                f"{name}/{split}: example {wrong[0]!r} has another label in {language} than in "
                f"{params['source']}, so the two files are no translations of each other: take both from one "
                "release"
            )
    return by_language


def check_translations(params: Mapping, task: str) -> None:
    """StudyError where no training examples of a task were published in another language of the study."""
    name, split = sets(params, task, "train_sets")[0]
    if not set(in_languages(name, split, params["languages"])) - {params["source"]}:
        where = "the folder" if real_data.folder() else "the hub"
        raise StudyError(f"{name}/{split}: {where} has it in none of the other languages: name another set")


def language_of(setting: str) -> str:
    """The language of a setting: "de" of "de@mlqa" (a further test set) and of "de#f1" (a further metric)."""
    return setting.partition("@")[0].partition("#")[0]


def sets(params: Mapping, task: str, key: str) -> list[tuple[str, str]]:
    """The (set, split) of a task that a parameter names, in its order, of which there must be one."""
    named = [tuple(entry.split("/")) for entry in params[key]]
    own = [(name, split) for name, split in named if tasks.set_of(name, split).task == task]
    if not own:
        known = ", ".join(name for name, each in SETS.items() if each.task == task)
        raise StudyError(f"{key} = {list(params[key])}: no set of {task}; add one of {known}, as set/split")
    return own


def records_of(params: Mapping, name: str, split: str, languages: Sequence[str]) -> dict[str, list]:
    """The records of those of the languages that a split of a set has.

    With `official_counts` false languages whose file is absent are left out, which a warning tells.
    """
    by_language, folder, strict = {}, real_data.folder(), params["official_counts"]
    for language in in_languages(name, split, languages):
        try:
            if folder and not strict:
                tasks.file_of(name, split, language, folder)
        except StudyError as error:
            warnings.warn(f"{language} is left out of {name}/{split}: {error}", stacklevel=3)
        else:
            by_language[language] = tasks.load(name, split, language, folder, strict=strict)
    if not by_language:
        raise StudyError(f"{name}/{split}: none of the languages {', '.join(languages)} is there")
    return tasks.align(by_language) if SETS[name].task in ALIGNED else by_language


def in_languages(name: str, split: str, languages: Sequence[str]) -> list[str]:
    """The languages, of those named, in which a split was published, and which the hub has if it is asked."""
    published = [x for x in languages if x in SETS[name].counts[split]]
    known = [] if real_data.folder() else SETS[name].hub_languages
    return [x for x in published if x in known] if known else published


def _first_records(by_language: Mapping[str, Sequence], count: int) -> dict[str, list]:
    """The first `count` records of each language in an order of all ids that is shuffled once."""
    ids = sorted({record.id for records in by_language.values() for record in records})
    place = dict(zip(ids, np.random.default_rng([0, 61]).permutation(len(ids)).tolist(), strict=True))
    return {x: sorted(own, key=lambda record: place[record.id])[:count] for x, own in by_language.items()}
