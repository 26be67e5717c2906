"""Speed and memory of published architectures in training and prediction, with random weights, on this GPU.

Every model trains at its full shape (mT5 with its decoder) on random sequences of one length, in bf16 with
torch's fused attention and fused Adam, weights in 32 bits. What was measured, with the GPU's name and the
date, is what `xlt plan` tells hours from: figures/throughput.json.

Run: python tests/benchmarks/bench_gpu.py --models mbert xlmr-large mt5-base
"""

import argparse
import datetime
import time
from pathlib import Path

import torch
from torch import nn
from transformers import MT5ForConditionalGeneration

from xltlib import models
from xltlib.files import read_json, write_json
from xltlib.finetuning import TaskModel
from xltlib.plan import THROUGHPUT

CLASSES, ANSWER = 3, 16  # labels of NLI; subwords of an answer


class Whole(nn.Module):
    """mT5 with its decoder, as text to text."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.lm = MT5ForConditionalGeneration(models.config(name))

    def forward(self, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return self.lm(input_ids=ids, labels=labels[:, None].expand(-1, ANSWER)).loss


class Classifier(nn.Module):
    """An encoder that tells one of three labels of a pair."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.task = TaskModel(models.from_config(name, 0), "nli", 0, "cls", freeze_embeddings=False)

    def forward(self, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(self.task(ids).float(), labels)


def measure(name: str, device: torch.device, batch: int, length: int, updates: int) -> dict:
    """Sequences a second in training and in prediction, and the memory that training takes."""
    model = (Whole(name) if name.startswith("mt5") else Classifier(name)).to(device).train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=2e-5, fused=True)
    ids = torch.randint(5, models.config(name).vocab_size, (batch, length), device=device)
    labels = torch.randint(CLASSES, (batch,), device=device)

    def update() -> torch.Tensor:
        with torch.autocast(device.type, torch.bfloat16):
            loss = model(ids, labels)
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss

    @torch.inference_mode()
    def predict() -> torch.Tensor:
        with torch.autocast(device.type, torch.bfloat16):
            return model(ids, labels)

    rates = [batch / seconds(step, updates) for step in (update, predict)]
    memory = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
    return {
        "sequences_per_second": round(rates[0], 1), "predicted_per_second": round(rates[1], 1),
        "batch": batch, "length": length, "memory_mib": round(memory / 2**20),
        "parameters": sum(p.numel() for p in model.parameters()),
    }  # fmt: skip


def seconds(step, times: int) -> float:
    """Seconds of one step, after some to warm up; reading its value waits for the GPU."""
    for _ in range(3):
        step().item()
    start = time.perf_counter()
    for _ in range(times):
        last = step()
    last.item()
    return (time.perf_counter() - start) / times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--models", nargs="+", default=["mbert", "xlmr-large", "mt5-base"], choices=models.PUBLISHED
    )
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--updates", type=int, default=50)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, default=Path("figures") / THROUGHPUT)
    args = parser.parse_args()
    device = torch.device(args.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    told = read_json(args.out) if args.out.is_file() else {}
    told = told if told.get("gpu") == name else {"gpu": name, "models": {}}
    told |= {"date": datetime.date.today().isoformat(), "torch": torch.__version__}
    for model in args.models:
        told["models"][model] = measure(model, device, args.batch, args.length, args.updates)
        print(model, told["models"][model], flush=True)
        write_json(args.out, told)
        if device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)


if __name__ == "__main__":
    main()
