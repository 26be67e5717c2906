"""Speed and memory of published architectures in training and prediction, with random weights, on this GPU.

Every model trains at its full shape (mT5 with its decoder) on random sequences of one length, by the study's
loop: in bf16 with torch's fused attention and fused Adam, weights in 32 bits. What was measured, with the
GPU's name and the date, is what `xlt plan` tells hours from: figures/throughput.json.

Run: python tests/benchmarks/bench_gpu.py --models mbert xlmr-large mt5-base
"""

import argparse
import datetime
import time
from pathlib import Path

import torch
from bench_objectives import shapes
from torch import nn
from transformers import MT5ForConditionalGeneration

from xltlib.data import hub
from xltlib.finetuning.tasks import TaskModel
from xltlib.plan import THROUGHPUT
from xltlib.pretraining import models
from xltlib.pretraining.training import Optimization, fit
from xltlib.store import read_json, write_json

CLASSES, ANSWER = 3, 16  # labels of NLI; subwords of an answer


class Whole(nn.Module):
    """mT5 with its decoder, as text to text."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.lm = MT5ForConditionalGeneration(shapes.shape(name))

    def forward(self, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return self.lm(input_ids=ids, labels=labels[:, None].repeat(1, ANSWER)).loss


class Classifier(nn.Module):
    """An encoder that tells one of three labels of a pair."""

    def __init__(self, name: str, fused: bool) -> None:
        super().__init__()
        encoder = shapes.encoder(shapes.shape(name))
        encoder = models.compiled(encoder) if fused else encoder
        self.task = TaskModel(encoder, "nli", 0, "cls", freeze_embeddings=False)

    def forward(self, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(self.task(ids).float(), labels)


def measure(name: str, device: torch.device, batch: int, length: int, updates: int, fused: bool) -> dict:
    """Sequences a second in training and in prediction, and the memory that training takes."""
    with device:  # weights are drawn there
        model = Whole(name) if name.startswith("mt5") else Classifier(name, fused)
    ids = torch.randint(5, shapes.shape(name).vocab_size, (batch, length), device=device)
    labels = torch.randint(CLASSES, (batch,), device=device)

    def train(times: int) -> None:
        fit(model, lambda step: {"loss": model(ids, labels)}, Optimization(times, 2e-5, precision="bfloat16"))

    @torch.inference_mode()
    def predict(times: int) -> None:
        model.eval()
        with torch.autocast(device.type, torch.bfloat16):
            for _ in range(times):
                last = model(ids, labels)
        last.item()  # to read it is to wait for the GPU

    rates = [batch / seconds(step, updates) for step in (train, predict)]
    memory = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
    return {
        "sequences_per_second": round(rates[0], 1), "predicted_per_second": round(rates[1], 1),
        "compiled": fused, "batch": batch, "length": length, "memory_mib": round(memory / 2**20),
        "parameters": sum(p.numel() for p in model.parameters()),
    }  # fmt: skip


def seconds(run, times: int) -> float:
    """Seconds of one step of so many, after some to warm up."""
    run(3)
    start = time.perf_counter()
    run(times)
    return (time.perf_counter() - start) / times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--models", nargs="+", default=["mbert", "xlmr-large", "mt5-base"], choices=hub.MODELS
    )
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--updates", type=int, default=50)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--compile", action="store_true", help="compile the layers of encoders (not of mT5)")
    parser.add_argument("--out", type=Path, default=Path("figures") / THROUGHPUT)
    args = parser.parse_args()
    device = models.device(args.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    told = read_json(args.out) if args.out.is_file() else {}
    told = told if told.get("gpu") == name else {"gpu": name, "models": {}}
    told |= {"date": datetime.date.today().isoformat(), "torch": torch.__version__}
    for model in args.models:
        told["models"][model] = measure(model, device, args.batch, args.length, args.updates, args.compile)
        print(model, told["models"][model], flush=True)
        write_json(args.out, told)
        if device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)


if __name__ == "__main__":
    main()
