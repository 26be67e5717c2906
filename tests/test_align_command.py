"""`xlt align`: fast_align's options, and errors that name the line."""

import io

import pytest
from test_alignment import BOOKS, pharaoh, split

from xltlib import StudyError, cli
from xltlib.alignment.aligner import align_both, train


@pytest.fixture
def xlt(tmp_path, capsys):
    """Run `xlt align` on a text; returns (standard output, standard error)."""

    def run(text: str, *options: str) -> tuple[str, str]:
        (tmp_path / "pairs").write_text(text)
        args = cli._parser().parse_args(["align", str(tmp_path / "pairs"), *options])
        args.func(args)
        return tuple(capsys.readouterr())

    return run


def test_command_one_direction(xlt):
    out, err = xlt(BOOKS, "-d", "-o", "-v")
    assert out.replace("\n", "|") == pharaoh(train(split(BOOKS)).links) + "|"
    assert "forward iteration 5: cross entropy 2.36581 tension 0.161357" in err
    reverse, _ = xlt(BOOKS, "-dovr", "-I", "7", "-q", "0.2", "-a", "0.1", "-T", "2")
    assert "4-0" in reverse
    assert xlt(BOOKS, "-v", "-T", "4")[0] == xlt(BOOKS, "-d", "-v")[0]  # -T implies -d


def test_command_both_directions(xlt):
    out, err = xlt(BOOKS, "-dov", "--symmetrize", "grow-diag-final")
    assert out.replace("\n", "|") == pharaoh(align_both(split(BOOKS), heuristic="grow-diag-final")) + "|"
    assert "reverse iteration 5: cross entropy" in err
    with pytest.raises(StudyError, match="leave out -r"):
        xlt(BOOKS, "-r", "--symmetrize", "union")


def test_command_reads_standard_input_tabs_and_empty_sides(xlt, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"a b\tx y\r\n||| x\na |||\na ||| x\n")))
    assert cli.main(["align", "-", "-d"]) == 0
    assert capsys.readouterr().out == "0-0 1-1\n\n\n0-0\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a ||| b\na b\n", "pairs:2: 0 separators"),
        ("a ||| b ||| c\n", "pairs:1: 2 separators"),
        ("a ||| b\n\n", "pairs:2: 0 separators"),
        ("a ||| b\na\0 ||| c\n", r"pairs:2: control character U\+0000"),
    ],
)
def test_command_names_the_line_of_a_bad_text(xlt, text, message):
    with pytest.raises(StudyError, match=message):
        xlt(text)


def test_command_aligns_a_long_sentence_with_a_short_one(xlt):
    out, _ = xlt("a ||| x\n" + " ".join(f"w{k}" for k in range(20000)) + " a ||| x y\n", "-d", "-o", "-v")
    assert out.splitlines()[0] == "0-0"
