"""What a study on real languages needs from outside, where that comes from, and whether it is here."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from xltlib import StudyError
from xltlib.data import corpora, hub, real_data, task_data, tasks
from xltlib.data.corpora import CORPORA
from xltlib.data.tasks import SETS
from xltlib.params import Params

PROBE_SETS = {"retrieval": "tatoeba/test", "tagging": "pud/test"}


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
    if params.data == "synthetic":
        return []
    needed = []
    if params.model in hub.MODELS:
        model = hub.MODELS[params.model]
        needed.append((f"model {params.model}", model["repo"], hub.MODEL_FILES, 1, model["licence"]))
    if not real_data.folder():
        for name in params.corpora:
            pairs = ["-".join(sorted((params.source, x))) for x in _targets(params, name)]
            what = f"parallel text {name}, {len(pairs)} pairs of languages"
            patterns = [hub.usual_files(pair, "train") for pair in pairs]
            corpus = CORPORA[name]
            needed.append((what, f"datasets/{corpus.hub}", patterns, len(pairs), corpus.licence))
        needed += _task_sets(params)
    return [
        Download(what, repo, tuple(dict.fromkeys(patterns)), hub.MEGABYTES.get(repo, 0) * parts, licence)
        for what, repo, patterns, parts, licence in needed
    ]


def _task_sets(params: Params) -> Iterator[tuple[str, str, list[str], int, str]]:
    """The sets of each task: training text of the source, test sets of every language."""
    wanted = wanted_sets(params)
    for name in dict.fromkeys(name for name, _, _ in wanted):
        splits = ", ".join(dict.fromkeys(split for x, split, _ in wanted if x == name))
        places = [tasks.hub_place(*each) for each in wanted if each[0] == name]
        for repo in dict.fromkeys(repo for repo, _, _ in places):
            patterns = [hub.usual_files(config, split) for x, config, split in places if x == repo]
            yield f"{name} ({splits})", repo, patterns, 1, SETS[name].licence


def _targets(params: Params, corpus: str) -> list[str]:
    """The languages that a corpus has with the source."""
    if corpus not in CORPORA:
        raise StudyError(f"corpora: {corpus!r} is not known; known are {', '.join(CORPORA)}")
    known = CORPORA[corpus].languages
    return [x for x in params.languages if x in known and x != params.source and params.source in known]


def wanted_sets(params: Params) -> list[tuple[str, str, str]]:
    """(set, split, language) of all examples that the study reads; StudyError for a task without a set."""
    methods = {entry.partition(":")[0] for entry in params.methods}
    # training examples are read in other languages than the source
    translations = methods & {"translate_train", "intermediate"} or 4 in params.questions
    translations = translations or params.statement_runs or params.control_runs
    parts = []
    probes = [PROBE_SETS[x] for x in params.probes if x in PROBE_SETS]
    for text in (*params.train_sets, *params.test_sets, *probes):
        name, _, split = text.partition("/")
        if name not in SETS or split not in SETS[name].counts:
            splits = ", ".join(f"{x}/{s}" for x in SETS for s in SETS[x].counts)
            raise StudyError(f"{text!r} is not a set and its split; known are {splits}")
        source_alone = text in params.train_sets and not translations
        languages = (params.source,) if source_alone else params.languages
        if SETS[name].task in (*params.tasks, "retrieval", "tagging"):
            parts += [(name, split, x) for x in task_data.in_languages(name, split, languages)]
    for task in params.tasks:
        for kind, sets in (("train_sets", params.train_sets), ("test_sets", params.test_sets)):
            if not any(SETS[text.partition("/")[0]].task == task for text in sets):
                raise StudyError(f"{kind} names no set of the task {task}")
    return list(dict.fromkeys(parts))


def require(params: Params, tell: Callable[[str], None] | None = None) -> None:
    """Fetch what is missing, or name all of it in one StudyError, before any work on real languages."""
    if params.data == "synthetic":
        return
    folder = real_data.folder()
    if not folder and "captions" in params.probes:
        raise StudyError("probes: captions are not read from the hub; name Multi30k's folder in XLT_DATA")
    if folder and (absent := _absent(params, folder)):
        raise StudyError(
            f"profile {params.profile}: {len(absent)} files are missing.\n  " + "\n  ".join(absent)
        )
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
    """What the folder lacks, a message each: every file is looked for, and each refusal kept."""
    searches = [partial(tasks.file_of, *part, folder) for part in wanted_sets(params)]
    text = [(name, "train") for name in params.corpora]
    text += [("multi30k", "test")] * ("captions" in params.probes)
    for name, split in text:
        for language in _targets(params, name):
            searches.append(partial(corpora.files_of, name, (params.source, language), folder, split))
    methods = {entry.partition(":")[0] for entry in params.methods}
    if "rs_da" in methods:
        searches.append(partial(real_data.neighbour_lists, params.neighbour_lists))
    if "code_switch" in methods:
        searches.append(partial(real_data.dictionaries, params.dictionaries, params.source, params.targets))
    messages = []
    for search in searches:
        try:
            search()
        except StudyError as error:
            messages.append(str(error))
    return list(dict.fromkeys(messages))
