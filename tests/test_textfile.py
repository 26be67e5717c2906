"""Text files from outside: the forms that are read, and what is refused by name."""

import codecs
import gzip
import os
import subprocess

import pytest
from official import write

from xltlib import StudyError
from xltlib.textfile import excerpt, parse_json, read_lines, read_text, stream_lines

FORMS = {  # what a file may be packed and encoded in, without a change of its text
    "plain": str.encode,
    "gzip": lambda text: gzip.compress(text.encode()),
    "byte order mark": lambda text: codecs.BOM_UTF8 + text.encode(),
    "CRLF": lambda text: text.replace("\n", "\r\n").encode(),
}
UNREADABLE = {  # what is refused -> the words that name it
    "latin-1": ("die Tür ||| x\n".encode("latin-1"), ":1: byte 0xfc is not UTF-8"),
    "a zero byte": (b"a ||| b\na\0 ||| c\n", ":2: control character U\\+0000"),
    "UTF-16": ("a ||| b\n".encode("utf-16"), ":1: byte 0xff is not UTF-8; unpack it, or convert it"),
    "UTF-16 without a mark": ("a ||| b\n".encode("utf-16-le"), ":1: control character U\\+0000"),
    "zip": (b"PK\x03\x04\x8a...", ":1: byte 0x8a is not UTF-8; unpack it"),
    "half a gzip file": (gzip.compress(os.urandom(999).hex().encode())[:500], "a truncated download"),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_text_is_read(tmp_path, form):
    path = write(tmp_path / "a", FORMS[form]("one\n\ntwö\u2028still\x1ctwo \ufeff\n"))
    assert read_lines(path) == ["one", "", "twö\u2028still\x1ctwo \ufeff"]
    assert [number for number, _ in stream_lines(path)] == [1, 2, 3]


def test_trailing_empty_lines_are_lines(tmp_path):
    assert read_lines(write(tmp_path / "a", "one\n\n\n")) == ["one", "", ""]
    assert read_lines(write(tmp_path / "b", "one\ntwo")) == ["one", "two"]
    assert read_text(write(tmp_path / "c", "one\r\ntwo\r\n")) == "one\ntwo"


@pytest.mark.parametrize("kind", UNREADABLE)
def test_what_cannot_be_read_is_named(tmp_path, kind):
    content, reason = UNREADABLE[kind]
    with pytest.raises(StudyError, match=f"a{reason}|a: .*{reason}"):
        read_text(write(tmp_path / "a", content))


def test_places_without_a_text(tmp_path):
    with pytest.raises(StudyError, match="absent: no such file"):
        read_text(tmp_path / "absent")
    with pytest.raises(StudyError, match="empty: the file is empty"):
        read_text(write(tmp_path / "empty", "\n \n"))
    with pytest.raises(StudyError, match="/dev/zero:1: control character"):  # without end
        read_text("/dev/zero")
    with pytest.raises(StudyError, match="cannot be read: Is a directory"):
        read_text(tmp_path)
    with pytest.raises(StudyError, match="cannot be read"):
        read_text(write(tmp_path / "plain", "x").rename(tmp_path / "plain.gz"))


def test_a_pipe_is_read(tmp_path):
    """As `xlt align <(zcat ...)` names it."""
    os.mkfifo(tmp_path / "pipe")
    writer = subprocess.Popen(["sh", "-c", f"echo a > {tmp_path / 'pipe'}"])
    assert read_lines(tmp_path / "pipe") == ["a"]
    assert writer.wait() == 0


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"a": 1,\n "b": }', r"f:4: not JSON: Expecting value"),
        ('{"a": {"b": 1, "c": 2, "b": 1}}', r"f:3: not read: 'b' stands twice in one object"),
        ("[" * 100_000 + "]" * 100_000, r"f:3: not read: maximum recursion depth"),
        ("1" * 5000, r"f:3: not read: Exceeds the limit"),
    ],
)
def test_json_that_is_refused(text, reason):
    with pytest.raises(StudyError, match=reason) as error:
        parse_json(text, "f", line=3)
    assert len(str(error.value)) < 300


def test_an_excerpt_is_short():
    assert excerpt(5) == "5"
    assert excerpt("a\nb") == "'a\\nb'"
    assert len(excerpt("x" * 10**6)) < 70
    assert len(excerpt(10**4000)) < 70
    assert excerpt([1, 2]) == "a list of 2"
    assert excerpt({"a": 1}) == "an object of 1"
