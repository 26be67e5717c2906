"""Slices of a study: what belongs together, what waits for what, and a Snakemake that makes nothing twice."""

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tinystudy
import yaml

from xltlib import cli, plan, study
from xltlib.params import Params, load
from xltlib.runs import STAGES, Runs, closure

ONE = {"seeds": 1, "objectives": ["none"], "methods": ["standard"], "noise_tasks": []}  # a study of one seed


def sliced(**changes):
    """The slices of a study by name."""
    runs = Runs(Params(**{"methods": ("standard",), "objectives": ("none", "tlm")} | changes))
    return plan.slices(spec for stage in STAGES for spec in runs.stage(stage))


def stamps(profile):
    """The folder of the stamps, brought up to date, and the slices."""
    return study.stamps(study.open(load(profile)))


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A study with little in it, its folder the current one."""
    profile = tinystudy.make(tmp_path)
    profile.write_text(yaml.safe_dump(tinystudy.SMALL | ONE))
    monkeypatch.setenv("XLT_ROOT", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return profile


def test_every_run_is_in_one_slice_and_waits_for_what_it_builds_on():
    found = sliced()
    runs = [spec for each in found.values() for spec in each.specs]
    assert len(runs) == len(set(runs)) == len(closure(runs))
    home = {spec: each.name for each in found.values() for spec in each.specs}
    for each in found.values():
        assert {home[other] for spec in each.specs for other in spec.inputs} - {each.name} == set(each.needs)
    done = []
    while len(done) < len(found):  # a cycle would never end
        ready = [n for n, each in found.items() if n not in done and set(each.needs) <= set(done)]
        assert ready
        done += ready
    plain = {name.rpartition("-")[0] for name in found}
    assert {
        "text",
        "encoder-base-seed0",
        "encoder-tlm-seed1",
        "nli-standard-seed0",
        "qa-standard-seed1",
    } < plain


def test_a_parameter_changes_only_the_slices_that_depend_on_it():
    before, after = sliced(), sliced(finetune_lr=1e-3)
    gone = {name.rpartition("-")[0] for name in before.keys() - after.keys()}
    tasks = {f"{task}-standard-seed{seed}" for task in Params().tasks for seed in (0, 1)}
    assert gone == tasks
    assert set(sliced(seeds=3)) > set(before)


def test_stamps_follow_the_store(tiny):
    folder, found = stamps(tiny)
    assert not list(folder.iterdir())
    tinystudy.fill(tiny)
    assert stamps(tiny) == (folder, found)
    assert {path.name for path in folder.iterdir()} == {name + study.DONE for name in found}
    text = next(each for each in found.values() if each.name.startswith("text"))
    shutil.rmtree(study.open(load(tiny)).store.path(text.specs[0]))
    stamps(tiny)
    assert {name for name in found if not (folder / (name + study.DONE)).exists()} == {text.name}


def test_one_slice_is_computed_by_the_command(tiny, capsys):
    folder, (first, *_) = stamps(tiny)
    assert cli.main(["slice", str(tiny), first]) == 0
    stamps(tiny)
    assert [path.name for path in folder.iterdir()] == [first + study.DONE]
    assert cli.main(["slice", str(tiny), "text-00000000"]) == 2
    assert "there is no slice text-00000000" in capsys.readouterr().err


def start(folder: Path, *options: str) -> subprocess.Popen:
    """Snakemake on two local cores, a process group of its own."""
    command = [
        sys.executable,
        "-m",
        "snakemake",
        *options,
        "slices",
        "-j",
        "2",
        "--config",
        "profile=params/tiny.yaml",
    ]
    package = str(Path(study.__file__).parent.parent)
    environment = os.environ | {"PYTHONPATH": package, "XLT_ROOT": str(folder)}
    return subprocess.Popen(
        command, cwd=folder, env=environment, start_new_session=True, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def finish(folder: Path, *options: str) -> str:
    process = start(folder, *options)
    told = process.communicate(timeout=900)[0]
    assert process.returncode == 0, told
    return told


@pytest.mark.slow
@pytest.mark.skipif(
    not importlib.util.find_spec("snakemake"), reason="snakemake is absent: pip install 'xltlib[grid]'"
)
def test_snakemake_makes_what_is_missing_after_a_kill_and_nothing_twice(tiny, root):
    folder = tiny.parent.parent
    shutil.copy(root / "Snakefile", folder)
    process, deadline = start(folder), time.monotonic() + 300
    while not list(folder.glob("runs/grid/tiny/encoder*")) and time.monotonic() < deadline:
        time.sleep(0.2)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    before = list(folder.glob("runs/*/*/result.json"))
    assert before
    times = {path: path.stat().st_mtime_ns for path in before}
    process = start(folder, "--unlock")
    assert process.wait(300) == 0
    finish(folder, "--rerun-incomplete")
    assert {path: path.stat().st_mtime_ns for path in before} == times
    assert all(study.open(load(tiny)).store.status(spec) == "done" for spec in tinystudy.fill(tiny))
    assert "Nothing to be done" in finish(folder)
    tiny.write_text(tiny.read_text() + "finetune_lr: 0.001\n")
    told = finish(folder)
    made = [line for line in told.splitlines() if line.strip().startswith("output:")]
    assert len(made) == 1, told
    assert "nli-standard-seed0" in made[0]
