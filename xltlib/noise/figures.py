"""What notebook 04 shows: typing errors in words and subwords, what they take away, and the questions."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from xltlib import drawing
from xltlib.claims import scores as score_table
from xltlib.claims.scores import Setting, judged_by, paired
from xltlib.data.samples import languages_for
from xltlib.data.tokenization import PreTrainedTokenizerFast, WordEncoder
from xltlib.drawing import Drawn, Session
from xltlib.finetuning.options import TYPO_RATES
from xltlib.noise import questions
from xltlib.noise import typing as noise
from xltlib.params import Params
from xltlib.significance.figures import decided_forest, effect_row
from xltlib.significance.tests import interaction

CLAIMS = ["S2-1", "S2-2"]
DRAWS = 3  # of the noise, for each rate
COUNTS = ("words changed (share)", "subwords per word", "words of one subword (share)")
TYPED = "words with an error"


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
    params, encode = session.params, WordEncoder(tokenizer)
    rows = []
    for language in params.languages:
        texts = languages_for(params).texts(language, count)
        keyboard, draws = languages_for(params).keyboard(language), []
        for draw in range(DRAWS):
            rng = np.random.default_rng([params.world_seed, 46, draw])
            typed = [noise.typo_many(texts, rate, keyboard, rng) for rate in rates]
            draws.append([_token_counts(texts, many, encode) for many in typed])
        by_rate = np.array(draws).transpose(2, 1, 0)  # (counts, rates, draws)
        for name, values in zip(COUNTS, by_rate, strict=True):
            for rate, own in zip(rates, values.tolist(), strict=True):
                rows.append({"panel": name, "series": language, "x": rate, "seeds": own})
    return drawing.save(
        session.figures / "noise_tokens", drawing.facets, drawing.in_order(pd.DataFrame(rows), panel=COUNTS),
        title="What typing errors do to subwords", claims=[], lines=True, x_label="errors per word (rate)",
        caption=f"{count} sentences a language; a word of two letters or more gets one error with the chance "
        f"given. Dots: {DRAWS} draws of the noise; lines: their mean.",
        alt="Three panels by error rate and language: words changed, subwords per word, words left whole.",
    )  # fmt: skip


def _token_counts(
    texts: Sequence[str], typed: Sequence[str], encode: WordEncoder
) -> tuple[float, float, float]:
    """Share of words changed, subwords per word, and share of words of one subword."""
    clean, now = (" ".join(side).split() for side in (texts, typed))
    pieces = np.array([len(encode([word])[0]) for word in now])
    changed = np.mean([a != b for a, b in zip(clean, now, strict=True)])
    return float(changed), float(pieces.mean()), float((pieces == 1).mean())


# Transfer


def _systems(params: Params) -> dict[str, dict[str, str]]:
    """Queries of what was scored under noise: objectives by standard fine-tuning, then methods."""
    systems = {objective: {"objective": objective} for objective in params.objectives}
    for entry in (m for m in params.methods if m != "standard"):
        method, _, options = entry.partition(":")
        for objective in params.method_objectives:
            name = entry if objective == "none" else f"{entry} on {objective}"
            systems[name] = {"objective": objective, "method": method, "method_options": options}
    return systems


def _curves(
    scores: pd.DataFrame, params: Params, query: Mapping[str, str], by: Sequence[str], **names: Any
) -> list[dict[str, Any]]:
    """Rows of `facets`: the means of the runs that a query means, by some columns; `names` are joined."""
    rows = score_table.intervals(score_table.rows_of(scores, query), by, params.alpha)
    return [row | names for row in rows.to_dict("records")]


def _chance(panels: Mapping[str, str]) -> list[dict[str, Any]]:
    """The lines of chance in panels, each of a task."""
    chances = {panel: questions.CHANCE[task] for panel, task in panels.items()}
    return [{"panel": panel, "name": "chance", "y": y} for panel, y in chances.items() if y]


def _by_rate(
    scores: pd.DataFrame, params: Params, tasks: Sequence[str], systems: Mapping[str, Mapping]
) -> dict[str, Any]:
    """How `facets` draws every system under typing errors, a panel for each task and language."""
    panels, rows = {f"{task}, {language}": task for task in tasks for language in params.languages}, []
    plain = scores[(scores["second_language"] == "") & (scores["test_set"] == "")]
    for task in tasks:
        own = plain[(plain["task"] == task) & (plain["metric"] == judged_by(task))]
        for name, query in systems.items():
            for row in _curves(own, params, {"task": task, **query}, ["language", "rate"], series=name):
                rows.append(row | {"panel": f"{task}, {row['language']}", "x": row["rate"]})
    table = pd.DataFrame(rows, columns=["panel", "series", "x", "mean", "low", "high", "seeds"])
    return {
        "rows": drawing.in_order(table, panel=panels) if rows else table,
        "marks": _chance(panels),
        "y_label": {panel: "F1" if task == "qa" else "accuracy" for panel, task in panels.items()},
        "x_label": TYPED, "lines": True, "share_y": True,
    }  # fmt: skip


def transfer(session: Session, scores: pd.DataFrame) -> Drawn:
    """Scores under typing errors by language, for every objective and method that was scored so."""
    params = session.params
    return drawing.save(
        session.figures / "noise", drawing.facets, title="Scores under typing errors", claims=CLAIMS,
        caption=drawing.caption(
            "Fine-tuned on clean source text, tested on text with typing errors.", params, "bands"
        ),
        alt="Scores falling with the rate of typing errors, a panel for each language.",
        **_by_rate(scores, params, params.noise_tasks, _systems(params)),
    )  # fmt: skip


def drops(session: Session, scores: pd.DataFrame, rate: float = TYPO_RATES[-1]) -> Drawn:
    """Whether typing errors take less from a system than from the base encoder fine-tuned as usual."""
    params, rows = session.params, []
    for task in params.noise_tasks:
        for name, query in _systems(params).items():
            both = [
                paired(scores, {"task": task, **own}, [_typed(t, at) for t in params.targets])
                for own in ({"objective": "none"}, query)
                for at in (0.0, rate)
            ]
            if query != {"objective": "none"} and not any(x.missing for x in both):
                effect = interaction(*(list(x.scores) for x in both), alpha=params.alpha)
                rows.append({"label": f"{task}: {name}"} | effect_row(effect))
    return decided_forest(
        session, "noise_drops", rows, title="Who loses less to typing errors?", claims=CLAIMS,
        x_label=f"drop of the base minus drop of the system, at {rate:.0%} typing errors",
        caption="Right of zero: it loses less than the base encoder. Mean over the targets.",
        alt="Differences in what typing errors take away, with intervals, one row a system.",
    )  # fmt: skip


def _typed(language: str, rate: float) -> Setting:
    return Setting(language, noise="typo", rate=rate) if rate else Setting(language)


# The five questions


def question(session: Session, scores: pd.DataFrame, number: int) -> Drawn:
    """The figure of a question that the reports leave open; a panel without runs stays empty."""
    params = session.params
    words, data = QUESTION_FIGURES[number](questions.answering(scores, number, params), params)
    data = {"alt": "Lines with seeds as dots and intervals as bands.", "claims": []} | data
    return drawing.save(
        session.figures / f"question_{number}", drawing.facets,
        title=f"Question {number}: {questions.QUESTIONS[number].asks}",
        caption=drawing.caption(words, params, "bars" if "categories" in data else "bands"), **data,
    )  # fmt: skip


def _span_noise(scores: pd.DataFrame, params: Params) -> tuple[str, dict[str, Any]]:
    systems = {
        name: {"objective": "span_corruption", "objective_options": option}
        for option, name in questions.NOISE_NAMES.items()
    }
    words = "Encoder-decoder pre-trained by span corruption, by the noise in its input; question answering."
    return words, _by_rate(scores, params, ["qa"], systems)


def _mixed(scores: pd.DataFrame, params: Params) -> tuple[str, dict[str, Any]]:
    rows, own = [], score_table.clean(scores)
    for task in (t for t in ("nli", "paraphrase") if t in params.tasks):
        for objective, name in questions.MIXED_NAMES.items():
            query = {"task": task, "objective": objective}
            rows += _curves(own, params, query, ["language"], panel=task, series=name)
    words = (
        "Zero-shot accuracy after pre-training on code-switched text, on the same text unmixed, and without."
    )
    return words, {
        "rows": [row | {"x": row.pop("language")} for row in rows],
        "marks": _chance({task: task for task in ("nli", "paraphrase")}),
        "y_label": "accuracy", "limits": [0, 1.02], "columns": 2, "categories": list(params.languages),
        "alt": "Dots of accuracy by language.",
    }  # fmt: skip


def _sizes(scores: pd.DataFrame, params: Params) -> tuple[str, dict[str, Any]]:
    systems = {
        f"{questions.weights(size, params):,} weights": {"objective_options": size}
        for size in questions.sizes(params)
    }
    tasks = [t for t in ("nli", "qa") if t in params.tasks]
    return "Scores under typing errors by size of the encoder.", _by_rate(scores, params, tasks, systems)


def _links(scores: pd.DataFrame, params: Params) -> tuple[str, dict[str, Any]]:
    rows, own = [], score_table.clean(scores)
    own = own[own["language"].isin(questions.low_resource(params))]
    for kind, (word, subword) in questions.LEVELS.items():
        for objective, name in ((word, "word links"), (subword, "subword links")):
            for share, options in questions.SHARE_OPTIONS.items():
                query = {"task": "nli", "objective": objective, "objective_options": options}
                where = {"panel": f"{kind} ({word})", "series": name, "x": share}
                rows += _curves(own, params, query, ["objective"], **where)
    words = "Zero-shot nli in the under-resourced language by amount of parallel text and kind of links."
    return words, {
        "rows": rows, "marks": _chance({row["panel"]: "nli" for row in rows}), "lines": True, "log_x": True,
        "y_label": "accuracy", "columns": 2, "x_label": "share of its translation pairs",
        "ticks": {f"{x:g}": x for x in questions.SHARES},
    }  # fmt: skip


def _budgets(scores: pd.DataFrame, params: Params) -> tuple[str, dict[str, Any]]:
    rows, own = [], score_table.clean(scores[scores["language"].isin(params.targets)])
    for sampling in ("balanced", "random"):
        for n in questions.BUDGETS:
            query = {"task": "nli", **questions.budget(n, sampling)}
            rows += _curves(own, params, query, ["language"], series=sampling, x=n)
    rows = pd.DataFrame(rows).rename(columns={"language": "panel"})
    plain = score_table.means(score_table.rows_of(own, {"task": "nli"}), ["language"])
    marks = [{"panel": r.language, "name": "no intermediate task", "y": r.mean} for r in plain.itertuples()]
    words = "Zero-shot nli after an intermediate task, by its examples per language."
    return words, {
        "rows": drawing.in_order(rows, panel=params.targets) if len(rows) else [],
        "marks": [*marks, *_chance(dict.fromkeys(params.targets, "nli"))],
        "x_label": "intermediate examples per language", "y_label": "accuracy", "log_x": True,
        "ticks": {str(n): n for n in questions.BUDGETS}, "lines": True, "columns": 2,
    }  # fmt: skip


def question_table(scores: pd.DataFrame, params: Params) -> pd.DataFrame:
    """Every effect of the questions that this profile answers: the first of each decides."""
    rows: list[dict[str, Any]] = []
    for number in params.questions:
        try:
            rows += [{"question": number, **e} for e in questions.answer(number, scores, params)["effects"]]
        except LookupError as error:
            rows.append({"question": number, "words": f"not run: {error.args[0]}"})
    columns = ["question", "words", "estimate", "low", "high", "p", "unit", "seeds", "outcome"]
    return pd.DataFrame(rows, columns=columns)


QUESTION_FIGURES: dict[int, Callable[[pd.DataFrame, Params], tuple[str, dict[str, Any]]]] = {
    0: _span_noise, 1: _mixed, 2: _sizes, 3: _links, 4: _budgets,
}  # fmt: skip
