"""Many runs on a few processes: each run as soon as its inputs are there, one thread a process.

Where there are several GPUs, each process has one of them, in turn: runs are independent, so that several at
once keep all GPUs busy without a word between them.
"""

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from xltlib import StudyError
from xltlib.runs import builder, closure, describe
from xltlib.store import Result, Spec, Store, fast_in_16_bits, gpus

Tell = Callable[[str], None]

SETTINGS = {  # of a new process, which reads them once, when it begins
    "OMP_NUM_THREADS": "1",
    # for glibc: blocks up to 4 GiB come from memory that was freed; by default those over 32 MiB, such as
    # the logits of WEAM's two losses, would be mapped anew, and zeroed, in every update
    "MALLOC_MMAP_THRESHOLD_": str(2**32),
    "MALLOC_TRIM_THRESHOLD_": str(2**33),
}


MAX_JOBS = 1024  # processes: more than any machine that this was tried on has cores


def job_count(text: str) -> int:
    """A number of processes from its text; StudyError for what is none, or more than a machine can have."""
    if not (text.isascii() and text.isdigit()) or not 1 <= int(text[:9]) <= MAX_JOBS or len(text) > 9:
        raise StudyError(f"{text[:20]!r}: expected the number of processes, 1 to {MAX_JOBS}")
    return int(text)


def compute(
    spec: Spec, store: Store, fresh: bool = False, progress: Tell | None = None, files: bool | None = None
) -> Result:
    """The result of a run, from the store or built now together with whatever it builds on."""

    def build(directory: Path) -> dict:
        inputs = [compute(other, store, fresh, progress, files=True) for other in spec.inputs]
        return builder(spec)(spec, inputs, directory, progress)

    return store.compute(spec, build, fresh=fresh, files=files)


def compute_all(
    specs: Sequence[Spec], store: Store, jobs: int = 1, fresh: bool = False, tell: Tell | None = None,
    planned: Callable[[Spec], float | None] = lambda spec: None, after: float = 0.0,
) -> list[Result]:  # fmt: skip
    """The results of the runs, in their order; what is missing is computed by `jobs` processes.

    A run that fails does not stop those that do not build on it; at the end one StudyError names them.
    `planned` seconds of each run tell how much time is left, `after` those of what follows the runs.
    """
    todo = missing(specs, store, fresh)
    if todo:
        left = TimeLeft(todo, jobs, planned, after)
        _compute(todo, store, jobs, fresh, tell or _tell, left)
    return [store.result(spec) for spec in specs]


class TimeLeft:
    """How long the work will go on: the planned seconds of what is left, at the speed measured so far."""

    def __init__(
        self, todo: Sequence[Spec], jobs: int, planned: Callable[[Spec], float | None], after: float
    ) -> None:
        times = {spec: planned(spec) for spec in todo}
        known = [x for x in times.values() if x is not None]
        usual = sum(known) / len(known) if known else 0.0  # of runs unlike any that was measured
        self.planned = {spec: usual if x is None else x for spec, x in times.items()}
        self.jobs, self.after, self.left = jobs, after, sum(self.planned.values())
        self.spent = self.expected = 0.0

    def after_run(self, spec: Spec, seconds: float) -> str:
        """The time that is left when a run has taken some seconds, in words; none where nothing is known."""
        self.left -= self.planned[spec]
        self.spent, self.expected = self.spent + seconds, self.expected + self.planned[spec]
        if not self.expected:
            return ""
        speed = self.spent / self.expected
        return f"; about {duration(speed * (self.left / self.jobs + self.after))} left"


def duration(seconds: float) -> str:
    """A time to wait, as exact as such forecasts are."""
    if seconds < 90:
        return f"{max(5, 5 * round(seconds / 5))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def missing(specs: Sequence[Spec], store: Store, fresh: bool) -> list[Spec]:
    """The runs to compute, inputs first; inputs of runs that are there already are not asked for."""

    def available(spec: Spec, files: bool) -> bool:
        status = store.status(spec, whole=True)  # a damaged run is one to compute
        return status == "done" or (status == "published" and not fresh and not files)

    asked = {spec.digest: False for spec in specs}  # digest -> whether its files are needed
    for spec in reversed(closure(specs)):
        if spec.digest in asked and not available(spec, asked[spec.digest]):
            asked.update({other.digest: True for other in spec.inputs})
    return [s for s in closure(specs) if s.digest in asked and not available(s, asked[s.digest])]


def _compute(todo: list[Spec], store: Store, jobs: int, fresh: bool, tell: Tell, left: TimeLeft) -> None:
    _require(todo, tell)
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    context = multiprocessing.get_context("spawn")  # a fork would copy torch's threads
    turns = gpus() if any(_device(spec) == "cuda" for spec in todo) else []
    begin = (os.getpid(), context.Value("i"), turns)
    with ProcessPoolExecutor(min(jobs, len(todo)), context, _begin, begin) as executor:
        try:
            failed = _run(todo, executor, store, fresh, tell, left)
        except BaseException:  # an interrupt above all: do not wait for what is running
            workers = list(executor._processes.values())
            executor.shutdown(wait=False, cancel_futures=True)
            for worker in workers:
                worker.terminate()
            raise
    if failed:
        first = next(iter(failed.values()))
        names = ", ".join(map(describe, failed))
        raise StudyError(f"{len(failed)} of {len(todo)} runs failed ({names}). The first: {first}")


def _require(todo: list[Spec], tell: Tell) -> None:
    """StudyError, before any run begins, where this machine lacks its device; a word where it is slow."""
    devices = {_device(spec) for spec in todo}
    if devices != {"cpu"}:
        # not in a new process before `_begin` has said whether the hub may be asked
        from xltlib.pretraining import models

        for name in devices:
            models.device(name)
    halved = [s for s in todo if _device(s) == "cpu" and s.params.get("precision") == "bfloat16"]
    if halved and not fast_in_16_bits():
        tell("precision bfloat16: this processor has no instructions for it, float32 would be faster")


def _device(spec: Spec) -> str:
    return spec.params.get("device", "cpu")


def _run(
    todo: list[Spec], executor: ProcessPoolExecutor, store: Store, fresh: bool, tell: Tell, left: TimeLeft
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
                running[executor.submit(_work, spec, store, fresh)] = spec
        for future in wait(running, return_when=FIRST_COMPLETED).done if running else ():
            spec = running.pop(future)
            error = _error(future, spec)
            if error:
                failed[spec] = error
                tell(f"failed: {describe(spec)}: {error}")
                continue
            done, seconds = len(todo) - len(waiting) - len(running), future.result()
            tell(f"[{done}/{len(todo)}] {describe(spec)}: {seconds:.0f} s{left.after_run(spec, seconds)}")
    return failed


def _error(future: Future, spec: Spec) -> str:
    """What a finished run failed with, if it did; StudyError where its process is gone, and so all others."""
    error = future.exception()
    if isinstance(error, BrokenProcessPool):
        raise StudyError(
            f"a process was ended from outside, most likely for lack of memory, about when it computed "
            f"{describe(spec)}; finished runs are kept: start again, with fewer jobs"
        ) from error
    return f"{type(error).__name__}: {error}" if error else ""


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


def _work(spec: Spec, store: Store, fresh: bool) -> float:
    return compute(spec, Store(store.root), fresh, _tell, files=True).seconds


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
