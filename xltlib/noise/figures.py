"""What notebook 04 shows: typing errors in words and subwords, what they take away, and the questions."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import pandas as pd

from xltlib import drawing
from xltlib.claims import scores as score_table
from xltlib.claims.scores import JUDGED_BY, judged_by
from xltlib.data.languages import languages_for
from xltlib.data.tokenization import PreTrainedTokenizerFast, WordEncoder
from xltlib.drawing import Drawn, Session
from xltlib.finetuning.figures import named
from xltlib.finetuning.options import TYPO_RATES
from xltlib.noise import questions
from xltlib.noise import typing as noise
from xltlib.params import Params
from xltlib.significance.figures import decided_forest, effect_row
from xltlib.significance.tests import interaction

DRAWS = 3  # of the noise, for each rate
COUNTS = ("words changed (share)", "subwords per word", "words of one subword (share)")


# Words and subwords


def noise_table(params: Params, tokenizer: PreTrainedTokenizerFast, rate: float) -> pd.DataFrame:
    """One sentence of each language before and after typing errors, as words and as subwords."""
    languages, rows = languages_for(params), {}
    for language in params.languages:
        clean = languages.texts(language, 200)[0]
        rng = np.random.default_rng([params.world_seed, 45])
        (typed,) = noise.typo_many([clean], rate, languages.keyboard(language), rng)
        words = {"clean": clean, "typed": typed}
        cut = {f"{name} subwords": " ".join(tokenizer.tokenize(text)) for name, text in words.items()}
        rows[language] = words | cut
    return pd.DataFrame(rows).T


def tokens(
    session: Session, tokenizer: PreTrainedTokenizerFast, rates: Sequence[float], count: int = 500
) -> Drawn:
    """Words changed, subwords per word, and words that stay one subword, by error rate and language."""
    params, encode, rows = session.params, WordEncoder(tokenizer), []
    for language in params.languages:
        texts = languages_for(params).texts(language, count)
        keyboard, clean = languages_for(params).keyboard(language), " ".join(texts).split()
        for draw in range(DRAWS):
            rng = np.random.default_rng([params.world_seed, 46, draw])
            for rate in rates:
                now = " ".join(noise.typo_many(texts, rate, keyboard, rng)).split()
                pieces = np.array([len(encode([word])[0]) for word in now])
                changed = np.mean([a != b for a, b in zip(clean, now, strict=True)])
                counts = zip(COUNTS, (changed, pieces.mean(), (pieces == 1).mean()), strict=True)
                rows += [(panel, language, rate, value) for panel, value in counts]
    table = drawing.in_order(drawing.gathered(rows), panel=COUNTS)
    return drawing.save(session, "noise_tokens", table, {"count": count, "draws": DRAWS})


# Transfer


def _systems(params: Params) -> dict[str, dict[str, str]]:
    """Queries of what was scored under noise: objectives by standard fine-tuning, then methods."""
    systems = {objective: {"objective": objective} for objective in params.objectives}
    for entry in (m for m in params.methods if m != "standard"):
        method, _, options = entry.partition(":")
        for objective in params.method_objectives:
            query = {"objective": objective, "method": method, "method_options": options}
            systems[named(objective, entry)] = query
    return systems


def transfer(session: Session, scores: pd.DataFrame) -> Drawn:
    """Scores under typing errors by language, for every objective and method that was scored so."""
    params = session.params
    tables = [
        score_table.rows_of(scores, {"task": task, **query}).assign(series=name)
        for task in params.noise_tasks
        for name, query in _systems(params).items()
    ]
    own = pd.concat([scores.head(0).assign(series=""), *tables])  # none where no task is scored so
    return drawing.save(session, "noise", **_by_rate(own, params, params.noise_tasks, _systems(params)))


def _by_rate(
    scores: pd.DataFrame, params: Params, tasks: Sequence[str], names: Iterable[str]
) -> dict[str, Any]:
    """How `facets` draws the `series` of these names under typing errors, by task and language."""
    panels = {f"{task}, {language}": task for task in tasks for language in params.languages}
    own = scores[(scores["second_language"] == "") & (scores["test_set"] == "")]
    own = own[own["metric"] == own["task"].map(judged_by)]
    rows = score_table.intervals(own, ["task", "language", "series", "rate"], params.alpha)
    rows["panel"] = rows.pop("task") + ", " + rows.pop("language")
    return {
        "rows": drawing.in_order(rows.rename(columns={"rate": "x"}), panel=panels, series=names),
        "marks": _chance(panels),
        "y_label": {panel: "F1" if task in JUDGED_BY else "accuracy" for panel, task in panels.items()},
    }


def _chance(panels: Mapping[str, str]) -> list[dict[str, Any]]:
    """The lines of chance in panels, each of a task."""
    chances = {panel: questions.CHANCE[task] for panel, task in panels.items()}
    return [{"panel": panel, "name": "chance", "y": y} for panel, y in chances.items() if y]


def drops(session: Session, scores: pd.DataFrame, rate: float = TYPO_RATES[-1]) -> Drawn:
    """Whether typing errors take less from a system than from the base encoder fine-tuned as usual."""
    params, rows, base = session.params, [], {"objective": "none"}
    for task in params.noise_tasks:
        for name, query in _systems(params).items():
            with suppress(questions.Unanswered):  # a system that was not scored so
                levels = [
                    questions.arrays(scores, params.targets, task, at, **own)
                    for own in (base, query)
                    for at in (0.0, rate)
                ]
                if query != base:
                    rows.append(effect_row(f"{task}: {name}", interaction(*levels, alpha=params.alpha)))
    return decided_forest(session, "noise_drops", rows, rate=rate)


# The five questions


def question(session: Session, scores: pd.DataFrame, number: int) -> Drawn:
    """The figure of a question that the reports leave open; a panel without runs stays empty."""
    data = QUESTION_FIGURES[number](questions.answering(scores, number, session.params), session.params)
    told = {"number": number, "asks": questions.QUESTIONS[number].asks}
    return drawing.save(session, f"question_{number}", told=told, **data)


def _span_noise(scores: pd.DataFrame, params: Params) -> dict[str, Any]:
    names = questions.NOISE_NAMES
    own = scores.assign(series=scores["objective_options"].map(names))
    return _by_rate(own, params, ["qa"], names.values())


def _mixed(scores: pd.DataFrame, params: Params) -> dict[str, Any]:
    own, tasks = score_table.clean(scores), ("nli", "paraphrase")
    rows = score_table.intervals(own, ["task", "objective", "language"], params.alpha)
    rows = drawing.in_order(rows, task=tasks, objective=questions.MIXED_NAMES)
    rows["objective"] = rows["objective"].map(questions.MIXED_NAMES)
    rows = rows.rename(columns={"task": "panel", "objective": "series", "language": "x"})
    marks = _chance(dict(zip(tasks, tasks, strict=True)))
    return {"rows": rows, "marks": marks, "categories": list(params.languages)}


def _sizes(scores: pd.DataFrame, params: Params) -> dict[str, Any]:
    names = {x: f"{questions.weights(x, params):,} weights" for x in questions.sizes(params)}
    own = scores.assign(series=scores["objective_options"].map(names))
    return _by_rate(own, params, [t for t in ("nli", "qa") if t in params.tasks], names.values())


def _links(scores: pd.DataFrame, params: Params) -> dict[str, Any]:
    own = score_table.clean(scores[scores["language"].isin(questions.low_resource(params))])
    levels, kinds = questions.LEVELS.items(), ("word links", "subword links")
    panels = {objective: f"{level} ({both[0]})" for level, both in levels for objective in both}
    series = {name: kind for _, both in levels for name, kind in zip(both, kinds, strict=True)}
    shares = {options: share for share, options in questions.SHARE_OPTIONS.items()}
    rows = score_table.intervals(own, ["objective", "objective_options"], params.alpha)
    rows = drawing.in_order(rows, objective=series, objective_options=shares)
    rows["panel"], rows["series"] = rows["objective"].map(panels), rows["objective"].map(series)
    rows["x"] = rows.pop("objective_options").map(shares)
    marks = _chance(dict.fromkeys(rows["panel"], "nli"))
    return {"rows": rows, "marks": marks, "ticks": {f"{x:g}": x for x in questions.SHARES}}


def _budgets(scores: pd.DataFrame, params: Params) -> dict[str, Any]:
    own = score_table.clean(scores[scores["language"].isin(params.targets)])
    plain = score_table.rows_of(own, {"task": "nli"}).groupby("language", sort=False)["mean"].mean()
    marks = [{"panel": name, "name": "no intermediate task", "y": mean} for name, mean in plain.items()]
    marks += _chance(dict.fromkeys(params.targets, "nli"))
    places = {
        questions.budget(n, kind)["method_options"]: (kind, n)
        for kind in ("balanced", "random")
        for n in questions.budgets(params)
    }
    own = own[own["method_options"].isin(places)]
    rows = score_table.intervals(own, ["method_options", "language"], params.alpha)
    rows = drawing.in_order(rows, language=params.targets, method_options=places)
    chosen = rows.pop("method_options").map(places)
    rows = rows.assign(series=chosen.str[0], x=chosen.str[1]).rename(columns={"language": "panel"})
    return {"rows": rows, "marks": marks, "ticks": {str(n): n for n in questions.budgets(params)}}


def question_table(scores: pd.DataFrame, params: Params) -> pd.DataFrame:
    """Every effect of the questions that this profile answers: the first of each decides."""
    rows: list[dict[str, Any]] = []
    for number in params.questions:
        try:
            rows += [{"question": number, **e} for e in questions.answer(number, scores, params)["effects"]]
        except questions.Unanswered as error:
            rows.append({"question": number, "words": f"not run: {error}"})
    columns = ["question", "words", "estimate", "low", "high", "p", "unit", "seeds", "outcome"]
    return pd.DataFrame(rows, columns=columns)


QUESTION_FIGURES = {0: _span_noise, 1: _mixed, 2: _sizes, 3: _links, 4: _budgets}
