"""Noise: keyboards worked by hand, distributions, rates, answers at their offsets, words and ids replaced."""

import json
import math
import unicodedata
from collections import Counter
from itertools import chain, pairwise

import numpy as np
import official
import pytest
import regex
from scipy.stats import chisquare

from xltlib import StudyError
from xltlib.data import tasks
from xltlib.noise import typing as noise
from xltlib.noise.typing import keyboard_for, typo_edits, typo_many

SENTENCES = official.SENTENCES


def rng(seed=0):
    return np.random.default_rng(seed)


def typo(text, rate, language, generator):
    return typo_many([text], rate, keyboard_for(language), generator)[0]


def units_in(texts):
    """How many words, or letters of scripts without spaces, may get an error."""
    return sum(1 for text in texts for _ in noise._units(text, ()))


# Keyboards


@pytest.mark.parametrize("language", SENTENCES)
def test_neighbours_are_symmetric_letters(language):
    keyboard = keyboard_for(language)
    for key, sides in keyboard.items():
        assert key.isalpha()
        assert unicodedata.normalize("NFC", key) == key
        for number, others in enumerate(sides):
            assert key not in others
            assert all(key in keyboard[other][number] for other in others), (key, others)


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
        ("ru", "о", "рл", "гшть"),
        ("el", "σ", "αδ", "ςεζχ"),
        ("hi", "न", "मव", ""),  # the keys above it type vowel signs
        ("ru", "n", "bm", "hj"),  # Latin words in Russian text
        ("zh", "n", "bm", "hj"),
        ("zh", "的", "", ""),
    ],
)
def test_known_neighbours(language, key, beside, across):
    assert [set(side) for side in noise.near(key, keyboard_for(language))] == [set(beside), set(across)]


def test_neighbours_are_near_in_another_collection(data_dir):
    """That collection is wider (it counts keys one and a half widths away) and forgets y beside u."""
    for language in ("en", "de", "es", "fr", "tr", "th"):
        other = json.loads((data_dir / "keyboards" / f"{language}.json").read_text(encoding="utf-8"))
        keys = {key: chain(*noise.near(key, keyboard_for(language))) for key in other}
        pairs = [(key, x) for key, around in keys.items() for x in around if x in other]
        missing = {frozenset(pair) for pair in pairs if pair[1] not in other[pair[0]]}
        assert len(pairs) > 50
        assert missing <= {frozenset("uy"), frozenset("uz")}


def test_layout_of_a_synthetic_script():
    alphabet = "abcdefghij" + "\ue000\ue001"
    keyboard = noise.layout(alphabet, rng())
    assert set(keyboard) == set(alphabet)
    assert all(any(noise.near(key, keyboard)) for key in alphabet)
    assert noise.layout(alphabet, rng()) == keyboard != noise.layout(alphabet, rng(1))


def test_slip_stays_in_the_row_nine_times_of_ten():
    draws = [noise.mistyped("replace", "g", keyboard_for("en"), u) for u in np.arange(0, 1, 1e-4)]
    assert set(draws) == set("fhtyvb")
    assert np.isin(draws, ["f", "h"]).mean() == pytest.approx(0.9, abs=1e-3)


@pytest.mark.parametrize(
    ("kind", "language", "character", "expected"),
    [
        ("replace", "en", "q", {"w", "a"}),
        ("replace", "vi", "ế", {"w", "r", "s", "d"}),  # an accent without a key goes with its letter
        ("replace", "fr", "é", {"a", "z"}),  # a key of its own
        ("replace", "hi", "कि", {"रि", "ति", "दि", "गि", "सि"}),  # the sign stays on the letter
        ("replace", "ar", "أ", {"إ", "آ"}),  # the shifted layer
        ("replace", "zh", "的", {None}),
        ("replace", "ko", "가", {None}),
        ("delete", "en", "é", {""}),
        ("insert", "en", "Q", {"QQ", "QW", "QA"}),
        ("insert", "zh", "的", {"的的"}),
    ],
)
def test_slips_in_one_letter(kind, language, character, expected):
    keyboard = keyboard_for(language)
    assert {noise.mistyped(kind, character, keyboard, u) for u in np.arange(0.0005, 1, 0.001)} == expected


# Typing errors


def test_errors_by_hand():
    assert typo(SENTENCES["en"], 0.5, "en", rng()) == "The qick brwon fox jumps ovre teh lazy dgo."


def test_rate_0_is_the_identity_and_draws_nothing():
    generator, text = rng(), " a\tB\n\u0915\u093f \U0001f600 e\u0301 "
    assert typo(text, 0, "en", generator) == text
    assert generator.bit_generator.state == rng().bit_generator.state
    assert typo("", 1, "en", rng()) == ""
    assert typo_many([], 1, keyboard_for("en"), rng()) == []
    assert typo("2019 - 3,5 % ... \U0001f600", 1, "en", rng()) == "2019 - 3,5 % ... \U0001f600"


def test_rate_and_mix_by_distribution():
    noisy = typo("abcdefgh " * 20_000, 0.3, "en", rng()).split()
    kinds = Counter(
        ("transpose" if sorted(word) == list("abcdefgh") else "replace") if len(word) == 8
        else "delete" if len(word) < 8 else "insert"
        for word in noisy if word != "abcdefgh"
    )  # fmt: skip
    edited = sum(kinds.values())
    assert abs(edited / 20_000 - 0.3) < 4 * math.sqrt(0.21 / 20_000)
    expected = [share / sum(noise.MIX.values()) * edited for share in noise.MIX.values()]
    assert chisquare([kinds[kind] for kind in noise.MIX], expected).pvalue > 0.01


def test_places_are_uniform_over_the_letters_after_the_first():
    (edits,) = typo_edits(["abcdefgh " * 20_000], 1, keyboard_for("en"), rng())
    assert len(edits) == 20_000
    places = Counter(start % 9 for start, end, new in edits if len(new) != 2 or end - start == 1)
    assert set(places) == set(range(1, 8))
    assert chisquare(list(places.values())).pvalue > 0.01


def test_an_impossible_kind_gives_way_to_another():
    for seed in range(60):
        assert typo("的", 1, "zh", rng(seed)) == "的"  # the first letter stays
        assert typo("这是", 1, "zh", rng(seed)) in {"这", "这是是"}
        assert typo("ooo", 1, "en", rng(seed)) != "ooo"  # equal letters cannot swap


def test_batch_equals_one_by_one():
    texts, one = [*SENTENCES.values(), ""], rng(5)
    together = typo_many(texts, 0.4, keyboard_for("de"), rng(5))
    assert together == [typo(text, 0.4, "de", one) for text in texts]


def test_a_higher_rate_keeps_the_errors_of_a_lower_one():
    text, keyboard = SENTENCES["en"] * 20, keyboard_for("en")
    low, high = (set(typo_edits([text], rate, keyboard, rng(1))[0]) for rate in (0.1, 0.3))
    assert low < high


def test_unknown_languages_and_rates_that_are_no_shares_are_refused():
    with pytest.raises(StudyError, match="'xx'; known: ar bg de"):
        typo("word", 0.1, "xx", rng())
    for rate in (-0.1, 1.01, math.nan):
        with pytest.raises(StudyError, match="from 0 to 1"):
            typo("word", rate, "en", rng())


def test_clusters_stay_whole():
    family, flag, mark = "\U0001f469\u200d\U0001f469\u200d\U0001f467", "\U0001f1e9\U0001f1ea", "\u200f"
    text = f"{family}ab {flag}xyz q\u0308uark \u0915\u094d\u0937\u092e\u093e {mark}abc"
    for seed in range(100):
        noisy = typo(text, 1, "hi", rng(seed))
        wholes = [c for c in regex.findall(r"\X", noisy) if c in (family, flag, mark)]
        assert wholes == [family, flag, mark]
        assert not any(unicodedata.category(word[0])[0] == "M" for word in noisy.split())


def check_errors(texts, language):
    """What holds for every text: an error a unit at rate 1, in order, within words, the first letter kept."""
    edits = typo_edits(texts, 1, keyboard_for(language), rng())
    assert sum(map(len, edits)) == units_in(texts)
    noisy_texts = typo_many(texts, 1, keyboard_for(language), rng())
    for text, noisy, own in zip(texts, noisy_texts, edits, strict=True):
        assert noisy == noise.apply_edits(text, own)
        assert all(text[start:end] != new for start, end, new in own)
        assert all(a[1] <= b[0] for a, b in pairwise(own))
        assert [word[0] for word in noisy.split()] == [word[0] for word in text.split()]
        starts = {unicodedata.category(word[0])[0] for word in text.split()}
        assert "M" in starts or all(unicodedata.category(word[0])[0] != "M" for word in noisy.split())


@pytest.mark.parametrize("language", SENTENCES)
def test_form_in_every_script(language):
    check_errors([SENTENCES[language]] * 20, language)


def test_rate_and_form_on_published_text(data_dir):
    for language in SENTENCES:
        both = (language, "de" if language == "en" else "en")
        texts = [text for text, _ in tasks.load_pairs("ntrex", both, data_dir)[:300]]
        edits, units = typo_edits(texts, 0.1, keyboard_for(language), rng()), units_in(texts)
        assert units > 3_000
        assert abs(sum(map(len, edits)) / units - 0.1) < 4 * math.sqrt(0.09 / units)
        check_errors(texts[:50], language)


# Answers


def test_noisy_span_by_hand():
    context, answers = "Denver lost to Carolina, badly", ((15, "Carolina"),)
    for seed in range(20):
        noisy, ((start, text),) = noise.noisy_span(context, answers, 1, keyboard_for("en"), rng(seed))
        words = noisy.split()
        assert (words[3], text, start) == ("Carolina,", "Carolina", noisy.index("Carolina"))
        assert all(a != b for a, b in zip(words[:3], context.split(), strict=False))
    assert noise.noisy_span(context, answers, 0, keyboard_for("en"), rng()) == (context, answers)
    assert noise.noisy_span(context, (), 0, keyboard_for("en"), rng()) == (context, ())
    noisy, ((start, text),) = noise.noisy_span("我们在这里好吗", ((2, "在这"),), 1, keyboard_for("zh"), rng())
    assert noisy[start : start + 2] == text == "在这"


def test_answers_of_xquad(data):
    for language in ("ar", "de", "el", "en", "es", "hi", "ru", "th", "tr", "vi", "zh"):
        passages: dict[str, list] = {}
        for example in tasks.load("xquad", "test", language, data):
            passages.setdefault(example.context, []).extend(example.answers)
        for i, (context, answers) in enumerate(list(passages.items())[::4]):
            noisy, moved = noise.noisy_span(context, answers, 0.3, keyboard_for(language), rng(i))
            assert [text for _, text in moved] == [text for _, text in answers]
            assert all(noisy[start : start + len(text)] == text for start, text in moved)


# Substitution

NEIGHBOURS = {"good": ["fine", "buena", "nice"], "man": ["hombre"], "empty": []}
LEXICON = {"de": {"cat": ["Katze"], "dog": ["Hund", "Köter"]}, "fr": {"cat": ["chat"]}}


def uniform(draws, values):
    """p-value of the draws being uniform over exactly these values."""
    counts = {value: 0 for value in values}
    for draw in draws:
        counts[draw] += 1
    return chisquare(list(counts.values())).pvalue


def test_words_are_drawn_from_their_neighbours():
    generator = rng()
    drawn = [noise.with_neighbours(["a", "good", "", "good"], NEIGHBOURS, generator) for _ in range(8_000)]
    assert {(word[0], word[2]) for word in drawn} == {("a", "")}
    values = ["good", "fine", "buena", "nice"]
    both = [(a, b) for a in values for b in values]
    assert uniform([(word[1], word[3]) for word in drawn], both) > 0.01  # words on their own
    follow = [(a[1], b[1]) for a, b in zip(drawn[0::2], drawn[1::2], strict=True)]
    assert uniform(follow, both) > 0.01  # texts on their own
    others = ["Good", "good,", "empty", "", "unknown"]
    assert noise.with_neighbours(others, NEIGHBOURS, rng()) == others


def test_foreign_words_are_commoner_in_another_language():
    counts = {
        "en": {"the": 90, "man": 9, "car": 1},  # 100 words: one occurrence and one more are 0.02
        "fr": {"le": 80, "car": 10, "man": 10},  # car 0.10 is five times 0.02, not more
        "es": {"el": 88, "hombre": 12},
        "ru": {"и": 60, "song": 40},  # other letters than English
    }
    words = ["man", "car", "hombre", "song", "le", "rare"]
    assert noise.foreign_words(words, counts, "en") == {"hombre", "le"}
    assert noise.foreign_words(words, counts | {"en": {}}, "en") == set()  # of no letters, so of no others'


def test_code_switch_distribution():
    words = noise.code_switch(["dog"] * 40_000, LEXICON, rng(), cross=0.8)
    expected = {"Hund": 0.2, "Köter": 0.2, "dog": 0.6}  # half the draws go to French, which has no entry
    counts = [words.count(word) for word in expected]
    assert sum(counts) == len(words)
    assert chisquare(counts, [len(words) * share for share in expected.values()]).pvalue > 0.01


def test_code_switch_and_case():
    assert noise.code_switch(["Cat", "The"], LEXICON, rng(), cross=1, lower=False) == ["Cat", "The"]
    assert noise.code_switch(["Cat", "The"], LEXICON, rng(), cross=0) == ["cat", "the"]
    assert noise.code_switch(["cat"], {"de": {"cat": ["Katze"]}}, rng(), cross=1) == ["Katze"]
    assert noise.code_switch([], LEXICON, rng(), cross=1) == []


def test_replaced_ids():
    ids = np.tile([0, 5], 20_000)
    new = noise.corrupt_ids(ids, 0.3, rng(), (0, 1), 8)
    assert (new[0::2] == 0).all()
    changed = new[1::2][new[1::2] != 5]
    assert abs(len(changed) / 20_000 - 0.3) < 4 * math.sqrt(0.21 / 20_000)
    assert uniform(changed.tolist(), [2, 3, 4, 6, 7]) > 0.01
    assert (ids[1::2] == 5).all()
    assert noise.corrupt_ids(np.array([], dtype=int), 1, rng(), (), 8).size == 0
