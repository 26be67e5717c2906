"""What runs cost, told before and while they are computed, and how they are cut into slices for a cluster."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from statistics import fmean, median
from typing import Any

from xltlib.params import Params
from xltlib.runs import closure
from xltlib.store import RUNS, Spec, Store, canonical, read_json

FORWARD = 1 / 3  # cost of a forward pass beside a training step, which goes back too
THROUGHPUT = "throughput.json"  # in figures/: what tests/benchmarks/bench_gpu.py has measured

Records = Mapping[str, dict]  # digest -> kind, params and inputs of a run, planned or finished


# --- costs


class Costs:
    """Seconds that runs take: as published or finished before, or told from those like them, scaled.

    Only runs on the same kind of languages count. For a study on a GPU they are told from the throughput that
    was measured on one.
    """

    def __init__(self, store: Store, figures: Path, params: Params) -> None:
        self.store, self.figures, self.params = store, figures, params

    @cached_property
    def finished(self) -> dict[str, dict]:
        """The records of all finished runs of the store, and of those that any profile has published."""
        records = {}
        for file in sorted(self.figures.glob(f"[!.]*/{RUNS}")):
            records |= read_json(file)
        return records | {result.digest: result.record for result in self.store.results()}

    @cached_property
    def gpu(self) -> dict[str, Any]:
        """What was measured on a GPU, with its name and the date; empty where nothing was."""
        path = self.figures / THROUGHPUT
        return read_json(path) if path.is_file() else {}

    @cached_property
    def _rates(self) -> dict[tuple[str, ...], float]:
        """Seconds for a unit of work, by what `_likeness` puts together."""
        groups: dict[tuple[str, ...], list[float]] = {}
        for digest, record in self.finished.items():
            if (_inherited("data", digest, self.finished) or "synthetic") == self.params.data:
                for group in _likeness(record):
                    groups.setdefault(group, []).append(record["seconds"] / work(digest, self.finished))
        return {group: median(rates) for group, rates in groups.items()}

    def seconds(self, spec: Spec) -> float | None:
        """None where nothing like it was measured."""
        if self.params.device == "cuda":
            speed = self.gpu.get("models", {}).get(self.params.model)
            trained = spec.kind in ("encoder", "transfer", "evaluation")
            return sequences(spec.params) / speed["sequences_per_second"] if speed and trained else None
        if spec.digest in self.finished:
            return self.finished[spec.digest]["seconds"]
        records = {each.digest: each.record for each in closure([spec])}
        rate = next((self._rates[group] for group in _likeness(spec.record) if group in self._rates), None)
        return None if rate is None else rate * work(spec.digest, records)


def work(digest: str, records: Records) -> float:
    """How much a run computes, to compare runs of one kind by: sequences times the weights they pass."""
    shape = [_inherited(name, digest, records) for name in ("vocab_size", "hidden_size", "num_layers")]
    vocabulary, hidden, layers = (1, 1, 0) if None in shape else shape
    # embeddings, and four square matrices of attention with a feed-forward layer of twice the width
    return max(1.0, sequences(records[digest]["params"])) * hidden * (vocabulary + 8 * layers * hidden)


def sequences(p: Mapping[str, Any]) -> float:
    """The sequences that a run trains on, and a third of those that it only reads, by its parameters."""
    if steps := p.get("pretrain_steps") or p.get("continue_steps"):
        return steps * p["batch_size"]
    read = FORWARD * p.get("test_examples", 0)
    if "finetune_epochs" in p:
        return p["train_examples"] * p["finetune_epochs"] + read * len(p["languages"])
    return read or p.get("documents", 0) or p.get("parallel_pairs", 0)


def _inherited(name: str, digest: str, records: Records) -> Any:
    """The value of a parameter that a run has, or what it builds on."""
    record = records.get(digest, {"params": {}, "inputs": []})
    if name in record["params"]:
        return record["params"][name]
    values = (_inherited(name, other, records) for other in record["inputs"])
    return next((value for value in values if value is not None), None)


def _likeness(record: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """The runs that cost about as much: of the same method or objective, or else of the same kind."""
    params = record["params"]
    words = ("task", "method", "method_options") if "labels" in params else ("objective", "options")
    values = [canonical(params.get("labels", params).get(word, "")).decode() for word in words]
    return [(record["kind"], *values), (record["kind"],)]


class Forecast:
    """How long runs take: as planned before the first of them has ended, then at the speed measured so far.

    planned : seconds of a run; those where it says None are taken to be like the others
    after : seconds of what follows the runs
    """

    def __init__(
        self, todo: Sequence[Spec], jobs: int, planned: Callable[[Spec], float | None], after: float = 0.0
    ) -> None:
        times = {spec: planned(spec) for spec in todo}
        known = [x for x in times.values() if x is not None]
        usual = fmean(known) if known else 0.0
        self.planned = {spec: usual if x is None else x for spec, x in times.items()}
        self.jobs, self.after, self.left = jobs, after, sum(self.planned.values())
        self.spent = self.expected = 0.0

    def sentence(self) -> str:
        """How many runs there are, and how long they take."""
        if not self.left:
            return f"{len(self.planned)} runs to compute; how long they take was never measured"
        words = duration(self.left / self.jobs + self.after)
        return f"{len(self.planned)} runs to compute with {self.jobs} processes: about {words} in all"

    def after_run(self, spec: Spec, seconds: float) -> str:
        """The time that is left when a run has taken some seconds; empty where nothing is known."""
        self.left -= self.planned[spec]
        self.spent, self.expected = self.spent + seconds, self.expected + self.planned[spec]
        if not self.expected:
            return ""
        speed = self.spent / self.expected
        return f"; about {duration(speed * (self.left / self.jobs + self.after))} left"


def duration(seconds: float) -> str:
    """A time to wait, as exact as such forecasts are."""
    if seconds < 90:
        return f"{max(5, 5 * round(seconds / 5))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


# --- slices


@dataclass(frozen=True)
class Slice:
    """Runs that one job of a cluster computes, in this order, and the names of the slices that it waits for.

    The name holds a digest of the runs: other parameters make another slice, the same ones the same.
    """

    name: str
    specs: tuple[Spec, ...]
    needs: tuple[str, ...]


def slices(specs: Iterable[Spec]) -> dict[str, Slice]:
    """The runs and all that they build on, cut by objective and seed, and by task, method and seed.

    A model and its scores in other settings stay together.
    """
    groups: dict[tuple[str, ...], list[Spec]] = {}
    for spec in closure(specs):
        labels = spec.params.get("labels")
        if labels:
            words = [labels[name] for name in ("task", "method", "method_options")]
        else:
            words = [spec.kind, spec.params.get("objective", ""), spec.params.get("target", "")]
        seed = (labels or spec.params).get("seed")
        words += [] if seed is None else [f"seed{seed}"]
        groups.setdefault(tuple(filter(None, words)), []).append(spec)
    names = {}
    for words, members in groups.items():
        digest = sha256(" ".join(sorted(spec.digest for spec in members)).encode()).hexdigest()[:8]
        names |= dict.fromkeys(members, re.sub(r"[^A-Za-z0-9_.=]+", "-", "-".join([*words, digest])))
    cut = {}
    for members in groups.values():
        own = names[members[0]]
        needs = dict.fromkeys(names[other] for spec in members for other in spec.inputs)
        cut[own] = Slice(own, tuple(members), tuple(name for name in needs if name != own))
    return cut
