"""The records every task set is read into or generated as, and the order of their labels."""

from __future__ import annotations

from dataclasses import dataclass

# The position of a name is the integer label: XNLI's and PAWS-X's own order.
LABELS = {
    "nli": ("entailment", "neutral", "contradiction"),
    "paraphrase": ("different", "paraphrase"),
}


@dataclass(frozen=True, slots=True)
class PairExample:
    """Two sentences and one label (natural language inference, paraphrase).

    `label` is an index into `LABELS[task]`, or -1 where the set publishes no label.
    """

    id: str
    text_a: str
    text_b: str
    label: int


@dataclass(frozen=True, slots=True)
class SpanExample:
    """One question about a context that contains its answer (extractive question answering).

    `answers` holds `(start, text)` pairs, at least one; `start` counts characters from 0 and
    `context[start:start + len(text)] == text`. Empty only where the set publishes no answers.
    """

    id: str
    question: str
    context: str
    answers: tuple[tuple[int, str], ...]


@dataclass(frozen=True, slots=True)
class ChoiceExample:
    """A premise, what is asked about it ("cause" or "effect"), and the choices.

    `label` is the index of the right choice, or -1 where the set publishes no label.
    """

    id: str
    premise: str
    question: str
    choices: tuple[str, ...]
    label: int


@dataclass(frozen=True, slots=True)
class TaggedSentence:
    """A sentence as syntactic words with one tag and one dependency label each.

    `heads` count words from 1, 0 is the root; `words`, `tags`, `heads` and `deprels` have equal length.
    """

    id: str
    words: tuple[str, ...]
    tags: tuple[str, ...]
    heads: tuple[int, ...]
    deprels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SentencePair:
    """A sentence in the set's language and its English translation (retrieval)."""

    id: str
    source: str
    target: str
