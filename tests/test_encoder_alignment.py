"""Links from similarity matrices: small ones by hand, permuted states, pooling of subwords."""

import numpy as np
import pytest

from xltlib import StudyError
from xltlib.alignment import encoder_alignment as E

HAND = np.array(
    [
        [0.9, 0.2, 0.1, 0.1],
        [0.8, 0.3, 0.4, 0.1],
        [0.1, 0.2, 0.5, 0.6],
    ]
)


def test_argmax_by_hand():
    """Rows choose 0, 0, 3; columns choose 0, 1, 2, 2: only 0-0 and 2-3 are mutual."""
    assert E.argmax_links(HAND).tolist() == [[0, 0], [2, 3]]


def test_itermax_by_hand():
    """Round 2 sees 0 at rows 0, 2 x columns 0, 3, nine tenths at the other cells of one linked word, and so:

    row 0: 0 .18 .09 0; row 1: .72 .3 .4 .09; row 2: 0 .18 .45 0. Mutual are 1-0 and 2-2.
    """
    assert E.itermax_links(HAND, rounds=1).tolist() == E.argmax_links(HAND).tolist()
    assert E.itermax_links(HAND).tolist() == [[0, 0], [1, 0], [2, 2], [2, 3]]
    assert len(E.itermax_links(HAND, rounds=50)) <= HAND.size


def test_transport_moves_all_weight():
    plan = E.transport_plan(HAND)
    np.testing.assert_allclose(plan.sum(0), 1 / 4, atol=1e-9)
    np.testing.assert_allclose(plan.sum(1), 1 / 3, atol=1e-6)
    uniform = E.transport_plan(np.full((2, 5), 0.3))
    np.testing.assert_allclose(uniform, 1 / 10, atol=1e-12)


@pytest.mark.parametrize("name", E.EXTRACTIONS)
def test_permuted_states_are_found_again(name):
    generator = np.random.default_rng(0)
    states, order = generator.normal(size=(9, 32)), generator.permutation(9)
    noisy = states[order] + 0.1 * generator.normal(size=(9, 32))
    links = E.EXTRACTIONS[name](E.similarity(states, noisy))
    assert links.dtype == np.int32
    assert sorted(map(tuple, links.tolist())) == sorted((int(i), j) for j, i in enumerate(order))
    swapped = E.EXTRACTIONS[name](E.similarity(noisy, states))
    assert sorted(map(tuple, swapped[:, ::-1].tolist())) == sorted(map(tuple, links.tolist()))


@pytest.mark.parametrize("name", E.EXTRACTIONS)
@pytest.mark.parametrize("shape", [(0, 0), (0, 3), (2, 0), (1, 1), (1, 4)])
def test_small_sentences(name, shape):
    links = E.EXTRACTIONS[name](np.full(shape, 0.5))
    assert links.shape[1] == 2
    assert len(links) == 0 or min(shape) == 1
    assert (len(links) == 1) or shape != (1, 1)


def test_similarity_is_a_shifted_cosine():
    states = np.array([[1.0, 0.0], [0.0, 2.0], [0.0, 0.0]])
    expected = [[1.0, 0.5, 0.5], [0.5, 1.0, 0.5], [0.5, 0.5, 0.5]]
    np.testing.assert_allclose(E.similarity(states, states), expected)
    assert E.similarity(np.zeros((0, 2)), states).shape == (0, 3)
    with pytest.raises(StudyError, match=r"\(3, 2\) and \(1, 3\)"):
        E.similarity(states, np.zeros((1, 3)))


@pytest.mark.parametrize(
    ("how", "first"), [("mean", [2.0, 3.0]), ("first", [1.0, 2.0]), ("last", [3.0, 4.0])]
)
def test_pooling_of_subwords(how, first):
    states = np.array([[9.0, 9.0], [1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [9.0, 9.0]])
    pooled = E.pool_words(states, np.array([-1, 0, 0, 2, -1]), how, count=4)
    assert pooled.tolist() == [first, [0.0, 0.0], [5.0, 6.0], [0.0, 0.0]]
    assert len(E.pool_words(states, np.array([-1, 0, 0, 2, -1]), how)) == 3


def test_pooling_refuses_what_does_not_fit():
    with pytest.raises(StudyError, match="max"):
        E.pool_words(np.zeros((2, 3)), np.array([0, 1]), "max")
    with pytest.raises(StudyError, match=r"\(3,\)"):
        E.pool_words(np.zeros((2, 3)), np.array([0, 1, 2]))


def test_words_are_linked_if_any_of_their_subwords_are():
    links = np.array([[0, 0], [1, 1], [2, 1], [3, 2]])
    found = E.word_links(links, np.array([-1, 0, 0, 1]), np.array([-1, 0, 1]))
    assert found.tolist() == [[0, 0], [1, 1]]
    assert E.word_links(np.zeros((0, 2), int), np.array([0]), np.array([0])).shape == (0, 2)
