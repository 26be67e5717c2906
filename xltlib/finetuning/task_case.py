"""What fine-tuning by a method and its predictions need, for synthetic and for real languages."""

import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from xltlib import StudyError, evaluation
from xltlib.data import real_data, synthetic, task_data, tasks, tokenization
from xltlib.data.tasks import LABELS
from xltlib.data.text import keyboard_of, tokenizer_of, world_of
from xltlib.finetuning import methods as finetuning
from xltlib.finetuning import prediction, robust, salt
from xltlib.finetuning.encoding import Encoded, encode
from xltlib.finetuning.options import check_real, options
from xltlib.finetuning.task_model import TaskModel
from xltlib.noise import typing as noise
from xltlib.pretraining import models
from xltlib.pretraining.encoders import gold_lexicon
from xltlib.pretraining.models import Encoder
from xltlib.pretraining.training import Optimization
from xltlib.store import Result

DEVELOPMENT_EXAMPLES = 1_000  # of the source, that say when fine-tuning has come far enough


class Case:
    """What fine-tuning by a method and its predictions need: labels, options, examples and tokenizer."""

    def __init__(self, params: Mapping, text: Result, languages: Sequence[str]) -> None:
        self.params, self.text, self.labels = {**text.params, **params}, text, params["labels"]
        self.task, self.method, self.seed = (self.labels[name] for name in ("task", "method", "seed"))
        self.chosen = options(self.method, self.labels["method_options"])
        if self.chosen.vote and self.task not in LABELS:
            raise StudyError(f"vote: labels are voted on, answers are not: leave it out for {self.task}")
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

    def examples(self, split: str, count: int, task: str = "") -> dict[str, list]:
        """At most `count` examples of a split by setting, a language or "de@mlqa", in the study's order.

        StudyError where none of the case's languages has any. Of real training examples there are the
        source's alone, and for translate_train their translations.
        """
        translations = self.method == "translate_train"
        found = task_data.examples(self.params, task or self.task, split, count, translations)
        if self.real:
            found = {
                setting: side
                for setting, side in found.items()
                if task_data.language_of(setting) in self.languages
            }
        if not found:
            raise StudyError(f"{self.task} has no {split} examples in {', '.join(self.languages)}")
        return found

    def encode(self, examples: Sequence, training: bool = False, task: str = "") -> Encoded:
        """The examples as a model reads them; where languages are real, no longer than the study allows."""
        task = task or self.task
        return encode(self.tokenizer, task, examples, self.limit(task), training)

    def limit(self, task: str) -> int | None:
        """The most subwords of a sequence; None where languages are synthetic: none is long."""
        return self.params["question_length" if task == "qa" else "max_length"] if self.real else None

    def encoder(self, directory: Path) -> Encoder:
        """A pre-trained encoder, where the study wants it; StudyError where sequences are too long for it."""
        encoder, limit = models.load(directory).to(self.device), self.limit(self.task)
        if self.params.get("compile"):
            models.compiled(encoder)
        if limit and encoder.longest and limit > encoder.longest:
            name = "question_length" if self.task == "qa" else "max_length"
            raise StudyError(f"{name} {limit}: the encoder reads at most {encoder.longest} subwords")
        return encoder

    def optimization(self, steps: int) -> Optimization:
        """How weights are updated."""
        until = self.params.get("finetune_until", 0.0)
        return Optimization(
            steps, self.params["finetune_lr"], precision=self.precision, seed=self.seed, until=until
        )

    def development_score(self, model: TaskModel) -> float:
        """The model's mean score (accuracy; F1 in qa) on development examples of the source."""
        scores, *_ = self.scored(model, self._development, self.source)
        return float(scores["f1" if self.task == "qa" else ""].mean())

    @cached_property
    def _development(self) -> list:
        return self.examples("dev", DEVELOPMENT_EXAMPLES)[self.source]

    @cached_property
    def neighbours(self) -> dict[str, list[str]]:
        """The lists of RS-DA, as they are or without foreign words.

        In synthetic languages every word that the source lacks is foreign; in real ones see
        `noise.foreign_words`.
        """
        if self.real:
            lists = real_data.neighbour_lists(self.params["neighbour_lists"])
        else:
            lists = robust.neighbours(self.world, self.source, self.chosen.foreign)
        if self.chosen.neighbours == "all":
            return lists
        own = set(lists)
        if self.real:
            words = {other for near in lists.values() for other in near}
            own = words - noise.foreign_words(words, self.word_counts(), self.source)
        return noise.without_foreign(lists, own)

    def word_counts(self) -> dict[str, Counter[str]]:
        """How often the text of each language has each of its words, in lower case."""
        pieces, counts = salt.Pieces(self.tokenizer), {}
        with np.load(self.text.file("documents.npz"), allow_pickle=False) as arrays:
            for name in self.languages:
                documents = tokenization.unpack(arrays[f"{name}/values"], arrays[f"{name}/ends"])
                counts[name] = salt.word_counts(documents, pieces)
        return counts

    @cached_property
    def translation_errors(self) -> dict[str, dict[str, list[str]]]:
        """What the words of each target language are mistranslated as; nothing for perfect translations."""
        if self.chosen.translations == "perfect":
            return {}
        return {name: robust.mistranslations(self.world, name) for name in self.targets}

    @cached_property
    def dictionaries(self) -> dict[str, dict[str, list[str]]]:
        """The translations that code-switching may use, by target language."""
        if not self.real:
            return {name: gold_lexicon(self.world, self.source, name) for name in self.targets}
        return real_data.dictionaries(self.params["dictionaries"], self.source, self.targets)

    def training_examples(self, train: Mapping[str, Sequence]) -> list:
        """What the method trains on: the source's examples, or what it makes of them."""
        chosen, own, rng = self.chosen, train[self.source], np.random.default_rng([self.seed, 19])
        if self.method == "translate_train":
            return finetuning.translated(train, self.source, self.seed, self.translation_errors)
        if self.method == "rs_da":
            copies = chosen.copies or robust.COPIES[self.task]
            return robust.rs_da_examples(own, copies, self.neighbours, rng)
        if self.method == "code_switch":
            passes = self.params["finetune_epochs"]  # as many copies, so that every pass has its own
            return robust.switched_examples(own, passes, self.dictionaries, chosen.ratio, chosen.cross, rng)
        return list(own)

    def text_sizes(self, task: str) -> dict[str, float]:
        """The languages with training examples of a task, and how much text each one has."""
        if not self.real:
            return {name: synthetic.LANGUAGES[name].text_share for name in self.languages}
        documents = self.text.values["languages"]
        return {name: documents[name]["documents"] for name in self._trained(task)}

    def _trained(self, task: str) -> dict[str, list]:
        """All real training examples of a task in the case's languages that have some; read once."""
        if task not in self._read:
            found = task_data.examples(self.params, task, "train", sys.maxsize, translations=True)
            self._read[task] = {name: found[name] for name in self.languages if name in found}
        return self._read[task]

    @cached_property
    def _read(self) -> dict[str, dict[str, list]]:
        return {}

    def drawn(self, task: str, counts: Mapping[str, int]) -> list:
        """Training examples of a task, so many in each language, not parallel."""
        examples, trained = [], self._trained(task) if self.real else {}
        for number, (language, count) in enumerate(counts.items()):
            if self.real:
                there = trained[language]
                if count > len(there):
                    raise StudyError(f"{task} has {len(there)} training examples in {language}, not {count}")
                rows = np.random.default_rng([self.seed, 59, number]).permutation(len(there))[:count]
                examples += [there[row] for row in rows]
            elif count:
                alone = synthetic.World((language,), self.world.seed)
                made = synthetic.task_examples(alone, task, count, "train", 1 + number)
                examples += made[language]
        return examples

    def augmentation(self) -> salt.Augmentation:
        """How SALT finds substitutions."""
        names = ("threshold", "synonym_threshold", "synonyms", "restrict", "hide", "rate")
        return salt.Augmentation(
            **{name: getattr(self.chosen, name) for name in names}, precision=self.precision
        )

    def vocabularies(self, languages: Sequence[str] = ()) -> tuple[salt.Pieces, dict[str, salt.Vocabulary]]:
        """The words that the text of each language has; of all of the case's languages if none are named."""
        pieces, found = salt.Pieces(self.tokenizer), {}
        with np.load(self.text.file("documents.npz"), allow_pickle=False) as arrays:
            for name in languages or (self.source, *self.targets):
                documents = tokenization.unpack(arrays[f"{name}/values"], arrays[f"{name}/ends"])
                found[name] = salt.vocabulary(documents, pieces)
        return pieces, found

    def twins(self, encoder: Encoder, data: Encoded) -> tuple[list[np.ndarray], dict[str, float]]:
        """SALT's code-switched twin of each training example, and shares of words exchanged."""
        rng = np.random.default_rng([self.seed, 29])
        pieces, words = self.vocabularies()
        return salt.augment(
            encoder, data.ids, pieces, words, self.source, self.targets, self.augmentation(), rng, data.second
        )

    def model(self, encoder: Encoder, task: str) -> TaskModel:
        """The encoder with a new output layer."""
        options = self.params["pooling"], self.params["freeze_embeddings"]
        return TaskModel(encoder, task, self.seed, *options).to(self.device)

    def predict(self, model: TaskModel, coded: Encoded, examples: Sequence) -> np.ndarray:
        """Labels or answers; by vote over perturbed copies where the options say so."""
        if not self.chosen.vote:
            return prediction.predict(model, coded, precision=self.precision)
        rng, copies = np.random.default_rng([self.seed, 53]), []
        if self.method == "rs_da":
            drawn = robust.rs_da_examples(examples, self.chosen.vote, self.neighbours, rng)
            copies = [self.encode(drawn[i :: self.chosen.vote]) for i in range(self.chosen.vote)]
        return finetuning.predict_by_vote(model, coded, self.chosen, rng, copies, self.precision)

    def scored(self, model: TaskModel, examples: Sequence, setting: str) -> tuple[dict, Encoded, np.ndarray]:
        """Scores by metric, the examples as the model reads them, and what it predicts."""
        coded = self.encode(examples)
        predicted = self.predict(model, coded, examples)
        found = prediction.scores(self.task, coded, predicted, examples, *self.comparison(setting))
        return found, coded, predicted

    def settings(self, test: Mapping[str, Sequence]) -> list[str]:
        """The settings that are tested, by language in the study's order."""
        return [
            name for language in self.languages for name in test if task_data.language_of(name) == language
        ]

    def keyboards(self, languages: Iterable[str]) -> tuple[dict[str, noise.Keyboard], int]:
        """The keyboards that typing errors are made on, and their seed."""
        if self.real:
            return {name: noise.keyboard_for(name) for name in languages}, 0
        return {name: keyboard_of(self.world, name) for name in languages}, self.world.seed

    def comparison(self, setting: str) -> tuple[str, str]:
        """Language and style in which the answers of a setting are compared: as its set's own script does."""
        language, _, name = setting.partition("@")
        if not self.real or self.task != "qa":
            return "en", "squad"
        if not name:  # the first set that is tested on
            named = (entry.partition("/")[0] for entry in self.params["test_sets"])
            name = next(name for name in named if tasks.SETS[name].task == self.task)
        return language, evaluation.OFFICIAL_STYLE.get(name, "squad")
