"""Objectives as functions: links by hand, the exchange, gradients against finite differences, masks."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from cipher import FIRST, VOCAB, rng
from torch.autograd import gradcheck

from xltlib import StudyError
from xltlib.data.tokenization import CLS, MASK, OWN, SEP, Specials, join
from xltlib.pretraining import objectives
from xltlib.pretraining.encoders import one_to_one, subword_links
from xltlib.pretraining.objectives import check_exchange, mask_tokens, mlm_loss, pulling_loss, weam_loss

# Links

MANY = np.array([[0, 0], [0, 1], [1, 1], [2, 1], [3, 0], [4, 4]])


def test_one_to_one_by_hand():
    assert one_to_one(MANY).tolist() == [[0, 0], [1, 1], [4, 4]]
    assert one_to_one(np.empty((0, 2), int)).shape == (0, 2)


def test_one_to_one_is_a_matching_on_any_links():
    for seed in range(50):
        links = np.unique(rng(seed).integers(0, 6, (12, 2)), axis=0)
        kept = one_to_one(links)
        assert len(set(kept[:, 0])) == len(set(kept[:, 1])) == len(kept) > 0
        assert {tuple(x) for x in kept.tolist()} <= {tuple(x) for x in links.tolist()}


# source words 0 | 1 1 1 | 2, target words 0 0 | 1 | 2 2
SOURCE_WORDS, TARGET_WORDS = [0, 1, 1, 1, 2], [0, 0, 1, 2, 2]
WORD_LINKS = np.array([[0, 1], [1, 2], [2, 0]])


def test_subword_links_by_hand():
    links = subword_links(WORD_LINKS, SOURCE_WORDS, TARGET_WORDS)
    assert links.tolist() == [[0, 2], [1, 3], [2, 4], [4, 0]]
    assert subword_links(np.empty((0, 2), int), SOURCE_WORDS, TARGET_WORDS).shape == (0, 2)
    # a word without a subword has no link: word 1 of the source
    assert subword_links(np.array([[1, 1], [2, 2]]), [0, 2, 2], TARGET_WORDS).tolist() == [[1, 3], [2, 4]]
    both = ([0, 1, 1, 2], [0, 1, 2, 2])  # of several links of a word the first one
    assert subword_links(np.array([[0, 2], [0, 0], [1, 1]]), *both).tolist() == [[0, 2], [1, 1]]


# Losses


class Toy:
    """As little of an encoder as the losses need, in float64: tanh of embeddings and a matrix."""

    def __init__(self, words, head):
        self.words, self.head = words, head

    def states(self, ids):
        return torch.tanh(self.words[ids].cumsum(1))

    def logits(self, states):
        return states @ self.head


def leaf(*shape, seed=0):
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return values.requires_grad_()


def batch_and_partner():
    """Both pairs with most words hidden; aligned are 7-11 and 8-9 in the first, 9-10 in the second."""
    pairs = np.stack([join([7, 8], [9, 10, 11]), join([7, 8, 9], [10, 11])])
    batch = mask_tokens(pairs, 0.6, 12, rng(1))
    partner = torch.tensor([[0, 6, 4, 3, 2, 5, 1, 7], [0, 1, 2, 5, 4, 3, 6, 7]])
    return batch.linked(partner), partner


def weam(toy, weight=1.0):
    batch, _ = batch_and_partner()
    return weam_loss(toy.logits, toy.states(batch.inputs), batch, weight)


@pytest.mark.parametrize("part", ["mlm", "own", "crossed", "sum"])
def test_prediction_gradients_against_finite_differences(part):
    def loss(words, head):
        toy = Toy(words, head)
        if part == "mlm":
            batch, _ = batch_and_partner()
            return mlm_loss(toy.logits, toy.states(batch.inputs), batch)["loss"]
        if part == "own":
            return weam(toy, 0.0)["loss"]
        if part == "sum":
            return weam(toy, 2.0)["loss"]
        return (weam(toy, 2.0)["loss"] - weam(toy, 0.0)["loss"]) / 2

    assert gradcheck(loss, (leaf(12, 3), leaf(3, 12, seed=1)))


def test_pulling_gradients_against_finite_differences():
    frozen = leaf(2, 4, 3, seed=2).detach()

    def loss(source, target, present):
        return pulling_loss(source, target, frozen, present)["loss"]

    assert gradcheck(loss, (leaf(5, 3), leaf(5, 3, seed=1), leaf(2, 4, 3, seed=3)))


def test_pulling_by_hand():
    source, target = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 4.0]])
    frozen, present = torch.zeros(1, 2, 2), torch.ones(1, 2, 2)
    parts = pulling_loss(source, target, frozen, present)
    assert parts["pull"].item() == (1 + 4) / 2
    assert parts["drift"].item() == 1
    assert parts["loss"].item() == 3.5


def test_pulling_without_a_link_is_the_drift_alone():
    nothing = torch.zeros(0, 2, requires_grad=True)
    parts = pulling_loss(nothing, nothing, torch.zeros(1, 2, 2), torch.ones(1, 2, 2))
    assert (parts["loss"].item(), parts["pull"].item()) == (1.0, 0.0)


def test_the_ledgers_check_of_the_exchange_holds_and_can_fail(monkeypatch):
    assert check_exchange()
    wrong = lambda *given: weam_loss(*given) | {"crossed": weam_loss(*given)["own"]}  # noqa: E731
    monkeypatch.setattr(objectives, "weam_loss", wrong)
    assert not check_exchange()


def test_without_links_both_parts_are_equal():
    toy, (batch, partner) = Toy(leaf(12, 3), leaf(3, 12, seed=1)), batch_and_partner()
    alone = torch.arange(partner.shape[1]).expand_as(partner)
    parts = weam_loss(toy.logits, toy.states(batch.inputs), batch.linked(alone))
    assert parts["own"] == parts["crossed"]
    parts["loss"].backward()
    assert toy.words.grad.isfinite().all()


# Masks: exact numbers, no special tokens, and the shares of hidden, kept and random words


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


def test_unknown_words_are_not_predicted():
    ids = np.array([[CLS, 1, 1, 1, 7, SEP], [CLS, 8, 9, 8, 9, SEP]])  # 1 is [UNK]
    batch = mask_tokens(ids, 0.9, VOCAB, rng())
    assert (batch.targets >= FIRST).all()


def test_masks_are_drawn_from_the_given_generator_alone():
    ids = np.tile(join(np.arange(FIRST, FIRST + 10)), (8, 1))
    first, again, other = (mask_tokens(ids, 0.3, VOCAB, rng(seed)) for seed in (4, 4, 5))
    assert all(torch.equal(a, b) for a, b in zip(first[:3], again[:3], strict=True))
    assert not torch.equal(first.positions, other.positions)


LAST = VOCAB - 1  # the mask of a tokenizer such as XLM-R's
LAST_MASK = Specials(1, LAST, (0,), (2, 2), (2,), frozenset({0, 1, 2, 3, LAST}))


def test_special_tokens_of_another_tokenizer_are_neither_hidden_nor_put_in(monkeypatch):
    monkeypatch.setattr(objectives, "SHOWN", 0.0)
    monkeypatch.setattr(objectives, "REPLACED", 0.5)
    words = np.arange(4, VOCAB - 1)
    ids = np.tile(join(words, words[::-1], special=LAST_MASK), (200, 1))
    batch = mask_tokens(ids, 0.5, VOCAB, rng(), LAST_MASK)
    assert set(batch.targets.flatten().tolist()) == set(words.tolist())
    shown = batch.inputs.gather(1, batch.positions)
    hidden = shown == LAST_MASK.mask
    assert abs(hidden.float().mean().item() - 0.5) < 4 * 0.5 / hidden.numel() ** 0.5
    counts = np.bincount(shown[~hidden], minlength=VOCAB)
    assert (counts[sorted(LAST_MASK.ids)] == 0).all()
    mean = counts.sum() / len(words)
    assert (abs(counts[words] - mean) < 5 * mean**0.5).all()  # every other word equally often
    rest = torch.ones_like(batch.inputs, dtype=torch.bool).scatter(1, batch.positions, False)
    assert torch.equal(batch.inputs[rest], torch.from_numpy(ids)[rest])


def test_a_tokenizer_without_a_mask_is_refused():
    ids = np.tile(join(np.arange(FIRST, FIRST + 10)), (8, 1))
    with pytest.raises(StudyError, match="no token for a mask, as mT5's: take a model such as xlmr-base"):
        mask_tokens(ids, 0.3, VOCAB, rng(), special=replace(OWN, mask=None))
