"""Runs of text: documents and tokenizer, translation pairs, word links; and how later runs read them."""

from pathlib import Path
from typing import Any

import numpy as np

from xltlib import StudyError
from xltlib.alignment import aligner, links
from xltlib.data import synthetic, tokenization
from xltlib.noise import typing as noise
from xltlib.pretraining import options as pretraining
from xltlib.pretraining.training import Progress
from xltlib.store import Result, Spec

LEAST_SHARE = 0.25  # parallel pairs of an under-resourced language, relative to the others, at the least


def world_of(text: Result) -> synthetic.World:
    """The synthetic world of a text run."""
    return synthetic.World(tuple(text.params["languages"]), text.params["world_seed"])


def keyboard_of(world: synthetic.World, language: str) -> noise.Keyboard:
    """A keyboard for a synthetic language's own letters, in an order drawn once."""
    letters = {letter for forms in world.grammar(language).lexicon() for form in forms for letter in form}
    return noise.layout(sorted(letters), np.random.default_rng([world.seed, 44]), language)


def build_text(spec: Spec, inputs: list[Result], directory: Path, progress: Progress | None) -> dict:
    """Documents of every language, each its own; the tokenizer is trained on all of them."""
    params = spec.params
    world = synthetic.World(tuple(params["languages"]), params["world_seed"])
    documents = {}
    for number, language in enumerate(world.languages):
        share = synthetic.LANGUAGES[language].text_share
        rng = np.random.default_rng([params["world_seed"], 21, number])
        drawn = synthetic.documents(world, max(1, round(params["documents"] * share)), rng)
        documents[language] = drawn.render(world, language)
    # a language with little text weighs more in the tokenizer than in the text, as in published models
    texts = []
    for language, docs in documents.items():
        repeat = round(synthetic.LANGUAGES[language].text_share ** -0.5)
        texts += [" ".join(part) for doc in docs for part in doc] * repeat
    tokenizer = tokenization.train(texts, params["vocab_size"])
    tokenizer.save_pretrained(directory)
    encode, arrays, sizes = tokenization.WordEncoder(tokenizer), {}, {}
    for language, docs in documents.items():
        ids = [tokenization.join(encode(first)[0], encode(second)[0]) for first, second in docs]
        for name, array in tokenization.pack(ids).items():
            arrays[f"{language}/{name}"] = array
        sizes[language] = {"documents": len(ids), "subwords": int(sum(map(len, ids)))}
        sizes[language]["subwords_per_word"] = round(
            sum(len(i) - 3 for i in ids) / sum(len(a) + len(b) for a, b in docs), 3
        )
    np.savez(directory / "documents.npz", **arrays)
    return {"languages": sizes, "vocab_size": len(tokenizer)}


def build_pairs(spec: Spec, inputs: list[Result], directory: Path, progress: Progress | None) -> dict:
    """Translation pairs with gold links; the languages have sentences of their own."""
    text, source = inputs[0], spec.params["source"]
    world, encode = world_of(text), tokenization.WordEncoder(tokenizer_of(text))
    arrays, counts = {}, {}
    for number, language in enumerate(world.languages):
        if language == source:
            continue
        share = max(LEAST_SHARE, synthetic.LANGUAGES[language].text_share)
        rng = np.random.default_rng([world.seed, 22, number])
        clauses = synthetic.parallel(world, round(spec.params["parallel_pairs"] * share), rng)
        sides = [world.render(clauses, name) for name in (source, language)]
        gold = [synthetic.gold_links(a, b) for a, b in zip(*sides, strict=True)]
        parts: dict[str, list] = {"sure": [np.array(s).ravel() for s, _ in gold]}
        parts["possible"] = [np.array(p).ravel() for _, p in gold]
        for side, sentences in zip(("source", "target"), sides, strict=True):
            coded = [encode(s.words) for s in sentences]
            parts[side], parts[f"{side}_words"] = [c[0] for c in coded], [c[1] for c in coded]
            (directory / f"{language}.{side}.txt").write_text(
                "\n".join(s.text for s in sentences) + "\n", "utf-8"
            )
        for name, sequences in parts.items():
            arrays |= {f"{language}/{name}/{k}": v for k, v in tokenization.pack(sequences).items()}
        counts[language] = len(gold)
    np.savez(directory / "pairs.npz", **arrays)
    return {"pairs": counts}


def build_links(spec: Spec, inputs: list[Result], directory: Path, progress: Progress | None) -> dict:
    """Links of the pairs that are kept, between words or subwords; and how good they are against gold."""
    pairs, kind = inputs[0], spec.params["links"]
    arrays, found = {}, {}
    for number, (language, count) in enumerate(pairs.values["pairs"].items()):
        kept = pretraining.kept_pairs(language, count, spec.params.get("share", 1.0))
        words = [read_sentences(pairs, language, side)[:kept] for side in ("source", "target")]
        gold = read_gold(pairs, language)
        gold = links.Gold(gold.sure[:kept], gold.possible[:kept], 0, 0, ())
        lengths = [(len(a), len(b)) for a, b in zip(*words, strict=True)]
        if kind == "subword":
            made, of_words = link_subwords(pairs, language, kept)
        else:
            rng = np.random.default_rng([number, count])
            made = of_words = _make_links(kind, list(zip(*words, strict=True)), gold, lengths, rng)
        score = links.aer(of_words, gold.sure, gold.possible)
        found[language] = {name: round(float(value), 4) for name, value in score._asdict().items()}
        arrays |= {f"{language}/{k}": v for k, v in tokenization.pack([np.ravel(x) for x in made]).items()}
    np.savez(directory / "links.npz", **arrays)
    return {"quality": found}


def link_subwords(pairs: Result, language: str, kept: int) -> tuple[links.Links, links.Links]:
    """Links that the aligner finds between subwords, and the words that they link, which gold speaks of."""
    with np.load(pairs.file("pairs.npz"), allow_pickle=False) as arrays:
        source, target, source_words, target_words = (
            tokenization.unpack(arrays[f"{language}/{name}/values"], arrays[f"{language}/{name}/ends"])[:kept]
            for name in ("source", "target", "source_words", "target_words")
        )
    ids = [(list(map(str, a)), list(map(str, b))) for a, b in zip(source, target, strict=True)]
    made = aligner.align_both(ids, heuristic="intersect")
    owners = zip(made, source_words, target_words, strict=True)
    return made, [np.unique(np.stack([a[x[:, 0]], b[x[:, 1]]], 1), axis=0) for x, a, b in owners]


def _make_links(
    kind: str, words: list, gold: links.Gold, lengths: list, rng: np.random.Generator
) -> links.Links:
    if kind == "estimated":
        return aligner.align_both(words, heuristic="intersect")
    if kind == "grown":
        return aligner.align_both(words, heuristic="grow-diag-final-and")
    if kind == "gold":
        return gold.sure
    if kind == "random":
        return links.random_links(lengths, [len(x) for x in gold.sure], rng)
    if kind.startswith("corrupt"):
        return links.corrupt_links(gold.sure, lengths, float(kind.removeprefix("corrupt")), rng)
    raise StudyError(f"links {kind!r} are not known: estimated, grown, subword, gold, random, corrupt0.5")


def tokenizer_of(text: Result):
    """The joint tokenizer of a text run."""
    text.file("tokenizer.json")
    return tokenization.load(text.directory)


def read_sentences(pairs: Result, language: str, side: str) -> list[list[str]]:
    """Words of the source or the target side of a language's pairs."""
    lines = pairs.file(f"{language}.{side}.txt").read_text("utf-8").splitlines()
    return [line.split() for line in lines]


def read_gold(pairs: Result, language: str) -> links.Gold:
    """Gold links of a language's pairs, 0-based."""
    with np.load(pairs.file("pairs.npz"), allow_pickle=False) as arrays:
        sure, possible = (link_lists(arrays, f"{language}/{name}") for name in ("sure", "possible"))
    return links.Gold(sure, possible, 0, 0, ())


def link_lists(arrays: Any, prefix: str) -> list[np.ndarray]:
    """The packed links under a prefix, each (L, 2)."""
    return [
        x.reshape(-1, 2) for x in tokenization.unpack(arrays[f"{prefix}/values"], arrays[f"{prefix}/ends"])
    ]
