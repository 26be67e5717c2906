"""Word links: files, gold standards and AER, symmetrisation, links from encoder states, links made worse.

Links of a corpus are a list with one int32 array of shape (L, 2) per sentence pair: (source word, target
word), counted from 0.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TextIO

import numpy as np

from xltlib import StudyError
from xltlib.textfile import excerpt, stream_lines

Links = list[np.ndarray]
Lengths = Sequence[tuple[int, int]]  # (source words, target words) of each sentence pair

HEURISTICS = ("intersect", "union", "grow-diag", "grow-diag-final", "grow-diag-final-and")
_TOKEN = re.compile(r"(\d+)([-p])(\d+)", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
LARGEST = 1 << 22  # possible links of a sentence pair, 2,048 words by 2,048: bounds time and memory
_BLOCK = 1 << 15  # sentence pairs symmetrised at once: bounds the memory of their grids (about 30 MiB)


def split_links(flat: np.ndarray, counts: np.ndarray) -> Links:
    """Cut a (T, 2) array into one view per sentence pair, `counts[s]` rows each."""
    ends = np.cumsum(counts).tolist()
    return [flat[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def join_links(links: Links) -> tuple[np.ndarray, np.ndarray]:
    """All links below each other: (sentence number of each link (T,), links (T, 2) int64)."""
    counts = np.fromiter(map(len, links), np.int64, len(links))
    flat = np.concatenate(links) if len(links) else np.zeros((0, 2), np.int64)
    return np.repeat(np.arange(len(links)), counts), flat.reshape(-1, 2).astype(np.int64)


# Files


def tokenized_pairs(path: str | Path) -> Iterator[tuple[list[str], list[str]]]:
    """Tokenised pairs of a file of `source ||| target` lines, words between blanks; `-` is standard input.

    As in fast_align, a tab separates the two sides too. Either side may be empty.
    """
    name = "standard input" if str(path) == "-" else str(path)
    for number, line in stream_lines(path):
        if control := _CONTROL.search(line):
            found = f"control character U+{ord(control[0]):04X}"
            raise StudyError(f"{name}:{number}: {found}, which is no part of a word; remove it")
        words = [word for word in line.replace("\t", " ||| ").split(" ") if word]
        if words.count("|||") != 1:
            raise StudyError(
                f"{name}:{number}: {words.count('|||')} separators found, one expected: source ||| target, "
                "with a blank on either side of |||"
            )
        middle = words.index("|||")
        pair = words[:middle], words[middle + 1 :]
        check_size(f"{name}:{number}", *pair)
        yield pair


def check_size(place: str, source: Sequence, target: Sequence) -> None:
    """StudyError for a pair of more than `LARGEST` possible links, with which time and memory grow."""
    n, m = len(source), len(target)
    if max(n, 1) * max(m, 1) > LARGEST:
        raise StudyError(
            f"{place}: {n} source and {m} target words found, more than {LARGEST} possible links; split the "
            "pair or leave it out"
        )


def _parse(lines: Iterable[tuple[int, str]], name: str) -> list[list[tuple[int, int, bool]]]:
    """(source, target, sure) of every token, as written."""
    parsed = []
    for number, line in lines:
        tokens = line.split()
        matches = [_TOKEN.fullmatch(token) for token in tokens]
        if None in matches:
            wrong = excerpt(tokens[matches.index(None)])
            raise StudyError(
                f"{name}:{number}: {wrong} is not a link; expected i-j (sure) or ipj (possible), such as 3-4"
            )
        parsed.append([(int(match[1]), int(match[3]), match[2] == "-") for match in matches])
    return parsed


def write_pharaoh(stream: TextIO, links: Links) -> None:
    """Write links as Pharaoh lines, `i-j` from 0, one line a sentence pair; no links, an empty line."""
    for pair in links:
        stream.write(" ".join([f"{i}-{j}" for i, j in pair.tolist()]) + "\n")


class Gold(NamedTuple):
    """Gold links, counted from 0: `sure` ones, and `possible` ones, which contain them."""

    sure: Links
    possible: Links


def read_gold(path: str | Path, lengths: Lengths, index_base: int, column: int = 0) -> Gold:
    """Gold links of a file, or a tab-separated column of it: sure ones written `i-j`, possible ones `ipj`.

    They are counted from `index_base`. StudyError where the file disproves it: an index 0 proves 0, an index
    equal to a sentence's length proves 1. Links outside their sentence, of which published files have some,
    are left out.
    """
    name = str(path)
    rows = [(number, line.split("\t")) for number, line in stream_lines(path)]
    short = next((number for number, row in rows if len(row) <= column), None)
    if short is not None:
        raise StudyError(f"{name}:{short}: no tab-separated column {column + 1}")
    parsed = _parse(((number, row[column]) for number, row in rows), name)
    if len(parsed) != len(lengths):
        raise StudyError(
            f"{name}: {len(parsed)} lines found, {len(lengths)} sentence pairs expected; one line a pair"
        )
    both = list(zip(parsed, lengths, strict=True))
    zero = [k for k, line in enumerate(parsed, 1) if any(0 in link[:2] for link in line)]
    full = [k for k, (line, (n, m)) in enumerate(both, 1) if any(i == n or j == m for i, j, _ in line)]
    if zero and index_base == 1:
        raise StudyError(f"{name}:{zero[0]}: a link with index 0: the file counts from 0, not from 1")
    if full and not zero and index_base == 0:
        raise StudyError(
            f"{name}:{full[0]}: a link to the word numbered as the sentence is long, and no index 0 in the "
            "file: it counts from 1, not from 0"
        )
    sure, possible = [], []
    for line, (n, m) in both:
        inside = [k for k in line if k[0] < n + index_base and k[1] < m + index_base]
        for side, kept in ((sure, [k[:2] for k in inside if k[2]]), (possible, [k[:2] for k in inside])):
            side.append(np.array(sorted(set(kept)), np.int32).reshape(-1, 2) - np.int32(index_base))
    return Gold(sure, possible)


# Scores


class AlignmentScore(NamedTuple):
    """AER (lower is better), precision and recall (higher is better) in [0, 1], and the numbers of links."""

    aer: float
    precision: float
    recall: float
    links: int
    sure: int


def _keys(links: Links) -> np.ndarray:
    """Each link of a corpus as one sorted, unique int64 (21 bits a word index)."""
    sentence, flat = join_links(links)
    return np.unique(sentence << 42 | flat[:, 0] << 21 | flat[:, 1])


def aer(links: Links, sure: Links, possible: Links | None = None) -> AlignmentScore:
    """Alignment error rate 1 - (|A & S| + |A & P|) / (|A| + |S|) (Och and Ney 2003).

    `possible` need not repeat `sure`; without it all gold links are sure. A score whose denominator is zero
    is nan.
    """
    for name, other in (("sure", sure), ("possible", possible)):
        if other is not None and len(other) != len(links):
            raise StudyError(
                f"AER: {len(links)} sentence pairs in the links, {len(other)} in the {name} gold links"
            )
    a, s = _keys(links), _keys(sure)
    p = s if possible is None else np.union1d(s, _keys(possible))
    in_sure, in_possible = (len(np.intersect1d(a, gold, assume_unique=True)) for gold in (s, p))

    def share(part: int, whole: int) -> float:
        return part / whole if whole else float("nan")

    error = 1 - share(in_sure + in_possible, len(a) + len(s))
    return AlignmentScore(error, share(in_possible, len(a)), share(in_sure, len(s)), len(a), len(s))


# Symmetrisation


class _Grids:
    """The link matrices of many sentence pairs, each with an empty border, as one flat array of cells.

    `votes` has bit 1 for a forward, bit 2 for a backward link; cells are numbered by (pair, source, target).
    """

    def __init__(self, forward: Links, backward: Links):
        sides = [join_links(forward), join_links(backward)]
        pair = np.concatenate([side[0] for side in sides])
        size = np.zeros((len(forward), 2), np.int64)
        np.maximum.at(size, pair, np.concatenate([side[1] for side in sides]) + 1)
        self.width = size[:, 1] + 2
        self.ends = np.cumsum((size[:, 0] + 2) * self.width)
        self.base = np.concatenate([[0], self.ends[:-1]]) if len(forward) else self.ends
        self.votes = np.zeros(self.ends[-1] if len(forward) else 0, np.uint8)
        for bit, (number, flat) in zip((1, 2), sides, strict=True):
            self.votes[self.base[number] + (flat[:, 0] + 1) * self.width[number] + flat[:, 1] + 1] |= bit
        self.cells = np.flatnonzero(self.votes)
        self.pair = np.searchsorted(self.ends, self.cells, side="right")
        self.row, self.column = np.divmod(self.cells - self.base[self.pair], self.width[self.pair])
        # the border never holds a link, so its cells are free to stand for their whole row or column
        self.row_key = self.cells - self.column
        self.column_key = self.base[self.pair] + self.column
        self.linked = self.votes == 3
        self.used = np.zeros(len(self.votes), bool)
        self._use(np.flatnonzero(self.linked[self.cells]))

    def _use(self, k: np.ndarray) -> None:
        self.linked[self.cells[k]] = True
        self.used[self.row_key[k]] = True
        self.used[self.column_key[k]] = True

    def _near(self, k: np.ndarray) -> np.ndarray:
        """Whether one of the eight neighbours is linked."""
        cell, width = self.cells[k], self.width[self.pair[k]]
        near = self.linked[cell - 1] | self.linked[cell + 1]
        for row in (cell - width, cell + width):
            near |= self.linked[row - 1] | self.linked[row] | self.linked[row + 1]
        return near

    def sweep(self, k: np.ndarray, rule: str) -> np.ndarray:
        """Go once through candidate cells k (ascending), link those that `rule` allows, and return them.

        A cell sees the links made before it, so each pair is gone through in order: step t takes the t-th
        candidate of every pair at once.
        """
        first = np.searchsorted(self.pair[k], self.pair[k])
        turn = np.arange(len(k)) - first
        order = np.argsort(turn, kind="stable")
        added = []
        for now in np.split(k[order], np.cumsum(np.bincount(turn))[:-1]) if len(k) else []:
            row, column = self.used[self.row_key[now]], self.used[self.column_key[now]]
            allowed = ~(row | column) if rule == "neither" else ~(row & column)
            now = now[allowed]
            if rule == "grow":
                now = now[self._near(now)]
            self._use(now)
            added.append(now)
        return np.concatenate(added) if added else k

    def grow(self) -> None:
        """Repeat the sweep over the union until nothing is added."""
        k = np.flatnonzero(~self.linked[self.cells])
        while len(k):
            changed = np.zeros(len(self.base), bool)
            changed[self.pair[self.sweep(k, "grow")]] = True
            k = k[changed[self.pair[k]] & ~self.linked[self.cells[k]]]

    def final(self, rule: str) -> None:
        """Sweep once over the forward and once over the backward links."""
        for bit in (1, 2):
            open_cells = (self.votes[self.cells] & bit > 0) & ~self.linked[self.cells]
            self.sweep(np.flatnonzero(open_cells), rule)

    def links(self, kept: np.ndarray) -> Links:
        flat = np.stack([self.row[kept] - 1, self.column[kept] - 1], axis=1).astype(np.int32)
        return split_links(flat, np.bincount(self.pair[kept], minlength=len(self.base)))


def symmetrize(forward: Links, backward: Links, heuristic: str = "grow-diag-final-and") -> Links:
    """Combine two directions, both given as (source, target), by one of `HEURISTICS` (Koehn et al. 2003).

    The order in which cells are tried is that of fast_align's `atools`: by source, then target word, each
    addition seen by the next cell; growing repeats until nothing changes; the final step goes once through
    the forward, then the backward links. Links come back sorted by source, then target word.
    """
    result = []
    for start in range(0, len(forward), _BLOCK):
        grids = _Grids(forward[start : start + _BLOCK], backward[start : start + _BLOCK])
        if heuristic.startswith("grow"):
            grids.grow()
        if heuristic.endswith(("final", "final-and")):
            grids.final("neither" if heuristic.endswith("and") else "either")
        kept = np.ones(len(grids.cells), bool) if heuristic == "union" else grids.linked[grids.cells]
        result += grids.links(kept)
    return result


# Links from encoder states
#
# A similarity matrix has shape (S, M): source by target units, words or subwords; values in [0, 1], higher is
# more alike. Source of the extraction: Jalili Sabet et al., SimAlign (Findings of EMNLP 2020).


def similarity(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """(1 + cosine) / 2 of source states (S, H) and target states (M, H): (S, M); 0.5 for a zero vector."""
    unit = []
    for states in (source, target):
        norm = np.linalg.norm(states, axis=1, keepdims=True)
        unit.append(states / np.where(norm == 0, 1, norm))
    return (1 + unit[0] @ unit[1].T) / 2


def pool_words(states: np.ndarray, words: np.ndarray) -> np.ndarray:
    """Means of the states (T, H) of each word's subwords: (W, H).

    `words` (T,) holds the word of each subword from 0, negative for none (special tokens); W is one more than
    the last. A word without a subword has the state 0.
    """
    words = np.asarray(words)
    kept = np.flatnonzero(words >= 0)
    pooled = np.zeros((int(words.max(initial=-1)) + 1, states.shape[1]), states.dtype)
    np.add.at(pooled, words[kept], states[kept])
    sizes = np.maximum(np.bincount(words[kept], minlength=len(pooled)), 1)
    return pooled / sizes[:, None].astype(states.dtype)


def centred(sentences: Sequence[np.ndarray]) -> list[np.ndarray]:
    """States of sentences, each (W, H), less the mean of them all: a language's own offset says nothing."""
    mean = np.concatenate(sentences).mean(0)
    return [states - mean for states in sentences]


def word_links(links: np.ndarray, source_words: np.ndarray, target_words: np.ndarray) -> np.ndarray:
    """Links of words from links of subwords: two words are linked if any of their subwords are."""
    pairs = np.stack([np.asarray(source_words)[links[:, 0]], np.asarray(target_words)[links[:, 1]]], axis=1)
    return np.unique(pairs[(pairs >= 0).all(axis=1)], axis=0).astype(np.int32)


def argmax_links(matrix: np.ndarray) -> np.ndarray:
    """Links (L, 2) between units of a similarity matrix (S, M) that are each other's most similar one."""
    if not matrix.size:
        return np.zeros((0, 2), np.int32)
    nearest, target = matrix.argmax(axis=0), matrix.argmax(axis=1)
    source = np.flatnonzero(nearest[target] == np.arange(len(matrix)))
    return np.stack([source, target[source]], axis=1).astype(np.int32)


# Controls: links that are wrong by a known amount


def corrupt_links(links: Links, lengths: Lengths, share: float, generator: np.random.Generator) -> Links:
    """Move the target end of a random `share` (0 to 1) of all links to another word of the same sentence.

    A link of a one-word target sentence cannot move; two links that meet become one.
    """
    number, flat = join_links(links)
    chosen = generator.permutation(len(flat))[: round(share * len(flat))]
    m = np.array([m for _, m in lengths], np.int64)[number[chosen]]
    shift = 1 + np.floor(generator.random(len(chosen)) * np.maximum(m - 1, 0)).astype(np.int64)
    flat[chosen, 1] = (flat[chosen, 1] + np.where(m > 1, shift, 0)) % m
    moved = split_links(flat, np.bincount(number, minlength=len(links)))
    return [np.unique(pair, axis=0).astype(np.int32) for pair in moved]


def random_links(lengths: Lengths, counts: Sequence[int], generator: np.random.Generator) -> Links:
    """`counts[s]` different links per sentence pair, each cell as likely as any other (at most all cells)."""
    result = []
    for (n, m), count in zip(lengths, counts, strict=True):
        drawn = generator.choice(n * m, min(count, n * m), replace=False) if n * m else np.zeros(0, int)
        cells = np.sort(drawn)
        result.append(np.stack(np.divmod(cells, max(m, 1)), axis=1).astype(np.int32))
    return result
