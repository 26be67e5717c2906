"""Batches: all rows once, of equal length or filled up with little padding; segments as published."""

import numpy as np
import pytest
import torch

from xltlib.finetuning import tasks
from xltlib.finetuning.tasks import Encoded, Plan, near_batches
from xltlib.pretraining.training import epoch_batches, stacked


def data_of(lengths, **changes):
    return Encoded([np.full(n, 7 + n) for n in lengths], np.zeros(len(lengths), int), **changes)


def test_batches_of_near_length_waste_little_and_are_full():
    lengths = np.random.default_rng(0).integers(15, 91, 10_000)
    for size in (32, 64):
        found = near_batches(lengths, size, np.random.default_rng(1))
        assert sorted(np.concatenate(found)) == list(range(10_000))
        assert len(found) == -(-10_000 // size)
        assert sorted(map(len, found))[1:] == [size] * (len(found) - 1)
        waste = sum(lengths[rows].max() * len(rows) - lengths[rows].sum() for rows in found)
        assert waste < 0.01 * lengths.sum()
        equal = len(epoch_batches(lengths, size, np.random.default_rng(1)))
        assert equal > 1.1 * len(found)  # what near_batches is for
    again, other = (near_batches(lengths, 64, np.random.default_rng(seed)) for seed in (1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(found, again, strict=True))
    assert [len(rows) for rows in other] != [len(rows) for rows in found] or not np.array_equal(
        other[0], found[0]
    )


def test_only_padded_data_mix_lengths():
    lengths = [3, 4, 3, 4, 5]
    equal, near = (tasks.batches(data_of(lengths, padded=p), 5, np.random.default_rng(0)) for p in (0, 1))
    assert len(equal) == 3
    assert len(near) == 1
    assert Plan(data_of(lengths, padded=True), 2, 0).per_epoch == 3


def test_each_pass_has_an_order_of_its_own():
    lengths = np.random.default_rng(0).integers(5, 9, 50)
    plan, again = (Plan(data_of(lengths, padded=True), 8, 3) for _ in range(2))
    passes = [[plan.rows(7 * epoch + i).tolist() for i in range(7)] for epoch in range(2)]
    assert passes[0] != passes[1]
    assert sorted(np.concatenate(passes[1])) == list(range(50))
    assert again.rows(9).tolist() == passes[1][2]


def test_stacked_by_hand():
    ids, mask = stacked([np.array([5, 6]), np.array([7, 8, 9])], filler=1)
    assert ids.tolist() == [[5, 6, 1], [7, 8, 9]]
    assert mask.tolist() == [[1, 1, 0], [1, 1, 1]]
    same, none = stacked([np.array([5, 6]), np.array([7, 8])], filler=1)
    assert (same.tolist(), none) == ([[5, 6], [7, 8]], None)
    assert stacked([np.array([5, 6])], multiple=2)[1] is None
    longer, mask = stacked([np.array([5, 6])], filler=1, multiple=3)
    assert (longer.tolist(), mask.tolist()) == ([[5, 6, 1]], [[1, 1, 0]])


def test_segments_by_hand():
    assert tasks.segments(torch.tensor([2, 3]), 4).tolist() == [[0, 0, 1, 1], [0, 0, 0, 1]]


@pytest.mark.parametrize(("padded", "length"), [(True, 8), (False, 3)])
def test_a_gpu_reads_padded_sequences_of_multiples_of_8(monkeypatch, padded, length):
    monkeypatch.setattr(tasks, "to_device", lambda tensor, device: tensor)
    data = data_of([3, 3], padded=padded)
    ids, told = tasks.inputs(data, np.array([0, 1]), torch.device("cuda"))
    assert ids.shape == (2, length)
    assert ("attention_mask" in told) == padded


@pytest.mark.parametrize("told", [True, False])
def test_inputs(told):
    data = data_of([2, 3], second=np.array([1, 2]) if told else None)
    ids, found = tasks.inputs(data, np.array([1, 0]), torch.device("cpu"))
    assert ids.tolist() == [[10, 10, 10], [9, 9, 0]]
    assert found["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    assert ("second" in found) == told
    if told:
        assert found["second"].tolist() == [2, 1]
