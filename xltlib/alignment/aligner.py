"""Statistical word alignment: trains the fast_align model (`em`) in one or both directions, and aligns."""

import json
import math
import os
import sys
import zipfile
import zlib
from argparse import Namespace
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from xltlib import StudyError
from xltlib.alignment import em
from xltlib.alignment.em import RECOMMENDED, Aligner, Corpus, Pairs, encode
from xltlib.alignment.links import (
    Links,
    split_links,
    symmetrize,
    tokenized_pairs,
    write_pharaoh,
)

BEAM = 4.0  # the printed table leaves out log theta < BEAM * best log theta of the given word (C++ -t)
_ARRAYS = {"given": np.int32, "first_pair": np.int64, "theta": np.float64, "null": np.float64}
_DAMAGED = (  # what NumPy, zipfile and JSON raise for files of another kind
    ValueError, KeyError, TypeError, AttributeError, EOFError, RuntimeError, MemoryError, zlib.error,
    zipfile.BadZipFile,
)  # fmt: skip

# Training


class Iteration(NamedTuple):
    """What one EM iteration measured, with the parameters it started from."""

    cross_entropy: float  # bits per target word; lower is better
    perplexity: float
    tension: float


# called after each iteration: settings of the direction, number from 1, what was measured
Progress = Callable[[Aligner, int, Iteration], None]


@dataclass
class Model:
    """One trained direction; source and target are the text's; with `reverse` theta is p(source | target)."""

    settings: Aligner
    source_words: list[str]
    target_words: list[str]
    given: np.ndarray  # int32 (P,), the conditioning word of each pair; pairs sorted by (generated, given)
    first_pair: np.ndarray  # int64 (F + 1,), where the pairs of each generated word begin, and the end
    theta: np.ndarray  # float64 (P,)
    null: np.ndarray  # float64 (F,), p(generated word | NULL)
    tension: float
    history: list[Iteration]
    links: Links | None = None  # of the training pairs, decoded by the last iteration; not saved

    def align(self, pairs: Pairs) -> Links:
        """Links of new tokenised pairs, without training: one int32 array (L, 2) per pair."""
        corpus = encode(pairs, (self.source_words, self.target_words))
        corpus = corpus.swapped() if self.settings.reverse else corpus
        return _to_links(em.align(corpus, self), corpus, self.settings.reverse)

    @property
    def generated(self) -> np.ndarray:
        """The generated word of each pair, int64 (P,)."""
        return np.repeat(np.arange(len(self.null)), np.diff(self.first_pair))


def _to_links(best: np.ndarray, corpus: Corpus, reverse: bool) -> Links:
    """Links as (source, target) of the text, in the order of the generated side's words."""
    m = corpus.m
    pair = np.repeat(np.arange(len(m)), m)
    j = np.arange(len(best)) - np.repeat(np.cumsum(m) - m, m)
    linked = best > 0
    columns = (j[linked], best[linked] - 1) if reverse else (best[linked] - 1, j[linked])
    return split_links(np.stack(columns, 1).astype(np.int32), np.bincount(pair[linked], minlength=len(m)))


def _train(text: Corpus, settings: Aligner, progress: Progress | None) -> Model:
    corpus, history = text.swapped() if settings.reverse else text, []

    def record(likelihood: float, words: int, tension: float) -> None:
        bits = -likelihood / math.log(2) / words if words else math.nan
        history.append(Iteration(bits, 2.0**bits, tension))
        if progress:
            progress(settings, len(history), history[-1])

    arrays, tension, best = em.estimate(corpus, settings, record)
    links = _to_links(best, corpus, settings.reverse)
    return Model(settings, text.source_words, text.target_words, *arrays, tension, history, links)


def train(pairs: Pairs, settings: Aligner = RECOMMENDED, progress: Progress | None = None) -> Model:
    """Train one direction on tokenised pairs; `model.links` holds their links.

    A pair with an empty side is kept, without links, and left out of the counts and the cross-entropy.
    Likelihoods are in float64; equal input gives equal bits.
    """
    return _train(encode(pairs), settings, progress)


def train_both(
    pairs: Pairs, settings: Aligner = RECOMMENDED, progress: Progress | None = None
) -> tuple[Model, Model]:
    """Train both directions of tokenised pairs, in two threads: (forward, reverse)."""
    text = encode(pairs)
    ways = [replace(settings, reverse=reverse) for reverse in (False, True)]
    with ThreadPoolExecutor(2) as pool:
        forward, backward = pool.map(lambda way: _train(text, way, progress), ways)
    return forward, backward


def align_both(
    pairs: Pairs, settings: Aligner = RECOMMENDED, heuristic: str = "grow-diag-final-and"
) -> Links:
    """Links of tokenised pairs: both directions trained on them, then symmetrised."""
    forward, backward = train_both(pairs, settings)
    return symmetrize(forward.links, backward.links, heuristic)


# Files


def save_models(path: str | Path, models: Sequence[Model]) -> None:
    """Write models trained on one text, one or both directions, to one npz file without pickled objects."""
    about = {
        "words": [models[0].source_words, models[0].target_words],
        "models": [
            {"settings": asdict(model.settings), "tension": model.tension, "history": model.history}
            for model in models
        ],
    }
    arrays = {f"{name}{k}": getattr(model, name) for k, model in enumerate(models) for name in _ARRAYS}
    arrays["about"] = np.frombuffer(json.dumps(about, ensure_ascii=False).encode(), np.uint8)
    with open(path, "wb") as stream:
        np.savez(stream, **arrays)


def load_models(path: str | Path) -> list[Model]:
    """The models of a file that `save_models` wrote.

    Raises
    ------
    StudyError
        For a file that cannot be read, is no such file, or holds what no training can have made: other types
        or shapes, probabilities outside 0 to 1 (NaN), words out of range.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            about = json.loads(file["about"].tobytes())
            models = [
                Model(
                    Aligner(**entry["settings"]),
                    *about["words"],
                    *(file[f"{name}{k}"] for name in _ARRAYS),
                    entry["tension"],
                    [Iteration(*values) for values in entry["history"]],
                )
                for k, entry in enumerate(about["models"])
            ]
        fault = next(filter(None, map(_fault, models)), None)
    except OSError as error:
        raise StudyError(f"{path}: cannot be read: {error.strerror or error}") from None
    except _DAMAGED:
        fault = "not a model written by --save-model, or damaged"
    except StudyError as error:
        fault = f"damaged: {error}"
    if fault:
        raise StudyError(f"{path}: {fault}: train it again with --save-model")
    return models


def _fault(model: Model) -> str | None:
    """What no training can have brought about in a model that was read, if anything."""
    given, generated = model.source_words, model.target_words
    if model.settings.reverse:
        given, generated = generated, given
    if any(len(set(words)) < len(words) for words in (given, generated)):
        return "damaged: a word stands twice"
    for name, kind in _ARRAYS.items():
        values = getattr(model, name)
        if values.dtype != kind or values.ndim != 1:
            return f"damaged: {name} of type {values.dtype} and shape {values.shape}"
    for name in ("theta", "null"):
        values = getattr(model, name)
        wrong = values[~((values >= 0) & (values <= 1))]  # NaN is neither
        if len(wrong):
            return f"damaged: {name} holds {wrong[0]:g}, which is no probability"
    first, pairs = model.first_pair, len(model.given)
    if (len(model.theta), len(model.null), len(first)) != (pairs, len(generated), len(generated) + 1):
        return "damaged: tables of different lengths"
    if first[0] != 0 or first[-1] != pairs or (np.diff(first) < 0).any():
        return "damaged: first_pair does not divide the pairs among the words"
    if ((model.given < 0) | (model.given >= len(given))).any():
        return f"damaged: given holds a word outside 0 to {len(given) - 1}"
    if (np.diff(model.generated * len(given) + model.given) <= 0).any():
        return "damaged: pairs out of order"
    if not 0 < model.tension < math.inf:
        return f"damaged: tension {model.tension}"
    return None


def write_table(path: str | Path, model: Model) -> None:
    """Write log theta as fast_align's -p does, `given TAB generated TAB log p`, improbable pairs left out."""
    given, generated = model.source_words, model.target_words
    if model.settings.reverse:
        given, generated = generated, given
    rows = np.argsort(model.given, kind="stable")
    with np.errstate(divide="ignore"):
        score, null = np.log(model.theta[rows]), np.log(model.null)
    e, f = model.given[rows], model.generated[rows]
    best = np.full(len(given), -np.inf)
    np.maximum.at(best, e, score)
    with open(path, "w", encoding="utf-8", newline="\n") as stream:
        for k in np.flatnonzero(null >= BEAM * null.max(initial=-np.inf)):
            stream.write(f"<eps>\t{generated[k]}\t{null[k]:.6g}\n")
        for k in np.flatnonzero(score >= BEAM * best[e]):
            stream.write(f"{given[e[k]]}\t{generated[f[k]]}\t{score[k]:.6g}\n")


# Command line


def command(args: Namespace) -> int:
    """What `xlt align` does with its arguments."""
    both = args.symmetrize is not None
    if args.force_align:
        models = load_models(args.force_align)
        if len(models) != 1 + both:
            raise StudyError(
                f"{args.force_align}: {len(models)} directions found, {1 + both} expected; a model saved "
                "with --symmetrize is used with --symmetrize, and only such a model"
            )
        pairs = list(tokenized_pairs(args.pairs)) if both else tokenized_pairs(args.pairs)
        sides = [model.align(pairs) for model in models]
    else:
        models = _learn(args, both)
        sides = [model.links for model in models]
    write_pharaoh(sys.stdout, symmetrize(*sides, args.symmetrize) if both else sides[0])
    return 0


def _learn(args: Namespace, both: bool) -> Sequence[Model]:
    settings = Aligner(
        reverse=args.reverse,
        favor_diagonal=args.favor_diagonal or args.diagonal_tension is not None,
        optimize_tension=args.optimize_tension,
        variational_bayes=args.variational_bayes,
        iterations=args.iterations,
        p_null=args.p0,
        alpha=args.alpha,
        tension=Aligner.tension if args.diagonal_tension is None else args.diagonal_tension,
    )

    def report(way: Aligner, number: int, state: Iteration) -> None:
        if math.isnan(state.cross_entropy):
            raise StudyError(f"{args.pairs}: no pair has words on both sides: there is nothing to learn from")
        print(
            f"{'reverse' if way.reverse else 'forward'} iteration {number}: "
            f"cross entropy {state.cross_entropy:.6g} perplexity {state.perplexity:.6g} "
            f"tension {state.tension:.6g}",
            file=sys.stderr,
        )

    for path in filter(None, (args.save_model, args.conditional_probabilities)):
        place = Path(path) if Path(path).exists() else Path(path).parent
        if Path(path).is_dir() or not place.exists() or not os.access(place, os.W_OK):
            raise StudyError(f"{path}: cannot be written; give a file in a folder that exists and is yours")
    learn = train_both if both else train
    models = learn(tokenized_pairs(args.pairs), settings, progress=report)
    models = models if both else (models,)
    if args.save_model:
        save_models(args.save_model, models)
    if args.conditional_probabilities:
        write_table(args.conditional_probabilities, models[0])
    return models
