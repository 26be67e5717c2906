"""Fine-tuning: answers map back to characters, spans are the best allowed, methods get equal updates."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from xltlib import finetuning, models, tokenization
from xltlib.finetuning import LONGEST_ANSWER, Encoded, TaskModel, encode, finetune, predict, scores, steps_for
from xltlib.params import StudyError
from xltlib.records import PairExample, SpanExample
from xltlib.synthetic import World
from xltlib.synthetic_tasks import task_set
from xltlib.tokenization import CLS, SEP, encode_texts
from xltlib.training import Optimization


@pytest.fixture(scope="module")
def world():
    return World()


@pytest.fixture(scope="module")
def examples(world):
    """Task -> language -> 40 examples."""
    return {task: task_set(world, task, 40, "train", 0).examples for task in ("nli", "paraphrase", "qa")}


@pytest.fixture(scope="module")
def tokenizer(examples):
    texts = [text for side in examples["qa"].values() for e in side for text in (e.question, e.context)]
    return tokenization.train(texts, 300)


def model_for(tokenizer, task, **options):
    return TaskModel(models.tiny(len(tokenizer), 16, 1, 2, seed=0), task, seed=1, **options)


def names(language_examples):
    return [example.id for example in language_examples]


# Encoding


def test_a_pair_as_ids(tokenizer, examples):
    example = examples["nli"]["src"][0]
    coded = encode(tokenizer, "nli", [example])
    first, second = encode_texts(tokenizer, [example.text_a, example.text_b])[0]
    assert coded.ids[0].tolist() == [CLS, *first, SEP, *second, SEP]
    assert coded.targets.tolist() == [example.label]


def test_gold_spans_are_exact_in_every_language(tokenizer, examples):
    for language, side in examples["qa"].items():
        coded = encode(tokenizer, "qa", side)
        found = scores("qa", coded, coded.targets, side)
        assert (found[""] == 1).all(), language
        assert (found["f1"] == 1).all(), language
        for ids, (first, last), context in zip(coded.ids, coded.targets, coded.context, strict=True):
            assert ids[context - 1] == SEP
            assert context <= first <= last < len(ids) - 1


SCRIPTS = {
    "Arabic": ("من جلس على السجادة ؟", "الكلب جلس على السجادة اليوم", "السجادة"),
    "Devanagari": ("कौन बैठा ?", "कुत्ता चटाई पर बैठा है", "कुत्ता"),
    "Thai": ("ใคร นั่ง ?", "สุนัข นั่ง บน พรม", "พรม"),
    "Han": ("谁 坐 ?", "狗 坐 在 垫子 上", "垫子"),
    "Greek": ("ποιος κάθισε ?", "ο σκύλος κάθισε στο χαλί", "σκύλος"),
    "ligatures": ("who ?", "the ﬁsh sat , twice", "ﬁsh"),
}


@pytest.mark.parametrize("script", SCRIPTS)
def test_answers_map_back_to_characters_in_every_script(script):
    question, context, answer = SCRIPTS[script]
    tokenizer = tokenization.train([question, context] * 2, 150)
    example = SpanExample("1", question, context, ((context.index(answer), answer),))
    coded = encode(tokenizer, "qa", [example])
    first, last = coded.targets[0] - coded.context[0]
    assert context[coded.spans[0][first][0] : coded.spans[0][last][1]] == answer
    assert scores("qa", coded, coded.targets, [example])[""].tolist() == [1]


def test_an_answer_of_several_words(tokenizer, examples):
    example = examples["qa"]["far"][0]
    words = example.context.split()
    answer = " ".join(words[1:3])
    changed = replace(example, answers=((len(words[0]) + 1, answer),))
    coded = encode(tokenizer, "qa", [changed])
    assert scores("qa", coded, coded.targets, [changed])[""].tolist() == [1]


def test_a_wrong_span_scores_less(tokenizer, examples):
    side = examples["qa"]["src"][:5]
    coded = encode(tokenizer, "qa", side)
    whole = np.stack([coded.context, [len(ids) - 2 for ids in coded.ids]], 1)
    found = scores("qa", coded, whole, side)
    assert (found[""] == 0).all()
    assert ((found["f1"] > 0) & (found["f1"] < 1)).all()


@pytest.mark.parametrize("label", [-1, 3])
def test_a_label_out_of_range_is_refused(tokenizer, label):
    with pytest.raises(StudyError, match=f"nli, example x7: label {label} is not one of 0..2"):
        encode(tokenizer, "nli", [PairExample("x7", "a", "b", label)])


def test_an_answer_outside_its_context_is_refused(tokenizer):
    with pytest.raises(StudyError, match="qa, example x7: no subword .* 'there' at 90"):
        encode(tokenizer, "qa", [SpanExample("x7", "where", "not here", ((90, "there"),))])


def test_an_unknown_task_is_refused(tokenizer):
    with pytest.raises(StudyError, match="'choice'.*nli, paraphrase, qa"):
        encode(tokenizer, "choice", [])


# Best spans


def slow_best(logits, context):
    """The best allowed pair by trying all."""
    length, best, found = len(logits), -np.inf, None
    for first in range(context, length - 1):
        for last in range(first, min(length - 1, first + LONGEST_ANSWER)):
            total = float(logits[first, 0] + logits[last, 1])
            if total > best:
                best, found = total, [first, last]
    return found


@pytest.mark.parametrize("length", [6, 20, 45])
def test_best_spans_against_a_slow_loop(length):
    generator = torch.Generator().manual_seed(length)
    logits = torch.randn(50, length, 2, generator=generator)
    context = torch.randint(2, length - 1, (50,), generator=generator)
    found = finetuning._best_spans(logits, context).tolist()
    assert found == [slow_best(x, int(c)) for x, c in zip(logits, context, strict=True)]


def test_best_spans_keep_order_context_and_length():
    logits = torch.zeros(3, 50, 2)
    logits[0, 30, 0] = logits[0, 20, 1] = 9  # the end would come before the start
    logits[0, 22, 1] = 1
    logits[1, 3, 0] = logits[1, 49, 1] = 9  # in the question, and at the last [SEP]
    logits[2, 10, 0] = logits[2, 10 + LONGEST_ANSWER, 1] = 9  # one too long
    found = finetuning._best_spans(logits, torch.tensor([10, 10, 10])).tolist()
    assert found[0][0] <= found[0][1]
    assert 10 <= found[1][0] <= found[1][1] < 49
    assert found[2][1] - found[2][0] < LONGEST_ANSWER


# Models


def test_logits_by_task(tokenizer):
    ids = torch.tensor([[CLS, 7, SEP, 8, SEP]] * 2)
    for task, shape in (("nli", (2, 3)), ("paraphrase", (2, 2)), ("qa", (2, 5, 2))):
        assert model_for(tokenizer, task)(ids).shape == shape


def test_pooling(tokenizer):
    ids = torch.tensor([[CLS, 7, SEP, 8, SEP]])
    model = model_for(tokenizer, "nli")
    states = model.encoder.states(ids)
    assert torch.equal(model(ids), model.output(states.mean(1)))
    model.pooling = "cls"
    assert torch.equal(model(ids), model.output(states[:, 0]))


def test_ids_and_their_embeddings_give_the_same(tokenizer):
    ids = torch.tensor([[CLS, 7, SEP, 8, SEP]])
    model = model_for(tokenizer, "nli").eval()
    assert torch.equal(model(ids), model(None, inputs_embeds=model.encoder.embeddings()(ids)))


def test_the_losses_by_hand():
    logits = torch.tensor([[[0.0, 5.0], [3.0, 0.0]]])  # (B 1, T 2, 2)
    start = F.cross_entropy(torch.tensor([[0.0, 3.0]]), torch.tensor([1]))
    end = F.cross_entropy(torch.tensor([[5.0, 0.0]]), torch.tensor([1]))
    found = finetuning.task_loss(logits, torch.tensor([[1, 1]]))
    assert found.item() == pytest.approx(((start + end) / 2).item())
    labels = finetuning.task_loss(torch.tensor([[0.0, 0.0, 0.0]]), torch.tensor([2]))
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
    assert scores(task, data, predict(model, data), side)[""].mean() > 0.9


def test_predictions_keep_the_order_of_the_examples(tokenizer, examples):
    side = examples["qa"]["src"]
    model = model_for(tokenizer, "qa")
    together = predict(model, encode(tokenizer, "qa", side), batch_size=7)
    alone = [predict(model, encode(tokenizer, "qa", [example]))[0].tolist() for example in side[:10]]
    assert together[:10].tolist() == alone


# Methods


def test_translate_train_uses_every_language_and_as_many_examples(examples):
    for task, sides in examples.items():
        standard = finetuning.training_examples("standard", sides, "src", 0)
        translated = finetuning.training_examples("translate_train", sides, "src", 0)
        assert standard == sides["src"]
        assert names(translated) == names(standard)
        languages = [next(k for k in sides if sides[k][i] == e) for i, e in enumerate(translated)]
        assert set(languages) == set(sides), task
        again = finetuning.training_examples("translate_train", sides, "src", 1)
        assert translated != again


def test_an_unknown_method_is_refused(examples):
    with pytest.raises(StudyError, match="'magic'.*standard, translate_train"):
        finetuning.training_examples("magic", examples["nli"], "src", 0)


def test_updates_by_hand():
    """Lengths 3, 3, 3, 5: at most two of one length in an update, so 2 + 1 of them in a pass."""
    data = Encoded([np.zeros(n, int) for n in (3, 3, 3, 5)], np.zeros(4, int))
    assert steps_for(data, 2, 1) == 3
    assert steps_for(data, 2, 4) == 12
    plan = finetuning._Plan([3, 3, 3, 5], 2, seed=0)
    for epoch in range(3):
        rows = [plan.rows(3 * epoch + i) for i in range(3)]
        assert sorted(np.concatenate(rows)) == [0, 1, 2, 3]
    assert [r.tolist() for r in rows] == [plan.rows(6 + i).tolist() for i in range(3)]
    assert (
        plan.rows(0).tolist() == finetuning._Plan([3, 3, 3, 5], 2, seed=0).rows(0).tolist()
    )  # back in time too


def test_no_examples_are_refused():
    with pytest.raises(StudyError, match="no examples to train on"):
        steps_for(Encoded([], np.zeros(0, int)), 2, 1)


def test_every_example_is_used_once_in_a_pass(tokenizer, examples):
    data = encode(tokenizer, "nli", examples["nli"]["src"])
    seen = []

    def loss(model, ids, targets, rng):
        seen.extend(zip(map(tuple, ids.tolist()), targets.tolist(), strict=True))
        return finetuning.standard_loss(model, ids, targets, rng)

    model = model_for(tokenizer, "nli")
    finetune(model, data, Optimization(steps_for(data, 8, 1), 1e-3), 8, seed=0, batch_loss=loss)
    expected = zip((tuple(ids.tolist()) for ids in data.ids), data.targets.tolist(), strict=True)
    assert sorted(seen) == sorted(expected)


def test_versions_for_all_methods():
    assert set(finetuning.VERSIONS) == set(finetuning.METHODS)
