"""What the notebooks show: known differences come out, and missing runs leave gaps."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import tiny
from studies import everywhere, planted, record, small_ledger, table

from xltlib import drawing
from xltlib.alignment import figures as alignment
from xltlib.claims import figures as claims
from xltlib.claims import scores as score_table
from xltlib.claims.evaluate import evaluate
from xltlib.claims.ledger import load_ledger
from xltlib.data.languages import languages_for
from xltlib.finetuning import figures as finetuning
from xltlib.finetuning import options as finetuning_options
from xltlib.finetuning.options import TYPO_RATES
from xltlib.noise import figures as noise
from xltlib.params import Params
from xltlib.pretraining import figures as pretraining
from xltlib.pretraining import options as pretraining_options
from xltlib.runs import Runs
from xltlib.significance import figures as significance
from xltlib.store import Store, publish, read_json

N, SEEDS = 300, 4
PARAMS = Params(
    seeds=SEEDS, languages=("src", "near", "far"), tasks=("nli", "qa"), objectives=("none", "tlm"),
    noise_tasks=("nli",), methods=("standard", "rs_da:updates=equal", "salt"), test_examples=N,
    link_kinds=("gold", "estimated", "random"), train_examples=60,
)  # fmt: skip


@pytest.fixture(autouse=True)
def _undrawn(monkeypatch):
    """Figures up to their data file: what is drawn from it is of no account here."""
    monkeypatch.setattr(drawing, "redraw", lambda path, png=True: drawing.Drawn(path, read_json(path)))


@pytest.fixture
def session(tmp_path):
    return SimpleNamespace(params=PARAMS, figures=tmp_path, published=tmp_path)


def run(seed, mean, drop=None, task="nli", **labels):
    """A run with the same mean in all languages; with `drop`, less of it under typing errors."""
    return [record(seed, everywhere(PARAMS.languages, mean, drop), task, N, **labels)]


def planted_rows(seeds=range(SEEDS)):
    """tlm is better and loses less to noise; RS-DA is better; good links are better than random ones."""
    rows = []
    for seed in seeds:
        rows += run(seed, 0.6, 1.0) + run(seed, 0.8, 0.2, objective="tlm")
        rows += run(seed, 0.6, task="qa") + run(seed, 0.8, task="qa", objective="tlm")
        rows += run(seed, 0.9, 1.0, method="rs_da", method_options="updates=equal")
        for kind, mean in (("gold", 0.9), ("", 0.8), ("random", 0.5)):
            rows += run(seed, mean, objective="weam", objective_options=f"links={kind}" if kind else "")
    return rows


SCORES = table(planted_rows())
NO_BASELINES = score_table.baselines([])


def test_accuracy_has_means_intervals_and_seeds(session):
    drawn = finetuning.accuracy(session, SCORES, NO_BASELINES)
    rows = drawn.rows.set_index(["panel", "series", "x"])
    row = rows.loc["nli", "tlm", "far"]
    assert row["mean"] == pytest.approx(np.mean(row["seeds"]), abs=1e-6)
    assert row["low"] < row["mean"] < row["high"]
    assert len(row["seeds"]) == SEEDS
    assert list(dict.fromkeys(drawn.rows["series"])) == ["none", "tlm"]  # weam is not in the profile
    assert drawn.data["key"] is True


def test_baselines_of_synthetic_languages_are_near_chance(session):
    cheap = finetuning.baselines(PARAMS, [])
    means = cheap.groupby(["task", "baseline"])["score"].mean()
    assert means["nli", "second sentence alone (n-grams)"] < 0.5
    assert 0 < means["qa", "chance (qa: a random word)"] < 0.2
    drawn = finetuning.accuracy(session, SCORES, cheap)
    assert {mark["panel"] for mark in drawn.data["marks"]} == {"nli", "qa"}


@pytest.mark.parametrize("seeds", [(), (0,), (0, 1)])
def test_missing_objectives_and_seeds_are_left_out(seeds, session):
    own = table([row for seed in seeds for row in run(seed, 0.6)])
    shown = finetuning.accuracy(session, own, NO_BASELINES).rows.get("series", ())
    assert set(shown) == ({"none"} if seeds else set())
    for draw in (finetuning.gains, finetuning.methods, significance.pairwise, noise.drops):
        assert draw(session, own).rows.empty
        assert draw(session, own).path is None
    assert significance.smallest_effects(session, own, "tlm", "none").path is None
    finetuning.gap(session, own)
    assert finetuning.translate_train_table(own, PARAMS).empty


def test_gains_are_paired_corrected_and_judged(session):
    rows = finetuning.gains(session, SCORES).rows
    assert list(rows["label"]) == ["nli: tlm − none", "qa: tlm − none"]
    assert (rows["estimate"] > 0.1).all()
    assert (rows["p_holm"] >= rows["p"]).all()
    outcomes = ["supported" if p <= PARAMS.alpha else "inconclusive" for p in rows["p_holm"]]
    assert list(rows["outcome"]) == outcomes


def test_second_opinions_stand_beside_each_difference(session):
    drawn = significance.pairwise(session, SCORES)
    row = drawn.rows.set_index("label").loc["nli: tlm − none"]
    assert row["p_flips"] == 2 / 2**SEEDS  # all gains have one sign
    assert row["eps_min"] < 0.2
    assert row["second"][0] <= row["estimate"] <= row["second"][1]


def test_gaps_are_source_minus_target_by_distance(session):
    own = SCORES.copy()
    own["mean"] = own["mean"].where(own["language"] != "far", 0.0)
    drawn = finetuning.gap(session, own[(own["language"] != "near") | (own["task"] == "nli")])
    rows = drawn.rows.set_index(["panel", "series", "x"])["seeds"]
    assert [(panel, x) for panel, series, x in rows.index if series == "none"] == [
        ("nli", 0), ("nli", 1), ("qa", 1),
    ]  # fmt: skip
    clean = finetuning.standard(own, PARAMS).groupby(["task", "objective", "language"])["mean"].agg(list)
    assert rows["nli", "none", 1] == pytest.approx(clean["nli", "none", "src"], abs=1e-6)
    ticks = drawn.data["ticks"]
    assert [text.split("\n")[0] for text in sorted(ticks, key=ticks.get)] == ["near", "far"]


def test_better_links_lie_higher(session):
    aer = {"gold": 0.0, "estimated": 0.2, "random": 0.9}
    linked = {
        k: SimpleNamespace(values={"quality": {t: {"aer": x} for t in PARAMS.targets}})
        for k, x in aer.items()
    }
    rows = alignment.weam_by_links(session, SCORES, linked).rows
    own = rows[rows["panel"] == "far"]
    assert list(own["x"]) == [0.0, 0.2, 0.9]
    assert list(own["mean"]) == sorted(own["mean"], reverse=True)
    assert alignment.weam_by_links(session, SCORES, {}).rows.empty


def test_links_of_real_languages_are_judged_by_tags_where_they_have_gold(session):
    session.params = PARAMS.replace(data="real", scale="reduced", languages=("en", "de", "es"), source="en")
    rows = [
        record(seed, everywhere(("en", "de", "es"), mean), "tagging", N, objective="weam", **labels)
        for seed in range(SEEDS)
        for mean, labels in ((0.5, {}), (0.7, {"objective_options": "links=eflomal"}))
    ]
    quality = {"estimated": {"es": {"aer": 0.3}}, "eflomal": {"es": {"aer": 0.2}}}
    linked = {kind: SimpleNamespace(values={"quality": own}) for kind, own in quality.items()}
    drawn = alignment.weam_by_links(session, table(rows), linked)
    assert drawn.rows[["panel", "x"]].to_numpy().tolist() == [["es", 0.2], ["es", 0.3]]
    assert drawn.rows["mean"].tolist() == pytest.approx([0.7, 0.5], abs=0.05)
    assert drawn.data["marks"] == []


def test_methods_are_compared_with_standard_on_the_same_seeds(session):
    rows = finetuning.methods(session, SCORES).rows
    names = ["nli, targets: rs_da:updates=equal", "nli, source: rs_da:updates=equal"]
    assert list(rows["label"]) == names  # nothing of salt, which has no runs
    assert rows["estimate"].tolist() == pytest.approx([0.3, 0.3], abs=0.06)
    assert set(rows["outcome"]) == {"supported"}
    known = finetuning.method_table(SCORES, PARAMS)
    assert list(known.index) == [("nli", "standard"), ("nli", "rs_da:updates=equal"), ("qa", "standard")]


def test_drops_are_compared_with_the_base(session):
    rows = noise.drops(session, SCORES).rows.set_index("label")
    assert set(rows.index) == {"nli: tlm", "nli: rs_da:updates=equal"}
    assert rows.loc["nli: tlm", "estimate"] == pytest.approx(0.3 - 0.06, abs=0.06)
    assert rows.loc["nli: tlm", "outcome"] == "supported"
    assert rows.loc["nli: rs_da:updates=equal", "estimate"] == pytest.approx(0.0, abs=0.06)


def test_lines_under_noise_fall_and_miss_what_was_not_run(session):
    rows = noise.transfer(session, SCORES).rows
    assert set(rows["series"]) == {"none", "tlm", "rs_da:updates=equal"}
    own = rows[(rows["panel"] == "nli, far") & (rows["series"] == "none")]
    assert list(own["x"]) == [0.0, *TYPO_RATES]
    assert list(own["mean"]) == sorted(own["mean"], reverse=True)
    session.params = session.params.model_copy(update={"noise_tasks": ()})
    assert noise.transfer(session, SCORES).path is None


def test_trends_of_the_ledger_are_drawn(session, tmp_path):
    trend = {
        "type": "trend", "a": {"objective": "weam"}, "over": "objective_options", "direction": "down",
        "points": {"links=gold": 0, "links=estimated": 0.2, "links=random": 1}, "task": "nli",
        "margin": 0.0, "reason": "r", "words": "It falls.", "unit": "accuracy",
    }  # fmt: skip
    equal = trend | {"points": {f"links={x},predicted=equal": x for x in range(3)}}
    low = {"over": "method_options", "points": {f"low={x}": x for x in range(3)}}
    other = trend | low | {"a": {"objective": "none"}}
    rows = [r for seed in range(SEEDS) for x in range(3) for r in run(seed, 0.5, method_options=f"low={x}")]
    for option in equal["points"]:
        rows += [r for s in range(SEEDS) for r in run(s, 0.6, objective="weam", objective_options=option)]
    defaults = {"links": "estimated"}
    ledger = load_ledger(small_ledger(tmp_path, trend, [equal, other], defaults=defaults))
    drawn = finetuning.sweeps(session, pd.concat([SCORES, table(rows)]), ledger, defaults)
    assert drawn.data["claims"] == ["S0-1", "S0-2"]
    series = drawn.rows.drop_duplicates(["panel", "series"])[["panel", "series"]].values.tolist()
    assert series == [["nli: links", "weam"], ["nli: links", "weam, predicted=equal"], ["nli: low", "none"]]
    assert drawn.rows["x"].tolist()[:3] == [0, 0.2, 1]
    assert finetuning.sweeps(session, table([]), ledger, defaults).rows.empty


@pytest.mark.parametrize("options", [pretraining_options.Options, finetuning_options.Options])
def test_every_option_is_explained(options):
    assert (pretraining.options_table(options)["meaning"].str.len() > 10).all()


# Text


def test_aer_of_gold_links_is_zero_and_rises_with_corruption(session):
    rows = alignment.by_corruption(session, alignment.samples(PARAMS, 30), (0.0, 0.5, 1.0)).rows
    for _, own in rows.groupby("series"):
        errors = np.array(own["seeds"].tolist())  # (shares, draws)
        assert (errors[0] == 0).all()
        assert (np.diff(errors, axis=0) >= 0).all()
        assert (errors[2] > 0.8).all()


def test_interval_of_an_error_rate_holds_the_rate(session, monkeypatch):
    monkeypatch.setattr(alignment, "TRAIN", 50)
    test = languages_for(PARAMS).sample("far", 40)
    rows = alignment.symmetrisation(session, [test]).rows
    assert ((rows["low"] <= rows["mean"]) & (rows["mean"] <= rows["high"])).all()


def test_samples_depend_on_split_and_draw_alone():
    sample = languages_for(PARAMS).sample
    drawn = [sample("near", 20, *which).pairs for which in (("train",), ("test",), ("test", 1))]
    assert drawn[0] != drawn[1] != drawn[2]
    assert sample("near", 20).pairs == drawn[1]


def test_main_components_keep_distances():
    flat = np.array([[0.0, 0.0], [3.0, 4.0], [1.0, -1.0]])
    plane = pretraining._plane(np.hstack([flat, np.zeros((3, 5))]))
    assert np.linalg.norm(plane[0] - plane[1]) == pytest.approx(5, abs=1e-3)


def test_the_map_of_words_is_of_the_first_seed_and_does_without_weights(tmp_path):
    runs, store = Runs(tiny.params(objectives=("none", "tlm"), first_seed=3)), Store(tmp_path / "store")
    results = tiny.computed([runs.encoder("none", 3), runs.encoder("tlm", 3)], store)
    session = SimpleNamespace(
        params=runs.params, runs=runs, store=store, figures=tmp_path / "own", published=tmp_path / "figures"
    )
    drawn = pretraining.word_map(session, "far")
    assert "seed 3" in drawn.data["caption"]
    assert drawn.rows["x"].notna().all()
    publish([*results, store.result(runs.text())], session.published)
    session.store = Store(tmp_path / "other", [session.published])
    assert pretraining.word_map(session, "far").rows.empty
    drawing.write(session.published / "word_map", **drawn.data)
    assert pretraining.word_map(session, "far").data == drawn.data


# Honesty, and statements


def test_honesty_is_simulated_by_seeds(session):
    drawn = significance.error_rates(session, seeds=(2, 6), repeats=100)
    rates = drawn.rows.set_index(["panel", "series", "x"])["mean"]
    names = list(dict.fromkeys(drawn.rows["series"]))
    assert names[-1] == significance.NOT_MODELLED
    for seeds in (2, 6):  # a false verdict is an interval that misses
        covered = rates["intervals that hold the truth", names[0], seeds]
        assert covered + rates["verdicts without any difference", names[0], seeds] == pytest.approx(1)
    known = significance.honesty_table(drawn)
    assert list(known.index) == [2, 6]
    worst = max(rates["verdicts without any difference", name, 6] for name in names[:-1])
    assert known.loc[6, "worst world"].startswith(f"{worst:.3f} [")


def test_error_table_is_of_the_studys_size():
    known = significance.error_table(PARAMS, gains=(0.0, 0.5), repeats=50)
    assert known.loc[0.5, "supported"] == 1
    assert known.loc[0.0, "supported"] + known.loc[0.0, "contradicted"] < 0.2
    assert set(known["seeds"]) == {PARAMS.seeds}


@pytest.fixture(scope="module")
def evidence(tmp_path_factory):
    path, records = planted(tmp_path_factory.mktemp("ledger"))
    return evaluate(
        load_ledger(path), table(records), Params(languages=("src", "near", "far"), mask_rate=0.25)
    )


def test_a_statement_opens_to_its_evidence_and_stays_text(evidence):
    known = claims.claim_table(evidence)
    assert len(known) == len(evidence["claims"])
    first = known["statement"][0]
    assert first.count("<details") == first.count("</details>") == 1
    assert "<summary>S0-1 Statement &lt;b&gt;1&lt;/b&gt; &amp; so on</summary>" in first
    assert "by seed: " in first
    assert "Again: xlt claim S0-1" in first
    assert "<b>" not in known.to_string()
    assert known["verdict"][0] == "mechanism supported"


def test_effects_and_confidences_of_all_statements_are_drawn(session, evidence):
    rows = claims.claim_effects(session, evidence).rows
    assert rows["label"].str.match(r"S0-\d+ \w+, \w+").all()
    drawn = claims.confidence(session, evidence, by="verdict")
    assert len(drawn.rows) == len(evidence["claims"])


def test_robustness_table_counts_the_specification_curve(evidence):
    known = claims.robustness_table(evidence)
    test = evidence["claims"][0]["tests"][0]
    row = known.loc["S0-1, test 1 (superiority, nli)"]
    assert row["outcome"] == test["outcome"]
    same = [s["same"] for s in test["specifications"]]
    assert row["all"] == f"{sum(same) - 1} of {len(same) - 1}"  # the analysis as planned is no variant
