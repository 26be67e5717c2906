"""A study in slices, for a cluster: which runs belong together, and which others these wait for."""

import re
import sys
from argparse import Namespace
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from xltlib import StudyError, study
from xltlib.data import downloads
from xltlib.params import load
from xltlib.pool import describe
from xltlib.runs import STAGES, closure
from xltlib.store import Spec

DONE = ".done"  # ending of the file that stands for a finished slice


@dataclass(frozen=True)
class Slice:
    """Runs that one job computes, in this order, and the names of the slices that it waits for.

    The name holds a digest of the runs: other parameters make another slice, the same ones the same.
    """

    name: str
    specs: tuple[Spec, ...]
    needs: tuple[str, ...]


def slices(specs: Iterable[Spec]) -> list[Slice]:
    """The runs and all that they build on, cut by objective and seed, and by task, method and seed."""
    groups: dict[tuple[str, ...], list[Spec]] = {}
    for spec in closure(specs):
        groups.setdefault(_group(spec), []).append(spec)
    names = {spec: _name(group, members) for group, members in groups.items() for spec in members}
    made = []
    for members in groups.values():
        needs = dict.fromkeys(names[other] for spec in members for other in spec.inputs)
        own = names[members[0]]
        made.append(Slice(own, tuple(members), tuple(name for name in needs if name != own)))
    return made


def _group(spec: Spec) -> tuple[str, ...]:
    """What the runs of a slice have in common; a model and its scores in other settings stay together."""
    labels = spec.params.get("labels")
    if labels:
        words = [labels[name] for name in ("task", "method", "method_options")]
    else:
        words = [spec.kind, spec.params.get("objective", ""), spec.params.get("target", "")]
    seed = (labels or spec.params).get("seed")
    return (*map(str, filter(None, words)), *([] if seed is None else [f"seed{seed}"]))


def _name(group: tuple[str, ...], members: list[Spec]) -> str:
    digest = sha256(" ".join(sorted(spec.digest for spec in members)).encode()).hexdigest()[:8]
    return re.sub(r"[^A-Za-z0-9_.=]+", "-", "-".join([*group, digest]))


def read(profile: str | Path) -> tuple[Path, dict[str, Slice]]:
    """The folder of the profile's stamps, and its slices by name.

    The stamps are brought up to date with the store: a slice has one if its runs are finished or published.
    """
    session = study.open(load(profile))
    found = {each.name: each for each in _of(session)}
    folder = session.root / "runs" / "grid" / session.params.profile
    folder.mkdir(parents=True, exist_ok=True)
    for each in found.values():
        stamp = folder / (each.name + DONE)
        if not all(_there(session, spec) for spec in each.specs):
            stamp.unlink(missing_ok=True)
        elif not stamp.exists():
            stamp.touch()
    return folder, found


def _of(session: study.Session) -> list[Slice]:
    return slices(spec for stage in STAGES for spec in session.specs(stage))


def _there(session: study.Session, spec: Spec) -> bool:
    status = session.store.status(spec)
    return status == "done" or (status == "published" and not session.fresh)


def register(subparsers) -> None:
    """Add `xlt slice`."""
    text = "compute the runs of one slice of a study, as a job of a cluster does (see Snakefile)"
    parser = subparsers.add_parser("slice", help="compute a part of a study", description=text)
    parser.add_argument("params", help="a profile's file")
    parser.add_argument("name", nargs="?", help="of the slice; without one, all of them are listed")
    parser.set_defaults(func=_command)


def _command(args: Namespace) -> int:
    import torch

    from xltlib.builders import compute

    session = study.open(load(args.params), jobs=1)
    found = {each.name: each for each in _of(session)}
    if args.name is None:
        for each in found.values():
            print(each.name, len(each.specs), *each.needs)
        return 0
    if args.name not in found:
        raise StudyError(f"{args.params}: there is no slice {args.name}; have the parameters been changed?")
    downloads.require(session.params)
    torch.set_num_threads(1)  # numbers depend on it; a cluster has as many jobs as cores
    for spec in found[args.name].specs:
        if not _there(session, spec):
            result = compute(spec, session.store, session.fresh, lambda line: print(line, file=sys.stderr))
            print(f"{describe(spec)}: {result.seconds:.0f} s", file=sys.stderr)
    return 0
