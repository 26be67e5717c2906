"""Corpora: lines and pairs from every kind of file, what is refused, words and their offsets."""

import gzip

import pytest

from xltlib import StudyError
from xltlib.data.corpora import (
    CORPORA,
    clean,
    corpora_with,
    drop_overlap,
    monolingual,
    overlap_key,
    parallel,
    read_pairs,
    simple_tokenize,
    token_spans,
)


def write(path, content: bytes | str):
    data = content.encode() if isinstance(content, str) else content
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def test_pairs_from_two_files_and_from_one(tmp_path):
    en, de = write(tmp_path / "en", "a\n\nb\n"), write(tmp_path / "de", "A\nX\nB\n")
    assert read_pairs(en, de) == [("a", "A"), ("", "X"), ("b", "B")]
    assert read_pairs(write(tmp_path / "bars", "a b ||| A B\n\nc ||| C\n")) == [("a b", "A B"), ("c", "C")]
    assert read_pairs(write(tmp_path / "tabs", 'Hi "x\tHallo\tCC-BY\nyou\tdu\tCC-BY\n'))[0] == (
        'Hi "x',
        "Hallo",
    )


def test_uneven_or_unmarked_pairs_are_refused(tmp_path):
    en, de = write(tmp_path / "en", "a\nb\n"), write(tmp_path / "de", "A\n")
    with pytest.raises(StudyError, match=r"de: 1 lines, but .*en has 2"):
        read_pairs(en, de)
    with pytest.raises(StudyError, match=r"bars:2: no '\|\|\|'"):
        read_pairs(write(tmp_path / "bars", "a ||| A\nb\n"))


def test_clean_undoes_escapes_and_unifies_widths():
    assert clean("it &apos;s &quot; a &amp; b &#91; ") == "it 's \" a & b ["
    assert clean("&amp;quot;&lt;") == '"<'
    assert clean("ＡＢ　１") == "ＡＢ １"
    assert clean("ＡＢ　１", nfkc=True) == "AB 1"


def test_empty_verses_and_repeats_are_dropped_as_pairs(tmp_path):
    write(tmp_path / "bible/bible.en.txt", "one\n\nthree\nfour\n\n")
    write(tmp_path / "bible/bible.de.txt.gz", "eins\nzwei\n\nvier\n\n")
    assert parallel("bible", "en", "de", tmp_path, strict=False) == [("one", "eins"), ("four", "vier")]
    assert monolingual("bible", "de", tmp_path, strict=False) == ["eins", "zwei", "vier"]
    write(tmp_path / "eutrans_es_en/training.en", "a\na\nb\n")
    write(tmp_path / "eutrans_es_en/training.es", "A\nA\nB\n")
    assert parallel("eutrans_es_en", "es", "en", tmp_path, strict=False) == [("A", "a"), ("B", "b")]


def test_the_set_folder_itself_may_be_named(tmp_path):
    for code, text in (("en", "a\n"), ("de", "A\n")):
        write(tmp_path / f"bible.{code}.txt", text)
    assert parallel("bible", "de", "en", tmp_path, strict=False) == [("A", "a")]


def test_refusals_say_what_there_is(tmp_path):
    with pytest.raises(StudyError, match="known are bible, tico19"):
        parallel("opus", "en", "de", tmp_path)
    with pytest.raises(StudyError, match=r"bible has no split 'test'; it has train"):
        parallel("bible", "en", "de", tmp_path, split="test")
    with pytest.raises(StudyError, match=r"multi30k has no language 'zh'; it has de, en, fr"):
        parallel("multi30k", "en", "zh", tmp_path)
    with pytest.raises(StudyError, match="needs two languages"):
        parallel("bible", "en", "en", tmp_path)
    with pytest.raises(StudyError, match=r"bible/bible\.en\.txt\[\.gz\] not found; download bible \(github"):
        parallel("bible", "en", "de", tmp_path)
    with pytest.raises(StudyError, match="no such folder"):
        parallel("bible", "en", "de", tmp_path / "nowhere")
    write(tmp_path / "bible/bible.en.txt", "one\n")
    write(tmp_path / "bible/bible.de.txt", "eins\n")
    with pytest.raises(StudyError, match="1 lines, but the published file has 31102"):
        parallel("bible", "en", "de", tmp_path)


def test_overlap_is_found_through_case_width_and_punctuation():
    pairs = [("Hello , world !", "Hallo"), ("two", "Zwei Ｋatzen."), ("...", "drei"), ("four", "vier")]
    kept, counts = drop_overlap(pairs, set(map(overlap_key, ["hello world", "ZWEI KATZEN", "!!!"])))
    assert kept == [("...", "drei"), ("four", "vier")]
    assert counts == {"pairs": 4, "dropped": 2, "first": 1, "second": 1}
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


def test_spans_cover_all_but_white_space(data_dir):
    for language in ("zh", "hi", "th", "ar", "ko", "ja"):
        for line in monolingual("ntrex", language, data_dir)[:300]:
            covered = "".join(line[start:end] for start, end in token_spans(line))
            assert covered == "".join(line.split())


def published_pairs():
    """Each corpus with English and each other language, and one pair that meets only through English.

    One that is read from the hub is too large for a folder of test data.
    """
    for name, corpus in CORPORA.items():
        if not corpus.hub:
            yield from ((name, "en", other) for other in corpus.languages if other != "en")
    yield "tico19", "zh", "ar"


# Pairs without an empty side, where that is fewer than lines; EuTrans without its repeats.
KEPT = {
    **{
        ("bible", code): count for code, count in [("de", 31041), ("es", 30670), ("zh", 30331), ("fr", 27996)]
    },
    **{
        ("bible", code): count for code, count in [("ru", 27488), ("ja", 30247), ("ko", 30654), ("vi", 30986)]
    },
    **{("bible", "el"): 30909, ("bible", "sw"): 7837},
    ("opennmt_ende_10k", "de"): 9999,
    ("eutrans_es_en", "es"): 6750,
}


@pytest.mark.parametrize(("name", "a", "b"), published_pairs())
def test_published_corpora_are_whole(data_dir, name, a, b):
    pairs = parallel(name, a, b, data_dir)
    assert len(pairs) == KEPT.get((name, b), CORPORA[name].lines["train"])
    assert all(x == x.strip() and y == y.strip() and x and y for x, y in pairs)
    assert not any("&quot;" in x + y or "\ufeff" in x[:1] for x, y in pairs)


def test_amount_of_parallel_text(data_dir):
    def total(other):
        names = [name for name in corpora_with("en", other) if not CORPORA[name].hub]
        return sum(len(parallel(name, "en", other, data_dir)) for name in names)

    assert (total("de"), total("es"), total("zh")) == (72037, 42488, 88485)
