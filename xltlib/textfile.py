"""Text files from outside, plain or gzip, in UTF-8 or UTF-16: read, or refused with file and line."""

import gzip
import json
import sys
import zlib
from collections import Counter
from collections.abc import Iterator
from io import BufferedReader, TextIOWrapper
from pathlib import Path
from typing import Any, BinaryIO

from xltlib import StudyError

OTHER_FORMATS = {b"PK\x03\x04": "a zip archive", b"\xfd7zXZ": "an xz file", b"BZh": "a bzip2 file"}
GZIP, UTF_16 = b"\x1f\x8b", (b"\xff\xfe", b"\xfe\xff")


def stream_lines(path: str | Path) -> Iterator[tuple[int, str]]:
    """(line number from 1, text without line end) of a file as it is read; `-` is standard input.

    Only LF and CRLF end a line (U+2028 and U+001C do not). A byte order mark is left out.

    Raises
    ------
    StudyError
        For a file that is absent, packed in another way than gzip, or truncated; for a byte that is not
        UTF-8; and for U+0000, which no text has but UTF-16 without its mark.
    """
    name, number = "standard input" if str(path) == "-" else str(path), 1
    try:
        with sys.stdin.buffer if str(path) == "-" else open(path, "rb") as stream:
            for number, line in enumerate(_byte_lines(stream, name), start=1):
                text = line.decode("utf-8")
                if "\0" in text:
                    cure = "UTF-16 without a byte order mark, or no text: convert it to UTF-8"
                    raise StudyError(f"{name}:{number}: control character U+0000; {cure}")
                yield number, text[:-2] if text.endswith("\r\n") else text.removesuffix("\n")
    except FileNotFoundError:
        raise StudyError(f"{name}: no such file") from None
    except UnicodeDecodeError as error:
        byte, encoding = error.object[error.start], error.encoding[:6].upper()
        found = f"byte 0x{byte:02x} is not {encoding}"
        raise StudyError(f"{name}:{number}: {found}; convert it to UTF-8") from None
    except (EOFError, zlib.error, OSError) as error:
        reason = getattr(error, "strerror", None) or f"{error}; a truncated download? fetch it again"
        raise StudyError(f"{name}: cannot be read: {reason}") from None


def _byte_lines(stream: BinaryIO, name: str) -> Iterator[bytes]:
    """The lines of a file in UTF-8, whatever it is packed and encoded in."""
    stream = stream if isinstance(stream, BufferedReader) else BufferedReader(stream)
    head = stream.peek(8)
    if head.startswith(GZIP) or name.endswith(".gz"):
        stream = BufferedReader(gzip.GzipFile(fileobj=stream))
        head = stream.peek(8)
    other = next((text for magic, text in OTHER_FORMATS.items() if head.startswith(magic)), None)
    if other:
        raise StudyError(f"{name}: {other} found, text or gzip expected; unpack it first")
    if head[:2] in UTF_16:
        yield from (line.encode() for line in TextIOWrapper(stream, "utf-16", newline="\n"))
        return
    if head.startswith(b"\xef\xbb\xbf"):
        stream.read(3)
    yield from stream


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

    Raises StudyError for text that is not JSON, a key that an object has twice, and depths or numbers beyond
    what Python reads.
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
