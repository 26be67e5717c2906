"""Training in 16 bits, with dropout, and on a device that is not waited for: the same numbers every time."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from test_training import OPT, Toy, same, toy_loss, unbroken, weights

from xltlib import StudyError, store
from xltlib.pretraining import models, training
from xltlib.pretraining.training import fit


def noisy_loss(model):
    """A loss with dropout, which draws from torch's own generator."""
    inner = toy_loss(model)
    return lambda step: {k: F.dropout(v + 1, 0.5) * model.first.weight.sum() for k, v in inner(step).items()}


@pytest.mark.parametrize("opt", [replace(OPT, precision="bfloat16"), OPT], ids=["bfloat16", "float32"])
def test_a_resume_is_exact_in_16_bits_and_with_dropout(tmp_path, opt):
    def trained(directory=None, stop=None, seed=0):
        model = Toy()
        inner = noisy_loss(model)

        def loss(step):
            if step == stop:
                raise KeyboardInterrupt
            torch.rand(3)  # not to be taken for the same numbers in every step
            return inner(step)

        before = torch.get_rng_state()
        history = fit(model, loss, replace(opt, seed=seed), directory)
        assert torch.equal(before, torch.get_rng_state())
        return history, weights(model)

    wanted, final = trained()
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path, stop=7)
    torch.rand(5)
    history, resumed = trained(tmp_path)
    assert history == wanted
    assert same(resumed, final)
    assert trained(seed=1)[0] != wanted
    assert all(weight.dtype == torch.float32 for weight in final.values())


def test_16_bits_are_those_of_matrix_products_alone():
    seen = []
    model, plain = Toy(), Toy()
    inner = toy_loss(model)

    def loss(step):
        seen.append(model.first(torch.ones(1, 4)).dtype)
        return inner(step)

    history = fit(model, loss, replace(OPT, precision="bfloat16"))
    assert set(seen) == {torch.bfloat16}
    wanted = fit(plain, toy_loss(plain), OPT)
    assert history != wanted
    assert history[-1]["loss"] == pytest.approx(wanted[-1]["loss"], rel=0.05)
    with pytest.raises(StudyError, match="precision 'float16' is not known: float32 or bfloat16"):
        replace(OPT, precision="float16")


def test_attention_on_a_cpu_stays_in_32_bits(monkeypatch):
    """Its gradient is slow there in 16, whatever the processor."""
    seen, attention = [], F.scaled_dot_product_attention
    told = lambda q, *rest, **options: seen.append(q.dtype) or attention(q, *rest, **options)  # noqa: E731
    model, ids = models.tiny(40, 16, 2, 2, seed=0), torch.arange(5, 35).reshape(3, 10)
    wanted = model.states(ids)
    monkeypatch.setattr(F, "scaled_dot_product_attention", told)
    with torch.autocast("cpu", torch.bfloat16):
        states = model.states(ids)
        assert model.logits(states).dtype == torch.bfloat16
    assert seen == [torch.float32] * 2
    assert torch.allclose(states.float(), wanted, atol=0.05)
    model.lm.set_attn_implementation("sdpa")
    assert torch.equal(model.states(ids), wanted)
    with torch.autocast("cpu", torch.bfloat16):
        model.states(ids)
    assert seen[-1] == torch.bfloat16


@pytest.mark.parametrize("flags", ["fpu sse avx512_bf16", "amx_tile amx_bf16", "fp asimd bf16 i8mm"])
def test_what_the_processor_says_of_16_bits(monkeypatch, flags):
    assert store.fast_in_16_bits() in (True, False)
    monkeypatch.setattr(store, "_cpuinfo", lambda *names: flags)
    assert store.fast_in_16_bits()
    monkeypatch.setattr(store, "_cpuinfo", lambda *names: "fpu sse avx512f")
    assert not store.fast_in_16_bits()


def test_without_waiting_the_history_is_the_same_and_divergence_names_its_step(tmp_path, monkeypatch):
    """As on a GPU: values are read at points of the history and before checkpoints."""
    read, wanted, late = [], unbroken(), unbroken(3)
    monkeypatch.setattr(training, "WAITED_FOR", ())
    monkeypatch.setattr(torch, "cat", lambda rows, cat=torch.cat: read.append(len(rows)) or cat(rows))
    model = Toy()
    assert fit(model, toy_loss(model, late=3), replace(OPT, checkpoint_seconds=1000)) == late[0]
    assert read == [5, 5, 2]
    assert same(weights(model), late[1])

    def diverges(step):
        parts = inner(step)
        return parts | {"loss": parts["loss"] * (torch.nan if step == 7 else 1)}

    for seconds, kept in ((1000, "no checkpoint yet"), (0, "checkpoint is of step 7")):
        model = Toy()
        inner = toy_loss(model)
        with pytest.raises(StudyError, match=f"loss is nan.* at step 7 .*{kept}"):
            fit(model, diverges, replace(OPT, checkpoint_seconds=seconds), tmp_path)
    model = Toy()  # and what was kept is from before
    assert fit(model, toy_loss(model), OPT, tmp_path) == wanted[0]
