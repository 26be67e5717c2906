"""Pre-training: the text of each objective, passes and predictions, and that each of them learns."""

import numpy as np
import pytest
import torch
from cipher import FIRST, SHIFT, VOCAB, Watched, encoder, text

from xltlib import StudyError
from xltlib.data.tokenization import CLS, PAD, SEP, join
from xltlib.pretraining import objectives as pretraining
from xltlib.pretraining.objectives import ParallelText, Recipe, document_loss, interleaved, objective_loss
from xltlib.pretraining.options import OBJECTIVES
from xltlib.pretraining.training import Optimization, Pool, fit

# Texts


def test_partners_of_a_concatenated_pair_by_hand():
    pair = ParallelText([np.array([7, 8])], [np.array([9, 10, 11])], [np.array([[0, 2], [1, 0]])])
    sequences, partners = pair.concatenated()
    assert sequences[0].tolist() == [CLS, 7, 8, SEP, 9, 10, 11, SEP]
    assert partners[0].tolist() == [0, 6, 4, 3, 2, 5, 1, 7]
    assert sequences[1].tolist() == [CLS, 9, 10, 11, SEP, 7, 8, SEP]
    assert partners[1].tolist() == [0, 6, 2, 5, 4, 3, 1, 7]


# Objectives


@pytest.mark.parametrize(
    ("one", "other"),
    [("mlm", "mixed"), ("weam", "subword_weam"), ("word_aligned", "subword_aligned")],
)
def test_objectives_of_one_family_differ_by_their_texts_alone(one, other):
    found = []
    for name in (one, other):
        loss = objective_loss(name, encoder(), [text(20)], Recipe(4, 0.3, 0))
        found.append([{k: v.item() for k, v in loss(step).items()} for step in range(3)])
    assert found[0] == found[1]


ALIGNED = ("word_aligned", "subword_aligned")
PARTS = {"weam": {"own", "crossed"}, "word_aligned": {"pull", "drift"}}


@pytest.mark.parametrize(("name", "steps"), [("mlm", 240), ("tlm", 200), ("weam", 280), ("word_aligned", 40)])
def test_each_objective_overfits_a_handful_of_pairs(name, steps):
    model = encoder(hidden=48, layers=2)
    loss = objective_loss(name, model, [text(3)], Recipe(12, 0.2, 0))
    history = fit(model, loss, Optimization(steps, 6e-3, log_every=20))
    key = "pull" if name == "word_aligned" else "loss"
    assert history[-1][key] < 0.2 * history[0][key]
    assert set(history[0]) == {"step", "loss"} | PARTS.get(name, set())


def test_languages_are_drawn_by_their_weights():
    model = Watched(encoder().lm)
    pools = [Pool([join(np.full(4, word))] * 8) for word in (10, 20)]
    loss = document_loss(model, pools, [0.75, 0.25], Recipe(2, 0.3, 0))
    for step in range(300):
        with torch.no_grad():
            loss(step)
    first = np.mean([bool((ids == 10).any()) for ids in model.seen])
    assert abs(first - 0.75) < 4 * (0.75 * 0.25 / 300) ** 0.5


@pytest.mark.parametrize("name", ["mlm", "tlm", "weam", "mixed", "subword_weam", *ALIGNED])
def test_one_encoder_pass_or_one_for_each_side_and_logits_at_predicted_positions_only(name):
    model = Watched(encoder().lm)
    objective_loss(name, model, [text(20)], Recipe(4, 0.3, 0))(0)
    # no padding: 10 words, [CLS], two [SEP]; or 5 words of each side
    assert [ids.shape for ids in model.seen] == ([(4, 7)] * 2 if name in ALIGNED else [(4, 13)])
    times = {"weam": 2, "subword_weam": 2} | dict.fromkeys(ALIGNED, 0)  # pulling predicts nothing
    assert model.predicted == 4 * 3 * times.get(name, 1)  # 3 of 10 words, or each twice


def sides(ids):
    """For each row whether its first and its second sentence are in the target language (words from 22)."""
    found = []
    for row in np.asarray(ids).tolist():
        middle = row.index(SEP)
        found.append(tuple(max(part) >= FIRST + SHIFT for part in (row[1:middle], row[middle + 1 : -1])))
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
            assert (target == source[::-1] + SHIFT).all()


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
    for name in list(OBJECTIVES)[1:]:
        one, two = (objective_loss(name, model, [text(20)], recipe) for _ in range(2))
        with torch.no_grad():
            one(0), one(1)
            assert one(7)["loss"] == two(7)["loss"]
            assert one(7)["loss"] != two(8)["loss"]


def lengths_apart(count=1500):
    """Pairs with 5 to 60 words on either side, one link each."""
    rng, sides = np.random.default_rng(0), []
    for _ in range(2):
        sides.append([rng.integers(FIRST, VOCAB, n) for n in rng.integers(5, 61, count)])
    return ParallelText(*sides, [np.array([[0, 0]])] * count)


def test_updates_of_so_many_tokens_are_alike_in_all_objectives():
    """Told exactly, and within 1 % of each other, on sentences of 5 to 60 words."""
    told, steps, bilingual = {}, 40, lengths_apart()
    for name in ("mlm", "tlm", "weam", "word_aligned", "mixed"):
        model = Watched(encoder(hidden=8).lm)
        loss = objective_loss(name, model, [bilingual], Recipe(4, 0.3, 0, batch_tokens=2000))
        with torch.no_grad():
            each = [loss(step)["tokens"].item() for step in range(steps)]
        told[name] = sum(each)
        assert sum(int((ids != PAD).sum()) for ids in model.seen) == told[name]
        assert max(abs(tokens - 2000) for tokens in each) <= 62  # half a pair of sequences
    assert max(told.values()) < 1.01 * min(told.values())


def test_all_tokens_of_a_run_are_told_and_leave_the_history():
    model = encoder(hidden=8)
    loss = objective_loss("tlm", model, [text(40, 5), text(40, 9)], Recipe(4, 0.3, 0, batch_tokens=150))
    with torch.no_grad():
        wanted = sum(loss(step)["tokens"].item() for step in range(12))
    history = fit(model, loss, Optimization(12, 1e-3, log_every=5))
    assert pretraining.tokens_read(history) == wanted
    assert [set(point) for point in history] == [{"step", "loss"}] * 3
    assert pretraining.tokens_read([]) == 0


def test_a_sequence_longer_than_the_encoder_takes_is_refused():
    for name in ("mlm", "tlm", "word_aligned"):
        with pytest.raises(StudyError, match="the encoder takes 512 at most: lower max_length"):
            objective_loss(name, encoder(), [text(8, 600)], Recipe(4, 0.3, 0))


def test_document_updates_are_spread_evenly():
    for share, expected in ((0.5, "dododododo"), (0.0, "o" * 10), (1.0, "d" * 10), (0.3, "dooodoodoo")):
        loss = interleaved(lambda step: "o", lambda step: "d", Recipe(4, 0.3, 0, document_share=share))
        assert "".join(loss(step) for step in range(20)) == 2 * expected


def test_the_frozen_start_stays_while_the_encoder_moves():
    model = encoder()
    loss = objective_loss("word_aligned", model, [text(20)], Recipe(8, 0.3, 0))
    assert loss(0)["drift"].item() == pytest.approx(0, abs=1e-12)
    with torch.no_grad():
        model.embeddings().weight.add_(
            0.5 * torch.randn(VOCAB, 16, generator=torch.Generator().manual_seed(0))
        )
    assert loss(0)["drift"].item() > 1e-4
