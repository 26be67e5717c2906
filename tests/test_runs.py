"""Runs of a study: what digests depend on, several processes, failures, kills, published results."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor

import psutil
import pytest
import torch
from tiny import computed, equal, params

from xltlib import StudyError, pool
from xltlib.pool import compute, compute_all
from xltlib.runs import KINDS, Runs, closure
from xltlib.store import Spec, Store, publish


@pytest.fixture(scope="module")
def specs():
    """Some runs of the small study: two seeds, two objectives, two tasks."""
    runs = Runs(params())
    return [runs.transfer("nli", "none", 0), runs.transfer("qa", "tlm", 1), runs.probe("none", 0)]


@pytest.fixture(scope="module")
def store(specs, tmp_path_factory):
    """A store with these runs, computed one after the other in this process."""
    store = Store(tmp_path_factory.mktemp("store"))
    computed(specs, store)
    return store


def test_each_process_has_one_of_the_gpus_in_turn(monkeypatch):
    context, found = multiprocessing.get_context("forkserver"), []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-7")
    for turns in (["3", "GPU-7"], ["3", "GPU-7"], []):
        executor = ProcessPoolExecutor(1, context, pool._begin, (turns, {**os.environ}))
        found.append(executor.submit(os.getenv, "CUDA_VISIBLE_DEVICES").result())
        executor.shutdown()
    assert {*found[:2]} == {"3", "GPU-7"}
    assert found[2] == "3,GPU-7", "as it was"


# Specs


def digests(**changes):
    """Digest of one run of each kind, with some parameters changed."""
    runs = Runs(params(**changes))
    found = {
        "text": runs.text(), "pairs": runs.pairs(), "links": runs.links(), "base": runs.base(0),
        "tlm": runs.encoder("tlm", 0), "transfer": runs.transfer("nli", "tlm", 0),
        "probe": runs.probe("tlm", 0),
    }  # fmt: skip
    return {name: spec.digest for name, spec in found.items()}


CHAIN = ["text", "pairs", "links", "base", "tlm", "transfer", "probe"]
ENCODERS = ["base", "tlm", "transfer", "probe"]
TRAINED = ["tlm", "transfer", "probe"]


@pytest.mark.parametrize(
    ("changes", "changed"),
    [
        ({"world_seed": 1, "documents": 310, "vocab_size": 230}, CHAIN),
        ({"parallel_pairs": 70}, ["pairs", "links", *TRAINED]),
        ({"hidden_size": 32, "pretrain_steps": 21, "pretrain_lr": 1e-3}, ENCODERS),
        ({"mask_rate": 0.2, "batch_size": 16}, ENCODERS),
        ({"continue_steps": 9, "continue_lr": 1e-4, "document_share": 0.4}, TRAINED),
        (
            {"train_examples": 99, "test_examples": 33, "finetune_lr": 1e-4, "finetune_epochs": 2},
            ["transfer"],
        ),
        ({"freeze_embeddings": False, "pooling": "cls"}, ["transfer"]),
        ({"seeds": 5, "tasks": ("nli",), "objectives": ("none",), "methods": ("standard", "rs_rp")}, []),
        ({"alpha": 0.1, "bootstrap_samples": 500, "profile": "other"}, []),
    ],
)
def test_a_digest_changes_with_what_the_run_depends_on(changes, changed):
    before = digests()
    for name, value in changes.items():
        after = digests(**{name: value})
        assert [each for each in CHAIN if before[each] != after[each]] == changed, name


@pytest.mark.parametrize(
    ("ask", "told"),
    [
        (("tlmm", 0), "objective 'tlmm' is not known; known: none, mlm"),
        (("weam", 0, "lamda=2"), "no option 'lamda': did you mean lambda"),
        (("none", 0, "mask_rate=0.5"), "objective none has no option mask_rate"),
    ],
)
def test_what_is_not_known_is_refused(ask, told):
    with pytest.raises(StudyError, match=told):
        Runs(params()).encoder(*ask)
    with pytest.raises(StudyError, match="method 'magic' is not known; known: standard"):
        Runs(params()).transfer("nli", "tlm", 0, "magic")


def test_closure_has_each_run_once_and_inputs_first():
    runs = Runs(params(noise_tasks=("nli",)))
    others = [runs.links(), runs.lexicon("none", 0), runs.answers(0), runs.campaign({}, {}, 1, 1)]
    found = closure([*runs.stage("06_claims"), *others])
    assert len({s.digest for s in found}) == len(found)
    for at, spec in enumerate(found):
        assert all(other in found[:at] for other in spec.inputs)
    real = Runs(params(data="real", probes=("retrieval", "tagging"))).stage("02_pretraining")
    assert {s.kind for s in [*found, *real]} == set(KINDS) - {"notebook"}
    assert closure([]) == []


def test_the_order_of_options_makes_no_other_run():
    runs = Runs(params())
    one = runs.transfer("nli", "weam", 0, "salt", "lambda=2,mask_rate=0.15", "threshold=0.7,mix=half")
    two = runs.transfer("nli", "weam", 0, "salt", "mask_rate=0.15,lambda=2", "mix=half,threshold=0.7")
    assert one.digest == two.digest
    assert one.params["labels"]["method_options"] == "threshold=0.7,mix=half"
    both = (runs.probe("weam", 0, x) for x in ("links=gold,mask_rate=0.6", "mask_rate=0.6,links=gold"))
    assert len({spec.digest for spec in both}) == 1
    assert runs.encoder("none", 1) == runs.base(1) != runs.base(0)


def test_runs_in_words():
    runs = Runs(params())
    assert str(runs.transfer("nli", "tlm", 2)) == "transfer nli standard tlm, seed 2"
    assert str(runs.base(1)) == "encoder base, seed 1"
    assert str(runs.links("gold")) == "links gold"
    assert str(runs.text()) == "text"


# Results


def test_what_the_runs_leave(store, specs):
    transfer, qa, _ = (store.result(spec) for spec in specs)
    assert transfer.labels == {
        "objective": "none", "objective_options": "", "method": "standard", "method_options": "",
        "task": "nli", "seed": 0,
    }  # fmt: skip
    assert set(transfer.scores) == {"src", "far", "low"}
    assert all(len(values) == 30 for values in transfer.scores.values())
    assert transfer.values["means"]["far"] == pytest.approx(transfer.scores["far"].mean(), abs=1e-6)
    assert set(qa.scores) == {"src", "src#f1", "far", "far#f1", "low", "low#f1"}
    assert (qa.scores["far"] <= qa.scores["far#f1"]).all()


def test_gold_links_are_perfect_and_random_ones_are_not(tmp_path):
    runs = Runs(params())
    gold, random, half = computed([runs.links(k) for k in ("gold", "random", "corrupt0.5")], Store(tmp_path))
    for language in ("far", "low"):
        aer = [r.values["quality"][language]["aer"] for r in (gold, half, random)]
        assert aer[0] == 0
        assert aer[0] < aer[1] < aer[2]


# Several processes


def test_two_processes_compute_the_same(store, specs, tmp_path):
    lines, other = [], Store(tmp_path)
    results = compute_all(specs, other, jobs=2, tell=lines.append)
    assert all(equal(a, store.result(spec)) for a, spec in zip(results, specs, strict=True))
    count = len(closure(specs))
    assert lines[0] == f"{count} runs to compute with 2 processes: how long they take was never measured"
    assert len(lines) == count + 1
    assert lines[-1].startswith(f"[{count}/{count}] ")
    compute_all(specs, other, tell=lines.append)
    assert len(lines) == count + 1  # nothing was computed again


def test_published_results_are_used_where_the_store_knows_of_them(store, specs, tmp_path):
    publish([store.result(spec) for spec in closure(specs)], tmp_path / "figures")
    other = Store(tmp_path / "store", [tmp_path / "figures"])
    results = compute_all(specs, other)
    assert {r.directory for r in results} == {None}
    assert results[0].values == store.result(specs[0]).values
    assert not list(other.root.glob("*/*/result.json"))
    # a run that is not published needs the files of its inputs: they are computed, not taken
    more = Runs(params()).transfer("paraphrase", "none", 0)
    assert [s.kind for s in pool.missing([*specs, more], other)] == ["text", "encoder", "transfer"]
    fresh = Store(other.root)
    assert len(pool.missing(specs, fresh)) == len(closure(specs))
    assert compute(specs[0], other).directory is None
    assert compute(specs[0], fresh).directory is not None


def test_a_failing_run_is_named_and_stops_only_what_builds_on_it(store, threads):
    runs, lines = Runs(params()), []
    broken = runs.links("none")
    asked = [Spec("encoder", {"objective": "weam", "seed": 0}, 1, (broken,)), runs.links("gold")]
    with pytest.raises(StudyError) as error:
        compute_all(asked, Store(store.root), tell=lines.append)
    assert "2 of 3 runs failed (links none, encoder weam, seed 0)" in str(error.value)
    assert "The first: ValueError: could not convert string to float: 'none'" in str(error.value)
    assert any(line.startswith("failed: links none") for line in lines)
    assert store.status(runs.links("gold")) == "done"
    assert store.status(runs.links("none")) == "failed"


def test_what_the_machine_lacks_is_told_before_any_run(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    other = Store(tmp_path)
    with pytest.raises(StudyError, match="device cuda: torch finds no GPU here"):
        compute_all([Runs(params(device="cuda")).encoder("none", 0)], other)
    assert not list(other.root.glob("*/*"))


STUDY = """
import sys
from tiny import params
from xltlib.pool import compute_all
from xltlib.runs import Runs
from xltlib.store import Store

if __name__ == "__main__":
    runs = Runs(params())
    specs = [runs.transfer("nli", "none", 0), runs.transfer("qa", "tlm", 1), runs.probe("none", 0)]
    compute_all(specs, Store(sys.argv[1]), jobs=1)
"""


def started(tmp_path):
    """A study in a process of its own, once its first run is done; and the processes that it started."""
    script = tmp_path / "study.py"
    script.write_text(STUDY, "utf-8")
    process = subprocess.Popen([sys.executable, script, tmp_path / "store"], stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while not list((tmp_path / "store").glob("text/*/result.json")) and time.monotonic() < deadline:
        time.sleep(0.02)
    return process, psutil.Process(process.pid).children(recursive=True)


def test_a_killed_study_leaves_no_process_and_ends_with_the_same_numbers(store, specs, tmp_path, threads):
    process, children = started(tmp_path)
    assert children
    process.send_signal(signal.SIGKILL)
    process.communicate()
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive
    other = Store(tmp_path / "store")
    assert any(other.status(spec) != "done" for spec in specs)
    results = compute_all(specs, other, jobs=1)
    assert all(equal(a, store.result(spec)) for a, spec in zip(results, specs, strict=True))


@pytest.mark.slow
def test_an_interrupted_study_ends_soon_and_says_so(tmp_path):
    process, children = started(tmp_path)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=30)
    assert process.returncode != 0
    assert b"KeyboardInterrupt" in told
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive
    assert not list((tmp_path / "store").glob(".partial/*/.failed.json"))


@pytest.mark.slow
def test_a_worker_killed_from_outside_is_reported(tmp_path):
    process, children = started(tmp_path)
    own = {child.pid for child in psutil.Process(process.pid).children()}
    for worker in [child for child in children if child.pid not in own]:  # forked by a server, which is one
        worker.send_signal(signal.SIGKILL)
    _, told = process.communicate(timeout=30)
    assert process.returncode != 0
    assert b"a process was ended from outside, most likely for lack of memory" in told


def test_a_world_for_each_seed():
    one, own = Runs(params(seeds=2)), Runs(params(seeds=2, world_per_seed=True))
    assert own.text(1).params["world_seed"] == 1
    assert one.text(1) == one.text(0) == own.text(0)
    transfer = own.transfer("nli", "weam", 1)
    texts = {spec.digest for spec in closure([transfer]) if spec.kind == "text"}
    assert texts == {own.text(1).digest}
    assert own.evaluation("pairs", transfer).inputs[1] == own.text(1)
