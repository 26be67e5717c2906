"""Figures: drawn from their data file alone, the same bytes each time, also where results are missing."""

import copy

import numpy as np
import pytest
import tiny

from xltlib import StudyError, figure_data, figures, language_data, text_data, verdict_data
from xltlib.params import Params
from xltlib.runs import Runs
from xltlib.store import Store, publish, read_json, write_json

PARAMS = Params(
    seeds=2, languages=("src", "near", "far"), tasks=("nli", "qa"), objectives=("none", "tlm"),
    test_examples=40, train_examples=60,
)  # fmt: skip
TOLD = {"title": "A title", "caption": "n = 3 <sentences>", "alt": 'An "alt" text', "claims": ["S0-1"]}
SERIES = [
    {
        "name": "tlm",
        "curves": [{"x": [0, 1, 2], "y": [0.1, 0.2, 0.4]}, {"x": [0, 1, 2], "y": [0.2, 0.2, 0.5]}],
    },
    {"name": "weam", "curves": [{"x": list(range(30)), "y": [0.5] * 30}]},
    {"name": "not run", "curves": []},
]
POINTS = [
    {"name": "tlm", "points": [{"mean": 0.5, "low": 0.4, "high": 0.6, "seeds": [0.45, 0.55]}, None]},
    {"name": "weam", "points": [{"mean": 0.7}, {"mean": 0.0, "seeds": [0.0]}]},
]
ROW = {"label": "nli: a − b", "estimate": 0.02, "low": -0.01, "high": 0.05}
EXAMPLES = {
    "curves": {
        "panels": [
            {"name": "one", "x_label": "x", "y_label": "y", "series": SERIES, "limits": [0, None],
             "band": [0.1, 0.2], "levels": [{"name": "chance", "y": 0.1}], "ticks": [[1, "one"]]},
            {"name": "two", "series": []},
            {"name": "three", "series": SERIES[:1]},
        ],
        "columns": 2,
    },
    "groups": {
        "categories": ["near", "far"],
        "panels": [{"name": "nli", "series": POINTS,
                    "marks": [{"name": "one sentence", "values": [0.4, None]}],
                    "levels": [{"name": "chance", "y": 0.33}]}],
    },
    "forest": {
        "x_label": "difference", "second": "bootstrap",
        "rows": [
            ROW,
            ROW | {"seeds": [0.0, 0.04], "margin": 0.01, "second": [0.0, 0.04], "state": "supported"},
        ],
    },
    "link_matrix": {
        "source": ["a", "b"], "target": ["x", "y", "z"], "sure": [[0, 0]], "possible": [[0, 0], [1, 2]],
        "panels": [{"name": "found", "links": [[0, 0], [1, 1]]}, {"name": "none", "links": []}],
    },
    "word_map": {
        "source_language": "src", "target_language": "far",
        "source_words": ["a", "b"], "target_words": ["бо"], "links": [[1, 0]],
        "panels": [{"name": "none", "source": [[0.0, 1.0], [1.0, 0.0]], "target": [[0.5, 0.5]]},
                   {"name": "tlm (published without weights)", "source": [], "target": []}],
    },
    "confidence": {
        "categories": ["report 0", "report 1"], "threshold": 0.15, "x_label": "confidence",
        "rows": [{"category": "report 0", "confidence": 0.2, "kind": "verified"},
                 {"category": "report 0", "confidence": 0.2, "kind": "verified"},
                 {"category": "report 1", "confidence": 0.1, "kind": "not verified"}],
    },
}  # fmt: skip
OF_GROUPS = ("accuracy_by_language", "recall_by_class", "aer_by_symmetrisation")


@pytest.fixture(autouse=True)
def _coarse(monkeypatch):
    """Small images: the tests compare bytes, nobody looks at them."""
    monkeypatch.setattr(figures, "DPI", 40)


def example(name: str) -> dict:
    kind = name if name in EXAMPLES else "groups" if name in OF_GROUPS else "curves"
    return TOLD | copy.deepcopy(EXAMPLES[kind])


@pytest.mark.parametrize("name", figures.FIGURES)
def test_draws_from_its_data_alone_with_the_same_bytes(name, tmp_path):
    drawn = figures.save("it", example(name), figures.FIGURES[name], tmp_path)
    first = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert sorted(first) == ["it.json", "it.png", "it.svg"]
    for ending in ("svg", "png"):
        (tmp_path / f"it.{ending}").unlink()
    (again,) = figures.redraw(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == first
    assert drawn.data == again.data == example(name) | {"draw": name}
    assert b"<dc:date>" not in first["it.svg"]
    assert b"Software" not in first["it.png"]


@pytest.mark.parametrize("name", figures.FIGURES)
def test_draws_without_results(name, tmp_path):
    empty = example(name)
    for key in ("panels", "rows", "categories"):
        if key in empty:
            empty[key] = []
    figures.save("empty", empty, figures.FIGURES[name], tmp_path)
    assert (tmp_path / "empty.png").stat().st_size > 500


def test_shows_its_caption_and_alternative_text_escaped(tmp_path):
    shown = figures.save("it", example("forest"), figures.forest, tmp_path)._repr_html_()
    assert "n = 3 &lt;sentences&gt;" in shown
    assert 'alt="An &quot;alt&quot; text"' in shown
    assert "http" not in shown


def test_refuses_data_that_a_page_cannot_use(tmp_path):
    with pytest.raises(StudyError, match="its data lack caption, claims"):
        figures.save("it", {"title": "A", "alt": "B"}, figures.forest, tmp_path)
    with pytest.raises(StudyError, match=r"panels\[0\].*nan"):
        figures.save("it", TOLD | {"panels": [float("nan")]}, figures.loss_curves, tmp_path)
    with pytest.raises(StudyError, match="is not one of"):
        figures.save("it", TOLD, lambda data: None, tmp_path)
    write_json(tmp_path / "it.json", TOLD | {"draw": "pie"})
    with pytest.raises(StudyError, match="draw is 'pie', expected one of"):
        figures.redraw(tmp_path)


def test_redraw_passes_over_other_files(tmp_path):
    write_json(tmp_path / "claims.json", {"claims": []})
    write_json(tmp_path / "list.json", [1])
    assert figures.redraw(tmp_path) == []


def records(params: Params, objectives=("none", "tlm"), seeds=(0, 1)) -> list[dict]:
    """Runs in which tlm is right on 30 % more of the examples."""
    found = []
    for task in params.tasks:
        suffix = "#f1" if task == "qa" else ""
        for objective in objectives:
            for seed in seeds:
                luck = np.random.default_rng([seed, 1]).random(params.test_examples)
                right = (luck < (0.4 if objective == "none" else 0.7)).astype(float)
                scores = {f"{language}{suffix}": right for language in params.languages}
                labels = {"objective": objective, "method": "standard", "task": task, "seed": seed}
                found.append({"digest": f"{task}{objective}{seed}", "labels": labels, "scores": scores})
    return found


def test_accuracy_has_means_intervals_and_seeds(tmp_path):
    cheap = {task: {"levels": [], "marks": []} for task in PARAMS.tasks}
    data = figure_data.accuracy(records(PARAMS), PARAMS, cheap)
    point = data["panels"][0]["series"][1]["points"][2]
    assert point["mean"] == pytest.approx(np.mean(point["seeds"]), abs=1e-6)
    assert point["low"] < point["mean"] < point["high"]
    assert len(point["seeds"]) == PARAMS.seeds
    assert data["key"] is True
    table = figure_data.score_table(data)
    assert table.loc[("nli", "tlm"), "far"] == point["mean"]
    figures.save("accuracy", data, figures.accuracy_by_language, tmp_path)


@pytest.mark.parametrize("seeds", [(), (0,), (0, 1)])
def test_missing_objectives_and_seeds_are_left_out(seeds, tmp_path):
    found = records(PARAMS, ("none",), seeds)
    cheap = {task: {"levels": [], "marks": []} for task in PARAMS.tasks}
    data = figure_data.accuracy(found, PARAMS, cheap)
    assert data["panels"][0]["series"][1]["points"] == [None, None, None]
    assert verdict_data.differences(found, PARAMS)["rows"] == []
    assert verdict_data.effect(found, PARAMS, "nli", "tlm", "none") is None
    drawings = {
        "accuracy": (data, figures.accuracy_by_language),
        "gap": (figure_data.gaps(found, PARAMS), figures.gap_by_distance),
        "pairs": (verdict_data.differences(found, PARAMS), figures.forest),
        "power": (verdict_data.smallest_effects(found, PARAMS, "tlm", "none"), figures.smallest_effect),
    }
    for name, (content, draw) in drawings.items():
        figures.save(name, content, draw, tmp_path)
    assert figure_data.translate_train_table(found, PARAMS).empty


def test_differences_are_paired_corrected_and_judged():
    data = verdict_data.differences(records(PARAMS, seeds=range(4)), PARAMS, against="none", resamples=100)
    rows = data["rows"]
    assert [row["label"] for row in rows] == ["nli: tlm − none", "qa: tlm − none"]
    for row in rows:
        assert row["estimate"] > 0.1
        assert row["p_holm"] >= row["p"]
        assert row["second"][0] <= row["estimate"] <= row["second"][1]
        assert row["state"] == ("supported" if row["p_holm"] <= PARAMS.alpha else "inconclusive")
    assert list(verdict_data.difference_table(data)["state"]) == [row["state"] for row in rows]


def test_one_seed_supports_nothing():
    rows = verdict_data.differences(records(PARAMS, seeds=(0,)), PARAMS)["rows"]
    assert {row["state"] for row in rows} == {"inconclusive"}


def test_gaps_are_source_minus_target_by_distance():
    found = records(PARAMS)
    for record in found:
        name = "far#f1" if record["labels"]["task"] == "qa" else "far"
        record["scores"][name] = np.zeros(PARAMS.test_examples)
    panel = figure_data.gaps(found, PARAMS)["panels"][0]
    near, far = panel["series"][0]["curves"][0]["y"]
    assert near == 0.0
    assert far == pytest.approx(found[0]["scores"]["src"].mean(), abs=1e-6)
    assert [tick[1].split("\n")[0] for tick in panel["ticks"]] == ["near", "far"]  # by distance


def test_one_sentence_alone_is_no_better_than_chance():
    found = language_data.of(PARAMS).baselines()
    assert found["nli"]["levels"][0]["y"] < 0.5
    assert len(found["nli"]["marks"][0]["values"]) == len(PARAMS.languages)
    assert 0 < found["qa"]["levels"][0]["y"] < 0.2


def test_aer_of_gold_links_is_zero_and_rises_with_corruption():
    tests = text_data.samples(PARAMS, 30)
    panel = text_data.aer_by_corruption(tests, (0.0, 0.5, 1.0))["panels"][0]
    for series in panel["series"]:
        for curve in series["curves"]:
            assert curve["y"][0] == 0
            assert curve["y"] == sorted(curve["y"])
            assert curve["y"][2] > 0.8


def test_interval_of_an_error_rate_holds_the_rate():
    test = language_data.of(PARAMS).sample("far", 40)
    data = text_data.aer_by_symmetrisation(PARAMS, [test], train=50)
    for series in data["panels"][0]["series"]:
        (point,) = series["points"]
        assert point["low"] <= point["mean"] <= point["high"]


def test_samples_depend_on_split_and_draw_alone():
    sample = language_data.of(PARAMS).sample
    found = [sample("near", 20, *which).pairs for which in (("train",), ("test",), ("test", 1))]
    assert found[0] != found[1] != found[2]
    assert sample("near", 20).pairs == found[1]
    with pytest.raises(StudyError, match="split 'dev'"):
        sample("near", 2, "dev")


def test_main_components_keep_distances():
    flat = np.array([[0.0, 0.0], [3.0, 4.0], [1.0, -1.0]])
    plane = np.array(figure_data._plane(np.hstack([flat, np.zeros((3, 5))])))
    assert np.linalg.norm(plane[0] - plane[1]) == pytest.approx(5, abs=1e-3)


def test_the_map_of_words_is_of_the_first_seed_and_does_without_weights(tmp_path):
    runs, store = Runs(tiny.params(objectives=("none", "tlm"), first_seed=3)), Store(tmp_path / "store")
    found = tiny.computed([runs.encoder("none", 3), runs.encoder("tlm", 3)], store)
    drawn = figure_data.word_map(runs, store, "far", tmp_path)
    assert "seed 3" in drawn["caption"]
    assert all(panel["source"] and panel["target"] for panel in drawn["panels"])
    publish([*found, store.result(runs.text())], tmp_path / "figures")
    other = Store(tmp_path / "other", [tmp_path / "figures"])
    empty = figure_data.word_map(runs, other, "far", tmp_path)
    assert [panel["source"] for panel in empty["panels"]] == [[], []]
    assert empty["panels"][1]["name"] == "tlm (published without weights)"
    write_json(tmp_path / "word_map.json", drawn)
    assert figure_data.word_map(runs, other, "far", tmp_path) == read_json(tmp_path / "word_map.json")


def test_saved_data_are_what_was_given(tmp_path):
    data = example("forest")
    figures.save("it", data, figures.forest, tmp_path)
    assert read_json(tmp_path / "it.json") == data | {"draw": "forest"}
