"""The committed notebooks: structure, parameters, what they ask for; and how any notebook is executed.

`python tests/test_notebooks.py` writes their parameters cells anew, when a default or its meaning changes.
"""

import ast
import gc
import importlib
import os
import re
import warnings
from pathlib import Path
from unittest import mock

import nbformat
import pytest
import tinystudy
from tiny import computed

from xltlib import StudyError, notebooks, pool, study
from xltlib.claims.ledger import load_ledger
from xltlib.params import Params, load
from xltlib.runs import STAGES, Runs
from xltlib.store import RECORD, Store, read_json

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = {"xltlib", *(f"xltlib.{p.parent.name}" for p in (ROOT / "xltlib").glob("*/__init__.py"))}
CLAIM = re.compile(r"\bS[0-4]-\d+\b")
CELLS, LINES = 15, 110
OWN = {"02_pretraining": "tlm_pulled", "03_finetuning": "cutoff"}  # what the last cell of each defines


def names(stage: str) -> list[str]:
    """The parameters in a notebook's cell."""
    return list(notebooks.declared(ROOT / "notebooks" / f"{stage}.ipynb"))


def read(stage: str):
    return nbformat.read(ROOT / "notebooks" / f"{stage}.ipynb", as_version=4)


def code_cells(stage: str) -> list[str]:
    return [cell.source for cell in read(stage).cells if cell.cell_type == "code"]


def tagged(notebook) -> list:
    return [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]


def test_there_is_one_notebook_for_each_stage():
    assert sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb")) == sorted(STAGES)


@pytest.mark.parametrize("stage", STAGES)
def test_is_committed_without_outputs_and_with_fixed_ids(stage):
    notebook = read(stage)
    nbformat.validate(notebook)
    assert [cell.id for cell in notebook.cells] == [
        f"{stage[:2]}-{k:02d}" for k in range(len(notebook.cells))
    ]
    assert notebook.metadata.kernelspec.name == "python3"
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert not cell.outputs
            assert cell.execution_count is None


@pytest.mark.parametrize("stage", STAGES)
def test_parameters_are_the_generated_ones_and_checked_before_anything_else_is_named(stage):
    first, second = code_cells(stage)[:2]
    assert [cell.source for cell in tagged(read(stage))] == [first]
    assert first == tinystudy.notebook_cell(names(stage)), "run python tests/test_notebooks.py"
    assert names(stage)[0] == "profile"
    assert 6 <= len(names(stage)) <= 12  # what an explorer turns
    assert "params = from_notebook(globals())\nsession = study.open(params)" in second


@pytest.mark.parametrize("stage", STAGES)
def test_asks_more_than_it_computes(stage):
    notebook = read(stage)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    prose = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    assert len(code) <= CELLS
    own = [cell for cell in code if cell not in tagged(notebook)]  # parameters are a table in words
    assert len(prose) > sum(len(cell.source) for cell in own)
    for cell in code:
        kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
        defined = [node for node in ast.walk(ast.parse(cell.source)) if isinstance(node, kinds)]
        if cell is code[-1] and stage in OWN:  # a function of one's own, its entry, and what comes of it
            assert [node.name for node in defined] == [OWN[stage]]
            assert len([line for line in cell.source.splitlines() if line]) <= 10
        else:
            assert not defined
        assert max(map(len, cell.source.splitlines())) <= 2 * LINES  # a parameter's meaning is one line


@pytest.mark.parametrize("stage", STAGES)
def test_begins_with_a_question_and_ends_with_the_statements(stage):
    cells = read(stage).cells
    assert re.match(r"# \d .+\n\n\*\*Question\.\*\* .+\?", cells[0].source, re.S)
    assert "## What this means for the statements" in cells[-1].source
    known = {claim.id for claim in load_ledger(ROOT / "params" / "claims.yaml").claims}
    named = {match for cell in cells for match in CLAIM.findall(cell.source)}
    assert named
    assert named <= known


@pytest.mark.parametrize("stage", STAGES)
def test_names_only_what_the_library_has(stage):
    tree = ast.parse("\n".join(code_cells(stage)))
    modules = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module in PACKAGES:
            modules |= {
                a.asname or a.name: importlib.import_module(f"{node.module}.{a.name}") for a in node.names
            }
    room = {"04_noise_ablations": "noise"}.get(stage, stage.partition("_")[2])
    assert modules["figures"].__name__ == f"xltlib.{room}.figures"
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
            assert hasattr(modules[node.value.id], node.attr), f"{node.value.id}.{node.attr}"


@pytest.fixture
def here(threads):
    """Notebooks are executed from this process, whose environment and standard error come back."""
    kept = os.dup(2)
    with mock.patch.dict(os.environ):
        yield
    os.dup2(kept, 2)
    os.close(kept)
    with warnings.catch_warnings(action="ignore", category=ResourceWarning):
        gc.collect()  # event loops that papermill's libraries leave open, before a later test is told of them


def test_a_function_of_ones_own_is_trained_and_compared(tmp_path, monkeypatch, here):
    """The last cells of both notebooks, by papermill in one kernel, on a tiny study with trained encoders."""
    profile, shown = tinystudy.make(tmp_path), ("03-03", "03-07", "03-27", "02-03", "02-07", "02-19")
    sources = {cell.id: cell.source for stage in OWN for cell in read(stage).cells}
    tinystudy.write_notebook(tmp_path / "notebooks/03_finetuning.ipynb", *map(sources.get, shown))
    monkeypatch.setenv("XLT_ROOT", str(tmp_path))
    session = study.open(load(profile))
    computed([spec for stage in OWN for spec in session.runs.stage(stage)], session.store)
    study.run(profile, only=["03_finetuning"], jobs=1, tell=lambda line: None)
    copy = session.store.result(study.notebook(session, "03_finetuning")).file("03_finetuning.ipynb")
    cells = {cell.source: cell for cell in nbformat.read(copy, as_version=4).cells}
    for number, name in zip(("02-19", "03-27"), OWN.values(), strict=True):
        table = cells[sources[number]].outputs[-1]["data"]["text/html"]
        assert name in table
        assert "standard" in table or "tlm" in table
    results = session.store.root.rglob(RECORD)
    texts = {read_json(path)["params"].get("code", "") for path in results}
    functions = {text.partition("\n")[2].partition("(")[0] for text in texts}  # after how it is called
    assert functions == {"", *(f"def {name}" for name in OWN.values())}


# Any notebook


@pytest.mark.parametrize(
    ("source", "tags", "message"),
    [
        ("seeds = 3", [], "0 code cells are tagged"),
        ("seeds: int = 3\nsedes = 3", ["parameters"], "did you mean seeds"),
        ("seeds = \n", ["parameters"], "line 1: invalid syntax"),
        ("seeds = 2 * alpha", ["parameters"], "seeds: expected a plain value"),
    ],
)
def test_a_parameters_cell_that_cannot_be_used(tmp_path, source, tags, message):
    path = tmp_path / "a.ipynb"
    cell = nbformat.v4.new_code_cell(source, metadata={"tags": tags})
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), path)
    with pytest.raises(StudyError, match=message):
        notebooks.declared(path)


@pytest.mark.parametrize("text", ["", "{}", "[1]"])
def test_a_file_that_is_no_notebook(tmp_path, text):
    path = tmp_path / "a.ipynb"
    path.write_text(text)
    with pytest.raises(StudyError, match=r"a\.ipynb"):
        notebooks.declared(path)


def executed(tmp_path, **cells):
    """What executing notebooks of these cells gives: the store, their runs, the lines told, and the error."""
    (tmp_path / "notebooks").mkdir()
    store, lines, runs = Store(tmp_path / "runs"), [], Runs(Params())
    for name, own in cells.items():
        tinystudy.write_notebook(tmp_path / "notebooks" / f"{name}.ipynb", *own, names=["profile", "seeds"])
    specs = {name: runs.notebook(name, {"seeds": 7}, "") for name in cells}
    with pytest.raises(StudyError) as caught:
        pool.compute_all(list(specs.values()), store, 1, lines.append)
    return store, specs, lines, str(caught.value)


def test_notebooks_are_executed_by_papermill(tmp_path, here):
    draws = 'import os\n_ = open(os.environ["XLT_FIGURES"] + "/drawn.txt", "w").write(str(seeds))'
    dies = "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)"
    fails = "# a comment\nraise ValueError('first\\nsecond')"
    store, specs, lines, told = executed(
        tmp_path, good=[draws, "import os; os.getcwd(), seeds"], bad=["1 + 1", fails], dead=[dies]
    )
    assert "2 of 3 runs failed (notebook " in told
    source, kept = tmp_path / "notebooks/bad.ipynb", store.partial(specs["bad"]) / "bad.ipynb"
    place = f"{source}, cell [4] (raise ValueError('first\\nsecond')): ValueError: first\nsecond\nsee {kept}"
    assert place in store.failure(specs["bad"])
    assert kept.exists()
    assert re.search(r"dead\.ipynb: .*[Kk]ernel", store.failure(specs["dead"])), "whatever the notebook says"
    assert any(re.match(r"\[\d/3\] notebook good: \d+ s", line) for line in lines)
    good = store.result(specs["good"])
    assert {*good.record["files"]} == {"good.ipynb", "figures/drawn.txt"}
    assert good.file("figures/drawn.txt").read_text() == "7"
    copy = nbformat.read(good.file("good.ipynb"), as_version=4)
    shown = copy.cells[-1].outputs[0].data["text/plain"].split()  # a long path stands on its own line
    assert " ".join(shown) == f"('{tmp_path}/notebooks', 7)"
    assert "papermill" not in good.file("good.ipynb").read_text(), "no times, no folders of this machine"


def rewrite() -> None:
    """Write all parameters cells anew."""
    for stage in STAGES:
        notebook = read(stage)
        tagged(notebook)[0].source = tinystudy.notebook_cell(names(stage))
        path = ROOT / "notebooks" / f"{stage}.ipynb"
        path.write_text(nbformat.writes(notebook, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    rewrite()
