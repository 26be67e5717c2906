"""Where the spread comes from: components known by hand and by construction, and runs that repeat others."""

from types import SimpleNamespace

import numpy as np
import pytest

from xltlib import StudyError, drawing
from xltlib.claims import scores
from xltlib.params import Params
from xltlib.runs import Runs
from xltlib.significance import figures
from xltlib.significance.spread import Costs, relative_error, variance_components
from xltlib.store import read_json

NESTED = Params(
    world_per_seed=True, first_seed=10, seeds=3, pretrainings=2, finetunings=2, tasks=("nli",),
    languages=("src", "near", "far"), objectives=("none", "weam"), methods=("standard",),
)  # fmt: skip


def test_components_are_those_worked_out_by_hand():
    values = np.array([[[1, 3], [4, 6]], [[9, 11], [14, 16]]], dtype=float)
    # mean squares: fine-tunings 8 / 4, pre-trainings (9 + 25) / 2, worlds 4 * 2 * 4.5**2
    found = variance_components(values, 0.05)["variance"]
    assert found.to_dict() == pytest.approx({"world": 36.25, "pre-training": 7.5, "fine-tuning": 2.0})


def test_components_are_found_again_and_intervals_hold_them():
    rng, true, held = np.random.default_rng(1), np.array([4.0, 1.0, 2.25]), []
    for _ in range(200):
        world, pretraining, finetuning = (
            sd * rng.standard_normal(size)
            for sd, size in zip(true**0.5, [(8, 1, 1), (8, 3, 1), (8, 3, 3)], strict=True)
        )
        found = variance_components(world + pretraining + finetuning, 0.1)
        held.append([*((found["low"] <= true) & (true <= found["high"])), *found["variance"]])
    shares = np.mean(held, axis=0)
    assert (shares[:3] > 0.84).all(), "nominal .9, three standard errors of 200 draws are .06"
    assert shares[3:] == pytest.approx(true, rel=0.15)


def test_what_does_not_vary_adds_nothing():
    same = np.broadcast_to(np.arange(3.0)[:, None, None], (3, 2, 2))
    found = variance_components(same, 0.05)
    assert found["variance"].to_list() == [1.0, 0.0, 0.0]
    with pytest.raises(StudyError, match=r"two of each source or more, found \(3, 1, 2\)"):
        variance_components(same[:, :1], 0.05)


def test_time_goes_where_the_spread_is():
    cheap = Costs(world=10, pretraining=10, finetuning=1)
    told = relative_error([0, 0, 1], cheap, (1, 2), (1, 4))  # all spread is of fine-tunings
    assert told.loc[1, 1] == 1
    assert told.loc[1, 4] == pytest.approx((24 / 21 / 4) ** 0.5)
    assert (relative_error([1, 0, 0], cheap, (1, 2), (1, 4)).to_numpy().ravel()[1:] > 1).all(), "of worlds"


def test_repeats_share_what_they_repeat():
    runs, plain = Runs(NESTED), Runs(NESTED.replace(pretrainings=1, finetunings=1))
    made = {seed: runs.transfer("nli", "weam", seed) for seed in NESTED.every_seed}
    assert list(made) == list(range(10, 22))
    assert made[14] == plain.transfer("nli", "weam", 14), "the first of a world is an ordinary run"
    encoders = [spec.inputs[1] for spec in made.values()]
    assert [len(set(encoders[:k])) for k in (2, 4, 12)] == [1, 2, 6]
    texts = [spec.inputs[0] for spec in made.values()]
    assert [len(set(texts[:k])) for k in (4, 8, 12)] == [1, 2, 3]
    assert len({spec.digest for spec in made.values()}) == 12
    assert len({runs.probe("weam", seed) for seed in NESTED.every_seed}) == 6, "an encoder is probed once"
    assert [spec.params["labels"].get("repeats") for spec in made.values()][3:6] == [10, None, 14]


def test_pre_trainings_are_repeated_within_worlds_alone():
    with pytest.raises(StudyError, match="pretrainings: found 2 .*world_per_seed: false"):
        Params(pretrainings=2)
    assert Params(finetunings=3).every_seed == range(6)


def results(params=NESTED, gain=0.1):
    """Scores of which worlds are all that varies, and of weam a constant gain above them."""
    rows = [SimpleNamespace(kind="text", values={}, digest="t", seconds=5.0)]
    for seed in params.every_seed:
        for objective, more in (("none", 0.0), ("weam", gain)):
            (spec,) = [Runs(params).transfer("nli", objective, seed)]
            share = 0.5 + 0.01 * (params.unit_of(seed) - 10) + more
            own = {x: (np.arange(200) < round(200 * share)).astype(float) for x in params.languages}
            rows.append(
                SimpleNamespace(
                    kind="transfer", digest=spec.digest, values={}, seconds=1.0, scores=own,
                    labels=spec.params["labels"], record={"inputs": []},
                )
            )  # fmt: skip
    return rows


def test_no_test_counts_repeats():
    assert sorted(set(scores.table(results())["seed"])) == [10, 14, 18]
    assert len(set(scores.table(results(), repeats=True)["seed"])) == 12


def test_the_figure_tells_the_sources_apart(tmp_path, monkeypatch):
    monkeypatch.setattr(drawing, "redraw", lambda path, png=True: drawing.Drawn(path, read_json(path)))
    session = SimpleNamespace(params=NESTED, figures=tmp_path)
    drawn = figures.spread(session, results())
    rows = drawn.rows.set_index(["series", "x"])["mean"]
    assert rows["standard", "world"] == pytest.approx(4.0)  # .50, .54, .58
    assert rows["standard", "fine-tuning"] == rows["standard", "pre-training"] == 0
    assert rows["weam − standard"].drop("test examples").to_list() == pytest.approx([0, 0, 0], abs=1e-6)
    assert 3 < rows["standard", "test examples"] < 4  # sqrt(.25 / 200)
    shown = figures.equal_cost(session, drawn, results()).rows
    first = shown[shown["panel"] == "nli: standard"].set_index(["series", "x"])["mean"]
    assert first["1 pre-training a world", 1] == 1
    assert first["2 pre-trainings a world", 5] > 1, "worlds are all that varies"


def test_without_repeats_there_is_no_figure(tmp_path):
    session = SimpleNamespace(params=Params(), figures=tmp_path)
    drawn = figures.spread(session, [])
    assert "no runs for it" in repr(drawn)
    assert figures.equal_cost(session, drawn, []).path is None
