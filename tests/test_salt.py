"""SALT: proposals against a slow loop and an encoder that translates by a table; mixtures by hand."""

import numpy as np
import pytest
import shapes
import torch
from scipy.stats import kstest
from test_tokenization import published
from torch import nn

from xltlib.data import tokenization
from xltlib.data.tokenization import CLS, OWN, SEP, join
from xltlib.finetuning import salt
from xltlib.finetuning.options import Options
from xltlib.finetuning.words import Pieces, Places, find_words, union, vocabulary
from xltlib.pretraining import models

# ids of the toy tokenizer's words
TEXT = ["tok tik tak .", "mana mono mini"]


class Dictionary(nn.Module):
    """An encoder whose head gives every subword logits by a table (V, V), whatever stands around it."""

    def __init__(self, table):
        super().__init__()
        self.vocab_size = len(table)
        self.table, self.seen = torch.tensor(table, dtype=torch.float32), []

    def states(self, ids, second=None):
        self.seen.append(ids)
        return nn.functional.one_hot(ids, len(self.table)).float()

    def logits(self, states):
        return states @ self.table


class Cut(Pieces):
    """Subwords of a toy vocabulary: from 30 on they continue a word, 29 is a full stop."""

    special = OWN

    def __init__(self, size=40):
        self.starts = np.arange(size) < 30
        self.inside = (np.arange(size) >= 5) & (np.arange(size) != 29)

    def begins(self, flat):
        return self.starts[flat]

    def word(self, ids):
        return "-".join(str(int(i)) for i in ids)


def rng(seed=0):
    return np.random.default_rng(seed)


def column(*ids):
    return {1: np.array(ids)[:, None]}


def of(places):
    return [tuple(int(part[i]) for part in places) for i in range(len(places.begin))]


@pytest.fixture
def dictionary():
    """10, 11, 12 are source words; 20, 21, 22 the target's; 10 -> 20 surely, 11 -> 21 hardly; 12 ~ 11."""
    table = np.zeros((40, 40))
    table[10, 20], table[10, 21] = 9, 1
    table[11, 21], table[11, 20] = 0.5, 0.2
    table[12, 22], table[12, 11] = 3, 8
    table[np.arange(40), np.arange(40)] = 20  # every word fits itself best
    return Dictionary(table)


# Words and vocabularies


def test_words_by_hand():
    sequences = [np.array([CLS, 7, 30, 31, 8, 29, SEP]), np.array([CLS, 9, SEP, 10, 30, SEP])]
    assert of(find_words(sequences, Cut())) == [(0, 1, 3), (0, 4, 1), (1, 1, 1), (1, 3, 2)]


SENTENCES = {
    "spaced": ("tok, mono (tik)", ["tok", "mono", "tik"]),
    "marks": ("कुत्ता बैठा।", ["कुत्ता", "बैठा"]),
    "unspaced": ("我喜欢, tok", ["我", "喜", "欢", "tok"]),
}


@pytest.mark.parametrize("kind", ["bert", "xlmr"])
@pytest.mark.parametrize("script", SENTENCES)
def test_words_of_published_tokenizers(kind, script):
    text, words = SENTENCES[script]
    tokenizer = published(kind, [*TEXT, text, *words] * 3, 150)
    pieces = Pieces(tokenizer)
    ids = tokenizer(text, text)["input_ids"]
    sequence = np.array(ids)
    found = of(find_words([sequence], pieces))
    assert [pieces.word(sequence[b : b + k]) for _, b, k in found] == words * 2
    assert not pieces.inside[sorted(tokenization.specials(tokenizer).ids)].any()
    known = vocabulary([sequence], pieces)
    assert sorted(pieces.word(word) for rows in known.values() for word in rows) == sorted(
        {tuple(sequence[b : b + k]): pieces.word(sequence[b : b + k]) for _, b, k in found}.values()
    )


def test_a_vocabulary_is_the_distinct_words():
    documents = [np.array([CLS, 7, 30, 8, SEP]), np.array([CLS, 8, 29, 7, 30, SEP, 6, 31, SEP])]
    found = vocabulary(documents, Cut())
    assert {k: words.tolist() for k, words in found.items()} == {1: [[8]], 2: [[6, 31], [7, 30]]}


def test_union():
    both = union([{1: np.array([[8]]), 2: np.array([[7, 30]])}, column(6, 8)])
    assert {k: words.tolist() for k, words in both.items()} == {1: [[6], [8]], 2: [[7, 30]]}


# Proposals


def slow(encoder, sequences, places, words):
    """Best candidate and its probability, one place after the other."""
    out = []
    for sequence, begin, length in of(places):
        ids = torch.from_numpy(sequences[sequence].copy())[None]
        own = ids[0, begin : begin + length].tolist()
        candidates = [c for c in words.get(length, np.empty((0, 1))).tolist() if c != own]
        if not candidates:
            out.append((-1, 0.0))
            continue
        with torch.no_grad():
            logits = encoder.logits(encoder.states(ids))[0, begin : begin + length].log_softmax(-1)
        scores = torch.tensor([sum(float(logits[j, c[j]]) for j in range(length)) for c in candidates])
        best = int(scores.argmax())
        out.append((words[length].tolist().index(candidates[best]), float(scores.softmax(0)[best])))
    return out


def test_proposals_against_a_slow_loop():
    encoder, numbers = models.tiny(40, 16, 2, 2, seed=0).eval(), rng()
    sequences = [join(numbers.integers(5, 40, n)) for n in (3, 6, 6, 9, 4)]
    sequences.append(join([7, 30, 31, 8]))
    places = find_words(sequences, Cut())
    places = places.where((numbers.random(len(places.begin)) < 0.7) | (places.sequence == 5))
    words = {k: np.unique(numbers.integers(5, 40, (12, k)), axis=0) for k in (1, 2)}
    choice, probability = salt.propose(encoder, sequences, places, words, batch_size=2)
    expected = slow(encoder, sequences, places, words)
    assert choice.tolist() == [number for number, _ in expected]
    assert probability == pytest.approx([p for _, p in expected], abs=1e-5)
    assert max(places.length) > 2  # words longer than all candidates have none
    assert {-1} == {c for c, k in zip(choice, places.length, strict=True) if k > 2}


def test_few_scores_at_once_are_the_same(monkeypatch):
    encoder, numbers = models.tiny(40, 16, 1, 2, seed=0).eval(), rng()
    sequences = [join(numbers.integers(5, 29, 6)) for _ in range(20)]
    places, words = find_words(sequences, Cut()), column(*range(10, 30))
    whole = salt.propose(encoder, sequences, places, words)
    monkeypatch.setattr(salt, "CELLS", 7 * 40)
    parts = salt.propose(encoder, sequences, places, words)
    assert parts[0].tolist() == whole[0].tolist()
    assert parts[1] == pytest.approx(whole[1], abs=1e-6)


@pytest.mark.parametrize("kind", ["bert", "xlmr"])
def test_substitutions_by_published_encoders(monkeypatch, kind):
    """Special tokens stay, twins are aligned, and segments reach an encoder that tells two apart."""
    texts = {"s": ["tok tik tak", "tik mut tak, tok"], "t": ["man mon min", "min mana"]}
    tokenizer = published(kind, [text for side in texts.values() for text in side] * 3, 90)
    encoder, pieces = shapes.reading(tokenizer).eval(), Pieces(tokenizer)
    special = pieces.special
    words = {k: vocabulary([np.array(i) for i in tokenizer(side)["input_ids"]], pieces)
             for k, side in texts.items()}  # fmt: skip
    both = [tokenizer(side, add_special_tokens=False)["input_ids"] for side in (texts["s"], texts["s"][::-1])]
    sequences = [join(a, b, special=special) for a, b in zip(*both, strict=True)]
    second = np.array([len(special.before) + len(a) + len(special.between) for a in both[0]])
    monkeypatch.setattr(salt, "RATE", 1.0)
    for precision in ("float32", "bfloat16"):
        further = Options(threshold=0.0, synonyms=False), rng(), second, precision
        twins, shares = salt.augment(encoder, sequences, pieces, words, "s", ["t"], *further)
        assert shares["switched"] > 0
        for sequence, twin in zip(sequences, twins, strict=True):
            fixed = ~special.ordinary(sequence)
            assert np.array_equal(twin[fixed], sequence[fixed])
    places = find_words(sequences, pieces)
    found = [salt.propose(encoder, sequences, places, words["t"], second=s)[1] for s in (None, second)]
    assert np.array_equal(*found) == (kind == "xlmr")


def test_the_word_itself_is_no_candidate(dictionary):
    sequences, places = [np.array([CLS, 10, SEP])], Places(*np.array([[0, 1, 1]]).T)
    choice, probability = salt.propose(dictionary, sequences, places, column(10, 20))
    assert (choice.tolist(), probability.tolist()) == ([1], [1.0])
    choice, probability = salt.propose(dictionary, sequences, places, column(10))
    assert (choice.tolist(), probability.tolist()) == ([-1], [0.0])


# Substitutions

WORDS = {"s": column(10, 11, 12), "t": column(20, 21, 22)}


def switched(encoder, words=WORDS, targets=("t",), **chosen):
    sequences = [np.array([CLS, 10, 11, 12, 29, SEP])] * 400
    return sequences, *salt.augment(encoder, sequences, Cut(), words, "s", targets, Options(**chosen), rng())


@pytest.fixture
def every_word(monkeypatch):
    """All words take part."""
    monkeypatch.setattr(salt, "RATE", 1.0)


def test_substitutions_above_the_threshold(dictionary, every_word):
    """10 -> 20 (probability .9996), 11 -> 21 (.43), 12 -> 22 (.91); 29 is no word."""
    for threshold, expected in ((0.0, [20, 21, 22]), (0.5, [20, 11, 22]), (0.95, [20, 11, 12])):
        _, twins, shares = switched(dictionary, threshold=threshold, synonyms=False)
        assert {tuple(t.tolist()) for t in twins} == {(CLS, *expected, 29, SEP)}
        changed = sum(a != b for a, b in zip(expected, [10, 11, 12], strict=True))
        assert shares == {"synonyms": 0.0, "switched": round(changed / 3, 4)}


def test_synonyms_have_a_threshold_of_their_own(dictionary, every_word, monkeypatch):
    """Of the source's words only 12 has one (11): where both pass, one of the two is drawn."""
    monkeypatch.setattr(salt, "SYNONYM_THRESHOLD", 0.9)
    _, twins, shares = switched(dictionary)
    third = [int(t[3]) for t in twins]
    assert set(third) == {11, 22}
    assert np.mean([w == 11 for w in third]) == pytest.approx(0.5, abs=0.1)
    assert {(int(t[1]), int(t[2])) for t in twins} == {(20, 11)}
    assert shares["synonyms"] + shares["switched"] == pytest.approx(2 / 3, abs=1e-3)
    _, twins, _ = switched(dictionary, threshold=1.0)
    assert {tuple(t.tolist()) for t in twins} == {(CLS, 10, 11, 11, 29, SEP)}


def test_the_rate_is_a_share_of_the_words(dictionary):
    sequences, twins, _ = switched(dictionary, threshold=0.0, synonyms=False)
    changed = np.stack(twins) != np.stack(sequences)
    assert changed[:, 1:4].mean() == pytest.approx(salt.RATE, abs=0.04)
    assert not changed[:, [0, 4, 5]].any()
    again = switched(dictionary, threshold=0.0, synonyms=False)[1]
    assert all(np.array_equal(a, b) for a, b in zip(twins, again, strict=True))


def test_each_sequence_has_one_target_language(dictionary, every_word):
    dictionary.table[10, 25], dictionary.table[12, 25] = 12, 12
    words = WORDS | {"u": column(24, 25)}
    for restrict, expected in ((True, {(20, 11, 22), (25, 11, 25)}), (False, {(25, 11, 25)})):
        chosen = {"threshold": 0.6, "synonyms": False, "restrict": restrict}
        _, twins, _ = switched(dictionary, words, ("t", "u"), **chosen)
        # without the restriction the best word of all languages, whichever was drawn
        assert {tuple(t[1:4].tolist()) for t in twins} == expected


def test_twins_are_aligned_with_words_of_several_subwords(every_word):
    encoder, numbers = models.tiny(40, 16, 1, 2, seed=0), rng()
    sequences = [join(numbers.integers(5, 29, 4), [8, 30, 31], [9, 32]) for _ in range(30)]
    words = {"s": {}, "t": {1: np.array([[15], [16]]), 2: np.array([[17, 33]])}}
    twins, _ = salt.augment(encoder, sequences, Cut(), words, "s", ["t"], Options(threshold=0.0), rng())
    for sequence, twin in zip(sequences, twins, strict=True):
        assert len(twin) == len(sequence)
        assert np.array_equal(twin[sequence < 5], sequence[sequence < 5])
        assert twin[6:9].tolist() == [8, 30, 31]  # no word of the target has three
        assert twin[10:12].tolist() == [17, 33]


# Mixtures


@pytest.mark.parametrize(
    ("mix", "shape"),
    [("vector", (50, 1, 64)), ("scalar", (50, 1, 1)), ("half", (50, 1, 1)), ("hard", (50, 7, 1))],
)
def test_coefficients(mix, shape):
    numbers = rng()
    r = salt.mixing(mix, (50, 7, 64), numbers)
    assert r.shape == shape
    assert ((r >= 0) & (r <= 1)).all()
    if mix == "half":
        assert set(r.flatten().tolist()) == {0.5}
        return
    other = salt.mixing(mix, (50, 7, 64), numbers)
    assert not torch.equal(r, other)  # drawn anew
    assert not torch.equal(r[0], r[1])  # for each instance
    if mix == "hard":
        assert set(r.flatten().tolist()) == {0.0, 1.0}
    else:
        assert kstest(torch.cat([r, other]).flatten().numpy(), "uniform").pvalue > 0.01


# The precision of distilled pairs


def test_lexicon_scores_by_hand(dictionary):
    truth = {"t": {"10": ["20"], "11": ["22"], "12": ["22"]}, "u": {"10": [], "11": [], "12": []}}
    sequences = [np.array([CLS, 10, 11, 12, 13, SEP])] * 20
    words = WORDS | {"u": {}}
    for threshold, right, proposed in ((0.0, 2 / 3, 60), (0.5, 1.0, 40), (0.9999, 0.0, 0)):
        given = truth, Options(threshold=threshold)
        scores, counts = salt.lexicon_scores(dictionary, sequences, Cut(), words, *given)
        assert scores["t"].shape == (salt.PAIRS,)
        assert scores["t"].mean() == pytest.approx(right, abs=0.01)
        assert counts["t"] == {
            "asked": 60, "proposed": proposed, "distinct": proposed // 20, "precision": round(right, 4),
        }  # fmt: skip
        assert scores["u"].sum() == counts["u"]["proposed"] == 0


def test_unrestricted_pairs_are_the_same_for_all_languages(dictionary):
    truth = {"t": {"12": ["22"]}, "u": {"12": ["x"]}}
    sequences = [np.array([CLS, 10, 12, SEP])] * 20
    given = WORDS | {"u": column(24)}, truth, Options(restrict=False)
    scores, counts = salt.lexicon_scores(dictionary, sequences, Cut(), *given)
    assert counts["t"]["proposed"] == counts["u"]["proposed"] == 20  # 12 -> 11, a synonym: wrong in both
    assert scores["t"].sum() == scores["u"].sum() == 0
