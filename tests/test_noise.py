"""Typing errors: distributions, rates and Unicode on real text, answers at their mapped offsets."""

import gzip
import json
import math
import unicodedata
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import regex
from scipy.stats import chisquare

from xltlib import StudyError
from xltlib.noise import typing as noise
from xltlib.noise.typing import Edit, noisy_span, typo, typo_edits, typo_many

NTREX = {"en": "src.eng", "de": "ref.deu", "es": "ref.spa", "fr": "ref.fra", "ru": "ref.rus", "ar": "ref.arb"}
NTREX |= {
    "hi": "ref.hin",
    "th": "ref.tha",
    "tr": "ref.tur",
    "vi": "ref.vie",
    "zh": "ref.zho-CN",
    "ko": "ref.kor",
}
NTREX |= {"ja": "ref.jpn", "el": "ref.ell", "bg": "ref.bul", "sw": "ref.swa", "ur": "ref.urd"}
SENTENCE = "The quick brown fox jumps over the lazy dog."


def rng(seed=0):
    return np.random.default_rng(seed)


def ntrex(data_dir, language):
    name = f"newstest2019-{NTREX[language]}.txt.gz"
    with gzip.open(data_dir / "ntrex" / name, "rt", encoding="utf-8") as file:
        return file.read().splitlines()


def kind_of(old, new):
    """The error that makes `new` of an ASCII word `old`, first letter apart."""
    if len(new) == len(old):
        return "transpose" if sorted(old) == sorted(new) else "replace"
    return "delete" if len(new) < len(old) else "insert"


@pytest.mark.parametrize(
    ("language", "text", "expected"),
    [
        ("en", SENTENCE, "The qick brwon fox jumps ovre teh lazy dgo."),
        ("zh", "这是一个测试句子。", "这个一测子句。"),
        ("ko", "멍청이처럼 보이는 것을 걱정했다", "멍청이처럼 보는 것으 걱정했다"),
        ("hi", "वेल्श के सदस्य चिंतित हैं", "वेल्श के सस्य चिंतति हैं"),
        ("ar", "هناك استياء بين بعض أعضاء جمعية", "هناك اتياء بني بعض أعضاء جمعةي"),
    ],
)
def test_golden(language, text, expected):
    assert typo(text, 0.5, language, rng()) == expected


def test_rate_0_is_the_identity_and_draws_nothing():
    generator, text = rng(), " a\tB\n\u0915\u093f \U0001f600 e\u0301 "
    assert typo(text, 0, "en", generator) == text
    assert generator.bit_generator.state == rng().bit_generator.state
    assert typo("", 1, "en", rng()) == ""
    assert typo_many([], 1, "en", rng()) == []
    assert typo("2019 - 3,5 % ... \U0001f600", 1, "en", rng()) == "2019 - 3,5 % ... \U0001f600"


def test_rate_1_edits_every_eligible_word_once_and_keeps_first_letters():
    words = SENTENCE.split()
    for seed in range(50):
        noisy = typo(SENTENCE, 1, "en", rng(seed)).split()
        assert all(new != old and new[0] == old[0] for old, new in zip(words, noisy, strict=True))
        assert noisy[-1].endswith(".")


def test_rate_and_mix_by_distribution():
    text = "abcdefgh " * 20_000
    noisy = typo(text, 0.3, "en", rng()).split()
    kinds = Counter(kind_of("abcdefgh", word) for word in noisy if word != "abcdefgh")
    edited = sum(kinds.values())
    assert abs(edited / 20_000 - 0.3) < 4 * math.sqrt(0.21 / 20_000)
    shares = noise.MIXES["multypo"]
    expected = [shares[kind] / sum(shares.values()) * edited for kind in shares]
    assert chisquare([kinds[kind] for kind in shares], expected).pvalue > 0.01


def test_places_are_uniform_over_the_letters_after_the_first():
    edits, units = typo_edits(["abcdefgh " * 20_000], 1, "en", rng(), mix={"delete": 1})
    assert units == 20_000
    places = Counter(edit.start % 9 for edit in edits[0])
    assert set(places) == set(range(1, 8))
    assert chisquare(list(places.values())).pvalue > 0.01
    edits, _ = typo_edits(["abcdefgh " * 20_000], 1, "en", rng(), mix={"transpose": 1}, protect_first=False)
    places = Counter(edit.start % 9 for edit in edits[0])
    assert set(places) == set(range(7))
    assert chisquare(list(places.values())).pvalue > 0.01


def test_unit_char_edits_each_letter_at_the_rate():
    edits, units = typo_edits(["abcdefgh " * 5_000], 0.2, "en", rng(), unit="char")
    assert units == 7 * 5_000
    assert abs(len(edits[0]) / units - 0.2) < 4 * math.sqrt(0.16 / units)
    _, units = typo_edits(["abcdefgh " * 5_000], 0.2, "en", rng(), unit="char", protect_first=False)
    assert units == 8 * 5_000


@pytest.mark.parametrize("unit", ["word", "char"])
@pytest.mark.parametrize("text", ["a", "的", "ก", "a 的 b", "的的", "กก", "ab", "é", "e\u0301", "가"])
def test_words_never_vanish(unit, text):
    for seed in range(100):
        noisy = typo(text, 1, "en", rng(seed), unit=unit, protect_first=False, min_length=1)
        assert len(noisy.split()) == len(text.split())
        assert noisy != text or text in ("的的", "กก", "a 的 b")  # two edits may undo each other


def test_min_length_counts_letters():
    text = "a an the l'an 1st"
    for length, units in (
        (1, 4),
        (2, 4),
        (3, 2),
        (4, 0),
    ):  # with the first letter protected, "a" has no other
        assert typo_edits([text], 0.5, "en", rng(), min_length=length)[1] == units


def test_an_impossible_kind_gives_way_to_another_of_the_mix_only():
    assert typo("ooo", 1, "en", rng(), mix={"transpose": 1}) == "ooo"
    assert typo("ooo", 1, "en", rng(), mix={"transpose": 0.99, "delete": 0.01}) == "oo"
    assert typo("的", 1, "zh", rng(), mix={"replace": 1}) == "的"
    for seed in range(30):
        assert typo("的", 1, "zh", rng(seed)) == "的的"
        assert typo("这是", 1, "zh", rng(seed)) in {"这", "这这", "这这是是", "这是是"}


def test_batch_equals_one_by_one_and_repeats():
    texts = [SENTENCE, "", "这是一个测试", "Ein Satz."]
    one = rng(5)
    assert typo_many(texts, 0.4, "de", rng(5)) == [typo(text, 0.4, "de", one) for text in texts]
    assert typo_many(texts, 0.4, "de", rng(5)) == typo_many(texts, 0.4, "de", rng(5))
    assert typo_many(texts, 0.4, "de", rng(5)) != typo_many(texts, 0.4, "de", rng(6))


def test_a_higher_rate_keeps_the_errors_of_a_lower_one():
    text = SENTENCE * 20
    low, high = (set(typo_edits([text], rate, "en", rng(1))[0][0]) for rate in (0.1, 0.3))
    assert low < high


def test_a_keyboard_of_its_own_for_a_synthetic_script():
    alphabet = [chr(0xE000 + i) for i in range(20)]
    keys = noise.layout(alphabet, rng())
    text = " ".join("".join(alphabet[i : i + 5]) for i in range(15))
    noisy = typo(text, 1, keys, rng(), mix={"replace": 1})
    assert all(a != b and a[0] == b[0] for a, b in zip(text.split(), noisy.split(), strict=True))
    assert set(noisy) <= {*alphabet, " "}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rate": -0.1}, "from 0 to 1"),
        ({"rate": 1.01}, "from 0 to 1"),
        ({"rate": math.nan}, "from 0 to 1"),
        ({"rate": "0.1"}, "from 0 to 1"),
        ({"keyboard": "xx"}, "known: ar bg de"),
        ({"unit": "line"}, "known: word char"),
        ({"mix": "other"}, "known: multypo uniform"),
        ({"mix": {"swap": 1}}, "delete insert replace transpose"),
        ({"mix": {"delete": 0}}, "at least one above 0"),
        ({"mix": {"delete": math.nan}}, "at least one above 0"),
        ({"min_length": 0}, "whole number from 1"),
    ],
)
def test_bad_input_is_refused(change, message):
    arguments = {"text": SENTENCE, "rate": 0.1, "keyboard": "en", "rng": rng()} | change
    with pytest.raises(StudyError, match=message):
        typo(**arguments)


def test_one_string_is_no_batch():
    with pytest.raises(StudyError, match="sequence of texts"):
        typo_many(SENTENCE, 0.1, "en", rng())


# --- Unicode ---


@pytest.mark.parametrize("unit", ["word", "char"])
def test_clusters_stay_whole(unit):
    family, flag, mark = "\U0001f469\u200d\U0001f469\u200d\U0001f467", "\U0001f1e9\U0001f1ea", "\u200f"
    text = f"{family}ab {flag}xyz q\u0308uark \u0915\u094d\u0937\u092e\u093e {mark}abc"
    wholes = [family, flag, mark]
    for seed in range(100):
        noisy = typo(text, 1, "hi", rng(seed), unit=unit)
        assert [c for c in regex.findall(r"\X", noisy) if c in wholes] == wholes
        assert not any(unicodedata.category(word[0])[0] == "M" for word in noisy.split())


def test_random_text_stays_valid():
    """Letters, marks, joiners, jamo and emoji in any order: NFC and white space stay, nothing fails."""
    pool = "ab\n.1 q\u0301\u0323\u0308\u00e9\u0915\u094d\u093f\u0e01\u0e35\u0e33\u304b\u3099\u1100\u1161"
    pool += "\u11a8\uac00\u3131\u7684\u0627\u064e\u200d\u200c\U0001f600\U00020000"
    generator, languages = rng(), noise.keyboard_languages()
    for i in range(3000):
        text = "".join(pool[k] for k in generator.integers(len(pool), size=12))
        text = unicodedata.normalize("NFC", text)
        noisy = typo(
            text,
            0.3 + 0.7 * (i % 2),
            languages[i % len(languages)],
            generator,
            unit=("word", "char")[i % 3 == 0],
        )
        assert unicodedata.is_normalized("NFC", noisy), (text, noisy)
        assert [c for c in noisy if c.isspace()] == [c for c in text if c.isspace()]
        assert len(noisy.split()) == len(text.split())


@pytest.mark.parametrize("language", NTREX)
def test_rate_and_form_on_real_text(language, data_dir):
    texts = ntrex(data_dir, language)[:700]
    for unit in ("word", "char"):
        edits, units = typo_edits(texts, 0.1, language, rng(), unit=unit)
        found = sum(map(len, edits))
        assert units > 9_000
        assert abs(found / units - 0.1) < 4 * math.sqrt(0.09 / units)
    texts = texts[:150]
    edits, units = typo_edits(texts, 1, language, rng())
    assert sum(map(len, edits)) == units
    for text, noisy, made in zip(texts, typo_many(texts, 1, language, rng()), edits, strict=True):
        assert noisy == noise.apply_edits(text, made)
        assert all(text[edit.start : edit.end] != edit.new for edit in made)
        assert all(a.end <= b.start for a, b in pairwise(made))
        assert len(noisy.split()) == len(text.split())
        assert noisy.encode("utf-8").decode("utf-8") == noisy
        assert unicodedata.is_normalized("NFC", noisy) or not unicodedata.is_normalized("NFC", text)
        starts = {unicodedata.category(word[0])[0] for word in text.split()}
        assert "M" in starts or all(unicodedata.category(word[0])[0] != "M" for word in noisy.split())


@pytest.mark.parametrize("name", ["xnli/test-{}.tsv.gz", "tatoeba_laser/tatoeba.{}-eng.{}"])
@pytest.mark.parametrize(
    ("language", "code"), [("en", None), ("hi", "hin"), ("th", "tha"), ("zh", "cmn"), ("ar", "ara")]
)
def test_rate_on_other_real_text(name, language, code, data_dir):
    if "tatoeba" in name:
        code = code or "deu"  # English is the other side of a pair
        path = data_dir / name.format(code, "eng" if language == "en" else code)
        lines = path.read_text(encoding="utf-8").splitlines()
    else:
        with gzip.open(data_dir / name.format(language), "rt", encoding="utf-8") as file:
            lines = file.read().splitlines()[:2000]
    for rate in (0.05, 0.3):
        edits, units = typo_edits(lines, rate, language, rng(2))
        assert abs(sum(map(len, edits)) / units - rate) < 4 * math.sqrt(rate * (1 - rate) / units)


# --- answers ---


def slow_map(context, edits, start, end):
    """Where the characters start..end-1 come to lie: by carrying every character's origin along."""
    origin, done = [], 0
    for edit in edits:
        origin += [*range(done, edit.start), *[None] * len(edit.new)]
        done = edit.end
    origin += range(done, len(context))
    return origin.index(start), origin.index(end - 1) + 1


def test_noisy_span_by_hand():
    context, answers = "Denver lost to Carolina, badly", ((15, "Carolina"),)
    noisy, mapped = noisy_span(context, answers, 1, "en", rng(), mix={"delete": 1})
    words = noisy.split()
    assert [len(word) for word in words] == [5, 3, 1, 9, 4]
    assert words[3] == "Carolina,"
    assert mapped == ((12, "Carolina"),)
    assert noisy_span(context, answers, 0, "en", rng()) == (context, answers)
    assert noisy_span(context, (), 0, "en", rng()) == (context, ())


def test_edits_across_the_border_of_an_answer():
    spans = [(2, 4)]
    assert noise._mapped("abcdef", spans, [Edit(0, 1, "xyz")]) == ("xyzbcdef", ((4, "cd"),))
    assert noise._mapped("abcdef", spans, [Edit(1, 2, "")]) == ("acdef", ((1, "cd"),))
    assert noise._mapped("abcdef", spans, [Edit(2, 3, "cc")]) == ("abccdef", ((2, "ccd"),))
    assert noise._mapped("abcdef", spans, [Edit(1, 3, "cb")]) == ("acbdef", ((1, "cbd"),))
    assert noise._mapped("abcdef", spans, [Edit(3, 5, "ed")]) == ("abcedf", ((2, "ced"),))
    assert noise._mapped("abcdef", spans, [Edit(3, 4, "d"), Edit(4, 5, "")]) == ("abcdf", ((2, "cd"),))


def test_answers_are_never_emptied():
    for seed in range(200):
        noisy, mapped = noisy_span(
            "我们好吗", ((2, "好"), (0, "我们好")), 1, "zh", rng(seed), edit_answers=True
        )
        assert all(text and noisy[start : start + len(text)] == text for start, text in mapped)


@pytest.mark.parametrize("answer", [(0, "lost"), (-1, "y"), (3, ""), (400, "x")])
def test_answers_that_do_not_match_are_refused(answer):
    with pytest.raises(StudyError, match="noisy_span: answer"):
        noisy_span("Denver lost", (answer,), 0.1, "en", rng())


@pytest.mark.parametrize("language", ["ar", "de", "el", "en", "es", "hi", "ro", "ru", "th", "tr", "vi", "zh"])
def test_answers_of_xquad(language, data_dir):
    with gzip.open(data_dir / "xquad" / f"xquad.{language}.json.gz", "rt", encoding="utf-8") as file:
        articles = json.load(file)["data"]
    changed = 0
    for i, paragraph in enumerate(p for article in articles for p in article["paragraphs"]):
        context = paragraph["context"]
        answers = [(a["answer_start"], a["text"]) for qa in paragraph["qas"] for a in qa["answers"]]
        noisy, mapped = noisy_span(context, answers, 0.3, language, rng(i))
        assert [text for _, text in mapped] == [text for _, text in answers]
        assert all(noisy[start : start + len(text)] == text for start, text in mapped)
        spans = [[(start, start + len(text)) for start, text in answers]]
        edits = typo_edits([context], 0.3, language, rng(i), skip=spans)[0][0]
        slow = [slow_map(context, edits, start, end)[0] for start, end in spans[0]]
        assert [start for start, _ in mapped] == slow
        noisy, mapped = noisy_span(context, answers, 0.3, language, rng(i), edit_answers=True)
        assert all(text.strip() and noisy[start : start + len(text)] == text for start, text in mapped)
        changed += sum(new[1] != old[1] for new, old in zip(mapped, answers, strict=True))
    assert changed > 100
