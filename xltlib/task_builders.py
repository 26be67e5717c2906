"""Runs of tasks: fine-tuning, and scores of the fine-tuned model in every language and setting."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import permutations
from pathlib import Path

import numpy as np

from xltlib import (
    evaluation,
    finetuning,
    models,
    noise,
    robust,
    salt,
    synthetic,
    synthetic_tasks,
    tokenization,
)
from xltlib.encoder_builders import gold_lexicon
from xltlib.encoding import Encoded, encode
from xltlib.files import load_scores, save_scores
from xltlib.models import Encoder
from xltlib.params import StudyError
from xltlib.records import LABELS
from xltlib.results import Result, Spec
from xltlib.text_builders import keyboard_of, tokenizer_of, world_of
from xltlib.training import Optimization, Progress

TYPO_RATES = (0.1, 0.2, 0.3)  # share of words with a typing error
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
                 for name in found[0] if name.partition("#")[0] == source}  # fmt: skip
    scores = {name: values for each in found for name, values in each.items()} | of_source
    save_scores(directory / "scores.npz", scores)
    recall = {name: values for each in told for name, values in each["recall"].items() if name != source}
    return told[0] | {"means": means(scores), "recall": recall}


class _Case:
    """What fine-tuning by a method and its predictions need: labels, options, world and tokenizer."""

    def __init__(self, params: Mapping, text: Result, languages: Sequence[str]) -> None:
        self.params, self.text, self.labels = params, text, params["labels"]
        self.task, self.method, self.seed = (self.labels[name] for name in ("task", "method", "seed"))
        self.chosen = finetuning.options(self.method, self.labels["method_options"])
        if self.chosen.vote and self.task not in LABELS:
            raise StudyError(f"vote: labels are voted on, answers are not: leave it out for {self.task}")
        self.source, self.languages = params["source"], languages
        self.targets = [language for language in languages if language != self.source]
        self.world, self.tokenizer = world_of(text), tokenizer_of(text)

    def examples(self, split: str, count: int, task: str = "") -> dict[str, list]:
        """`count` examples of a split in every language."""
        return synthetic_tasks.task_set(self.world, task or self.task, count, split, 0).examples

    @cached_property
    def neighbours(self) -> dict[str, list[str]]:
        """The lists of RS-DA."""
        lists = robust.neighbours(self.world, self.source, self.chosen.foreign)
        return noise.without_foreign(lists, set(lists)) if self.chosen.neighbours == "no_foreign" else lists

    def training_examples(self, train: Mapping[str, Sequence]) -> list:
        """What the method trains on: the source's examples, or what it makes of them."""
        chosen, own, rng = self.chosen, train[self.source], np.random.default_rng([self.seed, 19])
        if self.method == "translate_train":
            return finetuning.translated(train, self.source, self.seed)
        if self.method == "rs_da":
            copies = chosen.copies or robust.COPIES[self.task]
            return robust.rs_da_examples(own, copies, self.neighbours, rng)
        if self.method == "code_switch":
            lexicon = {name: gold_lexicon(self.world, self.source, name) for name in self.targets}
            passes = self.params["finetune_epochs"]  # as many copies, so that every pass has its own
            return robust.switched_examples(own, passes, lexicon, chosen.ratio, chosen.cross, rng)
        return list(own)

    def augmentation(self) -> salt.Augmentation:
        """How SALT finds substitutions."""
        names = ("threshold", "synonym_threshold", "synonyms", "restrict", "hide", "rate")
        return salt.Augmentation(**{name: getattr(self.chosen, name) for name in names})

    def vocabularies(self) -> tuple[salt.Pieces, dict[str, salt.Vocabulary]]:
        """The words that the text of each language has."""
        pieces, found = salt.Pieces(self.tokenizer), {}
        with np.load(self.text.file("documents.npz"), allow_pickle=False) as arrays:
            for name in (self.source, *self.targets):
                documents = tokenization.unpack(arrays[f"{name}/values"], arrays[f"{name}/ends"])
                found[name] = salt.vocabulary(documents, pieces)
        return pieces, found

    def twins(self, encoder: Encoder, data: Encoded) -> tuple[list[np.ndarray], dict[str, float]]:
        """SALT's code-switched twin of each training example, and shares of words exchanged."""
        rng = np.random.default_rng([self.seed, 29])
        pieces, words = self.vocabularies()
        return salt.augment(
            encoder, data.ids, pieces, words, self.source, self.targets, self.augmentation(), rng
        )

    def model(self, encoder: Encoder, task: str) -> finetuning.TaskModel:
        """The encoder with a new output layer."""
        options = self.params["pooling"], self.params["freeze_embeddings"]
        return finetuning.TaskModel(encoder, task, self.seed, *options)

    def predict(self, model: finetuning.TaskModel, coded: Encoded, examples: Sequence) -> np.ndarray:
        """Labels or answers; by vote over perturbed copies where the options say so."""
        if not self.chosen.vote:
            return finetuning.predict(model, coded)
        rng, copies = np.random.default_rng([self.seed, 53]), []
        if self.method == "rs_da":
            drawn = robust.rs_da_examples(examples, self.chosen.vote, self.neighbours, rng)
            copies = [encode(self.tokenizer, self.task, drawn[i :: self.chosen.vote])
                      for i in range(self.chosen.vote)]  # fmt: skip
        return finetuning.predict_by_vote(model, coded, self.chosen, rng, copies)

    def scored(self, model: finetuning.TaskModel, examples: Sequence) -> tuple[dict, Encoded, np.ndarray]:
        """Scores by metric, the examples as the model reads them, and what it predicts."""
        coded = encode(self.tokenizer, self.task, examples)
        predicted = self.predict(model, coded, examples)
        return finetuning.scores(self.task, coded, predicted, examples), coded, predicted


def _transfer(
    spec: Spec, text: Result, encoder_run: Result, directory: Path, languages: Sequence[str],
    progress: Progress | None,
) -> dict:  # fmt: skip
    params, labels, case = spec.params, spec.params["labels"], _Case(spec.params, text, languages)
    train = case.examples("train", params["train_examples"])
    data = encode(case.tokenizer, case.task, case.training_examples(train))
    changed = case.method in ("translate_train", "rs_da", "code_switch")
    own = encode(case.tokenizer, case.task, train[case.source]) if changed else data
    # all methods get the updates that the source's own examples take, but for RS-DA as it was released
    longer = case.method == "rs_da" and case.chosen.updates == "released"
    steps = finetuning.steps_for(data if longer else own, params["batch_size"], params["finetune_epochs"])
    name = f"{case.task} by {case.method} from {labels['objective']}, seed {case.seed}"
    encoder, told = models.load(encoder_run.file("config.json").parent), {}
    twins: Sequence[np.ndarray] = ()
    if case.method == "salt":
        twins, told["exchanged"] = case.twins(encoder, data)
    if case.method == "intermediate":
        told["intermediate"] = _intermediate(case, encoder, directory, progress, name)
    model = case.model(encoder, case.task)
    loss = finetuning.loss_of(case.method, case.chosen, case.seed, twins)
    points = POINTS if case.chosen.select != "last" else 0
    history = finetuning.finetune(
        model, data, Optimization(steps, params["finetune_lr"]), params["batch_size"], case.seed, loss,
        directory, progress, name, points,
    )  # fmt: skip
    best = _select(case, model, directory) if points else {}
    told |= {"selected": best} if best else {}
    test = case.examples("test", params["test_examples"])
    scores, recall = {}, {}
    for language in languages:
        if best:
            finetuning.return_to(model, finetuning.point(directory, best[language]))
        found, coded, predicted = case.scored(model, test[language])
        scores |= named(language, found)
        if case.task != "qa":
            table = evaluation.confusion(coded.targets, predicted, len(LABELS[case.task]))
            recall[language] = [round(float(x), 4) for x in evaluation.recall_by_class(table)]
    if best:
        finetuning.return_to(model, finetuning.point(directory, best[case.source]))
        for number in range(1, POINTS + 1):
            finetuning.point(directory, number).unlink()
    finetuning.save(model, directory)
    save_scores(directory / "scores.npz", scores)
    return {
        "labels": labels, "means": means(scores), "recall": recall, "updates": steps, "history": history,
    } | told  # fmt: skip


def _select(case: _Case, model: finetuning.TaskModel, directory: Path) -> dict[str, int]:
    """The best point on the way for each language, on development examples; of equally good ones the last.

    "source": the source's examples choose for all. "oracle": each language's own do, which no transfer has.
    """
    oracle = case.chosen.select == "oracle"
    dev = case.examples("dev", case.params["test_examples"])
    means: dict[str, list[float]] = {name: [] for name in (case.languages if oracle else [case.source])}
    for number in range(1, POINTS + 1):
        finetuning.return_to(model, finetuning.point(directory, number))
        for name, found in means.items():
            found.append(float(case.scored(model, dev[name])[0][""].mean()))
    best = {name: POINTS - int(np.argmax(found[::-1])) for name, found in means.items()}
    return {name: best.get(name, best[case.source]) for name in case.languages}


def _intermediate(
    case: _Case, encoder: Encoder, directory: Path, progress: Progress | None, name: str
) -> dict[str, int]:
    """Fine-tune the encoder on another task in all languages first; the examples that each one had.

    Examples are not parallel. Passes and learning rate are those of the task itself; the output layer is
    left behind.
    """
    chosen, params = case.chosen, case.params
    first = {"auto": "nli" if case.task == "paraphrase" else "paraphrase"}.get(chosen.first, chosen.first)
    counts = _budget(chosen, case.languages, np.random.default_rng([case.seed, 31]))
    examples = []
    for number, (language, count) in enumerate(counts.items()):
        if count:
            alone = synthetic.World((language,), case.world.seed)
            drawn = synthetic_tasks.task_set(alone, first, count, "train", 1 + number)
            examples += drawn.examples[language]
    data = encode(case.tokenizer, first, examples)
    steps = finetuning.steps_for(data, params["batch_size"], params["finetune_epochs"])
    (directory / "intermediate").mkdir(exist_ok=True)
    finetuning.finetune(
        case.model(encoder, first), data, Optimization(steps, params["finetune_lr"]), params["batch_size"],
        case.seed, directory=directory / "intermediate", progress=progress, name=f"{first}, then {name}",
    )  # fmt: skip
    (directory / "intermediate").rmdir()
    return counts | {"updates": steps}


def _budget(chosen: finetuning.Options, languages: Sequence[str], rng: np.random.Generator) -> dict[str, int]:
    """Intermediate examples by language: `n` each, or as many in all by the languages' shares of the text."""
    if chosen.sampling == "balanced":
        return dict.fromkeys(languages, chosen.n)
    shares = np.array([synthetic.LANGUAGES[language].text_share for language in languages])
    drawn = rng.multinomial(chosen.n * len(languages), shares / shares.sum())
    return dict(zip(languages, drawn.tolist(), strict=True))


def build_lexicon(spec: Spec, inputs: list[Result], directory: Path, progress: Progress | None) -> dict:
    """How many of the word pairs that SALT distils from an encoder are translations by the true lexicon."""
    text, encoder_run = inputs
    case = _Case(spec.params, text, spec.params["languages"])
    count = min(LEXICON_EXAMPLES, spec.params["train_examples"])
    data = encode(case.tokenizer, "nli", case.examples("train", count, "nli")[case.source])
    pieces, words = case.vocabularies()
    truth = robust.translations(case.world, case.source, case.targets)
    encoder = models.load(encoder_run.file("config.json").parent)
    scores, counts = salt.lexicon_scores(encoder, data.ids, pieces, words, truth, case.augmentation())
    save_scores(directory / "scores.npz", scores)
    return {"labels": case.labels, "means": means(scores), "pairs": counts}


def build_evaluation(spec: Spec, inputs: list[Result], directory: Path, progress: Progress | None) -> dict:
    """Score a fine-tuned model in settings beyond the plain languages: in pairs of them, or under noise."""
    transfer, text = inputs
    case = _Case(transfer.params, text, transfer.params["languages"])
    model = finetuning.load(transfer.file("config.json").parent, case.task, transfer.params["pooling"])
    test = case.examples("test", spec.params["test_examples"])
    chosen = {name: test[name] for name in case.languages}
    pairs = spec.params["settings"] == "pairs"
    scores = {}
    for setting, examples in _pairs(chosen) if pairs else typo_settings(case.task, chosen, case.world):
        scores |= named(setting, case.scored(model, examples)[0])
    save_scores(directory / "scores.npz", scores)
    return {"labels": case.labels, "means": means(scores)}


def _pairs(test: Mapping[str, Sequence]) -> Iterator[tuple[str, list]]:
    """The first sentence in one language, the second in another: all ordered pairs."""
    for first, second in permutations(test, 2):
        both = zip(test[first], test[second], strict=True)
        yield f"{first}|{second}", [replace(a, text_b=b.text_b) for a, b in both]


def typo_settings(
    task: str, test: Mapping[str, Sequence], world: synthetic.World
) -> Iterator[tuple[str, list]]:
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


def named(setting: str, found: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Scores by setting and metric: "near" for the first metric, "near#f1" for another."""
    return {f"{setting}#{metric}" if metric else setting: values for metric, values in found.items()}


def means(scores: Mapping[str, np.ndarray]) -> dict[str, float]:
    """The mean of each setting's scores."""
    return {name: round(float(values.mean()), 6) for name, values in scores.items()}
