"""Keyboards: geometry worked by hand, symmetry, real layouts elsewhere, and errors in one character."""

import json
import unicodedata

import numpy as np
import pytest
import regex

from xltlib import StudyError
from xltlib.noise import keyboards
from xltlib.noise.keyboards import keyboard_for, keyboard_languages, layout

STUDY = {"ar", "bg", "de", "el", "en", "es", "fr", "hi", "ja", "ko", "ru", "sw", "th", "tr", "ur", "vi", "zh"}


def results(function, char, language, steps=400):
    """Everything a function of (character, keyboard, u) can give."""
    keyboard = keyboard_for(language)
    return {function(char, keyboard, (i + 0.5) / steps) for i in range(steps)}


def test_every_language_of_the_study_has_a_keyboard():
    assert set(keyboard_languages()) >= STUDY


@pytest.mark.parametrize("language", keyboard_languages())
def test_neighbours_are_symmetric(language):
    keyboard = keyboard_for(language)
    for table in (keyboard.beside, keyboard.across):
        for key, near in table.items():
            assert len(key) == 1
            assert unicodedata.normalize("NFC", key) == key
            assert key not in near
            assert all(key in table[other] for other in near), (language, key, near)


@pytest.mark.parametrize("language", keyboard_languages())
def test_no_key_stands_twice(language):
    layers = keyboards._layouts()[language]["layers"]
    keys = [key for layer in layers for row in layer for key in row.split() if key != "_"]
    assert len(keys) == len(set(keys))
    assert all(len(layer) == 4 for layer in layers)


@pytest.mark.parametrize(
    ("language", "key", "beside", "across"),
    [
        ("en", "g", "fh", "tyvb"),
        ("en", "G", "FH", "TYVB"),
        ("en", "q", "w", "a"),
        ("de", "z", "tu", "gh"),  # qwertz
        ("de", "ß", "", "pü"),
        ("fr", "a", "z", "éq"),  # azerty: é on the 2 key
        ("tr", "ı", "uo", "jk"),
        ("tr", "I", "UO", "JK"),
        ("tr", "İ", "Ş", "ĞÜ"),
        ("ru", "о", "рл", "гшть"),
        ("el", "σ", "αδ", "ςεζχ"),
        ("ko", "ㅁ", "ㄴ", "ㅂㅈㅋ"),
        ("ru", "n", "bm", "hj"),  # Latin words in Russian text
    ],
)
def test_known_neighbours(language, key, beside, across):
    keyboard = keyboard_for(language)
    assert set(keyboard.beside[key]) == set(beside)
    assert set(keyboard.across[key]) == set(across)


@pytest.mark.parametrize("language", ["en", "de", "es", "fr", "tr", "th"])
def test_neighbours_are_near_in_another_collection(language, data_dir):
    """That collection is wider (it counts keys one and a half widths away) and forgets y beside u."""
    other = json.loads((data_dir / "keyboards" / f"{language}.json").read_text(encoding="utf-8"))
    keyboard = keyboard_for(language)
    pairs = [(key, near) for key in other for near in keyboard.neighbours(key) if near in other]
    missing = {frozenset(pair) for pair in pairs if pair[1] not in other[pair[0]]}
    assert len(pairs) > 100
    assert missing <= {frozenset("uy"), frozenset("uz")}


def test_unknown_language_names_the_known_ones():
    with pytest.raises(StudyError, match="'xx'; known: ar bg de el en"):
        keyboard_for("xx")


def test_layout_of_a_synthetic_script():
    alphabet = "abcdefghij" + "\ue000\ue001"
    keyboard = layout(alphabet, np.random.default_rng(0))
    assert set(keyboard.beside) - {c.upper() for c in alphabet[:10]} == set(alphabet)
    assert all(keyboard.neighbours(key) for key in alphabet)
    assert all(key in keyboard.neighbours(other) for key in alphabet for other in keyboard.neighbours(key))
    again, different = (layout(alphabet, np.random.default_rng(seed)) for seed in (0, 1))
    assert again.beside == keyboard.beside
    assert different.beside != keyboard.beside


@pytest.mark.parametrize("alphabet", ["", "a", "aba", ["ab", "c"]])
def test_layout_refuses(alphabet):
    with pytest.raises(StudyError, match="two or more different single characters"):
        layout(alphabet, np.random.default_rng(0))


def test_slip_stays_in_the_row_nine_times_of_ten():
    draws = [keyboards.replace("g", keyboard_for("en"), u) for u in np.linspace(0, 1, 10_000, endpoint=False)]
    assert set(draws) == set("fhtyvb")
    share = np.isin(draws, ["f", "h"]).mean()
    assert share == pytest.approx(0.9, abs=1e-3)


@pytest.mark.parametrize(
    ("language", "char", "expected"),
    [
        ("en", "q", {"w", "a"}),
        ("vi", "ế", {"w", "r", "s", "d"}),  # an accent without a key goes with its letter
        ("fr", "é", {"a", "z"}),  # a key of its own
        ("zh", "的", {None}),
        ("ko", "가", set("다사아라" + "거기갸개그")),  # one letter of the syllable
        ("ko", "과", set("돠솨와롸")),  # ㅘ takes two keys: only the consonant is replaced
        ("hi", "न", {"म", "व"}),  # the vowel signs above it are no letters
        ("hi", "कि", {"रि", "ति", "दि", "गि", "सि", "कु", "कू", "की"}),  # no virama, though it is beside
        ("ar", "أ", {"إ", "آ"}),  # the shifted layer
    ],
)
def test_replace(language, char, expected):
    assert results(keyboards.replace, char, language, 4000) == expected


def test_replace_keeps_thai_signs_on_letters_that_carry_them():
    found = results(keyboards.replace, "กี่", "th", 4000)
    assert all(len(new) == 3 and len(regex.findall(r"\X", new)) == 1 for new in found)
    assert {"หี่", "ดี่", "กี้", "กั่"} <= found
    assert not {"เี่", "ไี่"} & found


@pytest.mark.parametrize(
    ("language", "char", "expected"),
    [
        ("en", "a", ""),
        ("en", "é", "e"),
        ("fr", "é", ""),
        ("vi", "ế", "ê"),
        ("ko", "간", "가"),
        ("ko", "가", ""),
        ("hi", "\u0915\u093f", "\u0915"),
        ("ja", "が", "か"),
        ("zh", "的", ""),
        ("en", "e\u0301", "e"),
    ],
)
def test_delete_misses_the_last_key(language, char, expected):
    assert results(keyboards.delete, char, language, 3) == {expected}


@pytest.mark.parametrize(
    ("language", "char", "expected"),
    [
        ("en", "q", {"qq", "qw", "qa"}),
        ("en", "Q", {"QQ", "QW", "QA"}),
        ("zh", "的", {"的的"}),
        ("ko", "가", {"가ㅏ", "가ㅓ", "가ㅣ", "가ㅑ", "가ㅐ", "가ㅡ"}),
    ],
)
def test_insert(language, char, expected):
    assert results(keyboards.insert, char, language, 4000) == expected
