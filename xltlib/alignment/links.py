"""Word links: files, gold standards and AER, symmetrisation, links from encoder states, links made worse.

Links of a corpus are a list with one int32 array of shape (L, 2) per sentence pair: (source word, target
word), counted from 0.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple, TextIO

import numpy as np

from xltlib import StudyError
from xltlib.alignment import HEURISTICS
from xltlib.textfile import excerpt, stream_lines

Links = list[np.ndarray]
Lengths = Sequence[tuple[int, int]]  # (source words, target words) of each sentence pair

_TOKEN = re.compile(r"(\d+)([-p])(\d+)", re.ASCII)


def split_links(flat: np.ndarray, counts: np.ndarray) -> Links:
    """Cut a (T, 2) array into one view per sentence pair, `counts[s]` rows each."""
    return np.split(flat, np.cumsum(counts)[:-1]) if len(counts) else []


# Files


def tokenized_pairs(path: str | Path) -> Iterator[tuple[list[str], list[str]]]:
    """Tokenised pairs of a file of `source ||| target` lines, words between blanks; `-` is standard input.

    As in fast_align, a tab separates the two sides too. Either side may be empty.
    """
    name = "standard input" if str(path) == "-" else str(path)
    for number, line in stream_lines(path):
        words = [word for word in line.replace("\t", " ||| ").split(" ") if word]
        if words.count("|||") != 1:
            raise StudyError(
                f"{name}:{number}: {words.count('|||')} separators found, one expected: source ||| target, "
                "with a blank on either side of |||"
            )
        middle = words.index("|||")
        yield words[:middle], words[middle + 1 :]


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
    lines = list(stream_lines(path))
    if len(lines) != len(lengths):
        raise StudyError(
            f"{path}: {len(lines)} lines found, {len(lengths)} sentence pairs expected; one line a pair"
        )
    gold, zero, full = Gold([], []), 0, 0  # and the first lines that prove 0, and 1
    for (number, line), (n, m) in zip(lines, lengths, strict=True):
        fields, links = line.split("\t"), []
        if len(fields) <= column:
            raise StudyError(f"{path}:{number}: no tab-separated column {column + 1}")
        for token in fields[column].split():
            match = _TOKEN.fullmatch(token)
            if match is None:
                expected = "expected i-j (sure) or ipj (possible), such as 3-4"
                raise StudyError(f"{path}:{number}: {excerpt(token)} is not a link; {expected}")
            i, j = int(match[1]), int(match[3])
            zero, full = zero or number * (i * j == 0), full or number * (i == n or j == m)
            if i < n + index_base and j < m + index_base:
                links.append((i - index_base, j - index_base, match[2] == "-"))
        for side, kept in zip(gold, ({x[:2] for x in links if x[2]}, {x[:2] for x in links}), strict=True):
            side.append(np.array(sorted(kept), np.int32).reshape(-1, 2))
    if zero and index_base == 1:
        raise StudyError(f"{path}:{zero}: a link with index 0: the file counts from 0, not from 1")
    if full and not zero and index_base == 0:
        raise StudyError(
            f"{path}:{full}: a link to the word numbered as the sentence is long, and no index 0 in the "
            "file: it counts from 1, not from 0"
        )
    return gold


# Scores


class AlignmentScore(NamedTuple):
    """AER (lower is better), precision and recall (higher is better) in [0, 1], and the numbers of links."""

    aer: float
    precision: float
    recall: float
    links: int
    sure: int


def matches(links: Links, sure: Links, possible: Links) -> np.ndarray:
    """|A & S|, |A & P|, |A| and |S| of each sentence pair: int64 (pairs, 4); P contains S."""
    counts = []
    for each in zip(links, sure, possible, strict=True):
        a, s, p = ({tuple(link) for link in side.tolist()} for side in each)
        counts.append((len(a & s), len(a & (s | p)), len(a), len(s)))
    return np.array(counts, np.int64).reshape(-1, 4)


def aer(links: Links, sure: Links, possible: Links | None = None) -> AlignmentScore:
    """Alignment error rate 1 - (|A & S| + |A & P|) / (|A| + |S|) (Och and Ney 2003).

    `possible` need not repeat `sure`; without it all gold links are sure. A score whose denominator is zero
    is nan.
    """
    in_sure, in_possible, a, s = matches(links, sure, possible or sure).sum(0).tolist()

    def share(part: int, whole: int) -> float:
        return part / whole if whole else float("nan")

    return AlignmentScore(
        1 - share(in_sure + in_possible, a + s), share(in_possible, a), share(in_sure, s), a, s
    )


# Symmetrisation


def symmetrize(forward: Links, backward: Links, heuristic: str = "grow-diag-final-and") -> Links:
    """Combine two directions, both given as (source, target), by one of `HEURISTICS` (Koehn et al. 2003).

    The order in which links are tried is that of fast_align's `atools`: by source, then target word, each
    addition seen by the next one; growing repeats until nothing changes; the final step goes once through
    the forward, then the backward links. Links come back sorted by source, then target word.
    """
    if heuristic not in HEURISTICS:
        raise StudyError(f"symmetrisation {heuristic!r}: expected one of {', '.join(HEURISTICS)}")
    combined = []
    for pair in zip(forward, backward, strict=True):
        links = _combine(*(set(map(tuple, side.tolist())) for side in pair), heuristic)
        combined.append(np.array(sorted(links), np.int32).reshape(-1, 2))
    return combined


def _combine(
    forward: set[tuple[int, int]], backward: set[tuple[int, int]], heuristic: str
) -> set[tuple[int, int]]:
    if heuristic == "union":
        return forward | backward
    linked = forward & backward
    sources, targets = {i for i, _ in linked}, {j for _, j in linked}

    def add(i: int, j: int) -> None:
        linked.add((i, j))
        sources.add(i)
        targets.add(j)

    open_links, before = sorted((forward | backward) - linked), -1
    while heuristic.startswith("grow") and len(linked) > before:
        before = len(linked)
        for i, j in open_links:
            # one of the two words is free, and one of the eight neighbours linked
            if (i not in sources or j not in targets) and not linked.isdisjoint(
                (i + a, j + b) for a in (-1, 0, 1) for b in (-1, 0, 1)
            ):
                add(i, j)
    if "final" in heuristic:
        free = 2 if heuristic.endswith("and") else 1
        for i, j in [*sorted(forward), *sorted(backward)]:
            if (i not in sources) + (j not in targets) >= free:
                add(i, j)
    return linked


# A reference


def eflomal_links(pairs: Sequence[tuple], heuristic: str = "intersect") -> Links:
    """Links of tokenised pairs by eflomal (Östling and Tiedemann 2016), trained on them, then symmetrised.

    It draws its seeds from the system, so that links differ a little from one call to the next. StudyError
    where the package is not installed.
    """
    try:
        from eflomal import Aligner
    except ImportError as error:
        raise StudyError("links by eflomal need its package: pip install -e .[eflomal]") from error
    with TemporaryDirectory() as folder:
        paths = [Path(folder) / way for way in ("forward", "backward")]
        sides = ([" ".join(words) for words in side] for side in zip(*pairs, strict=True))
        Aligner().align(*sides, *map(str, paths))
        lengths = [(len(source), len(target)) for source, target in pairs]
        return symmetrize(*(read_gold(path, lengths, 0).sure for path in paths), heuristic)


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

    `words` (T,) holds the word of each subword from 0; W is one more than the last. A word without a subword
    has the state 0.
    """
    sizes = np.bincount(words)
    pooled = np.zeros((len(sizes), states.shape[1]), states.dtype)
    np.add.at(pooled, words, states)
    return pooled / np.maximum(sizes, 1)[:, None].astype(states.dtype)


def centred(sentences: Sequence[np.ndarray]) -> list[np.ndarray]:
    """States of sentences, each (W, H), less the mean of them all: a language's own offset says nothing."""
    mean = np.concatenate(sentences).mean(0)
    return [states - mean for states in sentences]


def word_links(links: np.ndarray, source_words: np.ndarray, target_words: np.ndarray) -> np.ndarray:
    """Links of words from links of subwords: two words are linked if any of their subwords are."""
    pairs = np.stack([source_words[links[:, 0]], target_words[links[:, 1]]], axis=1)
    return np.unique(pairs, axis=0).astype(np.int32)


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
    counts, flat = list(map(len, links)), np.concatenate(links).astype(np.int64)
    chosen = generator.permutation(len(flat))[: round(share * len(flat))]
    m = np.repeat([m for _, m in lengths], counts)[chosen]
    shift = 1 + np.floor(generator.random(len(chosen)) * np.maximum(m - 1, 0)).astype(np.int64)
    flat[chosen, 1] = (flat[chosen, 1] + np.where(m > 1, shift, 0)) % m
    return [np.unique(pair, axis=0).astype(np.int32) for pair in split_links(flat, counts)]


def random_links(lengths: Lengths, counts: Sequence[int], generator: np.random.Generator) -> Links:
    """`counts[s]` different links per sentence pair, each cell as likely as any other (at most all cells)."""
    result = []
    for (n, m), count in zip(lengths, counts, strict=True):
        drawn = generator.choice(n * m, min(count, n * m), replace=False) if n * m else np.zeros(0, int)
        cells = np.sort(drawn)
        result.append(np.stack(np.divmod(cells, max(m, 1)), axis=1).astype(np.int32))
    return result
