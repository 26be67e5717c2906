"""Pre-training objectives: losses as functions of tensors, and the text that each one reads at each step.

Shapes: B batch, T tokens, K predicted positions a sequence, H hidden, V vocabulary, L links, A predicted
positions with a partner.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from xltlib import StudyError
from xltlib.data.tokenization import OWN, Specials, join
from xltlib.pretraining.models import Encoder, device_of, to_device
from xltlib.pretraining.options import OBJECTIVES, Options
from xltlib.pretraining.training import Pool, pad

# Of the masked subwords a tenth is shown as it is and a tenth as another one, the rest as [MASK]: BERT (arXiv
# 1810.04805) and XLM's TLM; how WEAM does it was not found.
SHOWN, REPLACED = 0.1, 0.1
BETA = 1.0  # weight of the drift: as in both public re-implementations of arXiv 2002.03518

Logits = Callable[[Tensor], Tensor]  # vectors (..., H) to scores of all words (..., V)
Loss = Callable[[int], dict[str, Tensor]]  # the parts of a loss by name, at a step


class Masked(NamedTuple):
    """A batch with positions to predict: inputs (B, T), positions (B, K), targets (B, K).

    Of linked pairs also: partner (B, T), the position of each position's aligned word, or its own; aligned
    (A,), which predicted positions have a partner, counted over all B x K.
    """

    inputs: Tensor
    positions: Tensor
    targets: Tensor
    partner: Tensor | None = None
    aligned: Tensor | None = None

    def to(self, device: torch.device) -> "Masked":
        return Masked(*(part if part is None else to_device(part, device) for part in self))

    def linked(self, partner: Tensor) -> "Masked":
        """The batch with the partners of its positions; on the CPU, which need not wait for their number."""
        moved = partner.gather(1, self.positions) != self.positions
        return self._replace(partner=partner, aligned=moved.flatten().nonzero().flatten())


def mask_tokens(
    ids: np.ndarray, rate: float, vocab_size: int, rng: np.random.Generator, special: Specials = OWN
) -> Masked:
    """Choose exactly round(rate x ordinary tokens) positions in each row (B, T) and hide them.

    Where rows differ in their number of ordinary tokens (by [UNK]), the smallest counts; at least one
    position is chosen. StudyError where the tokenizer has no mask.
    """
    if special.mask is None:
        raise StudyError(
            "masked words: the tokenizer has no token for a mask, as mT5's: take a model such as xlmr-base"
        )
    ordinary = special.ordinary(ids)
    count = max(1, round(rate * int(ordinary.sum(1).min())))
    order = np.where(ordinary, rng.random(ids.shape), 2.0)
    positions = torch.from_numpy(np.argpartition(order, count - 1, axis=1)[:, :count].copy())
    tokens = torch.from_numpy(ids)
    targets = tokens.gather(1, positions)
    draw = torch.from_numpy(rng.random(targets.shape))
    words = rng.integers(0, vocab_size - len(special.ids), tuple(targets.shape))
    for number in sorted(special.ids):  # the n-th of the words that are not special
        words += words >= number
    seen = torch.where(draw < REPLACED, torch.from_numpy(words), torch.full_like(targets, special.mask))
    seen = torch.where(draw >= 1 - SHOWN, targets, seen)
    return Masked(tokens.scatter(1, positions, seen), positions, targets)


# Losses


def gather(states: Tensor, positions: Tensor) -> Tensor:
    """Vectors at positions: (B, T, H), (B, K) -> (B, K, H)."""
    return states.gather(1, positions.unsqueeze(-1).expand(-1, -1, states.shape[-1]))


def exchange(states: Tensor, partner: Tensor) -> Tensor:
    """WEAM's exchange: position t gets the vector of `partner[t]`, its aligned word, or keeps its own.

    states (B, T, H), partner (B, T) an involution: partner[partner[t]] = t. Source: arXiv 2106.01732, Fig. 1.
    """
    return gather(states, partner)


def mlm_loss(logits: Logits, states: Tensor, batch: Masked) -> dict[str, Tensor]:
    """Mean cross-entropy of masked words, from their own vectors (B, T, H).

    On a pair in two languages this is TLM (arXiv 1901.07291).
    """
    scores = logits(gather(states, batch.positions)).flatten(0, -2)
    return {"loss": F.cross_entropy(scores, batch.targets.flatten())}


def weam_loss(logits: Logits, states: Tensor, batch: Masked, weight: float = 1.0) -> dict[str, Tensor]:
    """L = L_mp + weight * L_cp: masked words from their own vectors, and from the vectors after the exchange.

    Source: arXiv 2106.01732, Figure 1; which term lambda weighs is not readable there: here the cross-lingual
    one, so that 0 is TLM, to the last bit.
    """
    if weight == 0:
        alone = mlm_loss(logits, states, batch)["loss"]
        return {"loss": alone, "own": alone.detach()}
    words = batch.targets.flatten()
    come_from = batch.partner.gather(1, batch.positions)  # the exchange, at the predicted positions alone
    own, moved = (gather(states, at).flatten(0, 1) for at in (batch.positions, come_from))
    # a word without a partner has the same vector in both terms: it is predicted once
    scores = logits(torch.cat([own, moved[batch.aligned]]))
    losses = F.cross_entropy(scores, torch.cat([words, words[batch.aligned]]), reduction="none")
    own, again = losses[: len(words)], losses[len(words) :]
    crossed = own.index_copy(0, batch.aligned, again).mean()
    return {"loss": own.mean() + weight * crossed, "own": own.mean().detach(), "crossed": crossed.detach()}


def pulling_loss(source: Tensor, target: Tensor, frozen: Tensor, present: Tensor) -> dict[str, Tensor]:
    """Squared distance of aligned words' vectors, plus BETA times the drift of the source side.

    source, target (L, H): vectors of linked words; frozen (B, T, H) the source states of the frozen start and
    present (B, T, H) those of now. Source: Cao et al. 2020, arXiv 2002.03518; loss as in two public
    re-implementations (mean over dimensions).
    """
    pull = F.mse_loss(source, target) if len(source) else source.sum()  # 0: the mean of no links would be NaN
    drift = F.mse_loss(present, frozen)
    return {"loss": pull + BETA * drift, "pull": pull.detach(), "drift": drift.detach()}


def check_exchange() -> bool:
    """Whether WEAM predicts from exchanged vectors, and the exchange moves aligned positions alone.

    An `implementation` test of the ledger: `weam_loss`, which training calls, against its definition.
    """
    generator = torch.Generator().manual_seed(0)
    states, head = (torch.randn(*shape, generator=generator) for shape in ((2, 6, 3), (3, 9)))
    partner = torch.tensor([[0, 4, 2, 3, 1, 5], [0, 1, 2, 3, 4, 5]])
    batch = Masked(states, torch.tensor([[1, 2], [3, 4]]), torch.tensor([[5, 6], [7, 8]])).linked(partner)
    moved, still = exchange(states, partner), partner == torch.arange(6)
    parts = weam_loss(lambda vectors: vectors @ head, states, batch)
    own, crossed = (mlm_loss(lambda vectors: vectors @ head, x, batch)["loss"] for x in (states, moved))
    return bool(
        torch.equal(exchange(moved, partner), states) and torch.equal(moved[still], states[still])
        and not torch.equal(moved[~still], states[~still]) and not torch.allclose(own, crossed)
        and torch.allclose(parts["own"], own) and torch.allclose(parts["crossed"], crossed)
    )  # fmt: skip


# What objectives read


@dataclass(frozen=True)
class ParallelText:
    """Sentence pairs of one language with the source: subwords of both sides, and links between them.

    links[i] is (L, 2): 0-based positions within the source's and the target's subwords, each at most once.
    """

    source: list[np.ndarray]
    target: list[np.ndarray]
    links: list[np.ndarray] = field(default_factory=list)

    def concatenated(self, special: Specials = OWN) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """[CLS] a [SEP] b [SEP] for each pair (all source first, then all target first), and partners.

        Both orders, so that either language is read first equally often; the sources do not say.
        """
        begin, middle = len(special.before), len(special.between)
        sequences, partners = [], []
        for swap in (False, True):
            for i, (a, b) in enumerate(zip(self.source, self.target, strict=True)):
                first, second = (b, a) if swap else (a, b)
                sequences.append(join(first, second, special=special))
                partner = np.arange(len(sequences[-1]))
                if self.links:
                    link = self.links[i][:, ::-1] if swap else self.links[i]
                    left, right = link[:, 0] + begin, link[:, 1] + begin + len(first) + middle
                    partner[left], partner[right] = right, left
                partners.append(partner)
        return sequences, partners


@dataclass(frozen=True)
class Recipe:
    """What every objective shares, so that only the objective differs between encoders compared."""

    batch_size: int
    mask_rate: float
    seed: int
    document_share: float = 0.5  # of the updates that go on with MLM on documents (XLM interleaves them too)
    special: Specials = OWN
    batch_tokens: int = 0  # in place of batch_size sequences: how many tokens an update reads, about

    def rng(self, step: int) -> np.random.Generator:
        """The generator of one step: all that is random there depends on the seed and the step alone."""
        return np.random.default_rng([self.seed, step])

    def counted(self, parts: dict[str, Tensor], tokens: int) -> dict[str, Tensor]:
        """The parts of a loss, with the tokens that were read where updates are measured by them."""
        if not self.batch_tokens:
            return parts
        return parts | {"tokens": torch.full((), tokens, dtype=torch.float32, device=parts["loss"].device)}


def tokens_read(history: list[dict[str, float]]) -> int:
    """All tokens that updates measured by tokens have read; takes their means out of the history."""
    ends = [0, *(point["step"] for point in history)]
    return sum(round(n * point.pop("tokens")) for n, point in zip(np.diff(ends), history, strict=True))


def document_loss(encoder: Encoder, pools: Sequence[Pool], chances: np.ndarray, recipe: Recipe) -> Loss:
    """MLM on documents of all languages; `chances`: how often each language is drawn."""
    return _sequence_loss(mlm_loss, encoder, pools, recipe, chances=chances)


def interleaved(objective: Loss, documents: Loss, recipe: Recipe) -> Loss:
    """Of every ten updates, `document_share` x 10 go on with MLM on documents, spread evenly."""
    tenths = round(10 * recipe.document_share)
    return lambda step: (documents if (step * tenths) % 10 < tenths else objective)(step)


def objective_loss(
    name: str, encoder: Encoder, texts: Sequence[ParallelText], recipe: Recipe, options: Options | None = None
) -> Loss:
    """The loss of an objective over the parallel texts, one for each target language, at each step.

    Every objective sees the same sentences of the same pairs of languages equally often. "mlm" is the
    unpaired control of the paired ones, and that of "mixed", whose texts come code-switched: both go through
    the same sequences, so that "mixed" without a translated word is "mlm".
    """
    entry, function = OBJECTIVES[name], OBJECTIVES[name].load()
    if "lambda_" in entry.options:
        function = partial(function, weight=(options or Options()).lambda_)
    if entry.reads == "sides":
        return _sides_loss(function, encoder, texts, recipe)
    if entry.reads == "sentences":
        return _sequence_loss(function, encoder, [_unpaired(text, recipe) for text in texts], recipe)
    sequences, partners = zip(*(text.concatenated(recipe.special) for text in texts), strict=True)
    pools = [Pool(own) for own in sequences]
    return _sequence_loss(function, encoder, pools, recipe, partners if entry.linked else ())


def _unpaired(text: ParallelText, recipe: Recipe) -> Pool:
    """The same sentences, two of one language at a time, none with its translation: a control."""
    rng = np.random.default_rng([recipe.seed, 7])
    sequences = []
    for side in (text.source, text.target):
        order = rng.permutation(len(side))
        pairs = zip(order, np.roll(order, 1), strict=True)
        sequences += [join(side[i], side[j], special=recipe.special) for i, j in pairs]
    return Pool(sequences)


def _sequence_loss(
    function: Callable, encoder: Encoder, pools: Sequence[Pool], recipe: Recipe,
    partners: Sequence[Sequence[np.ndarray]] = (), chances: np.ndarray | None = None,
) -> Loss:  # fmt: skip
    """Masked words of sequences, at each step from one pool, drawn by its chance or as any other."""
    _require_room(encoder, max(pool.lengths[-1] for pool in pools))

    def loss(step: int) -> dict[str, Tensor]:
        rng = recipe.rng(step)
        number = rng.choice(len(pools), p=chances)
        ids, rows = pools[number].draw(rng, recipe.batch_size, recipe.batch_tokens)
        batch = mask_tokens(ids, recipe.mask_rate, encoder.vocab_size, rng, recipe.special)
        if partners:
            batch = batch.linked(torch.from_numpy(np.stack([partners[number][row] for row in rows])))
        batch = batch.to(device_of(encoder))
        second = None
        if encoder.two_segments:  # the second begins after the first separators
            between = recipe.special.between
            second = (batch.inputs == between[0]).long().argmax(1) + len(between)
        states = encoder.states(batch.inputs, second=second)
        return recipe.counted(function(encoder.logits, states, batch), ids.size)

    return loss


def _sides_loss(function: Callable, encoder: Encoder, texts: Sequence[ParallelText], recipe: Recipe) -> Loss:
    """Each side is encoded by itself; the function gets the vectors of linked subwords (Cao et al. 2020)."""
    frozen = copy.deepcopy(encoder).eval().requires_grad_(False)
    targets = [[join(sentence, special=recipe.special) for sentence in text.target] for text in texts]
    pools, begin = [], len(recipe.special.before)
    for text, others in zip(texts, targets, strict=True):
        sources = [join(sentence, special=recipe.special) for sentence in text.source]
        pools.append(Pool(sources, sizes=[len(a) + len(b) for a, b in zip(sources, others, strict=True)]))
        _require_room(encoder, max(pools[-1].lengths[-1], *map(len, others)))

    def loss(step: int) -> dict[str, Tensor]:
        rng = recipe.rng(step)
        number = rng.integers(len(pools))
        ids, rows = pools[number].draw(rng, recipe.batch_size, recipe.batch_tokens)
        others, links = ([side[number][row] for row in rows] for side in (targets, [t.links for t in texts]))
        at = np.repeat(np.arange(len(rows)), [len(own) for own in links])  # the row of each link (L,)
        arrays = ids, *pad(others, recipe.special.pad), at, np.concatenate(links) + begin
        inputs, target, mask, at, ends = (to_device(torch.as_tensor(x), device_of(encoder)) for x in arrays)
        states, foreign = encoder.states(inputs), encoder.states(target, mask)
        with torch.no_grad():
            start = frozen.states(inputs)
        parts = function(states[at, ends[:, 0]], foreign[at, ends[:, 1]], start, states)
        return recipe.counted(parts, ids.size + sum(map(len, others)))

    return loss


def _require_room(encoder: Encoder, longest: int) -> None:
    """StudyError where a sequence has more subwords than the encoder can take."""
    if encoder.longest and longest > encoder.longest:
        raise StudyError(
            f"a sequence of {longest} subwords: the encoder takes {encoder.longest} at most: lower max_length"
        )
