"""What an aligner is given: its settings, and a parallel text as numbers."""

import math
from array import array
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from xltlib import StudyError
from xltlib.alignment.links import check_size

Pairs = Iterable[tuple[Sequence[str], Sequence[str]]]


@dataclass(frozen=True)
class Aligner:
    """Settings of one direction, with fast_align's options and defaults; its authors recommend -d -o -v."""

    reverse: bool = False  # -r: the source is generated from the target; links stay (source, target)
    favor_diagonal: bool = False  # -d: prior around the diagonal; without it uniform (IBM model 1)
    optimize_tension: bool = False  # -o: fit the tension of the diagonal prior, from the second iteration on
    variational_bayes: bool = False  # -v: Dirichlet prior alpha on theta, mean-field estimate
    iterations: int = 5  # -I: the last one decodes
    p_null: float = 0.08  # -q: probability of NULL under the diagonal prior
    alpha: float = 0.01  # -a
    tension: float = 4.0  # -T: start value
    empirical_from_zero: bool = True  # C++ quirk: the observed distance counts j from 0, not from 1
    swapped_normalizer: bool = True  # C++ quirk: the expected distance uses a Z with n and m exchanged

    def __post_init__(self) -> None:
        for name, good, expected in (
            ("iterations", self.iterations >= 1, "at least 1"),
            ("p_null", 0 < self.p_null < 1, "between 0 and 1"),
            ("alpha", self.alpha > 0, "above 0"),
            ("tension", 0 < self.tension < math.inf, "above 0"),
        ):
            if not good:
                found = getattr(self, name)
                raise StudyError(f"aligner: {name} = {found}; a number {expected} expected")


RECOMMENDED = Aligner(favor_diagonal=True, optimize_tension=True, variational_bayes=True)  # by its authors


# Texts as numbers


@dataclass(frozen=True)
class Corpus:
    """A parallel text as numbers; the generating side is called source, whatever the direction."""

    source: np.ndarray  # int32, words of all source sentences one after the other
    target: np.ndarray  # int32
    n: np.ndarray  # int64 (S,), source lengths
    m: np.ndarray  # int64 (S,)
    source_words: list[str]
    target_words: list[str]

    def swapped(self) -> "Corpus":
        return Corpus(self.target, self.source, self.m, self.n, self.target_words, self.source_words)


def encode(pairs: Pairs, vocabularies: tuple[list[str], list[str]] | None = None) -> Corpus:
    """Number the words of tokenised pairs, frequent ones first; with vocabularies, new words after theirs."""
    known = vocabularies or ((), ())
    tables = [defaultdict(None, {word: k for k, word in enumerate(words)}) for words in known]
    ids, lengths = (array("i"), array("i")), (array("q"), array("q"))
    for table in tables:
        table.default_factory = table.__len__
    for number, pair in enumerate(pairs, 1):
        if len(pair) != 2 or isinstance(pair[0], str) or isinstance(pair[1], str):
            raise StudyError(f"sentence pair {number}: two lists of words expected, (source, target)")
        check_size(f"sentence pair {number}", *pair)
        for words, table, tokens, sizes in zip(pair, tables, ids, lengths, strict=True):
            tokens.extend(map(table.__getitem__, words))
            sizes.append(len(words))
    flat, words = [np.array(tokens, np.int32) for tokens in ids], [list(table) for table in tables]
    if vocabularies is None:
        flat, words = zip(*map(_by_frequency, flat, words), strict=True)
    return Corpus(*flat, *(np.array(sizes, np.int64) for sizes in lengths), *words)


def _by_frequency(ids: np.ndarray, words: list[str]) -> tuple[np.ndarray, list[str]]:
    """Frequent words first: their parameters then lie close together, which the cache rewards."""
    order = np.argsort(-np.bincount(ids, minlength=len(words)), kind="stable")
    rank = np.empty(len(words), np.int32)
    rank[order] = np.arange(len(words), dtype=np.int32)
    return rank[ids], [words[k] for k in order]
