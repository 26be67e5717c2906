"""Scores of predictions, per example first; cheap baselines that any encoder must beat; and `xlt score`."""

import re
import string
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any
from unicodedata import category

import numpy as np

from xltlib import StudyError
from xltlib.data import formats, tasks
from xltlib.data.tasks import SETS, SpanExample, TaskSet
from xltlib.data.words import simple_tokenize
from xltlib.textfile import excerpt, parse_json, read_lines, read_text

OFFICIAL_STYLE = {"mlqa": "mlqa", "xquad": "squad", "tydiqa": "squad"}  # XTREME, evaluate.py

# What MLQA's script (mlqa_evaluation_v1.py) takes out as articles; Hindi and Chinese have none.
ARTICLES = {
    "ar": "ال",  # a part of its word
    "de": "ein eine einen einem eines einer der die das den dem des",
    "en": "a an the",
    "es": "un una unos unas el la los las",
    "hi": "",
    "vi": "của là cái chiếc những",
    "zh": "",
}


def normalize_answer(text: str, language: str = "en", style: str = "squad") -> str:
    """An answer as the official scripts compare it: lower case, without punctuation and articles.

    `"squad"` (SQuAD 1.1; XQuAD and TyDiQA-GoldP in every language) knows ASCII punctuation and English
    articles; `"mlqa"` all punctuation and the articles of seven languages, and it sets Han characters apart.
    """
    mlqa = style == "mlqa"
    text = text.lower()
    punctuation = {c for c in text if c in string.punctuation or (mlqa and category(c).startswith("P"))}
    text = "".join(char for char in text if char not in punctuation)
    articles = ARTICLES[language if mlqa else "en"].split()
    if mlqa and language == "ar":
        text = text.replace(*articles, " ")
    elif articles:
        text = re.sub(rf"\b({'|'.join(articles)})\b", " ", text)
    if mlqa and language == "zh":
        text = re.sub("([\u4e00-\u9fa5])", r" \1 ", text)
    return " ".join(text.split())


def answer_scores(
    prediction: str, answers: Sequence[str], language: str = "en", style: str = "squad"
) -> tuple[float, float]:
    """Exact match with any answer after normalisation (0 or 1), and the best word overlap F1 (0 to 1).

    Two empty texts match, and have an F1 of 0, as officially.
    """
    predicted, exact, best = normalize_answer(prediction, language, style), 0.0, 0.0
    for answer in answers:
        gold = normalize_answer(answer, language, style)
        exact = max(exact, float(predicted == gold))
        common = (Counter(predicted.split()) & Counter(gold.split())).total()
        if common:
            precision, recall = common / len(predicted.split()), common / len(gold.split())
            best = max(best, 2 * precision * recall / (precision + recall))
    return exact, best


def qa_scores(
    examples: Sequence[SpanExample], texts: Sequence[str], language: str = "en", style: str = "squad"
) -> dict[str, np.ndarray]:
    """`exact_match` and `f1`, each (N,), of the texts that answer the examples, in their order."""
    rows = [
        answer_scores(text, [answer for _, answer in example.answers], language, style)
        for example, text in zip(examples, texts, strict=True)
    ]
    exact, f1 = np.array(rows).T
    return {"exact_match": exact, "f1": f1}


def recall_by_class(gold: Sequence[int], predicted: Sequence[int], classes: int) -> np.ndarray:
    """Each gold class's share of right predictions (classes,); nan for an absent class."""
    totals, right = (np.bincount(gold, hits, classes) for hits in (None, np.equal(gold, predicted)))
    return np.where(totals > 0, right / np.maximum(totals, 1), np.nan)


def tagging_scores(gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> np.ndarray:
    """The share of right labels in each sentence (N,)."""
    both = zip(gold, predicted, strict=True)
    return np.array([sum(g == p for g, p in zip(a, b, strict=True)) / len(a) for a, b in both])


def retrieval_scores(similarity: np.ndarray) -> np.ndarray:
    """1 where a sentence's nearest one is its translation, (N,).

    `similarity` is (N, N), higher is nearer; row i and column i are translations; of equals the first wins.
    """
    return (similarity.argmax(axis=1) == np.arange(len(similarity))).astype(float)


# Baselines

PENALTY = 3e-4  # L2 on the weights, against the mean loss: the held-out best for MultiNLI hypotheses


def majority_accuracy(train_labels: Sequence[int], test_labels: Sequence[int]) -> float:
    """The accuracy on the test labels of always answering the commonest training label."""
    ((majority, _),) = Counter(train_labels).most_common(1)
    return float(np.mean(np.asarray(test_labels) == majority))


def ngram_predictions(
    train_texts: Sequence[str], train_labels: Sequence[int], test_texts: Sequence[str]
) -> np.ndarray:
    """Labels (N,) predicted by multinomial logistic regression on the n-grams of `_ngrams`.

    Each text is a unit vector over the n-grams that at least two training texts have. Given the hypotheses
    alone, or the premises alone, it shows how much of a task needs no pair.
    """
    classes, targets = np.unique(np.asarray(train_labels), return_inverse=True)
    counts = Counter(gram for text in train_texts for gram in set(_ngrams(text)))
    vocabulary = {gram: index for index, gram in enumerate(g for g, n in counts.items() if n > 1)}
    inputs = _vectors(train_texts, vocabulary)
    weights = softmax_regression(inputs, targets, PENALTY)
    return classes[(_vectors(test_texts, vocabulary) @ weights).argmax(axis=1)]


def softmax_regression(inputs: Any, targets: np.ndarray, penalty: float) -> np.ndarray:
    """The weights (V, C) of multinomial logistic regression on inputs (N, V), maybe sparse, and targets (N,).

    The mean loss plus `penalty` / 2 times the sum of squares is minimised by L-BFGS.
    """
    from scipy.optimize import minimize  # takes half a second, and scoring does without

    classes = int(targets.max()) + 1
    one_hot = np.eye(classes)[targets]  # (N, C)

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weights = flat.reshape(-1, classes)  # (V, C)
        logits = inputs @ weights
        logits -= logits.max(axis=1, keepdims=True)
        log_sum = np.log(np.exp(logits).sum(axis=1, keepdims=True))
        value = -np.mean(((logits - log_sum) * one_hot).sum(axis=1)) + penalty / 2 * flat @ flat
        gradient = inputs.T @ (np.exp(logits - log_sum) - one_hot) / len(targets) + penalty * weights
        return value, gradient.ravel()

    start = np.zeros(inputs.shape[1] * classes)
    best = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 100}).x
    return best.reshape(-1, classes)


def _ngrams(text: str) -> Iterator[str]:
    """Words and word pairs, and the trigrams of each word's characters with its edges marked."""
    words = simple_tokenize(text.lower())
    yield from words
    yield from (f"{a} {b}" for a, b in pairwise(words))
    for word in words:
        edged = f"<{word}>"
        yield from (edged[i : i + 3] + "_" for i in range(len(edged) - 2))


def _vectors(texts: Sequence[str], vocabulary: dict[str, int]) -> Any:
    """Unit count vectors, a sparse matrix (N, V + 1); the last column is 1 for every text."""
    from scipy.sparse import csr_matrix

    rows, columns, values = [], [], []
    for row, text in enumerate(texts):
        counts = Counter(vocabulary[gram] for gram in _ngrams(text) if gram in vocabulary)
        norm = np.sqrt(sum(count**2 for count in counts.values())) or 1.0
        rows += [row] * (len(counts) + 1)
        columns += [*counts, len(vocabulary)]
        values += [count / norm for count in counts.values()] + [1.0]
    return csr_matrix((values, (rows, columns)), shape=(len(texts), len(vocabulary) + 1))


# Files of gold and predictions


def score_files(name: str, gold: Path | str, predictions: Path | str, language: str) -> dict:
    """The scores of a file of predictions against a gold file, both in the official formats.

    Gold is the set's own file, of one language or of all, or one label a line. Predictions of labels have any
    of these forms too; those of answers are a JSON object of question id to text. Predictions that carry ids
    are matched by them, others by line. Returns the official metrics in percent, and `scores` (0 to 1) by id;
    ids of gold without any count from 0.

    StudyError, with file and line (or question), finding and expectation, for rows that are not of their
    format, ids that repeat or do not agree, labels that are missing, unknown or all the same in gold.
    """
    task_set, gold, predictions = SETS[name], Path(gold), Path(predictions)
    if language not in task_set.languages:
        raise StudyError(f"{name} has no language {language!r}; it has {', '.join(task_set.languages)}")
    if task_set.task == "qa":
        rows = list(formats.squad_rows(read_lines(gold), gold, "qa"))
        rows = formats.rows_of_language(rows, task_set.codes, language, str(gold))
        # not `tasks.record_of`: the official programs ask for texts alone, wherever they stand
        examples = [SpanExample(**row) for _, row in rows]
        tasks.check_records(examples, [place for place, _ in rows])
        ids = [example.id for example in examples]
        answers = _in_order(ids, _read_answers(predictions, task_set, language), predictions)
        metrics = qa_scores(examples, answers, language.partition("|")[0], OFFICIAL_STYLE[name])
        scores = [dict(zip(metrics, row, strict=True)) for row in np.stack([*metrics.values()], 1).tolist()]
    else:
        ids, labels, places = _read_labels(gold, task_set, language, beside=True)
        formats.check_varied(labels, places)
        ids = ids or [str(index) for index in range(len(labels))]
        own, predicted, _ = _read_labels(predictions, task_set, language)
        if own:
            predicted = _in_order(ids, dict(zip(own, predicted, strict=True)), predictions)
        elif len(predicted) != len(ids):
            expected = "one label a line in gold order expected, or ids"
            raise StudyError(f"{predictions}: {len(predicted)} labels for {len(ids)} gold labels; {expected}")
        metrics = {"accuracy": np.equal(labels, predicted).astype(float)}
        scores = metrics["accuracy"].astype(int).tolist()
    percent = {metric: 100 * float(values.mean()) for metric, values in metrics.items()}
    by_id = dict(zip(ids, scores, strict=True))
    return {"task": name, "language": language, "examples": len(by_id), **percent, "scores": by_id}


def _in_order(ids: Sequence[str], predictions: Mapping[str, Any], path: Path) -> list[Any]:
    """The predictions by id in the order of the gold ids; StudyError where the two do not agree."""
    missing = [key for key in ids if key not in predictions]
    unknown = sorted(predictions.keys() - set(ids))
    if missing:
        first = excerpt(missing[0])
        raise StudyError(f"{path}: {len(missing)} of {len(ids)} ids have no prediction, first {first}")
    if unknown:
        raise StudyError(f"{path}: {len(unknown)} ids are not in the gold file, first {excerpt(unknown[0])}")
    return [predictions[key] for key in ids]


def _read_answers(path: Path, task_set: TaskSet, language: str) -> dict[str, str]:
    answers = parse_json(read_text(path), str(path))
    formats.check(answers, {}, f"{path}:1")
    for key, text in answers.items():
        formats.check(text, str, f"{path}: the answer to {excerpt(key)}")
    rows = [(str(path), {"id": key}) for key in answers]
    own = formats.rows_of_language(rows, task_set.codes, language, str(path))
    return {row["id"]: answers[row["id"]] for _, row in own}


def _read_labels(
    path: Path, task_set: TaskSet, language: str, beside: bool = False
) -> tuple[list[str], list[int], list[str]]:
    """The ids (none where no row has one), labels and places of a file of labels, a table or JSON lines.

    `beside`: whether labels that it lacks may be read from the file of test labels beside it.
    """
    lines, task = read_lines(path), task_set.task
    if lines[0].lstrip().startswith(("{", "[")):
        rows = list(formats.jsonl_rows(lines, path, task))
    else:
        rows = list(formats.tsv_rows(lines, path, task, beside))
    rows = formats.rows_of_language(rows, task_set.codes, language, str(path))
    labels, places = [formats.label_of(*row, task) for row in rows], [place for place, _ in rows]
    if -1 in labels:
        place, row = rows[labels.index(-1)]
        reason = f"label {excerpt(row['label'])} is none" if row.get("label") is not None else "no label"
        raise StudyError(f"{place}: {reason}; expected {', '.join(formats.NAMES[task])}")
    ids = formats.ids_of(rows, ("id", "idx", "pair_id"))
    formats.check_ids(ids, places[: len(ids)])
    return ids, labels, places
