"""What runs cost, told before and while they are computed."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from statistics import fmean, median
from typing import Any

from xltlib.params import Params
from xltlib.runs import closure
from xltlib.store import MANIFEST, RUNS, Spec, Store, read_json

FORWARD = 1 / 3  # cost of a forward pass beside a training step, which goes back too
TRUST = 60  # seconds for which the planned speed stands, so that the first run's imports do not tell
THROUGHPUT = "throughput.json"  # in figures/: what tests/benchmarks/bench_gpu.py has measured

Records = Mapping[str, dict]  # digest -> kind, params and inputs of a run, planned or finished


class Costs:
    """Seconds that runs take: as published or finished before, or told from those like them, scaled.

    Only runs on the same kind of languages count. What a GPU trains is told from the throughput that was
    measured on one.
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
        return read_json(self.figures / THROUGHPUT, {})

    @cached_property
    def notebooks(self) -> dict[str, float]:
        """The seconds that each notebook took when the profile was published; empty where it was not."""
        return read_json(self.figures / self.params.profile / MANIFEST, {}).get("notebook_seconds", {})

    @cached_property
    def _rates(self) -> dict[tuple[str, ...], float]:
        """Seconds for a unit of work, by what `_likeness` puts together."""
        rates: dict[tuple[str, ...], list[float]] = {}
        for digest, record in self.finished.items():
            if _with_inherited(digest, self.finished).get("data", "synthetic") == self.params.data:
                rate = record["seconds"] / work(digest, self.finished)
                for like in _likeness(record):
                    rates.setdefault(like, []).append(rate)
        return {like: median(known) for like, known in rates.items()}

    def seconds(self, spec: Spec) -> float | None:
        """None where nothing like it was measured."""
        if spec.kind == "notebook":
            return self.notebooks.get(spec.params["stage"])
        records = {each.digest: each.record for each in closure([spec])}
        if _with_inherited(spec.digest, records).get("device") == "cuda":
            speed = self.gpu.get("models", {}).get(self.params.model)
            return sequences(spec.params) / speed["sequences_per_second"] if speed else None
        if spec.digest in self.finished:
            return self.finished[spec.digest]["seconds"]
        rate = next((self._rates[like] for like in _likeness(spec.record) if like in self._rates), None)
        return None if rate is None else rate * work(spec.digest, records)

    def hours(self, specs: Sequence[Spec]) -> str:
        """The hours of some runs, as far as runs like them were measured."""
        seconds = [self.seconds(spec) for spec in specs]
        known = [x for x in seconds if x is not None]
        if seconds and not known:
            return "not measured"
        hours, unknown = sum(known) / 3600, len(seconds) - len(known)
        return (f"{hours:.0f}" if hours >= 100 else f"{hours:.2f}") + (
            f" + {unknown} runs" if unknown else ""
        )


def work(digest: str, records: Records) -> float:
    """How much a run computes, to compare runs of one kind by: sequences times the weights they pass."""
    shape, weights = _with_inherited(digest, records), 1
    if "hidden_size" in shape:
        hidden, layers = shape["hidden_size"], shape["num_layers"]
        # embeddings, and four square matrices of attention with a feed-forward layer of twice the width
        weights = hidden * (shape.get("vocab_size", 0) + 8 * layers * hidden)
    return max(1.0, sequences(records[digest]["params"])) * weights


def sequences(p: Mapping[str, Any]) -> float:
    """The sequences that a run trains on, and a third of those that it only reads, by its parameters."""
    if steps := p.get("pretrain_steps") or p.get("continue_steps"):
        return steps * p["batch_size"]
    read = FORWARD * p.get("test_examples", 0)
    if "finetune_epochs" in p:
        return p["train_examples"] * p["finetune_epochs"] + read * len(p["languages"])
    return read or p.get("documents", 0) or p.get("parallel_pairs", 0)


def _with_inherited(digest: str, records: Records) -> dict[str, Any]:
    """The parameters of a run and, behind them, of what it builds on, as far as that is known."""
    record = records.get(digest, {"params": {}, "inputs": []})
    inherited = {}
    for other in reversed(record["inputs"]):
        inherited |= _with_inherited(other, records)
    return inherited | record["params"]


def _likeness(record: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """The runs that cost about as much: of one method, or one objective and model, or else of one kind."""
    params = record["params"]
    names = ("task", "method", "method_options") if "labels" in params else ("objective", "model")
    words = [params.get("labels", params).get(name, "") for name in names]
    return [(record["kind"], *words), (record["kind"],)]


def outlook(times: Mapping[Spec, float | None], jobs: int, later: float = 0.0) -> str:
    """How many runs there are to compute, and how long that takes by their planned seconds."""
    told = time_left(times, {}, jobs, later) or "how long they take was never measured"
    return f"{len(times)} runs to compute with {jobs} processes: {told}"


def time_left(
    times: Mapping[Spec, float | None], ended: Mapping[Spec, float], jobs: int, later: float = 0.0
) -> str:
    """How long the runs take that have not ended yet, in words; empty where nothing is known.

    times : run -> seconds, as planned; one without them is taken to be like the others
    ended : run -> seconds that it took; they tell the speed of this machine
    later : seconds, as planned, of what follows these runs
    """
    known = [x for x in times.values() if x is not None]
    if not any(known):
        return ""
    usual = fmean(known)
    planned = {spec: usual if x is None else x for spec, x in times.items()}
    expected = sum(planned[spec] for spec in ended)
    speed = (sum(ended.values()) + TRUST) / (expected + TRUST)
    return f"about {duration(speed * (sum(planned.values()) - expected + later) / jobs)}"


def duration(seconds: float) -> str:
    """A time to wait, as exact as such forecasts are."""
    if seconds < 90:
        return f"{max(5, 5 * round(seconds / 5))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
