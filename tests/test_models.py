"""Encoders: seeded, the global generator left alone; saved and loaded in silence, refused when damaged."""

import shutil

import hubs
import numpy as np
import pytest
import shapes
import torch
from cipher import encoder
from shapes import SMALL, VOCAB, shape, small

from xltlib import StudyError
from xltlib.data import hub
from xltlib.data.tokenization import CLS, SEP
from xltlib.pretraining import models


def test_a_new_encoder_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    one, two, other = encoder(1), encoder(1), encoder(2)
    assert torch.equal(before, torch.get_rng_state())
    weights = [model.embeddings().weight for model in (one, two, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_saved_and_loaded_without_a_word(tmp_path, capfd):
    model = encoder()
    model.save(tmp_path)
    again = models.load(tmp_path)
    assert capfd.readouterr() == ("", "")
    ids = torch.tensor([[CLS, 7, 8, SEP]])
    with torch.no_grad():
        logits = again.logits(again.states(ids))
        assert torch.equal(model.eval().logits(model.states(ids)), logits)
        assert torch.allclose(again.lm(ids).logits, logits, atol=1e-6)
        assert torch.allclose(again.layers(ids)[-1], again.states(ids), atol=1e-6)
    assert models.parameter_count(again) == models.parameter_count(model)


def drop_a_weight(folder):
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    del tensors["head.dense.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda folder: (folder / "config.json").unlink(), "config.json is missing"),
        (lambda folder: (folder / "config.json").write_text("{"), "cannot be read as JSON"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"{"), "cannot be loaded"),
        (drop_a_weight, "weights are missing: head.dense.weight"),
    ],
    ids=["no config", "half a config", "half of the weights", "a weight missing"],
)
def test_a_folder_without_an_encoder_is_refused(tmp_path, damage, told):
    encoder().save(tmp_path)
    damage(tmp_path)
    with pytest.raises(StudyError, match=told):
        models.load(tmp_path)


PARAMETERS = {
    "mbert": 177_974_523, "xlmr-base": 278_295_186, "xlmr-large": 560_142_482,
    "intfloat/multilingual-e5-small": 117_904_565,
    "mt5-small": 146_940_608, "mt5-base": 277_040_256, "mt5-large": 564_446_720,  # without their decoders
}  # fmt: skip


@pytest.mark.parametrize("name", PARAMETERS)
def test_shapes_of_published_models(name):
    with torch.device("meta"):
        assert models.parameter_count(shapes.encoder(shape(name))) == PARAMETERS[name]


@pytest.mark.parametrize("name", SMALL)
def test_published_architectures_are_made_trained_saved_and_loaded(tmp_path, name):
    before = torch.get_rng_state()
    model, same = shapes.encoder(small(name), 1), shapes.encoder(small(name), 1)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(model.embeddings().weight, same.embeddings().weight)
    ids = torch.tensor([[CLS, 7, 8, SEP, 9, SEP]])
    (model.states(ids) * torch.arange(16)).sum().backward()
    assert model.embeddings().weight.grad.abs().sum() > 0
    model.save(tmp_path)
    again = models.load(tmp_path)
    with torch.no_grad():
        states = model.eval().states(ids)
        assert torch.equal(states, again.states(ids))
        assert torch.allclose(again.states(ids), again.states(None, inputs_embeds=again.embeddings()(ids)))
        assert again.layers(ids).shape == (2, 1, 6, 16)
        segments = again.states(ids, second=torch.tensor([4]))
        assert torch.equal(segments, states) == (name != "mbert")  # the only one that knows segments
        assert again.two_segments == (name == "mbert")
        if name == "mt5-small":
            with pytest.raises(StudyError, match="mT5 predicts no masked words"):
                again.logits(states)
        else:
            assert torch.allclose(again.logits(states), again.lm(ids).logits, atol=1e-6)


@pytest.mark.parametrize("name", SMALL)
def test_the_subwords_that_are_kept_have_the_vectors_and_scores_that_they_had(tmp_path, name):
    kept, model = np.array([0, 1, CLS, SEP, 7, 20, VOCAB - 1]), shapes.encoder(small(name)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
        new = torch.tensor([[CLS, 4, 5, SEP, 6]])
        states = model.states(torch.from_numpy(kept)[new])
        scores = None if name == "mt5-small" else model.logits(states)[..., kept]
        models.keep_subwords(model, kept)
        model.save(tmp_path)
        for cut in (model, models.load(tmp_path)):
            assert cut.vocab_size == len(kept)
            assert torch.equal(cut.states(new), states)
            assert scores is None or torch.allclose(cut.logits(states), scores)


def test_an_encoder_of_sentences_gets_a_plain_head_for_masked_words(tmp_path):
    whole = shapes.encoder(small("mbert"), 1).eval()
    whole.lm.base_model.save_pretrained(tmp_path)
    whole.save(whole_folder := tmp_path / "whole")
    model = models.load(tmp_path).eval()
    assert model.untrained_head
    assert not models.load(whole_folder).untrained_head
    with torch.no_grad():
        states = model.states(torch.tensor([[CLS, 7, 8, SEP]]))
        scaled = torch.nn.functional.layer_norm(torch.nn.functional.gelu(states), states.shape[-1:])
        assert torch.allclose(model.logits(states), scaled @ whole.embeddings().weight.T, atol=1e-5)


@pytest.mark.parametrize(("name", "longest"), [("mbert", 512), ("xlmr-base", 512), ("mt5-small", None)])
def test_sequences_may_be_as_long_as_the_model_has_positions(name, longest):
    model = shapes.encoder(small(name)).eval()
    assert model.longest == longest
    if longest:
        with torch.no_grad():
            assert model.states(torch.full((1, longest), 7)).shape[1] == longest
        with pytest.raises((IndexError, RuntimeError)):
            model.states(torch.full((1, longest + 1), 7))


def test_a_device_that_is_not_there_is_refused_at_once(monkeypatch):
    assert models.device("cpu").type == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(StudyError, match="device cuda: torch finds no GPU here: take device: cpu"):
        models.device("cuda")


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler")
@pytest.mark.parametrize("name", ["mbert", "xlmr-base"])
def test_compiled_layers_compute_the_same_and_share_one_compilation(name):
    plain, fused = (shapes.encoder(small(name, num_hidden_layers=3)).eval() for _ in range(2))
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    assert models.compiled(fused) is fused
    for length in (6, 9, 12):
        ids = torch.randint(5, VOCAB, (2, length), generator=torch.Generator().manual_seed(length))
        grads = []
        for model in (plain, fused):
            model.zero_grad()
            states = model.states(ids)
            (states * torch.arange(16)).sum().backward()
            grads.append(model.embeddings().weight.grad)
        assert torch.allclose(*grads, rtol=1e-4, atol=1e-4)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    assert fused.lm.state_dict().keys() == plain.lm.state_dict().keys()


def test_the_encoder_is_taken_out_of_a_whole_mt5(tmp_path):
    from transformers import MT5ForConditionalGeneration

    whole = MT5ForConditionalGeneration(small("mt5-small"))
    whole.save_pretrained(tmp_path)
    ids = torch.tensor([[7, 8, 1]])
    with torch.no_grad():
        wanted = whole.eval().encoder(ids).last_hidden_state
        assert torch.equal(models.load(tmp_path).states(ids), wanted)


def test_pickled_weights_and_code_of_others_are_refused(tmp_path):
    model = shapes.encoder(small("mbert"))
    model.save(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.lm.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(StudyError, match="safetensors are missing; pickled ones are not read"):
        models.load(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "mine", "auto_map": {"AutoModel": "mine.Mine"}}')
    (tmp_path / "mine.py").write_text("raise SystemExit")
    with pytest.raises(StudyError, match="architecture 'mine' is not known; known are modernbert, bert"):
        models.load(tmp_path)


def test_a_model_is_found_by_name_or_folder(tmp_path, monkeypatch):
    from huggingface_hub import constants

    assert hub.find_model(str(tmp_path)) == tmp_path
    with pytest.raises(StudyError, match="'mbret': there is no such folder, and published are .* mbert"):
        hub.find_model("mbret")
    with pytest.raises(StudyError, match="mt5-base: .* pickled weights only, .* name a folder that holds"):
        hub.find_model("mt5-base")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    told = "run `hf download google-bert/bert-base-multilingual-cased --revision 3f076f.*Or name a folder"
    with pytest.raises(StudyError, match=told):
        hub.find_model("mbert")
    root = tmp_path / "models--google-bert--bert-base-multilingual-cased"
    snapshot = root / "snapshots" / hub.PINNED["google-bert/bert-base-multilingual-cased"]
    made = tmp_path / "made"
    shapes.encoder(small("mbert")).save(made)
    (made / "tokenizer.json").write_text("{}")
    for file in made.iterdir():
        hubs.link_blob(root, snapshot / file.name, file.read_bytes())
    assert hub.find_model("mbert") == snapshot
    assert models.load(hub.find_model("mbert")).vocab_size == VOCAB
    (snapshot / "tokenizer.json").unlink()
    with pytest.raises(StudyError, match="is not on this machine"):
        hub.find_model("mbert")
