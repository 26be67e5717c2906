"""Words: those that a text's subwords make up, and those of the synthetic languages by what they mean.

Shapes: N sequences, P places, T tokens, C words of a vocabulary.
"""

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from xltlib.data.synthetic import CATEGORIES, SLOT_CATEGORY, SYNONYMS, World
from xltlib.data.tokenization import PreTrainedTokenizerFast, specials
from xltlib.data.words import UNSPACED
from xltlib.finetuning.options import FOREIGN

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
        begins = self.starts[flat]
        if self.sentencepiece:
            begins[1:] |= ~self.inside[flat[:-1]]
        return begins

    def word(self, ids: Sequence[int]) -> str:
        """The word of these subwords."""
        return "".join(self.text[i] for i in ids)

    def words(self, sequences: Sequence[np.ndarray], places: "Places") -> Iterator[str]:
        """The words at some places of sequences, in lower case."""
        for i, begin, k in zip(*places, strict=True):
            yield self.word(sequences[i][begin : begin + k]).lower()


def _in_word(char: str) -> bool:
    """Letters, the marks that make up words with them, and joiners."""
    return char.isalpha() or unicodedata.category(char)[0] == "M" or char in "\u200c\u200d"


class Places(NamedTuple):
    """Words within sequences: the sequence (P,), the first subword (P,), how many subwords (P,)."""

    sequence: np.ndarray
    begin: np.ndarray
    length: np.ndarray

    def where(self, some: np.ndarray) -> "Places":
        """Some of the places: by a mask or by their numbers."""
        return Places(*(part[some] for part in self))


def find_words(sequences: Sequence[np.ndarray], pieces: Pieces) -> Places:
    """All words of the sequences, in order; special tokens and punctuation are no words."""
    flat, sizes = np.concatenate(sequences), np.array([len(s) for s in sequences])
    owner = np.repeat(np.arange(len(sequences)), sizes)
    offset = np.arange(len(flat)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    first = np.flatnonzero(pieces.begins(flat))
    words = Places(owner[first], offset[first], np.diff(first, append=len(flat)))
    return words.where(pieces.inside[flat[first]])


def vocabulary(documents: Sequence[np.ndarray], pieces: Pieces) -> Vocabulary:
    """The distinct words of a language's text, by their number of subwords."""
    text = np.concatenate(documents)
    places = find_words([text], pieces)
    return {
        k: np.unique(text[places.begin[places.length == k][:, None] + np.arange(k)], axis=0)
        for k in np.unique(places.length).tolist()
    }


def union(vocabularies: Sequence[Vocabulary]) -> Vocabulary:
    """The words of all: what is proposed when the restriction to one language is lifted."""
    lengths = sorted(set().union(*vocabularies))
    rows = {k: [words[k] for words in vocabularies if k in words] for k in lengths}
    return {k: np.unique(np.concatenate(own), axis=0) for k, own in rows.items()}


# Words of the synthetic languages


def concepts(world: World, language: str) -> list[list[str]]:
    """The words of each concept in a language: its synonyms in all their forms, in one order everywhere."""
    forms, words = world.grammar(language).lexicon(), []
    for category, (classes, members) in CATEGORIES.items():
        slot = SLOT_CATEGORY.index(category)
        for concept in range(classes * members + classes):
            stems = np.unique(world.stem(slot, np.array(concept), np.arange(SYNONYMS)))
            words.append([form for stem in stems for form in forms[stem]])
    return words


def translations(world: World, source: str, languages: Sequence[str]) -> dict[str, dict[str, list[str]]]:
    """{language: {source word: all words of its concept}}: what counts as a right translation."""
    parallel = {name: zip(concepts(world, source), concepts(world, name), strict=True) for name in languages}
    return {name: {word: b for a, b in pairs for word in a} for name, pairs in parallel.items()}


def mistranslations(world: World, language: str) -> dict[str, list[str]]:
    """For each word of a language those of the same category and form that a poor translation may have."""
    forms, errors = world.grammar(language).lexicon(), {}
    for category, (classes, members) in CATEGORIES.items():
        slot = SLOT_CATEGORY.index(category)
        first = int(world.stem(slot, np.array(0), np.array(0)))
        stems = forms[first : first + classes * members * SYNONYMS + classes]
        for own in stems:
            for place, word in enumerate(own):
                errors[word] = [other[place] for other in stems if other is not own and place < len(other)]
    return errors


def neighbours(world: World, source: str, foreign: float = FOREIGN) -> dict[str, list[str]]:
    """Neighbours of each source word as RS-DA needs them: its synonyms, and by accident foreign words.

    Only words of the same concept, so that no substitution changes a label. With chance `foreign`, each
    concept has one word of each other language (drawn from those that the source has not) in the list of one
    of its source words.
    """
    rng, own = np.random.default_rng([world.seed, 51]), concepts(world, source)
    lists = {word: [other for other in words if other != word] for words in own for word in words}
    taken = set(lists)
    for language in world.languages:
        for words, others in zip(own, concepts(world, language), strict=True):
            strange = [word for word in others if word not in taken]
            draws = rng.random(3)  # as many for each concept, so that one language's words leave the others'
            if strange and draws[0] < foreign:
                lists[words[int(draws[1] * len(words))]].append(strange[int(draws[2] * len(strange))])
    return lists
