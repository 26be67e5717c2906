"""Perturbations stay where they may and raise the loss; exchanged words follow their definitions."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from torch import nn

from xltlib.data.synthetic import World, task_examples
from xltlib.data.tasks import PairExample, SpanExample
from xltlib.data.tokenization import CLS, MASK, OWN, PAD, SEP, UNK, Specials
from xltlib.finetuning import methods, words
from xltlib.finetuning.methods import Batch
from xltlib.noise.typing import with_neighbours

IDS = torch.tensor([[CLS, 7, 8, SEP, 9, SEP], [CLS, 5, SEP, 6, SEP, PAD]])
MOVED = [[0, 1, 1, 0, 1, 0], [0, 1, 0, 1, 0, 0]]


@pytest.fixture(scope="module")
def world():
    return World()


@pytest.fixture
def toy():
    """A loss of embeddings (2, 6, 8), and the embeddings."""
    torch.manual_seed(0)
    layer, embeds = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 3)), torch.randn(2, 6, 8)
    targets = torch.tensor([1, 2])

    def loss(x):
        loss.calls += 1
        return nn.functional.cross_entropy(layer(x.mean(1)), targets)

    loss.calls, loss.layer = 0, layer
    return loss, embeds


def rng(seed=0):
    return np.random.default_rng(seed)


# Perturbed embeddings


def movable(ids, special=OWN):
    return Batch(ids, None, None, None, {}, special).movable


def test_special_tokens_of_the_tokenizer_and_padding_are_not_moved():
    assert movable(IDS).int().tolist() == MOVED
    assert not movable(torch.tensor([PAD, UNK, CLS, SEP, MASK])).any()
    special = Specials(1, 250, (0,), (2, 2), (2,), frozenset((0, 1, 2, 3, 250)))
    ids = torch.tensor([[0, 4, 5, 2, 2, 6, 2, 1], [0, 250, 3, 2, 2, 7, 8, 2]])
    assert movable(ids, special).int().tolist() == [[0, 1, 1, 0, 0, 1, 0, 0], [0, 0, 0, 0, 0, 1, 1, 0]]


def test_the_unit_is_the_mean_length_of_what_may_move():
    embeds = torch.zeros(1, 3, 2)
    embeds[0] = torch.tensor([[100.0, 0.0], [3.0, 4.0], [0.0, 1.0]])
    assert methods.typical_norm(embeds, torch.tensor([[False, True, True]])).item() == 3
    assert methods.typical_norm(embeds, torch.zeros(1, 3, dtype=torch.bool)).item() == 0


@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("radius", [0.01, 0.1, 1.0])
def test_pgd_stays_in_its_ball_and_raises_the_loss(toy, monkeypatch, steps, radius):
    loss, embeds = toy
    moved = movable(IDS)
    monkeypatch.setattr(methods, "STEPS", steps)
    delta, clean = methods.pgd(loss, embeds, moved, torch.tensor(radius))
    if steps > 1:  # the border is reached
        assert torch.allclose(delta[moved].norm(dim=-1), torch.tensor(radius), rtol=1e-3)
    assert loss.calls == steps  # with the one at the end 1 + steps forward passes
    assert clean.item() == loss(embeds).item()
    assert (delta.norm(dim=-1) <= radius * (1 + 1e-5)).all()
    assert (delta[~moved] == 0).all()
    assert (delta[moved].norm(dim=-1) > 0).all()
    assert loss(embeds + delta) > clean
    random = torch.randn(20, *delta.shape) * moved[None, ..., None]
    random = random * delta.norm(dim=-1, keepdim=True) / random.norm(dim=-1, keepdim=True).clamp(min=1e-12)
    assert loss(embeds + delta) > max(loss(embeds + noise) for noise in random)


def test_the_adversarial_gradient_is_that_of_the_mixture(toy, monkeypatch):
    """What the first step leaves in the weights, and the backward pass of the returned loss, add up to it."""
    loss, start = toy
    weights = [start.clone().requires_grad_(True), *loss.layer.parameters()]
    model = SimpleNamespace(encoder=SimpleNamespace(embeddings=lambda: lambda ids: weights[0] * 1))
    monkeypatch.setattr(methods, "loss_at", lambda model, batch, embeds: loss(embeds))
    monkeypatch.setattr(methods, "CLEAN_WEIGHT", 0.25)
    parts = methods.adversarial_loss(model, Batch(IDS, None, None, None))
    assert loss.calls == 1 + methods.STEPS
    assert parts["loss"].item() == pytest.approx((0.25 * parts["clean"] + 0.75 * parts["attacked"]).item())
    assert parts["attacked"] > parts["clean"]
    parts["loss"].backward()
    gradients, moved = [weight.grad.clone() for weight in weights], movable(IDS)
    delta, _ = methods.pgd(loss, start, moved, methods.EPSILON * methods.typical_norm(start, moved))
    whole = 0.25 * loss(weights[0]) + 0.75 * loss(weights[0] + delta)
    for one, other in zip(gradients, torch.autograd.grad(whole, weights), strict=True):
        assert torch.allclose(one, other, atol=1e-6)


def test_random_perturbations(monkeypatch):
    ids = torch.randint(0, 50, (200, 12), generator=torch.Generator().manual_seed(0))
    embeds, seen = torch.nn.functional.normalize(torch.randn(200, 12, 16), dim=-1) * 3, []
    model = SimpleNamespace(encoder=SimpleNamespace(embeddings=lambda: lambda ids: embeds))
    monkeypatch.setattr(methods, "SIZE", 0.5)
    monkeypatch.setattr(methods, "loss_at", lambda model, batch, moved: seen.append(moved - embeds))
    for _ in range(2):
        methods.random_loss(model, Batch(ids, None, None, rng()))
    noise, moved = seen[0], movable(ids)
    assert torch.equal(*seen)
    assert (noise[~moved] == 0).all()
    assert noise[moved].norm(dim=-1).square().mean().sqrt().item() == pytest.approx(1.5, rel=0.02)
    assert abs(noise[moved].mean().item()) < 0.01


# Exchanged words


def changed_to(*texts):
    """What gives each text that it is asked for the words of the next of these."""
    others = iter(texts)
    return lambda words: next(others).split(" ")


def test_other_words_of_a_pair_keep_its_label():
    example = PairExample("1", "a b", "c", 2)
    assert methods.exchanged(example, changed_to("x y", "z")) == PairExample("1", "x y", "z", 2)


@pytest.mark.parametrize(
    ("context", "answer", "new", "expected"),
    [
        ("ab cde f", "cde", "abab c f", "c"),
        ("ab cde f", "cde f", "a xx yyyy", "xx yyyy"),
        ("ab cde f", "ab", "q cde f", "q"),
        ("ab cde, f", "cde", "xyz cde, g", "cde"),  # a part of a word that stays
        ("ab cde, f", "cde", "xyz q, g", "q,"),  # a part of a word that changed
        ("ab  cde .", "cde", "a  c .", "c"),  # a double space is an empty word
        ("猫 坐 垫子 上", "垫子", "狗 在 mat 上", "mat"),
    ],
)
def test_answers_are_read_from_the_new_context(context, answer, new, expected):
    example = SpanExample("1", "q ?", context, ((context.index(answer), answer),))
    changed = methods.exchanged(example, changed_to("p ?", new))
    ((start, text),) = changed.answers
    assert text == expected
    assert changed.context[start : start + len(text)] == text
    assert (changed.question, changed.context) == ("p ?", new)


def test_an_answer_takes_all_words_of_a_translation():
    example = SpanExample("1", "q", "in NY now", ((3, "NY"),))
    words = {"NY": "New York", "now": "these days"}
    changed = methods.exchanged(example, lambda own: [words.get(word, word) for word in own])
    assert (changed.context, changed.answers) == ("in New York these days", ((3, "New York"),))


def case(**given):
    """What methods are told of a run."""
    return SimpleNamespace(source="src", seed=0, task="nli", **given)


def test_rs_da_examples_are_copies_without_the_original(monkeypatch):
    """Each word a uniform draw from itself and its neighbours, in each sentence and copy on its own."""
    lists = {"a": ["b", "c"], "d": ["e"]}
    examples = [PairExample("1", "a d", "a", 0), PairExample("2", "x", "y", 1)]
    monkeypatch.setitem(methods.COPIES, "nli", 6_000)
    found = methods.rs_da(case(neighbours=lists), {"src": examples})
    assert [e.id for e in found] == ["1"] * 6_000 + ["2"] * 6_000
    assert {e.label for e in found[:6_000]} == {0}
    assert {(e.text_a, e.text_b) for e in found[6_000:]} == {("x", "y")}
    joint = [f"{e.text_a} | {e.text_b}" for e in found[:6_000]]
    values = [f"{a} {d} | {b}" for a in "abc" for d in "de" for b in "abc"]
    assert chisquare([joint.count(value) for value in values]).pvalue > 0.01


def test_switched_examples_are_drawn_anew_in_each_pass(monkeypatch):
    monkeypatch.setattr(methods, "SWITCHED", 0.5)
    table = {"far": {"a": ["A"], "b": ["B1", "B2"]}, "low": {"a": ["aa"]}}
    examples = [PairExample(str(i), "a b c", "b", 0) for i in range(500)]
    found = methods.code_switched(case(dictionaries=table, params={"finetune_epochs": 2}), {"src": examples})
    assert [e.id for e in found] == [e.id for e in examples] * 2
    assert found[:500] != found[500:]
    texts = [e.text_a.split(" ") for e in found]
    assert {w[0] for w in texts} == {"a", "A", "aa"}
    assert {w[1] for w in texts} == {"b", "B1", "B2"}  # low has no entry: the word stays
    assert {w[2] for w in texts} == {"c"}
    assert np.mean([w[0] != "a" for w in texts]) == pytest.approx(0.5, abs=0.05)
    assert np.mean([w[1] != "b" for w in texts]) == pytest.approx(0.25, abs=0.05)


# Words of the synthetic languages


def test_concepts_are_parallel(world):
    source, far = words.concepts(world, "src"), words.concepts(world, "far")
    assert len(source) == len(far) == 58
    assert sum(map(len, source)) == world.lexemes
    forms = world.grammar("far").lexicon()
    assert source[0] == ["rabiko", "ladape"]
    assert far[0] == [*forms[0], *forms[1]]
    assert {len(concept) for concept in source} == {1, 2}  # classes have one word, members two


def test_translations(world):
    table = words.translations(world, "src", ["near", "far"])
    assert list(table) == ["near", "far"]
    assert table["far"]["rabiko"] == table["far"]["ladape"] == words.concepts(world, "far")[0]


@pytest.mark.parametrize(
    ("task", "foreign", "replaced", "share"),
    [
        ("nli", words.FOREIGN, 0.53, 0.45),
        ("nli", 0.07, 0.38, 0.15),
        ("nli", 0.0, 0.33, 0.0),
        ("paraphrase", words.FOREIGN, 0.56, 0.23),
    ],
)
def test_how_much_is_replaced_and_how_much_of_it_by_foreign_words(world, task, foreign, replaced, share):
    """What the ledger tells of S2-1 and S2-2: many times what the released lists do in real text."""
    lists, own, draws = words.neighbours(world, "src", foreign), {*words.neighbours(world, "src", 0.0)}, rng()
    pairs = [
        pair
        for example in task_examples(World(("src",)), task, 1000, "train", 0)["src"]
        for text in example.texts
        for pair in zip(text.split(), with_neighbours(text.split(), lists, draws), strict=True)
        if pair[0] in lists
    ]
    others = [new for old, new in pairs if new != old]
    assert len(others) / len(pairs) == pytest.approx(replaced, abs=0.06)
    assert np.mean([new not in own for new in others]) == pytest.approx(share, abs=0.07)


def test_neighbours_never_change_a_meaning(world):
    lists = words.neighbours(world, "src", 1.0)
    table = words.translations(world, "src", world.languages)
    for word, near in lists.items():
        assert word not in near
        assert all(any(other in table[name][word] for name in world.languages) for other in near)


@pytest.mark.parametrize("share", [0.0, words.FOREIGN, 1.0])
def test_foreign_words_in_the_lists(world, share):
    """Each concept has at most one word of each language in one list."""
    lists = words.neighbours(world, "src", share)
    own = set(lists)
    strange = {word: [other for other in near if other not in own] for word, near in lists.items()}
    found = sum(map(len, strange.values()))
    able = sum(
        any(word not in own for word in concept)
        for name in world.languages
        for concept in words.concepts(world, name)
    )
    assert found == pytest.approx(share * able, abs=2.5 * (able * share * (1 - share)) ** 0.5 + 1e-9)
    plain = {word: [other for other in near if other in own] for word, near in lists.items()}
    assert plain == words.neighbours(world, "src", 0.0)
    assert lists == words.neighbours(world, "src", share)
