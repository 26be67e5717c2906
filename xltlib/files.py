"""Files whose bytes depend on their content alone: JSON, digests, and per-example scores."""

import hashlib
import io
import json
import math
import os
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from xltlib import StudyError

_INDEX = "lengths.json"  # member of a score file: how many examples each packed array holds


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
    """The one JSON text of a plain value: keys sorted, no spaces, ASCII."""
    return json.dumps(plain(value, where), sort_keys=True, separators=(",", ":")).encode("ascii")


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


def sha256_file(path: str | Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def save_scores(path: str | Path, scores: Mapping[str, np.ndarray]) -> None:
    """Write per-example scores as an npz file, the same bytes for the same scores.

    Parameters
    ----------
    path : file to write.
    scores : name -> array (N,) of values in [0, 1], higher is better. Where all are 0 or 1 they are packed,
        8 to a byte, without loss; others are rounded to float16 (error below 0.00025).

    Raises StudyError for another shape, a value outside [0, 1], or NaN.
    """
    lengths, members = {}, []
    for name in sorted(scores):
        array = _valid(np.asarray(scores[name]), name)
        if np.isin(array, (0, 1)).all():
            lengths[name] = len(array)
            array = np.packbits(array.astype(bool))
        else:
            array = array.astype("<f2")
        buffer = io.BytesIO()
        np.lib.format.write_array(buffer, array, version=(1, 0), allow_pickle=False)
        members.append((name + ".npy", buffer.getvalue()))
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_STORED) as file:  # packed bits do not compress
        for name, content in [(_INDEX, canonical(lengths)), *members]:
            file.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), content)
    write_bytes(path, data.getvalue())


def load_scores(path: str | Path) -> dict[str, np.ndarray]:
    """The arrays (N,), float64, that `save_scores` wrote; StudyError where the file is missing or damaged."""
    scores = {}
    try:
        with zipfile.ZipFile(path) as file:
            lengths = json.loads(file.read(_INDEX))
            for member in file.namelist():
                if member == _INDEX:
                    continue
                name = member.removesuffix(".npy")
                array = np.lib.format.read_array(io.BytesIO(file.read(member)), allow_pickle=False)
                if name in lengths:
                    if array.size != (lengths[name] + 7) // 8:
                        raise ValueError(f"{name}: {array.size} bytes for {lengths[name]} examples")
                    array = np.unpackbits(array, count=lengths[name])
                scores[name] = array.astype(np.float64)
    except FileNotFoundError:
        raise StudyError(f"{path}: there is no such file") from None
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError, TypeError, ValueError, OSError) as error:
        raise StudyError(f"{path}: not a file of scores, or damaged: {error}") from None
    return scores


def _valid(array: np.ndarray, name: str) -> np.ndarray:
    if array.ndim != 1 or array.dtype.kind not in "biuf":
        raise StudyError(
            f"scores {name!r}: expected numbers of shape (N,), found {array.dtype} {array.shape}"
        )
    if not ((array >= 0) & (array <= 1)).all():  # false for NaN too
        raise StudyError(f"scores {name!r}: expected values in [0, 1], found {array.min()} to {array.max()}")
    return array
