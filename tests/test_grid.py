"""A study on a cluster: stamps that follow the store, one run a job, a Snakemake that makes nothing twice."""

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

from xltlib import cli, study
from xltlib.params import load

ONE = {"seeds": 1, "objectives": ["none"], "methods": ["standard"], "noise_tasks": []}  # a study of one seed


def stamps(profile) -> tuple[Path, set[str], dict[str, list[str]]]:
    """The folder of the stamps, brought up to date, the runs that have one, and what each run waits for."""
    folder, needs = study.stamps(study.open(load(profile)))
    return folder, {path.name.removesuffix(study.DONE) for path in folder.iterdir()}, needs


@pytest.fixture
def tiny(tiny):
    """A study with little in it, its folder the current one."""
    tiny.write_text(yaml.safe_dump(tinystudy.SMALL | ONE))
    return tiny


def test_stamps_follow_the_store(tiny):
    _, done, needs = stamps(tiny)
    assert done == set()
    text, *others = tinystudy.fill(tiny)
    assert needs[text.digest] == []
    assert all(set(needs[spec.digest]) == {other.digest for other in spec.inputs} for spec in others)
    assert stamps(tiny)[1] == set(needs) == {spec.digest for spec in (text, *others)}
    shutil.rmtree(study.open(load(tiny)).store.path(text))
    assert set(needs) - stamps(tiny)[1] == {text.digest}


def test_one_run_is_computed_by_the_command(tiny, capsys):
    first = next(iter(stamps(tiny)[2]))
    assert cli.main(["job", str(tiny), first]) == 0
    assert stamps(tiny)[1] == {first}
    assert cli.main(["job", str(tiny), "0" * 16]) == 2
    assert "there is no run 0000000000000000" in capsys.readouterr().err


def start(folder: Path, *options: str) -> subprocess.Popen:
    """Snakemake on two local cores, a process group of its own."""
    command = [sys.executable, "-m", "snakemake", *options, "runs", "-j", "2"]
    return subprocess.Popen(
        [*command, "--config", "profile=params/tiny.yaml"], cwd=folder, start_new_session=True, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def finish(folder: Path, *options: str) -> str:
    process = start(folder, *options)
    told = process.communicate(timeout=900)[0]
    assert process.returncode == 0, told
    return told


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("snakemake"), reason="no snakemake: pip install -e .[grid]")
def test_snakemake_makes_what_is_missing_after_a_kill_and_nothing_twice(tiny, root):
    folder = tiny.parent.parent
    shutil.copy(root / "Snakefile", folder)
    process, deadline = start(folder), time.monotonic() + 300
    while not list(folder.glob("runs/grid/tiny/*")) and time.monotonic() < deadline:
        time.sleep(0.2)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    before = list(folder.glob("runs/*/*/result.json"))
    assert before
    times = {path: path.stat().st_mtime_ns for path in before}
    assert start(folder, "--unlock").wait(300) == 0
    finish(folder, "--rerun-incomplete")
    assert {path: path.stat().st_mtime_ns for path in before} == times
    assert all(study.open(load(tiny)).store.status(spec) == "done" for spec in tinystudy.fill(tiny))
    assert "Nothing to be done" in finish(folder)
    tiny.write_text(tiny.read_text() + "finetune_lr: 0.001\n")
    told = finish(folder)
    made = [line for line in told.splitlines() if line.strip().startswith("output:")]
    assert len(made) == 1, told
