"""How each kind of run is built from its spec and the runs that it builds on."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from xltlib import (
    alignment,
    encoder_alignment,
    evaluation,
    finetuning,
    links,
    models,
    pretraining,
    synthetic,
    synthetic_tasks,
    tokenization,
)
from xltlib.files import save_scores
from xltlib.params import StudyError
from xltlib.records import LABELS
from xltlib.results import Result, Spec
from xltlib.store import Store
from xltlib.training import Optimization, Pool, Progress, epoch_batches, fit

LEAST_SHARE = 0.25  # parallel pairs of an under-resourced language, relative to the others, at the least


def compute(
    spec: Spec, store: Store, fresh: bool = False, progress: Progress | None = None, files=None
) -> Result:
    """The result of a run, from the store or built now together with whatever it builds on."""

    def build(directory: Path) -> dict:
        inputs = [compute(other, store, fresh, progress, files=True) for other in spec.inputs]
        return BUILDERS[spec.kind](spec, inputs, directory, progress)

    return store.compute(spec, build, fresh=fresh, files=files)


def _world(text: Result) -> synthetic.World:
    return synthetic.World(tuple(text.params["languages"]), text.params["world_seed"])


def build_text(spec: Spec, inputs: list[Result], directory: Path, progress: Progress | None) -> dict:
    """Documents of every language, each its own; the tokenizer is trained on all of them."""
    params = spec.params
    world = synthetic.World(tuple(params["languages"]), params["world_seed"])
    documents = {}
    for number, language in enumerate(world.languages):
        share = synthetic.LANGUAGES[language].text_share
        rng = np.random.default_rng([params["world_seed"], 21, number])
        drawn = synthetic_tasks.documents(world, max(1, round(params["documents"] * share)), rng)
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
    world, encode = _world(text), tokenization.WordEncoder(_tokenizer(text))
    arrays, counts = {}, {}
    for number, language in enumerate(world.languages):
        if language == source:
            continue
        share = max(LEAST_SHARE, synthetic.LANGUAGES[language].text_share)
        rng = np.random.default_rng([world.seed, 22, number])
        clauses = synthetic_tasks.parallel(world, round(spec.params["parallel_pairs"] * share), rng)
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
    """Word links of all pairs, and how good they are against gold."""
    pairs, kind = inputs[0], spec.params["links"]
    arrays, found = {}, {}
    for number, (language, count) in enumerate(pairs.values["pairs"].items()):
        words = [read_sentences(pairs, language, side) for side in ("source", "target")]
        gold = read_gold(pairs, language)
        lengths = [(len(a), len(b)) for a, b in zip(*words, strict=True)]
        rng = np.random.default_rng([number, count])
        made = _make_links(kind, list(zip(*words, strict=True)), gold, lengths, rng)
        score = links.aer(made, gold.sure, gold.possible)
        found[language] = {name: round(float(value), 4) for name, value in score._asdict().items()}
        arrays |= {f"{language}/{k}": v for k, v in tokenization.pack([np.ravel(x) for x in made]).items()}
    np.savez(directory / "links.npz", **arrays)
    return {"quality": found}


def _make_links(
    kind: str, words: list, gold: links.Gold, lengths: list, rng: np.random.Generator
) -> links.Links:
    if kind == "estimated":
        return alignment.align_both(words, heuristic="intersect")
    if kind == "gold":
        return gold.sure
    if kind == "random":
        return links.random_links(lengths, [len(x) for x in gold.sure], rng)
    if kind.startswith("corrupt"):
        return links.corrupt_links(gold.sure, lengths, float(kind.removeprefix("corrupt")), rng)
    raise StudyError(f"links {kind!r} are not known: estimated, gold, random, corrupt0.5 (any share)")


def _tokenizer(text: Result):
    text.file("tokenizer.json")
    return tokenization.load(text.directory)


def read_sentences(pairs: Result, language: str, side: str) -> list[list[str]]:
    """Words of the source or the target side of a language's pairs."""
    lines = pairs.file(f"{language}.{side}.txt").read_text("utf-8").splitlines()
    return [line.split() for line in lines]


def read_gold(pairs: Result, language: str) -> links.Gold:
    """Gold links of a language's pairs, 0-based."""
    with np.load(pairs.file("pairs.npz"), allow_pickle=False) as arrays:
        sure, possible = (_link_lists(arrays, f"{language}/{name}") for name in ("sure", "possible"))
    return links.Gold(sure, possible, 0, 0, ())


def _link_lists(arrays: Any, prefix: str) -> list[np.ndarray]:
    return [
        x.reshape(-1, 2) for x in tokenization.unpack(arrays[f"{prefix}/values"], arrays[f"{prefix}/ends"])
    ]


def _parallel_texts(pairs: Result, linked: Result | None) -> list[pretraining.ParallelText]:
    """The pairs of each target language, with links between subwords where word links are given."""
    texts = []
    with np.load(pairs.file("pairs.npz"), allow_pickle=False) as arrays:
        for language in pairs.values["pairs"]:
            read = {}
            for name in ("source", "target", "source_words", "target_words"):
                key = f"{language}/{name}"
                read[name] = tokenization.unpack(arrays[f"{key}/values"], arrays[f"{key}/ends"])
            word_links = _read_links(linked, language) if linked else []
            owners = zip(word_links, read["source_words"], read["target_words"], strict=bool(linked))
            subword_links = [pretraining.subword_links(*x) for x in owners]
            texts.append(pretraining.ParallelText(read["source"], read["target"], subword_links))
    return texts


def _read_links(linked: Result, language: str) -> list[np.ndarray]:
    with np.load(linked.file("links.npz"), allow_pickle=False) as found:
        return _link_lists(found, language)


def _document_pools(text: Result) -> tuple[list[Pool], list[float]]:
    """Documents by language, and how often each is drawn: by the square root of its size, as is usual."""
    with np.load(text.file("documents.npz"), allow_pickle=False) as arrays:
        languages = list(text.values["languages"])
        pools = [Pool(tokenization.unpack(arrays[f"{x}/values"], arrays[f"{x}/ends"])) for x in languages]
    return pools, [text.values["languages"][x]["documents"] ** 0.5 for x in languages]


def build_encoder(spec: Spec, inputs: list[Result], directory: Path, progress: Progress | None) -> dict:
    """Pre-train from scratch on documents ("base"), or go on from a base by an objective."""
    params, objective = spec.params, spec.params["objective"]
    recipe = pretraining.Recipe(
        params["batch_size"], params["mask_rate"], params["seed"], params.get("lambda", 1.0),
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
        parallel = _parallel_texts(pairs, linked[0] if linked else None)
        bilingual = pretraining.objective_loss(objective, encoder, parallel, recipe)
        loss = pretraining.interleaved(
            bilingual, pretraining.document_loss(encoder, *_document_pools(text), recipe), recipe
        )
        steps, lr = params["continue_steps"], params["continue_lr"]
    name = f"encoder {objective}, seed {params['seed']}"
    history = fit(encoder, loss, Optimization(steps, lr), directory, progress, name)
    encoder.save(directory)
    return {"parameters": models.parameter_count(encoder), "history": history}


def build_transfer(spec: Spec, inputs: list[Result], directory: Path, progress: Progress | None) -> dict:
    """Fine-tune an encoder on the training examples of a method, then score the tests of every language."""
    params, labels = spec.params, spec.params["labels"]
    encoder_run, text = inputs
    task, seed, tokenizer, world = labels["task"], labels["seed"], _tokenizer(text), _world(text)
    train = synthetic_tasks.task_set(world, task, params["train_examples"], "train", 0).examples
    test = synthetic_tasks.task_set(world, task, params["test_examples"], "test", 0).examples
    examples = finetuning.training_examples(labels["method"], train, params["source"], seed)
    encoder = models.load(encoder_run.file("config.json").parent)
    model = finetuning.TaskModel(encoder, task, seed, params["pooling"], params["freeze_embeddings"])
    data = finetuning.encode(tokenizer, task, examples)
    plain = labels["method"] == "standard"
    own = data if plain else finetuning.encode(tokenizer, task, train[params["source"]])
    # all methods get the updates that the source's own examples take
    steps = finetuning.steps_for(own, params["batch_size"], params["finetune_epochs"])
    opt = Optimization(steps, params["finetune_lr"])
    name = f"{task} by {labels['method']} from {labels['objective']}, seed {seed}"
    history = finetuning.finetune(model, data, opt, params["batch_size"], seed, directory=directory,
                                  progress=progress, name=name)  # fmt: skip
    scores, recall = {}, {}
    for language in params["languages"]:
        coded = finetuning.encode(tokenizer, task, test[language])
        predicted = finetuning.predict(model, coded)
        for metric, values in finetuning.scores(task, coded, predicted, test[language]).items():
            scores[f"{language}#{metric}" if metric else language] = values
        if task != "qa":
            table = evaluation.confusion(coded.targets, predicted, len(LABELS[task]))
            recall[language] = [round(float(x), 4) for x in evaluation.recall_by_class(table)]
    save_scores(directory / "scores.npz", scores)
    means = {name: round(float(values.mean()), 6) for name, values in scores.items()}
    return {"labels": labels, "means": means, "recall": recall, "updates": steps, "history": history}


def build_probe(spec: Spec, inputs: list[Result], directory: Path, progress: Progress | None) -> dict:
    """How near translations lie in an encoder: retrieval of sentences and words, and word links, by layer."""
    encoder_run, text = inputs
    source, languages = spec.params["source"], spec.params["languages"]
    world, encode = _world(text), tokenization.WordEncoder(_tokenizer(text))
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


BUILDERS: dict[str, Callable[..., dict]] = {
    "text": build_text,
    "pairs": build_pairs,
    "links": build_links,
    "encoder": build_encoder,
    "transfer": build_transfer,
    "probe": build_probe,
}
