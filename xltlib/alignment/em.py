"""The fast_align model: its settings, its diagonal prior, and the steps of EM over all links of a text.

Source of the model: Dyer, Chahuneau, Smith (NAACL 2013); where the paper leaves a choice, the C++ program
github.com/clab/fast_align (cab1e9a) decides. i = 1 ... n counts source words, j = 1 ... m target words.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch.nn.functional import embedding

from xltlib import StudyError
from xltlib.alignment.cooccurrence import CHUNK, Group, Layout

UNSEEN = 1e-9  # theta before the first M-step, and of pairs never seen together (C++)


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
    level, null_level = (_level(x, settings) for x in (sums, null.sum()))
    chunk = CHUNK[counts.device.type]
    for part, e in zip(counts.split(chunk), layout.given.split(chunk), strict=True):
        _normalise(part, level.index_select(0, e), settings)
    _normalise(null, null_level, settings)
    null.masked_fill_(~seen, UNSEEN)


def _level(sums: torch.Tensor, settings: Aligner) -> torch.Tensor:
    return sums.digamma() if settings.variational_bayes else torch.where(sums == 0, 1.0, sums)


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
