"""Runs of encoder-decoders: span corruption with and without noise, then questions answered in writing."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from xltlib import encoder_builders, finetuning, models, seq2seq, synthetic_tasks, task_builders
from xltlib.encoding import Encoded
from xltlib.evaluation import qa_scores
from xltlib.files import save_scores
from xltlib.pretraining import Recipe
from xltlib.records import SpanExample
from xltlib.results import Result, Spec
from xltlib.text_builders import keyboard_of, tokenizer_of, world_of
from xltlib.tokenization import SEP, PreTrainedTokenizerFast, encode_texts
from xltlib.training import Optimization, Progress, fit


def build_seq2seq(spec: Spec, inputs: list[Result], directory: Path, progress: Progress | None) -> dict:
    """Pre-train an encoder-decoder from scratch by span corruption of documents, as the run's options say."""
    params, (text,) = spec.params, inputs
    chosen = seq2seq.Options(**params["options"])
    shape = {name: params[name] for name in ("hidden_size", "num_layers", "num_heads")}
    model = seq2seq.tiny(text.values["vocab_size"], seed=params["seed"], **shape)
    recipe = Recipe(params["batch_size"], chosen.mask_rate, params["seed"])
    loss = seq2seq.span_loss(model, _documents(text), tokenizer_of(text), recipe, chosen)
    opt = Optimization(params["pretrain_steps"], params["pretrain_lr"])
    name = f"span corruption, noise {chosen.noise}, seed {params['seed']}"
    history = fit(model, loss, opt, directory, progress, name)
    model.save(directory)
    return {"parameters": models.parameter_count(model), "history": history}


def _documents(text: Result) -> seq2seq.Corpus:
    pools, weights = encoder_builders.document_pools(text)
    world = world_of(text)
    return seq2seq.Corpus(pools, weights, [keyboard_of(world, name) for name in text.values["languages"]])


def build_answers(spec: Spec, inputs: list[Result], directory: Path, progress: Progress | None) -> dict:
    """Fine-tune an encoder-decoder on the source's questions, then score its answers in every language.

    Answers are scored on clean text and under typing errors in questions and passages, at every rate.
    """
    params, labels = spec.params, spec.params["labels"]
    text, start = inputs
    tokenizer, world = tokenizer_of(text), world_of(text)
    model = seq2seq.load(start.file("config.json").parent)
    train = synthetic_tasks.task_set(world, "qa", params["train_examples"], "train", 0).examples
    test = synthetic_tasks.task_set(world, "qa", params["test_examples"], "test", 0).examples
    if params["freeze_embeddings"]:
        model.encoder.embeddings().requires_grad_(False)
    data = encode(tokenizer, train[params["source"]], model.end)
    steps = finetuning.steps_for(data, params["batch_size"], params["finetune_epochs"])
    opt, seed = Optimization(steps, params["finetune_lr"]), labels["seed"]
    name = f"answers by {labels['method']} from {labels['objective']}, seed {seed}"
    history = finetuning.finetune(
        model, data, opt, params["batch_size"], seed, _loss, directory, progress, name
    )
    chosen = {name: test[name] for name in params["languages"]}
    keyboards = {name: keyboard_of(world, name) for name in chosen}
    noisy, scores = task_builders.typo_settings("qa", chosen, keyboards, world.seed), {}
    for setting, examples in [*chosen.items(), *noisy]:
        scores |= task_builders.named(setting, answer_scores(model, tokenizer, examples))
    save_scores(directory / "scores.npz", scores)
    told = {"labels": labels, "means": task_builders.means(scores)}
    return told | {"updates": steps, "history": history}


def _loss(model: seq2seq.EncoderDecoder, batch: finetuning.Batch) -> dict[str, Tensor]:
    return seq2seq.target_loss(model, batch.ids, None, batch.targets)


def encode(tokenizer: PreTrainedTokenizerFast, examples: Sequence[SpanExample], end: int) -> Encoded:
    """Questions in the form of pre-training: passage [SEP] question sentinel end -> sentinel answer end."""
    contexts, questions, answers = (
        encode_texts(tokenizer, texts)[0]
        for texts in zip(*((e.context, e.question, e.answers[0][1]) for e in examples), strict=True)
    )
    sources = [np.array([*c, SEP, *q, end + 1, end]) for c, q in zip(contexts, questions, strict=True)]
    targets = np.full((len(examples), max(map(len, answers)) + 2), seq2seq.IGNORED)
    for row, answer in zip(targets, answers, strict=True):
        row[: len(answer) + 2] = [end + 1, *answer, end]
    return Encoded(sources, targets)


def answer_scores(
    model: seq2seq.EncoderDecoder, tokenizer: PreTrainedTokenizerFast, examples: Sequence[SpanExample]
) -> dict[str, np.ndarray]:
    """Per-example scores (N,) of the answers that a model writes: {"": exact match, "f1": F1}."""
    written = seq2seq.write(model, encode(tokenizer, examples, model.end).ids)
    pieces = seq2seq.pieces_of(tokenizer)
    texts = {e.id: seq2seq.text_of(ids, pieces) for e, ids in zip(examples, written, strict=True)}
    found = qa_scores(examples, texts)
    return {"": found["exact_match"], "f1": found["f1"]}
