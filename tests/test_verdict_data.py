"""The numbers of notebooks 05 and 06: second opinions, simulated honesty, statements that open."""

import numpy as np
import pytest
from studies import PARAMS, planted, runs

from xltlib import figures, verdict_data
from xltlib.claims.evaluate import evaluate
from xltlib.claims.ledger_file import load_ledger
from xltlib.params import Params

SMALL = Params(
    seeds=4, languages=PARAMS.languages, tasks=("nli",), objectives=("none", "tlm"), test_examples=400
)


@pytest.fixture(scope="module")
def evidence(tmp_path_factory):
    path, records = planted(tmp_path_factory.mktemp("ledger"))
    return evaluate(load_ledger(path), records, PARAMS)


def test_second_opinions_stand_beside_each_difference():
    records = runs({"objective": "none"}, seeds=range(4)) + runs({"objective": "tlm"}, 0.1, seeds=range(4))
    data = verdict_data.differences(records, SMALL, resamples=100)
    table = verdict_data.difference_table(data)
    assert table.loc["nli: tlm − none", "p_flips"] == 2 / 2**4  # four gains of one sign
    assert table.loc["nli: tlm − none", "eps_min"] < 0.2
    alone = verdict_data.difference_table(verdict_data.differences(records, SMALL))
    assert "p_flips" not in alone  # none were asked for


def test_honesty_is_simulated_and_told_by_seeds(tmp_path):
    data = verdict_data.error_rates(SMALL, seeds=(2, 6), repeats=100)
    figures.save("honesty", data, figures.coverage, tmp_path)
    names = [series["name"] for series in data["panels"][0]["series"]]
    assert names[-1] == verdict_data.NOT_MODELLED
    covered, false = (panel["series"][0]["curves"][0]["y"] for panel in data["panels"][:2])
    assert np.add(covered, false) == pytest.approx([1, 1])  # a false verdict is an interval that misses
    table = verdict_data.honesty_table(data)
    assert list(table.index) == [2, 6]
    worst = max(s["curves"][0]["y"][1] for s in data["panels"][1]["series"][:-1])
    assert table.loc[6, "worst world"].startswith(f"{worst:.3f} [")


def test_error_table_is_of_the_studys_size():
    table = verdict_data.error_table(SMALL, gains=(0.0, 0.5), repeats=50)
    assert table.loc[0.5, "supported"] == 1
    assert table.loc[0.0, "supported"] + table.loc[0.0, "contradicted"] < 0.2
    assert set(table["seeds"]) == {SMALL.seeds}


def test_a_statement_opens_to_its_evidence_and_stays_text(evidence):
    table = verdict_data.claim_table(evidence)
    assert len(table) == len(evidence["claims"])
    first = table["statement"][0]
    assert first.count("<details") == first.count("</details>") == 1
    assert "<summary>S0-1 Statement &lt;b&gt;1&lt;/b&gt; &amp; so on</summary>" in first
    assert "by seed: " in first
    assert "Again: xlt claim S0-1" in first
    assert "<b>" not in table.to_string()
    assert table["verdict"][0] == "mechanism supported"


def test_robustness_table_counts_the_specification_curve(evidence):
    table = verdict_data.robustness_table(evidence)
    test = evidence["claims"][0]["tests"][0]
    row = table.loc["S0-1, test 1 (superiority, nli)"]
    assert row["outcome"] == test["outcome"]
    same = [s["same"] for s in test["specifications"]]
    assert row["all"] == f"{sum(same) - 1} of {len(same) - 1}"  # the analysis as planned is no variant
