"""Typing errors as a person makes them: in text of any script, and around the answers of a QA context.

Word substitution, code-switching and corrupted ids are in `substitution`, layouts in `keyboards`; their names
are also found here.
"""

from __future__ import annotations

import math
import re
import unicodedata
from bisect import bisect_right
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import accumulate
from typing import NamedTuple

import numpy as np
import regex

from xltlib import StudyError
from xltlib.noise import keyboards
from xltlib.noise.keyboards import Keyboard, keyboard_for, keyboard_languages, layout
from xltlib.noise.substitution import (
    check_rate,
    code_switch,
    corrupt_ids,
    rs_da,
    rs_da_copies,
    without_foreign,
)

__all__ = [
    "MIXES",
    "Edit",
    "Keyboard",
    "apply_edits",
    "code_switch",
    "corrupt_ids",
    "keyboard_for",
    "keyboard_languages",
    "layout",
    "noisy_span",
    "rs_da",
    "rs_da_copies",
    "typo",
    "typo_edits",
    "typo_many",
    "without_foreign",
]

# Shares of the four errors, normalised where used. "multypo": the default of the generator cisnlp/multypo
# (arXiv 2510.09536); unlike there, any two letters side by side may swap, not only those of different hands.
MIXES = {
    "multypo": {"delete": 0.28, "insert": 0.15, "replace": 0.28, "transpose": 0.28},
    "uniform": {"delete": 0.25, "insert": 0.25, "replace": 0.25, "transpose": 0.25},
}
_IN_PLACE = {"delete": keyboards.delete, "insert": keyboards.insert, "replace": keyboards.replace}

# Scripts written without spaces (Thai, Lao, Myanmar, Khmer, kana, Han): there the unit is a letter.
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf"
    "\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff"
)
_ATTACHED = "\u0300-\u036f\u200c\u200d\ufe00-\ufe0f\U000e0100-\U000e01ef"  # marks and joiners of any script
_SIGNS = "".join(  # marks of these scripts: they start no run, but belong to the character before
    chr(c)
    for c in (*range(0xE00, 0xF00), *range(0x1000, 0x10A0), *range(0x1780, 0x1800), 0x3099, 0x309A)
    if unicodedata.category(chr(c))[0] == "M" or c in (0xE33, 0xEB3)
)
_RUN = re.compile(f"(?![{_SIGNS}])[{_UNSPACED}][{_UNSPACED}{_ATTACHED}]*")
_TOKEN = re.compile(f"{_RUN.pattern}|[^\\s{_UNSPACED}]+(?:[{_SIGNS}]+[^\\s{_UNSPACED}]*)*|[{_SIGNS}]+")
_CLUSTER = regex.compile(r"\X")


class Edit(NamedTuple):
    """`text[start:end]` becomes `new`; characters count from 0."""

    start: int
    end: int
    new: str


class _Token(NamedTuple):
    text: str
    start: int
    chars: list[str]  # grapheme clusters
    sites: list[int]  # indices of the characters that may be edited
    each: bool  # every site is a unit, else the word is one
    keep: int  # index of the letter that may not vanish, or -1

    @property
    def units(self) -> int:
        return len(self.sites) if self.each else 1


def typo(text: str, rate: float, keyboard: Keyboard | str, rng: np.random.Generator, **options) -> str:
    """A text with a person's typing errors: a key missed, struck twice or beside, two letters swapped.

    Parameters
    ----------
    rate : share from 0 to 1. Each eligible word gets one error with this chance (`unit="word"`), or each of
        its letters does (`unit="char"`). In scripts written without spaces (Han, kana, Thai, Lao, Khmer,
        Myanmar) every letter is a unit, and `protect_first` and `min_length` do not apply. 0 draws nothing.
    keyboard : a Keyboard or the code of a language.
    unit : "word" (default) or "char".
    protect_first : leave the first letter of a word as it is (default True).
    min_length : letters that make a word eligible (default 2).
    mix : a name in MIXES (default "multypo"), or {"delete" | "insert" | "replace" | "transpose": share}.

    Notes
    -----
    A character is a grapheme cluster; digits and punctuation are never edited. An error always changes the
    word: a kind that cannot (equal letters swapped, no neighbouring key) gives way to another one of the mix.
    A Han character has no neighbours on a keyboard: it is deleted, doubled or swapped with the next. White
    space stays, every word keeps a letter, and text in NFC stays in NFC. Raises StudyError for an unknown
    language, unit or mix, and for a rate that is not a share.
    """
    return typo_many([text], rate, keyboard, rng, **options)[0]


def typo_many(
    texts: Sequence[str], rate: float, keyboard: Keyboard | str, rng: np.random.Generator, **options
) -> list[str]:
    """`typo` for many texts: the same result as one after the other with the same generator, only faster."""
    edits, _ = typo_edits(texts, rate, keyboard, rng, **options)
    return [apply_edits(text, found) for text, found in zip(texts, edits, strict=True)]


def typo_edits(
    texts: Sequence[str],
    rate: float,
    keyboard: Keyboard | str,
    rng: np.random.Generator,
    *,
    unit: str = "word",
    protect_first: bool = True,
    min_length: int = 2,
    mix: str | Mapping[str, float] = "multypo",
    skip: Sequence[Sequence[tuple[int, int]]] | None = None,
) -> tuple[list[list[Edit]], int]:
    """The errors of `typo` for each text, sorted by place, and the number of eligible units in all texts.

    `skip`: for each text the spans [start, end) that stay as they are, and with them every word that touches
    one. Four numbers are drawn for each eligible unit, chosen or not. So from one generator state a word
    edited at a lower rate is edited in the same way at a higher one, and noise levels can be compared in
    pairs.
    """
    check_rate("typo: rate", rate)
    shares = _shares(mix)
    if unit not in ("word", "char"):
        raise StudyError(f"typo: unknown unit {unit!r}; known: word char")
    if isinstance(texts, str):
        raise StudyError("typo: expected a sequence of texts, found one string")
    if isinstance(min_length, bool) or not isinstance(min_length, int) or min_length < 1:
        raise StudyError(f"typo: min_length: expected a whole number from 1, found {min_length!r}")
    keyboard = keyboard_for(keyboard) if isinstance(keyboard, str) else keyboard
    parse = _parser(keyboard, unit == "char", bool(protect_first), min_length)
    tokens, owner = [], []
    for i, text in enumerate(texts):
        found = parse(text, skip[i] if skip else ())
        tokens += found
        owner += [i] * len(found)
    edits, bounds = [[] for _ in texts], list(accumulate((token.units for token in tokens), initial=0))
    for at, picks in _draw(bounds, rate, rng).items():
        edits[owner[at]] += _token_edits(tokens[at], picks, shares, keyboard)
    return edits, bounds[-1]


def apply_edits(text: str, edits: Iterable[Edit]) -> str:
    """The text with the edits made; they are sorted by place and do not overlap."""
    pieces, done = [], 0
    for start, end, new in edits:
        pieces += (text[done:start], new)
        done = end
    pieces.append(text[done:])
    return "".join(pieces)


def _shares(mix: str | Mapping[str, float]) -> dict[str, float]:
    shares = MIXES.get(mix) if isinstance(mix, str) else dict(mix)
    if shares is None:
        raise StudyError(f"typo: unknown mix {mix!r}; known: {' '.join(MIXES)}; or give {{kind: share}}")
    known = {*_IN_PLACE, "transpose"}
    if (
        set(shares) - known
        or not all(0 <= s < math.inf for s in shares.values())
        or not sum(shares.values()) > 0
    ):
        raise StudyError(
            f"typo: mix {mix!r}: expected shares of {' '.join(sorted(known))}, at least one above 0"
        )
    return {kind: share for kind, share in shares.items() if share > 0}


def _parser(keyboard: Keyboard, by_char: bool, protect_first: bool, min_length: int):
    """A function that finds the editable tokens of a text; words seen before are looked up."""
    seen = {}

    def analyse(word: str) -> tuple:
        chars = list(word) if word.isascii() else _CLUSTER.findall(word)
        letters = [i for i, c in enumerate(chars) if c[0].isalpha() or c[0] in keyboard.beside]
        run = _RUN.match(word) is not None
        sites = letters if run else letters[protect_first:] if len(letters) >= min_length else []
        # Where several letters of a token may go, its first one stays, so that no word vanishes.
        keep = letters[0] if letters and (run or by_char or len(letters) == 1) else -1
        return chars, sites, run or by_char, keep

    def parse(text: str, skip: Sequence[tuple[int, int]]) -> list[_Token]:
        found = []
        for match in _TOKEN.finditer(text):
            word = match.group()
            parts = seen.get(word)
            if parts is None:
                parts = seen[word] = analyse(word)
            if parts[1]:
                token = _Token(text, match.start(), *parts)
                if skip and any(token.start < last and first < match.end() for first, last in skip):
                    token = token._replace(sites=_outside(token, skip) if _RUN.match(word) else [])
                if token.sites:
                    found.append(token)
        return found

    return parse


def _outside(token: _Token, skip: Sequence[tuple[int, int]]) -> list[int]:
    at = list(accumulate(map(len, token.chars), initial=token.start))
    return [i for i in token.sites if not any(at[i] < last and first < at[i + 1] for first, last in skip)]


def _draw(bounds: list[int], rate: float, rng: np.random.Generator) -> dict[int, list]:
    """The units hit, in order: {token: [(unit within the token, three uniform numbers), ...]}."""
    chosen, bounds = {}, np.array(bounds)
    draws = rng.random((bounds[-1] if rate > 0 else 0, 4), dtype=np.float32)
    hits = np.flatnonzero(draws[:, 0] < rate)
    home = np.searchsorted(bounds, hits, side="right") - 1
    for at, unit, u in zip(
        home.tolist(), (hits - bounds[home]).tolist(), draws[hits, 1:].tolist(), strict=True
    ):
        chosen.setdefault(at, []).append((unit, u))
    return chosen


def _token_edits(token: _Token, picks: list, mix: dict[str, float], keyboard: Keyboard) -> list[Edit]:
    free = set(token.sites)  # what a swap may move: in a run of letters, none that has an error of its own
    if token.each:
        free -= {token.sites[unit] for unit, _ in picks}
    at = list(accumulate(map(len, token.chars), initial=token.start))
    found = (
        _error(token, at, [token.sites[unit]] if token.each else token.sites, free, mix, keyboard, u)
        for unit, u in picks
    )
    return [edit for edit in found if edit]


def _error(
    token: _Token,
    at: list[int],
    places: list[int],
    free: Collection[int],
    mix: dict[str, float],
    keyboard: Keyboard,
    u: Sequence[float],
) -> Edit | None:
    """One error at one of `places`, by three uniform numbers; None where `mix` allows none there."""
    chars, mix = token.chars, dict(mix)
    u_kind, u_place, u_pick = u
    while mix:
        kind, u_kind = _kind(mix, u_kind)
        del mix[kind]
        swap = kind == "transpose"
        options = [i for i in places if i + 1 in free] if swap else places
        turn = int(u_place * len(options))
        for i in options[turn:] + options[:turn]:
            new = chars[i + 1] + chars[i] if swap else _IN_PLACE[kind](chars[i], keyboard, u_pick)
            if new is not None and (new or i != token.keep):
                edit = Edit(at[i], at[i + 1 + swap], new)
                if _keeps_form(token.text, edit):
                    return edit
    return None


def _kind(mix: dict[str, float], u: float) -> tuple[str, float]:
    """A kind by its share, and what is left of `u`, which is uniform again."""
    target = u * sum(mix.values())
    kinds = list(mix)
    while target >= mix[kinds[0]] and len(kinds) > 1:
        target -= mix[kinds.pop(0)]
    return kinds[0], min(target / mix[kinds[0]], 1 - 1e-9)


def _keeps_form(text: str, edit: Edit) -> bool:
    """Whether an edit changes the text and leaves it in NFC where it was."""
    start, end, new = edit
    old = text[start:end]
    if new == old:
        return False
    if text.isascii() and new.isascii():
        return True
    left, right = text[max(start - 4, 0) : start], text[end : end + 4]  # a letter and its marks, commonly
    before, after = (unicodedata.is_normalized("NFC", left + middle + right) for middle in (old, new))
    return after or not before


def noisy_span(
    context: str,
    answers: Sequence[tuple[int, str]],
    rate: float,
    keyboard: Keyboard | str,
    rng: np.random.Generator,
    *,
    edit_answers: bool = False,
    **options,
) -> tuple[str, tuple[tuple[int, str], ...]]:
    """Typing errors in a context, and its answers `(start, text)` at their new offsets.

    Words that touch an answer stay as they are. With `edit_answers` they may change: the answer's text is
    then read from the new context, widened to a whole edit where one crosses its border, and no edit empties
    an answer. Always `context[start:start + len(text)] == text`, in what enters (else StudyError) and in what
    returns.
    """
    spans = [(start, start + len(text)) for start, text in answers]
    for (start, end), (_, text) in zip(spans, answers, strict=True):
        if start < 0 or not text or context[start:end] != text:
            found = context[max(start, 0) : max(end, 0)]
            raise StudyError(f"noisy_span: answer {text!r} at {start}: the context has {found!r} there")
    edits = typo_edits([context], rate, keyboard, rng, skip=None if edit_answers else [spans], **options)[0][
        0
    ]
    noisy, mapped = _mapped(context, spans, edits)
    for (start, end), (_, text) in zip(spans, mapped, strict=True):
        if not text.strip():
            edits = [edit for edit in edits if edit.end <= start or edit.start >= end]
            noisy, mapped = _mapped(context, spans, edits)
    return noisy, mapped


def _mapped(
    context: str, spans: Sequence[tuple[int, int]], edits: Sequence[Edit]
) -> tuple[str, tuple[tuple[int, str], ...]]:
    noisy, mapped = apply_edits(context, edits), []
    starts, ends = [edit.start for edit in edits], [edit.end for edit in edits]
    shift = list(accumulate((len(new) - (end - start) for start, end, new in edits), initial=0))
    for start, end in spans:
        before, until = bisect_right(ends, start), bisect_right(ends, end)
        if before < len(edits) and starts[before] < start:
            start = starts[before]
        if until < len(edits) and starts[until] < end:
            end, until = ends[until], until + 1
        start, end = start + shift[before], end + shift[until]
        mapped.append((start, noisy[start:end]))
    return noisy, tuple(mapped)
