"""Links: files in both index bases, AER by hand, symmetrisation against drawn matrices and plain loops."""

import io
import math
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from official import write

from xltlib import StudyError
from xltlib.alignment import HEURISTICS
from xltlib.alignment import links as L
from xltlib.alignment.links import aer, corrupt_links, random_links, read_gold, symmetrize, write_pharaoh


def array(*pairs: tuple[int, int]) -> np.ndarray:
    return np.array(pairs, np.int32).reshape(-1, 2)


def lists(links) -> list[list[tuple[int, int]]]:
    return [list(map(tuple, pair.tolist())) for pair in links]


@pytest.fixture
def file(tmp_path):
    return partial(write, tmp_path / "links")


# Files


def test_pharaoh_lines(file):
    links, stream = [array((0, 0), (2, 1)), array(), array((0, 3))], io.StringIO()
    write_pharaoh(stream, links)
    assert stream.getvalue() == "0-0 2-1\n\n0-3\n"
    assert lists(read_gold(file(stream.getvalue()), [(3, 2), (1, 0), (1, 4)], 0).sure) == lists(links)


@pytest.mark.parametrize(
    ("content", "base", "message"),
    [
        ("0-0\n1:1\n", 0, "links:2: '1:1' is not a link"),
        ("0-0 -1-1\n\n", 0, "'-1-1' is not a link"),
        ("0-0 ٣-1\n\n", 0, "is not a link"),
        ("1-1\n0-2\n", 1, "links:2: a link with index 0"),
        ("1-1\n3-1\n", 0, "links:2: .*counts from 1"),
        ("0-0\n", 0, "1 lines found, 2 sentence pairs"),
        (b"0-0\n1-1 \xe9\n", 0, "links:2: byte 0xe9 is not UTF-8"),
    ],
)
def test_bad_files_of_links(file, content, base, message):
    with pytest.raises(StudyError, match=message):
        read_gold(file(content), [(2, 2), (3, 3)], base)


def test_gold_in_both_bases(file):
    for base, content in ((1, "1-1 2p1 1-1\n2-3\n"), (0, "0-0 1p0\n1-2\n")):
        gold = read_gold(file(content), [(2, 1), (2, 3)], base)
        assert lists(gold.sure) == [[(0, 0)], [(1, 2)]]
        assert lists(gold.possible) == [[(0, 0), (1, 0)], [(1, 2)]]
    assert lists(read_gold(file("\n\n"), [(1, 1), (1, 1)], 1).sure) == [[], []]


def test_gold_out_of_range_is_left_out(file):
    gold = read_gold(file("1-1 2-2\n1-1 1-4 5p1\n3-1\n"), [(2, 2), (2, 2), (2, 2)], 1)
    assert lists(gold.possible) == [[(0, 0), (1, 1)], [(0, 0)], []]


def test_gold_in_a_column(file):
    path = file("a b\tx\t0-0 1-0\n")
    assert lists(read_gold(path, [(2, 1)], 0, column=2).sure) == [[(0, 0), (1, 0)]]
    with pytest.raises(StudyError, match="links:1: no tab-separated column 4"):
        read_gold(path, [(2, 1)], 0, column=3)


# AER


def test_aer_by_hand():
    """A = 4 links, S = 3, P = 5; A & S = 2, A & P = 3: AER = 1 - 5 / 7."""
    sure = [array((0, 0), (1, 1)), array((1, 0))]
    possible = [array((2, 1), (0, 1)), array()]
    score = aer([array((0, 0), (1, 1), (2, 1)), array((0, 1))], sure, possible)
    assert score.aer == pytest.approx(1 - 5 / 7)
    assert (score.precision, score.recall) == (pytest.approx(3 / 4), pytest.approx(2 / 3))
    assert (score.links, score.sure) == (4, 3)


def test_aer_where_nothing_is_linked():
    none, one = [array()], [array((0, 0))]
    assert aer(none, one).aer == 1
    assert math.isnan(aer(none, one).precision)
    assert math.isnan(aer(one, none).recall)
    assert math.isnan(aer(none, none).aer)
    assert aer([], []).links == 0


def test_possible_links_contain_the_sure_ones_and_repeats_count_once():
    links = [array((0, 0), (0, 0), (1, 1))]
    assert aer(links, [array((0, 0))], [array((1, 1))]).aer == 0


# Symmetrisation

FORWARD = """
#......
.##....
.......
...#...
.......
.......
......#
"""
BACKWARD = """
#......
.#.....
..#....
#......
.......
#......
.......
"""
EXPECTED = {
    "intersect": "#...... .#..... ....... ....... ....... ....... .......",
    "union": "#...... .##.... ..#.... #..#... ....... #...... ......#",
    "grow-diag": "#...... .##.... ..#.... ...#... ....... ....... .......",
    "grow-diag-final": "#...... .##.... ..#.... ...#... ....... #...... ......#",
    "grow-diag-final-and": "#...... .##.... ..#.... ...#... ....... ....... ......#",
}


def drawn(matrix: str) -> np.ndarray:
    return np.argwhere([[cell == "#" for cell in row] for row in matrix.split()]).astype(np.int32)


@pytest.mark.parametrize("heuristic", HEURISTICS)
def test_symmetrisation_of_drawn_matrices(heuristic):
    """1-2, 2-2, 3-3 grow from 1-1 one after the other; 3-0 finds both its words taken, 5-0 one, 6-6 none."""
    found = symmetrize([drawn(FORWARD)], [drawn(BACKWARD)], heuristic)[0]
    assert found.dtype == np.int32
    assert found.tolist() == drawn(EXPECTED[heuristic]).tolist()


def test_an_unknown_symmetrisation_is_refused():
    with pytest.raises(StudyError, match="'grow': expected one of intersect, union"):
        symmetrize([], [], "grow")


def test_symmetrisation_of_nothing():
    assert symmetrize([], []) == []
    assert lists(symmetrize([array(), array((0, 0))], [array(), array()])) == [[], [(0, 0)]]


# Links from encoder states

HAND = np.array(
    [
        [0.9, 0.2, 0.1, 0.1],
        [0.8, 0.3, 0.4, 0.1],
        [0.1, 0.2, 0.5, 0.6],
    ]
)


def test_argmax_by_hand():
    """Rows choose 0, 0, 3; columns choose 0, 1, 2, 2: only 0-0 and 2-3 are mutual."""
    assert L.argmax_links(HAND).tolist() == [[0, 0], [2, 3]]


def test_permuted_states_are_found_again():
    generator = np.random.default_rng(0)
    states, order = generator.normal(size=(9, 32)), generator.permutation(9)
    noisy = states[order] + 0.1 * generator.normal(size=(9, 32))
    links = L.argmax_links(L.similarity(states, noisy))
    assert links.dtype == np.int32
    assert sorted(map(tuple, links.tolist())) == sorted((int(i), j) for j, i in enumerate(order))
    swapped = L.argmax_links(L.similarity(noisy, states))
    assert sorted(map(tuple, swapped[:, ::-1].tolist())) == sorted(map(tuple, links.tolist()))


@pytest.mark.parametrize("shape", [(0, 0), (0, 3), (2, 0), (1, 1), (1, 4)])
def test_small_sentences(shape):
    links = L.argmax_links(np.full(shape, 0.5))
    assert links.shape[1] == 2
    assert len(links) == 0 or min(shape) == 1
    assert (len(links) == 1) or shape != (1, 1)


def test_similarity_is_a_shifted_cosine():
    states = np.array([[1.0, 0.0], [0.0, 2.0], [0.0, 0.0]])
    expected = [[1.0, 0.5, 0.5], [0.5, 1.0, 0.5], [0.5, 0.5, 0.5]]
    np.testing.assert_allclose(L.similarity(states, states), expected)
    assert L.similarity(np.zeros((0, 2)), states).shape == (0, 3)


def test_a_word_has_the_mean_of_its_subwords():
    states = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    pooled = L.pool_words(states, np.array([0, 0, 2]))
    assert pooled.tolist() == [[2.0, 3.0], [0.0, 0.0], [5.0, 6.0]]


def test_words_are_linked_if_any_of_their_subwords_are():
    links = np.array([[0, 0], [1, 0], [2, 1]])
    linked = L.word_links(links, np.array([0, 0, 1]), np.array([0, 1]))
    assert linked.tolist() == [[0, 0], [1, 1]]
    assert L.word_links(np.zeros((0, 2), int), np.array([0]), np.array([0])).shape == (0, 2)


# Controls


def test_corruption_moves_the_share_asked_for():
    lengths = [(20, 20)] * 50
    links = [array(*((k, k) for k in range(20)))] * 50
    for share in (0.0, 0.25, 1.0):
        corrupted = corrupt_links(links, lengths, share, np.random.default_rng(0))
        assert aer(corrupted, links).recall == pytest.approx(1 - share)
        assert all(pair.max() < 20 and pair.dtype == np.int32 for pair in corrupted)
    again = corrupt_links(links, lengths, 0.25, np.random.default_rng(0))
    assert lists(again) == lists(corrupt_links(links, lengths, 0.25, np.random.default_rng(0)))
    alone = corrupt_links([array((0, 0)), array()], [(1, 1), (0, 3)], 1.0, np.random.default_rng(0))
    assert lists(alone) == [[(0, 0)], []]  # there is no other word


def test_random_links_are_uniform_and_different():
    lengths, counts = [(3, 4), (0, 5), (1, 1), (3, 4)], [5, 2, 3, 12]
    drawn_links = random_links(lengths, counts, np.random.default_rng(0))
    assert [len(np.unique(pair, axis=0)) for pair in drawn_links] == [5, 0, 1, 12]
    many = np.concatenate(random_links([(3, 4)] * 6000, [2] * 6000, np.random.default_rng(1)))
    cells = np.bincount(many[:, 0] * 4 + many[:, 1], minlength=12)
    assert np.abs(cells - 1000).max() < 5 * math.sqrt(1000)


def test_eflomal_is_a_reference_where_its_package_is_installed(monkeypatch):
    pairs = [(("the", "house"), ("das", "Haus")), ((), ("leer",)), (("a", "b"), ("B", "A"))]

    class Aligner:
        """Writes what the program writes: links of every pair, a line each, in either direction."""

        def align(self, source, target, forward, backward):
            assert (source, target) == (["the house", "", "a b"], ["das Haus", "leer", "B A"])
            Path(forward).write_text("0-0 1-1\n\n0-1 1-0\n")
            Path(backward).write_text("0-0\n\n0-1 1-1\n")

    monkeypatch.setitem(sys.modules, "eflomal", SimpleNamespace(Aligner=Aligner))
    assert [pair.tolist() for pair in L.eflomal_links(pairs)] == [[[0, 0]], [], [[0, 1]]]
    monkeypatch.setitem(sys.modules, "eflomal", None)
    with pytest.raises(StudyError, match=r"pip install -e .\[eflomal\]"):
        L.eflomal_links(pairs)
