"""The committed notebooks: their structure, their parameters, and that they ask only for what there is.

`python tests/test_notebooks.py` writes their parameters cells anew, when a default or its meaning changes.
"""

import ast
import importlib
import re
from pathlib import Path

import nbformat
import pytest
import tinystudy

from xltlib import notebooks, study
from xltlib.claims.ledger import load_ledger
from xltlib.runs import STAGES
from xltlib.store import RECORD, read_json

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
def test_is_committed_without_outputs(stage):
    notebook = read(stage)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert not cell.outputs
            assert cell.execution_count is None
    assert notebook.metadata.kernelspec.name == "python3"


@pytest.mark.parametrize("stage", STAGES)
def test_parameters_cell_is_the_generated_one(stage):
    cells = tagged(read(stage))
    assert len(cells) == 1
    assert cells[0].source == tinystudy.notebook_cell(names(stage)), "run python tests/test_notebooks.py"
    assert names(stage)[0] == "profile"
    assert 6 <= len(names(stage)) <= 12  # what an explorer turns


@pytest.mark.parametrize("stage", STAGES)
def test_parameters_are_checked_before_anything_else_is_named(stage):
    first, second = code_cells(stage)[:2]
    assert first == tinystudy.notebook_cell(names(stage))
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
    assert "study" in modules
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
            assert hasattr(modules[node.value.id], node.attr), f"{node.value.id}.{node.attr}"


@pytest.mark.parametrize("stage", STAGES)
def test_imports_the_room_of_its_name(stage):
    room = {"04_noise_ablations": "noise"}.get(stage, stage.partition("_")[2])
    assert re.search(rf"^from xltlib\.{room} import .*figures", code_cells(stage)[1], re.M)


def test_cells_have_fixed_ids():
    for stage in STAGES:
        ids = [cell.id for cell in read(stage).cells]
        assert ids == [f"{stage[:2]}-{k:02d}" for k in range(len(ids))]


def test_a_function_of_ones_own_is_trained_and_compared(tmp_path, monkeypatch):
    """The last cells of both notebooks, by papermill, on a tiny study whose encoders have been trained."""
    profile = tinystudy.make(tmp_path, tinystudy.WORKS)
    for stage, shown in (
        ("02_pretraining", ["02-03", "02-07", "02-19"]),
        ("03_finetuning", ["03-03", "03-07", "03-27"]),
    ):
        cells = [cell.source for cell in read(stage).cells if cell.id in shown]
        tinystudy.write_notebook(tmp_path / "notebooks" / f"{stage}.ipynb", *cells)
    monkeypatch.setenv("XLT_ROOT", str(tmp_path))
    session = study.run(profile, only=list(OWN), jobs=1, tell=lambda line: None)
    for stage, name in OWN.items():
        executed = nbformat.read(
            session.root / "runs" / "notebooks" / "tiny" / f"{stage}.ipynb", as_version=4
        )
        table = executed.cells[-1].outputs[-1]["data"]["text/html"]
        assert name in table
        assert "standard" in table or "tlm" in table
    results = session.store.root.rglob(RECORD)
    texts = {read_json(path)["params"].get("code", "") for path in results}
    functions = {text.partition("\n")[2].partition("(")[0] for text in texts}  # after how it is called
    assert functions == {"", *(f"def {name}" for name in OWN.values())}


def rewrite() -> None:
    """Write all parameters cells anew."""
    for stage in STAGES:
        notebook = read(stage)
        tagged(notebook)[0].source = tinystudy.notebook_cell(names(stage))
        path = ROOT / "notebooks" / f"{stage}.ipynb"
        path.write_text(nbformat.writes(notebook, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    rewrite()
