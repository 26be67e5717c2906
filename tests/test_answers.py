"""Answers that an encoder-decoder writes: their form, the surest of several windows, and their runs."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import params

from xltlib.data.tasks import SpanExample
from xltlib.data.text import world_of
from xltlib.data.tokenization import PAD, SEP, SPECIAL
from xltlib.evaluation import qa_scores
from xltlib.finetuning import answers as writing
from xltlib.finetuning.answers import answer_scores, build_answers, encode
from xltlib.finetuning.case import Case
from xltlib.finetuning.options import TYPO_RATES
from xltlib.pretraining import models, seq2seq
from xltlib.pretraining.options import span_options
from xltlib.pretraining.seq2seq import IGNORED, build_seq2seq
from xltlib.pretraining.training import Optimization, fit, stacked
from xltlib.runs import Runs
from xltlib.store import Spec


@pytest.fixture(scope="module")
def examples(text):
    words = [forms[0] for forms in world_of(text).grammar("src").lexicon()[:9]]
    found = []
    for i in range(6):
        context = " ".join([*words[i : i + 3], "."])
        found.append(SpanExample(f"{i}", words[i], context, ((len(words[i]) + 1, words[i + 1]),)))
    return found


@pytest.fixture(scope="module")
def case(text):
    """The small study's questions."""
    runs = Runs(params())
    return Case(runs.answers(0).params, text, runs.params.languages)


def test_questions_have_the_form_of_masked_text(case, tokenizer, examples):
    end = len(tokenizer)
    data = encode(case, examples[:2], end, training=True)
    pieces = [
        tokenizer.encode(t, add_special_tokens=False) for t in (examples[0].context, examples[0].question)
    ]
    assert data.ids[0].tolist() == [*pieces[0], SEP, *pieces[1], end + 1, end]
    answer = tokenizer.encode(examples[0].answers[0][1], add_special_tokens=False)
    row = data.targets[0].tolist()
    assert row[: len(answer) + 2] == [end + 1, *answer, end]
    assert set(row[len(answer) + 2 :]) <= {IGNORED}


def test_it_learns_a_handful_of_questions_by_heart(case, tokenizer, examples):
    model = seq2seq.tiny(len(tokenizer), 32, 1, 2, 0)
    data = encode(case, examples, model.end, training=True)
    source, mask = stacked(data.ids)
    target = torch.from_numpy(data.targets)
    fit(model, lambda step: seq2seq.target_loss(model, source, mask, target), Optimization(120, 5e-3))
    scores = answer_scores(model, case, examples, "src", 8)
    assert scores[""].tolist() == scores["f1"].tolist() == [1.0] * 6


def test_writing_in_batches_is_writing_one_by_one(case, tokenizer, examples):
    model = seq2seq.tiny(len(tokenizer), 16, 1, 2, 0)
    rows = encode(case, examples, model.end).ids
    found, sure = writing.write(model, rows, longest=8, batch_size=4)
    for row, ids, certainty in zip(rows, found, sure, strict=True):
        before, logs = [PAD, model.end + 1], []
        while len(before) < 2 + 8:
            target = torch.tensor([[*before[1:], PAD]])
            with torch.no_grad():
                scores = model(torch.from_numpy(row)[None], None, target)[0, -1]
            known = sorted({i for i in row if len(SPECIAL) <= i <= model.end})
            chances = scores[known].log_softmax(0)
            best, log = known[int(chances.argmax())], float(chances.max())
            logs.append(log)
            if best == model.end:
                break
            before.append(best)
        assert ids.tolist() == before[2:]
        assert certainty == pytest.approx(np.mean(logs), abs=1e-5)


def test_of_several_windows_the_surest_answer_counts(case, tokenizer, examples, monkeypatch):
    """Rows of both examples, the second's in two windows; what is written is not in every passage."""
    model, whole = seq2seq.tiny(len(tokenizer), 16, 1, 2, 0), encode(case, examples[:2], len(tokenizer))
    rows = replace(
        whole, ids=[*whole.ids, whole.ids[1]], spans=[*whole.spans, whole.spans[1]],
        examples=np.array([0, 1, 1]), second=np.zeros(3, dtype=int),
    )  # fmt: skip
    first, second = (tokenizer.encode(e.answers[0][1], add_special_tokens=False) for e in examples[:2])
    written = [np.array(first), np.array([]), np.array(second)]
    monkeypatch.setattr(writing, "encode", lambda *_: rows)
    for sure, right in (([-1, -3, -2], 1.0), ([-1, -2, -3], 0.0)):
        monkeypatch.setattr(writing, "write", lambda *_, sure=sure: (written, np.array(sure)))
        assert answer_scores(model, case, examples[:2], "src", 8)[""].tolist() == [1.0, right]


def test_text_of_subwords():
    pieces = [*SPECIAL, "ba", "##lu", "no"]
    assert writing.text_of([5, 6, 6, 7], pieces) == "balulu no"
    assert writing.text_of([6, 3, 5, 12], pieces) == "lu ba"
    assert writing.text_of([], pieces) == ""
    example = SpanExample("0", "ba", "no .", ((0, "no"),))
    assert qa_scores([example], {"0": ""})["exact_match"].tolist() == [0.0]


# Runs


def specs(seed, options=""):
    study, runs = params(), Runs(params())
    labels = {
        "objective": "span_corruption", "objective_options": options, "method": "standard",
        "method_options": "", "task": "qa", "seed": seed,
    }  # fmt: skip
    shape = {n: getattr(study, n) for n in ("hidden_size", "num_layers", "num_heads")}
    chosen = vars(span_options(options))
    taken = {n: getattr(study, n) for n in ("pretrain_steps", "batch_size", "pretrain_lr")}
    start = Spec("seq2seq", shape | taken | {"options": chosen, "seed": seed}, 1, (runs.text(),))
    names = (
        "source", "languages", "train_examples", "test_examples", "batch_size", "finetune_lr",
        "finetune_epochs", "freeze_embeddings",
    )  # fmt: skip
    taken = {n: getattr(study, n) for n in names}
    return start, Spec("answers", taken | {"labels": labels}, 1, (runs.text(), start))


@pytest.fixture(scope="module")
def results(store, text):
    """Without noise and with typing errors: what pre-training and answering leave."""

    def built(options):
        start, answers = specs(0, options)
        first = store.compute(start, lambda directory: build_seq2seq(start, [text], directory, None))
        return first, store.compute(answers, lambda d: build_answers(answers, [text, first], d, None))

    return {options: built(options) for options in ("", "noise=typo")}


def test_runs_leave_scores_of_every_language_and_rate(results):
    start, answers = results[""]
    languages = ("src", "far", "low")
    settings = [*languages, *(f"{name}@typo{rate:g}" for name in languages for rate in TYPO_RATES)]
    assert set(answers.scores) == {name + metric for name in settings for metric in ("", "#f1")}
    assert all(len(values) == 30 for values in answers.scores.values())
    assert answers.values["means"]["far#f1"] == pytest.approx(answers.scores["far#f1"].mean(), abs=1e-3)
    assert start.values["history"][-1]["step"] == params().pretrain_steps
    assert answers.values["updates"] == results["noise=typo"][1].values["updates"]


def test_noise_makes_another_model_of_the_same_updates(results):
    clean, noisy = (seq2seq.load(start.file("config.json").parent) for start, _ in results.values())
    assert models.parameter_count(clean) == models.parameter_count(noisy)
    name = "positions"
    assert not torch.equal(clean.decoder[name].weight, noisy.decoder[name].weight)
    steps = [start.values["history"][-1]["step"] for start, _ in results.values()]
    assert steps[0] == steps[1]
