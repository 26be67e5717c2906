"""The languages of a study: text, translations, gold links, keyboards, and what notebooks show of them.

`Synthetic` and `Published` languages have one interface, so that all that builds on languages exists once.
The examples of their tasks come from `task_data`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import chain
from typing import Any

import numpy as np
import pandas as pd
from transformers import PreTrainedTokenizerFast

from xltlib.alignment import links
from xltlib.data import hub, real_data, synthetic, task_data, tokenization
from xltlib.data.real_data import Pairs, WordPairs
from xltlib.data.tokenization import Sentence
from xltlib.data.words import simple_tokenize
from xltlib.noise import typing as noise
from xltlib.params import Params, to_dict

STREAMS = {"train": 41, "test": 42}  # random streams of their own: none of these sentences is in a run's text
LEAST_SHARE = 0.25  # parallel pairs of an under-resourced language, relative to the others, at the least
COVERAGE = 0.9995  # of each language's characters; words with one of the others, mostly rare Han, are [UNK]
SAMPLED = 200_000  # published sentences that the tokenizer is trained on


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

    def of_words(self, unit_links: links.Links) -> links.Links:
        """Links of words from links of the units of `pairs`."""
        if self.owners is None:
            return unit_links
        return [links.word_links(x, *both) for x, both in zip(unit_links, self.owners, strict=True)]


class Languages:
    """What both kinds of languages share. Each has besides

    - for runs of text its `_sentences`, corpus by corpus, a joint `tokenizer`, and `pairs` with the source;
    - for notebooks a `sample` of sentence pairs with gold links, `texts`, a `keyboard`, `facts` of each,
      a `sentence_table` of all, and their order `by_distance`.

    params : of a run of text; for samples and tables also `source`, `world_seed`, and what `task_data` reads
    """

    limit: float = np.inf  # subwords of a sentence
    kept: np.ndarray | None = None  # of a published tokenizer that was cut: the subwords that are left
    tokenizer: PreTrainedTokenizerFast
    linked: list[str]  # the languages with gold links
    _sentences: dict[str, list[list[str]]]

    def __init__(self, params: Mapping) -> None:
        self.params, self.source = params, params.get("source", "")
        self.targets = [name for name in params["languages"] if name != self.source]

    def cut(self, texts: Sequence[str]) -> list[Sentence]:
        """Texts in words and subwords."""
        cut = tokenization.cut_texts if self.params.get("model") else tokenization.cut_words
        return cut(self.tokenizer, texts)

    def documents(self, language: str) -> list[tuple[Sentence, Sentence]]:
        """Two consecutive sentences of a corpus each; at most as many as the study wants, drawn once."""
        documents = []
        for sentences in self._sentences[language]:
            fitting = [s for s in self.cut(sentences) if 0 < len(s.ids) <= self.limit]
            documents += zip(fitting[::2], fitting[1::2], strict=False)
        if len(documents) > self.params["documents"]:
            number = list(self.params["languages"]).index(language)
            chosen = _order(63, number, len(documents))[: self.params["documents"]]
            documents = [documents[row] for row in np.sort(chosen)]
        return documents

    def counts(self) -> dict[str, Any]:
        """What there is to say of where the text comes from."""
        return {}

    def _rng(self, split: str, draw: int = 0) -> np.random.Generator:
        """The random stream of "train" or "test" sentences, in one of several draws."""
        return np.random.default_rng([self.params["world_seed"], STREAMS[split], draw])


class Synthetic(Languages):
    """Languages that the study makes: text of any length, gold links and labels for every sentence."""

    distance_label = "language; share of stems unlike the source's; order"

    def __init__(self, params: Mapping) -> None:
        super().__init__(params)
        self.world = synthetic.World(tuple(params["languages"]), params["world_seed"])
        self.linked = self.targets

    # For runs of text

    @cached_property
    def _sentences(self) -> dict[str, list[list[str]]]:
        """Each language's documents in two parts, one after the other; every language has its own."""
        texts = {}
        for number, language in enumerate(self.world.languages):
            count = max(1, round(self.params["documents"] * synthetic.LANGUAGES[language].text_share))
            rng = np.random.default_rng([self.world.seed, 21, number])
            drawn = synthetic.documents(self.world, count, rng).render(self.world, language)
            parts = ((a, f"{b} {answer[1]}" if answer else b) for a, b, answer in drawn)
            texts[language] = [[*chain.from_iterable(parts)]]
        return texts

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        """A joint tokenizer; a language with little text weighs more in it, as in published models."""
        texts = []
        for language, (own,) in self._sentences.items():
            texts += own * round(synthetic.LANGUAGES[language].text_share ** -0.5)
        return tokenization.train(texts, self.params["vocab_size"])

    def pairs(self, language: str, count: int) -> tuple[Pairs, links.Gold]:
        """Translations (source, language) and their gold links."""
        number, share = self.world.languages.index(language), synthetic.LANGUAGES[language].text_share
        rng = np.random.default_rng([self.world.seed, 22, number])
        drawn = synthetic.parallel(self.world, round(count * max(LEAST_SHARE, share)), rng)
        pairs, gold = self._translated(drawn, language)
        return [(a.text, b.text) for a, b in pairs], gold

    def _translated(
        self, drawn: synthetic.Clauses, language: str
    ) -> tuple[list[tuple[synthetic.Sentence, synthetic.Sentence]], links.Gold]:
        """Clauses in the source and in a language, and the gold links between their words."""
        pairs = [*zip(*(self.world.render(drawn, name) for name in (self.source, language)), strict=True)]
        gold = zip(*(synthetic.gold_links(*pair) for pair in pairs), strict=True)
        return pairs, links.Gold(*([np.array(x, np.int32).reshape(-1, 2) for x in kind] for kind in gold))

    # For notebooks

    def sample(self, language: str, count: int, split: str = "test", draw: int = 0) -> Sample:
        """`count` fresh sentence pairs with gold links; "test" pairs share no meaning with "train" pairs."""
        drawn = synthetic.parallel(self.world, count, self._rng(split, draw), split)
        pairs, gold = self._translated(drawn, language)
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
        rows = {}
        for name in self.params["languages"]:
            sentence = self.world.render(drawn, name)[int(filled.argmax())]
            slots = " ".join(synthetic.SLOTS[slot] for slot in sentence.slots)
            rows[name] = {"words": sentence.text, "slots": slots}
        return pd.DataFrame.from_dict(rows, orient="index")

    def facts(self, language: str) -> dict[str, Any]:
        """How a language differs from the source."""
        own = synthetic.LANGUAGES[language]
        return {
            "order": own.order, "cognates": own.cognates, "script": own.script, "case": own.case,
            "agreement": own.agreement, "verb in two words": own.particle,
        }  # fmt: skip

    def by_distance(self) -> list[tuple[str, str]]:
        """The target languages by the share of stems unlike the source's, and what an axis says of each."""
        far = {x: round(1 - synthetic.LANGUAGES[x].cognates, 4) for x in self.targets}
        order = sorted(self.targets, key=far.get)
        return [(x, f"{x}\n{far[x]:g}\n{synthetic.LANGUAGES[x].order}") for x in order]


class Published(Languages):
    """Languages that people speak: parallel corpora without sentences of a test set, gold links for some."""

    distance_label = "language"

    def __init__(self, params: Mapping) -> None:
        super().__init__(params)
        self._parallel = cache(lambda language: real_data.parallel_text(params, language))
        self.linked = [language for language in self.targets if real_data.has_gold(self.source, language)]

    # For runs of text

    @cached_property
    def _sentences(self) -> dict[str, list[list[str]]]:
        """The different sentences of each language, corpus by corpus; the source has all sides of its own."""
        sentences: dict[str, dict[str, dict[str, None]]] = {x: {} for x in self.params["languages"]}
        for language in self.targets:
            for name, pairs in self._parallel(language)[0].items():
                sentences[language][name] = dict.fromkeys(b for _, b in pairs)
                sentences[self.source].setdefault(name, {}).update(dict.fromkeys(a for a, _ in pairs))
        return {language: [*map(list, by_corpus.values())] for language, by_corpus in sentences.items()}

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        """The tokenizer of the published model, or one trained on a sample of the text."""
        texts = {x: [*chain.from_iterable(corpora)] for x, corpora in self._sentences.items()}
        if self.params.get("model"):
            tokenizer = tokenization.load(hub.find_model(self.params["model"]))
            if self.params.get("cut_subwords"):
                read = chain(*texts.values(), real_data.task_texts(self.params))
                tokenizer, self.kept = tokenization.cut(tokenizer, read)
            return tokenizer
        # sentences by the square root of a language's number, those of a small one more than once
        roots = {language: len(own) ** 0.5 for language, own in texts.items()}
        factor = min(SAMPLED, sum(map(len, texts.values()))) / sum(roots.values())
        for number, (language, own) in enumerate(texts.items()):
            rows = np.resize(_order(62, number, len(own)), max(1, round(factor * roots[language])))
            texts[language] = [own[row] for row in rows.tolist()]
        alphabet = set().union(*(tokenization.alphabet(sample, COVERAGE) for sample in texts.values()))
        return tokenization.train(chain(*texts.values()), self.params["vocab_size"], alphabet)

    @cached_property
    def limit(self) -> int:
        """The most subwords of a sentence such that any two fit into one sequence."""
        around = tokenization.join((), (), special=tokenization.specials(self.tokenizer))
        return (self.params["max_length"] - len(around)) // 2

    def pairs(self, language: str, count: int) -> tuple[Pairs, None]:
        """All translations (source, language) in an order shuffled once; no gold links."""
        pairs = self._translations(language)
        return [pairs[row] for row in _order(64, self.targets.index(language), len(pairs))], None

    def _translations(self, language: str) -> Pairs:
        """All translations (source, language), corpus by corpus."""
        return [*chain.from_iterable(self._parallel(language)[0].values())]

    def counts(self) -> dict[str, Any]:
        """Pairs read, left out and kept by language; the test sets whose sentences were left out."""
        used = real_data.test_keys(tuple(self.params["languages"]), real_data.folder())[1]
        parallel = {language: self._parallel(language)[1] for language in self.targets}
        return {"parallel": parallel, "without_sentences_of": list(used)}

    # For notebooks

    def sample(self, language: str, count: int, split: str = "test", draw: int = 0) -> Sample:
        """Pairs of parallel text ("train", a drawn part of it) or those with gold links ("test")."""
        if split == "train":
            pairs = self._translations(language)
            drawn = self._rng(split, draw).permutation(len(pairs))[:count]
            cut = [tuple(simple_tokenize(side.lower()) for side in pairs[i]) for i in drawn]
            return Sample(language, cut, cut, links.Gold([], []))
        return gold_sample(self.source, language, count)

    def texts(self, language: str, count: int) -> list[str]:
        """`count` sentences of a language, drawn from its parallel text."""
        side = 0 if language == self.source else 1
        pairs = self._translations(language if side else self.targets[0])
        return [pairs[i][side] for i in self._rng("test").permutation(len(pairs))[:count]]

    def keyboard(self, language: str) -> noise.Keyboard:
        """The keyboard that is usual for the language."""
        return noise.keyboard_for(language)

    def sentence_table(self) -> pd.DataFrame:
        """One test example of natural language inference, or of the first task, in all languages."""
        task = "nli" if "nli" in self.params["tasks"] else self.params["tasks"][0]
        examples = task_data.examples(self.params, task, "test", 1)
        table = pd.DataFrame({"sentence": {name: own[0].texts[0] for name, own in examples.items()}})
        return table.assign(words=[len(simple_tokenize(text)) for text in table["sentence"]])

    def facts(self, language: str) -> dict[str, Any]:
        """What the study has of a language beside its text."""
        return {"gold word links": "yes" if language in self.linked else "no"}

    def by_distance(self) -> list[tuple[str, str]]:
        """The target languages in the order of the profile: no single distance orders them."""
        return [(name, name) for name in self.targets]


def gold_sample(source: str, language: str, count: int | None = None) -> Sample:
    """The first test sentences of a pair of published languages for which `real_data.has_gold` says yes."""
    words, gold = real_data.gold_alignments(source, language)
    units, owners = real_data.pairs_of_units(words[:count])
    return Sample(language, units, words[:count], links.Gold(*(side[:count] for side in gold)), owners)


def _order(stream: int, language: int, size: int) -> np.ndarray:
    """The order, shuffled once, in which something of a language is taken."""
    return np.random.default_rng([0, stream, language]).permutation(size)


def keyboard_of(world: synthetic.World, language: str) -> noise.Keyboard:
    """A keyboard for a synthetic language's own letters, in an order drawn once."""
    letters = {letter for forms in world.grammar(language).lexicon() for form in forms for letter in form}
    return noise.layout(sorted(letters), np.random.default_rng([world.seed, 44]))


def languages_of(params: Mapping) -> Synthetic | Published:
    """The languages of a run of text."""
    return (Published if params.get("data") == "real" else Synthetic)(params)


@cache
def languages_for(params: Params) -> Synthetic | Published:
    """The languages of a study, in the world of its first seed; their text is read once for all figures."""
    return languages_of(to_dict(params) | {"world_seed": params.world_of()})
