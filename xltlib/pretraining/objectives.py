"""Pre-training objectives as functions of tensors: masked words, exchanged vectors, pulled vectors, links.

Shapes: B batch, T tokens, K predicted positions a sequence, H hidden, V vocabulary, L links.
"""

from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from xltlib import StudyError
from xltlib.data.tokenization import OWN, PAD, Specials
from xltlib.pretraining.models import to_device

Logits = Callable[[Tensor], Tensor]  # vectors (..., H) to scores of all words (..., V)


class Masked(NamedTuple):
    """A batch with positions to predict: inputs (B, T), positions (B, K), targets (B, K)."""

    inputs: Tensor
    positions: Tensor
    targets: Tensor

    def to(self, device: torch.device) -> "Masked":
        return Masked(*(to_device(part, device) for part in self))


def mask_tokens(
    ids: np.ndarray,
    rate: float,
    vocab_size: int,
    rng: np.random.Generator,
    keep: float = 0.1,
    random: float = 0.1,
    special: Specials = OWN,
) -> Masked:
    """Choose exactly round(rate x ordinary tokens) positions in each row and hide them.

    Of the chosen positions a share `keep` stays as it is and a share `random` becomes a random word; the
    rest is replaced by [MASK] (Devlin et al. 2019: 0.1 and 0.1; 0 and 0 is the pure mask). Where rows differ
    in their number of ordinary tokens (by [UNK]), the smallest counts; at least one position is chosen.
    StudyError where the tokenizer has no mask.
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
    shown = torch.where(draw < random, torch.from_numpy(words), torch.full_like(targets, special.mask))
    shown = torch.where(draw >= 1 - keep, targets, shown)
    return Masked(tokens.scatter(1, positions, shown), positions, targets)


# Prediction


def gather(states: Tensor, positions: Tensor) -> Tensor:
    """Vectors at positions: (B, T, H), (B, K) -> (B, K, H)."""
    return states.gather(1, positions.unsqueeze(-1).expand(-1, -1, states.shape[-1]))


def exchange(states: Tensor, partner: Tensor) -> Tensor:
    """WEAM's exchange: position t gets the vector of `partner[t]`, its aligned word, or keeps its own.

    states (B, T, H), partner (B, T) an involution: partner[partner[t]] = t. Source: arXiv 2106.01732, Fig. 1.
    """
    return gather(states, partner)


def prediction_loss(logits: Logits, states: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy of the words at predicted positions: (..., H), (...) -> (); 0 if there is none."""
    if targets.numel() == 0:  # the mean of nothing would be NaN
        return states.sum()
    return F.cross_entropy(logits(states).flatten(0, -2), targets.flatten())


def mlm_loss(logits: Logits, states: Tensor, batch: Masked) -> dict[str, Tensor]:
    """Masked words from their own vectors. On a pair in two languages this is TLM (arXiv 1901.07291)."""
    return {"loss": prediction_loss(logits, gather(states, batch.positions), batch.targets)}


def weam_loss(
    logits: Logits,
    states: Tensor,
    batch: Masked,
    partner: Tensor,
    weight: float = 1.0,
    keep_unaligned: bool = True,
    crossed_logits: Logits | None = None,
) -> dict[str, Tensor]:
    """L = L_mp + weight * L_cp: masked words from their own vectors, and from the vectors after the exchange.

    Source: arXiv 2106.01732, Figure 1; which term lambda weighs is not readable there: here the cross-lingual
    one, so that 0 is TLM. Unaligned positions predict from their own vector in both terms, as in the figure,
    or take no part in the second. `crossed_logits`: the head of the second term; None: that of the first, of
    which unaligned positions then have the same loss in both terms, computed once. Where states are on a GPU,
    batch and partner stay on the CPU, which can tell how many positions are aligned without waiting.
    """
    if weight == 0:
        only = mlm_loss(logits, states, batch.to(states.device))["loss"]
        return {"loss": only, "own": only.detach()}
    positions, targets, length = batch.positions, batch.targets, states.shape[1]
    # the same as gather(exchange(states, partner), positions), without moving what is not predicted
    come_from = partner.gather(1, positions)
    aligned, shared = come_from != positions, crossed_logits is None
    again = aligned | (keep_unaligned and not shared)  # predicted once more after the exchange
    rows = length * torch.arange(len(positions)).unsqueeze(1)
    read = torch.cat([(rows + positions).flatten(), (rows + come_from)[again]])
    words = torch.cat([targets.flatten(), targets[again]])
    read, words, alone = (to_device(x, states.device) for x in (read, words, ~aligned.flatten()))
    vectors, counts = states.flatten(0, 1)[read], [targets.numel(), len(read) - targets.numel()]
    if shared:
        scores = logits(vectors)
    else:
        at_home, moved = vectors.split(counts)
        scores = torch.cat([logits(at_home), crossed_logits(moved)])
    first, second = F.cross_entropy(scores, words, reduction="none").split(counts)
    crossed = second.sum()
    if shared and keep_unaligned:
        crossed = crossed + (first * alone).sum()
    own = first.mean()
    crossed = crossed / max(1, counts[0] if keep_unaligned else counts[1])
    return {"loss": own + weight * crossed, "own": own.detach(), "crossed": crossed.detach()}


def unless_both_masked(partner: Tensor, positions: Tensor) -> Tensor:
    """The partners (B, T) without the pairs of which both words are to be predicted, positions (B, K)."""
    masked = torch.zeros_like(partner, dtype=torch.bool).scatter(1, positions, True)
    at = torch.arange(partner.shape[1], device=partner.device).expand_as(partner)
    return torch.where(masked & masked.gather(1, partner), at, partner)


def segments(ids: Tensor, special: Specials = OWN) -> Tensor:
    """0 in [CLS] a [SEP], 1 in b [SEP], for [CLS] a [SEP] b [SEP]: (B, T) -> (B, T).

    The second begins after the first run of separators, as in `<s> a </s></s> b </s>`.
    """
    middle = (ids == special.between[0]).long().argmax(1, keepdim=True)
    return (torch.arange(ids.shape[1], device=ids.device) >= middle + len(special.between)).long()


def reset_positions(ids: Tensor, special: Specials = OWN) -> Tensor:
    """Positions (B, T), from 0, of pairs (B, T) that restart in the second sentence.

    The n-th words of both sentences then have the same position, as in XLM (arXiv 1901.07291), where each of
    the two has a boundary token at 0.
    """
    at, second = torch.arange(ids.shape[1], device=ids.device), segments(ids, special)
    return at - second * ((second == 0).sum(1, keepdim=True) - len(special.before))


# Pulling


def pulling_loss(
    source: Tensor, target: Tensor, frozen: Tensor, present: Tensor, beta: float = 1.0
) -> dict[str, Tensor]:
    """Squared distance of aligned words' vectors, plus beta times the drift of the source side.

    source, target (L, H): vectors of linked words; frozen (B, T, H) the source states of the frozen start and
    present (B, T, H) those of now. Source: Cao et al. 2020, arXiv 2002.03518; loss as in two public
    re-implementations (mean over dimensions, beta 1).
    """
    pull = F.mse_loss(source, target) if len(source) else source.sum()  # 0: the mean of no links would be NaN
    drift = F.mse_loss(present, frozen)
    return {"loss": pull + beta * drift, "pull": pull.detach(), "drift": drift.detach()}


def span_means(states: Tensor, rows: Tensor, starts: Tensor, ends: Tensor) -> Tensor:
    """Mean vectors of spans: states (B, T, H), rows, starts and ends (exclusive) (L,) -> (L, H)."""
    exact = torch.promote_types(states.dtype, torch.float32)  # sums of 16 bits would lose short spans
    sums = F.pad(states.cumsum(1, dtype=exact), (0, 0, 1, 0))
    return (sums[rows, ends] - sums[rows, starts]) / (ends - starts).unsqueeze(1)


def pad(sequences: Sequence[np.ndarray], filler: int = PAD, multiple: int = 1) -> tuple[Tensor, Tensor]:
    """Token ids (B, T) filled up with `filler`, and the mask (B, T) of the real ones; T is a `multiple`."""
    sizes = np.array([len(sequence) for sequence in sequences])
    real = np.arange(-(-sizes.max() // multiple) * multiple) < sizes[:, None]
    ids = np.full(real.shape, filler, dtype=np.int64)
    ids[real] = np.concatenate(sequences)
    return torch.from_numpy(ids), torch.from_numpy(real).long()


# Links


def one_to_one(links: np.ndarray, rule: str = "first", lengths: tuple[int, int] = (1, 1)) -> np.ndarray:
    """Of the links (L, 2) those that share no word with another, so that the exchange is an involution.

    Where a word has several links, `rule` keeps the "first" of them, the "nearest" to the diagonal of the two
    `lengths`, or "none".
    """
    links = np.asarray(links, dtype=np.int64).reshape(-1, 2)
    if rule == "none":
        often = [np.bincount(side, minlength=1)[side] for side in links.T]
        return links[(often[0] == 1) & (often[1] == 1)]
    if rule == "nearest":
        links = links[np.argsort(np.abs(links[:, 0] / lengths[0] - links[:, 1] / lengths[1]), kind="stable")]
    _, first_source = np.unique(links[:, 0], return_index=True)
    kept = links[np.sort(first_source)]
    _, first_target = np.unique(kept[:, 1], return_index=True)
    return kept[np.sort(first_target)]


def word_spans(
    links: np.ndarray, source_words: Sequence[int], target_words: Sequence[int], rule: str = "first"
) -> np.ndarray:
    """Word links (L, 2), made one-to-one, as spans of subwords (L, 4): source start, end, target start, end.

    source_words, target_words: for each subword the index of its word. Ends are exclusive. A link of a word
    without a subword has no span.
    """
    sides = [np.searchsorted(words, np.arange(len(words) + 1)) for words in (source_words, target_words)]
    lengths = (int(max(source_words, default=0)) + 1, int(max(target_words, default=0)) + 1)
    (a, b), (left, right) = sides, one_to_one(links, rule, lengths).T
    spans = np.stack([a[left], a[left + 1], b[right], b[right + 1]], 1)
    return spans[(spans[:, 1] > spans[:, 0]) & (spans[:, 3] > spans[:, 2])]


def subword_links(
    links: np.ndarray,
    source_words: Sequence[int],
    target_words: Sequence[int],
    rule: str = "first",
    expand: str = "nth",
) -> np.ndarray:
    """Word links (L, 2) as subword links: the n-th subword of a word with the n-th of its partner.

    A surplus subword stays unlinked. `expand`: "first" links only the first subwords of both words, "last"
    the last ones. source_words, target_words: for each subword the index of its word.
    """
    out = []
    for a, a_end, b, b_end in word_spans(links, source_words, target_words, rule).tolist():
        if expand == "last":
            a, b = a_end - 1, b_end - 1
        shared = min(a_end - a, b_end - b)
        out += [(a + n, b + n) for n in range(shared if expand == "nth" else min(shared, 1))]
    return np.array(out, dtype=np.int64).reshape(-1, 2)


def links_without(
    links: np.ndarray, source: np.ndarray, target: np.ndarray, left_out: Collection[int]
) -> np.ndarray:
    """The subword links (L, 2) with neither end in the set of ids `left_out` (punctuation, for example)."""
    barred = np.isin(source[links[:, 0]], list(left_out)) | np.isin(target[links[:, 1]], list(left_out))
    return links[~barred]
