"""The training loop: exact resume, schedule by hand, refusal of what diverges, 16 bits; equal lengths."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from xltlib import StudyError
from xltlib.pretraining import models, training
from xltlib.pretraining.training import Optimization, Pool, epoch_batches, fit, learning_rate

OPT = Optimization(steps=12, lr=0.05, log_every=5, checkpoint_seconds=0)  # a checkpoint after each update


class Toy(nn.Module):
    """Two layers of which the second has no gradient in the first steps."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 2)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator) / 2


def toy_loss(model, late=0):
    """A loss of the step alone; the second layer takes part from the step `late` on."""

    def loss(step):
        x = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
        hidden = torch.tanh(model.first(x))
        out = model.second(hidden) if step >= late else hidden[:, :2]
        value = F.mse_loss(out, x[:, :2])
        return {"loss": value, "half": value.detach() / 2}

    return loss


def weights(model):
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def same(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


def unbroken(late=0, opt=OPT):
    model = Toy()
    return fit(model, toy_loss(model, late), opt), weights(model)


def broken_at(step, directory, late=0, opt=OPT, look=None):
    """Training that stops with an error before the update of a step; its checkpoint stays."""
    model = Toy()
    inner = toy_loss(model, late)

    def loss(now):
        if now == step:
            raise KeyboardInterrupt
        return inner(now)

    with pytest.raises(KeyboardInterrupt):
        fit(model, loss, opt, directory, look=look)


def resumed(directory, late=0):
    """What is left of a broken training: its steps, the history, and the weights at the end."""
    model, steps = Toy(), []
    inner = toy_loss(model, late)
    history = fit(model, lambda now: steps.append(now) or inner(now), OPT, directory)
    return steps, history, weights(model)


# Resume


@pytest.mark.parametrize(
    ("breaks", "late"), [((1,), 0), ((4,), 0), ((5,), 0), ((7,), 0), ((11,), 0), ((3, 8), 0), ((4,), 6)]
)
def test_a_resumed_run_ends_with_the_same_bits(tmp_path, breaks, late):
    """Also one that was broken twice, and one of which some weights had no gradient so far."""
    for step in breaks:
        broken_at(step, tmp_path, late)
    steps, history, final = resumed(tmp_path, late)
    assert steps == list(range(breaks[-1], 12))
    assert history == unbroken(late)[0]
    assert same(final, unbroken(late)[1])
    assert not list(tmp_path.iterdir())


DAMAGE = {
    "nothing left": lambda content: b"",
    "its beginning": lambda content: content[:100],
    "all but its end": lambda content: content[:-10],
    "another bit in the middle": lambda content: flipped(content, len(content) // 2),
    "another bit in its digest": lambda content: flipped(content, 3),
}


def flipped(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_checkpoint_counts_as_none(tmp_path, damage):
    broken_at(6, tmp_path)
    path = tmp_path / training.CHECKPOINT
    path.write_bytes(damage(path.read_bytes()))
    with pytest.warns(UserWarning, match="the checkpoint is damaged: trained from the start"):
        steps, history, final = resumed(tmp_path)
    assert steps[0] == 0
    assert history == unbroken()[0]
    assert same(final, unbroken()[1])


def test_a_kill_while_a_checkpoint_is_written_leaves_the_one_before(tmp_path, monkeypatch):
    broken_at(3, tmp_path)

    def killed(path, target):
        path.write_bytes(path.read_bytes()[:100])  # as far as the disk had got
        raise KeyboardInterrupt

    model = Toy()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            fit(model, toy_loss(model), OPT, tmp_path)
    again = Toy()
    assert fit(again, toy_loss(again), replace(OPT, checkpoint_seconds=1000), tmp_path) == unbroken()[0]
    assert same(weights(again), unbroken()[1])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("cost", "at"), [(0.0, [3, 6, 9]), (0.125, [3, 6, 9]), (0.25, [3, 8]), (30.0, [3])])
def test_checkpoints_that_take_long_are_rarer(tmp_path, monkeypatch, cost, at):
    """A clock that stands still but for updates, a second each, and for saving."""
    clock, saved, save = [0.0], [], training._save
    monkeypatch.setattr(training.time, "monotonic", lambda: clock[0])

    def slow(*given):
        saved.append(given[-1][0])
        clock[0] += cost
        save(*given)

    monkeypatch.setattr(training, "_save", slow)
    model = Toy()
    inner = toy_loss(model)

    def loss(step):
        clock[0] += 1
        return inner(step)

    fit(model, loss, replace(OPT, checkpoint_seconds=3), tmp_path)
    assert saved == at
    assert same(weights(model), unbroken()[1])


SLOW = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import torch
torch.set_num_threads(1)
from test_training import OPT, Toy, fit, toy_loss
model = Toy()
inner = toy_loss(model)
def loss(step):
    time.sleep(0.2)
    return inner(step)
fit(model, loss, OPT, Path(sys.argv[1]))
"""


def test_sigkill_and_resume(tmp_path, root):
    environment = os.environ | {"PYTHONPATH": str(root)}
    command = [sys.executable, "-c", SLOW, str(tmp_path), str(root / "tests")]
    process = subprocess.Popen(command, env=environment)
    try:
        deadline = time.monotonic() + 60
        while not (tmp_path / training.CHECKPOINT).exists() and time.monotonic() < deadline:
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert process.returncode == -signal.SIGKILL
    steps, history, final = resumed(tmp_path)
    assert 0 < steps[0] < 12
    assert history == unbroken()[0]
    assert same(final, unbroken()[1])


# The update


def test_learning_rates_by_hand():
    opt = Optimization(steps=10, lr=1.0, warmup=0.2)
    rates = [learning_rate(step, opt) for step in range(10)]
    assert rates == pytest.approx([1 / 2, 1, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8])
    assert learning_rate(0, Optimization(steps=1, lr=0.3)) == pytest.approx(0.3)
    assert learning_rate(0, Optimization(steps=10, lr=0.3, warmup=0)) == pytest.approx(0.3)


def test_one_update_by_hand():
    """Adam's first step is lr times the sign of the gradient; matrices decay before it."""
    model = nn.Linear(1, 1)
    nn.init.constant_(model.weight, 2.0)
    nn.init.constant_(model.bias, 1.0)
    opt = Optimization(steps=1, lr=0.1, weight_decay=0.5)
    fit(model, lambda step: {"loss": (model.weight + model.bias).sum()}, opt)
    assert model.weight.item() == pytest.approx(2.0 * (1 - 0.1 * 0.5) - 0.1, abs=1e-6)
    assert model.bias.item() == pytest.approx(1.0 - 0.1, abs=1e-6)


def test_the_history_averages_each_part():
    model, values = Toy(), []
    inner = toy_loss(model)

    def loss(step):
        parts = inner(step)
        values.append(parts["loss"].item())
        return parts

    history = fit(model, loss, OPT)
    assert [point["step"] for point in history] == [5, 10, 12]
    means = [np.mean(values[:5]), np.mean(values[5:10]), np.mean(values[10:])]
    assert [point["loss"] for point in history] == pytest.approx(means)
    assert [point["half"] for point in history] == pytest.approx(np.array(means) / 2)


@pytest.mark.parametrize("kind", ["loss", "gradient"])
def test_divergence_stops_with_the_step_and_advice(tmp_path, kind):
    model = Toy()
    inner = toy_loss(model)

    def loss(step):
        parts = inner(step)
        if step == 7 and kind == "loss":
            parts["loss"] = parts["loss"] * torch.nan
        if step == 7 and kind == "gradient":
            parts["loss"] = parts["loss"] + torch.sqrt(model.first.bias.sum() * 0)  # 0 with an infinite slope
        return parts

    told = "toy: .* (nan|inf), at step 7 .*lower learning rate than 0.05"
    with pytest.raises(StudyError, match=told):
        fit(model, loss, OPT, tmp_path, name="toy")
    assert all(torch.isfinite(p).all() for p in model.parameters())
    assert (tmp_path / training.CHECKPOINT).exists()


def test_progress_tells_the_end():
    lines, model = [], Toy()
    fit(model, toy_loss(model), OPT, progress=lines.append, name="toy")
    assert len(lines) == 1  # the rest came within the interval
    assert lines[0].startswith("toy: step 12/12, loss ")


# Batches


def sequences(*lengths):
    return [np.full(n, i) for i, n in enumerate(lengths)]


def test_a_pool_gives_equal_lengths_and_tells_the_rows():
    pool = Pool(sequences(*[3] * 20, *[5] * 60), least=1)
    rng, drawn = np.random.default_rng(0), []
    for _ in range(400):
        ids, rows = pool.draw(rng, 4)
        assert (ids == rows[:, None]).all()
        assert ids.shape == (4, 3 if rows[0] < 20 else 5)
        drawn.append(ids.shape[1])
    assert abs(np.mean(np.array(drawn) == 5) - 0.75) < 4 * (0.75 * 0.25 / 400) ** 0.5


def test_rare_lengths_are_left_out_unless_all_are_rare():
    assert Pool(sequences(*[3] * 8, *[4] * 7)).lengths == [3]
    assert Pool(sequences(3, 4)).lengths == [3, 4]


def test_batches_of_so_many_tokens():
    """Within half a sequence of the number, and every sequence equally often whatever its length."""
    pool, rng, drawn = Pool(sequences(*[5] * 30, *[40] * 30)), np.random.default_rng(0), np.zeros(60)
    for _ in range(1000):
        ids, rows = pool.draw(rng, 4, 400)
        assert ids.size == 400
        drawn += np.bincount(rows, minlength=60)
    short, long = drawn[:30].sum(), drawn[30:].sum()
    assert abs(short / (short + long) - 0.5) < 0.05
    assert pool.draw(rng, 4, 3)[0].shape[0] == 1  # one at the least
    assert {pool.draw(rng, 4, 110)[0].size for _ in range(20)} == {110, 120}
    sides = Pool(sequences(*[5] * 30), sizes=[10, 50] * 15)  # with others of 5 or 45 tokens
    for _ in range(50):
        _, rows = sides.draw(rng, 4, 400)
        assert abs(np.array([10, 50])[rows % 2].sum() - 400) <= 25


def test_an_empty_pool_is_refused():
    with pytest.raises(StudyError, match="pool of sequences is empty"):
        Pool([])


def test_epoch_batches_have_every_item_once():
    lengths = np.random.default_rng(1).integers(3, 9, 101)
    batches = epoch_batches(lengths, 8, np.random.default_rng(2))
    assert sorted(np.concatenate(batches)) == list(range(101))
    assert all(len(set(lengths[rows])) == 1 and len(rows) <= 8 for rows in batches)
    assert len(batches) == sum(-(-n // 8) for n in np.bincount(lengths))
    other = epoch_batches(lengths, 8, np.random.default_rng(3))
    assert [b.tolist() for b in batches] != [b.tolist() for b in other]
    assert epoch_batches([], 8, np.random.default_rng(2)) == []


# Looks: training that ends when a score is reached

LOOKS = replace(OPT, steps=40, until=0.5, look_every=5, cooldown=4)


def scores(*given):
    """A look that tells these scores one after the other."""
    waiting = iter(given)
    return lambda: next(waiting)


def test_the_rate_falls_from_the_look_that_reached_the_score():
    model = Toy()
    history = fit(model, toy_loss(model), LOOKS, look=scores(0.1, 0.4, 0.5))
    looked = [row for row in history if "score" in row]
    assert [(row["step"], row["score"]) for row in looked] == [(5, 0.1), (10, 0.4), (15, 0.5)]
    assert looked[-1]["end"] == history[-1]["step"] == 19
    rates = [learning_rate(step, LOOKS, 19) / LOOKS.lr for step in range(19)]
    assert rates == pytest.approx([0.25, 0.5, 0.75] + [1.0] * 13 + [0.75, 0.5, 0.25])


def test_training_that_never_reaches_the_score_ends_after_all_steps():
    model = Toy()
    history = fit(model, toy_loss(model), LOOKS, look=lambda: 0.4)
    assert history[-1]["step"] == 40
    assert [row["step"] for row in history if "score" in row] == [5, 10, 15, 20, 25, 30, 35]
    assert not any("end" in row for row in history)


@pytest.mark.parametrize("step", [7, 15, 17])  # before the last look, right after it, in the cooldown
def test_a_broken_run_with_looks_ends_with_the_same_bits(tmp_path, step):
    whole = Toy()
    wanted = fit(whole, toy_loss(whole), LOOKS, look=scores(0.1, 0.4, 0.5))
    asked = scores(0.1, 0.4, 0.5)
    broken_at(step, tmp_path, opt=LOOKS, look=asked)
    again = Toy()
    assert fit(again, toy_loss(again), LOOKS, tmp_path, look=asked) == wanted
    assert same(weights(again), weights(whole))


# 16 bits, dropout, and a device that is not waited for


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

    for seconds in (1000, 0):
        model = Toy()
        inner = toy_loss(model)
        with pytest.raises(StudyError, match="loss is nan.* at step 7 "):
            fit(model, diverges, replace(OPT, checkpoint_seconds=seconds), tmp_path)
    model = Toy()  # and what was kept is from before
    assert fit(model, toy_loss(model), OPT, tmp_path) == wanted[0]
