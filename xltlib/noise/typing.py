"""Noise in text: typing errors, synonyms (RS-DA), dictionary code-switching (CoSDA-ML), replaced token ids.

Typing errors are those of one finger, on the keyboard of the language: a key missed, struck twice or beside,
two letters swapped. A word gets one error at most. In scripts written without spaces (Han, kana, Thai) every
letter may get one.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import cache, lru_cache
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

import numpy as np
import regex
import yaml

from xltlib import StudyError
from xltlib.data.words import UNSPACED

# Shares of the four errors: the default of the generator cisnlp/multypo (arXiv 2510.09536); unlike there, any
# two letters side by side may swap, not only those of different hands.
MIX = {"delete": 0.28, "insert": 0.15, "replace": 0.28, "transpose": 0.28}
STAGGER = (-1.0, 0.5, 0.75, 1.25)  # x of the first key of each row, in key widths: the usual keyboard
SAME_ROW = 0.9  # share of slips within the row, the rest to the next rows: default of cisnlp/multypo (9:1)
FOREIGN = 5.0  # times as often in a foreign text: see `foreign_words`
_WORD = re.compile(rf"([{UNSPACED}]+)|[^\s{UNSPACED}]+")  # group 1: letters of a script without spaces
_CHARACTER = regex.compile(r"\X")  # a letter with its marks

Span = tuple[int, int]  # characters (start, end) of a text, end not included
Answer = tuple[int, str]  # where an answer starts in its context, and its text


# Keyboards

Keyboard = Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]]  # letter -> keys beside it, and across


def near(letter: str, keyboard: Keyboard) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The keys next to a letter, in its row and in the next rows; of a capital capitals."""
    lower = letter.lower()
    if letter in keyboard or lower not in keyboard:
        return keyboard.get(letter, ((), ()))
    return tuple(tuple(key.upper() for key in side if len(key.upper()) == 1) for side in keyboard[lower])


@cache
def keyboard_for(language: str) -> Keyboard:
    """The usual keyboard of a language, by its two-letter code; StudyError for a language without one."""
    layouts = yaml.safe_load(Path(__file__).with_name("keyboards.yaml").read_text(encoding="utf-8"))
    if language not in layouts:
        known = " ".join(sorted(layouts))
        raise StudyError(f"keyboard: no layout for language {language!r}; known: {known}")
    layers = layouts[language]
    if "a" not in layers[0]:
        layers = layers + layouts["en"]  # types the Latin words of other scripts
    return _from_layers([layer.split() for layer in layers])


def layout(alphabet: Iterable[str], rng: np.random.Generator) -> Keyboard:
    """A keyboard for a synthetic script: its letters, all different, in random order on three rows."""
    letters = list(alphabet)
    order = [letters[i] for i in rng.permutation(len(letters))]
    size = -(-len(order) // 3)
    return _from_layers([[[], order[:size], order[size : 2 * size], order[2 * size :]]])


def _from_layers(layers: Sequence[Sequence[Sequence[str]]]) -> Keyboard:
    """Neighbours are one key away in the row, or less than one key width to the side in the next row."""
    keyboard = {}
    for rows in layers:
        places = ((y, STAGGER[y] + i, key) for y, row in enumerate(rows) for i, key in enumerate(row))
        keys = [(y, x, key) for y, x, key in places if key != "_"]
        for row, x, key in keys:
            beside = tuple(other for y, at, other in keys if y == row and abs(x - at) == 1)
            across = tuple(other for y, at, other in keys if abs(y - row) == 1 and abs(x - at) < 1)
            keyboard[key] = beside, across
    return keyboard


def mistyped(kind: str, character: str, keyboard: Keyboard, u: float) -> str | None:
    """What a slip makes of a letter with its marks, by a uniform number; None where no key is beside its own.

    A letter without a key, as é on a US keyboard, is typed by that of its plain letter. A slip stays in the
    row of the key with chance SAME_ROW.
    """
    if kind == "delete":
        return ""
    beside, across = near(character[0], keyboard)
    if not (beside or across):
        beside, across = near(unicodedata.normalize("NFD", character)[0], keyboard)
    if kind == "insert":  # the letter once more, or as often a neighbour
        if u >= 0.5 or not (beside or across):
            return character + character[0]
        u = 2 * u
    keys = beside or across
    if not keys:
        return None
    if beside and across:  # what is left of u after the choice of a row is uniform again
        own = u < SAME_ROW
        keys, u = (beside, u / SAME_ROW) if own else (across, (u - SAME_ROW) / (1 - SAME_ROW))
    key = keys[min(int(u * len(keys)), len(keys) - 1)]
    return character + key if kind == "insert" else key + character[1:]


# Typing errors

Edit = tuple[int, int, str]  # characters from start to end of a text, the last not included, become another


class _Unit(NamedTuple):
    """What may get one error: a word, or a letter of a script without spaces."""

    characters: list[str]  # of the whole word, each a letter with its marks
    offsets: list[int]  # where each begins in the text
    places: list[int]  # characters that the error may hit
    free: list[int]  # characters that may swap


def typo_many(texts: Sequence[str], rate: float, keyboard: Keyboard, rng: np.random.Generator) -> list[str]:
    """Texts with a person's typing errors.

    A letter goes with its marks; digits and punctuation are never edited, and white space stays. An error
    always changes the word: a kind that cannot (equal letters swapped, no neighbouring key) gives way to
    another. A Han character has no neighbours on a keyboard: it is deleted, doubled or swapped with the next.

    rate : share from 0 to 1 of the words of two letters and more that get one error; in scripts written
        without spaces, of the letters. The first letter of a word stays, as people rarely miss it. 0 draws
        nothing. StudyError where it is no share.
    """
    edits = typo_edits(texts, rate, keyboard, rng)
    return [apply_edits(text, own) for text, own in zip(texts, edits, strict=True)]


def typo_edits(
    texts: Sequence[str], rate: float, keyboard: Keyboard, rng: np.random.Generator,
    skip: Sequence[Sequence[Span]] | None = None,
) -> list[list[Edit]]:  # fmt: skip
    """The errors of `typo_many` for each text, sorted by place.

    `skip`: for each text the spans that stay as they are, and with them every word that touches one. Four
    numbers are drawn for each word or letter that may have an error. So from one generator state a word
    edited at a lower rate is edited in the same way at a higher one, and noise levels can be compared in
    pairs.
    """
    if not 0 <= rate <= 1:  # NaN neither
        raise StudyError(f"typing errors: expected a rate from 0 to 1, found {rate!r}")
    units = [(i, unit) for i, text in enumerate(texts) for unit in _units(text, skip[i] if skip else ())]
    draws = rng.random((len(units) if rate > 0 else 0, 4), dtype=np.float32)
    edits: list[list[Edit]] = [[] for _ in texts]
    hits = np.flatnonzero(draws[:, 0] < rate).tolist()
    for at, following in zip(hits, [*hits[1:], -1], strict=False):
        owner, unit = units[at]
        if following == at + 1 and units[following][1].characters is unit.characters:
            # the next letter of a script without spaces has an error of its own, and is not swapped
            unit = unit._replace(free=unit.places)
        if edit := _error(unit, keyboard, *draws[at, 1:].tolist()):
            edits[owner].append(edit)
    return edits


def apply_edits(text: str, edits: Sequence[Edit]) -> str:
    """The text with the edits made; they are sorted by place and do not overlap."""
    parts, done = [], 0
    for start, end, new in edits:
        parts += [text[done:start], new]
        done = end
    return "".join([*parts, text[done:]])


def _units(text: str, skip: Sequence[Span]) -> Iterator[_Unit]:
    """What may get an error each: words, or letters of a script without spaces; none that touches `skip`."""

    def touched(start: int, end: int) -> bool:
        return any(start < last and first < end for first, last in skip)

    for match in _WORD.finditer(text):
        characters, places = _letters(match.group())
        if not places:
            continue
        offsets = list(accumulate(map(len, characters), initial=match.start()))
        if match[1]:
            places = [i for i in places if not touched(offsets[i], offsets[i + 1])]
            yield from (_Unit(characters, offsets, [i], places) for i in places)
        elif not touched(*match.span()):
            yield _Unit(characters, offsets, places, places)


@lru_cache(maxsize=1 << 16)
def _letters(word: str) -> tuple[list[str], list[int]]:
    """A word's characters, and the places of its letters after the first."""
    characters = list(word) if word.isascii() else _CHARACTER.findall(word)
    return characters, [i for i, character in enumerate(characters) if character[0].isalpha()][1:]


def _error(unit: _Unit, keyboard: Keyboard, u_kind: float, u_place: float, u_pick: float) -> Edit | None:
    """One error, by three uniform numbers; None where no kind can be."""
    characters, offsets, places, free = unit
    mix = dict(MIX)
    while mix:
        target, kinds = u_kind * sum(mix.values()), list(mix)
        while target >= mix[kinds[0]] and len(kinds) > 1:
            target -= mix[kinds.pop(0)]
        kind = kinds[0]
        u_kind = min(target / mix.pop(kind), 1 - 1e-9)  # what is left is uniform again
        swap = kind == "transpose"
        options = [i for i in places if i + 1 in free] if swap else places
        turn = int(u_place * len(options))
        for i in options[turn:] + options[:turn]:
            old = characters[i : i + 1 + swap]
            new = "".join(old[::-1]) if swap else mistyped(kind, old[0], keyboard, u_pick)
            if new is not None and new != "".join(old):
                return offsets[i], offsets[i + 1 + swap], new
    return None


def noisy_span(
    context: str, answers: Sequence[Answer], rate: float, keyboard: Keyboard, rng: np.random.Generator
) -> tuple[str, tuple[Answer, ...]]:
    """Typing errors in the words of a context that touch no answer, and the answers where they now stand."""
    spans = [(start, start + len(text)) for start, text in answers]
    (edits,) = typo_edits([context], rate, keyboard, rng, skip=[spans])
    return edited_span(context, answers, edits)


def edited_span(
    context: str, answers: Sequence[Answer], edits: Sequence[Edit]
) -> tuple[str, tuple[Answer, ...]]:
    """A context with the edits made, and its answers as they now stand.

    An answer that begins or ends within an edit is widened to all that the edit puts there.
    `context[start:start + len(text)] == text`, in what enters and in what returns.
    """

    def moved(place: int, end: bool) -> int:
        shift = sum(len(new) - (b - a) for a, b, new in edits if b <= place)
        within = ((a, new) for a, b, new in edits if a < place < b)
        return shift + next((a + end * len(new) for a, new in within), place)

    changed = apply_edits(context, edits)
    spans = [(moved(start, False), moved(start + len(text), True)) for start, text in answers]
    return changed, tuple((begin, changed[begin:end]) for begin, end in spans)


# Substitution


def with_neighbours(
    words: Sequence[str], neighbours: Mapping[str, Sequence[str]], rng: np.random.Generator
) -> list[str]:
    """Randomised smoothing by data augmentation: each word a uniform draw from itself and its neighbours.

    Look-up is exact, so case and punctuation count. Source: perturb.py as released with Robust-XLT (arXiv
    2104.08645).
    """
    choices = [(word, *neighbours.get(word, ())) for word in words]
    draws = rng.random(len(choices)).tolist()
    return [own[int(u * len(own))] for own, u in zip(choices, draws, strict=True)]


def foreign_words(words: Iterable[str], counts: Mapping[str, Mapping[str, int]], source: str) -> set[str]:
    """Those of the words that another language's text has more than FOREIGN times as often as the source's.

    Shares of all words of a text are compared, with one more occurrence of each word in the source; only
    languages count that are written in the source's letters. The rule was chosen on 200 substitutions that
    the lists of Robust-XLT make in English pairs of TaxiNLI. Of 200 others, checked by hand, it caught 4 of 5
    foreign words (not the Dutch hun), and took 3 of 195 English ones for foreign: the halves of "ca n't" and
    "wo n't", and nationwide. "Absent from English text" caught 3 of the first sample's 8 and took 12 of 192.

    counts : language -> word in lower case -> how often its text has it
    """
    totals = {language: sum(table.values()) for language, table in counts.items()}
    letters = {}
    for language, table in counts.items():
        scripts: Counter[str] = Counter()  # as Unicode names the first letters of words: "LATIN"
        for word, count in table.items():
            scripts[unicodedata.name(word[:1] or " ").partition(" ")[0]] += count
        letters[language] = max(scripts, key=scripts.__getitem__, default="")
    others = [x for x in counts if x != source and letters[x] == letters[source] and totals[x]]

    def is_foreign(word: str) -> bool:
        own = (counts[source].get(word, 0) + 1) / max(totals[source], 1)
        return any(counts[x].get(word, 0) / totals[x] > FOREIGN * own for x in others)

    return {word for word in words if is_foreign(word)}


def code_switch(
    words: Sequence[str], lexicon: Mapping[str, Mapping[str, Sequence[str]]], rng: np.random.Generator, *,
    cross: float, lower: bool = True,
) -> list[str]:  # fmt: skip
    """Dictionary code-switching as CoSDA-ML (Qin et al., IJCAI 2020), in which all sentences take part.

    Each word is, with chance `cross`, translated into a language drawn uniformly from `lexicon` ({language:
    {word: translations}}), by a translation drawn uniformly; a word without an entry in that language stays.
    `lower` puts all words in lower case first, as released.
    """
    out = [word.lower() for word in words] if lower else list(words)
    rng.random()  # as released, a draw says whether the sentence takes part
    tables, draws = list(lexicon.values()), rng.random((len(out), 3))
    for i in np.flatnonzero(draws[:, 0] < cross).tolist():
        translations = tables[int(draws[i, 1] * len(tables))].get(out[i])
        if translations:
            out[i] = translations[int(draws[i, 2] * len(translations))]
    return out


def corrupt_ids(
    ids: np.ndarray, rate: float, rng: np.random.Generator, special: Collection[int], vocabulary_size: int
) -> np.ndarray:
    """Token ids (T,), of which each one not in `special` is replaced with chance `rate`; a new array.

    What takes its place is a uniform draw from the other ids below `vocabulary_size` that are not special.
    """
    ids, special = np.array(ids), np.array(sorted(special), dtype=np.int64)
    hit = (rng.random(len(ids)) < rate) & ~np.isin(ids, special)
    pool = np.setdiff1d(np.arange(vocabulary_size), special)
    draw = rng.integers(0, len(pool) - 1, size=hit.sum())
    ids[hit] = pool[draw + (draw >= np.searchsorted(pool, ids[hit]))]
    return ids
