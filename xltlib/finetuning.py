"""Fine-tuning on the source language, and prediction everywhere: classification of pairs, extractive QA.

Shapes: B batch, T tokens, H hidden, C classes, N examples.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from xltlib import models
from xltlib.evaluation import qa_scores
from xltlib.models import Encoder
from xltlib.params import StudyError
from xltlib.records import LABELS, PairExample, SpanExample
from xltlib.settings import parse_options
from xltlib.tokenization import PreTrainedTokenizerFast, encode_texts, join
from xltlib.training import Optimization, Progress, epoch_batches, fit

METHODS = ("standard", "translate_train")
VERSIONS = {"standard": 1, "translate_train": 1}
OUTPUT = "output.safetensors"
LONGEST_ANSWER = 30  # subwords, as in the published SQuAD scripts


@dataclass(frozen=True)
class Options:
    """What may differ between two runs of one method; a run's label names what is not the default."""


def options(method: str, text: str = "") -> Options:
    """The options of a method, written "threshold=0.7,synonyms=false"; StudyError for one that it lacks."""
    return parse_options(Options, text, f"method {method}")


@dataclass(frozen=True)
class Encoded:
    """Examples as a model reads them: ids of one sequence each, and what is to be predicted.

    targets: (N,) labels, or (N, 2) first and last subword of the answer. context: for QA the index of the
    first subword of the context; spans: for QA the characters (start, end) of each context subword.
    """

    ids: list[np.ndarray]
    targets: np.ndarray
    context: np.ndarray | None = None
    spans: list[list[tuple[int, int]]] | None = None


def encode(tokenizer: PreTrainedTokenizerFast, task: str, examples: Sequence) -> Encoded:
    """[CLS] first [SEP] second [SEP] for every example; StudyError names one that cannot be encoded."""
    if task in LABELS:
        return _encode_pairs(tokenizer, task, examples)
    if task == "qa":
        return _encode_spans(tokenizer, examples)
    raise StudyError(f"unknown task {task!r}; known: {', '.join([*LABELS, 'qa'])}")


def _encode_pairs(tokenizer: PreTrainedTokenizerFast, task: str, examples: Sequence[PairExample]) -> Encoded:
    classes = len(LABELS[task])
    wrong = next((e for e in examples if not 0 <= e.label < classes), None)
    if wrong:
        raise StudyError(f"{task}, example {wrong.id}: label {wrong.label} is not one of 0..{classes - 1}")
    first, _ = encode_texts(tokenizer, [e.text_a for e in examples])
    second, _ = encode_texts(tokenizer, [e.text_b for e in examples])
    return Encoded(
        [join(a, b) for a, b in zip(first, second, strict=True)], np.array([e.label for e in examples])
    )


def _encode_spans(tokenizer: PreTrainedTokenizerFast, examples: Sequence[SpanExample]) -> Encoded:
    questions, _ = encode_texts(tokenizer, [e.question for e in examples])
    contexts, spans = encode_texts(tokenizer, [e.context for e in examples])
    starts = np.array([len(q) + 2 for q in questions])
    targets = [_answer_span(e, span) for e, span in zip(examples, spans, strict=True)]
    ids = [join(q, c) for q, c in zip(questions, contexts, strict=True)]
    return Encoded(ids, np.array(targets).reshape(-1, 2) + starts[:, None], starts, spans)


def _answer_span(example: SpanExample, spans: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """First and last subword of the first answer."""
    start, text = example.answers[0]
    inside = [i for i, (a, b) in enumerate(spans) if a < start + len(text) and b > start]
    if not inside:
        raise StudyError(
            f"qa, example {example.id}: no subword of the context lies in the answer {text!r} at {start}"
        )
    return inside[0], inside[-1]


class TaskModel(nn.Module):
    """An encoder with a new output layer; `pooling` says what a pair is classified by (mean or [CLS])."""

    def __init__(
        self, encoder: Encoder, task: str, seed: int, pooling: str = "mean", freeze_embeddings: bool = True
    ):
        super().__init__()
        self.encoder, self.task, self.pooling = encoder, task, pooling
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.output = _output(encoder.hidden_size, task)
        encoder.lm.requires_grad_(False)  # the language model's own head is not trained here
        encoder.lm.base_model.requires_grad_(True)
        if freeze_embeddings:
            encoder.embeddings().requires_grad_(False)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, inputs_embeds: Tensor | None = None
    ):
        """Logits: (B, C) for pairs; (B, T, 2) for QA, first and last subword."""
        states = self.encoder.states(input_ids, attention_mask, inputs_embeds)
        if self.task == "qa":
            return self.output(states)
        return self.output(states[:, 0] if self.pooling == "cls" else states.mean(1))


def _output(hidden: int, task: str) -> nn.Module:
    if task == "qa":
        return nn.Linear(hidden, 2)
    return nn.Sequential(nn.Linear(hidden, hidden), nn.Tanh(), nn.Linear(hidden, len(LABELS[task])))


def task_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy of labels (B,), or of first and last subwords (B, 2) averaged."""
    if targets.ndim == 1:
        return F.cross_entropy(logits, targets)
    return (
        F.cross_entropy(logits[..., 0], targets[:, 0]) + F.cross_entropy(logits[..., 1], targets[:, 1])
    ) / 2


def training_examples(method: str, examples: Mapping[str, Sequence], source: str, seed: int) -> list:
    """What a method trains on: the source's examples, or each of them in a language drawn at random.

    "translate_train" has as many examples as "standard"; translations are perfect in the synthetic languages.
    """
    if method == "standard":
        return list(examples[source])
    if method == "translate_train":
        languages = list(examples)
        drawn = np.random.default_rng([seed, 13]).integers(len(languages), size=len(examples[source]))
        return [examples[languages[language]][i] for i, language in enumerate(drawn)]
    raise StudyError(f"unknown method {method!r}; known: {', '.join(METHODS)}")


def save(model: TaskModel, directory: Path) -> None:
    """Write the encoder and the output layer (safetensors)."""
    model.encoder.save(directory)
    save_file(model.output.state_dict(), directory / OUTPUT)


def load(directory: Path, task: str, pooling: str) -> TaskModel:
    """A fine-tuned model that `save` wrote. StudyError where the folder does not hold one."""
    model = TaskModel(models.load(directory), task, 0, pooling)
    try:
        model.output.load_state_dict(load_file(Path(directory) / OUTPUT))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise StudyError(f"{directory}: the output layer for {task} cannot be loaded: {error}") from error
    return model.eval()


BatchLoss = Callable[[TaskModel, Tensor, Tensor, np.random.Generator], dict[str, Tensor]]


def standard_loss(
    model: TaskModel, ids: Tensor, targets: Tensor, rng: np.random.Generator
) -> dict[str, Tensor]:
    """The loss on the examples as they are."""
    return {"loss": task_loss(model(ids), targets)}


def finetune(
    model: TaskModel,
    data: Encoded,
    opt: Optimization,
    batch_size: int,
    seed: int,
    batch_loss: BatchLoss = standard_loss,
    directory=None,
    progress: Progress | None = None,
    name: str = "fine-tuning",
) -> list[dict[str, float]]:
    """Train on all examples again and again for `opt.steps` updates; the history of the loss."""
    targets = torch.from_numpy(data.targets)
    plan = _Plan([len(ids) for ids in data.ids], batch_size, seed)

    def loss(step: int) -> dict[str, Tensor]:
        rows = plan.rows(step)
        ids = torch.from_numpy(np.stack([data.ids[row] for row in rows]))
        return batch_loss(
            model, ids, targets[torch.from_numpy(rows)], np.random.default_rng([seed, 11, step])
        )

    return fit(model, loss, opt, directory, progress, name)


def steps_for(data: Encoded, batch_size: int, epochs: int) -> int:
    """Updates in so many passes over the examples."""
    return epochs * _Plan([len(ids) for ids in data.ids], batch_size, 0).per_epoch


class _Plan:
    """Which examples make up which update: each pass in an order of its own, found from the step alone."""

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        if not len(lengths):
            raise StudyError("no examples to train on")
        self.lengths, self.batch_size, self.seed = lengths, batch_size, seed
        self._epoch, self._batches = 0, self._order(0)
        self.per_epoch = len(self._batches)

    def _order(self, epoch: int) -> list[np.ndarray]:
        return epoch_batches(self.lengths, self.batch_size, np.random.default_rng([self.seed, 5, epoch]))

    def rows(self, step: int) -> np.ndarray:
        epoch, batch = divmod(step, self.per_epoch)
        if epoch != self._epoch:
            self._epoch, self._batches = epoch, self._order(epoch)
        return self._batches[batch]


@torch.inference_mode()
def predict(model: TaskModel, data: Encoded, batch_size: int = 128) -> np.ndarray:
    """Labels (N,), or for QA the best first and last subwords (N, 2)."""
    model.eval()
    out = np.zeros_like(data.targets)
    for rows in epoch_batches([len(ids) for ids in data.ids], batch_size, np.random.default_rng(0)):
        logits = model(torch.from_numpy(np.stack([data.ids[row] for row in rows])))
        if model.task == "qa":
            out[rows] = _best_spans(logits, torch.from_numpy(data.context[rows])).numpy()
        else:
            out[rows] = logits.argmax(1).numpy()
    return out


def _best_spans(logits: Tensor, context: Tensor) -> Tensor:
    """The pairs first <= last within the context of the highest sum of logits (B, T, 2) -> (B, 2)."""
    length = logits.shape[1]
    where = torch.arange(length)
    outside = (where < context[:, None]) | (where == length - 1)
    first, last = logits.masked_fill(outside[..., None], -torch.inf).unbind(-1)
    allowed = (where[None] >= where[:, None]) & (where[None] < where[:, None] + LONGEST_ANSWER)
    total = (first[:, :, None] + last[:, None, :]).masked_fill(~allowed, -torch.inf)
    best = total.flatten(1).argmax(1)
    return torch.stack([best // length, best % length], 1)


def scores(task: str, data: Encoded, predicted: np.ndarray, examples: Sequence) -> dict[str, np.ndarray]:
    """Per-example scores (N,) by metric: {"": 0/1 accuracy}; for QA {"": exact match, "f1": F1}."""
    if task != "qa":
        return {"": (predicted == data.targets).astype(float)}
    texts = {}
    for example, (first, last), start, spans in zip(
        examples, predicted, data.context, data.spans, strict=True
    ):
        begin, end = spans[first - start][0], spans[last - start][1]
        texts[example.id] = example.context[begin:end]
    found = qa_scores(examples, texts)
    return {"": found["exact_match"], "f1": found["f1"]}
