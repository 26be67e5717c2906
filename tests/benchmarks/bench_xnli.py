"""Speed of fine-tuning and prediction on pairs as long as XNLI's: the study's loop against the Trainer.

The same model, examples, batch size, loss, optimiser and precision. The Trainer pads each batch to its
longest pair, as transformers' scripts do; the loop draws batches of nearly equal length. The best of the
rounds counts. Lengths are drawn from a log-normal distribution with the mean and the deviation of XNLI's
English test pairs, at a quarter more subwords than words. Seconds are the processor's on a CPU, and of the
wall on a GPU.

`--shape e5` is the fine-tuning of params/pretrained.yaml: six layers of 384 in bf16, embeddings frozen.
`--shape mbert` is for a GPU: 12 layers of 768 in bf16, embeddings trained too. Beside the speed stands the
share that the loop reaches of the rate of large matrix products, measured there too, without what padding
takes. Then predictions of as many pairs as XNLI's test has in 15 languages, and what an adversarial update
costs, which may be 1 + steps standard ones. `--task qa`: the same for answers in passages.

Run: python tests/benchmarks/bench_xnli.py
     python tests/benchmarks/bench_xnli.py --shape e5 --task qa
     python tests/benchmarks/bench_xnli.py --shape mbert --device cuda --compile
"""

import argparse
import tempfile
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from bench_objectives import Clock, matrices, matrix_rate, mbert, now, read_arguments, shapes
from transformers import PrinterCallback, Trainer, TrainingArguments

from xltlib.finetuning import methods
from xltlib.finetuning.tasks import Encoded, TaskModel, predict, task_loss
from xltlib.pretraining import models
from xltlib.pretraining.training import Optimization, pad

SHAPES = {
    "tiny": {"hidden": 64, "layers": 3, "heads": 2, "vocab": 900, "pairs": 4000, "batch": 32, "updates": 100,
             "predicted": 5010},
    "e5": {"hidden": 384, "layers": 6, "heads": 12, "vocab": 50_000, "pairs": 2000, "batch": 32,
           "updates": 15, "predicted": 640},
    "mbert": {"hidden": 768, "layers": 12, "heads": 12, "vocab": 119_547, "pairs": 40_000, "batch": 32,
              "updates": 1000, "predicted": 15 * 5010},
}  # fmt: skip
LENGTHS = 3.70, 0.34  # mean and standard deviation of the logarithm of a pair's subwords
SHORTEST, LONGEST = 8, 128


def examples(count: int, args) -> Encoded:
    """Random pairs with random labels, or with one of the second segment's subwords as the answer."""
    rng = np.random.default_rng(count)
    lengths = np.clip(rng.lognormal(*LENGTHS, count).round(), SHORTEST, LONGEST).astype(int)
    ids, second = [rng.integers(5, args.vocab, n) for n in lengths], lengths * 2 // 3
    if args.task == "nli":
        return Encoded(ids, rng.integers(0, 3, count), second, padded=True)
    answers, spans = rng.integers(second, lengths - 1), [[(0, 1)] * n for n in lengths - 1 - second]
    return Encoded(
        ids, np.stack([answers, answers], 1), second, spans, examples=np.arange(count), padded=True
    )


def new_model(args) -> TaskModel:
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0} if args.shape == "e5" else {}
    with models.device(args.device):
        pooling, freeze = ("mean", True) if args.shape == "e5" else ("cls", False)
        return TaskModel(shapes.encoder(mbert(args, **still)), args.task, 0, pooling, freeze)


def precision(args) -> str:
    """Of the matrix products of both loops."""
    return "float32" if args.shape == "tiny" and args.device == "cpu" else "bfloat16"


def seconds(action: Callable[[], object], args) -> float:
    start = now(args)
    action()
    return now(args) - start


class PairTrainer(Trainer):
    """The Trainer with the loss of the study's model."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        return task_loss(model(inputs["ids"], inputs["mask"], second=inputs["second"]), inputs["labels"])


def collate(rows: list[dict]) -> dict[str, torch.Tensor]:
    ids, mask = pad([row["ids"] for row in rows])
    rest = {name: torch.tensor([row[name] for row in rows]) for name in ("second", "labels")}
    return {"ids": ids, "mask": mask} | rest


def trainers(data: Encoded, model: TaskModel, updates: int, args) -> float:
    """Seconds of the Trainer, its preparations not counted."""
    columns = zip(data.ids, data.second.tolist(), data.targets.tolist(), strict=True)
    rows = [{"ids": ids, "second": second, "labels": label} for ids, second, label in columns]
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, max_steps=updates, per_device_train_batch_size=args.batch, learning_rate=2e-5,
            report_to=[], save_strategy="no", logging_strategy="no", disable_tqdm=True,
            use_cpu=args.device == "cpu", bf16=precision(args) == "bfloat16", remove_unused_columns=False,
            dataloader_pin_memory=args.device != "cpu", dataloader_num_workers=args.workers,
        )  # fmt: skip
        trainer, clock = PairTrainer(model, arguments, train_dataset=rows, data_collator=collate), Clock(args)
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(clock)
        trainer.train()
        return clock.end - clock.begin


def operations(model: TaskModel, data: Encoded, args) -> float:
    """Floating-point operations of one pair in training: 6 for each subword and weight of a matrix."""
    lengths = np.array(data.lengths)
    return float(6 * (lengths * (matrices(model.encoder) + 2 * args.layers * lengths * args.hidden)).mean())


def main() -> None:
    """Print the speed of both, their ratio, and the seconds of prediction."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", choices=("nli", "qa"), default="nli")
    parser.add_argument("--workers", type=int, default=0, help="processes that collate the Trainer's batches")
    args = read_arguments(parser, SHAPES)
    torch.set_num_threads(1)
    data, test, products = examples(args.pairs, args), examples(args.predicted, args), precision(args)
    rate, model, other = matrix_rate(args, products), new_model(args), new_model(args)
    if args.compile:
        models.compiled(model.encoder)

    def ours(updates: int, loss: methods.BatchLoss = methods.standard_loss) -> None:
        opt = Optimization(updates, 2e-5, precision=products)
        methods.finetune(model, data, opt, args.batch, 0, loss)

    warm = len(data.ids) // args.batch if args.compile else 20  # every length comes by
    print(f"warm: {seconds(lambda: ours(min(warm, args.updates)), args):.1f} s", flush=True)
    trainers(data, other, min(20, args.updates), args)
    best = [float("inf")] * 2
    for _ in range(args.rounds):
        found = seconds(lambda: ours(args.updates), args), trainers(data, other, args.updates, args)
        best = [min(pair) for pair in zip(best, found, strict=True)]
    speeds = [args.updates * args.batch / each for each in best]
    share = operations(model, data, args) * speeds[0] / rate
    print(f"{args.shape} on {args.device}: large matrix products at {rate / 1e12:.3f} TFLOP/s")
    print(f"training: {speeds[0]:,.0f} pairs/s, {share:.1%} of the rate")
    print(f"Trainer: {speeds[1]:,.0f} pairs/s, ratio {speeds[0] / speeds[1]:.2f}", flush=True)
    passed = [seconds(lambda: predict(model, test, precision=products), args) for _ in range(args.rounds)]
    print(f"prediction of {args.predicted:,} pairs: {min(passed):.2f} s (at first {passed[0]:.2f})")
    attacked = partial(ours, args.updates, methods.adversarial_loss)
    for steps in (1, 2, 3):
        methods.STEPS = steps
        cost = min(seconds(attacked, args) for _ in range(args.rounds)) / best[0]
        print(f"adversarial update, steps {steps}: {cost:.2f} standard ones (at most {1 + steps})")


if __name__ == "__main__":
    main()
