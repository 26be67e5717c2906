"""Runs of tasks: fine-tuning, and scores of the fine-tuned model in every language and setting."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import numpy as np

from xltlib import StudyError, evaluation
from xltlib.data import tasks
from xltlib.data.task_data import language_of
from xltlib.data.tasks import LABELS
from xltlib.finetuning import methods as finetuning
from xltlib.finetuning import robust, salt, task_model
from xltlib.finetuning.options import TYPO_RATES, Options, first_task
from xltlib.finetuning.task_case import Case
from xltlib.finetuning.task_model import TaskModel
from xltlib.noise import typing as noise
from xltlib.pretraining.models import Encoder
from xltlib.pretraining.training import Progress
from xltlib.store import Result, Spec, load_scores, save_scores

POINTS = 4  # at which selection looks at development examples: each half pass of two
LEXICON_EXAMPLES = 2_000  # training examples whose words SALT is asked to translate, at most


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
                 for name in found[0] if language_of(name) == source}  # fmt: skip
    scores = {name: values for each in found for name, values in each.items()} | of_source
    save_scores(directory / "scores.npz", scores)
    recall = {name: values for each in told for name, values in each["recall"].items()
              if language_of(name) != source}  # fmt: skip
    return told[0] | {"means": means(scores), "recall": recall}


def _transfer(
    spec: Spec, text: Result, encoder_run: Result, directory: Path, languages: Sequence[str],
    progress: Progress | None,
) -> dict:  # fmt: skip
    params, labels, case = spec.params, spec.params["labels"], Case(spec.params, text, languages)
    train = case.examples("train", params["train_examples"])
    data = case.encode(case.training_examples(train), training=True)
    changed = case.method in ("translate_train", "rs_da", "code_switch")
    own = case.encode(train[case.source], training=True) if changed else data
    # all methods get the updates that the source's own examples take, but for RS-DA as it was released
    longer = case.method == "rs_da" and case.chosen.updates == "released"
    steps = finetuning.steps_for(data if longer else own, params["batch_size"], params["finetune_epochs"])
    name = f"{case.task} by {case.method} from {labels['objective']}, seed {case.seed}"
    encoder = case.encoder(encoder_run.file("config.json").parent)
    told: dict = {"left_out": data.left_out} if data.left_out else {}
    twins: Sequence[np.ndarray] = ()
    if case.method == "salt":
        twins, told["exchanged"] = case.twins(encoder, data)
    if case.method == "intermediate":
        told["intermediate"] = intermediate_task(case, encoder, directory, progress, name)
    model = case.model(encoder, case.task)
    loss = finetuning.loss_of(case.method, case.chosen, case.seed, twins, data.special)
    points = POINTS if case.chosen.select != "last" else 0
    dev = _development(case) if points else {}
    history = finetuning.finetune(
        model, data, case.optimization(steps), params["batch_size"], case.seed, loss, directory, progress,
        name, points, lambda: case.development_score(model.eval()),
    )  # fmt: skip
    if "finetune_until" in params:
        steps = history[-1]["step"]
        told["source_development"] = max((row["score"] for row in history if "score" in row), default=None)
    best = _select(case, model, directory, dev) if points else {}
    told |= {"selected": best} if best else {}
    test = case.examples("test", params["test_examples"])
    scores, recall = {}, {}
    for setting in case.settings(test):
        if best:
            finetuning.return_to(model, finetuning.point(directory, best[language_of(setting)]))
        found, coded, predicted = case.scored(model, test[setting], setting)
        scores |= named(setting, found)
        if case.task != "qa":
            table = evaluation.confusion(coded.targets, predicted, len(LABELS[case.task]))
            recall[setting] = [round(float(x), 4) for x in evaluation.recall_by_class(table)]
    if best:
        finetuning.return_to(model, finetuning.point(directory, best[case.source]))
        for number in range(1, POINTS + 1):
            finetuning.point(directory, number).unlink()
    task_model.save(model, directory)
    save_scores(directory / "scores.npz", scores)
    return {
        "labels": labels, "means": means(scores), "recall": recall, "updates": steps, "history": history,
    } | told  # fmt: skip


def _development(case: Case) -> dict[str, list]:
    """The development examples that choose a point on the way: the source's; an oracle's in all languages."""
    dev, oracle = case.examples("dev", case.params["test_examples"]), case.chosen.select == "oracle"
    choosing = case.languages if oracle else [case.source]
    lacking = [name for name in choosing if name not in dev]
    if lacking:
        raise StudyError(f"select={case.chosen.select}: no development examples in {', '.join(lacking)}")
    return {name: dev[name] for name in choosing}


def _select(case: Case, model: TaskModel, directory: Path, dev: Mapping[str, Sequence]) -> dict[str, int]:
    """The best point on the way for each language, on development examples; of equally good ones the last.

    "source": the source's examples choose for all. "oracle": each language's own do, which no transfer has.
    """
    means: dict[str, list[float]] = {name: [] for name in dev}
    for number in range(1, POINTS + 1):
        finetuning.return_to(model, finetuning.point(directory, number))
        for name, found in means.items():
            found.append(float(case.scored(model, dev[name], name)[0][""].mean()))
    best = {name: POINTS - int(np.argmax(found[::-1])) for name, found in means.items()}
    return {name: best.get(name, best[case.source]) for name in case.languages}


def intermediate_task(
    case: Case, encoder: Encoder, directory: Path, progress: Progress | None, name: str
) -> dict[str, int]:
    """Fine-tune the encoder on another task in all languages first; the examples that each one had.

    Examples are not parallel. Passes and learning rate are those of the task itself, without looks at its
    development examples; the output layer is left behind.
    """
    params, first = case.params, first_task(case.chosen, case.task)
    counts = _budget(case.chosen, case.text_sizes(first), np.random.default_rng([case.seed, 31]))
    data = case.encode(case.drawn(first, counts), training=True, task=first)
    steps = finetuning.steps_for(data, params["batch_size"], params["finetune_epochs"])
    (directory / "intermediate").mkdir(exist_ok=True)
    finetuning.finetune(
        case.model(encoder, first), data, replace(case.optimization(steps), until=0.0),
        params["batch_size"], case.seed,
        directory=directory / "intermediate", progress=progress, name=f"{first}, then {name}",
    )  # fmt: skip
    (directory / "intermediate").rmdir()
    return counts | {"updates": steps}


def _budget(chosen: Options, sizes: Mapping[str, float], rng: np.random.Generator) -> dict[str, int]:
    """Intermediate examples by language: `n` each, or as many in all by the sizes of the languages' text."""
    if chosen.sampling == "balanced":
        return dict.fromkeys(sizes, chosen.n)
    shares = np.array(list(sizes.values()))
    drawn = rng.multinomial(chosen.n * len(sizes), shares / shares.sum())
    return dict(zip(sizes, drawn.tolist(), strict=True))


def build_lexicon(spec: Spec, inputs: list[Result], directory: Path, progress: Progress | None) -> dict:
    """How many of the word pairs that SALT distils from an encoder are translations.

    The true lexicon says so, or for real languages the dictionaries, in the languages that have one.
    """
    text, encoder_run = inputs
    case = Case(spec.params, text, spec.params["languages"])
    count = min(LEXICON_EXAMPLES, spec.params["train_examples"])
    data = case.encode(case.examples("train", count, "nli")[case.source], task="nli")
    pieces, words = case.vocabularies()
    if case.real:
        truth = {
            language: {word: [x.lower() for x in translations] for word, translations in table.items()}
            for language, table in case.dictionaries.items()
        }
    else:
        truth = robust.translations(case.world, case.source, case.targets)
    encoder = case.encoder(encoder_run.file("config.json").parent)
    scores, counts = salt.lexicon_scores(encoder, data.ids, pieces, words, truth, case.augmentation())
    save_scores(directory / "scores.npz", scores)
    return {"labels": case.labels, "means": means(scores), "pairs": counts}


def build_evaluation(spec: Spec, inputs: list[Result], directory: Path, progress: Progress | None) -> dict:
    """Score a fine-tuned model in settings beyond the plain languages: in pairs of them, or under noise."""
    transfer, text = inputs
    case = Case(transfer.params, text, transfer.params["languages"])
    model = task_model.load(transfer.file("config.json").parent, case.task, transfer.params["pooling"])
    model = model.to(case.device)
    test = case.examples("test", spec.params["test_examples"])
    chosen = {name: test[name] for name in case.languages if name in test}
    if spec.params["settings"] == "pairs":
        of_pairs = spec.params.get("pair_languages") or chosen
        settings = _pairs({name: examples for name, examples in chosen.items() if name in of_pairs})
    else:
        settings = typo_settings(case.task, chosen, *case.keyboards(chosen))
    scores = {}
    for setting, examples in settings:
        scores |= named(setting, case.scored(model, examples, language_of(setting))[0])
    save_scores(directory / "scores.npz", scores)
    return {"labels": case.labels, "means": means(scores)}


def _pairs(test: Mapping[str, Sequence]) -> Iterator[tuple[str, list]]:
    """The first sentence in one language, the second in another: all ordered pairs."""
    for first, second in permutations(test, 2):
        yield f"{first}|{second}", tasks.cross(test[first], test[second])


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


def named(setting: str, found: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Scores by setting and metric: "near" for the first metric, "near#f1" for another."""
    return {f"{setting}#{metric}" if metric else setting: values for metric, values in found.items()}


def means(scores: Mapping[str, np.ndarray]) -> dict[str, float]:
    """The mean of each setting's scores."""
    return {name: round(float(values.mean()), 6) for name, values in scores.items()}
