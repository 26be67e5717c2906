"""Examples as ids, in batches, and predicted: gold spans are exact, answers map back, padding is nothing."""

from dataclasses import replace

import numpy as np
import pytest
import shapes
import torch
from test_tokenization import published
from torch import nn

from xltlib.data import tasks, tokenization
from xltlib.data.synthetic import World, task_examples
from xltlib.data.tasks import PairExample, SpanExample
from xltlib.data.tokenization import CLS, SEP, encode_texts
from xltlib.evaluation import normalize_answer
from xltlib.finetuning import tasks as coding
from xltlib.finetuning.tasks import (
    LONGEST_ANSWER,
    QUESTION,
    Encoded,
    TaskModel,
    best_spans,
    encode,
    predict,
    shortened,
    task_loss,
    windows,
)
from xltlib.finetuning.tasks import scores as scores_of
from xltlib.pretraining.training import epoch_batches, stacked


@pytest.fixture(scope="module")
def examples():
    """Task -> language -> 40 examples."""
    return {task: task_examples(World(), task, 40, "train", 0) for task in ("nli", "qa")}


@pytest.fixture(scope="module")
def tokenizer(examples):
    texts = [text for side in examples["qa"].values() for e in side for text in (e.question, e.context)]
    return tokenization.train(texts, 300)


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
        assert (found["exact_match"] == 1).all(), language
        assert (found["f1"] == 1).all(), language
        for ids, (first, last), context in zip(coded.ids, coded.targets, coded.second, strict=True):
            assert ids[context - 1] == SEP
            assert context <= first <= last < len(ids) - 1


def scores(task, coded, found, side):
    """Scores of answers that are given by their subwords."""
    return scores_of(task, coded, coded.characters(np.arange(len(side)), np.asarray(found)), side)


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
    first, last = coded.targets[0] - coded.second[0]
    assert context[coded.spans[0][first][0] : coded.spans[0][last][1]] == answer
    assert scores("qa", coded, coded.targets, [example])["exact_match"].tolist() == [1]


# Published tokenizers, and limits

KINDS = ("bert", "xlmr")
SENTENCE = "the cat sat on a mat , and some dogs ran to it from there . who was where ? nobody knew them"
WORDS = SENTENCE.split()


def text(rng, count):
    return " ".join(rng.choice(WORDS, count))


@pytest.fixture(scope="module", params=KINDS)
def theirs(request):
    rng = np.random.default_rng(0)
    return published(request.param, [text(rng, 12) for _ in range(300)], 120)


@pytest.fixture(scope="module")
def questions():
    """30 questions about passages of 20 to 150 words, with answers of one to five words."""
    rng, found = np.random.default_rng(0), []
    for number in range(30):
        words = text(rng, 20 + 130 * number // 29).split()
        first = int(rng.integers(len(words) - 5))
        answer = " ".join(words[first : first + int(rng.integers(1, 6))])
        start = len(" ".join(words[:first])) + (first > 0)
        found.append(SpanExample(str(number), text(rng, 5), " ".join(words), ((start, answer),)))
    return found


def test_pairs_are_joined_as_the_tokenizer_does(theirs):
    rng = np.random.default_rng(0)
    pairs = [PairExample(str(i), text(rng, 3 + i), text(rng, 9 - i), 0) for i in range(7)]
    coded = encode(theirs, "nli", pairs)
    for example, ids, second in zip(pairs, coded.ids, coded.second, strict=True):
        wanted = theirs(example.text_a, example.text_b)
        assert ids.tolist() == wanted["input_ids"]
        if theirs.sep_token == "[SEP]":
            types = [int(place >= second) for place in range(len(ids))]
            assert types == theirs(example.text_a, example.text_b, return_token_type_ids=True).token_type_ids
        assert second == len(theirs(example.text_a)["input_ids"]) + (theirs.sep_token == "</s>")
    assert (coded.padded, coded.examples) == (False, None)
    assert coded.special == tokenization.specials(theirs)


def test_the_longer_side_is_shortened_against_a_slow_loop():
    rng = np.random.default_rng(0)
    for _ in range(300):
        a, b = (list(range(rng.integers(1, 20))) for _ in "ab")
        first, second, room = a.copy(), b.copy(), int(rng.integers(2, 25))
        while len(first) + len(second) > room:
            (first if len(first) > len(second) else second).pop()
        assert shortened(a, b, room) == (first, second)


def test_long_pairs_are_cut_to_the_limit(theirs):
    rng = np.random.default_rng(1)
    pairs = [PairExample("1", text(rng, 60), text(rng, 4), 0), PairExample("2", text(rng, 4), "a cat", 1)]
    whole, cut = encode(theirs, "nli", pairs), encode(theirs, "nli", pairs, 32)
    assert len(whole.ids[0]) > 60
    assert len(cut.ids[0]) == 32
    tail = len(whole.ids[0]) - whole.second[0]
    assert cut.ids[0][-tail:].tolist() == whole.ids[0][-tail:].tolist()  # the shorter side is whole
    assert cut.ids[0][: 32 - tail - 2].tolist() == whole.ids[0][: 32 - tail - 2].tolist()
    assert cut.second[0] == 32 - tail
    assert cut.ids[1].tolist() == whole.ids[1].tolist()
    assert cut.padded


@pytest.mark.parametrize(
    ("length", "size"), [(5, 5), (5, 9), (6, 5), (400, 300), (1000, 300), (7, 1), (90, 41)]
)
def test_windows_cover_the_passage_and_are_full(length, size):
    starts = windows(length, size)
    covered = {place for start in starts for place in range(start, min(length, start + size))}
    assert covered == set(range(length))
    assert starts[-1] == max(0, length - size)
    steps = np.diff(starts)
    assert ((steps > 0) & (steps <= min(128, max(1, size // 2)))).all()
    assert set(steps[:-1]) <= {min(128, max(1, size // 2))}


def test_every_window_of_a_long_passage(theirs, questions):
    whole, coded = encode(theirs, "qa", questions), encode(theirs, "qa", questions, 48)
    assert max(coded.lengths) == 48
    assert len(coded.ids) > 3 * len(questions)
    assert sorted(set(coded.examples)) == list(range(len(questions)))
    several = {n for n in coded.examples if (coded.examples == n).sum() > 1}
    assert {len(ids) for ids, n in zip(coded.ids, coded.examples, strict=True) if n in several} == {48}
    for n in range(len(questions)):
        rows = np.flatnonzero(coded.examples == n)
        assert {span for row in rows for span in coded.spans[row]} == set(whole.spans[n])
        size = coded.passages()[1][rows[0]] - coded.second[rows[0]]
        starts = windows(len(whole.spans[n]), size)
        for row, start in zip(rows, starts, strict=True):
            passage = coded.ids[row][coded.second[row] : coded.passages()[1][row]]
            at = whole.second[n] + start
            assert passage.tolist() == whole.ids[n][at : at + len(passage)].tolist()
            if coded.targets[row][0] >= 0:  # the same answer wherever it is whole
                (shown,) = coded.characters([row], coded.targets[row][None])
                assert shown.tolist() == whole.characters([n], whole.targets[n][None])[0].tolist()
        first, last = whole.targets[n] - whole.second[n]
        holding = [s for s in starts if s <= first and last < s + size]
        assert (coded.targets[rows][:, 0] >= 0).sum() == len(holding)


def test_training_takes_the_window_around_the_answer(theirs, questions):
    everywhere, coded = (encode(theirs, "qa", questions, 48, training) for training in (False, True))
    assert len(coded.ids) + coded.left_out == len(questions)
    for row, n in enumerate(coded.examples):
        margins: dict[int, set] = {}
        for other in np.flatnonzero(everywhere.examples == n):
            begin, stop = (part[other] for part in everywhere.passages())
            first, last = everywhere.targets[other]
            if first >= 0:
                found = margins.setdefault(min(first - begin, stop - 1 - last), set())
                found.add(tuple(everywhere.ids[other].tolist()))
        assert tuple(coded.ids[row].tolist()) in margins[max(margins)]
        begin, stop = (part[row] for part in coded.passages())
        assert min(coded.targets[row][0] - begin, stop - 1 - coded.targets[row][1]) == max(margins)


def test_an_answer_longer_than_any_window_is_left_out_of_training(theirs, questions):
    long = replace(questions[-1], answers=((0, questions[-1].context[:400]),))
    coded = encode(theirs, "qa", [questions[0], long], 48, training=True)
    assert (coded.examples.tolist(), coded.left_out) == ([0], 1)
    assert (encode(theirs, "qa", [long], 48).targets == -1).all()


def test_a_long_question_is_cut(theirs, questions):
    asked = replace(questions[5], question="the " * 200)
    for limit, size in ((384, QUESTION), (48, (48 - 3 - (theirs.sep_token == "</s>")) // 2)):
        coded = encode(theirs, "qa", [asked], limit)
        special = coded.special
        assert coded.second[0] == len(special.before) + size + len(special.between)


def test_answers_round_trip(theirs, questions):
    for coded in (encode(theirs, "qa", questions), encode(theirs, "qa", questions, 64, training=True)):
        shown = coded.characters(range(len(coded.ids)), coded.targets)
        for n, (start, end) in zip(coded.examples, shown, strict=True):
            assert questions[n].context[start:end] == questions[n].answers[0][1]
    assert coded.left_out == 0


def test_an_answer_within_a_subword_has_the_whole_subword(theirs):
    context = "some dogs ran there"
    ((spans,),) = encode_texts(theirs, [context])[1:]
    start, end = max(spans, key=lambda span: span[1] - span[0])
    assert end - start > 1
    example = SpanExample("1", "who ?", context, ((end - 1, context[end - 1]),))
    coded = encode(theirs, "qa", [example])
    assert coded.characters([0], coded.targets).tolist() == [[start, end]]


def test_an_answer_that_the_tokenizer_drops_is_no_target():
    tokenizer = published("bert", [SENTENCE] * 3, 120)
    example = SpanExample("1", "who ?", "a cat \u200e sat", ((6, "\u200e"),))
    assert encode(tokenizer, "qa", [example]).targets.tolist() == [[-1, -1]]
    assert encode(tokenizer, "qa", [example], training=True).left_out == 1
    assert encode(tokenizer, "qa", [replace(example, answers=())]).targets.tolist() == [[-1, -1]]


# Batches


def data_of(lengths, **changes):
    return Encoded([np.full(n, 7 + n) for n in lengths], np.zeros(len(lengths), int), **changes)


def test_batches_of_near_length_waste_little_and_are_full():
    lengths = np.random.default_rng(0).integers(15, 91, 3000)
    data, size = data_of(lengths, padded=True), 32
    found, again, other = (coding.batches(data, size, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert sorted(np.concatenate(found)) == list(range(3000))
    assert sorted(map(len, found)) == [3000 % size] + [size] * (3000 // size)
    waste = sum(lengths[rows].max() * len(rows) - lengths[rows].sum() for rows in found)
    assert waste < 0.02 * lengths.sum()
    assert len(epoch_batches(lengths, size, np.random.default_rng(1))) > 1.2 * len(found)
    assert [rows.tolist() for rows in found] == [rows.tolist() for rows in again]
    assert [rows.tolist() for rows in found] != [rows.tolist() for rows in other]


def test_stacked_by_hand():
    ids, mask = stacked([np.array([5, 6]), np.array([7, 8, 9])], filler=1)
    assert ids.tolist() == [[5, 6, 1], [7, 8, 9]]
    assert mask.tolist() == [[1, 1, 0], [1, 1, 1]]
    same, none = stacked([np.array([5, 6]), np.array([7, 8])], filler=1)
    assert (same.tolist(), none) == ([[5, 6], [7, 8]], None)
    assert stacked([np.array([5, 6])], multiple=2)[1] is None
    longer, mask = stacked([np.array([5, 6])], filler=1, multiple=3)
    assert (longer.tolist(), mask.tolist()) == ([[5, 6, 1]], [[1, 1, 0]])


@pytest.mark.parametrize(("padded", "length"), [(True, 8), (False, 3)])
def test_a_gpu_reads_padded_sequences_of_multiples_of_8(monkeypatch, padded, length):
    monkeypatch.setattr(coding, "to_device", lambda tensor, device: tensor)
    data = data_of([3, 3], padded=padded)
    ids, told = coding.inputs(data, np.array([0, 1]), torch.device("cuda"))
    assert ids.shape == (2, length)
    assert ("attention_mask" in told) == padded


@pytest.mark.parametrize("told", [True, False])
def test_inputs(told):
    data = data_of([2, 3], second=np.array([1, 2]) if told else None)
    ids, found = coding.inputs(data, np.array([1, 0]), torch.device("cpu"))
    assert ids.tolist() == [[10, 10, 10], [9, 9, 0]]
    assert found["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    assert ("second" in found) == told
    if told:
        assert found["second"].tolist() == [2, 1]


# Models and predictions


@pytest.fixture(scope="module", params=KINDS)
def whole_words(request):
    return published(request.param, [SENTENCE] * 3, 120)


@pytest.fixture(scope="module")
def pairs():
    """60 pairs of very different lengths; the label is whether the two begin with the same word."""
    rng = np.random.default_rng(0)
    sides = [[text(rng, rng.integers(2, 20)) for _ in "ab"] for _ in range(60)]
    return [PairExample(str(i), a, b, int(a.split()[0] == b.split()[0])) for i, (a, b) in enumerate(sides)]


def model_for(whole_words, task, **options):
    encoder = shapes.reading(whole_words)
    for weight in encoder.parameters():
        weight.data.mul_(5 if weight.ndim > 1 else 1)  # so that what is read makes a difference
    return TaskModel(encoder, task, seed=1, **options).eval()


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


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_padding_changes_no_logits_of_pairs(whole_words, pairs, pooling, monkeypatch):
    model, found = model_for(whole_words, "nli", pooling=pooling), []
    data = encode(whole_words, "nli", pairs, 128)
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


def test_padding_changes_no_answers_and_no_loss(whole_words, questions):
    model = model_for(whole_words, "qa")
    data = encode(whole_words, "qa", questions, 96, training=True)
    one_by_one = predict(model, replace(data, padded=False), batch_size=1)
    assert predict(model, data, batch_size=8).tolist() == one_by_one.tolist()
    rows = np.array([0, len(data.ids) - 1])
    assert len({len(data.ids[row]) for row in rows}) == 2
    with torch.no_grad():
        together, alone = (
            [task_loss(model(ids, **told), torch.from_numpy(data.targets[some]))
             for some in parts for ids, told in [coding.inputs(data, some, torch.device("cpu"))]]
            for parts in ([rows], [rows[:1], rows[1:]])
        )  # fmt: skip
    assert together[0].item() == pytest.approx(np.mean([x.item() for x in alone]), abs=1e-5)


def test_predictions_in_bfloat16_agree_with_float32(whole_words, pairs):
    model, data, seen = model_for(whole_words, "nli"), encode(whole_words, "nli", pairs, 96), []
    model.output.register_forward_hook(lambda *given: seen.append(given[-1]))
    predict(model, data)
    model.output[-1].bias.data -= seen.pop().mean(0)  # so that no label is always the best
    full, half = (predict(model, data, precision=p) for p in ("float32", "bfloat16"))
    assert [logits.dtype for logits in seen] == [torch.float32, torch.bfloat16]
    assert len(set(full.tolist())) > 1
    assert np.mean(full == half) >= 0.9


def test_segments_reach_a_model_that_knows_two(whole_words):
    model, two = model_for(whole_words, "nli"), whole_words.sep_token == "[SEP]"
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


# Published questions

XQUAD = ("ar", "de", "el", "en", "es", "hi", "ro", "ru", "th", "tr", "vi", "zh")


@pytest.fixture
def xquad(data, data_name):
    """XQuAD, or a sample of it, in every language."""
    step = 20 if data_name == "published" else 1
    return {language: tasks.load("xquad", "test", language, data)[::step] for language in XQUAD}


@pytest.mark.parametrize("kind", KINDS)
def test_answers_of_xquad_survive_in_every_language(xquad, kind):
    sample = [e.question for side in xquad.values() for e in side]
    alphabet = sorted({c for side in xquad.values() for e in side for c in e.context})
    tokenizer = published(kind, [*sample, "".join(alphabet)], 4000)
    exact = {}
    for language, side in xquad.items():
        coded = encode(tokenizer, "qa", side, 256, training=True)
        assert coded.left_out == 0, language
        assert max(coded.lengths) <= 256
        shown = coded.characters(range(len(coded.ids)), coded.targets)
        same = []
        for row, (example, (start, end)) in enumerate(zip(side, shown, strict=True)):
            at, answer = example.answers[0]
            assert start <= at + len(answer) - len(answer.lstrip()), example.id
            assert end >= at + len(answer.rstrip()), example.id
            for place in coded.targets[row] - coded.second[row]:  # none at its ends that is not needed
                first, last = coded.spans[row][place]
                assert first < at + len(answer), example.id
                assert last > at, example.id
            same.append(normalize_answer(example.context[start:end]) == normalize_answer(answer))
        exact[language] = np.mean(same)
    assert min(exact.values()) >= 0.9  # Thai answers may begin or end within a subword
    assert {language for language, share in exact.items() if share < 1} <= {"th"}
