"""The one table of scores: settings by name, queries, paired arrays, means and intervals."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from xltlib import StudyError
from xltlib.claims import scores
from xltlib.claims.scores import Setting, paired, read_setting

NLI = {"objective": "tlm", "task": "nli"}


def run(seed, values, kind="transfer", inputs=(), others=None, **labels):
    """A result as the store gives it, with scores by the names of their settings."""
    labels = {"objective": "none", "method": "standard", "task": "nli", "seed": seed} | labels
    name = f"{kind}{labels['objective']}{labels.get('objective_options', '')}{seed}"
    arrays = {setting: np.array(examples, dtype=float) for setting, examples in values.items()}
    return SimpleNamespace(
        kind=kind, digest=name, labels=labels, scores=arrays, values=others or {},
        record={"inputs": list(inputs)},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "task", "setting"),
    [
        ("near", "nli", Setting("near", metric="accuracy")),
        ("near#f1", "qa", Setting("near", metric="f1")),
        ("near", "qa", Setting("near", metric="exact_match")),
        ("src|near", "nli", Setting("src", "near", metric="accuracy")),
        ("de@mlqa#f1", "qa", Setting("de", test_set="mlqa", metric="f1")),
        ("de@typo0.2", "nli", Setting("de", noise="typo", rate=0.2, metric="accuracy")),
        ("de#deprel", "tagging", Setting("de", metric="deprel")),
        ("de", "tagging", Setting("de", metric="tags")),
        ("zh@multi30k", "retrieval", Setting("zh", test_set="multi30k", metric="accuracy")),
    ],
)
def test_a_setting_is_read_from_its_name_and_written_as_it(name, task, setting):
    assert read_setting(name, task) == setting
    assert str(setting) == name


def test_a_name_without_a_language_is_refused():
    with pytest.raises(StudyError, match="'#f1' names no setting"):
        read_setting("#f1", "qa")


def test_the_table_has_one_row_for_each_run_and_setting():
    results = [
        run(0, {"near": [0, 1, 1, 1], "far": [0, 0, 0, 1]}),
        run(0, {"near@typo0.1": [0, 0, 0, 1]}, kind="evaluation", inputs=["transfernone0"]),
        run(0, {}, kind="encoder"),
    ]
    table = scores.table(results)
    assert tuple(table.columns) == scores.COLUMNS
    assert table[["language", "noise", "rate", "mean"]].values.tolist() == [
        ["near", "", 0.0, 0.75], ["far", "", 0.0, 0.25], ["near", "typo", 0.1, 0.25],
    ]  # fmt: skip
    assert set(table["digest"]) == {"transfernone0"}  # the model's, wherever it was scored


def test_baselines_give_floors_and_clusters():
    cheap = {
        "baselines": {"qa": {"majority": {"de": 0.1, "de#f1": 0.2}, "overlap": {"de#f1": 0.3}}},
        "clusters": {"qa": {"de": [0, 0, 1]}, "nli": {"": [0, 1, 1]}},
    }
    results = [run(0, {"de": [0, 1, 1], "de#f1": [0, 1, 1], "es": [1, 1, 1]}, task="qa")]
    results += [run(0, {"de": [0, 1, 1], "de@typo0.1": [0, 1, 1]})]
    table = scores.table([*results, SimpleNamespace(kind="baselines", values=cheap)])
    np.testing.assert_equal(table["floor"].tolist(), [0.1, 0.3, np.nan, np.nan, np.nan])
    assert table["clusters"].tolist() == [[0, 0, 1], [0, 0, 1], None, [0, 1, 1], [0, 1, 1]]
    assert paired(table, {"task": "qa"}, [Setting("de")]).scores[0].clusters.tolist() == [0, 0, 1]


def test_a_query_means_the_default_where_it_names_none():
    table = scores.table([
        run(1, {"near": [0, 0]}, objective="tlm", objective_options="lambda=1.0"),
        run(0, {"near": [1, 0]}, objective="tlm"),
        run(0, {"near": [1, 1]}, objective="tlm", objective_options="mask_rate=0.3"),
        run(0, {"near": [0, 1]}, objective="tlm", method="salt"),
    ])  # fmt: skip
    found = paired(table, NLI, [Setting("near")], {"lambda": 1})
    assert found.seeds == (0, 1)
    assert found.scores[0].tolist() == [[1, 0], [0, 0]]
    assert found.only([1]).scores[0].tolist() == [[0, 0]]
    other = paired(table, NLI | {"objective_options": "mask_rate=0.3"}, [Setting("near")])
    assert other.scores[0].tolist() == [[1, 1]]


def test_what_is_missing_is_named():
    table = scores.table([run(0, {"near": [1, 0], "far": [1, 0]}), run(1, {"near": [1], "far": [1, 0]})])
    query = {"task": "nli"}
    assert paired(table, NLI, [Setting("near")]).missing == "no run of tlm on nli"
    assert paired(table, query, [Setting("xx")]).missing == "none on nli, seed 0: no scores for xx"
    assert "seed 1: other examples of near" in paired(table, query, [Setting("near")]).missing
    assert paired(table, query, []).missing == "none on nli: no setting to compare"
    assert not paired(table, query, [Setting("far")]).missing


def test_while_a_study_is_under_way_a_seed_that_is_half_there_is_not_there():
    table = scores.table([run(0, {"near": [1, 0], "far": [1, 0]}), run(1, {"near": [1, 1]})])
    both = [Setting("near"), Setting("far")]
    assert "seed 1: no scores for far" in paired(table, {"task": "nli"}, both).missing
    assert paired(table, {"task": "nli"}, both, under_way=True).seeds == (0,)


def test_two_runs_of_one_seed_are_ambiguous():
    one, other = run(0, {"near": [1]}), run(0, {"near": [0]})
    other.digest = "other"
    with pytest.raises(StudyError, match="other and transfernone0 both have seed 0"):
        paired(scores.table([one, other]), {"task": "nli"}, [Setting("near")])


def test_intervals_are_those_of_the_crossed_model():
    rng = np.random.default_rng(0)
    values = {s: {x: rng.random(50) < 0.6 for x in ("near", "far")} for s in range(4)}
    table = scores.table([run(s, v) for s, v in values.items()])
    by_language = scores.intervals(table, ["language"], 0.05)
    means = table.groupby("language", sort=False)["mean"].mean()
    assert by_language["mean"].tolist() == pytest.approx(means.tolist())
    assert by_language["language"].tolist() == ["near", "far"]  # as they come
    row = by_language.set_index("language").loc["near"]
    stacked = np.stack([v["near"] for v in values.values()]).astype(float)
    effect = scores.difference([stacked], [np.zeros_like(stacked)], alpha=0.05)
    assert (row["mean"], row["low"], row["high"]) == (effect.estimate, effect.low, effect.high)
    assert row["seeds"] == stacked.mean(1).tolist()
    both = scores.intervals(table, ["objective"], 0.05).iloc[0]
    assert both["mean"] == pytest.approx(by_language["mean"].mean())


def test_intervals_leave_out_seeds_that_lack_a_setting():
    table = scores.table([run(0, {"near": [0, 1], "far": [1, 1]}), run(1, {"near": [1, 1]}),
                          run(2, {"near": [1, 1], "far": [0, 1]})])  # fmt: skip
    row = scores.intervals(table, ["objective"], 0.05).iloc[0]
    assert row["seeds"] == [0.75, 0.75]  # seeds 0 and 2
    empty = scores.intervals(table.iloc[:0], ["objective"], 0.05)
    assert isinstance(empty, pd.DataFrame)
    assert empty.empty
