"""The command line: what each command prints, and how it ends."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from xltlib import StudyError, cli, study
from xltlib.params import load


@pytest.fixture
def tiny(tiny, tmp_path) -> Path:
    """The profile of a small study, from the study's folder."""
    return tiny.relative_to(tmp_path)


@pytest.fixture
def filled(tiny, made_up_runs, tmp_path) -> Path:
    """The same, all of whose runs are there."""
    shutil.copytree(made_up_runs, tmp_path / "runs")
    return tiny


COMMANDS = {  # command -> what it must not import: packages that take seconds; the least of them first
    "--help": "numpy scipy torch transformers datasets papermill matplotlib pandas yaml",
    "params": "numpy scipy torch transformers datasets papermill matplotlib pandas",
    "run params/bad.yaml": "numpy scipy torch transformers datasets papermill matplotlib pandas",
    "status params/tiny.yaml": "torch transformers datasets papermill matplotlib",
    "plan params/tiny.yaml": "torch transformers datasets papermill matplotlib",
    "claim S0-1 params/tiny.yaml": "torch transformers datasets papermill matplotlib",
    "check": "torch transformers datasets papermill matplotlib",
    "compare a.json b.json": "torch transformers datasets papermill matplotlib",
}
SCORE = {
    "score xnli params/gold.txt params/gold.txt --language de": "scipy torch transformers datasets pandas"
}
ALIGN = {"align params/pairs.txt -d -o -v": "torch transformers datasets papermill matplotlib pandas yaml"}


def imported(*commands, **more) -> tuple[str, list[set[str]]]:
    """What commands print in one process, and the packages that are imported after each of them."""
    script = (
        "import sys; from xltlib import cli\n"
        "for command in sys.argv[1:]:\n"
        " try: cli.main(command.split())\n"
        " except SystemExit: pass\n"
        " print('imported', *{name.partition('.')[0] for name in sys.modules}, file=sys.stderr)"
    )
    command = [sys.executable, "-c", script, *commands]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | more)
    told = (line.split() for line in done.stderr.splitlines())
    return done.stdout, [{*words[1:]} for words in told if words[:1] == ["imported"]]


@pytest.mark.parametrize("commands", [COMMANDS, SCORE, ALIGN])
def test_a_command_imports_only_what_it_needs(filled, commands):
    """Also where others have been there before it: what these import is not needed by it."""
    Path("params/bad.yaml").write_text("sedes: 4\n")
    Path("params/gold.txt").write_text("neutral\nentailment\n")
    Path("params/pairs.txt").write_text("a dog ||| ein Hund\na cat ||| eine Katze\n")
    _, found = imported(*commands)
    for (command, others), packages in zip(commands.items(), found, strict=True):
        assert "xltlib" in packages
        assert not packages & set(others.split()), command


def test_a_statement_whose_runs_are_published_needs_nothing_that_trains(root):
    said, (packages,) = imported(f"claim S0-3 {root / 'params/replication.yaml'}", XLT_ROOT=str(root))
    assert "Code: xltlib/pretraining/objectives.py: weam_loss" in said
    assert not packages & {"torch", "transformers", "datasets", "papermill", "matplotlib", "statsmodels"}


def test_help_names_all_commands(capsys):
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    text = capsys.readouterr().out
    assert all(f"\n    {command} " in text for command in cli.COMMANDS)
    assert [*cli.COMMANDS] == [
        "run", "publish", "status", "plan", "params", "claim", "question", "job", "page", "check", "align",
        "score", "compare",
    ]  # fmt: skip


def test_choices_and_defaults_are_those_of_the_modules_that_are_imported_later():
    from xltlib import evaluation

    assert ("xnli", "pawsx", "xcopa", *evaluation.OFFICIAL_STYLE) == cli.SCORED


def test_run_passes_on_what_it_was_asked(tiny, monkeypatch):
    calls = []
    monkeypatch.setattr(study, "run", lambda *arguments: calls.append(arguments))
    line = f"run {tiny} --only 02 03 --only 04 --set seeds=8 -j 3 --fresh --runs"
    assert cli.main(line.split()) == 0
    assert cli.main(["run", str(tiny)]) == 0
    assert calls == [
        (str(tiny), ["02", "03", "04"], {"seeds": "8"}, 3, True, True),
        (str(tiny), [], {}, None, False, False),
    ]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("run --set seeds", "--set seeds: expected name=value, such as --set seeds=8"),
        ("run params/tiny.yaml --set sedes=8", "there is no parameter 'sedes': did you mean seeds?"),
        ("run params/none.yaml", "params/none.yaml: there is no such file; there is"),
        ("run -j 0", "'0': expected the number of processes"),
        ("run -j two", "'two': expected the number of processes"),
        ("run -j 99999999999", "expected the number of processes"),
        ("claim S0-l params/tiny.yaml", "S0-1"),
        ("publish params/other.yaml --runs", "the profile is tiny, the file other.yaml"),
        ("publish params/tiny.yaml --runs", "no run of tiny is finished"),
        ("run params/tiny.yaml --set objectives=[bogus]", "objective 'bogus' is not known; known: none"),
    ],
)
def test_input_that_cannot_be_used_ends_with_2(tiny, capsys, line, words):
    shutil.copyfile(tiny, tiny.with_name("other.yaml"))
    assert cli.main(line.split()) == 2
    error = capsys.readouterr().err
    assert error.startswith("xlt: error: ")
    assert words in error


@pytest.mark.parametrize("line", ["", "walk", "claim"])
def test_a_command_that_cannot_be_read_ends_with_2(line, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(line.split())
    assert ended.value.code == 2
    assert "usage: xlt" in capsys.readouterr().err


def test_an_interrupted_command_says_how_to_go_on(tiny, monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(study, "run", interrupted)
    assert cli.main(["run", str(tiny)]) == 130
    assert "run the same command again: it resumes" in capsys.readouterr().err


def test_a_reader_that_has_seen_enough_is_no_error():
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "xltlib", "params"]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


def test_closed_streams_are_no_error_and_nothing_takes_their_place(tmp_path):
    pairs = tmp_path / "pairs.txt"
    pairs.write_text("a dog ||| ein Hund\n" * 2)
    xlt = f"{sys.executable} -m xltlib align -d"
    script = f"{xlt} $0 2>&-; {xlt} - <&- || echo $?; {xlt} $0 >&-"
    done = subprocess.run(["sh", "-c", script, pairs], capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stdout.split("\n") == ["0-0 1-1", "0-0 1-1", "2", ""]
    assert "Traceback" not in done.stderr


def test_status_counts_runs_by_notebook(filled, tmp_path, capsys):
    session = study.open(load(filled))
    failing, pending = session.runs.stage("03_finetuning")[:2]
    for spec in (failing, pending):
        session.store.path(spec).rename(tmp_path / spec.digest)
    with pytest.raises(ZeroDivisionError):
        session.store.compute(failing, lambda _: 1 / 0)
    assert cli.main(["status", str(filled)]) == 0
    text = capsys.readouterr().out
    lines = text.splitlines()
    assert lines[0].split() == ["done", "published", "pending", "failed", "seconds"]
    assert any(line.split()[:-1] == ["all", "13", "0", "1", "1"] for line in lines)
    assert any(line.split() == ["01_alignment", "1", "0", "0", "0", "0", "to", "execute"] for line in lines)
    assert f"failed: {failing}: ZeroDivisionError: division by zero" in lines


def test_claim_shows_statement_test_evidence_and_verdict(filled, capsys):
    assert cli.main(["claim", "S0-1", str(filled)]) == 0
    text = capsys.readouterr().out
    for part in ("S0-1  Statement", "a beats b", "by seed:", "Verdict: mechanism"):
        assert part in text
    assert text.rstrip().endswith("Again: xlt claim S0-1 params/tiny.yaml")
    assert "runs of the study are missing" not in text
    claims = study.evidence(load(filled), study.open(load(filled)).store, filled.with_name("claims.yaml"))
    assert claims["claims"][0]["reason"] in " ".join(text.split())


def test_claim_with_other_values_says_so_in_its_command(filled, capsys):
    said = []
    for given in ([], ["--set", "alpha=0.4", "--set", "languages=[src, near]"]):
        assert cli.main(["claim", "S0-1", str(filled), *given]) == 0
        said.append(capsys.readouterr().out.splitlines())
    plain, other = said
    assert other[-1] == "Again: xlt claim S0-1 params/tiny.yaml --set alpha=0.4 --set 'languages=[src, near]'"
    changed = [line for line in plain if line not in other]
    assert any("against 0, p" in line for line in changed), "the interval is as wide as before"


def test_claim_says_that_others_are_missing(filled, tmp_path, capsys):
    session = study.open(load(filled))
    probe = session.runs.probe("tlm", 1)
    session.store.path(probe).rename(tmp_path / "elsewhere")
    assert cli.main(["claim", "S0-1", str(filled)]) == 0
    assert "1 runs of the study are missing" in capsys.readouterr().out
    assert session.store.status(probe) == "missing", "no other runs are computed"


def test_claim_computes_only_what_it_needs(tiny, tmp_path, monkeypatch):
    asked = []

    def compute_all(specs, *_, **__):
        asked.extend(specs)
        raise StudyError("enough")

    monkeypatch.setattr("xltlib.pool.compute_all", compute_all)
    assert cli.main(["claim", "S0-1", str(tiny), "--run"]) == 2
    assert set(asked) == set(study.open(load(tiny)).runs.stage("03_finetuning"))


@pytest.mark.parametrize("command", [["claim", "S0-1"], ["question", "1"]])
def test_nothing_is_computed_unasked(command, tiny, monkeypatch, capsys):
    monkeypatch.setattr("xltlib.pool.compute_all", lambda *_, **__: pytest.fail("it computes"))
    assert cli.main([*command, str(tiny)]) == 2
    assert re.search(r"tiny.yaml: \d+ runs to compute .*\. Add --run", capsys.readouterr().err)


def test_check_needs_published_evidence(tiny, capsys):
    assert cli.main(["check"]) == 1
    assert "run the study first" in capsys.readouterr().err
