"""A task, a method and the languages of a run: what fine-tuning and predictions need of them."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import chain

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


def comparison(params: Mapping, setting: str) -> tuple[str, str]:
    """The language and the style of `normalize_answer` by which answers are compared in a real setting.

    The style is that of the set's own script: of a further set ("de@mlqa") or of the study's first one.
    """
    language, _, further = setting.partition("@")
    first_set, _ = task_data.sets(params, "qa", "test_sets")[0]
    return language, OFFICIAL_STYLE.get(further if further in SETS else first_set, "squad")


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
        """Scores by setting and metric, the examples as the model reads them, and what it predicts."""
        coded = self.encode(examples)
        predicted = predict(model, coded, precision=self.precision)
        compared = comparison(self.params, setting) if self.real and self.task == "qa" else ()
        return named(setting, scores(self.task, coded, predicted, examples, *compared)), coded, predicted

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

        In synthetic languages every word that the source lacks is foreign; in real ones (as man -> hombre, in
        the released English lists) see `noise.foreign_words`.
        """
        kept = self.options.neighbours == "all"
        if not self.real:
            return words.neighbours(self.world, self.source, self.options.foreign if kept else 0.0)
        lists = real_data.neighbour_lists(self.params["neighbour_lists"])
        if kept:
            return lists
        pieces = words.Pieces(self.tokenizer)
        counts = {
            language: Counter(pieces.words(ids, words.find_words(ids, pieces)))
            for language, ids in self._documents(self.languages)
        }
        foreign = noise.foreign_words(set(chain(*lists.values())), counts, self.source)
        return {word: [other for other in near if other not in foreign] for word, near in lists.items()}

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

    def keyboard(self, language: str) -> noise.Keyboard:
        """The keyboard that typing errors in a language are made on."""
        return noise.keyboard_for(language) if self.real else keyboard_of(self.world, language)
