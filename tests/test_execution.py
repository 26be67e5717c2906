"""Notebooks executed by papermill: their parameters cells, what comes back, and how failures are told."""

import nbformat
import pytest
import tinystudy

from xltlib import StudyError, notebooks


def test_a_notebooks_parameters_cell_is_read_as_code(tmp_path):
    path = tmp_path / "a.ipynb"
    tinystudy.write_notebook(path, "other = 1", names=["profile", "seeds"])
    assert notebooks.declared(path) == {"profile": "quick", "seeds": 2}


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


@pytest.mark.parametrize("text", [None, "", "{}", "[1]", "not json"])
def test_a_file_that_is_no_notebook(tmp_path, text):
    path = tmp_path / "a.ipynb"
    if text is not None:
        path.write_text(text)
    with pytest.raises(StudyError, match=r"a\.ipynb"):
        notebooks.declared(path)


def job(tmp_path, *cells, name="a") -> notebooks.Job:
    source = tmp_path / f"{name}.ipynb"
    tinystudy.write_notebook(source, *cells, names=["profile", "seeds"])
    folders = tmp_path / "copies" / source.name, tmp_path / "figures" / name
    return notebooks.Job(source, *folders, {"seeds": 7}, "digest")


def test_notebooks_are_executed_by_papermill(tmp_path, capfd):
    draws = 'import os\n_ = open(os.environ["XLT_FIGURES"] + "/drawn.txt", "w").write(str(seeds))'
    good = job(tmp_path, draws, "import os; os.getcwd(), seeds, os.environ['GREETING']")
    bad = job(tmp_path, "1 + 1", "# a comment\nraise ValueError('first\\nsecond')", name="bad")
    lines = []
    with pytest.raises(StudyError) as caught:
        notebooks.execute([good, bad], 2, {"GREETING": "hello"}, lines.append)
    message = str(caught.value)
    assert (
        f"{bad.source}, cell [4] (raise ValueError('first\\nsecond')): ValueError: first\nsecond\n" in message
    )
    assert message.endswith(f"see {bad.partial}")
    assert bad.partial.exists()
    assert not bad.copy.exists()
    assert not bad.finished()
    assert good.finished()
    assert lines == [f"a: executed in {round(good.seconds())} s"]
    assert [path.read_text() for path in good.drawn()] == ["7"]
    copy = nbformat.read(good.copy, as_version=4)
    assert copy.cells[-1].outputs[0].data["text/plain"] == f"('{tmp_path}', 7, 'hello')"
    assert "papermill" not in good.copy.read_text(), "no times, no folders of this machine"
    assert not list(good.copy.parent.glob(".partial/a.*"))
    assert capfd.readouterr().err == ""


def test_a_kernel_that_dies_is_a_failure_whatever_the_notebook_says(tmp_path):
    dead = job(tmp_path, "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(StudyError, match=r"a\.ipynb: .*[Kk]ernel"):
        notebooks.execute([dead], 1, {}, print)
    assert not dead.finished()
