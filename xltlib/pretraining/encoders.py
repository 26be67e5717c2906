"""Runs of pre-training: what each objective reads of text and pairs, and the encoder that comes of it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from xltlib import StudyError
from xltlib.data import hub, synthetic, tokenization
from xltlib.data.text import kept_pairs, link_lists, read_sentences, tokenizer_of, world_of
from xltlib.noise.typing import code_switch
from xltlib.pretraining import models
from xltlib.pretraining.objectives import (
    ParallelText,
    Recipe,
    document_loss,
    interleaved,
    objective_loss,
    tokens_read,
)
from xltlib.pretraining.options import SHAPE, Options
from xltlib.pretraining.training import Optimization, Pool, Progress, fit
from xltlib.store import Result, Spec

SWITCHED = 0.4  # share of the words of code-switched text that are translated: CoSDA-ML's for classification
LEAST_LINKED = 0.1  # a translation in an estimated lexicon has at least this share of its word's links

Lexicon = Mapping[str, Sequence[str]]  # translations of each word


def build_encoder(spec: Spec, inputs: list[Result], directory: Path, progress: Progress | None) -> dict:
    """Pre-train on documents, from scratch or from a published model ("base"), or go on from a base."""
    params, objective = spec.params, spec.params["objective"]
    base, text = (None, inputs[0]) if objective == "base" else (inputs[0], inputs[2])
    recipe = Recipe(
        params["batch_size"], params["mask_rate"], params["seed"], params.get("document_share", 1.0),
        tokenization.specials(tokenizer_of(text)), params.get("batch_tokens", 0),
    )  # fmt: skip
    encoder = models.load(base.file("config.json").parent) if base else _start(text, params)
    encoder = encoder.to(models.device(params.get("device", "cpu")))
    loss = document_loss(encoder, *document_pools(text), recipe)
    if base:
        pairs, linked = inputs[1], next(iter(inputs[3:]), None)
        options = Options(**params.get("options", {}))
        languages = [params["target"]] if "target" in params else list(pairs.values["pairs"])
        if objective == "mixed":
            texts = mixed_texts(pairs, linked, text, languages, options.pairs, params["seed"])
        else:
            texts = parallel_texts(pairs, linked, languages, options.pairs)
        loss = interleaved(objective_loss(objective, encoder, texts, recipe, options), loss, recipe)
    elif encoder.untrained_head:
        encoder.lm.requires_grad_(False)
        encoder.lm.cls.requires_grad_(True)
        encoder.embeddings().requires_grad_(False)  # the head is tied to them
    if params.get("compile"):
        models.compiled(encoder)
    steps, lr = (params[f"{'continue' if base else 'pretrain'}_{name}"] for name in ("steps", "lr"))
    opt = Optimization(steps, lr, precision=params.get("precision", "float32"), seed=params["seed"])
    history = fit(encoder, loss, opt, directory, progress, f"encoder {objective}, seed {params['seed']}")
    encoder.cpu().save(directory)
    counted = {"tokens": tokens_read(history)} if recipe.batch_tokens else {}
    return {"parameters": models.parameter_count(encoder), "history": history} | counted


def _start(text: Result, params: Mapping) -> models.Encoder:
    """The encoder that pre-training starts from: a published one by its name or folder, or a new tiny one."""
    words, model = text.values["vocab_size"], params.get("model", "")
    if not model:
        shape = {name: params[name] for name in SHAPE}
        return models.tiny(words, seed=params["seed"], **shape)
    encoder = models.load(hub.find_model(model))
    if "cut_subwords" in text.params:
        models.keep_subwords(encoder, np.load(text.file(tokenization.KEPT), allow_pickle=False))
    models.keep_layers(encoder, params.get("model_layers", 0))
    if words > encoder.vocab_size:
        raise StudyError(
            f"model {model}: it has {encoder.vocab_size} subwords and the tokenizer of the text {words}: "
            "make the text with the model's own tokenizer"
        )
    return encoder


def document_pools(text: Result) -> tuple[list[Pool], np.ndarray]:
    """Documents by language, and how often each is drawn: by the square root of its size, as is usual."""
    sizes = {name: own["documents"] for name, own in text.values["languages"].items()}
    with np.load(text.file("documents.npz"), allow_pickle=False) as arrays:
        pools = [Pool(tokenization.unpack(arrays, x)) for x in sizes]
    roots = np.array([size**0.5 for size in sizes.values()])
    return pools, roots / roots.sum()


# Pairs and their links


def parallel_texts(
    pairs: Result, linked: Result | None, languages: Sequence[str], share: float
) -> list[ParallelText]:
    """A share of the pairs of each target language, with links between subwords where links are given."""
    texts, names = [], ("source", "target", "source_words", "target_words")
    with np.load(pairs.file("pairs.npz"), allow_pickle=False) as arrays:
        for language in languages:
            sides = [tokenization.unpack(arrays, f"{language}/{name}") for name in names]
            kept = kept_pairs(language, len(sides[0]), share)
            source, target, *words = (side[:kept] for side in sides)
            links = read_links(linked, language) if linked else []
            if linked and linked.params["links"] == "subword":
                links = [one_to_one(own) for own in links]
            elif linked:
                links = [subword_links(*own) for own in zip(links, *words, strict=True)]
            texts.append(ParallelText(source, target, links))
    return texts


def read_links(linked: Result, language: str) -> list[np.ndarray]:
    """The links of each pair of a language, each (L, 2)."""
    with np.load(linked.file("links.npz"), allow_pickle=False) as arrays:
        return link_lists(arrays, language)


def one_to_one(links: np.ndarray) -> np.ndarray:
    """Of the links (L, 2) those that share no word with an earlier one: the exchange is then an involution.

    The sources do not say which of several links of a word is used. fast_align's links, intersected, are
    one-to-one.
    """
    links = np.asarray(links, dtype=np.int64).reshape(-1, 2)
    _, first_source = np.unique(links[:, 0], return_index=True)
    kept = links[np.sort(first_source)]
    _, first_target = np.unique(kept[:, 1], return_index=True)
    return kept[np.sort(first_target)]


def subword_links(links: np.ndarray, source_words: Sequence[int], target_words: Sequence[int]) -> np.ndarray:
    """Word links (L, 2), made one-to-one, as links of subwords: a word's n-th with the n-th of its partner.

    A surplus subword stays unlinked. source_words, target_words: for each subword the index of its word.
    WEAM's source does not say how a word's subwords are linked, and word-aligned training took the last one
    of each word (Cao et al. 2020): this links most of them, and is the same for both.
    """
    sides = (source_words, target_words)
    begins = [np.searchsorted(words, np.arange(len(words) + 1)).tolist() for words in sides]
    out = []
    for pair in one_to_one(links).tolist():
        a, b = (range(begin[word], begin[word + 1]) for begin, word in zip(begins, pair, strict=True))
        out += zip(a, b, strict=False)
    return np.array(out, dtype=np.int64).reshape(-1, 2)


# Code-switched text


def mixed_texts(
    pairs: Result, linked: Result | None, text: Result, languages: Sequence[str], share: float, seed: int
) -> list[ParallelText]:
    """A share of the pairs code-switched: the source's side into all target languages, the targets' into it.

    Each sentence is switched once; its words are drawn by the seed, its language and its place alone. The
    lexicon is that of the links, or the synthetic languages' own.
    """
    encode, source = tokenization.WordEncoder(tokenizer_of(text)), pairs.params["source"]
    sides, forward, backward = {}, {}, {}
    for language in languages:
        both = [read_sentences(pairs, language, side) for side in ("source", "target")]
        kept = kept_pairs(language, len(both[0]), share)
        sides[language] = both = [side[:kept] for side in both]
        if linked:
            links = read_links(linked, language)
            forward[language] = linked_lexicon(*both, links)
            backward[language] = linked_lexicon(*both[::-1], [pair[:, ::-1] for pair in links])
        else:
            forward[language] = gold_lexicon(world_of(text), source, language)
            backward[language] = gold_lexicon(world_of(text), language, source)
    texts = []
    for language, both in sides.items():
        switched = []
        for side, lexica in zip(both, (forward, {source: backward[language]}), strict=True):
            rng = np.random.default_rng([seed, 8, len(switched), *language.encode()])
            mixed = (code_switch(words, lexica, rng, cross=SWITCHED, lower=False) for words in side)
            switched.append([np.array(encode(words)[0]) for words in mixed])
        texts.append(ParallelText(*switched))
    return texts


def gold_lexicon(world: synthetic.World, source: str, target: str) -> Lexicon:
    """All forms, in the target language, of the stem of each word form of the source language.

    Function words are in no lexicon.
    """
    lexicon: dict[str, list[str]] = {}
    stems = zip(world.grammar(source).lexicon(), world.grammar(target).lexicon(), strict=True)
    for forms, translations in stems:
        for form in forms:
            known = lexicon.setdefault(form, [])
            known += [word for word in translations if word not in known]
    return lexicon


def linked_lexicon(
    source: Sequence[Sequence[str]], target: Sequence[Sequence[str]], links: Sequence[np.ndarray]
) -> Lexicon:
    """The words that each source word has at least `LEAST_LINKED` of its links with, commonest first."""
    counts: dict[str, Counter[str]] = {}
    for a, b, pair in zip(source, target, links, strict=True):
        for i, j in pair.tolist():
            counts.setdefault(a[i], Counter())[b[j]] += 1
    return {
        word: [other for other, n in own.most_common() if n >= LEAST_LINKED * own.total()]
        for word, own in counts.items()
    }
