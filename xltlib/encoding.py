"""Task examples as a model reads them: ids of one sequence each, and what is to be predicted."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from xltlib.params import StudyError
from xltlib.records import LABELS, PairExample, SpanExample
from xltlib.tokenization import PreTrainedTokenizerFast, encode_texts, join


@dataclass(frozen=True)
class Encoded:
    """Sequences of ids (T,), each one `[CLS] first [SEP] second [SEP]`, and their targets.

    targets: (N,) labels, or (N, 2) first and last subword of the answer. context: for QA the index of the
    first subword of the context; spans: for QA the characters (start, end) of each context subword.
    """

    ids: list[np.ndarray]
    targets: np.ndarray
    context: np.ndarray | None = None
    spans: list[list[tuple[int, int]]] | None = None


def encode(tokenizer: PreTrainedTokenizerFast, task: str, examples: Sequence) -> Encoded:
    """[CLS] first [SEP] second [SEP] for every example; StudyError names one that cannot be encoded."""
    if task in LABELS:
        return _encode_pairs(tokenizer, task, examples)
    if task == "qa":
        return _encode_spans(tokenizer, examples)
    raise StudyError(f"unknown task {task!r}; known: {', '.join([*LABELS, 'qa'])}")


def _encode_pairs(tokenizer: PreTrainedTokenizerFast, task: str, examples: Sequence[PairExample]) -> Encoded:
    classes = len(LABELS[task])
    wrong = next((e for e in examples if not 0 <= e.label < classes), None)
    if wrong:
        raise StudyError(f"{task}, example {wrong.id}: label {wrong.label} is not one of 0..{classes - 1}")
    first, _ = encode_texts(tokenizer, [e.text_a for e in examples])
    second, _ = encode_texts(tokenizer, [e.text_b for e in examples])
    return Encoded(
        [join(a, b) for a, b in zip(first, second, strict=True)], np.array([e.label for e in examples])
    )


def _encode_spans(tokenizer: PreTrainedTokenizerFast, examples: Sequence[SpanExample]) -> Encoded:
    questions, _ = encode_texts(tokenizer, [e.question for e in examples])
    contexts, spans = encode_texts(tokenizer, [e.context for e in examples])
    starts = np.array([len(q) + 2 for q in questions])
    targets = [_answer_span(e, span) for e, span in zip(examples, spans, strict=True)]
    ids = [join(q, c) for q, c in zip(questions, contexts, strict=True)]
    return Encoded(ids, np.array(targets).reshape(-1, 2) + starts[:, None], starts, spans)


def _answer_span(example: SpanExample, spans: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """First and last subword of the first answer."""
    start, text = example.answers[0]
    inside = [i for i, (a, b) in enumerate(spans) if a < start + len(text) and b > start]
    if not inside:
        raise StudyError(
            f"qa, example {example.id}: no subword of the context lies in the answer {text!r} at {start}"
        )
    return inside[0], inside[-1]
