"""A task as a model sees it: examples as ids, batches of them, the model with its output layer, predictions.

Shapes: B batch, T tokens, H hidden, C classes, R rows, N examples.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from xltlib.data.formats import LABELS
from xltlib.data.tasks import SpanExample
from xltlib.data.tokenization import OWN, Span, Specials, encode_texts, join, specials
from xltlib.evaluation import qa_scores
from xltlib.pretraining import models
from xltlib.pretraining.models import Encoder, device_of, to_device
from xltlib.pretraining.training import epoch_batches, stacked

# as in the published SQuAD scripts (google-research/bert, run_squad.py)
QUESTION = 64  # subwords of a question, at most
STRIDE = 128  # subwords from the start of one window of a long passage to the start of the next, at most
LONGEST_ANSWER = 30  # subwords
OUTPUT = "output.safetensors"


# Examples as ids


@dataclass(frozen=True)
class Encoded:
    """Sequences of ids (T,), one row each; a passage too long for one row has several, its windows."""

    ids: list[np.ndarray]  # [CLS] first [SEP] second [SEP], or as the tokenizer has it
    targets: np.ndarray  # (R,) labels; or (R, 2) first and last subword of the answer, -1: not whole here
    second: np.ndarray | None = None  # (R,) first subword of the second segment, which is the passage in QA
    spans: list[Sequence[Span]] | None = None  # QA: characters (start, end) of the passage's subwords
    special: Specials = OWN
    examples: np.ndarray | None = None  # QA: (R,) the example of each row, in order
    padded: bool = False  # whether sequences of different lengths may share a batch
    left_out: int = 0  # training examples without a row, because no window holds the answer whole

    @property
    def lengths(self) -> list[int]:
        """Subwords of each row."""
        return [len(ids) for ids in self.ids]

    def passages(self) -> tuple[np.ndarray, np.ndarray]:
        """For QA the first subword of each row's passage and the one after its last, each (R,)."""
        return self.second, self.second + [len(spans) for spans in self.spans]

    def characters(self, rows: Sequence[int], answers: np.ndarray) -> np.ndarray:
        """The characters (start, end) of the passage that spans of subwords (N, 2) of some rows cover."""
        out = np.zeros((len(rows), 2), dtype=np.int64)
        for place, row in enumerate(rows):
            first, last = answers[place] - self.second[row]
            # SentencePiece has subwords of no character, and marks may stand in another order than letters
            covered = [span for span in self.spans[row][first : last + 1] if span[0] < span[1]]
            if covered:
                out[place] = min(start for start, _ in covered), max(end for _, end in covered)
        return out


def encode(
    tokenizer: PreTrainedTokenizerFast, task: str, examples: Sequence, max_length: int | None = None,
    training: bool = False,
) -> Encoded:  # fmt: skip
    """Every example with the tokenizer's special tokens, in at most `max_length` subwords (None: no limit).

    Of a longer pair the longer side is shortened from its end, until it fits. A question has at most QUESTION
    subwords; a longer passage is cut into windows that overlap, all of the same length. In training an
    example has one row: the window in which its answer is whole and farthest from both ends. An answer that
    cuts a subword has it as a whole.
    """
    special = specials(tokenizer)
    around = len(special.before) + len(special.between) + len(special.after)
    room = None if max_length is None else max_length - around
    if task == "qa":
        return _encode_spans(tokenizer, examples, special, room, training)
    first, _ = encode_texts(tokenizer, [e.text_a for e in examples])
    second, _ = encode_texts(tokenizer, [e.text_b for e in examples])
    pairs = list(zip(first, second, strict=True))
    if room is not None:
        pairs = [shortened(*pair, room) for pair in pairs]
    ids, labels = [join(*pair, special=special) for pair in pairs], np.array([e.label for e in examples])
    begins = np.array([around - len(special.after) + len(a) for a, _ in pairs])
    return Encoded(ids, labels, begins, special=special, padded=room is not None)


def shortened(first: list[int], second: list[int], room: int) -> tuple[list[int], list[int]]:
    """Two sides of `room` subwords together, at most: the longer one loses its end, then both in turn."""
    half = room // 2  # each side has a half at least, and what the other one leaves
    return first[: max(room - half, room - len(second))], second[: max(half, room - len(first))]


def _encode_spans(
    tokenizer: PreTrainedTokenizerFast, examples: Sequence[SpanExample], special: Specials, room: int | None,
    training: bool,
) -> Encoded:  # fmt: skip
    questions, _ = encode_texts(tokenizer, [e.question for e in examples])
    contexts, spans = encode_texts(tokenizer, [e.context for e in examples])
    if room is not None:
        questions = [question[: min(QUESTION, room // 2)] for question in questions]
    ids, targets, second, characters, owners = [], [], [], [], []
    for number, (question, context) in enumerate(zip(questions, contexts, strict=True)):
        size = len(context) if room is None else min(len(context), room - len(question))
        answer = None  # its first and last subword; none also where the tokenizer dropped it
        for at, text in examples[number].answers[:1]:
            inside = [i for i, (a, b) in enumerate(spans[number]) if a < at + len(text) and b > at]
            answer = (inside[0], inside[-1]) if inside else None
        starts = windows(len(context), size)
        if training:  # the window whose ends are farthest from the answer, if one holds it whole
            first, last = answer or (0, -1)
            margins = [(min(first - start, start + size - 1 - last), -start) for start in starts]
            starts = [-max(margins)[1]] if answer and max(margins)[0] >= 0 else []
        begin = len(special.before) + len(question) + len(special.between)
        for start in starts:
            whole = answer is not None and start <= answer[0] and answer[1] < start + size
            ids.append(join(question, context[start : start + size], special=special))
            targets.append([begin - start + place for place in answer] if whole else [-1, -1])
            second.append(begin)
            characters.append(spans[number][start : start + size])
            owners.append(number)
    targets = np.array(targets, dtype=np.int64).reshape(-1, 2)
    second, owners = (np.array(column, dtype=np.int64) for column in (second, owners))
    left_out = len(examples) - len(ids) if training else 0
    return Encoded(
        ids, targets, second, characters, special, owners, padded=room is not None, left_out=left_out
    )


def windows(length: int, size: int) -> list[int]:
    """Where the windows of `size` subwords over a passage begin: at least half of each is in the next, too.

    All of them are full; the last one is moved back so far that it is.
    """
    last = max(0, length - size)
    return [*range(0, last, min(STRIDE, max(1, size // 2))), last]


# Batches


def batches(data: Encoded, size: int, rng: np.random.Generator) -> list[np.ndarray]:
    """The rows of one pass over the data, batch by batch (at most `size`,), in random order.

    Where rows are padded, neighbours in length share a batch, as real text has many lengths with few examples
    each: batches of 32 of equal length would be 20 % more updates than N / 32 for the 10,071 pairs of
    TaxiNLI, and twice as many for 2,000 pairs of PAWS-X; padding is about 1 % of what is read.
    """
    if not data.padded:
        return epoch_batches(data.lengths, size, rng)
    order = np.lexsort((rng.random(len(data.ids)), data.lengths))
    found = [order[i : i + size] for i in range(0, len(order), size)]
    return [found[i] for i in rng.permutation(len(found))]


def inputs(data: Encoded, rows: np.ndarray, device: torch.device) -> tuple[Tensor, dict[str, Tensor]]:
    """Ids (B, T) of some rows, and what a `TaskModel` takes beside them: mask and second segment.

    On a GPU, padded sequences have multiples of 8 subwords, as its matrix units do.
    """
    multiple = 8 if device.type == "cuda" and data.padded else 1
    ids, mask = stacked([data.ids[row] for row in rows], data.special.pad, multiple)
    extra = {} if mask is None else {"attention_mask": to_device(mask, device)}
    if data.second is not None:
        extra["second"] = to_device(torch.from_numpy(data.second[rows]), device)
    return to_device(ids, device), extra


# Models


class TaskModel(nn.Module):
    """An encoder with a new output layer; `pooling` says what a pair is classified by (mean or [CLS])."""

    def __init__(
        self, encoder: Encoder, task: str, seed: int, pooling: str = "mean", freeze_embeddings: bool = True
    ):
        super().__init__()
        self.encoder, self.task, self.pooling = encoder, task, pooling
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            hidden = encoder.hidden_size
            if task == "qa":
                self.output = nn.Linear(hidden, 2)
            else:
                inner, outer = nn.Linear(hidden, hidden), nn.Linear(hidden, len(LABELS[task]))
                self.output = nn.Sequential(inner, nn.Tanh(), outer)
        encoder.lm.requires_grad_(False)  # the language model's own head is not trained here
        encoder.lm.base_model.requires_grad_(True)
        if freeze_embeddings:
            encoder.embeddings().requires_grad_(False)

    def forward(
        self, input_ids: Tensor | None, attention_mask: Tensor | None = None, **given: Tensor | None
    ) -> Tensor:
        """Logits: (B, C) for pairs; (B, T, 2) for QA, first and last subword.

        `attention_mask` (B, T) is 0 at padding, which has no part in a mean and is never an answer. `given`:
        what else `Encoder.states` takes, `inputs_embeds` in place of ids, or the `second` segment's place.
        """
        states = self.encoder.states(input_ids, attention_mask, **given)
        if self.task == "qa":
            logits = self.output(states)
            if attention_mask is None:
                return logits
            return logits.masked_fill(attention_mask[..., None] == 0, torch.finfo(logits.dtype).min)
        if self.pooling == "cls":
            return self.output(states[:, 0])
        if attention_mask is None:
            return self.output(states.mean(1))
        real = attention_mask[..., None].to(states.dtype)
        return self.output((states * real).sum(1) / real.sum(1))


def task_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy of labels (B,), or of first and last subwords (B, 2) averaged."""
    logits = logits.float()
    if targets.ndim == 1:
        return F.cross_entropy(logits, targets)
    first, last = (F.cross_entropy(logits[..., k], targets[:, k]) for k in (0, 1))
    return (first + last) / 2


def save_model(model: TaskModel, directory: Path) -> None:
    """Write the encoder and the output layer (safetensors)."""
    model.encoder.save(directory)
    save_file({name: weight.cpu() for name, weight in model.output.state_dict().items()}, directory / OUTPUT)


def load_model(directory: Path, task: str, pooling: str) -> TaskModel:
    """A fine-tuned model that `save_model` wrote."""
    model = TaskModel(models.load(directory), task, 0, pooling)
    model.output.load_state_dict(load_file(directory / OUTPUT))
    return model.eval()


# Predictions


@torch.inference_mode()
def predict(model: TaskModel, data: Encoded, batch_size: int = 128, precision: str = "float32") -> np.ndarray:
    """Labels (N,), or for QA the characters (N, 2) where the best answer in the passage begins and ends.

    Of a passage in several windows it is the answer with the highest sum of logits.
    """
    model.eval()
    device, qa = device_of(model), model.task == "qa"
    out, totals = np.zeros_like(data.targets), np.zeros(len(data.ids))
    begin, stop = data.passages() if qa else (None, None)
    for rows in batches(data, batch_size, np.random.default_rng(0)):
        ids, extra = inputs(data, rows, device)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16"):
            logits = model(ids, **extra)
        if qa:
            best = best_spans(logits.float(), *(torch.from_numpy(x[rows]).to(device) for x in (begin, stop)))
            out[rows], totals[rows] = (part.cpu().numpy() for part in best)
        else:
            out[rows] = logits.float().argmax(1).cpu().numpy()
    if not qa:
        return out
    # the best window of each example first; of equals the earliest
    order = np.lexsort((-totals, data.examples))
    best = order[np.unique(data.examples[order], return_index=True)[1]]
    return data.characters(best, out[best])


def best_spans(logits: Tensor, begin: Tensor, stop: Tensor) -> tuple[Tensor, Tensor]:
    """The pairs first <= last (B, 2) of the highest sum of logits (B, T, 2), and this sum (B,).

    Both lie in the passage, from `begin` to the subword before `stop` (B,).
    """
    length = logits.shape[1]
    where = torch.arange(length, device=logits.device)
    outside = (where < begin[:, None]) | (where >= stop[:, None])
    first, last = logits.masked_fill(outside[..., None], -torch.inf).unbind(-1)
    allowed = (where[None] >= where[:, None]) & (where[None] < where[:, None] + LONGEST_ANSWER)
    total = (first[:, :, None] + last[:, None, :]).masked_fill(~allowed, -torch.inf)
    best = total.flatten(1).argmax(1)
    return torch.stack([best // length, best % length], 1), total.flatten(1).gather(1, best[:, None])[:, 0]


def scores(
    task: str, data: Encoded, predicted: np.ndarray, examples: Sequence, language: str = "en",
    style: str = "squad",
) -> dict[str, np.ndarray]:  # fmt: skip
    """Per-example scores (N,) by metric: `accuracy` (0/1), or what `evaluation.qa_scores` says."""
    if task != "qa":
        return {"accuracy": (predicted == data.targets).astype(float)}
    texts = [e.context[start:end] for e, (start, end) in zip(examples, predicted, strict=True)]
    return qa_scores(examples, texts, language, style)


def named(setting: str, metrics: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Scores by setting and metric: "de" for accuracy or exact match, "de#f1" for F1."""
    return {f"{setting}#f1" if metric == "f1" else setting: values for metric, values in metrics.items()}
