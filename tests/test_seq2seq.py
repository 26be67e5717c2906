"""Encoder-decoders: what is masked and written, noise in the encoder's input alone, how they are saved."""

import numpy as np
import pytest
import torch

from xltlib import StudyError
from xltlib.data.text import keyboard_of, world_of
from xltlib.data.tokenization import SPECIAL, WordEncoder
from xltlib.finetuning.answers import text_of
from xltlib.pretraining import models, seq2seq
from xltlib.pretraining.objectives import Recipe
from xltlib.pretraining.options import SpanOptions, span_options
from xltlib.pretraining.seq2seq import IGNORED, SENTINELS, source_of, span_mask, target_of
from xltlib.pretraining.training import Optimization, Pool, fit, stacked

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
    return [pool], [1.0], [keyboard_of(world, "src")]


def tiny(tokenizer, seed=0):
    return seq2seq.tiny(len(tokenizer), 16, 1, 2, seed)


def recipe(seed=0):
    return Recipe(8, 0.15, seed)


# Spans


def test_a_document_by_hand():
    ids = np.array([11, 12, 13, 14, 15, 16, 17])
    masked = np.array([0, 1, 1, 0, 0, 1, 0], bool)
    assert source_of(ids, masked, END).tolist() == [11, 101, 14, 15, 102, 17, 100]
    assert target_of(ids, masked, END).tolist() == [101, 12, 13, 102, 16, 100]


def shares(monkeypatch, rate, mean):
    monkeypatch.setattr(seq2seq, "MASK_RATE", rate)
    monkeypatch.setattr(seq2seq, "MEAN_SPAN", mean)


@pytest.mark.parametrize(
    ("length", "rate", "mean", "masked", "spans"),
    [
        (24, 0.15, 3, 4, 1), (48, 0.15, 3, 7, 2), (20, 0.5, 2, 10, 5), (2, 0.01, 3, 1, 1), (3, 0.9, 1, 2, 1),
        (9, 0.9, 1, 8, 1),
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


def test_all_divisions_into_spans_are_equally_likely(monkeypatch):
    shares(monkeypatch, 0.5, 1.5)
    # 6 tokens, 3 of them masked, in 2 spans: 2 ways to divide the seen ones times 2 for the masked ones
    rng = np.random.default_rng(0)
    drawn = [tuple(span_mask(6, rng)) for _ in range(4000)]
    counts = [drawn.count(mask) for mask in set(drawn)]
    assert len(counts) == 4
    assert max(counts) < 1100


def test_nothing_is_lost_between_source_and_target(monkeypatch):
    shares(monkeypatch, 0.3, 2)
    rng = np.random.default_rng(0)
    for length in (2, 5, 17, 60):
        ids = rng.integers(5, END, length)
        masked = span_mask(length, rng)
        source, target = (f(ids, masked, END) for f in (source_of, target_of))
        spans = {part[0]: part[1:] for part in np.split(target[:-1], np.flatnonzero(target[:-1] > END))[1:]}
        again = [word for i in source[:-1] for word in (spans[i] if i > END else [i])]
        assert again == ids.tolist()
        assert source[-1] == target[-1] == END


def test_what_cannot_be_masked_is_refused():
    with pytest.raises(StudyError, match="1 subwords; it takes at least two"):
        span_mask(1, np.random.default_rng(0))
    every_other = np.tile([False, True], SENTINELS + 1)
    with pytest.raises(StudyError, match=f"{SENTINELS + 1} spans, but {SENTINELS} sentinels"):
        source_of(np.arange(len(every_other)), every_other, END)


# Noise


def words_of(rows, tokenizer):
    pieces = seq2seq.pieces_of(tokenizer)
    return [text_of(row, pieces).split() for row in rows]


def sources(corpus, end, count=300):
    ids, _ = corpus[0][0].draw(np.random.default_rng(1), count)
    rng = np.random.default_rng(2)
    return [source_of(row, span_mask(len(row), rng), end) for row in ids[:, 1:-1]]


def test_typing_errors_hit_their_share_of_words_and_no_special_id(corpus, tokenizer):
    end, typist = len(tokenizer), seq2seq.Typist(tokenizer)
    clean = sources(corpus, end)
    noisy = typist(clean, 0.3, corpus[2][0], np.random.default_rng(0))
    pairs = list(zip(words_of(clean, tokenizer), words_of(noisy, tokenizer), strict=True))
    hit = np.mean([a != b for before, after in pairs for a, b in zip(before, after, strict=True)])
    assert 0.24 < hit < 0.33  # a part of a word beside a sentinel may be too short for an error
    for before, after in zip(clean, noisy, strict=True):
        special = [row[(row < len(SPECIAL)) | (row >= end)].tolist() for row in (before, after)]
        assert special[0] == special[1]


def test_noise_of_rate_zero_is_none(corpus, tokenizer):
    end, rng = len(tokenizer), np.random.default_rng(0)
    clean = sources(corpus, end)
    typed = seq2seq.Typist(tokenizer)(clean, 0.0, corpus[2][0], rng)
    replaced = seq2seq.replace_ids(clean, 0.0, end, rng)
    for rows in zip(clean, typed, replaced, strict=True):
        assert rows[0].tolist() == rows[1].tolist() == rows[2].tolist()


def test_replaced_subwords_are_their_share_and_ordinary(corpus, tokenizer):
    end = len(tokenizer)
    clean = sources(corpus, end)
    noisy = seq2seq.replace_ids(clean, 0.2, end, np.random.default_rng(0))
    before, after = np.concatenate(clean), np.concatenate(noisy)
    ordinary = (before >= len(SPECIAL)) & (before < end)
    assert (before[~ordinary] == after[~ordinary]).all()
    assert (before[ordinary] != after[ordinary]).mean() == pytest.approx(0.2, abs=0.03)
    assert ((after[ordinary] >= len(SPECIAL)) & (after[ordinary] < end)).all()


class Watched(seq2seq.EncoderDecoder):
    """An encoder-decoder that keeps what it is given."""

    def forward(self, source, mask, target):
        self.seen = (source, mask, target)
        return super().forward(source, mask, target)


@pytest.mark.parametrize("kind", ["typo", "token"])
def test_noise_is_in_the_sources_alone(corpus, tokenizer, monkeypatch, kind):
    monkeypatch.setattr(seq2seq, "NOISY", 0.5)
    model = Watched(tiny(tokenizer).encoder, 1)
    clean = seq2seq.span_loss(model, *corpus, tokenizer, recipe(), SpanOptions())
    noisy = seq2seq.span_loss(model, *corpus, tokenizer, recipe(), SpanOptions(noise=kind))
    for step in range(5):
        clean(step)
        source, mask, target = model.seen
        assert mask is None
        noisy(step)
        assert torch.equal(model.seen[2], target)
        assert model.seen[0].shape != source.shape or not torch.equal(model.seen[0], source)


@pytest.mark.parametrize("kind", ["typo", "token"])
def test_training_with_noise_of_rate_zero_is_training_without(corpus, tokenizer, monkeypatch, kind):
    monkeypatch.setattr(seq2seq, "NOISY", 0.0)
    weights = []
    for chosen in (SpanOptions(), SpanOptions(noise=kind)):
        model = tiny(tokenizer)
        loss = seq2seq.span_loss(model, *corpus, tokenizer, recipe(), chosen)
        fit(model, loss, Optimization(6, 1e-3))
        weights.append(model.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_a_batch_is_a_function_of_the_step_alone(corpus, tokenizer):
    model = tiny(tokenizer)
    losses = [
        seq2seq.span_loss(model, *corpus, tokenizer, recipe(), SpanOptions(noise="typo")) for _ in range(2)
    ]
    first = [losses[0](step)["loss"].item() for step in (0, 1, 2)]
    assert [losses[1](step)["loss"].item() for step in (2, 1, 0)] == first[::-1]
    assert len(set(first)) == 3


def test_options_are_read_and_refused():
    assert span_options("noise=typo") == SpanOptions(noise="typo")
    assert span_options() == SpanOptions()
    with pytest.raises(StudyError, match='"none", "typo", "token"'):
        span_options("noise=tyop")
    with pytest.raises(StudyError, match="there is no option 'nois': did you mean noise?"):
        span_options("nois=typo")


# The model


def test_the_seed_fixes_the_weights_and_leaves_the_global_generator(tokenizer):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one, two, other = (tiny(tokenizer, seed).state_dict() for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one["decoder.positions.weight"], other["decoder.positions.weight"])


def test_the_decoder_does_not_see_what_it_is_to_write(tokenizer):
    model = tiny(tokenizer).eval()
    source, target = torch.randint(5, 60, (2, 7)), torch.randint(5, 60, (2, 6))
    other = target.clone()
    other[:, 3:] = 61
    with torch.no_grad():
        a, b = model(source, None, target), model(source, None, other)
    assert torch.equal(a[:, :4], b[:, :4])
    assert not torch.allclose(a[:, 4:], b[:, 4:])


def test_padding_changes_nothing(tokenizer):
    model = tiny(tokenizer).eval()
    rows = [np.array([7, 8, 9, 10]), np.array([11, 12])]
    target = torch.tensor([[20, 21, 22], [23, 24, 25]])
    with torch.no_grad():
        both = model(*stacked(rows), target)
        alone = model(*stacked(rows[1:]), target[1:])
    assert torch.allclose(both[1], alone[0], atol=1e-5)


def test_ignored_targets_count_for_nothing(tokenizer):
    model = tiny(tokenizer)
    source = torch.tensor([[7, 8, 9]])
    short, filled = torch.tensor([[20, 21]]), torch.tensor([[20, 21, IGNORED, IGNORED]])
    losses = [seq2seq.target_loss(model, source, None, t)["loss"].item() for t in (short, filled)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_saved_and_loaded_it_is_the_same(tokenizer, tmp_path):
    model = tiny(tokenizer)
    model.save(tmp_path)
    again = seq2seq.load(tmp_path)
    assert all(torch.equal(w, again.state_dict()[name]) for name, w in model.state_dict().items())
    assert again.end == model.end == len(tokenizer)
    encoder = models.load(tmp_path)  # to fine-tune with an output layer of a task instead
    ids = torch.tensor([[2, 7, 8, 3]])
    assert torch.equal(encoder.eval().states(ids), model.encoder.eval().states(ids))


def test_a_folder_without_a_decoder_is_refused(tokenizer, tmp_path):
    with pytest.raises(StudyError, match="config.json is missing"):
        seq2seq.load(tmp_path)
    tiny(tokenizer).encoder.save(tmp_path)
    with pytest.raises(StudyError, match="the decoder cannot be loaded"):
        seq2seq.load(tmp_path)
    (tmp_path / seq2seq.DECODER).write_bytes(b"nonsense")
    with pytest.raises(StudyError, match="the decoder cannot be loaded"):
        seq2seq.load(tmp_path)


def test_a_target_that_is_too_long_is_refused(tokenizer):
    target = torch.full((1, seq2seq.LONGEST_TARGET + 1), 7)
    with pytest.raises(StudyError, match=f"at most {seq2seq.LONGEST_TARGET}"):
        tiny(tokenizer)(torch.tensor([[7, 8]]), None, target)
