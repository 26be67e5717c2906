"""Masking: exact numbers, no special tokens, and the shares of hidden, kept and random words."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from xltlib import StudyError
from xltlib.data.tokenization import CLS, MASK, OWN, SEP, SPECIAL, Specials, join
from xltlib.pretraining import objectives
from xltlib.pretraining.objectives import mask_tokens

VOCAB = 40
FIRST = len(SPECIAL)


def rng(seed=0):
    return np.random.default_rng(seed)


def test_masks_are_exact_in_number_and_never_special():
    ids = np.stack(
        [join(rng(i).integers(FIRST, VOCAB, 9), rng(i).integers(FIRST, VOCAB, 11)) for i in range(64)]
    )
    for rate, count in ((0.15, 3), (0.3, 6), (0.5, 10), (0.9, 18), (0.01, 1)):
        batch = mask_tokens(ids, rate, VOCAB, rng(1))
        assert batch.positions.shape == batch.targets.shape == (64, count)
        assert all(len(set(row)) == count for row in batch.positions.tolist())
        assert (batch.targets >= FIRST).all()
        assert torch.equal(batch.targets, torch.from_numpy(ids).gather(1, batch.positions))
        changed = batch.inputs != torch.from_numpy(ids)
        chosen = torch.zeros_like(changed).scatter(1, batch.positions, True)
        assert not (changed & ~chosen).any()


def test_all_positions_are_chosen_equally_often():
    ids = np.tile(join(np.arange(FIRST, FIRST + 10)), (4000, 1))
    counts = np.bincount(mask_tokens(ids, 0.3, VOCAB, rng(2)).positions.flatten(), minlength=12)
    assert counts[0] == counts[11] == 0
    assert (abs(counts[1:11] - 1200) < 4 * (4000 * 0.3 * 0.7) ** 0.5).all()


def test_shares_of_hidden_kept_and_random_words():
    ids = np.tile(join(np.full(20, FIRST)), (2000, 1))  # one word only: a random one is seen but 1 in V times
    batch = mask_tokens(ids, 0.5, VOCAB, rng(3))
    shown = batch.inputs.gather(1, batch.positions)
    n, words = shown.numel(), VOCAB - FIRST
    for found, share in (
        ((shown == MASK).sum(), 0.8),
        ((shown == FIRST).sum(), 0.1 + 0.1 / words),
        ((shown > FIRST).sum(), 0.1 * (1 - 1 / words)),
    ):
        assert abs(found.item() / n - share) < 4 * (share * (1 - share) / n) ** 0.5
    assert set(shown.flatten().tolist()) == {MASK, *range(FIRST, VOCAB)}


def test_the_pure_mask(monkeypatch):
    monkeypatch.setattr(objectives, "SHOWN", 0.0)
    monkeypatch.setattr(objectives, "REPLACED", 0.0)
    ids = np.tile(join(np.arange(FIRST, FIRST + 10)), (8, 1))
    batch = mask_tokens(ids, 0.3, VOCAB, rng())
    assert (batch.inputs.gather(1, batch.positions) == MASK).all()


def test_unknown_words_are_not_predicted():
    ids = np.array([[CLS, 1, 1, 1, 7, SEP], [CLS, 8, 9, 8, 9, SEP]])  # 1 is [UNK]
    batch = mask_tokens(ids, 0.9, VOCAB, rng())
    assert (batch.targets >= FIRST).all()


def test_masks_are_drawn_from_the_given_generator_alone():
    ids = np.tile(join(np.arange(FIRST, FIRST + 10)), (8, 1))
    first, again, other = (mask_tokens(ids, 0.3, VOCAB, rng(seed)) for seed in (4, 4, 5))
    assert all(torch.equal(a, b) for a, b in zip(first[:3], again[:3], strict=True))
    assert not torch.equal(first.positions, other.positions)


XLMR = Specials(1, VOCAB - 1, (0,), (2, 2), (2,), frozenset({0, 1, 2, 3, VOCAB - 1}))  # the mask comes last


def test_special_tokens_of_another_tokenizer_are_neither_hidden_nor_put_in(monkeypatch):
    monkeypatch.setattr(objectives, "SHOWN", 0.0)
    monkeypatch.setattr(objectives, "REPLACED", 0.5)
    words = np.arange(4, VOCAB - 1)
    ids = np.tile(join(words, words[::-1], special=XLMR), (200, 1))
    batch = mask_tokens(ids, 0.5, VOCAB, rng(), XLMR)
    assert set(batch.targets.flatten().tolist()) == set(words.tolist())
    shown = batch.inputs.gather(1, batch.positions)
    hidden = shown == XLMR.mask
    assert abs(hidden.float().mean().item() - 0.5) < 4 * 0.5 / hidden.numel() ** 0.5
    counts = np.bincount(shown[~hidden], minlength=VOCAB)
    assert (counts[sorted(XLMR.ids)] == 0).all()
    mean = counts.sum() / len(words)
    assert (abs(counts[words] - mean) < 5 * mean**0.5).all()  # every other word equally often
    rest = torch.ones_like(batch.inputs, dtype=torch.bool).scatter(1, batch.positions, False)
    assert torch.equal(batch.inputs[rest], torch.from_numpy(ids)[rest])


def test_a_tokenizer_without_a_mask_is_refused():
    ids = np.tile(join(np.arange(FIRST, FIRST + 10)), (8, 1))
    with pytest.raises(StudyError, match="no token for a mask, as mT5's: take a model such as xlmr-base"):
        mask_tokens(ids, 0.3, VOCAB, rng(), special=replace(OWN, mask=None))
