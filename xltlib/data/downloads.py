"""What a study on real languages needs from outside, where that comes from, and whether it is here."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from xltlib import StudyError
from xltlib.data import hub, real_data, task_data, tasks
from xltlib.params import Params

Part = tuple[str, str, str]  # set, split, language; of text "de|en": the one read and the one beside it


@dataclass(frozen=True)
class Download:
    """Files of one repository at its pinned commit; `megabytes` is 0 where the size is not known."""

    what: str
    repo: str
    patterns: tuple[str, ...]
    megabytes: int
    licence: str

    @property
    def here(self) -> bool:
        """Whether all of them are in the hub's cache."""
        return hub.cached(self.repo, self.patterns)

    @property
    def command(self) -> str:
        """What fetches them where there is a network."""
        return hub.command(self.repo, self.patterns)


def downloads(params: Params) -> list[Download]:
    """What the hub is asked for: nothing where the languages are synthetic or all text is in a folder."""
    needed = []
    if params.data == "real" and params.model in hub.MODELS:
        repo, licence = hub.repository(params.model), hub.MODELS[params.model]["licence"]
        size = hub.MEGABYTES.get(repo, 0)
        needed.append(Download(f"model {params.model}", repo, hub.MODEL_FILES, size, licence))
    wanted = parts(params) if params.data == "real" and not real_data.folder() else []
    for name in dict.fromkeys(name for name, _, _ in wanted):
        own = [part for part in wanted if part[0] == name]
        splits = ", ".join(dict.fromkeys(split for _, split, _ in own))
        places = [tasks.hub_place(*part) for part in own]
        repo, patterns = places[0][0], tuple(dict.fromkeys(pattern for _, pattern in places))
        size = hub.MEGABYTES.get(repo, 0) * len(patterns)
        needed.append(Download(f"{name} ({splits})", repo, patterns, size, tasks.SETS[name].licence))
    return needed


def parts(params: Params) -> list[Part]:
    """What is read of published sets; StudyError for one that is not known, and for a task without one."""
    found = []
    text = [(name, "train") for name in params.corpora]
    text += [(name, "test") for probe, name in real_data.RETRIEVED.items() if probe in params.probes]
    for name, split in text:
        task_set = tasks.set_of(name, split)
        both = [(params.source, x) for x in params.targets if task_set.translates((params.source, x), split)]
        found += [(name, split, "|".join(sides)) for a, b in both for sides in ((a, b), (b, a))]
    methods = {entry.partition(":")[0] for entry in params.methods}
    # training examples are read in other languages than the source
    translations = methods & {"translate_train", "intermediate"} or 4 in params.questions
    translations = translations or params.statement_runs or params.control_runs
    trained = params.languages if translations else (params.source,)
    named = [("pud", "test", params.languages)] * ("tagging" in params.probes)
    for task in params.tasks:
        for key, languages in (("train_sets", trained), ("test_sets", params.languages)):
            named += [(*one, languages) for one in task_data.sets(vars(params), task, key)]
    for name, split, languages in named:
        found += [(name, split, x) for x in task_data.in_languages(name, split, languages)]
    return list(dict.fromkeys(found))


def require(params: Params, tell: Callable[[str], None] | None = None) -> None:
    """Fetch what is missing, or name all of it in one StudyError, before any work on real languages."""
    if params.data == "synthetic":
        return
    if (folder := real_data.folder()) and (absent := _absent(params, folder)):
        raise StudyError(f"profile {params.profile}: files are missing:\n  " + "\n  ".join(absent))
    missing = [each for each in downloads(params) if not each.here]
    if missing and not hub.online():
        commands = [f"{each.what}: {each.command}" for each in missing]
        raise StudyError(
            f"profile {params.profile} reads real languages from the hub, which is out of reach. Name a "
            "folder that holds the publishers' files in the environment variable XLT_DATA; or fetch what is "
            f"missing where there is a network, and copy the hub's cache to {hub.cache_folder()}:\n  "
            + "\n  ".join(commands)
        )
    for each in missing:
        if tell:
            tell(f"fetching {each.what}")
        hub.snapshot(each.repo, each.patterns)


def _absent(params: Params, folder: Path) -> list[str]:
    """What the folder lacks, a message each: every file is looked for, and each refusal kept.

    With `official_counts` false languages other than the source may lack a file, which a warning tells.
    """
    methods, messages = {entry.partition(":")[0] for entry in params.methods}, []
    for name, split, language in parts(params):
        try:
            tasks.file_of(name, split, language, folder)
        except StudyError as error:
            is_text = tasks.SETS[name].task == "text"
            if params.official_counts or is_text or language == params.source:
                messages.append(str(error))
            else:
                warnings.warn(f"{language} is left out of {name}/{split}: {error}", stacklevel=3)
    lists = {
        "rs_da": partial(real_data.neighbour_lists, params.neighbour_lists),
        "code_switch": partial(real_data.dictionaries, params.dictionaries, params.source, params.targets),
    }
    for search in (search for method, search in lists.items() if method in methods):
        try:
            search()
        except StudyError as error:
            messages.append(str(error))
    return list(dict.fromkeys(messages))
