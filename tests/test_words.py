"""Sentences cleaned and compared, words and their offsets."""

import pytest

from xltlib.data.tasks import load_pairs
from xltlib.data.words import clean, overlap_key, simple_tokenize, token_spans


def test_clean_undoes_escapes_and_unifies_widths():
    assert clean("it &apos;s &quot; a &amp; b &#91; ") == "it 's \" a & b ["
    assert clean("&amp;quot;&lt;") == '"<'
    assert clean("ＡＢ　１") == "ＡＢ １"
    assert clean("ＡＢ　１", nfkc=True) == "AB 1"


def test_copies_share_a_key_through_case_width_and_punctuation():
    keys = [overlap_key(x) for x in ("Hello , world !", "hello world", "Zwei Ｋatzen.", "ZWEI KATZEN")]
    assert keys == ["helloworld"] * 2 + ["zweikatzen"] * 2
    assert overlap_key("¡ ... !") == ""


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("don't 40.000", ["don", "'", "t", "40", ".", "000"]),
        ("我们去 Berlin。", ["我", "们", "去", "Berlin", "。"]),
        ("カタカナー", ["カ", "タ", "カ", "ナ", "ー"]),
        ("हिन्दी में", ["हिन्दी", "में"]),  # vowel signs and viramas stay inside the word
        ("العَرَبِيَّةُ", ["العَرَبِيَّةُ"]),
        ("เหลือ", ["เ", "ห", "ลื", "อ"]),  # marks go with their consonant
        ("e\u0301tat", ["e\u0301tat"]),
        ("", []),
        (" \u3000\n", []),
    ],
)
def test_words(text, words):
    assert simple_tokenize(text) == words
    assert [text[start:end] for start, end in token_spans(text)] == words


def test_spans_cover_all_but_white_space(data):
    for language in ("zh", "hi", "th", "ar", "ko", "ja"):
        for line, _ in load_pairs("ntrex", (language, "en"), data)[:300]:
            covered = "".join(line[start:end] for start, end in token_spans(line))
            assert covered == "".join(line.split())
