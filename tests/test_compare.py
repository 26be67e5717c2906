"""`xlt compare`: pairing by id, the numbers it prints, the files it refuses."""

import json

import numpy as np
import pytest
from scipy import stats

from xltlib import StudyError, cli
from xltlib.significance.resampling import mcnemar

pytestmark = pytest.mark.filterwarnings("error")


def write(path, scores, **fields):
    record = {"task": "nli", "language": "near", "metric": "accuracy", "scores": scores, **fields}
    path.write_text(json.dumps(record), encoding="utf-8")
    return path


def command(*arguments):
    args = cli._parser().parse_args(["compare", *map(str, arguments)])
    return args.func(args) or 0


@pytest.fixture
def files(tmp_path, rng):
    a, b = ({f"e{i}": int(rng.random() < level) for i in range(80)} for level in (0.8, 0.6))
    return write(tmp_path / "a.json", a), write(tmp_path / "b.json", dict(reversed(b.items())))


def test_compare_pairs_by_id(files, capsys):
    a, b = (json.loads(path.read_text())["scores"] for path in files)
    assert command(*files, "--json") == 0
    row = json.loads(capsys.readouterr().out)["metrics"]["accuracy"]
    x, y = np.array(list(a.values())), np.array([b[i] for i in a])
    reference = stats.ttest_rel(x, y)
    assert (row["n"], row["difference"]) == (80, pytest.approx((x - y).mean()))
    assert (row["low"], row["high"]) == pytest.approx(tuple(reference.confidence_interval()))
    assert row["mcnemar"]["p"] == pytest.approx(mcnemar(x, y)["p"])
    assert row["p"] == pytest.approx(row["mcnemar"]["p"], abs=0.02)
    assert row["d_z"] == pytest.approx(reference.statistic / np.sqrt(80))


def test_compare_prints_a_table_and_repeats_it(files, capsys):
    command(*files)
    first = capsys.readouterr().out
    command(*files)
    assert capsys.readouterr().out == first
    assert "accuracy" in first
    assert "one seed" in first


def test_one_shared_example_decides_nothing(tmp_path, capsys):
    assert command(write(tmp_path / "a.json", {"e": 1}), write(tmp_path / "b.json", {"e": 0}), "--json") == 0
    assert json.loads(capsys.readouterr().out)["metrics"]["accuracy"]["p"] == 1.0


def test_compare_several_metrics(tmp_path, capsys):
    a = write(tmp_path / "a.json", {i: {"exact_match": 1, "f1": 1.0} for i in "xyz"})
    b = write(tmp_path / "b.json", {i: {"exact_match": 0, "f1": 0.5} for i in "zyx"})
    command(a, b, "--json")
    rows = json.loads(capsys.readouterr().out)["metrics"]
    assert rows["f1"]["mcnemar"] is None
    assert rows["f1"]["d_z"] is None
    assert rows["exact_match"]["mcnemar"]["p"] == 0.25
    with pytest.raises(StudyError, match="no metric of both"):
        command(a, write(tmp_path / "c.json", {"x": 1}))


def test_compare_refuses_unequal_examples(tmp_path):
    more, fewer = {"x": 1, "y": 0, "only": 1}, {"y": 1, "x": 1}
    a, b = write(tmp_path / "a.json", more), write(tmp_path / "b.json", fewer)
    for both in ((a, b), (b, a)):
        with pytest.raises(StudyError, match="1 only in [AB], such as 'only'"):
            command(*both)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not JSON"),
        ("[]", 'no "scores"'),
        ('{"scores": {}}', 'no "scores"'),
        ('{"scores": {"x": 1, "x": 0}}', "stands twice"),
        ('{"scores": {"x": NaN}}', "expected a number"),
        ('{"scores": {"x": 87.5}}', "divide percentages"),
        ('{"scores": {"x": "1"}}', "expected a number"),
        ('{"scores": {"x": {"f1": 1}, "y": {"em": 1}}}', "is missing in 1 of 2"),
        ('{"scores": {"x": 1}, "task": "qa"}', "on one task"),
    ],
)
def test_compare_refuses_unusable_files(tmp_path, text, words):
    (tmp_path / "a.json").write_text(text, encoding="utf-8")
    with pytest.raises(StudyError, match=words):
        command(tmp_path / "a.json", write(tmp_path / "b.json", {"x": 1}))
    with pytest.raises(StudyError, match="no such file"):
        command(tmp_path / "none.json", tmp_path / "b.json")
