"""What a run is (its spec), what it leaves (its result), and how results are published."""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from xltlib import StudyError
from xltlib.files import canonical, load_scores, plain, read_json, save_scores, sha256_file, write_json

RECORD, SCORES, RUNS = "result.json", "scores.npz", "runs.json"
WEIGHTS = "model.safetensors"  # the file of a trained model

_verified: set[Path] = set()  # files whose digest this process has checked


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


class Result:
    """What a run has left: `values` (plain JSON), per-example `scores`, files, and how it came about.

    `record` is the content of its result.json; `origin` is "computed" (just now), "store" or "published".
    """

    def __init__(self, digest: str, record: dict, origin: str, directory: Path | None = None) -> None:
        self.digest, self.record, self.origin, self.directory = digest, record, origin, directory
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
        if self.directory is None:
            raise StudyError(f"{self.kind} {self.digest}: its scores were not read")
        return load_scores(self.file(SCORES)) if SCORES in self.record["files"] else {}

    def file(self, name: str) -> Path:
        """The path of one of the run's files, its digest checked once per process."""
        run = f"{self.kind} {self.digest}"
        if self.directory is None:
            raise StudyError(f"{run}: published evidence has no files: compute the run anew with --fresh")
        if name not in self.record["files"]:
            raise StudyError(f"{run}: it has no file {name!r}, only {sorted(self.record['files'])}")
        path = self.directory / name
        if path not in _verified:
            if not path.is_file() or sha256_file(path) != self.record["files"][name]["sha256"]:
                again = "run the same command again: it moves the damaged run aside and computes it anew"
                raise StudyError(f"{path}: the file is missing or damaged: {again}")
            _verified.add(path)
        return path


def publish(results: Iterable[Result], folder: str | Path) -> None:
    """Write runs.json and scores.npz: what is needed to repeat the statistics of the runs without training.

    `weights` has the digests of a run's weights and of those that it was trained from, `cpu` its processor:
    runs of one seed are paired only where they were trained from the same weights. Runs published before
    these were recorded have neither. The same results give the same bytes; what the folder held before is
    replaced.
    """
    runs, scores = {}, {}
    for result in results:
        names = {f"{result.digest}/{setting}": array for setting, array in result.scores.items()}
        entry = {k: result.record[k] for k in ("kind", "params", "version", "inputs", "seconds")}
        others = {k: v for k, v in result.values.items() if k != "labels"}
        entry |= {"labels": result.labels, "values": others, "files": sorted(result.record["files"])}
        entry |= {k: result.record[k] for k in ("weights", "cpu") if k in result.record}
        if "environment" in result.record:
            entry["cpu"] = result.record["environment"].get("cpu")
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
    scores: dict[str, dict[str, np.ndarray]] = {}
    for name, array in load_scores(Path(folder) / SCORES).items():
        digest, _, setting = name.partition("/")
        scores.setdefault(digest, {})[setting] = array
    return {digest: _published(digest, entry, scores, path) for digest, entry in entries.items()}


def digest_of(record: dict[str, Any]) -> str:
    """The first 16 hex digits of the SHA-256 of a run's kind, params, version and inputs (digests)."""
    content = {key: record[key] for key in ("kind", "params", "version", "inputs")}
    return hashlib.sha256(canonical(content, record["kind"])).hexdigest()[:16]


def _published(digest: str, entry: dict, scores: dict[str, dict], path: Path) -> Result:
    found = scores.get(digest, {})
    try:
        if digest != digest_of(entry) or len(found) != entry["scores"]:
            raise StudyError(f"{path}: run {digest} does not fit its digest or its scores: publish it anew")
        labels = {"labels": entry["labels"]} if entry["labels"] else {}
        record = entry | {"values": entry["values"] | labels, "files": {name: {} for name in entry["files"]}}
        result = Result(digest, record, "published")
    except (KeyError, TypeError) as error:
        raise StudyError(f"{path}: the entry of run {digest} is incomplete: {error!r}") from None
    result.scores = found
    return result
