"""The tests as other processors would run them: `python tests/processors.py [arguments of pytest]`.

Libraries choose their kernels by what the processor has, so that sums are rounded in another order
elsewhere. Each setting below hides a part of this processor from them, or takes two threads. The exit
status is 1 where tests fail under a setting.
"""

import os
import subprocess
import sys
import time

SETTINGS: dict[str, dict[str, str]] = {
    "as it is": {},
    "two threads": {"OMP_NUM_THREADS": "2"},
    "torch without AVX": {"ATEN_CPU_CAPABILITY": "default"},
    "torch with AVX2": {"ATEN_CPU_CAPABILITY": "avx2"},
    "oneDNN with AVX2": {"ONEDNN_MAX_CPU_ISA": "AVX2"},
    "MKL with AVX2": {"MKL_ENABLE_INSTRUCTIONS": "AVX2"},
    "MKL with SSE4.2": {"MKL_ENABLE_INSTRUCTIONS": "SSE4_2"},
    "all with AVX2": {
        "ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    },
}  # fmt: skip


def main(arguments: list[str]) -> int:
    """The number of settings under which the tests fail, each with pytest's last line."""
    failures = 0
    for name, setting in SETTINGS.items():
        start = time.monotonic()
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **setting}
        command = [sys.executable, "-m", "pytest", "-q", "--no-header", *arguments]
        finished = subprocess.run(command, env=environment, capture_output=True, text=True)
        lines = (finished.stdout.strip() or finished.stderr.strip() or "no output").splitlines()
        failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
        print(f"{name:20}{time.monotonic() - start:6.0f} s  {lines[-1]}", *failed, sep="\n    ", flush=True)
        failures += finished.returncode != 0
    return failures


if __name__ == "__main__":
    sys.exit(min(1, main(sys.argv[1:])))
