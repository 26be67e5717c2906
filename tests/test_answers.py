"""Question 0: what is masked and written, noise in the encoder's input alone, answers, and their runs."""

import numpy as np
import pytest
import torch
from tiny import computed, params

from xltlib import StudyError
from xltlib.data import tokenization
from xltlib.data.languages import keyboard_of
from xltlib.data.tasks import SpanExample
from xltlib.data.text import world_of
from xltlib.data.tokenization import PAD, SEP, SPECIAL, WordEncoder
from xltlib.evaluation import qa_scores
from xltlib.finetuning import answers
from xltlib.finetuning.answers import IGNORED, corrupted, encode, span_mask, text_of
from xltlib.finetuning.options import TYPO_RATES
from xltlib.pretraining import models
from xltlib.pretraining.objectives import Recipe
from xltlib.pretraining.options import SpanOptions, span_options
from xltlib.pretraining.training import Optimization, Pool, fit, stacked
from xltlib.runs import Runs

END = 100


@pytest.fixture(scope="module")
def corpus(text, tokenizer):
    """Documents of one language: sentences of the same length, so that sources are of one length too."""
    world, encode = world_of(text), WordEncoder(tokenizer)
    words = [forms[0] for forms in world.grammar("src").lexicon()]
    rng = np.random.default_rng(0)
    rows = [np.array([2, *encode(rng.choice(words, 9))[0], 3]) for _ in range(400)]
    lengths = np.array([len(row) for row in rows])
    common = np.bincount(lengths).argmax()
    pool = Pool([row for row in rows if len(row) == common])
    return [pool], np.ones(1), [keyboard_of(world, "src")]


def tiny(tokenizer):
    return answers.tiny(len(tokenizer), 16, 1, 2, seed=0)


def span_loss(model, corpus, tokenizer, noise="none"):
    return answers.span_loss(model, *corpus, tokenizer, Recipe(8, 0.15, 0), SpanOptions(noise=noise))


# Spans


def test_a_document_by_hand():
    ids = np.array([11, 12, 13, 14, 15, 16, 17])
    masked = np.array([0, 1, 1, 0, 0, 1, 0], bool)
    source, target = corrupted(ids, masked, END)
    assert source.tolist() == [11, 101, 14, 15, 102, 17, 100]
    assert target.tolist() == [101, 12, 13, 102, 16, 100]


def shares(monkeypatch, rate, mean):
    monkeypatch.setattr(answers, "MASK_RATE", rate)
    monkeypatch.setattr(answers, "MEAN_SPAN", mean)


@pytest.mark.parametrize(
    ("length", "rate", "mean", "masked", "spans"),
    [
        (24, 0.15, 3, 4, 1), (48, 0.15, 3, 7, 2), (20, 0.5, 2, 10, 5), (2, 0.01, 3, 1, 1), (9, 0.9, 1, 8, 1),
    ],
)  # fmt: skip
def test_the_number_of_masked_tokens_and_spans_is_fixed(monkeypatch, length, rate, mean, masked, spans):
    shares(monkeypatch, rate, mean)
    for seed in range(50):
        found = span_mask(length, np.random.default_rng(seed))
        assert found.shape == (length,)
        assert found.sum() == masked
        assert (np.diff(np.concatenate([[0], found.astype(int)])) == 1).sum() == spans
        assert found[-1]
        assert not found[0]


def test_nothing_is_lost_between_source_and_target(monkeypatch):
    shares(monkeypatch, 0.3, 2)
    rng = np.random.default_rng(0)
    for length in (2, 5, 17, 60):
        ids = rng.integers(5, END, length)
        masked = span_mask(length, rng)
        source, target = corrupted(ids, masked, END)
        spans = {part[0]: part[1:] for part in np.split(target[:-1], np.flatnonzero(target[:-1] > END))[1:]}
        again = [word for i in source[:-1] for word in (spans[i] if i > END else [i])]
        assert again == ids.tolist()
        assert source[-1] == target[-1] == END


# Noise


def test_typing_errors_hit_their_share_of_words_and_no_special_id(corpus, tokenizer):
    end, typist, rng = len(tokenizer), answers.Typist(tokenizer), np.random.default_rng(2)
    ids, _ = corpus[0][0].draw(np.random.default_rng(1), 300)
    clean = [corrupted(row, span_mask(len(row), rng), end)[0] for row in ids[:, 1:-1]]
    noisy = typist(clean, 0.3, corpus[2][0], np.random.default_rng(0))
    words = [[text_of(row, tokenizer).split() for row in rows] for rows in (clean, noisy)]
    hit = np.mean([a != b for both in zip(*words, strict=True) for a, b in zip(*both, strict=True)])
    assert 0.24 < hit < 0.33  # a part of a word beside a sentinel may be too short for an error
    for before, after in zip(clean, noisy, strict=True):
        special = [row[(row < len(SPECIAL)) | (row >= end)].tolist() for row in (before, after)]
        assert special[0] == special[1]


class Watched(answers.EncoderDecoder):
    """An encoder-decoder that keeps what it is given."""

    def forward(self, source, target, mask=None):
        self.seen = (source, mask, target)
        return super().forward(source, target, mask)


@pytest.mark.parametrize("kind", ["typo", "token"])
def test_noise_is_in_the_sources_alone(corpus, tokenizer, monkeypatch, kind):
    monkeypatch.setattr(answers, "NOISY", 0.5)
    model = Watched(tiny(tokenizer).encoder)
    clean, noisy = (span_loss(model, corpus, tokenizer, noise) for noise in ("none", kind))
    for step in range(5):
        clean(step)
        source, mask, target = model.seen
        assert mask is None
        noisy(step)
        assert torch.equal(model.seen[2], target)
        assert model.seen[0].shape != source.shape or not torch.equal(model.seen[0], source)
        if kind == "token":  # in place, and ordinary subwords alone
            before, after = (seen.numpy() for seen in (source, model.seen[0]))
            ordinary = (before >= len(SPECIAL)) & (before < len(tokenizer))
            assert (before[~ordinary] == after[~ordinary]).all()
            assert (before[ordinary] != after[ordinary]).mean() == pytest.approx(0.5, abs=0.15)
            assert ((after[ordinary] >= len(SPECIAL)) & (after[ordinary] < len(tokenizer))).all()


def test_a_batch_is_a_function_of_the_step_alone(corpus, tokenizer):
    model = tiny(tokenizer)
    losses = [span_loss(model, corpus, tokenizer, "typo") for _ in range(2)]
    first = [losses[0](step)["loss"].item() for step in (0, 1, 2)]
    assert [losses[1](step)["loss"].item() for step in (2, 1, 0)] == first[::-1]
    assert len(set(first)) == 3


def test_options_are_read_and_refused():
    assert span_options("noise=typo") == SpanOptions(noise="typo")
    assert span_options() == SpanOptions()
    with pytest.raises(StudyError, match="'none', 'typo' or 'token'"):
        span_options("noise=tyop")
    with pytest.raises(StudyError, match="there is no option 'nois': did you mean noise?"):
        span_options("nois=typo")


# The model


def test_the_decoder_does_not_see_what_it_is_to_write(tokenizer):
    model = tiny(tokenizer).eval()
    source, target = torch.randint(5, 60, (2, 7)), torch.randint(5, 60, (2, 6))
    other = target.clone()
    other[:, 3:] = 61
    with torch.no_grad():
        a, b = model(source, target), model(source, other)
    assert torch.equal(a[:, :4], b[:, :4])
    assert not torch.allclose(a[:, 4:], b[:, 4:])


def test_padding_changes_nothing(tokenizer):
    model = tiny(tokenizer).eval()
    rows = [np.array([7, 8, 9, 10]), np.array([11, 12])]
    target = torch.tensor([[20, 21, 22], [23, 24, 25]])
    source, mask = stacked(rows)
    with torch.no_grad():
        both = model(source, target, mask)
        alone = model(source[1:, :2], target[1:])
    assert torch.allclose(both[1], alone[0], atol=1e-5)


def test_ignored_targets_count_for_nothing(tokenizer):
    model = tiny(tokenizer)
    source = torch.tensor([[7, 8, 9]])
    short, filled = torch.tensor([[20, 21]]), torch.tensor([[20, 21, IGNORED, IGNORED]])
    losses = [answers.target_loss(model, source, t)["loss"].item() for t in (short, filled)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_saved_and_loaded_it_is_the_same(tokenizer, tmp_path):
    model = tiny(tokenizer)
    model.save(tmp_path)
    again = answers.load(tmp_path)
    assert all(torch.equal(w, again.state_dict()[name]) for name, w in model.state_dict().items())
    assert again.end == model.end == len(tokenizer)
    encoder = models.load(tmp_path)  # to fine-tune with an output layer of a task instead
    ids = torch.tensor([[2, 7, 8, 3]])
    assert torch.equal(encoder.eval().states(ids), model.encoder.eval().states(ids))


# Answers


@pytest.fixture(scope="module")
def examples(text):
    words = [forms[0] for forms in world_of(text).grammar("src").lexicon()[:9]]
    found = []
    for i in range(6):
        context = " ".join([*words[i : i + 3], "."])
        found.append(SpanExample(f"{i}", words[i], context, ((len(words[i]) + 1, words[i + 1]),)))
    return found


def test_questions_have_the_form_of_masked_text(tokenizer, examples):
    end = len(tokenizer)
    data = encode(tokenizer, examples[:2], end)
    example = examples[0]
    texts = (example.context, example.question, example.answers[0][1])
    passage, question, answer = (tokenizer.encode(t, add_special_tokens=False) for t in texts)
    assert data.ids[0].tolist() == [*passage, SEP, *question, end + 1, end]
    row = data.targets[0].tolist()
    assert row[: len(answer) + 2] == [end + 1, *answer, end]
    assert set(row[len(answer) + 2 :]) <= {IGNORED}


def test_it_learns_a_handful_of_questions_by_heart(tokenizer, examples):
    model = answers.tiny(len(tokenizer), 32, 1, 2, 0)
    data = encode(tokenizer, examples, model.end)
    source, mask = stacked(data.ids)
    target = torch.from_numpy(data.targets)
    fit(model, lambda step: answers.target_loss(model, source, target, mask), Optimization(120, 5e-3))
    scores = qa_scores(examples, [text_of(ids, tokenizer) for ids in answers.write(model, data, 8)])
    assert scores["exact_match"].tolist() == scores["f1"].tolist() == [1.0] * 6


def test_writing_in_batches_is_writing_one_by_one(tokenizer, examples):
    model = tiny(tokenizer)
    data = encode(tokenizer, examples, model.end)
    found = answers.write(model, data, longest=8, batch_size=4)
    for row, ids in zip(data.ids, found, strict=True):
        before = [PAD, model.end + 1]
        while len(before) < 2 + 8 and before[-1] != model.end:
            target = torch.tensor([[*before[1:], PAD]])
            with torch.no_grad():
                scores = model(torch.from_numpy(row)[None], target)[0, -1]
            known = sorted({i for i in row if len(SPECIAL) <= i <= model.end})
            before.append(known[int(scores[known].argmax())])
        assert ids.tolist() == [i for i in before[2:] if i != model.end]


def test_text_of_subwords():
    tokenizer = tokenization.train(["balu no"] * 3, 40)
    ids = tokenizer.encode("balu no", add_special_tokens=False)
    assert text_of([SEP, *ids, len(tokenizer) + 1], tokenizer) == "balu no"
    (inside,) = tokenizer.convert_tokens_to_ids(["##a"])
    assert text_of([inside, *ids], tokenizer) == "a balu no"
    assert text_of([], tokenizer) == ""


# Runs


@pytest.fixture(scope="module")
def results(store):
    """Without noise and with typing errors: what pre-training and answering leave."""
    runs = Runs(params())
    return {x: computed([runs.seq2seq(0, x), runs.answers(0, x)], store) for x in ("", "noise=typo")}


def test_runs_leave_scores_of_every_language_and_rate(results):
    start, answered = results[""]
    languages = ("src", "far", "low")
    settings = [*languages, *(f"{name}@typo{rate:g}" for name in languages for rate in TYPO_RATES)]
    assert set(answered.scores) == {name + metric for name in settings for metric in ("", "#f1")}
    assert all(len(values) == 30 for values in answered.scores.values())
    assert answered.values["means"]["far#f1"] == pytest.approx(answered.scores["far#f1"].mean(), abs=1e-3)
    assert start.values["history"][-1]["step"] == params().pretrain_steps


def test_noise_makes_another_model_of_the_same_updates(results):
    (clean, plain), (noisy, other) = results.values()
    assert plain.values["updates"] == other.values["updates"]
    one, two = (answers.load(start.file("config.json").parent) for start in (clean, noisy))
    assert models.parameter_count(one) == models.parameter_count(two)
    assert not torch.equal(one.decoder["positions"].weight, two.decoder["positions"].weight)


def test_real_languages_are_refused():
    with pytest.raises(StudyError, match="span_corruption is of synthetic languages"):
        Runs(params(data="real")).answers(0)
