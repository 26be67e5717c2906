"""Pre-training objectives: masked words, translation pairs, exchanged and pulled-together words.

Shapes: B batch, T tokens, K predicted positions a sequence, H hidden, V vocabulary.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from xltlib.models import Encoder
from xltlib.params import StudyError
from xltlib.settings import changed, par, parse_options
from xltlib.tokenization import MASK, SPECIAL, join
from xltlib.training import Pool

OBJECTIVES = ("none", "mlm", "tlm", "weam", "word_aligned")
LINK_KINDS = r"estimated|gold|random|corrupt(0(\.\d+)?|1(\.0*)?)"
LINKED = ("weam", "word_aligned")  # those that need word links
# a result is reused only where the version of its objective is the same: raise it when the numbers change
VERSIONS = {"base": 1, "mlm": 1, "tlm": 1, "weam": 1, "word_aligned": 1}


SHAPE = ("hidden_size", "num_layers", "num_heads")
_COMMON = (*SHAPE, "mask_rate", "predicted", "epochs", "joint", "pairs")
_KNOWN = {  # the options that change an objective
    "mlm": _COMMON,
    "tlm": _COMMON,
    "weam": (*_COMMON, "links", "lambda_"),
    "word_aligned": (*_COMMON, "links"),
}


# fmt: off
@dataclass(frozen=True)
class Options:
    """What may differ between two encoders of one objective; a run's label names what is not the default."""

    mask_rate: float = par(0.0, "share of the subwords masked; 0: the profile's", low=0.0, high=0.9)
    predicted: str = par("any", "equal: as many predicted subwords as at the profile's mask rate, by more or fewer updates", choices=("any", "equal"))
    epochs: float = par(1.0, "updates, in units of the profile's continue_steps", low=0.01, high=100.0)
    joint: bool = par(True, "one encoder for all target languages; false: one each, with equal updates for a language")
    links: str = par("estimated", "estimated, gold, random, or corrupt0.5 (gold, with any share corrupted)", pattern=LINK_KINDS)
    lambda_: float = par(1.0, "weight of WEAM's cross-lingual prediction", low=0.0, high=100.0)
    pairs: float = par(1.0, "share of its translation pairs that the language with little text has", low=0.001, high=1.0)
    hidden_size: int = par(0, "width of the encoder's vectors; 0: the profile's", low=0, high=8192)
    num_layers: int = par(0, "layers of the encoder; 0: the profile's", low=0, high=96)
    num_heads: int = par(0, "attention heads; 0: the profile's", low=0, high=128)
# fmt: on


def options(objective: str, text: str = "") -> Options:
    """The options of an objective, written "mask_rate=0.15,links=gold"; StudyError for one that it lacks."""
    chosen = parse_options(Options, text, f"objective {objective}")
    foreign = set(changed(chosen)) - set(SHAPE if objective == "none" else _KNOWN[objective])
    if foreign:
        raise StudyError(f"objective {objective} has no option {', '.join(sorted(foreign))}, found {text!r}")
    return chosen


def needs_links(objective: str, chosen: Options) -> bool:
    """Whether the objective is trained on word links of the pairs."""
    return objective in LINKED


class Masked(NamedTuple):
    """A batch with positions to predict: inputs (B, T), positions (B, K), targets (B, K)."""

    inputs: Tensor
    positions: Tensor
    targets: Tensor


def mask_tokens(
    ids: np.ndarray,
    rate: float,
    vocab_size: int,
    rng: np.random.Generator,
    keep: float = 0.1,
    random: float = 0.1,
) -> Masked:
    """Choose exactly round(rate x ordinary tokens) positions in each row and hide them.

    Of the chosen positions a share `keep` stays as it is and a share `random` becomes a random word; the
    rest is replaced by [MASK] (Devlin et al. 2019: 0.1 and 0.1; 0 and 0 is the pure mask). Where rows differ
    in their number of ordinary tokens (by [UNK]), the smallest counts; at least one position is chosen.
    """
    ordinary = ids >= len(SPECIAL)
    count = max(1, round(rate * int(ordinary.sum(1).min())))
    order = np.where(ordinary, rng.random(ids.shape), 2.0)
    positions = torch.from_numpy(np.argpartition(order, count - 1, axis=1)[:, :count].copy())
    tokens = torch.from_numpy(ids)
    targets = tokens.gather(1, positions)
    draw = torch.from_numpy(rng.random(targets.shape))
    words = torch.from_numpy(rng.integers(len(SPECIAL), vocab_size, tuple(targets.shape)))
    shown = torch.where(draw < random, words, torch.full_like(targets, MASK))
    shown = torch.where(draw >= 1 - keep, targets, shown)
    return Masked(tokens.scatter(1, positions, shown), positions, targets)


def gather(states: Tensor, positions: Tensor) -> Tensor:
    """Vectors at positions: (B, T, H), (B, K) -> (B, K, H)."""
    return states.gather(1, positions.unsqueeze(-1).expand(-1, -1, states.shape[-1]))


def exchange(states: Tensor, partner: Tensor) -> Tensor:
    """WEAM's exchange: position t gets the vector of `partner[t]`, its aligned word, or keeps its own.

    states (B, T, H), partner (B, T) an involution: partner[partner[t]] = t. Source: arXiv 2106.01732, Fig. 1.
    """
    return gather(states, partner)


def prediction_loss(encoder: Encoder, states: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy of the words at predicted positions: (B, K, H), (B, K) -> ()."""
    return F.cross_entropy(encoder.logits(states).flatten(0, 1), targets.flatten())


def mlm_loss(encoder: Encoder, batch: Masked) -> dict[str, Tensor]:
    """Masked words from their own positions. On a pair in two languages this is TLM (arXiv 1901.07291)."""
    states = gather(encoder.states(batch.inputs), batch.positions)
    return {"loss": prediction_loss(encoder, states, batch.targets)}


def weam_loss(encoder: Encoder, batch: Masked, partner: Tensor, weight: float = 1.0) -> dict[str, Tensor]:
    """L = L_mp + weight * L_cp: masked words from their own vectors, and from the vectors after the exchange.

    One encoder pass. Source: arXiv 2106.01732, Figure 1; which term lambda weighs is not readable there:
    here the cross-lingual one, so that 0 is TLM. Unaligned positions predict from their own vector
    in both terms.
    """
    states = encoder.states(batch.inputs)
    own = prediction_loss(encoder, gather(states, batch.positions), batch.targets)
    if weight == 0:
        return {"loss": own, "own": own.detach()}
    # the same as gather(exchange(states, partner), positions), without moving what is not predicted
    crossed = gather(states, partner.gather(1, batch.positions))
    other = prediction_loss(encoder, crossed, batch.targets)
    return {"loss": own + weight * other, "own": own.detach(), "crossed": other.detach()}


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


@dataclass(frozen=True)
class ParallelText:
    """Sentence pairs of one language with the source: subwords of both sides, and links between subwords.

    links[i] is (L, 2): 0-based positions within the source's and the target's subwords, each at most once.
    """

    source: list[np.ndarray]
    target: list[np.ndarray]
    links: list[np.ndarray] = field(default_factory=list)

    def concatenated(self, both_orders: bool = True) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """[CLS] a [SEP] b [SEP] for each pair (all source first, then all target first), and partners."""
        sequences, partners = [], []
        for swap in (False, True) if both_orders else (False,):
            for i, (a, b) in enumerate(zip(self.source, self.target, strict=True)):
                first, second = (b, a) if swap else (a, b)
                sequences.append(join(first, second))
                partner = np.arange(len(sequences[-1]))
                if self.links:
                    link = self.links[i][:, ::-1] if swap else self.links[i]
                    left, right = link[:, 0] + 1, link[:, 1] + len(first) + 2
                    partner[left], partner[right] = right, left
                partners.append(partner)
        return sequences, partners


def one_to_one(links: np.ndarray) -> np.ndarray:
    """The links (L, 2) that share no word with an earlier one, so that the exchange is an involution."""
    links = np.asarray(links, dtype=np.int64).reshape(-1, 2)
    _, first_source = np.unique(links[:, 0], return_index=True)
    kept = links[np.sort(first_source)]
    _, first_target = np.unique(kept[:, 1], return_index=True)
    return kept[np.sort(first_target)]


def subword_links(links: np.ndarray, source_words: Sequence[int], target_words: Sequence[int]) -> np.ndarray:
    """Word links (L, 2) as subword links: the n-th subword of a word with the n-th of its partner.

    source_words, target_words: for each subword the index of its word. A surplus subword stays unlinked.
    """
    starts = [np.searchsorted(words, np.arange(len(words) + 1)) for words in (source_words, target_words)]
    out = []
    for i, j in one_to_one(links):
        (a, a_end), (b, b_end) = starts[0][i : i + 2], starts[1][j : j + 2]
        out += [(a + n, b + n) for n in range(min(a_end - a, b_end - b))]
    return np.array(out, dtype=np.int64).reshape(-1, 2)


Loss = Callable[[int], dict[str, Tensor]]


@dataclass(frozen=True)
class Recipe:
    """What every objective shares, so that only the objective differs between encoders compared."""

    batch_size: int
    mask_rate: float
    seed: int
    weight: float = 1.0  # WEAM's lambda
    beta: float = 1.0  # of the word-aligned objective's regulariser
    document_share: float = 0.5  # of the updates that go on with MLM on documents (XLM interleaves them too)

    def rng(self, step: int) -> np.random.Generator:
        """The generator of one step: all that is random there depends on the seed and the step alone."""
        return np.random.default_rng([self.seed, step])


def document_loss(encoder: Encoder, pools: Sequence[Pool], weights: Sequence[float], recipe: Recipe) -> Loss:
    """MLM on documents of all languages; `weights`: how often each language is drawn."""
    p = np.asarray(weights, float) / np.sum(weights)

    def loss(step: int) -> dict[str, Tensor]:
        rng = recipe.rng(step)
        ids, _ = pools[rng.choice(len(pools), p=p)].draw(rng, recipe.batch_size)
        return mlm_loss(encoder, mask_tokens(ids, recipe.mask_rate, encoder.vocab_size, rng))

    return loss


def interleaved(objective: Loss, documents: Loss, recipe: Recipe) -> Loss:
    """Of every ten updates, `document_share` x 10 go on with MLM on documents, spread evenly."""
    tenths = round(10 * recipe.document_share)
    return lambda step: (documents if (step * tenths) % 10 < tenths else objective)(step)


def objective_loss(name: str, encoder: Encoder, texts: Sequence[ParallelText], recipe: Recipe) -> Loss:
    """The loss of a bilingual objective (or of its unpaired control, "mlm") over the parallel texts.

    Every objective sees the same sentences of the same pairs of languages equally often.
    """
    if name == "word_aligned":
        return _word_aligned_loss(encoder, texts, recipe)
    if name == "mlm":
        pools = [_unpaired(text, recipe.seed) for text in texts]
        partners: list[list[np.ndarray]] = [[] for _ in texts]
    elif name in ("tlm", "weam"):
        built = [text.concatenated() for text in texts]
        pools, partners = [Pool(sequences) for sequences, _ in built], [p for _, p in built]
    else:
        raise StudyError(f"unknown objective {name!r}; known: {', '.join(OBJECTIVES)}")

    def loss(step: int) -> dict[str, Tensor]:
        rng = recipe.rng(step)
        chosen = rng.integers(len(pools))
        ids, rows = pools[chosen].draw(rng, recipe.batch_size)
        batch = mask_tokens(ids, recipe.mask_rate, encoder.vocab_size, rng)
        if name != "weam":
            return mlm_loss(encoder, batch)
        partner = torch.from_numpy(np.stack([partners[chosen][row] for row in rows]))
        return weam_loss(encoder, batch, partner, recipe.weight)

    return loss


def _unpaired(text: ParallelText, seed: int) -> Pool:
    """The same sentences, two of one language at a time, none with its translation: a control."""
    rng = np.random.default_rng([seed, 7])
    sequences = []
    for side in (text.source, text.target):
        order = rng.permutation(len(side))
        sequences += [join(side[i], side[j]) for i, j in zip(order, np.roll(order, 1), strict=True)]
    return Pool(sequences)


def _word_aligned_loss(encoder: Encoder, texts: Sequence[ParallelText], recipe: Recipe) -> Loss:
    """Each side is encoded by itself; linked subwords are pulled together (Cao et al. 2020)."""
    frozen = copy.deepcopy(encoder).eval().requires_grad_(False)
    pools = [Pool([join(s) for s in text.source]) for text in texts]

    def loss(step: int) -> dict[str, Tensor]:
        rng = recipe.rng(step)
        chosen = rng.integers(len(pools))
        ids, rows = pools[chosen].draw(rng, recipe.batch_size)
        inputs = torch.from_numpy(ids)
        target, mask = pad([join(texts[chosen].target[row]) for row in rows])
        links = [texts[chosen].links[row] + 1 for row in rows]  # [CLS] comes first
        at = torch.from_numpy(np.repeat(np.arange(len(rows)), [len(link) for link in links]))
        left, right = torch.from_numpy(np.concatenate(links)).unbind(1)
        states, others = encoder.states(inputs), encoder.states(target, mask)
        with torch.no_grad():
            start = frozen.states(inputs)
        return pulling_loss(states[at, left], others[at, right], start, states, recipe.beta)

    return loss


def pad(sequences: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
    """Token ids (B, T) filled up with [PAD], and the mask (B, T) of the real ones."""
    longest = max(map(len, sequences))
    ids = torch.zeros(len(sequences), longest, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = torch.from_numpy(sequence)
        mask[row, : len(sequence)] = 1
    return ids, mask


def check_exchange() -> bool:
    """Whether the exchange is an involution that moves only aligned positions (an `implementation` test)."""
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(2, 6, 3, generator=generator)
    partner = torch.tensor([[0, 4, 2, 3, 1, 5], [0, 1, 2, 3, 4, 5]])
    moved = exchange(states, partner)
    fixed = partner == torch.arange(6)
    return bool(
        torch.equal(exchange(moved, partner), states)
        and torch.equal(moved[fixed], states[fixed])
        and not torch.equal(moved[~fixed], states[~fixed])
    )
