"""A whole study: checked, computed, executed, published; and what stays undone."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import filelock
import numpy as np
import pytest
import tinystudy

from xltlib import StudyError, pool, study
from xltlib.claims.evidence import check, claim_runs
from xltlib.claims.ledger import load_ledger
from xltlib.params import Params, load
from xltlib.pool import compute
from xltlib.runs import KINDS, STAGES, Kind, Runs
from xltlib.store import read_json, save_scores, sha256_file, write_bytes, write_json


@pytest.fixture
def tiny(tiny, made_up_runs, tmp_path) -> Path:
    """The profile of a small study, all of whose runs are there."""
    shutil.copytree(made_up_runs, tmp_path / "runs")
    return tiny


@pytest.fixture
def told(monkeypatch) -> list[str]:
    """What a run tells; notebooks are executed without kernels, and no page is built."""
    lines = []

    def execute(spec, inputs, directory, progress):
        stage = spec.params["stage"]
        lines.append(stage)
        write_bytes(directory / f"{stage}.ipynb", b"{}")
        (directory / "figures").mkdir()
        (directory / "figures" / f"{stage}.svg").write_bytes(b"<svg/>")
        return {}

    def compute_all(specs, store, *_, **__):
        return [compute(spec, store) for spec in specs]

    monkeypatch.setitem(KINDS, "notebook", Kind(execute, "notebook"))
    monkeypatch.setattr(study, "compute_all", compute_all)
    monkeypatch.setattr(study, "_page", lambda session, executed, tell: tell("page"))
    return lines


def run(profile, told, **options):
    told.clear()
    return study.run(profile, tell=told.append, **options)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def publish(profile) -> Path:
    """Put what a run has computed into figures/."""
    session = study.open(load(profile))
    study.publish_computed(session)
    return session.published


def without_store(tmp_path) -> None:
    (tmp_path / "runs").rename(tmp_path / "elsewhere")


def test_a_whole_study_leaves_evidence_that_agrees_with_itself(tiny, told):
    session = run(tiny, told)
    folder = session.computed
    assert told[:-1] == [*STAGES, "page"]
    assert told[-1].startswith(f"nothing to compare: {session.published} has no run of these parameters")
    made = {"claims.json", "manifest.json", "runs.json", "scores.npz"}
    assert {p.name for p in folder.iterdir()} == made | {f"{stage}.svg" for stage in STAGES}
    assert study.damaged(folder) == []
    claims, manifest = read_json(folder / "claims.json"), read_json(folder / "manifest.json")
    assert claims == study.evidence(session.params, session.store, session.ledger)
    assert claims["claims"][0]["tests"][0]["effect"]["seeds"] == 2
    assert {kind: cost["runs"] for kind, cost in manifest["runs"].items()} == {
        "text": 1, "pairs": 1, "links": 1, "encoder": 4, "probe": 4, "transfer": 4,
    }  # fmt: skip
    assert all(cost["peak_memory_mb"] > 0 for cost in manifest["runs"].values())
    assert len(manifest["environments"]) == 1
    assert manifest["ledger_digest"] == load_ledger(session.ledger).digest
    assert manifest["parameters"]["documents"] == 200
    figures = session.root / "figures"
    assert not [*figures.iterdir()], "nothing is published without being asked"
    assert publish(tiny) == session.published
    assert {*figures.iterdir()} == {session.published, figures / "evidence.json"}, "nothing else"
    assert content(session.published) == content(folder)


def test_a_second_run_executes_nothing_and_changes_no_byte(tiny, told):
    before = content(run(tiny, told).computed)
    times = {path: path.stat().st_mtime_ns for path in run(tiny, told).computed.iterdir()}
    assert content(run(tiny, told).computed) == before
    assert {path: path.stat().st_mtime_ns for path in times} == times, "nothing was written"
    assert not set(told) & {*STAGES, "page"}


def change_claims(folder, estimate=0.0, **values):
    claims = read_json(folder / "claims.json")
    claims["claims"][0] |= values
    claims["claims"][0]["tests"][0]["effect"]["estimate"] += estimate
    write_json(folder / "claims.json", claims)


def change_scores(folder):
    with np.load(folder / "scores.npz") as file:
        scores = {name: x if name.endswith("src") else 1 - x for name, x in file.items()}
    save_scores(folder / "scores.npz", scores)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda folder: change_claims(folder, 0.01), "S0-1: tests: 1: effect: estimate: .*but its scores"),
        (lambda folder: change_claims(folder, verdict="supported"), "verdict: 'supported', but its scores"),
        (change_scores, "S0-1: tests: 1: effect: .*but its scores give"),
    ],
)
def test_verdicts_follow_from_the_published_scores(tiny, told, change, words):
    session = run(tiny, told)
    folder = publish(tiny)
    assert list(check(folder.parent, session.ledger)) == []
    change(folder)
    manifest = read_json(folder / "manifest.json")
    manifest["files"] = {name: sha256_file(folder / name) for name in manifest["files"]}
    write_json(folder / "manifest.json", manifest)
    assert study.damaged(folder) == [], "the manifest fits"
    assert re.search(words, "\n".join(check(folder.parent, session.ledger)))


@pytest.mark.parametrize("near", [True, False])
def test_what_was_computed_is_compared_and_published_where_it_is_the_same_or_on_request(tiny, told, near):
    session = run(tiny, told)
    folder = publish(tiny)
    run(tiny, told)
    same = f"compared with {folder}, from the same kind of processor: 8 of 8 runs to the last bit"
    assert told[-1] == f"{same}; 1 of 1 verdicts as published"
    with np.load(folder / "scores.npz") as file:
        published = dict(file)
    first = published[min(published)]
    changed = slice(1 if near else None)  # of 16 examples: 1/16 < NEARBY < 1/2
    first[changed] = first[changed].mean() < 0.5
    save_scores(folder / "scores.npz", published)
    with pytest.raises(StudyError, match=r"the same kind of processor: 7 of 8 runs to the last.*--replace"):
        study.publish_computed(session)
    manifest = read_json(folder / "manifest.json")
    manifest["environments"][0]["cpu"] = "another"
    write_json(folder / "manifest.json", manifest)
    clean, sentence = study.compare(session.computed, folder)
    assert clean == near
    assert f"another kind of processor: 7 of 8 runs to the last bit, {7 + near} with mean scores" in sentence
    study.publish_computed(session, replace=True)
    assert content(folder) == content(session.computed)


def test_evidence_that_was_changed_is_not_published(tiny, told):
    session = run(tiny, told)
    (session.computed / "01_alignment.svg").write_text("<svg>else</svg>")
    words = r"01_alignment.svg: changed after manifest.json was written: `xlt run`"
    with pytest.raises(StudyError, match=words):
        study.publish_computed(session)
    run(tiny, told)
    assert told[:-1] == ["page"], "put together again, without executing a notebook"
    study.publish_computed(session)


def test_a_full_disk_while_publishing_leaves_what_was_there(tiny, told, monkeypatch):
    session = run(tiny, told)
    before = content(publish(tiny))

    def full(source, folder, **_):
        raise shutil.Error([(source, folder, "[Errno 28] No space left on device")])

    monkeypatch.setattr(shutil, "copytree", full)
    with pytest.raises(StudyError, match="figures: the disk is full: make room"):
        study.publish_computed(session)
    assert content(session.published) == before
    assert not [*session.published.parent.glob(".*")], "nothing is left aside"


def test_what_was_published_comes_back_after_a_kill_between_two_renames(tiny, told):
    run(tiny, told)
    folder = publish(tiny)
    before = content(folder)
    folder.rename(folder.with_name(".tiny.old"))
    folder.with_name(".tiny.new").mkdir()
    study.open(load(tiny))
    assert content(folder) == before


def test_one_process_publishes_at_a_time(tiny, told):
    session = run(tiny, told)
    folder = publish(tiny)
    before = content(folder)
    with filelock.FileLock(session.root / "runs/.locks/publish.lock"):
        for second in (study.publish_computed, study.publish_runs):
            with pytest.raises(StudyError, match="figures: another process publishes: try again"):
                second(session)
        assert content(folder) == before
        folder.rename(folder.with_name(".tiny.old"))  # the first is between its two renames
        study.open(load(tiny))
        assert not folder.exists(), "what it has set aside is its own"
    study.publish_computed(session)
    assert content(folder) == before


@pytest.mark.filterwarnings("ignore:.*was damaged")
@pytest.mark.parametrize("changed", ["notebook", "copy", "figure"])
def test_what_was_changed_or_damaged_is_made_again_alone(tiny, told, changed):
    session = run(tiny, told)
    name, stage = f"{STAGES[2]}.ipynb", STAGES[2]
    made = session.store.path(study.notebook(session, stage))
    if changed == "notebook":
        tinystudy.write_notebook(session.root / "notebooks" / name, "1 + 1")
    else:
        (made / {"copy": name, "figure": f"figures/{stage}.svg"}[changed]).write_text("<p>")
    run(tiny, told)
    page = ["page"] if changed == "notebook" else []  # else the evidence is as before
    assert told[:-1] == [stage, *page]


def test_a_changed_ledger_changes_the_verdicts_without_new_runs(tiny, told):
    session = run(tiny, told)
    session.ledger.write_text(session.ledger.read_text().replace("margin: 0.0", "margin: 0.01"))
    run(tiny, told)
    assert read_json(session.computed / "claims.json")["ledger_digest"] == load_ledger(session.ledger).digest


def test_a_try_leaves_the_profile_alone(tiny, told):
    session = run(tiny, told, only=["03", "01_alignment"])
    assert told[:2] == ["01_alignment", "03_finetuning"]
    assert "no evidence is put together, because only some notebooks ran" in told[2]
    assert not session.computed.exists()
    computed = content(run(tiny, told).computed)
    run(tiny, told, overrides={"alpha": "0.1"})
    assert told[:6] == list(STAGES)
    assert "no evidence is put together, because parameters were changed" in told[6]
    assert content(session.computed) == computed
    run(tiny, told, overrides={"seeds": "2"})  # as it was
    assert not set(told) & set(STAGES), "the profile's own notebooks were still there"
    assert "no evidence" not in told[-1]


def test_published_evidence_stands_for_the_runs(tiny, told, tmp_path):
    run(tiny, told)
    before = content(publish(tiny))
    without_store(tmp_path)
    after = content(run(tiny, told).computed)
    assert told[:6] == list(STAGES)
    manifests = [json.loads(files.pop("manifest.json")) for files in (before, after)]
    assert after == before
    assert [manifest.pop("notebook_seconds").keys() for manifest in manifests] == [{*STAGES}] * 2
    assert len({manifest.pop("notebooks") for manifest in manifests}) == 2, "runs of other states"
    assert manifests[0] == manifests[1], "machines, memory and seconds too"


def test_runs_of_a_study_that_goes_on_are_published_alone(tiny, told, tmp_path):
    session = run(tiny, told)
    assert study.publish_runs(session) == f"{len(session.all_specs())} runs"
    assert {p.name for p in session.published.iterdir()} == {"runs.json", "scores.npz", "manifest.json"}
    without_store(tmp_path)
    again = study.open(load(tiny))
    scored = [spec for spec in again.all_specs() if "labels" in spec.params]
    assert {again.store.status(spec) for spec in scored} == {"published"}
    run(tiny, told)
    assert told[-1].startswith("nothing to compare")
    publish(tiny)
    with pytest.raises(StudyError, match="has verdicts"):
        study.publish_runs(again)


def test_a_slice_is_computed_without_notebooks_and_published_with_what_it_lacks(tiny, told, tmp_path):
    session = run(tiny, told, overrides={"seeds": "1", "first_seed": "1"}, runs_alone=True)
    assert told == [], "no notebook, no page, no evidence"
    transfer = session.runs.stage("03_finetuning")[0]
    session.store.path(transfer).rename(tmp_path / "elsewhere")
    words = r"\d+ runs; finish on this machine what is begun: seed 1 \(5 of 6\)"
    assert re.fullmatch(words, study.publish_runs(session))


def test_other_scores_of_a_published_run_are_refused(tiny, told):
    session = run(tiny, told)
    study.publish_runs(session)
    change_scores(session.published)
    with pytest.raises(StudyError, match=r"has other scores in .*on the machine that began them"):
        study.publish_runs(study.open(load(tiny)))


@pytest.mark.parametrize("fresh", [False, True])
def test_what_any_profile_has_published_stands_for_runs_but_for_fresh_ones(tiny, told, tmp_path, fresh):
    specs = run(tiny, told).specs("06_claims")
    publish(tiny)
    without_store(tmp_path)
    other = tiny.with_name("again.yaml")
    other.write_text(tiny.read_text("utf-8").replace("profile: tiny", "profile: again"), "utf-8")
    for profile in (tiny, other):
        store = study.open(load(profile), fresh=fresh).store
        assert {store.status(spec) for spec in specs} == {"missing" if fresh else "published"}


@pytest.mark.parametrize("content", ["{", "{}", "[]"])
def test_a_damaged_manifest_is_told(tmp_path, content):
    (tmp_path / "manifest.json").write_text(content)
    (told,) = study.damaged(tmp_path)
    assert "manifest.json: cannot be used" in told


def test_a_word_that_asks_for_nothing_is_refused(tiny, monkeypatch):
    monkeypatch.setenv("XLT_FRESH", "yes")
    with pytest.raises(StudyError, match="XLT_FRESH=yes: expected 1"):
        study.open(load(tiny))


@pytest.mark.parametrize("name", ["runs.json", "manifest.json", "01_alignment.svg"])
def test_a_figure_cannot_take_the_name_of_another_file(tiny, told, name):
    session = run(tiny, told)
    (session.computed / "manifest.json").unlink()
    before = content(session.computed)
    executed = [session.store.result(study.notebook(session, stage)) for stage in STAGES]
    (executed[4].directory / "figures" / name).write_text("{}")
    with pytest.raises(StudyError, match=f"{name} is there already"):
        study._assemble(session, executed)
    assert content(session.computed) == before


def test_notebooks_by_number_name_or_path():
    assert study.stages(()) == STAGES
    assert study.stages(("06_claims", "01")) == (STAGES[0], STAGES[5])
    assert study.stages(["notebooks/03_finetuning.ipynb"]) == STAGES[2:3]
    for word in ("", "0", "07", "finetuning"):
        with pytest.raises(StudyError, match="expected one of 01_alignment"):
            study.stages([word])


def test_a_notebook_is_passed_what_is_not_as_in_its_cell(tiny):
    session = study.open(load(tiny, {"alpha": "0.1", "seeds": "1"}))
    passed = study.notebook(session, STAGES[2]).params["parameters"]
    assert (passed["alpha"], passed["seeds"], passed["documents"]) == (0.1, 1, 200)
    assert not passed.keys() & {"pooling", "mask_rate"}, "what is as by default is not passed"
    tinystudy.write_notebook(session.root / f"notebooks/{STAGES[2]}.ipynb", names=["profile", "documents"])
    passed = study.notebook(session, STAGES[2]).params["parameters"]
    assert passed.keys() >= {"documents", "vocab_size", "pretrain_steps"}, "what the cell lacks is passed too"


def test_a_profile_has_its_files_name(tiny, told):
    other = tiny.rename(tiny.with_name("small.yaml"))
    with pytest.raises(StudyError, match="the profile is tiny, the file small.yaml"):
        run(other, told)


def test_a_session_finds_the_study_from_any_folder_in_it(tiny, tmp_path, monkeypatch):
    monkeypatch.delenv("XLT_ROOT")
    params = load(tiny)
    for folder in (tmp_path, tmp_path / "notebooks"):
        monkeypatch.chdir(folder)
        session = study.open(params)
        assert (session.root, session.figures) == (tmp_path, tmp_path / "runs/figures/tiny")
        assert session.store.root == tmp_path / "runs"
        assert session.ledger == tmp_path / "params/claims.yaml"
    monkeypatch.chdir("/")
    assert study.find_root() == Path(study.__file__).parents[1], "the checkout that this code is of"
    monkeypatch.setattr(study, "__file__", "/elsewhere/xltlib/study.py")
    with pytest.raises(StudyError, match="XLT_ROOT"):
        study.find_root()
    monkeypatch.setenv("XLT_ROOT", str(tmp_path / "mistyped"))
    with pytest.raises(StudyError, match="not the folder of a study"):
        study.open(params)
    assert not (tmp_path / "mistyped").exists()


def test_evidence_needs_all_runs(tiny, tmp_path):
    session = study.open(load(tiny))
    missing = session.runs.stage("03_finetuning")[0]
    session.store.path(missing).rename(tmp_path / "elsewhere")
    with pytest.raises(StudyError, match=rf"{missing.digest}\): the run is missing"):
        study.evidence(session.params, session.store, session.ledger)


def test_as_many_processes_as_asked_for_or_as_gpus(monkeypatch):
    for text in ("0", "-1", "two", "1.5", "99999999999", "\u00b2", "9" * 5000):
        monkeypatch.setenv("XLT_JOBS", text)
        with pytest.raises(StudyError, match=r"XLT_JOBS=.*expected the number of processes") as caught:
            pool.default_jobs()
        assert len(str(caught.value)) < 100
    monkeypatch.setenv("XLT_JOBS", "5")
    assert pool.default_jobs("cuda") == 5
    monkeypatch.delenv("XLT_JOBS")
    for named, count in (("0, 1,2", 3), ("", 1), ("GPU-5f", 1)):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
        assert pool.default_jobs("cuda") == count


def test_the_runs_of_a_statement(tiny, root):
    runs = Runs(load(tiny))
    specs, absent = claim_runs(load_ledger(tiny.with_name("claims.yaml")), runs, "S0-1")
    assert absent == []
    assert set(specs) == set(runs.stage("03_finetuning"))
    ledger, runs = load_ledger(root / "params/claims.yaml"), Runs(Params())
    counts = {claim.id: len(claim_runs(ledger, runs, claim.id)[0]) for claim in ledger.claims}
    assert counts["S0-1"] > 0
    assert all(count % Params().seeds == 0 for count in counts.values())


@pytest.mark.slow
def test_a_notebook_works_alone_by_plain_papermill(tmp_path):
    profile = tinystudy.make(tmp_path, tinystudy.WORKS)
    command = [sys.executable, "-m", "papermill", "notebooks/03_finetuning.ipynb", "out.ipynb", "-f", profile]

    def papermill():
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)

    done = papermill()
    assert done.returncode == 0, done.stderr
    assert read_json(tmp_path / "runs/figures/tiny/03_finetuning.json")["runs"]
    profile.write_text(profile.read_text() + "sedes: 4\n")
    wrong = papermill()
    assert wrong.returncode != 0
    assert "did you mean seeds" in wrong.stderr


@pytest.mark.slow
def test_a_killed_study_ends_with_the_same_verdicts(tmp_path):
    """Two studies from nothing, one of them killed again and again, leave the same evidence."""
    made = []
    for name, kills in (("whole", ()), ("killed", (3.0, 6.0, 9.0, 12.0))):
        folder = tinystudy.make(tmp_path / name).parent.parent
        command = [sys.executable, "-m", "xltlib", "run", "params/tiny.yaml", "--fresh"]
        for seconds in kills:
            process = subprocess.Popen(command, cwd=folder)
            time.sleep(seconds)
            process.send_signal(signal.SIGKILL)
            process.wait()
        subprocess.run(command, cwd=folder, check=True)
        made.append(content(folder / "runs/evidence/tiny"))
    whole, killed = made
    assert whole.keys() == killed.keys()
    assert {name for name in whole if whole[name] != killed[name]} <= {"manifest.json", "runs.json"}
