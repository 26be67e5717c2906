"""The study's notebooks: their parameters, checked before any work, and their execution by papermill."""

import ast
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from xltlib import StudyError
from xltlib.params import Params, unknown
from xltlib.store import Result, Spec, read_json, write_bytes

FIGURES = "figures"  # the folder beside the executed copy that a notebook draws into
SHOWN_LINES = 8  # of an error's message


def declared(path: Path) -> dict[str, Any]:
    """The names and values of a notebook's parameters cell; StudyError where it has none, or a wrong one.

    The cell has those parameters that a reader turns; all others can be passed beyond them.
    """
    try:
        cells = [cell for cell in read_json(path)["cells"] if cell["cell_type"] == "code"]
        tagged = ["".join(c["source"]) for c in cells if "parameters" in c["metadata"].get("tags", [])]
    except (KeyError, TypeError, AttributeError):
        raise StudyError(f"{path}: not a notebook, or damaged") from None
    if len(tagged) != 1:
        raise StudyError(f"{path}: {len(tagged)} code cells are tagged `parameters`, expected one")
    values = {}
    try:
        for statement in ast.parse(tagged[0]).body:
            for target in getattr(statement, "targets", [getattr(statement, "target", None)]):
                if isinstance(target, ast.Name):
                    values[target.id] = ast.literal_eval(statement.value)
    except SyntaxError as error:
        raise StudyError(f"{path}: its parameters cell, line {error.lineno}: {error.msg}") from None
    except ValueError:
        raise StudyError(f"{path}: its parameters cell: {target.id}: expected a plain value") from None
    for name in values.keys() - Params.model_fields.keys():
        raise StudyError(f"{path}: its parameters cell: {unknown(Params, name)}")
    return values


def execute(spec: Spec, inputs: list[Result], directory: Path, progress: Callable | None) -> dict[str, Any]:
    """Execute a notebook as a run of the store: its copy, without times or outside folders, and its figures.

    StudyError tells the cell that failed, and why; the copy stays where the run was built.
    """
    import nbformat
    import papermill

    root = directory.parents[2]  # the store's folder is the study's runs/
    source, figures = root / "notebooks" / f"{spec.params['stage']}.ipynb", directory / FIGURES
    copy, log = directory / source.name, directory / ".log"
    shutil.rmtree(figures, ignore_errors=True)  # of an attempt that was killed
    figures.mkdir()
    path = [str(Path(__file__).resolve().parent.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ.update(XLT_ROOT=str(root), XLT_FIGURES=str(figures), PYTHONPATH=os.pathsep.join(path))
    with log.open("w") as file:
        os.dup2(file.fileno(), 2)  # what the kernel says outside of cells
    try:
        papermill.execute_notebook(
            source, copy, spec.params["parameters"], kernel_name="python3", language="python",
            cwd=source.parent, progress_bar=False, log_output=False,
        )  # fmt: skip
    except papermill.PapermillExecutionError as error:  # its cell by the number that Jupyter shows beside it
        message = f"{error.ename}: {error.evalue}".strip().splitlines()[-SHOWN_LINES:]
        lines = [line for line in error.source.splitlines() if line.strip() and not line.startswith("#")]
        place = f"{source}, cell [{error.exec_count}]" + (f" ({lines[0].strip()})" if lines else "")
        raise StudyError("\n".join([f"{place}: {message[0]}", *message[1:], f"see {copy}"])) from None
    except Exception as error:  # no kernel, or one that died
        raise StudyError(f"{source}: {type(error).__name__}: {error}; see {copy}, {log}") from None
    notebook = nbformat.read(copy, as_version=4)
    notebook.metadata.pop("papermill", None)  # times, and folders of this machine
    for cell in notebook.cells:
        for key in ("papermill", "execution"):
            cell.metadata.pop(key, None)
    write_bytes(copy, (nbformat.writes(notebook) + "\n").encode())
    return {}
