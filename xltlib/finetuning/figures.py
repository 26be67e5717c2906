"""What notebook 03 shows: zero-shot scores beside what costs no encoder, what transfer loses, and methods."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from xltlib import drawing, evaluation
from xltlib.claims import scores as score_table
from xltlib.claims.ledger import Ledger, label
from xltlib.claims.scores import JUDGED_BY, Setting, judged_by, paired, system
from xltlib.data import task_data
from xltlib.data.formats import LABELS
from xltlib.data.languages import languages_for
from xltlib.drawing import Drawn, Session
from xltlib.finetuning.options import METHODS
from xltlib.params import Params, to_dict
from xltlib.significance.figures import decided_forest, effect_row, shared_seeds
from xltlib.significance.tests import difference
from xltlib.store import Result

MBERT = yaml.safe_load(Path(__file__).with_name("mbert.yaml").read_text(encoding="utf-8"))
X_NAMES = {"mask_rate": "share of subwords masked", "lambda": r"weight of the second loss, $\lambda$",
           "epochs": "updates, in units of the profile's", "links": "share of links that are wrong",
           "threshold": "least probability of a substitution"}  # fmt: skip


def example_table(params: Params) -> pd.DataFrame:
    """One test example of each task in the source and in the first target language."""
    rows = {}
    for task in params.tasks:
        test = task_data.examples(to_dict(params), task, "test", 8)
        for language in (name for name in (params.source, params.targets[0]) if name in test):
            e = test[language][0]
            pair = (e.text_a, e.text_b, LABELS[task][e.label]) if task in LABELS else None
            rows[task, language] = pair or (e.context, e.question, e.answers[0][1])
    return pd.DataFrame(rows, index=["first text", "second text", "label or answer"]).T


def baselines(params: Params, results: Sequence[Result]) -> pd.DataFrame:
    """What costs no encoder: a row for each task, setting and baseline.

    Real languages have a run of baselines; for synthetic ones they are computed here: the commonest label
    (qa: a random word), and the second sentence alone, by a classifier trained on the same examples.
    """
    if params.data == "real":
        return score_table.baselines(results)
    rows, chance, alone = [], "chance (qa: a random word)", "second sentence alone (n-grams)"
    for task in params.tasks:
        test = task_data.examples(to_dict(params), task, "test", params.test_examples)
        own = test[params.source]
        if task in LABELS:
            train = task_data.examples(to_dict(params), task, "train", params.train_examples)[params.source]
            labels, texts = [e.label for e in train], [e.text_b for x in params.languages for e in test[x]]
            guesses = iter(evaluation.ngram_predictions([e.text_b for e in train], labels, texts))
            score = {chance: evaluation.majority_accuracy(labels, [e.label for e in own])}
        else:
            score = {chance: np.mean([1 / len(e.context.replace(" .", "").split()) for e in own])}
        for language in params.languages:
            if task in LABELS:
                score[alone] = np.mean([next(guesses) == e.label for e in own])
            where = {"task": task, **Setting(language, metric=judged_by(task))._asdict()}
            rows += [where | {"baseline": name, "score": y} for name, y in score.items()]
    return pd.DataFrame(rows)


# Zero-shot scores


def standard(scores: pd.DataFrame, params: Params) -> pd.DataFrame:
    """Scores of the objectives by standard fine-tuning, as each task is judged, in clean text."""
    own = scores[(scores["method"] == "standard") & (scores["objective_options"] == "")]
    own = own[(own["kind"] == "transfer") & (own["noise"] == "") & (own["second_language"] == "")]
    own = own[own["metric"] == own["task"].map(judged_by)]
    own = own.assign(panel=own["task"] + own["test_set"].map(lambda name: f"@{name}" if name else ""))
    return drawing.in_order(own, task=params.tasks, objective=params.objectives, language=params.languages)


def accuracy(session: Session, scores: pd.DataFrame, cheap: pd.DataFrame) -> Drawn:
    """Zero-shot scores by task, language and objective, beside what costs no encoder."""
    params, own, sources = session.params, standard(scores, session.params), []
    rows = score_table.intervals(own, ["panel", "objective", "language"], params.alpha)
    panels = own.drop_duplicates("panel")[["panel", "task", "test_set"]]
    marks = cheap[cheap["metric"] == cheap["task"].map(judged_by)].merge(panels, on=["task", "test_set"])
    marks = marks.rename(columns={"baseline": "name", "language": "x", "score": "y"})
    marks = marks[["panel", "name", "x", "y"]].to_dict("records")
    for row in panels.itertuples() if params.data == "real" else ():
        test_set = row.test_set or task_data.sets(to_dict(params), row.task, "test_sets")[0][0]
        if known := MBERT.get(test_set):
            sources.append(f"{row.panel}: {known['source']}")
            by_language = known.get("scores", {None: known.get("mean")})  # a mean stands over all languages
            for x in (x for x in (None, *params.languages) if x in by_language):
                where = {"panel": row.panel, "name": "mBERT, as published", "x": x}
                marks.append(where | {"y": by_language[x] / 100})
    published = f"mBERT's scores are of {'; '.join(sources)}. " if sources else ""
    return drawing.save(
        session, "accuracy", rows.rename(columns={"objective": "series", "language": "x"}),
        {"published": published, "languages": ", ".join(params.languages)},
        marks=marks, categories=list(params.languages),
        y_label={r.panel: "F1" if r.task in JUDGED_BY else "accuracy" for r in panels.itertuples()},
    )  # fmt: skip


def gap(session: Session, scores: pd.DataFrame) -> Drawn:
    """Source score minus target score, by distance, for every seed; of a task those languages that it has."""
    params, languages = session.params, languages_for(session.params)
    own, run, order = standard(scores, params), ["task", "objective", "seed"], dict(languages.by_distance())
    own = own[own["test_set"] == ""]
    source = own[own["language"] == params.source][[*run, "mean"]]
    own = own.merge(source.rename(columns={"mean": "source"}), on=run)
    own = drawing.in_order(own, task=params.tasks, objective=params.objectives, language=order)
    own = own.assign(x=own["language"].map(list(order).index), gap=own["source"] - own["mean"])
    rows = own[["task", "objective", "x", "gap"]].itertuples(index=False, name=None)
    return drawing.save(
        session, "gap", drawing.gathered(rows), x_label=languages.distance_label,
        ticks={words: k for k, words in enumerate(order.values())},
        marks=[{"panel": task, "name": "no loss", "y": 0.0} for task in params.tasks],
    )  # fmt: skip


def recall(session: Session, results: Sequence[Result], task: str = "nli") -> Drawn:
    """Recall of each gold class by language, for each objective."""
    params, names = session.params, LABELS[task]
    wanted = {"task": task, "objective_options": "", "method": "standard"}
    rows = drawing.gathered(
        (run.labels["objective"], name, language, share)
        for run in results
        if run.kind == "transfer" and wanted.items() <= run.labels.items()
        for language, shares in run.values["recall"].items()
        for name, share in zip(names, shares, strict=True)
    )
    rows = drawing.in_order(rows, panel=params.objectives, series=names, x=params.languages)
    marks = [{"panel": panel, "name": "chance", "y": 1 / len(names)} for panel in params.objectives]
    where = list(params.languages)
    return drawing.save(session, "recall", rows, {"task": task}, marks=marks, categories=where)


def translate_train_table(scores: pd.DataFrame, params: Params) -> pd.DataFrame:
    """Mean target scores of zero-shot transfer and of training on translated data, where it has runs."""
    names = {"standard": "zero-shot", "translate_train": "translate-train"}
    own = score_table.clean(scores)
    own = own[(own["objective_options"] == "") & (own["method_options"] == "")]
    own = drawing.in_order(own, task=params.tasks, objective=params.objectives, language=params.targets)
    table = own.pivot_table("mean", ["task", "objective"], "method", sort=False)
    return table.reindex(columns=list(names)).dropna().rename(columns=names)


# Differences


def gains(session: Session, scores: pd.DataFrame, against: str = "none") -> Drawn:
    """The gain of every objective over one of them, by task, mean over the target languages."""
    params, rows = session.params, []
    for task in params.tasks:
        for objective in (o for o in params.objectives if o != against):
            pair = (system(scores, task, o, params.targets) for o in (objective, against))
            if both := shared_seeds(*pair):
                words = f"{task}: {objective} − {against}"
                rows.append(effect_row(words, difference(*both, alpha=params.alpha)))
    return decided_forest(session, "gains", rows, against=against)


def methods(session: Session, scores: pd.DataFrame) -> Drawn:
    """The gain of every other fine-tuning method over standard, by task, from the same encoder."""
    params, rows = session.params, []
    for task in params.tasks:
        for entry in (m for m in _methods(scores, params) if m != "standard"):
            for objective in params.method_objectives:
                for place, where in (("targets", params.targets), ("source", (params.source,))):
                    pair = (system(scores, task, objective, where, m) for m in (entry, "standard"))
                    if both := shared_seeds(*pair):
                        words = f"{task}, {place}: {named(objective, entry)}"
                        rows.append(effect_row(words, difference(*both, alpha=params.alpha)))
    return decided_forest(session, "methods", rows)


def _methods(scores: pd.DataFrame, params: Params) -> list[str]:
    """The profile's methods, and those that the ledger's controls have run without options."""
    plain = set(scores["method"][scores["method_options"] == ""])
    return list(dict.fromkeys([*params.methods, *(name for name in METHODS if name in plain)]))


def named(objective: str, entry: str) -> str:
    """A method, with the encoder that it starts from where that is not the base."""
    return entry if objective == "none" else f"{entry} on {objective}"


def method_table(scores: pd.DataFrame, params: Params) -> pd.DataFrame:
    """Mean scores of every method by task and language."""
    own = score_table.clean(scores[scores["objective_options"] == ""])
    own = own.assign(entry=own["method"] + own["method_options"].map(lambda o: f":{o}" if o else ""))
    own = drawing.in_order(
        own, task=params.tasks, entry=_methods(scores, params), objective=params.method_objectives,
        language=params.languages,
    )  # fmt: skip
    names = [named(*row) for row in zip(own["objective"], own["entry"], strict=True)]
    return own.assign(system=names).pivot_table("mean", ["task", "system"], "language", sort=False)


def sweeps(session: Session, scores: pd.DataFrame, ledger: Ledger, defaults: dict[str, Any]) -> Drawn:
    """What the ledger's trends vary: the mean over targets at each level, for those that were run.

    defaults : options that mean the same as leaving them out, as the ledger has them
    """
    params, rows, claims, x_labels = session.params, [], {}, {}
    trends = [(claim, test) for claim in ledger.claims for test in claim.tests if test.type == "trend"]
    for claim, test in trends:
        if test.test_of or test.task not in params.tasks:
            continue
        varied, _, others = next(iter(test.points)).partition(",")
        option, series = varied.partition("=")[0], ", ".join(filter(None, (label(test.a), others)))
        panel, levels = f"{test.task}: {option}", []
        for point, x in sorted(test.points.items(), key=lambda item: item[1]):
            query = {**test.a, test.over: point, "task": test.task}
            own = paired(scores, query, [Setting(t) for t in params.targets], defaults)
            if not own.missing:
                score = [np.mean(own.scores, axis=0)]  # one array (R, N): the mean over languages
                effect = difference(score, [np.zeros_like(score[0])], alpha=params.alpha)
                bounds = {"low": max(effect.low, 0), "high": min(effect.high, 1), "mean": effect.estimate}
                where = {"panel": panel, "series": series, "x": x}
                levels.append(where | bounds | {"seeds": effect.per_seed})
        if len(levels) == len(test.points):
            claims[claim.id] = None
            x_labels[panel] = X_NAMES.get(option, option)
            rows += levels
    return drawing.save(session, "sweeps", rows, claims=list(claims), x_label=x_labels)
