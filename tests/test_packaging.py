"""The repository as a whole: installable as written, imports in one direction, no trace of one machine."""

import ast
import re
import subprocess
import tomllib

import nbformat
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

# Each module imports only from those before it; a new module takes its place here.
STAGES = [
    ["settings", "params", "machine", "files", "results", "store", "hub"],
    ["records", "clusters", "synthetic", "synthetic_tasks", "corpora", "task_files", "task_sets", "tasks"],
    [
        "tokenization",
        "links",
        "cooccurrence",
        "em",
        "alignment",
        "encoder_alignment",
        "real_data",
        "task_data",
    ],
    ["keyboards", "substitution", "noise"],
    [
        "baselines",
        "evaluation",
        "models",
        "downloads",
        "training",
        "objectives",
        "pretraining",
        "encoding",
        "batching",
        "robust",
        "salt",
        "task_model",
        "prediction",
        "finetuning",
        "seq2seq",
        "runs",
        "text_builders",
        "real_builders",
        "encoder_builders",
        "probing",
        "baseline_builders",
        "task_case",
        "task_builders",
        "seq2seq_builders",
        "builders",
        "pool",
    ],
    ["significance", "verdicts", "resampling", "honesty", "compare"],
    [
        "ledger",
        "ledger_file",
        "reportcheck",
        "selection",
        "reading",
        "open_questions",
        "claim_text",
        "claims",
    ],
    [
        "panels",
        "published",
        "language_data",
        "text_data",
        "figure_data",
        "sweep_data",
        "verdict_data",
        "figures",
    ],
    ["wanted", "report_views", "report_evidence", "report", "notebooks", "study", "plan", "grid", "cli"],
]
ORDER = [module for stage in STAGES for module in stage]


@pytest.fixture(scope="module")
def project(root) -> dict:
    return tomllib.loads((root / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def locked(root) -> dict[str, Version]:
    lines = (root / "requirements.lock").read_text().splitlines()
    names = [line.partition("==")[0] for line in lines]
    assert names == sorted(set(names))
    return {name: Version(line.partition("==")[2]) for name, line in zip(names, lines, strict=True)}


@pytest.fixture(scope="module")
def tracked(root) -> list:
    """All files that git has or would take."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        found = subprocess.run(command, cwd=root, capture_output=True, check=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    return [root / name for name in sorted(set(found.split("\0"))) if name and (root / name).is_file()]


def test_the_lock_is_plain_names_and_versions(root, locked):
    for line in (root / "requirements.lock").read_text().splitlines():
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*==[0-9][0-9a-z.]*", line), line
    assert not [name for name in locked if name.startswith(("nvidia-", "xltlib"))]


def test_every_dependency_is_locked_within_its_range(project, locked):
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["test"], *extras["page"], *extras["bench"]]
    for requirement in map(Requirement, wanted):
        version = locked[canonicalize_name(requirement.name)]
        assert version in requirement.specifier, f"{requirement} is locked at {version}"
    assert "setuptools" in locked, "the package is built without isolation"


def test_the_conda_environment_takes_its_versions_from_the_lock(root, project):
    environment = yaml.safe_load((root / "environment.yml").read_text())
    assert environment["name"] == "xlt"
    python, pip, lines = environment["dependencies"]
    assert pip == "pip"
    assert SpecifierSet(python.removeprefix("python")) == SpecifierSet(project["requires-python"])
    assert lines == {"pip": ["-r requirements.lock", "-e ."]}


def test_what_pyproject_names_is_there(root, project):
    assert len((root / project["readme"]).read_text()) > 500
    assert "MIT" in (root / project["license-files"][0]).read_text()
    module, _, function = project["scripts"]["xlt"].partition(":")
    tree = ast.parse((root / f"{module.replace('.', '/')}.py").read_text())
    assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert (root / ".ci/run").stat().st_mode & 0o100


def test_modules_import_only_from_those_above_them(root):
    wrong = []
    for path in sorted((root / "xltlib").glob("[!_]*.py")):
        if path.stem not in ORDER:
            wrong.append(f"{path.name} has no place in STAGES")
            continue
        above = ORDER[: ORDER.index(path.stem)]
        wrong += [f"{path.name} imports {name}" for name in sorted(set(imported(path)) - set(above))]
    assert not wrong


def imported(path):
    """The package's modules that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = f"xltlib.{node.module}" if node.level and node.module else node.module or "xltlib"
            names = [f"{module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (name.split(".")[1] for name in names if name.startswith("xltlib."))


def test_no_module_is_longer_than_400_lines(tracked):
    lengths = {path.name: len(path.read_text().splitlines()) for path in tracked if path.suffix == ".py"}
    assert not {name: length for name, length in lengths.items() if length > 400}


def test_no_file_names_a_place_of_one_machine(tracked, root):
    home = re.compile(r"(?<![\w.~}])/(?:home|Users|root|work)/\w")
    beside = "../" + "shared"
    for path in tracked:
        if path.suffix in {".png", ".npz", ".gz"}:
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        assert not home.search(text), f"{path}: {home.search(text)}"
        assert beside not in text or path == root / "tests/conftest.py", path


def test_notebooks_are_committed_without_outputs(tracked):
    for path in (path for path in tracked if path.suffix == ".ipynb"):
        for cell in nbformat.read(path, as_version=4).cells:
            assert not cell.get("outputs"), path
            assert cell.get("execution_count") is None, path
