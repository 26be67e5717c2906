"""Corpora: lines and pairs from every kind of file, what is refused, words and their offsets."""

import pytest
from official import write

from xltlib import StudyError
from xltlib.data.corpora import (
    CORPORA,
    clean,
    load,
    overlap_key,
    read_pairs,
    simple_tokenize,
    token_spans,
)


def test_pairs_from_two_files_and_from_one(tmp_path):
    en, de = write(tmp_path / "en", "a\n\nb\n"), write(tmp_path / "de", "A\nX\nB\n")
    assert read_pairs(en, de) == [("a", "A"), ("", "X"), ("b", "B")]
    tabs = write(tmp_path / "tabs", 'Hi "x\tHallo\tCC-BY\n\nyou\tdu\tCC-BY\n')
    assert read_pairs(tabs) == [('Hi "x', "Hallo"), ("you", "du")]


def test_uneven_or_unmarked_pairs_are_refused(tmp_path):
    en, de = write(tmp_path / "en", "a\nb\n"), write(tmp_path / "de", "A\n")
    with pytest.raises(StudyError, match=r"de: 1 lines, but .*en has 2"):
        read_pairs(en, de)
    with pytest.raises(StudyError, match="tabs:2: no tab between two sentences"):
        read_pairs(write(tmp_path / "tabs", "a\tA\nb\n"))


def test_clean_undoes_escapes_and_unifies_widths():
    assert clean("it &apos;s &quot; a &amp; b &#91; ") == "it 's \" a & b ["
    assert clean("&amp;quot;&lt;") == '"<'
    assert clean("ＡＢ　１") == "ＡＢ １"
    assert clean("ＡＢ　１", nfkc=True) == "AB 1"


def test_empty_verses_and_repeats_are_dropped_as_pairs(tmp_path):
    write(tmp_path / "bible/bible.en.txt", "one\n\nthree\nfour\n\n")
    write(tmp_path / "bible/bible.de.txt.gz", "eins\nzwei\n\nvier\n\n")
    assert load("bible", ("en", "de"), tmp_path, strict=False) == [("one", "eins"), ("four", "vier")]
    assert load("bible", ("de",), tmp_path, strict=False) == [("eins",), ("zwei",), ("vier",)]
    write(tmp_path / "eutrans_es_en/training.en", "a\na\nb\n")
    write(tmp_path / "eutrans_es_en/training.es", "A\nA\nB\n")
    assert load("eutrans_es_en", ("es", "en"), tmp_path, strict=False) == [("A", "a"), ("B", "b")]
    write(tmp_path / "tatoeba_en_zh/cmn.txt", "Hi.\t嗨。\tCC-BY\n")
    assert load("tatoeba_en_zh", ("zh", "en"), tmp_path, strict=False) == [("嗨。", "Hi.")]
    assert load("tatoeba_en_zh", ("zh",), tmp_path, strict=False) == [("嗨。",)]


def test_english_is_read_beside_its_other_language(tmp_path):
    """Three files of the same English text, each with the sentences that its translator had."""
    for pair in ("es", "fr"):
        write(tmp_path / f"tico19/tico19.en-{pair}.en", f"of {pair}\n")
        write(tmp_path / f"tico19/tico19.en-{pair}.{pair}", f"in {pair}\n")
    assert load("tico19", ("fr", "en"), tmp_path, strict=False) == [("in fr", "of fr")]
    assert load("tico19", ("es", "fr"), tmp_path, strict=False) == [("in es", "in fr")]
    assert load("tico19", ("en",), tmp_path, strict=False) == [("of es",)]


def test_the_set_folder_itself_may_be_named(tmp_path):
    for code, text in (("en", "a\n"), ("de", "A\n")):
        write(tmp_path / f"bible.{code}.txt", text)
    assert load("bible", ("de", "en"), tmp_path, strict=False) == [("A", "a")]


@pytest.mark.parametrize(
    ("name", "languages", "folder", "split", "reason"),
    [
        ("opus", ("en", "de"), "", "train", "'opus' is not known; known are bible, tico19"),
        ("bible", ("en", "de"), "", "test", "bible has no split 'test'; it has train"),
        ("multi30k", ("en", "zh"), "", "train", "multi30k has no language 'zh'; it has de, en, fr"),
        (
            "tico19",
            ("en", "fr"),
            "",
            "train",
            r"tico19\.en-fr\.en\[\.gz\] not found; download tico19 \(github",
        ),
        ("bible", ("en", "de"), "nowhere", "train", "nowhere: no such folder; expected bible"),
        ("bible", ("en", "de"), "", "train", "1 lines, but the published file has 31102"),
    ],
)
def test_refusals_say_what_there_is(tmp_path, name, languages, folder, split, reason):
    write(tmp_path / "bible/bible.en.txt", "one\n")
    write(tmp_path / "bible/bible.de.txt", "eins\n")
    with pytest.raises(StudyError, match=reason):
        load(name, languages, tmp_path / folder, split)


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
        for (line,) in load("ntrex", (language,), data)[:300]:
            covered = "".join(line[start:end] for start, end in token_spans(line))
            assert covered == "".join(line.split())


# Pairs without an empty side, where that is fewer than lines; EuTrans without its repeats.
KEPT = {
    "bible": {"de": 31041, "el": 30909, "es": 30670, "fr": 27996, "ja": 30247, "ko": 30654, "ru": 27488,
              "sw": 7837, "vi": 30986, "zh": 30331},
    "opennmt_ende_10k": {"de": 9999},
    "eutrans_es_en": {"es": 6750},
}  # fmt: skip


@pytest.mark.parametrize("name", [name for name, corpus in CORPORA.items() if not corpus.hub])
def test_corpora_are_whole_in_every_pair_of_languages(data, data_name, name):
    """Each language with English, and one pair that meets only through English."""
    corpus = CORPORA[name]
    kept = KEPT.get(name, {}) if data_name == "published" else {}
    for a, b in [*(("en", x) for x in corpus.languages if x != "en"), *[("zh", "ar")] * (name == "tico19")]:
        pairs = load(name, (a, b), data)
        assert len(pairs) == kept.get(b, corpus.lines["train"])
        assert all(x == x.strip() and y == y.strip() and x and y for x, y in pairs)
        assert not any("&quot;" in x + y or "\ufeff" in x[:1] for x, y in pairs)
