"""Speed of each pre-training objective: the study's loop against the Hugging Face Trainer with the same loss.

The same model, sentences, batch size, mask rate and number of updates for both. The Trainer pads each batch
to its longest sequence and computes logits at all positions, as transformers' language models do; the loop
draws batches of equal length and has logits at predicted positions only. Tokens are counted without padding.
Seconds are the processor's on a CPU (a busy machine disturbs them less), and of the wall on a GPU; the best
round counts.

`--shape mbert` is for a GPU: 12 layers of 768, 119,547 subwords, sequences of 128 tokens, bf16. Beside every
speed stands the share that the loop reaches of the rate of large matrix products, measured there too: counted
are the encoder's matrices, attention, and the head at predicted positions, forward and backward.

Run: python tests/benchmarks/bench_objectives.py
     python tests/benchmarks/bench_objectives.py --shape mbert --device cuda --compile
"""

import argparse
import copy
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import (
    DataCollatorForLanguageModeling,
    PretrainedConfig,
    PreTrainedTokenizerFast,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from xltlib.data import tokenization
from xltlib.pretraining import models
from xltlib.pretraining.objectives import ParallelText, Recipe, exchange, objective_loss, pulling_loss
from xltlib.pretraining.training import Optimization, fit, pad

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import shapes  # of published models: tests make them, too

SHAPES = {  # shortest and longest: tokens of a pair
    "tiny": {"hidden": 64, "layers": 3, "heads": 2, "vocab": 900, "shortest": 16, "longest": 32,
             "pairs": 2000, "batch": 32, "updates": 100},
    "mbert": {"hidden": 768, "layers": 12, "heads": 12, "vocab": 119_547, "shortest": 128, "longest": 128,
              "pairs": 4000, "batch": 256, "updates": 40},
}  # fmt: skip
OBJECTIVES = ("mlm", "tlm", "weam", "word_aligned")  # the others run the same losses on other texts


class Counted(models.Encoder):
    """An encoder that counts real tokens and predictions."""

    tokens = predictions = 0

    def states(self, input_ids, attention_mask=None, inputs_embeds=None, **given):
        self.tokens += (
            input_ids.numel() if attention_mask is None else attention_mask.sum()
        )  # read at the end
        return super().states(input_ids, attention_mask, inputs_embeds, **given)

    def logits(self, states):
        self.predictions += states.shape[:-1].numel()
        return super().logits(states)


class Measured(NamedTuple):
    """Tokens, seconds, and for the study's loop predictions of all updates together."""

    tokens: int
    seconds: float
    predictions: int = 0


def parallel_text(args) -> ParallelText:
    """Random sentences with half of their words linked."""
    rng, first = np.random.default_rng(0), len(tokenization.SPECIAL)
    lengths = rng.integers(args.shortest, args.longest + 1, args.pairs) - 3
    source = [rng.integers(first, args.vocab, n // 2) for n in lengths]
    target = [rng.integers(first, args.vocab, n - n // 2) for n in lengths]
    links = [np.stack([np.sort(rng.permutation(n // 2)[: n // 4]) for _ in range(2)], 1) for n in lengths]
    return ParallelText(source, target, links)


class Clock(TrainerCallback):
    """When training began and ended."""

    def __init__(self, args) -> None:
        self.args = args

    def on_train_begin(self, *args, **kwargs) -> None:
        self.begin = now(self.args)

    def on_train_end(self, *args, **kwargs) -> None:
        self.end = now(self.args)


def new_encoder(args) -> Counted:
    with models.device(args.device):
        if args.shape == "tiny":
            made = models.tiny(args.vocab, args.hidden, args.layers, args.heads, seed=0)
        else:
            made = shapes.encoder(mbert(args))
    return Counted(made.lm)


def mbert(args, **changes) -> PretrainedConfig:
    """The shape of mBERT, with the sizes that were asked for."""
    return shapes.shape(
        "mbert", vocab_size=args.vocab, hidden_size=args.hidden, num_hidden_layers=args.layers,
        num_attention_heads=args.heads, intermediate_size=4 * args.hidden, **changes,
    )  # fmt: skip


def now(args) -> float:
    """Seconds: of the processor, or of the wall once the GPU has nothing left to do."""
    if args.device == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def precision(args) -> str:
    """Of the matrix products of both loops."""
    return "float32" if args.device == "cpu" else "bfloat16"


def ours(name: str, text: ParallelText, args) -> Measured:
    """The study's loop."""
    encoder = new_encoder(args)
    if args.compile:
        models.compiled(encoder)
    loss = objective_loss(name, encoder, [text], Recipe(args.batch, args.rate, seed=0))

    def train(updates: int) -> None:
        encoder.tokens = encoder.predictions = 0
        fit(encoder, loss, Optimization(updates, 1e-4, precision=precision(args)))

    train(min(10, args.updates))  # warm
    start = now(args)
    train(args.updates)
    return Measured(int(encoder.tokens), now(args) - start, encoder.predictions)


class Collator:
    """Batches of rows of a pair, padded; masked as DataCollatorForLanguageModeling does."""

    def __init__(self, name: str, rate: float, vocab: int) -> None:
        self.name, self.tokens = name, 0
        names = [*tokenization.SPECIAL, *(f"w{i}" for i in range(vocab - len(tokenization.SPECIAL)))]
        words = Tokenizer(WordLevel({name: i for i, name in enumerate(names)}, "[UNK]"))
        special = {f"{name.strip('[]').lower()}_token": name for name in tokenization.SPECIAL}
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, **special)
        self.mask = DataCollatorForLanguageModeling(tokenizer, mlm_probability=rate)

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        if self.name == "word_aligned":
            return self._sides(rows)
        batch = self.mask([{"input_ids": row["input_ids"]} for row in rows])
        batch["attention_mask"] = torch.zeros_like(batch["input_ids"])
        partner = torch.arange(batch["input_ids"].shape[1]).repeat(len(rows), 1)
        for k, row in enumerate(rows):
            batch["attention_mask"][k, : len(row["input_ids"])] = 1
            partner[k, : len(row["partner"])] = torch.tensor(row["partner"])
        self.tokens += int(batch["attention_mask"].sum())
        return dict(batch) | ({"partner": partner} if self.name == "weam" else {})

    def _sides(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        sides = {side: pad([tokenization.join(row[side]) for row in rows]) for side in ("source", "target")}
        self.tokens += sum(int(mask.sum()) for _, mask in sides.values())
        links = [np.array(row["links"]).reshape(-1, 2) + 1 for row in rows]
        at = torch.from_numpy(np.repeat(np.arange(len(rows)), [len(link) for link in links]))
        flat = {f"{side}_{k}": part for side, both in sides.items() for k, part in enumerate(both)}
        return flat | {"at": at, "links": torch.from_numpy(np.concatenate(links))}


class ObjectiveTrainer(Trainer):
    """The Trainer with the loss of an objective, on whole sequences of logits."""

    objective, frozen = "mlm", None

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        if self.objective == "word_aligned":
            return self._pull(model, inputs)
        partner = inputs.pop("partner", None)
        out = model(**inputs, output_hidden_states=partner is not None)
        if partner is None:
            return out.loss
        head = models.Encoder(model).logits
        crossed = head(exchange(out.hidden_states[-1], partner))
        return out.loss + F.cross_entropy(crossed.flatten(0, 1), inputs["labels"].flatten())

    def _pull(self, model, given):
        states, others, start = (
            lm.base_model(input_ids=given[f"{side}_0"], attention_mask=given[f"{side}_1"]).last_hidden_state
            for lm, side in ((model, "source"), (model, "target"), (self.frozen, "source"))
        )
        left, right = given["links"].unbind(1)
        return pulling_loss(states[given["at"], left], others[given["at"], right], start, states)["loss"]


def rows_of(name: str, text: ParallelText) -> list[dict]:
    if name == "word_aligned":
        sides = zip(text.source, text.target, text.links, strict=True)
        return [{"source": a.tolist(), "target": b.tolist(), "links": x.tolist()} for a, b, x in sides]
    pairs = zip(*text.concatenated(), strict=True)
    return [{"input_ids": ids.tolist(), "partner": partner.tolist()} for ids, partner in pairs]


def trainers(name: str, text: ParallelText, args) -> Measured:
    """The Trainer; its preparations are not counted."""
    encoder, rows = new_encoder(args), rows_of(name, text)
    collate = Collator(name, args.rate, args.vocab)

    def train(updates: int) -> float:
        with tempfile.TemporaryDirectory() as folder:
            arguments = TrainingArguments(
                folder, max_steps=updates, per_device_train_batch_size=args.batch, learning_rate=1e-4,
                report_to=[], save_strategy="no", logging_strategy="no", disable_tqdm=True,
                use_cpu=args.device == "cpu", bf16=args.device != "cpu", remove_unused_columns=False,
                dataloader_pin_memory=args.device != "cpu",
            )  # fmt: skip
            trainer = ObjectiveTrainer(encoder.lm, arguments, train_dataset=rows, data_collator=collate)
            trainer.objective = name
            trainer.frozen = copy.deepcopy(encoder.lm).eval().requires_grad_(False)
            clock = Clock(args)
            trainer.remove_callback(PrinterCallback)
            trainer.add_callback(clock)
            trainer.train()
            return clock.end - clock.begin

    train(min(10, args.updates))
    collate.tokens = 0
    seconds = train(args.updates)
    return Measured(collate.tokens, seconds)


def operations(name: str, encoder: models.Encoder, measured: Measured, args) -> float:
    """Floating-point operations of all updates: 6 for each token and weight of a matrix it passes."""
    length = measured.tokens / args.updates / args.batch / (2 if name == "word_aligned" else 1)
    passed = matrices(encoder) + 2 * args.layers * length * args.hidden  # weights, and as many for attention
    head = args.hidden * (args.vocab + args.hidden)
    frozen = 1 / 6 if name == "word_aligned" else 0  # one side of two, forward only: a third of half
    return 6 * (measured.tokens * passed * (1 + frozen) + measured.predictions * head)


def matrices(encoder: models.Encoder) -> int:
    """The weights of the matrices that each token passes, the head's left out."""
    found = sum(p.numel() for p in encoder.lm.base_model.parameters() if p.ndim > 1)
    return found - sum(m.weight.numel() for m in encoder.lm.modules() if isinstance(m, torch.nn.Embedding))


def matrix_rate(args, precision: str) -> float:
    """Operations a second of products of large square matrices in this precision."""
    size, kind = 1024 if args.device == "cpu" else 8192, getattr(torch, precision)
    a, b = (torch.randn(size, size, device=args.device, dtype=kind) for _ in range(2))
    best = 0.0
    for _ in range(5):
        start = now(args)
        for _ in range(10):
            a @ b
        best = max(best, 10 * 2 * size**3 / (now(args) - start))
    return best


def read_arguments(parser: argparse.ArgumentParser, shapes: dict[str, dict[str, int]]) -> argparse.Namespace:
    """The arguments, with the sizes of the chosen shape where none are given."""
    parser.add_argument("--shape", choices=shapes, default="tiny", help="defaults of all sizes below")
    for size in shapes["tiny"]:
        parser.add_argument(f"--{size}", type=int)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--compile", action="store_true", help="compile the encoder of the study's loop")
    args = parser.parse_args()
    for size, default in shapes[args.shape].items():
        setattr(args, size, getattr(args, size) or default)
    return args


def main() -> None:
    """Print one row per objective."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rate", type=float, default=0.3, help="share of the subwords masked")
    parser.add_argument("--objectives", nargs="+", choices=OBJECTIVES, default=OBJECTIVES)
    args = read_arguments(parser, SHAPES)
    torch.set_num_threads(1)
    text, best = parallel_text(args), {}
    for _ in range(args.rounds):
        for name in args.objectives:
            for loop in (ours, trainers):
                found = loop(name, text, args)
                before = best.get((name, loop))
                best[name, loop] = found if before is None or found.seconds < before.seconds else before
    rate, encoder = matrix_rate(args, precision(args)), new_encoder(args)
    print(f"{args.shape} on {args.device}: large matrix products at {rate / 1e12:.3f} TFLOP/s")
    titles = ("tokens/s", "ms/update", "of tlm", "of the rate", "Trainer's", "ratio")
    print(f"{'objective':14}" + "".join(f"{title:>12}" for title in titles))
    for name in args.objectives:
        a, b = best[name, ours], best[name, trainers]
        cost = a.seconds / best["tlm", ours].seconds if ("tlm", ours) in best else float("nan")
        share = operations(name, encoder, a, args) / a.seconds / rate
        speeds = a.tokens / a.seconds, b.tokens / b.seconds
        print(
            f"{name:14}{speeds[0]:12,.0f}{1000 * a.seconds / args.updates:12.2f}{cost:12.2f}{share:12.1%}"
            f"{speeds[1]:12,.0f}{speeds[0] / speeds[1]:12.2f}"
        )


if __name__ == "__main__":
    main()
