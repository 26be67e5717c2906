"""The study's notebooks, executed by papermill: parameters checked first, finished ones kept."""

import ast
import multiprocessing
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xltlib import StudyError
from xltlib.params import Params, unknown
from xltlib.pool import follow_parent
from xltlib.store import read_json, sha256_file, write_bytes, write_json

AT_ONCE = 2  # kernels; a notebook that finds its runs done takes seconds, most of them for imports
SHOWN_LINES = 8  # of an error's message


@dataclass(frozen=True)
class Job:
    """A notebook to execute with parameters, and where its executed copy and its figures go.

    `digest` stands for all that they depend on: while it stays the same they are not made again.
    """

    source: Path
    copy: Path
    figures: Path
    values: Mapping[str, Any]
    digest: str

    @property
    def stamp(self) -> Path:
        """A small file beside the copy, written last: what the copy was made from, and how long it took."""
        return self.copy.with_suffix(".json")

    @property
    def partial(self) -> Path:
        """Where the copy lies while the notebook is executed, and stays if it fails."""
        return self.copy.parent / ".partial" / self.copy.name

    def finished(self) -> bool:
        """Whether the executed copy and the figures are there, whole, and made from the same."""
        try:
            return read_json(self.stamp) == self._record(self.seconds())
        except (StudyError, OSError, KeyError, TypeError):
            return False

    def seconds(self) -> float:
        """How long the notebook took when it was executed."""
        return read_json(self.stamp)["seconds"]

    def drawn(self) -> list[Path]:
        """The files that the notebook has left in its folder of figures."""
        return sorted(path for path in self.figures.glob("[!.]*") if path.is_file())

    def write_stamp(self, seconds: float) -> None:
        """Say that the notebook is finished, and what it has left."""
        write_json(self.stamp, self._record(seconds))

    def _record(self, seconds: float) -> dict[str, Any]:
        files = {path.name: sha256_file(path) for path in self.drawn()}
        return {"digest": self.digest, "copy": sha256_file(self.copy), "figures": files, "seconds": seconds}


def declared(path: Path) -> dict[str, Any]:
    """The names and values of a notebook's parameters cell; StudyError where it has none, or a wrong one.

    The cell has those parameters that a reader turns; all others can be passed beyond them.
    """
    notebook = read_json(path)
    try:
        tagged = [cell for cell in notebook["cells"] if "parameters" in cell["metadata"].get("tags", [])]
        cells = ["".join(cell["source"]) for cell in tagged if cell["cell_type"] == "code"]
    except (KeyError, TypeError, AttributeError):
        raise StudyError(f"{path}: not a notebook, or damaged") from None
    if len(cells) != 1:
        raise StudyError(f"{path}: {len(cells)} code cells are tagged `parameters`, expected one")
    values = {}
    try:
        for statement in ast.parse(cells[0]).body:
            targets = getattr(statement, "targets", [getattr(statement, "target", None)])
            for name in (target.id for target in targets if isinstance(target, ast.Name)):
                if name not in Params.model_fields:
                    raise StudyError(f"{path}: its parameters cell: {unknown(Params, name)}")
                value = ast.literal_eval(statement.value)
                values[name] = list(value) if isinstance(value, tuple) else value
    except SyntaxError as error:
        raise StudyError(f"{path}: its parameters cell, line {error.lineno}: {error.msg}") from None
    except ValueError:
        raise StudyError(f"{path}: its parameters cell: {name}: expected a plain value") from None
    return values


def execute(
    jobs: Sequence[Job], processes: int, environment: Mapping[str, str], tell: Callable[[str], None]
) -> None:
    """Execute what is not finished, a few notebooks at a time; their processes get the `environment` too.

    One that fails does not stop the others; at the end a StudyError tells where and why the first failed.
    """
    waiting, failed = [job for job in jobs if not job.finished()], []
    if not waiting:
        return
    context = multiprocessing.get_context("spawn")  # papermill changes the folder of the whole process
    workers = min(processes, AT_ONCE, len(waiting))
    with ProcessPoolExecutor(workers, context, _begin, (os.getpid(), dict(environment))) as executor:
        futures = {executor.submit(_execute, job): job for job in waiting}
        for future in as_completed(futures):
            job, error = futures[future], future.exception()
            if error is None:
                tell(f"{job.source.stem}: executed in {future.result():.0f} s")
                continue
            if isinstance(error, BrokenProcessPool):
                error = f"{job.source}: its process was killed, perhaps for want of memory: run it again"
            elif not isinstance(error, StudyError):
                raise error
            failed.append(str(error))
    if failed:
        more = f"\n({len(failed) - 1} more notebooks failed)" if len(failed) > 1 else ""
        raise StudyError(min(failed) + more)


def _begin(parent: int, environment: dict[str, str]) -> None:
    os.environ.update(environment)
    follow_parent(parent)


def _execute(job: Job) -> float:
    """Execute one notebook and return the seconds; its copy and its stamp appear only when all went well."""
    import nbformat
    import papermill

    job.stamp.unlink(missing_ok=True)
    shutil.rmtree(job.figures, ignore_errors=True)
    for folder in (job.figures, job.partial.parent):
        folder.mkdir(parents=True, exist_ok=True)
    os.environ["XLT_FIGURES"] = str(job.figures)
    log, start = job.partial.with_suffix(".log"), time.perf_counter()
    with log.open("w") as file:
        os.dup2(file.fileno(), 2)  # what the kernel says outside of cells
    try:
        papermill.execute_notebook(
            job.source, job.partial, dict(job.values), kernel_name="python3", language="python",
            cwd=job.source.parent, progress_bar=False, log_output=False,
        )  # fmt: skip
    except papermill.PapermillExecutionError as error:  # its cell by the number that Jupyter shows beside it
        message = f"{error.ename}: {error.evalue}".strip().splitlines()[-SHOWN_LINES:]
        lines = [line for line in error.source.splitlines() if line.strip() and not line.startswith("#")]
        place = f"{job.source}, cell [{error.exec_count}]" + (f" ({lines[0].strip()})" if lines else "")
        raise StudyError("\n".join([f"{place}: {message[0]}", *message[1:], f"see {job.partial}"])) from None
    except Exception as error:  # no kernel, or one that died
        raise StudyError(f"{job.source}: {type(error).__name__}: {error}; see {job.partial}, {log}") from None
    notebook = nbformat.read(job.partial, as_version=4)
    notebook.metadata.pop("papermill", None)  # times, and folders of this machine
    for cell in notebook.cells:
        for key in ("papermill", "execution"):
            cell.metadata.pop(key, None)
    write_bytes(job.copy, (nbformat.writes(notebook) + "\n").encode())
    job.partial.unlink()
    log.unlink()
    seconds = round(time.perf_counter() - start, 1)
    job.write_stamp(seconds)
    return seconds
