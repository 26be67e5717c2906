"""Runs and what they leave: specs, results, the store of finished runs, published evidence, and score files.

A run is a function of its `Spec`; its `Result` lies in the `Store`, in a folder named by the spec's digest,
complete or absent. What repeats the statistics without training is published as runs.json and scores.npz.
All files have the same bytes for the same content.
"""

import contextlib
import errno
import hashlib
import importlib.metadata
import io
import json
import math
import os
import platform
import re
import resource
import subprocess
import sys
import time
import traceback
import warnings
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any

import filelock
import numpy as np

from xltlib import StudyError

RECORD, SCORES, RUNS, MANIFEST = "result.json", "scores.npz", "runs.json", "manifest.json"
WEIGHTS = "model.safetensors"  # the file of a trained model
FAILED = ".failed.json"  # how the last attempt at a run ended
UNREADABLE = (
    OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
FULL = (errno.ENOSPC, errno.EDQUOT)
DENIED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR)
VECTORS = ("amx_bf16", "avx512_bf16", "avx512f", "avx2")  # what kernels of torch and oneDNN are chosen by


# --- files


def plain(value: Any, where: str = "value") -> Any:
    """`value` with tuples as lists, all else as it is; StudyError for what JSON cannot hold exactly."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return float(value)
    if isinstance(value, list | tuple):
        return [plain(item, f"{where}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: plain(item, f"{where}.{key}") for key, item in value.items()}
    expected = "None, bool, int, finite float, str, list, or dict with text as keys"
    raise StudyError(f"{where}: {repr(value)[:60]} is not plain JSON: use {expected}")


def json_digest(value: Any) -> str:
    """16 hex digits of the SHA-256 of a plain value's one JSON text: keys sorted, no spaces, ASCII."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode("ascii")).hexdigest()[:16]


def write_json(path: str | Path, obj: Any) -> None:
    """Write `obj` as JSON, whole or not at all, the same bytes for the same content."""
    text = json.dumps(plain(obj, Path(path).name), indent=1, sort_keys=True, ensure_ascii=False)
    write_bytes(path, (text + "\n").encode())


def read_json(path: str | Path, missing: Any = None) -> Any:
    """The content of a JSON file, or `missing` where there is none; StudyError for what is not JSON.

    Without `missing` the file must be there.
    """
    if missing is not None and not Path(path).exists():
        return missing
    with _reading(path, "JSON"):
        return json.loads(Path(path).read_bytes())


@contextlib.contextmanager
def _reading(path: str | Path, what: str) -> Iterator[None]:
    """Tell of a file that is missing or damaged as a StudyError."""
    try:
        yield
    except FileNotFoundError:
        raise StudyError(f"{path}: there is no such file") from None
    except UNREADABLE as error:
        raise StudyError(f"{path}: cannot be read as {what}: {error}") from None


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write a file aside, flush it to the disk, then rename it: a reader never sees half of it."""
    path = Path(path)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        aside.write_bytes(data)
        flush(aside)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """Have a file or a folder's entries put on the disk: a power cut then loses no finished run."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256_file(path: str | Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_whole(path: Path, size: int, sha256: str, contents: bool = True) -> bool:
    """Whether a file has this size and, if its `contents` count, this digest."""
    try:
        stat = path.stat()
        return stat.st_size == size and (not contents or _sha256(path, size, stat.st_mtime_ns) == sha256)
    except OSError:
        return False


_sha256 = cache(lambda path, size, changed: sha256_file(path))  # read once, and again when it was changed


def file_problems(folder: Path, digests: Mapping[str, str], listing: str) -> Iterator[str]:
    """The files of a folder that are missing, foreign or changed, by their digests in its file `listing`."""
    files = filter(Path.is_file, folder.rglob("*"))
    present = {path.relative_to(folder).as_posix() for path in files} - {listing}
    for name in sorted(digests.keys() | present):
        if name not in present:
            yield f"{folder / name}: in {listing} and not there"
        elif name not in digests:
            yield f"{folder / name}: there and not in {listing}"
        elif sha256_file(folder / name) != digests[name]:
            yield f"{folder / name}: changed after {listing} was written"


# --- scores of examples


def save_scores(path: str | Path, scores: Mapping[str, np.ndarray]) -> None:
    """Write per-example scores as an npz file, the same bytes for the same scores.

    scores : name -> array (N,) of values in [0, 1], higher is better. Where all are 0 or 1 they are kept as
        they are; others are rounded to float16 (error below 0.00025).

    StudyError for another shape, a value outside [0, 1], or NaN.
    """
    arrays = {}
    for name in sorted(scores):
        array = np.asarray(scores[name])
        numbers = array.ndim == 1 and array.dtype.kind in "biuf"
        if not numbers or not ((array >= 0) & (array <= 1)).all():  # false for NaN too
            found = f"{array.dtype} {array.shape}: {repr(array)[:60]}"
            raise StudyError(f"scores {name!r}: expected numbers (N,) in [0, 1], found {found}")
        arrays[name] = array.astype(bool if np.isin(array, (0, 1)).all() else "<f2")
    data = io.BytesIO()
    np.savez_compressed(data, **arrays)  # its members are all dated 1980
    write_bytes(path, data.getvalue())


class ScoreFile:
    """The arrays that `save_scores` wrote, each read when asked for; StudyError where one is damaged."""

    def __init__(self, path: str | Path) -> None:
        self.path = path
        with _reading(path, "scores"):
            self._file = np.lib.npyio.NpzFile(path)
        self.names = list(self._file)

    def read(self, names: Mapping[str, str]) -> dict[str, np.ndarray]:
        """Some scores (N,), float64, under other names: name -> name in the file."""
        with _reading(self.path, "scores"):
            return {name: self._file[own].astype(np.float64) for name, own in names.items()}


def load_scores(path: str | Path) -> dict[str, np.ndarray]:
    """All arrays (N,), float64, of a file of scores; StudyError where it is missing or damaged."""
    file = ScoreFile(path)
    return file.read({name: name for name in file.names})


# --- runs and results


@dataclass(frozen=True, eq=False)
class Spec:
    """What a run is a function of: its parameters, its code's version, and the runs that it builds on.

    Equal digests mean the same run. `params` are plain JSON values; the kind is the name of a folder.
    """

    kind: str
    params: dict[str, Any]
    version: str | int
    inputs: tuple["Spec", ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "params", plain(self.params, f"{self.kind} params"))

    @property
    def record(self) -> dict[str, Any]:
        """What is written of the spec: kind, params, version, and the digests of the inputs."""
        inputs = [spec.digest for spec in self.inputs]
        return {"kind": self.kind, "params": self.params, "version": self.version, "inputs": inputs}

    @cached_property
    def digest(self) -> str:
        """The name of the run, by its record."""
        return digest_of(self.record)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Spec) and other.digest == self.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def __str__(self) -> str:
        """The run in a few words, as progress and errors name it."""
        labels = self.params.get("labels", self.params)
        names = ("task", "method", "objective", "objective_options", "links", "stage")
        words = [self.kind, *(str(labels[name]) for name in names if labels.get(name))]
        return " ".join(words) + (f", seed {labels['seed']}" if "seed" in labels else "")


def digest_of(record: Mapping[str, Any]) -> str:
    """The digest of a run by its record, whatever else this holds."""
    return json_digest({key: record[key] for key in ("kind", "params", "version", "inputs")})


class Result:
    """What a run has left: `values` (plain JSON), per-example `scores`, files, and how it came about.

    `record` is the content of its result.json. A published run has no directory; its scores are read apart.
    """

    def __init__(
        self, digest: str, record: dict[str, Any], directory: Path | None = None,
        read_scores: Callable[[], dict[str, np.ndarray]] | None = None,
    ) -> None:  # fmt: skip
        self.digest, self.record, self.directory, self._read_scores = digest, record, directory, read_scores
        self.kind: str = record["kind"]
        self.params: dict[str, Any] = record["params"]
        self.values: dict[str, Any] = record["values"]
        self.seconds: float = record["seconds"]

    @property
    def labels(self) -> dict[str, Any]:
        """The flat description of the run (objective, method, task, seed ...) that its builder returned."""
        return self.values.get("labels", {})

    @cached_property
    def scores(self) -> dict[str, np.ndarray]:
        """Setting -> array (N,) of per-example scores, higher is better; empty where the run has none."""
        if self._read_scores:
            return self._read_scores()
        return load_scores(self.file(SCORES)) if SCORES in self.record["files"] else {}

    def file(self, name: str) -> Path:
        """The path of one of the run's files, its digest checked once per process."""
        if self.directory is None:
            run = f"{self.kind} {self.digest}"
            raise StudyError(f"{run}: published evidence has no files: compute the run anew with --fresh")
        path = self.directory / name
        if not _is_whole(path, **self.record["files"][name]):
            again = "run the same command again: it moves the damaged run aside and computes it anew"
            raise StudyError(f"{path}: the file is missing or damaged: {again}")
        return path


# --- published evidence


def publish(results: Iterable[Result], folder: str | Path) -> None:
    """Write runs.json and scores.npz: what is needed to repeat the statistics of the runs without training.

    `weights` has the digests of a run's weights and of those that it was trained from, `cpu` its processor:
    runs of one seed are paired only where they were trained from the same weights. Runs published before
    these were recorded have neither. The same results give the same bytes; what the folder held before is
    replaced.
    """
    runs, scores = {}, {}
    for result in results:
        record = result.record
        kept = ("kind", "params", "version", "inputs", "seconds", "weights", "cpu")
        entry = {name: record[name] for name in kept if name in record}
        if "environment" in record:
            entry["cpu"] = record["environment"].get("cpu")
        values = {name: value for name, value in result.values.items() if name != "labels"}
        entry |= {"labels": result.labels, "values": values, "files": sorted(record["files"])}
        runs[result.digest] = entry | {"scores": len(result.scores)}
        scores |= {f"{result.digest}/{name}": array for name, array in result.scores.items()}
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_scores(folder / SCORES, scores)
    write_json(folder / RUNS, runs)


def read_published(folder: str | Path) -> dict[str, Result]:
    """The runs that `publish` wrote, by digest; StudyError where a file is damaged or edited by hand."""
    path, file = Path(folder) / RUNS, ScoreFile(Path(folder) / SCORES)
    names: dict[str, dict[str, str]] = defaultdict(dict)
    for name in file.names:
        digest, _, setting = name.partition("/")
        names[digest][setting] = name
    results = {}
    with _reading(path, "published runs"):
        for digest, entry in read_json(path).items():
            if digest != digest_of(entry) or len(names[digest]) != entry["scores"]:
                wrong = f"run {digest} does not fit its digest or its scores"
                raise StudyError(f"{path}: {wrong}: publish it anew")
            labels = {"labels": entry["labels"]} if entry["labels"] else {}
            record = entry | {"values": entry["values"] | labels, "files": dict.fromkeys(entry["files"])}
            record["seconds"] = float(entry["seconds"])
            results[digest] = Result(digest, record, read_scores=partial(file.read, names[digest]))
    if lost := names.keys() - results.keys():
        raise StudyError(f"{path}: run {min(lost)} is not there, but its scores are: publish it anew")
    return results


# --- the store


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
        folders = [folder for folder in reversed(self._folders) if (folder / RUNS).exists()]
        return {digest: run for folder in folders for digest, run in read_published(folder).items()}

    def path(self, spec: Spec) -> Path:
        """The directory of the run, which is there only when the run is complete."""
        return self.root / spec.kind / spec.digest

    def partial(self, spec: Spec) -> Path:
        """The directory in which the run is being built; checkpoints in it outlive a killed process."""
        return self.root / ".partial" / f"{spec.kind}-{spec.digest}"

    def status(self, spec: Spec, whole: bool = False) -> str:
        """One of "done", "published", "failed", "missing".

        whole: whether "done" takes every file's digest, each looked at once per process, and not only its
        size and the digest of its scores. A damaged run counts as missing: `compute` moves it aside.
        """
        if self._finished(self.path(spec), whole):
            return "done"
        if spec.digest in self._published:
            return "published"
        return "failed" if self.failure(spec) else "missing"

    def result(self, spec: Spec) -> Result:
        """The finished or published run; StudyError where there is none."""
        result = self._finished(self.path(spec)) or self._published.get(spec.digest)
        if result is None:
            why = self.failure(spec) or "`xlt run` computes it"
            raise StudyError(f"{spec} ({self.path(spec)}): the run is {self.status(spec)}: {why}")
        return result

    def results(self) -> Iterator[Result]:
        """All finished runs of the store."""
        return filter(None, (self._finished(path.parent) for path in self.root.glob(f"[!.]*/*/{RECORD}")))

    def failure(self, spec: Spec) -> str:
        """The error with which the last attempt at the run ended, or an empty text."""
        with contextlib.suppress(StudyError, AttributeError):  # a damaged note is none
            return read_json(self.partial(spec) / FAILED, {}).get("error", "")
        return ""

    def compute(self, spec: Spec, build: Callable[[Path], dict], files: bool = False) -> Result:
        """The run's result: taken from the store or the published evidence, or built now.

        build : called with the directory for the run's files, which holds what a killed attempt left there;
            returns the run's values. Per-example scores are the file `scores.npz` of `save_scores`.
        files : whether the caller reads the run's files. Published evidence has none, so it then does not do.
        """
        directory = self.path(spec)
        if result := self._finished(directory, whole=True):
            return result
        if not files and spec.digest in self._published:
            return self._published[spec.digest]
        lock = self.root / ".locks" / f"{spec.digest}.lock"
        with system_errors(self.root):
            lock.parent.mkdir(parents=True, exist_ok=True)
            with filelock.FileLock(lock):  # the system releases it when its process dies
                if result := self._finished(directory, whole=True):  # it came while this process waited
                    return result
                if directory.exists():
                    aside = self.root / ".corrupt" / f"{spec.kind}-{spec.digest}-{time.time_ns()}"
                    aside.parent.mkdir(exist_ok=True)
                    directory.rename(aside)
                    message = f"{directory} was damaged: moved to {aside} and computed anew"
                    warnings.warn(message, stacklevel=2)
                return self._build(spec, build)

    def _finished(self, directory: Path, whole: bool = False) -> Result | None:
        """The run that is complete in a directory: all files in full size, and with the digests that matter.

        Those are the digests of the record and of the scores, or of all files where they are to be `whole`.
        """
        try:
            record = read_json(directory / RECORD)
            complete = record.pop("seal") == json_digest(record) and all(
                _is_whole(directory / name, **entry, contents=whole or name == SCORES)
                for name, entry in record["files"].items()
            )
        except (StudyError, KeyError, TypeError, AttributeError):
            return None
        return Result(directory.name, record, directory) if complete else None

    def _build(self, spec: Spec, build: Callable[[Path], dict]) -> Result:
        partial, final = self.partial(spec), self.path(spec)
        partial.mkdir(parents=True, exist_ok=True)
        (partial / RECORD).unlink(missing_ok=True)  # of a process killed before the rename
        begun, spent = partial / ".begun", 0.0  # dated as the last attempt; holds the seconds of those before
        if begun.exists():  # an attempt counts up to what it wrote last, such as a checkpoint
            last = max(path.stat().st_mtime for path in partial.rglob("*"))
            spent = float(begun.read_text()) + last - begun.stat().st_mtime
        write_bytes(begun, str(spent).encode())
        start = time.perf_counter()
        try:
            values = plain(build(partial), f"{spec.kind} values")
        except Exception as error:
            with contextlib.suppress(OSError):
                report = {"kind": spec.kind, "params": spec.params, "traceback": traceback.format_exc()}
                write_json(partial / FAILED, report | {"error": f"{type(error).__name__}: {error}"})
            raise
        seconds, files = round(spent + time.perf_counter() - start, 3), {}
        for path in sorted(path for path in partial.rglob("*") if path.is_file()):
            if path.name.startswith("."):  # how an attempt failed, or what it was writing aside when killed
                path.unlink()
                continue
            flush(path)
            name = path.relative_to(partial).as_posix()
            files[name] = {"size": path.stat().st_size, "sha256": sha256_file(path)}
        # the weights of the run and of all that it was trained from: a spec does not say on which processor
        weights: dict[str, str] = {}
        for source in spec.inputs:
            result = self._finished(self.path(source)) or self._published.get(source.digest)
            weights |= result.record.get("weights", {}) if result else {}
        if WEIGHTS in files:
            weights[spec.digest] = files[WEIGHTS]["sha256"][:16]
        record = spec.record | {"values": values, "seconds": seconds, "files": files, "weights": weights}
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB, on a Mac bytes
        record["memory_mb"] = {"cpu": round(memory / (2**20 if sys.platform == "darwin" else 2**10))}
        record["environment"] = environment()
        sealed = record | {"seal": json_digest(record)}  # shows damage to the record itself
        write_json(partial / RECORD, sealed)
        final.parent.mkdir(exist_ok=True)
        partial.rename(final)
        flush(final.parent)
        return Result(spec.digest, record, final)


# --- the machine


def environment() -> dict[str, Any]:
    """What numbers may depend on besides a run's spec: versions, processor, threads, GPU."""
    told: dict[str, Any] = {"python": platform.python_version(), "machine": platform.machine()}
    for name in ("torch", "transformers", "tokenizers", "numpy", "scipy"):
        told[name] = importlib.metadata.version(name)
    told["cpu"] = processor(Path("/proc/cpuinfo"))
    told["cores"] = os.cpu_count()
    if torch := sys.modules.get("torch"):  # a run without torch does not wait for its import
        told["threads"] = torch.get_num_threads()
        told["gpu"] = torch.cuda.get_device_name() if torch.cuda.is_initialized() else None
    return told


def processor(file: Path) -> str:
    """The processor's name and its widest vectors, by the file of a Linux kernel: "AMD EPYC, avx2".

    Sums are ordered by the width of vectors, and clouds give processors of several widths one name.
    """
    text = file.read_text() if file.is_file() else ""
    model = re.search(r"^model name\s*:(.*)$", text, re.MULTILINE)
    flags = re.search(r"^flags\s*:(.*)$", text, re.MULTILINE)
    widest = [name for name in VECTORS if flags and name in flags[1].split()][:1]
    return ", ".join([(model[1].strip() if model else platform.processor()) or "unknown", *widest])


def commit(folder: Path) -> str:
    """The commit that a folder's repository stands at, with `+` where files were changed; "" without one."""
    command = ["git", "-C", str(folder), "describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*"]
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    return ""


@contextlib.contextmanager
def system_errors(place: Path) -> Iterator[None]:
    """Tell of a full disk, or of what cannot be written below `place`, as a StudyError with its cure."""
    try:
        yield
    except StudyError:
        raise
    except Exception as error:
        cause: BaseException | None = error
        while cause:  # some libraries have the system's error behind their own, or in words only
            number, named = getattr(cause, "errno", None), getattr(cause, "filename", None)
            if number in FULL or "No space left on device" in str(cause):
                cure = "make room or name another folder, then run the same command again: it resumes"
                raise StudyError(f"{place}: the disk is full: {cure}") from error
            if number in DENIED and named and Path(named).absolute().is_relative_to(place.absolute()):
                cure = "make it writable, or work in a copy of the study's folder (XLT_ROOT)"
                raise StudyError(f"{place}: cannot be written: {cause.strerror}: {cure}") from error
            cause = cause.__cause__ or cause.__context__
        raise
