"""The statistical aligner: by hand, against plain loops, and against the C++ program."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.special import digamma

from xltlib import StudyError
from xltlib.alignment import aligner
from xltlib.alignment.aligner import RECOMMENDED, Aligner, align_both, train, train_both
from xltlib.alignment.links import aer, read_gold

BOOKS = """\
the house ||| das haus
the book ||| das buch
a book ||| ein buch
the small house is old ||| das kleine haus ist alt
a small book ||| ein kleines buch
the old book of the house ||| das alte buch des hauses
it is a house ||| es ist ein haus
"""


def split(text: str) -> list[tuple[list[str], list[str]]]:
    return [tuple(side.split() for side in line.split("|||")) for line in text.splitlines()]


def pharaoh(links) -> str:
    return "|".join(" ".join(f"{i}-{j}" for i, j in pair.tolist()) for pair in links)


def random_pairs(generator, vocabulary: int = 9, size: int = 30):
    """Pairs of 0 to 7 words from vocabularies of a size, repeated words and empty sentences among them."""

    def sentence(letter: str) -> list[str]:
        return [f"{letter}{k}" for k in generator.integers(0, vocabulary, generator.integers(0, 8))]

    return [(sentence("e"), sentence("f")) for _ in range(size)]


def table(model) -> dict:
    """theta by (given, generated) word, NULL as None."""
    given, generated = model.source_words, model.target_words
    if model.settings.reverse:
        given, generated = generated, given
    words = np.repeat(np.arange(len(model.pairs_of)), model.pairs_of)
    pairs = zip(model.given, words, model.parameters.theta, strict=True)
    theta = {(given[e], generated[f]): p for e, f, p in pairs}
    return theta | {(None, f): p for f, p in zip(generated, model.parameters.null, strict=True)}


# Known answers


def test_two_sentences_by_hand():
    """IBM model 1. First x and y of pair 1 go in thirds to NULL, a, b; x of pair 2 in halves to NULL, a."""
    model = train([(["a", "b"], ["x", "y"]), (["a"], ["x"])], Aligner(iterations=2))
    assert table(model) == pytest.approx(
        {
            ("a", "x"): (1 / 3 + 1 / 2) / (7 / 6),
            ("a", "y"): (1 / 3) / (7 / 6),
            ("b", "x"): 1 / 2,
            ("b", "y"): 1 / 2,
            (None, "x"): 5 / 7,
            (None, "y"): 2 / 7,
        }
    )
    assert pharaoh(model.links) == "1-1|"  # x is as likely from a as from NULL, and NULL wins ties
    x, y, x_alone = (5 / 7 + 5 / 7 + 1 / 2) / 3, (2 / 7 + 2 / 7 + 1 / 2) / 3, (5 / 7 + 5 / 7) / 2
    assert model.cross_entropies[1] == pytest.approx(-math.log2(x * y * x_alone) / 3)


@pytest.mark.parametrize(
    ("settings", "links", "entropies", "tension"),
    [
        (
            Aligner(),
            "0-0 1-1|0-0 1-1|0-0 1-1|0-0 4-1 2-2 3-3 4-4|0-0 1-1 2-2|0-0 3-1 2-2 3-3 3-4|0-0 1-1 2-2 3-3",
            [29.8974, 2.69157, 2.54874, 2.45306, 2.38937],
            4.0,
        ),
        (
            Aligner(variational_bayes=True),
            "1-1|1-1|0-0 1-1|4-1 2-2 3-3 4-4|0-0 1-1 2-2|0-1 2-2 0-3 0-4|0-0 1-1 2-2 3-3",
            [29.8974, 5.08265, 3.57563, 2.91009, 2.72045],
            4.0,
        ),
        (
            Aligner(favor_diagonal=True),
            "0-0 1-1|0-0 1-1|0-0 1-1|0-0 1-1 2-2 3-3 4-4|0-0 1-1 2-2|0-0 1-1 2-2 3-3 5-4|0-0 1-1 2-2 3-3",
            [29.8974, 1.70032, 1.34168, 1.25077, 1.22344],
            4.0,
        ),
        (
            RECOMMENDED,
            "0-0 1-1|0-0 1-1|0-0 1-1|0-0 1-1 2-2 3-3 4-4|0-0 1-1 2-2|0-0 1-1 2-2 3-3 5-4|0-0 1-1 2-2 3-3",
            [29.8974, 2.6183, 2.43743, 2.38126, 2.36581],
            0.161357,
        ),
        (
            replace(RECOMMENDED, reverse=True, iterations=7, p_null=0.2, alpha=0.1, tension=2.0),
            "0-0 1-1|0-0 1-1|0-0 1-1|0-0 1-1 2-2 3-3 4-4|0-0 1-1 2-2|0-0 1-1 2-2 3-3 4-0|0-0 1-1 2-2 3-3",
            [29.8974, 3.24267, 2.74921, 2.46782, 2.4028, 2.38108, 2.37431],
            0.1,
        ),
    ],
    ids=["none", "-v", "-d", "-d -o -v", "-d -o -v -r -I 7 -q 0.2 -a 0.1 -T 2"],
)
def test_the_cpp_program_says_the_same(settings, links, entropies, tension):
    """Output of fast_align (cab1e9a, one thread) on the same seven pairs."""
    model = train(split(BOOKS), settings)
    assert pharaoh(model.links) == links
    assert [float(f"{bits:.6g}") for bits in model.cross_entropies] == entropies
    assert model.parameters.tension == pytest.approx(tension, rel=1e-5)


@pytest.mark.parametrize(
    "value", [{"tension": 1e-300}, {"tension": 700.0}, {"alpha": 1e308}, {"iterations": 0}]
)
def test_settings_whose_sums_have_no_digits_are_refused(value):
    with pytest.raises(StudyError, match=rf"aligner: {next(iter(value))} = .*expected"):
        Aligner(**value)


# Fast against slow


def slow_train(pairs, s: Aligner):
    """The model as plain loops over words and dictionaries: (theta, links, cross-entropies, tension)."""

    def h(i, j, n, m):
        return -abs(i / n - j / m)

    def weights(j, n, m, tension):
        return [math.exp(tension * h(i, j, n, m)) for i in range(1, n + 1)]

    if s.reverse:
        pairs = [(f, e) for e, f in pairs]
    full = [(e, f) for e, f in pairs if e and f]
    words = sum(len(f) for _, f in full)
    theta = {(a, b): 1e-9 for e, f in full for a in (None, *e) for b in f}
    tension, entropies = s.tension, []
    for number in range(1, s.iterations + 1):
        counts, likelihood, observed, links = dict.fromkeys(theta, 0.0), 0.0, 0.0, []
        for e, f in pairs:
            links.append([])
            for j, b in enumerate(f if e else [], 1):
                n, m = len(e), len(f)
                prior = [1 / (n + 1)] * (n + 1)
                if s.favor_diagonal:
                    w = weights(j, n, m, tension)
                    prior = [s.p_null, *((1 - s.p_null) * x / sum(w) for x in w)]
                joint = [p * theta[a, b] for p, a in zip(prior, (None, *e), strict=True)]
                likelihood += math.log(sum(joint))
                for i, a in enumerate((None, *e)):
                    counts[a, b] += joint[i] / sum(joint)
                    if i:
                        observed += h(i, j - 1, n, m) * joint[i] / sum(joint)
                best = max(range(n + 1), key=joint.__getitem__)
                if best:
                    links[-1].append((j - 1, best - 1) if s.reverse else (best - 1, j - 1))
        entropies.append(-likelihood / math.log(2) / words)
        if number == s.iterations:
            return theta, links, entropies, tension
        if s.favor_diagonal and s.optimize_tension and number > 1:
            for _ in range(8):
                expected = 0.0
                for e, f in full:
                    n, m = len(e), len(f)
                    for j in range(1, m + 1):
                        w = weights(j, n, m, tension)
                        exchanged = aligner.normalizer(*np.array([j, n, m], float), tension)
                        expected += sum(x * h(i, j, n, m) for i, x in enumerate(w, 1)) / exchanged
                tension = min(max(tension + 20 * (observed - expected) / words, 0.1), 14.0)
        alpha = s.alpha if s.variational_bayes else 0.0
        sums = {}
        for (a, _), c in counts.items():
            sums[a] = sums.get(a, 0.0) + c + alpha
        if s.variational_bayes:
            theta = {k: math.exp(digamma(c + alpha) - digamma(sums[k[0]])) for k, c in counts.items()}
        else:
            theta = {k: c / sums[k[0]] for k, c in counts.items()}


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("bayes", [False, True])
@pytest.mark.parametrize(("diagonal", "optimize"), [(False, False), (True, False), (True, True)])
def test_vectorised_em_agrees_with_plain_loops(monkeypatch, reverse, bayes, diagonal, optimize):
    """Chunks of 5 links cut groups in pieces, and number the pairs of nearly each word apart.

    Pairs of 9 words are numbered by a table, those of 200 words, most of them rare, by sorting.
    """
    for seed, (chunk, vocabulary) in enumerate([(aligner.CHUNK, 9), (5, 9), (aligner.CHUNK, 200)]):
        monkeypatch.setattr(aligner, "CHUNK", chunk)
        pairs = random_pairs(np.random.default_rng(seed), vocabulary)
        settings = Aligner(reverse, diagonal, optimize, bayes)
        theta, links, entropies, tension = slow_train(pairs, settings)
        model = train(pairs, settings)
        fast = table(model)
        assert {key: fast[key] for key in theta} == pytest.approx(theta, rel=1e-6, abs=1e-12)
        assert model.cross_entropies == pytest.approx(entropies, rel=1e-9)
        assert model.parameters.tension == pytest.approx(tension, rel=1e-7)
        total = sum(map(len, links))
        fast_links = [set(map(tuple, pair.tolist())) for pair in model.links]
        different = sum(len(a ^ set(b)) for a, b in zip(fast_links, links, strict=True))
        assert different <= 0.04 * total  # ties may fall either way


def test_closed_forms_of_the_prior():
    for n, m in [(1, 1), (1, 9), (7, 1), (5, 8), (12, 4)]:
        for tension in (0.1, 4.0, 14.0):
            j, i = np.arange(1.0, m + 1), np.arange(1.0, n + 1)[:, None]
            h = -np.abs(i / n - j / m)
            weight = np.exp(tension * h)
            sizes = np.full_like(j, m), np.full_like(j, n)
            assert aligner.normalizer(j, *sizes, tension) == pytest.approx(weight.sum(0))
            found = aligner.weighted_distance(j, *sizes, tension)
            assert found == pytest.approx((weight * h).sum(0), rel=1e-9, abs=1e-9)


# Behaviour


def test_the_order_of_sentences_does_not_matter():
    pairs = split(BOOKS) * 2
    order = np.random.default_rng(1).permutation(len(pairs))
    links = align_both(pairs)
    shuffled = align_both([pairs[k] for k in order])
    assert pharaoh(links[k] for k in order) == pharaoh(shuffled)


def test_empty_and_one_word_sentences():
    pairs = [([], []), (["a"], []), ([], ["x", "neu"]), (["a"], ["x"]), (["a"], ["x"])]
    for settings in (Aligner(), RECOMMENDED, replace(RECOMMENDED, reverse=True)):
        model = train(pairs, settings)
        assert [len(pair) for pair in model.links[:3]] == [0, 0, 0]
        assert all(pair.dtype == np.int32 and pair.shape[1] == 2 for pair in model.links)
        alone = train(pairs[3:], settings)
        assert model.cross_entropies == alone.cross_entropies  # what has an empty side takes no part
        assert pharaoh(model.links[3:]) == pharaoh(alone.links)


@pytest.mark.parametrize("pairs", [[], [([], [])], [([], ["x"])]])
def test_a_text_without_any_possible_link_is_refused(pairs):
    with pytest.raises(StudyError, match="nothing to learn from"):
        train_both(pairs)


def test_a_model_aligns_its_own_text_as_in_training_and_other_text():
    pairs = split(BOOKS)
    models = train_both(pairs)
    for model in models:
        assert pharaoh(model.align(pairs)) == pharaoh(model.links)
    new = models[0].align([(["the", "unseen", "house"], ["das", "neue", "haus"]), ([], ["das"])])
    assert {(0, 0), (2, 2)} <= set(map(tuple, new[0].tolist()))
    assert len(new[1]) == 0


# Bad input


@pytest.mark.parametrize(
    "wrong", [{"iterations": 0}, {"p_null": 0.0}, {"p_null": 1.0}, {"alpha": 0.0}, {"tension": math.nan}]
)
def test_settings_out_of_range(wrong):
    with pytest.raises(StudyError, match=next(iter(wrong))):
        Aligner(**wrong)


def test_sentences_must_be_lists_of_words():
    with pytest.raises(StudyError, match="sentence pair 2"):
        train([(["a"], ["b"]), ("a b", "x y")])


def test_a_pair_too_long_for_the_memory_is_refused():
    with pytest.raises(StudyError, match="sentence pair 2: 20000 source and 20000 target words"):
        train([(["a"], ["b"]), (["a"] * 20000, ["b"] * 20000)])


# Real text: what fast_align (cab1e9a) and atools score with -d -o -v, both ways, and grow-diag-final-and


@pytest.mark.slow
@pytest.mark.parametrize(("pair", "expected"), [("enfr", 0.2929), ("zhen", 0.5097), ("jaen", 0.7143)])
def test_aer_on_gold(data_dir, pair, expected):
    folder = data_dir / "word_alignment" / pair
    text = (folder / f"{pair}.src-tgt").read_text(encoding="utf-8").lower()
    pairs = split(text)
    gold = read_gold(folder / f"{pair}.gold", [(len(e), len(f)) for e, f in pairs], 1)
    score = aer(align_both(pairs), gold.sure, gold.possible)
    assert score.aer == pytest.approx(expected, abs=0.002)
