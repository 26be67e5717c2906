"""Drawings: from their data file alone, the same bytes each time, also where results are missing."""

import copy
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from tiny import params

from xltlib import drawing
from xltlib.store import read_json

ABOUT = {"title": "A title", "caption": "n = 3 <sentences>", "alt": 'An "alt" text', "claims": ["S0-1"]}
POINT = {"panel": "nli", "series": "tlm", "x": "near", "mean": 0.5, "low": 0.4, "high": 0.6,
         "seeds": [0.4, 0.5, 0.6]}  # fmt: skip
ROW = {"label": "nli: a − b", "estimate": 0.02, "low": -0.01, "high": 0.05, "seeds": [0.0, 0.04, 0.02],
       "outcome": "inconclusive"}  # fmt: skip
WORD = {"panel": "none", "language": "src", "word": "a", "x": 0.0, "y": 1.0}
EXAMPLES = {
    "facets": {
        "rows": [POINT, POINT | {"x": "far", "seeds": []}, POINT | {"series": "weam", "seeds": [0.5]}],
        "categories": ["near", "far"], "y_label": {"nli": "accuracy"}, "limits": [0, 1],
        "marks": [{"panel": "nli", "name": "chance", "y": 0.33},
                  {"panel": "nli", "name": "alone", "x": "far", "y": 0.4}],
    },
    "forest": {
        "x_label": "difference", "second": "bootstrap",
        "rows": [ROW | {"margin": [0.01], "second": [0.0, 0.04]},
                 ROW | {"seeds": [0.0, 0.04], "margin": [-0.01, 0.01], "second": [0.0, 0.04]}],
    },
    "link_matrix": {
        "source": ["a", "b"], "target": ["x", "y", "z"], "sure": [[0, 0]], "possible": [[0, 0], [1, 2]],
        "rows": [{"panel": "aligner", "links": [[0, 0], [1, 1]]}, {"panel": "none", "links": []}],
    },
    "word_map": {
        "languages": ["src", "far"], "links": [[1, 0]],
        "rows": [WORD, WORD | {"x": 1.0}, WORD | {"language": "far", "word": "бо"}],
    },
    "strip": {
        "categories": ["report 0", "report 1"], "threshold": 0.15, "x_label": "confidence",
        "rows": [{"category": "report 0", "value": 0.2, "kind": "verified"},
                 {"category": "report 0", "value": 0.2, "kind": "verified"},
                 {"category": "report 1", "value": 0.1, "kind": "not verified"}],
    },
}  # fmt: skip
LINES = {
    "rows": [
        {"panel": "a", "series": s, "x": x, "seeds": [x / 9, x / 8, x / 7], "low": 0, "high": 1}
        for s in ("tlm", "weam") for x in range(4)
    ],
    "lines": True, "bands": {"a": [0.1, 0.2]}, "ticks": {"one": 1}, "x_label": r"$\lambda$",
}  # fmt: skip
DENSE = {
    "rows": [{"panel": "a", "series": "tlm", "x": x, "seeds": [x, x + 1]} for x in range(30)],
    "lines": True,
}
GRID = {
    "rows": [
        {"row": row, "panel": panel, "series": "tlm", "x": x, "seeds": [0.1, 0.2]}
        for row, panel in (("a", "b"), ("c", "d")) for x in (0, 1)
    ],
    "lines": True, "empty": "not measured",
}  # fmt: skip


@pytest.fixture(autouse=True)
def _coarse(monkeypatch):
    """Small images: the tests compare bytes, nobody looks at them."""
    monkeypatch.setattr(drawing, "DPI", 40)


def write(folder, draw, **changes):
    data = ABOUT | copy.deepcopy(EXAMPLES[draw]) | changes
    return drawing.write(folder / "it", data.pop("rows"), draw=draw, **data)


@pytest.mark.parametrize("draw", EXAMPLES)
def test_draws_from_its_data_alone_with_the_same_bytes(draw, tmp_path):
    drawn = write(tmp_path, draw)
    first = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert sorted(first) == ["it.json", "it.png", "it.svg"]
    for ending in ("svg", "png"):
        (tmp_path / f"it.{ending}").unlink()
    again = drawing.redraw(tmp_path / "it.json")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == first
    assert drawn.data == again.data == ABOUT | EXAMPLES[draw] | {"draw": draw}
    assert b"<dc:date>" not in first["it.svg"]
    assert b"Software" not in first["it.png"]


def test_lines_are_drawn_with_bands_without_them_and_in_a_grid(tmp_path):
    drawn = []
    for data in (LINES, DENSE, GRID):
        drawing.write(tmp_path / "it", draw="facets", **ABOUT | data)
        drawn.append((tmp_path / "it.svg").read_text())
    assert ["FillBetween" in text for text in drawn] == [True, False, False]
    assert [text.count("not measured") > 0 for text in drawn] == [False, False, True]


def test_what_has_no_rows_is_not_drawn_and_says_so(tmp_path):
    session = SimpleNamespace(params=params(), figures=tmp_path)
    drawn = drawing.save(session, "noise", pd.DataFrame(), marks=[])
    assert drawn.rows.empty
    assert drawn._repr_html_() == "<p>Scores under typing errors: this profile has no runs for it.</p>"
    assert not list(tmp_path.iterdir())


def test_intervals_of_two_seeds_are_not_drawn(tmp_path):
    seen = []
    for seeds in ([0.1, 0.2], [0.1, 0.2, 0.3], []):
        write(tmp_path, "facets", rows=[POINT | {"seeds": seeds}])
        seen.append((tmp_path / "it.svg").read_text().count("LineCollection"))
    assert seen[0] < seen[1]  # they would fill the panel
    assert seen[2] == seen[1]  # an interval that is not over seeds


def test_letters_are_text_and_as_large_as_a_caption(tmp_path):
    shown = write(tmp_path, "facets")
    text = (tmp_path / "it.svg").read_text()
    assert ">accuracy</text>" in text
    sizes = {float(part.partition("px")[0]) for part in text.split("font-size: ")[1:]}
    assert min(sizes) >= 11  # points: 14.7 px at the size at which a page shows it
    assert float(text.split('width="')[1].partition("pt")[0]) <= 72 * drawing.WIDTH + 1
    assert "n = 3 &lt;sentences&gt;" in shown._repr_html_()
    assert 'alt="An &quot;alt&quot; text"' in shown._repr_html_()
    assert "http" not in shown._repr_html_()


def test_numbers_are_rounded_and_what_is_no_number_is_null(tmp_path):
    rows = pd.DataFrame([POINT | {"mean": np.float64(1 / 3), "low": np.nan, "high": np.nan}])
    write(tmp_path, "facets", rows=rows)
    (row,) = read_json(tmp_path / "it.json")["rows"]
    assert (row["mean"], row["low"], row["seeds"]) == (0.333333, None, [0.4, 0.5, 0.6])


def test_rows_are_gathered_and_put_in_an_order():
    rows = pd.DataFrame({"series": ["b", "a", "c", "b"], "x": [2, 1, 1, 1]})
    assert drawing.in_order(rows, series=["a", "b"]).values.tolist() == [["a", 1], ["b", 2], ["b", 1]]
    ordered = drawing.in_order(rows, x=[1, 2], series=["b", "a"])
    assert ordered.values.tolist() == [["b", 1], ["a", 1], ["b", 2]]
    points = drawing.gathered([("p", "a", 1, 2), ("p", "a", 0, 3), ("p", "a", 1, 1)])
    assert points["seeds"].tolist() == [[2, 1], [3]]
    assert drawing.gathered([]).empty


@pytest.mark.parametrize(
    ("seeds", "told"),
    [
        (1, "Dots: 1 seed, too few for an interval"),
        (2, "Dots: 2 seeds, too few for an interval"),
        (6, "Dots: 6 seeds; bands: 95% intervals over seeds and"),
    ],
)
def test_a_caption_says_how_many_seeds_stand_behind_an_interval(seeds, told, tmp_path):
    session = SimpleNamespace(params=params(seeds=seeds), figures=tmp_path)
    assert told in drawing.save(session, "noise", []).data["caption"]
