"""Examples as ids: gold spans are exact, answers map back to characters, bad examples are refused."""

from dataclasses import replace

import numpy as np
import pytest

from xltlib import tokenization
from xltlib.encoding import encode
from xltlib.finetuning import scores
from xltlib.params import StudyError
from xltlib.records import PairExample, SpanExample
from xltlib.synthetic import World
from xltlib.synthetic_tasks import task_set
from xltlib.tokenization import CLS, SEP, encode_texts


@pytest.fixture(scope="module")
def examples():
    """Task -> language -> 40 examples."""
    return {task: task_set(World(), task, 40, "train", 0).examples for task in ("nli", "qa")}


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
