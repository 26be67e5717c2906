"""Runs of encoders: pre-training, and the probe of what an encoder has learnt before any task."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from xltlib import (
    encoder_alignment,
    evaluation,
    links,
    models,
    pretraining,
    synthetic,
    synthetic_tasks,
    tokenization,
)
from xltlib.files import save_scores
from xltlib.results import Result, Spec
from xltlib.text_builders import link_lists, tokenizer_of, world_of
from xltlib.training import Optimization, Pool, Progress, epoch_batches, fit


def _parallel_texts(
    pairs: Result, linked: Result | None, target: str = "", chosen: Mapping[str, Any] | None = None
) -> list[pretraining.ParallelText]:
    """The pairs of each target language, with links between subwords where word links are given.

    `target`: of this language alone. The option `pairs`: the share that the language with little text keeps.
    """
    texts = []
    with np.load(pairs.file("pairs.npz"), allow_pickle=False) as arrays:
        for language in [target] if target else pairs.values["pairs"]:
            read = {}
            for name in ("source", "target", "source_words", "target_words"):
                key = f"{language}/{name}"
                read[name] = tokenization.unpack(arrays[f"{key}/values"], arrays[f"{key}/ends"])
            word_links = _read_links(linked, language) if linked else []
            if synthetic.LANGUAGES[language].text_share < 1:
                kept = max(1, round((chosen or {}).get("pairs", 1.0) * len(read["source"])))
                read, word_links = {name: x[:kept] for name, x in read.items()}, word_links[:kept]
            owners = zip(word_links, read["source_words"], read["target_words"], strict=bool(linked))
            subword_links = [pretraining.subword_links(*x) for x in owners]
            texts.append(pretraining.ParallelText(read["source"], read["target"], subword_links))
    return texts


def _read_links(linked: Result, language: str) -> list[np.ndarray]:
    with np.load(linked.file("links.npz"), allow_pickle=False) as found:
        return link_lists(found, language)


def _document_pools(text: Result) -> tuple[list[Pool], list[float]]:
    """Documents by language, and how often each is drawn: by the square root of its size, as is usual."""
    with np.load(text.file("documents.npz"), allow_pickle=False) as arrays:
        languages = list(text.values["languages"])
        pools = [Pool(tokenization.unpack(arrays[f"{x}/values"], arrays[f"{x}/ends"])) for x in languages]
    return pools, [text.values["languages"][x]["documents"] ** 0.5 for x in languages]


def build_encoder(spec: Spec, inputs: list[Result], directory: Path, progress: Progress | None) -> dict:
    """Pre-train from scratch on documents ("base"), or go on from a base by an objective."""
    params, objective = spec.params, spec.params["objective"]
    chosen = params.get("options", {})
    recipe = pretraining.Recipe(
        params["batch_size"], params["mask_rate"], params["seed"], chosen.get("lambda_", 1.0),
        document_share=params.get("document_share", 1.0),
    )  # fmt: skip
    if objective == "base":
        (text,) = inputs
        shape = {name: params[name] for name in ("hidden_size", "num_layers", "num_heads")}
        encoder = models.tiny(text.values["vocab_size"], seed=params["seed"], **shape)
        loss = pretraining.document_loss(encoder, *_document_pools(text), recipe)
        steps, lr = params["pretrain_steps"], params["pretrain_lr"]
    else:
        base, pairs, text, *linked = inputs
        encoder = models.load(base.file("config.json").parent)
        parallel = _parallel_texts(pairs, linked[0] if linked else None, params.get("target", ""), chosen)
        bilingual = pretraining.objective_loss(objective, encoder, parallel, recipe)
        loss = pretraining.interleaved(
            bilingual, pretraining.document_loss(encoder, *_document_pools(text), recipe), recipe
        )
        steps, lr = params["continue_steps"], params["continue_lr"]
    name = f"encoder {objective}, seed {params['seed']}"
    history = fit(encoder, loss, Optimization(steps, lr), directory, progress, name)
    encoder.save(directory)
    return {"parameters": models.parameter_count(encoder), "history": history}


def build_probe(spec: Spec, inputs: list[Result], directory: Path, progress: Progress | None) -> dict:
    """How near translations lie in an encoder: retrieval of sentences and words, and word links, by layer."""
    encoder_run, text = inputs
    source, languages = spec.params["source"], spec.params["languages"]
    world, encode = world_of(text), tokenization.WordEncoder(tokenizer_of(text))
    encoder = models.load(encoder_run.file("config.json").parent)
    drawn = synthetic_tasks.parallel(
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
                layer[row] = encoder_alignment.pool_words(batch[n, 1:-1], np.array(coded[row][1]))
    return layers


def _probe_layer(source: list[np.ndarray], target: list[np.ndarray], gold: list) -> dict:
    """Accuracies of nearest neighbours among sentences and among linked words, and AER, in one layer.

    Vectors are centred by language first: a constant offset between languages says nothing about their words.
    """
    a, b = (_centred(side) for side in (source, target))
    means = [np.stack([s.mean(0) for s in side]) for side in (a, b)]
    hits = evaluation.retrieval_scores(encoder_alignment.similarity(*means))["forward"]
    sure = [np.array(s) for s, _ in gold]
    made = [
        encoder_alignment.argmax_links(encoder_alignment.similarity(x, y)) for x, y in zip(a, b, strict=True)
    ]
    score = links.aer(made, sure, [np.array(p) for _, p in gold])
    words = [np.concatenate([x[s[:, k]] for x, s in zip(side, sure, strict=True)])[:1000]
             for k, side in enumerate((a, b))]  # fmt: skip
    near = encoder_alignment.similarity(*words).argmax(1)
    right = (words[1][near] == words[1]).all(1)  # a word's own vector, wherever it stands
    return {
        "sentences": _round(hits.mean()),
        "words": _round(right.mean()),
        "aer": _round(score.aer),
        "hits": hits,
    }


def _centred(sentences: list[np.ndarray]) -> list[np.ndarray]:
    mean = np.concatenate(sentences).mean(0)
    return [s - mean for s in sentences]


def _round(value: float) -> float:
    return round(float(value), 4)
