"""Runs of tasks: fine-tuning, and scores of the fine-tuned model in every language and setting."""

import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np

from xltlib import StudyError, evaluation
from xltlib.data import synthetic, task_data, tasks
from xltlib.data.task_data import language_of
from xltlib.data.tasks import LABELS
from xltlib.finetuning import salt, words
from xltlib.finetuning.case import Case
from xltlib.finetuning.methods import finetune, standard_loss, steps_for
from xltlib.finetuning.options import METHODS, TYPO_RATES, Options, first_task
from xltlib.finetuning.tasks import load_model, save_model
from xltlib.noise import typing as noise
from xltlib.pretraining.models import Encoder
from xltlib.pretraining.training import Progress
from xltlib.store import Result, Spec, load_scores, save_scores

LEXICON_EXAMPLES = 2_000  # training examples whose words SALT is asked to translate, at most


def build_transfer(spec: Spec, inputs: list[Result], directory: Path, progress: Progress | None) -> dict:
    """Fine-tune an encoder on the training examples of a method, then score the tests of every language.

    With an encoder for each target language, each is fine-tuned and scores its own; the source gets the mean.
    """
    text, *encoders = inputs
    source, languages = spec.params["source"], spec.params["languages"]
    if len(encoders) == 1:
        return _transfer(Case(spec.params, text, languages), encoders[0], directory, progress)
    targets, parts = [language for language in languages if language != source], []
    for language, encoder in zip(targets, encoders, strict=True):
        place = directory / language
        place.mkdir(exist_ok=True)
        values = _transfer(Case(spec.params, text, [source, language]), encoder, place, progress)
        parts.append((values, load_scores(place / "scores.npz")))
        shutil.rmtree(place)
    first = parts[0][1]
    of_source = {name: np.mean([scores[name] for _, scores in parts], axis=0)
                 for name in first if language_of(name) == source}  # fmt: skip
    scores = {name: values for _, own in parts for name, values in own.items()} | of_source
    save_scores(directory / "scores.npz", scores)
    recall = {name: row for values, _ in parts for name, row in values["recall"].items()
              if language_of(name) != source}  # fmt: skip
    return parts[0][0] | {"means": means(scores), "recall": recall}


def _transfer(case: Case, encoder_run: Result, directory: Path, progress: Progress | None) -> dict:
    params, entry = case.params, METHODS[case.method]
    train = case.examples("train", params["train_examples"])
    own = data = case.encode(train[case.source], training=True)
    if entry.changes == "examples":
        data = case.encode(entry.load()(case, train), training=True)
    # all methods get the updates that the source's own examples take, but for RS-DA as it was released
    longer = case.method == "rs_da" and case.options.updates == "released"
    steps = steps_for(data if longer else own, params["batch_size"], params["finetune_epochs"])
    name = f"{case.task} by {case.method} from {case.labels['objective']}, seed {case.seed}"
    encoder = case.encoder(encoder_run.file("config.json").parent)
    values: dict[str, Any] = {"left_out": data.left_out} if data.left_out else {}
    if entry.changes == "encoder":
        values[case.method] = entry.load()(case, encoder, directory, progress, name)
    loss = entry.load() if entry.changes == "loss" else standard_loss
    if case.method == "salt":
        twins, values["exchanged"] = salt.twins(case, encoder, data)
        loss = partial(loss, options=case.options, seed=case.seed, twins=twins)
    model = case.model(encoder, case.task)
    history = finetune(
        model, data, case.optimization(steps), params["batch_size"], case.seed, loss, directory, progress,
        name, lambda: case.development_score(model.eval()),
    )  # fmt: skip
    if "finetune_until" in params:
        steps = history[-1]["step"]
        looks = [row["score"] for row in history if "score" in row]
        values["source_development"] = max(looks, default=None)
    test, scores, recall = case.examples("test", params["test_examples"]), {}, {}
    for setting in case.settings(test):
        metrics, coded, predicted = case.scored(model, test[setting], setting)
        scores |= named(setting, metrics)
        if case.task != "qa":
            shares = evaluation.recall_by_class(coded.targets, predicted, len(LABELS[case.task]))
            recall[setting] = [round(float(x), 4) for x in shares]
    save_model(model, directory)
    save_scores(directory / "scores.npz", scores)
    return {
        "labels": case.labels, "means": means(scores), "recall": recall, "updates": steps, "history": history,
    } | values  # fmt: skip


def intermediate_task(
    case: Case, encoder: Encoder, directory: Path, progress: Progress | None, name: str
) -> dict[str, int]:
    """Fine-tune the encoder on another task in all languages first; the examples that each one had.

    Passes and learning rate are those of the task itself, without looks at its development examples; the
    output layer is left behind.
    """
    params, first, place = case.params, first_task(case.task), directory / "intermediate"
    examples, counts = _intermediate_examples(case, first)
    data = case.encode(examples, training=True, task=first)
    steps = steps_for(data, params["batch_size"], params["finetune_epochs"])
    place.mkdir(exist_ok=True)
    finetune(
        case.model(encoder, first), data, replace(case.optimization(steps), until=0.0),
        params["batch_size"], case.seed, standard_loss, place, progress, f"{first}, then {name}",
    )  # fmt: skip
    place.rmdir()
    return counts | {"updates": steps}


def _intermediate_examples(case: Case, task: str) -> tuple[list, dict[str, int]]:
    """Training examples of a task, not parallel, and how many of each language there are.

    StudyError where a real language has fewer than its budget.
    """
    if case.real:
        sets = task_data.examples(case.params, task, "train", sys.maxsize, translations=True)
        known = {name: sets[name] for name in case.languages if name in sets}
        sizes = {name: case.text.values["languages"][name]["documents"] for name in known}
    else:
        sizes = {name: synthetic.LANGUAGES[name].text_share for name in case.languages}
    examples, counts = [], budget(case.options, sizes, np.random.default_rng([case.seed, 31]))
    for number, (language, count) in enumerate(counts.items()):
        if case.real:
            own = known[language]
            if count > len(own):
                raise StudyError(f"{task} has {len(own)} training examples in {language}, not {count}")
            rows = np.random.default_rng([case.seed, 59, number]).permutation(len(own))[:count]
            examples += [own[row] for row in rows]
        elif count:
            alone = synthetic.World((language,), case.world.seed)
            examples += synthetic.task_examples(alone, task, count, "train", 1 + number)[language]
    return examples, counts


def budget(options: Options, sizes: Mapping[str, float], rng: np.random.Generator) -> dict[str, int]:
    """Intermediate examples by language: `n` each, or as many in all by the sizes of the languages' text."""
    if options.sampling == "balanced":
        return dict.fromkeys(sizes, options.n)
    shares = np.array(list(sizes.values()))
    counts = rng.multinomial(options.n * len(sizes), shares / shares.sum())
    return dict(zip(sizes, counts.tolist(), strict=True))


def build_lexicon(spec: Spec, inputs: list[Result], directory: Path, progress: Progress | None) -> dict:
    """How many of the word pairs that SALT distils from an encoder are translations.

    The true lexicon says so, or for real languages the dictionaries, in the languages that have one.
    """
    text, encoder_run = inputs
    case = Case(spec.params, text, spec.params["languages"])
    count = min(LEXICON_EXAMPLES, spec.params["train_examples"])
    data = case.encode(case.examples("train", count, "nli")[case.source], task="nli")
    if case.real:
        truth = {
            language: {word: [x.lower() for x in translations] for word, translations in table.items()}
            for language, table in case.dictionaries.items()
        }
    else:
        truth = words.translations(case.world, case.source, case.targets)
    encoder = case.encoder(encoder_run.file("config.json").parent)
    scores, counts = salt.lexicon_scores(
        encoder, data.ids, *case.vocabularies(), truth, case.options, case.precision
    )
    save_scores(directory / "scores.npz", scores)
    return {"labels": case.labels, "means": means(scores), "pairs": counts}


def build_evaluation(spec: Spec, inputs: list[Result], directory: Path, progress: Progress | None) -> dict:
    """Score a fine-tuned model in settings beyond the plain languages: in pairs of them, or under noise."""
    transfer, text = inputs
    case = Case(transfer.params, text, transfer.params["languages"])
    model = load_model(transfer.file("config.json").parent, case.task, transfer.params["pooling"])
    model = model.to(case.device)
    test = case.examples("test", spec.params["test_examples"])
    plain = {name: test[name] for name in case.languages if name in test}
    if spec.params["settings"] == "pairs":
        of_pairs = [name for name in plain if name in (spec.params.get("pair_languages") or plain)]
        settings = [(f"{a}|{b}", tasks.cross(plain[a], plain[b])) for a, b in permutations(of_pairs, 2)]
    else:
        settings = typo_settings(case.task, plain, *case.keyboards(plain))
    scores = {}
    for setting, examples in settings:
        scores |= named(setting, case.scored(model, examples, language_of(setting))[0])
    save_scores(directory / "scores.npz", scores)
    return {"labels": case.labels, "means": means(scores)}


def typo_settings(
    task: str, test: Mapping[str, Sequence], keyboards: Mapping[str, noise.Keyboard], seed: int
) -> Iterator[tuple[str, list]]:
    """Every language under every rate; a word hit at one rate is hit in the same way at a higher one."""
    for number, (language, examples) in enumerate(test.items()):
        for rate in TYPO_RATES:
            rng = np.random.default_rng([seed, 46, number])
            yield f"{language}@typo{rate:g}", noisy_examples(task, examples, rate, keyboards[language], rng)


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


def named(setting: str, metrics: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Scores by setting and metric: "near" for the first metric, "near#f1" for another."""
    return {f"{setting}#{metric}" if metric else setting: values for metric, values in metrics.items()}


def means(scores: Mapping[str, np.ndarray]) -> dict[str, float]:
    """The mean of each setting's scores."""
    return {name: round(float(values.mean()), 6) for name, values in scores.items()}
