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
from xltlib.data.formats import LABELS
from xltlib.data.task_data import language_of
from xltlib.finetuning import salt, words
from xltlib.finetuning.case import Case
from xltlib.finetuning.methods import finetune, standard_loss, steps_for
from xltlib.finetuning.options import METHODS, TYPO_RATES, first_task
from xltlib.finetuning.tasks import load_model, save_model
from xltlib.noise import typing as noise
from xltlib.pretraining.models import Encoder
from xltlib.pretraining.training import Progress
from xltlib.store import Result, Spec, save_scores

DEVELOPMENT_EXAMPLES = 1_000  # of the source, that say when fine-tuning has come far enough
LEXICON_EXAMPLES = 2_000  # training examples whose words SALT is asked to translate, at most

Scores = dict[str, np.ndarray]  # by setting and metric: "near" for the first metric, "near#f1" for another


def build_transfer(spec: Spec, inputs: list[Result], directory: Path, progress: Progress | None) -> dict:
    """Fine-tune an encoder on the training examples of a method, then score the tests of every language.

    With an encoder for each target language, each is fine-tuned and scores its own; the source gets the mean.
    """
    text, *encoders = inputs
    if len(encoders) == 1:
        values, scores = _transfer(Case(spec.params, text), encoders[0], directory, progress)
    else:
        source, parts, scores = spec.params["source"], [], {}
        targets = (language for language in spec.params["languages"] if language != source)
        for language, encoder in zip(targets, encoders, strict=True):
            place = directory / language
            place.mkdir(exist_ok=True)
            parts.append(_transfer(Case(spec.params, text, [source, language]), encoder, place, progress))
            shutil.rmtree(place)
            scores |= parts[-1][1]
        for name in (name for name in parts[0][1] if language_of(name) == source):
            scores[name] = np.mean([part[name] for _, part in parts], axis=0)
        values = parts[0][0]
        recall = [own["recall"].items() for own, _ in parts]
        values["recall"] = {x: row for own in recall for x, row in own if language_of(x) != source}
    return {**values, **saved(scores, directory)}


def _transfer(
    case: Case, encoder_run: Result, directory: Path, progress: Progress | None
) -> tuple[dict[str, Any], Scores]:
    """What a run of one encoder tells beside its scores, and these; the model is left in the folder."""
    params, entry, size = case.params, METHODS[case.method], case.params["batch_size"]
    train = case.examples("train", params["train_examples"])
    own = data = case.encode(train[case.source], training=True)
    if entry.changes == "examples":
        data = case.encode(entry.load()(case, train), training=True)
    # all methods get the updates that the source's own examples take, but for RS-DA as it was released
    longer = case.method == "rs_da" and case.options.updates == "released"
    steps = steps_for(data if longer else own, size, params["finetune_epochs"])
    name = f"{case.task} by {case.method} from {case.labels['objective']}, seed {case.seed}"
    encoder = case.encoder(encoder_run)
    values: dict[str, Any] = {"left_out": data.left_out} if data.left_out else {}
    if entry.changes == "encoder":
        values[case.method] = entry.load()(case, encoder, directory, progress, name)
    loss = entry.load() if entry.changes == "loss" else standard_loss
    if case.method == "salt":
        twins, values["exchanged"] = salt.augment(
            encoder, data.ids, *case.vocabularies(), case.source, case.targets, case.options,
            np.random.default_rng([case.seed, 29]), data.second, case.precision,
        )  # fmt: skip
        loss = partial(loss, options=case.options, seed=case.seed, twins=twins)
    model, until = case.model(encoder), params.get("finetune_until", 0.0)
    development = case.examples("dev", DEVELOPMENT_EXAMPLES)[case.source] if until else []

    def look() -> float:
        """The mean score (accuracy; F1 in qa) on development examples of the source."""
        scores, *_ = case.scored(model, development, case.source)
        return float(scores[f"{case.source}#f1" if case.task == "qa" else case.source].mean())

    opt = case.optimization(steps, until)
    history = finetune(model, data, opt, size, case.seed, loss, directory, progress, name, look)
    if until:
        values["source_development"] = max((row["score"] for row in history if "score" in row), default=None)
    test, scores, recall = case.examples("test", params["test_examples"]), {}, {}
    for setting in (x for language in case.languages for x in test if language_of(x) == language):
        metrics, coded, predicted = case.scored(model, test[setting], setting)
        scores |= metrics
        if case.task != "qa":
            shares = evaluation.recall_by_class(coded.targets, predicted, len(LABELS[case.task]))
            recall[setting] = [round(float(x), 4) for x in shares]
    save_model(model, directory)
    values |= {"labels": case.labels, "recall": recall, "updates": history[-1]["step"], "history": history}
    return values, scores


def intermediate_task(
    case: Case, encoder: Encoder, directory: Path, progress: Progress | None, name: str
) -> dict[str, int]:
    """Fine-tune the encoder on another task in all languages first; the examples that each one had.

    Training examples are not parallel. Passes and learning rate are those of the task itself, without looks
    at its development examples; the output layer is left behind. StudyError where a real language has fewer
    examples than its budget.
    """
    first = Case(case.params, case.text, case.languages, first_task(case.task))
    if case.real:
        sets = task_data.examples(case.params, first.task, "train", sys.maxsize, translations=True)
        known = {name: sets[name] for name in case.languages if name in sets}
        sizes = {name: case.text.values["languages"][name]["documents"] for name in known}
    else:
        sizes = {name: synthetic.LANGUAGES[name].text_share for name in case.languages}
    examples, counts = [], dict.fromkeys(sizes, case.options.n)
    if case.options.sampling == "random":  # as many in all, by the sizes of the languages' text
        rng, shares = np.random.default_rng([case.seed, 31]), np.array(list(sizes.values()))
        drawn = rng.multinomial(sum(counts.values()), shares / shares.sum())
        counts = dict(zip(sizes, drawn.tolist(), strict=True))
    for number, (language, count) in enumerate(counts.items()):
        if case.real:
            own = known[language]
            if count > len(own):
                raise StudyError(f"{first.task} has {len(own)} training examples in {language}, not {count}")
            rows = np.random.default_rng([case.seed, 59, number]).permutation(len(own))[:count]
            examples += [own[row] for row in rows]
        elif count:
            alone = synthetic.World((language,), case.world.seed)
            examples += synthetic.task_examples(alone, first.task, count, "train", 1 + number)[language]
    data, size = first.encode(examples, training=True), case.params["batch_size"]
    steps = steps_for(data, size, case.params["finetune_epochs"])
    model, opt, name = first.model(encoder), case.optimization(steps), f"{first.task}, then {name}"
    place = directory / "intermediate"  # for checkpoints of its own
    place.mkdir(exist_ok=True)
    finetune(model, data, opt, size, case.seed, standard_loss, place, progress, name)
    place.rmdir()
    return counts | {"updates": steps}


def build_lexicon(spec: Spec, inputs: list[Result], directory: Path, progress: Progress | None) -> dict:
    """How many of the word pairs that SALT distils from an encoder are translations.

    The true lexicon says so, or for real languages the dictionaries, in the languages that have one.
    """
    text, encoder_run = inputs
    case = Case(spec.params, text, task="nli")
    count = min(LEXICON_EXAMPLES, spec.params["train_examples"])
    data = case.encode(case.examples("train", count)[case.source])
    if case.real:
        truth = {
            language: {word: [x.lower() for x in translations] for word, translations in table.items()}
            for language, table in case.dictionaries.items()
        }
    else:
        truth = words.translations(case.world, case.source, case.targets)
    given = *case.vocabularies(), truth, case.options, case.precision
    scores, counts = salt.lexicon_scores(case.encoder(encoder_run), data.ids, *given)
    return {"labels": case.labels, **saved(scores, directory), "pairs": counts}


def build_evaluation(spec: Spec, inputs: list[Result], directory: Path, progress: Progress | None) -> dict:
    """Score a fine-tuned model in settings beyond the plain languages: in pairs of them, or under noise."""
    transfer, text = inputs
    case = Case(transfer.params, text)
    model = load_model(transfer.file("config.json").parent, case.task, transfer.params["pooling"])
    model = model.to(case.device)
    test = case.examples("test", spec.params["test_examples"])
    plain = {name: own for name, own in test.items() if name in case.languages}
    if spec.params["settings"] == "pairs":
        of_pairs = [name for name in plain if name in (spec.params.get("pair_languages") or plain)]
        settings = [(f"{a}|{b}", tasks.cross(plain[a], plain[b])) for a, b in permutations(of_pairs, 2)]
    else:
        settings = typo_settings(case, plain)
    scores: Scores = {}
    for setting, examples in settings:
        scores |= case.scored(model, examples, setting)[0]
    return {"labels": case.labels, **saved(scores, directory)}


def typo_settings(case: Case, test: Mapping[str, Sequence]) -> Iterator[tuple[str, list]]:
    """Every language with typing errors in both texts at every rate; words of an answer stay.

    A word hit at one rate is hit in the same way at a higher one.
    """
    seed, keyboards = 0 if case.real else case.world.seed, {name: case.keyboard(name) for name in test}
    for number, (language, examples) in enumerate(test.items()):
        for rate in TYPO_RATES:
            given = rate, keyboards[language], np.random.default_rng([seed, 46, number])
            if case.task == "qa":
                questions = noise.typo_many([e.question for e in examples], *given)
                contexts = (noise.noisy_span(e.context, e.answers, *given) for e in examples)
                noisy = zip(examples, questions, contexts, strict=True)
                changed = [replace(e, question=q, context=c, answers=a) for e, q, (c, a) in noisy]
            else:
                first = noise.typo_many([e.text_a for e in examples], *given)
                second = noise.typo_many([e.text_b for e in examples], *given)
                noisy = zip(examples, first, second, strict=True)
                changed = [replace(e, text_a=a, text_b=b) for e, a, b in noisy]
            yield f"{language}@typo{rate:g}", changed


def saved(scores: Scores, directory: Path) -> dict[str, dict[str, float]]:
    """What a run tells of its scores, their means, once they are written."""
    save_scores(directory / "scores.npz", scores)
    return {"means": {name: round(float(values.mean()), 6) for name, values in scores.items()}}
