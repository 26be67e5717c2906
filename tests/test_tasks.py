"""Task sets: official files as records, with official counts; every trap refused, with its place."""

import json
import warnings
from dataclasses import replace
from functools import partial

import numpy as np
import official
import pytest
from official import write

from xltlib import StudyError
from xltlib.data.tasks import (
    LABELS,
    NAMES,
    SETS,
    ChoiceExample,
    PairExample,
    SentencePair,
    SpanExample,
    TaggedSentence,
    align,
    cross,
    load,
)


def some(name, split, language, folder, **options):
    """Load without minding the number of examples."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*officially")
        return load(name, split, language, folder, strict=False, **options)


def squad(*questions):
    """A SQuAD file of (id, context, start, text) questions."""
    paragraphs = [
        {
            "context": context,
            "qas": [{"id": key, "question": "?", "answers": [{"answer_start": s, "text": t}]}],
        }
        for key, context, s, t in questions
    ]
    return json.dumps({"version": "1.1", "data": [{"title": "t", "paragraphs": paragraphs}]})


XNLI = "a cat\tan animal\tentailment\r\na cat\ta dog\tcontradiction\r\n"


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_xnli_in_xtreme_layout(tmp_path, suffix):
    write(tmp_path / f"xnli/dev-de.tsv{suffix}", "\ufeff" + XNLI)
    assert some("xnli", "dev", "de", tmp_path) == [
        PairExample("0", "a cat", "an animal", 0),
        PairExample("1", "a cat", "a dog", 2),
    ]
    assert LABELS["nli"][2] == "contradiction"


def test_quotes_are_text_unless_a_csv_writer_made_them(tmp_path):
    rows = ['"Yes," he said.\tHe said "yes', '""Yes""\tA "b" c', '"He said ""yes""."\t"""Yes"" it is."']
    content = "".join(f"{row}\t{label}\n" for row, label in zip(rows, LABELS["nli"], strict=True))
    write(tmp_path / "xnli/dev-en.tsv", content)
    texts = [(e.text_a, e.text_b) for e in some("xnli", "dev", "en", tmp_path)]
    assert texts == [
        ('"Yes," he said.', 'He said "yes'),
        ('""Yes""', 'A "b" c'),
        ('He said "yes".', '"Yes" it is.'),
    ]


def test_original_xnli_holds_all_languages_in_one_file(tmp_path):
    header = "language\tgold_label\tsentence1_binary_parse\tsentence1\tsentence2\tpromptID\n"
    rows = "ar\tneutral\t(x)\tA\tB\t1\nde\tentailment\t(x)\tEine\tZwei\t1\nde\tneutral\t(x)\tEine\tDrei\t2\n"
    write(tmp_path / "XNLI-1.0/xnli.test.tsv", header + rows)
    assert some("xnli", "test", "de", tmp_path) == [
        PairExample("0", "Eine", "Zwei", 0),
        PairExample("1", "Eine", "Drei", 1),
    ]


def test_test_labels_come_from_the_file_beside(tmp_path):
    write(tmp_path / "xnli/test-de.tsv", "a\tb\nc\td\n")
    with pytest.raises(StudyError, match=r"test-de\.tsv:1: no label or answer in any row.*test\.labels\.tsv"):
        some("xnli", "test", "de", tmp_path)
    assert [e.label for e in some("xnli", "test", "de", tmp_path, unlabelled=True)] == [-1, -1]
    write(tmp_path / "xnli/test.labels.tsv.gz", "genre\tlabel\nfiction\tneutral\nfiction\tcontradiction\n")
    assert [e.label for e in some("xnli", "test", "de", tmp_path)] == [1, 2]
    write(tmp_path / "xnli/test.labels.tsv.gz", "genre\tlabel\nfiction\tneutral\n")
    with pytest.raises(StudyError, match="1 labels, but .* has 2 rows"):
        some("xnli", "test", "de", tmp_path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("a\tb\tneutral\na\tb\tmaybe\n", r"dev-en\.tsv:2: label 'maybe' is not known; expected entailment"),
        (
            "a\tb\tneutral\na\tb\tc\tneutral\n",
            r"dev-en\.tsv:2: 4 columns found, 3 expected \(text_a, text_b, label\)",
        ),
        ("a\tb\tneutral\na\t \tneutral\n", r"dev-en\.tsv:2: text_b is empty"),
        ("a\tb\tneutral\nc\td\tneutral\n", r"dev-en\.tsv:1: all 2 rows have label 1; a constant column"),
        ("a\tb\tneutral\nc\td\t\n", r"dev-en\.tsv:2: no label or answer, though other rows have one"),
        ("\n", r"dev-en\.tsv: the file is empty"),
        (b"a\tb\tneutral\n\xff\xfeb\tc\n", r"dev-en\.tsv:2: byte 0xff is not UTF-8"),
    ],
)
def test_malformed_pairs(tmp_path, content, reason):
    write(tmp_path / "xnli/dev-en.tsv", content)
    with pytest.raises(StudyError, match=reason):
        some("xnli", "dev", "en", tmp_path)


def test_wrong_number_of_examples(tmp_path):
    write(tmp_path / "xnli/dev-en.tsv", XNLI)
    with pytest.raises(StudyError, match=r"xnli dev en: 2 examples \(first at .*:1\), officially 2490"):
        load("xnli", "dev", "en", tmp_path)
    with pytest.warns(UserWarning, match="officially 2490"):
        assert len(load("xnli", "dev", "en", tmp_path, strict=False)) == 2


def test_unknown_names_list_what_is_known(tmp_path):
    with pytest.raises(StudyError, match="'glue' is not known; known are xnli"):
        load("glue", "dev", "en", tmp_path)
    with pytest.raises(StudyError, match="xquad has no split 'dev'; it has test"):
        load("xquad", "dev", "en", tmp_path)
    with pytest.raises(StudyError, match="xnli has no language 'ja'; it has ar, bg, de"):
        load("xnli", "dev", "ja", tmp_path)
    with pytest.raises(StudyError, match="squad has no split 'dev' in 'de'; there it has train"):
        load("squad", "dev", "de", tmp_path)


def test_a_missing_file_says_what_to_download_and_where_to_put_it(tmp_path):
    with pytest.raises(
        StudyError, match=r"dev-context-de-question-es\.json\[\.gz\] not found; download mlqa \(MLQA_V1"
    ):
        load("mlqa", "dev", "de|es", tmp_path)
    with pytest.raises(StudyError, match=r"no such folder; expected xquad \(github"):
        load("xquad", "test", "de", tmp_path / "nowhere")


def test_pawsx_placeholders(tmp_path):
    rows = ["id\tsentence1\tsentence2\tlabel", "7\tA\tB\t1", "8\tNS\tB\t0", "9\tC\tNS of D\t0"]
    write(tmp_path / "pawsx/x-final/de/dev_2k.tsv", "\n".join(rows))
    with pytest.warns(UserWarning, match=r"pawsx dev de: 1 of 3 rows have a side NS"):
        german = some("pawsx", "dev", "de", tmp_path)
    assert german == [PairExample("7", "A", "B", 1), PairExample("9", "C", "NS of D", 0)]


def test_repeated_ids(tmp_path):
    write(tmp_path / "x-final/en/dev_2k.tsv", "id\tsentence1\tsentence2\tlabel\n1\tA\tB\t1\n1\tC\tD\t0\n")
    with pytest.raises(StudyError, match=r"dev_2k\.tsv:3: id '1' was already at .*:2"):
        some("pawsx", "dev", "en", tmp_path)
    path = tmp_path / "tydiqa/tydiqa-goldp-v1.1-train/tydiqa.goldp.en.train.json"
    write(path, squad(*[("0", "a b", 2, "b")] * 2))
    assert [e.id for e in some("tydiqa", "train", "en", tmp_path)] == ["0:0", "1:0"]


def test_questions(tmp_path):
    write(tmp_path / "xquad/xquad.th.json", squad(("q1", "\ufeffone two", 5, "two"), ("q2", "x", 0, "x")))
    assert some("xquad", "test", "th", tmp_path)[0] == SpanExample("q1", "?", "\ufeffone two", ((5, "two"),))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (
            squad(("q", "one two", 3, "two")),
            r"xquad\.en\.json: question 'q': answer 'two' is not at offset 3; .*' tw'",
        ),
        (squad(("q", "one", 0, "")), "question 'q': no label or answer in any row"),
        (
            squad(("p", "one", 0, "one"), ("q", "one", 0, "")),
            "'q': no label or answer, though other",
        ),
        (squad(("p", "one", 0, "one"), ("p", "one", 0, "one")), "id 'p' was already"),
        ('{"data": [\n{"paragraphs"]}', r"xquad\.en\.json:2: not JSON"),
        ('{"articles": []}', r"xquad\.en\.json: no 'data', expected one in this object"),
    ],
)
def test_malformed_questions(tmp_path, content, reason):
    write(tmp_path / "xquad/xquad.en.json", content)
    with pytest.raises(StudyError, match=reason):
        some("xquad", "test", "en", tmp_path)


def test_one_file_of_several_languages_is_cut_by_id(tmp_path):
    content = squad(("english-1-0", "one", 0, "one"), ("swahili-2-0", "moja", 0, "moja"))
    write(tmp_path / "tydiqa/tydiqa-goldp-v1.1-dev.json", content)
    assert [e.id for e in some("tydiqa", "dev", "sw", tmp_path)] == ["swahili-2-0"]


def test_choices(tmp_path):
    row = {"premise": "P", "choice1": "A", "choice2": "B", "question": "cause", "label": 1, "idx": 4}
    lines = [json.dumps(row), json.dumps(row | {"label": 0, "idx": 5})]
    write(tmp_path / "xcopa/sw/val.sw.jsonl", "\r\n".join(lines) + "\r\n")
    assert some("xcopa", "dev", "sw", tmp_path)[0] == ChoiceExample("4", "P", "cause", ("A", "B"), 1)
    write(tmp_path / "xcopa/sw/val.sw.jsonl", "\n".join([lines[0], json.dumps(row | {"question": "why"})]))
    with pytest.raises(StudyError, match=r"val\.sw\.jsonl:2: question is 'why'"):
        some("xcopa", "dev", "sw", tmp_path)
    write(tmp_path / "xcopa/sw/val.sw.jsonl", lines[0] + "\n{")
    with pytest.raises(StudyError, match=r"val\.sw\.jsonl:2: not JSON"):
        some("xcopa", "dev", "sw", tmp_path)


CONLLU = """# newdoc id = d
# sent_id = s1
1-2\tdu\t_\t_\t_\t_\t_\t_\t_\t_
1\tde\tde\tADP\tIN\t_\t3\tcase\t_\t_
2\tle\tle\tDET\tDT\t_\t3\tdet\t_\t_
3\tpain\tpain\tNOUN\tNN\t_\t0\troot\t_\t_
3.1\tvide\t_\tVERB\t_\t_\t_\t_\t_\t_

# sent_id = s2
1\tOui\toui\tINTJ\tUH\t_\t0\troot\t_\t_"""


def test_tagged_sentences_are_their_syntactic_words(tmp_path):
    write(tmp_path / "ud_pud/fr_pud-ud-test.conllu", CONLLU)
    assert some("pud", "test", "fr", tmp_path) == [
        TaggedSentence(
            "s1", ("de", "le", "pain"), ("ADP", "DET", "NOUN"), (3, 3, 0), ("case", "det", "root")
        ),
        TaggedSentence("s2", ("Oui",), ("INTJ",), (0,), ("root",)),
    ]
    write(tmp_path / "ud_pud/fr_pud-ud-test.conllu", CONLLU.replace("\t0\troot", "\t_\troot", 1))
    with pytest.raises(StudyError, match="test.conllu:6: head '_' is not a number"):
        some("pud", "test", "fr", tmp_path)
    write(tmp_path / "ud_pud/fr_pud-ud-test.conllu", CONLLU.replace("\tDT\t_", "\tDT", 1))
    with pytest.raises(StudyError, match="test.conllu:5: 9 columns found, 10 expected"):
        some("pud", "test", "fr", tmp_path)


def test_retrieval_pairs(tmp_path):
    write(tmp_path / "tatoeba_laser/tatoeba.deu-eng.deu", "Hallo.\nDu.\n")
    write(tmp_path / "tatoeba_laser/tatoeba.deu-eng.eng", "Hello.\nYou.\n")
    assert some("tatoeba", "test", "de", tmp_path)[1] == SentencePair("1", "Du.", "You.")


def test_languages_are_aligned_and_crossed():
    de = [PairExample("1", "a", "b", 0), PairExample("3", "e", "f", 1)]
    en = [PairExample("1", "A", "B", 0), PairExample("2", "C", "D", 1), PairExample("3", "E", "F", 1)]
    both = align({"de": de, "en": en})
    assert [e.id for e in both["en"]] == ["1", "3"]
    assert cross(both["de"], both["en"])[1] == PairExample("3", "e", "F", 1)


def test_the_table_is_consistent():
    for name, task_set in SETS.items():
        assert set(task_set.split_names) <= set(task_set.counts), name
        assert set(task_set.hub_splits) <= set(task_set.counts), name
        assert task_set.source, name
        assert task_set.licence, name
        for pattern in task_set.files:
            assert pattern.format(split="s", language="l", code="c", context="a", question="b"), name
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


def outcome(call):
    """What a call returns, and the message of its StudyError."""
    try:
        return call(), ""
    except StudyError as error:
        return None, str(error)


def meaning(records):
    """What records say: that several annotators gave one answer changes nothing."""
    return [replace(e, answers=set(e.answers)) if isinstance(e, SpanExample) else e for e in records]


def shapes(key, name):
    """The mutations of a file of a set; those that no reader could see are left out."""
    free = ("id", "idx")
    if SETS[key[0]].format == "squad":
        return [("JSON", partial(official.json_mutation, free=free)), *official.CUT.items()]
    if SETS[key[0]].format == "jsonl":
        return [("JSON", partial(official.rows_mutation, free=free)), *official.LINES.items()]
    lines = dict(official.LINES)
    if SETS[key[0]].format == "lines":  # any line may be a sentence
        lines = {name: lines[name] for name in ("a blank line", "a line twice", "a line less", "a zero byte")}
    labelled = SETS[key[0]].format == "tsv" and not name.startswith("xnli/test-")
    return [*lines.items(), *(official.LABELS.items() if labelled else ())]


@pytest.mark.parametrize("key", official.sets())
def test_no_mutation_is_loaded_with_another_meaning(tmp_path, counts, key):
    counts(*key, 6)
    files, rng, refused = official.sets()[key], np.random.default_rng(0), 0
    plant(tmp_path, files)
    expected = load(*key, tmp_path)
    for number in range(100):
        name = list(files)[number % len(files)]
        kind, mutate = shapes(key, name)[number % len(shapes(key, name))]
        plant(tmp_path, files | {name: mutate(files[name], rng)})
        found, message = outcome(partial(load, *key, tmp_path))
        refused += bool(message)
        assert message or meaning(found) == meaning(expected), (kind, (tmp_path / name).read_text()[:3000])
        assert len(message) < 500, kind
        assert len(message.splitlines()) <= 1, kind
    assert refused > 30


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
    "tatoeba/test": "ar bg de el es fr hi ja ko ru sw th tr ur vi zh",
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*have a side NS")
@pytest.mark.parametrize("name", SETS)
def test_sets_are_whole_in_every_language(data, data_name, name):
    """As many examples as officially, or they are refused, and all labels among them."""
    whole = {key: languages.split() for keys, languages in WHOLE.items() for key in keys.split()}
    for split, languages in SETS[name].counts.items():
        for language in whole.get(f"{name}/{split}", ()) if data_name == "published" else languages:
            records = load(name, split, language, data)
            labels = {record.label for record in records if hasattr(record, "label")}
            assert labels in (set(), set(NAMES.get(SETS[name].task, {}).values())), (split, language)


def test_published_nli_is_balanced_and_parallel(data_dir):
    sets = {language: load("xnli", "test", language, data_dir) for language in ("en", "de", "zh")}
    for records in sets.values():
        assert [sum(e.label == label for e in records) for label in range(3)] == [1670] * 3
    crossed = cross(sets["de"], sets["zh"])
    assert (crossed[0].text_a, crossed[0].text_b) == (sets["de"][0].text_a, sets["zh"][0].text_b)


def test_published_files_that_lack_answers_or_rows_are_refused(data_dir):
    for name, split, languages in (
        ("tydiqa", "dev", "ar en ko ru sw"),
        ("mlqa", "test", "de|es zh|de zh|es"),
    ):
        for language in languages.split():
            with pytest.raises(StudyError, match="no label or answer in any row"):
                load(name, split, language, data_dir)
            records = load(name, split, language, data_dir, unlabelled=True)
            assert not any(record.answers for record in records)
    for language, count in {"en": 1994, "es": 1994, "ja": 1997, "ko": 1997}.items():
        with pytest.raises(StudyError, match=f"{count} examples .* officially 2000"):
            load("pawsx", "test", language, data_dir)


def test_published_placeholders(data_dir):
    dropped = {"de": 68, "en": 0, "es": 38, "fr": 8, "ja": 20, "ko": 35, "zh": 16}
    sets = {}
    for language, count in dropped.items():
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            sets[language] = load("pawsx", "dev", language, data_dir)
        assert len(sets[language]) == 2000 - count
        assert [f"{count} of 2000" in str(warning.message) for warning in told] == [True] * (count > 0)
    lengths = {len(records) for records in align(sets).values()}
    assert len(lengths) == 1
    assert cross(*list(align(sets).values())[:2])
