"""The fast_align model over all possible links of a text, in NumPy: settings, layout, diagonal prior, and EM.

Source of the model: Dyer, Chahuneau, Smith (NAACL 2013); where the paper leaves a choice, the C++ program
github.com/clab/fast_align (cab1e9a) decides. Letters: S sentence pairs; n and m their source and target
words, counted by i = 1 ... n and j = 1 ... m; L possible links (the sum of n * m); T rows (target words);
P co-occurring pairs of word types; F target types.

Every sum runs in one thread and in one order: equal input gives equal bits.
"""

import math
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from xltlib import StudyError
from xltlib.alignment.links import check_size

CHUNK = 1 << 17  # links in flight at once: they fit a processor's cache
UNSEEN = 1e-9  # theta before the first M-step, and of pairs never seen together (C++)
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
                raise StudyError(f"aligner: {name} = {getattr(self, name)}; a number {expected} expected")


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
    order: np.ndarray  # int32 (T,), the target token of each row
    word: np.ndarray  # int32 (T,), its type
    place: np.ndarray  # int32 (T,), its place (j, m), numbered within the group
    pair: np.ndarray  # int32 (L,), the co-occurring pair of types of each link
    given: np.ndarray  # int32 (P,), source type of each pair, pairs sorted by (target, source type)
    first_pair: np.ndarray  # int64 (F + 1,), where the pairs of each target type begin, and the end
    j: np.ndarray  # float64, one for each (n, m, j) that occurs
    m: np.ndarray
    n: np.ndarray
    times: np.ndarray  # how many sentence pairs have this n, m


def _before(counts: np.ndarray) -> np.ndarray:
    """Sum of all earlier elements, int64."""
    return counts.cumsum(dtype=np.int64) - counts


def lay_out(corpus: Corpus) -> Layout:
    """Order the rows, number places and co-occurring pairs; a text pair with an empty side has no rows."""
    n, m = corpus.n, corpus.m
    first_place, per_group, places = _places(n, m)
    size = np.zeros_like(per_group)  # rows of each n
    np.add.at(size, n, np.where(n > 0, m, 0))
    groups = _groups(size.tolist(), per_group.tolist())
    order, word, sentence = _order(groups, corpus.target, n, m)
    place = (first_place - _before(m) - _before(per_group)[n]).astype(np.int32)[sentence]
    place += order
    links = size * np.arange(len(size))
    offset = _before(links) - _before(size) * np.arange(len(size))
    rows = _Rows(word, sentence, _before(n).astype(np.int32), n.astype(np.int32), offset)
    types = len(corpus.source_words), len(corpus.target_words)
    numbers = _number_pairs(corpus.source, types, rows, groups, int(links.sum()))
    return Layout(groups, order, word, place, *numbers, *places)


def _order(groups: list[Group], target: np.ndarray, n: np.ndarray, m: np.ndarray) -> list[np.ndarray]:
    """Target token, its type and its sentence for each row; a group at a time, which takes little memory."""
    rows = groups[-1].rows.stop if groups else 0
    order, word, sentence = (np.empty(rows, np.int32) for _ in range(3))
    members = np.split(_sort(n.copy())[1], np.bincount(n, minlength=1).cumsum()[:-1])
    first = _before(m)
    for group in groups:
        own = members[group.n]
        tokens = _ranges(first[own], m[own])
        types, places = _sort(target[tokens].astype(np.int64))
        word[group.rows], order[group.rows] = types, tokens[places]
        sentence[group.rows] = np.repeat(own, m[own])[places]
    return [order, word, sentence]


def _ranges(start: np.ndarray, count: np.ndarray) -> np.ndarray:
    """The whole numbers from each `start` on, `count` of them, one range after the other."""
    numbers = np.repeat(start - _before(count), count)
    numbers += np.arange(len(numbers))
    return numbers


def _places(n: np.ndarray, m: np.ndarray) -> tuple:
    """The places (n, m, j): where each sentence pair's begin, how many each n has, and j, m, n, times."""
    widest = int(m.max(initial=0)) + 1
    filled = (n > 0) & (m > 0)
    shape, shape_of, times = np.unique(
        np.where(filled, n * widest + m, 0), return_inverse=True, return_counts=True
    )
    shape_n, shape_m = shape // widest, shape % widest
    first = _before(shape_m)
    which = np.repeat(np.arange(len(shape)), shape_m)
    j = np.arange(1, len(which) + 1) - first[which]
    per_group = np.bincount(shape_n[which], minlength=int(n.max(initial=0)) + 1)
    columns = (j, shape_m[which], shape_n[which], times[which])
    return first[shape_of], per_group, [x.astype(np.float64) for x in columns]


def _groups(rows: list[int], places: list[int]) -> list[Group]:
    """The groups by source length n = 0, 1, ..., given their numbers of rows and of places."""
    groups, row, link, place = [], 0, 0, 0
    for n, (more_rows, more_places) in enumerate(zip(rows, places, strict=True)):
        if more_rows:
            groups.append(Group(n, slice(row, row + more_rows), link, slice(place, place + more_places)))
        row, link, place = row + more_rows, link + more_rows * n, place + more_places
    return groups


class _Rows(NamedTuple):
    word: np.ndarray  # int32 (T,), target type
    sentence: np.ndarray  # int32 (T,)
    start: np.ndarray  # int32 (S,), first source token
    n: np.ndarray  # int32 (S,), number of source tokens
    offset: np.ndarray  # int64, by n: the first link of row r has place r * n + offset

    def links(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """All links of some rows: which of these rows, their source token, their place in the layout."""
        sentence = self.sentence[rows]
        count = self.n[sentence]
        which, token = np.repeat(np.arange(len(rows)), count), _ranges(self.start[sentence], count)
        return which, token, _ranges(self.offset[count] + rows * count, count)


def _number_pairs(
    source: np.ndarray, types: tuple[int, int], rows: _Rows, groups: list[Group], links: int
) -> tuple:
    """Number the co-occurring pairs of types: the layout's `pair` (`links` of them), `given`, `first_pair`.

    Target types are taken in blocks of about half of `CHUNK` links, whose pairs are found by sorting them. A
    type with more links is a block of its own, gone through in pieces, and its pairs are found with a table
    of the source types.
    """
    chunk = CHUNK // 2
    pair, per_type = np.empty(links, np.int32), np.zeros(types[1] + 1, np.int64)
    given, count = np.empty_like(pair), 0  # as long as it can get; pages never written take no memory
    for block, alone in _blocks(rows, groups, types[1], chunk):
        if alone:
            size = max(1, chunk * len(block) // alone)
            pieces = [block[first : first + size] for first in range(0, len(block), size)]
            e = _number_type(source, types[0], rows, pieces, pair, count)
            per_type[rows.word[block[0]] + 1] = len(e)
        else:
            row, token, link = rows.links(block)
            keys, back = _sort((rows.word[block].astype(np.int64) * types[0])[row] + source[token])
            fresh = np.ones(len(keys), bool)
            np.not_equal(keys[1:], keys[:-1], out=fresh[1:])
            pair[link[back]] = fresh.cumsum(dtype=np.int32) + (count - 1)
            keys = keys[fresh]
            e = keys % types[0]
            np.add.at(per_type, keys // types[0] + 1, 1)
        given[count : count + len(e)] = e
        count += len(e)
    return pair, given[:count].copy(), per_type.cumsum()


def _number_type(
    source: np.ndarray, types: int, rows: _Rows, pieces: Sequence[np.ndarray], pair: np.ndarray, count: int
) -> np.ndarray:
    """Number the pairs of one target type, from `count`, into `pair`; returns their source types."""
    seen = np.zeros(types, bool)
    for piece in pieces:
        seen[source[rows.links(piece)[1]]] = True
    number = seen.cumsum(dtype=np.int32) + (count - 1)
    for piece in pieces:
        _, token, link = rows.links(piece)
        pair[link] = number[source[token]]
    return np.flatnonzero(seen)


def _blocks(rows: _Rows, groups: list[Group], types: int, chunk: int) -> Iterator[tuple[np.ndarray, int]]:
    """Blocks of rows, all those of their target types, and the links of a type that has more than `chunk`.

    Rows of a group are sorted by type, so that a block is a range of each group.
    """
    links = np.zeros(types, np.int64)
    for first in range(0, len(rows.word), chunk):
        part = slice(first, first + chunk)
        np.add.at(links, rows.word[part], rows.n[rows.sentence[part]])
    step, alone = _before(links) // chunk, links > chunk
    cut = (step[1:] != step[:-1]) | alone[1:] | alone[:-1]
    first = [0, *(np.flatnonzero(cut) + 1).tolist()]
    bounds = np.array([*first, types], np.int32)
    ends = [np.searchsorted(rows.word[group.rows], bounds) + group.rows.start for group in groups]
    ends = np.stack(ends, 1) if ends else np.zeros((len(bounds), 1), np.int64)
    for type_, start, end in zip(first, ends, ends[1:], strict=False):
        if (end > start).any():
            yield _ranges(start, end - start), int(links[type_]) if alone[type_] else 0


def _sort(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sorted keys, which overwrite `keys` (int64, from 0), and where they were, int32.

    Both are packed into one number: NumPy's plain sort is ten times as fast as one that gives places.
    """
    bits = len(keys).bit_length()
    if int(keys.max(initial=0)).bit_length() + bits > 63:
        places = np.argsort(keys, kind="stable")
        return keys[places], places.astype(np.int32)
    places = np.arange(len(keys), dtype=np.int32)
    keys <<= bits
    keys |= places
    keys.sort()
    np.bitwise_and(keys, (1 << bits) - 1, out=places, casting="unsafe")
    keys >>= bits
    return keys, places


# The diagonal prior, with h(i, j) = -|i / n - j / m|; j, m, n are float64 arrays of one shape


def _series(j: np.ndarray, m: np.ndarray, n: np.ndarray, tension: float) -> tuple:
    """The two geometric series that the weights exp(tension * h) form on either side of the diagonal.

    Returns their common ratio, and for each side (h of the first term, number of terms). Only the exchanged n
    and m of the C++ quirk bring about j > m, where the program's unsigned number of terms wraps around.
    """
    below = np.floor(j * n / m)
    above = n - below
    ratio = np.exp(-tension / n)
    return ratio, (
        (-np.abs((below + 1) / n - j / m), np.where(above < 0, above + 2.0**32, above)),
        (-np.abs(below / n - j / m), below),
    )


def normalizer(j: np.ndarray, m: np.ndarray, n: np.ndarray, tension: float) -> np.ndarray:
    """Z, the sum over i = 1 ... n of exp(tension * h(i, j)), in closed form."""
    ratio, sides = _series(j, m, n, tension)
    top, bottom = (np.exp(h * tension) * (1.0 - ratio**terms) / (1.0 - ratio) for h, terms in sides)
    return bottom + top


def expected_distance(
    j: np.ndarray, m: np.ndarray, n: np.ndarray, tension: float, swapped: bool = False
) -> np.ndarray:
    """d log Z / d tension, the prior mean of h. `swapped` divides by the Z of exchanged n and m (C++)."""
    ratio, sides = _series(j, m, n, tension)
    total = 0.0
    for h, terms in sides:
        weight, step = np.exp(h * tension), -1.0 / n
        beyond = weight * ratio**terms
        ends = ((step * (terms - 1) + h) * beyond - h * weight) / (ratio - 1)
        inner = step * (beyond - weight * ratio) / (ratio - 1) ** 2
        total = total + np.where(terms > 0, ends - inner, 0.0)
    return total / (normalizer(j, n, m, tension) if swapped else normalizer(j, m, n, tension))


def _distances(layout: Layout, group: Group, from_zero: bool = False) -> np.ndarray:
    """h of each place of a group, (places, n)."""
    j, m = layout.j[group.places, None] - float(from_zero), layout.m[group.places, None]
    return -np.abs(np.arange(1, group.n + 1) / group.n - j / m)


def _prior(layout: Layout, group: Group, settings: Aligner, tension: float) -> tuple[float, np.ndarray]:
    """P(a_j = NULL), and P(a_j = i) at each place of the group: (places, n), or (1, n) if it is uniform."""
    if not settings.favor_diagonal:
        each = 1.0 / (group.n + 1)
        return each, np.full((1, group.n), each)
    places = (x[group.places] for x in (layout.j, layout.m, layout.n))
    z = normalizer(*places, tension) / (1.0 - settings.p_null)
    return settings.p_null, np.exp(_distances(layout, group) * tension) / z[:, None]


# EM


@dataclass
class Parameters:
    """What EM estimates."""

    theta: np.ndarray  # float64 (P,), p(target type | source type)
    null: np.ndarray  # float64 (F,), p(target type | NULL)
    tension: float


class _Step(NamedTuple):
    """A chunk of R rows of one group, and their probabilities under the parameters."""

    group: Group
    rows: slice
    pair: np.ndarray  # int32 (R * n,)
    joint: np.ndarray  # (R, n), of the target word with a link to source word i
    null: np.ndarray  # (R,), of the target word with a link to NULL
    total: np.ndarray  # (R,), of the target word


def _steps(layout: Layout, settings: Aligner, parameters: Parameters) -> Iterator[_Step]:
    for group in layout.groups:
        p_null, prior = _prior(layout, group, settings, parameters.tension)
        size = max(1, CHUNK // group.n)
        for first in range(group.rows.start, group.rows.stop, size):
            rows = slice(first, min(first + size, group.rows.stop))
            link = group.first_link + (first - group.rows.start) * group.n
            pair = layout.pair[link : link + (rows.stop - first) * group.n]
            joint = parameters.theta.take(pair).reshape(-1, group.n)
            joint *= prior if len(prior) == 1 else prior.take(layout.place[rows], axis=0)
            null = parameters.null.take(layout.word[rows]) * p_null
            # einsum: for the few columns here five times as fast as sum(1)
            yield _Step(group, rows, pair, joint, null, np.einsum("ij->i", joint) + null)


def expect(layout: Layout, settings: Aligner, parameters: Parameters, observe: bool) -> tuple:
    """Expected counts of pairs (P,) and of NULL (F,), log-likelihood, and with `observe` the sum of h."""
    counts, null = np.zeros_like(parameters.theta), np.zeros_like(parameters.null)
    likelihood, observed, group = 0.0, 0.0, None
    for step in _steps(layout, settings, parameters):
        likelihood += float(np.log(step.total).sum())
        posterior = np.divide(step.joint, step.total[:, None], out=step.joint)
        np.add.at(counts, step.pair, posterior.ravel())
        np.add.at(null, layout.word[step.rows], step.null / step.total)
        if observe:
            if step.group is not group:
                group = step.group
                distances = _distances(layout, group, settings.empirical_from_zero)
            observed += float(
                np.einsum("ij,ij->", posterior, distances.take(layout.place[step.rows], axis=0))
            )
    return counts, null, likelihood, observed


def maximise(layout: Layout, settings: Aligner, counts: np.ndarray, null: np.ndarray) -> None:
    """Turn expected counts into theta, in place; a target type without rows keeps `UNSEEN`.

    c / sum, or with -v the mean-field exp(psi(c) - psi(sum)), alpha being in both.
    """
    seen = np.diff(layout.first_pair) > 0
    sums = np.zeros(int(layout.given.max(initial=0)) + 1)
    if settings.variational_bayes:
        from scipy.special import digamma  # takes a moment to import

        counts += settings.alpha
        null += settings.alpha * seen
    np.add.at(sums, layout.given, counts)
    every = [(counts[k : k + CHUNK], layout.given[k : k + CHUNK]) for k in range(0, len(counts), CHUNK)]
    if settings.variational_bayes:
        level = digamma(sums)
        for part, e in every:
            np.exp(digamma(part) - level[e], out=part)
        np.exp(digamma(null) - digamma(null.sum()), out=null)
    else:
        level = np.where(sums == 0, 1.0, sums)
        for part, e in every:
            part /= level[e]
        null /= null.sum() or 1.0
    null[~seen] = UNSEEN


def fit_tension(layout: Layout, settings: Aligner, tension: float, observed: float, words: int) -> float:
    """Eight gradient steps of size 20 to the tension whose expected h per word is the observed one (C++)."""
    for _ in range(8):
        expected = expected_distance(layout.j, layout.m, layout.n, tension, settings.swapped_normalizer)
        slope = observed / words - float(np.einsum("i,i->", layout.times, expected)) / words
        tension = min(max(tension + 20.0 * slope, 0.1), 14.0)
    return tension


def decode(
    layout: Layout, settings: Aligner, parameters: Parameters, tokens: int
) -> tuple[np.ndarray, float]:
    """Each target token's best source word, from 1, or 0 for NULL, which wins ties; the log-likelihood."""
    best, likelihood = np.zeros(tokens, np.int32), 0.0
    for step in _steps(layout, settings, parameters):
        likelihood += float(np.log(step.total).sum())
        index = step.joint.argmax(1)
        value = step.joint[np.arange(len(index)), index]
        best[layout.order[step.rows]] = np.where(value > step.null, index + 1, 0)
    return best, likelihood


# From a text to what is kept of it


@np.errstate(all="ignore")  # a word that is impossible under the parameters has the likelihood 0
def estimate(
    corpus: Corpus, settings: Aligner, record: Callable[[float, int, float], None]
) -> tuple[tuple[np.ndarray, ...], float, np.ndarray]:
    """EM on a text: (given, first_pair, theta, null) as in `Model`, the tension, and what `decode` chose.

    `record` gets each iteration's log-likelihood, the number of target words, and the tension it had.
    """
    layout = lay_out(corpus)
    words, sizes = len(layout.word), (len(layout.given), len(corpus.target_words))
    parameters = Parameters(*(np.full(size, UNSEEN) for size in sizes), settings.tension)
    for number in range(1, settings.iterations):
        fit = settings.optimize_tension and settings.favor_diagonal and number > 1
        theta, null, likelihood, observed = expect(layout, settings, parameters, observe=fit)
        record(likelihood, words, parameters.tension)
        maximise(layout, settings, theta, null)
        tension = parameters.tension
        if fit and words:
            tension = fit_tension(layout, settings, tension, observed, words)
        parameters = Parameters(theta, null, tension)
    best, likelihood = decode(layout, settings, parameters, len(corpus.target))
    record(likelihood, words, parameters.tension)
    arrays = (layout.given, layout.first_pair, parameters.theta, parameters.null)
    return arrays, parameters.tension, best


@np.errstate(all="ignore")
def align(corpus: Corpus, model: Any) -> np.ndarray:
    """What `decode` chooses in another text by an `aligner.Model`; what it has not seen gets `UNSEEN`."""
    layout = lay_out(corpus)
    types = len(corpus.source_words)
    keys = model.generated * types + model.given
    wanted = np.repeat(np.arange(len(corpus.target_words)), np.diff(layout.first_pair)) * types + layout.given
    place = np.searchsorted(keys, wanted)
    seen = np.append(keys, -1)[place] == wanted
    theta = np.where(seen, np.append(model.theta, UNSEEN)[place], UNSEEN)
    null = np.append(model.null, np.full(len(corpus.target_words) - len(model.null), UNSEEN))
    parameters = Parameters(theta, null, model.tension)
    return decode(layout, model.settings, parameters, len(corpus.target))[0]
