"""A task, a method and the languages of a run: what fine-tuning and predictions need of them."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property

import numpy as np

from xltlib import StudyError
from xltlib.data import real_data, synthetic, task_data, tokenization
from xltlib.data.languages import keyboard_of
from xltlib.data.tasks import SETS
from xltlib.data.text import tokenizer_of, world_of
from xltlib.evaluation import OFFICIAL_STYLE
from xltlib.finetuning import words
from xltlib.finetuning.options import options
from xltlib.finetuning.tasks import Encoded, TaskModel, encode, named, predict, scores
from xltlib.noise import typing as noise
from xltlib.pretraining import models
from xltlib.pretraining.encoders import gold_lexicon
from xltlib.pretraining.models import Encoder
from xltlib.pretraining.training import Optimization
from xltlib.store import Result


class Case:
    """A task, a method with its options, the languages, and their examples as a model reads them.

    text : the run of the languages' text, whose parameters hold too
    languages, task : those of the run, where no others are named
    """

    def __init__(self, params: Mapping, text: Result, languages: Sequence[str] = (), task: str = "") -> None:
        self.params, self.text, self.labels = {**text.params, **params}, text, params["labels"]
        self.method, self.seed = self.labels["method"], self.labels["seed"]
        self.options = options(self.method, self.labels["method_options"])
        self.task, self.source = task or self.labels["task"], params["source"]
        self.languages = languages or params["languages"]
        self.targets = [language for language in self.languages if language != self.source]
        self.real = self.params.get("data", "synthetic") == "real"
        self.limit_name = "question_length" if self.task == "qa" else "max_length"
        self.limit = self.params[self.limit_name] if self.real else None  # subwords of a sequence
        self.device = models.device(self.params.get("device", "cpu"))
        self.precision = self.params.get("precision", "float32")
        self.tokenizer = tokenizer_of(text)

    @cached_property
    def world(self) -> synthetic.World:
        """The synthetic world."""
        return world_of(self.text)

    def examples(self, split: str, count: int) -> dict[str, list]:
        """At most `count` examples of a split by setting, a language or "de@mlqa".

        StudyError where none of the case's languages has any. Of real training examples there are the
        source's alone, and for translate_train their translations.
        """
        translations = self.method == "translate_train"
        examples = task_data.examples(self.params, self.task, split, count, translations)
        if self.real:
            examples = {x: own for x, own in examples.items() if task_data.language_of(x) in self.languages}
        if not examples:
            raise StudyError(f"{self.task} has no {split} examples in {', '.join(self.languages)}")
        return examples

    def encode(self, examples: Sequence, training: bool = False) -> Encoded:
        """The examples as a model reads them; where languages are real, no longer than the study allows."""
        return encode(self.tokenizer, self.task, examples, self.limit, training)

    def scored(self, model: TaskModel, examples: Sequence, setting: str) -> tuple[dict, Encoded, np.ndarray]:
        """Scores by setting and metric, the examples as the model reads them, and what it predicts.

        The answers of real questions are compared as the script of their set does.
        """
        coded, language, style = self.encode(examples), "en", "squad"
        predicted = predict(model, coded, precision=self.precision)
        if self.real and self.task == "qa":
            language, _, further = setting.partition("@")
            first_set, _ = task_data.sets(self.params, "qa", "test_sets")[0]
            style = OFFICIAL_STYLE.get(further if further in SETS else first_set, "squad")
        metrics = scores(self.task, coded, predicted, examples, language, style)
        return named(setting, metrics), coded, predicted

    # Models

    def encoder(self, encoder_run: Result) -> Encoder:
        """A pre-trained encoder, where the study wants it; StudyError where sequences are too long for it."""
        encoder = models.load(encoder_run.file("config.json").parent).to(self.device)
        if self.params.get("compile"):
            models.compiled(encoder)
        if encoder.longest and self.limit and self.limit > encoder.longest:
            longest = f"the encoder reads at most {encoder.longest} subwords"
            raise StudyError(f"{self.limit_name} {self.limit}: {longest}")
        return encoder

    def model(self, encoder: Encoder) -> TaskModel:
        """The encoder with a new output layer."""
        pooling, freeze = self.params["pooling"], self.params["freeze_embeddings"]
        return TaskModel(encoder, self.task, self.seed, pooling, freeze).to(self.device)

    def optimization(self, steps: int, until: float = 0.0) -> Optimization:
        """How weights are updated."""
        lr, precision = self.params["finetune_lr"], self.precision
        return Optimization(steps, lr, precision=precision, seed=self.seed, until=until)

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
            listed = {other for near in lists.values() for other in near}
            pieces = words.Pieces(self.tokenizer)
            counts = {
                language: Counter(pieces.words(ids, words.find_words(ids, pieces)))
                for language, ids in self._documents(self.languages)
            }
            own = listed - noise.foreign_words(listed, counts, self.source)
        # the released English lists hold foreign words too, for example man -> hombre
        return {word: [other for other in near if other in own] for word, near in lists.items()}

    @cached_property
    def dictionaries(self) -> dict[str, dict[str, list[str]]]:
        """The translations that code-switching may use, by target language."""
        if not self.real:
            return {name: gold_lexicon(self.world, self.source, name) for name in self.targets}
        return real_data.dictionaries(self.params["dictionaries"], self.source, self.targets)

    def vocabularies(self) -> tuple[words.Pieces, dict[str, words.Vocabulary]]:
        """What the tokenizer's subwords are, and the words that the text of each language has."""
        pieces, languages = words.Pieces(self.tokenizer), (self.source, *self.targets)
        return pieces, {name: words.vocabulary(ids, pieces) for name, ids in self._documents(languages)}

    def _documents(self, languages: Iterable[str]) -> Iterator[tuple[str, list[np.ndarray]]]:
        """The text of each language as ids."""
        with np.load(self.text.file("documents.npz"), allow_pickle=False) as arrays:
            for name in languages:
                yield name, tokenization.unpack(arrays, name)

    def keyboards(self, languages: Iterable[str]) -> tuple[dict[str, noise.Keyboard], int]:
        """The keyboards that typing errors are made on, and their seed."""
        if self.real:
            return {name: noise.keyboard_for(name) for name in languages}, 0
        return {name: keyboard_of(self.world, name) for name in languages}, self.world.seed
