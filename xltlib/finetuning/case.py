"""What fine-tuning by a method and its predictions need, for synthetic and for real languages."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from xltlib import StudyError, evaluation
from xltlib.data import real_data, synthetic, task_data, tokenization
from xltlib.data.tasks import SETS
from xltlib.data.text import keyboard_of, tokenizer_of, world_of
from xltlib.finetuning import words
from xltlib.finetuning.options import check_real, options
from xltlib.finetuning.tasks import Encoded, TaskModel, encode, predict, scores
from xltlib.noise import typing as noise
from xltlib.pretraining import models
from xltlib.pretraining.encoders import gold_lexicon
from xltlib.pretraining.models import Encoder
from xltlib.pretraining.training import Optimization
from xltlib.store import Result

DEVELOPMENT_EXAMPLES = 1_000  # of the source, that say when fine-tuning has come far enough


class Case:
    """A task, a method with its options, the languages, and their examples as a model reads them.

    text : the run of the languages' text, whose parameters hold too
    """

    def __init__(self, params: Mapping, text: Result, languages: Sequence[str]) -> None:
        self.params, self.text, self.labels = {**text.params, **params}, text, params["labels"]
        self.task, self.method, self.seed = (self.labels[name] for name in ("task", "method", "seed"))
        self.options = options(self.method, self.labels["method_options"])
        self.source, self.languages = params["source"], languages
        self.targets = [language for language in languages if language != self.source]
        self.real = self.params.get("data", "synthetic") == "real"
        self.device = models.device(self.params.get("device", "cpu"))
        self.precision = self.params.get("precision", "float32")
        if self.real:
            check_real(self.task, self.method, self.params)
        self.tokenizer = tokenizer_of(text)

    @cached_property
    def world(self) -> synthetic.World:
        """The synthetic world."""
        return world_of(self.text)

    # Examples

    def examples(self, split: str, count: int, task: str = "") -> dict[str, list]:
        """At most `count` examples of a split by setting, a language or "de@mlqa", in the study's order.

        StudyError where none of the case's languages has any. Of real training examples there are the
        source's alone, and for translate_train their translations.
        """
        translations = self.method == "translate_train"
        examples = task_data.examples(self.params, task or self.task, split, count, translations)
        if self.real:
            known = {name: task_data.language_of(name) in self.languages for name in examples}
            examples = {name: side for name, side in examples.items() if known[name]}
        if not examples:
            raise StudyError(f"{self.task} has no {split} examples in {', '.join(self.languages)}")
        return examples

    def encode(self, examples: Sequence, training: bool = False, task: str = "") -> Encoded:
        """The examples as a model reads them; where languages are real, no longer than the study allows."""
        task = task or self.task
        return encode(self.tokenizer, task, examples, self.limit(task), training)

    def limit(self, task: str) -> int | None:
        """The most subwords of a sequence; None where languages are synthetic: none is long."""
        return self.params["question_length" if task == "qa" else "max_length"] if self.real else None

    # Models

    def encoder(self, directory: Path) -> Encoder:
        """A pre-trained encoder, where the study wants it; StudyError where sequences are too long for it."""
        encoder, limit = models.load(directory).to(self.device), self.limit(self.task)
        if self.params.get("compile"):
            models.compiled(encoder)
        if limit and encoder.longest and limit > encoder.longest:
            name = "question_length" if self.task == "qa" else "max_length"
            raise StudyError(f"{name} {limit}: the encoder reads at most {encoder.longest} subwords")
        return encoder

    def model(self, encoder: Encoder, task: str) -> TaskModel:
        """The encoder with a new output layer."""
        pooling, freeze = self.params["pooling"], self.params["freeze_embeddings"]
        return TaskModel(encoder, task, self.seed, pooling, freeze).to(self.device)

    def optimization(self, steps: int) -> Optimization:
        """How weights are updated."""
        until = self.params.get("finetune_until", 0.0)
        return Optimization(
            steps, self.params["finetune_lr"], precision=self.precision, seed=self.seed, until=until
        )

    # Scores

    def scored(self, model: TaskModel, examples: Sequence, setting: str) -> tuple[dict, Encoded, np.ndarray]:
        """Scores by metric, the examples as the model reads them, and what it predicts."""
        coded = self.encode(examples)
        predicted = predict(model, coded, precision=self.precision)
        return scores(self.task, coded, predicted, examples, *self.comparison(setting)), coded, predicted

    def development_score(self, model: TaskModel) -> float:
        """The model's mean score (accuracy; F1 in qa) on development examples of the source."""
        metrics, *_ = self.scored(model, self._development, self.source)
        return float(metrics["f1" if self.task == "qa" else ""].mean())

    @cached_property
    def _development(self) -> list:
        return self.examples("dev", DEVELOPMENT_EXAMPLES)[self.source]

    def settings(self, test: Mapping[str, Sequence]) -> list[str]:
        """The settings that are tested, by language in the study's order."""
        return [
            name for language in self.languages for name in test if task_data.language_of(name) == language
        ]

    def comparison(self, setting: str) -> tuple[str, str]:
        """Language and style in which the answers of a setting are compared: as its set's own script does."""
        language, _, name = setting.partition("@")
        if not self.real or self.task != "qa":
            return "en", "squad"
        if not name:  # the first set that is tested on
            named = (entry.partition("/")[0] for entry in self.params["test_sets"])
            name = next(name for name in named if SETS[name].task == self.task)
        return language, evaluation.OFFICIAL_STYLE.get(name, "squad")

    # Words

    @cached_property
    def neighbours(self) -> dict[str, list[str]]:
        """The lists of RS-DA, as they are or without foreign words.

        In synthetic languages every word that the source lacks is foreign; in real ones see
        `noise.foreign_words`.
        """
        if self.real:
            lists = real_data.neighbour_lists(self.params["neighbour_lists"])
        else:
            lists = words.neighbours(self.world, self.source, self.options.foreign)
        if self.options.neighbours == "all":
            return lists
        own = set(lists)
        if self.real:
            near = {other for others in lists.values() for other in others}
            own = near - noise.foreign_words(near, self.word_counts(), self.source)
        return noise.without_foreign(lists, own)

    @cached_property
    def dictionaries(self) -> dict[str, dict[str, list[str]]]:
        """The translations that code-switching may use, by target language."""
        if not self.real:
            return {name: gold_lexicon(self.world, self.source, name) for name in self.targets}
        return real_data.dictionaries(self.params["dictionaries"], self.source, self.targets)

    def word_counts(self) -> dict[str, Counter[str]]:
        """How often the text of each language has each of its words, in lower case."""
        pieces = words.Pieces(self.tokenizer)
        return {name: words.word_counts(own, pieces) for name, own in self._documents(self.languages)}

    def vocabularies(self) -> tuple[words.Pieces, dict[str, words.Vocabulary]]:
        """What the tokenizer's subwords are, and the words that the text of each language has."""
        pieces, languages = words.Pieces(self.tokenizer), (self.source, *self.targets)
        return pieces, {name: words.vocabulary(own, pieces) for name, own in self._documents(languages)}

    def _documents(self, languages: Iterable[str]) -> Iterator[tuple[str, list[np.ndarray]]]:
        """The text of each language as ids."""
        with np.load(self.text.file("documents.npz"), allow_pickle=False) as arrays:
            for name in languages:
                yield name, tokenization.unpack(arrays[f"{name}/values"], arrays[f"{name}/ends"])

    def keyboards(self, languages: Iterable[str]) -> tuple[dict[str, noise.Keyboard], int]:
        """The keyboards that typing errors are made on, and their seed."""
        if self.real:
            return {name: noise.keyboard_for(name) for name in languages}, 0
        return {name: keyboard_of(self.world, name) for name in languages}, self.world.seed
