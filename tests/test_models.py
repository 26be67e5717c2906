"""Encoders: seeded, the global generator left alone; saved and loaded in silence, refused when damaged."""

import pytest
import torch

from xltlib import models
from xltlib.params import StudyError
from xltlib.tokenization import CLS, SEP

VOCAB = 40


def encoder(seed=0):
    return models.tiny(VOCAB, 16, 1, 2, seed)


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
        assert torch.equal(model.eval().logits(model.states(ids)), again.logits(again.states(ids)))
        assert torch.allclose(again.layers(ids)[-1], again.states(ids), atol=1e-6)
    assert models.parameter_count(again) == models.parameter_count(model)


def test_heads_give_the_models_own_logits():
    from transformers import BertConfig, BertForMaskedLM, RobertaConfig, RobertaForMaskedLM

    shape = {"vocab_size": VOCAB, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
             "intermediate_size": 16}  # fmt: skip
    ids = torch.tensor([[CLS, 7, 8, SEP]])
    for lm in (
        BertForMaskedLM(BertConfig(**shape)),
        RobertaForMaskedLM(RobertaConfig(**shape)),
        encoder().lm,
    ):
        model = models.Encoder(lm).eval()
        with torch.no_grad():
            assert torch.allclose(model.logits(model.states(ids)), lm(ids).logits, atol=1e-6)


def drop_a_weight(folder):
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    del tensors["head.dense.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda folder: (folder / "config.json").unlink(), "config.json is missing"),
        (lambda folder: (folder / "config.json").write_text("{"), "cannot be loaded"),
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


def test_an_architecture_with_an_unknown_head_is_refused():
    with pytest.raises(StudyError, match="Linear: its output head is not known"):
        models.Encoder(torch.nn.Linear(2, 2))
