"""Many runs on a few processes: each run as soon as its inputs are there, one thread a process.

Where there are several GPUs, each process has one of them, in turn: runs are independent, so that several at
once keep all GPUs busy without a word between them.
"""

import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from xltlib import StudyError
from xltlib.plan import Forecast
from xltlib.runs import builder, closure, describe
from xltlib.store import Result, Spec, Store, fast_in_16_bits, gpus, system_errors

Tell = Callable[[str], None]

SETTINGS = {  # of a new process, which reads them once, when it begins
    "OMP_NUM_THREADS": "1",
    # for glibc: blocks up to 4 GiB come from memory that was freed; by default those over 32 MiB, such as
    # the logits of WEAM's two losses, would be mapped anew, and zeroed, in every update
    "MALLOC_MMAP_THRESHOLD_": str(2**32),
    "MALLOC_TRIM_THRESHOLD_": str(2**33),
}
NAMED = 5  # failed runs in an error's message
MAX_JOBS = 1024  # processes: more than any machine that this was tried on has cores


def job_count(text: str) -> int:
    """A number of processes from its text; StudyError for what is none, or more than a machine can have."""
    if not (text.isascii() and text.isdigit()) or not 1 <= int(text[:9]) <= MAX_JOBS or len(text) > 9:
        raise StudyError(f"{text[:20]!r}: expected the number of processes, 1 to {MAX_JOBS}")
    return int(text)


def tell_user(line: str) -> None:
    """Progress: a line on standard error, at once."""
    print(line, file=sys.stderr, flush=True)


def compute(spec: Spec, store: Store, progress: Tell | None = None, files: bool = False) -> Result:
    """The result of a run, from the store or built now together with whatever it builds on."""

    def build(directory: Path) -> dict:
        inputs = [compute(other, store, progress, files=True) for other in spec.inputs]
        return builder(spec)(spec, inputs, directory, progress)

    return store.compute(spec, build, files)


def compute_all(
    specs: Sequence[Spec], store: Store, jobs: int = 1, tell: Tell = tell_user,
    planned: Callable[[Spec], float | None] = lambda spec: None, after: float = 0.0,
) -> list[Result]:  # fmt: skip
    """The results of the runs, in their order; what is missing is computed by `jobs` processes.

    A run that fails does not stop those that do not build on it; at the end one StudyError names them.
    `planned` seconds of each run tell how long it takes, with `after` seconds for what follows the runs.
    """
    todo = missing(specs, store)
    if todo:
        _compute(todo, store, jobs, tell, Forecast(todo, jobs, planned, after))
    return [store.result(spec) for spec in specs]


def missing(specs: Sequence[Spec], store: Store) -> list[Spec]:
    """The runs to compute, inputs first; inputs of runs that are there already are not asked for."""
    states: dict[Spec, str] = {}  # a damaged run is one to compute

    def available(spec: Spec, files: bool) -> bool:
        if spec not in states:
            states[spec] = store.status(spec, whole=True)
        return states[spec] == "done" or (states[spec] == "published" and not files)

    everything = closure(specs)
    asked = dict.fromkeys(specs, False)  # run -> whether its files are needed
    for spec in reversed(everything):
        if spec in asked and not available(spec, asked[spec]):
            asked.update(dict.fromkeys(spec.inputs, True))
    return [spec for spec in everything if spec in asked and not available(spec, asked[spec])]


def _compute(todo: list[Spec], store: Store, jobs: int, tell: Tell, forecast: Forecast) -> None:
    """Compute the runs, once this machine is known to have their devices."""
    device = {spec: spec.params.get("device", "cpu") for spec in todo}
    if set(device.values()) != {"cpu"}:
        # not in a new process before `_begin` has said whether the hub may be asked
        from xltlib.pretraining import models

        for name in set(device.values()):
            models.device(name)
    halved = [s for s in todo if device[s] == "cpu" and s.params.get("precision") == "bfloat16"]
    if halved and not fast_in_16_bits():
        tell("precision bfloat16: this processor has no instructions for it, float32 would be faster")
    with system_errors(store.root):  # told at once, and not by each run
        store.root.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=store.root).close()
    tell(forecast.sentence())
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    context = multiprocessing.get_context("spawn")  # a fork would copy torch's threads
    turns = gpus() if "cuda" in device.values() else []
    begin = (os.getpid(), context.Value("i"), turns)
    with ProcessPoolExecutor(min(jobs, len(todo)), context, _begin, begin) as executor:
        try:
            failed = _run(todo, executor, store, tell, forecast)
        except BaseException:  # an interrupt above all: do not wait for what is running
            workers = list(executor._processes.values())
            executor.shutdown(wait=False, cancel_futures=True)
            for worker in workers:
                worker.terminate()
            raise
    if failed:
        first = next(iter(failed.values()))
        names = ", ".join([*map(describe, list(failed)[:NAMED]), *["..."][: len(failed) > NAMED]])
        raise StudyError(f"{len(failed)} of {len(todo)} runs failed ({names}). The first: {first}")


def _run(
    todo: list[Spec], executor: ProcessPoolExecutor, store: Store, tell: Tell, forecast: Forecast
) -> dict[Spec, str]:
    """Work through the runs; the result is those that failed, with the reason."""
    waiting, running, failed = dict.fromkeys(todo), {}, {}
    while waiting or running:
        unfinished = {*waiting, *running.values()}
        for spec in [s for s in waiting if unfinished.isdisjoint(s.inputs)]:
            del waiting[spec]
            if any(i in failed for i in spec.inputs):
                failed[spec] = "what it builds on failed"
            else:
                running[executor.submit(_work, spec, store.root)] = spec
        for future in wait(running, return_when=FIRST_COMPLETED).done if running else ():
            spec, error = running.pop(future), future.exception()
            if isinstance(error, BrokenProcessPool):
                raise StudyError(
                    f"a process was ended from outside, most likely for lack of memory, about when it "
                    f"computed {describe(spec)}; finished runs are kept: start again, with fewer jobs"
                ) from error
            if error:
                failed[spec] = f"{type(error).__name__}: {error}"
                tell(f"failed: {describe(spec)}: {failed[spec]}")
                continue
            done, seconds = len(todo) - len(waiting) - len(running), future.result()
            left = forecast.after_run(spec, seconds)
            tell(f"[{done}/{len(todo)}] {describe(spec)}: {seconds:.0f} s{left}")
    return failed


def _begin(parent: int, started, turns: Sequence[str]) -> None:
    """Set up a worker: one thread, one GPU (round robin), hub offline, exit with the parent.

    `started`: how many processes have begun, a number that all share.
    """
    if turns:
        with started.get_lock():
            os.environ["CUDA_VISIBLE_DEVICES"] = turns[started.value % len(turns)]
            started.value += 1
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides: it ends its processes
    import torch

    torch.set_num_threads(1)
    follow_parent(parent)


def follow_parent(parent: int) -> None:
    """Have this process end as soon as its parent is gone, even if that was killed."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _work(spec: Spec, root: Path) -> float:
    return compute(spec, Store(root), tell_user, files=True).seconds
