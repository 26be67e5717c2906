"""Task sets: official files as records, with official counts; every trap refused, with its place."""

import json
import warnings
from dataclasses import replace

import numpy as np
import official
import pytest
from official import write

from xltlib import StudyError
from xltlib.data import tasks
from xltlib.data.formats import LABELS, NAMES
from xltlib.data.tasks import SETS, ChoiceExample, PairExample, SpanExample, TaggedSentence, load, load_pairs


def some(name, split, language, folder, **options):
    """Load without minding the number of examples."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*officially")
        return load(name, split, language, folder, strict=False, **options)


def squad(*questions):
    """A SQuAD file of questions "?", each (id, context, start, text)."""
    return json.dumps(official.squad(*((key, "?", *answered) for key, *answered in questions)))


XNLI = "a cat\tan animal\tentailment\r\na cat\ta dog\tcontradiction\r\n"
PAIRS = [PairExample("0", "a cat", "an animal", 0), PairExample("1", "a cat", "a dog", 2)]
COLUMNS = "language\tgold_label\tsentence1_binary_parse\tsentence1\tsentence2\tpromptID\n"
ORIGINAL = "ar\tneutral\t(x)\tA\tB\t1\nde\tentailment\t(x)\tEine\tZwei\t1\nde\tneutral\t(x)\tEine\tDrei\t2\n"
QUOTED = [
    '"Yes," he said.\tHe said "yes\tneutral', '""Yes""\tA "b" c\tentailment',
    '"He said ""yes""."\t"""Yes"" it is."\tneutral',
]  # fmt: skip
UNQUOTED = [
    PairExample("0", '"Yes," he said.', 'He said "yes', 1), PairExample("1", '""Yes""', 'A "b" c', 0),
    PairExample("2", 'He said "yes".', '"Yes" it is.', 1),
]  # fmt: skip
CHOICE = {"premise": "P", "choice1": "A", "choice2": "B", "question": "cause", "label": 1, "idx": 4}
CHOICES = [json.dumps(CHOICE), json.dumps(CHOICE | {"label": 0, "idx": 5})]
CONLLU = """# newdoc id = d
# sent_id = s1
# text = du pain
1-2\tdu\t_\t_\t_\t_\t_\t_\t_\t_
1\tde\tde\tADP\tIN\t_\t3\tcase\t_\t_
2\tle\tle\tDET\tDT\t_\t3\tdet\t_\t_
3\tpain\tpain\tNOUN\tNN\t_\t0\troot\t_\t_
3.1\tvide\t_\tVERB\t_\t_\t_\t_\t_\t_

# sent_id = s2
1\tOui\toui\tINTJ\tUH\t_\t0\troot\t_\t_"""
SENTENCES = [
    TaggedSentence("s1", ("de", "le", "pain"), ("ADP", "DET", "NOUN"), ("case", "det", "root"), "du pain"),
    TaggedSentence("s2", ("Oui",), ("INTJ",), ("root",)),
]
TYDIQA = "tydiqa/tydiqa-goldp-v1.1-"
READ = {  # what is read -> set, split, language; content by file; records
    "XTREME's layout": ("xnli dev de", {"xnli/dev-de.tsv": "\ufeff" + XNLI}, PAIRS),
    "XNLI's own file of all languages": (
        "xnli test de", {"XNLI-1.0/xnli.test.tsv": COLUMNS + ORIGINAL},
        [PairExample("0", "Eine", "Zwei", 0), PairExample("1", "Eine", "Drei", 1)]),
    "quotes as text, unless a CSV writer made them": (
        "xnli dev en", {"xnli/dev-en.tsv": "\n".join(QUOTED)}, UNQUOTED),
    "labels in the file beside": (
        "xnli test de", {"xnli/test-de.tsv": "a\tb\nc\td\n",
                         "xnli/test.labels.tsv.gz": "genre\tlabel\nx\tneutral\nx\tcontradiction\n"},
        [PairExample("0", "a", "b", 1), PairExample("1", "c", "d", 2)]),
    "ids that repeat as published": (
        "tydiqa train en", {f"{TYDIQA}train/tydiqa.goldp.en.train.json": squad(*[("0", "a b", 2, "b")] * 2)},
        [SpanExample(key, "?", "a b", ((2, "b"),)) for key in ("0:0", "1:0")]),
    "a byte order mark within a text": (
        "xquad test th", {"xquad/xquad.th.json": squad(("q", "\ufeffone two", 5, "two"))},
        [SpanExample("q", "?", "\ufeffone two", ((5, "two"),))]),
    "one language of several, by its ids": (
        "tydiqa dev sw",
        {f"{TYDIQA}dev.json": squad(("english-1", "one", 0, "one"), ("swahili-2", "moja", 0, "moja"))},
        [SpanExample("swahili-2", "?", "moja", ((0, "moja"),))]),
    "choices": (
        "xcopa dev sw", {"xcopa/sw/val.sw.jsonl": "\r\n".join(CHOICES) + "\r\n"},
        [ChoiceExample("4", "P", "cause", ("A", "B"), 1), ChoiceExample("5", "P", "cause", ("A", "B"), 0)]),
    "syntactic words": ("pud test fr", {"ud_pud/fr_pud-ud-test.conllu": CONLLU}, SENTENCES),
}  # fmt: skip


@pytest.mark.parametrize("case", READ)
def test_official_files_are_read(tmp_path, case):
    key, files, records = READ[case]
    plant(tmp_path, files)
    assert some(*key.split(), tmp_path) == records
    assert LABELS["nli"] == ("entailment", "neutral", "contradiction")


XNLI_DEV, XQUAD, PUD = "xnli/dev-en.tsv", "xquad/xquad.en.json", "ud_pud/fr_pud-ud-test.conllu"
REFUSED = [  # set, split, language; a file and its content; what the error says
    ("xnli dev en", XNLI_DEV, "a\tb\tneutral\na\tb\tmaybe\n", "en.tsv:2: label 'maybe' is not known"),
    ("xnli dev en", XNLI_DEV, "a\tb\tneutral\na\tb\tc\tneutral\n", "en.tsv:2: 4 columns found, 3 expected"),
    ("xnli dev en", XNLI_DEV, "a\tb\tneutral\na\t \tneutral\n", "en.tsv:2: text_b is empty"),
    ("xnli dev en", XNLI_DEV, "a\tb\tneutral\nc\td\tneutral\n", "en.tsv:1: all 2 rows have label 1"),
    ("xnli dev en", XNLI_DEV, "a\tb\tneutral\nc\td\t\n", "en.tsv:2: no label or answer, though other rows"),
    ("xnli dev en", XNLI_DEV, "\n", "en.tsv: the file is empty"),
    ("xnli dev en", XNLI_DEV, b"a\tb\tneutral\n\xff\xfeb\tc\n", "en.tsv:2: byte 0xff is not UTF-8"),
    ("xnli test de", "xnli/test-de.tsv", "a\tb\nc\td\n",
     r"de.tsv:1: no label or answer in any row.*test\.labels\.tsv"),
    ("xquad test en", XQUAD, squad(("q", "one two", 3, "two")),
     "question 'q': answer 'two' is not at offset 3; .*' tw'"),
    ("xquad test en", XQUAD, squad(("q", "one", 0, "")), "question 'q': no label or answer in any row"),
    ("xquad test en", XQUAD, squad(("p", "one", 0, "one"), ("q", "one", 0, "")), "'q': no label or answer, "),
    ("xquad test en", XQUAD, squad(*[("p", "one", 0, "one")] * 2), "id 'p' was already"),
    ("xquad test en", XQUAD, '{"data": [\n{"paragraphs"]}', "en.json:2: not JSON"),
    ("xquad test en", XQUAD, '{"articles": []}', "en.json: no 'data', expected one in this object"),
    ("pawsx dev en", "x-final/en/dev_2k.tsv", "id\tsentence1\tsentence2\tlabel\n1\tA\tB\t1\n1\tC\tD\t0\n",
     "dev_2k.tsv:3: id '1' was already at .*:2"),
    ("xcopa dev sw", "xcopa/sw/val.sw.jsonl", f"{CHOICES[0]}\n{json.dumps(CHOICE | {'question': 'why'})}",
     "val.sw.jsonl:2: question is 'why'"),
    ("xcopa dev sw", "xcopa/sw/val.sw.jsonl", CHOICES[0] + "\n{", "val.sw.jsonl:2: not JSON"),
    ("pud test fr", PUD, CONLLU.replace("\t0\troot", "\t_\troot", 1), "conllu:7: head '_' is not a number"),
    ("pud test fr", PUD, CONLLU.replace("\tDT\t_", "\tDT", 1), "test.conllu:6: 9 columns found, 10 expected"),
    ("glue dev en", "x", "", "set 'glue' is not known; known are xnli"),
    ("xquad dev en", "x", "", "xquad has no split 'dev'; it has test"),
    ("xnli dev ja", "x", "", "xnli/dev has no language 'ja'; it has ar, bg, de"),
    ("squad dev de", "x", "", "squad/dev has no language 'de'; it has en"),
    ("mlqa dev de|es", "x", "", r"context-de-question-es\.json\[\.gz\] not found; download mlqa \(MLQA_V1"),
]  # fmt: skip


@pytest.mark.parametrize(("key", "name", "content", "reason"), REFUSED)
def test_what_is_wrong_is_named_with_its_place(tmp_path, key, name, content, reason):
    write(tmp_path / name, content)
    with pytest.raises(StudyError, match=reason):
        some(*key.split(), tmp_path)


def test_numbers_of_examples_and_labels_beside(tmp_path):
    write(tmp_path / "xnli/dev-en.tsv", XNLI)
    with pytest.raises(StudyError, match=r"xnli dev en: 2 examples \(first at .*:1\), officially 2490"):
        load("xnli", "dev", "en", tmp_path)
    with pytest.warns(UserWarning, match="officially 2490"):
        assert len(load("xnli", "dev", "en", tmp_path, strict=False)) == 2
    write(tmp_path / "xnli/test-de.tsv", "a\tb\nc\td\n")
    assert [e.label for e in some("xnli", "test", "de", tmp_path, unlabelled=True)] == [-1, -1]
    write(tmp_path / "xnli/test.labels.tsv", "genre\tlabel\nfiction\tneutral\n")
    with pytest.raises(StudyError, match="1 labels, but .* has 2 rows"):
        some("xnli", "test", "de", tmp_path)
    with pytest.raises(StudyError, match=r"no such folder; expected xquad \(github"):
        load("xquad", "test", "de", tmp_path / "nowhere")


def test_pawsx_placeholders(tmp_path):
    rows = ["id\tsentence1\tsentence2\tlabel", "7\tA\tB\t1", "8\tNS\tB\t0", "9\tC\tNS of D\t0"]
    write(tmp_path / "pawsx/x-final/de/dev_2k.tsv", "\n".join(rows))
    with pytest.warns(UserWarning, match=r"pawsx dev de: 1 of 3 rows have a side NS"):
        german = some("pawsx", "dev", "de", tmp_path)
    assert german == [PairExample("7", "A", "B", 1), PairExample("9", "C", "NS of D", 0)]


def test_languages_are_aligned_and_crossed():
    de = [PairExample("1", "a", "b", 0), PairExample("3", "e", "f", 1)]
    en = [PairExample("1", "A", "B", 0), PairExample("2", "C", "D", 1), PairExample("3", "E", "F", 1)]
    both = tasks.align({"de": de, "en": en})
    assert [e.id for e in both["en"]] == ["1", "3"]
    assert tasks.cross(both["de"], both["en"])[1] == PairExample("3", "e", "F", 1)


def test_the_table_is_consistent():
    for name, task_set in SETS.items():
        assert set(task_set.split_names) <= set(task_set.counts), name
        assert task_set.source, name
        assert task_set.licence, name
        for pattern in (*task_set.files, task_set.hub):
            assert "{" not in task_set.filled(pattern, "train", "de|en"), name
    counts = SETS["mlqa"].counts["dev"]
    assert len(counts) == 49
    assert (counts["de|es"], counts["es|de"], counts["en|de"], counts["de|en"]) == (196, 196, 512, 512)
    assert sum(SETS["tydiqa"].counts["train"].values()) == 49881
    assert sum(SETS["tydiqa"].counts["dev"].values()) == 5077


@pytest.fixture
def counts(monkeypatch):
    """The number of examples that is official for a split of a language in this test."""
    return lambda name, split, language, count: monkeypatch.setitem(SETS[name].counts[split], language, count)


def plant(folder, files, suffix=""):
    for name, content in files.items():
        write(folder / (name + suffix), content)


@pytest.mark.parametrize("key", official.sets())
def test_packed_files_are_read_and_counted(tmp_path, counts, key):
    counts(*key, 6)
    plant(tmp_path, official.sets()[key], ".gz")
    assert len({record.id for record in load(*key, tmp_path)}) == 6
    counts(*key, 7)
    with pytest.raises(StudyError, match="6 examples .* officially 7"):
        load(*key, tmp_path)


def meaning(records):
    """What records say, but for the number of annotators that gave an answer, and a comment of CoNLL-U."""
    spans = [replace(e, answers=set(e.answers)) if isinstance(e, SpanExample) else e for e in records]
    return [replace(e, text="") if isinstance(e, TaggedSentence) else e for e in spans]


def shapes(key, name):
    """The mutations of a file of a set; those that no reader could see are left out."""
    task = SETS[key[0]].task
    if task == "qa":
        return official.JSON | official.CUT
    if task == "choice":
        return official.JSON_LINES | official.LINES
    labelled = task in LABELS and not name.startswith("xnli/test-")
    return official.LINES | (official.LABELS if labelled else {})


@pytest.mark.parametrize("key", official.sets())
def test_no_mutation_is_loaded_with_another_meaning(tmp_path, counts, key):
    counts(*key, 6)
    files, rng, refused = official.sets()[key], np.random.default_rng(0), []
    plant(tmp_path, files)
    expected = load(*key, tmp_path)
    for number in range(60):
        name = list(files)[number % len(files)]
        kinds = [*shapes(key, name).items()]
        kind, mutate = kinds[number % len(kinds)]
        plant(tmp_path, files | {name: mutate(files[name], rng)})
        try:
            found = load(*key, tmp_path)
        except StudyError as error:
            refused.append(str(error))
        else:
            assert meaning(found) == meaning(expected), (kind, (tmp_path / name).read_text()[:3000])
    assert len(refused) > 18
    assert [message for message in refused if len(message) >= 500 or len(message.splitlines()) > 1] == []


WHOLE = {  # sets and splits -> languages that lie in the folder of real data in full
    "xnli/dev xnli/test": "ar bg de en es fr hi ru sw th tr ur vi zh",
    "taxinli/train sick/train sick/dev sick/test cad_nli/train cad_nli/dev cad_nli/test xcopa/train": "en",
    "pawsx/dev": "de en es fr ja ko zh",
    "pawsx/test": "de zh",
    "xquad/test": "ar de el en es hi ro ru th tr vi zh",
    "mlqa/dev": "ar de en es hi vi zh ar|en de|en de|es de|zh en|ar en|de en|es en|hi en|vi en|zh es|de "
                "es|en es|zh hi|en vi|en zh|de zh|en zh|es",
    "tydiqa/train": "en ko sw",
    "xcopa/dev": "en sw th tr vi zh",
    "xcopa/test": "sw th tr vi zh",
    "pud/test": "ar de en es fr hi ko ru th tr zh",
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*have a side NS")
@pytest.mark.parametrize("name", [name for name, each in SETS.items() if each.task != "text"])
def test_sets_are_whole_in_every_language(data, data_name, name):
    """As many examples as officially, or they are refused, and all labels among them."""
    whole = {key: languages.split() for keys, languages in WHOLE.items() for key in keys.split()}
    for split, languages in SETS[name].counts.items():
        for language in whole.get(f"{name}/{split}", ()) if data_name == "published" else languages:
            records = load(name, split, language, data)
            labels = {record.label for record in records if hasattr(record, "label")}
            assert labels in (set(), set(NAMES.get(SETS[name].task, {}).values())), (split, language)


def test_published_files_are_parallel_or_refused(data_dir):
    sets = {language: load("xnli", "test", language, data_dir) for language in ("en", "de", "zh")}
    for records in sets.values():
        assert [sum(e.label == label for e in records) for label in range(3)] == [1670] * 3
    crossed = tasks.cross(sets["de"], sets["zh"])
    assert (crossed[0].text_a, crossed[0].text_b) == (sets["de"][0].text_a, sets["zh"][0].text_b)
    for key in ("tydiqa dev ar", "tydiqa dev sw", "mlqa test de|es", "mlqa test zh|de"):
        with pytest.raises(StudyError, match="no label or answer in any row"):
            load(*key.split(), data_dir)
        assert not any(record.answers for record in load(*key.split(), data_dir, unlabelled=True))
    for language, count in {"en": 1994, "ja": 1997}.items():
        with pytest.raises(StudyError, match=f"{count} examples .* officially 2000"):
            load("pawsx", "test", language, data_dir)


def test_published_placeholders(data_dir):
    sets = {"en": load("pawsx", "dev", "en", data_dir)}
    for language, count in {"de": 68, "es": 38, "fr": 8, "ja": 20, "ko": 35, "zh": 16}.items():
        with pytest.warns(UserWarning, match=f"{count} of 2000"):
            sets[language] = load("pawsx", "dev", language, data_dir)
        assert len(sets[language]) == len(sets["en"]) - count == 2000 - count
    assert len({len(records) for records in tasks.align(sets).values()}) == 1


# Parallel text


def pairs(name, languages, folder, **options):
    """Load without minding the number of lines."""
    return load_pairs(name, languages, folder, strict=False, **options)


def test_empty_verses_and_repeats_are_dropped_as_pairs(tmp_path):
    write(tmp_path / "bible/bible.en.txt", "one\n\nthree\nfour &amp; \n\n")
    write(tmp_path / "bible/bible.de.txt.gz", "eins\nzwei\n\nvier\n\n")
    assert pairs("bible", ("en", "de"), tmp_path) == [("one", "eins"), ("four &", "vier")]
    write(tmp_path / "eutrans_es_en/training.en", "a\na\nb\n")
    write(tmp_path / "eutrans_es_en/training.es", "A\nA\nB\n")
    assert pairs("eutrans_es_en", ("es", "en"), tmp_path) == [("A", "a"), ("B", "b")]
    write(tmp_path / "tatoeba_en_zh/cmn.txt", 'Hi "x.\t嗨。\tCC-BY\n\n')
    assert pairs("tatoeba_en_zh", ("zh", "en"), tmp_path) == [("嗨。", 'Hi "x.')]
    write(tmp_path / "tatoeba_laser/tatoeba.deu-eng.deu", "Hallo.\n")
    write(tmp_path / "tatoeba_laser/tatoeba.deu-eng.eng", "Hello.\n")
    assert pairs("tatoeba", ("de", "en"), tmp_path, split="test") == [("Hallo.", "Hello.")]


def test_english_is_read_beside_its_other_language(tmp_path):
    """Two files of the same English text, each with the sentences that its translator had."""
    for pair in ("es", "fr"):
        write(tmp_path / f"tico19/tico19.en-{pair}.en", f"of {pair}\n")
        write(tmp_path / f"tico19/tico19.en-{pair}.{pair}", f"in {pair}\n")
    assert pairs("tico19", ("fr", "en"), tmp_path) == [("in fr", "of fr")]
    assert pairs("tico19", ("es", "fr"), tmp_path) == [("in es", "in fr")]
    assert SETS["tico19"].translates(("es", "fr"))
    assert not SETS["opus100"].translates(("es", "fr"))  # other sentences with each language


@pytest.mark.parametrize(
    ("name", "languages", "split", "reason"),
    [
        ("opus", "en de", "train", "'opus' is not known; known are xnli, .* bible, tico19"),
        ("bible", "en de", "test", "bible has no split 'test'; it has train"),
        ("multi30k", "en zh", "train", "multi30k/train has no language 'zh'; it has de, en, fr"),
        ("tico19", "en fr", "train", r"tico19\.en-fr\.en\[\.gz\] not found; download tico19 \(github"),
        ("bible", "en de", "train", "1 lines, but the published file has 31102"),
        ("bible", "en es", "train", r"es.txt: 2 lines, but .*en.txt has 1; line n must translate line n"),
        ("tatoeba_en_zh", "en zh", "train", "cmn.txt:2: no tab between two sentences"),
    ],
)
def test_text_is_refused_with_what_there_is(tmp_path, name, languages, split, reason):
    plant(tmp_path / "bible", {"bible.en.txt": "one\n", "bible.de.txt": "eins\n", "bible.es.txt": "a\nb\n"})
    write(tmp_path / "tatoeba_en_zh/cmn.txt", "a\tA\nb\n")
    with pytest.raises(StudyError, match=reason):
        load_pairs(name, languages.split(), tmp_path, split)


# Pairs without an empty side, where that is fewer than lines; EuTrans without its repeats.
KEPT = {
    "bible": {"de": 31041, "el": 30909, "es": 30670, "fr": 27996, "ja": 30247, "ko": 30654, "ru": 27488,
              "sw": 7837, "vi": 30986, "zh": 30331},
    "opennmt_ende_10k": {"de": 9999},
    "eutrans_es_en": {"es": 6750},
}  # fmt: skip


CORPORA = [name for name, each in SETS.items() if each.task == "text" and not each.hub]


@pytest.mark.parametrize("name", CORPORA)
def test_corpora_are_whole_in_every_pair_of_languages(data, data_name, name):
    """Each language with English, and one pair that meets only through English."""
    counts, kept = SETS[name].counts["train"], KEPT.get(name, {}) if data_name == "published" else {}
    for a, b in [*(("en", x) for x in counts if x != "en"), *[("zh", "ar")] * (name == "tico19")]:
        found = load_pairs(name, (a, b), data)
        assert len(found) == kept.get(b, counts[b])
        assert all(x == x.strip() and y == y.strip() and x and y for x, y in found)
        assert not any("&quot;" in x + y or "\ufeff" in x[:1] for x, y in found)
