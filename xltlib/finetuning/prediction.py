"""Predictions of a fine-tuned model, and their scores: labels of pairs, and answers within passages.

Shapes: B batch, T tokens, H hidden, R rows, N examples.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from xltlib.evaluation import qa_scores
from xltlib.finetuning.batching import batches, inputs
from xltlib.finetuning.encoding import Encoded
from xltlib.finetuning.task_model import TaskModel
from xltlib.pretraining.models import device_of

LONGEST_ANSWER = 30  # subwords, as in the published SQuAD scripts

Perturb = Callable[[Tensor], Tensor]  # ids (B, T) -> input embeddings (B, T, H)


@torch.inference_mode()
def predict(
    model: TaskModel,
    data: Encoded,
    batch_size: int = 128,
    perturb: Perturb | None = None,
    precision: str = "float32",
) -> np.ndarray:
    """Labels (N,), or for QA the characters (N, 2) where the best answer in the passage begins and ends.

    Of a passage in several windows it is the answer with the highest sum of logits.
    """
    model.eval()
    device, qa = device_of(model), model.task == "qa"
    out, totals = np.zeros_like(data.targets), np.zeros(len(data.ids))
    begin, stop = data.passages() if qa else (None, None)
    for rows in batches(data, batch_size, np.random.default_rng(0)):
        ids, told = inputs(data, rows, device)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16"):
            logits = model(None, inputs_embeds=perturb(ids), **told) if perturb else model(ids, **told)
        if qa:
            found = best_spans(logits.float(), *(torch.from_numpy(x[rows]).to(device) for x in (begin, stop)))
            out[rows], totals[rows] = (part.cpu().numpy() for part in found)
        else:
            out[rows] = logits.float().argmax(1).cpu().numpy()
    return _of_best_windows(data, out, totals) if qa else out


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


def _of_best_windows(data: Encoded, found: np.ndarray, totals: np.ndarray) -> np.ndarray:
    """The characters (N, 2) of the best of each example's answers (R, 2); of equally good ones the first."""
    examples = np.arange(len(data.ids)) if data.examples is None else data.examples
    order = np.lexsort((-totals, examples))
    rows = order[np.unique(examples[order], return_index=True)[1]]
    return data.characters(rows, found[rows])


def majority(votes: np.ndarray, classes: int) -> np.ndarray:
    """The label most often voted for: (copies, N) -> (N,). A tie goes to the label of the earliest copy."""
    counts = np.stack([(votes == label).sum(0) for label in range(classes)])  # (C, N)
    leading = np.take_along_axis(counts, votes, 0) == counts.max(0)  # does a copy vote for a winner?
    return np.take_along_axis(votes, leading.argmax(0)[None], 0)[0]


def scores(
    task: str,
    data: Encoded,
    predicted: np.ndarray,
    examples: Sequence,
    language: str = "en",
    style: str = "squad",
) -> dict[str, np.ndarray]:
    """Per-example scores (N,) by metric: {"": 0/1 accuracy}; for QA {"": exact match, "f1": F1}.

    `language` and `style` say how answers are compared, see `evaluation.normalize_answer`.
    """
    if task != "qa":
        return {"": (predicted == data.targets).astype(float)}
    texts = {e.id: e.context[start:end] for e, (start, end) in zip(examples, predicted, strict=True)}
    found = qa_scores(examples, texts, language, style)
    return {"": found["exact_match"], "f1": found["f1"]}
