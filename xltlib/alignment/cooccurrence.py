"""Which words of a parallel text occur together: texts as numbers, and every possible link laid out for EM.

Letters: S sentence pairs, n and m their source and target words, L possible links (the sum of n * m), T rows
(target words), P co-occurring pairs of word types.
"""

from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from xltlib import StudyError

Pairs = Iterable[tuple[Sequence[str], Sequence[str]]]

CHUNK = {"cpu": 1 << 17, "cuda": 1 << 24}  # links in flight at once: fits a CPU's cache, keeps a GPU busy


@dataclass(frozen=True)
class Corpus:
    """A parallel text as numbers; the generating side is called source, whatever the direction."""

    source: torch.Tensor  # int32, words of all source sentences one after the other
    target: torch.Tensor  # int32
    n: torch.Tensor  # int64 (S,), source lengths
    m: torch.Tensor  # int64 (S,)
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
        for words, table, tokens, sizes in zip(pair, tables, ids, lengths, strict=True):
            tokens.extend(map(table.__getitem__, words))
            sizes.append(len(words))
    flat, words = [np.array(tokens, np.int32) for tokens in ids], [list(table) for table in tables]
    if vocabularies is None:
        flat, words = zip(*map(_by_frequency, flat, words), strict=True)
    n, m = (torch.tensor(np.array(sizes, np.int64)) for sizes in lengths)
    return Corpus(*map(torch.from_numpy, flat), n, m, *words)


def _by_frequency(ids: np.ndarray, words: list[str]) -> tuple[np.ndarray, list[str]]:
    """Frequent words first: their parameters then lie close together, which the cache rewards."""
    order = np.argsort(-np.bincount(ids, minlength=len(words)), kind="stable")
    rank = np.empty(len(words), np.int32)
    rank[order] = np.arange(len(words), dtype=np.int32)
    return rank[ids], [words[k] for k in order]


# Every possible link, laid out so that each step of EM is a few large array operations


@dataclass(frozen=True)
class Group:
    """The rows whose source sentence has n words: a block of rows x n links, with their places (j, m)."""

    n: int
    rows: slice
    first_link: int
    places: slice  # into the layout's j, m, n, times


@dataclass(frozen=True)
class Layout:
    """Rows sorted by (n, target type); a row is a target word of a sentence pair and has n possible links."""

    groups: list[Group]
    order: torch.Tensor  # int32 (T,), the target token of each row
    word: torch.Tensor  # int32 (T,), its type
    place: torch.Tensor  # int32 (T,), its place (j, m), numbered within the group
    pair: torch.Tensor  # int32 (L,), the co-occurring pair of types of each link
    given: torch.Tensor  # int32 (P,), source type of each pair, pairs sorted by (target, source type)
    first_pair: torch.Tensor  # int64 (F + 1,), where the pairs of each target type begin
    j: torch.Tensor  # float64, one for each (n, m, j) that occurs
    m: torch.Tensor
    n: torch.Tensor
    times: torch.Tensor  # how many sentence pairs have this n, m


def _before(counts: torch.Tensor) -> torch.Tensor:
    """Sum of all earlier elements, int64."""
    return counts.cumsum(0).sub_(counts)


def lay_out(corpus: Corpus, device: torch.device) -> Layout:
    """Order the rows, number places and co-occurring pairs; a text pair with an empty side has no rows."""
    source, target, n, m = (x.to(device) for x in (corpus.source, corpus.target, corpus.n, corpus.m))
    first_place, per_group, places = _places(n, m)
    size = torch.zeros_like(per_group).index_add_(0, n, torch.where(n > 0, m, 0))  # rows of each n
    groups = _groups(size.tolist(), per_group.tolist())
    order, word, sentence = _order(groups, target, n, m)
    place = (first_place - _before(m) - _before(per_group)[n]).int()[sentence].add_(order)
    width = torch.arange(len(size), device=device)
    links = size * width
    rows = _Rows(word, sentence, _before(n).int(), n.int(), _before(links) - _before(size) * width)
    types = len(corpus.source_words), len(corpus.target_words)
    return Layout(
        groups, order, word, place, *_number_pairs(source, types, rows, groups, int(links.sum())), *places
    )


def _order(groups: list[Group], target: torch.Tensor, n: torch.Tensor, m: torch.Tensor) -> list[torch.Tensor]:
    """Target token, its type and its sentence for each row; a group at a time, which takes little memory."""
    rows = groups[-1].rows.stop if groups else 0
    order, word, sentence = (torch.empty(rows, dtype=torch.int32, device=n.device) for _ in range(3))
    members = _sort(n.clone())[1].split(torch.bincount(n, minlength=1).tolist())
    first = _before(m)
    for group in groups:
        own = members[group.n]
        tokens = _ranges(first[own], m[own])
        types, places = _sort(target[tokens].long())
        word[group.rows], order[group.rows] = types.int(), tokens[places].int()
        sentence[group.rows] = torch.repeat_interleave(own, m[own])[places]
    return [order, word, sentence]


def _ranges(start: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
    """The whole numbers from each `start` on, `count` of them, one range after the other."""
    which = torch.repeat_interleave(count)
    number = torch.arange(len(which), device=start.device)
    return (start - _before(count)).index_select(0, which).add_(number)


def _places(n: torch.Tensor, m: torch.Tensor) -> tuple:
    """The places (n, m, j): where each sentence pair's begin, how many each n has, and j, m, n, times."""
    widest = int(m.max()) + 1 if len(m) else 1
    filled = (n > 0) & (m > 0)
    shape, shape_of, times = torch.unique(
        torch.where(filled, n * widest + m, 0), return_inverse=True, return_counts=True
    )
    shape_n, shape_m = shape // widest, shape % widest
    first = _before(shape_m)
    which = torch.repeat_interleave(shape_m)
    j = torch.arange(1, len(which) + 1, device=n.device) - first[which]
    per_group = torch.bincount(shape_n[which], minlength=int(n.max()) + 1 if len(n) else 1)
    return first[shape_of], per_group, [x.double() for x in (j, shape_m[which], shape_n[which], times[which])]


def _groups(rows: list[int], places: list[int]) -> list[Group]:
    """The groups by source length n = 0, 1, ..., given their numbers of rows and of places."""
    groups, row, link, place = [], 0, 0, 0
    for n, (more_rows, more_places) in enumerate(zip(rows, places, strict=True)):
        if more_rows:
            groups.append(Group(n, slice(row, row + more_rows), link, slice(place, place + more_places)))
        row, link, place = row + more_rows, link + more_rows * n, place + more_places
    return groups


class _Rows(NamedTuple):
    word: torch.Tensor  # int32 (T,), target type
    sentence: torch.Tensor  # int32 (T,)
    start: torch.Tensor  # int32 (S,), first source token
    n: torch.Tensor  # int32 (S,), number of source tokens
    offset: torch.Tensor  # int64, by n: the first link of row r has place r * n + offset

    def links(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """All links of some rows: which of these rows, their source token, their place in the layout."""
        sentence = self.sentence[rows]
        count = self.n[sentence]
        which, token = torch.repeat_interleave(count), _ranges(self.start[sentence], count)
        return which, token, _ranges(self.offset[count] + rows * count, count)


def _number_pairs(
    source: torch.Tensor, types: tuple[int, int], rows: _Rows, groups: list[Group], links: int
) -> tuple:
    """Number the co-occurring pairs of types: the layout's `pair` (`links` of them), `given`, `first_pair`.

    Target types are taken in blocks of about `chunk` links, whose pairs are found by sorting them. A type
    with more links is a block of its own, gone through in pieces, and its pairs are found with a table of the
    source types.
    """
    chunk = CHUNK[source.device.type] // 2
    pair = torch.empty(links, dtype=torch.int32, device=source.device)
    per_type = torch.zeros(types[1] + 1, dtype=torch.int64, device=source.device)
    given, count = torch.empty_like(pair), 0  # as long as it can get; pages never written take no memory
    for block, alone in _blocks(rows, groups, types[1], chunk):
        if alone:
            e = _number_type(
                source, types[0], rows, block.split(max(1, chunk * len(block) // alone)), pair, count
            )
            per_type[rows.word[block[0]] + 1] = len(e)
        else:
            row, token, link = rows.links(block)
            first_key = rows.word[block].long() * types[0]
            keys, back = _sort(first_key.index_select(0, row).add_(source.index_select(0, token)))
            fresh = torch.ones_like(keys, dtype=torch.bool)
            fresh[1:] = keys[1:] != keys[:-1]
            pair.scatter_(0, link.index_select(0, back), fresh.cumsum(0, dtype=torch.int32).add_(count - 1))
            keys = keys[fresh]
            e = (keys % types[0]).int()
            per_type.index_add_(0, keys // types[0] + 1, torch.ones_like(keys))
        given[count : count + len(e)] = e
        count += len(e)
    return pair, given[:count].clone(), per_type.cumsum(0)


def _number_type(
    source: torch.Tensor,
    types: int,
    rows: _Rows,
    pieces: Sequence[torch.Tensor],
    pair: torch.Tensor,
    count: int,
) -> torch.Tensor:
    """Number the pairs of one target type, from `count`, into `pair`; returns their source types."""
    seen = torch.zeros(types, dtype=torch.bool, device=source.device)
    for piece in pieces:
        seen[source[rows.links(piece)[1]]] = True
    number = seen.cumsum(0, dtype=torch.int32) + (count - 1)
    for piece in pieces:
        _, token, link = rows.links(piece)
        pair[link] = number[source[token]]
    return seen.nonzero().flatten().int()


def _blocks(rows: _Rows, groups: list[Group], types: int, chunk: int) -> Iterator[tuple[torch.Tensor, int]]:
    """Blocks of rows, all those of their target types, and the links of a type that has more than `chunk`.

    Rows of a group are sorted by type, so that a block is a range of each group.
    """
    links = torch.zeros(types, dtype=torch.int64, device=rows.word.device)
    for word, sentence in zip(rows.word.split(chunk), rows.sentence.split(chunk), strict=True):
        links.index_add_(0, word, rows.n[sentence].long())
    step, alone = _before(links) // chunk, links > chunk
    cut = (step[1:] != step[:-1]) | alone[1:] | alone[:-1]
    first = [0, *(cut.nonzero().flatten() + 1).tolist()]
    bounds = torch.tensor([*first, types], dtype=torch.int32, device=rows.word.device)
    ends = [torch.searchsorted(rows.word[group.rows], bounds) + group.rows.start for group in groups]
    ends = torch.stack(ends, 1) if ends else bounds.new_zeros((len(bounds), 1))
    for type_, start, end in zip(first, ends, ends[1:], strict=False):
        if (end > start).any():
            yield _ranges(start, end - start), int(links[type_]) if alone[type_] else 0


def _sort(keys: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Sorted keys, which overwrite `keys`, and where they were, int32.

    On a CPU both are packed into one int64: NumPy's plain sort is ten times as fast as one that gives places.
    """
    bits = len(keys).bit_length()
    if keys.is_cuda or not len(keys) or int(keys.max()).bit_length() + bits > 63:
        keys, places = torch.sort(keys, stable=True)
        return keys, places.int()
    packed, places = keys.numpy(), np.arange(len(keys), dtype=np.int32)
    packed <<= bits
    packed |= places
    packed.sort()
    np.bitwise_and(packed, (1 << bits) - 1, out=places, casting="unsafe")
    packed >>= bits
    return keys, torch.from_numpy(places)
