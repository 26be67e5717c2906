"""Scores worked by hand, their aggregates, and the baselines."""

from itertools import pairwise

import numpy as np
import pytest

from xltlib import evaluation
from xltlib.data.tasks import SpanExample, load
from xltlib.evaluation import answer_scores, ngram_predictions


@pytest.mark.parametrize(
    ("text", "language", "style", "expected"),
    [
        ("The  Cat's a\tcat, an_d", "en", "squad", "cats cat and"),
        ("a.the", "en", "squad", "athe"),  # punctuation goes before articles are looked for
        ("Der Hund – „so“", "de", "squad", "der hund – „so“"),  # SQuAD knows neither German nor its quotes
        ("Der Hund – „so“", "de", "mlqa", "hund so"),
        ("derselbe des Einen", "de", "mlqa", "derselbe"),
        ("¿El niño? ¡Los unos!", "es", "mlqa", "niño"),
        ("The $5 = 5€", "en", "mlqa", "5 5€"),  # ASCII symbols are punctuation, others are not
        ("الكتاب، والكتاب", "ar", "mlqa", "كتاب و كتاب"),
        ("यह एक है।", "hi", "mlqa", "यह एक है"),
        ("Của những người là", "vi", "mlqa", "người"),
        ("于1999年，Bonn 市。", "zh", "mlqa", "于 1999 年 bonn 市"),
        ("于1999年，", "zh", "squad", "于1999年，"),
        ("カタ", "zh", "mlqa", "カタ"),  # only Han characters stand apart
    ],
)
def test_normalisation(text, language, style, expected):
    assert evaluation.normalize_answer(text, language, style) == expected


@pytest.mark.parametrize(
    ("given", "exact", "f1"),
    [
        # quick brown fox, brown fox jumps high: 2 common words, 2/3 and 2/4 -> 4/7
        (("the quick brown fox", ["brown fox jumps high"]), 0, 4 / 7),
        (("the quick brown fox", ["brown fox jumps high", "Quick brown fox!"]), 1, 1),
        (("b b b", ["b b"]), 0, 0.8),  # counted with repeats: 2 of 3 and 2 of 2
        (("cat", ["dog"]), 0, 0),
        (("cat", []), 0, 0),
        (("the", ["a"]), 1, 0),  # empty answers match but share no word
        # 我爱北京 against 北京: as one word nothing is common in SQuAD's reading, in MLQA's 2/4 and 2/2
        (("我爱北京", ["北京"], "zh", "squad"), 0, 0),
        (("我爱北京", ["北京"], "zh", "mlqa"), 0, 2 / 3),
    ],
)
def test_answers_by_hand(given, exact, f1):
    assert answer_scores(*given) == (exact, pytest.approx(f1))


def test_answers_of_published_sets(data):
    for language in evaluation.ARTICLES:
        for example in load("mlqa", "dev", language, data)[:100]:
            answer = example.answers[0][1]
            for style in ("squad", "mlqa"):
                exact, _ = answer_scores(f" {answer.upper()}!", [answer], language, style)
                assert exact == 1 or "ß" in answer
    for x, y in pairwise(example.answers[0][1] for example in load("xquad", "test", "ru", data)[:300]):
        exact, f1 = answer_scores(x, [y])
        assert answer_scores(y, [x]) == (exact, pytest.approx(f1))
        assert exact in (0, 1)
        assert 0 <= f1 <= 1


def test_scores_per_question():
    examples = [SpanExample(text, "?", "one two", ((0, text),)) for text in ("one", "one two")]
    scores = evaluation.qa_scores(examples, ["One.", "two"])
    assert scores["exact_match"].tolist() == [1, 0]
    assert scores["f1"] == pytest.approx([1, 2 / 3])


def test_recall_of_each_class():
    recall = evaluation.recall_by_class([0, 0, 1, 1, 1], [0, 1, 1, 1, 0], 3)
    assert recall[:2] == pytest.approx([1 / 2, 2 / 3])
    assert np.isnan(recall[2])


def test_tagging():
    gold = [["NOUN", "NOUN", "VERB"], ["SYM", "SYM"]]
    predicted = [["NOUN", "VERB", "VERB"], ["SYM", "NOUN"]]
    assert evaluation.tagging_scores(gold, predicted).tolist() == [2 / 3, 1 / 2]


def test_retrieval():
    similarity = np.array([[0.9, 0.1, 0.8], [0.2, 0.3, 0.4], [0.1, 0.2, 0.7]])
    assert evaluation.retrieval_scores(similarity).tolist() == [1, 0, 1]  # row 1 is nearest to column 2
    assert evaluation.retrieval_scores(np.zeros((4, 4))).mean() == 0.25


def test_majority():
    assert evaluation.majority_accuracy([2, 2, 0], [2, 0, 0, 0]) == 0.25


def test_ngrams_find_a_shortcut_and_only_a_shortcut():
    rng = np.random.default_rng(0)
    words = np.array(["cat", "dog", "sun", "tree", "red", "blue", "big", "old"])
    texts = [" ".join(rng.choice(words, 6)) for _ in range(600)]
    labels = rng.integers(0, 3, 600)
    words = np.array(["indeed", "perhaps", "never"])[labels]
    marked = [f"{text} {word}" for text, word in zip(texts, words, strict=True)]
    accuracies = [
        (ngram_predictions(some[:400], labels[:400], some[400:]) == labels[400:]).mean()
        for some in (marked, texts)
    ]
    assert accuracies[0] > 0.95
    assert abs(accuracies[1] - 1 / 3) < 0.12  # three standard errors of 200 guesses are 0.1
    assert (ngram_predictions(texts, labels, texts) == ngram_predictions(texts, labels, texts)).all()


def test_hypotheses_give_english_nli_away(data_dir):
    train, dev = load("taxinli", "train", "en", data_dir)[:3000], load("xnli", "dev", "en", data_dir)
    labels, gold = [e.label for e in train], np.array([e.label for e in dev])
    hypotheses = ngram_predictions([e.text_b for e in train], labels, [e.text_b for e in dev])
    premises = ngram_predictions([e.text_a for e in train], labels, [e.text_a for e in dev])
    assert (hypotheses == gold).mean() > 0.43  # 0.50 from all 10,071 pairs
    assert (premises == gold).mean() == pytest.approx(1 / 3)  # each stands there once with each label
