"""Methods of fine-tuning: what each one's loss is, or what it makes of the training examples, and the loop.

Shapes: B batch, T tokens, H hidden, N examples.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from xltlib import StudyError
from xltlib.data.tasks import PairExample, SpanExample
from xltlib.data.tokenization import OWN, Specials
from xltlib.finetuning.case import Case
from xltlib.finetuning.tasks import Encoded, TaskModel, batches, inputs, task_loss
from xltlib.finetuning.words import mistranslations
from xltlib.noise.typing import code_switch, edited_span, with_neighbours
from xltlib.pretraining.models import device_of, to_device
from xltlib.pretraining.training import Optimization, Progress, fit

# Bounds of perturbations, relative to the mean length of the embeddings; Robust-XLT's were not found. Each is
# the largest of those tried that cost no point of source accuracy on development examples of nli.
EPSILON = 0.01  # radius of the ball of the worst one; of 0.003, 0.01, 0.02 (which cost 26 points) and 0.05
SIZE = 0.3  # root mean square length of the random one; of 0.1, 0.3 and 1 (44 points)
STEPS, STEP_SIZE = 2, 0.75  # projected gradient steps, and their length in radii: two reach the border
CLEAN_WEIGHT = 0.5  # of the loss without the worst perturbation; on the other alone, training collapses

# Copies of RS-DA. perturb.py of Robust-XLT: 10 for PAWS-X, 3 for XNLI; it has no question answering: as few
COPIES = {"paraphrase": 10, "nli": 3, "qa": 3}
SWITCHED = 0.4  # share of the words of code-switched examples that are translated (CoSDA-ML: 0.4 to 0.9)
MISTRANSLATED = 0.25  # share of a noisy translation's words; no source says how often published ones err

Example = PairExample | SpanExample


class Batch(NamedTuple):
    """Examples of one update."""

    ids: Tensor  # (B, T)
    targets: Tensor  # what is to be predicted
    rows: np.ndarray  # (B,) numbers of the examples
    rng: np.random.Generator
    extra: Mapping[str, Any] = {}  # what a `TaskModel` takes beside ids
    special: Specials = OWN  # tokens that no method moves

    @property
    def movable(self) -> Tensor:
        """Which positions (B, T) a perturbation may move: all but special tokens and padding."""
        return ~torch.isin(self.ids, torch.tensor(sorted(self.special.ids), device=self.ids.device))


BatchLoss = Callable[[TaskModel, Batch], dict[str, Tensor]]


def standard_loss(model: TaskModel, batch: Batch) -> dict[str, Tensor]:
    """The loss on the examples as they are."""
    return {"loss": task_loss(model(batch.ids, **batch.extra), batch.targets)}


def finetune(
    model: TaskModel, data: Encoded, opt: Optimization, batch_size: int, seed: int,
    batch_loss: BatchLoss = standard_loss, directory: Path | None = None, progress: Progress | None = None,
    name: str = "fine-tuning", look: Callable[[], float] | None = None,
) -> list[dict[str, float]]:  # fmt: skip
    """Train on all examples again and again for `opt.steps` updates, or until `look` says so; the history."""
    device, targets = device_of(model), torch.from_numpy(data.targets)
    per_pass = steps_for(data, batch_size, 1)

    @lru_cache(maxsize=1)
    def order(number: int) -> list[np.ndarray]:  # of the batches of a pass, from its number alone
        return batches(data, batch_size, np.random.default_rng([seed, 5, number]))

    def loss(step: int) -> dict[str, Tensor]:
        rows = order(step // per_pass)[step % per_pass]
        ids, extra = inputs(data, rows, device)
        wanted = to_device(targets[torch.from_numpy(rows)], device)
        rng = np.random.default_rng([seed, 11, step])
        return batch_loss(model, Batch(ids, wanted, rows, rng, extra, data.special))

    return fit(model, loss, opt, directory, progress, name, look)


def steps_for(data: Encoded, batch_size: int, epochs: int) -> int:
    """Number of updates in `epochs` passes over the data."""
    if not data.ids:
        raise StudyError("no examples to train on")
    return epochs * len(batches(data, batch_size, np.random.default_rng(0)))


# Losses


def loss_at(model: TaskModel, batch: Batch, embeds: Tensor) -> Tensor:
    """The loss where the batch's ids have these embeddings (B, T, H)."""
    return task_loss(model(None, inputs_embeds=embeds, **batch.extra), batch.targets)


def adversarial_loss(model: TaskModel, batch: Batch) -> dict[str, Tensor]:
    """CLEAN_WEIGHT x clean loss + (1 - CLEAN_WEIGHT) x loss at the perturbation that PGD finds.

    The gradient of the first part is in the weights when this returns, that of the second comes with
    `backward`: an update then costs no more than 1 + STEPS standard ones.
    """
    table, loss = model.encoder.embeddings(), partial(loss_at, model, batch)
    embeds = table(batch.ids)
    delta, clean = pgd(loss, embeds, batch.movable, EPSILON * typical_norm(embeds, batch.movable))
    attacked = loss(table(batch.ids) + delta)
    mixed = CLEAN_WEIGHT * clean + (1 - CLEAN_WEIGHT) * attacked
    return {"loss": mixed, "clean": clean, "attacked": attacked.detach()}


def pgd(
    loss: Callable[[Tensor], Tensor], embeds: Tensor, moved: Tensor, radius: Tensor
) -> tuple[Tensor, Tensor]:
    """A perturbation (B, T, H) within the ball that raises the loss, and the loss without any, detached.

    STEPS projected gradient steps (Madry et al. 2018) from 0, where the loss is the clean one: along the
    gradient of each token, and back into its ball.

    loss : of input embeddings (B, T, H); moved : (B, T) positions that may move
    """

    def length(vectors: Tensor) -> Tensor:
        return vectors.norm(dim=-1, keepdim=True).clamp(min=1e-12)

    delta, where = torch.zeros_like(embeds, requires_grad=True), moved.unsqueeze(-1)
    clean = loss(embeds + delta)
    # the gradient of this part stays in the weights, too, which costs less than a pass of its own
    (CLEAN_WEIGHT * clean).backward()
    gradient = delta.grad
    for step in range(STEPS):
        if step:
            delta.requires_grad_(True)
            (gradient,) = torch.autograd.grad(loss(embeds.detach() + delta), delta)
        with torch.no_grad():
            gradient = gradient * where
            delta = delta + STEP_SIZE * radius * gradient / length(gradient)
            delta = delta * (radius / length(delta)).clamp(max=1) * where
    return delta.detach(), clean.detach()


def typical_norm(embeds: Tensor, moved: Tensor) -> Tensor:
    """Mean length of the embeddings (B, T, H) at the movable positions: the unit of every perturbation."""
    norms = embeds.detach().norm(dim=-1)
    return (norms * moved).sum() / moved.sum().clamp(min=1)


def random_loss(model: TaskModel, batch: Batch) -> dict[str, Tensor]:
    """The loss with a normal random vector on each movable embedding (H,), of root mean square length
    SIZE x the mean length of the embeddings.
    """
    embeds = model.encoder.embeddings()(batch.ids)
    noise = torch.from_numpy(batch.rng.standard_normal(tuple(embeds.shape), np.float32)).to(embeds)
    spread = SIZE * typical_norm(embeds, batch.movable) / embeds.shape[-1] ** 0.5
    moved = embeds + spread * noise * batch.movable.unsqueeze(-1)
    return {"loss": loss_at(model, batch, moved)}


# Examples: each function makes those to train on of the source's, of which `train` also has translations


def translate_train(case: Case, train: Mapping[str, Sequence]) -> list:
    """Each of the source's examples in a language drawn at random; as many as there were.

    Translations are perfect in the synthetic languages, or MISTRANSLATED of their words are wrong. An example
    that has no translation in the language drawn for it stays as it is.
    """
    tables, own = [{e.id: e for e in theirs} for theirs in train.values()], train[case.source]
    drawn = np.random.default_rng([case.seed, 13]).integers(len(tables), size=len(own))
    translated = [tables[at].get(example.id, example) for example, at in zip(own, drawn, strict=True)]
    if case.options.translations == "noisy":
        rng, languages = np.random.default_rng([case.seed, 61]), list(train)
        errors = {name: {"": mistranslations(case.world, name)} for name in case.targets}
        poorly = partial(code_switch, rng=rng, cross=MISTRANSLATED, lower=False)
        for row, language in enumerate(languages[at] for at in drawn):
            if language in errors:
                translated[row] = exchanged(translated[row], partial(poorly, lexicon=errors[language]))
    return translated


def rs_da(case: Case, train: Mapping[str, Sequence]) -> list:
    """Perturbed copies of every example, without the original, as released with Robust-XLT.

    The i-th variants of its two texts make up the i-th copy; all texts are drawn independently.
    """
    rng = np.random.default_rng([case.seed, 19])
    change = partial(with_neighbours, neighbours=case.neighbours, rng=rng)
    return [exchanged(e, change) for e in train[case.source] for _ in range(COPIES[case.task])]


def code_switched(case: Case, train: Mapping[str, Sequence]) -> list:
    """Every example once for each pass, code-switched by a dictionary anew each time (CoSDA-ML)."""
    rng, passes = np.random.default_rng([case.seed, 19]), range(case.params["finetune_epochs"])
    change = partial(code_switch, lexicon=case.dictionaries, rng=rng, cross=SWITCHED)
    return [exchanged(e, change) for _ in passes for e in train[case.source]]


def exchanged(example: Example, change: Callable[[Sequence[str]], list[str]]) -> Example:
    """The example with other words (between single spaces) in its two texts: `change` gives one for each.

    The label stays. An answer becomes the words that stand in its place; where it begins or ends within a
    word that has changed, it is widened to the whole word.
    """
    if isinstance(example, PairExample):
        first, second = (" ".join(change(text.split(" "))) for text in example.texts)
        return replace(example, text_a=first, text_b=second)
    question, words = " ".join(change(example.question.split(" "))), example.context.split(" ")
    ends = accumulate(len(word) + 1 for word in words)  # each with the space after it
    edits = [
        (end - len(word) - 1, end - 1, new)
        for word, new, end in zip(words, change(words), ends, strict=True)
        if new != word
    ]
    context, answers = edited_span(example.context, example.answers, edits)
    return replace(example, question=question, context=context, answers=answers)
