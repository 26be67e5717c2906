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
    kind, digest             kind of run, and digest of the run that trained the model
    weights                  the digests of the weights that the model was trained from, by their run

In files a setting is a short text, as `near|far`, `de@mlqa#f1` or `near@typo0.2`. `read_setting` takes it
apart where it enters the table, and nothing else does.
"""

import re
from collections import Counter
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

QUERY = ("objective", "objective_options", "method", "method_options", "task")  # labels of runs but the seed
LABELS = (*QUERY, "seed")
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


SETTING = Setting._fields
COLUMNS = (*LABELS, *SETTING, "examples", "mean", "clusters", "floor", "kind", "digest", "weights")


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


def ten_digits(value: Any) -> Any:
    """A number in ten digits, as more differ between machines; lists and mappings with such numbers."""
    if isinstance(value, Mapping):
        return {name: ten_digits(x) for name, x in value.items()}
    if isinstance(value, list | tuple):
        return [ten_digits(x) for x in value]
    return float(f"{value:.10g}") if isinstance(value, float) else value


# The table


def table(results: Iterable[Result], repeats: bool = False) -> pd.DataFrame:
    """The scores of those runs that have any to compare; further trainings of a seed only with `repeats`.

    The rows of an evaluation carry the digest of the fine-tuned model that it scored. Clusters and floors of
    a task come with the run of its baselines, where the results hold one: clusters by language and test set
    (`de@mlqa`), or of all languages of a test set (``, `@mlqa`).
    """
    results = list(results)
    clusters = {task: own for r in results for task, own in r.values.get("clusters", {}).items()}
    floors = baselines(results).groupby(["task", *SETTING])["score"].max().to_dict()
    compared = [r for r in results if r.kind in KINDS and KINDS[r.kind].compared]
    compared = [r for r in compared if repeats or "repeats" not in r.labels]
    weights = {r.digest: r.record.get("weights", {}) for r in compared}
    rows = []
    for r in compared:
        labels = [r.labels.get(name, DEFAULTS.get(name, "")) for name in LABELS]
        task, digest = r.labels["task"], r.record["inputs"][0] if r.kind == "evaluation" else r.digest
        groups = clusters.get(task, {})
        for name, examples in r.scores.items():
            setting = read_setting(name, task)
            shared = f"@{setting.test_set}" if setting.test_set else ""
            own = groups.get(setting.language + shared) or groups.get(shared)
            measured = (examples, float(np.mean(examples)), own, floors.get((task, *setting), np.nan))
            rows.append((*labels, *setting, *measured, r.kind, digest, weights.get(digest, {})))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def baselines(results: Iterable[Result]) -> pd.DataFrame:
    """What costs no encoder: a row for each baseline and setting, with its name and score."""
    rows = [
        (task, *read_setting(setting, task), name, score)
        for r in results
        for task, by_name in r.values.get("baselines", {}).items()
        for name, by_setting in by_name.items()
        for setting, score in by_setting.items()
    ]
    return pd.DataFrame(rows, columns=["task", *SETTING, "baseline", "score"])


def clean(scores: pd.DataFrame) -> pd.DataFrame:
    """The rows of plain settings: one language, the first test set, no noise, judged as the task is."""
    plain = (scores[["second_language", "test_set", "noise"]] == "").all(axis=1)
    return scores[plain & (scores["metric"] == scores["task"].map(judged_by))]


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
        arrays = [_clustered(np.stack(grid[setting]), clusters[setting]) for setting in grid]
        effect = difference(arrays, [np.zeros_like(a) for a in arrays], alpha=alpha)
        bounds = {"low": max(effect.low, 0.0), "high": min(effect.high, 1.0)}  # what a score can be
        told = dict(zip(by, names, strict=True)) | {"mean": effect.estimate, **bounds}
        rows.append(told | {"seeds": list(effect.per_seed)})
    return pd.DataFrame(rows, columns=[*by, "mean", "low", "high", "seeds"])


def _clustered(scores: np.ndarray, clusters: Sequence[int] | None) -> np.ndarray:
    return Clustered.of(scores, clusters) if clusters else scores


# Queries


def rows_of(
    scores: pd.DataFrame, query: Mapping[str, str], defaults: Mapping[str, Any] | None = None
) -> pd.DataFrame:
    """The rows of the runs that a query means: those with its labels, and the default where it has none.

    `defaults` are the options that mean the same as no option: with {"lambda": 1}, `lambda=1` is left out.
    """
    asked, kept = canonical(query, defaults or {}), np.arange(len(scores))
    for name in ("task", "objective", "method", "objective_options", "method_options"):
        own = scores[name].to_numpy()[kept]
        if name.endswith("_options"):
            plain = {text: plain_options(text, defaults or {}) for text in set(own)}
            own = np.array([plain[text] for text in own], dtype=object)
        kept = kept[own == asked[name]]
    return scores.iloc[kept]


def canonical(query: Mapping[str, str], defaults: Mapping[str, Any]) -> dict[str, str]:
    """All labels that a query means but the seed: the default where it has none, options in one order."""
    labels = {name: query.get(name) or DEFAULTS.get(name, "") for name in QUERY}
    options = ("objective_options", "method_options")
    return labels | {name: plain_options(labels[name], defaults) for name in options}


def plain_options(text: str, defaults: Mapping[str, Any]) -> str:
    """Options without the defaults among them, sorted: one text for the same options."""

    def is_default(option: str) -> bool:
        name, _, value = option.partition("=")
        default = defaults.get(name)
        if isinstance(default, bool | str):
            return value == str(default).lower()
        return default is not None and float(value) == default  # 1 and 1.0 are the same

    return ",".join(sorted(o for o in text.split(",") if o and not is_default(o)))


@dataclass(frozen=True)
class Selection:
    """The scores of all runs with the same labels but the seed: paired arrays, or why there are none.

    `scores` has K arrays (R, N_k), one for each setting asked for; rows follow `seeds` and `digests`.
    """

    name: str
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
    scores: pd.DataFrame, query: Mapping[str, str], settings: Iterable[Setting],
    defaults: Mapping[str, Any] | None = None, nested: bool = False, under_way: bool = False,
) -> Selection:  # fmt: skip
    """The runs that a query means as arrays (R, N) for each setting, seeds and examples in one order.

    `nested`: each seed has examples of its own. Where runs, settings or examples are missing, `missing` says
    which; but while a study is `under_way`, seeds of which some settings are there yet are not there.
    StudyError where two runs have the same labels and seed: the query is ambiguous.
    """
    rows, name = rows_of(scores, query, defaults), f"{label(query)} on {query['task']}"
    digests: dict[int, str] = {}
    for seed, digest in zip(rows["seed"], rows["digest"], strict=True):
        if digests.setdefault(seed, digest) != digest:
            both = f"{digest} and {digests[seed]} both have seed {seed}"
            raise StudyError(f"{name}: runs {both}: every run needs labels of its own")
    columns = (rows[c] for c in ("seed", "examples", "clusters", *SETTING))
    cells = {(Setting(*where), seed): (x, groups) for seed, x, groups, *where in zip(*columns, strict=True)}
    asked = [s._replace(metric=s.metric or judged_by(query["task"])) for s in settings]
    seeds = sorted(digests)
    if under_way:
        seeds = [seed for seed in seeds if all((s, seed) in cells for s in asked)]
    if not seeds:
        return Selection(name, missing=f"no run of {name}")
    if not asked:
        return Selection(name, missing=f"{name}: no setting to compare")
    for seed in seeds:
        if absent := [str(s) for s in asked if (s, seed) not in cells]:
            told = ", ".join(absent[:3]) + (" ..." if len(absent) > 3 else "")
            return Selection(name, missing=f"{name}, seed {seed}: no scores for {told}")
        for s in asked:
            if len(cells[s, seed][0]) != len(cells[s, seeds[0]][0]):
                other = f"{name}, seed {seed}: other examples of {s} than in seed {seeds[0]}"
                return Selection(name, missing=other)
    arrays = []
    for s in asked:
        array, clusters = np.stack([cells[s, seed][0] for seed in seeds]), cells[s, seeds[0]][1]
        arrays.append(Nested.of(array) if nested else _clustered(array, clusters))
    return Selection(name, tuple(seeds), tuple(digests[seed] for seed in seeds), tuple(arrays))


def system(
    scores: pd.DataFrame, task: str, objective: str, languages: Iterable[str], method: str = "standard"
) -> Selection:
    """An objective fine-tuned by a method with its options, as `rs_da:updates=equal`, in some languages."""
    method, _, options = method.partition(":")
    query = {"task": task, "objective": objective, "method": method, "method_options": options}
    return paired(scores, query, [Setting(name) for name in languages])


# Tests of the ledger


@dataclass(frozen=True)
class World:
    """What a ledger's words mean in one profile: its languages, default options and rules."""

    params: Params
    design: Design
    defaults: dict[str, Any]
    languages: tuple[str, ...]

    @classmethod
    def of(cls, ledger: Ledger, params: Params) -> "World":
        """The world of a profile, whose parameters fill in the defaults that the ledger leaves to it."""
        defaults = {k: getattr(params, k) if v == PROFILE else v for k, v in ledger.defaults.items()}
        return cls(params, ledger.design, defaults, params.languages)

    @property
    def simple(self) -> bool:
        """Whether all systems can learn every task in the source, so that the design says when they have."""
        return self.params.scale == self.design.learnt["scale"]

    def skips(self, test: Test) -> bool:
        """Whether the profile explores, and the test is younger than the exploration."""
        return bool(test.since) and self.params.profile in self.design.exploration["profiles"]

    def scaled(self, test: Test) -> Test:
        """The test with what matters at this scale: for real languages, that of the design.

        Not where the first gain should exceed a share of the second: the share says what matters.
        """
        matters = test.matters
        if not self.simple and not test.margin and test.share == 1:
            span = float(np.ptp(list(test.points.values()))) if test.points else 1.0
            matters = (abs(test.published) / 2 if test.published else self.design.matters_real) / span
        return replace(test, matters=max(matters, test.margin))

    def tested(self, task: str, scores: pd.DataFrame) -> "World":
        """The world with those of its real languages that some run of a task has scores for.

        Published sets differ in their languages: XNLI has no Japanese, PAWS-X no Thai.
        """
        if self.params.data != "real":
            return self
        names = set(clean(scores[scores["task"] == task])["language"])
        languages = tuple(x for x in self.languages if x in names)
        return replace(self, languages=languages) if self.params.source in languages else self

    def settings(self, words: str | tuple[str, ...], metric: str = "") -> tuple[Setting, ...]:
        """The settings that `source`, `targets`, `all`, `pairs` or a list of languages mean."""
        if words == "pairs":
            pairs = permutations(self.params.pair_languages or self.languages, 2)
            return tuple(Setting(*pair, metric=metric) for pair in pairs)
        source = self.params.source
        targets = [x for x in self.languages if x != source]
        named = {"source": [source], "targets": targets, "all": self.languages}
        return tuple(Setting(x, metric=metric) for x in named.get(words, words))

    def queries(self, test: Test) -> list[tuple[dict[str, str], tuple[Setting, ...]]]:
        """The systems that a test compares, each with its settings."""
        words = (test.settings, test.settings2 or test.settings)
        first, others = (self.settings(where, test.metric) for where in words)
        return [(query, first if k < 2 else others) for k, query in enumerate(test.queries)]


@dataclass(frozen=True)
class Comparison:
    """The scores of a test over the seeds that all its runs have; or why there are none.

    `test` has what matters at the scale of the runs. `scores` are the arguments of the test, each K arrays
    (R, N_k), rows in the order of `seeds`; `digests` are by system those of its runs, in this order.
    `sources` are the scores (R, N) of each system in the source language, `failed` the seeds in which it has
    not learnt its task there, `mixed` those in which systems were trained from different weights of one
    encoder. `floor` is the best score that costs no encoder, where one is known for all settings.
    """

    test: Test
    seeds: tuple[int, ...] = ()
    scores: tuple[list[np.ndarray], ...] = ()
    settings: tuple[str, ...] = ()
    digests: tuple[tuple[str, ...], ...] = ()
    sources: dict[str, np.ndarray] = field(default_factory=dict)
    failed: dict[str, tuple[int, ...]] = field(default_factory=dict)
    mixed: tuple[int, ...] = ()
    floor: float | None = None
    reason: str = ""
    missing: tuple[dict, ...] = ()

    def learnt(self, seeds: Sequence[int]) -> list[int]:
        """Those of the seeds in which all systems have learnt their task."""
        failed = {seed for own in self.failed.values() for seed in own}
        return [seed for seed in seeds if seed not in failed]

    def rows(self, scores: Iterable[Sequence[np.ndarray]], seeds: Sequence[int]) -> list[list[np.ndarray]]:
        """The same arrays for some of the seeds, in the order given."""
        rows = [self.seeds.index(seed) for seed in seeds]
        return [[array[rows] for array in arrays] for arrays in scores]

    def effects(self, seeds: Sequence[int], least: float, without: str = "") -> tuple[Effect, Effect | None]:
        """The effect over some of the seeds, and that over those of them in which all systems have learnt.

        The latter where these are fewer, and `least` of them or more.
        """
        learnt = self.learnt(seeds)
        trained = self.effect(learnt, without) if least <= len(learnt) < len(seeds) else None
        return self.effect(seeds, without), trained

    def effect(self, seeds: Sequence[int], without: str = "") -> Effect:
        """The effect over some of the seeds; `without` one setting."""
        test, scores = self.test, self.rows(self.scores, seeds)
        if without:
            k = self.settings.index(without)
            scores = [arrays[:k] + arrays[k + 1 :] for arrays in scores]
        if test.type == "trend":
            numbers = [x if test.direction == "up" else -x for x in test.points.values()]
            return trend(scores, numbers)
        return interaction(*scores, share=test.share) if test.type == "interaction" else difference(*scores)


def compare(test: Test, scores: pd.DataFrame, world: World) -> Comparison:
    """The scores of one test from the runs that it names, over the seeds that all of them have."""
    test, world = world.scaled(test), world.tested(test.task, scores)

    def runs_of(query: Mapping[str, str], settings: Iterable[Setting]) -> Selection:
        under_way = world.design.confirms(world.params.profile)
        return paired(scores, query, settings, world.defaults, world.params.world_per_seed, under_way)

    asked = world.queries(test)
    selected = [runs_of(query, settings) for query, settings in asked]
    if reasons := dict.fromkeys(s.missing for s in selected if s.missing):
        missing = tuple(q for (q, _), s in zip(asked, selected, strict=True) if s.missing)
        return Comparison(test, reason="; ".join(reasons), missing=missing)
    if world.skips(test):
        return Comparison(test, reason="it came with the confirmation, and this profile explores")
    seeds = sorted(set.intersection(*(set(s.seeds) for s in selected)))
    if not seeds:
        have = "; ".join(f"{s.name} has {s.seeds}" for s in selected)
        return Comparison(test, reason=f"no seed in common: {have}")
    selected = [s.only(seeds) for s in selected]
    systems = [list(s.scores) for s in selected]
    if test.level is not None:
        systems.append([np.full_like(array, test.level, dtype=float) for array in systems[0]])
    digests, names = tuple(s.digests for s in selected), tuple(map(str, asked[0][1]))
    runs = scores[scores["digest"].isin({d for own in digests for d in own})]
    comparison = Comparison(test, tuple(seeds), tuple(systems), names, digests, mixed=_mixed(runs))
    if test.task not in TRAINED:
        return comparison
    sources, failed = {}, {}
    for query, _ in asked:
        own = runs_of(query, world.settings("source", test.metric))
        if set(seeds) <= set(own.seeds):
            sources[label(query)] = own.only(seeds).scores[0]
    if world.simple:
        needed = world.design.learnt["source_score"].get(test.task, 0.0)
        for name, own in sources.items():
            failed[name] = tuple(s for s, mean in zip(seeds, own.mean(1), strict=True) if mean < needed)
    known = {str(Setting(*where)): floor for *where, floor in runs[[*SETTING, "floor"]].to_numpy()}
    floor = float(np.mean([known[name] for name in names]))
    return replace(comparison, sources=sources, failed=failed, floor=None if np.isnan(floor) else floor)


def _mixed(runs: pd.DataFrame) -> tuple[int, ...]:
    """The seeds whose runs were trained from different weights under one digest, on two processors."""
    both = zip(runs["seed"], runs["weights"], strict=True)
    known = {(seed, run, digest) for seed, own in both for run, digest in own.items()}
    counts = Counter((seed, run) for seed, run, _ in known)
    return tuple(sorted({seed for (seed, _), count in counts.items() if count > 1}))
