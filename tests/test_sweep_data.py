"""Figures that compare methods, options and noise: known differences come out, missing runs leave gaps."""

from types import SimpleNamespace

import numpy as np
import pytest
from studies import small_ledger
from tiny import params

from xltlib import figures, sweep_data
from xltlib.claims.ledger_file import load_ledger
from xltlib.finetuning import options as finetuning
from xltlib.finetuning.task_builders import TYPO_RATES
from xltlib.pretraining import options as pretraining

N, SEEDS = 300, 4
SMALL = params(
    seeds=SEEDS, test_examples=N, tasks=("nli",), objectives=("none", "tlm"), noise_tasks=("nli",),
    methods=("standard", "rs_da:updates=equal", "salt"), link_kinds=("gold", "estimated", "random"),
)  # fmt: skip


def record(seed, mean, drop=None, **labels):
    """0/1 scores with about this mean; with `drop`, less of it under typing errors."""
    full = {"objective": "none", "objective_options": "", "method": "standard", "method_options": ""} | labels
    found = {}
    for k, language in enumerate(SMALL.languages):
        u = np.random.default_rng([seed, k]).random(N)
        found[language] = (u < mean).astype(float)
        for rate in TYPO_RATES if drop is not None else ():
            found[f"{language}@typo{rate:g}"] = (u < mean - drop * rate).astype(float)
    return {"digest": "d", "labels": full | {"task": "nli", "seed": seed}, "scores": found}


def records():
    made = []
    for seed in range(SEEDS):
        made += [record(seed, 0.6, 1.0), record(seed, 0.8, 0.2, objective="tlm")]
        made.append(record(seed, 0.9, 1.0, method="rs_da", method_options="updates=equal"))
        for kind, mean in (("gold", 0.9), ("", 0.8), ("random", 0.5)):
            option = f"links={kind}" if kind else ""
            made.append(record(seed, mean, objective="weam", objective_options=option))
    return made


RECORDS = records()


def test_better_links_lie_higher():
    aer = {"gold": 0.0, "estimated": 0.2, "random": 0.9}
    quality = {k: {t: {"aer": x} for t in ("far", "low")} for k, x in aer.items()}
    linked = {k: SimpleNamespace(values={"quality": v}) for k, v in quality.items()}
    data = sweep_data.link_quality(RECORDS, linked, SMALL)
    assert [panel["name"] for panel in data["panels"]] == ["far", "low"]
    (series,) = data["panels"][0]["series"]
    for seed in series["curves"]:
        assert seed["x"] == [0.0, 0.2, 0.9]
        assert seed["y"] == sorted(seed["y"], reverse=True)
    figures.sweep(data)
    assert sweep_data.link_quality(RECORDS, {}, SMALL)["panels"][0]["series"][0]["curves"] == []


def test_methods_are_compared_with_standard_on_the_same_seeds():
    data = sweep_data.methods(RECORDS, SMALL)
    assert [row["label"] for row in data["rows"]] == [
        "nli, targets: rs_da:updates=equal", "nli, source: rs_da:updates=equal"
    ]  # fmt: skip  # nothing of salt, which has no runs
    for row in data["rows"]:
        assert row["estimate"] == pytest.approx(0.3, abs=0.06)
        assert row["state"] == "supported"
        assert len(row["seeds"]) == SEEDS
    table = sweep_data.method_table(RECORDS, SMALL)
    assert list(table.index) == [("nli", "standard"), ("nli", "rs_da:updates=equal")]


def test_drops_are_told_against_the_base():
    rows = {row["label"]: row for row in sweep_data.noise_drops(RECORDS, SMALL)["rows"]}
    assert set(rows) == {"nli: tlm", "nli: rs_da:updates=equal"}
    assert rows["nli: tlm"]["estimate"] == pytest.approx(0.3 - 0.06, abs=0.06)
    assert rows["nli: tlm"]["state"] == "supported"
    assert rows["nli: rs_da:updates=equal"]["estimate"] == pytest.approx(0.0, abs=0.06)


def test_noise_lines_fall_and_miss_what_was_not_run():
    data = sweep_data.noise_lines(RECORDS, SMALL)
    series = {s["name"]: s["curves"] for s in data["panels"][0]["series"]}
    assert series["salt"] == []
    for curve in series["none"]:
        assert curve["y"] == sorted(curve["y"], reverse=True)
    figures.sweep(data)


def test_trends_of_the_ledger_are_drawn(tmp_path):
    trend = {
        "type": "trend", "a": {"objective": "weam"}, "over": "objective_options", "direction": "down",
        "points": {"links=gold": 0, "links=estimated": 0.2, "links=random": 1}, "task": "nli",
        "margin": 0.0, "reason": "r",
        "words": "It falls.", "unit": "accuracy",
    }  # fmt: skip
    beside = trend | {"points": {f"links={x},predicted=equal": x for x in range(3)}}
    low = {"over": "method_options", "points": {f"low={x}": x for x in range(3)}}
    other = trend | low | {"a": {"objective": "none"}}
    made = [record(seed, 0.5, method_options=f"low={x}") for seed in range(SEEDS) for x in range(3)]
    for option in beside["points"]:
        made += [record(s, 0.6, objective="weam", objective_options=option) for s in range(SEEDS)]
    ledger = load_ledger(small_ledger(tmp_path, trend, [beside, other], defaults={"links": "estimated"}))
    data = sweep_data.sweeps(ledger, RECORDS + made, SMALL)
    assert data["claims"] == ["S0-1", "S0-2"]
    links, low = data["panels"]
    assert (links["name"], low["name"]) == ("nli: links", "nli: low")
    assert [series["name"] for series in links["series"]] == ["weam", "weam, predicted=equal"]
    assert [c["x"] for c in links["series"][0]["curves"]] == [[0, 0.2, 1]] * SEEDS
    assert [s["look"] for panel in data["panels"] for s in panel["series"]] == [0, 1, 2]  # by name
    assert sweep_data.sweeps(ledger, [], SMALL)["panels"] == []


@pytest.mark.parametrize("options", [pretraining.Options, finetuning.Options])
def test_every_option_is_explained(options):
    table = sweep_data.options_table(options)
    assert (table["meaning"].str.len() > 10).all()
