"""Pre-training objectives: masks counted, gradients against finite differences, each objective learns."""

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from xltlib import models, pretraining
from xltlib.params import StudyError
from xltlib.pretraining import (
    Masked,
    ParallelText,
    Recipe,
    document_loss,
    exchange,
    interleaved,
    mask_tokens,
    mlm_loss,
    objective_loss,
    one_to_one,
    pad,
    pulling_loss,
    subword_links,
    weam_loss,
)
from xltlib.tokenization import CLS, SEP, SPECIAL, join
from xltlib.training import Optimization, Pool, fit

VOCAB = 40
FIRST = len(SPECIAL)


def rng(seed=0):
    return np.random.default_rng(seed)


def text(n=12, length=5, seed=0):
    """n pairs in a toy cipher: the target has the source's words in reverse, each moved up by 17."""
    source = [rng([seed, i]).integers(FIRST, FIRST + 17, length) for i in range(n)]
    target = [(s + 17)[::-1] for s in source]
    links = [np.stack([np.arange(length), np.arange(length)[::-1]], 1) for _ in range(n)]
    return ParallelText(source, target, links)


def encoder(seed=0, hidden=16, layers=1):
    return models.tiny(VOCAB, hidden, layers, 2, seed)


class Watched(models.Encoder):
    """An encoder that keeps what it is given."""

    def __init__(self, lm):
        super().__init__(lm)
        self.seen, self.predicted = [], 0

    def states(self, input_ids, attention_mask=None, inputs_embeds=None):
        self.seen.append(input_ids)
        return super().states(input_ids, attention_mask, inputs_embeds)

    def logits(self, states):
        self.predicted += states.shape[:-1].numel()
        return super().logits(states)


# Links


def test_one_to_one_by_hand():
    links = np.array([[0, 0], [0, 1], [1, 1], [2, 1], [3, 0], [4, 4]])
    assert one_to_one(links).tolist() == [[0, 0], [1, 1], [4, 4]]
    assert one_to_one(np.empty((0, 2), int)).shape == (0, 2)


def test_one_to_one_is_a_matching_on_any_links():
    for seed in range(50):
        links = rng(seed).integers(0, 6, (12, 2))
        kept = one_to_one(links)
        assert len(set(kept[:, 0])) == len(set(kept[:, 1])) == len(kept) > 0
        assert {tuple(x) for x in kept.tolist()} <= {tuple(x) for x in links.tolist()}


def test_subword_links_by_hand():
    # source words 0 | 1 1 1 | 2, target words 0 0 | 1 | 2 2
    source, target = [0, 1, 1, 1, 2], [0, 0, 1, 2, 2]
    links = np.array([[0, 1], [1, 2], [2, 0]])
    assert subword_links(links, source, target).tolist() == [[0, 2], [1, 3], [2, 4], [4, 0]]
    assert subword_links(np.empty((0, 2), int), source, target).shape == (0, 2)


def test_partners_of_a_concatenated_pair_by_hand():
    pair = ParallelText([np.array([7, 8])], [np.array([9, 10, 11])], [np.array([[0, 2], [1, 0]])])
    sequences, partners = pair.concatenated()
    assert sequences[0].tolist() == [CLS, 7, 8, SEP, 9, 10, 11, SEP]
    assert partners[0].tolist() == [0, 6, 4, 3, 2, 5, 1, 7]
    assert sequences[1].tolist() == [CLS, 9, 10, 11, SEP, 7, 8, SEP]
    assert partners[1].tolist() == [0, 6, 2, 5, 4, 3, 1, 7]
    assert len(pair.concatenated(both_orders=False)[0]) == 1


def test_the_exchange_is_an_involution_that_moves_aligned_positions_only():
    assert pretraining.check_exchange()
    sequences, partners = text(6).concatenated()
    states = torch.randn(12, len(sequences[0]), 3, generator=torch.Generator().manual_seed(0))
    partner = torch.from_numpy(np.stack(partners))
    moved = exchange(states, partner)
    fixed = partner == torch.arange(partner.shape[1])
    assert torch.equal(exchange(moved, partner), states)
    assert torch.equal(moved[fixed], states[fixed])
    assert fixed.sum() == 12 * 3  # the special tokens
    for row in range(12):
        for at, other in enumerate(partners[row]):
            assert torch.equal(moved[row, at], states[row, other])


# Losses


class Toy:
    """As little of an encoder as the losses need, in float64: tanh of embeddings and a matrix."""

    def __init__(self, words, head):
        self.words, self.head = words, head

    def states(self, input_ids):
        return torch.tanh(self.words[input_ids].cumsum(1))

    def logits(self, states):
        return states @ self.head


def leaf(*shape, seed=0):
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return values.requires_grad_()


def toy_batch():
    sequences, partners = ParallelText(
        [np.array([5, 6]), np.array([7, 5])], [np.array([8, 9]), np.array([9, 8])],
        [np.array([[0, 1]]), np.array([[0, 0], [1, 1]])],
    ).concatenated()  # fmt: skip
    batch = mask_tokens(np.stack(sequences), 0.5, 10, rng(1))
    return batch, torch.from_numpy(np.stack(partners))


@pytest.mark.parametrize("part", ["mlm", "own", "crossed", "sum"])
def test_prediction_gradients_against_finite_differences(part):
    batch, partner = toy_batch()

    def loss(words, head):
        toy = Toy(words, head)
        if part == "mlm":
            return mlm_loss(toy, batch)["loss"]
        own = weam_loss(toy, batch, partner, 0.0)["loss"]
        if part == "own":
            return own
        both = weam_loss(toy, batch, partner, 2.0)["loss"]
        return both if part == "sum" else (both - own) / 2

    assert gradcheck(loss, (leaf(10, 3), leaf(3, 10, seed=1)))


@pytest.mark.parametrize("beta", [0.0, 1.0, 3.0])
def test_pulling_gradients_against_finite_differences(beta):
    frozen = leaf(2, 4, 3, seed=2).detach()

    def loss(source, target, present):
        return pulling_loss(source, target, frozen, present, beta)["loss"]

    assert gradcheck(loss, (leaf(5, 3), leaf(5, 3, seed=1), leaf(2, 4, 3, seed=3)))


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


def test_the_crossed_part_predicts_from_the_exchanged_vectors():
    """The fast form, which gathers the partners of predicted positions, against the definition."""
    batch, partner = toy_batch()
    toy = Toy(leaf(10, 3), leaf(3, 10, seed=1))
    parts = weam_loss(toy, batch, partner, 1.0)
    moved = exchange(toy.states(batch.inputs), partner)
    log = torch.log_softmax(toy.logits(moved), -1)
    slow = [
        -log[row, at, word].item()
        for row in range(len(batch.inputs))
        for at, word in zip(batch.positions[row].tolist(), batch.targets[row].tolist(), strict=True)
    ]
    assert parts["crossed"].item() == pytest.approx(np.mean(slow))
    assert parts["loss"].item() == pytest.approx(parts["own"].item() + parts["crossed"].item())


def test_without_links_both_parts_are_equal():
    batch, partner = toy_batch()
    parts = weam_loss(
        Toy(leaf(10, 3), leaf(3, 10, seed=1)), batch, torch.arange(partner.shape[1]).expand_as(partner)
    )
    assert parts["own"] == parts["crossed"]


def gradients(name, weight):
    model, bilingual = encoder(), [text(20), text(20, 6, seed=1)]
    loss = objective_loss(name, model, bilingual, Recipe(4, 0.3, seed=3, weight=weight))
    total, found = [], []
    for step in range(4):
        parts = loss(step)
        parts["loss"].backward()
        total.append(parts["loss"].item())
        found += [p.grad.clone() for p in model.parameters()]
        model.zero_grad()
    return total, found


def test_weam_of_weight_zero_is_tlm_bit_for_bit():
    (tlm, a), (weam, b) = gradients("tlm", 1.0), gradients("weam", 0.0)
    assert tlm == weam
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    assert gradients("weam", 1.0)[0] != tlm


# Objectives


@pytest.mark.parametrize(
    ("name", "steps"), [("mlm", 500), ("tlm", 400), ("weam", 500), ("word_aligned", 100)]
)
def test_each_objective_overfits_a_handful_of_pairs(name, steps):
    model = encoder(hidden=48, layers=2)
    loss = objective_loss(name, model, [text(4)], Recipe(batch_size=12, mask_rate=0.2, seed=0))
    history = fit(model, loss, Optimization(steps, 6e-3, log_every=20))
    key = "pull" if name == "word_aligned" else "loss"
    assert history[-1][key] < 0.2 * history[0][key]
    assert set(history[0]) == {
        "mlm": {"step", "loss"}, "tlm": {"step", "loss"}, "weam": {"step", "loss", "own", "crossed"},
        "word_aligned": {"step", "loss", "pull", "drift"},
    }[name]  # fmt: skip


def test_documents_are_learnt():
    model = encoder(hidden=48)
    pools = [Pool([join(s) for s in text(8).source])]
    loss = document_loss(model, pools, [1.0], Recipe(8, 0.2, 0))
    history = fit(model, loss, Optimization(400, 6e-3, log_every=20))
    assert history[-1]["loss"] < 0.3 * history[0]["loss"]


def test_languages_are_drawn_by_their_weights():
    model = Watched(encoder().lm)
    pools = [Pool([join(np.full(4, word))] * 8) for word in (10, 20)]
    loss = document_loss(model, pools, [3.0, 1.0], Recipe(2, 0.3, 0))
    for step in range(300):
        with torch.no_grad():
            loss(step)
    first = np.mean([bool((ids == 10).any()) for ids in model.seen])
    assert abs(first - 0.75) < 4 * (0.75 * 0.25 / 300) ** 0.5


@pytest.mark.parametrize("name", ["mlm", "tlm", "weam"])
def test_one_encoder_pass_and_logits_at_predicted_positions_only(name):
    model = Watched(encoder().lm)
    loss = objective_loss(name, model, [text(20)], Recipe(4, 0.3, 0))
    loss(0)
    assert len(model.seen) == 1
    assert model.seen[0].shape == (4, 13)
    assert model.predicted == 4 * 3 * (
        2 if name == "weam" else 1
    )  # 3 of 10 words, twice where predicted twice


def sides(ids):
    """For each row whether its first and its second sentence are in the target language (words from 22)."""
    found = []
    for row in np.asarray(ids).tolist():
        middle = row.index(SEP)
        found.append(
            tuple(any(word >= FIRST + 17 for word in part) for part in (row[1:middle], row[middle + 1 : -1]))
        )
    return found


def pools_of(name, monkeypatch):
    built = []

    class Kept(Pool):
        def __init__(self, sequences, least=8):
            built.append(sequences)
            super().__init__(sequences, least)

    monkeypatch.setattr(pretraining, "Pool", Kept)
    objective_loss(name, encoder(), [text(20), text(20, 6, seed=1)], Recipe(4, 0.3, 0))
    return built


def test_the_unpaired_control_never_pairs_translations(monkeypatch):
    for sequences in pools_of("mlm", monkeypatch):
        for (first, second), row in zip(sides(sequences), sequences, strict=True):
            assert first == second  # one language
            parts = np.split(row, np.flatnonzero(row == SEP))
            assert parts[0][1:].tolist() != parts[1][1:].tolist()  # and not a sentence with itself


def test_pairs_are_translations_in_both_orders(monkeypatch):
    for sequences in pools_of("tlm", monkeypatch):
        found = sides(sequences)
        assert found.count((False, True)) == found.count((True, False)) == 20
        for row, (first, _) in zip(sequences, found, strict=True):
            left, right = (
                np.array([w for w in part if w >= FIRST]) for part in np.split(row, [row.tolist().index(SEP)])
            )
            source, target = (right, left) if first else (left, right)
            assert (target == source[::-1] + 17).all()


def test_control_and_pairs_hold_every_sentence_equally_often(monkeypatch):
    """The same sentences, each twice, so that only the pairing differs."""
    words = []
    for name in ("mlm", "tlm"):
        with monkeypatch.context() as patch:
            flat = [np.concatenate(sequences) for sequences in pools_of(name, patch)]
            words.append([np.bincount(ids, minlength=VOCAB).tolist() for ids in flat])
    assert words[0] == words[1]


def test_steps_are_functions_of_seed_and_number():
    model, recipe = encoder(), Recipe(4, 0.3, 5)
    for name in ("mlm", "tlm", "weam", "word_aligned"):
        one, two = (objective_loss(name, model, [text(20)], recipe) for _ in range(2))
        with torch.no_grad():
            one(0), one(1)
            assert one(7)["loss"] == two(7)["loss"]
            assert one(7)["loss"] != two(8)["loss"]


def test_document_updates_are_spread_evenly():
    for share, expected in ((0.5, "doddoddodo"), (0.0, "o" * 10), (1.0, "d" * 10), (0.3, None)):
        loss = interleaved(lambda step: "o", lambda step: "d", Recipe(4, 0.3, 0, document_share=share))
        drawn = "".join(loss(step) for step in range(1000))
        assert drawn.count("d") == 1000 * share
        assert drawn == drawn[:10] * 100
        if expected and share != 0.5:
            assert drawn[:10] == expected
    assert "oo" not in "".join(
        interleaved(lambda step: "o", lambda step: "d", Recipe(4, 0.3, 0))(step) for step in range(50)
    )


def test_the_frozen_start_stays_while_the_encoder_moves():
    model = encoder()
    loss = objective_loss("word_aligned", model, [text(20)], Recipe(8, 0.3, 0))
    assert loss(0)["drift"].item() == pytest.approx(0, abs=1e-12)
    with torch.no_grad():
        model.embeddings().weight.add_(
            0.5 * torch.randn(VOCAB, 16, generator=torch.Generator().manual_seed(0))
        )
    assert loss(0)["drift"].item() > 1e-4


def test_padding_does_not_change_the_states():
    model = encoder().eval()
    ids, mask = pad([join([7, 8]), join([9, 10, 11, 12])])
    assert ids.tolist() == [[CLS, 7, 8, SEP, 0, 0], [CLS, 9, 10, 11, 12, SEP]]
    assert mask.tolist() == [[1, 1, 1, 1, 0, 0], [1] * 6]
    with torch.no_grad():
        alone, padded = model.states(ids[:1, :4]), model.states(ids, mask)
    assert torch.allclose(alone[0], padded[0, :4], atol=1e-5)


def test_an_unknown_objective_is_named_with_the_known_ones():
    with pytest.raises(StudyError, match="'mlmm'.*mlm, tlm, weam"):
        objective_loss("mlmm", encoder(), [text()], Recipe(4, 0.3, 0))


def test_versions_for_all_objectives():
    assert set(pretraining.VERSIONS) == {"base", *pretraining.OBJECTIVES} - {"none"}


def test_masked_is_a_triple():
    assert Masked._fields == ("inputs", "positions", "targets")
