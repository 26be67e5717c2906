"""Scores worked by hand, their aggregates, the baselines, and `xlt score` on files in official formats."""

import argparse
import gzip
import json
from itertools import pairwise

import numpy as np
import pytest

from xltlib import StudyError, evaluation
from xltlib.data.records import SpanExample
from xltlib.data.tasks import SETS, load
from xltlib.evaluation import (
    accuracy_scores,
    confusion,
    exact_match,
    f1,
    majority_accuracy,
    ngram_predictions,
    normalize_answer,
    one_sentence_accuracy,
    qa_scores,
    recall_by_class,
    retrieval_scores,
    score_files,
    tagging_f1,
    tagging_scores,
    xtreme_scores,
)

MLQA_LANGUAGES = ["ar", "de", "en", "es", "hi", "vi", "zh"]


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
    assert normalize_answer(text, language, style) == expected


@pytest.mark.parametrize("style", ["squad", "mlqa"])
@pytest.mark.parametrize("language", MLQA_LANGUAGES)
def test_case_and_outer_punctuation_do_not_count_on_real_answers(data_dir, language, style):
    for example in load("mlqa", "dev", language, data_dir)[:200]:
        answer = example.answers[0][1]
        assert exact_match(f" {answer.upper()}!", [answer], language, style) == 1 or "ß" in answer


def test_unknown_style_or_language():
    with pytest.raises(StudyError, match="'bleu' is not known; expected mlqa or squad"):
        normalize_answer("a", "en", "bleu")
    with pytest.raises(StudyError, match="knows ar, de, en, es, hi, vi, zh, not 'ru'; use the style squad"):
        normalize_answer("a", "ru", "mlqa")


def test_f1_by_hand():
    # prediction: quick brown fox; answer: brown fox jumps high: 2 common words, 2/3 and 2/4 -> 4/7
    assert f1("the quick brown fox", ["brown fox jumps high"]) == pytest.approx(4 / 7)
    assert f1("the quick brown fox", ["brown fox jumps high", "Quick brown fox!"]) == 1
    assert f1("b b b", ["b b"]) == pytest.approx(0.8)  # counted with repeats: 2 of 3 and 2 of 2
    assert f1("cat", ["dog"]) == 0
    # 我爱北京 against 北京: as one word nothing is common in SQuAD's reading, in MLQA's 2/4 and 2/2
    assert f1("我爱北京", ["北京"], "zh", "squad") == 0
    assert f1("我爱北京", ["北京"], "zh", "mlqa") == pytest.approx(2 / 3)


def test_empty_answers_match_but_share_no_word():
    assert exact_match("the", ["a"]) == 1
    assert f1("the", ["a"]) == 0


def test_f1_is_symmetric_and_bounded(data_dir):
    examples = load("xquad", "test", "ru", data_dir)[:300]
    for a, b in pairwise(examples):
        x, y = a.answers[0][1], b.answers[0][1]
        assert f1(x, [y]) == pytest.approx(f1(y, [x]))
        assert exact_match(x, [y]) <= 1
        assert 0 <= f1(x, [y]) <= 1


def test_scores_per_question():
    examples = [
        SpanExample("p", "?", "one two", ((0, "one"),)),
        SpanExample("q", "?", "one two", ((0, "one two"),)),
    ]
    scores = qa_scores(examples, {"q": "two", "p": "One."})
    assert scores["exact_match"].tolist() == [1, 0]
    assert scores["f1"] == pytest.approx([1, 2 / 3])
    with pytest.raises(StudyError, match="1 of 2 ids have no prediction, first 'q'"):
        qa_scores(examples, {"p": "one"})
    with pytest.raises(StudyError, match="1 ids are not in the gold file, first 'r'"):
        qa_scores(examples, {"p": "", "q": "", "r": ""})
    with pytest.raises(StudyError, match="question p: no gold answer"):
        qa_scores([SpanExample("p", "?", "one", ())], {"p": "one"})


def test_accuracy_confusion_and_recall():
    gold, predicted = [0, 0, 1, 1, 1], [0, 1, 1, 1, 0]
    assert accuracy_scores(gold, predicted).tolist() == [1, 0, 1, 1, 0]
    table = confusion(gold, predicted, 3)
    assert table.tolist() == [[1, 1, 0], [1, 2, 0], [0, 0, 0]]
    assert recall_by_class(table)[:2] == pytest.approx([1 / 2, 2 / 3])
    assert np.isnan(recall_by_class(table)[2])
    with pytest.raises(StudyError, match="2 predicted labels for 3 gold labels"):
        accuracy_scores([0, 1, 2], [0, 1])


def test_tagging():
    gold = [["NOUN", "NOUN", "VERB"], ["SYM", "SYM"]]
    predicted = [["NOUN", "VERB", "VERB"], ["SYM", "NOUN"]]
    scores = tagging_scores(gold, predicted)
    assert scores["correct"].tolist() == [2, 1]
    assert scores["words"].tolist() == [3, 2]
    # gold: NOUN[0:2] VERB[2:3] SYM[0:1] SYM[1:2]; predicted: NOUN[0:1] VERB[1:3] SYM[0:1] NOUN[1:2]
    assert tagging_f1(gold, predicted) == pytest.approx(2 * 1 / 8)  # one in common
    assert tagging_f1(gold, gold) == 1
    assert tagging_f1([["X"]], [["NOUN"]]) == 0
    with pytest.raises(StudyError, match="differ in the number"):
        tagging_f1(gold, predicted[:1])


def test_retrieval_in_both_directions():
    similarity = np.array([[0.9, 0.1, 0.8], [0.2, 0.3, 0.4], [0.1, 0.2, 0.7]])
    scores = retrieval_scores(similarity)
    assert scores["forward"].tolist() == [1, 0, 1]  # row 1 is nearest to column 2
    assert scores["backward"].tolist() == [1, 1, 0]  # column 2 is nearest to row 0
    assert retrieval_scores(np.zeros((4, 4)))["forward"].mean() == 0.25
    for bad in (np.zeros((2, 3)), np.full((2, 2), np.nan)):
        with pytest.raises(StudyError, match="square and finite"):
            retrieval_scores(bad)


def test_xtreme_aggregation_by_hand():
    scores = {
        "xnli": {"en": {"accuracy": 80}, "de": {"accuracy": 70}, "zh": {"accuracy": 60}},
        "mlqa": {"en": {"exact_match": 60, "f1": 80}, "de": {"exact_match": 40, "f1": 50}},
    }
    table = xtreme_scores(scores)
    assert table["xnli"] == {"all": 70, "targets": 65}
    assert table["mlqa"] == {"all": 57.5, "targets": 45}  # mean of 70 and 45
    assert table["overall"] == {"all": 63.75, "targets": 55}
    assert np.isnan(xtreme_scores({"xnli": {"en": {"accuracy": 80}}})["xnli"]["targets"])


def test_majority():
    assert majority_accuracy([2, 2, 0], [2, 0, 0, 0]) == 0.25


def test_ngrams_find_a_shortcut_and_only_a_shortcut():
    rng = np.random.default_rng(0)
    words = np.array(["cat", "dog", "sun", "tree", "red", "blue", "big", "old"])
    texts = [" ".join(rng.choice(words, 6)) for _ in range(600)]
    labels = rng.integers(0, 3, 600)
    marked = [
        f"{text} {('indeed', 'perhaps', 'never')[label]}" for text, label in zip(texts, labels, strict=True)
    ]
    assert one_sentence_accuracy(marked[:400], labels[:400], marked[400:], labels[400:]) > 0.95
    plain = one_sentence_accuracy(texts[:400], labels[:400], texts[400:], labels[400:])
    assert abs(plain - 1 / 3) < 0.12  # three standard errors of 200 guesses are 0.1
    assert (ngram_predictions(texts, labels, texts) == ngram_predictions(texts, labels, texts)).all()
    with pytest.raises(StudyError, match="2 training texts, but 1 labels"):
        ngram_predictions(["a", "b"], [0], ["c"])


def test_hypotheses_give_english_nli_away(data_dir):
    train, dev = load("taxinli", "train", "en", data_dir)[:3000], load("xnli", "dev", "en", data_dir)
    labels, gold = [e.label for e in train], [e.label for e in dev]
    hypotheses = one_sentence_accuracy([e.text_b for e in train], labels, [e.text_b for e in dev], gold)
    premises = one_sentence_accuracy([e.text_a for e in train], labels, [e.text_a for e in dev], gold)
    assert hypotheses > 0.43  # 0.50 from all 10,071 pairs
    assert premises == pytest.approx(1 / 3)  # each premise stands there once with each label


def run(tmp_path, capsys, *arguments):
    parser = argparse.ArgumentParser()
    evaluation.register(parser.add_subparsers())
    args = parser.parse_args(["score", *map(str, arguments)])
    assert args.func(args) == 0
    return json.loads(capsys.readouterr().out)


def write(path, lines):
    path.write_text(lines if isinstance(lines, str) else "\n".join(map(str, lines)) + "\n", encoding="utf-8")
    return path


def test_score_labels(tmp_path, capsys):
    gold = write(tmp_path / "gold", ["neutral", "entailment", "contradiction", "neutral"])
    predicted = write(tmp_path / "pred", "neutral\r\nentailment\r\nneutral\r\nentailment\r\n")
    expected = {"task": "xnli", "language": "de", "examples": 4, "accuracy": 50}
    assert run(tmp_path, capsys, "xnli", gold, predicted, "--language", "de") == expected
    full = run(tmp_path, capsys, "xnli", gold, predicted, "--language", "de", "--per-example")
    assert full == expected | {"scores": {"0": 1, "1": 1, "2": 0, "3": 0}}


def test_score_gold_in_every_official_form(tmp_path):
    names = write(tmp_path / "pred", ["neutral", "entailment"])
    for content in (
        "a\tb\tneutral\nc\td\tentailment\n",
        "genre\tlabel\nfiction\tneutral\nfiction\tentailment\n",
        "sentence1\tsentence2\tlabel\na\tb\tneutral\nc\td\tentailment\n",
    ):
        assert score_files("xnli", write(tmp_path / "gold", content), names, "en")["accuracy"] == 100
    gold = write(tmp_path / "gold", "id\tsentence1\tsentence2\tlabel\n7\ta\tb\t1\n9\tc\td\t0\n")
    assert score_files("pawsx", gold, write(tmp_path / "pred", '{"9": 1, "7": "1"}'), "de")["scores"] == {
        "7": 1,
        "9": 0,
    }
    rows = [{"idx": 3, "label": 1}, {"idx": 4, "label": 0}]
    gold = write(tmp_path / "gold", "\n".join(map(json.dumps, rows)))
    for predicted in ("1\n1\n", '{"label": 1}\n{"label": 1}\n', '{"3": 1, "4": 1}'):
        result = score_files("xcopa", gold, write(tmp_path / "pred", predicted), "sw")
        assert (result["accuracy"], result["scores"]) == (50, {"3": 1, "4": 0})


def test_score_answers(tmp_path, capsys):
    questions = [("q1", "Der Hund"), ("q2", "die Katze")]
    qas = [{"id": k, "question": "?", "answers": [{"answer_start": 0, "text": t}]} for k, t in questions]
    articles = [{"paragraphs": [{"context": "Der Hund", "qas": qas}]}]
    predicted = write(tmp_path / "pred.json", json.dumps({"q1": "Hund", "q2": "eine graue Katze"}))
    for content in ({"version": 1.0, "data": articles}, articles):
        gold = write(tmp_path / "gold.json", json.dumps(content))
        result = run(tmp_path, capsys, "mlqa", gold, predicted, "--language", "de", "--per-example")
        assert (result["exact_match"], result["f1"]) == (50, pytest.approx(100 * (1 + 2 / 3) / 2))
        assert result["scores"]["q1"] == {"exact_match": 1, "f1": 1}
    result = run(tmp_path, capsys, "mlqa", gold, predicted, "--language", "de", "--style", "squad")
    assert (result["exact_match"], "scores" in result) == (0, False)


@pytest.mark.parametrize(
    ("task", "gold", "predicted", "language", "reason"),
    [
        ("xnli", "neutral\nentailment\n", "neutral\n", "de", "pred: 1 labels for 2 gold labels"),
        (
            "xnli",
            "neutral\nentailment\n",
            "neutral\n1\n",
            "de",
            "pred:2: label '1' is not known; expected entail",
        ),
        ("xnli", "a\tb\nc\td\n", "neutral\nneutral\n", "de", "gold:1: label 'b' is not known"),
        ("xnli", "neutral\nneutral\n", "neutral\nneutral\n", "de", "gold: all 2 gold labels are the same"),
        ("xnli", "neutral\nentailment\n", "neutral\nneutral\n", "ja", "xnli has no language 'ja'; it has ar"),
        ("pawsx", "0\n1\n", '{"0": 1}', "de", "pred: 1 of 2 ids have no prediction, first '1'"),
        (
            "pawsx",
            "0\n1\n",
            '{"0": 1, "1": 0, "2": 0}',
            "de",
            "pred: 1 ids are not in the gold file, first '2'",
        ),
        ("pawsx", "0\n1\n", '{"0": 1, "1": 2}', "de", "pred: id '1': label 2 is not known"),
        ("pawsx", "0\n1\n", "{", "de", "pred:1: not JSON"),
        ("mlqa", "[]", "{}", "de", "gold: no question"),
        ("xquad", "[]", "[]", "de", "pred: expected one JSON object"),
        ("xquad", "[]", '{"q": null}', "de", "pred: the answer to 'q' is None, not a text"),
        ("mlqa", "{}", '{"q": "a"}', "de", "gold: not in SQuAD's form"),
    ],
)
def test_score_refusals(tmp_path, task, gold, predicted, language, reason):
    with pytest.raises(StudyError, match=reason):
        score_files(task, write(tmp_path / "gold", gold), write(tmp_path / "pred", predicted), language)


def test_score_refuses_gold_without_answers_and_a_style_without_answers(tmp_path, data_dir):
    gold = data_dir / "tydiqa/tydiqa-goldp-v1.1-dev/tydiqa.goldp.ru.dev.json.gz"
    with pytest.raises(StudyError, match=r"question russian-.*: no answer; XTREME's test files"):
        score_files("tydiqa", gold, write(tmp_path / "pred", "{}"), "ru")
    with pytest.raises(StudyError, match="xnli has no answer texts to normalise"):
        score_files("xnli", gold, gold, "ru", style="mlqa")


def test_score_real_files_in_every_language(data_dir, tmp_path):
    for language in SETS["xquad"].languages:
        gold = data_dir / f"xquad/xquad.{language}.json.gz"
        answers = {e.id: e.answers[0][1] for e in load("xquad", "test", language, data_dir)}
        result = score_files("xquad", gold, write(tmp_path / "pred", json.dumps(answers)), language)
        assert (result["exact_match"], result["f1"], result["examples"]) == (100, 100, 1190)
    labels = gzip.decompress((data_dir / "xnli/test.labels.tsv.gz").read_bytes()).decode().split("\n")[1:-1]
    predicted = write(tmp_path / "pred", [line.split("\t")[1] for line in labels])
    assert score_files("xnli", data_dir / "xnli/test.labels.tsv.gz", predicted, "sw")["accuracy"] == 100
