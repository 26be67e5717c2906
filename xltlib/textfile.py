"""Text files from outside, plain or gzip, in UTF-8: read, or refused with file and line."""

import gzip
import json
import sys
import zlib
from collections import Counter
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import Any

from xltlib import StudyError

GZIP = b"\x1f\x8b"  # how such a file begins
NUL = "control character U+0000; convert it to UTF-8"


def stream_lines(path: str | Path) -> Iterator[tuple[int, str]]:
    """(line number from 1, text without line end) of a file as it is read; `-` is standard input.

    Only LF and CRLF end a line (U+2028 and U+001C do not). A byte order mark is left out. StudyError for a
    file that is absent or truncated, for a byte that is not UTF-8 (as in other packings and encodings), and
    for U+0000, which no text has but UTF-16 without its mark.
    """
    name, number = "standard input" if str(path) == "-" else str(path), 0
    try:
        with sys.stdin.buffer if str(path) == "-" else open(path, "rb") as file:
            stream = BufferedReader(file)
            if name.endswith(".gz") or stream.peek(len(GZIP)).startswith(GZIP):
                stream = gzip.GzipFile(fileobj=stream)
            elif b"\0" in (start := stream.peek()) and b"\n" not in start:  # such a line may have no end
                raise StudyError(f"{name}:1: {NUL}")
            for number, line in enumerate(stream, start=1):
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                if "\0" in text:
                    raise StudyError(f"{name}:{number}: {NUL}")
                yield number, text[:-2] if text.endswith("\r\n") else text.removesuffix("\n")
    except FileNotFoundError:
        raise StudyError(f"{name}: no such file") from None
    except UnicodeDecodeError as error:
        found = f"byte 0x{error.object[error.start]:02x} is not UTF-8"
        raise StudyError(f"{name}:{number}: {found}; unpack it, or convert it to UTF-8") from None
    except (EOFError, zlib.error, OSError) as error:
        reason = getattr(error, "strerror", None) or f"{error}; a truncated download? fetch it again"
        raise StudyError(f"{name}: cannot be read: {reason}") from None


def read_lines(path: str | Path) -> list[str]:
    """The lines of a file, empty ones too; StudyError where all are blank."""
    lines = [line for _, line in stream_lines(path)]
    if not any(line.strip() for line in lines):
        raise StudyError(f"{path}: the file is empty")
    return lines


def read_text(path: str | Path) -> str:
    """The text of a file, its lines ended by LF."""
    return "\n".join(read_lines(path))


def parse_json(text: str, name: str, line: int = 1) -> Any:
    """The value of a JSON text that begins at a line of the file `name`.

    StudyError for what is not JSON, a key that an object has twice, and depths or numbers beyond what Python
    reads.
    """
    try:
        return json.loads(text, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        raise StudyError(f"{name}:{line + error.lineno - 1}: not JSON: {error.msg}") from None
    except (RecursionError, ValueError) as error:
        raise StudyError(f"{name}:{line}: not read: {error}") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        repeated = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"{excerpt(repeated)} stands twice in one object; each key is expected once")
    return table


def excerpt(value: Any, width: int = 60) -> str:
    """A value as an error message shows it: one line, not much longer than `width` characters."""
    if isinstance(value, list | dict):
        return f"{'a list' if isinstance(value, list) else 'an object'} of {len(value)}"
    text = repr(value[: width + 1] if isinstance(value, str) else value)
    return text if len(text) <= width else text[:width] + "…"
