"""Keyboard layouts, and what one finger does to one character: a key missed, struck twice, or struck beside.

A character is a grapheme cluster and is typed by one key or several: a letter and its marks, the letters of a
Hangul syllable. Layouts are in keyboards.json: layers (plain, shifted) of four rows from the number row down,
"_" for a key that types no letter.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

import numpy as np

from xltlib import StudyError

STAGGER = (
    -1.0,
    0.5,
    0.75,
    1.25,
)  # x of the first key of each row, in key widths: the usual staggered keyboard
SAME_ROW = 0.9  # share of slips within the row, the rest to the next rows: default of cisnlp/multypo (9:1)

_LEADS = "ㄱㄲㄴㄷㄸㄹㅁㅂㅃㅅㅆㅇㅈㅉㅊㅋㅌㅍㅎ"
_VOWELS = "ㅏㅐㅑㅒㅓㅔㅕㅖㅗㅘㅙㅚㅛㅜㅝㅞㅟㅠㅡㅢㅣ"
_TAILS = "ㄱㄲㄳㄴㄵㄶㄷㄹㄺㄻㄼㄽㄾㄿㅀㅁㅂㅄㅅㅆㅇㅈㅊㅋㅌㅍㅎ"
# Letters that carry no vowel sign (Thai, Devanagari): they never take the place of a letter that does.
_BARE = frozenset("ะาๅเแโใไๆ" + "अआइईउऊऋऎएऐऑऒओऔ")


@dataclass(frozen=True, eq=False)
class Keyboard:
    """The keys next to each letter or mark, in its own row (`beside`) and in the next rows (`across`)."""

    name: str
    beside: Mapping[str, tuple[str, ...]]
    across: Mapping[str, tuple[str, ...]]

    def neighbours(self, key: str) -> tuple[str, ...]:
        """All keys next to `key`; none for a character without a key."""
        return self.beside.get(key, ()) + self.across.get(key, ())


@cache
def _layouts() -> dict[str, dict]:
    return json.loads(Path(__file__).with_name("keyboards.json").read_text(encoding="utf-8"))


def keyboard_languages() -> tuple[str, ...]:
    """Codes of the languages that have a keyboard."""
    return tuple(sorted(_layouts()))


@cache
def keyboard_for(language: str) -> Keyboard:
    """The usual keyboard of a language, by its two-letter code; StudyError for a language without one.

    A slip stays in its layer. A layout without Latin letters gets the US layout too, for Latin words in the
    text.
    """
    if language not in _layouts():
        known = " ".join(keyboard_languages())
        raise StudyError(
            f"keyboard: no layout for language {language!r}; known: {known}; or make one by layout()"
        )
    entry = _layouts()[language]
    layers = entry["layers"]
    if not any("a" in row.split() for row in layers[0]):
        layers = layers + _layouts()["en"]["layers"]
    return _from_layers(language, [[row.split() for row in rows] for rows in layers], entry.get("upper", {}))


def layout(alphabet: Iterable[str], rng: np.random.Generator, name: str = "synthetic") -> Keyboard:
    """A keyboard for a synthetic script: its letters, single characters, in random order on three rows."""
    letters = list(alphabet)
    if len(set(letters)) < len(letters) or len(letters) < 2 or any(len(letter) != 1 for letter in letters):
        raise StudyError(f"layout: expected two or more different single characters, found {letters!r}")
    order = [letters[i] for i in rng.permutation(len(letters))]
    size = -(-len(order) // 3)
    return _from_layers(name, [[[], order[:size], order[size : 2 * size], order[2 * size :]]], {})


def _from_layers(name: str, layers: list[list[list[str]]], upper: Mapping[str, str]) -> Keyboard:
    """Neighbours are one key away in the row, or less than one key width to the side in the next row."""
    beside, across = {}, {}
    for rows in layers:
        keys = [
            (y, STAGGER[y] + i, key) for y, row in enumerate(rows) for i, key in enumerate(row) if key != "_"
        ]
        for row, x, key in keys:
            beside[key] = tuple(other for y, at, other in keys if y == row and abs(x - at) == 1)
            across[key] = tuple(other for y, at, other in keys if abs(y - row) == 1 and abs(x - at) < 1)
    # "ß" has no single capital, and the capital of "ς" is typed on the key of "σ".
    capital = {key: upper.get(key, key.upper()) for key in beside}
    capital = {k: c for k, c in capital.items() if c not in beside and (k in upper or c.lower() == k)}
    for table in (beside, across):
        table.update({c: tuple(capital[n] for n in table[k] if n in capital) for k, c in capital.items()})
    return Keyboard(name, beside, across)


def _is_syllable(char: str) -> bool:
    return len(char) == 1 and "가" <= char <= "힣"


def _is_mark(stroke: str) -> bool:
    return (
        stroke == "\u0e33" or unicodedata.category(stroke)[0] == "M"
    )  # Thai sara am joins the letter before it


def _strokes(char: str, keyboard: Keyboard) -> list[str]:
    """The keys that type a character; parts without a key of their own stand for themselves."""
    if char in keyboard.beside:
        return [char]
    if _is_syllable(char):
        lead, rest = divmod(ord(char) - ord("가"), 21 * 28)
        vowel, tail = divmod(rest, 28)
        return [_LEADS[lead], _VOWELS[vowel], *_TAILS[tail - 1 : tail]]
    parts = (c if c in keyboard.beside else unicodedata.normalize("NFD", c) for c in char)
    return [stroke for part in parts for stroke in part]


def _spell(strokes: list[str], char: str) -> str:
    """What `strokes` type in place of `char`, in NFC where `char` was."""
    if _is_syllable(char) and len(strokes) > 1:
        tail = _TAILS.index(strokes[2]) + 1 if len(strokes) > 2 else 0
        return chr(ord("가") + (_LEADS.index(strokes[0]) * 21 + _VOWELS.index(strokes[1])) * 28 + tail)
    text = "".join(strokes)
    return unicodedata.normalize("NFC", text) if unicodedata.is_normalized("NFC", char) else text


def _fits(new: str, place: int, strokes: list[str], char: str) -> bool:
    """Whether the key `new` leaves a well-formed character in place of `strokes[place]`."""
    if _is_syllable(char):
        return new in (_LEADS, _VOWELS, _TAILS)[place]
    old = strokes[place]
    if _is_mark(old) or _is_mark(new):  # a mark gives way to a mark of its own kind
        return _is_mark(old) and _is_mark(new) and unicodedata.combining(old) == unicodedata.combining(new)
    return len(strokes) == 1 or new not in _BARE


def _slip(beside: Sequence[str], across: Sequence[str], u: float) -> str:
    """A neighbouring key by one uniform number: of its row with chance SAME_ROW, else of the next rows."""
    if beside and across:
        own = u < SAME_ROW
        u = u / SAME_ROW if own else (u - SAME_ROW) / (1 - SAME_ROW)
        keys = beside if own else across
    else:
        keys = beside or across
    return keys[min(int(u * len(keys)), len(keys) - 1)]


@lru_cache(maxsize=1 << 14)
def _targets(char: str, keyboard: Keyboard) -> list[tuple[int, list[str], list[str]]]:
    """The strokes that a neighbour can stand for: their place, and the fitting keys beside and across."""
    strokes, found = _strokes(char, keyboard), []
    for place, stroke in enumerate(strokes):
        near = [table.get(stroke, ()) for table in (keyboard.beside, keyboard.across)]
        beside, across = ([key for key in keys if _fits(key, place, strokes, char)] for keys in near)
        if beside or across:
            found.append((place, beside, across))
    return found


def replace(char: str, keyboard: Keyboard, u: float) -> str | None:
    """One key struck beside, drawn by the uniform number `u`; None where no key has a neighbour.

    An accent without a key of its own goes when its letter is missed.
    """
    targets = _targets(char, keyboard)
    if not targets:
        return None
    which, u = int(u * len(targets)), u * len(targets) % 1
    place, beside, across = targets[which]
    strokes = _strokes(char, keyboard)
    strokes[place] = _slip(beside, across, u)
    if place == 0 and not _is_syllable(char):
        strokes[1:] = [mark for mark in strokes[1:] if mark in keyboard.beside]
    return _spell(strokes, char)


@lru_cache(maxsize=1 << 14)
def _extras(char: str, keyboard: Keyboard) -> tuple[str, list[str], list[str]]:
    """What may follow a character by mistake: it once more, the letters beside its last key and across."""
    strokes = _strokes(char, keyboard)
    stroke = strokes[-1] if _is_syllable(char) else strokes[0]
    near = [table.get(stroke, ()) for table in (keyboard.beside, keyboard.across)]
    beside, across = ([key for key in keys if not _is_mark(key)] for keys in near)
    return stroke if stroke in keyboard.beside and not _is_mark(stroke) else char, beside, across


def insert(char: str, keyboard: Keyboard, u: float) -> str:
    """The key struck twice or, as often, a neighbour after it; a character without a key is doubled."""
    again, beside, across = _extras(char, keyboard)
    if u < 0.5 and (beside or across):
        return char + _slip(beside, across, 2 * u)
    return char + again


def delete(char: str, keyboard: Keyboard, u: float) -> str:
    """The character's last key missed: its last mark or final consonant; one that has neither is gone."""
    strokes = _strokes(char, keyboard)
    if _is_syllable(char) and len(strokes) == 2:  # a missed vowel would leave a stray consonant
        return ""
    return _spell(strokes[:-1], char)
