"""Fine-tuning: spans are the best allowed, options belong to methods, each loss is what its method says."""

from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import shapes
import torch
import torch.nn.functional as F
from test_tokenization import published

from xltlib import StudyError
from xltlib.data import tokenization
from xltlib.data.synthetic import World, task_examples
from xltlib.data.tasks import PairExample
from xltlib.data.tokenization import CLS, SEP
from xltlib.finetuning import methods, salt
from xltlib.finetuning.methods import Batch, adversarial_loss, finetune, random_loss, standard_loss, steps_for
from xltlib.finetuning.options import METHODS, Options, options
from xltlib.finetuning.tasks import Encoded, TaskModel, encode, predict, scores, task_loss
from xltlib.pretraining import models
from xltlib.pretraining.training import Optimization


@pytest.fixture(scope="module")
def examples():
    """Task -> language -> 40 examples."""
    return {task: task_examples(World(), task, 40, "train", 0) for task in ("nli", "paraphrase", "qa")}


@pytest.fixture(scope="module")
def tokenizer(examples):
    texts = [text for side in examples["qa"].values() for e in side for text in (e.question, e.context)]
    return tokenization.train(texts, 300)


def model_for(tokenizer, task, **options):
    return TaskModel(models.tiny(len(tokenizer), 16, 1, 2, seed=0), task, seed=1, **options)


# Models


def test_logits_by_task_and_pooling(tokenizer):
    ids = torch.tensor([[CLS, 7, SEP, 8, SEP]] * 2)
    for task, shape in (("nli", (2, 3)), ("paraphrase", (2, 2)), ("qa", (2, 5, 2))):
        assert model_for(tokenizer, task)(ids).shape == shape
    model = model_for(tokenizer, "nli").eval()
    states = model.encoder.states(ids)
    assert torch.equal(model(ids), model.output(states.mean(1)))
    assert torch.equal(model(ids), model(None, inputs_embeds=model.encoder.embeddings()(ids)))
    model.pooling = "cls"
    assert torch.equal(model(ids), model.output(states[:, 0]))


def test_the_losses_by_hand():
    logits = torch.tensor([[[0.0, 5.0], [3.0, 0.0]]])  # (B 1, T 2, 2)
    start = F.cross_entropy(torch.tensor([[0.0, 3.0]]), torch.tensor([1]))
    end = F.cross_entropy(torch.tensor([[5.0, 0.0]]), torch.tensor([1]))
    found = task_loss(logits, torch.tensor([[1, 1]]))
    assert found.item() == pytest.approx(((start + end) / 2).item())
    labels = task_loss(torch.tensor([[0.0, 0.0, 0.0]]), torch.tensor([2]))
    assert labels.item() == pytest.approx(np.log(3))


@pytest.mark.parametrize("frozen", [True, False])
def test_frozen_embeddings_do_not_move(tokenizer, examples, frozen):
    model = model_for(tokenizer, "nli", freeze_embeddings=frozen)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    data = encode(tokenizer, "nli", examples["nli"]["src"])
    finetune(model, data, Optimization(4, 1e-2), 8, seed=0)
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    table = "encoder.lm.model.embeddings.tok_embeddings.weight"
    assert (table in moved) != frozen
    assert not any("lm.head" in name or "lm.decoder" in name for name in moved)
    assert {name for name in before if name.startswith("output")} <= moved
    assert any("layers.0.attn" in name for name in moved)


def test_the_output_layer_depends_on_its_seed_alone(tokenizer):
    before = torch.get_rng_state()
    weights = [TaskModel(models.tiny(50, 16, 1, 2, 0), "qa", seed).output.weight for seed in (1, 1, 2)]
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize("task", ["nli", "paraphrase", "qa"])
def test_a_handful_of_examples_is_learnt(tokenizer, examples, task):
    side = examples[task]["src"][:12]
    data = encode(tokenizer, task, side)
    model = TaskModel(models.tiny(len(tokenizer), 32, 1, 2, 0), task, 1, freeze_embeddings=False)
    history = finetune(model, data, Optimization(150, 5e-3, log_every=10), 12, seed=0)
    assert history[-1]["loss"] < 0.2 * history[0]["loss"]
    metric = "exact_match" if task == "qa" else "accuracy"
    assert scores(task, data, predict(model, data), side)[metric].mean() > 0.9


# Methods


def mixup(twins, **chosen):
    """SALT's loss with these twins."""
    return partial(salt.mixup_loss, options=Options(**chosen), seed=0, twins=twins)


def twins_of(data):
    """Every second subword of each example exchanged for another one."""
    twins = [ids.copy() for ids in data.ids]
    for twin in twins:
        ordinary = np.flatnonzero(twin > 4)[::2]
        twin[ordinary] = 5 + (twin[ordinary] + 20) % 100
    return twins


def test_translate_train_uses_every_language_and_as_many_examples(examples):
    for task, sides in examples.items():
        case = SimpleNamespace(source="src", seed=0, options=Options())
        translated = methods.translate_train(case, sides)
        assert [e.id for e in translated] == [e.id for e in sides["src"]]
        languages = [next(k for k in sides if sides[k][i] == e) for i, e in enumerate(translated)]
        assert set(languages) == set(sides), task
        case.seed = 1
        assert translated != methods.translate_train(case, sides)


def test_options_belong_to_their_methods():
    assert options("salt", "threshold=0.9,mix=half") == Options(threshold=0.9, mix="half")
    for method, text, reason in (
        ("standard", "draw=once", "method standard has no option draw"),
        ("rs_rp", "threshold=0.6", "method rs_rp has no option threshold"),
        ("salt", "n=3", "method salt has no option n"),
        ("rs_da", "neighbours=none", "method rs_da.*found 'none'.*'all' or 'no_foreign'"),
        ("salt", "treshold=0.5", "did you mean threshold"),
    ):
        with pytest.raises(StudyError, match=reason):
            options(method, text)
    assert {name for method in METHODS.values() for name in method.options} == set(Options.model_fields)


def trained(tokenizer, data, loss, frozen=False):
    """The weights of a small model after some updates, and the history."""
    model = model_for(tokenizer, "nli", freeze_embeddings=frozen)
    history = finetune(model, data, Optimization(6, 5e-3, log_every=1), 8, 0, loss)
    return torch.cat([p.detach().flatten() for p in model.parameters()]), history


@pytest.mark.parametrize("loss", [adversarial_loss, random_loss])
def test_no_perturbation_is_standard_training(tokenizer, examples, monkeypatch, loss):
    data = encode(tokenizer, "nli", examples["nli"]["src"])
    plain, history = trained(tokenizer, data, standard_loss)
    moved, _ = trained(tokenizer, data, loss)
    assert not torch.equal(plain, moved)
    for name in ("EPSILON", "SIZE", "CLEAN_WEIGHT"):
        monkeypatch.setattr(methods, name, 0.0)
    same, others = trained(tokenizer, data, loss)
    assert torch.equal(plain, same)
    assert [h["loss"] for h in others] == [h["loss"] for h in history]


def test_mixup_with_itself_is_standard_training(tokenizer, examples):
    data = encode(tokenizer, "nli", examples["nli"]["src"])
    plain, _ = trained(tokenizer, data, standard_loss, frozen=True)
    for mix in ("half", "hard", "none"):  # with r and 1 - r exact, r x + (1 - r) x is x
        same, _ = trained(tokenizer, data, mixup(data.ids, mix=mix), frozen=True)
        assert torch.equal(plain, same), mix


def test_without_mixup_the_twins_are_what_is_trained_on(tokenizer, examples):
    data = encode(tokenizer, "nli", examples["nli"]["src"])
    twins = twins_of(data)
    switched, _ = trained(tokenizer, replace(data, ids=twins), standard_loss)
    offline, _ = trained(tokenizer, data, mixup(twins, mix="none"))
    assert torch.equal(switched, offline)


def test_coefficients_are_drawn_in_each_step_or_once(tokenizer, examples):
    data = encode(tokenizer, "nli", examples["nli"]["src"][:4])
    model, twins, rows = model_for(tokenizer, "nli"), twins_of(data), np.array([2, 2])
    ids = torch.from_numpy(np.stack([data.ids[row] for row in rows]))
    for mix in ("vector", "scalar", "hard"):
        for draw in ("step", "once"):
            loss, found = mixup(twins, mix=mix, draw=draw), []
            for step in range(2):
                batch = Batch(ids, torch.tensor([0, 0]), rows, np.random.default_rng(step))
                found.append(loss(model, batch)["loss"].item())
            assert (found[0] == found[1]) == (draw == "once"), (mix, draw)


def test_the_checks_hold_and_can_fail(monkeypatch):
    assert salt.check_restriction()
    assert salt.check_mixup()
    monkeypatch.setattr(salt, "mixed", lambda source, target, r: target)
    assert not salt.check_mixup()
    propose = salt.propose
    free = {1: np.arange(10, 40)[:, None]}
    monkeypatch.setattr(salt, "propose", lambda *given: propose(*given[:3], free))
    monkeypatch.setattr(salt, "union", lambda vocabularies: free)
    with pytest.raises(IndexError):  # numbers of words that the target language does not have
        salt.check_restriction()


# Published tokenizers, and padding


@pytest.fixture(scope="module", params=["bert", "xlmr"])
def real(request):
    """A model with a published architecture and tokenizer, and pairs of many lengths."""
    sentence = "the cat sat on a mat , and some dogs ran to it . who was where ?"
    words, rng = sentence.split(), np.random.default_rng(0)
    tokenizer = published(request.param, [sentence] * 3, 100)
    sides = [[" ".join(rng.choice(words, rng.integers(2, 30))) for _ in range(2)] for _ in range(40)]
    pairs = [PairExample(str(i), a, b, i % 3) for i, (a, b) in enumerate(sides)]
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    make = lambda: TaskModel(shapes.reading(tokenizer, **still), "nli", 1)  # noqa: E731
    return make, encode(tokenizer, "nli", pairs, 48)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("method", ["standard", "adversarial", "rs_rp", "salt"])
def test_methods_on_padded_batches(real, method, precision):
    make, data = real
    assert data.padded
    twins = [np.where(data.special.ordinary(ids), ids[::-1].max(), ids) for ids in data.ids]
    loss, model = mixup(twins) if method == "salt" else METHODS[method].load(), make()
    assert steps_for(data, 8, 1) == 5
    history = finetune(model, data, Optimization(10, 1e-3, log_every=5, precision=precision), 8, 0, loss)
    assert np.isfinite([row["loss"] for row in history]).all()
    if method == "adversarial":
        assert all(row["attacked"] > row["clean"] for row in history)


# The loop


def test_updates_by_hand():
    """Lengths 3, 3, 3, 5: at most two of one length in an update, so 2 + 1 of them in a pass."""
    with pytest.raises(StudyError, match="no examples to train on"):
        steps_for(Encoded([], np.zeros(0, int)), 2, 1)
    data = Encoded([np.zeros(n, int) for n in (3, 3, 3, 5)], np.zeros(4, int))
    assert steps_for(data, 2, 1) == 3
    assert steps_for(data, 2, 4) == 12
    assert steps_for(replace(data, padded=True), 2, 1) == 2


def test_every_example_is_used_once_in_each_pass_in_an_order_of_its_own(tokenizer, examples):
    data = encode(tokenizer, "nli", examples["nli"]["src"])
    seen = []

    def loss(model, batch):
        seen.append(batch.rows)
        assert all(np.array_equal(data.ids[row], ids) for row, ids in zip(batch.rows, batch.ids, strict=True))
        assert np.array_equal(batch.targets, data.targets[batch.rows])
        return standard_loss(model, batch)

    steps = steps_for(data, 8, 1)
    for _ in range(2):
        finetune(model_for(tokenizer, "nli"), data, Optimization(2 * steps, 1e-3), 8, seed=0, batch_loss=loss)
    passes = [np.concatenate(seen[at : at + steps]).tolist() for at in range(0, 4 * steps, steps)]
    assert all(sorted(rows) == list(range(len(data.ids))) for rows in passes)
    assert passes[:2] == passes[2:]
    assert passes[0] != passes[1]
