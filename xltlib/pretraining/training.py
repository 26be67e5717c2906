"""The one training loop: a visible update, progress, and checkpoints to go on from with the same numbers."""

import math
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from xltlib import StudyError
from xltlib.data.tokenization import PAD
from xltlib.store import read_json, seal, sha256_file, write_json

Progress = Callable[[str], None]

PRECISIONS = ("float32", "bfloat16")
SAVING = 0.05  # share of the time that checkpoints may take: those of a large model are gigabytes
WAITED_FOR = ("cpu",)  # where the loss is read after each update; to read it from a GPU would hold it up


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
    checkpoint_seconds: float = 20.0  # work that a killed run may lose (0: one update), or what SAVING allows
    precision: str = "float32"  # of matrix products; with "bfloat16" weights and updates stay in 32 bits
    seed: int = 0  # of what layers draw (dropout)
    until: float = 0.0  # score at which the rate begins to fall to 0; 0: it falls from the warm-up on
    look_every: int = 250  # updates between two looks
    cooldown: int = 250  # updates in which the rate falls from its peak to 0 once a look has reached `until`

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise StudyError(f"precision {self.precision!r} is not known: {' or '.join(PRECISIONS)}")


def learning_rate(step: int, opt: Optimization, end: int | None = None) -> float:
    """Linear warm-up, then linear decay; `step` counts from 0, `end` is `opt.steps` by default.

    With looks (`opt.until`) the rate stays at its peak until the last `opt.cooldown` updates, as it is not
    known beforehand when they begin; the warm-up is then as long as the cooldown.
    """
    end = opt.steps if end is None else end
    if opt.until:
        return opt.lr * min(1.0, (step + 1) / opt.cooldown, (end - step) / opt.cooldown)
    warm = max(1, round(opt.steps * opt.warmup))
    return opt.lr * min((step + 1) / warm, (opt.steps - step) / max(1, opt.steps - warm))


def fit(
    model: nn.Module,
    loss: Callable[[int], dict[str, Tensor]],
    opt: Optimization,
    directory: Path | None = None,
    progress: Progress | None = None,
    name: str = "training",
    look: Callable[[], float] | None = None,
) -> list[dict[str, float]]:
    """Update the model's weights that want gradients, where they are; the history of the loss and its parts.

    With `opt.until` it ends `opt.cooldown` updates after the first look whose score reaches that.

    Parameters
    ----------
    loss : the parts by name at a step (from 0); `loss` is minimised. Only a function of step and weights
        makes a resume exact; torch's own generators (dropout) are seeded by `opt.seed` and the step.
    directory : where checkpoints go; an earlier one found there is resumed.
    look : the model's score, asked for every `opt.look_every` updates; it must leave the weights alone.

    Raises StudyError when the loss or its gradient is not finite: at once, or on a GPU at the next point of
    the history or checkpoint; the message names the first such step either way.
    """
    named = {n: p for n, p in model.named_parameters() if p.requires_grad}
    optimizer = _optimizer(named, opt)
    checkpoint = _Checkpoint(directory, named, optimizer)
    step, history, sums = checkpoint.restore()
    end = next((row["end"] for row in history if "end" in row), opt.steps)
    device = next(iter(named.values())).device
    log = _Log(name, opt, checkpoint, sums)
    meter, saved, pause = _Meter(progress, name, opt.steps, step), time.monotonic(), opt.checkpoint_seconds
    model.train()
    while step < end:
        optimizer.param_groups[0]["lr"] = optimizer.param_groups[1]["lr"] = learning_rate(step, opt, end)
        with _forward(device, opt, step):
            parts = loss(step)
        parts["loss"].backward()
        log.add(step, parts, torch.nn.utils.clip_grad_norm_(named.values(), opt.clip))
        if device.type in WAITED_FOR:
            log.read()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step += 1
        if step % opt.log_every == 0 or step == end:
            count = (step - 1) % opt.log_every + 1
            history.append({"step": step} | {key: total / count for key, total in log.read().items()})
            log.sums = {}
            meter.tell(step, history[-1]["loss"])
        if opt.until and end == opt.steps and step % opt.look_every == 0 and step + opt.cooldown < end:
            history.append({"step": step, "score": look()})
            model.train()
            if history[-1]["score"] >= opt.until:
                end = history[-1]["end"] = step + opt.cooldown
        if (begun := time.monotonic()) - saved >= pause and step < end:
            checkpoint.save(step, history, log.read())
            saved = time.monotonic()
            pause = opt.checkpoint_seconds and max(opt.checkpoint_seconds, (saved - begun) / SAVING)
    checkpoint.remove()
    return history


def _optimizer(named: dict[str, nn.Parameter], opt: Optimization) -> torch.optim.AdamW:
    """AdamW with weight decay on matrices only."""
    decayed = {True: [], False: []}
    for parameter in named.values():
        decayed[parameter.ndim > 1].append(parameter)
    groups = [
        {"params": decayed[True], "weight_decay": opt.weight_decay},
        {"params": decayed[False], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=opt.lr, betas=opt.betas, fused=True)


@contextmanager
def _forward(device: torch.device, opt: Optimization, step: int) -> Iterator[None]:
    """The precision of the loss, and generators of its own that depend on the seed and the step alone."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        seed = int(np.random.default_rng([opt.seed, 29, step]).integers(2**63))
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would note a traceback in every step
        if device.type == "cuda":
            torch.cuda.manual_seed(seed)
        with torch.autocast(device.type, torch.bfloat16, enabled=opt.precision == "bfloat16"):
            yield


class _Log:
    """Sums of the parts of the loss since the last point of the history; values wait on their device."""

    def __init__(self, name: str, opt: Optimization, checkpoint: "_Checkpoint", sums: dict) -> None:
        self.name, self.opt, self.checkpoint, self.sums = name, opt, checkpoint, sums
        self._waiting: list[tuple[int, list[str], Tensor]] = []

    def add(self, step: int, parts: dict[str, Tensor], norm: Tensor) -> None:
        row = torch.stack([norm, *(part.detach() for part in parts.values())])
        self._waiting.append((step, list(parts), row))

    def read(self) -> dict[str, float]:
        """The sums, with all that has waited; StudyError names the first step whose loss is not finite."""
        waiting, self._waiting = self._waiting, []
        numbers = iter(torch.cat([row for *_, row in waiting]).tolist() if waiting else ())
        for step, keys, _ in waiting:
            norm, values = next(numbers), {key: next(numbers) for key in keys}
            if not (math.isfinite(values["loss"]) and math.isfinite(norm)):
                raise StudyError(self._diverged(step, values, norm))
            for key, value in values.items():
                self.sums[key] = self.sums.get(key, 0.0) + value
        return self.sums

    def _diverged(self, step: int, values: dict[str, float], norm: float) -> str:
        saved, opt = self.checkpoint.step, self.opt
        kept = f"the last good checkpoint is of step {saved}" if saved else "no checkpoint yet"
        return (
            f"{self.name}: the loss is {values['loss']}, the norm of its gradient {norm}, at step {step} "
            f"(parts: {values}); {kept}. "
            f"Try a lower learning rate than {opt.lr:g} or a longer warm-up than {opt.warmup:g} of the steps"
        )


class _Checkpoint:
    """Weights and optimiser state as safetensors; history, and the digests of both, beside them.

    JSON comes last, so that half a checkpoint is none.
    """

    STATE = ("step", "exp_avg", "exp_avg_sq")  # of AdamW, for a parameter that has had a gradient

    def __init__(self, directory: Path | None, named: dict[str, nn.Parameter], optimizer) -> None:
        self.directory, self.named, self.optimizer, self.step = directory, named, optimizer, 0

    def save(self, step: int, history: list, sums: dict[str, float]) -> None:
        if self.directory is None:
            return
        tensors = {}
        for name, parameter in self.named.items():
            tensors[f"weight/{name}"] = parameter.detach().cpu()
            for key, value in self.optimizer.state[parameter].items():
                tensors[f"{key}/{name}"] = torch.as_tensor(value).cpu()
        path = self.directory / f"checkpoint-{step}.safetensors"
        save_file({k: v.contiguous() for k, v in tensors.items()}, path)
        state = {"step": step, "history": history, "sums": sums, "sha256": sha256_file(path)}
        write_json(self.directory / "checkpoint.json", state | {"seal": seal(state)})
        for old in self.directory.glob("checkpoint-*.safetensors"):
            if old != path:
                old.unlink()
        self.step = step

    def restore(self) -> tuple[int, list, dict[str, float]]:
        """Step, history and running sums to go on from; a damaged checkpoint is told and counts as none."""
        if self.directory is None or not (self.directory / "checkpoint.json").exists():
            return 0, [], {}
        try:
            state = read_json(self.directory / "checkpoint.json")
            step, history, sums = state["step"], state["history"], state["sums"]
            path = self.directory / f"checkpoint-{step}.safetensors"
            if state["seal"] != seal(state) or state["sha256"] != sha256_file(path):
                raise KeyError("another digest")
            tensors = load_file(path)
            moments = {name: self._moments(tensors, name) for name in self.named}
        except (StudyError, SafetensorError, OSError, KeyError, TypeError, AttributeError):
            warnings.warn(
                f"{self.directory}: the checkpoint is damaged: trained from the start", stacklevel=3
            )
            return 0, [], {}
        for name, parameter in self.named.items():  # nothing can fail from here on
            parameter.data.copy_(tensors[f"weight/{name}"])
            if moments[name]:
                self.optimizer.state[parameter] = moments[name]
        self.step = step
        return step, history, sums

    def _moments(self, tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
        """The optimiser's state of a parameter, empty if it had none; KeyError where something is amiss."""
        if tensors[f"weight/{name}"].shape != self.named[name].shape:
            raise KeyError(name)
        if not any(f"{key}/{name}" in tensors for key in self.STATE):
            return {}
        device = self.named[name].device
        return {key: tensors[f"{key}/{name}"].to(device, copy=True) for key in self.STATE}

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

    Every sequence is drawn equally often; those of the few lengths with fewer than `least` are left out.
    sizes: how many tokens each sequence counts for, where it brings others with it; its length by default.
    """

    def __init__(
        self, sequences: list[np.ndarray], least: int = 8, sizes: Sequence[int] | None = None
    ) -> None:
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
        every = np.array([len(sequence) for sequence in sequences] if sizes is None else sizes)
        self._sizes = {n: every[self._rows[n]] for n in self.lengths}
        tokens = np.array([self._sizes[n].sum() for n in self.lengths], float)
        self._p_of_tokens = tokens / tokens.sum()

    def draw(
        self, rng: np.random.Generator, batch_size: int, batch_tokens: int = 0
    ) -> tuple[np.ndarray, np.ndarray]:
        """Token ids (B, T) and the numbers (B,) of their sequences.

        With `batch_tokens`, as many sequences as come nearest to so many tokens, at least one; lengths are
        then drawn by their tokens, which again makes all sequences equally frequent.
        """
        p = self._p_of_tokens if batch_tokens else self._p
        length = self.lengths[rng.choice(len(self.lengths), p=p)]
        if batch_tokens:
            batch_size = max(1, -(-batch_tokens // int(self._sizes[length].min())))
        rows = rng.integers(0, len(self._rows[length]), batch_size)
        if batch_tokens:
            read = self._sizes[length][rows].cumsum()
            rows = rows[: np.abs(read - batch_tokens).argmin() + 1]
        return self._matrix[length][rows], self._rows[length][rows]


def epoch_batches(lengths: Iterable[int], batch_size: int, rng: np.random.Generator) -> list[np.ndarray]:
    """All items once, in batches of equal length, in random order: a list of index arrays (at most B,)."""
    lengths = np.asarray(list(lengths))
    batches = []
    for n in np.unique(lengths):
        rows = rng.permutation(np.flatnonzero(lengths == n))
        batches += [rows[i : i + batch_size] for i in range(0, len(rows), batch_size)]
    return [batches[i] for i in rng.permutation(len(batches))]


def stacked(
    sequences: Sequence[np.ndarray], filler: int = PAD, multiple: int = 1
) -> tuple[Tensor, Tensor | None]:
    """Ids (B, T), shorter sequences filled up, and 1 where they are real: None where all of them are.

    T is the length of the longest, or the next `multiple` of so many.
    """
    lengths = {len(sequence) for sequence in sequences}
    if len(lengths) == 1 and not max(lengths) % multiple:
        return torch.from_numpy(np.stack(sequences)), None
    return pad(sequences, filler, multiple)


def pad(sequences: Sequence[np.ndarray], filler: int = PAD, multiple: int = 1) -> tuple[Tensor, Tensor]:
    """Token ids (B, T) filled up with `filler`, and the mask (B, T) of the real ones; T is a `multiple`."""
    sizes = np.array([len(sequence) for sequence in sequences])
    real = np.arange(-(-sizes.max() // multiple) * multiple) < sizes[:, None]
    ids = np.full(real.shape, filler, dtype=np.int64)
    ids[real] = np.concatenate(sequences)
    return torch.from_numpy(ids), torch.from_numpy(real).long()
