"""Runs of tasks: fine-tuning, and scores of the fine-tuned model in every language and setting."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import numpy as np

from xltlib import evaluation, finetuning, models, noise, synthetic, synthetic_tasks
from xltlib.files import load_scores, save_scores
from xltlib.records import LABELS
from xltlib.results import Result, Spec
from xltlib.text_builders import keyboard_of, tokenizer_of, world_of
from xltlib.training import Optimization, Progress

TYPO_RATES = (0.1, 0.2, 0.3)  # share of words with a typing error


def build_transfer(spec: Spec, inputs: list[Result], directory: Path, progress: Progress | None) -> dict:
    """Fine-tune an encoder on the training examples of a method, then score the tests of every language.

    With an encoder for each target language, each is fine-tuned and scores its own; the source gets the mean.
    """
    text, *encoders = inputs
    if len(encoders) == 1:
        return _transfer(spec, text, encoders[0], directory, spec.params["languages"], progress)
    source = spec.params["source"]
    targets = [language for language in spec.params["languages"] if language != source]
    told, found = [], []
    for language, encoder in zip(targets, encoders, strict=True):
        (directory / language).mkdir(exist_ok=True)
        told.append(_transfer(spec, text, encoder, directory / language, [source, language], progress))
        found.append(load_scores(directory / language / "scores.npz"))
        shutil.rmtree(directory / language)
    of_source = {name: np.mean([each[name] for each in found], axis=0)
                 for name in found[0] if name.partition("#")[0] == source}  # fmt: skip
    scores = {name: values for each in found for name, values in each.items()} | of_source
    save_scores(directory / "scores.npz", scores)
    recall = {name: values for each in told for name, values in each["recall"].items() if name != source}
    return told[0] | {"means": _means(scores), "recall": recall}


def _transfer(
    spec: Spec, text: Result, encoder_run: Result, directory: Path, languages: Sequence[str],
    progress: Progress | None,
) -> dict:  # fmt: skip
    params, labels = spec.params, spec.params["labels"]
    task, seed, tokenizer, world = labels["task"], labels["seed"], tokenizer_of(text), world_of(text)
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
    finetuning.save(model, directory)
    scores, recall = {}, {}
    for language in languages:
        found, coded, predicted = _scored(model, tokenizer, test[language])
        scores |= _named(language, found)
        if task != "qa":
            table = evaluation.confusion(coded.targets, predicted, len(LABELS[task]))
            recall[language] = [round(float(x), 4) for x in evaluation.recall_by_class(table)]
    save_scores(directory / "scores.npz", scores)
    return {
        "labels": labels,
        "means": _means(scores),
        "recall": recall,
        "updates": steps,
        "history": history,
    }


def build_evaluation(spec: Spec, inputs: list[Result], directory: Path, progress: Progress | None) -> dict:
    """Score a fine-tuned model in settings beyond the plain languages: in pairs of them, or under noise."""
    params, labels = spec.params, spec.params["labels"]
    transfer, text = inputs
    world, task = world_of(text), labels["task"]
    model = finetuning.load(transfer.file("config.json").parent, task, transfer.params["pooling"])
    test = synthetic_tasks.task_set(world, task, params["test_examples"], "test", 0).examples
    chosen = {name: test[name] for name in transfer.params["languages"]}
    settings = _pairs(chosen) if params["settings"] == "pairs" else _typos(task, chosen, world)
    scores = {}
    for setting, examples in settings:
        scores |= _named(setting, _scored(model, tokenizer_of(text), examples)[0])
    save_scores(directory / "scores.npz", scores)
    return {"labels": labels, "means": _means(scores)}


def _pairs(test: Mapping[str, Sequence]) -> Iterator[tuple[str, list]]:
    """The first sentence in one language, the second in another: all ordered pairs."""
    for first, second in permutations(test, 2):
        both = zip(test[first], test[second], strict=True)
        yield f"{first}|{second}", [replace(a, text_b=b.text_b) for a, b in both]


def _typos(task: str, test: Mapping[str, Sequence], world: synthetic.World) -> Iterator[tuple[str, list]]:
    """Every language under every rate; a word hit at one rate is hit in the same way at a higher one."""
    for number, (language, examples) in enumerate(test.items()):
        keyboard = keyboard_of(world, language)
        for rate in TYPO_RATES:
            rng = np.random.default_rng([world.seed, 46, number])
            yield f"{language}@typo{rate:g}", noisy_examples(task, examples, rate, keyboard, rng)


def noisy_examples(
    task: str, examples: Sequence, rate: float, keyboard: noise.Keyboard, rng: np.random.Generator
) -> list:
    """Examples with typing errors in both texts; words of an answer stay, and its offset is mapped."""
    if task == "qa":
        questions = noise.typo_many([e.question for e in examples], rate, keyboard, rng)
        contexts = [noise.noisy_span(e.context, e.answers, rate, keyboard, rng) for e in examples]
        changed = zip(examples, questions, contexts, strict=True)
        return [replace(e, question=q, context=c, answers=a) for e, q, (c, a) in changed]
    sides = [noise.typo_many(texts, rate, keyboard, rng)
             for texts in ([e.text_a for e in examples], [e.text_b for e in examples])]  # fmt: skip
    return [replace(e, text_a=a, text_b=b) for e, a, b in zip(examples, *sides, strict=True)]


def _scored(model, tokenizer, examples: Sequence) -> tuple[dict, finetuning.Encoded, np.ndarray]:
    coded = finetuning.encode(tokenizer, model.task, examples)
    predicted = finetuning.predict(model, coded)
    return finetuning.scores(model.task, coded, predicted, examples), coded, predicted


def _named(setting: str, found: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Scores by setting and metric: "near" for the first metric, "near#f1" for another."""
    return {f"{setting}#{metric}" if metric else setting: values for metric, values in found.items()}


def _means(scores: Mapping[str, np.ndarray]) -> dict[str, float]:
    return {name: round(float(values.mean()), 6) for name, values in scores.items()}
