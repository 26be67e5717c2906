"""What notebook 01 shows: languages, the aligner's links against gold, and what links are worth to WEAM."""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec

import numpy as np
import pandas as pd

from xltlib import drawing
from xltlib.alignment import aligner, links
from xltlib.claims import scores as score_table
from xltlib.data.languages import Sample, languages_for
from xltlib.drawing import Drawn, Session
from xltlib.params import Params
from xltlib.significance.resampling import resampling_weights
from xltlib.store import Result

DRAWS = 3  # training texts drawn for each size
WORDS_SHOWN = 30  # of both sides of a sentence pair: more would not be read
TRAIN = 2000  # sentence pairs that the aligner has seen where their number does not vary


def language_table(params: Params, text: Result) -> pd.DataFrame:
    """How each language differs from the source, and how the text run's tokenizer cuts its words."""
    languages, rows = languages_for(params), {}
    for name in params.languages:
        size = text.values["languages"][name]
        cut = {"documents": size["documents"], "subwords per word": size["subwords_per_word"]}
        rows[name] = languages.facts(name) | cut
    return pd.DataFrame(rows).T


def samples(params: Params, count: int = 500) -> list[Sample]:
    """Test pairs of every target language that has gold links."""
    languages = languages_for(params)
    return [languages.sample(name, count) for name in languages.linked]


def quality_table(linked: Result) -> pd.DataFrame:
    """AER, precision and recall of the links of a links run, by language."""
    return pd.DataFrame(linked.values["quality"]).T[["aer", "precision", "recall", "links", "sure"]]


def reference_table(session: Session, tests: Sequence[Sample]) -> pd.DataFrame:
    """AER of the aligner and of eflomal, both intersected, by language: each sees the test pairs in training.

    Without eflomal's package its column is missing.
    """
    programs, errors = {"fast_align model (used here)": aligner.align_both}, {}
    if find_spec("eflomal"):
        programs["eflomal"] = links.eflomal_links
    for test in tests:
        train = languages_for(session.params).sample(test.language, TRAIN, "train").pairs
        for name, align in programs.items():
            found = align([*train, *test.pairs], heuristic="intersect")[len(train) :]
            errors.setdefault(name, {})[test.language] = links.aer(test.of_words(found), *test.gold).aer
    return pd.DataFrame(errors)


def symmetrisation(session: Session, tests: Sequence[Sample]) -> Drawn:
    """AER of each direction and of each way of combining both, by language.

    With the 95% percentile interval of a bootstrap of sentence pairs.
    """
    rows = []
    for test in tests:
        train = languages_for(session.params).sample(test.language, TRAIN, "train").pairs
        for name, linked in _by_name(test, train, links.HEURISTICS).items():
            counts = links.matches(linked, test.gold.sure, test.gold.possible)
            shares = resampling_weights(len(counts), 1000, np.random.default_rng(0))
            hits_sure, hits, found, sure = np.vstack([counts.sum(0), shares @ counts]).T
            errors = 1 - (hits_sure + hits) / (found + sure)  # of all pairs, then of the resamples
            low, high = np.quantile(errors[1:], [0.025, 0.975])
            where = {"panel": "", "series": name, "x": test.language, "seeds": []}
            rows.append(where | {"mean": errors[0], "low": low, "high": high})
    told, where = {"sizes": _sizes(tests), "train": TRAIN}, [test.language for test in tests]
    return drawing.save(session, "alignment_symmetrisation", rows, told, categories=where)


def _by_name(test: Sample, train: aligner.Pairs, heuristics: Sequence[str]) -> dict[str, links.Links]:
    """Links of words by models of other pairs: both directions, and what heuristics make of them."""
    forward, backward = (m.align(test.pairs) for m in aligner.train_both(train))
    named = {"forward": forward, "backward": backward}
    named |= {name: links.symmetrize(forward, backward, name) for name in heuristics}
    return {name: test.of_words(linked) for name, linked in named.items()}


def _sizes(tests: Sequence[Sample]) -> str:
    """The number of test pairs, by language where they differ."""
    counts = {test.language: len(test.pairs) for test in tests}
    if len(set(counts.values())) == 1:
        return str(len(tests[0].pairs))
    return ", ".join(f"{count} ({language})" for language, count in counts.items())


def by_size(session: Session, tests: Sequence[Sample], sizes: Sequence[int]) -> Drawn:
    """AER of the intersection against the number of training pairs, for several draws of them."""
    rows, languages = [], languages_for(session.params)
    for test in tests:
        draws = [languages.sample(test.language, max(sizes), "train", k).pairs for k in range(DRAWS)]
        for size in sizes:
            for text in draws:
                linked = _by_name(test, text[:size], ["intersect"])["intersect"]
                rows.append(("", test.language, size, links.aer(linked, *test.gold).aer))
    told, ticks = {"sizes": _sizes(tests), "draws": DRAWS}, {f"{size:,}": size for size in sizes}
    return drawing.save(session, "alignment_size", drawing.gathered(rows), told, ticks=ticks)


def by_corruption(session: Session, tests: Sequence[Sample], shares: Sequence[float]) -> Drawn:
    """AER of gold links of which a share was moved to another word; random links as the upper mark."""
    rows, worst = [], []
    for test in tests:
        gold, rng = test.gold, np.random.default_rng(0)
        for share in [share for _ in range(DRAWS) for share in shares]:
            moved = links.corrupt_links(gold.sure, test.lengths, share, rng)
            rows.append(("", test.language, share, links.aer(moved, *gold).aer))
        by_chance = links.random_links(test.lengths, [len(s) for s in gold.sure], rng)
        worst.append(links.aer(by_chance, *gold).aer)
    told = {"sizes": _sizes(tests), "draws": DRAWS}
    marks = [{"panel": "", "name": "random links (mean)", "x": None, "y": np.mean(worst)}]
    return drawing.save(session, "alignment_corruption", drawing.gathered(rows), told, marks=marks)


def pair(session: Session, test: Sample) -> Drawn:
    """A long test sentence: its links by the aligner, with half of gold moved, and at random."""
    words = [n + m for n, m in test.lengths]
    row = int(np.argmax([n if n <= WORDS_SHOWN else -n for n in words]))
    (source, target), lengths, rng = test.words[row], [test.lengths[row]], np.random.default_rng(0)
    sure, possible = (side[row] for side in test.gold)
    train = languages_for(session.params).sample(test.language, TRAIN, "train").pairs
    by_name = _by_name(test, train, ["intersect", "grow-diag-final-and"])
    shown = {name: linked[row] for name, linked in by_name.items()}
    (shown["half of gold moved"],) = links.corrupt_links([sure], lengths, 0.5, rng)
    (shown["random"],) = links.random_links(lengths, [len(sure)], rng)
    return drawing.save(
        session, "alignment_pair",
        [{"panel": name, "links": linked.tolist()} for name, linked in shown.items()],
        {"language": test.language, "train": TRAIN},
        source=source, target=target, sure=sure.tolist(), possible=possible.tolist(),
    )  # fmt: skip


def weam_by_links(session: Session, scores: pd.DataFrame, linked: Mapping[str, Result]) -> Drawn:
    """Zero-shot nli of WEAM by the error rate of the links that it was trained on; a panel a language.

    Of real languages it is the tags that are told from the encoder as it is, as encoders of a size that this
    study trains do not learn nli; and only of those that have gold links.
    linked : kind of links -> the run that has them; kinds that no WEAM encoder was trained on are left out
    """
    params, rows, task = session.params, [], "tagging" if session.params.data == "real" else "nli"
    own = score_table.clean(scores)
    own = own[own["language"].isin(params.targets)]
    for kind, run in linked.items():
        query = {"objective": "weam", "objective_options": "" if kind == "estimated" else f"links={kind}"}
        told = score_table.rows_of(own, {"task": task, **query})
        told = told[told["language"].isin(run.values["quality"])]
        told = score_table.intervals(told, ["language"], params.alpha).rename(columns={"language": "panel"})
        errors = told["panel"].map(lambda language, run=run: run.values["quality"][language]["aer"])
        rows += told.assign(series="weam", x=errors).to_dict("records")
    rows.sort(key=lambda row: (row["x"], params.targets.index(row["panel"])))
    chance = 1 / 3 if task == "nli" else None
    plain = score_table.rows_of(own, {"task": task}).groupby("language")["mean"].mean()
    marks = [
        {"panel": language, "name": name, "y": y}
        for language in dict.fromkeys(row["panel"] for row in rows)
        for name, y in (("no further pre-training", plain.get(language)), ("chance", chance))
        if y is not None
    ]
    told = {"kinds": ", ".join(linked), "task": "tags" if task == "tagging" else task}
    return drawing.save(session, "weam_links", rows, told, marks=marks)
