"""A study small enough for a test: a folder with a profile, a ledger of one statement, and six notebooks."""

from pathlib import Path

import nbformat
import numpy as np
import yaml
from studies import better, small_ledger

from xltlib import study
from xltlib.params import Params, described, load
from xltlib.runs import STAGES, closure
from xltlib.store import save_scores

SMALL = {
    "profile": "tiny", "languages": ["src", "near"], "tasks": ["nli"], "objectives": ["none", "tlm"],
    "methods": ["standard"], "noise_tasks": [], "seeds": 2, "documents": 200, "parallel_pairs": 60,
    "vocab_size": 300, "hidden_size": 16, "num_layers": 1, "pretrain_steps": 4, "continue_steps": 2,
    "train_examples": 64, "test_examples": 16, "finetune_epochs": 1,
}  # fmt: skip
DRAWS = """import os, pathlib
folder = pathlib.Path(os.environ["XLT_FIGURES"])
_ = (folder / "{name}.json").write_text("{{}}")
_ = (folder / "{name}.svg").write_text("<svg/>")"""
WORKS = """import xltlib.params
from xltlib import study
from xltlib.store import write_json
session = study.open(xltlib.params.from_notebook(globals()))
results = session.results("{name}")
write_json(session.figures / "{name}.json", {{"runs": [r.digest for r in results]}})
print(len(results), "runs")"""


def make(root: Path, cell: str = DRAWS) -> Path:
    """Write the study below `root` and return its profile's path; `cell` is what each notebook does."""
    for folder in ("params", "notebooks", "figures"):
        (root / folder).mkdir(parents=True)
    (root / "pyproject.toml").touch()
    small_ledger(root / "params", better("tlm", "none"))
    profile = root / "params" / "tiny.yaml"
    profile.write_text(yaml.safe_dump(SMALL), encoding="utf-8")
    for stage in STAGES:
        write_notebook(root / "notebooks" / f"{stage}.ipynb", cell.format(name=stage))
    return profile


def notebook_cell(names) -> str:
    """The text of a notebook's parameters cell: one `name = default  # doc` line for each name."""
    rows = {row["name"]: row for row in described(Params)}
    words = {name: f" ({row['may be']})" if " | " in row["may be"] else "" for name, row in rows.items()}
    return "\n".join(f"{x} = {rows[x]['default']}  # {rows[x]['meaning']}{words[x]}" for x in names)


def write_notebook(path: Path, *cells: str, names=tuple(SMALL)) -> None:
    """A notebook with a parameters cell for `names` and some other cells."""
    parameters = nbformat.v4.new_code_cell(notebook_cell(names), metadata={"tags": ["parameters"]})
    made = [parameters, *map(nbformat.v4.new_code_cell, cells)]
    for number, each in enumerate(made):
        each["id"] = f"cell-{number}"
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=made, metadata=kernel), path)


def fill(profile: Path, seconds: float = 0.0) -> list:
    """Put made-up results of all runs of the profile into its store, as if they had been computed."""
    session = study.open(load(profile))
    specs = closure(spec for stage in STAGES for spec in session.runs.stage(stage))
    for spec in specs:
        session.store.compute(spec, lambda directory, spec=spec: _made_up(spec, session.params, directory))
    return specs


def _made_up(spec, params: Params, directory: Path) -> dict:
    if "labels" not in spec.params:
        return {}
    rng = np.random.default_rng(int(spec.digest, 16))
    save_scores(
        directory / "scores.npz",
        {name: rng.integers(0, 2, params.test_examples) for name in params.languages},
    )
    return {"labels": spec.params["labels"]}
