"""Noise by substitution: synonyms (RS-DA), dictionary code-switching (CoSDA-ML), and corrupted token ids."""

from __future__ import annotations

import math
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from numbers import Real

import numpy as np

from xltlib import StudyError


def check_rate(where: str, rate: float) -> None:
    """StudyError unless `rate` is a number from 0 to 1."""
    if not isinstance(rate, Real) or isinstance(rate, bool) or math.isnan(rate) or not 0 <= rate <= 1:
        raise StudyError(f"{where}: expected a number from 0 to 1, found {rate!r}")


def rs_da(
    words: Sequence[str], neighbours: Mapping[str, Sequence[str]], rng: np.random.Generator
) -> list[str]:
    """Randomised smoothing by data augmentation: each word a uniform draw from itself and its neighbours.

    A word with k neighbours stays with chance 1 / (1 + k); look-up is exact, so case and punctuation count.
    Source: perturb.py as released with Robust-XLT (arXiv 2104.08645).
    """
    draws, out = rng.random(len(words)).tolist(), list(words)
    for i, word in enumerate(words):
        near = neighbours.get(word)
        if near:
            pick = int(draws[i] * (1 + len(near)))
            out[i] = near[pick - 1] if pick else word
    return out


def rs_da_copies(
    pair: Sequence[str], copies: int, neighbours: Mapping[str, Sequence[str]], rng: np.random.Generator
) -> list[tuple[str, ...]]:
    """Perturbed copies of an example's sentences, each sentence and copy on its own, without the original.

    Words are what stands between single spaces. The released recipe makes 10 copies for PAWS-X, 3 for XNLI.
    """
    if isinstance(pair, str):
        raise StudyError(f"rs_da_copies: expected a sequence of sentences, found the string {pair!r}")
    words = [sentence.split(" ") for sentence in pair]
    return [tuple(" ".join(rs_da(sentence, neighbours, rng)) for sentence in words) for _ in range(copies)]


def without_foreign(
    neighbours: Mapping[str, Sequence[str]], vocabulary: Collection[str]
) -> dict[str, list[str]]:
    """The neighbour lists with only the words of `vocabulary` (the source language), compared as written.

    The control for RS-DA: the released English lists hold foreign words too, for example man -> hombre.
    """
    return {word: [other for other in near if other in vocabulary] for word, near in neighbours.items()}


def foreign_words(
    words: Iterable[str], counts: Mapping[str, Mapping[str, int]], source: str, ratio: float = 5.0
) -> set[str]:
    """Those of the words that another language's text has more than `ratio` times as often as the source's.

    Shares of all words of a text are compared, with one more occurrence of each word in the source; only
    languages count that are written in the source's letters. The rule was chosen on 200 substitutions that
    the lists of Robust-XLT make in the English pairs of TaxiNLI (seed 2026; the text is the Bible, NTREX,
    TICO-19, Multi30K, WMT and EuTrans in six languages) and checked by hand on 200 others (seed 2027): there
    it caught 4 of 5 foreign words (soleil, vida, mein, ha; not the Dutch hun), and took 3 of 195 English ones
    for foreign (ca and wo, which are the halves of "ca n't" and "wo n't", and nationwide). In both samples
    12 of 13, and 4 of 387. "Absent from English text" catches 3 of the first sample's 8 (enfants, primo,
    supremo; but not mein, mise or ni) and takes 12 of its 192 English words for foreign (yup, riveting).

    Parameters
    ----------
    counts : language -> word in lower case -> how often its text has it.
    """
    totals = {language: sum(table.values()) for language, table in counts.items()}
    letters = {x: _script(table) for x, table in counts.items()}
    others = [x for x in counts if x != source and letters[x] == letters[source] and totals[x]]

    def is_foreign(word: str) -> bool:
        own = (counts[source].get(word, 0) + 1) / max(totals[source], 1)
        return any(counts[x].get(word, 0) / totals[x] > ratio * own for x in others)

    return {word for word in words if is_foreign(word)}


def _script(counts: Mapping[str, int]) -> str:
    """The script of most words of a text, as Unicode names its letters: "LATIN"."""
    scripts: Counter[str] = Counter()
    for word, count in counts.items():
        scripts[unicodedata.name(word[:1] or " ").partition(" ")[0]] += count
    return max(scripts, key=scripts.__getitem__, default="")


def code_switch(
    words: Sequence[str],
    lexicon: Mapping[str, Mapping[str, Sequence[str]]],
    rng: np.random.Generator,
    *,
    cross: float,
    ratio: float = 1.0,
    lower: bool = True,
) -> list[str]:
    """Dictionary code-switching as CoSDA-ML (Qin et al., IJCAI 2020).

    With chance `ratio` the sentence takes part. Then each word is, with chance `cross`, translated into a
    language drawn uniformly from `lexicon` ({language: {word: translations}}), by a translation drawn
    uniformly; a word without an entry in that language stays. `lower` puts all words in lower case first, as
    released.
    """
    check_rate("code_switch: cross", cross)
    check_rate("code_switch: ratio", ratio)
    if not lexicon:
        raise StudyError("code_switch: the lexicon is empty; expected {language: {word: [translations]}}")
    out = [word.lower() for word in words] if lower else list(words)
    if rng.random() >= ratio:
        return out
    tables, draws = list(lexicon.values()), rng.random((len(out), 3))
    for i in np.flatnonzero(draws[:, 0] < cross).tolist():
        translations = tables[int(draws[i, 1] * len(tables))].get(out[i])
        if translations:
            out[i] = translations[int(draws[i, 2] * len(translations))]
    return out


def corrupt_ids(
    ids: np.ndarray,
    rate: float,
    rng: np.random.Generator,
    kind: str,
    *,
    special: Collection[int] = (),
    mask_id: int | None = None,
    vocabulary_size: int | None = None,
) -> np.ndarray:
    """Token ids (T,), of which each one not in `special` is corrupted with chance `rate`; a new array.

    `kind`: "mask" puts `mask_id`, "replace" a uniform draw from the other ids below `vocabulary_size` that
    are not special, "drop" leaves the id out (the result is shorter, and may be empty).
    """
    check_rate("corrupt_ids: rate", rate)
    ids, special = np.array(ids), np.array(sorted(special), dtype=np.int64)
    if ids.ndim != 1 or (ids.size and ids.dtype.kind not in "iu"):
        raise StudyError(f"corrupt_ids: expected whole numbers of shape (T,), found {ids.dtype} {ids.shape}")
    hit = (rng.random(len(ids)) < rate) & ~np.isin(ids, special)
    if kind == "drop":
        return ids[~hit]
    if kind == "mask" and mask_id is not None:
        ids[hit] = mask_id
    elif kind == "replace" and vocabulary_size is not None:
        ids[hit] = _other_ids(ids[hit], np.setdiff1d(np.arange(vocabulary_size), special), rng)
    else:
        wanted = "mask (with mask_id), replace (with vocabulary_size) or drop"
        raise StudyError(f"corrupt_ids: kind {kind!r}: expected {wanted}")
    return ids


def _other_ids(ids: np.ndarray, pool: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """For each id a uniform draw from `pool` (sorted) without that id."""
    place = np.searchsorted(pool, ids)
    if len(pool) < 2 or (ids.size and ids.max() > pool[-1]):
        raise StudyError(
            f"corrupt_ids: an id outside the vocabulary, or fewer than two ids to draw from: {len(pool)}"
        )
    draw = rng.integers(0, len(pool) - 1, size=len(ids))
    return pool[draw + (draw >= place)]
