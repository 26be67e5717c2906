"""Sentences cleaned and compared, and cut into words without a trained model."""

import html
import re
import unicodedata
from functools import cache

# Character ranges of the scripts written without spaces: Han, Kana, Thai.
UNSPACED = (
    "\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
    "\u3040-\u30ff\u31f0-\u31ff\uff66-\uff9f"
    "\u0e01-\u0e3a\u0e40-\u0e4e"
)


def clean(line: str, nfkc: bool = False) -> str:
    """A line without HTML escapes (`&quot;`, `&#91;`) and white space in a row; `nfkc` unifies variants."""
    while (plain := html.unescape(line)) != line:  # 3AM is escaped twice
        line = plain
    return " ".join((unicodedata.normalize("NFKC", line) if nfkc else line).split())


def overlap_key(sentence: str) -> str:
    """What copies of a sentence share: its letters and digits, without case, width and marks.

    Empty for a sentence without letters and digits, which therefore overlaps with nothing.
    """
    return re.sub(r"[\W_]+", "", unicodedata.normalize("NFKC", html.unescape(sentence)).casefold())


@cache
def _word_pattern() -> re.Pattern:
    """The rule of `token_spans`; `\\w` alone would cut Hindi and Arabic at their vowel signs."""
    plane = map(chr, range(0x10000))  # marks above it are of historic scripts
    marks = "".join(char for char in plane if unicodedata.category(char).startswith("M"))
    marks += "\u200c\u200d"  # zero-width joiners stand inside words
    return re.compile(rf"[{UNSPACED}][{marks}]*|(?:(?![{UNSPACED}])[\w{marks}])+|\S")


def token_spans(text: str) -> list[tuple[int, int]]:
    """The `(start, end)` character offsets of the words of a text.

    One letter of an unspaced script (Han, Kana, Thai) with its combining marks is a word; any other run of
    letters, marks and digits is a word; every other character that is not white space stands alone.
    """
    return [match.span() for match in _word_pattern().finditer(text)]


def simple_tokenize(text: str) -> list[str]:
    """The words of `token_spans`: `"don't 我们"` gives `["don", "'", "t", "我", "们"]`."""
    return [text[start:end] for start, end in token_spans(text)]
