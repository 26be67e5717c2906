"""The open questions: their runs, and planted answers found again in made-up scores."""

from functools import partial
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import studies
from studies import record, table
from tiny import params

from xltlib.noise import figures, questions
from xltlib.noise.questions import NOISE_NAMES, QUESTIONS, SIZES, Unanswered
from xltlib.runs import Runs

N, SEEDS = 400, 6
SMALL = params(seeds=SEEDS, test_examples=N, questions=(0, 1, 2, 3, 4), languages=("src", "far", "low"))

everywhere = partial(studies.everywhere, SMALL.languages)


def planted():
    """Records for all questions: noise helps, mixing helps, size does not matter, subwords hurt, n helps."""
    cases = [("paraphrase", everywhere(0.5), {})]
    for noise, mean in zip(NOISE_NAMES, (0.5, 0.6, 0.5), strict=True):
        labels = {"objective": "span_corruption", "objective_options": noise}
        cases.append(("qa", everywhere(mean, 0.3), labels))
    for objective, mean in (("mlm", 0.5), ("mixed", 0.62)):
        cases += [(task, everywhere(mean), {"objective": objective}) for task in ("nli", "paraphrase")]
    for size in SIZES:
        cases += [(task, everywhere(0.7, 0.5), {"objective_options": size}) for task in ("nli", "qa")]
    for word, subword in questions.LEVELS.values():
        for option in questions.SHARE_OPTIONS.values():
            for objective, mean in ((word, 0.6), (subword, 0.5)):
                labels = {"objective": objective, "objective_options": option}
                cases.append(("nli", everywhere(mean), labels))
    for k, n in enumerate(questions.BUDGETS):
        for sampling in ("balanced", "random"):
            cases.append(("nli", everywhere(0.5 + 0.08 * k), questions.budget(n, sampling)))
    return [record(seed, means, task, N, **labels) for seed in range(SEEDS) for task, means, labels in cases]


RECORDS = planted()
TABLE = table(RECORDS)


@pytest.mark.parametrize(
    ("number", "outcome", "sign"),
    [(0, "supported", 1), (1, "supported", 1), (2, "inconclusive", 0), (3, "contradicted", -1),
     (4, "supported", 1)],
)  # fmt: skip
def test_planted_answers_are_found(number, outcome, sign):
    told = questions.answer(number, TABLE, SMALL)
    effect = told["effect"]
    assert (told["status"], told["figure"]) == ("answered", f"question_{number}")
    assert (effect["outcome"], effect["seeds"]) == (outcome, SEEDS)
    assert effect["low"] <= effect["estimate"] <= effect["high"]
    if sign:
        assert np.sign(effect["low"]) == np.sign(effect["high"]) == sign
    if number == 4:  # equal samplings are not told apart
        assert told["effects"][1]["outcome"] == "inconclusive"
        assert told["effects"][1]["estimate"] == pytest.approx(0.0)


def test_question_0_tells_a_higher_score_from_a_smaller_loss():
    """Typing errors in pre-training were planted to lift all scores, replaced tokens to halve the loss."""
    labels = {"objective": "span_corruption", "objective_options": "noise=token"}
    halved = [record(seed, everywhere(0.5, 0.15), "qa", N, **labels) for seed in range(SEEDS)]
    kept = [r for r in RECORDS if r["labels"]["objective_options"] != "noise=token"]
    effects = questions.answer(0, table(kept + halved), SMALL)["effects"]
    yes, open_ = "supported", "inconclusive"
    assert [e["outcome"] for e in effects] == [yes, yes, yes, open_, open_, yes]  # noisy, clean, loss
    assert effects[-1]["estimate"] == pytest.approx(0.2 * 0.15, abs=0.02)


@pytest.mark.parametrize("number", QUESTIONS)
def test_missing_runs_leave_a_question_open(number):
    with pytest.raises(Unanswered, match="no run of"):
        questions.answer(number, TABLE.iloc[:0], SMALL)
    rows = questions.answering(TABLE.iloc[:0], number, SMALL)
    assert len(figures.QUESTION_FIGURES[number](rows, SMALL)["rows"]) == 0


@pytest.mark.parametrize("number", QUESTIONS)
def test_seeds_that_lack_a_run_or_a_setting_are_left_out(number):
    """As where a study is half done: one variant lacks seed 5, and another has seed 4 in the source alone."""
    whole = [r for r in RECORDS if r["labels"]["seed"] < 4]
    asked = [spec.params["labels"] for spec in QUESTIONS[number].runs(Runs(SMALL))]
    last, other = (
        next(r for r in RECORDS if r["labels"] in asked and r["labels"]["seed"] == seed) for seed in (5, 4)
    )
    kept = [r for r in RECORDS if r is not last and r is not other]
    source = {name: x for name, x in other["scores"].items() if name.startswith("src")}
    kept.append(other | {"scores": source})
    half, done = (questions.answer(number, table(rows), SMALL) for rows in (kept, whole))
    assert half == done


@pytest.mark.parametrize(("number", "series"), [(0, 3), (1, 3), (2, 4), (3, 2), (4, 2)])
def test_figures_show_all_variants_and_seeds(number, series):
    rows = questions.answering(TABLE, number, SMALL)
    shown = pd.DataFrame(figures.QUESTION_FIGURES[number](rows, SMALL)["rows"])
    assert shown["series"].nunique() == series
    assert (shown["seeds"].map(len) == SEEDS).all()


def test_a_figure_is_drawn_with_its_caption(tmp_path):
    drawn = figures.question(SimpleNamespace(params=SMALL, figures=tmp_path), TABLE, 1)
    assert (tmp_path / "question_1.png").stat().st_size > 1000
    assert str(SEEDS) in drawn.data["caption"]


@pytest.mark.parametrize("number", QUESTIONS)
def test_every_question_has_runs_that_can_be_made(number):
    specs = QUESTIONS[number].runs(Runs(params(questions=(number,))))
    assert len({s.digest for s in specs}) == len(specs)
    assert {s.params["labels"]["seed"] for s in specs} == {0, 1}


def test_a_table_tells_what_is_missing():
    known = figures.question_table(table(RECORDS[:1]), params(questions=(1, 4)))
    assert list(known["question"]) == [1, 4]
    assert known["words"].str.startswith("not run: no run of").all()


def test_relative_drop_by_hand():
    # .7 - .15 = .55 at 30%: (.7 - .55) / (.7 - 1/3) = .41
    of = partial(questions.arrays, TABLE, SMALL.targets)
    drops = questions.relative_drop(of, "nli", SIZES[0], 0.3)
    assert drops.mean() == pytest.approx(0.15 / (0.7 - 1 / 3), abs=0.08)
    one = [r for r in RECORDS if r["labels"]["seed"] == 0]
    with pytest.raises(Unanswered, match="one seed alone"):
        questions.answer(2, table(one), SMALL)


def test_weights_grow_by_an_order_of_magnitude():
    counts = [questions.weights(size, params(hidden_size=64, num_layers=3)) for size in SIZES]
    published = params(data="real", model="mbert", hidden_size=768, num_layers=12, num_heads=12)
    assert questions.sizes(published)[-1] == ""
    layers = [questions.weights(size, published) / 768**2 / 12 for size in questions.sizes(published)]
    assert layers == [3, 6, 9, 12]
    cut = published.replace(model_layers=6)
    assert questions.sizes(cut) == ("num_layers=3", "", "num_layers=9", "num_layers=12")
    assert [questions.weights(size, cut) / 768**2 / 12 for size in questions.sizes(cut)] == [3, 6, 9, 12]
    assert counts == sorted(counts)
    assert counts[-1] / counts[0] > 10


@pytest.mark.parametrize(("named", "most"), [("pawsx/dev", 1000), ("pawsx/train", 2000)])
def test_budgets_are_what_real_sets_have(named, most):
    real = params(data="real", languages=("en", "de", "sw"), source="en", train_sets=(named,))
    assert questions.budgets(real)[-1] == most  # 2,000 development pairs, not all of which can be used
    asked = [query["method_options"] for query in QUESTIONS[4].queries(real) if "method" in query]
    assert asked[-1] == f"n={most},sampling=random"


def test_sentences_follow_the_numbers():
    effect = {"outcome": "inconclusive", "words": "gain", "estimate": 0.0123, "low": -0.02, "high": 0.04,
              "unit": "accuracy", "seeds": 6}  # fmt: skip
    assert questions.sentence(effect) == "Open: gain: +0.012 [-0.020, +0.040] accuracy, 6 seeds."
