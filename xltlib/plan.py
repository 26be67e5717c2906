"""`xlt plan`: what a study costs, told before it starts: runs, hours, disk, downloads, each statement."""

import shutil
from argparse import Namespace
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from xltlib import pool
from xltlib.data.downloads import downloads
from xltlib.params import Params, load
from xltlib.runs import STAGES, closure
from xltlib.store import RUNS, Result, Spec, Store, canonical, read_json, read_published

if TYPE_CHECKING:  # torch takes seconds to import
    from xltlib.study import Session

FORWARD = 1 / 3  # cost of a forward pass beside a training step, which goes back too
THROUGHPUT = "throughput.json"  # in figures/: what tests/benchmarks/bench_gpu.py has measured
SHAPE = ("vocab_size", "hidden_size", "num_layers", "num_heads")

Records = Mapping[str, dict]  # digest -> kind, params and inputs of a run, planned or finished


@dataclass(frozen=True)
class Cost:
    """What some runs take: how many there are and how many are left, with the seconds of those left.

    `unknown` of them have no measured run to be told from.
    """

    runs: int
    left: int
    seconds: float
    unknown: int


class Plan:
    """The runs of a study, which of them are there, and what the others will cost."""

    def __init__(self, session: "Session") -> None:
        self.session, self.params = session, session.params
        self.specs = closure(spec for stage in STAGES for spec in session.specs(stage))
        self.finished = _finished(session.store, session.root / "figures")
        self.rates = Rates(self.finished, self.params, session.root)
        self._status = cache(session.store.status)

    def status(self, spec: Spec, whole: bool = False) -> str:
        """The state of a run in the store, asked once; a plan reads no file of it, `whole` or not."""
        return self._status(spec)

    @cached_property
    def left(self) -> list[Spec]:
        """The runs that will be computed."""
        return pool.missing(self.specs, self, self.session.fresh)

    def cost(self, specs: Sequence[Spec], left: Iterable[Spec]) -> Cost:
        """The cost of those runs among `left`."""
        seconds = [self.rates.seconds(spec) for spec in left]
        known = [x for x in seconds if x is not None]
        return Cost(len(specs), len(seconds), sum(known), len(seconds) - len(known))

    def claims(self) -> dict[str, tuple[Cost, int]]:
        """For each statement that needs runs, what these cost alone, and how many cannot be made yet."""
        from xltlib.claims.ledger_file import load_ledger
        from xltlib.wanted import claim_runs

        ledger, found = load_ledger(self.session.ledger), {}
        for claim in ledger.claims:
            specs, absent = claim_runs(ledger, self.params, claim.id)
            if specs or absent:
                left = pool.missing(specs, self, self.session.fresh)
                found[claim.id] = self.cost(closure(specs), left), len(absent)
        return found

    def bytes(self, spec: Spec) -> int:
        """What a run keeps on the disk: its weights, or what finished runs of its kind keep."""
        found = self.finished.get(spec.digest)
        if found and found.directory:
            return _size(found)
        if spec.kind in ("encoder", "transfer"):
            return 4 * weights(spec.digest, {s.digest: s.record for s in closure([spec])})
        sizes = [_size(r) for r in self.finished.values() if r.kind == spec.kind and r.directory]
        return round(median(sizes)) if sizes else 0


class Rates:
    """Seconds that a run will take, told from finished ones: the median of those most like it, scaled.

    Only runs on the same kind of languages count. For a study on a GPU it is told from the throughput that
    was measured on one.
    """

    def __init__(self, finished: Mapping[str, Result], params: Params, root: Path) -> None:
        self.params, self.on_gpu, groups = params, params.device == "cuda", {}
        self.gpu = throughput(root) if self.on_gpu else None
        records = {digest: result.record for digest, result in finished.items()}
        kept = {
            digest: result for digest, result in finished.items() if _data(digest, records) == params.data
        }
        for digest, result in {} if self.on_gpu else kept.items():
            done = work(digest, records)
            for group in _likeness(result.record):
                groups.setdefault(group, []).append(result.seconds / done)
        self._groups = {group: median(rates) for group, rates in groups.items()}
        self.measured = len(kept)

    def seconds(self, spec: Spec) -> float | None:
        """None where nothing like it was measured."""
        records = {s.digest: s.record for s in closure([spec])}
        if self.on_gpu:
            measured = (self.gpu or {}).get("models", {}).get(self.params.model)
            trained = spec.kind in ("encoder", "transfer", "evaluation")
            return sequences(spec.record) / measured["sequences_per_second"] if measured and trained else None
        rate = next((self._groups[g] for g in _likeness(spec.record) if g in self._groups), None)
        return None if rate is None else rate * work(spec.digest, records)

    def rough(self, spec: Spec) -> bool:
        """Whether no finished run has its objective, or its task and method, so that others tell the rate."""
        groups = _likeness(spec.record)
        return not any(group in self._groups for group in groups[: -1 if len(groups) < 4 else -2])


def throughput(root: Path) -> dict[str, Any] | None:
    """What was measured on a GPU, with its name and the date; None where nothing was."""
    path = root / "figures" / THROUGHPUT
    return read_json(path) if path.is_file() else None


def work(digest: str, records: Records) -> float:
    """How much a run computes, to compare runs of one kind by: sequences times the weights they pass."""
    return max(1.0, sequences(records[digest])) * weights(digest, records)


def sequences(record: Mapping[str, Any]) -> float:
    """The sequences that a run trains on, and a third of those that it only reads."""
    p = record["params"]
    if record["kind"] == "encoder":
        return (p.get("pretrain_steps") or p.get("continue_steps", 0)) * p["batch_size"]
    if record["kind"] == "transfer":
        return p["train_examples"] * p["finetune_epochs"] + FORWARD * p["test_examples"] * len(p["languages"])
    return FORWARD * p.get("test_examples", 0) or p.get("documents", 0) or p.get("parallel_pairs", 0)


def weights(digest: str, records: Records) -> int:
    """The weights of the encoder that a run trains or reads; 1 where it has none."""
    shape = [_given(name, digest, records) for name in SHAPE]
    return 1 if None in shape else _weights(*shape)


@cache
def _weights(vocab_size: int, hidden_size: int, num_layers: int, num_heads: int) -> int:
    import torch

    from xltlib.pretraining import models

    with torch.device("meta"):  # shapes without memory
        return models.parameter_count(models.tiny(vocab_size, hidden_size, num_layers, num_heads, 0))


def _given(name: str, digest: str, records: Records) -> Any:
    """The value of a parameter that a run has, or what it builds on."""
    record = records.get(digest, {"params": {}, "inputs": []})
    if name in record["params"]:
        return record["params"][name]
    found = (_given(name, other, records) for other in record["inputs"])
    return next((value for value in found if value is not None), None)


def _data(digest: str, records: Records) -> str:
    """Whether a run's languages are synthetic or real."""
    return _given("data", digest, records) or "synthetic"


def _likeness(record: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Groups of runs that cost about alike, the narrowest first."""
    labels = record["params"].get("labels")
    words = ("task", "method", "method_options") if labels else ("objective", "options")
    values = [canonical((labels or record["params"]).get(word, "")).decode() for word in words]
    return [(record["kind"], *values[:number]) for number in range(len(values), -1, -1)]


def _finished(store: Store, figures: Path) -> dict[str, Result]:
    """All finished runs of the store, and those that any profile has published, by digest."""
    found = {}
    for folder in sorted(figures.glob(f"*/{RUNS}")):
        found |= read_published(folder.parent)
    return found | {result.digest: result for result in store.results()}


def _size(result: Result) -> int:
    return sum(file["size"] for file in result.record["files"].values())


# Command line


def register(subparsers) -> None:
    """Add `xlt plan`."""
    text = "tell, before anything starts, how many runs a profile has and what they cost"
    parser = subparsers.add_parser(
        "plan", help="runs, hours, disk and downloads of a profile", description=text
    )
    parser.add_argument("params", nargs="?", default="params/quick.yaml", help="its file [%(default)s]")
    parser.add_argument("-j", "--jobs", type=int, metavar="N", help="processes [XLT_JOBS, or 2]")
    parser.set_defaults(func=_command)


def _command(args: Namespace) -> int:
    from xltlib import study

    plan = Plan(study.open(load(args.params), jobs=args.jobs))
    for part in (_runs(plan), _hours(plan), _disk(plan), _downloads(plan.params), _claims(plan)):
        print("\n".join(part), end="\n\n")
    return 0


def _runs(plan: Plan) -> list[str]:
    rows = [("runs", "all", "done", "published", "to do", "hours")]
    for kind in [*dict.fromkeys(spec.kind for spec in plan.specs), ""]:
        specs = [spec for spec in plan.specs if spec.kind == kind or not kind]
        states = Counter(plan.status(spec) for spec in specs)
        cost = plan.cost(specs, [spec for spec in plan.left if spec.kind == kind or not kind])
        row = (kind or "all", str(cost.runs), str(states["done"]), str(states["published"]), str(cost.left))
        rows.append((*row, _hours_of(cost)))
    return _table(rows)


def _hours(plan: Plan) -> list[str]:
    """What the hours rest on, and how long it will take."""
    cost = plan.cost(plan.specs, plan.left)
    if plan.rates.on_gpu:
        gpu = plan.rates.gpu
        if gpu is None:
            millions = sum(sequences(spec.record) for spec in plan.left) / 1e6
            return [
                "Hours on a GPU: not measured; `python tests/benchmarks/bench_gpu.py` there writes "
                f"figures/{THROUGHPUT}. They are for {millions:,.0f} million sequences of training.",
            ]
        return [f"Hours of one {gpu['gpu']}, as measured on {gpu['date']} with {plan.params.model}."]
    if not plan.rates.measured:
        return ["Hours: not measured, because no run is finished or published."]
    told = [f"Hours of one core, told from {plan.rates.measured} finished runs; where sizes differ, scaled."]
    if rough := sum(plan.rates.rough(spec) for spec in plan.left):
        told.append(
            f"{rough} runs are unlike any finished one in objective or method: their hours are rough."
        )
    if cost.left:
        hours = _rounded(cost.seconds / 3600 / plan.session.jobs)
        told.append(f"With {plan.session.jobs} processes: about {hours} hours.")
    return told


def _disk(plan: Plan) -> list[str]:
    there = sum(plan.bytes(spec) for spec in plan.specs if plan.status(spec) == "done")
    more = sum(plan.bytes(spec) for spec in plan.left)
    folder = next(f for f in (plan.session.store.root, *plan.session.store.root.parents) if f.exists())
    free = shutil.disk_usage(folder).free
    lines = [f"Disk: {_megabytes(there)} there, about {_megabytes(more)} more; {_megabytes(free)} are free."]
    return lines if more < free else [*lines, "Not enough: the study would stop, and could be resumed."]


def _downloads(params: Params) -> list[str]:
    found = downloads(params)
    if params.data == "synthetic":
        return ["Downloads: none; the languages are synthetic."]
    if not found:
        return ["Downloads: none; the folder that XLT_DATA names holds the text."]
    rows = [("downloads", "size", "here", "licence", "repository")]
    for each in found:
        size = f"{each.megabytes} MB" if each.megabytes else "not known"
        rows.append((each.what, size, "yes" if each.here else "no", each.licence, each.repo))
    return _table(rows)


def _claims(plan: Plan) -> list[str]:
    rows = [("statement", "runs", "to do", "hours", "cannot be run yet")]
    for name, (cost, absent) in plan.claims().items():
        rows.append((name, str(cost.runs), str(cost.left), _hours_of(cost), str(absent or "")))
    return [*_table(rows), "A statement's runs are counted for it alone: most serve others too."]


def _hours_of(cost: Cost) -> str:
    if cost.unknown == cost.left > 0:
        return "not measured"
    return _rounded(cost.seconds / 3600) + (f" + {cost.unknown} runs" if cost.unknown else "")


def _rounded(hours: float) -> str:
    return f"{hours:.0f}" if hours >= 100 else f"{hours:.2f}" if hours < 1 else f"{hours:.1f}"


def _megabytes(size: int) -> str:
    return f"{size / 2**20:,.0f} MiB"


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    """The first column to the left, numbers and words below their heading to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for name, *cells in rows:
        right = [cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True)]
        lines.append("  ".join([name.ljust(widths[0]), *right]).rstrip())
    return lines
