"""What notebook 02 shows: losses, what encoders know of translations by layer, tags, and one sentence."""

import shutil
from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch

from xltlib import drawing, pool
from xltlib.alignment.links import pool_words
from xltlib.claims import scores as score_table
from xltlib.claims.scores import Setting, paired
from xltlib.data.samples import languages_for
from xltlib.data.tokenization import PreTrainedTokenizerFast, WordEncoder, join
from xltlib.data.tokenization import load as load_tokenizer
from xltlib.drawing import Drawn, Session
from xltlib.params import Params, described
from xltlib.pretraining import models
from xltlib.pretraining.options import OBJECTIVES
from xltlib.significance.tests import difference
from xltlib.store import Result

LOSS_CLAIMS = ["S0-1", "S0-2", "S0-3", "S1-7", "S1-18", "S1-22", "S1-23"]
PROBE_CLAIMS = ["S1-2", "S0-9", "S1-4"]
LOOKS = {"base": 0} | {name: k for k, name in enumerate(OBJECTIVES)}  # the same in all figures
MEASURES = {
    "sentences": "sentence retrieval",
    "captions": "caption retrieval",
    "words": "word retrieval",
    "aer": "AER (lower: better)",
}
WORDS_SHOWN = 15  # of both sides of a sentence pair: more would hide each other


def options_table(options: type) -> pd.DataFrame:
    """What the sources leave open: every option, its default, what else it may be, and what it means."""
    return pd.DataFrame(described(options)).set_index("name").rename(index=lambda name: name.rstrip("_"))


def loss(session: Session, encoders: Sequence[Result]) -> Drawn:
    """Loss by update: the base, objectives without options, and each of them that has parts."""
    params, runs = session.params, session.runs
    objectives = (*params.objectives, *params.further_objectives)
    plain = {runs.encoder(o, seed).digest for o in objectives for seed in params.every_seed}
    plain |= {runs.base(seed).digest for seed in params.every_seed}
    encoders = [run for run in encoders if run.digest in plain]
    seeds: dict[tuple[str, str, int], list[float]] = {}
    for run in encoders:
        objective, history = run.params["objective"], run.values["history"]
        parts = dict.fromkeys(name for h in history for name in h if name not in ("step", "loss"))
        whole = ("base: MLM on documents" if objective == "base" else "objectives", objective, "loss")
        for panel, series, key in (whole, *((f"parts of {objective}", name, name) for name in parts)):
            for h in (h for h in history if key in h):  # updates on documents have no parts
                seeds.setdefault((panel, series, h["step"]), []).append(h[key])
    rows = [{"panel": p, "series": s, "x": x, "seeds": own} for (p, s, x), own in seeds.items()]
    count = len({run.params["seed"] for run in encoders})
    return drawing.save(
        session.figures / "loss", drawing.facets, rows, title="Pre-training loss", claims=LOSS_CLAIMS,
        caption=f"Training loss by update; pale: {count} seed(s), strong: their mean. In nats a prediction "
        "(word_aligned: squared distance); not comparable in height between objectives.",
        alt="Falling curves of the training loss for each objective.",
        lines=True, looks=LOOKS, x_label="update", y_label="loss", columns=2,
    )  # fmt: skip


# What encoders know of translations


def layers(session: Session, probes: Sequence[Result], linked: Result, baselines: pd.DataFrame) -> Drawn:
    """Retrieval and AER by layer; `linked`: the aligner's links, whose AER is the mark to reach."""
    params, rows, marks = session.params, [], []
    count = len(next(iter(probes[0].scores.values()), ()))
    for key in _measured(probes):
        for language in params.targets:
            place = {"row": MEASURES[key], "panel": language}
            rows += [
                place | {"series": objective, "x": layer, "seeds": list(seeds)}
                for objective in (*params.objectives, *params.further_objectives)
                for layer, seeds in enumerate(_by_layer(probes, objective, language, key))
            ]
            marks += [place | mark for mark in _layer_marks(key, language, count, linked, baselines)]
    return drawing.save(
        session.figures / "layers", drawing.facets, rows, title="Translations in the encoder, by layer",
        caption=f"Accuracy of the nearest neighbour among {count} sentences and among linked words; AER of "
        f"links by mutual nearest words; layer 0: the embeddings. {params.seeds} seed(s): dots, and mean.",
        alt="A grid of line plots: retrieval and alignment error by layer, for each target language.",
        claims=PROBE_CLAIMS, marks=marks, lines=True, looks=LOOKS, limits=[0, 1], height=2.0, x_label="layer",
        ticks={str(n): n for n in range(params.num_layers + 1)}, empty="not measured",
    )  # fmt: skip


def _measured(probes: Sequence[Result]) -> list[str]:
    """What the probes have measured in some language."""
    known = {key for probe in probes for own in probe.values["by_layer"].values() for key in own}
    return [key for key in MEASURES if key in known]


def _by_layer(probes: Sequence[Result], objective: str, language: str, key: str) -> list[tuple]:
    """For each layer the values of the seeds; none where the language has no such measure."""
    own = [p.values["by_layer"][language].get(key, []) for p in probes if p.labels["objective"] == objective]
    return list(zip(*own, strict=True))


def _layer_marks(key: str, language: str, count: int, linked: Result, baselines: pd.DataFrame) -> list[dict]:
    """What a layer is compared with: the aligner's AER; chance and what costs no encoder in retrieval."""
    if key == "aer":
        quality = linked.values["quality"].get(language)
        return [{"name": "statistical aligner", "y": quality["aer"]}] if quality else []
    if key == "words":
        return []
    own = baselines[(baselines["task"] == "retrieval") & (baselines["language"] == language)]
    own = own[own["test_set"] == ("multi30k" if key == "captions" else "")]
    known = [{"name": row.baseline, "y": row.score} for row in own.itertuples()]
    return [*([{"name": "chance", "y": 1 / count}] if count and key == "sentences" else []), *known]


def probe_table(probes: Sequence[Result], params: Params, *own: str) -> pd.DataFrame:
    """The last layer's retrieval and AER by objective and language, mean over seeds.

    own : objectives beside those of the profile
    """
    rows = {}
    for key in _measured(probes):
        for objective in (*params.objectives, *params.further_objectives, *own):
            last = {x: _by_layer(probes, objective, x, key)[-1:] for x in params.targets}
            rows[key, objective] = {x: round(float(np.mean(v)), 6) for x, v in last.items() if v}
    return pd.DataFrame(rows).T


def tagging(session: Session, scores: pd.DataFrame, baselines: pd.DataFrame) -> Drawn:
    """Tags and dependency labels read off the last layer, by language and objective, beside baselines."""
    params, names = session.params, {"tags": "tags", "deprel": "dependency labels"}
    own = scores[scores["task"] == "tagging"]
    own = score_table.intervals(own, ["metric", "objective", "language"], params.alpha)
    cheap = baselines[baselines["task"] == "tagging"]
    marks = [
        {"panel": names[row.metric], "name": row.baseline, "x": row.language, "y": row.score}
        for row in cheap.itertuples()
    ]
    own = own.assign(panel=own["metric"].map(names)).rename(columns={"objective": "series", "language": "x"})
    objectives = (*params.objectives, *params.further_objectives)
    own = drawing.in_order(own, panel=names.values(), series=objectives, x=params.languages)
    return drawing.save(
        session.figures / "tagging", drawing.facets, own, claims=PROBE_CLAIMS,
        title="Tags and dependency labels from a frozen encoder", marks=marks, looks=LOOKS,
        caption=f"A linear probe on the last layer, trained on 700 sentences of {params.source}, tested on "
        f"200 parallel ones a language. Dots: {params.seeds} pre-training seed(s); bars: "
        f"{1 - params.alpha:.0%} intervals over seeds and sentences.",
        alt="Accuracy of tags and of dependency labels by language and objective, with cheap baselines.",
        categories=list(params.languages), y_label="accuracy (mean of sentences)", limits=[0, 1.02],
    )  # fmt: skip


def probe_gains(scores: pd.DataFrame, params: Params, over: str = "mlm") -> pd.DataFrame:
    """Gains of each objective over another in what frozen encoders are probed for, in points with intervals.

    Means over the target languages; empty where a language or a seed is missing.
    """
    measures = {"tags": ("tagging", "tags"), "dependency labels": ("tagging", "deprel"),
                "sentence retrieval": ("retrieval", "accuracy")}  # fmt: skip
    rows: dict[str, dict[str, str]] = {}
    for objective in (o for o in (*params.objectives, *params.further_objectives) if o != over):
        for name, (task, metric) in measures.items():
            where = [Setting(x, metric=metric) for x in params.targets]
            a, b = (paired(scores, {"task": task, "objective": o}, where) for o in (objective, over))
            gain = ""
            if not (a.missing or b.missing) and a.seeds == b.seeds:
                e = difference(list(a.scores), list(b.scores), alpha=params.alpha)
                gain = f"{100 * e.estimate:+.1f} [{100 * e.low:.1f}, {100 * e.high:.1f}]"
            rows.setdefault(objective, {})[name] = gain
    return pd.DataFrame(rows).T.rename_axis(f"gain over {over}, points")


# A look inside


def tokenizer(session: Session) -> PreTrainedTokenizerFast:
    """The joint tokenizer, trained anew where only its numbers were published."""
    text = pool.compute(session.runs.text(), session.store, files=True)
    text.file("tokenizer.json")
    return load_tokenizer(text.directory)


def word_map(session: Session, language: str) -> Drawn:
    """Last-layer word vectors of one sentence pair under each objective, on their two main components.

    Encoders of published evidence have no weights: the map is then the published one, and where there is
    none (they are of another profile) their panels stay empty.
    """
    params, published = session.params, session.published / "word_map.json"
    seed = params.first_seed
    encoders = {o: session.store.result(session.runs.encoder(o, seed)) for o in params.objectives}
    if any(run.directory is None for run in encoders.values()) and published.is_file():
        shutil.copyfile(published, session.figures / published.name)
        return drawing.redraw(session.figures / published.name)
    pair = languages_for(params).sample(language, 50)
    row = int(np.argmin([abs(n + m - WORDS_SHOWN) for n, m in pair.lengths]))
    words, rows = pair.words[row], []
    names = [(x, word) for x, side in zip((params.source, language), words, strict=True) for word in side]
    for objective, run in encoders.items():
        panel, plane = objective, np.full((len(names), 2), np.nan)
        if run.directory is None:
            panel = f"{objective} (published without weights)"
        else:
            encoder, encode = models.load(run.file("config.json").parent), WordEncoder(tokenizer(session))
            plane = _plane(np.concatenate([_vectors(encoder, encode, side) for side in words]))
        rows += [
            {"panel": panel, "language": name, "word": word, "x": x, "y": y}
            for (name, word), (x, y) in zip(names, plane.tolist(), strict=True)
        ]
    return drawing.save(
        session.figures / "word_map", drawing.word_map, rows, title="Words of one sentence in two languages",
        caption=f"Last-layer vectors of the words of 1 sentence pair, seed {seed}; each panel has its own "
        "two main components. Lines join words that gold links for sure.",
        alt="Scatter plots of word vectors in two languages, linked words joined by lines.",
        claims=PROBE_CLAIMS, languages=[params.source, language], links=pair.gold.sure[row].tolist(),
    )  # fmt: skip


def _vectors(encoder: models.Encoder, encode: WordEncoder, words: Sequence[str]) -> np.ndarray:
    """Last-layer vectors (W, H) of one sentence's words."""
    ids, owners = encode(words)
    with torch.inference_mode():
        states = encoder.states(torch.from_numpy(join(ids))[None])[0].numpy()
    return pool_words(states[1:-1], np.array(owners))


def _plane(vectors: np.ndarray) -> np.ndarray:
    """Coordinates (W, 2) on the two main components; a component points to its largest coordinate."""
    centred = vectors - vectors.mean(0)
    left, scale, _ = np.linalg.svd(centred.astype(np.float64), full_matrices=False)
    flat = left[:, :2] * scale[:2]
    return flat * np.sign(flat[np.abs(flat).argmax(0), [0, 1]])
