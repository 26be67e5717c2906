"""Batches of encoded examples: of equal length, or of nearly equal length and filled up with padding.

Shapes: B batch, T tokens, N rows.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from xltlib import StudyError
from xltlib.finetuning.encoding import Encoded
from xltlib.pretraining.models import to_device
from xltlib.pretraining.training import epoch_batches, stacked


def near_batches(lengths: Sequence[int], batch_size: int, rng: np.random.Generator) -> list[np.ndarray]:
    """All items once, neighbours in length together, in random order: index arrays, all but one (B,).

    Real text has many lengths with few examples each. At B = 32, batches of equal length would be 20 % more
    updates than N / B for the 10,071 pairs of TaxiNLI, and twice as many for 2,000 pairs of PAWS-X; padding
    is about 1 % of what is read here.
    """
    order = np.lexsort((rng.random(len(lengths)), lengths))
    batches = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
    return [batches[i] for i in rng.permutation(len(batches))]


def batches(data: Encoded, batch_size: int, rng: np.random.Generator) -> list[np.ndarray]:
    """The rows of one pass over the data, batch by batch, in random order."""
    return (near_batches if data.padded else epoch_batches)(data.lengths, batch_size, rng)


class Plan:
    """Which examples make up which update: each pass in an order of its own, found from the step alone."""

    def __init__(self, data: Encoded, batch_size: int, seed: int) -> None:
        if not data.ids:
            raise StudyError("no examples to train on")
        self.data, self.batch_size, self.seed = data, batch_size, seed
        self._epoch, self._batches = 0, self._order(0)
        self.per_epoch = len(self._batches)

    def _order(self, epoch: int) -> list[np.ndarray]:
        return batches(self.data, self.batch_size, np.random.default_rng([self.seed, 5, epoch]))

    def rows(self, step: int) -> np.ndarray:
        """The rows (B,) of an update."""
        epoch, batch = divmod(step, self.per_epoch)
        if epoch != self._epoch:
            self._epoch, self._batches = epoch, self._order(epoch)
        return self._batches[batch]


def inputs(data: Encoded, rows: np.ndarray, device: torch.device) -> tuple[Tensor, dict[str, Tensor]]:
    """Ids (B, T) of some rows, and what a `TaskModel` is told beside them: mask and second segment.

    On a GPU, padded sequences have multiples of 8 subwords, as its matrix units do.
    """
    multiple = 8 if device.type == "cuda" and data.padded else 1
    ids, mask = stacked([data.ids[row] for row in rows], data.special.pad, multiple)
    told = {} if mask is None else {"attention_mask": to_device(mask, device)}
    if data.second is not None:
        told["second"] = to_device(torch.from_numpy(data.second[rows]), device)
    return to_device(ids, device), told


def segments(second: Tensor, length: int) -> Tensor:
    """Token types (B, T): 0 in the first segment and 1 from the second on, which begins at `second` (B,)."""
    return (torch.arange(length, device=second.device) >= second[:, None]).long()
