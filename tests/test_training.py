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


def trained(directory=None, opt=OPT, late=0, at=lambda step: None, look=None, loss_of=toy_loss):
    """History and weights of a new model after training; `at` is called with each step before its loss."""
    model = Toy()
    loss, generator = loss_of(model, late), torch.get_rng_state()
    history = fit(model, lambda step: at(step) or loss(step), opt, directory, look=look)
    assert torch.equal(generator, torch.get_rng_state())
    return history, {name: weight.detach().clone() for name, weight in model.named_parameters()}


def broken_at(step, directory, **given):
    """Training that stops with an error before the update of a step; its checkpoint stays."""

    def stop(now):
        if now == step:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(directory, at=stop, **given)


def check_same(found, wanted):
    """The same history and the same weights to the last bit."""
    assert found[0] == wanted[0]
    assert all(torch.equal(found[1][name], weight) for name, weight in wanted[1].items())


# Resume


@pytest.mark.parametrize(
    ("breaks", "late"), [((1,), 0), ((4,), 0), ((5,), 0), ((7,), 0), ((11,), 0), ((3, 8), 0), ((4,), 6)]
)
def test_a_resumed_run_ends_with_the_same_bits(tmp_path, breaks, late):
    """Also one that was broken twice, and one of which some weights had no gradient so far."""
    for step in breaks:
        broken_at(step, tmp_path, late=late)
    steps = []
    check_same(trained(tmp_path, late=late, at=steps.append), trained(late=late))
    assert steps == list(range(breaks[-1], 12))
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
    path, steps = tmp_path / training.CHECKPOINT, []
    path.write_bytes(damage(path.read_bytes()))
    with pytest.warns(UserWarning, match="the checkpoint is damaged: trained from the start"):
        check_same(trained(tmp_path, at=steps.append), trained())
    assert steps[0] == 0


def test_a_kill_while_a_checkpoint_is_written_leaves_the_one_before(tmp_path, monkeypatch):
    broken_at(3, tmp_path)

    def killed(path, target):
        path.write_bytes(path.read_bytes()[:100])  # as far as the disk had got
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            trained(tmp_path)
    check_same(trained(tmp_path, replace(OPT, checkpoint_seconds=1000)), trained())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("cost", "at"), [(0.0, [3, 6, 9]), (0.125, [3, 6, 9]), (0.25, [3, 8]), (30.0, [3])])
def test_checkpoints_that_take_long_are_rarer(tmp_path, monkeypatch, cost, at):
    """A clock that stands still but for updates, a second each, and for saving."""
    clock, saved, save = [0.0], [], training._save
    monkeypatch.setattr(training.time, "monotonic", lambda: clock[0])

    def tick(seconds):
        clock[0] += seconds

    def slow(*given):
        saved.append(given[-1][0])
        tick(cost)
        save(*given)

    monkeypatch.setattr(training, "_save", slow)
    check_same(trained(tmp_path, replace(OPT, checkpoint_seconds=3), at=lambda step: tick(1)), trained())
    assert saved == at


SLOW = """
import sys, time, types
from pathlib import Path
sys.path.insert(0, sys.argv[2])
for name in ("data.tokenization", "pretraining.models"):  # of transformers, which takes seconds to import
    sys.modules[f"xltlib.{name}"] = types.SimpleNamespace(PAD=0)
import torch
torch.set_num_threads(1)
from test_training import trained
trained(Path(sys.argv[1]), at=lambda step: time.sleep(0.2))
"""


def test_sigkill_and_resume(tmp_path, root):
    environment = os.environ | {"PYTHONPATH": str(root)}
    command = [sys.executable, "-c", SLOW, str(tmp_path), str(root / "tests")]
    process = subprocess.Popen(command, env=environment)
    while not (tmp_path / training.CHECKPOINT).exists() and process.poll() is None:
        time.sleep(0.02)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    steps = []
    check_same(trained(tmp_path, at=steps.append), trained())
    assert 0 < steps[0] < 12


# The update


def test_learning_rates_by_hand():
    opt = Optimization(steps=10, lr=1.0, warmup=0.2)
    rates = [learning_rate(step, opt, 10) for step in range(10)]
    assert rates == pytest.approx([1 / 2, 1, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8])
    assert learning_rate(0, Optimization(steps=1, lr=0.3), 1) == pytest.approx(0.3)
    assert learning_rate(0, Optimization(steps=10, lr=0.3, warmup=0), 10) == pytest.approx(0.3)


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
    values = []

    def kept(model, late):
        loss = toy_loss(model)
        return lambda step: values.append(loss(step)) or values[-1]

    history, _ = trained(loss_of=kept)
    values = [parts["loss"].item() for parts in values]
    assert [point["step"] for point in history] == [5, 10, 12]
    means = [np.mean(values[:5]), np.mean(values[5:10]), np.mean(values[10:])]
    assert [point["loss"] for point in history] == pytest.approx(means)
    assert [point["half"] for point in history] == pytest.approx(np.array(means) / 2)


def diverging(kind):
    """A loss that is not a number at step 7, or that has no finite gradient there."""

    def loss_of(model, late):
        inner = toy_loss(model)

        def loss(step):
            parts = inner(step)
            if step == 7 and kind == "loss":
                parts["loss"] = parts["loss"] * torch.nan
            if step == 7 and kind == "gradient":  # 0 with an infinite slope
                parts["loss"] = parts["loss"] + torch.sqrt(model.first.bias.sum() * 0)
            return parts

        return loss

    return loss_of


@pytest.mark.parametrize("seconds", [0, 1000])
@pytest.mark.parametrize("kind", ["loss", "gradient"])
def test_divergence_stops_with_the_step_and_advice(tmp_path, kind, seconds):
    """Whether it is met before a checkpoint or at a point of the history; what was kept is from before."""
    told = "training: .* (nan|inf), at step 7 .*lower learning rate than 0.05"
    with pytest.raises(StudyError, match=told):
        trained(tmp_path, replace(OPT, checkpoint_seconds=seconds), loss_of=diverging(kind))
    assert (tmp_path / training.CHECKPOINT).exists() == (not seconds)
    check_same(trained(tmp_path), trained())


def test_losses_are_read_at_points_of_the_history_alone(monkeypatch):
    """To wait for each of them would hold up a GPU."""
    read, wanted = [], trained(late=3)
    monkeypatch.setattr(torch, "cat", lambda rows, cat=torch.cat: read.append(len(rows)) or cat(rows))
    check_same(trained(opt=replace(OPT, checkpoint_seconds=1000), late=3), wanted)
    assert read == [5, 5, 2]


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
    history, _ = trained(opt=LOOKS, look=scores(0.1, 0.4, 0.5))
    looked = [row for row in history if "score" in row]
    assert [(row["step"], row["score"]) for row in looked] == [(5, 0.1), (10, 0.4), (15, 0.5)]
    assert looked[-1]["end"] == history[-1]["step"] == 19
    rates = [learning_rate(step, LOOKS, 19) / LOOKS.lr for step in range(19)]
    assert rates == pytest.approx([0.25, 0.5, 0.75] + [1.0] * 13 + [0.75, 0.5, 0.25])


def test_training_that_never_reaches_the_score_ends_after_all_steps():
    history, _ = trained(opt=LOOKS, look=lambda: 0.4)
    assert history[-1]["step"] == 40
    assert [row["step"] for row in history if "score" in row] == [5, 10, 15, 20, 25, 30, 35]
    assert not any("end" in row for row in history)


@pytest.mark.parametrize("step", [7, 15, 17])  # before the last look, right after it, in the cooldown
def test_a_broken_run_with_looks_ends_with_the_same_bits(tmp_path, step):
    asked = scores(0.1, 0.4, 0.5)
    broken_at(step, tmp_path, opt=LOOKS, look=asked)
    resumed = trained(tmp_path, LOOKS, look=asked)
    check_same(resumed, trained(opt=LOOKS, look=scores(0.1, 0.4, 0.5)))


# 16 bits and dropout


def noisy_loss(model, late):
    """A loss with dropout, which draws from torch's own generator."""
    inner = toy_loss(model)

    def loss(step):
        torch.rand(3)  # not to be taken for the same numbers in every step
        return {k: F.dropout(v + 1, 0.5) * model.first.weight.sum() for k, v in inner(step).items()}

    return loss


@pytest.mark.parametrize("opt", [replace(OPT, precision="bfloat16"), OPT], ids=["bfloat16", "float32"])
def test_a_resume_is_exact_in_16_bits_and_with_dropout(tmp_path, opt):
    wanted = trained(opt=opt, loss_of=noisy_loss)
    broken_at(7, tmp_path, opt=opt, loss_of=noisy_loss)
    torch.rand(5)
    check_same(trained(tmp_path, opt, loss_of=noisy_loss), wanted)
    assert trained(opt=replace(opt, seed=1), loss_of=noisy_loss)[0] != wanted[0]
    assert all(weight.dtype == torch.float32 for weight in wanted[1].values())


def test_16_bits_are_those_of_matrix_products_alone():
    seen = []

    def watched(model, late):
        model.first.register_forward_hook(lambda layer, given, out: seen.append(out.dtype))
        return toy_loss(model)

    history, _ = trained(opt=replace(OPT, precision="bfloat16"), loss_of=watched)
    assert set(seen) == {torch.bfloat16}
    wanted, _ = trained()
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
