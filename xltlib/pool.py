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
from collections.abc import Callable, Sequence, Set
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from functools import partial
from graphlib import TopologicalSorter
from pathlib import Path

from xltlib import StudyError
from xltlib.plan import outlook, time_left
from xltlib.runs import KINDS, closure
from xltlib.store import Result, Spec, Store, system_errors

Tell = Callable[[str], None]

SETTINGS = {  # of a new process, which reads them once, when it begins
    "OMP_NUM_THREADS": "1",
    # for glibc: blocks up to 4 GiB come from memory that was freed; by default those over 32 MiB, such as
    # the logits of WEAM's two losses, would be mapped anew, and zeroed, in every update
    "MALLOC_MMAP_THRESHOLD_": str(2**32),
    "MALLOC_TRIM_THRESHOLD_": str(2**33),
    "HF_HUB_OFFLINE": "1",  # what runs need of the hub is fetched before they begin
}
# what training imports for seconds: once, in the process that all others are forked from
PRELOADED = ["torch", "transformers.models.modernbert.modeling_modernbert"]
NAMED = 5  # failed runs in an error's message
MAX_JOBS = 1024  # processes: more than any machine that this was tried on has cores


def job_count(text: str, place: str = "") -> int:
    """A number of processes from its text; StudyError for what is none, or more than a machine can have."""
    with suppress(ValueError):
        if 1 <= int(text) <= MAX_JOBS:
            return int(text)
    raise StudyError(f"{place}{text[:20]!r}: expected the number of processes, 1 to {MAX_JOBS}")


def default_jobs(device: str = "cpu") -> int:
    """Processes that compute runs: XLT_JOBS; or one for each GPU; or two where there are as many cores."""
    if text := os.environ.get("XLT_JOBS"):
        return job_count(text, "XLT_JOBS=")
    return max(1, len(gpus())) if device == "cuda" else min(2, os.cpu_count() or 1)


def gpus() -> list[str]:
    """The GPUs that this process may use, as the variable CUDA_VISIBLE_DEVICES names them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [one.strip() for one in named.split(",") if one.strip()]
    import torch  # slow, and needless where the variable tells

    return [str(number) for number in range(torch.cuda.device_count())]


def tell_user(line: str) -> None:
    """Progress: a line on standard error, at once."""
    print(line, file=sys.stderr, flush=True)


def compute(spec: Spec, store: Store, progress: Tell | None = None, files: bool = False) -> Result:
    """The result of a run, from the store or built now together with whatever it builds on."""

    def build(directory: Path) -> dict:
        inputs = [compute(other, store, progress, files=True) for other in spec.inputs]
        return KINDS[spec.kind].load()(spec, inputs, directory, progress)

    return store.compute(spec, build, files)


def missing(specs: Sequence[Spec], store: Store) -> list[Spec]:
    """The runs to compute, inputs first; inputs of runs that are there already are not asked for."""
    todo, asked = [], dict.fromkeys(specs, False)  # run -> whether its files are read
    for spec in reversed(closure(specs)):
        if spec in asked:
            status = store.status(spec, whole=True)  # a damaged run is one to compute
            if status != "done" and (asked[spec] or status != "published"):
                todo.append(spec)
                asked |= dict.fromkeys(spec.inputs, True)
    return todo[::-1]


def compute_all(
    specs: Sequence[Spec], store: Store, jobs: int = 1, tell: Tell = tell_user,
    planned: Callable[[Spec], float | None] = lambda spec: None, later: float = 0.0,
) -> list[Result]:  # fmt: skip
    """The results of the runs, in their order; what is missing is computed by `jobs` processes.

    A run that fails does not stop those that do not build on it; at the end one StudyError names them.
    `planned` seconds of each run, where they are known, and of what comes `later` tell how long it takes.
    """
    if todo := missing(specs, store):
        turns = []
        if any(spec.params.get("device", "cpu") != "cpu" for spec in todo):
            from xltlib.pretraining import models  # of torch, which takes seconds

            models.device("cuda")  # which refuses a machine without one
            turns = gpus()
        with system_errors(store.root):  # told at once, and not by each run
            store.root.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=store.root).close()
        times = {spec: planned(spec) for spec in todo}
        tell(outlook(times, jobs, later))
        left = partial(time_left, times, jobs=jobs, later=later)
        for name, value in SETTINGS.items():
            os.environ.setdefault(name, value)
        context = multiprocessing.get_context("forkserver")  # this process may have torch's threads
        if any(_trains(spec) for spec in todo):
            context.set_forkserver_preload(PRELOADED)
        with ProcessPoolExecutor(min(jobs, len(todo)), context, _begin, (turns, {**os.environ})) as executor:
            try:
                failed = _run(times.keys(), executor, store.root, tell, left)
            except BaseException:  # an interrupt above all: do not wait for what is running
                workers = list(executor._processes.values())
                executor.shutdown(wait=False, cancel_futures=True)
                for worker in workers:
                    worker.terminate()
                raise
        if failed:
            names = ", ".join([*map(str, [*failed][:NAMED]), *["..."][: len(failed) > NAMED]])
            first = next(iter(failed.values()))
            raise StudyError(f"{len(failed)} of {len(todo)} runs failed ({names}). The first: {first}")
    return [store.result(spec) for spec in specs]


def _run(
    todo: Set[Spec], executor: ProcessPoolExecutor, root: Path, tell: Tell, left: Callable[..., str]
) -> dict[Spec, str]:
    """Work through the runs; those that failed, with the reason. `left` tells the time left by what ended."""
    order = TopologicalSorter({spec: todo & {*spec.inputs} for spec in todo})
    order.prepare()
    running, ended, failed = {}, {}, {}
    while order.is_active():
        for spec in order.get_ready():
            if any(other in failed for other in spec.inputs):
                failed[spec] = "what it builds on failed"
                order.done(spec)
            else:
                running[executor.submit(_work, spec, root)] = spec
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            spec, error = running.pop(future), future.exception()
            order.done(spec)
            if isinstance(error, BrokenProcessPool):
                raise StudyError(
                    f"a process was ended from outside, most likely for lack of memory, about when it "
                    f"computed {spec}; finished runs are kept: start again, with fewer jobs"
                ) from error
            if error:
                failed[spec] = f"{type(error).__name__}: {error}"
                tell(f"failed: {spec}: {failed[spec]}")
            else:
                ended[spec] = future.result()
                number, told = f"[{len(ended) + len(failed)}/{len(todo)}]", left(ended)
                tell(f"{number} {spec}: {ended[spec]:.0f} s" + (f"; {told} left" if told else ""))
    return failed


def _trains(spec: Spec) -> bool:
    return spec.kind != "notebook"  # whose kernel is a process of its own


def _work(spec: Spec, root: Path) -> float:
    if _trains(spec):
        import torch

        torch.set_num_threads(1)
    return compute(spec, Store(root), tell_user, files=True).seconds


def _begin(turns: Sequence[str], environment: dict[str, str]) -> None:
    """Set up a worker: the variables that now are set, one of the GPUs in turn, the end with its parent's."""

    def follow_parent() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=follow_parent, daemon=True).start()
    os.environ.update(environment)  # the server that it was forked from has those of its own beginning
    if turns:
        number = int(multiprocessing.current_process().name.rpartition("-")[2])  # ForkServerProcess-3
        os.environ["CUDA_VISIBLE_DEVICES"] = turns[number % len(turns)]
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides: it ends its processes
