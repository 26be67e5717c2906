"""Objectives as functions: links by hand, the exchange, gradients against finite differences."""

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from xltlib.data.tokenization import CLS, SEP, Specials, join
from xltlib.pretraining.objectives import (
    Masked,
    exchange,
    gather,
    links_without,
    mask_tokens,
    mlm_loss,
    one_to_one,
    pad,
    prediction_loss,
    pulling_loss,
    reset_positions,
    segments,
    span_means,
    subword_links,
    unless_both_masked,
    weam_loss,
    word_spans,
)


def rng(seed=0):
    return np.random.default_rng(seed)


# Links

MANY = np.array([[0, 0], [0, 1], [1, 1], [2, 1], [3, 0], [4, 4]])


@pytest.mark.parametrize(
    ("rule", "kept"),
    [
        ("first", [[0, 0], [1, 1], [4, 4]]),
        ("nearest", [[0, 0], [1, 1], [4, 4]]),
        ("none", [[4, 4]]),
    ],
)
def test_one_to_one_by_hand(rule, kept):
    assert one_to_one(MANY, rule, (5, 5)).tolist() == kept
    assert one_to_one(np.empty((0, 2), int), rule, (5, 5)).shape == (0, 2)


def test_the_nearest_link_is_near_the_diagonal_of_both_lengths():
    links = np.array([[0, 3], [1, 3], [2, 3]])
    assert one_to_one(links).tolist() == [[0, 3]]
    assert one_to_one(links, "nearest", (4, 4)).tolist() == [[2, 3]]
    assert one_to_one(links, "nearest", (4, 10)).tolist() == [[1, 3]]  # 0.25 is nearest to 0.3


@pytest.mark.parametrize("rule", ["first", "nearest", "none"])
def test_one_to_one_is_a_matching_on_any_links(rule):
    for seed in range(50):
        links = np.unique(rng(seed).integers(0, 6, (12, 2)), axis=0)
        kept = one_to_one(links, rule, (6, 6))
        assert len(set(kept[:, 0])) == len(set(kept[:, 1])) == len(kept)
        assert len(kept) > 0 or rule == "none"
        assert {tuple(x) for x in kept.tolist()} <= {tuple(x) for x in links.tolist()}


# source words 0 | 1 1 1 | 2, target words 0 0 | 1 | 2 2
SOURCE_WORDS, TARGET_WORDS = [0, 1, 1, 1, 2], [0, 0, 1, 2, 2]
WORD_LINKS = np.array([[0, 1], [1, 2], [2, 0]])


@pytest.mark.parametrize(
    ("expand", "expected"),
    [
        ("nth", [[0, 2], [1, 3], [2, 4], [4, 0]]),
        ("first", [[0, 2], [1, 3], [4, 0]]),
        ("last", [[0, 2], [3, 4], [4, 1]]),
    ],
)
def test_subword_links_by_hand(expand, expected):
    links = subword_links(WORD_LINKS, SOURCE_WORDS, TARGET_WORDS, expand=expand)
    assert links.tolist() == expected
    nothing = subword_links(np.empty((0, 2), int), SOURCE_WORDS, TARGET_WORDS, expand=expand)
    assert nothing.shape == (0, 2)


def test_spans_of_words_by_hand():
    spans = word_spans(WORD_LINKS, SOURCE_WORDS, TARGET_WORDS)
    assert spans.tolist() == [[0, 1, 2, 3], [1, 4, 3, 5], [4, 5, 0, 2]]
    # a word without a subword has no span, and no link: word 1 of the source
    assert word_spans(np.array([[1, 1], [2, 2]]), [0, 2, 2], TARGET_WORDS).tolist() == [[1, 3, 3, 5]]


def test_the_rule_of_several_links_reaches_the_subwords():
    links = np.array([[0, 2], [0, 0], [1, 1]])
    both = ([0, 1, 1, 2], [0, 1, 2, 2])
    assert subword_links(links, *both).tolist() == [[0, 2], [1, 1]]
    assert subword_links(links, *both, rule="nearest").tolist() == [[0, 0], [1, 1]]
    assert subword_links(links, *both, rule="none").tolist() == [[1, 1]]


def test_links_without_punctuation():
    source, target = np.array([7, 8, 5]), np.array([5, 9, 10])
    links = np.array([[0, 1], [1, 0], [2, 2]])
    assert links_without(links, source, target, {5, 6}).tolist() == [[0, 1]]
    assert links_without(links, source, target, {6}).tolist() == links.tolist()
    assert links_without(links[:0], source, target, {5}).shape == (0, 2)


# Positions of pairs

PAIRS = torch.from_numpy(np.stack([join([7, 8], [9, 10, 11]), join([7, 8, 9], [10, 11])]))


def test_segments_and_reset_positions_by_hand():
    assert segments(PAIRS).tolist() == [[0, 0, 0, 0, 1, 1, 1, 1], [0, 0, 0, 0, 0, 1, 1, 1]]
    assert reset_positions(PAIRS).tolist() == [[0, 1, 2, 3, 1, 2, 3, 4], [0, 1, 2, 3, 4, 1, 2, 3]]


# `<s> a </s></s> b </s>`, and [CLS] a [SEP] b [SEP] with ids elsewhere
XLMR = Specials(1, 39, (0,), (2, 2), (2,), frozenset({0, 1, 2, 3, 39}))
MBERT = Specials(0, 13, (11,), (12,), (12,), frozenset({0, 10, 11, 12, 13}))


@pytest.mark.parametrize(
    ("special", "second", "positions"),
    [
        (XLMR, [0, 0, 0, 0, 0, 1, 1, 1, 1], [0, 1, 2, 3, 4, 1, 2, 3, 4]),
        (MBERT, [0, 0, 0, 0, 1, 1, 1, 1], [0, 1, 2, 3, 1, 2, 3, 4]),
    ],
)
def test_segments_and_reset_positions_of_other_tokenizers(special, second, positions):
    pair = torch.from_numpy(join([7, 8], [9, 14, 15], special=special))[None]
    assert segments(pair, special).tolist() == [second]
    assert reset_positions(pair, special).tolist() == [positions]
    alone = torch.from_numpy(join([7, 8], special=special))[None]
    assert segments(alone, special).tolist() == [[0, 0, 0, 0]]


def test_padding_by_hand():
    ids, mask = pad([join([7, 8]), join([9, 10, 11, 12])])
    assert ids.tolist() == [[CLS, 7, 8, SEP, 0, 0], [CLS, 9, 10, 11, 12, SEP]]
    assert mask.tolist() == [[1, 1, 1, 1, 0, 0], [1] * 6]
    assert pad([np.array([5]), np.array([6, 7])], 1)[0].tolist() == [[5, 1], [6, 7]]


# Losses


class Toy:
    """As little of an encoder as the losses need, in float64: tanh of embeddings and a matrix."""

    def __init__(self, words=None, head=None):
        self.words, self.head = leaf(12, 3) if words is None else words, leaf(3, 12, seed=1)
        self.head = self.head if head is None else head

    def states(self, ids):
        return torch.tanh(self.words[ids].cumsum(1))

    def logits(self, states):
        return states @ self.head


def leaf(*shape, seed=0):
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return values.requires_grad_()


def batch_and_partner():
    """Both pairs with most words hidden; aligned are 7-11 and 8-9 in the first, 9-10 in the second."""
    batch = mask_tokens(PAIRS.numpy(), 0.6, 12, rng(1))
    partner = torch.tensor([[0, 6, 4, 3, 2, 5, 1, 7], [0, 1, 2, 5, 4, 3, 6, 7]])
    return batch, partner


def weam(toy, weight=1.0, **options):
    batch, partner = batch_and_partner()
    return weam_loss(toy.logits, toy.states(batch.inputs), batch, partner, weight, **options)


def test_the_exchange_is_an_involution_that_moves_aligned_positions_only():
    _, partner = batch_and_partner()
    states = torch.randn(2, 8, 3, generator=torch.Generator().manual_seed(0))
    moved, fixed = exchange(states, partner), partner == torch.arange(8)
    assert torch.equal(exchange(moved, partner), states)
    assert torch.equal(moved[fixed], states[fixed])
    for row in range(2):
        for at, other in enumerate(partner[row].tolist()):
            assert torch.equal(moved[row, at], states[row, other])


def test_pairs_of_masked_words_can_stay_where_they_are():
    partner = torch.tensor([[0, 5, 4, 3, 2, 1, 6]])
    assert unless_both_masked(partner, torch.tensor([[1, 2, 3, 5]])).tolist() == [[0, 1, 4, 3, 2, 5, 6]]
    assert unless_both_masked(partner, torch.tensor([[1, 4]])).tolist() == partner.tolist()


@pytest.mark.parametrize("part", ["mlm", "own", "crossed", "sum", "aligned", "second"])
def test_prediction_gradients_against_finite_differences(part):
    def loss(words, head, second):
        toy = Toy(words, head)
        if part == "mlm":
            batch, _ = batch_and_partner()
            return mlm_loss(toy.logits, toy.states(batch.inputs), batch)["loss"]
        if part == "own":
            return weam(toy, 0.0)["loss"]
        if part == "sum":
            return weam(toy, 2.0)["loss"]
        if part == "second":
            return weam(toy, crossed_logits=lambda states: states @ second)["loss"]
        both = weam(toy, 2.0, keep_unaligned=part == "crossed")["loss"]
        return (both - weam(toy, 0.0)["loss"]) / 2

    assert gradcheck(loss, (leaf(12, 3), leaf(3, 12, seed=1), leaf(3, 12, seed=2)))


@pytest.mark.parametrize("beta", [0.0, 1.0, 3.0])
def test_pulling_gradients_against_finite_differences(beta):
    frozen = leaf(2, 4, 3, seed=2).detach()

    def loss(source, target, present):
        return pulling_loss(source, target, frozen, present, beta)["loss"]

    assert gradcheck(loss, (leaf(5, 3), leaf(5, 3, seed=1), leaf(2, 4, 3, seed=3)))


def test_gradients_of_span_means_against_finite_differences():
    rows, starts, ends = torch.tensor([0, 1, 1]), torch.tensor([0, 1, 2]), torch.tensor([1, 4, 3])
    assert gradcheck(lambda states: span_means(states, rows, starts, ends), leaf(2, 4, 3))


def test_span_means_by_hand():
    states = torch.arange(12.0).view(1, 6, 2)
    means = span_means(states, torch.zeros(3, dtype=int), torch.tensor([0, 2, 5]), torch.tensor([2, 5, 6]))
    assert means.tolist() == [[1, 2], [6, 7], [10, 11]]


def test_span_means_of_16_bits_are_as_exact_as_their_numbers():
    states = torch.full((1, 300, 1), 100.0, dtype=torch.bfloat16)
    end = torch.tensor([300])
    assert span_means(states, torch.tensor([0]), end - 1, end).item() == 100  # the sum before it: 29,900


def test_pulling_by_hand():
    source, target = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 4.0]])
    frozen, present = torch.zeros(1, 2, 2), torch.ones(1, 2, 2)
    parts = pulling_loss(source, target, frozen, present, beta=0.5)
    assert parts["pull"].item() == (1 + 4) / 2
    assert parts["drift"].item() == 1
    assert parts["loss"].item() == 3.0


def test_pulling_without_a_link_is_the_drift_alone():
    nothing = torch.zeros(0, 2, requires_grad=True)
    parts = pulling_loss(nothing, nothing, torch.zeros(1, 2, 2), torch.ones(1, 2, 2))
    assert (parts["loss"].item(), parts["pull"].item()) == (1.0, 0.0)


def crossed_by_definition(toy, aligned_only):
    """L_cp word by word, from the whole exchanged sequence."""
    batch, partner = batch_and_partner()
    log = torch.log_softmax(toy.logits(exchange(toy.states(batch.inputs), partner)), -1)
    return np.mean(
        [
            -log[row, at, word].item()
            for row in range(len(batch.inputs))
            for at, word in zip(batch.positions[row].tolist(), batch.targets[row].tolist(), strict=True)
            if not aligned_only or partner[row, at] != at
        ]
    )


@pytest.mark.parametrize("keep_unaligned", [True, False])
def test_the_crossed_part_predicts_from_the_exchanged_vectors(keep_unaligned):
    """The fast form, which gathers the partners of predicted positions, against the definition."""
    toy = Toy()
    parts = weam(toy, 0.5, keep_unaligned=keep_unaligned)
    assert parts["crossed"].item() == pytest.approx(crossed_by_definition(toy, not keep_unaligned))
    assert parts["loss"].item() == pytest.approx(parts["own"].item() + 0.5 * parts["crossed"].item())


def test_the_second_head_predicts_after_the_exchange_alone():
    toy, other = Toy(), Toy(head=leaf(3, 12, seed=5))
    parts = weam(toy, crossed_logits=other.logits)
    assert parts["own"] == weam(toy)["own"]
    assert parts["crossed"] == weam(other)["crossed"]


def test_without_links_both_parts_are_equal_and_the_aligned_part_is_nothing():
    toy, (batch, partner) = Toy(), batch_and_partner()
    alone = torch.arange(partner.shape[1]).expand_as(partner)
    parts = weam_loss(toy.logits, toy.states(batch.inputs), batch, alone)
    assert parts["own"] == parts["crossed"]
    left_out = weam_loss(toy.logits, toy.states(batch.inputs), batch, alone, keep_unaligned=False)
    assert (left_out["crossed"], left_out["loss"]) == (0, left_out["own"])
    left_out["loss"].backward()
    assert toy.words.grad.isfinite().all()


def test_no_prediction_costs_nothing_and_no_nan():
    toy, states = Toy(), leaf(0, 3)
    assert prediction_loss(toy.logits, states, torch.zeros(0, dtype=int)) == 0


def test_gather_takes_vectors_of_their_own_row():
    states = torch.arange(12.0).view(2, 3, 2)
    assert gather(states, torch.tensor([[2, 0], [1, 1]])).tolist() == [[[4, 5], [0, 1]], [[8, 9], [8, 9]]]


def test_masked_is_a_triple_that_moves_together():
    batch, _ = batch_and_partner()
    assert Masked._fields == ("inputs", "positions", "targets")
    assert all(torch.equal(a, b) for a, b in zip(batch, batch.to(torch.device("cpu")), strict=True))
