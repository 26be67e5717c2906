"""Where results live: one directory per run, named by the digest of its spec, complete or absent."""

import contextlib
import hashlib
import logging
import os
import re
import shutil
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import filelock

from xltlib import StudyError
from xltlib.files import canonical, load_scores, plain, read_json, save_scores, sha256_file, write_json
from xltlib.machine import disk_errors, environment, peak_memory
from xltlib.results import RECORD, RUNS, WEIGHTS, Result, Spec, publish, read_published

__all__ = [
    "Result",
    "Spec",
    "Stale",
    "Store",
    "load_scores",
    "prune",
    "publish",
    "read_published",
    "save_scores",
    "sha256_file",
    "stale",
    "write_json",
]

ATTEMPT = ".attempt.json"  # in a run's directory while it is being built: when that began

_log = logging.getLogger(__name__)


class Store:
    """The runs under `root`, and behind them the published evidence of the folders `published`.

    Safe for several processes on one file system: one computes a run, the others wait for it.
    """

    def __init__(self, root: str | Path, published: Iterable[str | Path] = ()) -> None:
        self.root = Path(root).absolute()  # a notebook may change its folder
        self._folders = [Path(folder) for folder in published]

    @cached_property
    def _published(self) -> dict[str, Result]:
        """Digest -> run; the first folder that has a run wins."""
        runs: dict[str, Result] = {}
        for folder in self._folders:
            if (folder / RUNS).exists():
                runs = read_published(folder) | runs
        return runs

    def path(self, spec: Spec) -> Path:
        """The directory of the run, which is there only when the run is complete."""
        return self.root / spec.kind / spec.digest

    def partial(self, spec: Spec) -> Path:
        """The directory in which the run is being built; checkpoints in it outlive a killed process."""
        return self.root / ".partial" / f"{spec.kind}-{spec.digest}"

    def status(self, spec: Spec) -> str:
        """One of "done", "published", "failed", "partial" (begun, or being built now), "missing"."""
        if self._record(self.path(spec)):
            return "done"
        if spec.digest in self._published:
            return "published"
        if self._failure(spec).exists():
            return "failed"
        return "partial" if self.partial(spec).exists() else "missing"

    def result(self, spec: Spec) -> Result:
        """The finished or published run; StudyError where there is none."""
        record = self._record(self.path(spec))
        if record:
            return Result(spec.digest, record, "store", self.path(spec))
        if spec.digest in self._published:
            return self._published[spec.digest]
        why = f": {self.failure(spec)}" if self._failure(spec).exists() else ""
        raise StudyError(f"{spec}: the run is {self.status(spec)} in {self.root}{why}")

    def failure(self, spec: Spec) -> str:
        """The error with which the last attempt at the run ended, or an empty text."""
        path = self._failure(spec)
        return read_json(path)["error"] if path.exists() else ""

    def compute(
        self, spec: Spec, build: Callable[[Path], dict], fresh: bool = False, files: bool | None = None
    ) -> Result:
        """The run's result: taken from the store or the published evidence, or built now.

        Parameters
        ----------
        build : called with the directory for the run's files, which holds what a killed attempt left there;
            returns the run's values. Per-example scores are the file `scores.npz` of `save_scores`.
        fresh : do not take published evidence. A run finished in this store is always taken.
        files : whether the caller reads the run's files. Published evidence has none, so it then does not do.
            By default it does for a run that has published scores, or never had files.
        """
        run = self._intact(spec)
        if run is None and not fresh and spec.digest in self._published:
            run = self._published[spec.digest]
            wanted = bool(run.record["files"]) and not run.scores if files is None else files
            run = None if wanted else run
        if run is not None:
            return run
        with disk_errors(self.root), self._lock(spec):
            run = self._intact(spec)  # it may have come while this process waited
            if run is None:
                self._move_damaged(spec)
                run = self._build(spec, build)
            return run

    def results(self, kind: str = "*") -> Iterator[Result]:
        """All finished runs of the store, or those of one kind, in the order of their digests."""
        for path in sorted(self.root.glob(f"{kind}/*/{RECORD}")):
            record = self._record(path.parent)
            if record and not path.parent.parent.name.startswith("."):
                yield Result(path.parent.name, record, "store", path.parent)

    def _failure(self, spec: Spec) -> Path:
        return self.root / ".failed" / f"{spec.digest}.json"

    def _record(self, directory: Path) -> dict | None:
        """The record of a finished run, if it is there with all its files in their full size."""
        try:
            record = read_json(directory / RECORD)
            sizes = {name: entry["size"] for name, entry in record["files"].items()}
            complete = all((directory / name).stat().st_size == size for name, size in sizes.items())
            return record if complete and record["seal"] == _seal(record) else None
        except (StudyError, OSError, KeyError, TypeError, AttributeError):
            return None

    def _intact(self, spec: Spec) -> Result | None:
        """The finished run, if every file is as it was written."""
        record = self._record(self.path(spec))
        if record is None:
            return None
        result = Result(spec.digest, record, "store", self.path(spec))
        try:
            for name in record["files"]:
                result.file(name)
        except StudyError:
            return None
        return result

    def _move_damaged(self, spec: Spec) -> None:
        """Make room for the run where a damaged one lies; only the holder of its lock may."""
        directory = self.path(spec)
        if directory.exists():
            aside = self.root / ".corrupt" / f"{spec.kind}-{spec.digest}-{time.time_ns()}"
            aside.parent.mkdir(exist_ok=True)
            directory.rename(aside)
            warnings.warn(f"{directory} was damaged: moved to {aside} and computed anew", stacklevel=4)

    @contextlib.contextmanager
    def _lock(self, spec: Spec) -> Iterator[None]:
        lock = _lock_file(self.root, spec.digest)
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            _log.info("%s: another process computes it; waiting", spec)
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def _build(self, spec: Spec, build: Callable[[Path], dict]) -> Result:
        partial, final = self.partial(spec), self.path(spec)
        partial.mkdir(parents=True, exist_ok=True)
        (partial / RECORD).unlink(missing_ok=True)  # of a process killed before the rename
        earlier, start = _earlier_seconds(partial), time.perf_counter()
        write_json(partial / ATTEMPT, {"earlier": earlier, "started": time.time()})
        try:
            values = plain(build(partial), f"{spec.kind} values")
        except Exception as error:
            with contextlib.suppress(OSError):
                self._failure(spec).parent.mkdir(exist_ok=True)
                report = {"kind": spec.kind, "params": spec.params, "traceback": traceback.format_exc()}
                write_json(self._failure(spec), report | {"error": f"{type(error).__name__}: {error}"})
            raise
        for path in partial.rglob(".*"):  # this attempt's record, and what a killed one was writing aside
            if path.is_file():
                path.unlink()
        seconds = round(earlier + time.perf_counter() - start, 3)
        files = _files(partial)
        record = spec.record | {"values": values, "seconds": seconds, "files": files}
        record |= {"weights": self._weights(spec, files)}
        record |= {"memory_mb": peak_memory(), "environment": environment()}
        write_json(partial / RECORD, record | {"seal": _seal(record)})
        final.parent.mkdir(exist_ok=True)
        partial.rename(final)
        _sync(final.parent)
        self._failure(spec).unlink(missing_ok=True)
        return Result(spec.digest, record, "computed", final)

    def _weights(self, spec: Spec, files: Mapping[str, Mapping]) -> dict[str, str]:
        """The digests of the run's own weights and of all those that it was trained from, by run.

        A spec does not say which processor its run was trained on: on another one the weights differ.
        """
        weights: dict[str, str] = {}
        for source in spec.inputs:
            record = self._record(self.path(source))
            if record is None and source.digest in self._published:
                record = self._published[source.digest].record
            weights |= (record or {}).get("weights", {})
        own = files.get(WEIGHTS)
        return weights | ({spec.digest: own["sha256"][:16]} if own else {})


@dataclass(frozen=True)
class Stale:
    """A run or a remainder in the store that no spec of the present study asks for."""

    kind: str
    digest: str
    directory: Path
    size: int  # bytes
    age: float  # days since it was last changed


def stale(store: Store, known: Iterable[str]) -> list[Stale]:
    """The runs, begun runs and damaged runs in the store whose digest is not among `known`, oldest first."""
    known, found = set(known), []
    for directory in store.root.glob("*/*"):
        folder = directory.parent.name
        named = re.fullmatch(r"(?:(.+)-)?([0-9a-f]{16})(?:-\d+)?", directory.name)
        if not named or not directory.is_dir() or folder == ".trash":
            continue
        if named[2] in known and folder != ".corrupt":
            continue
        with contextlib.suppress(FileNotFoundError):  # finished or removed by another process just now
            stats = [path.stat() for path in (directory, *directory.rglob("*"))]
            age = (time.time() - max(s.st_mtime for s in stats)) / 86400
            size = sum(s.st_size for s in stats[1:])
            found.append(Stale(named[1] or folder, named[2], directory, size, age))
    return sorted(found, key=lambda run: (-run.age, run.digest))


def prune(store: Store, runs: Iterable[Stale]) -> int:
    """Remove what `stale` has found, but for a run that is being built now; returns the bytes freed."""
    freed, trash = 0, store.root / ".trash"
    trash.mkdir(parents=True, exist_ok=True)
    for run in runs:
        with contextlib.suppress(FileNotFoundError, filelock.Timeout):
            with _lock_file(store.root, run.digest).acquire(timeout=0):
                run.directory.rename(trash / f"{run.digest}-{time.time_ns()}")  # gone at once for all readers
            freed += run.size
    shutil.rmtree(trash)
    return freed


def _lock_file(root: Path, digest: str) -> filelock.BaseFileLock:
    """The lock on one run; the system releases it when its process dies."""
    folder = root / ".locks"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StudyError(f"{root}: cannot be written: {error.strerror}: name another folder") from error
    return filelock.FileLock(folder / f"{digest}.lock")


def _files(directory: Path) -> dict[str, dict]:
    """Size and digest of every file below the directory, by its relative path."""
    paths = sorted(path for path in directory.rglob("*") if path.is_file())
    for path in paths:
        _sync(path)
    return {
        p.relative_to(directory).as_posix(): {"size": p.stat().st_size, "sha256": sha256_file(p)}
        for p in paths
    }


def _seal(record: dict) -> str:
    """Digest of the record without its seal: shows damage to the record itself."""
    return hashlib.sha256(canonical({k: v for k, v in record.items() if k != "seal"})).hexdigest()[:16]


def _sync(path: Path) -> None:
    """Have the system put a file or a folder's entries on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _earlier_seconds(partial: Path) -> float:
    """Seconds that earlier attempts spent until the last thing they saved, which is all that is resumed."""
    try:
        attempt = read_json(partial / ATTEMPT)
        saved = max(p.stat().st_mtime for p in partial.rglob("*"))
        return attempt["earlier"] + max(0.0, saved - attempt["started"])
    except (StudyError, KeyError, TypeError):
        return 0.0
