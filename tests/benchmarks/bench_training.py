"""Speed of masked-language-model training on one core: the study's loop against the Hugging Face Trainer.

The same model, sentences, batch size, mask rate and number of updates for both. The Trainer pads each batch
to its longest sentence and computes logits at all positions; the loop draws batches of equal length and has
logits at masked positions only. Tokens are counted without padding, seconds are the processor's (a busy
machine disturbs them less), without the Trainer's preparations; the best of the rounds counts.

Run: python tests/benchmarks/bench_training.py --updates 200
     python tests/benchmarks/bench_training.py --hidden 128 --vocab 8000 --precision bfloat16
"""

import argparse
import tempfile
import time

import numpy as np
import torch
from transformers import DataCollatorForLanguageModeling, Trainer, TrainerCallback, TrainingArguments

from xltlib.data import synthetic, tokenization
from xltlib.data.synthetic import World
from xltlib.pretraining import models
from xltlib.pretraining.objectives import Recipe, document_loss
from xltlib.pretraining.training import Optimization, Pool, fit


def sequences(kind: str, count: int, vocab_size: int) -> tuple:
    """Texts of all synthetic languages as ids, and their tokenizer."""
    world, rng, drawn = World(), np.random.default_rng(0), []
    for language in world.languages:
        if kind == "documents":
            drawn += synthetic.documents(world, count, rng).render(world, language)
        else:
            sides = (world.render(synthetic.parallel(world, count, rng), language) for _ in range(2))
            drawn += [(a.words, b.words) for a, b in zip(*sides, strict=True)]
    tokenizer = tokenization.train([" ".join(part) for document in drawn for part in document], vocab_size)
    encode = tokenization.WordEncoder(tokenizer)
    return tokenizer, [tokenization.join(encode(a)[0], encode(b)[0]) for a, b in drawn]


def ours(
    encoder: models.Encoder, ids: list, updates: int, batch_size: int, rate: float, precision: str
) -> tuple[int, float]:
    """Tokens seen and seconds of the study's loop."""
    seen = 0

    class Counted(Pool):
        def draw(self, rng, *size):
            nonlocal seen
            batch, rows = super().draw(rng, *size)
            seen += batch.size
            return batch, rows

    loss = document_loss(encoder, [Counted(ids)], [1.0], Recipe(batch_size, rate, seed=0))
    fit(encoder, loss, Optimization(10, 1e-3, precision=precision))  # warm
    seen, start = 0, time.process_time()
    fit(encoder, loss, Optimization(updates, 1e-3, precision=precision))
    return seen, time.process_time() - start


class Clock(TrainerCallback):
    """When training began and ended, in seconds of the processor."""

    def on_train_begin(self, *args, **kwargs) -> None:
        self.begin = time.process_time()

    def on_train_end(self, *args, **kwargs) -> None:
        self.end = time.process_time()


def trainers(
    encoder: models.Encoder, tokenizer, ids: list, updates: int, batch_size: int, rate: float, precision: str
) -> tuple[int, float]:
    """Real tokens seen (without padding) and seconds of the Trainer."""
    seen = 0
    collate = DataCollatorForLanguageModeling(tokenizer, mlm_probability=rate)

    def counted(rows):
        nonlocal seen
        batch = collate(rows)
        seen += int(batch["attention_mask"].sum())
        return batch

    rows = [{"input_ids": x.tolist(), "attention_mask": [1] * len(x)} for x in ids]

    def train(steps: int) -> float:
        with tempfile.TemporaryDirectory() as folder:
            arguments = TrainingArguments(
                folder, max_steps=steps, per_device_train_batch_size=batch_size, learning_rate=1e-3,
                report_to=[], save_strategy="no", logging_strategy="no", disable_tqdm=True, use_cpu=True,
                remove_unused_columns=False, bf16=precision == "bfloat16",
            )  # fmt: skip
            trainer = Trainer(encoder.lm, arguments, train_dataset=rows, data_collator=counted)
            clock = Clock()
            trainer.add_callback(clock)
            trainer.train()
            return clock.end - clock.begin

    train(10)  # warm
    seen = 0
    seconds = train(updates)
    return seen, seconds


def main() -> None:
    """Print one row per loop, and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--updates", type=int, default=200)
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--heads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, default=0.15)
    parser.add_argument("--vocab", type=int, default=900)
    parser.add_argument("--text", choices=("sentences", "documents"), default="sentences")
    parser.add_argument("--count", type=int, default=1000, help="texts of each language")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    tokenizer, ids = sequences(args.text, args.count, args.vocab)
    lengths = [len(x) for x in ids]
    print(f"{len(ids)} sequences of {min(lengths)} to {max(lengths)} tokens, {len(tokenizer)} subwords")
    shape = (len(tokenizer), args.hidden, args.layers, args.heads)
    settings = (ids, args.updates, args.batch, args.rate, args.precision)
    best = {"ours": (0.0, 0, 0.0), "Trainer": (0.0, 0, 0.0)}
    for _ in range(args.rounds):
        for name in best:
            encoder = models.tiny(*shape, seed=0)
            measured = ours(encoder, *settings) if name == "ours" else trainers(encoder, tokenizer, *settings)
            best[name] = max(best[name], (measured[0] / measured[1], *measured))
    print(f"{'loop':10}{'tokens':>12}{'seconds':>9}{'tokens/s':>11}{'updates/s':>11}")
    for name, (rate, tokens, seconds) in best.items():
        print(f"{name:10}{tokens:12,}{seconds:9.2f}{rate:11,.0f}{args.updates / seconds:11.1f}")
    print(f"ratio of tokens/s: {best['ours'][0] / best['Trainer'][0]:.2f}")


if __name__ == "__main__":
    main()
