"""An encoder with an output layer for a task, its loss, and how both are kept.

Shapes: B batch, T tokens, H hidden, C classes.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from xltlib import StudyError
from xltlib.data.tasks import LABELS
from xltlib.finetuning.batching import segments
from xltlib.pretraining import models
from xltlib.pretraining.models import Encoder

OUTPUT = "output.safetensors"


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
        self,
        input_ids: Tensor | None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        second: Tensor | None = None,
    ) -> Tensor:
        """Logits: (B, C) for pairs; (B, T, 2) for QA, first and last subword.

        `attention_mask` (B, T) is 0 at padding, which has no part in a mean and is never an answer. `second`
        (B,) is where the second segment begins, for encoders that tell two segments apart.
        """
        given = input_ids if inputs_embeds is None else inputs_embeds
        types = None if second is None else segments(second, given.shape[1])
        states = self.encoder.states(input_ids, attention_mask, inputs_embeds, types)
        if self.task == "qa":
            logits = self.output(states)
            if attention_mask is None:
                return logits
            return logits.masked_fill(attention_mask[..., None] == 0, torch.finfo(logits.dtype).min)
        return self.output(states[:, 0] if self.pooling == "cls" else _mean(states, attention_mask))


def _mean(states: Tensor, attention_mask: Tensor | None) -> Tensor:
    """The mean (B, H) of the states (B, T, H) of real tokens."""
    if attention_mask is None:
        return states.mean(1)
    real = attention_mask[..., None].to(states.dtype)
    return (states * real).sum(1) / real.sum(1)


def _output(hidden: int, task: str) -> nn.Module:
    if task == "qa":
        return nn.Linear(hidden, 2)
    return nn.Sequential(nn.Linear(hidden, hidden), nn.Tanh(), nn.Linear(hidden, len(LABELS[task])))


def task_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy of labels (B,), or of first and last subwords (B, 2) averaged."""
    logits = logits.float()
    if targets.ndim == 1:
        return F.cross_entropy(logits, targets)
    return (
        F.cross_entropy(logits[..., 0], targets[:, 0]) + F.cross_entropy(logits[..., 1], targets[:, 1])
    ) / 2


def save(model: TaskModel, directory: Path) -> None:
    """Write the encoder and the output layer (safetensors)."""
    model.encoder.save(directory)
    save_file({name: weight.cpu() for name, weight in model.output.state_dict().items()}, directory / OUTPUT)


def load(directory: Path, task: str, pooling: str) -> TaskModel:
    """A fine-tuned model that `save` wrote. StudyError where the folder does not hold one."""
    model = TaskModel(models.load(directory), task, 0, pooling)
    try:
        model.output.load_state_dict(load_file(Path(directory) / OUTPUT))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise StudyError(f"{directory}: the output layer for {task} cannot be loaded: {error}") from error
    return model.eval()
