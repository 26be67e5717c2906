"""Sentences, gold links and keyboards of a study's languages, as notebooks show them."""

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pandas as pd

from xltlib.alignment import links
from xltlib.data import real_data, synthetic, task_data
from xltlib.data.real_data import WordPairs
from xltlib.data.text import keyboard_of, linked_pairs
from xltlib.data.words import simple_tokenize
from xltlib.noise import typing as noise
from xltlib.params import Params, to_dict

STREAMS = {"train": 41, "test": 42}  # random streams of their own: none of these sentences is in a run's text


@dataclass(frozen=True)
class Sample:
    """Sentence pairs of the source with one language, and gold links of their words.

    pairs: both sides as an aligner reads them; words: as gold counts them; owners: where the two differ, for
    each unit of both sides the word that it is a part of.
    """

    language: str
    pairs: WordPairs
    words: WordPairs
    gold: links.Gold
    owners: list[tuple[np.ndarray, np.ndarray]] | None = None

    @property
    def lengths(self) -> list[tuple[int, int]]:
        """(source words, target words) of each pair."""
        return [(len(a), len(b)) for a, b in self.words]

    def only(self, row: int) -> "Sample":
        """One pair alone."""
        gold = links.Gold([self.gold.sure[row]], [self.gold.possible[row]])
        owners = None if self.owners is None else [self.owners[row]]
        return Sample(self.language, [self.pairs[row]], [self.words[row]], gold, owners)

    def of_words(self, unit_links: links.Links) -> links.Links:
        """Links of words from links of the units of `pairs`."""
        if self.owners is None:
            return unit_links
        return [links.word_links(x, *both) for x, both in zip(unit_links, self.owners, strict=True)]


class Synthetic:
    """Languages that the study makes: gold links, labels and translations for every sentence."""

    distance_label = "language; share of stems unlike the source's; order"

    def __init__(self, params: Params) -> None:
        self.params, self.linked = params, params.targets  # linked: the languages with gold links
        self.world = synthetic.World(params.languages, params.world_of())

    def sample(self, language: str, count: int, split: str = "test", draw: int = 0) -> Sample:
        """`count` fresh sentence pairs with gold links; "test" pairs share no meaning with "train" pairs."""
        drawn = synthetic.parallel(self.world, count, _rng(self.params, split, draw), split)
        pairs, gold = linked_pairs(self.world, drawn, self.params.source, language)
        words = [(list(a.words), list(b.words)) for a, b in pairs]
        return Sample(language, words, words, gold)

    def texts(self, language: str, count: int) -> list[str]:
        """`count` test sentences of a language."""
        return [" ".join(words[-1]) for words in self.sample(language, count).pairs]

    def keyboard(self, language: str) -> noise.Keyboard:
        """A keyboard of the language's own letters."""
        return keyboard_of(self.world, language)

    def sentence_table(self) -> pd.DataFrame:
        """One sentence in all languages, with the slot of the meaning that each word comes from."""
        drawn = synthetic.parallel(self.world, 200, np.random.default_rng([self.world.seed, 43]), "test")
        filled = np.where(drawn.asked == synthetic.ABSENT, (drawn.concept != synthetic.ABSENT).sum(1), 0)
        told = {name: self.world.render(drawn, name)[int(filled.argmax())] for name in self.params.languages}
        slots = {name: " ".join(synthetic.SLOTS[slot] for slot in s.slots) for name, s in told.items()}
        return pd.DataFrame({"words": {name: s.text for name, s in told.items()}, "slots": slots})

    def facts(self, language: str) -> dict[str, Any]:
        """How a language differs from the source."""
        own = synthetic.LANGUAGES[language]
        return {
            "order": own.order, "cognates": own.cognates, "script": own.script, "case": own.case,
            "agreement": own.agreement, "verb in two words": own.particle,
        }  # fmt: skip

    def by_distance(self) -> list[tuple[str, str]]:
        """The target languages by the share of stems unlike the source's, and what an axis says of each."""
        far = {x: round(1 - synthetic.LANGUAGES[x].cognates, 4) for x in self.params.targets}
        order = sorted(self.params.targets, key=far.get)
        return [(x, f"{x}\n{far[x]:g}\n{synthetic.LANGUAGES[x].order}") for x in order]


class Real:
    """Languages that people speak, with the interface of `Synthetic`; gold links for some of them."""

    distance_label = "language"

    def __init__(self, params: Params) -> None:
        self.params = params
        self.linked = tuple(x for x in params.targets if real_data.has_gold(params.source, x))

    def sample(self, language: str, count: int, split: str = "test", draw: int = 0) -> Sample:
        """Pairs of parallel text ("train", a drawn part of it) or those with gold links ("test")."""
        if split == "train":
            pairs = _parallel(self.params, language)
            drawn = _rng(self.params, split, draw).permutation(len(pairs))[:count]
            cut = [tuple(simple_tokenize(side.lower()) for side in pairs[i]) for i in drawn]
            return Sample(language, cut, cut, links.Gold([], []))
        words, gold = real_data.gold_alignments(self.params.source, language)
        units, owners = real_data.pairs_of_units(words[:count])
        return Sample(language, units, words[:count], links.Gold(*(side[:count] for side in gold)), owners)

    def texts(self, language: str, count: int) -> list[str]:
        """`count` sentences of a language, drawn from its parallel text."""
        side = 0 if language == self.params.source else 1
        pairs = _parallel(self.params, language if side else self.params.targets[0])
        return [pairs[i][side] for i in _rng(self.params, "test").permutation(len(pairs))[:count]]

    def keyboard(self, language: str) -> noise.Keyboard:
        """The keyboard that is usual for the language."""
        return noise.keyboard_for(language)

    def sentence_table(self) -> pd.DataFrame:
        """One test example of natural language inference, or of the first task, in all languages."""
        task = "nli" if "nli" in self.params.tasks else self.params.tasks[0]
        examples = task_data.examples(to_dict(self.params), task, "test", 1)
        texts = {name: rows[0].texts[0] for name, rows in examples.items()}
        words = {name: len(simple_tokenize(text)) for name, text in texts.items()}
        return pd.DataFrame({"sentence": texts, "words": words})

    def facts(self, language: str) -> dict[str, Any]:
        """What the study has of a language beside its text."""
        return {"gold word links": "yes" if language in self.linked else "no"}

    def by_distance(self) -> list[tuple[str, str]]:
        """The target languages in the order of the profile: no single distance orders them."""
        return [(name, name) for name in self.params.targets]


def _rng(params: Params, split: str, draw: int = 0) -> np.random.Generator:
    """The random stream of "train" or "test" sentences, in one of several draws."""
    return np.random.default_rng([params.world_of(), STREAMS[split], draw])


@cache
def _parallel(params: Params, language: str) -> list[tuple[str, str]]:
    """The parallel text of the source and a language, read once for all figures."""
    by_corpus, _ = real_data.parallel_text(to_dict(params), language)
    return [pair for pairs in by_corpus.values() for pair in pairs]


@cache
def languages_for(params: Params) -> Synthetic | Real:
    """The languages of a profile."""
    return Real(params) if params.data == "real" else Synthetic(params)
