"""Word substitution and corrupted ids: distributions against their definitions, and what is refused."""

import math

import numpy as np
import pytest
from scipy.stats import chisquare

from xltlib import StudyError
from xltlib.noise.substitution import foreign_words
from xltlib.noise.typing import code_switch, corrupt_ids, rs_da, rs_da_copies, without_foreign

NEIGHBOURS = {"good": ["fine", "buena", "nice"], "man": ["hombre"], "empty": []}


def rng(seed=0):
    return np.random.default_rng(seed)


def uniform(draws, values):
    """p-value of the draws being uniform over exactly these values."""
    counts = {value: 0 for value in values}
    for draw in draws:
        counts[draw] += 1
    return chisquare(list(counts.values())).pvalue


def test_rs_da_is_uniform_over_the_word_and_its_neighbours():
    words = rs_da(["good", "man"] * 20_000, NEIGHBOURS, rng())
    assert uniform(words[0::2], ["good", "fine", "buena", "nice"]) > 0.01
    assert uniform(words[1::2], ["man", "hombre"]) > 0.01
    pairs = list(zip(words[0::2], words[1::2], strict=True))
    joint = [(a, b) for a in ["good", "fine", "buena", "nice"] for b in ["man", "hombre"]]
    assert uniform(pairs, joint) > 0.01  # each word on its own


def test_rs_da_leaves_other_words():
    words = ["Good", "good,", "empty", "", "unknown"]
    assert rs_da(words, NEIGHBOURS, rng()) == words
    assert rs_da([], NEIGHBOURS, rng()) == []


def test_rs_da_copies():
    copies = rs_da_copies(("a good  man", "good man"), 8_000, NEIGHBOURS, rng())
    assert len(copies) == 8_000
    assert all(len(copy) == 2 and copy[0].split(" ")[2] == "" for copy in copies)  # a double space stays
    drawn = [(first.split(" ")[1], second.split(" ")[0]) for first, second in copies]
    values = ["good", "fine", "buena", "nice"]
    assert uniform(drawn, [(a, b) for a in values for b in values]) > 0.01  # sentences on their own
    follow = [(a[0], b[0]) for a, b in zip(drawn[0::2], drawn[1::2], strict=True)]
    assert uniform(follow, [(a, b) for a in values for b in values]) > 0.01  # copies on their own
    assert rs_da_copies(("x", "y"), 2, NEIGHBOURS, rng()) == [("x", "y")] * 2
    with pytest.raises(StudyError, match="sequence of sentences"):
        rs_da_copies("good man", 2, NEIGHBOURS, rng())


def test_without_foreign():
    assert without_foreign(NEIGHBOURS, {"fine", "nice", "man"}) == {
        "good": ["fine", "nice"],
        "man": [],
        "empty": [],
    }


def test_foreign_words_are_commoner_in_another_language():
    counts = {
        "en": {"the": 90, "man": 9, "car": 1},  # 100 words: one occurrence and one more are 0.02
        "fr": {"le": 80, "car": 10, "man": 10},  # car 0.10 is five times 0.02, not more
        "es": {"el": 88, "hombre": 12},
        "ru": {"и": 60, "song": 40},  # other letters than English
    }
    words = ["man", "car", "hombre", "song", "le", "rare"]
    assert foreign_words(words, counts, "en") == {"hombre", "le"}
    assert foreign_words(words, counts, "en", ratio=4.9) == {"hombre", "le", "car"}
    assert foreign_words(words, counts | {"en": {}}, "en") == set()  # of no letters, so of no others'


LEXICON = {"de": {"cat": ["Katze"], "dog": ["Hund", "Köter"]}, "fr": {"cat": ["chat"]}}


def test_code_switch_distribution():
    words = code_switch(["dog"] * 40_000, LEXICON, rng(), cross=0.8)
    expected = {"Hund": 0.2, "Köter": 0.2, "dog": 0.6}  # half the draws go to French, which has no entry
    counts = [words.count(word) for word in expected]
    assert sum(counts) == len(words)
    assert chisquare(counts, [len(words) * share for share in expected.values()]).pvalue > 0.01


def test_code_switch_ratio_and_case():
    kept = [
        code_switch(["Cat"], LEXICON, np.random.default_rng(i), cross=1, ratio=0.3) == ["cat"]
        for i in range(3000)
    ]
    assert abs(np.mean(kept) - 0.7) < 4 * math.sqrt(0.21 / 3000)
    assert code_switch(["Cat", "The"], LEXICON, rng(), cross=1, lower=False) == ["Cat", "The"]
    assert code_switch(["Cat", "The"], LEXICON, rng(), cross=0) == ["cat", "the"]
    assert code_switch(["cat"], {"de": {"cat": ["Katze"]}}, rng(), cross=1) == ["Katze"]
    assert code_switch([], LEXICON, rng(), cross=1) == []


@pytest.mark.parametrize("rate", [-0.1, 1.1, math.nan, math.inf, "0.1", None, True])
def test_rates_are_shares(rate):
    with pytest.raises(StudyError, match="from 0 to 1"):
        code_switch(["cat"], LEXICON, rng(), cross=rate)
    with pytest.raises(StudyError, match="from 0 to 1"):
        corrupt_ids(np.arange(3), rate, rng(), "drop")


def test_code_switch_refuses_an_empty_lexicon():
    with pytest.raises(StudyError, match="lexicon is empty"):
        code_switch(["cat"], {}, rng(), cross=0.5)


def test_corrupt_ids_by_hand():
    ids = np.array([2, 7, 8, 9, 3])
    assert corrupt_ids(ids, 1, rng(), "mask", special=(2, 3), mask_id=4).tolist() == [2, 4, 4, 4, 3]
    assert corrupt_ids(ids, 1, rng(), "drop", special=(2, 3)).tolist() == [2, 3]
    assert ids.tolist() == [2, 7, 8, 9, 3]
    for kind in ("mask", "drop", "replace"):
        assert corrupt_ids(ids, 0, rng(), kind, mask_id=4, vocabulary_size=10).tolist() == ids.tolist()
        assert corrupt_ids(np.array([], dtype=int), 1, rng(), kind, mask_id=4, vocabulary_size=10).size == 0


def test_corrupt_ids_rate_and_replacement():
    ids = np.tile([0, 5], 20_000)
    new = corrupt_ids(ids, 0.3, rng(), "replace", special=(0, 1), vocabulary_size=8)
    assert (new[0::2] == 0).all()
    changed = new[1::2][new[1::2] != 5]
    assert abs(len(changed) / 20_000 - 0.3) < 4 * math.sqrt(0.21 / 20_000)
    assert uniform(changed.tolist(), [2, 3, 4, 6, 7]) > 0.01
    dropped = corrupt_ids(ids, 0.3, rng(), "drop", special=(0,))
    assert abs((dropped == 5).sum() / 20_000 - 0.7) < 4 * math.sqrt(0.21 / 20_000)
    assert (dropped == 0).sum() == 20_000


@pytest.mark.parametrize(
    ("ids", "kind", "options", "message"),
    [
        ([1, 2], "swap", {}, "mask .with mask_id"),
        ([1, 2], "mask", {}, "mask .with mask_id"),
        ([1, 2], "replace", {}, "replace .with vocabulary_size"),
        ([1.5], "drop", {}, "whole numbers"),
        ([[1, 2]], "drop", {}, "shape"),
        ([1, 9], "replace", {"vocabulary_size": 5}, "outside the vocabulary"),
        ([1, 1], "replace", {"vocabulary_size": 2, "special": (0,)}, "fewer than two"),
    ],
)
def test_corrupt_ids_refuses(ids, kind, options, message):
    with pytest.raises(StudyError, match=message):
        corrupt_ids(np.array(ids), 1, rng(), kind, **options)


def test_same_generator_state_same_result():
    for _ in range(2):
        assert rs_da(["good"] * 5, NEIGHBOURS, rng(3)) == rs_da(["good"] * 5, NEIGHBOURS, rng(3))
        assert code_switch(["dog"] * 9, LEXICON, rng(3), cross=0.5) == code_switch(
            ["dog"] * 9, LEXICON, rng(3), cross=0.5
        )
