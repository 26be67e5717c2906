"""Fine-tuning on the source language, and prediction everywhere: classification of pairs, extractive QA.

Shapes: B batch, T tokens, H hidden, C classes, N examples.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from xltlib import models, robust, salt
from xltlib.encoding import Encoded
from xltlib.evaluation import qa_scores
from xltlib.models import Encoder
from xltlib.params import StudyError
from xltlib.records import LABELS
from xltlib.settings import changed, par, parse_options
from xltlib.tokenization import join
from xltlib.training import Optimization, Progress, epoch_batches, fit

# a result is reused only where the version of its method is the same: raise it when the numbers change
VERSIONS = {
    "standard": 1, "translate_train": 1, "adversarial": 1, "rs_rp": 1, "rs_da": 1, "salt": 1,
    "code_switch": 1, "intermediate": 1,
}  # fmt: skip
METHODS = tuple(VERSIONS)
OUTPUT = "output.safetensors"
LONGEST_ANSWER = 30  # subwords, as in the published SQuAD scripts
COMMON = ("select",)
_KNOWN = {  # the options that change a method
    "adversarial": ("norm", "epsilon", "steps", "step_size", "clean_weight"),
    "rs_rp": ("size", "distribution", "vote"),
    "rs_da": ("copies", "updates", "neighbours", "foreign", "vote"),
    "salt": ("threshold", "synonym_threshold", "synonyms", "restrict", "hide", "rate", "mix", "draw"),
    "code_switch": ("ratio", "cross"),
    "intermediate": ("first", "n", "sampling"),
}


# fmt: off
@dataclass(frozen=True)
class Options:
    """What may differ between two runs of one method; a run's label names what is not the default."""

    select: str = par("last", "weights that are scored: the last ones, the best of four points on development examples of the source, or (an oracle) on those of each language", choices=("last", "source", "oracle"))
    norm: str = par("l2", "ball of a token's perturbation; linf: the cube within it", choices=("l2", "linf"))
    epsilon: float = par(0.01, "radius of the ball, relative to the mean length of the embeddings; the largest of 0.003, 0.01, 0.02, 0.05 that cost no point of source accuracy on development examples of nli (0.02: 26)", low=0.0, high=10.0)
    steps: int = par(2, "projected gradient steps; an update costs at most 1 + steps", low=1, high=100)
    step_size: float = par(0.75, "length of such a step, relative to the radius: two of them reach the border", low=0.0, high=10.0)
    clean_weight: float = par(0.5, "weight of the loss without perturbation; on the other alone, training collapses", low=0.0, high=1.0)
    size: float = par(0.3, "root mean square length of the random perturbation, relative to the mean length of the embeddings; the largest of 0.1, 0.3, 1 that cost no point of source accuracy on development examples of nli (1: 44)", low=0.0, high=10.0)
    distribution: str = par("normal", "of the numbers of a random perturbation", choices=("normal", "uniform"))
    vote: int = par(0, "perturbed copies that a label is voted on at prediction; 0, as released: none", low=0, high=1000)
    copies: int = par(0, "perturbed copies of the training examples; 0, as released: 10 for paraphrase, 3 for others", low=0, high=1000)
    updates: str = par("released", "released: passes over all copies, so copies times the updates of standard; equal: as many as standard", choices=("released", "equal"))
    neighbours: str = par("all", "no_foreign: lists without the foreign words that got into them by accident", choices=("all", "no_foreign"))
    foreign: float = par(robust.FOREIGN, "share of concepts of which a foreign word stands in the lists: 22 of 79 words tried in the released ones", low=0.0, high=1.0)
    threshold: float = par(0.5, "probability that a word of the target language must pass to be a substitution: more than all others together (source accuracy on development examples of nli at 0.3, 0.5, 0.7, 0.9: .89 .96 .94 .97)", low=0.0, high=1.0)
    synonym_threshold: float = par(0.7, "the same for synonyms in the source language", low=0.0, high=1.0)
    synonyms: bool = par(True, "synonyms in the source language are substitutions too")
    restrict: bool = par(True, "only words of the target language's text; false: words of any language")
    hide: bool = par(False, "mask the words to be replaced, all at once; by default the encoder sees them")
    rate: float = par(0.5, "share of the words for which substitutions are looked for", low=0.0, high=1.0)
    mix: str = par("vector", "r of the mixture: a random vector, a random number, 0.5, 0 or 1 by word; none: substitutions as they are", choices=salt.MIXES)
    draw: str = par("step", "r drawn anew in each step, or once for each example", choices=("step", "once"))
    ratio: float = par(1.0, "share of the sentences that are code-switched (CoSDA-ML: 1)", low=0.0, high=1.0)
    cross: float = par(0.4, "share of their words (CoSDA-ML: 0.4 to 0.9)", low=0.0, high=1.0)
    first: str = par("auto", "intermediate task; auto: paraphrase, and before paraphrase nli", choices=("auto", "nli", "paraphrase", "qa"))
    n: int = par(1000, "intermediate examples for each language, in balanced sampling", low=1, high=10_000_000)
    sampling: str = par("balanced", "random: as many in all, drawn from languages in proportion to their text", choices=("balanced", "random"))
# fmt: on


def options(method: str, text: str = "") -> Options:
    """The options of a method, written "threshold=0.7,synonyms=false"; StudyError for one that it lacks."""
    chosen = parse_options(Options, text, f"method {method}")
    foreign = sorted(set(changed(chosen)) - {*COMMON, *_KNOWN.get(method, ())})
    if foreign:
        raise StudyError(f"method {method} has no option {', '.join(foreign)}, found {text!r}")
    return chosen


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


def translated(examples: Mapping[str, Sequence], source: str, seed: int) -> list:
    """Translate-train: each of the source's examples in a language drawn at random; as many as there were.

    Translations are perfect in the synthetic languages.
    """
    languages = list(examples)
    drawn = np.random.default_rng([seed, 13]).integers(len(languages), size=len(examples[source]))
    return [examples[languages[language]][i] for i, language in enumerate(drawn)]


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


class Batch(NamedTuple):
    """Examples of one update: ids (B, T), what is to be predicted, their numbers (B,), and a generator."""

    ids: Tensor
    targets: Tensor
    rows: np.ndarray
    rng: np.random.Generator


BatchLoss = Callable[[TaskModel, Batch], dict[str, Tensor]]


def standard_loss(model: TaskModel, batch: Batch) -> dict[str, Tensor]:
    """The loss on the examples as they are."""
    return {"loss": task_loss(model(batch.ids), batch.targets)}


def loss_of(method: str, chosen: Options, seed: int = 0, twins: Sequence[np.ndarray] = ()) -> BatchLoss:
    """The loss of a method; `twins`: for SALT, the code-switched twin of each training example."""
    if method == "adversarial":
        return partial(_adversarial_loss, chosen)
    if method == "rs_rp":
        return partial(_random_loss, chosen)
    if method == "salt":
        return partial(_mixup_loss, chosen, seed, twins)
    return standard_loss


def _adversarial_loss(chosen: Options, model: TaskModel, batch: Batch) -> dict[str, Tensor]:
    return robust.adversarial_loss(
        lambda embeds: task_loss(model(None, inputs_embeds=embeds), batch.targets),
        partial(model.encoder.embeddings(), batch.ids), robust.movable(batch.ids),
        chosen.epsilon, chosen.norm, chosen.steps, chosen.step_size, chosen.clean_weight,
    )  # fmt: skip


def _randomly_moved(chosen: Options, model: TaskModel, ids: Tensor, rng: np.random.Generator) -> Tensor:
    embeds = model.encoder.embeddings()(ids)
    return robust.randomly_moved(embeds, robust.movable(ids), chosen.size, chosen.distribution, rng)


def _random_loss(chosen: Options, model: TaskModel, batch: Batch) -> dict[str, Tensor]:
    embeds = _randomly_moved(chosen, model, batch.ids, batch.rng)
    return {"loss": task_loss(model(None, inputs_embeds=embeds), batch.targets)}


def _mixup_loss(
    chosen: Options, seed: int, twins: Sequence[np.ndarray], model: TaskModel, batch: Batch
) -> dict[str, Tensor]:
    other = torch.from_numpy(np.stack([twins[row] for row in batch.rows]))
    if chosen.mix == "none":
        return standard_loss(model, batch._replace(ids=other))
    table, shape = model.encoder.embeddings(), (*batch.ids.shape, model.encoder.hidden_size)
    if chosen.draw == "step":
        r = salt.mixing(chosen.mix, shape, batch.rng)
    else:
        rngs = (np.random.default_rng([seed, 17, row]) for row in batch.rows)
        r = torch.cat([salt.mixing(chosen.mix, (1, *shape[1:]), rng) for rng in rngs])
    embeds = salt.mixed(table(batch.ids), table(other), r)
    return {"loss": task_loss(model(None, inputs_embeds=embeds), batch.targets)}


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
) -> list[dict[str, float]]:
    """Train on all examples again and again for `opt.steps` updates; the history of the loss.

    `points`: how many times, evenly spaced and last at the end, weights are kept in the directory.
    """
    targets = torch.from_numpy(data.targets)
    plan = _Plan([len(ids) for ids in data.ids], batch_size, seed)
    kept = {opt.steps * k // points: k for k in range(1, points + 1)}

    def loss(step: int) -> dict[str, Tensor]:
        if step in kept:
            save_file(_trained(model), point(directory, kept[step]))
        rows = plan.rows(step)
        ids = torch.from_numpy(np.stack([data.ids[row] for row in rows]))
        rng = np.random.default_rng([seed, 11, step])
        return batch_loss(model, Batch(ids, targets[torch.from_numpy(rows)], rows, rng))

    history = fit(model, loss, opt, directory, progress, name)
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
    return {name: p.detach().contiguous() for name, p in model.named_parameters() if p.requires_grad}


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


Perturb = Callable[[Tensor], Tensor]  # ids (B, T) -> input embeddings (B, T, H)


@torch.inference_mode()
def predict(
    model: TaskModel, data: Encoded, batch_size: int = 128, perturb: Perturb | None = None
) -> np.ndarray:
    """Labels (N,), or for QA the best first and last subwords (N, 2)."""
    model.eval()
    out = np.zeros_like(data.targets)
    for rows in epoch_batches([len(ids) for ids in data.ids], batch_size, np.random.default_rng(0)):
        ids = torch.from_numpy(np.stack([data.ids[row] for row in rows]))
        logits = model(None, inputs_embeds=perturb(ids)) if perturb else model(ids)
        if model.task == "qa":
            out[rows] = _best_spans(logits, torch.from_numpy(data.context[rows])).numpy()
        else:
            out[rows] = logits.argmax(1).numpy()
    return out


def majority(votes: np.ndarray, classes: int) -> np.ndarray:
    """The label most often voted for: (copies, N) -> (N,). A tie goes to the label of the earliest copy."""
    counts = np.stack([(votes == label).sum(0) for label in range(classes)])  # (C, N)
    leading = np.take_along_axis(counts, votes, 0) == counts.max(0)  # does a copy vote for a winner?
    return np.take_along_axis(votes, leading.argmax(0)[None], 0)[0]


def predict_by_vote(
    model: TaskModel, data: Encoded, chosen: Options, rng: np.random.Generator,
    copies: Sequence[Encoded] = (),
) -> np.ndarray:  # fmt: skip
    """Labels (N,) by majority over `copies` of the data (RS-DA), or over random perturbations (RS-RP)."""
    if copies:
        votes = [predict(model, copy) for copy in copies]
    else:
        perturb = partial(_randomly_moved, chosen, model, rng=rng)
        votes = [predict(model, data, perturb=perturb) for _ in range(chosen.vote)]
    return majority(np.stack(votes), len(LABELS[model.task]))


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
