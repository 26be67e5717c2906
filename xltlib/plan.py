"""What a study costs, told before it starts, and how it is cut into slices for a cluster.

`session`: a `study.Session`, whose module builds on this one.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from statistics import median
from typing import Any

from xltlib.params import Params
from xltlib.pool import duration, missing
from xltlib.runs import closure
from xltlib.store import RUNS, Spec, Store, canonical, read_json

FORWARD = 1 / 3  # cost of a forward pass beside a training step, which goes back too
THROUGHPUT = "throughput.json"  # in figures/: what tests/benchmarks/bench_gpu.py has measured
SHAPE = ("vocab_size", "hidden_size", "num_layers")
NOTEBOOK = 10.0  # seconds, where no notebook was executed yet
DONE = ".done"  # ending of the file that stands for a finished slice

Records = Mapping[str, dict]  # digest -> kind, params and inputs of a run, planned or finished


class Costs:
    """Seconds that runs take: as published or finished before, or told from those most like them, scaled.

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
    def gpu(self) -> dict[str, Any] | None:
        """What was measured on a GPU, with its name and the date; None where nothing was."""
        path = self.figures / THROUGHPUT
        return read_json(path) if path.is_file() else None

    @cached_property
    def _rates(self) -> dict[tuple[str, ...], float]:
        """Seconds for a unit of work, by groups of runs that cost about alike."""
        groups: dict[tuple[str, ...], list[float]] = {}
        for digest, record in self.finished.items():
            if (_inherited("data", digest, self.finished) or "synthetic") == self.params.data:
                for group in _groups(record):
                    groups.setdefault(group, []).append(record["seconds"] / work(digest, self.finished))
        return {group: median(rates) for group, rates in groups.items()}

    def seconds(self, spec: Spec) -> float | None:
        """None where nothing like it was measured."""
        if self.params.device == "cuda":
            measured = (self.gpu or {}).get("models", {}).get(self.params.model)
            trained = spec.kind in ("encoder", "transfer", "evaluation")
            return sequences(spec.params) / measured["sequences_per_second"] if measured and trained else None
        if spec.digest in self.finished:
            return self.finished[spec.digest]["seconds"]
        records = {s.digest: s.record for s in closure([spec])}
        rate = next((self._rates[g] for g in _groups(spec.record) if g in self._rates), None)
        return None if rate is None else rate * work(spec.digest, records)

    def notebook_seconds(self, published: Path) -> float:
        """Seconds that all notebooks of a profile take once their runs are there."""
        path = published / "manifest.json"
        times = read_json(path).get("notebook_seconds", {}) if path.is_file() else {}
        return sum(times.values()) if times else 6 * NOTEBOOK

    def forecast(self, runs: Sequence[Spec], jobs: int, after: float = 0.0) -> str:
        """How many runs are to be computed, and how long that will take: the sentence before the work."""
        times = [self.seconds(spec) for spec in runs]
        known = [x for x in times if x is not None]
        if not known:
            return f"{len(runs)} runs to compute; how long they take was never measured"
        # what was not measured is taken to be like the rest
        total = sum(known) * len(runs) / len(known) / jobs + after
        return f"{len(runs)} runs to compute with {jobs} processes: about {duration(total)} in all"


def work(digest: str, records: Records) -> float:
    """How much a run computes, to compare runs of one kind by: sequences times the weights they pass."""
    shape = [_inherited(name, digest, records) for name in SHAPE]
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


def _groups(record: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Groups of runs that cost about alike, the narrowest first."""
    params = record["params"]
    words = ("task", "method", "method_options") if "labels" in params else ("objective", "options")
    values = [canonical(params.get("labels", params).get(word, "")).decode() for word in words]
    return [(record["kind"], *values[:number]) for number in range(len(values), -1, -1)]


# Tables


@dataclass(frozen=True)
class Cost:
    """How many runs there are, how many of them are to be computed, with the seconds of these.

    `unknown` of them have no measured run to be told from.
    """

    runs: int
    left: int
    seconds: float
    unknown: int

    def hours(self) -> str:
        """The hours as a table's cell."""
        if self.unknown == self.left > 0:
            return "not measured"
        hours = self.seconds / 3600
        text = f"{hours:.0f}" if hours >= 100 else f"{hours:.2f}" if hours < 1 else f"{hours:.1f}"
        return text + (f" + {self.unknown} runs" if self.unknown else "")


def cost(session: Any, specs: Sequence[Spec], left: Iterable[Spec]) -> Cost:
    """The cost of those runs among `left`."""
    times = [session.costs.seconds(spec) for spec in left]
    known = [x for x in times if x is not None]
    return Cost(len(specs), len(times), sum(known), len(times) - len(known))


def tables(session: Any) -> list[list[str]]:
    """What `xlt plan` shows: runs by kind, what their hours rest on, downloads, and each statement."""
    specs = session.all_specs()
    left = missing(specs, session.store, session.fresh)
    rows = [("runs", "all", "done", "published", "to do", "hours")]
    for kind in [*dict.fromkeys(spec.kind for spec in specs), ""]:
        own = [spec for spec in specs if spec.kind == kind or not kind]
        states = Counter(session.store.status(spec) for spec in own)
        each = cost(session, own, [spec for spec in left if spec.kind == kind or not kind])
        numbers = (each.runs, states["done"], states["published"], each.left)
        rows.append((kind or "all", *map(str, numbers), each.hours()))
    return [table(rows), [_basis(session, left)], _downloads(session.params), _statements(session)]


def _basis(session: Any, left: Sequence[Spec]) -> str:
    """What the hours rest on."""
    costs, params = session.costs, session.params
    if params.device == "cpu":
        return session.costs.forecast(left, session.jobs) if left else "Nothing is to be computed."
    if costs.gpu is None:
        millions = sum(sequences(spec.params) for spec in left) / 1e6
        script = f"`python tests/benchmarks/bench_gpu.py` there writes figures/{THROUGHPUT}"
        return f"Hours on a GPU: not measured; {script}. They are for {millions:,.0f} million sequences."
    return f"Hours of one {costs.gpu['gpu']}, as measured on {costs.gpu['date']} with {params.model}."


def _downloads(params: Params) -> list[str]:
    if params.data == "synthetic":
        return ["Downloads: none; the languages are synthetic."]
    from xltlib.data.downloads import downloads

    needed = downloads(params)
    if not needed:
        return ["Downloads: none; the folder that XLT_DATA names holds the text."]
    rows = [("downloads", "size", "here", "licence", "repository")]
    for each in needed:
        size = f"{each.megabytes} MB" if each.megabytes else "not known"
        rows.append((each.what, size, "yes" if each.here else "no", each.licence, each.repo))
    return table(rows)


def _statements(session: Any) -> list[str]:
    rows = [("statement", "runs", "to do", "hours", "cannot be run yet")]
    for claim, (specs, absent) in session.claims().items():
        if specs or absent:
            each = cost(session, closure(specs), missing(specs, session.store, session.fresh))
            rows.append((claim, str(each.runs), str(each.left), each.hours(), str(len(absent) or "")))
    return [*table(rows), "A statement's runs are counted for it alone: most serve others too."]


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of text: the first column to the left, numbers and words below their heading to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for name, *cells in rows:
        right = [cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True)]
        lines.append("  ".join([name.ljust(widths[0]), *right]).rstrip())
    return lines


# Slices


@dataclass(frozen=True)
class Slice:
    """Runs that one job of a cluster computes, in this order, and the names of the slices that it waits for.

    The name holds a digest of the runs: other parameters make another slice, the same ones the same.
    """

    name: str
    specs: tuple[Spec, ...]
    needs: tuple[str, ...]


def slices(specs: Iterable[Spec]) -> dict[str, Slice]:
    """The runs and all that they build on, cut by objective and seed, and by task, method and seed."""
    groups: dict[tuple[str, ...], list[Spec]] = {}
    for spec in closure(specs):
        groups.setdefault(_slice_of(spec), []).append(spec)
    names = {}
    for group, members in groups.items():
        digest = sha256(" ".join(sorted(spec.digest for spec in members)).encode()).hexdigest()[:8]
        name = re.sub(r"[^A-Za-z0-9_.=]+", "-", "-".join([*group, digest]))
        names |= dict.fromkeys(members, name)
    cut = {}
    for members in groups.values():
        own = names[members[0]]
        needs = dict.fromkeys(names[other] for spec in members for other in spec.inputs)
        cut[own] = Slice(own, tuple(members), tuple(name for name in needs if name != own))
    return cut


def _slice_of(spec: Spec) -> tuple[str, ...]:
    """What the runs of a slice have in common; a model and its scores in other settings stay together."""
    labels = spec.params.get("labels")
    if labels:
        words = [labels[name] for name in ("task", "method", "method_options")]
    else:
        words = [spec.kind, spec.params.get("objective", ""), spec.params.get("target", "")]
    seed = (labels or spec.params).get("seed")
    return (*map(str, filter(None, words)), *([] if seed is None else [f"seed{seed}"]))


def stamps(session: Any) -> tuple[Path, dict[str, Slice]]:
    """The folder of a profile's stamps, and its slices by name.

    The stamps are brought up to date with the store: a slice has one if its runs are finished or published.
    """
    cut = slices(session.all_specs())
    folder = session.root / "runs" / "grid" / session.params.profile
    folder.mkdir(parents=True, exist_ok=True)
    for each in cut.values():
        stamp = folder / (each.name + DONE)
        if missing(each.specs, session.store, session.fresh):
            stamp.unlink(missing_ok=True)
        elif not stamp.exists():
            stamp.touch()
    return folder, cut
