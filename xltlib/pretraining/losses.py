"""Pre-training: the text that each objective reads, and its loss at each step.

Shapes: B batch, T tokens, H hidden, L links.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from xltlib import StudyError
from xltlib.data.tokenization import OWN, Specials, join
from xltlib.pretraining.models import Encoder, to_device
from xltlib.pretraining.objectives import (
    Masked,
    exchange,
    mask_tokens,
    mlm_loss,
    pad,
    pulling_loss,
    reset_positions,
    segments,
    span_means,
    unless_both_masked,
    weam_loss,
)
from xltlib.pretraining.options import OBJECTIVES, Options
from xltlib.pretraining.training import Pool


@dataclass(frozen=True)
class ParallelText:
    """Sentence pairs of one language with the source: subwords of both sides, and links between them.

    links[i] is (L, 2): 0-based positions within the source's and the target's subwords, each at most once; or
    (L, 4), spans of subwords: start and end (exclusive) in the source, then in the target.
    """

    source: list[np.ndarray]
    target: list[np.ndarray]
    links: list[np.ndarray] = field(default_factory=list)

    def concatenated(
        self, both_orders: bool = True, special: Specials = OWN
    ) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """[CLS] a [SEP] b [SEP] for each pair (all source first, then all target first), and partners."""
        begin, middle = len(special.before), len(special.between)
        sequences, partners = [], []
        for swap in (False, True) if both_orders else (False,):
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


class Extended(Encoder):
    """An encoder with what an objective alone trains: vectors of languages, a second head. `save` drops both.

    languages: how many get a vector (H,), which starts at 0; second_head: whether there is one, a copy of the
    first whose output embeddings stay those of the first.
    """

    def __init__(self, encoder: Encoder, languages: int, second_head: bool) -> None:
        super().__init__(encoder.lm)
        self.languages = self.second = None
        if languages:
            self.languages = nn.Embedding(languages, self.hidden_size)
            nn.init.zeros_(self.languages.weight)
        if second_head:
            head = next((name for name in ("head", "cls", "lm_head") if hasattr(self.lm, name)), None)
            if head is None:
                raise StudyError(f"{type(self.lm).__name__}: head=own: it has no head that predicts words")
            words = self.lm.get_output_embeddings()
            shared = {id(part): part for part in (words, *words.parameters())}
            self.second = copy.deepcopy(getattr(self.lm, head), shared)

    def second_logits(self, states: Tensor) -> Tensor:
        """Scores of all words (..., V) by the second head, for vectors (..., H)."""
        found = self.second(states)
        return self.lm.decoder(found) if hasattr(self.lm, "decoder") else found  # in BERT's, a part of it


def extended(encoder: Encoder, chosen: Options, languages: int) -> Encoder:
    """The encoder with what the options add to it while an objective is trained, or as it is."""
    if chosen.language_embeddings or chosen.head == "own":
        return Extended(encoder, languages * chosen.language_embeddings, chosen.head == "own")
    return encoder


Loss = Callable[[int], dict[str, Tensor]]


@dataclass(frozen=True)
class Recipe:
    """What every objective shares, so that only the objective differs between encoders compared."""

    batch_size: int
    mask_rate: float
    seed: int
    options: Options = field(default_factory=Options)
    document_share: float = 0.5  # of the updates that go on with MLM on documents (XLM interleaves them too)
    special: Specials = OWN
    batch_tokens: int = 0  # in place of batch_size sequences: how many tokens an update reads, about

    def rng(self, step: int) -> np.random.Generator:
        """The generator of one step: all that is random there depends on the seed and the step alone."""
        return np.random.default_rng([self.seed, step])

    def masked(self, ids: np.ndarray, encoder: Encoder, rng: np.random.Generator) -> Masked:
        """The ids (B, T) with hidden positions, on the CPU."""
        shares = (0.1, 0.1) if self.options.corruption == "standard" else (0.0, 0.0)
        return mask_tokens(ids, self.mask_rate, encoder.vocab_size, rng, *shares, self.special)

    def draw(self, pool: Pool, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """The sequences of one update (B, T), and their numbers (B,)."""
        return pool.draw(rng, self.batch_size, self.batch_tokens)

    def joined(self, *segments: np.ndarray) -> np.ndarray:
        """One sequence of a sentence, or of several."""
        return join(*segments, special=self.special)

    def counted(self, parts: dict[str, Tensor], tokens: int) -> dict[str, Tensor]:
        """The parts of a loss, with the tokens that were read where updates are measured by them."""
        if not self.batch_tokens:
            return parts
        return parts | {"tokens": torch.full((), tokens, dtype=torch.float32, device=parts["loss"].device)}


def tokens_read(history: list[dict[str, float]]) -> int:
    """All tokens that updates measured by tokens have read; takes their means out of the history."""
    ends = [0, *(point["step"] for point in history)]
    return sum(round(n * point.pop("tokens")) for n, point in zip(np.diff(ends), history, strict=True))


def _fitting(encoder: Encoder, longest: int) -> None:
    """StudyError where a sequence has more subwords than the encoder can take."""
    if encoder.longest and longest > encoder.longest:
        raise StudyError(
            f"a sequence of {longest} subwords: the encoder takes {encoder.longest} at most: lower max_length"
        )


def document_loss(encoder: Encoder, pools: Sequence[Pool], weights: Sequence[float], recipe: Recipe) -> Loss:
    """MLM on documents of all languages; `weights`: how often each language is drawn."""
    return _masked_words(encoder, pools, np.asarray(weights, float) / np.sum(weights), recipe)


def _masked_words(encoder: Encoder, pools: Sequence[Pool], p: np.ndarray | None, recipe: Recipe) -> Loss:
    _fitting(encoder, max(pool.lengths[-1] for pool in pools))

    def loss(step: int) -> dict[str, Tensor]:
        rng = recipe.rng(step)
        ids, _ = recipe.draw(pools[rng.choice(len(pools), p=p)], rng)
        batch = recipe.masked(ids, encoder, rng).to(encoder.device)
        states = encoder.states(batch.inputs, **_segments(encoder, batch.inputs, recipe))
        return recipe.counted(mlm_loss(encoder.logits, states, batch), ids.size)

    return loss


def _segments(encoder: Encoder, inputs: Tensor, recipe: Recipe) -> dict[str, Tensor]:
    """What an encoder is told of the two sentences in each sequence (B, T): nothing, where it knows none."""
    return {"token_type_ids": segments(inputs, recipe.special)} if encoder.two_segments else {}


def interleaved(objective: Loss, documents: Loss, recipe: Recipe) -> Loss:
    """Of every ten updates, `document_share` x 10 go on with MLM on documents, spread evenly."""
    tenths = round(10 * recipe.document_share)
    return lambda step: (documents if (step * tenths) % 10 < tenths else objective)(step)


def objective_loss(name: str, encoder: Encoder, texts: Sequence[ParallelText], recipe: Recipe) -> Loss:
    """The loss of an objective over the parallel texts, one for each target language.

    Every objective sees the same sentences of the same pairs of languages equally often. "mlm" is the
    unpaired control of the paired ones, and that of "mixed", whose texts come code-switched: both go through
    the same sequences, so that "mixed" at rate 0 is "mlm".
    """
    reads = OBJECTIVES[name].reads if name in OBJECTIVES else ""
    if reads == "sentences":
        return _masked_words(encoder, [_unpaired(text, recipe) for text in texts], None, recipe)
    if reads == "pairs":
        return _paired_loss(encoder, texts, recipe, exchanged=name != "tlm")
    if reads == "sides":
        return _pulled_loss(encoder, texts, recipe)
    raise StudyError(f"unknown objective {name!r}; known: {', '.join(OBJECTIVES)}")


def _unpaired(text: ParallelText, recipe: Recipe) -> Pool:
    """The same sentences, two of one language at a time, none with its translation: a control."""
    rng = np.random.default_rng([recipe.seed, 7])
    sequences = []
    for side in (text.source, text.target):
        order = rng.permutation(len(side))
        sequences += [recipe.joined(side[i], side[j]) for i, j in zip(order, np.roll(order, 1), strict=True)]
    return Pool(sequences)


def _paired_loss(encoder: Encoder, texts: Sequence[ParallelText], recipe: Recipe, exchanged: bool) -> Loss:
    """Masked words of pairs in one sequence: TLM, or WEAM where aligned vectors are exchanged."""
    chosen = recipe.options
    built = [text.concatenated(chosen.order == "random", recipe.special) for text in texts]
    pools, partners = [Pool(sequences) for sequences, _ in built], [p for _, p in built]
    _fitting(encoder, max(pool.lengths[-1] for pool in pools))

    def loss(step: int) -> dict[str, Tensor]:
        rng = recipe.rng(step)
        number = rng.integers(len(pools))
        ids, rows = recipe.draw(pools[number], rng)
        drawn = recipe.masked(ids, encoder, rng)
        batch = drawn.to(encoder.device)
        states = _states_of_pairs(encoder, batch.inputs, recipe, number, rows >= len(texts[number].source))
        if not exchanged:
            return recipe.counted(mlm_loss(encoder.logits, states, batch), ids.size)
        partner = torch.from_numpy(np.stack([partners[number][row] for row in rows]))
        if not chosen.both_masked:
            partner = unless_both_masked(partner, drawn.positions)
        second = encoder.second_logits if chosen.head == "own" else None
        parts = weam_loss(
            encoder.logits, states, drawn, partner, chosen.lambda_, chosen.unaligned == "keep", second
        )
        return recipe.counted(parts, ids.size)

    return loss


def _states_of_pairs(
    encoder: Encoder, inputs: Tensor, recipe: Recipe, number: int, swapped: np.ndarray
) -> Tensor:
    """Last-layer vectors (B, T, H) of pairs (B, T) with target language `number`, first where `swapped`."""
    given = _segments(encoder, inputs, recipe)
    if recipe.options.language_embeddings:
        source_at = torch.from_numpy(swapped).long().to(inputs.device).unsqueeze(1)
        language = (segments(inputs, recipe.special) != source_at) * (1 + number)
        given["inputs_embeds"] = encoder.embeddings()(inputs) + encoder.languages(language)
    if recipe.options.positions == "reset":
        given["position_ids"] = encoder.first_position + reset_positions(inputs, recipe.special)
    return encoder.states(inputs, **given)


def _pulled_loss(encoder: Encoder, texts: Sequence[ParallelText], recipe: Recipe) -> Loss:
    """Each side is encoded by itself; linked vectors are pulled together (Cao et al. 2020)."""
    frozen = copy.deepcopy(encoder).eval().requires_grad_(False)
    targets = [[recipe.joined(sentence) for sentence in text.target] for text in texts]
    pools, links = [], []
    for text, others in zip(texts, targets, strict=True):
        sources = [recipe.joined(sentence) for sentence in text.source]
        sizes = [len(a) + len(b) for a, b in zip(sources, others, strict=True)]
        pools.append(Pool(sources, sizes=sizes))
        links.append([_with_specials(text, row, recipe) for row in range(len(text.links))])
        _fitting(encoder, max(pools[-1].lengths[-1], *map(len, others)))

    def loss(step: int) -> dict[str, Tensor]:
        rng = recipe.rng(step)
        number = rng.integers(len(pools))
        ids, rows = recipe.draw(pools[number], rng)
        others = [targets[number][row] for row in rows]
        target, mask = pad(others, recipe.special.pad)
        tokens = ids.size + sum(map(len, others))
        chosen = [links[number][row] for row in rows]
        at = np.repeat(np.arange(len(rows)), [len(link) for link in chosen])
        inputs, target, mask, at, ends = (
            to_device(torch.as_tensor(x), encoder.device)
            for x in (ids, target, mask, at, np.concatenate(chosen))
        )
        states, foreign = encoder.states(inputs), encoder.states(target, mask)
        with torch.no_grad():
            start = frozen.states(inputs)
        left, right = (_vectors(s, at, e) for s, e in zip((states, foreign), ends.chunk(2, 1), strict=True))
        return recipe.counted(pulling_loss(left, right, start, states, recipe.options.beta), tokens)

    return loss


def _with_specials(text: ParallelText, row: int, recipe: Recipe) -> np.ndarray:
    """The links of a pair as positions after [CLS]; if wanted, those of the sides' [CLS] and [SEP] too."""
    begin = len(recipe.special.before)
    links = text.links[row] + begin
    if not recipe.options.boundaries:
        return links
    a, b = begin + len(text.source[row]), begin + len(text.target[row])
    ends = np.array(
        [[k, k] for k in range(begin)] + [[a + k, b + k] for k in range(len(recipe.special.after))]
    )
    if links.shape[1] == 4:
        ends = np.stack([ends[:, 0], ends[:, 0] + 1, ends[:, 1], ends[:, 1] + 1], 1)
    return np.concatenate([links, ends])


def _vectors(states: Tensor, rows: Tensor, at: Tensor) -> Tensor:
    """Vectors (L, H) at positions (L, 1), or means over spans (L, 2), of rows (L,)."""
    return states[rows, at[:, 0]] if at.shape[1] == 1 else span_means(states, rows, *at.unbind(1))


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
