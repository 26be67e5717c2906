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

from xltlib import StudyError
from xltlib.runs import closure
from xltlib.store import Result, Spec, Store, fast_in_16_bits, gpus

Tell = Callable[[str], None]

SETTINGS = {  # of a new process, which reads them once, when it begins
    "OMP_NUM_THREADS": "1",
    # for glibc: blocks up to 4 GiB come from memory that was freed; by default those over 32 MiB, such as
    # the logits of WEAM's two losses, would be mapped anew, and zeroed, in every update
    "MALLOC_MMAP_THRESHOLD_": str(2**32),
    "MALLOC_TRIM_THRESHOLD_": str(2**33),
}


def compute_all(
    specs: Sequence[Spec], store: Store, jobs: int = 1, fresh: bool = False, tell: Tell | None = None
) -> list[Result]:
    """The results of the runs, in their order; what is missing is computed by `jobs` processes.

    A run that fails does not stop those that do not build on it; at the end one StudyError names them.
    """
    tell = tell or _tell
    todo = missing(specs, store, fresh)
    if todo:
        _compute(todo, store, jobs, fresh, tell)
    return [store.result(spec) for spec in specs]


def missing(specs: Sequence[Spec], store: Store, fresh: bool) -> list[Spec]:
    """The runs to compute, inputs first; inputs of runs that are there already are not asked for."""

    def there(spec: Spec, files: bool) -> bool:
        status = store.status(spec, whole=True)  # a damaged run is one to compute
        return status == "done" or (status == "published" and not fresh and not files)

    asked = {spec.digest: False for spec in specs}  # digest -> whether its files are needed
    for spec in reversed(closure(specs)):
        if spec.digest in asked and not there(spec, asked[spec.digest]):
            asked.update({other.digest: True for other in spec.inputs})
    return [s for s in closure(specs) if s.digest in asked and not there(s, asked[s.digest])]


def _compute(todo: list[Spec], store: Store, jobs: int, fresh: bool, tell: Tell) -> None:
    _require(todo, tell)
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    context = multiprocessing.get_context("spawn")  # a fork would copy torch's threads
    turns = gpus() if any(_device(spec) == "cuda" for spec in todo) else []
    begin = (os.getpid(), context.Value("i"), turns)
    with ProcessPoolExecutor(jobs, context, _begin, begin) as executor:
        try:
            failed = _run(todo, executor, store, fresh, tell)
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
    # not in a new process before `_begin` has said whether the hub may be asked
    from xltlib.pretraining import models

    for name in {_device(spec) for spec in todo}:
        models.device(name)
    halved = [s for s in todo if _device(s) == "cpu" and s.params.get("precision") == "bfloat16"]
    if halved and not fast_in_16_bits():
        tell("precision bfloat16: this processor has no instructions for it, float32 would be faster")


def _device(spec: Spec) -> str:
    return spec.params.get("device", "cpu")


def _run(
    todo: list[Spec], executor: ProcessPoolExecutor, store: Store, fresh: bool, tell: Tell
) -> dict[Spec, str]:
    """Work through the runs; returns those that failed, with the reason."""
    waiting, running, failed, start = dict.fromkeys(todo), {}, {}, time.monotonic()
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
            done, passed = len(todo) - len(waiting) - len(running), time.monotonic() - start
            tell(f"[{done}/{len(todo)}] {describe(spec)}: {future.result():.0f} s; {passed:.0f} s so far")
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


def describe(spec: Spec) -> str:
    """A run in a few words."""
    labels = spec.params.get("labels", spec.params)
    words = [
        labels.get(k) for k in ("task", "method", "objective", "objective_options", "links") if labels.get(k)
    ]
    seed = f", seed {labels['seed']}" if "seed" in labels else ""
    return f"{spec.kind} {' '.join(map(str, words))}".strip() + seed


def _begin(parent: int, started, turns: Sequence[str]) -> None:
    """In a new process: one thread, a GPU of those whose turn it is, no questions to the hub, and an end as
    soon as the parent is gone. `started`: how many processes have begun, a number that all share.
    """
    if turns:
        with started.get_lock():
            os.environ["CUDA_VISIBLE_DEVICES"] = turns[started.value % len(turns)]
            started.value += 1
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides: it ends its processes
    import torch

    torch.set_num_threads(1)
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _work(spec: Spec, store: Store, fresh: bool) -> float:
    from xltlib.builders import compute

    return compute(spec, Store(store.root), fresh, _tell, files=True).seconds


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
