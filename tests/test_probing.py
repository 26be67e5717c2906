"""Probes of encoders of real languages: what is equal is found, tags that words show are learnt."""

import shutil

import numpy as np
import pytest
import tinydata

from xltlib import StudyError
from xltlib.data import tokenization
from xltlib.data.text import build_text
from xltlib.pretraining import models, probing
from xltlib.store import Spec

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
PARAMS = {
    "source": "en", "languages": ["en", "es"], "official_counts": False, "labels": {"seed": 0},
    "probes": ["retrieval", "alignment"],
}  # fmt: skip


@pytest.fixture(scope="module")
def study(tiny_dir, tmp_path_factory):
    """An untrained encoder and a run of text on a made-up folder."""
    runs = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XLT_DATA", str(tiny_dir))
        text = tinydata.run(build_text, tinydata.PARAMS, [], runs / "text")
    models.tiny(text.values["vocab_size"], 16, 2, 2, 0).save(runs / "encoder")
    return [tinydata.result(Spec("encoder", {}, 1), {}, runs / "encoder"), text]


@pytest.fixture
def inputs(study, tiny_dir, monkeypatch):
    monkeypatch.setenv("XLT_DATA", str(tiny_dir))
    return study


def test_the_same_sentences_are_found_and_words_are_linked_by_layer(inputs, tiny_dir, monkeypatch, tmp_path):
    english = (tiny_dir / "tatoeba_laser/tatoeba.spa-eng.eng").read_text("utf-8")
    found = tinydata.run(probing.build_probe, PARAMS, inputs, tmp_path / "probe")
    layers = found.values["by_layer"]["es"]
    assert {name: len(values) for name, values in layers.items()} == {"sentences": 3, "aer": 3}
    assert found.scores["es"].shape == (50,)
    assert found.scores["es"].mean() == pytest.approx(layers["sentences"][-1], abs=1e-4)
    assert layers["sentences"][-1] < 0.5
    copy = shutil.copytree(tiny_dir, tmp_path / "copy")
    (copy / "tatoeba_laser/tatoeba.spa-eng.spa").write_text(english, "utf-8")
    monkeypatch.setenv("XLT_DATA", str(copy))
    same = tinydata.run(probing.build_probe, PARAMS | {"probes": ["retrieval"]}, inputs, tmp_path / "same")
    assert min(same.values["by_layer"]["es"]["sentences"]) > 0.85  # sentences of the same words are as near


def test_tags_that_words_show_are_told_and_twice_the_same(inputs, tmp_path):
    found = tinydata.run(probing.build_tagging, PARAMS, inputs, tmp_path / "first")
    assert set(found.scores) == {"en", "es", "en#deprel", "es#deprel"}
    assert all(scores.shape == (200,) for scores in found.scores.values())
    assert found.values["means"]["en"] > 0.99 > found.values["means"]["es"]
    assert set(found.values["l2"]) == {"tags", "deprel"}
    assert found.values["limits"] == {}
    again = tinydata.run(probing.build_tagging, PARAMS, inputs, tmp_path / "again")
    assert again.values == found.values


def test_dependency_labels_are_universal():
    sentence = probing.TaggedSentence("1", ("a",), ("DET",), ("nsubj:pass",))
    assert probing.tag_sets(sentence) == {"": ("DET",), "#deprel": ("nsubj",)}


def test_a_source_without_tags_is_refused(inputs):
    with pytest.raises(StudyError, match="PUD has no 'sw'"):
        probing.pud(PARAMS | {"source": "sw", "languages": ["en", "sw"]})


def test_a_language_whose_file_is_absent_is_left_out(inputs):
    with pytest.warns(UserWarning, match="ja is left out of pud/test: .*ja_pud-ud-test.conllu"):
        assert list(probing.pud(PARAMS | {"languages": ["en", "ja", "es"]})) == ["en", "es"]


@pytest.mark.parametrize(("language", "text"), [("en", "dog sees zzz ."), ("zh", "dogseeszzz.")])
def test_words_are_the_means_of_their_subwords(inputs, language, text):
    """Words of Chinese stand without blanks."""
    reader, words = probing.Reader(*inputs), ["dog", "sees", "zzz", "."]
    (ids,), (spans,) = tokenization.encode_texts(reader.tokenizer, [text])
    begins = [text.index(word) for word in words]
    pieces = tokenization.overlaps([(a, a + len(w)) for a, w in zip(begins, words, strict=True)], spans)
    (found,) = reader.words([words], language, last=True)[0]
    assert found.shape == (4, 16)
    states = reader.states([ids])[-1][0]
    for vector, (first, stop) in zip(found, pieces, strict=True):
        np.testing.assert_allclose(vector, states[first:stop].mean(0), atol=1e-5)
    assert len(reader.states([ids * 20])[0][0]) == reader.room
