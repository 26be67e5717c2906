"""The store: same spec, same result; complete or absent, whatever happens in between; and its files."""

import errno
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from xltlib import StudyError
from xltlib.store import (
    Spec,
    Store,
    load_scores,
    plain,
    processor,
    publish,
    read_json,
    read_published,
    save_scores,
    sha256_file,
    write_json,
)

CORPUS = Spec("corpus", {"seed": 0, "languages": ["src", "near"]}, 1)
RUN = Spec("transfer", {"method": "standard", "rate": 0.5, "frozen": True}, "2", (CORPUS,))
SCORES = {"near": np.array([1, 0, 1, 1, 0, 0, 0, 1, 1.0]), "near#f1": np.array([0.25, 1, 0, 2 / 3])}


def build(directory):
    (directory / "sub").mkdir(exist_ok=True)
    (directory / "sub" / "model.bin").write_bytes(b"weights")
    save_scores(directory / "scores.npz", SCORES)
    return {"accuracy": 5 / 9, "labels": {"method": "standard", "seed": 0}}


def never(directory):
    raise AssertionError("the run was built again")


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "runs")


# --- specs and plain values


def test_the_digest_is_pinned_and_depends_on_everything_in_the_spec():
    assert CORPUS.digest == "2ff3d07b44a9e20b"
    assert RUN.digest == "473b4142bb37107e"
    same = Spec("corpus", {"languages": ("src", "near"), "seed": 0}, 1)
    assert (same, hash(same)) == (CORPUS, hash(CORPUS))
    others = [
        Spec("text", CORPUS.params, 1),
        Spec("corpus", CORPUS.params, "1"),
        Spec("corpus", CORPUS.params, 2),
        Spec("corpus", CORPUS.params | {"seed": False}, 1),
        Spec("corpus", CORPUS.params | {"seed": 0.0}, 1),
        Spec("corpus", CORPUS.params, 1, (RUN,)),
    ]
    assert len({spec.digest for spec in [CORPUS, *others]}) == 7


def test_a_spec_keeps_its_digest_when_the_callers_dict_changes():
    params = {"a": [1]}
    spec = Spec("corpus", params, 1)
    params["a"].append(2)
    assert spec.digest == Spec("corpus", {"a": [1]}, 1).digest


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), {1}, b"x", np.int64(1), np.zeros(2), {1: 2}, object()]
)
def test_what_json_cannot_hold_is_refused_with_its_place(value):
    with pytest.raises(StudyError, match=r"corpus params\.x\[1\]"):
        Spec("corpus", {"x": [0, value]}, 1)


# --- computing


def test_a_run_is_built_once_and_read_again(store):
    assert store.status(RUN) == "missing"
    first = store.compute(RUN, build)
    again = store.compute(RUN, never)
    assert store.status(RUN) == "done"
    assert first.values == again.values == store.result(RUN).values
    assert again.labels == {"method": "standard", "seed": 0}
    assert again.file("sub/model.bin").read_bytes() == b"weights"
    np.testing.assert_array_equal(again.scores["near"], SCORES["near"])
    record = read_json(store.path(RUN) / "result.json")
    assert record["files"]["sub/model.bin"]["sha256"] == sha256_file(again.file("sub/model.bin"))
    assert record["inputs"] == [CORPUS.digest]
    assert sorted(record["files"]) == ["scores.npz", "sub/model.bin"]
    assert not list(store.root.glob(".partial/*"))
    assert [r.digest for r in store.results()] == [RUN.digest]


@pytest.mark.parametrize(
    ("flags", "name"),
    [
        ("fma avx avx2", "AMD EPYC, avx2"),
        ("avx2 avx512f avx512_bf16", "AMD EPYC, avx512_bf16"),
        ("sse", "AMD EPYC"),
    ],
)
def test_processors_of_one_name_are_told_apart_by_their_vectors(tmp_path, flags, name):
    file = tmp_path / "cpuinfo"
    file.write_text(f"processor\t: 0\nmodel name\t: AMD EPYC\nflags\t\t: {flags}\n\nprocessor\t: 1\n")
    assert processor(file) == name
    assert processor(tmp_path / "none")


def test_the_record_names_versions_and_hardware_but_not_the_host(store):
    import torch  # noqa: F401 - the record tells of it where it is used

    record = store.compute(RUN, build).record
    assert record["environment"]["python"].startswith("3.")
    assert {"torch", "cpu", "cores", "threads"} <= record["environment"].keys()
    assert record["memory_mb"]["cpu"] > 10
    assert os.uname().nodename not in json.dumps(record["environment"])


def test_a_failure_is_kept_until_the_run_succeeds(store):
    def fail(directory):
        (directory / "checkpoint").write_text("step 3")
        raise RuntimeError("the loss is nan")

    with pytest.raises(RuntimeError, match="the loss is nan"):
        store.compute(RUN, fail)
    assert store.status(RUN) == "failed"
    assert store.failure(RUN) == "RuntimeError: the loss is nan"
    with pytest.raises(StudyError, match="failed.*the loss is nan"):
        store.result(RUN)

    def resume(directory):
        assert (directory / "checkpoint").read_text() == "step 3"
        return build(directory)

    store.compute(RUN, resume)
    assert (store.status(RUN), store.failure(RUN)) == ("done", "")


def test_what_was_being_written_when_a_process_died_is_no_part_of_the_run(store):
    store.partial(RUN).mkdir(parents=True)
    (store.partial(RUN) / ".scores.npz.123").write_text("half")
    (store.partial(RUN) / "result.json").write_text("{}")
    assert store.status(RUN) == "missing"
    assert sorted(store.compute(RUN, build).record["files"]) == ["scores.npz", "sub/model.bin"]


@pytest.mark.parametrize("damage", ["flip", "cut", "remove", "record", "no record"])
def test_a_damaged_run_is_moved_aside_and_built_again(store, damage):
    store.compute(RUN, build)
    path = store.path(RUN) / ("result.json" if "record" in damage else "sub/model.bin")
    if damage in ("remove", "no record"):
        path.unlink()
    else:
        found = path.read_bytes()
        changed = {"flip": b"Weights", "cut": found[:3], "record": found.replace(b"0.55", b"0.95")}[damage]
        assert changed != found
        path.write_bytes(changed)
    if damage == "flip":  # of the right size: seen when the file is read
        with pytest.raises(StudyError, match=r"model\.bin.*damaged.*run the same command again"):
            store.result(RUN).file("sub/model.bin")
    assert store.status(RUN, whole=True) == "missing"
    with pytest.warns(UserWarning, match="was damaged: moved to"):
        store.compute(RUN, build)
    assert store.compute(RUN, never).file("sub/model.bin").read_bytes() == b"weights"
    assert len(list(store.root.glob(".corrupt/*"))) == 1


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_full_disk_is_told_with_its_place_and_leaves_nothing_half(store, wrapped):
    def fill(directory):
        if wrapped:
            raise RuntimeError("I/O error: No space left on device (os error 28)")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(StudyError, match="runs: the disk is full: make room.*resumes"):
        store.compute(RUN, fill)
    assert not store.path(RUN).exists()
    assert store.compute(RUN, build).file("sub/model.bin").exists()


def test_a_root_that_cannot_be_written_is_told(tmp_path, store):
    (tmp_path / "file").write_text("")
    with pytest.raises(StudyError, match="file: cannot be written: Not a directory: make it writable"):
        Store(tmp_path / "file").compute(RUN, build)

    def deny(place):
        raise OSError(errno.EROFS, "Read-only file system", str(place / "model.bin"))

    with pytest.raises(StudyError, match="runs: cannot be written: Read-only file system.*XLT_ROOT"):
        store.compute(RUN, deny)
    with pytest.raises(OSError, match="elsewhere"):  # another place: the error stays what it is
        store.compute(RUN, lambda directory: deny(tmp_path / "elsewhere"))


# --- processes

COUNTER = """
import pathlib, sys, time
from xltlib.store import Spec, Store

root, log = sys.argv[1:]

def build(directory):
    state = directory / "state.txt"
    done = len(state.read_text()) if state.exists() else 0
    with open(log, "a") as file:
        print("begin at", done, file=file)
    for step in range(done, 10):
        aside = directory / ".state"
        aside.write_text("x" * (step + 1))
        aside.rename(state)
        time.sleep(0.05)
    return {"steps": len(state.read_text())}

Store(root).compute(Spec("counter", {}, 1), build)
"""
COUNT = Spec("counter", {}, 1)


def start(tmp_path, root):
    command = [sys.executable, "-c", COUNTER, str(tmp_path / "runs"), str(tmp_path / "log")]
    return subprocess.Popen(command, cwd=root)


def wait_for(condition):
    end = time.time() + 30
    while not condition():
        assert time.time() < end, "waited in vain"
        time.sleep(0.01)


def test_a_run_killed_midway_is_resumed_to_the_same_result(store, tmp_path, root):
    state = store.partial(COUNT) / "state.txt"
    process = start(tmp_path, root)
    wait_for(lambda: state.exists() and len(state.read_text()) >= 3)
    process.send_signal(signal.SIGKILL)
    process.wait()
    reached = len(state.read_text())
    assert start(tmp_path, root).wait() == 0
    assert (tmp_path / "log").read_text().splitlines() == ["begin at 0", f"begin at {reached}"]
    result = store.result(COUNT)
    assert result.values == {"steps": 10}
    assert result.file("state.txt").read_text() == "x" * 10


def test_seconds_of_a_resumed_run_are_those_of_all_attempts(store):
    def killed(directory):
        (directory / "checkpoint").touch()
        later = time.time() + 100
        os.utime(directory / "checkpoint", (later, later))
        raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            store.compute(RUN, killed)
    result = store.compute(RUN, build)
    assert 200 <= result.seconds < 210, "each up to its last checkpoint"
    assert not any(name.startswith(".") for name in result.record["files"])


def test_of_two_processes_one_computes_and_the_other_waits(store, tmp_path, root):
    processes = [start(tmp_path, root) for _ in range(2)]
    assert [process.wait() for process in processes] == [0, 0]
    assert (tmp_path / "log").read_text() == "begin at 0\n"


# --- published evidence


def test_published_runs_come_back_whole_and_write_the_same_bytes(store, tmp_path):
    found = [store.compute(RUN, build), store.compute(CORPUS, lambda d: {"sentences": 7})]
    publish(found, tmp_path / "a")
    read = read_published(tmp_path / "a")
    publish(reversed(read.values()), tmp_path / "b")
    for name in ("runs.json", "scores.npz"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    run = read[RUN.digest]
    assert (run.directory, run.values, run.labels) == (None, found[0].values, found[0].labels)
    assert run.params == RUN.params
    assert run.scores.keys() == SCORES.keys()
    with pytest.raises(StudyError, match="no files.*--fresh"):
        run.file("sub/model.bin")


def test_weights_are_recorded_with_those_that_a_run_was_trained_from_and_published(store, tmp_path):
    base = Spec("encoder", {"seed": 0}, 1, (CORPUS,))

    def trained(weights):
        return lambda directory: (directory / "model.safetensors").write_bytes(weights) and {}

    first = store.compute(base, trained(b"one"))
    tuned = store.compute(Spec("transfer", {}, 1, (CORPUS, base)), trained(b"two"))
    assert set(tuned.record["weights"]) == {base.digest, tuned.digest}
    assert tuned.record["weights"].items() > first.record["weights"].items()
    publish([first, tuned], tmp_path / "published")
    again = Store(tmp_path / "elsewhere", [tmp_path / "published"])
    assert again.result(base).record["weights"] == first.record["weights"]
    assert again.result(base).record["cpu"] == first.record["environment"]["cpu"]
    another = again.compute(Spec("transfer", {"other": 1}, 1, (CORPUS, base)), trained(b"three"))
    assert another.record["weights"][base.digest] == first.record["weights"][base.digest]


def test_published_evidence_stands_in_for_a_run_whose_files_are_not_read(store, tmp_path):
    model = Spec("encoder", {}, 1)
    publish([store.compute(RUN, build), store.compute(model, lambda d: save(d / "model"))], tmp_path / "p")
    new = Store(tmp_path / "new", [tmp_path / "absent", tmp_path / "p"])
    assert new.status(RUN) == "published"
    taken = new.compute(RUN, never)
    assert taken.directory is None
    np.testing.assert_array_equal(taken.scores["near"], SCORES["near"])
    assert new.compute(model, never).values == {"loss": 1.5}
    assert new.compute(model, lambda d: save(d / "model"), files=True).file("model").exists()
    assert new.compute(model, never).file("model").exists()


def save(path):
    path.write_text("weights")
    return {"loss": 1.5}


def test_published_evidence_edited_by_hand_is_refused(store, tmp_path):
    publish([store.compute(RUN, build)], tmp_path)
    runs = read_json(tmp_path / "runs.json")
    for change in ({"params": {}}, {"scores": 3}, {"version": 9}):
        write_json(tmp_path / "runs.json", {RUN.digest: runs[RUN.digest] | change})
        with pytest.raises(StudyError, match=rf"runs\.json.*{RUN.digest}"):
            read_published(tmp_path)
    for content in ([], {}, {RUN.digest: None}, {RUN.digest: runs[RUN.digest] | {"seconds": None}}):
        write_json(tmp_path / "runs.json", content)
        with pytest.raises(StudyError, match=r"runs\.json"):
            read_published(tmp_path)


# --- files


def test_json_is_the_same_bytes_for_the_same_content(tmp_path):
    write_json(tmp_path / "a.json", {"b": (1, 2.5), "a": "größer"})
    assert (tmp_path / "a.json").read_text() == '{\n "a": "größer",\n "b": [\n  1,\n  2.5\n ]\n}\n'
    with pytest.raises(StudyError, match=r"a\.json\.x: nan is not plain JSON"):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert "größer" in (tmp_path / "a.json").read_text()
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_plain_values_keep_their_types():
    found = plain({"a": (True, 1, 1.0, None, np.float64(0.5))})
    assert [type(v) for v in found["a"]] == [bool, int, float, type(None), float]


def test_scores_of_zero_and_one_are_kept_exactly_and_others_nearly(tmp_path):
    generator = np.random.default_rng(0)
    scores = {f"n{n}": generator.integers(0, 2, n).astype(float) for n in (0, 1, 7, 8, 9, 1000)}
    scores["near|src@typo0.1"] = np.array([True, False])
    scores["rates"] = generator.random(1000)
    save_scores(tmp_path / "a.npz", scores)
    found = load_scores(tmp_path / "a.npz")
    assert found.keys() == scores.keys()
    assert all(array.dtype == np.float64 for array in found.values())
    for name in scores.keys() - {"rates"}:
        np.testing.assert_array_equal(found[name], scores[name])
    np.testing.assert_allclose(found["rates"], scores["rates"], atol=0.00025)
    save_scores(tmp_path / "b.npz", dict(reversed(found.items())))  # rounding again changes nothing
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


@pytest.mark.parametrize(
    "array",
    [[0.5, np.nan], [1.5], [-0.1], [[1.0]], ["a"], [None]],
    ids=["nan", "2", "-", "2d", "text", "none"],
)
def test_what_is_no_score_is_refused(tmp_path, array):
    with pytest.raises(StudyError, match="scores 'near': expected"):
        save_scores(tmp_path / "a.npz", {"near": np.array(array)})
    assert not list(tmp_path.iterdir())


def test_a_damaged_file_of_scores_is_one_clear_error(tmp_path):
    path = tmp_path / "a.npz"
    save_scores(path, {"near": np.array([1.0, 0.0]), "near#f1": np.array([0.25, 1.0])})
    whole = path.read_bytes()
    flipped = bytes([*whole[:60], whole[60] ^ 1, *whole[61:]])
    for damaged in (b"", whole[:50], whole[:-30], flipped, whole[::-1]):
        path.write_bytes(damaged)
        with pytest.raises(StudyError, match=r"a\.npz: cannot be read as scores"):
            load_scores(path)
    with pytest.raises(StudyError, match="no such file"):
        load_scores(tmp_path / "b.npz")
    np.savez(path, near=np.array([{}], dtype=object))
    with pytest.raises(StudyError, match="cannot be read as scores"):
        load_scores(path)
