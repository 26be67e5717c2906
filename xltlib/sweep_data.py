"""The numbers behind comparisons of methods, of options and of noise: notebooks 01, 03 and 04."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import fields
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from xltlib.claims.ledger import Ledger, label
from xltlib.claims.reading import CHANCE, Reader, Records, Told, caption, curve, line
from xltlib.claims.selection import World
from xltlib.claims.verdicts import decide
from xltlib.finetuning.options import METHODS
from xltlib.finetuning.task_builders import TYPO_RATES
from xltlib.noise import questions
from xltlib.params import Params
from xltlib.runs import split_method
from xltlib.settings import allowed, literal, type_name
from xltlib.significance.tests import Effect, difference, interaction
from xltlib.store import Result

X_NAMES = {"mask_rate": "share of subwords masked", "lambda": "weight of the second loss, λ",
           "epochs": "updates, in units of the profile's", "links": "share of links that are wrong",
           "threshold": "least probability of a substitution"}  # fmt: skip


def options_table(options: type) -> pd.DataFrame:
    """What the sources leave open: every option, its default, what else it may be, and what it means."""
    rows = {}
    for f in fields(options):
        told = {"default": literal(f.default), "may be": allowed(f) or type_name(options, f)}
        rows[f.name.rstrip("_")] = told | {"meaning": f.metadata["doc"]}
    return pd.DataFrame(rows).T


def _named(option: str) -> dict[str, str]:
    return {"objective": "weam", "objective_options": "" if option == "estimated" else f"links={option}"}


def link_quality(records: Records, linked: Mapping[str, Result], params: Params) -> dict[str, Any]:
    """Zero-shot nli of WEAM by the error rate of the links that it was trained on; a panel a language."""
    r, panels = Reader(records, params), []
    for language in r.targets:
        graded = sorted((run.values["quality"][language]["aer"], kind) for kind, run in linked.items())
        series = {"name": "weam", "curves": []}
        with suppress(LookupError):
            levels = [r.scores("nli", [language], **_named(kind)) for _, kind in graded]
            series = curve("weam", [aer for aer, _ in graded], levels, params.alpha)
        found = r.select("nli", [language])
        plain = [] if found.missing else [round(float(found.scores[0].mean()), 6)]
        base = [{"name": "no further pre-training", "y": y} for y in plain]
        panels.append({
            "name": language, "x_label": "AER of the links", "y_label": "accuracy", "series": [series],
            "levels": [*base, {"name": "chance", "y": CHANCE["nli"], "line": ":"}],
        })  # fmt: skip
    words = f"Zero-shot nli of encoders trained by WEAM on links of different quality ({', '.join(linked)})."
    return {
        "title": "What the links are worth to WEAM", "caption": caption(r, words), "panels": panels,
        "columns": 4, "width": 2.7, "claims": ["S0-9", "S1-4"],
        "alt": "Accuracy by alignment error rate of the links, a panel for each target language.",
    }  # fmt: skip


def sweeps(ledger: Ledger, records: Records, params: Params) -> dict[str, Any]:
    """What the ledger's trends vary: the mean over targets at each level, for those that were run."""
    r = Reader(records, params, World.of(ledger, params).defaults)
    panels: dict[str, dict[str, Any]] = {}
    claims, looks = [], {}
    for claim in ledger.claims:
        for test in claim.tests:
            if test.type != "trend" or test.test_of or test.task not in params.tasks:
                continue
            varied, _, beside = next(iter(test.points)).partition(",")
            option, name = varied.partition("=")[0], ", ".join(filter(None, (label(test.a), beside)))
            levels = dict(sorted((x, point) for point, x in test.points.items()))
            at = partial(_level, r, test.task, test.a, test.over, levels)
            series = line(name, list(levels), at, params.alpha)
            if series["curves"]:
                claims.append(claim.id)
                axes = {"x_label": X_NAMES.get(option, option), "y_label": "accuracy, mean over targets"}
                title = f"{test.task}: {option}"
                panel = panels.setdefault(title, {"name": title, **axes, "series": []})
                panel["series"].append(series | {"look": looks.setdefault(name, len(looks))})
    return {
        "title": "Options varied one at a time", "claims": list(dict.fromkeys(claims)),
        "panels": list(panels.values()), "columns": 3,
        "caption": caption(r, "Mean accuracy in the target languages by one option, all else equal."),
        "alt": "A panel for each option with the mean accuracy over target languages at each of its levels.",
    }  # fmt: skip


def _level(
    r: Reader, task: str, a: Mapping[str, str], over: str, levels: Mapping[float, str], x: float
) -> list[np.ndarray]:
    """The mean over the target languages of a run with one option set, as one array (R, N)."""
    return [np.mean(r.scores(task, r.targets, **{**a, over: levels[x]}), axis=0)]


def methods(records: Records, params: Params) -> dict[str, Any]:
    """The gain of every other fine-tuning method over standard, by task, from the same encoder."""
    r, rows = Reader(records, params), []
    for task in params.tasks:
        for entry in (m for m in _methods(records, params) if m != "standard"):
            for objective in params.method_objectives:
                for where, settings in (("targets", r.targets), ("source", (params.source,))):
                    row = _gain(r, task, objective, entry, settings)
                    if row:
                        rows.append(row | {"label": f"{task}, {where}: {_short(objective, entry)}"})
    decide(rows, params.alpha)
    return {
        "title": "Fine-tuning methods against standard fine-tuning", "rows": rows,
        "x_label": "difference in accuracy (qa: F1)", "claims": ["S2-1", "S2-2", "S3-1"],
        "caption": caption(r, "Method minus standard from the same encoder; outcome after Holm."),
        "alt": "Differences of each method from standard fine-tuning with intervals, by task.",
    }  # fmt: skip


def _methods(records: Records, params: Params) -> list[str]:
    """The profile's methods, and those that the ledger's controls have run as they come."""
    plain = {x["labels"]["method"] for x in records if not x["labels"]["method_options"]}
    return list(dict.fromkeys([*params.methods, *(name for name in METHODS if name in plain)]))


def _short(objective: str, entry: str) -> str:
    return entry if objective == "none" else f"{entry} on {objective}"


def _labels(objective: str, entry: str) -> dict[str, str]:
    method, options = split_method(entry)
    return {"objective": objective, "method": method, "method_options": options}


def _gain(r: Reader, task: str, objective: str, entry: str, settings: Sequence[str]) -> dict[str, Any] | None:
    sides = [r.select(task, settings, **_labels(objective, m)) for m in (entry, "standard")]
    if any(side.missing for side in sides):
        return None
    seeds = sorted(set(sides[0].seeds) & set(sides[1].seeds))
    effect = difference(*(list(side.only(seeds).scores) for side in sides), alpha=r.params.alpha)
    return _row(effect)


def _row(effect: Effect) -> dict[str, Any]:
    told = Told("", effect, "").plain()
    return {name: told[name] for name in ("estimate", "low", "high", "p")} | {"seeds": told["per_seed"]}


def method_table(records: Records, params: Params) -> pd.DataFrame:
    """Mean scores of every method by task and language."""
    r, rows = Reader(records, params), {}
    for task in params.tasks:
        for entry in _methods(records, params):
            for objective in params.method_objectives:
                found = r.select(task, params.languages, **_labels(objective, entry))
                if not found.missing:
                    rows[(task, _short(objective, entry))] = [float(s.mean()) for s in found.scores]
    return pd.DataFrame(rows, index=list(params.languages)).T


def noise_lines(records: Records, params: Params) -> dict[str, Any]:
    """Scores under typing errors by language, for every objective and method that was scored so."""
    r, panels = Reader(records, params), []
    for task in params.noise_tasks:
        for language in params.languages:
            series = []
            for name, labels in _systems(params):
                at = partial(questions.typed, r, task, language, labels)
                found = line(name, (0.0, *TYPO_RATES), at, params.alpha)
                series.append(found)
            panels.append({
                "name": f"{task}, {language}", "x_label": questions.TYPED, "series": series,
                "y_label": "F1" if task == "qa" else "accuracy",
                "levels": [{"name": "chance", "y": CHANCE[task], "line": ":"}],
            })  # fmt: skip
    return {
        "title": "Scores under typing errors", "claims": ["S2-1", "S2-2"], "panels": panels,
        "columns": 5, "width": 2.6,
        "caption": caption(r, "Fine-tuned on clean source text, tested on text with typing errors."),
        "alt": "Scores falling with the rate of typing errors, a panel for each language.",
    }  # fmt: skip


def _systems(params: Params) -> list[tuple[str, dict[str, str]]]:
    """Names and labels of what was scored under noise: objectives by standard fine-tuning, then methods."""
    found = [(objective, {"objective": objective}) for objective in params.objectives]
    for entry in (m for m in params.methods if m != "standard"):
        for objective in params.method_objectives:
            found.append((_short(objective, entry), _labels(objective, entry)))
    return found


def noise_drops(records: Records, params: Params, rate: float = TYPO_RATES[-1]) -> dict[str, Any]:
    """Whether typing errors take less from a system than from the base encoder fine-tuned as usual."""
    r, rows = Reader(records, params), []
    for task in params.noise_tasks:
        for name, labels in _systems(params):
            row = _drop(r, task, labels, rate)
            if row and labels != {"objective": "none"}:
                rows.append(row | {"label": f"{task}: {name}"})
    decide(rows, params.alpha)
    return {
        "title": "Who loses less to typing errors?", "rows": rows, "claims": ["S2-1", "S2-2"],
        "x_label": f"drop of the base minus drop of the system, at {rate:.0%} typing errors",
        "caption": caption(r, "Right of zero: it loses less than the base encoder. Mean over the targets."),
        "alt": "Differences in what typing errors take away, with intervals, one row a system.",
    }  # fmt: skip


def _drop(r: Reader, task: str, labels: Mapping[str, str], rate: float) -> dict[str, Any] | None:
    noisy = [f"{t}@typo{rate:g}" for t in r.targets]
    try:
        base, own = (
            [r.scores(task, where, **x) for where in (r.targets, noisy)]
            for x in ({"objective": "none"}, labels)
        )
        effect = interaction(base[0], base[1], own[0], own[1], alpha=r.params.alpha)
    except LookupError:
        return None
    return _row(effect)


def question_table(records: Records, params: Params) -> pd.DataFrame:
    """Every effect of the questions that this profile answers: the first of each decides."""
    rows = []
    for number in params.questions:
        try:
            effects = questions.answer(number, records, params)["effects"]
            rows += [{"question": number, **effect} for effect in effects]
        except LookupError as error:
            rows.append({"question": number, "words": f"not run: {error.args[0]}"})
    kept = ["question", "words", "estimate", "low", "high", "p", "unit", "seeds", "outcome"]
    return pd.DataFrame(rows, columns=kept)
