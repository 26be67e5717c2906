"""Text of real languages: nothing of a test set in it, words and subwords that fit, links without gold."""

from functools import partial

import numpy as np
import pytest
import tinydata
from official import write
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import Unigram
from transformers import PreTrainedTokenizerFast

from xltlib import StudyError
from xltlib.alignment import aligner, links
from xltlib.data import real_data, tokenization
from xltlib.data.languages import COVERAGE
from xltlib.data.tasks import SpanExample
from xltlib.data.text import build_links, build_pairs, build_text, kept_pairs
from xltlib.data.words import clean, overlap_key, simple_tokenize
from xltlib.finetuning.baselines import build_baselines, window
from xltlib.pretraining import encoders
from xltlib.store import Spec

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
CHINESE = ["我们在这里。", "你们ok吗？", "我在London 2019年。", "这是我们的"]


@pytest.fixture(scope="module")
def study(tiny_dir, tmp_path_factory):
    """Runs of text, pairs and links on a made-up folder: their results by kind."""
    runs = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XLT_DATA", str(tiny_dir))
        text = tinydata.run(build_text, tinydata.PARAMS, [], runs / "text")
        params = {"source": "en", "parallel_pairs": 200}
        pairs = tinydata.run(build_pairs, params, [text], runs / "pairs")
        linked = tinydata.run(build_links, {"links": "estimated"}, [pairs], runs / "links")
    return {"text": text, "pairs": pairs, "links": linked}


@pytest.fixture
def real(study, tiny_dir, monkeypatch):
    monkeypatch.setenv("XLT_DATA", str(tiny_dir))
    return study


def test_a_folder_that_is_none_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("XLT_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(StudyError, match="XLT_DATA: .*nowhere is not a folder"):
        real_data.folder()
    monkeypatch.delenv("XLT_DATA")
    assert real_data.folder() is None
    assert not real_data.has_gold("en", "es")


def test_parallel_text_has_no_test_sentence_and_no_pair_twice(real, tiny_dir):
    found, counts = real_data.parallel_text(tinydata.PARAMS, "es")
    assert counts == {"pairs": 222, "overlap": 1, "repeated": 1, "kept": 220}
    assert [len(pairs) for pairs in found.values()] == [150, 70]
    keys, used = real_data.test_keys(("en", "es"), tiny_dir)
    assert {"tatoeba/test", "pud/test", "xnli/test", "xquad/test", "mlqa/dev", "gold alignments"} <= set(used)
    assert "multi30k/test" not in used
    assert not any(overlap_key(side) in keys for pairs in found.values() for p in pairs for side in p)
    with pytest.raises(StudyError, match="none has en-es; bible, .* has it"):
        real_data.parallel_text(tinydata.PARAMS | {"corpora": ["multi30k"]}, "es")


def test_documents_are_two_neighbours_each_sentence_once(real):
    tokenizer = tokenization.load(real["text"].directory)
    with np.load(real["text"].file("documents.npz")) as arrays:
        documents = tokenization.unpack(arrays, "en")
    assert real["text"].values["languages"]["en"]["documents"] == len(documents) == 75 + 35
    first = [a for a, _ in real_data.parallel_text(tinydata.PARAMS, "es")[0]["bible"]][:2]
    encode = tokenization.WordEncoder(tokenizer)
    coded = [encode(simple_tokenize(sentence))[0] for sentence in first]
    np.testing.assert_array_equal(documents[0], tokenization.join(*coded))
    assert real["text"].values["parallel"]["es"]["kept"] == 220
    assert real["text"].values["vocab_size"] == len(tokenizer) <= 150


def test_pairs_give_each_subword_its_word(real):
    pairs = real["pairs"]
    assert pairs.values == {"pairs": {"es": 200}, "too_long": {"es": 0}}
    (text,) = encoders.parallel_texts(pairs, real["links"], ["es"], 1.0)
    assert len(text.source) == len(text.target) == len(text.links) == 200
    lines = pairs.file("es.source.txt").read_text("utf-8").splitlines()
    with np.load(pairs.file("pairs.npz")) as arrays:
        owners = tokenization.unpack(arrays, "es/source_words")
    for line, own, ids in zip(lines, owners, text.source, strict=True):
        assert sorted(set(own.tolist())) == list(range(len(line.split())))
        assert len(own) == len(ids)


def test_long_pairs_are_left_out_and_counted(real, tmp_path):
    text = tinydata.result(
        Spec("text", tinydata.PARAMS | {"max_length": 13}, 1), real["text"].values, real["text"].directory
    )
    params = {"source": "en", "parallel_pairs": 500}
    short = tinydata.run(build_pairs, params, [text], tmp_path / "pairs")
    assert short.values["too_long"]["es"] + short.values["pairs"]["es"] == 220
    with np.load(short.file("pairs.npz")) as arrays:
        for side in ("source", "target"):
            lengths = np.diff(arrays[f"es/{side}/ends"], prepend=0)
            assert len(lengths) == short.values["pairs"]["es"] > 0
            assert lengths.max() <= 5


def test_estimated_links_are_measured_on_gold_sentences(real, tmp_path):
    quality = real["links"].values["quality"]["es"]
    assert quality["precision"] > 0.95
    assert quality["recall"] > 0.9
    drawn = tinydata.run(build_links, {"links": "random"}, [real["pairs"]], tmp_path / "random")
    assert drawn.values["quality"] == {}
    counts = []
    for result in (real["links"], drawn):
        with np.load(result.file("links.npz")) as arrays:
            counts.append(np.diff(arrays["es/ends"], prepend=0))
    np.testing.assert_array_equal(*counts)
    subwords = tinydata.run(build_links, {"links": "subword"}, [real["pairs"]], tmp_path / "sub")
    assert subwords.values["quality"] == {}


def test_sentences_with_gold_links_are_aligned_along_by_a_program_that_keeps_no_model(
    real, tmp_path, monkeypatch
):
    program = partial(aligner.align_both, heuristic="intersect")
    monkeypatch.setattr(links, "eflomal_links", program)
    linked = tinydata.run(build_links, {"links": "eflomal"}, [real["pairs"]], tmp_path / "eflomal")
    assert linked.values["quality"]["es"]["precision"] > 0.95
    with np.load(linked.file("links.npz")) as arrays:
        assert len(arrays["es/ends"]) == real["pairs"].values["pairs"]["es"]


def test_the_tokenizer_cuts_a_text_as_it_cuts_its_words():
    english = [pair[0] for pair in tinydata.sentences(200, 2)]
    texts = {"en": english, "zh": CHINESE * 20}
    known = set().union(*(tokenization.alphabet(part, COVERAGE) for part in texts.values()))
    tokenizer = tokenization.train([*english, *CHINESE * 20], 200, known)
    for text in [*english[:20], *CHINESE, clean("don't (x) नमस्ते กำลัง", nfkc=True)]:
        (whole,) = tokenization.cut_texts(tokenizer, [text])
        assert [whole] == tokenization.cut_words(tokenizer, [text])
        assert whole.words == simple_tokenize(text)
    assert tokenizer.unk_token_id in tokenizer("龘")["input_ids"]
    assert "##们" not in tokenizer.get_vocab()
    with pytest.raises(StudyError, match="vocab_size 20 is too small"):
        tokenization.train(english, 20, known)


KEPT = {("far", 0.5): 60, ("low", 0.5): 30, ("low", 1.0): 60, ("low", 0.001): 1}
KEPT |= {("de", 0.5): 30, ("sw", 0.5): 30}  # of real languages each


def test_only_languages_with_little_text_keep_a_share():
    kept = {(x, share): kept_pairs(x, 60, share) for x, share in KEPT}
    assert kept == KEPT


def test_words_that_share_a_subword_of_a_published_tokenizer_are_one():
    pieces = ["<unk>", "▁", "▁我们", "在", "这里", "。", "▁O", "K", "▁我", "们"]
    model = Tokenizer(Unigram([(piece, -1.0 - n / 10) for n, piece in enumerate(pieces)], unk_id=0))
    model.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=model, unk_token="<unk>")
    (found,) = tokenization.cut_texts(tokenizer, ["我们在这里。 OK"])
    assert found.words == ["我们", "在", "这里", "。", "OK"]
    assert found.owners == [0, 1, 2, 3, 4, 4]


def test_captions_are_retrieved_where_they_are(tmp_path, monkeypatch):
    monkeypatch.setenv("XLT_DATA", str(tmp_path))
    write(tmp_path / "multi30k/test_2016_flickr.en", ["a dog &amp; a cat", "two birds"])
    write(tmp_path / "multi30k/test_2016_flickr.de", ["ein Hund &amp; eine Katze", "zwei Vögel"])
    asked = {"source": "en", "official_counts": False, "probes": ["captions"]}
    found = real_data.retrieval_pairs(asked, "de")
    assert found == {"@multi30k": [("ein Hund & eine Katze", "a dog & a cat"), ("zwei Vögel", "two birds")]}
    assert real_data.retrieval_pairs(asked, "zh") == {}
    with pytest.raises(StudyError, match="2 lines, but the published file has 1000"):
        real_data.retrieval_pairs(asked | {"official_counts": True}, "de")


def test_neighbour_lists_are_a_table_of_words(tmp_path, monkeypatch):
    monkeypatch.setenv("XLT_DATA", str(tmp_path))
    write(tmp_path / "lists/near.json", '{"man": ["guy", "hombre"], "of": []}')
    assert real_data.neighbour_lists("lists/near.json") == {"man": ["guy", "hombre"], "of": []}
    assert real_data.neighbour_lists(str(tmp_path / "lists/near.json"))["of"] == []
    for content, words in (
        ('{"man": "guy"}', "wrong.json: 'man': found 'guy', expected a list"),
        ('["man"]', "wrong.json: found a list of 1, expected an object"),
        ('{"man": ["g', "not JSON"),
    ):
        write(tmp_path / "wrong.json", content)
        with pytest.raises(StudyError, match=words):
            real_data.neighbour_lists("wrong.json")
    with pytest.raises(StudyError, match="none.json.* not found; download neighbour lists"):
        real_data.neighbour_lists("none.json")


@pytest.mark.filterwarnings("error")
def test_dictionaries_have_a_pair_of_words_a_line(tmp_path, monkeypatch):
    monkeypatch.setenv("XLT_DATA", str(tmp_path))
    write(tmp_path / "muse/en-de.txt", ["Dog Hund", "dog Köter", "dog Hund"])
    write(tmp_path / "muse/en-fr.txt", ["ice cream\tglace"])
    found = real_data.dictionaries("muse/{source}-{target}.txt", "en", ["de", "fr"])
    assert found == {"de": {"dog": ["Hund", "Köter"]}, "fr": {"ice cream": ["glace"]}}
    with pytest.warns(UserWarning, match="no such file for zh$"):
        assert list(real_data.dictionaries("muse/{source}-{target}.txt", "en", ["zh", "de"])) == ["de"]
    with pytest.raises(StudyError, match="no such file for any of zh"):
        real_data.dictionaries("muse/{source}-{target}.txt", "en", ["zh"])
    with pytest.raises(StudyError, match="expected {source} and {target} in it"):
        real_data.dictionaries("muse/en-de.txt", "en", ["de"])
    write(tmp_path / "muse/en-es.txt", ["dog perro", "a cat gato"])
    with pytest.raises(StudyError, match=r"en-es.txt:2: expected two words, found 'a cat gato'"):
        real_data.dictionaries("muse/{source}-{target}.txt", "en", ["es"])


def test_units_are_our_words_of_words_cut_in_another_way():
    ((words, other),), ((owners, _),) = real_data.pairs_of_units([(["科学家", "don't", "ＯＫ"], ["Ja"])])
    assert (words, other) == (["科", "学", "家", "don", "'", "t", "ok"], ["ja"])
    assert owners.tolist() == [0, 0, 0, 1, 1, 1, 2]


def test_baselines_stand_beside_every_measure(real, tmp_path):
    inputs = [real["text"], real["pairs"], real["links"]]
    values = tinydata.run(build_baselines, tinydata.PARAMS, inputs, tmp_path / "b").values
    found = values["baselines"]
    assert values["clusters"]["tagging"][""][:4] == [0, 1, 1, 1]  # of three sentences each: 800 is a last one
    assert set(found) == {"nli", "paraphrase", "qa", "retrieval", "tagging"}
    assert (
        found["nli"]["majority"]["en"] == found["nli"]["majority"]["es"] == pytest.approx(37 / 109, abs=1e-5)
    )
    assert found["paraphrase"]["word overlap"] == {"en": 1.0, "es": 1.0}
    assert set(found["qa"]["words near the question's"]) == {
        x + y + z for x in ("en", "es") for y in ("", "@mlqa") for z in ("", "#f1")
    }
    assert found["retrieval"]["EM lexicon"]["es"] > 0.8 > found["retrieval"]["character trigrams"]["es"]
    tagging = found["tagging"]
    assert set(tagging["majority"]) == {"en", "es", "en#deprel", "es#deprel"}
    assert tagging["EM lexicon"]["es"] == 1.0 > tagging["word shape (n-grams)"]["es"]
    assert tagging["word shape (n-grams)"]["en"] == 1.0


def test_the_answer_is_looked_for_near_the_words_of_the_question():
    context = "It rains a lot . In 1906 he published a dictionary . Nobody came ."
    example = SpanExample("1", "When was the dictionary published ?", context, ((20, "1906"),))
    assert window(example, 1) in {"he", "a"}


def test_published_parallel_text_and_gold_links(data_dir, monkeypatch):
    monkeypatch.setenv("XLT_DATA", str(data_dir))
    for language, count in {"es": 245, "zh": 450, "ja": 582, "fr": 447}.items():
        pairs, gold = real_data.gold_alignments("en", language)
        assert len(pairs) == len(gold.sure) == count
        for (a, b), linked in zip(pairs, gold.possible, strict=True):
            assert (linked < (len(a), len(b))).all()
    pairs, gold = real_data.gold_alignments("en", "zh")
    assert pairs[0][0][0] == "scientists"
    assert [pairs[0][0][0], pairs[0][1][0]] == ["scientists", "科学家"]
    assert [0, 0] in gold.sure[0].tolist()
