"""Scores of predictions, per example first, then their aggregates; and the command `xlt score`."""

from __future__ import annotations

import json
import re
import string
import unicodedata
from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import numpy as np

from xltlib import StudyError
from xltlib.baselines import majority_accuracy, ngram_predictions, one_sentence_accuracy
from xltlib.data.records import SpanExample
from xltlib.data.task_files import jsonl_rows, squad_rows
from xltlib.data.tasks import SETS
from xltlib.textfile import read_lines, read_text

__all__ = [
    "accuracy_scores",
    "confusion",
    "exact_match",
    "f1",
    "majority_accuracy",
    "ngram_predictions",
    "normalize_answer",
    "one_sentence_accuracy",
    "qa_scores",
    "recall_by_class",
    "retrieval_scores",
    "score_files",
    "tagging_f1",
    "tagging_scores",
    "xtreme_scores",
]

STYLES = ("mlqa", "squad")
OFFICIAL_STYLE = {"mlqa": "mlqa", "xquad": "squad", "tydiqa": "squad"}  # XTREME, evaluate.py
LABEL_TASKS = ("xnli", "pawsx", "xcopa")

# What MLQA's script (mlqa_evaluation_v1.py) takes out as articles; Hindi and Chinese have none.
ARTICLES = {
    "de": "ein eine einen einem eines einer der die das den dem des",
    "en": "a an the",
    "es": "un una unos unas el la los las",
    "hi": "",
    "vi": "của là cái chiếc những",
    "zh": "",
}
MLQA_LANGUAGES = (*ARTICLES, "ar")


def normalize_answer(text: str, language: str = "en", style: str = "squad") -> str:
    """Return an answer as the official scripts compare it: lower case, without punctuation and articles.

    `"squad"` (SQuAD 1.1; XQuAD and TyDiQA-GoldP in every language) knows ASCII punctuation and English
    articles; `"mlqa"` all punctuation and the articles of seven languages, and it sets Han characters apart.
    """
    if style not in STYLES:
        raise StudyError(f"style {style!r} is not known; expected {' or '.join(STYLES)}")
    if style == "mlqa" and language not in MLQA_LANGUAGES:
        known = ", ".join(sorted(MLQA_LANGUAGES))
        raise StudyError(f"MLQA's normalisation knows {known}, not {language!r}; use the style squad")
    mlqa = style == "mlqa"
    text = "".join(char for char in text.lower() if not _is_punctuation(char, mlqa))
    text = _without_articles(text, language if mlqa else "en")
    if mlqa and language == "zh":
        text = re.sub("([\u4e00-\u9fa5])", r" \1 ", text)
    return " ".join(text.split())


def _is_punctuation(char: str, all_scripts: bool) -> bool:
    return char in string.punctuation or (all_scripts and unicodedata.category(char).startswith("P"))


def _without_articles(text: str, language: str) -> str:
    """Replace articles by a space; the Arabic one is written with its word, and MLQA removes it anywhere."""
    if language == "ar":
        return text.replace("ال", " ")
    words = "|".join(ARTICLES[language].split())
    return re.sub(rf"\b({words})\b", " ", text) if words else text


def exact_match(prediction: str, answers: Sequence[str], language: str = "en", style: str = "squad") -> float:
    """Return 1 if the prediction is one of the answers after normalisation, else 0."""
    predicted = normalize_answer(prediction, language, style)
    return float(any(predicted == normalize_answer(answer, language, style) for answer in answers))


def f1(prediction: str, answers: Sequence[str], language: str = "en", style: str = "squad") -> float:
    """Return the best word overlap F1 (0 to 1) with any answer; two empty texts score 0, as officially."""
    predicted = normalize_answer(prediction, language, style).split()
    best = 0.0
    for answer in answers:
        gold = normalize_answer(answer, language, style).split()
        common = (Counter(predicted) & Counter(gold)).total()
        if common:
            precision, recall = common / len(predicted), common / len(gold)
            best = max(best, 2 * precision * recall / (precision + recall))
    return best


def qa_scores(
    examples: Sequence[SpanExample], predictions: dict[str, str], language: str = "en", style: str = "squad"
) -> dict[str, np.ndarray]:
    """Return `exact_match` and `f1`, each (N,) in the order of `examples`, for predictions by id."""
    _check_ids(predictions, [example.id for example in examples], "predictions")
    scores = {"exact_match": np.zeros(len(examples)), "f1": np.zeros(len(examples))}
    for index, example in enumerate(examples):
        answers = [text for _, text in example.answers]
        if not answers:
            raise StudyError(f"question {example.id}: no gold answer to score against")
        prediction = predictions[example.id]
        scores["exact_match"][index] = exact_match(prediction, answers, language, style)
        scores["f1"][index] = f1(prediction, answers, language, style)
    return scores


def accuracy_scores(gold: Sequence[int], predicted: Sequence[int]) -> np.ndarray:
    """Return 1 where the predicted label is the gold one, else 0: (N,) float."""
    gold, predicted = np.asarray(gold), np.asarray(predicted)
    if gold.shape != predicted.shape:
        raise StudyError(f"{predicted.shape[0]} predicted labels for {gold.shape[0]} gold labels")
    return (gold == predicted).astype(float)


def confusion(gold: Sequence[int], predicted: Sequence[int], classes: int) -> np.ndarray:
    """Return the (classes, classes) table of counts: row = gold label, column = predicted label."""
    table = np.zeros((classes, classes), dtype=int)
    np.add.at(table, (np.asarray(gold), np.asarray(predicted)), 1)
    return table


def recall_by_class(table: np.ndarray) -> np.ndarray:
    """Return each gold class's share of right predictions in a `confusion` table; nan for an absent class."""
    totals = table.sum(axis=1)
    return np.where(totals > 0, np.diag(table) / np.maximum(totals, 1), np.nan)


def tagging_scores(
    gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]
) -> dict[str, np.ndarray]:
    """Return the numbers of `words` and `correct` tags per sentence, each (N,); accuracy: ratio of sums."""
    _check_tags(gold, predicted)
    correct = [sum(g == p for g, p in zip(a, b, strict=True)) for a, b in zip(gold, predicted, strict=True)]
    return {"correct": np.array(correct), "words": np.array([len(tags) for tags in gold])}


def tagging_f1(gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> float:
    """Return XTREME's F1 of part-of-speech tags (0 to 1).

    XTREME scores tags with seqeval, which takes them for chunks: neighbours with one tag are a single unit,
    right only as a whole; tags that begin with S (SCONJ, SYM) are units of one word.
    """
    _check_tags(gold, predicted)
    units = [[_chunks(tags, index) for index, tags in enumerate(side)] for side in (gold, predicted)]
    a, b = (set().union(*side) for side in units)
    return 2 * len(a & b) / (len(a) + len(b)) if a & b else 0.0


def _chunks(tags: Sequence[str], sentence: int) -> set[tuple[int, int, int, str]]:
    chunks, start = set(), 0
    for tag, run in groupby(tags):
        end = start + len(list(run))
        step = 1 if tag.startswith("S") else end - start
        chunks |= {(sentence, left, left + step, tag) for left in range(start, end, step)}
        start = end
    return chunks


def _check_tags(gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> None:
    if [len(tags) for tags in gold] != [len(tags) for tags in predicted]:
        raise StudyError(
            "gold and predicted tags differ in the number of sentences or of words in a sentence"
        )


def retrieval_scores(similarity: np.ndarray) -> dict[str, np.ndarray]:
    """Return 1 where a sentence's nearest one is its translation, in both directions, each (N,).

    `similarity` is (N, N), higher is nearer; row i and column i are translations; of equals the first wins.
    """
    if (
        similarity.ndim != 2
        or similarity.shape[0] != similarity.shape[1]
        or not np.isfinite(similarity).all()
    ):
        raise StudyError(f"similarity must be square and finite, got shape {similarity.shape}")
    order = np.arange(len(similarity))
    return {
        "forward": (similarity.argmax(axis=1) == order).astype(float),
        "backward": (similarity.argmax(axis=0) == order).astype(float),
    }


def xtreme_scores(scores: dict[str, dict[str, dict[str, float]]], source: str = "en") -> dict[str, dict]:
    """Aggregate `scores[task][language][metric]` as XTREME does.

    A language's score is the mean of its metrics (EM and F1 for question answering), a task's the plain mean
    over its languages, the overall score the mean over tasks. `all` counts the source language, as XTREME
    does; `targets` leaves it out.
    """
    table = {}
    for task, languages in scores.items():
        means = {language: float(np.mean(list(metrics.values()))) for language, metrics in languages.items()}
        targets = [value for language, value in means.items() if language != source]
        table[task] = {
            "all": float(np.mean(list(means.values()))),
            "targets": float(np.mean(targets)) if targets else float("nan"),
        }
    overall = {key: float(np.mean([row[key] for row in table.values()])) for key in ("all", "targets")}
    return table | {"overall": overall}


def score_files(
    task: str, gold: Path | str, predictions: Path | str, language: str, style: str | None = None
) -> dict:
    """Score a file of predictions against a gold file, both in the official formats.

    Gold is the data set's own file or one label a line; predictions are one label a line, JSON lines with
    `label`, or a JSON object of id to label or answer; where gold has no ids, they are row numbers from 0.
    Returns the official metrics in percent, and `scores` (0 to 1) by id.
    """
    if style and task not in OFFICIAL_STYLE:
        raise StudyError(f"{task} has no answer texts to normalise; style is for {', '.join(OFFICIAL_STYLE)}")
    if language not in SETS[task].languages:
        raise StudyError(f"{task} has no language {language!r}; it has {', '.join(SETS[task].languages)}")
    if task in OFFICIAL_STYLE:
        metrics, scores = _score_answers(gold, predictions, language, style or OFFICIAL_STYLE[task])
    else:
        metrics, scores = _score_labels(gold, predictions, SETS[task].labels)
    percent = {name: 100 * float(values.mean()) for name, values in metrics.items()}
    return {"task": task, "language": language, "examples": len(scores), **percent, "scores": scores}


def _score_answers(gold: Path | str, predictions: Path | str, language: str, style: str) -> tuple[dict, dict]:
    answers, examples = _predicted_answers(Path(predictions)), _gold_spans(Path(gold))
    metrics = qa_scores(examples, answers, language, style)
    rows = zip(*(values.tolist() for values in metrics.values()), strict=True)
    ids = (example.id for example in examples)
    return metrics, {key: dict(zip(metrics, row, strict=True)) for key, row in zip(ids, rows, strict=True)}


def _score_labels(gold: Path | str, predictions: Path | str, names: dict[str, int]) -> tuple[dict, dict]:
    labels = _gold_labels(Path(gold), names)
    predicted = _predicted_labels(Path(predictions), list(labels), names)
    hits = accuracy_scores(list(labels.values()), [predicted[key] for key in labels])
    return {"accuracy": hits}, dict(zip(labels, map(int, hits), strict=True))


def _gold_spans(path: Path) -> list[SpanExample]:
    examples = []
    for place, row in squad_rows(path):
        answers = tuple((start, text) for start, text in row["answers"] if text)
        if not answers:
            raise StudyError(
                f"{place}: no answer; XTREME's test files have theirs removed, use the original release"
            )
        examples.append(SpanExample(row["id"], row["question"], row["context"], answers))
    if not examples:
        raise StudyError(f"{path}: no question in it")
    repeated = [key for key, count in Counter(example.id for example in examples).items() if count > 1]
    if repeated:
        raise StudyError(f"{path}: question id {repeated[0]!r} occurs more than once")
    return examples


def _predicted_answers(path: Path) -> dict[str, str]:
    predictions = _json(path)
    if not isinstance(predictions, dict):
        raise StudyError(f"{path}: expected one JSON object of question id to answer text")
    for key, answer in predictions.items():
        if not isinstance(answer, str):
            raise StudyError(f"{path}: the answer to {key!r} is {answer!r}, not a text")
    return predictions


def _gold_labels(path: Path, names: dict[str, int]) -> dict[str, int]:
    """Read gold labels by id: JSON lines, a table whose label is named or last, or one label a line."""
    lines = read_lines(path)
    if lines[0].startswith("{"):
        labels = {
            str(row["idx"]): _to_label(row.get("label"), names, place) for place, row in jsonl_rows(path)
        }
    else:
        cells = [line.split("\t") for line in lines]
        header = cells[0] if "label" in cells[0] else []
        column = header.index("label") if header else -1
        first = 1 if header else 0
        keys = [row[header.index("id")] if "id" in header else str(i) for i, row in enumerate(cells[first:])]
        places = [f"{path}:{index + first + 1}" for index in range(len(keys))]
        values = [
            _to_label(row[column], names, place) for row, place in zip(cells[first:], places, strict=True)
        ]
        labels = dict(zip(keys, values, strict=True))
    if len(set(labels.values())) == 1 and len(labels) > 1:
        raise StudyError(
            f"{path}: all {len(labels)} gold labels are the same; placeholders of a test set without gold?"
        )
    return labels


def _predicted_labels(path: Path, keys: list[str], names: dict[str, int]) -> dict[str, int]:
    lines = read_lines(path)
    if lines[0].startswith("{") and '"label"' in lines[0] and len(lines) > 1:
        values = [(place, row.get("label")) for place, row in jsonl_rows(path)]
    elif lines[0].startswith("{"):
        by_id = _json(path)
        _check_ids(by_id, keys, str(path))
        return {key: _to_label(by_id[key], names, f"{path}: id {key!r}") for key in keys}
    else:
        values = [(f"{path}:{number}", line) for number, line in enumerate(lines, start=1)]
    if len(values) != len(keys):
        raise StudyError(
            f"{path}: {len(values)} labels for {len(keys)} gold labels; one label a line, in gold order"
        )
    return {key: _to_label(value, names, place) for key, (place, value) in zip(keys, values, strict=True)}


def _to_label(value: object, names: dict[str, int], place: str) -> int:
    """Return a label's integer; NLI labels must be names, because tools number them in different orders."""
    name = str(value).strip().lower()
    if name not in names:
        raise StudyError(f"{place}: label {value!r} is not known; expected {', '.join(names)}")
    return names[name]


def _json(path: Path) -> object:
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise StudyError(f"{path}:{error.lineno}: not JSON: {error.msg}") from None


def _check_ids(predictions: dict, keys: list[str], what: str) -> None:
    missing = [key for key in keys if key not in predictions]
    unknown = sorted(set(predictions) - set(keys))
    if missing:
        raise StudyError(
            f"{what}: {len(missing)} of {len(keys)} ids have no prediction, first {missing[0]!r}"
        )
    if unknown:
        raise StudyError(f"{what}: {len(unknown)} ids are not in the gold file, first {unknown[0]!r}")


def register(subparsers) -> None:
    """Add the command `xlt score`."""
    parser = subparsers.add_parser(
        "score",
        help="score predictions in an official format",
        description="Print the official metrics, in percent, of anybody's predictions as JSON.",
    )
    parser.add_argument("task", choices=(*LABEL_TASKS, *OFFICIAL_STYLE))
    parser.add_argument("gold", help="the data set's file, or one label a line")
    parser.add_argument("predictions", help="one label a line, or JSON of id to label or answer")
    parser.add_argument(
        "--language", required=True, help="language of the text, of the context for questions"
    )
    parser.add_argument(
        "--style", choices=STYLES, help="answer normalisation; default: the task's official one"
    )
    parser.add_argument("--per-example", action="store_true", help="add the score of every example by its id")
    parser.set_defaults(func=_score)


def _score(args) -> int:
    result = score_files(args.task, args.gold, args.predictions, args.language, args.style)
    if not args.per_example:
        del result["scores"]
    print(json.dumps(result, ensure_ascii=False, indent=None if args.per_example else 2))
    return 0
