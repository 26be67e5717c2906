"""One tidy table of scores: a row for each run and setting, from which figures, questions and verdicts read.

Columns of the table
    objective, objective_options, method, method_options, task, seed   the labels of the run
    test_set                 a further test set of the task ("mlqa"); "" for the first one
    language                 of the test examples, or of the first sentence of a mixed pair
    second_language          of the second sentence of a mixed pair; "" where both have one language
    noise, rate              kind of noise in the test examples ("typo") and share of words hit; "" and 0
    metric                   what `examples` holds: accuracy, exact_match, f1, tags, deprel, precision
    examples, mean           the scores (N,) of the examples, from 0 to 1, higher is better, and their mean
    clusters                 numbers (N,) of what examples share (a passage); None where they stand alone
    floor                    the best score in this setting that costs no encoder; NaN where none is known
    kind, digest, source     kind of run, digest of the run that trained the model, and where it was read
    weights                  the digests of the weights that the model was trained from, by their run

In files a setting is a short text, as `near|far`, `de@mlqa#f1` or `near@typo0.2`. `read_setting` takes it
apart where it enters the table, and nothing else does.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import permutations
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from xltlib import StudyError
from xltlib.claims.ledger import Design, Ledger, Test, label
from xltlib.params import Params
from xltlib.runs import KINDS
from xltlib.significance.tests import Clustered, Effect, Nested, difference, interaction, trend
from xltlib.store import Result

LABELS = ("objective", "objective_options", "method", "method_options", "task", "seed")
SETTING = ("language", "second_language", "test_set", "noise", "rate", "metric")
COLUMNS = (*LABELS, *SETTING, "examples", "mean", "clusters", "floor", "kind", "digest", "source", "weights")
DEFAULTS = {"objective": "none", "method": "standard"}  # the meaning of a label that a query leaves out
FIRST_METRIC = {"qa": "exact_match", "tagging": "tags", "lexicon": "precision"}  # accuracy elsewhere
JUDGED_BY = {"qa": "f1"}  # the metric of verdicts and figures, where it is not the first one
TRAINED = ("nli", "paraphrase", "qa")  # tasks that are fine-tuned, with a score in the source language
PROFILE = "profile"  # in the ledger, the default of an option that the profile has a parameter for
_SETTING = re.compile(r"([^|@#]+)(?:\|([^@#]+))?(?:@typo([\d.]+)|@([^#]+))?(?:#(\w+))?")


class Setting(NamedTuple):
    """What a trained model is tested on. `metric` "" is the one that the task is judged by."""

    language: str
    second_language: str = ""
    test_set: str = ""
    noise: str = ""
    rate: float = 0.0
    metric: str = ""

    def __str__(self) -> str:
        second = f"|{self.second_language}" if self.second_language else ""
        noise = f"@{self.noise}{self.rate:g}" if self.noise else ""
        test_set = f"@{self.test_set}" if self.test_set else ""
        metric = f"#{self.metric}" if self.metric in ("f1", "deprel") else ""
        return f"{self.language}{second}{test_set}{noise}{metric}"


def read_setting(name: str, task: str) -> Setting:
    """The setting that a name in a file of scores stands for; StudyError where it stands for none."""
    parts = _SETTING.fullmatch(name)
    if parts is None:
        raise StudyError(f"scores of {task}: {name!r} names no setting: expected language|second@set#metric")
    language, second, rate, test_set, metric = parts.groups("")
    noise = ("typo", float(rate)) if rate else ("", 0.0)
    return Setting(language, second, test_set, *noise, metric or FIRST_METRIC.get(task, "accuracy"))


def judged_by(task: str) -> str:
    """The metric by which a task is judged."""
    return JUDGED_BY.get(task) or FIRST_METRIC.get(task, "accuracy")


def ten_digits(x: float) -> float:
    """The number in ten digits: more differ between machines."""
    return float(f"{x:.10g}")


# The table


def table(results: Iterable[Result], source: str = "") -> pd.DataFrame:
    """The scores of those runs that have any to compare; `source` is the origin of each result where empty.

    The rows of an evaluation carry the digest of the fine-tuned model that it scored. Clusters and floors of
    a task come with the run of its baselines, where the results hold one. StudyError for a run without seed.
    """
    results = list(results)
    clusters = {task: own for r in results for task, own in r.values.get("clusters", {}).items()}
    floors = baselines(results).groupby(["task", *SETTING])["score"].max().to_dict()
    compared = [r for r in results if r.kind in KINDS and KINDS[r.kind].compared]
    weights = {r.digest: r.record.get("weights", {}) for r in compared}
    rows = []
    for r in compared:
        digest = r.record["inputs"][0] if r.kind == "evaluation" else r.digest
        beside = {"kind": r.kind, "source": source or r.origin, "weights": weights.get(digest, {})}
        own = run_rows(r.labels, r.scores, digest, clusters.get(r.labels["task"]))
        rows += [row | beside for row in own]
    for row in rows:
        row["floor"] = floors.get((row["task"], *(row[name] for name in SETTING)), np.nan)
    return pd.DataFrame(rows, columns=list(COLUMNS))


def run_rows(
    labels: Mapping[str, Any],
    scores: Mapping[str, np.ndarray],
    digest: str,
    clusters: Mapping[str, Sequence[int]] | None = None,
) -> list[dict[str, Any]]:
    """The rows of one run, from its scores by the names of their settings.

    `clusters` by language and test set (`de@mlqa`), or of all languages of a test set (``, `@mlqa`).
    """
    if not isinstance(labels.get("seed"), int):
        raise StudyError(f"run {digest} has no seed: every run with scores needs one among its labels")
    own = {name: labels.get(name, DEFAULTS.get(name, "")) for name in LABELS}
    rows, clusters = [], clusters or {}
    for name, examples in scores.items():
        setting = read_setting(name, own["task"])
        shared = f"@{setting.test_set}" if setting.test_set else ""
        groups = clusters.get(setting.language + shared) or clusters.get(shared)
        measured = {"examples": examples, "mean": float(np.mean(examples)), "clusters": groups}
        rows.append(own | setting._asdict() | measured | {"digest": digest})
    return rows


def baselines(results: Iterable[Result]) -> pd.DataFrame:
    """What costs no encoder: a row for each baseline and setting, with its name and score."""
    rows = []
    for r in results:
        for task, by_name in r.values.get("baselines", {}).items():
            for name, by_setting in by_name.items():
                for setting, score in by_setting.items():
                    where = read_setting(setting, task)._asdict()
                    rows.append({"task": task, **where, "baseline": name, "score": score})
    return pd.DataFrame(rows, columns=["task", *SETTING, "baseline", "score"])


def clean(scores: pd.DataFrame) -> pd.DataFrame:
    """The rows of plain settings: one language, the first test set, no noise, judged as the task is."""
    plain = (scores["second_language"] == "") & (scores["test_set"] == "") & (scores["noise"] == "")
    return scores[plain & (scores["metric"] == scores["task"].map(judged_by))]


# Queries


def rows_of(
    scores: pd.DataFrame, query: Mapping[str, str], defaults: Mapping[str, Any] | None = None
) -> pd.DataFrame:
    """The rows of the runs that a query means: those with its labels, and the default where it has none.

    `defaults` are the options that mean the same as no option: with {"lambda": 1}, `lambda=1` is left out.
    """
    asked = canonical(query, defaults or {})
    if unknown := asked.keys() - set(LABELS):
        raise StudyError(f"no run has the label {min(unknown)!r}: there are {', '.join(LABELS)}")
    kept = np.arange(len(scores))
    for name in ("task", "objective", "method", "objective_options", "method_options"):
        own = scores[name].to_numpy()[kept]
        if name.endswith("_options"):
            plain = {text: plain_options(text, defaults or {}) for text in set(own)}
            own = np.array([plain[text] for text in own], dtype=object)
        kept = kept[own == asked.get(name, DEFAULTS.get(name, ""))]
    return scores.iloc[kept]


def canonical(labels: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, str]:
    """Labels without the seed and without whatever is a default, their options in one order."""
    plain = {}
    for name, value in labels.items():
        if name.endswith("_options"):
            value = plain_options(value, defaults)
        if name != "seed" and value not in ("", None) and value != DEFAULTS.get(name):
            plain[name] = value
    return plain


def plain_options(text: str | None, defaults: Mapping[str, Any]) -> str:
    """Options without the defaults among them, sorted: one text for the same options."""
    return ",".join(sorted(o for o in (text or "").split(",") if o and not _is_default(o, defaults)))


def _is_default(option: str, defaults: Mapping[str, Any]) -> bool:
    name, _, value = option.partition("=")
    default = defaults.get(name)
    if isinstance(default, bool | str):
        return value == str(default).lower()
    try:
        return default is not None and float(value) == default  # 1 and 1.0 are the same
    except ValueError:
        return False


@dataclass(frozen=True)
class Selection:
    """The scores of all runs with the same labels but the seed: paired arrays, or why there are none.

    `scores` has K arrays (R, N_k), one for each of `settings`; rows follow `seeds` and `digests`.
    """

    query: dict[str, str]
    settings: tuple[Setting, ...]
    seeds: tuple[int, ...] = ()
    digests: tuple[str, ...] = ()
    scores: tuple[np.ndarray, ...] = ()
    missing: str = ""

    def only(self, seeds: Sequence[int]) -> "Selection":
        """The same for some of the seeds, in the order given."""
        rows = [self.seeds.index(seed) for seed in seeds]
        digests = tuple(self.digests[row] for row in rows)
        return replace(self, seeds=tuple(seeds), digests=digests, scores=tuple(s[rows] for s in self.scores))


def paired(
    scores: pd.DataFrame,
    query: Mapping[str, str],
    settings: Sequence[Setting],
    defaults: Mapping[str, Any] | None = None,
    nested: bool = False,
) -> Selection:
    """The runs that a query means as arrays (R, N) for each setting, seeds and examples in one order.

    `nested`: each seed has examples of its own. Where runs, settings or examples are missing, `missing` says
    which. StudyError where two runs have the same labels and seed: the query is ambiguous.
    """
    rows, name = rows_of(scores, query, defaults), f"{label(query)} on {query['task']}"
    digests = dict(zip(rows["seed"], rows["digest"], strict=True))
    for seed, digest in zip(rows["seed"], rows["digest"], strict=True):
        if digests[seed] != digest:
            both = f"{digest} and {digests[seed]} both have seed {seed}"
            raise StudyError(f"{name}: runs {both}: every run needs labels of its own")
    cells = {(Setting(*where), seed): (examples, clusters) for *where, seed, examples, clusters in
             zip(*(rows[c] for c in (*SETTING, "seed", "examples", "clusters")), strict=True)}  # fmt: skip
    seeds, settings, plain = tuple(sorted(digests)), tuple(settings), canonical(query, defaults or {})
    asked = [s._replace(metric=s.metric or judged_by(query["task"])) for s in settings]
    missing = f"no run of {name}" if not seeds else _missing(name, seeds, asked, cells)
    if missing:
        return Selection(plain, settings, missing=missing)
    arrays = []
    for setting in asked:
        stacked = np.stack([cells[setting, seed][0] for seed in seeds])
        clusters = cells[setting, seeds[0]][1]
        if nested:
            arrays.append(Nested.of(stacked))
        else:
            arrays.append(Clustered.of(stacked, clusters) if clusters else stacked)
    return Selection(plain, settings, seeds, tuple(digests[seed] for seed in seeds), tuple(arrays))


def system(
    scores: pd.DataFrame, task: str, objective: str, languages: Iterable[str], method: str = "standard"
) -> Selection:
    """An objective fine-tuned by a method with its options, as `rs_da:updates=equal`, in some languages."""
    method, _, options = method.partition(":")
    query = {"task": task, "objective": objective, "method": method, "method_options": options}
    return paired(scores, query, [Setting(name) for name in languages])


def _missing(name: str, seeds: Sequence[int], settings: Sequence[Setting], cells: Mapping) -> str:
    """Why there are no arrays over the settings: a seed that lacks one, or has other examples of it."""
    if not settings:
        return f"{name}: no setting to compare"
    for seed in seeds:
        if absent := [str(s) for s in settings if (s, seed) not in cells]:
            more = " ..." if len(absent) > 3 else ""
            return f"{name}, seed {seed}: no scores for {', '.join(absent[:3])}{more}"
        for s in settings:
            if len(cells[s, seed][0]) != len(cells[s, seeds[0]][0]):
                return f"{name}, seed {seed}: other examples of {s} than in seed {seeds[0]}"
    return ""


# Tests of the ledger


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
        return {name: kept.get(name, DEFAULTS.get(name, "")) for name in LABELS if name != "seed"}

    def tested(self, task: str, scores: pd.DataFrame) -> "World":
        """The world with those of its real languages that some run of a task has scores for.

        Published sets differ in their languages: XNLI has no Japanese, PAWS-X no Thai.
        """
        if not self.real:
            return self
        plain = (scores[["second_language", "test_set", "noise"]] == "").all(axis=1)
        names = set(scores[plain & (scores["task"] == task)]["language"])
        languages = tuple(x for x in self.languages if x in names)
        return replace(self, languages=languages) if self.source in languages else self

    def settings(self, words: str | Sequence[str], metric: str = "") -> tuple[str, ...]:
        """Setting names for `source`, `targets`, `all`, `pairs` or a list, with the metric's suffix."""
        targets = tuple(x for x in self.languages if x != self.source)
        pairs = tuple(f"{a}|{b}" for a, b in permutations(self.pair_languages or self.languages, 2))
        meaning = {"source": (self.source,), "targets": targets, "all": self.languages, "pairs": pairs}
        names = meaning[words] if isinstance(words, str) else tuple(words)
        return tuple(f"{name}#{metric}" if metric else name for name in names)


@dataclass(frozen=True)
class Comparison:
    """The scores of a test over the seeds that all its runs have; or why there are none.

    `scores` are the arguments of the test, each K arrays (R, N_k), rows in the order of `seeds`. `sources`
    are the scores (R, N) of each system in the source language, `failed` the seeds in which it has not learnt
    its task there, `mixed` those in which systems were trained from different weights of one encoder. `floor`
    is the best score that costs no encoder, where one is known for all settings.
    """

    test: Test
    seeds: tuple[int, ...] = ()
    scores: tuple[list[np.ndarray], ...] = ()
    settings: tuple[str, ...] = ()
    digests: tuple[str, ...] = ()
    sources: dict[str, np.ndarray] = field(default_factory=dict)
    failed: dict[str, tuple[int, ...]] = field(default_factory=dict)
    mixed: tuple[int, ...] = ()
    floor: float | None = None
    reason: str = ""
    missing: tuple[dict, ...] = ()

    @property
    def even(self) -> bool:
        """Whether all arguments have the same settings, more than one, so that one can be left out."""
        counts = {len(arrays) for arrays in self.scores}
        return counts == {len(self.settings)} and len(self.settings) > 1

    def learnt(self, seeds: Sequence[int]) -> list[int]:
        """Those of the seeds in which all systems have learnt their task."""
        failed = {seed for own in self.failed.values() for seed in own}
        return [seed for seed in seeds if seed not in failed]

    def systems(self, seeds: Sequence[int]) -> list[list[np.ndarray]]:
        """The scores of each system in the settings of the test."""
        count = 2 if self.test.settings2 else len(queries(self.test))
        return self.rows(self.scores[:count], seeds)

    def source_scores(self, seeds: Sequence[int]) -> list[list[np.ndarray]]:
        """The scores of each system in the source language."""
        return self.rows([[scores] for scores in self.sources.values()], seeds)

    def effect(self, seeds: Sequence[int], alpha: float, without: str = "") -> Effect:
        """The effect over some of the seeds, tested against the margin; `without` one setting."""
        test, scores = self.test, self.rows(self.scores, seeds)
        if without:
            k = self.settings.index(without)
            scores = [arrays[:k] + arrays[k + 1 :] for arrays in scores]
        if test.type == "trend":
            numbers = [x if test.direction == "up" else -x for x in test.points.values()]
            return trend(scores, numbers, margin=test.margin, alpha=alpha)
        if test.type == "interaction":
            return interaction(*scores, margin=test.margin, alpha=alpha, share=test.share)
        return difference(*scores, margin=0.0 if test.type == "equivalence" else test.margin, alpha=alpha)

    def rows(self, scores: Sequence[Sequence[np.ndarray]], seeds: Sequence[int]) -> list[list[np.ndarray]]:
        """The same arrays for some of the seeds, in the order given."""
        rows = [self.seeds.index(seed) for seed in seeds]
        return [[array[rows] for array in arrays] for arrays in scores]


def queries(test: Test) -> list[dict[str, str]]:
    """The queries of a measured test in the order in which its scores are compared."""
    if test.type == "trend":
        systems = [{**test.a, test.over: option} for option in test.points]
    else:
        second = [test.b] if test.level is None else []
        systems = [test.a, *second, *([test.a2, test.b2] if test.settings2 else [])]
    return [{**query, "task": test.task} for query in systems]


def query_settings(test: Test, world: World) -> list[tuple[str, ...]]:
    """The settings of each of `queries`."""
    words = [test.settings2 if test.settings2 and i > 1 else test.settings for i in range(len(queries(test)))]
    return [world.settings(each, test.metric) for each in words]


def compare(test: Test, scores: pd.DataFrame, world: World, design: Design, scale: str) -> Comparison:
    """The scores of one test from the runs that it names, over the seeds that all of them have."""
    world = world.tested(test.task, scores)
    named, names = queries(test), query_settings(test, world)

    def runs_of(query: Mapping[str, str], settings: Sequence[str]) -> Selection:
        where = [read_setting(name, test.task) for name in settings]
        return paired(scores, query, where, world.defaults, world.nested)

    selected = [runs_of(query, settings) for query, settings in zip(named, names, strict=True)]
    if reasons := dict.fromkeys(s.missing for s in selected if s.missing):
        missing = tuple(q for q, s in zip(named, selected, strict=True) if s.missing)
        return Comparison(test, reason="; ".join(reasons), missing=missing)
    seeds = sorted(set.intersection(*(set(s.seeds) for s in selected)))
    if not seeds:
        have = "; ".join(f"{label(s.query)} has {s.seeds}" for s in selected)
        return Comparison(test, reason=f"no seed in common: {have}")
    selected = [s.only(seeds) for s in selected]
    systems = [list(s.scores) for s in selected]
    if test.level is not None:
        systems.append([np.full_like(array, test.level, dtype=float) for array in systems[0]])
    step = 1 if test.type == "trend" else 2  # all levels of a trend are paired, of others each two
    for k in range(0, len(systems) - 1, step):
        if [x.shape for x in systems[k]] != [x.shape for x in systems[k + 1]]:
            rivals = f"the runs of {label(test.a)} and its rivals have other examples"
            return Comparison(test, reason=f"not paired: {rivals}")
    sources = {}
    if test.task in TRAINED:
        every = {label(query): runs_of(query, world.settings("source", test.metric)) for query in named}
        have = {name: s for name, s in every.items() if set(seeds) <= set(s.seeds)}
        sources = {name: s.only(seeds).scores[0] for name, s in have.items()}
    needed = design.source_score.get(test.task, 0.0)
    failed = {
        name: tuple(s for s, mean in zip(seeds, own.mean(1), strict=True) if mean < needed)
        for name, own in sources.items()
        if scale == design.learnt_scale
    }
    digests = tuple(dict.fromkeys(d for s in selected for d in s.digests))
    runs = scores[scores["digest"].isin(digests)]
    return Comparison(
        test, tuple(seeds), tuple(systems), names[0], digests, sources, failed,
        mixed=_mixed(runs), floor=_floor(runs, names[0]) if test.task in TRAINED else None,
    )  # fmt: skip


def _mixed(runs: pd.DataFrame) -> tuple[int, ...]:
    """The seeds whose runs were trained from different weights under one digest, on two processors."""
    weights: dict[int, dict[str, set[str]]] = {}
    for seed, own in zip(runs["seed"], runs["weights"], strict=True):
        for run, digest in own.items():
            weights.setdefault(seed, {}).setdefault(run, set()).add(digest)
    return tuple(sorted(s for s, own in weights.items() if any(len(d) > 1 for d in own.values())))


def _floor(runs: pd.DataFrame, settings: Sequence[str]) -> float | None:
    """The mean over the settings of what costs no encoder; None where that is unknown for one of them."""
    columns = (runs[name] for name in (*SETTING, "floor"))
    known = {str(Setting(*where)): floor for *where, floor in zip(*columns, strict=True)}
    floor = float(np.mean([known[name] for name in settings]))
    return None if np.isnan(floor) else floor


# Means


def means(scores: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """The mean score of each group, by any columns: of the runs and settings in it, each counting once."""
    return scores.groupby(list(by), sort=False, dropna=False)["mean"].mean().reset_index()


def intervals(scores: pd.DataFrame, by: Sequence[str], alpha: float) -> pd.DataFrame:
    """The mean of each group with its interval over seeds and examples, and the means of the seeds in order.

    A group holds one row for each seed and setting; seeds that lack a setting of their group are left out.
    """
    rows = []
    for names, own in scores.groupby(list(by), sort=False):
        grid = own.pivot(index="seed", columns=list(SETTING), values="examples").dropna()
        clusters = own.drop_duplicates(list(SETTING)).set_index(list(SETTING))["clusters"]
        if grid.empty:
            continue
        arrays = [np.stack(grid[setting]) for setting in grid]
        arrays = [Clustered.of(a, c) if (c := clusters[s]) else a for a, s in zip(arrays, grid, strict=True)]
        effect = difference(arrays, [np.zeros_like(a) for a in arrays], alpha=alpha)
        bounds = {"low": max(effect.low, 0.0), "high": min(effect.high, 1.0)}  # what a score can be
        told = dict(zip(by, names, strict=True)) | {"mean": effect.estimate, **bounds}
        rows.append(told | {"seeds": list(effect.per_seed)})
    return pd.DataFrame(rows, columns=[*by, "mean", "low", "high", "seeds"])
