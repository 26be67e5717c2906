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
from xltlib.claims.scores import JUDGED_BY, SETTING, Setting, judged_by, paired, system
from xltlib.data import task_data
from xltlib.data.samples import languages_for
from xltlib.data.tasks import LABELS
from xltlib.drawing import Drawn, Session
from xltlib.finetuning.options import METHODS
from xltlib.params import Params, to_dict
from xltlib.significance.figures import decided_forest, difference_row
from xltlib.significance.tests import difference
from xltlib.store import Result

CLAIMS = ["S0-1", "S0-2", "S0-3", "S1-7", "S1-18", "S1-22", "S1-23"]
MBERT = yaml.safe_load(Path(__file__).with_name("mbert.yaml").read_text(encoding="utf-8"))
X_NAMES = {"mask_rate": "share of subwords masked", "lambda": r"weight of the second loss, $\lambda$",
           "epochs": "updates, in units of the profile's", "links": "share of links that are wrong",
           "threshold": "least probability of a substitution"}  # fmt: skip


def example_table(params: Params) -> pd.DataFrame:
    """One test example of each task in the source and in the first target language."""
    rows = {}
    for task in params.tasks:
        test = languages_for(params).examples(task, "test", 8)
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
    rows = []
    for task in params.tasks:
        test = languages_for(params).examples(task, "test", params.test_examples)
        if task not in LABELS:
            word = np.mean([1 / len(e.context.replace(" .", "").split()) for e in test[params.source]])
            rows += [
                (task, name, judged_by(task), "chance (qa: a random word)", word) for name in params.languages
            ]
            continue
        train = languages_for(params).examples(task, "train", params.train_examples)[params.source]
        labels, gold = [e.label for e in train], np.array([e.label for e in test[params.source]])
        chance = evaluation.majority_accuracy(labels, gold)
        texts = [e.text_b for name in params.languages for e in test[name]]
        guesses = evaluation.ngram_predictions([e.text_b for e in train], labels, texts)
        alone = (guesses.reshape(len(params.languages), -1) == gold).mean(1)
        for name, score in zip(params.languages, alone, strict=True):
            rows.append((task, name, judged_by(task), "chance (qa: a random word)", chance))
            rows.append((task, name, judged_by(task), "second sentence alone (n-grams)", score))
    frame = pd.DataFrame(rows, columns=["task", "language", "metric", "baseline", "score"])
    return frame.assign(second_language="", test_set="", noise="", rate=0.0)[
        ["task", *SETTING, "baseline", "score"]
    ]


# Zero-shot scores


def standard(scores: pd.DataFrame, params: Params) -> pd.DataFrame:
    """Scores of the objectives by standard fine-tuning, as each task is judged, in clean text."""
    own = scores[(scores["method"] == "standard") & (scores["objective_options"] == "")]
    own = own[(own["kind"] == "transfer") & (own["noise"] == "") & (own["second_language"] == "")]
    own = own[own["metric"] == own["task"].map(judged_by)]
    panels = own["task"] + own["test_set"].map(lambda name: f"@{name}" if name else "")
    own = own.assign(panel=panels)
    return drawing.in_order(own, task=params.tasks, objective=params.objectives, language=params.languages)


def accuracy(session: Session, scores: pd.DataFrame, cheap: pd.DataFrame) -> Drawn:
    """Zero-shot scores by task, language and objective, beside what costs no encoder."""
    params, own = session.params, standard(scores, session.params)
    rows = score_table.intervals(own, ["panel", "objective", "language"], params.alpha)
    rows = rows.rename(columns={"objective": "series", "language": "x"})
    panels = own.drop_duplicates("panel")[["panel", "task", "test_set"]]
    cheap = cheap.merge(panels, on=["task", "test_set"])
    cheap = cheap[cheap["metric"] == cheap["task"].map(judged_by)]
    marks = [
        {"panel": row.panel, "name": row.baseline, "x": row.language, "y": row.score}
        for row in cheap.itertuples()
    ]
    words, sources = f"Trained on {params.source} alone, tested on parallel examples in every language.", []
    for row in panels.itertuples() if params.data == "real" else ():
        known = MBERT.get(row.test_set or task_data.sets(to_dict(params), row.task, "test_sets")[0][0], {})
        marks += [
            {"panel": row.panel, "name": "mBERT, as published", **mark} for mark in _mbert(params, known)
        ]
        sources += [f"{row.panel}: {known['source']}"] if known else []
    if sources:
        words += f" mBERT's scores are of {'; '.join(sources)}."
    return drawing.save(
        session.figures / "accuracy", drawing.facets, rows, claims=[*CLAIMS, "S1-20"], key=True, marks=marks,
        title="Zero-shot scores by language and objective",
        caption=drawing.caption(words, params),
        alt=f"Scores in {', '.join(params.languages)} by objective and task, with chance and baselines.",
        categories=list(params.languages), limits=[0, 1.02], columns=2,
        y_label={r.panel: "F1" if r.task in JUDGED_BY else "accuracy" for r in panels.itertuples()},
    )  # fmt: skip


def _mbert(params: Params, known: dict[str, Any]) -> list[dict[str, Any]]:
    """Where mBERT's published scores on a test set stand: by language, or their mean over the panel."""
    if "mean" in known:
        return [{"x": None, "y": known["mean"] / 100}]
    scores = known.get("scores", {})
    return [
        {"x": language, "y": scores[language] / 100} for language in params.languages if language in scores
    ]


def mean_table(drawn: Drawn) -> pd.DataFrame:
    """The means of an `accuracy` figure: a row for each task and objective, a column for each language."""
    rows = drawn.rows
    if rows.empty:
        return pd.DataFrame(columns=drawn.data["categories"])
    table = rows.pivot_table("mean", ["panel", "series"], "x", sort=False)
    return table.reindex(columns=drawn.data["categories"]).rename_axis(["task", "objective"])


def gap(session: Session, scores: pd.DataFrame) -> Drawn:
    """Source score minus target score, by distance, for every seed."""
    params, languages = session.params, languages_for(session.params)
    ticks = {words: k for k, (_, words) in enumerate(languages.by_distance())}
    own = standard(scores, params)
    own = own[own["test_set"] == ""].pivot(
        index=["task", "objective", "seed"], columns="language", values="mean"
    )
    rows = []
    own = drawing.in_order(own.dropna().reset_index(), task=params.tasks, objective=params.objectives)
    for (task, objective), by_seed in own.groupby(["task", "objective"], sort=False):
        for k, (language, _) in enumerate(languages.by_distance()):
            lost = (by_seed[params.source] - by_seed[language]).tolist()
            rows.append({"panel": task, "series": objective, "x": k, "seeds": lost})
    return drawing.save(
        session.figures / "gap", drawing.facets, rows, title="What transfer loses, by distance",
        caption=f"Source score minus target score, {params.test_examples} examples, {params.seeds} seed(s): "
        "dots, and their mean. Languages by the share of stems unlike the source's.",
        alt="Lines of the transfer gap rising with lexical distance, for each objective and task.",
        claims=["S0-1", "S1-18"], lines=True, ticks=ticks, x_label=languages.distance_label, columns=2,
        marks=[{"panel": task, "name": "no loss", "y": 0.0} for task in params.tasks],
        y_label="source minus target score",
    )  # fmt: skip


def recall(session: Session, results: Sequence[Result], task: str = "nli") -> Drawn:
    """Recall of each gold class by language, for each objective."""
    params, rows = session.params, []
    for objective in params.objectives:
        wanted = {"task": task, "objective": objective, "objective_options": "", "method": "standard"}
        runs = [r for r in results if r.kind == "transfer" and wanted.items() <= r.labels.items()]
        for k, name in enumerate(LABELS[task]):
            for language in params.languages:
                seeds = [r.values["recall"][language][k] for r in runs if language in r.values["recall"]]
                rows.append({"panel": objective, "series": name, "x": language, "seeds": seeds})
    chance = [{"panel": o, "name": "chance", "y": 1 / len(LABELS[task])} for o in params.objectives]
    return drawing.save(
        session.figures / "recall", drawing.facets, rows, title=f"Recall by class, {task}", claims=["S0-1"],
        caption=f"Share of each gold class that is recognised; {params.test_examples} examples a language, "
        f"{params.seeds} seed(s): pale dots.",
        alt="Recall of each class by language, a panel for each objective.", marks=chance, columns=2,
        categories=list(params.languages), y_label="recall", limits=[0, 1.02],
    )  # fmt: skip


def translate_train_table(scores: pd.DataFrame, params: Params) -> pd.DataFrame:
    """Mean target scores of zero-shot transfer and of training on translated data, where it has runs."""
    rows = {}
    for task in params.tasks:
        for objective in params.objectives:
            both = [
                system(scores, task, objective, params.targets, m) for m in ("standard", "translate_train")
            ]
            if not any(one.missing for one in both):
                rows[task, objective] = [float(np.mean([x.mean() for x in one.scores])) for one in both]
    return pd.DataFrame(rows, index=["zero-shot", "translate-train"]).T


# Differences


def gains(session: Session, scores: pd.DataFrame, against: str = "none") -> Drawn:
    """The gain of every objective over one of them, by task, mean over the target languages."""
    params, rows = session.params, []
    for task in params.tasks:
        base = system(scores, task, against, params.targets)
        for objective in (o for o in params.objectives if o != against):
            own = system(scores, task, objective, params.targets)
            if row := difference_row(own, base, params.alpha):
                rows.append({"label": f"{task}: {objective} − {against}"} | row)
    return decided_forest(
        session, "gains", rows, title=f"Differences between objectives, against {against}", claims=CLAIMS,
        caption=f"Mean difference over the target languages; outcome (is the first one better?) after Holm "
        f"over {len(rows)} comparisons.",
        alt="Differences with their intervals, a row for each task and objective.",
    )  # fmt: skip


def methods(session: Session, scores: pd.DataFrame) -> Drawn:
    """The gain of every other fine-tuning method over standard, by task, from the same encoder."""
    params, rows = session.params, []
    for task in params.tasks:
        for entry in (m for m in _methods(scores, params) if m != "standard"):
            for objective in params.method_objectives:
                for place, where in (("targets", params.targets), ("source", (params.source,))):
                    own, plain = (system(scores, task, objective, where, m) for m in (entry, "standard"))
                    if row := difference_row(own, plain, params.alpha):
                        rows.append({"label": f"{task}, {place}: {_named(objective, entry)}"} | row)
    return decided_forest(
        session, "methods", rows, title="Fine-tuning methods against standard fine-tuning",
        claims=["S2-1", "S2-2", "S3-1"],
        caption="Method minus standard from the same encoder; outcome after Holm.",
        alt="Differences of each method from standard fine-tuning with intervals, by task.",
    )  # fmt: skip


def _methods(scores: pd.DataFrame, params: Params) -> list[str]:
    """The profile's methods, and those that the ledger's controls have run without options."""
    plain = set(scores["method"][scores["method_options"] == ""])
    return list(dict.fromkeys([*params.methods, *(name for name in METHODS if name in plain)]))


def _named(objective: str, entry: str) -> str:
    return entry if objective == "none" else f"{entry} on {objective}"


def method_table(scores: pd.DataFrame, params: Params) -> pd.DataFrame:
    """Mean scores of every method by task and language."""
    rows = {}
    for task in params.tasks:
        for entry in _methods(scores, params):
            for objective in params.method_objectives:
                own = system(scores, task, objective, params.languages, entry)
                if not own.missing:
                    rows[task, _named(objective, entry)] = [float(s.mean()) for s in own.scores]
    return pd.DataFrame(rows, index=list(params.languages)).T


def sweeps(session: Session, scores: pd.DataFrame, ledger: Ledger, defaults: dict[str, Any]) -> Drawn:
    """What the ledger's trends vary: the mean over targets at each level, for those that were run.

    defaults : options that mean the same as leaving them out, as the ledger has them
    """
    params, rows, claims, x_labels = session.params, [], [], {}
    for claim in ledger.claims:
        for test in claim.tests:
            if test.type != "trend" or test.test_of or test.task not in params.tasks:
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
                    levels.append({"x": x, "mean": effect.estimate, "seeds": list(effect.per_seed)}
                                  | {"low": max(effect.low, 0), "high": min(effect.high, 1)})  # fmt: skip
            if len(levels) == len(test.points):
                claims.append(claim.id)
                x_labels[panel] = X_NAMES.get(option, option)
                rows += [{"panel": panel, "series": series} | level for level in levels]
    return drawing.save(
        session.figures / "sweeps", drawing.facets, rows, title="Options varied one at a time",
        claims=list(dict.fromkeys(claims)), lines=True, x_label=x_labels, columns=2,
        y_label="accuracy, targets' mean",
        caption=drawing.caption(
            "Mean accuracy in the target languages by one option, all else equal.", params, "bands"
        ),
        alt="A panel for each option with the mean accuracy over target languages at each of its levels.",
    )  # fmt: skip
