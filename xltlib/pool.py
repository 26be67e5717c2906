"""Many runs on a few processes: each run when its inputs are there, one thread a process, resumable at any moment."""

import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait

from xltlib.params import StudyError
from xltlib.results import Result, Spec
from xltlib.runs import closure
from xltlib.store import Store

Tell = Callable[[str], None]


def compute_all(
    specs: Sequence[Spec], store: Store, jobs: int = 1, fresh: bool = False, tell: Tell | None = None
) -> list[Result]:
    """The results of the runs, in their order; what is missing is computed by `jobs` processes.

    A run that fails does not stop those that do not build on it; at the end one StudyError names all failures.
    """
    tell = tell or _tell
    missing = _missing(specs, store, fresh)
    if missing:
        _compute(missing, store, jobs, fresh, tell)
    return [store.result(spec) for spec in specs]


def _missing(specs: Sequence[Spec], store: Store, fresh: bool) -> list[Spec]:
    """The runs to compute, inputs first; inputs of runs that are there already are not asked for."""

    def there(spec: Spec, files: bool) -> bool:
        status = store.status(spec)
        return status == "done" or (status == "published" and not fresh and not files)

    asked = {spec.digest: False for spec in specs}  # digest -> whether its files are needed
    for spec in reversed(closure(specs)):
        if spec.digest in asked and not there(spec, asked[spec.digest]):
            asked.update({other.digest: True for other in spec.inputs})
    return [s for s in closure(specs) if s.digest in asked and not there(s, asked[s.digest])]


def _compute(missing: list[Spec], store: Store, jobs: int, fresh: bool, tell: Tell) -> None:
    waiting, running, failed, start = dict.fromkeys(missing), {}, {}, time.monotonic()
    context = multiprocessing.get_context("spawn")  # a fork would copy torch's threads
    with ProcessPoolExecutor(jobs, context, _begin, (os.getpid(),)) as executor:
        while waiting or running:
            for spec in [
                s for s in waiting if not any(i in waiting or i in running.values() for i in s.inputs)
            ]:
                del waiting[spec]
                if any(i in failed for i in spec.inputs):
                    failed[spec] = "what it builds on failed"
                else:
                    running[executor.submit(_work, spec, store, fresh)] = spec
            if running:
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    spec = running.pop(future)
                    _take(
                        future,
                        spec,
                        failed,
                        tell,
                        len(missing) - len(waiting) - len(running),
                        len(missing),
                        start,
                    )
    if failed:
        first = next(iter(failed.values()))
        names = ", ".join(map(describe, failed))
        raise StudyError(f"{len(failed)} of {len(missing)} runs failed ({names}). The first: {first}")


def _take(future: Future, spec: Spec, failed: dict, tell: Tell, done: int, total: int, start: float) -> None:
    error = future.exception()
    if error is not None:
        failed[spec] = f"{type(error).__name__}: {error}"
        tell(f"failed: {describe(spec)}: {error}")
        return
    passed = time.monotonic() - start
    tell(f"[{done}/{total}] {describe(spec)}: {future.result():.0f} s; {passed:.0f} s so far")


def describe(spec: Spec) -> str:
    """A run in a few words."""
    labels = spec.params.get("labels", spec.params)
    words = [
        labels.get(k) for k in ("task", "method", "objective", "objective_options", "links") if labels.get(k)
    ]
    seed = f", seed {labels['seed']}" if "seed" in labels else ""
    return f"{spec.kind} {' '.join(map(str, words))}".strip() + seed


def _begin(parent: int) -> None:
    """In a new process: one thread, no questions to the hub, and an end as soon as the parent is gone."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
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
