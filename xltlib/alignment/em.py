"""The fast_align model over all possible links of a text: their layout, the diagonal prior, and EM, in torch.

Source of the model: Dyer, Chahuneau, Smith (NAACL 2013); where the paper leaves a choice, the C++ program
github.com/clab/fast_align (cab1e9a) decides. Letters: S sentence pairs; n and m their source and target
words, counted by i = 1 ... n and j = 1 ... m; L possible links (the sum of n * m); T rows (target words);
P co-occurring pairs of word types; F target types.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn.functional import embedding

from xltlib.alignment.corpus import Aligner, Corpus

CHUNK = {"cpu": 1 << 17, "cuda": 1 << 24}  # links in flight at once: fits a CPU's cache, keeps a GPU busy
UNSEEN = 1e-9  # theta before the first M-step, and of pairs never seen together (C++)


@contextmanager
def one_thread() -> Iterator[None]:
    """Sums, and so the last bits of every result, depend on the number of threads: it is one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


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
    first_pair: torch.Tensor  # int64 (F + 1,), where the pairs of each target type begin, and the end
    j: torch.Tensor  # float64, one for each (n, m, j) that occurs
    m: torch.Tensor
    n: torch.Tensor
    times: torch.Tensor  # how many sentence pairs have this n, m


def _before(counts: torch.Tensor) -> torch.Tensor:
    """Sum of all earlier elements, int64."""
    return counts.cumsum(0).sub_(counts)


def lay_out(corpus: Corpus, device: str) -> Layout:
    """Order the rows, number places and co-occurring pairs; a text pair with an empty side has no rows."""
    arrays = (corpus.source, corpus.target, corpus.n, corpus.m)
    source, target, n, m = (torch.from_numpy(x).to(device) for x in arrays)
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


# The diagonal prior, with h(i, j) = -|i / n - j / m|; j, m, n are float64 tensors of one shape


def _series(j: torch.Tensor, m: torch.Tensor, n: torch.Tensor, tension: float) -> tuple:
    """The two geometric series that the weights exp(tension * h) form on either side of the diagonal.

    Returns their common ratio, and for each side (h of the first term, number of terms). Only the exchanged n
    and m of the C++ quirk bring about j > m, where the program's unsigned number of terms wraps around.
    """
    below = torch.floor(j * n / m)
    above = n - below
    ratio = torch.exp(-tension / n)
    return ratio, (
        (-(((below + 1) / n) - j / m).abs(), torch.where(above < 0, above + 2.0**32, above)),
        (-((below / n) - j / m).abs(), below),
    )


def normalizer(j: torch.Tensor, m: torch.Tensor, n: torch.Tensor, tension: float) -> torch.Tensor:
    """Z, the sum over i = 1 ... n of exp(tension * h(i, j)), in closed form."""
    ratio, sides = _series(j, m, n, tension)
    top, bottom = (torch.exp(h * tension) * (1.0 - ratio**terms) / (1.0 - ratio) for h, terms in sides)
    return bottom + top


def expected_distance(
    j: torch.Tensor, m: torch.Tensor, n: torch.Tensor, tension: float, swapped: bool = False
) -> torch.Tensor:
    """d log Z / d tension, the prior mean of h. `swapped` divides by the Z of exchanged n and m (C++)."""
    ratio, sides = _series(j, m, n, tension)
    total = 0.0
    for h, terms in sides:
        weight, step = torch.exp(h * tension), -1.0 / n
        beyond = weight * ratio**terms
        ends = ((step * (terms - 1) + h) * beyond - h * weight) / (ratio - 1)
        inner = step * (beyond - weight * ratio) / (ratio - 1) ** 2
        total = total + torch.where(terms > 0, ends - inner, 0.0)
    return total / (normalizer(j, n, m, tension) if swapped else normalizer(j, m, n, tension))


def _distances(layout: Layout, group: Group, from_zero: bool = False) -> torch.Tensor:
    """h of each place of a group, (places, n)."""
    j, m = layout.j[group.places, None] - float(from_zero), layout.m[group.places, None]
    i = torch.arange(1, group.n + 1, dtype=torch.float64, device=j.device)
    return -(i / group.n - j / m).abs()


def _prior(layout: Layout, group: Group, settings: Aligner, tension: float) -> tuple[float, torch.Tensor]:
    """P(a_j = NULL), and P(a_j = i) at each place of the group: (places, n), or (1, n) if it is uniform."""
    if not settings.favor_diagonal:
        each = 1.0 / (group.n + 1)
        return each, layout.j.new_full((1, group.n), each)
    places = (x[group.places] for x in (layout.j, layout.m, layout.n))
    z = normalizer(*places, tension) / (1.0 - settings.p_null)
    return settings.p_null, torch.exp(_distances(layout, group) * tension) / z[:, None]


# EM


@dataclass
class Parameters:
    """What EM estimates."""

    theta: torch.Tensor  # float64 (P,), p(target type | source type)
    null: torch.Tensor  # float64 (F,), p(target type | NULL)
    tension: float


class _Step(NamedTuple):
    """A chunk of R rows of one group, and their probabilities under the parameters."""

    group: Group
    rows: slice
    pair: torch.Tensor  # int32 (R * n,)
    joint: torch.Tensor  # (R, n), of the target word with a link to source word i
    null: torch.Tensor  # (R,), of the target word with a link to NULL
    total: torch.Tensor  # (R,), of the target word


def _steps(layout: Layout, settings: Aligner, parameters: Parameters) -> Iterator[_Step]:
    chunk = CHUNK[layout.pair.device.type]
    for group in layout.groups:
        p_null, prior = _prior(layout, group, settings, parameters.tension)
        size = max(1, chunk // group.n)
        for first in range(group.rows.start, group.rows.stop, size):
            rows = slice(first, min(first + size, group.rows.stop))
            link = group.first_link + (first - group.rows.start) * group.n
            pair = layout.pair[link : link + (rows.stop - first) * group.n]
            joint = parameters.theta.index_select(0, pair).view(-1, group.n)
            joint *= prior if len(prior) == 1 else embedding(layout.place[rows], prior)
            null = parameters.null.index_select(0, layout.word[rows]) * p_null
            yield _Step(group, rows, pair, joint, null, joint.sum(1) + null)


def expect(layout: Layout, settings: Aligner, parameters: Parameters, observe: bool) -> tuple:
    """Expected counts of pairs (P,) and of NULL (F,), log-likelihood, and with `observe` the sum of h."""
    counts, null = torch.zeros_like(parameters.theta), torch.zeros_like(parameters.null)
    likelihood, observed, group = 0.0, 0.0, None
    for step in _steps(layout, settings, parameters):
        likelihood += float(step.total.log().sum())
        posterior = step.joint.div_(step.total[:, None])
        counts.index_add_(0, step.pair, posterior.view(-1))
        null.index_add_(0, layout.word[step.rows], step.null / step.total)
        if observe:
            if step.group is not group:
                group = step.group
                distances = _distances(layout, group, settings.empirical_from_zero)
            h = embedding(layout.place[step.rows], distances)
            observed += float(torch.dot(posterior.view(-1), h.view(-1)))
    return counts, null, likelihood, observed


def maximise(layout: Layout, settings: Aligner, counts: torch.Tensor, null: torch.Tensor) -> None:
    """Turn expected counts into theta, in place; a target type without rows keeps `UNSEEN`."""
    seen = layout.first_pair.diff() > 0
    if settings.variational_bayes:
        counts += settings.alpha
        null += settings.alpha * seen
    sums = counts.new_zeros(int(layout.given.max()) + 1 if len(counts) else 1)
    sums.index_add_(0, layout.given, counts)
    level, null_level = (
        x.digamma() if settings.variational_bayes else torch.where(x == 0, 1.0, x) for x in (sums, null.sum())
    )
    chunk = CHUNK[counts.device.type]
    for part, e in zip(counts.split(chunk), layout.given.split(chunk), strict=True):
        _normalise(part, level.index_select(0, e), settings)
    _normalise(null, null_level, settings)
    null.masked_fill_(~seen, UNSEEN)


def _normalise(counts: torch.Tensor, level: torch.Tensor, settings: Aligner) -> None:
    """c / sum, or with -v the mean-field exp(psi(c) - psi(sum)), alpha being in both; in place."""
    if settings.variational_bayes:
        counts.digamma_().sub_(level).exp_()
    else:
        counts.div_(level)


def fit_tension(layout: Layout, settings: Aligner, tension: float, observed: float, words: int) -> float:
    """Eight gradient steps of size 20 to the tension whose expected h per word is the observed one (C++)."""
    for _ in range(8):
        expected = expected_distance(layout.j, layout.m, layout.n, tension, settings.swapped_normalizer)
        slope = observed / words - float(torch.dot(layout.times, expected)) / words
        tension = min(max(tension + 20.0 * slope, 0.1), 14.0)
    return tension


def decode(
    layout: Layout, settings: Aligner, parameters: Parameters, tokens: int
) -> tuple[np.ndarray, float]:
    """Each target token's best source word, from 1, or 0 for NULL, which wins ties; the log-likelihood."""
    best = torch.zeros(tokens, dtype=torch.int32, device=layout.pair.device)
    likelihood = 0.0
    for step in _steps(layout, settings, parameters):
        likelihood += float(step.total.log().sum())
        value, index = step.joint.max(1)
        best[layout.order[step.rows]] = torch.where(value > step.null, index + 1, 0).int()
    return best.cpu().numpy(), likelihood


# From a text to what is kept of it


def estimate(
    corpus: Corpus, settings: Aligner, device: str, record: Callable[[float, int, float], None]
) -> tuple[tuple[np.ndarray, ...], float, np.ndarray]:
    """EM on a text: (given, first_pair, theta, null) as in `Model`, the tension, and what `decode` chose.

    `record` gets each iteration's log-likelihood, the number of target words, and the tension it had.
    """
    layout = lay_out(corpus, device)
    words = len(layout.word)
    theta, null = (
        torch.full((size,), UNSEEN, dtype=torch.float64, device=device)
        for size in (len(layout.given), len(corpus.target_words))
    )
    parameters = Parameters(theta, null, settings.tension)
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
    return tuple(x.cpu().numpy() for x in arrays), parameters.tension, best


def align(corpus: Corpus, model: Any, device: str) -> np.ndarray:
    """What `decode` chooses in another text by an `aligner.Model`; what it has not seen gets `UNSEEN`."""
    layout = lay_out(corpus, device)
    types = len(corpus.source_words)
    keys = model.generated * types + model.given
    generated = np.repeat(np.arange(len(corpus.target_words)), np.diff(layout.first_pair.cpu()))
    wanted = generated * types + layout.given.cpu().numpy()
    place = np.searchsorted(keys, wanted)
    seen = np.append(keys, -1)[place] == wanted
    theta = np.where(seen, np.append(model.theta, UNSEEN)[place], UNSEEN)
    null = np.append(model.null, np.full(len(corpus.target_words) - len(model.null), UNSEEN))
    arrays = (torch.tensor(x, device=device) for x in (theta, null))
    return decode(layout, model.settings, Parameters(*arrays, model.tension), len(corpus.target))[0]
