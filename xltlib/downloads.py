"""What a study on real languages needs from outside, where that comes from, and whether it is here."""

from collections.abc import Iterator
from dataclasses import dataclass

from xltlib import hub, models
from xltlib.corpora import CORPORA
from xltlib.params import Params, StudyError
from xltlib.tasks import SETS, hub_place

MODEL = "mbert"  # what the papers of WEAM, Robust-XLT and SALT start from
PARALLEL = "opus100"
TRAINING = {"nli": "multinli", "paraphrase": "pawsx", "qa": "squad"}
TESTS = {"nli": ("xnli",), "paraphrase": ("pawsx",), "qa": ("xquad", "mlqa")}
MEGABYTES = {  # as the hub's pages give them: a model's weights, a table, a pair of languages
    "google-bert/bert-base-multilingual-cased": 714,
    "FacebookAI/xlm-roberta-large": 2240,
    "datasets/nyu-mll/multi_nli": 214,
    "datasets/Helsinki-NLP/opus-100": 116,
}


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
    """All that the parameters ask for; nothing where the languages are synthetic."""
    if params.scale == "mechanism":
        return []
    published = models.PUBLISHED[MODEL]
    size = MEGABYTES.get(published.repo, 0)
    found = [Download(f"model {MODEL}", published.repo, models.FILES, size, published.licence)]
    corpus = CORPORA[PARALLEL]
    pairs = ["-".join(sorted((params.source, x))) for x in corpus.languages
             if x in params.languages and x != params.source]  # fmt: skip
    repo = f"datasets/{corpus.hub}"
    patterns = ("README.md", *(hub.usual_files(pair, "train") for pair in pairs))
    what = f"parallel text {PARALLEL}, {len(pairs)} pairs of languages"
    found.append(Download(what, repo, patterns, MEGABYTES[repo] * len(pairs), corpus.licence))
    return [*found, *_task_sets(params)]


def _task_sets(params: Params) -> Iterator[Download]:
    """The sets of each task: training text of the source, development and test sets of every language."""
    for task in params.tasks:
        wanted = {(TRAINING[task], "train")}
        wanted |= {(name, split) for name in TESTS[task] for split in SETS[name].counts if split != "train"}
        for name in (TRAINING[task], *TESTS[task]):
            splits = [split for split in SETS[name].counts if (name, split) in wanted]
            wanted -= {(name, split) for split in splits}
            files = [
                hub_place(name, split, language)
                for split in splits
                for language in (params.languages if split != "train" else (params.source,))
                if language in SETS[name].counts[split]
            ]
            for repo in dict.fromkeys(repo for repo, _, _ in files):
                patterns = [hub.usual_files(config, split) for r, config, split in files if r == repo]
                what, size = f"{name} ({', '.join(splits)})", MEGABYTES.get(repo, 0)
                yield Download(what, repo, ("README.md", *dict.fromkeys(patterns)), size, SETS[name].licence)


def require(params: Params) -> None:
    """StudyError, before any work, that names all that is missing for a study on real languages."""
    if params.scale == "mechanism":
        return
    missing = [f"{each.what}: {each.command}" for each in downloads(params) if not each.here]
    fetch = (
        f"Where there is a network, fetch what is missing, then copy the hub's cache to {hub.cache_folder()}:"
    )
    raise StudyError(
        f"profile {params.profile}: its runs are on real languages (scale {params.scale}), which this "
        "version can load but not train on yet; `xlt plan` tells what they would cost. "
        + "\n  ".join([fetch, *missing] if missing else ["All that they need is here."])
    )
