"""What notebooks 01 and 04 look at in text: example sentences, word links, typing errors."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from xltlib import language_data
from xltlib.alignment import aligner, links
from xltlib.data.tokenization import PreTrainedTokenizerFast, WordEncoder
from xltlib.language_data import Sample
from xltlib.noise import typing as noise
from xltlib.params import Params
from xltlib.significance.resampling import resampling_weights
from xltlib.store import Result

DRAWS = 3  # training texts drawn for each size, noise drawn for each rate
WORDS_SHOWN = 30  # of both sides of a sentence pair: more would not be read
ALIGNMENT_CLAIMS = ["S0-9", "S1-4"]


def samples(params: Params, count: int = 500) -> list[Sample]:
    """Test pairs of every target language that has gold links."""
    known = language_data.of(params)
    return [known.sample(name, count) for name in known.linked]


def language_table(params: Params, text: Result) -> pd.DataFrame:
    """How each language differs from the source, and how the text run's tokenizer cuts its words."""
    known, rows = language_data.of(params), {}
    for name in params.languages:
        size = text.values["languages"][name]
        cut = {"documents": size["documents"], "subwords per word": size["subwords_per_word"]}
        rows[name] = known.facts(name) | cut
    return pd.DataFrame(rows).T


# Word links


def quality_table(linked: Result) -> pd.DataFrame:
    """AER, precision and recall of the links that a links run has found, by language."""
    return pd.DataFrame(linked.values["quality"]).T[["aer", "precision", "recall", "links", "sure"]]


def _sizes(tests: Sequence[Sample]) -> str:
    """The number of test pairs, by language where they differ."""
    counts = {test.language: len(test.pairs) for test in tests}
    if len(set(counts.values())) == 1:
        return str(next(iter(counts.values())))
    return ", ".join(f"{count} ({language})" for language, count in counts.items())


def _counts(found: links.Links, gold: links.Gold) -> np.ndarray:
    """For each pair (N, 4): links in sure, in possible, links found, sure links."""
    rows = []
    for a, s, p in zip(found, gold.sure, gold.possible, strict=True):
        a, s, p = ({tuple(link) for link in side.tolist()} for side in (a, s, p))
        rows.append((len(a & s), len(a & (s | p)), len(a), len(s)))
    return np.array(rows)


def _point(found: links.Links, gold: links.Gold, resamples: int = 1000) -> dict[str, float]:
    """AER with the 95 % percentile interval of a bootstrap of sentence pairs."""
    counts = _counts(found, gold)
    shares = resampling_weights(len(counts), resamples, np.random.default_rng(0))
    sums = np.vstack([counts.sum(0), shares @ counts])
    error = 1 - (sums[:, 0] + sums[:, 1]) / (sums[:, 2] + sums[:, 3])
    low, high = np.quantile(error[1:], [0.025, 0.975])
    return {"mean": round(float(error[0]), 5), "low": round(float(low), 5), "high": round(float(high), 5)}


def aer_by_symmetrisation(params: Params, tests: Sequence[Sample], train: int = 2000) -> dict:
    """AER of each direction and of each way of combining both, by language."""
    points: dict[str, list] = {}
    for test in tests:
        text = language_data.of(params).sample(test.language, train, "train").pairs
        forward, backward = (m.align(test.pairs) for m in aligner.train_both(text))
        found = {"forward": forward, "backward": backward}
        found |= {name: links.symmetrize(forward, backward, name) for name in links.HEURISTICS}
        for name, made in found.items():
            points.setdefault(name, []).append(_point(test.of_words(made), test.gold))
    series = [{"name": name, "points": values} for name, values in points.items()]
    panel = {"y_label": "alignment error rate (lower is better)", "series": series, "limits": [0, None]}
    return {
        "title": "Links by direction and symmetrisation",
        "caption": f"AER of {_sizes(tests)} sentence pairs a language, aligned by models of {train} other "
        "pairs. Bars: 95 % intervals over sentence pairs.",
        "alt": "Dots of the alignment error rate for each language, by direction and symmetrisation.",
        "claims": ALIGNMENT_CLAIMS, "panels": [panel], "width": 6.6,
        "categories": [t.language for t in tests],
    }  # fmt: skip


def aer_by_size(params: Params, tests: Sequence[Sample], sizes: Sequence[int]) -> dict:
    """AER of the intersection against the number of training pairs, for several draws of them."""
    known, series = language_data.of(params), []
    for test in tests:
        curves = []
        for draw in range(DRAWS):
            text = known.sample(test.language, max(sizes), "train", draw).pairs
            errors = []
            for size in sizes:
                forward, backward = (m.align(test.pairs) for m in aligner.train_both(text[:size]))
                found = test.of_words(links.symmetrize(forward, backward, "intersect"))
                errors.append(round(links.aer(found, test.gold.sure, test.gold.possible).aer, 5))
            curves.append({"x": list(sizes), "y": errors})
        series.append({"name": test.language, "curves": curves})
    panel = {
        "x_label": "sentence pairs seen by the aligner", "y_label": "alignment error rate", "log": True,
        "series": series, "limits": [0, None], "ticks": [[size, f"{size:,}"] for size in sizes],
    }  # fmt: skip
    return {
        "title": "Links by corpus size",
        "caption": f"AER of {_sizes(tests)} test pairs a language; links of both directions, "
        f"intersected. Dots: {DRAWS} draws of the training text; lines: their mean.",
        "alt": "Lines of the alignment error rate against corpus size, one for each language.",
        "claims": ALIGNMENT_CLAIMS, "panels": [panel], "width": 6.0,
    }  # fmt: skip


def aer_by_corruption(tests: Sequence[Sample], shares: Sequence[float]) -> dict:
    """AER of gold links of which a share was moved to another word; random links as the upper mark."""
    series, worst = [], []
    for test in tests:
        rng, curves = np.random.default_rng(0), []
        for _ in range(DRAWS):
            made = [links.corrupt_links(test.gold.sure, test.lengths, share, rng) for share in shares]
            errors = [round(links.aer(m, test.gold.sure, test.gold.possible).aer, 5) for m in made]
            curves.append({"x": list(shares), "y": errors})
        series.append({"name": test.language, "curves": curves})
        made = links.random_links(test.lengths, [len(s) for s in test.gold.sure], rng)
        worst.append(links.aer(made, test.gold.sure, test.gold.possible).aer)
    panel = {
        "x_label": "share of gold links moved", "y_label": "alignment error rate", "series": series,
        "limits": [0, 1], "levels": [{"name": "random links (mean)", "y": round(float(np.mean(worst)), 5)}],
    }  # fmt: skip
    return {
        "title": "Links corrupted by a known share",
        "caption": f"AER of the gold links of {_sizes(tests)} pairs a language after a share of them "
        f"was moved to another word of the same sentence; dots: {DRAWS} draws.",
        "alt": "Lines of the alignment error rate rising with the share of moved links.",
        "claims": ALIGNMENT_CLAIMS, "panels": [panel], "width": 6.0,
    }  # fmt: skip


def link_matrices(params: Params, test: Sample, train: int = 2000) -> dict:
    """A long test sentence: its links by the aligner, with half of gold moved, and at random."""
    words = [n + m for n, m in test.lengths]
    row = int(np.argmax([n if n <= WORDS_SHOWN else -n for n in words]))
    text = language_data.of(params).sample(test.language, train, "train").pairs
    one = test.only(row)
    forward, backward = (m.align(one.pairs) for m in aligner.train_both(text))
    found = {"forward": forward, "backward": backward}
    found |= {
        name: links.symmetrize(forward, backward, name) for name in ("intersect", "grow-diag-final-and")
    }
    found = {name: one.of_words(made) for name, made in found.items()}
    rng = np.random.default_rng(0)
    found["half of gold moved"] = links.corrupt_links(one.gold.sure, one.lengths, 0.5, rng)
    found["random"] = links.random_links(one.lengths, [len(one.gold.sure[0])], rng)
    source, target = one.words[0]
    return {
        "title": f"One sentence pair, {params.source} and {test.language}",
        "caption": f"Links of 1 sentence pair (rows: {params.source}, columns: {test.language}) against "
        f"gold; the aligner has seen {train} other pairs.",
        "alt": "Six matrices of word links: circles on gold squares, the last two largely beside them.",
        "claims": ALIGNMENT_CLAIMS, "columns": 3, "source": source, "target": target,
        "sure": test.gold.sure[row].tolist(), "possible": test.gold.possible[row].tolist(),
        "panels": [{"name": name, "links": made[0].tolist()} for name, made in found.items()],
    }  # fmt: skip


# Typing errors


def noise_table(params: Params, tokenizer: PreTrainedTokenizerFast, rate: float) -> pd.DataFrame:
    """One sentence of each language before and after typing errors, as words and as subwords."""
    known, rows = language_data.of(params), {}
    for language in params.languages:
        texts = known.texts(language, 200)
        rng = np.random.default_rng([params.world_of(), 45])
        typed = noise.typo(texts[0], rate, known.keyboard(language), rng)
        cut = {name: " ".join(tokenizer.tokenize(x)) for name, x in (("clean", texts[0]), ("typed", typed))}
        words = {"clean": texts[0], "typed": typed}
        rows[language] = words | {"clean subwords": cut["clean"], "typed subwords": cut["typed"]}
    return pd.DataFrame(rows).T


def noise_tokens(
    params: Params, tokenizer: PreTrainedTokenizerFast, rates: Sequence[float], count: int = 500
) -> dict:
    """Words changed, subwords per word, and words that stay one subword, by error rate and language."""
    names = ("words changed (share)", "subwords per word", "words of one subword (share)")
    found: list[list] = [[] for _ in names]
    for language in params.languages:
        texts = language_data.of(params).texts(language, count)
        keyboard, encode = language_data.of(params).keyboard(language), WordEncoder(tokenizer)
        curves: list[list] = [[] for _ in names]
        for draw in range(DRAWS):
            rng = np.random.default_rng([params.world_of(), 46, draw])
            typed = [noise.typo_many(texts, rate, keyboard, rng) for rate in rates]
            values = np.array([_token_counts(texts, many, encode) for many in typed]).round(5)
            for k, y in enumerate(values.T.tolist()):
                curves[k].append({"x": list(rates), "y": y})
        for k, curve in enumerate(curves):
            found[k].append({"name": language, "curves": curve})
    panels = [
        {"name": name, "x_label": "errors per word (rate)", "series": series}
        for name, series in zip(names, found, strict=True)
    ]
    return {
        "title": "What typing errors do to subwords",
        "caption": f"{count} sentences a language; a word of two letters or more gets one error with the "
        f"chance given. Dots: {DRAWS} draws of the noise; lines: their mean.",
        "alt": "Three panels by error rate and language: words changed, subwords per word, words left whole.",
        "claims": [], "panels": panels, "columns": 3, "width": 3.0,
    }  # fmt: skip


def _token_counts(
    texts: Sequence[str], typed: Sequence[str], encode: WordEncoder
) -> tuple[float, float, float]:
    """Shares of words changed, subwords per word, and words of one subword."""
    clean, now = (" ".join(side).split() for side in (texts, typed))
    pieces = np.array([len(encode([word])[0]) for word in now])
    changed = np.mean([a != b for a, b in zip(clean, now, strict=True)])
    return float(changed), float(pieces.mean()), float((pieces == 1).mean())
