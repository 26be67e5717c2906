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
import shutil
import subprocess
import sys
import time
import traceback
import warnings
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import filelock
import numpy as np

from xltlib import StudyError

RECORD, SCORES, RUNS, MANIFEST = "result.json", "scores.npz", "runs.json", "manifest.json"
WEIGHTS = "model.safetensors"  # the file of a trained model
PACKED = "lengths.json"  # in older score files: how many examples each array of packed bits holds
NO_SCORES = (zipfile.BadZipFile, zlib.error, EOFError, KeyError, TypeError, ValueError, OSError, MemoryError)

FULL = (errno.ENOSPC, errno.EDQUOT)
DENIED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR)

_verified: set[tuple] = set()  # files (path, size, time of change) whose digest this process has checked


# --- files


def plain(value: Any, where: str = "value") -> Any:
    """`value` with tuples as lists, all else as it is; StudyError for what JSON cannot hold exactly."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise StudyError(f"{where}: {value} is not a number that JSON can hold: use None")
        return float(value)
    if isinstance(value, list | tuple):
        return [plain(item, f"{where}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise StudyError(f"{where}: the key {key!r} is not text")
        return {key: plain(item, f"{where}.{key}") for key, item in value.items()}
    raise StudyError(
        f"{where}: {type(value).__name__} is not plain JSON: use bool, int, float, str, list, dict"
    )


def canonical(value: Any, where: str = "value") -> bytes:
    """The one JSON text of a value, checked to be plain: keys sorted, no spaces, ASCII."""
    return _text(plain(value, where))


def _text(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode("ascii")


def write_json(path: str | Path, obj: Any) -> None:
    """Write `obj` as JSON, whole or not at all, the same bytes for the same content."""
    text = json.dumps(plain(obj, Path(path).name), indent=1, sort_keys=True, ensure_ascii=False)
    write_bytes(path, (text + "\n").encode())


def read_json(path: str | Path) -> Any:
    """The content of a JSON file; StudyError where it is missing or not JSON."""
    try:
        return json.loads(Path(path).read_bytes())
    except FileNotFoundError:
        raise StudyError(f"{path}: there is no such file") from None
    except (ValueError, RecursionError, OSError) as error:
        raise StudyError(f"{path}: cannot be read as JSON: {error}") from None


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write a file aside, flush it to the disk, then rename it: a reader never sees half of it."""
    path = Path(path)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(aside, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def seal(record: Mapping[str, Any]) -> str:
    """Digest of a record without its seal: shows damage to the record itself."""
    return hashlib.sha256(canonical({k: v for k, v in record.items() if k != "seal"})).hexdigest()[:16]


def sha256_file(path: str | Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_problems(folder: Path, digests: Mapping[str, str], listing: str) -> Iterator[str]:
    """The files of a folder that are missing, foreign or changed, by their digests in its file `listing`."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    present = {path.relative_to(folder).as_posix() for path in paths} - {listing}
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

    Parameters
    ----------
    path : file to write.
    scores : name -> array (N,) of values in [0, 1], higher is better. Where all are 0 or 1 they are kept as
        they are; others are rounded to float16 (error below 0.00025).

    Raises StudyError for another shape, a value outside [0, 1], or NaN.
    """
    arrays = {}
    for name in sorted(scores):
        array = np.asarray(scores[name])
        if array.ndim != 1 or array.dtype.kind not in "biuf":
            found = f"{array.dtype} {array.shape}"
            raise StudyError(f"scores {name!r}: expected numbers of shape (N,), found {found}")
        if not ((array >= 0) & (array <= 1)).all():  # false for NaN too
            found = f"{array.min()} to {array.max()}"
            raise StudyError(f"scores {name!r}: expected values in [0, 1], found {found}")
        arrays[name] = array.astype(bool if np.isin(array, (0, 1)).all() else "<f2")
    data = io.BytesIO()
    np.savez_compressed(data, **arrays)  # its members are all dated 1980
    write_bytes(path, data.getvalue())


class ScoreFile:
    """The arrays that `save_scores` wrote, each read when asked for; StudyError where one is damaged."""

    def __init__(self, path: str | Path) -> None:
        self.path = path
        with self._errors():
            self._file = np.load(path, allow_pickle=False)
            if not isinstance(self._file, np.lib.npyio.NpzFile):
                raise ValueError("a single array")
            self._packed = json.loads(self._file[PACKED]) if PACKED in self._file.files else {}
        self.names = [name for name in self._file.files if name != PACKED]

    def read(self, names: Mapping[str, str]) -> dict[str, np.ndarray]:
        """Some scores (N,), float64, under other names: name -> name in the file."""
        with self._errors():
            return {name: self._array(own).astype(np.float64) for name, own in names.items()}

    def _array(self, name: str) -> np.ndarray:
        array, count = self._file[name], self._packed.get(name)
        if count is None:
            return array
        if array.size != (count + 7) // 8:
            raise ValueError(f"{name}: {array.size} bytes for {count} examples")
        return np.unpackbits(array, count=count)

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise StudyError(f"{self.path}: there is no such file") from None
        except NO_SCORES as error:
            raise StudyError(f"{self.path}: not a file of scores, or damaged: {error}") from None


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
        if not re.fullmatch(r"[a-z][a-z0-9_-]*", self.kind):
            raise StudyError(f"kind of run {self.kind!r}: expected small letters, digits, - and _")
        object.__setattr__(self, "params", plain(self.params, f"{self.kind} params"))
        object.__setattr__(self, "inputs", tuple(self.inputs))

    @cached_property
    def digest(self) -> str:
        """The name of the run: 16 hex digits of a hash over the record."""
        return digest_of(self.record)

    @property
    def record(self) -> dict[str, Any]:
        """What is written of the spec: kind, params, version, and the digests of the inputs."""
        inputs = [spec.digest for spec in self.inputs]
        return {"kind": self.kind, "params": self.params, "version": self.version, "inputs": inputs}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Spec) and other.digest == self.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def __str__(self) -> str:
        return f"{self.kind} {self.digest}"


def digest_of(record: Mapping[str, Any]) -> str:
    """The first 16 hex digits of the SHA-256 of a run's kind, params, version and inputs (digests)."""
    content = {key: record[key] for key in ("kind", "params", "version", "inputs")}
    return hashlib.sha256(_text(content)).hexdigest()[:16]


class Result:
    """What a run has left: `values` (plain JSON), per-example `scores`, files, and how it came about.

    `record` is the content of its result.json; `origin` is "computed" (just now), "store" or "published".
    """

    def __init__(
        self,
        digest: str,
        record: dict[str, Any],
        origin: str,
        directory: Path | None = None,
        read_scores: Callable[[], dict[str, np.ndarray]] | None = None,
    ) -> None:
        self.digest, self.record, self.origin, self.directory = digest, record, origin, directory
        self.kind: str = record["kind"]
        self.params: dict[str, Any] = record["params"]
        self.values: dict[str, Any] = record["values"]
        self.seconds: float = record["seconds"]
        self._read_scores = read_scores or self._scores_of_file

    @property
    def labels(self) -> dict[str, Any]:
        """The flat description of the run (objective, method, task, seed ...) that its builder returned."""
        return self.values.get("labels", {})

    @cached_property
    def scores(self) -> dict[str, np.ndarray]:
        """Setting -> array (N,) of per-example scores, higher is better; empty where the run has none."""
        return self._read_scores()

    def _scores_of_file(self) -> dict[str, np.ndarray]:
        return load_scores(self.file(SCORES)) if SCORES in self.record["files"] else {}

    def file(self, name: str) -> Path:
        """The path of one of the run's files, its digest checked once per process."""
        run = f"{self.kind} {self.digest}"
        if self.directory is None:
            raise StudyError(f"{run}: published evidence has no files: compute the run anew with --fresh")
        if name not in self.record["files"]:
            raise StudyError(f"{run}: it has no file {name!r}, only {sorted(self.record['files'])}")
        path = self.directory / name
        if not _is_whole(path, self.record["files"][name]["sha256"]):
            again = "run the same command again: it moves the damaged run aside and computes it anew"
            raise StudyError(f"{path}: the file is missing or damaged: {again}")
        return path


def _is_whole(path: Path, sha256: str) -> bool:
    """Whether a file has this digest; it is read once per process, and again when it was changed since."""
    try:
        stat = path.stat()
        key = (path, stat.st_size, stat.st_mtime_ns, sha256)
        if key not in _verified and sha256_file(path) == sha256:
            _verified.add(key)
        return key in _verified
    except OSError:
        return False


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
        record, names = result.record, {f"{result.digest}/{key}": x for key, x in result.scores.items()}
        entry = {k: record[k] for k in ("kind", "params", "version", "inputs", "seconds")}
        others = {k: v for k, v in result.values.items() if k != "labels"}
        entry |= {"labels": result.labels, "values": others, "files": sorted(record["files"])}
        entry |= {k: record[k] for k in ("weights", "cpu") if k in record}
        if "environment" in record:
            entry["cpu"] = record["environment"].get("cpu")
        runs[result.digest] = entry | {"scores": len(names)}
        scores |= names
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_scores(folder / SCORES, scores)
    write_json(folder / RUNS, runs)


def read_published(folder: str | Path) -> dict[str, Result]:
    """The runs that `publish` wrote, by digest; StudyError where a file is damaged or edited by hand."""
    path = Path(folder) / RUNS
    entries = read_json(path)
    if not isinstance(entries, dict):
        raise StudyError(f"{path}: expected runs by their digest, found a {type(entries).__name__}")
    file, names = ScoreFile(Path(folder) / SCORES), defaultdict(dict)
    for name in file.names:
        digest, _, setting = name.partition("/")
        names[digest][setting] = name
    results = {}
    for digest, entry in entries.items():
        try:
            if digest != digest_of(entry) or len(names[digest]) != entry["scores"]:
                raise StudyError(
                    f"{path}: run {digest} does not fit its digest or its scores: publish it anew"
                )
            labels = {"labels": entry["labels"]} if entry["labels"] else {}
            record = entry | {
                "values": entry["values"] | labels,
                "files": {name: {} for name in entry["files"]},
            }
        except (KeyError, TypeError) as error:
            raise StudyError(f"{path}: the entry of run {digest} is incomplete: {error!r}") from None
        results[digest] = Result(digest, record, "published", read_scores=partial(file.read, names[digest]))
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

    def status(self, spec: Spec, whole: bool = False) -> str:
        """One of "done", "published", "failed", "partial" (begun, or being built now), "missing".

        whole: whether "done" takes every file's digest, each looked at once per process, and not only its
        size and the digest of its scores. A damaged run counts as missing: `compute` moves it aside.
        """
        if self._finished(self.path(spec), None if whole else [SCORES]):
            return "done"
        if spec.digest in self._published:
            return "published"
        if self._failure(spec).exists():
            return "failed"
        return "partial" if self.partial(spec).exists() else "missing"

    def result(self, spec: Spec) -> Result:
        """The finished or published run; StudyError where there is none."""
        if result := self._finished(self.path(spec)):
            return result
        if spec.digest in self._published:
            return self._published[spec.digest]
        why = f": {self.failure(spec)}" if self._failure(spec).exists() else ""
        raise StudyError(f"{spec}: the run is {self.status(spec)} in {self.root}{why}")

    def failure(self, spec: Spec) -> str:
        """The error with which the last attempt at the run ended, or an empty text."""
        path = self._failure(spec)
        return read_json(path)["error"] if path.exists() else ""

    def compute(self, spec: Spec, build: Callable[[Path], dict], files: bool = False) -> Result:
        """The run's result: taken from the store or the published evidence, or built now.

        Parameters
        ----------
        build : called with the directory for the run's files, which holds what a killed attempt left there;
            returns the run's values. Per-example scores are the file `scores.npz` of `save_scores`.
        files : whether the caller reads the run's files. Published evidence has none, so it then does not do.
        """
        directory = self.path(spec)
        if result := self._finished(directory, None):
            return result
        if not files and spec.digest in self._published:
            return self._published[spec.digest]
        lock = self.root / ".locks" / f"{spec.digest}.lock"
        with system_errors(self.root):
            lock.parent.mkdir(parents=True, exist_ok=True)
            with filelock.FileLock(lock):  # the system releases it when its process dies
                if result := self._finished(directory, None):  # it came while this process waited
                    return result
                if directory.exists():
                    aside = self.root / ".corrupt" / f"{spec.kind}-{spec.digest}-{time.time_ns()}"
                    aside.parent.mkdir(exist_ok=True)
                    directory.rename(aside)
                    message = f"{directory} was damaged: moved to {aside} and computed anew"
                    warnings.warn(message, stacklevel=2)
                return self._build(spec, build)

    def results(self, kind: str = "*") -> Iterator[Result]:
        """All finished runs of the store, or those of one kind, in the order of their digests."""
        for path in sorted(self.root.glob(f"{kind}/*/{RECORD}")):
            result = self._finished(path.parent)
            if result and not path.parent.parent.name.startswith("."):
                yield result

    def _failure(self, spec: Spec) -> Path:
        return self.root / ".failed" / f"{spec.digest}.json"

    def _finished(self, directory: Path, checked: Collection[str] | None = ()) -> Result | None:
        """The run that is complete in a directory, with all its files in full size.

        checked: files whose digests are looked at too; all of them where it is None.
        """
        if not directory.exists():
            return None
        try:
            record = read_json(directory / RECORD)
            files = record["files"]
            whole = all((directory / name).stat().st_size == entry["size"] for name, entry in files.items())
            whole = whole and record["seal"] == seal(record)
        except (StudyError, OSError, KeyError, TypeError, AttributeError):
            return None
        names = files if checked is None else files.keys() & checked
        whole = whole and all(_is_whole(directory / name, files[name]["sha256"]) for name in names)
        return Result(directory.name, record, "store", directory) if whole else None

    def _build(self, spec: Spec, build: Callable[[Path], dict]) -> Result:
        partial, final = self.partial(spec), self.path(spec)
        partial.mkdir(parents=True, exist_ok=True)
        (partial / RECORD).unlink(missing_ok=True)  # of a process killed before the rename
        start = time.perf_counter()
        try:
            values = plain(build(partial), f"{spec.kind} values")
        except Exception as error:
            with contextlib.suppress(OSError):
                self._failure(spec).parent.mkdir(exist_ok=True)
                report = {"kind": spec.kind, "params": spec.params, "traceback": traceback.format_exc()}
                write_json(self._failure(spec), report | {"error": f"{type(error).__name__}: {error}"})
            raise
        seconds, files = round(time.perf_counter() - start, 3), {}
        for path in sorted(path for path in partial.rglob("*") if path.is_file()):
            if path.name.startswith("."):  # what a killed attempt was writing aside
                path.unlink()
                continue
            _sync(path)
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
        record |= {"memory_mb": peak_memory(), "environment": environment()}
        write_json(partial / RECORD, record | {"seal": seal(record)})
        final.parent.mkdir(exist_ok=True)
        partial.rename(final)
        _sync(final.parent)
        self._failure(spec).unlink(missing_ok=True)
        return Result(spec.digest, record, "computed", final)


def _sync(path: Path) -> None:
    """Have the system put a file or a folder's entries on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# --- the machine


def environment() -> dict[str, Any]:
    """What numbers may depend on besides a run's spec: versions, processor, threads, GPU."""
    found: dict[str, Any] = {"python": platform.python_version(), "machine": platform.machine()}
    for name in ("torch", "transformers", "tokenizers", "numpy", "scipy"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    found["cpu"], found["cores"] = _cpuinfo("model name") or platform.processor() or "unknown", os.cpu_count()
    torch = sys.modules.get("torch")  # a run without torch does not wait for its import
    if torch:
        found["threads"] = torch.get_num_threads()
        found["gpu"] = torch.cuda.get_device_name() if torch.cuda.is_initialized() else None
    return found


def commit(folder: Path) -> str:
    """The commit that a folder's repository stands at, with `+` where files were changed; "" without one."""
    command = ["git", "-C", str(folder), "describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*"]
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    return ""


def gpus() -> list[str]:
    """The GPUs that this process may use, as the variable CUDA_VISIBLE_DEVICES names them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [one.strip() for one in named.split(",") if one.strip()]
    import torch  # slow, and needless where the variable tells

    return [str(number) for number in range(torch.cuda.device_count())]


def fast_in_16_bits() -> bool:
    """Whether the processor says that it multiplies bfloat16 matrices (by AVX-512, AMX, or Arm)."""
    return bool({"avx512_bf16", "amx_bf16", "bf16"} & set(_cpuinfo("flags", "Features").split()))


def peak_memory() -> dict[str, int]:
    """The most memory that this process has held so far, MiB: `cpu`, and `gpu` where torch has used one."""
    unit = 2**20 if sys.platform == "darwin" else 2**10
    found = {"cpu": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit)}
    torch = sys.modules.get("torch")
    if torch and torch.cuda.is_initialized():
        found["gpu"] = round(torch.cuda.max_memory_allocated() / 2**20)
    return found


@contextlib.contextmanager
def system_errors(place: Path) -> Iterator[None]:
    """Tell of a full disk, or of what cannot be written below `place`, as a StudyError with its cure."""
    try:
        yield
    except StudyError:
        raise
    except Exception as error:
        causes: list[BaseException] = [error]  # some libraries have the system's error behind their own
        while behind := causes[-1].__cause__ or causes[-1].__context__:
            causes.append(behind)
        for cause in causes:
            number, named = getattr(cause, "errno", None), getattr(cause, "filename", None)
            if number in FULL or "No space left on device" in str(cause):  # or in words only
                folder = next(each for each in (place, *place.absolute().parents) if each.exists())
                told = f"the disk is full ({shutil.disk_usage(folder).free / 2**20:.0f} MiB free)"
                cure = "make room or name another folder, then run the same command again: it resumes"
            elif number in DENIED and named and Path(named).absolute().is_relative_to(place.absolute()):
                told = f"cannot be written: {cause.strerror}"
                cure = "make it writable, or work in a copy of the study's folder (XLT_ROOT)"
            else:
                continue
            raise StudyError(f"{place}: {told}: {cure}") from error
        raise


def _cpuinfo(*names: str) -> str:
    """The first value under one of these names in what the kernel tells of the processor; none: empty."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() in names:
                return value.strip()
    return ""
