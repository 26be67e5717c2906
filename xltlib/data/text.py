"""Text of every language as ids: documents and a tokenizer, translation pairs, word links.

What a language has to say comes from `SyntheticText` or `PublishedText`, which have one interface. From there
on there is one way: texts are cut into words and subwords, and stored as ids.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerFast

from xltlib.alignment import aligner, links
from xltlib.data import hub, real_data, synthetic, tokenization
from xltlib.data.tokenization import Sentence
from xltlib.noise import typing as noise
from xltlib.store import Result, Spec

Progress = Callable[[str], None]
TextPairs = list[tuple[str, str]]

LEAST_SHARE = 0.25  # parallel pairs of an under-resourced language, relative to the others, at the least
COVERAGE = 0.9995  # of each language's characters; words with one of the others, mostly rare Han, are [UNK]
SAMPLED = 200_000  # published sentences that the tokenizer is trained on


# Where text comes from


class SyntheticText:
    """Text of synthetic languages: drawn from their world, with gold links, of any length."""

    limit = np.inf  # subwords of a sentence
    kept = None  # subwords of a published tokenizer that are left

    def __init__(self, params: Mapping) -> None:
        self.params = params
        self.world = synthetic.World(tuple(params["languages"]), params["world_seed"])

    @cached_property
    def _texts(self) -> dict[str, TextPairs]:
        """Each language's documents, in two parts; every language has its own."""
        texts = {}
        for number, language in enumerate(self.world.languages):
            count = max(1, round(self.params["documents"] * synthetic.LANGUAGES[language].text_share))
            rng = np.random.default_rng([self.world.seed, 21, number])
            drawn = synthetic.documents(self.world, count, rng).render(self.world, language)
            texts[language] = [(" ".join(first), " ".join(second)) for first, second in drawn]
        return texts

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        """A joint tokenizer; a language with little text weighs more in it, as in published models."""
        texts = []
        for language, documents in self._texts.items():
            repeat = round(synthetic.LANGUAGES[language].text_share ** -0.5)
            texts += [part for document in documents for part in document] * repeat
        return tokenization.train(texts, self.params["vocab_size"])

    def documents(self, language: str) -> list[tuple[Sentence, Sentence]]:
        """What a language is pre-trained on."""
        parts = self.cut([part for document in self._texts[language] for part in document])
        return list(zip(parts[::2], parts[1::2], strict=True))

    def pairs(self, language: str, source: str, count: int) -> tuple[TextPairs, links.Gold]:
        """Translations (source, language) and their gold links."""
        number, share = self.world.languages.index(language), synthetic.LANGUAGES[language].text_share
        rng = np.random.default_rng([self.world.seed, 22, number])
        drawn = synthetic.parallel(self.world, round(count * max(LEAST_SHARE, share)), rng)
        pairs, gold = linked_pairs(self.world, drawn, source, language)
        return [(a.text, b.text) for a, b in pairs], gold

    def cut(self, texts: Sequence[str]) -> list[Sentence]:
        """Texts in words and subwords."""
        return tokenization.cut_words(self.tokenizer, texts)

    def counts(self) -> dict[str, Any]:
        """What there is to say of where the text comes from."""
        return {}


def linked_pairs(
    world: synthetic.World, drawn: synthetic.Clauses, source: str, language: str
) -> tuple[list[tuple[synthetic.Sentence, synthetic.Sentence]], links.Gold]:
    """Clauses in two languages of a world, and the gold links between their words."""
    pairs = list(zip(world.render(drawn, source), world.render(drawn, language), strict=True))
    gold = zip(*(synthetic.gold_links(a, b) for a, b in pairs), strict=True)
    sure, possible = ([np.array(x, np.int32).reshape(-1, 2) for x in kind] for kind in gold)
    return pairs, links.Gold(sure, possible)


class PublishedText:
    """Text of real languages: the sentences of parallel corpora, none of which is in a test set."""

    def __init__(self, params: Mapping) -> None:
        self.params, self.source = params, params["source"]
        self.kept: np.ndarray | None = None  # those subwords of the published tokenizer alone; None: all

    @cached_property
    def _parallel(self) -> dict[str, tuple[dict[str, TextPairs], dict[str, int]]]:
        """Pairs by corpus, and their counts, for each language but the source."""
        others = [language for language in self.params["languages"] if language != self.source]
        return {language: real_data.parallel_text(self.params, language) for language in others}

    @cached_property
    def _sentences(self) -> dict[str, dict[str, list[str]]]:
        """The different sentences of each language by corpus; the source has all sides that are its own."""
        sentences: dict[str, dict[str, dict[str, None]]] = {self.source: {}}
        for language, (by_corpus, _) in self._parallel.items():
            sentences[language] = {}
            for name, pairs in by_corpus.items():
                sentences[language][name] = dict.fromkeys(b for _, b in pairs)
                sentences[self.source].setdefault(name, {}).update(dict.fromkeys(a for a, _ in pairs))
        return {
            language: {name: list(side) for name, side in sentences[language].items()}
            for language in self.params["languages"]
        }

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        """The tokenizer of the published model, or one trained on a sample of the text."""
        if self.params.get("model"):
            tokenizer = tokenization.load(hub.find_model(self.params["model"]))
            if not self.params.get("cut_subwords"):
                return tokenizer
            own = (s for by_corpus in self._sentences.values() for side in by_corpus.values() for s in side)
            tokenizer, self.kept = tokenization.cut(tokenizer, chain(own, real_data.task_texts(self.params)))
            return tokenizer
        sample = self._sample()
        alphabet = set().union(*(tokenization.alphabet(texts, COVERAGE) for texts in sample.values()))
        joined = [text for texts in sample.values() for text in texts]
        return tokenization.train(joined, self.params["vocab_size"], alphabet)

    def _sample(self) -> dict[str, list[str]]:
        """Sentences by the square root of a language's number; those of a small one more than once."""
        texts = {x: [s for side in by.values() for s in side] for x, by in self._sentences.items()}
        roots = {language: len(own) ** 0.5 for language, own in texts.items()}
        factor = min(SAMPLED, sum(map(len, texts.values()))) / sum(roots.values())
        sample = {}
        for number, (language, own) in enumerate(texts.items()):
            rows = np.resize(_order(62, number, len(own)), max(1, round(factor * roots[language])))
            sample[language] = [own[row] for row in rows.tolist()]
        return sample

    @cached_property
    def limit(self) -> int:
        """The most subwords of a sentence such that any two fit into one sequence."""
        around = tokenization.join((), (), special=tokenization.specials(self.tokenizer))
        return (self.params["max_length"] - len(around)) // 2

    def documents(self, language: str) -> list[tuple[Sentence, Sentence]]:
        """Two consecutive sentences of a corpus each; at most as many as the study wants, drawn once."""
        documents: list[tuple[Sentence, Sentence]] = []
        for sentences in self._sentences[language].values():
            fitting = [s for s in self.cut(sentences) if 0 < len(s.ids) <= self.limit]
            documents += zip(fitting[::2], fitting[1::2], strict=False)
        if len(documents) > self.params["documents"]:
            number = list(self.params["languages"]).index(language)
            chosen = _order(63, number, len(documents))[: self.params["documents"]]
            documents = [documents[row] for row in np.sort(chosen)]
        return documents

    def pairs(self, language: str, source: str, count: int) -> tuple[TextPairs, None]:
        """All translations (source, language) in an order shuffled once; no gold links."""
        pairs = [pair for own in self._parallel[language][0].values() for pair in own]
        number = list(self._parallel).index(language)
        return [pairs[row] for row in _order(64, number, len(pairs))], None

    def cut(self, texts: Sequence[str]) -> list[Sentence]:
        """Texts in words and subwords."""
        cut = tokenization.cut_texts if self.params.get("model") else tokenization.cut_words
        return cut(self.tokenizer, texts)

    def counts(self) -> dict[str, Any]:
        """Pairs read, left out and kept by language; the test sets whose sentences were left out."""
        used = real_data.test_keys(tuple(self.params["languages"]), real_data.folder())[1]
        parallel = {language: counts for language, (_, counts) in self._parallel.items()}
        return {"parallel": parallel, "without_sentences_of": list(used)}


def _order(stream: int, language: int, size: int) -> np.ndarray:
    """The order, shuffled once, in which something of a language is taken."""
    return np.random.default_rng([0, stream, language]).permutation(size)


def text_source(params: Mapping) -> SyntheticText | PublishedText:
    """Where the text of a study's languages comes from."""
    return PublishedText(params) if params.get("data") == "real" else SyntheticText(params)


# Runs


def build_text(spec: Spec, inputs: list[Result], directory: Path, progress: Progress | None) -> dict:
    """The documents of every language, and the joint tokenizer."""
    source = text_source(spec.params)
    source.tokenizer.save_pretrained(directory)
    if source.kept is not None:
        np.save(directory / tokenization.KEPT, source.kept)
    special = tokenization.specials(source.tokenizer)
    around, arrays, sizes = len(tokenization.join((), (), special=special)), {}, {}
    for language in spec.params["languages"]:
        documents = source.documents(language)
        ids = [tokenization.join(a.ids, b.ids, special=special) for a, b in documents]
        arrays |= tokenization.pack(language, ids)
        subwords, words = sum(map(len, ids)), sum(len(a.words) + len(b.words) for a, b in documents)
        per_word = round((subwords - around * len(ids)) / max(words, 1), 3)
        sizes[language] = {"documents": len(ids), "subwords": subwords, "subwords_per_word": per_word}
    np.savez(directory / "documents.npz", **arrays)
    return {"languages": sizes, "vocab_size": len(source.tokenizer)} | source.counts()


def build_pairs(spec: Spec, inputs: list[Result], directory: Path, progress: Progress | None) -> dict:
    """Translations of the source in every other language, as ids and as words; gold links if there are any.

    Pairs of which one side is too long for a sequence of two sentences are left out.
    """
    (text,), wanted = inputs, spec.params["parallel_pairs"]
    source = text_source(text.params)
    source.tokenizer = tokenizer_of(text)
    arrays, counts, too_long = {}, {}, {}
    for language in text.params["languages"]:
        if language == spec.params["source"]:
            continue
        pairs, gold = source.pairs(language, spec.params["source"], wanted)
        sides = [source.cut(side) for side in zip(*pairs, strict=True)]
        lengths = np.array([[len(sentence.ids) for sentence in side] for side in sides])
        fits = ((lengths > 0) & (lengths <= source.limit)).all(0)
        rows = np.flatnonzero(fits)[:wanted].tolist()
        parts = {"sure": gold.sure, "possible": gold.possible} if gold else {}
        for name, side in zip(("source", "target"), sides, strict=True):
            parts |= {name: [s.ids for s in side], f"{name}_words": [s.owners for s in side]}
            lines = "".join(" ".join(side[row].words) + "\n" for row in rows)
            (directory / f"{language}.{name}.txt").write_text(lines, "utf-8")
        for name, sequences in parts.items():
            arrays |= tokenization.pack(f"{language}/{name}", [np.ravel(sequences[row]) for row in rows])
        counts[language], too_long[language] = len(rows), int((~fits).sum())
    np.savez(directory / "pairs.npz", **arrays)
    return {"pairs": counts} | ({} if source.limit == np.inf else {"too_long": too_long})


def build_links(spec: Spec, inputs: list[Result], directory: Path, progress: Progress | None) -> dict:
    """Links of the pairs that are kept, between words or subwords, and how good they are.

    Words are aligned in lower case. The quality is that on the pairs' gold links. Where they have none, it is
    that of the same aligner on other sentences that have some, for the kind "estimated".
    """
    (pairs,), kind = inputs, spec.params["links"]
    source, arrays, quality = pairs.params["source"], {}, {}
    for number, (language, count) in enumerate(pairs.values["pairs"].items()):
        kept = kept_pairs(language, count, spec.params.get("share", 1.0))
        gold, score = read_gold(pairs, language, kept), None
        sides = [read_sentences(pairs, language, side)[:kept] for side in ("source", "target")]
        words = list(zip(*([real_data.lowered(x) for x in side] for side in sides), strict=True))
        if kind == "subword":
            linked, of_words = link_subwords(pairs, language, kept)
        elif kind == "estimated":
            ways = aligner.train_both(words)
            linked = of_words = links.symmetrize(*(way.links for way in ways), "intersect")
            if gold is None and real_data.has_gold(source, language):
                score = _on_gold(ways, source, language)
        else:
            linked = of_words = _drawn_links(kind, words, gold, np.random.default_rng([number, count]))
        if gold:
            score = links.aer(of_words, gold.sure, gold.possible)
        if score:
            quality[language] = {name: round(float(x), 4) for name, x in score._asdict().items()}
        arrays |= tokenization.pack(language, [np.ravel(x) for x in linked])
    np.savez(directory / "links.npz", **arrays)
    return {"quality": quality}


def kept_pairs(language: str, count: int, share: float) -> int:
    """How many of its pairs a language keeps: all, if it is synthetic and not short of text."""
    languages = synthetic.LANGUAGES
    plenty = language in languages and languages[language].text_share == 1
    return count if plenty else max(1, round(share * count))


def link_subwords(pairs: Result, language: str, kept: int) -> tuple[links.Links, links.Links]:
    """Links that the aligner finds between subwords, and the words that they link, which gold speaks of."""
    with np.load(pairs.file("pairs.npz"), allow_pickle=False) as arrays:
        names = ("source", "target", "source_words", "target_words")
        *sides, a, b = (tokenization.unpack(arrays, f"{language}/{name}")[:kept] for name in names)
    ids = [tuple([str(i) for i in side] for side in pair) for pair in zip(*sides, strict=True)]
    linked = aligner.align_both(ids, heuristic="intersect")
    return linked, [links.word_links(*each) for each in zip(linked, a, b, strict=True)]


def _drawn_links(kind: str, words: list, gold: links.Gold | None, rng: np.random.Generator) -> links.Links:
    """Gold links, some of them wrong, or random ones: as many as gold ones, else as estimated ones."""
    lengths = [(len(a), len(b)) for a, b in words]
    if kind == "random":
        like = gold.sure if gold else aligner.align_both(words, heuristic="intersect")
        return links.random_links(lengths, [len(x) for x in like], rng)
    if kind == "gold":
        return gold.sure
    return links.corrupt_links(gold.sure, lengths, float(kind.removeprefix("corrupt")), rng)


def _on_gold(ways: Sequence, source: str, language: str) -> links.AlignmentScore:
    """The score of a trained aligner on the sentences with gold links, whose words are cut in their way."""
    pairs, gold = real_data.gold_alignments(source, language)
    units, owners = real_data.pairs_of_units(pairs)
    linked = links.symmetrize(*(way.align(units) for way in ways), "intersect")
    of_words = [links.word_links(x, *both) for x, both in zip(linked, owners, strict=True)]
    return links.aer(of_words, gold.sure, gold.possible)


# What later runs read


def world_of(text: Result) -> synthetic.World:
    """The synthetic world of a text run."""
    return synthetic.World(tuple(text.params["languages"]), text.params["world_seed"])


def keyboard_of(world: synthetic.World, language: str) -> noise.Keyboard:
    """A keyboard for a synthetic language's own letters, in an order drawn once."""
    letters = {letter for forms in world.grammar(language).lexicon() for form in forms for letter in form}
    return noise.layout(sorted(letters), np.random.default_rng([world.seed, 44]))


def tokenizer_of(text: Result) -> PreTrainedTokenizerFast:
    """The joint tokenizer of a text run."""
    text.file("tokenizer.json")
    return tokenization.load(text.directory)


def read_sentences(pairs: Result, language: str, side: str) -> list[list[str]]:
    """Words of the source or the target side of a language's pairs."""
    lines = pairs.file(f"{language}.{side}.txt").read_text("utf-8").splitlines()
    return [line.split() for line in lines]


def read_gold(pairs: Result, language: str, kept: int | None = None) -> links.Gold | None:
    """Gold links of a language's first pairs, 0-based; None where it has none."""
    with np.load(pairs.file("pairs.npz"), allow_pickle=False) as arrays:
        if f"{language}/sure/ends" not in arrays:
            return None
        sure, possible = (link_lists(arrays, f"{language}/{name}")[:kept] for name in ("sure", "possible"))
    return links.Gold(sure, possible)


def link_lists(arrays: Mapping[str, np.ndarray], name: str) -> list[np.ndarray]:
    """The links packed under a name, each (L, 2)."""
    return [pair_list.reshape(-1, 2) for pair_list in tokenization.unpack(arrays, name)]
