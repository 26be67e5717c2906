"""Speed of fine-tuning and prediction on one core: batches of equal length against padding to 128 subwords.

Padding every example to a fixed length of 128 is what the code released with Robust-XLT does
(run_classify.py, uclanlp/Robust-XLT, commit 175cddb). Both sides have the same model, examples, batch size,
loss and optimiser; only the batches differ. Then the cost of an adversarial update, which may be 1 + steps
standard ones. Seconds are the processor's (a busy machine disturbs them less); the best of the rounds counts.

Run: python tests/benchmarks/bench_finetuning.py --updates 100
"""

import argparse
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch

from xltlib.data import synthetic, tokenization
from xltlib.data.synthetic import World
from xltlib.finetuning import methods, tasks
from xltlib.finetuning.tasks import Encoded, TaskModel, encode, task_loss
from xltlib.pretraining import models
from xltlib.pretraining.training import Optimization, fit

FIXED = 128  # subwords: --max_seq_length of the released scripts


def read(task: str, count: int, vocab_size: int) -> tuple[Encoded, int]:
    """Examples of the source language, and the size of the vocabulary."""
    world = World()
    documents = synthetic.documents(world, 3000, np.random.default_rng(0))
    texts = [" ".join(part) for name in world.languages for d in documents.render(world, name) for part in d]
    tokenizer = tokenization.train(texts, vocab_size)
    examples = synthetic.task_examples(world, task, count, "train", 0)["src"]
    return encode(tokenizer, task, examples), len(tokenizer)


def padded(data: Encoded, rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids (B, 128), and the mask of the real ones."""
    ids = torch.zeros(len(rows), FIXED, dtype=torch.int64)
    for line, row in enumerate(rows):
        ids[line, : len(data.ids[row])] = torch.from_numpy(data.ids[row])
    return ids, (ids != 0).long()


def train_padded(model: TaskModel, data: Encoded, opt: Optimization, batch_size: int) -> None:
    """The same updates on padded batches."""
    targets, count = torch.from_numpy(data.targets), len(data.ids)

    def loss(step: int) -> dict[str, torch.Tensor]:
        rows = np.random.default_rng([1, step]).integers(0, count, batch_size)
        ids, mask = padded(data, rows)
        return {"loss": task_loss(model(ids, mask), targets[torch.from_numpy(rows)])}

    fit(model, loss, opt)


@torch.inference_mode()
def predict_padded(model: TaskModel, data: Encoded, batch_size: int) -> None:
    """Predictions from padded batches."""
    model.eval()
    for start in range(0, len(data.ids), batch_size):
        rows = np.arange(start, min(start + batch_size, len(data.ids)))
        logits = model(*padded(data, rows))
        if model.task == "qa":
            tasks.best_spans(logits, *(torch.from_numpy(x[rows]) for x in data.passages()))


def seconds(action: Callable[[], object]) -> float:
    """Processor seconds of one call."""
    start = time.process_time()
    action()
    return time.process_time() - start


def adversarial(model: TaskModel, data: Encoded, opt: Optimization, batch_size: int, rounds: int) -> None:
    """Print what an adversarial update costs, in standard ones."""

    def best(loss: methods.BatchLoss) -> float:
        run = partial(methods.finetune, model, data, opt, batch_size, 0, loss)
        return min(seconds(run) for _ in range(rounds))

    plain = best(methods.standard_loss)
    for steps in (1, 2, 3):
        methods.STEPS = steps
        ratio = best(methods.adversarial_loss) / plain
        print(
            f"{model.task:12} adversarial, steps {steps}: {ratio:.2f} standard updates (at most {1 + steps})"
        )


def main() -> None:
    """Print one row per way and task, and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--updates", type=int, default=100)
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--heads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--vocab", type=int, default=900)
    parser.add_argument("--count", type=int, default=4000, help="examples")
    parser.add_argument("--tasks", nargs="+", default=["nli", "paraphrase", "qa"])
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    opt = Optimization(args.updates, 1e-4)
    print(f"{'task':12}{'length':>8}{'what':>12}{'equal length':>14}{'padded':>10}{'ratio':>8}   examples/s")
    for task in args.tasks:
        data, vocabulary = read(task, args.count, args.vocab)
        shape, length = (args.hidden, args.layers, args.heads), np.mean([len(ids) for ids in data.ids])
        model = TaskModel(models.tiny(vocabulary, *shape, seed=0), task, 0)
        trained = args.updates * args.batch
        ways = {
            "training": (
                trained,
                partial(methods.finetune, model, data, opt, args.batch, 0),
                partial(train_padded, model, data, opt, args.batch),
            ),
            "prediction": (
                len(data.ids),
                partial(tasks.predict, model, data),
                partial(predict_padded, model, data, 128),
            ),
        }
        for what, (count, ours, theirs) in ways.items():
            times = [(seconds(ours), seconds(theirs)) for _ in range(args.rounds)]
            fast, slow = (count / min(column) for column in zip(*times, strict=True))
            print(f"{task:12}{length:8.1f}{what:>12}{fast:14,.0f}{slow:10,.0f}{fast / slow:8.1f}", flush=True)
        adversarial(model, data, opt, args.batch, args.rounds)


if __name__ == "__main__":
    main()
