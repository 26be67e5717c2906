"""Runs of encoders: pre-training, and the probe of what an encoder has learnt before any task."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from unicodedata import category

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from xltlib import StudyError, evaluation
from xltlib.alignment import links
from xltlib.data import synthetic, tokenization
from xltlib.data.text import kept_pairs, link_lists, read_sentences, tokenizer_of, world_of
from xltlib.noise.typing import code_switch
from xltlib.pretraining import losses, models, objectives
from xltlib.pretraining.options import Options
from xltlib.pretraining.training import Optimization, Pool, Progress, epoch_batches, fit
from xltlib.store import Result, Spec, save_scores

LEAST_LINKED = 0.1  # a translation in an estimated lexicon has at least this share of its word's links

Lexicon = Mapping[str, Sequence[str]]  # translations of each word


def parallel_texts(
    pairs: Result, linked: Result | None, languages: Sequence[str], chosen: Options,
    left_out: set[int],
) -> list[losses.ParallelText]:  # fmt: skip
    """The pairs of each target language, with links between subwords where links are given.

    left_out: ids of subwords that no link may touch.
    """
    texts = []
    with np.load(pairs.file("pairs.npz"), allow_pickle=False) as arrays:
        for language in languages:
            read = {}
            for name in ("source", "target", "source_words", "target_words"):
                key = f"{language}/{name}"
                read[name] = tokenization.unpack(arrays[f"{key}/values"], arrays[f"{key}/ends"])
            kept = kept_pairs(language, len(read["source"]), chosen.pairs)
            read = {name: x[:kept] for name, x in read.items()}
            found = zip(_read_links(linked, language), *read.values(), strict=True) if linked else ()
            subword_links = [_subword_links(*x, chosen, left_out) for x in found]
            texts.append(losses.ParallelText(read["source"], read["target"], subword_links))
    return texts


def _subword_links(
    found: np.ndarray, source: np.ndarray, target: np.ndarray, source_words: np.ndarray,
    target_words: np.ndarray, chosen: Options, left_out: set[int],
) -> np.ndarray:  # fmt: skip
    """A pair's links as an objective reads them: of subwords (L, 2), or of spans of subwords (L, 4)."""
    rule = chosen.one_to_many
    if chosen.links == "subword":
        found = objectives.one_to_one(found, rule, (len(source), len(target)))
    elif chosen.expand == "mean":
        return objectives.word_spans(found, source_words, target_words, rule)
    else:
        found = objectives.subword_links(found, source_words, target_words, rule, chosen.expand)
    return objectives.links_without(found, source, target, left_out) if left_out else found


def _read_links(linked: Result, language: str) -> list[np.ndarray]:
    with np.load(linked.file("links.npz"), allow_pickle=False) as found:
        return link_lists(found, language)


def punctuation_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Ids of the subwords that are punctuation marks alone."""
    marks = ("##", "\N{LOWER ONE EIGHTH BLOCK}")  # WordPiece: no blank before it; SentencePiece: a blank
    plain = ((word.removeprefix(marks[0]).removeprefix(marks[1]), number)
             for word, number in tokenizer.get_vocab().items())  # fmt: skip
    return {number for word, number in plain if word and all(category(c)[0] == "P" for c in word)}


def mixed_texts(
    pairs: Result, linked: Result | None, text: Result, languages: Sequence[str],
    chosen: Options, seed: int,
) -> list[losses.ParallelText]:  # fmt: skip
    """The sentences of the pairs code-switched: the source's into all target languages, the targets' into it.

    Each sentence is switched once; its words are drawn by the seed, its language and its place alone.
    StudyError where real languages have no lexicon but a gold one.
    """
    if linked is None and text.params.get("data", "synthetic") != "synthetic":
        raise StudyError(
            "objective mixed: lexicon=gold: only the synthetic languages have one: take lexicon=estimated"
        )
    encode, source = tokenization.WordEncoder(tokenizer_of(text)), pairs.params["source"]
    sides, forward, backward = {}, {}, {}
    for language in languages:
        both = [read_sentences(pairs, language, side) for side in ("source", "target")]
        kept = kept_pairs(language, len(both[0]), chosen.pairs)
        sides[language] = both = [side[:kept] for side in both]
        if linked:
            found = _read_links(linked, language)
            forward[language] = linked_lexicon(*both, found)
            backward[language] = linked_lexicon(*both[::-1], [pair[:, ::-1] for pair in found])
        else:
            forward[language] = gold_lexicon(world_of(text), source, language)
            backward[language] = gold_lexicon(world_of(text), language, source)
    texts = []
    for language, both in sides.items():
        switched = []
        for side, lexica in zip(both, (forward, {source: backward[language]}), strict=True):
            rng = np.random.default_rng([seed, 8, len(switched), *language.encode()])
            mixed = (code_switch(words, lexica, rng, cross=chosen.rate, lower=False) for words in side)
            switched.append([np.array(encode(words)[0]) for words in mixed])
        texts.append(losses.ParallelText(*switched))
    return texts


def gold_lexicon(world: synthetic.World, source: str, target: str) -> Lexicon:
    """All forms, in the target language, of the stem of each word form of the source language.

    Function words are in no lexicon.
    """
    found: dict[str, list[str]] = {}
    stems = zip(world.grammar(source).lexicon(), world.grammar(target).lexicon(), strict=True)
    for forms, translations in stems:
        for form in forms:
            known = found.setdefault(form, [])
            known += [word for word in translations if word not in known]
    return found


def linked_lexicon(
    source: Sequence[Sequence[str]], target: Sequence[Sequence[str]], found: Sequence[np.ndarray]
) -> Lexicon:
    """The words that each source word has at least `LEAST_LINKED` of its links with, commonest first."""
    counts: dict[str, Counter[str]] = {}
    for a, b, pair in zip(source, target, found, strict=True):
        for i, j in pair.tolist():
            counts.setdefault(a[i], Counter())[b[j]] += 1
    return {
        word: [other for other, n in linked.most_common() if n >= LEAST_LINKED * linked.total()]
        for word, linked in counts.items()
    }


def document_pools(text: Result) -> tuple[list[Pool], list[float]]:
    """Documents by language, and how often each is drawn: by the square root of its size, as is usual."""
    with np.load(text.file("documents.npz"), allow_pickle=False) as arrays:
        languages = list(text.values["languages"])
        pools = [Pool(tokenization.unpack(arrays[f"{x}/values"], arrays[f"{x}/ends"])) for x in languages]
    return pools, [text.values["languages"][x]["documents"] ** 0.5 for x in languages]


def build_encoder(spec: Spec, inputs: list[Result], directory: Path, progress: Progress | None) -> dict:
    """Pre-train on documents, from scratch or from a published model ("base"), or go on from a base."""
    params, objective = spec.params, spec.params["objective"]
    device = models.device(params.get("device", "cpu"))
    base, text = (None, inputs[0]) if objective == "base" else (inputs[0], inputs[2])
    model = (base.params if base else params).get("model", "")
    recipe = losses.Recipe(
        params["batch_size"], params["mask_rate"], params["seed"],
        Options(**params.get("options", {})), params.get("document_share", 1.0),
        tokenization.specials(tokenizer_of(text)) if model else tokenization.OWN,
        params.get("batch_tokens", 0),
    )  # fmt: skip
    if base is None:
        trained = encoder = _start(model, text, params).to(device)
        if encoder.untrained_head:
            encoder.lm.requires_grad_(False)
            encoder.lm.cls.requires_grad_(True)
            encoder.embeddings().requires_grad_(False)  # the head is tied to them
        loss = losses.document_loss(encoder, *document_pools(text), recipe)
        steps, lr = params["pretrain_steps"], params["pretrain_lr"]
    else:
        _, pairs, _, *linked = inputs
        languages = [params["target"]] if "target" in params else list(pairs.values["pairs"])
        encoder = models.load(base.file("config.json").parent)
        trained = losses.extended(encoder, recipe.options, 1 + len(languages)).to(device)
        read = _objective_texts(objective, pairs, linked[0] if linked else None, text, languages, recipe)
        bilingual = losses.objective_loss(objective, trained, read, recipe)
        loss = losses.interleaved(
            bilingual, losses.document_loss(encoder, *document_pools(text), recipe), recipe
        )
        steps, lr = params["continue_steps"], params["continue_lr"]
    name = f"encoder {objective}, seed {params['seed']}"
    if params.get("compile"):
        models.compiled(trained)
    opt = Optimization(steps, lr, precision=params.get("precision", "float32"), seed=params["seed"])
    history = fit(trained, loss, opt, directory, progress, name)
    encoder.cpu().save(directory)
    counted = {"tokens": losses.tokens_read(history)} if recipe.batch_tokens else {}
    return {"parameters": models.parameter_count(encoder), "history": history} | counted


def _start(model: str, text: Result, params: Mapping[str, Any]) -> models.Encoder:
    """The encoder that pre-training starts from: a published one by its name or folder, or a new tiny one."""
    words = text.values["vocab_size"]
    if not model:
        shape = {name: params[name] for name in ("hidden_size", "num_layers", "num_heads")}
        return models.tiny(words, seed=params["seed"], **shape)
    encoder = models.load(models.find(model))
    if "cut_subwords" in text.params:
        models.keep_subwords(encoder, np.load(text.file(tokenization.KEPT), allow_pickle=False))
    models.keep_layers(encoder, params.get("model_layers", 0))
    if words > encoder.vocab_size:
        raise StudyError(
            f"model {model}: it has {encoder.vocab_size} subwords and the tokenizer of the text {words}: "
            "make the text with the model's own tokenizer"
        )
    return encoder


def _objective_texts(
    objective: str, pairs: Result, linked: Result | None, text: Result, languages: Sequence[str],
    recipe: losses.Recipe,
) -> list[losses.ParallelText]:  # fmt: skip
    """What an objective reads of each target language."""
    if objective == "mixed":
        return mixed_texts(pairs, linked, text, languages, recipe.options, recipe.seed)
    chosen = recipe.options.replace(links=linked.params["links"]) if linked else recipe.options
    left_out = set() if chosen.punctuation else punctuation_ids(tokenizer_of(text))
    return parallel_texts(pairs, linked, languages, chosen, left_out)


def build_probe(spec: Spec, inputs: list[Result], directory: Path, progress: Progress | None) -> dict:
    """How near translations lie in an encoder: retrieval of sentences and words, and word links, by layer."""
    encoder_run, text = inputs
    source, languages = spec.params["source"], spec.params["languages"]
    world, encode = world_of(text), tokenization.WordEncoder(tokenizer_of(text))
    encoder = models.load(encoder_run.file("config.json").parent)
    drawn = synthetic.parallel(
        world, spec.params["sentences"], np.random.default_rng([world.seed, 23]), "test"
    )
    sentences = {name: world.render(drawn, name) for name in languages}
    vectors = {name: _word_vectors(encoder, encode, sentences[name]) for name in languages}
    values, scores = {}, {}
    for language in languages:
        if language == source:
            continue
        gold = [
            synthetic.gold_links(a, b) for a, b in zip(sentences[source], sentences[language], strict=True)
        ]
        found = [_probe_layer(a, b, gold) for a, b in zip(vectors[source], vectors[language], strict=True)]
        values[language] = {k: [layer[k] for layer in found] for k in ("sentences", "words", "aer")}
        scores[language] = found[-1]["hits"]
    save_scores(directory / "scores.npz", scores)
    return {"labels": spec.params["labels"], "by_layer": values}


@torch.inference_mode()
def _word_vectors(encoder: models.Encoder, encode, sentences: list) -> list[list[np.ndarray]]:
    """For every layer, each sentence's word vectors (W, H): the mean of a word's subwords."""
    coded = [encode(s.words) for s in sentences]
    layers: list[list[np.ndarray]] = []
    for rows in epoch_batches([len(ids) for ids, _ in coded], 128, np.random.default_rng(0)):
        ids = torch.from_numpy(np.stack([tokenization.join(coded[row][0]) for row in rows]))
        states = encoder.layers(ids).numpy()
        layers = layers or [[np.empty(0)] * len(coded) for _ in states]
        for n, row in enumerate(rows):
            for layer, batch in zip(layers, states, strict=True):
                layer[row] = links.pool_words(batch[n, 1:-1], np.array(coded[row][1]))
    return layers


def _probe_layer(source: list[np.ndarray], target: list[np.ndarray], gold: list) -> dict:
    """Accuracies of nearest neighbours among sentences and among linked words, and AER, in one layer.

    Vectors are centred by language first: a constant offset between languages says nothing about their words.
    """
    a, b = (links.centred(side) for side in (source, target))
    means = [np.stack([s.mean(0) for s in side]) for side in (a, b)]
    hits = evaluation.retrieval_scores(links.similarity(*means))["forward"]
    sure = [np.array(s) for s, _ in gold]
    made = [links.argmax_links(links.similarity(x, y)) for x, y in zip(a, b, strict=True)]
    score = links.aer(made, sure, [np.array(p) for _, p in gold])
    words = [np.concatenate([x[s[:, k]] for x, s in zip(side, sure, strict=True)])[:1000]
             for k, side in enumerate((a, b))]  # fmt: skip
    near = links.similarity(*words).argmax(1)
    right = (words[1][near] == words[1]).all(1)  # a word's own vector, wherever it stands
    return {
        "sentences": _round(hits.mean()),
        "words": _round(right.mean()),
        "aer": _round(score.aer),
        "hits": hits,
    }


def _round(value: float) -> float:
    return round(float(value), 4)
