"""The numbers behind the figures of notebooks 02 and 03, taken from the results of runs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from xltlib import builders, language_data
from xltlib.alignment import encoder_alignment
from xltlib.claims.reading import point
from xltlib.claims.selection import Selection, select
from xltlib.data.tasks import LABELS
from xltlib.data.tokenization import PreTrainedTokenizerFast, WordEncoder, join
from xltlib.data.tokenization import load as load_tokenizer
from xltlib.params import Params
from xltlib.pretraining import models
from xltlib.pretraining.options import OBJECTIVES
from xltlib.runs import Runs
from xltlib.significance.tests import difference
from xltlib.store import Result, Store, read_json

METRIC = {"qa": "f1"}  # what a task is judged by; accuracy elsewhere
OBJECTIVE_CLAIMS = ["S0-1", "S0-2", "S0-3", "S1-7", "S1-18", "S1-22", "S1-23"]
LOOKS = {"base": 0} | {name: k for k, name in enumerate(OBJECTIVES)}  # as in figures that show them all
PROBE_CLAIMS = ["S1-2", "S0-9", "S1-4"]
WORDS_SHOWN = 15  # of both sides of a sentence pair: more would hide each other
Records = Sequence[Mapping[str, Any]]


def tokenizer(runs: Runs, store: Store) -> PreTrainedTokenizerFast:
    """The joint tokenizer, made anew where only its numbers were published."""
    text = builders.compute(runs.text(), store, files=True)
    text.file("tokenizer.json")
    return load_tokenizer(text.directory)


# 02: pre-training


def loss_curves(encoders: Sequence[Result]) -> dict:
    """Loss by update: the base, the continued objectives, and each objective that has parts."""
    chosen: dict[str, dict[str, list]] = {}
    for run in encoders:
        objective, history = run.params["objective"], run.values["history"]
        names = dict.fromkeys(name for point in history for name in point if name not in ("step", "loss"))
        panel = "base: MLM on documents" if objective == "base" else "objectives"
        wanted = [(panel, objective, "loss")] + [(f"parts of {objective}", name, name) for name in names]
        for panel, series, key in wanted:
            kept = [h for h in history if key in h]  # updates on documents have no parts
            curve = {"x": [h["step"] for h in kept], "y": [round(h[key], 4) for h in kept]}
            chosen.setdefault(panel, {}).setdefault(series, []).append(curve)
    panels = [
        {
            "name": name, "x_label": "update", "y_label": "loss",
            "series": [
                {"name": series, "curves": curves, "look": LOOKS.get(series, k + len(OBJECTIVES))}
                for k, (series, curves) in enumerate(found.items())
            ],
        }
        for name, found in chosen.items()
    ]  # fmt: skip
    seeds = len({run.params["seed"] for run in encoders})
    return {
        "title": "Pre-training loss", "panels": panels, "columns": 3,
        "caption": f"Training loss by update; pale: {seeds} seed(s), strong: their mean. In nats "
        "a prediction (word_aligned: squared distance); not comparable in height between objectives.",
        "alt": "Falling curves of the training loss for each objective.", "claims": OBJECTIVE_CLAIMS,
    }  # fmt: skip


def by_layer(
    probes: Sequence[Result], params: Params, linked: Result, cheap_ones: Mapping[str, dict] | None = None
) -> dict:
    """Retrieval and AER by layer; `linked`: the aligner's links, whose AER is the mark to reach.

    `cheap_ones`: the `baselines` of the languages, if there are any for retrieval.
    """
    count, panels = len(next(iter(probes[0].scores.values()), ())), []
    for key, label in _measured(probes).items():
        for language in params.targets:
            chance = [{"name": "chance", "y": 1 / count}] if count else []
            chance += _retrieved(cheap_ones or {}, params.languages.index(language))
            quality = linked.values["quality"].get(language)
            aligner = [{"name": "aligner", "y": quality["aer"], "line": ":"}] if quality else []
            captions = _retrieved(cheap_ones or {}, params.languages.index(language), "@multi30k")
            marks, series = {"sentences": chance, "captions": captions, "aer": aligner}, []
            for objective in (*params.objectives, *params.further_objectives):
                own = [probe for probe in probes if probe.labels["objective"] == objective]
                curves = [_layers(p, language, key) for p in own if key in p.values["by_layer"][language]]
                series.append({"name": objective, "curves": curves})
            told = label if any(one["curves"] for one in series) else ""
            label = "" if told else label  # on the first panel of a row that has curves
            panels.append({
                "name": language if key == "sentences" else "", "series": series, "limits": [0, 1],
                "y_label": told, "x_label": "layer" if key == "aer" else "",
                "ticks": [[n, str(n)] for n in range(params.num_layers + 1)],
                "levels": marks.get(key, []), "empty": "no gold links" if key == "aer" else "not in this set",
            })  # fmt: skip
    seeds = len({p.labels["seed"] for p in probes})
    return {
        "title": "Translations in the encoder, by layer",
        "caption": f"Accuracy of the nearest neighbour among {count} sentences and among linked words; "
        f"AER of links by mutual nearest words; layer 0: the embeddings. {seeds} seed(s): dots, and mean.",
        "alt": "A grid of line plots: retrieval and alignment error by layer, for each target language.",
        "claims": PROBE_CLAIMS, "panels": panels, "columns": len(params.targets),
        "width": 2.2, "height": 2.0,
    }  # fmt: skip


def _retrieved(cheap_ones: Mapping[str, dict], k: int, setting: str = "") -> list[dict]:
    """The baselines of retrieval in the k-th language."""
    lines = ("-.", ":", (0, (1, 3)))
    marks = cheap_ones.get("retrieval" + setting, {}).get("marks", [])
    found = [(mark["name"], mark["values"][k], style) for mark, style in zip(marks, lines, strict=False)]
    return [{"name": name, "y": y, "line": style} for name, y, style in found if y is not None]


def _measured(probes: Sequence[Result]) -> dict[str, str]:
    """What the probes have measured in some language, and its name on an axis."""
    names = {
        "sentences": "sentence retrieval", "captions": "caption retrieval", "words": "word retrieval",
        "aer": "AER (lower is better)",
    }  # fmt: skip
    found = {key for probe in probes for layers in probe.values["by_layer"].values() for key in layers}
    return {key: name for key, name in names.items() if key in found}


def _layers(probe: Result, language: str, key: str) -> dict:
    values = probe.values["by_layer"][language][key]
    return {"x": list(range(len(values))), "y": values}


def probe_table(probes: Sequence[Result], params: Params) -> pd.DataFrame:
    """The last layer's retrieval and AER by objective and language, mean over seeds."""
    rows = {}
    for objective in (*params.objectives, *params.further_objectives):
        own = [p.values["by_layer"] for p in probes if p.labels["objective"] == objective]
        for key in _measured(probes) if own else ():
            there = [x for x in params.targets if key in own[0][x]]
            rows[(key, objective)] = {x: short(np.mean([p[x][key][-1] for p in own])) for x in there}
    return pd.DataFrame(rows).T.sort_index(kind="stable")


def word_map(runs: Runs, store: Store, language: str, folder: Path) -> dict:
    """Last-layer word vectors of one sentence pair under each objective, on their two main components.

    Encoders of published evidence have no weights: the map is then the published one, from `folder`, and
    where that has none (they are of another profile) their panels stay empty.
    """
    params, published, seed = runs.params, Path(folder) / "word_map.json", runs.params.first_seed
    encoders = {o: store.result(runs.encoder(o, seed)) for o in params.objectives}
    if any(run.directory is None for run in encoders.values()) and published.is_file():
        return read_json(published)
    pair = language_data.of(params).sample(language, 50)
    row = int(np.argmin([abs(n + m - WORDS_SHOWN) for n, m in pair.lengths]))
    encode, panels = WordEncoder(tokenizer(runs, store)), []
    for objective, run in encoders.items():
        if run.directory is None:
            panels.append({"name": f"{objective} (published without weights)", "source": [], "target": []})
            continue
        encoder = models.load(run.file("config.json").parent)
        sides = [_vectors(encoder, encode, words) for words in pair.words[row]]
        flat = _plane(np.concatenate(sides))
        panels.append({"name": objective, "source": flat[: len(sides[0])], "target": flat[len(sides[0]) :]})
    source, target = pair.words[row]
    return {
        "title": "Words of one sentence in two languages",
        "caption": f"Last-layer vectors of the words of 1 sentence pair, seed {seed}; each panel has its own "
        "two main components. Lines join words that gold links for sure.",
        "alt": "Scatter plots of word vectors in two languages, linked words joined by lines.",
        "claims": PROBE_CLAIMS, "panels": panels, "columns": 3, "links": pair.gold.sure[row].tolist(),
        "source_language": params.source, "target_language": language,
        "source_words": source, "target_words": target,
    }  # fmt: skip


def _vectors(encoder: models.Encoder, encode: WordEncoder, words: Sequence[str]) -> np.ndarray:
    """Last-layer vectors (W, H) of one sentence's words."""
    import torch

    ids, owners = encode(words)
    with torch.inference_mode():
        states = encoder.states(torch.from_numpy(join(ids))[None])[0].numpy()
    return encoder_alignment.pool_words(states[1:-1], np.array(owners))


def _plane(vectors: np.ndarray) -> list[list[float]]:
    """Coordinates (W, 2) on the two main components; a component points to its largest coordinate."""
    centred = vectors - vectors.mean(0)
    left, scale, _ = np.linalg.svd(centred.astype(np.float64), full_matrices=False)
    flat = left[:, :2] * scale[:2]
    flat *= np.sign(flat[np.abs(flat).argmax(0), [0, 1]])
    return flat.round(4).tolist()


# 03: transfer


def chosen(
    records: Records, task: str, objective: str, settings: Sequence[str], method: str = "standard"
) -> Selection:
    """The scores of an objective's runs on a task in these languages (F1 for question answering)."""
    metric = METRIC.get(task)
    names = [f"{name}#{metric}" if metric else name for name in settings]
    return select(records, {"objective": objective, "method": method, "task": task}, names)


def example_table(params: Params) -> pd.DataFrame:
    """One test example of each task in the source and in the first target language."""
    known, rows = language_data.of(params), {}
    for task in params.tasks:
        test = known.examples(task, "test", 8)
        for language in (name for name in (params.source, params.targets[0]) if name in test):
            e = test[language][0]
            told = (e.text_a, e.text_b, LABELS[task][e.label]) if task in LABELS else None
            rows[(task, language)] = told or (e.context, e.question, e.answers[0][1])
    return pd.DataFrame(rows, index=["first text", "second text", "label or answer"]).T


def short(x: float) -> float:
    """Six digits: enough to draw, and the same on every machine."""
    return round(float(x), 6)


def rounded(values: Sequence[float]) -> list[float]:
    """`short` of each value."""
    return [short(x) for x in values]


def accuracy(records: Records, params: Params, cheap_ones: Mapping[str, dict]) -> dict:
    """Zero-shot scores by task, language and objective, beside the `baselines` of the languages."""
    panels = []
    tests = {name: name.partition("@") for name in cheap_ones}  # a task, or "qa@mlqa" for a further test set
    for name, (task, _, further) in tests.items():
        if task not in params.tasks:
            continue
        settings = [x + (f"@{further}" if further else "") for x in params.languages]
        series = [
            {"name": objective, "points": _points(records, task, objective, settings, params.alpha)}
            for objective in params.objectives
        ]
        label = "F1" if METRIC.get(task) else "accuracy"
        panel = {"name": name, "y_label": label, "limits": [0, 1.02], "series": series}
        panels.append(panel | cheap_ones[name])
    return {
        "title": "Zero-shot scores by language and objective",
        "caption": f"Trained on {params.source} alone, tested on {params.test_examples} parallel examples a "
        f"language. Dots: {params.seeds} pre-training seed(s); bars: {1 - params.alpha:.0%} intervals over "
        "seeds and examples.",
        "alt": f"Scores in {', '.join(params.languages)} by objective and task, with chance and baselines.",
        "claims": [*OBJECTIVE_CLAIMS, "S1-20"], "key": True, "panels": panels,
        "categories": list(params.languages),
    }  # fmt: skip


def _points(
    records: Records, task: str, objective: str, settings: Sequence[str], alpha: float
) -> list[dict | None]:
    """Mean and interval in each setting; None where no run has scores for it."""
    found = [chosen(records, task, objective, [setting]) for setting in settings]
    return [None if one.missing else point(one.scores[0], alpha) for one in found]


def tagging(records: Records, params: Params, cheap_ones: Mapping[str, dict]) -> dict:
    """Tags and dependency labels told from the last layer, by language and objective, beside `baselines`."""
    panels = []
    for label, suffix in (("tags", ""), ("dependency labels", "#deprel")):
        settings = [x + suffix for x in params.languages]
        series = [
            {"name": objective, "points": _points(records, "tagging", objective, settings, params.alpha)}
            for objective in (*params.objectives, *params.further_objectives)
        ]
        panel = {"name": label, "y_label": "accuracy (mean of sentences)", "limits": [0, 1.02]}
        panels.append(panel | {"series": series} | cheap_ones[f"tagging{suffix}"])
    return {
        "title": "Tags and dependency labels from a frozen encoder",
        "caption": f"A linear probe on the last layer, trained on 700 sentences of {params.source}, tested "
        f"on 200 parallel ones a language. Dots: {params.seeds} pre-training seed(s); bars: "
        f"{1 - params.alpha:.0%} intervals over seeds and sentences.",
        "alt": "Accuracy of tags and of dependency labels by language and objective, with cheap baselines.",
        "claims": PROBE_CLAIMS, "panels": panels, "categories": list(params.languages), "width": 5.2,
    }  # fmt: skip


def probe_gains(records: Records, params: Params, over: str = "mlm") -> pd.DataFrame:
    """Gains of each objective over another in what frozen encoders are probed for, in points with intervals.

    Means over the target languages; empty where a language or a seed is missing.
    """
    measures = {"tags": ("tagging", ""), "dependency labels": ("tagging", "#deprel"),
                "sentence retrieval": ("retrieval", "")}  # fmt: skip
    rows: dict[str, dict[str, str]] = {}
    for objective in (o for o in (*params.objectives, *params.further_objectives) if o != over):
        for name, (task, suffix) in measures.items():
            pair = [chosen(records, task, o, [x + suffix for x in params.targets]) for o in (objective, over)]
            told = ""
            if not any(one.missing for one in pair) and pair[0].seeds == pair[1].seeds:
                e = difference(*(list(one.scores) for one in pair), alpha=params.alpha)
                told = f"{100 * e.estimate:+.1f} [{100 * e.low:.1f}, {100 * e.high:.1f}]"
            rows.setdefault(objective, {})[name] = told
    return pd.DataFrame(rows).T.rename_axis(f"gain over {over}, points")


def score_table(data: Mapping) -> pd.DataFrame:
    """The means of an `accuracy` figure: a row for each task and objective, a column for each language."""
    rows = {
        (panel["name"], series["name"]): [p["mean"] if p else None for p in series["points"]]
        for panel in data["panels"]
        for series in panel["series"]
    }
    return pd.DataFrame(rows, index=data["categories"]).T


def gaps(records: Records, params: Params) -> dict:
    """Source score minus target score, by distance, for every seed."""
    known = language_data.of(params)
    order = [name for name, _ in known.by_distance()]
    ticks = [[i, words] for i, (_, words) in enumerate(known.by_distance())]
    panels = []
    for task in params.tasks:
        series = []
        for objective in params.objectives:
            found = chosen(records, task, objective, (params.source, *order))
            means = [] if found.missing else np.stack([s.mean(1) for s in found.scores], 1)  # (R, 1 + K)
            curves = [{"x": [t[0] for t in ticks], "y": rounded(row[0] - row[1:])} for row in means]
            series.append({"name": objective, "curves": curves})
        panels.append({
            "name": task, "x_label": known.distance_label,
            "y_label": "source minus target score", "ticks": ticks, "series": series,
            "levels": [{"name": "no loss", "y": 0.0}],
        })  # fmt: skip
    return {
        "title": "What transfer loses, by distance",
        "caption": f"Source score minus target score, {params.test_examples} examples, {params.seeds} "
        "seed(s): dots, and their mean. Languages by the share of stems unlike the source's.",
        "alt": "Lines of the transfer gap rising with lexical distance, for each objective and task.",
        "claims": ["S0-1", "S1-18"], "panels": panels,
    }  # fmt: skip


def recall(results: Sequence[Result], params: Params, task: str = "nli") -> dict:
    """Recall of each gold class by language, for each objective."""
    panels = []
    for objective in params.objectives:
        asked = {"task": task, "objective": objective, "objective_options": "", "method": "standard"}
        runs = [r for r in results if r.kind == "transfer" and asked.items() <= r.labels.items()]
        series = []
        for k, name in enumerate(LABELS[task]):
            tested = [x for x in params.languages if all(x in r.values["recall"] for r in runs)]
            seeds = [[r.values["recall"][x][k] for r in runs if x in tested] for x in params.languages]
            points = [{"mean": short(np.mean(s)), "seeds": rounded(s)} if s else None for s in seeds]
            series.append({"name": name, "points": points})
        chance = [{"name": "chance", "y": short(1 / len(LABELS[task]))}]
        panel = {"name": objective, "y_label": "recall", "limits": [0, 1.02], "series": series}
        panels.append(panel | {"levels": chance})
    return {
        "title": f"Recall by class, {task}",
        "caption": f"Share of each gold class that is recognised; {params.test_examples} examples a "
        f"language, {params.seeds} seed(s): pale dots.",
        "alt": "Recall of each class by language, a panel for each objective.",
        "claims": ["S0-1"], "categories": list(params.languages), "panels": panels, "columns": 3,
    }  # fmt: skip


def translate_train_table(records: Records, params: Params) -> pd.DataFrame:
    """Mean target scores of zero-shot transfer and of training on translated data, where it has runs."""
    rows = {}
    for task in params.tasks:
        for objective in params.objectives:
            found = [
                chosen(records, task, objective, params.targets, method)
                for method in ("standard", "translate_train")
            ]
            if not any(selection.missing for selection in found):
                rows[(task, objective)] = [short(np.mean([x.mean() for x in s.scores])) for s in found]
    return pd.DataFrame(rows, index=["zero-shot", "translate-train"]).T
