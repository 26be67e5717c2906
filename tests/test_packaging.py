"""The repository as a whole: installable as written, imports in one direction, no trace of one machine."""

import ast
import graphlib
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Container, Iterator
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOMS = ("alignment", "pretraining", "finetuning", "noise", "significance", "claims")
# The order in which the rooms, and the modules beside them, build on each other: what everything may use;
# texts, links, noise and tests; encoders; predictions; the study's runs; verdicts; what draws them and what
# tells of them; and what a user starts. Within a layer any direction will do that makes no circle of modules.
LAYERS = (
    {"", "params", "textfile", "store"},
    {"data", "alignment", "noise", "significance", "evaluation"},
    {"pretraining"},
    {"finetuning"},
    {"runs", "plan", "pool"},
    {"claims", "noise.questions"},
    {"drawing", *(f"{room}.figures" for room in ROOMS)},
    {"page", "notebooks", "study"},
    {"cli", "__main__"},
)
LEVELS = {name: level for level, names in enumerate(LAYERS) for name in names}
LONGEST = 60  # lines of a function


@pytest.fixture(scope="module")
def project(root) -> dict:
    return tomllib.loads((root / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def locked(root) -> dict[str, Version]:
    lines = (root / "requirements.lock").read_text().splitlines()
    names = [line.partition("==")[0] for line in lines]
    assert names == sorted(set(names))
    return {name: Version(line.partition("==")[2]) for name, line in zip(names, lines, strict=True)}


@pytest.mark.slow
@pytest.mark.parametrize(
    "line",
    [
        "bench_objectives.py --updates 2 --rounds 1",
        "bench_xnli.py --pairs 64 --updates 2 --predicted 16 --rounds 1",
    ],
)
def test_benchmarks_are_of_the_present_code(root, line):
    pytest.importorskip("accelerate", reason="the bench extra is not installed")
    subprocess.run([sys.executable, *line.split()], cwd=root / "tests/benchmarks", check=True)


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


def test_a_wheel_holds_every_room_and_its_tables(root, tmp_path):
    """What is installed from a release, and not from the checkout, reads the same tables."""
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(root / name, tmp_path)
    shutil.copytree(root / "xltlib", tmp_path / "xltlib", ignore=shutil.ignore_patterns("__pycache__"))
    wheel = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*wheel, "--wheel-dir", tmp_path, tmp_path], check=True)
    (built,) = tmp_path.glob("*.whl")
    files = {path.relative_to(tmp_path).as_posix() for path in (tmp_path / "xltlib").rglob("*.*")}
    assert files <= set(zipfile.ZipFile(built).namelist())


def test_imports_between_rooms_flow_one_way(imports):
    upward = {
        (module, other)
        for module, others in imports.items()
        for other in others
        if level(other) > level(module)
    }
    assert not upward


def test_no_modules_import_each_other_in_a_circle(imports):
    graphlib.TopologicalSorter(imports).prepare()


def test_no_function_is_longer_than_a_screen(root):
    lengths = {
        f"{path.relative_to(root)}: {node.name}": node.end_lineno - node.lineno + 1
        for path in (root / "xltlib").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef)
    }
    assert not {name: length for name, length in lengths.items() if length > LONGEST}


@pytest.fixture(scope="module")
def imports(root) -> dict[str, set[str]]:
    """What each module of the package imports of the others, anywhere in it: names below `xltlib`."""
    paths = {
        module_name(path.relative_to(root / "xltlib")): path
        for path in (root / "xltlib").rglob("*.py")
        if path.parent.name != "page"
    }
    return {name: set(imported(path, paths)) - {name} for name, path in paths.items()}


def module_name(path: Path) -> str:
    """`data/links.py` as `data.links`, `data/__init__.py` as `data`."""
    return ".".join(path.with_suffix("").parts).removesuffix("__init__").removesuffix(".")


def level(module: str) -> int:
    """The layer of a module: its own where it has one, else its room's."""
    return LEVELS[module] if module in LEVELS else LEVELS[module.partition(".")[0]]


def imported(path: Path, known: Container[str]) -> Iterator[str]:
    """The package's modules that a file imports; `from xltlib.data import tasks` imports `data.tasks`."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: an import relative to its place"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            package, _, below = name.partition(".")
            if package == "xltlib":
                yield below if below in known else below.rpartition(".")[0]


def test_no_file_names_a_place_of_one_machine(tracked, root):
    home = re.compile(r"(?<![\w.~}])/(?:home|Users|root|work)/\w")
    beside = "../" + "shared"
    for path in tracked:
        if path.suffix in {".png", ".npz", ".gz"}:
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        assert not home.search(text), f"{path}: {home.search(text)}"
        assert beside not in text or path == root / "tests/conftest.py", path
