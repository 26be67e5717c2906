"""The machine a run is computed on: versions and hardware without its name, memory, and room on the disk."""

import contextlib
import errno
import importlib.metadata
import os
import platform
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from xltlib import StudyError


def environment() -> dict[str, Any]:
    """What numbers may depend on besides a run's spec: versions, processor, threads, GPU."""
    found: dict[str, Any] = {"python": platform.python_version(), "machine": platform.machine()}
    for name in ("torch", "transformers", "tokenizers", "numpy", "scipy"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    found["cpu"], found["cores"] = _cpu(), os.cpu_count()
    torch = sys.modules.get("torch")  # a run without torch does not wait for its import
    if torch:
        found["threads"] = torch.get_num_threads()
        found["gpu"] = torch.cuda.get_device_name() if torch.cuda.is_initialized() else None
    return found


def commit(folder: Path) -> str:
    """The commit that a folder's repository stands at, with `+` where files were changed; "" without one."""
    command = ["git", "-C", str(folder), "describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*"]
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    return ""


def gpus() -> list[str]:
    """The GPUs that this process may use, as the variable CUDA_VISIBLE_DEVICES names them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [one.strip() for one in named.split(",") if one.strip()]
    import torch  # slow, and needless where the variable tells

    return [str(number) for number in range(torch.cuda.device_count())]


def fast_in_16_bits() -> bool:
    """Whether the processor says that it multiplies bfloat16 matrices (by AVX-512, AMX, or Arm)."""
    return bool({"avx512_bf16", "amx_bf16", "bf16"} & set(_cpuinfo("flags", "Features").split()))


def peak_memory() -> dict[str, int]:
    """The most memory that this process has held so far, MiB: `cpu`, and `gpu` where torch has used one."""
    unit = 2**20 if sys.platform == "darwin" else 2**10
    found = {"cpu": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit)}
    torch = sys.modules.get("torch")
    if torch and torch.cuda.is_initialized():
        found["gpu"] = round(torch.cuda.max_memory_allocated() / 2**20)
    return found


@contextlib.contextmanager
def disk_errors(root: Path) -> Iterator[None]:
    """Turn the error of a full disk into a StudyError that says where, and how much room there is."""
    try:
        yield
    except Exception as error:
        if not _disk_full(error):
            raise
        there = next(folder for folder in (root, *root.resolve().parents) if folder.exists())
        free = shutil.disk_usage(there).free / 2**20
        hint = "make room or name another folder, then run the same command again: it resumes"
        raise StudyError(f"{root}: the disk is full ({free:.0f} MiB free): {hint}") from error


def _disk_full(error: BaseException | None) -> bool:
    """Whether the error, or one behind it, says so; some libraries have the system's error in words only."""
    while error is not None:
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        if full or "No space left on device" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def _cpu() -> str:
    return _cpuinfo("model name") or platform.processor() or "unknown"


def _cpuinfo(*names: str) -> str:
    """The first value under one of these names in what the kernel tells of the processor; none: empty."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() in names:
                return value.strip()
    return ""
