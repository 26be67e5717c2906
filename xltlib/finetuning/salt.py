"""SALT (arXiv 2309.10891): an encoder's own word predictions as code-switching, and mixed embeddings.

No code of it was released and its body was not available: what the statements about it leave open is a
parameter here. Words are exchanged whole, for words of as many subwords, so that a sentence and its twin stay
aligned; a language whose words are cut into more pieces than the source's gets few.

Shapes: N sequences, P places, B batch, T tokens, H hidden, V vocabulary, C candidates.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple
from unicodedata import category

import numpy as np
import torch
from torch import Tensor

from xltlib import StudyError
from xltlib.data.corpora import UNSPACED
from xltlib.data.tokenization import MASK, PreTrainedTokenizerFast, specials
from xltlib.finetuning.batching import segments
from xltlib.pretraining.models import Encoder, device_of
from xltlib.pretraining.training import epoch_batches

CELLS = 1 << 27  # scores of words at places that are in memory at once (0.5 GB)
PAIRS = 500  # scores of distilled pairs a language: tests compare runs of equally many

Vocabulary = Mapping[int, np.ndarray]  # number of subwords k -> words (C, k), sorted


class Pieces:
    """What the subwords of a tokenizer are: which ones start a word, which ones belong to words at all.

    WordPiece marks what continues a word ("##x"), SentencePiece what follows a blank ("▁x"), and sets neither
    punctuation apart nor words in scripts without blanks: there a word begins after punctuation, too, and
    each subword of a script without blanks is a word.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.special = specials(tokenizer)
        text = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
        marked = {mark: np.array([piece.startswith(mark) for piece in text]) for mark in ("##", "▁")}
        self.sentencepiece = bool(marked["▁"].sum() > marked["##"].sum())
        self.text = [piece.removeprefix("▁" if self.sentencepiece else "##") for piece in text]
        self.inside = np.array([bool(piece) and all(map(_in_word, piece)) for piece in self.text])
        self.inside[sorted(self.special.ids)] = False
        if self.sentencepiece:
            unspaced = np.array([bool(re.match(f"[{UNSPACED}]", piece)) for piece in self.text])
            self.starts = marked["▁"] | unspaced | ~self.inside
        else:
            self.starts = ~marked["##"]

    def begins(self, flat: np.ndarray) -> np.ndarray:
        """Which of the subwords (T,) of a text begin a word, or are none."""
        found = self.starts[flat]
        if self.sentencepiece:
            found[1:] |= ~self.inside[flat[:-1]]
        return found

    def word(self, ids: Sequence[int]) -> str:
        """The word of these subwords."""
        return "".join(self.text[i] for i in ids)


def _in_word(char: str) -> bool:
    """Letters, the marks that make up words with them, and joiners."""
    return char.isalpha() or category(char)[0] == "M" or char in "\u200c\u200d"


class Places(NamedTuple):
    """Words within sequences: the sequence (P,), the first subword (P,), how many subwords (P,)."""

    sequence: np.ndarray
    begin: np.ndarray
    length: np.ndarray

    def where(self, chosen: np.ndarray) -> "Places":
        """Some of the places: by a mask or by their numbers."""
        return Places(*(part[chosen] for part in self))


def find_words(sequences: Sequence[np.ndarray], pieces: Pieces) -> Places:
    """All words of the sequences, in order; special tokens and punctuation are no words."""
    flat, sizes = np.concatenate(sequences), np.array([len(s) for s in sequences])
    owner = np.repeat(np.arange(len(sequences)), sizes)
    offset = np.arange(len(flat)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    first = np.flatnonzero(pieces.begins(flat))
    length = np.diff(np.append(first, len(flat)))
    words = Places(owner[first], offset[first], length)
    return words.where(pieces.inside[flat[first]])


def word_counts(documents: Sequence[np.ndarray], pieces: Pieces) -> Counter[str]:
    """How often a language's text has each of its words, in lower case."""
    counts: Counter[str] = Counter()
    for words, numbers in _distinct(documents, pieces).values():
        for word, number in zip(words, numbers.tolist(), strict=True):
            counts[pieces.word(word).lower()] += number
    return counts


def vocabulary(documents: Sequence[np.ndarray], pieces: Pieces) -> dict[int, np.ndarray]:
    """The distinct words of a language's text, by their number of subwords."""
    return {k: words for k, (words, _) in _distinct(documents, pieces).items()}


def _distinct(documents: Sequence[np.ndarray], pieces: Pieces) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """The distinct words of k subwords, (C, k), and how often the text has each, (C,), by k."""
    found, flat = find_words(documents, pieces), np.concatenate(documents)
    sizes = np.array([len(document) for document in documents])
    first = found.begin + (np.cumsum(sizes) - sizes)[found.sequence]
    out = {}
    for k in np.unique(found.length).tolist():
        words = flat[first[found.length == k][:, None] + np.arange(k)]
        out[k] = np.unique(words, axis=0, return_counts=True)
    return out


def union(vocabularies: Sequence[Vocabulary]) -> dict[int, np.ndarray]:
    """The words of all: what is proposed when the restriction to one language is lifted."""
    lengths = sorted({length for words in vocabularies for length in words})
    return {
        k: np.unique(np.concatenate([words[k] for words in vocabularies if k in words]), axis=0)
        for k in lengths
    }


class Proposals(NamedTuple):
    """For each place the best candidate (its row among the words of as many subwords) and its probability;
    -1 and 0 where there is none."""

    choice: np.ndarray
    probability: np.ndarray


@torch.inference_mode()
def propose(
    encoder: Encoder, sequences: Sequence[np.ndarray], places: Places, words: Vocabulary,
    hide: bool = False, batch_size: int = 128, mask: int | None = MASK, second: np.ndarray | None = None,
    precision: str = "float32",
) -> Proposals:  # fmt: skip
    """What the encoder's MLM head puts in place of each word, among the words of one vocabulary.

    Candidates have as many subwords as the word, so that all positions stay aligned; a candidate's score is
    the product of the probabilities of its subwords at their positions, normalised over the candidates. The
    word itself is none. `hide`: the words are masked by the id `mask`, all at once; otherwise the encoder
    sees them. `second` (N,): where the second segment of each sequence begins, for an encoder that wants to
    know.
    """
    if hide and mask is None:
        raise StudyError("salt: hide: the tokenizer has no mask: take an encoder that predicts masked words")
    out, device = Proposals(np.full(len(places.begin), -1), np.zeros(len(places.begin))), device_of(encoder)
    known = {k: torch.from_numpy(rows).to(device) for k, rows in words.items()}
    edges = np.searchsorted(places.sequence, np.arange(len(sequences) + 1))
    encoder.eval()
    used = np.unique(places.sequence)
    for rows in epoch_batches([len(sequences[i]) for i in used], batch_size, np.random.default_rng(0)):
        rows = used[rows]
        ids = torch.from_numpy(np.stack([sequences[i] for i in rows])).to(device)
        at = np.concatenate([np.arange(edges[i], edges[i + 1]) for i in rows])
        line = np.repeat(np.arange(len(rows)), edges[rows + 1] - edges[rows])
        shown = _hidden(ids, line, places.where(at), mask) if hide else ids
        told = {}
        if second is not None:
            told["token_type_ids"] = segments(torch.from_numpy(second[rows]).to(device), ids.shape[1])
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16"):
            states = encoder.states(shown, **told)
        states = states.float()  # words are told apart in full precision
        for k in np.unique(places.length[at]):
            if int(k) in known:
                chosen = places.length[at] == k
                some, lines = at[chosen], torch.from_numpy(line[chosen])
                cells = torch.from_numpy(places.begin[some])[:, None] + torch.arange(int(k))
                where = lines[:, None].to(device), cells.to(device)
                best = _best(encoder, states[where], ids[where], known[int(k)])
                out.probability[some], out.choice[some] = (part.cpu().numpy() for part in best)
    return out


def _hidden(ids: Tensor, line: np.ndarray, places: Places, mask: int) -> Tensor:
    rows = np.repeat(line, places.length)
    inner = np.arange(len(rows)) - np.repeat(np.cumsum(places.length) - places.length, places.length)
    shown = ids.clone()
    shown[torch.from_numpy(rows), torch.from_numpy(np.repeat(places.begin, places.length) + inner)] = mask
    return shown


def _best(encoder: Encoder, states: Tensor, own: Tensor, words: Tensor) -> tuple[Tensor, Tensor]:
    """Probability and number of the best of `words` (C, k) for states (P, k, H) of the words `own` (P, k)."""
    size = max(1, CELLS // max(encoder.vocab_size, len(words)))
    parts = zip(states.split(size), own.split(size), strict=True)
    found = [_best_of_few(encoder, *part, words) for part in parts]
    probability, choice = (torch.cat(part) for part in zip(*found, strict=True))
    return probability, choice


def _best_of_few(encoder: Encoder, states: Tensor, own: Tensor, words: Tensor) -> tuple[Tensor, Tensor]:
    scores = torch.zeros(len(states), len(words), device=states.device)
    for j in range(words.shape[1]):
        scores += encoder.logits(states[:, j])[:, words[:, j]]
    scores.masked_fill_((own[:, None] == words[None]).all(-1), -torch.inf)
    # NaN where the word itself was the only candidate
    probability, choice = scores.softmax(1).nan_to_num(0).max(1)
    choice[probability == 0] = -1
    return probability, choice


@dataclass(frozen=True)
class Augmentation:
    """How substitutions are found; `methods.Options` says what each one means."""

    threshold: float
    synonym_threshold: float
    synonyms: bool = True
    restrict: bool = True
    hide: bool = False
    rate: float = 0.5
    precision: str = "float32"


def augment(
    encoder: Encoder, sequences: Sequence[np.ndarray], pieces: Pieces, words: Mapping[str, Vocabulary],
    source: str, targets: Sequence[str], how: Augmentation, rng: np.random.Generator,
    second: np.ndarray | None = None,
) -> tuple[list[np.ndarray], dict[str, float]]:  # fmt: skip
    """Offline: a code-switched twin (T,) of every sequence, of equal length, and shares of words exchanged.

    Each sequence draws one target language, each of its words takes part with chance `rate`. Where both a
    word of that language and a synonym in the source language pass their thresholds, one is drawn. `second`:
    see `propose`.
    """
    language = rng.integers(len(targets), size=len(sequences))
    everything = find_words(sequences, pieces)
    places = everything.where(rng.random(len(everything.begin)) < how.rate)
    passing = partial(_passing, encoder, sequences, how, mask=pieces.special.mask, second=second)
    kept = [passing(places, words[source], how.synonym_threshold) if how.synonyms else {}]
    switched: dict[int, np.ndarray] = {}
    everywhere = union(list(words.values()))
    for number, target in enumerate(targets):
        mine = np.flatnonzero(language[places.sequence] == number)
        allowed = words[target] if how.restrict else everywhere
        found = passing(places.where(mine), allowed, how.threshold)
        switched |= {int(mine[i]): word for i, word in found.items()}
    kept.append(switched)
    twins, counts = [s.copy() for s in sequences], [0, 0]
    draws = rng.random(len(places.begin))
    for i in range(len(places.begin)):
        options = [n for n in (0, 1) if i in kept[n]]
        if options:
            n = options[int(draws[i] * len(options))]
            begin = places.begin[i]
            twins[places.sequence[i]][begin : begin + places.length[i]] = kept[n][i]
            counts[n] += 1
    shares = [round(count / max(1, len(everything.begin)), 4) for count in counts]
    return twins, {"synonyms": shares[0], "switched": shares[1]}


def _passing(
    encoder: Encoder, sequences: Sequence[np.ndarray], how: Augmentation, places: Places, words: Vocabulary,
    threshold: float, mask: int | None, second: np.ndarray | None = None,
) -> dict[int, np.ndarray]:  # fmt: skip
    """{number of the place: proposed subwords} for the proposals above the threshold."""
    told = {"mask": mask, "second": second, "precision": how.precision}
    found = propose(encoder, sequences, places, words, how.hide, **told)
    good = np.flatnonzero((found.choice >= 0) & (found.probability > threshold))
    return {int(i): words[int(places.length[i])][found.choice[i]] for i in good}


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
    """Online: h = r * h_s + (1 - r) * h_t for embeddings (B, T, H) of a sequence and its twin."""
    r = r.to(source)
    return r * source + (1 - r) * target


def lexicon_scores(
    encoder: Encoder, sequences: Sequence[np.ndarray], pieces: Pieces, words: Mapping[str, Vocabulary],
    truth: Mapping[str, Mapping[str, Sequence[str]]], how: Augmentation,
) -> tuple[dict[str, np.ndarray], dict[str, dict[str, float]]]:  # fmt: skip
    """Whether the distilled word pairs are right, by language: 0/1 (PAIRS,), and counts.

    `truth`: {language: {source word: its translations}}, in lower case; only words that it has for some
    language are asked for. All substitutions
    above the threshold are pairs, each occurrence one; PAIRS of them count, evenly spaced (repeated where
    there are fewer), and where nothing is proposed nothing is right.
    """
    scores, counts = {}, {}
    everything = find_words(sequences, pieces)
    spelt = [pieces.word(sequences[i][b : b + k]) for i, b, k in zip(*everything, strict=True)]
    spelt = [word.lower() for word in spelt]
    everywhere = union(list(words.values()))
    for language, table in truth.items():
        asked = np.flatnonzero([word in table for word in spelt])
        places, own = everything.where(asked), [spelt[row] for row in asked]
        allowed = words[language] if how.restrict else everywhere
        found = _passing(encoder, sequences, how, places, allowed, how.threshold, pieces.special.mask)
        pairs = [(own[i], pieces.word(new).lower()) for i, new in found.items()]
        right = np.array([translation in table[word] for word, translation in pairs], dtype=float)
        some = np.linspace(0, len(right) - 1, PAIRS).round().astype(int)
        scores[language] = right[some] if len(right) else np.zeros(PAIRS)
        counts[language] = {"asked": len(own), "proposed": len(right), "distinct": len(set(pairs)),
                            "precision": round(float(right.mean()), 4) if len(right) else 0.0}  # fmt: skip
    return scores, counts
