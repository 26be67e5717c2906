"""Fine-tuning on the source language: what each method's loss is, and the loop.

Shapes: B batch, T tokens, H hidden, N examples.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from xltlib.data.tasks import LABELS
from xltlib.data.tokenization import OWN, Specials, join
from xltlib.finetuning import robust, salt
from xltlib.finetuning.batching import Plan, inputs
from xltlib.finetuning.encoding import Encoded
from xltlib.finetuning.options import Options
from xltlib.finetuning.prediction import majority, predict
from xltlib.finetuning.task_model import TaskModel, task_loss
from xltlib.pretraining import models
from xltlib.pretraining.models import device_of, to_device
from xltlib.pretraining.training import Optimization, Progress, fit, stacked

MISTRANSLATED = 0.25  # share of a noisy translation's words; no source says how often published ones err


def translated(
    examples: Mapping[str, Sequence], source: str, seed: int, errors: Mapping[str, Mapping] | None = None
) -> list:
    """Translate-train: each of the source's examples in a language drawn at random; as many as there were.

    Translations are perfect in the synthetic languages, but for `errors`: {language: {word: wrong words}}, of
    which MISTRANSLATED of a translation's words are taken. An example that has no translation in the language
    drawn for it stays as it is.
    """
    tables = [{example.id: example for example in theirs} for theirs in examples.values()]
    drawn = np.random.default_rng([seed, 13]).integers(len(tables), size=len(examples[source]))
    chosen = [tables[at].get(own.id, own) for own, at in zip(examples[source], drawn, strict=True)]
    if errors:
        rng, languages = np.random.default_rng([seed, 61]), list(examples)
        chosen = [
            robust.mistranslated(example, errors[languages[at]], MISTRANSLATED, rng)
            if languages[at] in errors else example
            for example, at in zip(chosen, drawn, strict=True)
        ]  # fmt: skip
    return chosen


class Batch(NamedTuple):
    """Examples of one update: ids (B, T), what is to be predicted, their rows (B,), and a generator.

    `told` is what a `TaskModel` wants to know beside ids.
    """

    ids: Tensor
    targets: Tensor
    rows: np.ndarray
    rng: np.random.Generator
    told: Mapping[str, Any] = {}


BatchLoss = Callable[[TaskModel, Batch], dict[str, Tensor]]


def standard_loss(model: TaskModel, batch: Batch) -> dict[str, Tensor]:
    """The loss on the examples as they are."""
    return {"loss": task_loss(model(batch.ids, **batch.told), batch.targets)}


def loss_of(
    method: str, chosen: Options, seed: int = 0, twins: Sequence[np.ndarray] = (), special: Specials = OWN
) -> BatchLoss:
    """The loss of a method; `twins`: for SALT, the code-switched twin of each training example.

    `special`: the tokens that stay where they are when the others are perturbed.
    """
    if method == "adversarial":
        return partial(_adversarial_loss, chosen, special)
    if method == "rs_rp":
        return partial(_random_loss, chosen, special)
    if method == "salt":
        return partial(_mixup_loss, chosen, seed, twins, special)
    return standard_loss


def _adversarial_loss(
    chosen: Options, special: Specials, model: TaskModel, batch: Batch
) -> dict[str, Tensor]:
    return robust.adversarial_loss(
        lambda embeds: _loss_at(embeds, model, batch),
        partial(model.encoder.embeddings(), batch.ids), robust.movable(batch.ids, special),
        chosen.epsilon, chosen.norm, chosen.steps, chosen.step_size, chosen.clean_weight,
    )  # fmt: skip


def _loss_at(embeds: Tensor, model: TaskModel, batch: Batch) -> Tensor:
    """The loss where the batch's ids have these embeddings (B, T, H)."""
    return task_loss(model(None, inputs_embeds=embeds, **batch.told), batch.targets)


def _randomly_moved(
    chosen: Options, special: Specials, model: TaskModel, ids: Tensor, rng: np.random.Generator
) -> Tensor:
    embeds, moved = model.encoder.embeddings()(ids), robust.movable(ids, special)
    return robust.randomly_moved(embeds, moved, chosen.size, chosen.distribution, rng)


def _random_loss(chosen: Options, special: Specials, model: TaskModel, batch: Batch) -> dict[str, Tensor]:
    embeds = _randomly_moved(chosen, special, model, batch.ids, batch.rng)
    return {"loss": _loss_at(embeds, model, batch)}


def _mixup_loss(
    chosen: Options, seed: int, twins: Sequence[np.ndarray], special: Specials, model: TaskModel,
    batch: Batch,
) -> dict[str, Tensor]:  # fmt: skip
    other, _ = stacked(
        [twins[row] for row in batch.rows], special.pad, batch.ids.shape[1]
    )  # as long as these
    other = to_device(other, batch.ids.device)
    if chosen.mix == "none":
        return standard_loss(model, batch._replace(ids=other))
    table, shape = model.encoder.embeddings(), (*batch.ids.shape, model.encoder.hidden_size)
    if chosen.draw == "step":
        r = salt.mixing(chosen.mix, shape, batch.rng)
    else:
        rngs = (np.random.default_rng([seed, 17, row]) for row in batch.rows)
        r = torch.cat([salt.mixing(chosen.mix, (1, *shape[1:]), rng) for rng in rngs])
    return {"loss": _loss_at(salt.mixed(table(batch.ids), table(other), r), model, batch)}


def finetune(
    model: TaskModel,
    data: Encoded,
    opt: Optimization,
    batch_size: int,
    seed: int,
    batch_loss: BatchLoss = standard_loss,
    directory: Path | None = None,
    progress: Progress | None = None,
    name: str = "fine-tuning",
    points: int = 0,
    look: Callable[[], float] | None = None,
) -> list[dict[str, float]]:
    """Train on all examples again and again for `opt.steps` updates, or until `look` says so; the history.

    Batches come to where the model is. `points`: how many times, evenly spaced and last at the end, weights
    are kept in the directory.
    """
    device, plan = device_of(model), Plan(data, batch_size, seed)
    targets = torch.from_numpy(data.targets)
    kept = {opt.steps * k // points: k for k in range(1, points + 1)}

    def loss(step: int) -> dict[str, Tensor]:
        if step in kept:
            save_file(_trained(model), point(directory, kept[step]))
        rows = plan.rows(step)
        ids, told = inputs(data, rows, device)
        wanted = to_device(targets[torch.from_numpy(rows)], device)
        rng = np.random.default_rng([seed, 11, step])
        return batch_loss(model, Batch(ids, wanted, rows, rng, told))

    history = fit(model, loss, opt, directory, progress, name, look)
    if points:
        save_file(_trained(model), point(directory, points))
    return history


def point(directory: Path, number: int) -> Path:
    """Where weights kept on the way lie."""
    return Path(directory) / f"point-{number}.safetensors"


def return_to(model: TaskModel, path: Path) -> None:
    """Give the model the weights that `finetune` kept."""
    with torch.no_grad():
        for name, weights in load_file(path).items():
            model.get_parameter(name).copy_(weights)


def _trained(model: TaskModel) -> dict[str, Tensor]:
    return {name: p.detach().cpu().contiguous() for name, p in model.named_parameters() if p.requires_grad}


def steps_for(data: Encoded, batch_size: int, epochs: int) -> int:
    """Updates in so many passes over the examples."""
    return epochs * Plan(data, batch_size, 0).per_epoch


def predict_by_vote(
    model: TaskModel, data: Encoded, chosen: Options, rng: np.random.Generator,
    copies: Sequence[Encoded] = (), precision: str = "float32",
) -> np.ndarray:  # fmt: skip
    """Labels (N,) by majority over `copies` of the data (RS-DA), or over random perturbations (RS-RP)."""
    if copies:
        votes = [predict(model, copy, precision=precision) for copy in copies]
    else:
        perturb = partial(_randomly_moved, chosen, data.special, model, rng=rng)
        votes = [predict(model, data, perturb=perturb, precision=precision) for _ in range(chosen.vote)]
    return majority(np.stack(votes), len(LABELS[model.task]))


def check_restriction() -> bool:
    """Whether SALT proposes words of the target language alone, and nothing where it has none.

    A new encoder of 40 subwords, the even ones from 10 on being the words of the target language. Lifting
    the restriction must let others through, or the test would say nothing (an `implementation` test).
    """
    encoder, rng = models.tiny(40, 16, 1, 2, seed=0), np.random.default_rng(0)
    sequences = [join(rng.integers(5, 40, 8)) for _ in range(20)]
    place = [(i, at, 1) for i in range(20) for at in range(1, 9)]
    places = salt.Places(*np.array(place).T)
    target, others = np.arange(10, 40, 2)[:, None], np.arange(11, 40, 2)[:, None]
    own = np.array([sequences[i][at] for i, at, _ in place])
    proposed = salt.propose(encoder, sequences, places, {1: target})
    words = target[proposed.choice, 0]
    free = salt.union([{1: target}, {1: others}])
    anything = free[1][salt.propose(encoder, sequences, places, free).choice, 0]
    nothing = salt.propose(encoder, sequences, places, {})
    return bool(
        (words % 2 == 0).all() and (words >= 10).all() and (words != own).all()
        and (anything % 2 == 1).any() and (nothing.choice == -1).all()
    )  # fmt: skip


def check_mixup() -> bool:
    """Whether the mixture is the formula, by hand, and with r = 1 standard training to the last bit."""
    one, other, r = (torch.tensor([[x]]) for x in ([1.0, 2.0], [3.0, 6.0], [0.25, 0.75]))
    model = TaskModel(models.tiny(40, 16, 1, 2, seed=0), "nli", 0, freeze_embeddings=False)
    ids, twin = torch.tensor([[2, 7, 8, 3]]), torch.tensor([[2, 9, 10, 3]])
    table, weights, found = model.encoder.embeddings(), [p for p in model.parameters() if p.requires_grad], []
    for embeds in (None, salt.mixed(table(ids), table(twin), torch.ones(1, 1, 16))):
        loss = task_loss(model(ids, inputs_embeds=embeds), torch.tensor([1]))
        found.append([loss, *torch.autograd.grad(loss, weights)])
    same = all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    return same and torch.equal(salt.mixed(one, other, r), torch.tensor([[[2.5, 3.0]]]))
