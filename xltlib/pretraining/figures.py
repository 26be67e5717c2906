"""What notebook 02 shows: losses, what encoders know of translations by layer, tags, and one sentence."""

import shutil
from collections.abc import Sequence

import numpy as np
import pandas as pd

from xltlib import drawing, pool
from xltlib.alignment.links import pool_words
from xltlib.claims import scores as score_table
from xltlib.claims.scores import Setting, paired
from xltlib.data.languages import languages_for
from xltlib.data.text import tokenizer_of
from xltlib.data.tokenization import PreTrainedTokenizerFast, WordEncoder
from xltlib.drawing import Drawn, Session
from xltlib.params import Params, described
from xltlib.pretraining.options import OBJECTIVES
from xltlib.pretraining.probing import Reader
from xltlib.significance.tests import difference
from xltlib.store import Result

LOOKS = {"base": 0} | {name: k for k, name in enumerate(OBJECTIVES)}  # the same in all figures
MEASURES = {
    "sentences": "sentence retrieval",
    "captions": "caption retrieval",
    "words": "word retrieval",
    "aer": "AER (lower: better)",
}
PROBED = {"tags": ("tagging", "tags"), "dependency labels": ("tagging", "deprel"),
          "sentence retrieval": ("retrieval", "accuracy")}  # fmt: skip
WORDS_SHOWN = 15  # of both sides of a sentence pair: more would hide each other


def options_table(options: type) -> pd.DataFrame:
    """What the sources leave open: every option, its default, what else it may be, and what it means."""
    return pd.DataFrame(described(options)).set_index("name").rename(index=lambda name: name.rstrip("_"))


def _objectives(params: Params) -> list[str]:
    return [*params.objectives, *params.further_objectives]


def loss(session: Session, encoders: Sequence[Result]) -> Drawn:
    """Loss by update: the base, objectives without options, and each of them that has parts."""
    params, runs, rows = session.params, session.runs, []
    plain = {runs.encoder(o, seed).digest for o in _objectives(params) for seed in params.every_seed}
    plain |= {runs.base(seed).digest for seed in params.every_seed}
    for run in (run for run in encoders if run.digest in plain):
        objective, history = run.params["objective"], run.values["history"]
        whole = "base: MLM on documents" if objective == "base" else "objectives"
        parts = dict.fromkeys(name for h in history for name in h if name not in ("step", "loss"))
        places = {"loss": (whole, objective)} | {part: (f"parts of {objective}", part) for part in parts}
        for key, place in places.items():  # updates on documents have no parts
            rows += [(*place, h["step"], h[key]) for h in history if key in h]
    return drawing.save(session, "loss", drawing.gathered(rows), looks=LOOKS)


# What encoders know of translations


def layers(session: Session, probes: Sequence[Result], linked: Result, baselines: pd.DataFrame) -> Drawn:
    """Retrieval and AER by layer; `linked`: the aligner's links, whose AER is the mark to reach."""
    params, quality, marks = session.params, linked.values["quality"], []
    count = len(next(iter(probes[0].scores.values()), ()))
    rows = _by_layer(probes, params, _objectives(params))
    names = {"multi30k": MEASURES["captions"], "": MEASURES["sentences"]}
    cheap = baselines[baselines["task"] == "retrieval"]
    cheap = cheap.assign(row=cheap["test_set"].map(names)).groupby(["row", "language"])
    cheap = {place: dict(zip(own["baseline"], own["score"], strict=True)) for place, own in cheap}
    for row, panel in rows[["row", "panel"]].drop_duplicates().itertuples(index=False):
        beside = cheap.get((row, panel), {})
        if row == MEASURES["sentences"] and count:
            beside = {"chance": 1 / count} | beside
        if row == MEASURES["aer"] and panel in quality:
            beside = {"statistical aligner": quality[panel]["aer"]}
        marks += [{"row": row, "panel": panel, "name": name, "y": y} for name, y in beside.items()]
    ticks = {str(n): n for n in range(params.depth + 1)}
    return drawing.save(session, "layers", rows, {"count": count}, marks=marks, looks=LOOKS, ticks=ticks)


def _by_layer(probes: Sequence[Result], params: Params, objectives: Sequence[str]) -> pd.DataFrame:
    """What probes have measured: rows of `facets`, by measure, target language, objective and layer."""
    rows = [
        (MEASURES[key], language, probe.labels["objective"], x, value)
        for probe in probes
        for language, own in probe.values["by_layer"].items()
        for key, values in own.items()
        for x, value in enumerate(values)
    ]
    table = drawing.gathered(rows, ("row", "panel", "series", "x"))
    return drawing.in_order(table, row=MEASURES.values(), panel=params.targets, series=objectives)


def probe_table(probes: Sequence[Result], params: Params, *own: str) -> pd.DataFrame:
    """The last layer's retrieval and AER by objective and language, mean over seeds.

    own : objectives beside those of the profile
    """
    rows = _by_layer(probes, params, [*_objectives(params), *own])
    rows = rows[rows["x"] == rows["x"].max()]
    rows = rows.assign(mean=rows["seeds"].map(np.mean))
    return rows.pivot_table("mean", ["row", "series"], "panel", sort=False)


def tagging(session: Session, scores: pd.DataFrame, baselines: pd.DataFrame) -> Drawn:
    """Tags and dependency labels read off the last layer, by language and objective, beside baselines."""
    params, panels = session.params, {"tags": "tags", "deprel": "dependency labels"}
    names = {"objective": "series", "language": "x", "baseline": "name", "score": "y"}
    own = score_table.intervals(
        scores[scores["task"] == "tagging"], ["metric", "objective", "language"], params.alpha
    )
    own, marks = (
        table.assign(panel=table["metric"].map(panels)).rename(columns=names)
        for table in (own, baselines[baselines["task"] == "tagging"])
    )
    order = {"panel": panels.values(), "series": _objectives(params), "x": params.languages}
    return drawing.save(
        session, "tagging", drawing.in_order(own, **order), marks=marks[["panel", "name", "x", "y"]],
        looks=LOOKS, categories=list(params.languages),
    )  # fmt: skip


def probe_gains(scores: pd.DataFrame, params: Params, over: str = "mlm") -> pd.DataFrame:
    """Gains of each objective over another in what frozen encoders are probed for, in points with intervals.

    Means over the target languages; empty where a language or a seed is missing.
    """
    rows: dict[str, dict[str, str]] = {}
    for objective in (o for o in _objectives(params) if o != over):
        for name, (task, metric) in PROBED.items():
            where = [Setting(x, metric=metric) for x in params.targets]
            a, b = (paired(scores, {"task": task, "objective": o}, where) for o in (objective, over))
            gain = ""
            if not (a.missing or b.missing) and a.seeds == b.seeds:
                e = difference(list(a.scores), list(b.scores), alpha=params.alpha)
                gain = f"{100 * e.estimate:+.1f} [{100 * e.low:.1f}, {100 * e.high:.1f}]".replace("-", "−")
            rows.setdefault(objective, {})[name] = gain
    return pd.DataFrame(rows).T.rename_axis(f"gain over {over}, points")


# A look inside


def _text(session: Session) -> Result:
    """The run of text, computed anew where only its numbers were published."""
    return pool.compute(session.runs.text(), session.store, files=True)


def tokenizer(session: Session) -> PreTrainedTokenizerFast:
    """The joint tokenizer."""
    return tokenizer_of(_text(session))


def word_map(session: Session, language: str) -> Drawn:
    """Last-layer word vectors of one sentence pair under each objective, on their two main components.

    Encoders of published evidence have no weights: the map is then the published one, and where there is
    none (they are of another profile) nothing is drawn.
    """
    params, published, encoders = session.params, session.published / "word_map.json", {}
    for objective in params.objectives:
        run = session.store.result(session.runs.encoder(objective, params.first_seed))
        if run.directory is not None:
            encoders[objective] = run
    if len(encoders) < len(params.objectives) and published.is_file():
        shutil.copyfile(published, session.figures / published.name)
        return drawing.redraw(session.figures / published.name)
    pair, rows = languages_for(params).sample(language, 50), []
    row = int(np.argmin([abs(n + m - WORDS_SHOWN) for n, m in pair.lengths]))
    sides = dict(zip((params.source, language), pair.words[row], strict=True))
    named = [{"language": x, "word": word} for x, side in sides.items() for word in side]
    for objective, run in encoders.items():
        reader, vectors = Reader(run, _text(session)), []  # (words, H) of each side
        for ids, owners in map(WordEncoder(reader.tokenizer), sides.values()):
            ((states,),) = reader.states([ids], last=True)
            vectors.append(pool_words(states, np.array(owners)))
        places = zip(named, _plane(np.concatenate(vectors)).tolist(), strict=True)
        rows += [name | {"panel": objective, "x": x, "y": y} for name, (x, y) in places]
    return drawing.save(session, "word_map", rows, languages=list(sides), links=pair.gold.sure[row].tolist())


def _plane(vectors: np.ndarray) -> np.ndarray:
    """Coordinates (W, 2) on the two main components; a component points to its largest coordinate."""
    centred = vectors - vectors.mean(0)
    left, scale, _ = np.linalg.svd(centred.astype(np.float64), full_matrices=False)
    flat = left[:, :2] * scale[:2]
    return flat * np.sign(flat[np.abs(flat).argmax(0), [0, 1]])
