"""A whole study: checked, computed, executed, published; and what stays undone."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tinystudy

from xltlib import StudyError, notebooks, study
from xltlib.claims import scores
from xltlib.claims.evidence import check_runs, check_verdicts
from xltlib.claims.ledger import load_ledger
from xltlib.params import Params, load
from xltlib.runs import STAGES
from xltlib.store import save_scores, sha256_file, write_bytes, write_json


@pytest.fixture
def tiny(tmp_path, monkeypatch) -> Path:
    """The path of a small profile, all of whose runs are there; its study is the current one."""
    for name in ("XLT_FRESH", "XLT_FIGURES", "XLT_JOBS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XLT_ROOT", str(tmp_path))
    profile = tinystudy.make(tmp_path)
    tinystudy.fill(profile)
    return profile


@pytest.fixture
def told(monkeypatch) -> list[str]:
    """What a run tells; notebooks are executed without kernels, and no page is built."""
    lines = []

    def execute(jobs, processes, environment, tell):
        for job in jobs:
            if not job.finished():
                lines.append(job.source.stem)
                job.figures.mkdir(parents=True, exist_ok=True)
                write_bytes(job.figures / f"{job.source.stem}.svg", b"<svg/>")
                write_bytes(job.copy, job.source.read_bytes())
                job.write_stamp(1.0)

    monkeypatch.setattr(notebooks, "execute", execute)
    monkeypatch.setattr(study, "_page", lambda session, tell: tell("page"))
    return lines


def run(profile, told, **options):
    told.clear()
    return study.run(profile, tell=told.append, **options)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def publish(profile):
    """Put what a run has computed into figures/."""
    session = study.open(load(profile))
    study.publish_computed(session)
    return session.published


def test_a_whole_study_leaves_evidence_that_agrees_with_itself(tiny, told):
    session = run(tiny, told)
    folder = session.computed
    assert told[:-1] == [*STAGES, "page"]
    assert told[-1].startswith(f"nothing to compare: {session.published} has no run of these parameters")
    made = {"claims.json", "manifest.json", "runs.json", "scores.npz"}
    assert {p.name for p in folder.iterdir()} == made | {f"{stage}.svg" for stage in STAGES}
    assert study.damaged(folder) == []
    claims = json.loads((folder / "claims.json").read_bytes())
    assert claims == study.evidence(session.params, session.store, session.ledger)
    assert claims["claims"][0]["tests"][0]["effect"]["seeds"] == 2
    manifest = json.loads((folder / "manifest.json").read_bytes())
    assert manifest["number_of_runs"] == 15
    assert {kind: cost["runs"] for kind, cost in manifest["runs"].items()} == {
        "text": 1, "pairs": 1, "links": 1, "encoder": 4, "probe": 4, "transfer": 4,
    }  # fmt: skip
    assert manifest["ledger_digest"] == load_ledger(session.ledger).digest
    assert manifest["parameters"]["documents"] == 200
    assert not [*session.root.joinpath("figures").iterdir()], "nothing is published without being asked"
    assert publish(tiny) == session.published
    beside = session.root / "figures/evidence.json"
    assert {*session.root.joinpath("figures").iterdir()} == {session.published, beside}, "nothing else"
    assert content(session.published) == content(folder)


def test_a_second_run_executes_nothing_and_changes_no_byte(tiny, told):
    before = content(run(tiny, told).computed)
    times = {path: path.stat().st_mtime_ns for path in run(tiny, told).computed.iterdir()}
    assert content(run(tiny, told).computed) == before
    assert {path: path.stat().st_mtime_ns for path in times} == times, "nothing was written"
    assert not set(told) & {*STAGES, "page"}


def changed_claims(folder):
    claims = json.loads((folder / "claims.json").read_bytes())
    claims["claims"][0]["tests"][0]["effect"]["estimate"] += 0.01
    write_json(folder / "claims.json", claims)


def changed_verdict(folder):
    claims = json.loads((folder / "claims.json").read_bytes())
    claims["claims"][0]["verdict"] = "supported"
    claims["counts"] |= {"supported": 1, "inconclusive": 0}
    write_json(folder / "claims.json", claims)


def changed_scores(folder):
    with np.load(folder / "scores.npz") as file:
        scores = dict(file)
    scores = {name: x if name.endswith("src") else 1 - x for name, x in scores.items()}
    save_scores(folder / "scores.npz", scores)


def changed_labels(folder):
    runs = json.loads((folder / "runs.json").read_bytes())
    for run in runs.values():
        run["labels"] |= {"objective": "none"} if run["labels"] else {}
    write_json(folder / "runs.json", runs)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (changed_claims, "S0-1: tests: 1: effect: estimate: .*but its scores give"),
        (changed_verdict, "S0-1: verdict: 'supported', but its scores give 'inconclusive'"),
        (changed_scores, "S0-1: tests: 1: effect: .*but its scores give"),
        (changed_labels, "its labels are not those of its parameters"),
    ],
)
def test_verdicts_follow_from_the_published_scores(tiny, told, change, words):
    session = run(tiny, told)
    folder = publish(tiny)
    assert list(check_verdicts(folder, session.ledger)) == []
    change(folder)
    manifest = json.loads((folder / "manifest.json").read_bytes())
    manifest["files"] = {name: sha256_file(folder / name) for name in manifest["files"]}
    write_json(folder / "manifest.json", manifest)
    assert study.damaged(folder) == [], "the manifest fits"
    problems = [*check_runs(folder), *check_verdicts(folder, session.ledger)]
    assert re.search(words, "\n".join(problems))


def test_what_was_computed_is_compared_with_what_is_published(tiny, told):
    session = run(tiny, told)
    publish(tiny)
    run(tiny, told)
    same = f"compared with {session.published}, from the same kind of processor: 8 of 8 runs to the last bit"
    assert told[-1] == f"{same}; 1 of 1 verdicts as published"
    manifest = json.loads((session.published / "manifest.json").read_bytes())
    manifest["environments"][0]["cpu"] = "another"
    write_json(session.published / "manifest.json", manifest)
    comparison = study.Comparison.of(session.computed, session.published)
    assert (
        "another kind of processor: 8 of 8 runs to the last bit, 8 with mean scores" in comparison.sentence()
    )


def test_published_numbers_are_replaced_on_request_alone(tiny, told, monkeypatch):
    session = run(tiny, told)
    publish(tiny)
    other = dict(runs=8, same=7, near=8, verdicts=(1, 1), published=session.published)
    for one_processor in (False, True):
        comparison = study.Comparison(**other, one_processor=one_processor)
        monkeypatch.setattr(study.Comparison, "of", lambda *_, comparison=comparison: comparison)
        assert comparison.clean is not one_processor
    with pytest.raises(StudyError, match=r"7 of 8 runs to the last bit.*--replace"):
        study.publish_computed(session)
    study.publish_computed(session, replace=True)


def test_evidence_that_was_changed_is_not_published(tiny, told):
    session = run(tiny, told)
    (session.computed / "01_alignment.svg").write_text("<svg>else</svg>")
    with pytest.raises(
        StudyError, match=r"01_alignment.svg: changed after manifest.json was written: `xlt run`"
    ):
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


def test_a_changed_notebook_is_executed_again_alone(tiny, told, tmp_path):
    run(tiny, told)
    tinystudy.write_notebook(tmp_path / "notebooks/02_pretraining.ipynb", "1 + 1")
    run(tiny, told)
    assert told[:-2] == ["02_pretraining"], "then the page and the comparison"


@pytest.mark.parametrize("damage", ["copy", "figure", "stamp"])
def test_a_damaged_copy_or_figure_is_made_again(tiny, told, tmp_path, damage):
    run(tiny, told)
    path = {
        "copy": tmp_path / "runs/notebooks/tiny/03_finetuning.ipynb",
        "figure": tmp_path / "runs/figures/tiny/03_finetuning/03_finetuning.svg",
        "stamp": tmp_path / "runs/notebooks/tiny/03_finetuning.json",
    }[damage]
    path.write_text("{}")
    run(tiny, told)
    assert told[:-1] == ["03_finetuning"], "the same evidence as before: no new page"


def test_a_changed_ledger_changes_the_verdicts_without_new_runs(tiny, told):
    session = run(tiny, told)
    session.ledger.write_text(session.ledger.read_text().replace("margin: 0.0", "margin: 0.01"))
    run(tiny, told)
    claims = json.loads((session.computed / "claims.json").read_bytes())
    assert claims["ledger_digest"] == load_ledger(session.ledger).digest


def test_some_notebooks_alone_are_not_published(tiny, told, tmp_path):
    run(tiny, told, only=["03", "01_alignment"])
    assert told[:2] == ["01_alignment", "03_finetuning"]
    assert "no evidence is put together, because only some notebooks ran" in told[2]
    assert not (tmp_path / "runs/evidence").exists()


def test_changed_parameters_leave_the_profile_alone(tiny, told, tmp_path):
    computed = content(run(tiny, told).computed)
    session = run(tiny, told, overrides={"alpha": "0.1"})
    assert "no evidence is put together, because parameters were changed" in told[-1]
    assert content(session.computed) == computed
    (other,) = (tmp_path / "runs/notebooks").glob("tiny-*")
    assert {p.stem for p in other.glob("*.ipynb")} == set(STAGES)
    run(tiny, told)
    assert not set(told) & set(STAGES), "the profile's own notebooks were still there"


def test_an_override_that_changes_nothing_is_the_profile(tiny, told):
    run(tiny, told, overrides={"seeds": "2"})
    assert told[-2] == "page"


def test_published_evidence_stands_for_the_runs(tiny, told, tmp_path):
    run(tiny, told)
    before = content(publish(tiny))
    (tmp_path / "runs").rename(tmp_path / "elsewhere")
    after = content(run(tiny, told).computed)
    assert told[:6] == list(STAGES)
    assert {name for name in before if before[name] != after[name]} == set()


def test_runs_of_a_study_that_goes_on_are_published_alone(tiny, told, tmp_path):
    session = run(tiny, told)
    count = study.publish_runs(session)
    assert {p.name for p in session.published.iterdir()} == {"runs.json", "scores.npz", "manifest.json"}
    assert count == len(session.all_specs())
    (tmp_path / "runs").rename(tmp_path / "elsewhere")
    again = study.open(load(tiny))
    scored = [spec for spec in again.all_specs() if "labels" in spec.params]
    assert {again.store.status(spec) for spec in scored} == {"published"}
    run(tiny, told)
    assert told[-1].startswith("nothing to compare")
    publish(tiny)
    with pytest.raises(StudyError, match="has verdicts"):
        study.publish_runs(again)


def test_what_another_profile_has_published_stands_for_runs_too(tiny, told, tmp_path):
    specs = run(tiny, told).specs("06_claims")
    publish(tiny)
    (tmp_path / "runs").rename(tmp_path / "elsewhere")
    other = tiny.with_name("again.yaml")
    other.write_text(tiny.read_text("utf-8").replace("profile: tiny", "profile: again"), "utf-8")
    session = study.open(load(other))
    assert {session.store.status(spec) for spec in specs} == {"published"}
    assert run(other, told).published.name == "again"
    session = study.open(load(other), fresh=True)
    assert {session.store.status(spec) for spec in specs} == {"missing"}


def test_a_fresh_run_passes_over_published_evidence(tiny, told, tmp_path, monkeypatch):
    run(tiny, told)
    publish(tiny)
    (tmp_path / "runs").rename(tmp_path / "elsewhere")
    asked = []

    def compute_all(specs, store, *_):
        asked.append({store.status(spec) for spec in specs})
        raise StudyError("enough")

    monkeypatch.setattr(study, "compute_all", compute_all)
    for fresh in (True, False):
        with pytest.raises(StudyError, match="enough"):
            run(tiny, told, fresh=fresh)
    assert asked == [{"missing"}, {"published"}]


def test_what_was_published_comes_back_after_a_kill_between_two_renames(tiny, told):
    run(tiny, told)
    folder = publish(tiny)
    before = content(folder)
    folder.rename(folder.with_name(".tiny.old"))
    folder.with_name(".tiny.new").mkdir()
    study.open(load(tiny))
    assert content(folder) == before


@pytest.mark.parametrize("name", ["runs.json", "claims.json", "manifest.json", "01_alignment.svg"])
def test_a_figure_cannot_take_the_name_of_another_file(tiny, told, tmp_path, monkeypatch, name):
    before = content(run(tiny, told).computed)
    (tmp_path / "runs/figures/tiny/05_significance" / name).write_text("{}")
    (tmp_path / "runs/evidence/.tiny.json").unlink()
    monkeypatch.setattr(notebooks, "execute", lambda *_: None)
    with pytest.raises(StudyError, match=f"{name} is there already"):
        run(tiny, told)
    assert content(tmp_path / "runs/evidence/tiny") == before


@pytest.mark.parametrize(
    ("only", "found"), [((), STAGES), (("03",), STAGES[2:3]), (("06_claims", "01"), (STAGES[0], STAGES[5]))]
)
def test_notebooks_by_number_or_name(only, found):
    assert study.stages(only) == found
    assert study.stages([f"notebooks/{name}.ipynb" for name in only if "_" in name] or only) != ()


@pytest.mark.parametrize("word", ["", "0", "07", "finetuning"])
def test_a_notebook_that_is_not_there(word):
    with pytest.raises(StudyError, match="expected one of 01_alignment"):
        study.stages([word])


def test_a_value_set_for_one_run_reaches_every_notebook(tiny, told, monkeypatch):
    values = []
    monkeypatch.setattr(notebooks, "execute", lambda jobs, *_: values.extend(job.values for job in jobs))
    run(tiny, told, overrides={"alpha": "0.1", "seeds": "1"}, only=["03"])
    (given,) = values
    assert (given["alpha"], given["seeds"], given["documents"]) == (0.1, 1, 200)
    assert given.keys() >= {"alpha", "seeds"}
    assert not given.keys() & {"pooling", "mask_rate"}, "what is as by default is not passed"


def test_parameters_beyond_a_notebooks_cell_are_passed_too(tiny, told, tmp_path, monkeypatch):
    values = []
    monkeypatch.setattr(notebooks, "execute", lambda jobs, *_: values.extend(job.values for job in jobs))
    tinystudy.write_notebook(tmp_path / "notebooks/03_finetuning.ipynb", names=["profile", "documents"])
    run(tiny, told, only=["03"])
    assert values[0]["documents"] == 200
    assert values[0].keys() >= {"documents", "vocab_size", "pretrain_steps"}


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
    assert not session.fresh
    monkeypatch.setenv("XLT_FRESH", "1")
    assert study.open(params).fresh
    monkeypatch.chdir("/")
    assert study.find_root() == Path(study.__file__).parents[1], "the checkout that this code is of"
    monkeypatch.setattr(study, "__file__", "/elsewhere/xltlib/study.py")
    with pytest.raises(StudyError, match="XLT_ROOT"):
        study.find_root()
    monkeypatch.setenv("XLT_ROOT", str(tmp_path / "mistyped"))
    with pytest.raises(StudyError, match="not the folder of a study"):
        study.open(params)
    assert not (tmp_path / "mistyped").exists()
    monkeypatch.setenv("XLT_ROOT", str(tmp_path))
    for place, words in (("pyproject.toml", "not a folder"), ("mistyped/figures", "there is no folder")):
        monkeypatch.setenv("XLT_FIGURES", str(tmp_path / place))
        with pytest.raises(StudyError, match=f"XLT_FIGURES=.*: {words}"):
            study.open(params)


def test_a_session_gives_results_with_scores(tiny, capsys):
    session = study.open(load(tiny))
    results = session.results("06_claims")
    assert [r.digest for r in results] == [s.digest for s in session.runs.stage("06_claims")]
    table = scores.table([*results, *session.results("01_alignment")])
    assert table["digest"].nunique() == 8
    assert set(table["task"]) == {"nli", "retrieval"}
    assert set(table["language"]) == {"src", "near"}
    assert capsys.readouterr().out == "", "nothing was computed, so there is no progress to show"


def test_evidence_needs_all_runs(tiny, tmp_path):
    session = study.open(load(tiny))
    missing = session.runs.stage("03_finetuning")[0]
    session.store.path(missing).rename(tmp_path / "elsewhere")
    with pytest.raises(StudyError, match=f"{missing.digest}: the run is missing"):
        study.evidence(session.params, session.store, session.ledger)


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5", "99999999999", "\u00b2", "9" * 5000])
def test_a_number_of_processes_that_cannot_be(text, monkeypatch):
    monkeypatch.setenv("XLT_JOBS", text)
    with pytest.raises(StudyError, match=r"XLT_JOBS=.*expected the number of processes") as caught:
        study.default_jobs()
    assert len(str(caught.value)) < 100


def test_as_many_processes_as_gpus(monkeypatch):
    monkeypatch.delenv("XLT_JOBS", raising=False)
    for named, count in (("0, 1,2", 3), ("", 1), ("GPU-5f", 1)):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
        assert study.default_jobs("cuda") == count
    monkeypatch.setenv("XLT_JOBS", "5")
    assert study.default_jobs("cuda") == 5


def test_the_runs_of_a_statement(tiny, root):
    params = load(tiny)
    specs, absent = study.claim_runs(load_ledger(tiny.with_name("claims.yaml")), study.Runs(params), "S0-1")
    assert absent == []
    assert set(specs) == set(study.Runs(params).stage("03_finetuning"))
    ledger = load_ledger(root / "params/claims.yaml")
    runs = study.Runs(Params())
    for claim in ledger.claims:
        study.claim_runs(ledger, runs, claim.id)  # every label can be judged
    specs, absent = study.claim_runs(ledger, runs, "S0-1")
    assert len(specs) % Params().seeds == 0


def environment(**more) -> dict[str, str]:
    package = str(Path(study.__file__).parent.parent)
    return os.environ | {"PYTHONPATH": package, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"} | more


@pytest.mark.slow
def test_a_notebook_works_alone_by_plain_papermill(tmp_path):
    profile = tinystudy.make(tmp_path, tinystudy.WORKS)
    command = [sys.executable, "-m", "papermill", "notebooks/03_finetuning.ipynb", "out.ipynb", "-f"]
    done = subprocess.run(
        [*command, profile.relative_to(tmp_path)],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "runs/figures/tiny/03_finetuning.json").read_bytes())["runs"]
    profile.write_text(profile.read_text() + "sedes: 4\n")
    wrong = subprocess.run(
        [*command, profile.relative_to(tmp_path)],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert wrong.returncode != 0
    assert "did you mean seeds" in wrong.stderr


@pytest.mark.slow
def test_a_killed_study_ends_with_the_same_verdicts(tmp_path):
    """Two studies from nothing, one of them killed again and again, publish the same bytes."""
    published = []
    for name, kills in (("whole", ()), ("killed", (3.0, 6.0, 9.0, 12.0))):
        profile = tinystudy.make(tmp_path / name)
        command = [sys.executable, "-m", "xltlib", "run", str(profile), "--fresh"]
        for seconds in kills:
            process = subprocess.Popen(command, cwd=profile.parent.parent, env=environment())
            time.sleep(seconds)
            process.send_signal(signal.SIGKILL)
            process.wait()
        subprocess.run(command, cwd=profile.parent.parent, env=environment(), check=True)
        published.append(content(tmp_path / name / "figures/tiny"))
    whole, killed = published
    assert whole.keys() == killed.keys()
    assert {name for name in whole if whole[name] != killed[name]} <= {"manifest.json", "runs.json"}
    assert whole["claims.json"] == killed["claims.json"]
