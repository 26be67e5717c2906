"""The one training loop: a visible update, progress, and checkpoints to go on from with the same numbers."""

import hashlib
import io
import math
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from xltlib import StudyError
from xltlib.data.tokenization import PAD

Progress = Callable[[str], None]

CHECKPOINT = "checkpoint.pt"
TELLING = 10.0  # seconds between two lines of progress, at least
SAVING = 0.05  # share of the time that checkpoints may take: those of a large model are gigabytes


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
    precision: str = "float32"  # of matrix products, or "bfloat16": weights and updates stay in 32 bits
    seed: int = 0  # of what layers draw (dropout)
    until: float = 0.0  # score at which the rate begins to fall to 0; 0: it falls from the warm-up on
    look_every: int = 250  # updates between two looks
    cooldown: int = 250  # updates in which the rate falls from its peak to 0 once a look has reached `until`


def learning_rate(step: int, opt: Optimization, end: int) -> float:
    """Linear warm-up, then linear decay to 0 at `end`; `step` counts from 0.

    With looks (`opt.until`) the rate stays at its peak until the last `opt.cooldown` updates, as it is not
    known beforehand when they begin; the warm-up is then as long as the cooldown.
    """
    if opt.until:
        return opt.lr * min(1.0, (step + 1) / opt.cooldown, (end - step) / opt.cooldown)
    warm = max(1, round(end * opt.warmup))
    return opt.lr * min((step + 1) / warm, (end - step) / max(1, end - warm))


def fit(
    model: nn.Module, loss: Callable[[int], dict[str, Tensor]], opt: Optimization,
    directory: Path | None = None, progress: Progress | None = None, name: str = "training",
    look: Callable[[], float] | None = None,
) -> list[dict[str, float]]:  # fmt: skip
    """Update the model's weights that want gradients, where they are; the history of the loss and its parts.

    With `opt.until` it ends `opt.cooldown` updates after the first look whose score reaches that.

    loss : the parts by name at a step (from 0); `loss` is minimised. Only a function of step and weights
        makes a resume exact; torch's own generators (dropout) are seeded by `opt.seed` and the step.
    directory : where checkpoints go; an earlier one found there is resumed.
    look : the model's score, asked for every `opt.look_every` updates; it must leave the weights alone.

    Raises StudyError, with the step, when the loss or its gradient is not finite: at the next point of the
    history or checkpoint, as to read each loss from a GPU would hold it up.
    """
    named = {n: p for n, p in model.named_parameters() if p.requires_grad}
    optimizer, checkpoint = _optimizer(named, opt), directory and directory / CHECKPOINT
    step, history, sums = _restored(checkpoint, named, optimizer)
    end = next((row["end"] for row in history if "end" in row), opt.steps)
    device, waiting, first = next(iter(named.values())).device, [], step
    begun, pause = time.monotonic(), opt.checkpoint_seconds
    told = saved = begun
    model.train()
    while step < end:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, opt, end)
        with _forward(device, opt, step):
            parts = loss(step)
        parts["loss"].backward()
        norm = torch.nn.utils.clip_grad_norm_(named.values(), opt.clip)
        waiting.append((step, list(parts), torch.stack([norm, *(part.detach() for part in parts.values())])))
        optimizer.step()
        optimizer.zero_grad()
        step += 1
        if step % opt.log_every == 0 or step == end:
            _add(waiting, sums, name, opt)
            count = (step - 1) % opt.log_every + 1
            history.append({"step": step, **{key: total / count for key, total in sums.items()}})
            sums = {}
            if progress and (time.monotonic() - told > TELLING or step == end):
                told = time.monotonic()
                progress(f"{name}: {_line(history[-1], end, (step - first) / (told - begun))}")
        if opt.until and end == opt.steps and step % opt.look_every == 0 and step + opt.cooldown < end:
            history.append({"step": step, "score": look()})
            model.train()
            if history[-1]["score"] >= opt.until:
                end = history[-1]["end"] = step + opt.cooldown
        if checkpoint and (now := time.monotonic()) - saved >= pause and step < end:
            _add(waiting, sums, name, opt)
            _save(checkpoint, named, optimizer, (step, history, sums))
            saved = time.monotonic()
            pause = opt.checkpoint_seconds and max(opt.checkpoint_seconds, (saved - now) / SAVING)
    for left in directory.glob("checkpoint*") if directory else ():
        left.unlink()
    return history


def _line(point: dict[str, float], steps: int, rate: float) -> str:
    """Step, loss, updates a second, and the time left."""
    left = (steps - point["step"]) / rate
    return f"step {point['step']}/{steps}, loss {point['loss']:.3f}, {rate:.0f} steps/s, {left:.0f} s left"


def _optimizer(named: dict[str, nn.Parameter], opt: Optimization) -> torch.optim.AdamW:
    """AdamW with weight decay on matrices only."""
    groups = [
        {"params": [p for p in named.values() if p.ndim > 1], "weight_decay": opt.weight_decay},
        {"params": [p for p in named.values() if p.ndim <= 1], "weight_decay": 0.0},
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


def _add(
    waiting: list[tuple[int, list[str], Tensor]], sums: dict[str, float], name: str, opt: Optimization
) -> None:
    """Add to the sums the parts of the losses that waited on their device: they come from there at once.

    waiting : step, names of the parts, and their values after the norm of the gradient; emptied here
    """
    numbers = iter(torch.cat([row for *_, row in waiting]).tolist() if waiting else ())
    for step, keys, _ in waiting:
        norm, values = next(numbers), {key: next(numbers) for key in keys}
        if not (math.isfinite(values["loss"]) and math.isfinite(norm)):
            raise StudyError(
                f"{name}: the loss is {values['loss']}, the norm of its gradient {norm}, at step {step} "
                f"(parts: {values}). Try a lower learning rate than {opt.lr:g} or a longer warm-up than "
                f"{opt.warmup:g} of the steps"
            )
        for key, value in values.items():
            sums[key] = sums.get(key, 0.0) + value
    waiting.clear()


def _save(path: Path, named: dict[str, nn.Parameter], optimizer: torch.optim.AdamW, reached: tuple) -> None:
    """Write a checkpoint in place of the last one, as a whole: a kill at any moment leaves one of the two."""
    weights = {name: parameter.detach() for name, parameter in named.items()}
    content, begun = io.BytesIO(), path.with_suffix(".part")
    torch.save({"weights": weights, "optimizer": optimizer.state_dict(), "reached": reached}, content)
    with open(begun, "wb") as file:
        file.write(hashlib.sha256(content.getbuffer()).digest())
        file.write(content.getbuffer())
    begun.replace(path)


def _restored(
    path: Path | None, named: dict[str, nn.Parameter], optimizer: torch.optim.AdamW
) -> tuple[int, list, dict[str, float]]:
    """Step, history and running sums to go on from; a checkpoint with a wrong bit is told and is none."""
    if not (path and path.exists()):
        return 0, [], {}
    content, size = memoryview(path.read_bytes()), hashlib.sha256().digest_size
    if hashlib.sha256(content[size:]).digest() != content[:size]:  # torch would read on with other numbers
        warnings.warn(f"{path}: the checkpoint is damaged: trained from the start", stacklevel=3)
        return 0, [], {}
    state = torch.load(io.BytesIO(content[size:]), map_location="cpu", weights_only=True)
    for name, parameter in named.items():
        parameter.data.copy_(state["weights"][name])
    optimizer.load_state_dict(state["optimizer"])
    return state["reached"]


class Pool:
    """Token sequences drawn in batches of equal length, so that nothing is padded.

    Every sequence is drawn equally often; those of the few lengths with fewer than `least` are left out.
    sizes: how many tokens each sequence counts for, where it brings others with it; its length by default.
    """

    def __init__(
        self, sequences: list[np.ndarray], least: int = 8, sizes: Sequence[int] | None = None
    ) -> None:
        lengths = np.array([len(sequence) for sequence in sequences])
        known, counts = np.unique(lengths, return_counts=True)
        if not len(known):
            raise StudyError("no text to train on: the pool of sequences is empty")
        self.lengths = known[(counts >= least) | (counts.max() < least)].tolist()
        sizes = lengths if sizes is None else np.asarray(sizes)
        self._rows = {n: np.flatnonzero(lengths == n) for n in self.lengths}
        self._matrix = {n: np.stack([sequences[i] for i in rows]) for n, rows in self._rows.items()}
        self._sizes = {n: sizes[rows] for n, rows in self._rows.items()}
        counts = np.array([len(rows) for rows in self._rows.values()], float)
        tokens = np.array([own.sum() for own in self._sizes.values()], float)
        self._p, self._p_of_tokens = counts / counts.sum(), tokens / tokens.sum()

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


def pad(sequences: Sequence[np.ndarray], filler: int = PAD, multiple: int = 1) -> tuple[Tensor, Tensor]:
    """Token ids (B, T) filled up with `filler`, and the mask (B, T) of the real ones; T is a `multiple`."""
    sizes = np.array([len(sequence) for sequence in sequences])
    real = np.arange(-(-sizes.max() // multiple) * multiple) < sizes[:, None]
    ids = np.full(real.shape, filler, dtype=np.int64)
    ids[real] = np.concatenate(sequences)
    return torch.from_numpy(ids), torch.from_numpy(real).long()


def stacked(
    sequences: Sequence[np.ndarray], filler: int = PAD, multiple: int = 1
) -> tuple[Tensor, Tensor | None]:
    """What `pad` gives, but None in place of a mask where nothing had to be filled up."""
    ids, real = pad(sequences, filler, multiple)
    return ids, None if real.all() else real
