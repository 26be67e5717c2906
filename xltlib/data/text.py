"""Text of every language as ids: documents and a tokenizer, translation pairs, word links.

What there is of a language comes from `languages`: from there on there is one way for all. Texts are cut into
words and subwords, and stored as ids.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizerFast

from xltlib.alignment import aligner, links
from xltlib.data import real_data, synthetic, tokenization
from xltlib.data.languages import gold_sample, languages_of
from xltlib.store import Result, Spec

Progress = Callable[[str], None]


def build_text(spec: Spec, inputs: list[Result], directory: Path, progress: Progress | None) -> dict:
    """The documents of every language, and the joint tokenizer."""
    own = languages_of(spec.params)
    own.tokenizer.save_pretrained(directory)
    if own.kept is not None:
        np.save(directory / tokenization.KEPT, own.kept)
    special = tokenization.specials(own.tokenizer)
    around, arrays, sizes = len(tokenization.join((), (), special=special)), {}, {}
    for language in spec.params["languages"]:
        documents = own.documents(language)
        ids = [tokenization.join(a.ids, b.ids, special=special) for a, b in documents]
        arrays |= tokenization.pack(language, ids)
        subwords, words = sum(map(len, ids)), sum(len(a.words) + len(b.words) for a, b in documents)
        per_word = round((subwords - around * len(ids)) / max(words, 1), 3)
        sizes[language] = {"documents": len(ids), "subwords": subwords, "subwords_per_word": per_word}
    np.savez(directory / "documents.npz", **arrays)
    return {"languages": sizes, "vocab_size": len(own.tokenizer)} | own.counts()


def build_pairs(spec: Spec, inputs: list[Result], directory: Path, progress: Progress | None) -> dict:
    """Translations of the source in every other language, as ids and as words; gold links if there are any.

    Pairs of which one side is too long for a sequence of two sentences are left out.
    """
    (text,), wanted = inputs, spec.params["parallel_pairs"]
    own = languages_of({**text.params, **spec.params})
    own.tokenizer = tokenizer_of(text)
    arrays, counts, too_long = {}, {}, {}
    for language in own.targets:
        pairs, gold = own.pairs(language, wanted)
        sides = [own.cut(side) for side in zip(*pairs, strict=True)]
        lengths = np.array([[len(sentence.ids) for sentence in side] for side in sides])
        fits = ((lengths > 0) & (lengths <= own.limit)).all(0)
        rows = np.flatnonzero(fits)[:wanted].tolist()
        parts = gold._asdict() if gold else {}
        for name, side in zip(("source", "target"), sides, strict=True):
            parts |= {name: [s.ids for s in side], f"{name}_words": [s.owners for s in side]}
            lines = "".join(" ".join(side[row].words) + "\n" for row in rows)
            (directory / f"{language}.{name}.txt").write_text(lines, "utf-8")
        for name, sequences in parts.items():
            arrays |= tokenization.pack(f"{language}/{name}", [np.ravel(sequences[row]) for row in rows])
        counts[language], too_long[language] = len(rows), int((~fits).sum())
    np.savez(directory / "pairs.npz", **arrays)
    return {"pairs": counts} | ({} if own.limit == np.inf else {"too_long": too_long})


def build_links(spec: Spec, inputs: list[Result], directory: Path, progress: Progress | None) -> dict:
    """Links of the pairs that are kept, between words or subwords, and how good they are.

    Words are aligned in lower case. The quality is that on the pairs' gold links. Where they have none, it is
    that of the same aligner on other sentences that have some, for the kinds "estimated" and "eflomal".
    """
    (pairs,), kind = inputs, spec.params["links"]
    source, arrays, quality = pairs.params["source"], {}, {}
    for number, (language, count) in enumerate(pairs.values["pairs"].items()):
        kept = kept_pairs(language, count, spec.params.get("share", 1.0))
        gold, score = _gold_links(pairs, language, kept), None
        sides = [read_sentences(pairs, language, side)[:kept] for side in ("source", "target")]
        words = list(zip(*([real_data.lowered(x) for x in side] for side in sides), strict=True))
        test = None  # other sentences, for an aligner that learns from pairs without gold links
        if gold is None and kind in ("estimated", "eflomal") and real_data.has_gold(source, language):
            test = gold_sample(source, language)
        if kind == "subword":
            linked, of_words = _linked_subwords(pairs, language, kept)
        elif kind == "estimated":
            ways = aligner.train_both(words)
            linked = of_words = links.symmetrize(*(way.links for way in ways), "intersect")
            unseen = test and links.symmetrize(*(way.align(test.pairs) for way in ways), "intersect")
        elif kind == "eflomal":  # it keeps no model: the other sentences are aligned along with the pairs
            found = links.eflomal_links([*words, *(test.pairs if test else ())])
            linked = of_words = found[: len(words)]
            unseen = found[len(words) :]
        else:
            linked = of_words = _drawn_links(kind, words, gold, np.random.default_rng([number, count]))
        if gold:
            score = links.aer(of_words, *gold)
        elif test:
            score = links.aer(test.of_words(unseen), *test.gold)
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


def _gold_links(pairs: Result, language: str, kept: int) -> links.Gold | None:
    """Gold links of a language's first pairs, 0-based; None where it has none."""
    with np.load(pairs.file("pairs.npz"), allow_pickle=False) as arrays:
        if f"{language}/sure/ends" not in arrays:
            return None
        return links.Gold(*(link_lists(arrays, f"{language}/{kind}")[:kept] for kind in links.Gold._fields))


def _linked_subwords(pairs: Result, language: str, kept: int) -> tuple[links.Links, links.Links]:
    """Links that the aligner finds between subwords, and the words that they link, which gold speaks of."""
    with np.load(pairs.file("pairs.npz"), allow_pickle=False) as arrays:
        names = ("source", "target", "source_words", "target_words")
        *sides, a, b = (tokenization.unpack(arrays, f"{language}/{name}")[:kept] for name in names)
    ids = [tuple([str(i) for i in side] for side in pair) for pair in zip(*sides, strict=True)]
    linked = aligner.align_both(ids, heuristic="intersect")
    return linked, [links.word_links(*each) for each in zip(linked, a, b, strict=True)]


def _drawn_links(kind: str, words: list, gold: links.Gold | None, rng: np.random.Generator) -> links.Links:
    """Gold links, some of them wrong, or random ones: as many as gold ones, else as estimated ones.

    Wrong ones collide: once they are one-to-one, as training needs them, fewer are left.
    """
    lengths = [(len(a), len(b)) for a, b in words]
    if kind == "random":
        like = gold.sure if gold else aligner.align_both(words, heuristic="intersect")
        return links.random_links(lengths, [len(x) for x in like], rng)
    if kind == "gold":
        return gold.sure
    return links.corrupt_links(gold.sure, lengths, float(kind.removeprefix("corrupt")), rng)


# What later runs read


def world_of(text: Result) -> synthetic.World:
    """The synthetic world of a text run."""
    return synthetic.World(tuple(text.params["languages"]), text.params["world_seed"])


def tokenizer_of(text: Result) -> PreTrainedTokenizerFast:
    """The joint tokenizer of a text run."""
    return tokenization.load(text.file("tokenizer.json").parent)


def read_sentences(pairs: Result, language: str, side: str) -> list[list[str]]:
    """Words of the source or the target side of a language's pairs."""
    lines = pairs.file(f"{language}.{side}.txt").read_text("utf-8").splitlines()
    return [line.split() for line in lines]


def link_lists(arrays: Mapping[str, np.ndarray], name: str) -> list[np.ndarray]:
    """The links packed under a name, each (L, 2)."""
    return [pair_list.reshape(-1, 2) for pair_list in tokenization.unpack(arrays, name)]
