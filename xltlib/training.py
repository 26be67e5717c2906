"""The one training loop: a visible update, progress, and checkpoints to go on from with the same numbers."""

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from xltlib.files import read_json, write_json
from xltlib.params import StudyError

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Optimization:
    """How weights are updated; the same for all methods that are compared."""

    steps: int
    lr: float  # peak, reached after the warm-up, then linearly down to 0
    warmup: float = 0.05  # share of the steps
    weight_decay: float = 0.01  # on matrices only
    betas: tuple[float, float] = (0.9, 0.98)  # a shorter memory of squares than 0.999 suits short runs
    clip: float = 1.0  # largest norm of the gradient
    log_every: int = 100  # updates averaged in one point of the history
    checkpoint_seconds: float = 20.0  # how much work a killed run may lose


def learning_rate(step: int, opt: Optimization) -> float:
    """Linear warm-up, then linear decay; `step` counts from 0."""
    warm = max(1, round(opt.steps * opt.warmup))
    return opt.lr * min((step + 1) / warm, (opt.steps - step) / max(1, opt.steps - warm))


def fit(
    model: nn.Module,
    loss: Callable[[int], dict[str, Tensor]],
    opt: Optimization,
    directory: Path | None = None,
    progress: Progress | None = None,
    name: str = "training",
) -> list[dict[str, float]]:
    """Update the model's weights that want gradients; return the history of the loss and its parts.

    Parameters
    ----------
    loss : called with the number of the step (from 0), returns the parts by name, `loss` being what is
        minimised. It must be a function of the step (and the weights) alone: only then is a resume exact.
    directory : where checkpoints go; an earlier one found there is resumed.

    Raises StudyError when the loss or its gradient is not finite.
    """
    named = {n: p for n, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in named.values() if p.ndim > 1], "weight_decay": opt.weight_decay},
            {"params": [p for p in named.values() if p.ndim <= 1], "weight_decay": 0.0},
        ],
        lr=opt.lr, betas=opt.betas, fused=True,
    )  # fmt: skip
    checkpoint = _Checkpoint(directory, named, optimizer)
    step, history, sums = checkpoint.restore()
    meter, saved = _Meter(progress, name, opt.steps, step), time.monotonic()
    model.train()
    while step < opt.steps:
        parts = loss(step)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, opt)
        parts["loss"].backward()
        norm = torch.nn.utils.clip_grad_norm_(named.values(), opt.clip).item()
        values = {key: part.item() for key, part in parts.items()}
        if not (math.isfinite(values["loss"]) and math.isfinite(norm)):
            raise StudyError(_diverged(name, step, values, norm, opt, checkpoint))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step += 1
        for key, value in values.items():
            sums[key] = sums.get(key, 0.0) + value
        if step % opt.log_every == 0 or step == opt.steps:
            count = (step - 1) % opt.log_every + 1
            history.append({"step": step} | {key: total / count for key, total in sums.items()})
            sums = {}
            meter.tell(step, history[-1]["loss"])
        if time.monotonic() - saved > opt.checkpoint_seconds and step < opt.steps:
            checkpoint.save(step, history, sums)
            saved = time.monotonic()
    checkpoint.remove()
    return history


def _diverged(
    name: str, step: int, values: dict, norm: float, opt: Optimization, checkpoint: "_Checkpoint"
) -> str:
    kept = (
        f"the last good checkpoint is of step {checkpoint.step}" if checkpoint.step else "no checkpoint yet"
    )
    return (
        f"{name}: the loss is {values['loss']}, the norm of its gradient {norm}, at step {step} "
        f"(parts: {values}); {kept}. "
        f"Try a lower learning rate than {opt.lr:g} or a longer warm-up than {opt.warmup:g} of the steps"
    )


class _Checkpoint:
    """Weights and optimiser state as safetensors, history beside them; JSON last, so half of one is none."""

    STATE = ("step", "exp_avg", "exp_avg_sq")  # of AdamW, for a parameter that has had a gradient

    def __init__(self, directory: Path | None, named: dict[str, nn.Parameter], optimizer) -> None:
        self.directory, self.named, self.optimizer, self.step = directory, named, optimizer, 0

    def save(self, step: int, history: list, sums: dict[str, float]) -> None:
        if self.directory is None:
            return
        tensors = {}
        for name, parameter in self.named.items():
            tensors[f"weight/{name}"] = parameter.detach()
            for key, value in self.optimizer.state[parameter].items():
                tensors[f"{key}/{name}"] = torch.as_tensor(value)
        path = self.directory / f"checkpoint-{step}.safetensors"
        save_file({k: v.contiguous() for k, v in tensors.items()}, path)
        write_json(self.directory / "checkpoint.json", {"step": step, "history": history, "sums": sums})
        for old in self.directory.glob("checkpoint-*.safetensors"):
            if old != path:
                old.unlink()
        self.step = step

    def restore(self) -> tuple[int, list, dict[str, float]]:
        """Step, history and running sums to go on from; a damaged checkpoint counts as none."""
        if self.directory is None or not (self.directory / "checkpoint.json").exists():
            return 0, [], {}
        try:
            state = read_json(self.directory / "checkpoint.json")
            step, history, sums = state["step"], state["history"], state["sums"]
            tensors = load_file(self.directory / f"checkpoint-{step}.safetensors")
            found = {name: self._found(tensors, name) for name in self.named}
        except (StudyError, SafetensorError, OSError, KeyError, TypeError):
            return 0, [], {}
        for name, parameter in self.named.items():  # nothing can fail from here on
            parameter.data.copy_(tensors[f"weight/{name}"])
            if found[name]:
                self.optimizer.state[parameter] = found[name]
        self.step = step
        return step, history, sums

    def _found(self, tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
        """The optimiser's state of a parameter, empty if it had none; KeyError where something is amiss."""
        if tensors[f"weight/{name}"].shape != self.named[name].shape:
            raise KeyError(name)
        if not any(f"{key}/{name}" in tensors for key in self.STATE):
            return {}
        return {key: tensors[f"{key}/{name}"].clone() for key in self.STATE}

    def remove(self) -> None:
        for path in self.directory.glob("checkpoint*") if self.directory else ():
            path.unlink()


class _Meter:
    """One line now and then: step, loss, rate, time left."""

    def __init__(self, progress: Progress | None, name: str, steps: int, done: int) -> None:
        self.progress, self.name, self.steps, self.first = progress, name, steps, done
        self.start = self.told = time.monotonic()

    def tell(self, step: int, loss: float, every: float = 10.0) -> None:
        now = time.monotonic()
        if self.progress is None or (now - self.told < every and step < self.steps):
            return
        self.told, rate = now, (step - self.first) / max(now - self.start, 1e-9)
        left = (self.steps - step) / max(rate, 1e-9)
        self.progress(
            f"{self.name}: step {step}/{self.steps}, loss {loss:.3f}, {rate:.0f} steps/s, {left:.0f} s left"
        )


class Pool:
    """Token sequences drawn in batches of equal length, so that nothing is padded.

    A batch has one length, drawn in proportion to the number of sequences that have it; the few lengths with
    fewer than `least` sequences are left out.
    """

    def __init__(self, sequences: list[np.ndarray], least: int = 8) -> None:
        by_length: dict[int, list[int]] = {}
        for i, sequence in enumerate(sequences):
            by_length.setdefault(len(sequence), []).append(i)
        kept = {n: rows for n, rows in by_length.items() if len(rows) >= least} or by_length
        if not kept:
            raise StudyError("no text to train on: the pool of sequences is empty")
        self.lengths = sorted(kept)
        self._rows = {n: np.array(kept[n]) for n in self.lengths}
        self._matrix = {n: np.stack([sequences[i] for i in kept[n]]) for n in self.lengths}
        counts = np.array([len(self._rows[n]) for n in self.lengths], float)
        self._p = counts / counts.sum()

    def draw(self, rng: np.random.Generator, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
        """Token ids (B, T) and the numbers (B,) of their sequences."""
        length = self.lengths[rng.choice(len(self.lengths), p=self._p)]
        chosen = rng.integers(0, len(self._rows[length]), batch_size)
        return self._matrix[length][chosen], self._rows[length][chosen]


def epoch_batches(lengths: Iterable[int], batch_size: int, rng: np.random.Generator) -> list[np.ndarray]:
    """All items once, in batches of equal length, in random order: a list of index arrays (at most B,)."""
    lengths = np.asarray(list(lengths))
    batches = []
    for n in np.unique(lengths):
        rows = rng.permutation(np.flatnonzero(lengths == n))
        batches += [rows[i : i + batch_size] for i in range(0, len(rows), batch_size)]
    return [batches[i] for i in rng.permutation(len(batches))]
