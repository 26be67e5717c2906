"""Which runs a query of the ledger means: its labels, the defaults that it leaves out, and its settings."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from typing import Any

import numpy as np

from xltlib import StudyError
from xltlib.claims.ledger import LABELS, Ledger, label
from xltlib.params import Params
from xltlib.significance.clusters import Clustered, Nested

PROFILE = "profile"  # the default of an option that the profile has a parameter for
DEFAULTS = {"objective": "none", "method": "standard"}  # what a label means where it is left out


@dataclass(frozen=True)
class Selection:
    """The scores of all runs with the same labels but the seed: paired arrays, or why there are none.

    `scores` has K arrays (R, N_k), one for each of `settings`; rows follow `seeds` and `digests`.
    """

    query: dict[str, str]
    settings: tuple[str, ...]
    seeds: tuple[int, ...] = ()
    digests: tuple[str, ...] = ()
    scores: tuple[np.ndarray, ...] = ()
    missing: str = ""

    def only(self, seeds: Sequence[int]) -> "Selection":
        """The same for some of the seeds, in the order given."""
        rows = [self.seeds.index(seed) for seed in seeds]
        digests = tuple(self.digests[row] for row in rows)
        return replace(self, seeds=tuple(seeds), digests=digests, scores=tuple(s[rows] for s in self.scores))


def select(
    records: Sequence[Mapping],
    query: Mapping[str, str],
    settings: Sequence[str],
    defaults: Mapping | None = None,
    nested: bool = False,
) -> Selection:
    """The runs that a query means: those with its labels, and with the default wherever it names none.

    `records` hold `digest`, `labels` (flat, with the seed) and `scores` (setting -> array (N,)), and may hold
    the `clusters` of examples by setting, or of all languages by what follows the language ("", "@sick");
    `defaults` are the options that mean the same as no option; `nested`: each seed has examples of its own.
    Where runs, settings or examples are missing, `missing` says which. StudyError where two runs have the
    same labels and seed: the query is ambiguous.
    """
    wanted, runs = canonical(query, defaults or {}), {}
    for record in records:
        if canonical(record["labels"], defaults or {}) != wanted:
            continue
        seed = record["labels"].get("seed")
        if seed is None or seed in runs:
            found = "has no seed" if seed is None else f"and {runs[seed]['digest']} both have seed {seed}"
            told = f"{label(query)} on {query['task']}"
            raise StudyError(f"{told}: run {record['digest']} {found}: every run needs labels of its own")
        runs[seed] = record
    chosen = Selection(dict(wanted), tuple(settings), tuple(sorted(runs)))
    missing = _missing(chosen, runs, query)
    if missing:
        return replace(chosen, seeds=(), missing=missing)
    arrays = (_stacked([runs[seed] for seed in chosen.seeds], s, nested) for s in settings)
    return replace(chosen, digests=tuple(runs[s]["digest"] for s in chosen.seeds), scores=tuple(arrays))


def _stacked(runs: Sequence[Mapping], setting: str, nested: bool = False) -> np.ndarray:
    """Scores (R, N) of the runs in a setting, with the clusters of its examples where these are known."""
    scores = np.stack([np.asarray(run["scores"][setting]) for run in runs])
    if nested:
        return Nested.of(scores)
    clusters = runs[0].get("clusters", {})
    plain = setting.partition("#")[0].partition("|")[0].partition("@typo")[0]
    language = plain.partition("@")[0]
    known = clusters.get(plain) or clusters.get(plain.removeprefix(language))
    return Clustered.of(scores, known) if known else scores


def _missing(chosen: Selection, runs: Mapping[int, Mapping], query: Mapping) -> str:
    """Why the runs cannot give arrays over the settings; empty where they can."""
    name = f"{label(query)} on {query['task']}"
    if not runs:
        return f"no run of {name}"
    if not chosen.settings:
        return f"{name}: no setting to compare"
    for seed in chosen.seeds:
        scores = runs[seed]["scores"]
        absent = [s for s in chosen.settings if s not in scores]
        if absent:
            return f"{name}, seed {seed}: no scores for {', '.join(absent[:3])}{' ...' if absent[3:] else ''}"
        first = runs[chosen.seeds[0]]["scores"]
        uneven = [s for s in chosen.settings if len(scores[s]) != len(first[s])]
        if uneven:
            return f"{name}, seed {seed}: other examples of {uneven[0]} than in seed {chosen.seeds[0]}"
    return ""


def canonical(labels: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, str]:
    """Labels without the seed and without whatever is a default, options in one order."""
    kept = {}
    for name, value in labels.items():
        if name.endswith("_options"):
            value = ",".join(
                sorted(o for o in str(value or "").split(",") if o and not _is_default(o, defaults))
            )
        if name != "seed" and value not in ("", None) and value != DEFAULTS.get(name):
            kept[name] = value
    return kept


def _is_default(option: str, defaults: Mapping[str, Any]) -> bool:
    """Whether an option such as `lambda=1` says what leaving it out means; 1 and 1.0 are the same."""
    name, _, value = option.partition("=")
    default = defaults.get(name)
    if isinstance(default, bool | str):
        return value == str(default).lower()
    try:
        return default is not None and float(value) == default
    except ValueError:
        return False


@dataclass(frozen=True)
class World:
    """What a ledger's words mean in one profile: its languages, and the options that are its defaults."""

    source: str
    languages: tuple[str, ...]
    defaults: dict[str, Any]
    pair_languages: tuple[str, ...] = ()  # of the generalised setting; none: all
    real: bool = False
    nested: bool = False  # each seed has a world, and so examples, of its own

    @classmethod
    def of(cls, ledger: Ledger, params: Params) -> "World":
        """The world of a profile, whose parameters fill in the defaults that the ledger leaves to it."""
        defaults = {}
        for name, value in ledger.defaults.items():
            if value == PROFILE and not hasattr(params, name):
                raise StudyError(f"the ledger: defaults: {name}: the profile has no such parameter")
            defaults[name] = getattr(params, name) if value == PROFILE else value
        real = params.data == "real"
        languages, nested = tuple(params.languages), params.world_per_seed
        return cls(params.source, languages, defaults, params.pair_languages, real, nested)

    def labels(self, query: Mapping[str, str]) -> dict[str, str]:
        """All labels of the runs that a query means, with the defaults that it leaves out."""
        kept = canonical(query, self.defaults)
        return {name: kept.get(name, DEFAULTS.get(name, "")) for name in (*LABELS, "task")}

    def tested(self, task: str, records: Sequence[Mapping]) -> "World":
        """The world with those of its real languages that some run of a task has scores for.

        Published sets differ in their languages: XNLI has no Japanese, PAWS-X no Thai.
        """
        scores = [record["scores"] for record in records if record["labels"].get("task") == task]
        names = {setting.partition("#")[0] for found in scores for setting in found}
        languages = tuple(x for x in self.languages if x in names)
        return replace(self, languages=languages) if self.real and self.source in languages else self

    def settings(self, words: str | Sequence[str], metric: str = "") -> tuple[str, ...]:
        """Setting names for `source`, `targets`, `all`, `pairs` or a list, with the metric's suffix."""
        targets = tuple(x for x in self.languages if x != self.source)
        pairs = tuple(f"{a}|{b}" for a, b in permutations(self.pair_languages or self.languages, 2))
        meaning = {"source": (self.source,), "targets": targets, "all": self.languages, "pairs": pairs}
        names = meaning[words] if isinstance(words, str) else tuple(words)
        return tuple(f"{name}#{metric}" if metric else name for name in names)
