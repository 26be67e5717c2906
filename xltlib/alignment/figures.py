"""What notebook 01 shows: languages, the aligner's links against gold, and what links are worth to WEAM."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from xltlib import drawing
from xltlib.alignment import aligner, links
from xltlib.claims import scores as score_table
from xltlib.data.samples import Sample, languages_for
from xltlib.drawing import Drawn, Session
from xltlib.params import Params
from xltlib.significance.resampling import resampling_weights
from xltlib.store import Result

CLAIMS = ["S0-9", "S1-4"]
DRAWS = 3  # training texts drawn for each size
WORDS_SHOWN = 30  # of both sides of a sentence pair: more would not be read


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


def symmetrisation(session: Session, tests: Sequence[Sample], train: int = 2000) -> Drawn:
    """AER of each direction and of each way of combining both, by language."""
    rows = []
    for test in tests:
        text = languages_for(session.params).sample(test.language, train, "train").pairs
        forward, backward = (m.align(test.pairs) for m in aligner.train_both(text))
        by_name = {"forward": forward, "backward": backward}
        by_name |= {name: links.symmetrize(forward, backward, name) for name in links.HEURISTICS}
        for name, linked in by_name.items():
            error = _error(test.of_words(linked), test.gold)
            rows.append({"panel": "", "series": name, "x": test.language, "seeds": [], **error})
    return drawing.save(
        session.figures / "alignment_symmetrisation", drawing.facets, rows,
        title="Links by direction and symmetrisation", claims=CLAIMS,
        caption=f"AER of {_sizes(tests)} sentence pairs a language, aligned by models of {train} other "
        "pairs. Bars: 95% intervals over sentence pairs.",
        alt="Dots of the alignment error rate for each language, by direction and symmetrisation.",
        categories=[t.language for t in tests], limits=[0, None], columns=1, height=3.2,
        y_label="AER (lower is better)",
    )  # fmt: skip


def _error(linked: links.Links, gold: links.Gold, resamples: int = 1000) -> dict[str, float]:
    """AER with the 95% percentile interval of a bootstrap of sentence pairs."""
    counts = []  # for each pair: links in sure, links in possible, links, sure links
    for a, s, p in zip(linked, gold.sure, gold.possible, strict=True):
        a, s, p = ({tuple(link) for link in side.tolist()} for side in (a, s, p))
        counts.append((len(a & s), len(a & (s | p)), len(a), len(s)))
    counts = np.array(counts)
    shares = resampling_weights(len(counts), resamples, np.random.default_rng(0))
    sums = np.vstack([counts.sum(0), shares @ counts])
    error = 1 - (sums[:, 0] + sums[:, 1]) / (sums[:, 2] + sums[:, 3])
    low, high = np.quantile(error[1:], [0.025, 0.975])
    return {"mean": error[0], "low": low, "high": high}


def _sizes(tests: Sequence[Sample]) -> str:
    """The number of test pairs, by language where they differ."""
    counts = {test.language: len(test.pairs) for test in tests}
    if len(set(counts.values())) == 1:
        return str(next(iter(counts.values())))
    return ", ".join(f"{count} ({language})" for language, count in counts.items())


def by_size(session: Session, tests: Sequence[Sample], sizes: Sequence[int]) -> Drawn:
    """AER of the intersection against the number of training pairs, for several draws of them."""
    rows = []
    for test in tests:
        draws = [
            languages_for(session.params).sample(test.language, max(sizes), "train", k).pairs
            for k in range(DRAWS)
        ]
        for size in sizes:
            errors = []
            for text in draws:
                forward, backward = (m.align(test.pairs) for m in aligner.train_both(text[:size]))
                linked = test.of_words(links.symmetrize(forward, backward, "intersect"))
                errors.append(links.aer(linked, test.gold.sure, test.gold.possible).aer)
            rows.append({"panel": "", "series": test.language, "x": size, "seeds": errors})
    return drawing.save(
        session.figures / "alignment_size", drawing.facets, rows, title="Links by corpus size", claims=CLAIMS,
        caption=f"AER of {_sizes(tests)} test pairs a language; links of both directions, intersected. "
        f"Dots: {DRAWS} draws of the training text; lines: their mean.",
        alt="Lines of the alignment error rate against corpus size, one for each language.",
        lines=True, log_x=True, ticks={f"{size:,}": size for size in sizes}, limits=[0, None], columns=1,
        height=3.2, x_label="sentence pairs seen by the aligner", y_label="alignment error rate",
    )  # fmt: skip


def by_corruption(session: Session, tests: Sequence[Sample], shares: Sequence[float]) -> Drawn:
    """AER of gold links of which a share was moved to another word; random links as the upper mark."""
    rows, worst = [], []
    for test in tests:
        gold, rng = test.gold, np.random.default_rng(0)
        errors = np.array([
            [
                links.aer(links.corrupt_links(gold.sure, test.lengths, x, rng), gold.sure, gold.possible).aer
                for x in shares
            ]
            for _ in range(DRAWS)
        ])  # fmt: skip
        rows += [
            {"panel": "", "series": test.language, "x": x, "seeds": own}
            for x, own in zip(shares, errors.T.tolist(), strict=True)
        ]
        by_chance = links.random_links(test.lengths, [len(s) for s in gold.sure], rng)
        worst.append(links.aer(by_chance, gold.sure, gold.possible).aer)
    return drawing.save(
        session.figures / "alignment_corruption", drawing.facets, rows, claims=CLAIMS,
        title="Links corrupted by a known share",
        caption=f"AER of the gold links of {_sizes(tests)} pairs a language after a share of them was moved "
        f"to another word of the same sentence; dots: {DRAWS} draws.",
        alt="Lines of the alignment error rate rising with the share of moved links.",
        marks=[{"panel": "", "name": "random links (mean)", "x": None, "y": np.mean(worst)}] if worst else [],
        lines=True, limits=[0, 1], columns=1, height=3.2, x_label="share of gold links moved",
        y_label="alignment error rate",
    )  # fmt: skip


def pair(session: Session, test: Sample, train: int = 2000) -> Drawn:
    """A long test sentence: its links by the aligner, with half of gold moved, and at random."""
    params = session.params
    words = [n + m for n, m in test.lengths]
    row = int(np.argmax([n if n <= WORDS_SHOWN else -n for n in words]))
    text = languages_for(params).sample(test.language, train, "train").pairs
    one = test.only(row)
    forward, backward = (m.align(one.pairs) for m in aligner.train_both(text))
    by_name = {"forward": forward, "backward": backward}
    by_name |= {x: links.symmetrize(forward, backward, x) for x in ("intersect", "grow-diag-final-and")}
    by_name = {name: one.of_words(linked) for name, linked in by_name.items()}
    rng = np.random.default_rng(0)
    by_name["half of gold moved"] = links.corrupt_links(one.gold.sure, one.lengths, 0.5, rng)
    by_name["random"] = links.random_links(one.lengths, [len(one.gold.sure[0])], rng)
    source, target = one.words[0]
    return drawing.save(
        session.figures / "alignment_pair", drawing.link_matrix,
        [{"panel": name, "links": linked[0].tolist()} for name, linked in by_name.items()], claims=CLAIMS,
        title=f"One sentence pair, {params.source} and {test.language}",
        caption=f"Links of 1 sentence pair (rows: {params.source}, columns: {test.language}) against gold; "
        f"the aligner has seen {train} other pairs.",
        alt="Six matrices of word links: circles on gold squares, the last two largely beside them.",
        source=source, target=target, sure=test.gold.sure[row].tolist(),
        possible=test.gold.possible[row].tolist(),
    )  # fmt: skip


def weam_by_links(session: Session, scores: pd.DataFrame, linked: Mapping[str, Result]) -> Drawn:
    """Zero-shot nli of WEAM by the error rate of the links that it was trained on; a panel a language.

    linked : kind of links -> the run that has them; kinds that no WEAM encoder was trained on are left out
    """
    params = session.params
    own = scores[
        (scores["task"] == "nli") & (scores["method"] == "standard") & (scores["kind"] == "transfer")
    ]
    base = own[(own["objective"] == "none") & (own["objective_options"] == "")]
    rows, marks = [], []
    for language in params.targets:
        for kind in linked:
            query = {"objective": "weam", "objective_options": "" if kind == "estimated" else f"links={kind}"}
            runs = score_table.rows_of(own[own["language"] == language], query | {"task": "nli"})
            error = linked[kind].values["quality"][language]["aer"]
            told = score_table.intervals(runs, ["language"], params.alpha).rename(
                columns={"language": "panel"}
            )
            rows += [row | {"series": "weam", "x": error} for row in told.to_dict("records")]
        plain = base[base["language"] == language]["mean"]
        if plain.size:
            marks.append({"panel": language, "name": "no further pre-training", "y": plain.mean()})
        marks.append({"panel": language, "name": "chance", "y": 1 / 3})
    return drawing.save(
        session.figures / "weam_links", drawing.facets, sorted(rows, key=lambda row: row["x"]),
        title="What the links are worth to WEAM", claims=CLAIMS, marks=marks, lines=True, columns=2,
        caption=drawing.caption(
            f"Zero-shot nli of encoders trained by WEAM on links of different quality ({', '.join(linked)}).",
            params, "bands",
        ),
        alt="Accuracy by alignment error rate of the links, a panel for each target language.",
        x_label="AER of the links", y_label="accuracy",
    )  # fmt: skip
