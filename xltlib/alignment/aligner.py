"""Statistical word alignment: trains the fast_align model in one or both directions, and aligns with it."""

import json
import math
import sys
import zipfile
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from xltlib import StudyError
from xltlib.alignment.cooccurrence import Corpus, Layout, Pairs, encode, lay_out
from xltlib.alignment.em import UNSEEN, Aligner, Parameters, decode, expect, fit_tension, maximise
from xltlib.alignment.links import (
    HEURISTICS,
    AlignmentScore,
    Gold,
    Links,
    aer,
    split_links,
    symmetrize,
    tokenized_pairs,
    write_pharaoh,
)

RECOMMENDED = Aligner(favor_diagonal=True, optimize_tension=True, variational_bayes=True)  # by its authors
BEAM = 4.0  # the printed table leaves out log theta < BEAM * best log theta of the given word (C++ -t)
_ARRAYS = ("given", "first_pair", "theta", "null")


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
    first_pair: np.ndarray  # int64, where the pairs of each generated word begin, and the end
    theta: np.ndarray  # float64 (P,)
    null: np.ndarray  # float64, one per generated word
    tension: float
    history: list[Iteration]
    links: Links | None = None  # of the training pairs, decoded by the last iteration; not saved

    def align(self, pairs: Pairs, device: str = "cpu") -> Links:
        """Links of new tokenised pairs, without training: one int32 array (L, 2) per pair."""
        corpus = encode(pairs, (self.source_words, self.target_words))
        corpus = corpus.swapped() if self.settings.reverse else corpus
        with _one_thread():
            layout = lay_out(corpus, torch.device(device))
            best, _ = decode(layout, self.settings, self._parameters(layout, corpus), len(corpus.target))
        return _to_links(best, corpus, self.settings.reverse)

    @property
    def generated(self) -> np.ndarray:
        """The generated word of each pair, int64 (P,)."""
        return np.repeat(np.arange(len(self.null)), np.diff(self.first_pair))

    def _parameters(self, layout: Layout, corpus: Corpus) -> Parameters:
        """theta of the pairs of another text; pairs and words never seen get `UNSEEN`."""
        types = len(corpus.source_words)
        keys = self.generated * types + self.given
        generated = np.repeat(np.arange(len(corpus.target_words)), np.diff(layout.first_pair.cpu()))
        wanted = generated * types + layout.given.cpu().numpy()
        place = np.searchsorted(keys, wanted)
        seen = np.append(keys, -1)[place] == wanted
        theta = np.where(seen, np.append(self.theta, UNSEEN)[place], UNSEEN)
        null = np.append(self.null, np.full(len(corpus.target_words) - len(self.null), UNSEEN))
        device = layout.pair.device
        return Parameters(torch.tensor(theta, device=device), torch.tensor(null, device=device), self.tension)


def _to_links(best: np.ndarray, corpus: Corpus, reverse: bool) -> Links:
    """Links as (source, target) of the text, in the order of the generated side's words."""
    m = corpus.m.numpy()
    pair = np.repeat(np.arange(len(m)), m)
    j = np.arange(len(best)) - np.repeat(np.cumsum(m) - m, m)
    linked = best > 0
    columns = (j[linked], best[linked] - 1) if reverse else (best[linked] - 1, j[linked])
    return split_links(np.stack(columns, 1).astype(np.int32), np.bincount(pair[linked], minlength=len(m)))


@contextmanager
def _one_thread() -> Iterator[None]:
    """Sums, and so the last bits of every result, depend on the number of threads: it is one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _train(text: Corpus, settings: Aligner, device: str, progress: Progress | None) -> Model:
    corpus = text.swapped() if settings.reverse else text
    layout = lay_out(corpus, torch.device(device))
    parameters = Parameters(
        torch.full((len(layout.given),), UNSEEN, dtype=torch.float64, device=device),
        torch.full((len(corpus.target_words),), UNSEEN, dtype=torch.float64, device=device),
        settings.tension,
    )
    words, history = len(layout.word), []

    def record(likelihood: float) -> None:
        bits = -likelihood / math.log(2) / words if words else math.nan
        history.append(Iteration(bits, 2.0**bits, parameters.tension))
        if progress:
            progress(settings, len(history), history[-1])

    for number in range(1, settings.iterations):
        fit = settings.optimize_tension and settings.favor_diagonal and number > 1
        theta, null, likelihood, observed = expect(layout, settings, parameters, observe=fit)
        record(likelihood)
        maximise(layout, settings, theta, null)
        tension = parameters.tension
        if fit and words:
            tension = fit_tension(layout, settings, tension, observed, words)
        parameters = Parameters(theta, null, tension)
    best, likelihood = decode(layout, settings, parameters, len(corpus.target))
    record(likelihood)
    arrays = (layout.given, layout.first_pair, parameters.theta, parameters.null)
    return Model(
        settings,
        text.source_words,
        text.target_words,
        *(x.cpu().numpy() for x in arrays),
        parameters.tension,
        history,
        _to_links(best, corpus, settings.reverse),
    )


def train(
    pairs: Pairs, settings: Aligner = RECOMMENDED, device: str = "cpu", progress: Progress | None = None
) -> Model:
    """Train one direction on tokenised pairs; `model.links` holds their links.

    A pair with an empty side is kept, without links, and left out of the counts and the cross-entropy.
    Likelihoods are in float64; on a CPU equal input gives equal bits.
    """
    with _one_thread():
        return _train(encode(pairs), settings, device, progress)


def train_both(
    pairs: Pairs, settings: Aligner = RECOMMENDED, device: str = "cpu", progress: Progress | None = None
) -> tuple[Model, Model]:
    """Train both directions of tokenised pairs, on a CPU in two threads: (forward, reverse)."""
    text = encode(pairs)
    ways = [replace(settings, reverse=reverse) for reverse in (False, True)]
    with _one_thread(), ThreadPoolExecutor(2 if device == "cpu" else 1) as pool:
        forward, backward = pool.map(lambda way: _train(text, way, device, progress), ways)
    return forward, backward


def align_both(
    pairs: Pairs, settings: Aligner = RECOMMENDED, heuristic: str = "grow-diag-final-and", device: str = "cpu"
) -> Links:
    """Links of tokenised pairs: both directions trained on them, then symmetrised."""
    forward, backward = train_both(pairs, settings, device)
    return symmetrize(forward.links, backward.links, heuristic)


def aer_by_size(
    test: Sequence,
    gold: Gold,
    extra: Sequence,
    sizes: Sequence[int],
    settings: Aligner = RECOMMENDED,
    heuristic: str = "grow-diag-final-and",
) -> list[AlignmentScore]:
    """Scores on the test pairs, aligned together with the first `size` pairs of `extra`, for each size."""
    scores = []
    for size in sizes:
        links = align_both([*test, *extra[:size]], settings, heuristic)[: len(test)]
        scores.append(aer(links, gold.sure, gold.possible))
    return scores


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
    """The models of a file that `save_models` wrote."""
    try:
        with np.load(path, allow_pickle=False) as file:
            about = json.loads(file["about"].tobytes())
            return [
                Model(
                    Aligner(**entry["settings"]),
                    *about["words"],
                    *(file[f"{name}{k}"] for name in _ARRAYS),
                    entry["tension"],
                    [Iteration(*values) for values in entry["history"]],
                )
                for k, entry in enumerate(about["models"])
            ]
    except OSError as error:
        raise StudyError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile):
        raise StudyError(
            f"{path}: not a model written by --save-model, or damaged: train it again with --save-model"
        ) from None


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


def register(subparsers) -> None:
    """Add `xlt align`."""
    default = Aligner()
    parser = subparsers.add_parser(
        "align",
        help="word alignment with the fast_align model",
        description="Align the words of a parallel text. Links (source-target, from 0) go to standard "
        "output, the cross-entropy of each iteration to standard error. The usual settings are -d -o -v.",
    )
    add = parser.add_argument
    add("pairs", help="file of `source ||| target` lines, or - for standard input")
    for option, name, text in (
        ("-d", "--favor_diagonal", "favour links near the diagonal"),
        ("-o", "--optimize_tension", "fit how near"),
        ("-v", "--variational_bayes", "Dirichlet prior on the translation probabilities"),
        ("-r", "--reverse", "generate the source from the target"),
    ):
        add(option, name, action="store_true", help=text)
    for option, name, value, text in (
        ("-I", "--iterations", default.iterations, "number of EM iterations"),
        ("-q", "--p0", default.p_null, "probability of NULL"),
        ("-a", "--alpha", default.alpha, "strength of the Dirichlet prior"),
    ):
        add(option, name, type=type(value), default=value, metavar="X", help=text + " (%(default)s)")
    tension = f"start value of the tension ({default.tension}), implies -d"
    add("-T", "--diagonal_tension", type=float, metavar="X", help=tension)
    add("-p", "--conditional_probabilities", metavar="FILE", help="write the table of log probabilities")
    add("--force-align", metavar="MODEL", help="align with a saved model and its settings, without training")
    add("--save-model", metavar="MODEL", help="keep what was learned")
    add("--symmetrize", choices=HEURISTICS, help="align in both directions and combine them")
    parser.set_defaults(func=_command)


def _command(args: Namespace) -> int:
    both = args.symmetrize is not None
    if both and (args.reverse or args.conditional_probabilities):
        raise StudyError("--symmetrize aligns in both directions: leave out -r and -p")
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

    learn = train_both if both else train
    models = learn(tokenized_pairs(args.pairs), settings, progress=report)
    models = models if both else (models,)
    if args.save_model:
        save_models(args.save_model, models)
    if args.conditional_probabilities:
        write_table(args.conditional_probabilities, models[0])
    return models
