"""What notebook 04 shows: typing errors in words and subwords, what they take away, and the questions."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from xltlib import drawing
from xltlib.claims import scores as score_table
from xltlib.claims.scores import JUDGED_BY, Setting, judged_by, paired
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
                values = (changed, pieces.mean(), (pieces == 1).mean())
                where = {"series": language, "x": rate}
                rows += [where | {"panel": p, "seeds": v} for p, v in zip(COUNTS, values, strict=True)]
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


def _curves(
    scores: pd.DataFrame, params: Params, task: str, by: Sequence[str], systems: Mapping[str, Mapping]
) -> list[dict[str, Any]]:
    """Means of systems, each a query, on a task by some columns: rows of `facets` still without places."""
    return [
        row | {"series": name}
        for name, query in systems.items()
        for row in score_table.intervals(
            score_table.rows_of(scores, {"task": task, **query}), by, params.alpha
        ).to_dict("records")
    ]


def _chance(panels: Mapping[str, str]) -> list[dict[str, Any]]:
    """The lines of chance in panels, each of a task."""
    chances = {panel: questions.CHANCE[task] for panel, task in panels.items()}
    return [{"panel": panel, "name": "chance", "y": y} for panel, y in chances.items() if y]


def _by_rate(
    scores: pd.DataFrame, params: Params, tasks: Sequence[str], systems: Mapping[str, Mapping]
) -> dict[str, Any]:
    """How `facets` draws every system under typing errors, a panel for each task and language."""
    panels = {f"{task}, {language}": task for task in tasks for language in params.languages}
    own = scores[(scores["second_language"] == "") & (scores["test_set"] == "")]
    own = own[own["metric"] == own["task"].map(judged_by)]
    rows = [
        row | {"panel": f"{task}, {row.pop('language')}", "x": row.pop("rate")}
        for task in tasks
        for row in _curves(own, params, task, ["language", "rate"], systems)
    ]
    return {
        "rows": sorted(rows, key=lambda row: list(panels).index(row["panel"])),
        "marks": _chance(panels),
        "y_label": {panel: "F1" if task in JUDGED_BY else "accuracy" for panel, task in panels.items()},
    }


def transfer(session: Session, scores: pd.DataFrame) -> Drawn:
    """Scores under typing errors by language, for every objective and method that was scored so."""
    params = session.params
    return drawing.save(session, "noise", **_by_rate(scores, params, params.noise_tasks, _systems(params)))


def drops(session: Session, scores: pd.DataFrame, rate: float = TYPO_RATES[-1]) -> Drawn:
    """Whether typing errors take less from a system than from the base encoder fine-tuned as usual."""
    params, rows, base = session.params, [], {"objective": "none"}
    for task in params.noise_tasks:
        for name, query in _systems(params).items():
            both = [
                paired(scores, {"task": task, **own}, [typed(t, at) for t in params.targets])
                for own in (base, query)
                for at in (0.0, rate)
            ]
            if query != base and not any(x.missing for x in both):
                effect = interaction(*(list(x.scores) for x in both), alpha=params.alpha)
                rows.append(effect_row(f"{task}: {name}", effect))
    return decided_forest(session, "noise_drops", rows, rate=rate)


def typed(language: str, rate: float) -> Setting:
    """A language with typing errors at a rate, which may be 0."""
    return Setting(language, noise="typo", rate=rate) if rate else Setting(language)


# The five questions


def question(session: Session, scores: pd.DataFrame, number: int) -> Drawn:
    """The figure of a question that the reports leave open; a panel without runs stays empty."""
    data = QUESTION_FIGURES[number](questions.answering(scores, number, session.params), session.params)
    told = {"number": number, "asks": questions.QUESTIONS[number].asks}
    return drawing.save(session, f"question_{number}", told=told, **data)


def _span_noise(scores: pd.DataFrame, params: Params) -> dict[str, Any]:
    systems = {
        name: {"objective": "span_corruption", "objective_options": option}
        for option, name in questions.NOISE_NAMES.items()
    }
    return _by_rate(scores, params, ["qa"], systems)


def _mixed(scores: pd.DataFrame, params: Params) -> dict[str, Any]:
    own, tasks = score_table.clean(scores), ("nli", "paraphrase")
    systems = {name: {"objective": objective} for objective, name in questions.MIXED_NAMES.items()}
    rows = [
        row | {"panel": task, "x": row.pop("language")}
        for task in tasks
        for row in _curves(own, params, task, ["language"], systems)
    ]
    marks = _chance({task: task for task in tasks})
    return {"rows": rows, "marks": marks, "categories": list(params.languages)}


def _sizes(scores: pd.DataFrame, params: Params) -> dict[str, Any]:
    systems = {
        f"{questions.weights(size, params):,} weights": {"objective_options": size}
        for size in questions.sizes(params)
    }
    return _by_rate(scores, params, [t for t in ("nli", "qa") if t in params.tasks], systems)


def _links(scores: pd.DataFrame, params: Params) -> dict[str, Any]:
    own = score_table.clean(scores[scores["language"].isin(questions.low_resource(params))])
    rows = []
    for kind, (word, subword) in questions.LEVELS.items():
        for objective, name in ((word, "word links"), (subword, "subword links")):
            for share, options in questions.SHARE_OPTIONS.items():
                systems = {name: {"objective": objective, "objective_options": options}}
                curve = _curves(own, params, "nli", ["objective"], systems)
                rows += [row | {"panel": f"{kind} ({word})", "x": share} for row in curve]
    marks = _chance({row["panel"]: "nli" for row in rows})
    return {"rows": rows, "marks": marks, "ticks": {f"{x:g}": x for x in questions.SHARES}}


def _budgets(scores: pd.DataFrame, params: Params) -> dict[str, Any]:
    own = score_table.clean(scores[scores["language"].isin(params.targets)])
    rows = [
        row | {"panel": row.pop("language"), "x": n}
        for kind in ("balanced", "random")
        for n in questions.BUDGETS
        for row in _curves(own, params, "nli", ["language"], {kind: questions.budget(n, kind)})
    ]
    plain = score_table.rows_of(own, {"task": "nli"}).groupby("language", sort=False)["mean"].mean()
    marks = [{"panel": name, "name": "no intermediate task", "y": mean} for name, mean in plain.items()]
    return {
        "rows": sorted(rows, key=lambda row: params.targets.index(row["panel"])),
        "marks": [*marks, *_chance(dict.fromkeys(params.targets, "nli"))],
        "ticks": {str(n): n for n in questions.BUDGETS},
    }


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
