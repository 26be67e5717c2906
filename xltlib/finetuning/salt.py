"""SALT (arXiv 2309.10891): an encoder's own word predictions as code-switching, and mixed embeddings.

No code of it was released and its body was not available: what the statements about it leave open is an
option or a constant here. Words are exchanged whole, for words of as many subwords, so that a sentence and
its twin stay aligned; a language whose words are cut into more pieces than the source's gets few.

Shapes: N sequences, P places, B batch, T tokens, H hidden, V vocabulary, C candidates.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from xltlib.data.tokenization import join
from xltlib.finetuning.methods import Batch, loss_at, standard_loss
from xltlib.finetuning.options import Options
from xltlib.finetuning.tasks import TaskModel, task_loss
from xltlib.finetuning.words import Pieces, Places, Vocabulary, find_words, union
from xltlib.pretraining import models
from xltlib.pretraining.models import Encoder, device_of, to_device
from xltlib.pretraining.training import epoch_batches, stacked

SYNONYM_THRESHOLD = 0.7  # probability that a synonym in the source language must pass; chosen here
RATE = 0.5  # share of the words for which substitutions are looked for; chosen here
CELLS = 1 << 27  # scores of words at places that are in memory at once (0.5 GB)
PAIRS = 500  # scores of distilled pairs a language: tests compare runs of equally many


# Offline: substitutions


@torch.inference_mode()
def propose(
    encoder: Encoder, sequences: Sequence[np.ndarray], places: Places, words: Vocabulary,
    second: np.ndarray | None = None, precision: str = "float32", batch_size: int = 128,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """What the encoder's MLM head puts in place of each word, among the words of one vocabulary.

    For each place (P,) the best candidate, its row among the words of as many subwords, and its probability;
    -1 and 0 where there is none. The encoder sees the words that it is asked about. Candidates have as many
    subwords as the word, so that all positions stay aligned; a candidate's score is the product of the
    probabilities of its subwords at their positions, normalised over the candidates. The word itself is not
    a candidate. `second` (N,): where the second segment of each sequence begins.
    """
    choice, probability = np.full(len(places.begin), -1), np.zeros(len(places.begin))
    device = device_of(encoder.eval())
    known = {k: torch.from_numpy(rows).to(device) for k, rows in words.items()}
    edges = np.searchsorted(places.sequence, np.arange(len(sequences) + 1))
    used = np.unique(places.sequence)
    for rows in epoch_batches([len(sequences[i]) for i in used], batch_size, np.random.default_rng(0)):
        rows = used[rows]
        ids = torch.from_numpy(np.stack([sequences[i] for i in rows])).to(device)
        begins = None if second is None else torch.from_numpy(second[rows]).to(device)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16"):
            states = encoder.states(ids, second=begins).float()  # words are told apart in full precision
        at = np.concatenate([np.arange(edges[i], edges[i + 1]) for i in rows])
        line = np.repeat(np.arange(len(rows)), edges[rows + 1] - edges[rows])
        for k in np.unique(places.length[at]).tolist():
            if k in known:
                own = places.length[at] == k
                positions = line[own, None], places.begin[at[own], None] + np.arange(k)
                where = tuple(torch.from_numpy(x).to(device) for x in positions)
                best = _best(encoder, states[where], ids[where], known[k])
                probability[at[own]], choice[at[own]] = (part.cpu().numpy() for part in best)
    return choice, probability


def _best(encoder: Encoder, states: Tensor, own: Tensor, words: Tensor) -> tuple[Tensor, Tensor]:
    """Probability and number of the best of `words` (C, k) for states (P, k, H) of the words `own` (P, k)."""
    size, best = max(1, CELLS // max(encoder.vocab_size, len(words))), []
    for few, word in zip(states.split(size), own.split(size), strict=True):
        scores = torch.zeros(len(few), len(words), device=few.device)
        for j in range(words.shape[1]):
            scores += encoder.logits(few[:, j])[:, words[:, j]]
        scores.masked_fill_((word[:, None] == words[None]).all(-1), -torch.inf)
        # NaN where the word itself was the only candidate
        probability, choice = scores.softmax(1).nan_to_num(0).max(1)
        choice[probability == 0] = -1
        best.append((probability, choice))
    return tuple(torch.cat(part) for part in zip(*best, strict=True))


def substitutions(
    encoder: Encoder, sequences: Sequence[np.ndarray], places: Places, words: Vocabulary, threshold: float,
    second: np.ndarray | None = None, precision: str = "float32",
) -> dict[int, np.ndarray]:  # fmt: skip
    """{number of the place: proposed subwords} for the proposals above the threshold."""
    choice, probability = propose(encoder, sequences, places, words, second, precision)
    good = np.flatnonzero((choice >= 0) & (probability > threshold))
    return {int(i): words[int(places.length[i])][choice[i]] for i in good}


def augment(
    encoder: Encoder, sequences: Sequence[np.ndarray], pieces: Pieces, words: Mapping[str, Vocabulary],
    source: str, targets: Sequence[str], options: Options, rng: np.random.Generator,
    second: np.ndarray | None = None, precision: str = "float32",
) -> tuple[list[np.ndarray], dict[str, float]]:  # fmt: skip
    """A code-switched twin (T,) of every sequence, of equal length, and shares of words exchanged.

    Each sequence draws one target language, each of its words takes part with chance RATE. Where both a word
    of that language and a synonym in the source language pass their thresholds, one is drawn. `second`: see
    `propose`.
    """
    language = rng.integers(len(targets), size=len(sequences))
    everything = find_words(sequences, pieces)
    places = everything.where(rng.random(len(everything.begin)) < RATE)
    passing = partial(substitutions, encoder, sequences, second=second, precision=precision)
    synonyms = passing(places, words[source], SYNONYM_THRESHOLD) if options.synonyms else {}
    switched: dict[int, np.ndarray] = {}
    for number, target in enumerate(targets):
        mine = np.flatnonzero(language[places.sequence] == number)
        allowed = words[target] if options.restrict else union([*words.values()])
        good = passing(places.where(mine), allowed, options.threshold)
        switched |= {int(mine[i]): word for i, word in good.items()}
    found, twins = {"synonyms": synonyms, "switched": switched}, [s.copy() for s in sequences]
    counts, draws = Counter(), rng.random(len(places.begin))
    for i in sorted(synonyms.keys() | switched.keys()):
        kinds = [kind for kind, own in found.items() if i in own]
        kind = kinds[int(draws[i] * len(kinds))]
        sequence, begin, length = (part[i] for part in places)
        twins[sequence][begin : begin + length] = found[kind][i]
        counts[kind] += 1
    return twins, {kind: round(counts[kind] / max(1, len(everything.begin)), 4) for kind in found}


# Online: mixed embeddings


def mixup_loss(
    model: TaskModel, batch: Batch, options: Options, seed: int, twins: Sequence[np.ndarray]
) -> dict[str, Tensor]:
    """The loss on embeddings mixed with those of each example's code-switched twin (T,)."""
    length = batch.ids.shape[1]  # as long as these
    other, _ = stacked([twins[row] for row in batch.rows], batch.special.pad, length)
    other = to_device(other, batch.ids.device)
    if options.mix == "none":
        return standard_loss(model, batch._replace(ids=other))
    table, shape = model.encoder.embeddings(), (*batch.ids.shape, model.encoder.hidden_size)
    if options.draw == "step":
        r = mixing(options.mix, shape, batch.rng)
    else:
        rngs = (np.random.default_rng([seed, 17, row]) for row in batch.rows)
        r = torch.cat([mixing(options.mix, (1, *shape[1:]), rng) for rng in rngs])
    return {"loss": loss_at(model, batch, mixed(table(batch.ids), table(other), r))}


def mixing(mix: str, shape: tuple[int, int, int], rng: np.random.Generator) -> Tensor:
    """Coefficients r in [0, 1] of a batch (B, T, H), one draw for each instance.

    "vector": one number for each dimension, (B, 1, H), uniform; "scalar": one for all, (B, 1, 1); "half":
    0.5; "hard": 0 or 1 for each position, (B, T, 1), so that each word is one of the two.
    """
    batch, tokens, hidden = shape
    if mix == "half":
        return torch.full((batch, 1, 1), 0.5)
    if mix == "hard":
        return torch.from_numpy(rng.integers(0, 2, (batch, tokens, 1)).astype(np.float32))
    return torch.from_numpy(rng.random((batch, 1, hidden if mix == "vector" else 1), dtype=np.float32))


def mixed(source: Tensor, target: Tensor, r: Tensor) -> Tensor:
    """h = r * h_s + (1 - r) * h_t for embeddings (B, T, H) of a sequence and its twin."""
    r = r.to(source)
    return r * source + (1 - r) * target


# The distilled lexicon


def lexicon_scores(
    encoder: Encoder, sequences: Sequence[np.ndarray], pieces: Pieces, words: Mapping[str, Vocabulary],
    truth: Mapping[str, Mapping[str, Sequence[str]]], options: Options, precision: str = "float32",
) -> tuple[dict[str, np.ndarray], dict[str, dict[str, float]]]:  # fmt: skip
    """Whether the distilled word pairs are right, by language: 0/1 (PAIRS,), and counts.

    `truth`: {language: {source word: its translations}}, in lower case; only words that it has for some
    language are asked for. All substitutions above the threshold are pairs, each occurrence one; PAIRS of
    them count, evenly spaced (repeated where there are fewer). Where nothing is proposed nothing is right.
    """
    scores, counts = {}, {}
    everything = find_words(sequences, pieces)
    spelt = list(pieces.words(sequences, everything))
    for language, table in truth.items():
        asked = np.flatnonzero([word in table for word in spelt])
        places, own = everything.where(asked), [spelt[row] for row in asked]
        allowed = words[language] if options.restrict else union([*words.values()])
        good = substitutions(encoder, sequences, places, allowed, options.threshold, precision=precision)
        pairs = [(own[i], pieces.word(new).lower()) for i, new in good.items()]
        right = np.array([translation in table[word] for word, translation in pairs], dtype=float)
        some = np.linspace(0, len(right) - 1, PAIRS).round().astype(int)
        scores[language] = right[some] if len(right) else np.zeros(PAIRS)
        counts[language] = {"asked": len(own), "proposed": len(right), "distinct": len(set(pairs)),
                            "precision": round(float(right.mean()), 4) if len(right) else 0.0}  # fmt: skip
    return scores, counts


# Checks that the ledger calls (`implementation` tests)


def check_restriction() -> bool:
    """Whether SALT proposes words of the target language alone, and nothing where it has none.

    A new encoder of 40 subwords, the even ones from 10 on being the words of the target language. Lifting
    the restriction must let others through, or the test would say nothing.
    """
    encoder, rng = models.tiny(40, 16, 1, 2, seed=0), np.random.default_rng(0)
    sequences = [join(rng.integers(5, 40, 8)) for _ in range(20)]
    places = Places(np.repeat(np.arange(20), 8), np.tile(np.arange(1, 9), 20), np.ones(160, int))
    target, others = ({1: np.arange(first, 40, 2)[:, None]} for first in (10, 11))
    allowed, own = set(target[1].ravel().tolist()), np.stack(sequences)[:, 1:9].ravel()
    found = [
        substitutions(encoder, sequences, places, words, 0.0)
        for words in (target, union([target, others]), {})
    ]
    other = all(word[0] != own[place] for place, word in found[0].items())
    proposed, anything, nothing = ({int(word[0]) for word in words.values()} for words in found)
    return bool(proposed) and other and proposed <= allowed and not anything <= allowed and not nothing


def check_mixup() -> bool:
    """Whether the mixture is the formula, by hand, and with r = 1 standard training to the last bit."""
    one, other, r = (torch.tensor([[x]]) for x in ([1.0, 2.0], [3.0, 6.0], [0.25, 0.75]))
    model = TaskModel(models.tiny(40, 16, 1, 2, seed=0), "nli", 0, freeze_embeddings=False)
    ids, twin = torch.tensor([[2, 7, 8, 3]]), torch.tensor([[2, 9, 10, 3]])
    table, weights, sides = model.encoder.embeddings(), [p for p in model.parameters() if p.requires_grad], []
    for embeds in (None, mixed(table(ids), table(twin), torch.ones(1, 1, 16))):
        loss = task_loss(model(ids, inputs_embeds=embeds), torch.tensor([1]))
        sides.append([loss, *torch.autograd.grad(loss, weights)])
    same = all(torch.equal(a, b) for a, b in zip(*sides, strict=True))
    return same and torch.equal(mixed(one, other, r), torch.tensor([[[2.5, 3.0]]]))
