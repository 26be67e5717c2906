"""Files: the same bytes for the same content, whole or not there, and nothing else is read as one."""

import numpy as np
import pytest

from xltlib import StudyError
from xltlib.store import load_scores, plain, save_scores, write_json


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
