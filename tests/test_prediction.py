"""Predictions: the best allowed answer of all windows; padding, precision and segments as they should be."""

from dataclasses import replace

import numpy as np
import pytest
import shapes
import torch
from test_tokenization import published
from torch import nn

from xltlib.data.tasks import PairExample, SpanExample
from xltlib.finetuning.tasks import (
    LONGEST_ANSWER,
    Encoded,
    TaskModel,
    best_spans,
    encode,
    predict,
    task_loss,
)

SENTENCE = "the cat sat on a mat , and some dogs ran to it from there . who was where ? nobody knew them"
WORDS = SENTENCE.split()


@pytest.fixture(scope="module", params=["bert", "xlmr"])
def tokenizer(request):
    return published(request.param, [SENTENCE] * 3, 120)


def text(rng, low, high):
    return " ".join(rng.choice(WORDS, rng.integers(low, high)))


@pytest.fixture(scope="module")
def pairs():
    """60 pairs of very different lengths; the label is whether the two begin with the same word."""
    rng = np.random.default_rng(0)
    sides = [(text(rng, 2, 20), text(rng, 2, 20)) for _ in range(60)]
    return [PairExample(str(i), a, b, int(a.split()[0] == b.split()[0])) for i, (a, b) in enumerate(sides)]


@pytest.fixture(scope="module")
def questions():
    rng, found = np.random.default_rng(1), []
    for i in range(25):
        context = text(rng, 10, 90)
        answer = context.split()[0]
        found.append(SpanExample(str(i), text(rng, 3, 6), context, ((0, answer),)))
    return found


def model_for(tokenizer, task, **options):
    encoder = shapes.reading(tokenizer)
    for weight in encoder.parameters():
        weight.data.mul_(5 if weight.ndim > 1 else 1)  # so that what is read makes a difference
    return TaskModel(encoder, task, seed=1, **options).eval()


# Best spans


def slow_best(logits, begin, stop):
    """The best allowed pair by trying all."""
    best, found = -np.inf, None
    for first in range(begin, stop):
        for last in range(first, min(stop, first + LONGEST_ANSWER)):
            total = float(logits[first, 0] + logits[last, 1])
            if total > best:
                best, found = total, [first, last]
    return found


@pytest.mark.parametrize("length", [6, 20, 45])
def test_best_spans_against_a_slow_loop(length):
    generator = torch.Generator().manual_seed(length)
    logits = torch.randn(50, length, 2, generator=generator)
    begin = torch.randint(2, length - 1, (50,), generator=generator)
    stop = begin + 1 + (torch.rand(50, generator=generator) * (length - 1 - begin)).long()
    found, totals = best_spans(logits, begin, stop)
    rows = zip(logits, begin.tolist(), stop.tolist(), strict=True)
    assert found.tolist() == [slow_best(*row) for row in rows]
    assert torch.equal(totals, logits[torch.arange(50)[:, None], found, torch.arange(2)].sum(1))


class Wants(nn.Module):
    """A model of questions that likes the subword 9, and likes it more the earlier it stands."""

    task = "qa"

    def forward(self, ids, **told):
        liked = (ids == 9).float() * (20 - torch.arange(ids.shape[1]))
        return torch.stack([liked, liked], -1)


def test_the_best_answer_of_all_windows():
    """Two examples of three and one windows; the first has its best answer in its second window."""
    rows = [[2, 5, 3, 6, 7, 9, 3], [2, 5, 3, 7, 9, 8, 3], [2, 5, 3, 8, 8, 8, 3], [2, 5, 3, 6, 9, 3]]
    starts = (0, 2, 4, 0)
    data = Encoded(
        [np.array(row) for row in rows],
        np.full((4, 2), -1),
        np.full(4, 3),
        [
            [(2 * i, 2 * i + 1) for i in range(s, s + len(row) - 4)]
            for row, s in zip(rows, starts, strict=True)
        ],
        examples=np.array([0, 0, 0, 1]),
    )
    assert predict(Wants(), data).tolist() == [[6, 7], [2, 3]]
    assert predict(Wants(), replace(data, padded=True)).tolist() == [[6, 7], [2, 3]]
    tied = replace(data, ids=[data.ids[0], data.ids[0], *data.ids[2:]])
    assert predict(Wants(), tied).tolist()[0] == [4, 5]  # of equally good ones the first


# Padding, precision, segments


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_padding_changes_no_logits_of_pairs(tokenizer, pairs, pooling, monkeypatch):
    model, found = model_for(tokenizer, "nli", pooling=pooling), []
    data = encode(tokenizer, "nli", pairs, 128)
    forward = model.forward
    for coded in (replace(data, padded=False), data):
        logits, masks = {}, []

        def seen(ids, attention_mask=None, logits=logits, masks=masks, **told):
            out = forward(ids, attention_mask, **told)
            masks.append(attention_mask)
            for row, sequence in enumerate(ids):
                real = sequence if attention_mask is None else sequence[attention_mask[row] == 1]
                logits[tuple(real.tolist())] = out[row]
            return out

        monkeypatch.setattr(model, "forward", seen)
        labels = predict(model, coded, batch_size=16)
        found.append((labels, torch.stack([logits[tuple(ids)] for ids in data.ids])))
        assert any(mask is not None for mask in masks) == coded.padded
    assert torch.allclose(found[0][1], found[1][1], atol=1e-5)
    assert found[0][1].std(0).min() > 1e-3
    assert found[0][0].tolist() == found[1][0].tolist()


def test_padding_changes_no_answers_and_no_loss(tokenizer, questions):
    model = model_for(tokenizer, "qa")
    data = encode(tokenizer, "qa", questions, 96, training=True)
    one_by_one = predict(model, replace(data, padded=False), batch_size=1)
    assert predict(model, data, batch_size=8).tolist() == one_by_one.tolist()
    from xltlib.finetuning.tasks import inputs

    rows = np.array([0, len(data.ids) - 1])
    assert len({len(data.ids[row]) for row in rows}) == 2
    with torch.no_grad():
        together, alone = (
            [task_loss(model(ids, **told), torch.from_numpy(data.targets[some]))
             for some in parts for ids, told in [inputs(data, some, torch.device("cpu"))]]
            for parts in ([rows], [rows[:1], rows[1:]])
        )  # fmt: skip
    assert together[0].item() == pytest.approx(np.mean([x.item() for x in alone]), abs=1e-5)


def test_predictions_in_bfloat16_agree_with_float32(tokenizer, pairs):
    model, data, seen = model_for(tokenizer, "nli"), encode(tokenizer, "nli", pairs, 96), []
    model.output.register_forward_hook(lambda *given: seen.append(given[-1]))
    predict(model, data)
    model.output[-1].bias.data -= seen.pop().mean(0)  # so that no label is always the best
    full, half = (predict(model, data, precision=p) for p in ("float32", "bfloat16"))
    assert [logits.dtype for logits in seen] == [torch.float32, torch.bfloat16]
    assert len(set(full.tolist())) > 1
    assert np.mean(full == half) >= 0.9


def test_segments_reach_a_model_that_knows_two(tokenizer):
    model, two = model_for(tokenizer, "nli"), tokenizer.sep_token == "[SEP]"
    ids = torch.tensor([[7, 8, 9, 10, 11, 12]])
    with torch.no_grad():
        plain, told, other = (
            model(ids, second=second) for second in (None, torch.tensor([3]), torch.tensor([6]))
        )
        types = torch.tensor([[0, 0, 0, 1, 1, 1]])
        if two:
            wanted = model.encoder.lm.base_model(ids, token_type_ids=types).last_hidden_state
            assert torch.equal(told, model.output(wanted.mean(1)))
    assert torch.equal(plain, told) != two
    assert torch.equal(plain, other)
