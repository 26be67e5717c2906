"""Task examples as a model reads them: ids of one sequence each, and what is to be predicted."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from xltlib import StudyError
from xltlib.data.tasks import LABELS, PairExample, SpanExample
from xltlib.data.tokenization import (
    OWN,
    PreTrainedTokenizerFast,
    Span,
    Specials,
    encode_texts,
    join,
    specials,
)

# as in the published SQuAD scripts (google-research/bert, run_squad.py)
QUESTION = 64  # subwords of a question, at most
STRIDE = 128  # subwords from the start of one window of a long passage to the start of the next, at most


@dataclass(frozen=True)
class Encoded:
    """Sequences of ids (T,), one row each: `[CLS] first [SEP] second [SEP]`, or as the tokenizer has it.

    A passage that is too long for one row has several, its windows.

    targets: (R,) labels, or (R, 2) first and last subword of the answer, -1 where it is not whole in the row.
    second: (R,) index of the first subword of the second segment, which is the passage in QA. spans: for QA
    the characters (start, end) of each of the row's passage subwords. examples: (R,) the example of each row,
    in order; None: one row each. padded: whether sequences of different lengths may share a batch. left_out:
    training examples without a row, because no window holds the answer whole.
    """

    ids: list[np.ndarray]
    targets: np.ndarray
    second: np.ndarray | None = None
    spans: list[Sequence[Span]] | None = None
    special: Specials = OWN
    examples: np.ndarray | None = None
    padded: bool = False
    left_out: int = 0

    @property
    def lengths(self) -> list[int]:
        """Subwords of each row."""
        return [len(ids) for ids in self.ids]

    def passages(self) -> tuple[np.ndarray, np.ndarray]:
        """For QA the first subword of each row's passage and the one after its last, each (R,)."""
        return self.second, self.second + [len(spans) for spans in self.spans]

    def characters(self, rows: Sequence[int], found: np.ndarray) -> np.ndarray:
        """The characters (start, end) of the passage that spans of subwords (N, 2) of some rows cover."""
        out = np.zeros((len(rows), 2), dtype=np.int64)
        for place, row in enumerate(rows):
            first, last = found[place] - self.second[row]
            # SentencePiece has subwords of no character, and marks may stand in another order than letters
            covered = [span for span in self.spans[row][first : last + 1] if span[0] < span[1]]
            if covered:
                out[place] = min(start for start, _ in covered), max(end for _, end in covered)
        return out


def encode(
    tokenizer: PreTrainedTokenizerFast,
    task: str,
    examples: Sequence,
    max_length: int | None = None,
    training: bool = False,
) -> Encoded:
    """Every example with the tokenizer's special tokens, in at most `max_length` subwords (None: no limit).

    Of a longer pair the longer side is shortened from its end, until it fits. A question has at most QUESTION
    subwords; a longer passage is cut into windows that overlap, all of the same length. In training an
    example has one row: the window in which its answer is whole and farthest from both ends. An answer that
    cuts a subword has it as a whole.

    Raises StudyError for an unknown task, a label out of range, an answer that is not in its passage, and a
    `max_length` that leaves no room.
    """
    special = specials(tokenizer)
    around = len(special.before) + len(special.between) + len(special.after)
    if max_length is not None and max_length < around + 2:
        raise StudyError(
            f"max_length {max_length}: expected at least {around + 2}, special tokens are {around}"
        )
    room = None if max_length is None else max_length - around
    if task in LABELS:
        return _encode_pairs(tokenizer, task, examples, special, room)
    if task == "qa":
        return _encode_spans(tokenizer, examples, special, room, training)
    raise StudyError(f"unknown task {task!r}; known: {', '.join([*LABELS, 'qa'])}")


def _encode_pairs(
    tokenizer: PreTrainedTokenizerFast, task: str, examples: Sequence[PairExample], special: Specials,
    room: int | None,
) -> Encoded:  # fmt: skip
    classes = len(LABELS[task])
    wrong = next((e for e in examples if not 0 <= e.label < classes), None)
    if wrong:
        raise StudyError(f"{task}, example {wrong.id}: label {wrong.label} is not one of 0..{classes - 1}")
    first, _ = encode_texts(tokenizer, [e.text_a for e in examples])
    second, _ = encode_texts(tokenizer, [e.text_b for e in examples])
    both = zip(first, second, strict=True)
    pairs = [pair if room is None else shortened(*pair, room) for pair in both]
    return Encoded(
        [join(*pair, special=special) for pair in pairs],
        np.array([e.label for e in examples]),
        np.array([_begin(special, a) for a, _ in pairs]),
        special=special,
        padded=room is not None,
    )


def _begin(special: Specials, first: Sequence[int]) -> int:
    """Where the second segment begins."""
    return len(special.before) + len(first) + len(special.between)


def shortened(first: list[int], second: list[int], room: int) -> tuple[list[int], list[int]]:
    """Two sides of `room` subwords together, at most: the longer one loses its end, then both in turn."""
    half = room // 2
    if len(first) <= room - half:
        return first, second[: room - len(first)]
    if len(second) <= half:
        return first[: room - len(second)], second
    return first[: room - half], second[:half]


def _encode_spans(
    tokenizer: PreTrainedTokenizerFast, examples: Sequence[SpanExample], special: Specials, room: int | None,
    training: bool,
) -> Encoded:  # fmt: skip
    questions, _ = encode_texts(tokenizer, [e.question for e in examples])
    contexts, spans = encode_texts(tokenizer, [e.context for e in examples])
    if room is not None:
        questions = [question[: min(QUESTION, room // 2)] for question in questions]
    ids, targets, second, characters, owners = [], [], [], [], []
    for number, (question, context) in enumerate(zip(questions, contexts, strict=True)):
        size = len(context) if room is None else min(len(context), room - len(question))
        answer = _answer_span(examples[number], spans[number])
        starts = windows(len(context), size)
        if training:
            starts = [] if answer is None else _most_central(starts, size, answer)
        begin = _begin(special, question)
        for start in starts:
            whole = answer is not None and start <= answer[0] and answer[1] < start + size
            ids.append(join(question, context[start : start + size], special=special))
            targets.append([begin - start + place for place in answer] if whole else [-1, -1])
            second.append(begin)
            characters.append(spans[number][start : start + size])
            owners.append(number)
    return Encoded(
        ids,
        np.array(targets, dtype=np.int64).reshape(-1, 2),
        np.array(second, dtype=np.int64),
        characters,
        special,
        np.array(owners, dtype=np.int64),
        padded=room is not None,
        left_out=len(examples) - len(ids) if training else 0,
    )


def windows(length: int, size: int) -> list[int]:
    """Where the windows of `size` subwords over a passage begin: at least half of each is in the next, too.

    All of them are full; the last one is moved back so far that it is.
    """
    if length <= size:
        return [0]
    step = min(STRIDE, max(1, size // 2))
    return [*range(0, length - size, step), length - size]


def _most_central(starts: Sequence[int], size: int, answer: tuple[int, int]) -> list[int]:
    """The window whose ends are farthest from the answer; none where no window holds it whole."""
    margin, start = max((min(answer[0] - s, s + size - 1 - answer[1]), -s) for s in starts)
    return [-start] if margin >= 0 else []


def _answer_span(example: SpanExample, spans: Sequence[Span]) -> tuple[int, int] | None:
    """First and last subword of the first answer; None where there is none, or the tokenizer dropped it."""
    if not example.answers:
        return None
    start, text = example.answers[0]
    inside = [i for i, (a, b) in enumerate(spans) if a < start + len(text) and b > start]
    if inside:
        return inside[0], inside[-1]
    if start >= 0 and example.context.startswith(text, start):
        return None
    raise StudyError(
        f"qa, example {example.id}: no subword of the context lies in the answer {text!r} at {start}"
    )
