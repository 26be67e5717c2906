"""Tasks over the synthetic world: labels checked from definitions, no shortcut, no meaning in two splits."""

import hashlib
import subprocess
import sys

import numpy as np
import pytest

from xltlib import StudyError
from xltlib.data import synthetic_tasks
from xltlib.data.records import LABELS
from xltlib.data.synthetic import (
    ABSENT,
    AGENT,
    AGENT_QUALITY,
    CATEGORIES,
    CORE,
    PATIENT,
    PATIENT_QUALITY,
    PLACE,
    World,
    in_split,
)
from xltlib.data.synthetic import SLOT_CATEGORY as CATEGORY_OF
from xltlib.data.synthetic_tasks import CONTRADICTION, ENTAILMENT, NEUTRAL, PARAPHRASE, PASSAGE, task_set
from xltlib.evaluation import one_sentence_accuracy

TASKS = ("nli", "paraphrase", "qa")


@pytest.fixture(scope="module")
def world():
    return World()


# A slow checker, written from the definitions, not from the generator: concepts as sets of what they denote


def denoted(slot, concept):
    """The members that a word can speak of: one for a member's word, all of them for a class's word."""
    classes, members = CATEGORIES[CATEGORY_OF[slot]]
    if concept < classes * members:
        return {concept}
    first = (concept - classes * members) * members
    return set(range(first, first + members))


def nli_label(premise, hypothesis):
    """Entailment: all that the premise can mean, the hypothesis says; contradiction: both cannot hold."""
    follows = True
    for slot in range(7):
        if hypothesis[slot] == ABSENT:
            continue
        if premise[slot] == ABSENT:
            follows = False
            continue
        said, claimed = denoted(slot, premise[slot]), denoted(slot, hypothesis[slot])
        if not said & claimed:
            return CONTRADICTION
        follows &= said <= claimed
    return ENTAILMENT if follows else NEUTRAL


def test_the_checker_by_hand():
    entity = CATEGORIES["entity"][0] * CATEGORIES["entity"][1]
    premise = [0, ABSENT, 0, 5, 2, ABSENT, ABSENT]
    assert nli_label(premise, premise) == ENTAILMENT
    assert nli_label(premise, [entity, ABSENT, 0, 5, ABSENT, ABSENT, ABSENT]) == ENTAILMENT  # less said
    assert nli_label([entity, *premise[1:]], premise) == NEUTRAL  # says which one
    assert nli_label(premise, [0, 1, 0, 5, 2, ABSENT, ABSENT]) == NEUTRAL  # says one thing more
    assert nli_label(premise, [1, 1, 0, 5, 2, ABSENT, ABSENT]) == CONTRADICTION  # another agent
    assert nli_label(premise, [entity + 1, ABSENT, 0, 5, 2, ABSENT, ABSENT]) == CONTRADICTION  # another class


@pytest.mark.parametrize("split", ["train", "test"])
def test_nli_labels_agree_with_the_checker(world, split):
    first, second, labels = synthetic_tasks.nli(world, 600, split, np.random.default_rng(1))
    checked = [nli_label(a, b) for a, b in zip(first.concept.tolist(), second.concept.tolist(), strict=True)]
    assert checked == labels.tolist()


@pytest.mark.parametrize("split", ["train", "test"])
def test_paraphrase_labels_are_equality_of_meaning(world, split):
    first, second, labels = synthetic_tasks.paraphrase(world, 600, split, np.random.default_rng(1))
    same = (first.concept == second.concept).all(1)
    assert (same == (labels == PARAPHRASE)).all()


def test_half_of_the_different_pairs_swap_roles_over_the_same_words(world):
    first, second, labels = synthetic_tasks.paraphrase(world, 600, "train", np.random.default_rng(2))
    exchanged = first.concept.copy()
    exchanged[:, [AGENT, AGENT_QUALITY, PATIENT, PATIENT_QUALITY]] = first.concept[
        :, [PATIENT, PATIENT_QUALITY, AGENT, AGENT_QUALITY]
    ]
    swapped = (exchanged == second.concept).all(1)
    assert swapped[labels == PARAPHRASE].sum() == 0
    assert swapped.sum() == (labels != PARAPHRASE).sum() / 2


def test_paraphrases_are_worded_anew(world):
    examples = task_set(world, "paraphrase", 400, "train", 0).examples["src"]
    copies = [e.text_a == e.text_b for e in examples if e.label == PARAPHRASE]
    assert np.mean(copies) < 0.4


@pytest.mark.parametrize("task", ["nli", "paraphrase"])
def test_labels_are_balanced_and_parallel(world, task):
    examples = task_set(world, task, 302, "dev", 0).examples
    assert set(examples) == set(world.languages)
    counts = np.bincount([e.label for e in examples["src"]], minlength=len(LABELS[task]))
    assert counts.max() - counts.min() <= 1
    for language in world.languages:
        assert [(e.id, e.label) for e in examples[language]] == [(e.id, e.label) for e in examples["src"]]
    assert len({e.id for e in examples["src"]}) == 302
    assert len({e.text_a + "|" + e.text_b for e in examples["src"]}) == 302


def test_languages_differ_in_words_only(world):
    examples = task_set(world, "nli", 50, "dev", 0).examples
    assert all(a.text_a != b.text_a for a, b in zip(examples["src"], examples["far"], strict=True))
    assert [e.id for e in task_set(World(("src", "far")), "nli", 50, "dev", 0).examples["far"]] == [
        e.id for e in examples["far"]
    ]
    assert task_set(World(("src", "far")), "nli", 50, "dev", 0).examples["far"] == examples["far"]


def test_qa_answers_are_where_their_offsets_say_in_all_languages(world):
    examples = task_set(world, "qa", 200, "test", 0).examples
    for language in world.languages:
        assert [e.id for e in examples[language]] == [e.id for e in examples["src"]]
        for example in examples[language]:
            ((start, text),) = example.answers
            assert example.context[start : start + len(text)] == text
            assert (" " + example.context)[start] == " "  # whole words only
            assert (example.context + " ")[start + len(text)] == " "


def test_qa_asks_about_one_clause_that_the_question_tells_apart(world):
    drawn, which = synthetic_tasks.qa(world, 300, "train", np.random.default_rng(3))
    for i, (k, asked) in enumerate(zip(which, drawn.second.asked, strict=True)):
        told = [part.concept[i] for part in drawn.told[: drawn.count[i]]]
        assert 0 <= k < len(told) <= PASSAGE
        others = [slot for slot in CORE if slot != asked]
        fitting = [
            n for n, clause in enumerate(told) if (clause[others] == drawn.second.concept[i, others]).all()
        ]
        assert fitting == [k]
        assert told[k][asked] != ABSENT
    assert set(drawn.second.asked) == {AGENT, PATIENT, PLACE}
    assert set(drawn.count) == set(range(1, PASSAGE + 1))


def test_qa_answers_stand_in_every_clause(world):
    """Neither the first nor the last sentence has the answer much more often than chance."""
    drawn, which = synthetic_tasks.qa(world, 600, "train", np.random.default_rng(4))
    for count in range(2, PASSAGE + 1):
        chosen = which[drawn.count == count]
        share = np.bincount(chosen, minlength=count) / len(chosen)
        assert (abs(share - 1 / count) < 4 * (1 / count / len(chosen)) ** 0.5).all()


@pytest.mark.parametrize(("task", "classes"), [("nli", 3), ("paraphrase", 2)])
@pytest.mark.parametrize("side", ["text_a", "text_b"])
def test_one_sentence_alone_says_next_to_nothing(world, task, classes, side):
    train = task_set(world, task, 3000, "train", 0).examples["src"]
    test = task_set(world, task, 3000, "test", 0).examples["src"]
    found = one_sentence_accuracy(
        [getattr(e, side) for e in train], [e.label for e in train],
        [getattr(e, side) for e in test], [e.label for e in test],
    )  # fmt: skip
    chance = 1 / classes
    error = (chance * (1 - chance) / len(test)) ** 0.5  # of one accuracy at chance: 0.9 points
    assert found < chance + 3 * error


# Splits


def drawn_meanings(world, split):
    """The meanings that each task and the text draw for a split, before any is changed, as bytes."""
    rng = np.random.default_rng(5)
    yield from (row.tobytes() for row in synthetic_tasks._uniform_meanings(400, split, rng))
    facts = synthetic_tasks._passages(100, split, rng)
    yield from (row.tobytes() for row in facts.reshape(-1, 7))
    text = {"train": "text"}.get(split, split)
    yield from (row.tobytes() for row in synthetic_tasks.parallel(world, 400, rng, text).concept)
    yield from (row.tobytes() for row in world.events(400, rng, text))


def test_no_meaning_is_in_two_splits(world):
    splits = {split: set(drawn_meanings(world, split)) for split in ("train", "dev", "test")}
    assert not splits["train"] & splits["test"]
    assert not splits["train"] & splits["dev"]
    assert not splits["dev"] & splits["test"]


def test_documents_tell_meanings_of_the_text_split_only(world):
    documents = synthetic_tasks.documents(world, 2000, np.random.default_rng(6))
    for part in documents.told:
        assert in_split(part.concept, "text").all()


@pytest.mark.parametrize("task", TASKS)
def test_hardly_a_test_example_is_a_training_example(world, task):
    """Different meanings can look alike where a word is its class's: in less than 1 of 100."""
    train = task_set(world, task, 3000, "train", 0).examples["src"]
    test = task_set(world, task, 300, "test", 0).examples["src"]
    texts = (lambda e: (e.question, e.context)) if task == "qa" else (lambda e: (e.text_a, e.text_b))
    seen = {texts(e) for e in train}
    assert np.mean([texts(e) in seen for e in test]) < 0.01


def test_uniform_meanings_are_distinct_and_uniform():
    rows = synthetic_tasks._uniform_meanings(2000, "train", np.random.default_rng(7))
    assert len({row.tobytes() for row in rows}) == 2000
    assert ((rows == ABSENT).sum(1) == 2).all()
    assert (rows[:, AGENT] != rows[:, PATIENT]).all()
    counts = np.bincount(rows[:, AGENT])
    assert (abs(counts - counts.mean()) < 4 * counts.mean() ** 0.5).all()


# Documents


def test_documents_go_on_about_one_of_their_clauses(world):
    drawn = synthetic_tasks.documents(world, 1000, np.random.default_rng(8))
    told = np.stack([part.concept for part in drawn.told])
    for i, (count, about, after) in enumerate(
        zip(drawn.count, drawn.about.concept, drawn.second.concept, strict=True)
    ):
        assert any((told[k, i] == about).all() for k in range(count))
        if drawn.second.asked[i] != ABSENT:
            assert (about == after).all()
        elif after[AGENT] != about[AGENT]:
            assert denoted(AGENT, about[AGENT]) < denoted(AGENT, after[AGENT])
    shares = np.bincount(drawn.count)[1:] / 1000
    assert (abs(shares - 1 / PASSAGE) < 0.06).all()
    assert 0.05 < (drawn.second.asked != ABSENT).mean() < 0.6


def test_documents_in_words(world):
    drawn = synthetic_tasks.documents(world, 200, np.random.default_rng(9))
    for i, (passage, after) in enumerate(drawn.render(world, "far")):
        assert passage.count(".") == drawn.count[i] - 1
        slot = drawn.second.asked[i]
        if slot != ABSENT:
            assert after[-1] in passage  # a question is followed by its answer, a word of the passage


def test_parallel_clauses_say_the_same_in_two_languages(world):
    batch = synthetic_tasks.parallel(world, 300, np.random.default_rng(10))
    asked = batch.asked != ABSENT
    assert abs(asked.mean() - 0.2) < 0.08
    assert (batch.concept[asked, batch.asked[asked]] != ABSENT).all()
    for a, b in zip(world.render(batch, "src"), world.render(batch, "low"), strict=True):
        assert set(a.slots) == set(b.slots)


def digest(examples):
    return hashlib.sha256(repr(examples).encode()).hexdigest()


def test_another_process_makes_the_same_examples(world):
    code = (
        "import hashlib; from xltlib.data.synthetic import World\n"
        "from xltlib.data.synthetic_tasks import task_set\n"
        f"for task in {TASKS}:\n"
        "    examples = task_set(World(), task, 40, 'train', 3).examples\n"
        "    print(hashlib.sha256(repr(examples).encode()).hexdigest())"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert told.split() == [digest(task_set(world, task, 40, "train", 3).examples) for task in TASKS]


def test_seeds_and_splits_differ(world):
    texts = [task_set(world, "nli", 5, split, seed).examples["src"][0].text_a for split, seed in
             (("train", 0), ("train", 1), ("test", 0))]  # fmt: skip
    assert len(set(texts)) == 3


def test_an_unknown_task_is_named_with_the_known_ones(world):
    with pytest.raises(StudyError, match="'tagging'.*nli, paraphrase, qa"):
        task_set(world, "tagging", 5, "train", 0)
