"""Statistical word alignment: the fast_align model over all possible links of a text, in NumPy.

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
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from xltlib import StudyError
from xltlib.alignment.links import Links, split_links, symmetrize

CHUNK = 1 << 17  # links in flight at once: they fit a processor's cache
LARGEST = 1 << 22  # possible links of a sentence pair, 2,048 words by 2,048: bounds time and memory
UNSEEN = 1e-9  # theta before the first M-step, and of pairs never seen together (C++)
Pairs = Iterable[tuple[Sequence[str], Sequence[str]]]
Progress = Callable[[str], None]


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

    def __post_init__(self) -> None:
        for name, good, expected in (
            ("iterations", self.iterations >= 1, "at least 1"),
            ("p_null", 0 < self.p_null < 1, "between 0 and 1"),
            ("alpha", 0 < self.alpha <= 1e6, "above 0, at most 1e6"),
            ("tension", 1e-6 <= self.tension <= 100, "from 1e-6 to 100"),  # beyond, sums have no digits left
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
    tables = [defaultdict(None, {word: k for k, word in enumerate(v)}) for v in vocabularies or ((), ())]
    ids, lengths = (array("i"), array("i")), (array("q"), array("q"))
    for table in tables:
        table.default_factory = table.__len__
    for number, pair in enumerate(pairs, 1):
        if len(pair) != 2 or isinstance(pair[0], str) or isinstance(pair[1], str):
            raise StudyError(f"sentence pair {number}: two lists of words expected, (source, target)")
        n, m = map(len, pair)
        if max(n, 1) * max(m, 1) > LARGEST:
            raise StudyError(
                f"sentence pair {number}: {n} source and {m} target words found, more than {LARGEST} "
                "possible links; split the pair or leave it out"
            )
        for words, table, tokens, sizes in zip(pair, tables, ids, lengths, strict=True):
            tokens.extend(map(table.__getitem__, words))
            sizes.append(len(words))
    flat, words = [np.array(tokens, np.int32) for tokens in ids], [list(table) for table in tables]
    if vocabularies is None:  # parameters of frequent words then lie close together: the cache rewards it
        for k in (0, 1):
            order = np.argsort(-np.bincount(flat[k], minlength=len(words[k])), kind="stable")
            flat[k] = np.argsort(order).astype(np.int32)[flat[k]]
            words[k] = [words[k][number] for number in order]
    return Corpus(*flat, *(np.array(sizes, np.int64) for sizes in lengths), *words)


# Every possible link, laid out so that each step of EM is a few large array operations


class Group(NamedTuple):
    """The rows whose source sentence has n words: a block of rows x n links, with their places (j, m)."""

    n: int
    rows: slice
    places: slice  # into the layout's j, m, n, times
    first_link: int


@dataclass(frozen=True)
class Layout:
    """Rows sorted by (n, target type); a row is a target word of a sentence pair and has n possible links."""

    groups: list[Group]
    token: np.ndarray  # int32 (T,), the target token of each row
    word: np.ndarray  # int32 (T,), its type
    place: np.ndarray  # int32 (T,), its place (j, m), numbered within the group
    pair: np.ndarray  # (L,), the co-occurring pair of types of each link, from its target type's first one on
    given: np.ndarray  # int32 (P,), source type of each pair, pairs sorted by (target, source type)
    pairs_of: np.ndarray  # int64 (F,), how many pairs each target type has
    j: np.ndarray  # float64, one for each (n, m, j) that occurs
    m: np.ndarray
    n: np.ndarray
    times: np.ndarray  # how many sentence pairs have this n, m


def lay_out(corpus: Corpus) -> Layout:
    """Order the rows, number places and co-occurring pairs; a text pair with an empty side has no rows."""
    n, m = corpus.n, np.where(corpus.n > 0, corpus.m, 0)
    sentence = np.repeat(np.arange(len(m), dtype=np.int32), m)
    token = _ranges(_before(corpus.m), m).astype(np.int32)
    order = np.lexsort((corpus.target[token], n[sentence]))
    sentence, token = sentence[order], token[order]
    del order
    length = n[sentence].astype(np.int32)

    shapes, shape, times = np.unique(np.stack([n, m], 1), axis=0, return_inverse=True, return_counts=True)
    which = np.repeat(np.arange(len(shapes)), shapes[:, 1])  # the (n, m) of each place
    first = _before(shapes[:, 1])
    j = 1 + np.arange(len(which)) - first[which]
    place = (first[shape] - _before(corpus.m))[sentence].astype(np.int32) + token

    place_n, first_link, groups = shapes[which, 0], _before(length), []
    for size in np.unique(length).tolist():
        rows, places = (slice(*np.searchsorted(x, [size, size + 1]).tolist()) for x in (length, place_n))
        groups.append(Group(size, rows, places, int(first_link[rows.start])))
    place -= np.searchsorted(place_n, length)
    columns = (j, shapes[which, 1], place_n, times[which])
    return Layout(
        groups, token, corpus.target[token], place, *_number_pairs(corpus, sentence, token, first_link),
        *(column.astype(np.float64) for column in columns),
    )  # fmt: skip


def _before(counts: np.ndarray) -> np.ndarray:
    """Sum of all earlier elements, int64."""
    return counts.cumsum(dtype=np.int64) - counts


def _ranges(start: np.ndarray, count: np.ndarray) -> np.ndarray:
    """The whole numbers from each `start` on, `count` of them, one range after the other."""
    numbers = np.repeat(start - _before(count), count)
    numbers += np.arange(len(numbers))
    return numbers


def _number_pairs(
    corpus: Corpus, sentence: np.ndarray, token: np.ndarray, first_link: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Number the co-occurring pairs of types: the layout's `pair`, `given` and `pairs_of`.

    Target types are taken in blocks of some CHUNK / 2 links, which bounds the memory. A target type has a
    pair with each source type at most: two bytes a link hold its number where there are at most 65,536.
    """
    types, first_source = max(1, len(corpus.source_words)), _before(corpus.n)
    by_type = np.argsort(corpus.target[token], kind="stable").astype(np.int32)
    first_rows = np.flatnonzero(np.diff(corpus.target[token[by_type]], prepend=-1))  # of each target type
    block = _before(corpus.n[sentence[by_type]])[first_rows] // (CHUNK // 2)
    starts = first_rows[np.flatnonzero(np.diff(block, prepend=-1))]
    pair, given = np.empty(corpus.n[sentence].sum(), np.min_scalar_type(types - 1)), array("i")
    pairs_of = np.zeros(len(corpus.target_words), np.int64)
    for rows in np.split(by_type, starts)[1:]:
        words, sizes = corpus.target[token[rows]].astype(np.int64), corpus.n[sentence[rows]]
        key = np.repeat((words - words[0]) * types, sizes)
        key += corpus.source[_ranges(first_source[sentence[rows]], sizes)]
        if key.max() < 8 * len(key):  # then a table is faster than sorting, and not larger
            seen = np.zeros(key.max() + 1, bool)
            seen[key] = True
            found, number = np.flatnonzero(seen), (np.cumsum(seen, dtype=np.int32) - 1)[key]
        else:
            found, number = np.unique(key, return_inverse=True)
        counts = np.bincount(found // types)
        pair[_ranges(first_link[rows], sizes)] = number - np.repeat(_before(counts)[words - words[0]], sizes)
        given.frombytes((found % types).astype(np.int32).tobytes())
        pairs_of[words[0] : words[-1] + 1] = counts
    return pair, np.frombuffer(given, np.int32), pairs_of


# The diagonal prior, with h(i, j) = -|i / n - j / m|; j, m, n are float64 arrays of one shape


def _series(j: np.ndarray, m: np.ndarray, n: np.ndarray, tension: float) -> tuple:
    """The two geometric series that the weights exp(tension * h) form on either side of the diagonal.

    Returns their common ratio, and for each side (h of the first term, number of terms). Only the exchanged n
    and m of `fit_tension` bring about j > m, where the C++ program's unsigned number of terms wraps around.
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


def weighted_distance(j: np.ndarray, m: np.ndarray, n: np.ndarray, tension: float) -> np.ndarray:
    """d Z / d tension, the sum over i = 1 ... n of exp(tension * h(i, j)) * h(i, j), in closed form."""
    ratio, sides = _series(j, m, n, tension)
    total = 0.0
    for h, terms in sides:
        weight, step = np.exp(h * tension), -1.0 / n
        beyond = weight * ratio**terms
        ends = ((step * (terms - 1) + h) * beyond - h * weight) / (ratio - 1)
        inner = step * (beyond - weight * ratio) / (ratio - 1) ** 2
        total = total + np.where(terms > 0, ends - inner, 0.0)
    return total


def fit_tension(layout: Layout, tension: float, observed: float) -> float:
    """Eight gradient steps of size 20 to the tension whose expected h per word is the observed one.

    As in the C++ program the expected one is divided by a Z with n and m exchanged, and the observed one (see
    `expect`) counts j from 0, not from 1.
    """
    words = len(layout.word)
    for _ in range(8):
        expected = weighted_distance(layout.j, layout.m, layout.n, tension)
        expected /= normalizer(layout.j, layout.n, layout.m, tension)
        slope = observed / words - float(np.einsum("i,i->", layout.times, expected)) / words
        tension = min(max(tension + 20.0 * slope, 0.1), 14.0)
    return tension


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
    pair: np.ndarray  # int64 (R, n), the pair of types of each link
    joint: np.ndarray  # (R, n), of the target word with a link to source word i
    null: np.ndarray  # (R,), of the target word with a link to NULL
    total: np.ndarray  # (R,), of the target word


def _steps(layout: Layout, settings: Aligner, parameters: Parameters) -> Iterator[_Step]:
    first_pair = _before(layout.pairs_of)
    for group in layout.groups:
        p_null, prior = _prior(layout, group, settings, parameters.tension)
        size = max(1, CHUNK // group.n)
        for first in range(group.rows.start, group.rows.stop, size):
            rows = slice(first, min(first + size, group.rows.stop))
            link = group.first_link + (first - group.rows.start) * group.n
            pair = layout.pair[link : link + (rows.stop - first) * group.n].reshape(-1, group.n)
            pair = first_pair.take(layout.word[rows])[:, None] + pair
            joint = parameters.theta.take(pair)
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
        np.add.at(counts, step.pair.ravel(), posterior.ravel())
        np.add.at(null, layout.word[step.rows], step.null / step.total)
        if observe:
            if step.group is not group:
                group, distances = step.group, _distances(layout, step.group, from_zero=True)
            observed += float(np.einsum("ij,ij->", posterior, distances.take(layout.place[step.rows], 0)))
    return counts, null, likelihood, observed


def maximise(layout: Layout, settings: Aligner, counts: np.ndarray, null: np.ndarray) -> None:
    """Turn expected counts into theta, in place; a target type without rows keeps `UNSEEN`.

    c / sum, or with -v the mean-field exp(psi(c) - psi(sum)), alpha being in both.
    """
    seen, bayes = np.bincount(layout.word, minlength=len(null)) > 0, settings.variational_bayes
    if bayes:
        from scipy.special import digamma  # takes a moment to import

        counts += settings.alpha
        null += settings.alpha * seen
    cuts = range(CHUNK, len(counts), CHUNK)  # NumPy widens the indices of a piece, not all at once
    pieces = list(zip(np.split(layout.given, cuts), np.split(counts, cuts), strict=True))
    sums = np.zeros(layout.given.max() + 1)
    for given, piece in pieces:
        np.add.at(sums, given, piece)
    level = digamma(sums) if bayes else np.where(sums == 0, 1.0, sums)
    for given, piece in pieces:
        piece[:] = np.exp(digamma(piece) - level[given]) if bayes else piece / level[given]
    null[:] = np.exp(digamma(null) - digamma(null.sum())) if bayes else null / (null.sum() or 1.0)
    null[~seen] = UNSEEN


def decode(corpus: Corpus, layout: Layout, settings: Aligner, parameters: Parameters) -> tuple[Links, float]:
    """The link of each target word to its best source word, unless that is NULL, which wins ties.

    Links are (source, target) of the text, in the order of the generated side's words; with the
    log-likelihood.
    """
    best, likelihood = np.full(len(corpus.target), -1, np.int32), 0.0
    for step in _steps(layout, settings, parameters):
        likelihood += float(np.log(step.total).sum())
        index = step.joint.argmax(1)
        value = step.joint[np.arange(len(index)), index]
        best[layout.token[step.rows]] = np.where(value > step.null, index, -1)
    m, linked = corpus.m, best >= 0
    pair, j = np.repeat(np.arange(len(m)), m)[linked], _ranges(np.zeros_like(m), m)[linked]
    columns = (j, best[linked]) if settings.reverse else (best[linked], j)
    counts = np.bincount(pair, minlength=len(m))
    return split_links(np.stack(columns, 1).astype(np.int32), counts), likelihood


# Training


@dataclass
class Model:
    """One trained direction; source and target are the text's; with `reverse` theta is p(source | target)."""

    settings: Aligner
    source_words: list[str]
    target_words: list[str]
    given: np.ndarray  # int32 (P,), the conditioning word of each pair; pairs sorted by (generated, given)
    pairs_of: np.ndarray  # int64, how many pairs each generated word has
    parameters: Parameters
    cross_entropies: list[float]  # bits per target word before each iteration; lower is better
    links: Links  # of the training pairs, decoded by the last iteration

    @np.errstate(all="ignore")  # a word that is impossible under the parameters has the likelihood 0
    def align(self, pairs: Pairs) -> Links:
        """Links of new tokenised pairs, without training: one int32 array (L, 2) per pair."""
        corpus = encode(pairs, (self.source_words, self.target_words))
        corpus = corpus.swapped() if self.settings.reverse else corpus
        layout, types, known = lay_out(corpus), len(corpus.source_words), self.parameters
        keys, wanted = (
            np.repeat(np.arange(len(x.pairs_of)) * types, x.pairs_of) + x.given for x in (self, layout)
        )
        place = np.searchsorted(keys, wanted)
        seen = np.append(keys, -1)[place] == wanted
        theta = np.where(seen, np.append(known.theta, UNSEEN)[place], UNSEEN)
        null = np.append(known.null, np.full(len(corpus.target_words) - len(known.null), UNSEEN))
        return decode(corpus, layout, self.settings, Parameters(theta, null, known.tension))[0]


@np.errstate(all="ignore")
def _train(text: Corpus, settings: Aligner, progress: Progress | None) -> Model:
    corpus = text.swapped() if settings.reverse else text
    layout = lay_out(corpus)
    words, sizes = len(layout.word), (len(layout.given), len(corpus.target_words))
    if not words:
        raise StudyError("no sentence pair has words on both sides: there is nothing to learn from")
    parameters, entropies = Parameters(*(np.full(size, UNSEEN) for size in sizes), settings.tension), []
    for number in range(1, settings.iterations + 1):
        used, last = parameters, number == settings.iterations
        if last:
            links, likelihood = decode(corpus, layout, settings, used)
        else:
            fit = settings.optimize_tension and settings.favor_diagonal and number > 1
            theta, null, likelihood, observed = expect(layout, settings, used, observe=fit)
            maximise(layout, settings, theta, null)
            tension = fit_tension(layout, used.tension, observed) if fit else used.tension
            parameters = Parameters(theta, null, tension)
        entropies.append(-likelihood / math.log(2) / words)
        if progress:
            way, state = "reverse" if settings.reverse else "forward", (entropies[-1], used.tension)
            progress("{} iteration {}: cross entropy {:.6g} tension {:.6g}".format(way, number, *state))
    vocabularies = text.source_words, text.target_words
    return Model(settings, *vocabularies, layout.given, layout.pairs_of, parameters, entropies, links)


def train(pairs: Pairs, settings: Aligner = RECOMMENDED, progress: Progress | None = None) -> Model:
    """Train one direction on tokenised pairs; `model.links` holds their links.

    A pair with an empty side is kept, without links, and left out of the counts and the cross-entropy.
    StudyError where all are of this kind. Likelihoods are in float64; equal input gives equal bits.
    """
    return _train(encode(pairs), settings, progress)


def train_both(
    pairs: Pairs, settings: Aligner = RECOMMENDED, progress: Progress | None = None
) -> tuple[Model, Model]:
    """Train both directions of tokenised pairs, in two threads: (forward, reverse)."""
    text = encode(pairs)
    ways = [replace(settings, reverse=reverse) for reverse in (False, True)]
    with ThreadPoolExecutor(2) as pool:
        forward, backward = pool.map(lambda way: _train(text, way, progress), ways)
    return forward, backward


def align_both(
    pairs: Pairs, settings: Aligner = RECOMMENDED, heuristic: str = "grow-diag-final-and"
) -> Links:
    """Links of tokenised pairs: both directions trained on them, then symmetrised."""
    forward, backward = train_both(pairs, settings)
    return symmetrize(forward.links, backward.links, heuristic)
