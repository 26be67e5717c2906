"""Synthetic languages and their tasks: gold links by hand, labels from definitions, splits kept apart."""

import numpy as np
import pytest
from tiny import params

from xltlib import StudyError
from xltlib.data import synthetic
from xltlib.data.formats import LABELS
from xltlib.data.synthetic import ABSENT, AGENT, CATEGORIES, PATIENT, World, clauses, in_split, task_examples
from xltlib.evaluation import ngram_predictions
from xltlib.runs import Runs


def random(seed=0):
    return np.random.default_rng(seed)


@pytest.fixture(scope="module")
def world():
    return World()


def one_clause(fronted=False, asked=ABSENT, **slots):
    """One clause; slots by name, all others empty, first words of the synonyms."""
    concept = np.array([[slots.get(name, ABSENT) for name in synthetic.SLOTS]])
    return synthetic.Clauses(concept, np.zeros((1, 7), int), np.array([fronted]), np.array([asked]))


def kinds(sentence):
    """The slots of a sentence's words in order, function words in brackets."""
    names = ("A", "a", "V", "P", "p", "L", "T")
    pairs = zip(sentence.slots, sentence.parts, strict=True)
    return " ".join(names[slot] if part == synthetic.HEAD else f"({names[slot]})" for slot, part in pairs)


FULL = {"agent": 0, "agent_quality": 1, "verb": 2, "patient": 5, "patient_quality": 0, "place": 3, "time": 4}


@pytest.mark.parametrize(
    ("language", "fronted", "expected"),
    [
        ("src", False, "(A) a A V (P) p P (L) L (T) T"),
        ("near", False, "(A) a A V (P) p P (L) L (T) T"),
        ("mid", False, "A a V (V) P p (L) L (T) T"),
        ("far", False, "a A p P V L T"),
        ("low", False, "A a V P p L (L) T (T)"),
        ("low", True, "L (L) A a V P p T (T)"),  # the place comes first and keeps its adposition
    ],
)
def test_word_order_and_function_words_of_each_language(world, language, fronted, expected):
    assert kinds(world.render(one_clause(fronted, **FULL), language)[0]) == expected


def test_a_question_has_one_word_in_place_of_what_is_asked(world):
    sentence = world.render(one_clause(asked=PATIENT, agent=0, verb=1, patient=2), "src")[0]
    assert kinds(sentence) == "(A) A V P"  # no article before the question word
    other = world.render(one_clause(asked=PATIENT, agent=0, verb=1, patient=7), "src")[0]
    assert sentence.words == other.words


def test_gold_links_by_hand(world):
    batch = one_clause(agent=0, verb=2, patient=5, patient_quality=1, place=3)
    source, mid, far = (world.render(batch, name)[0] for name in ("src", "mid", "far"))
    assert kinds(source) == "(A) A V (P) p P (L) L"
    assert kinds(mid) == "A V (V) P p (L) L"
    assert kinds(far) == "A p P V L"
    sure, all_links = synthetic.gold_links(source, mid)
    assert sorted(sure) == [(1, 0), (2, 1), (4, 4), (5, 3), (6, 5), (7, 6)]
    # articles lie possibly with their nouns, the particle with the verb, an adposition with the other's place
    assert sorted(set(all_links) - set(sure)) == [(0, 0), (2, 2), (3, 3), (6, 6), (7, 5)]
    sure, all_links = synthetic.gold_links(source, far)
    assert sorted(sure) == [(1, 0), (2, 3), (4, 1), (5, 2), (7, 4)]
    assert sorted(set(all_links) - set(sure)) == [(0, 0), (3, 2), (6, 4)]


def test_words_are_those_of_the_lexicon_and_tell_their_stem(world):
    batch = clauses(world.events(100, random(1)), random(1))
    stems = [world.stem(slot, batch.concept[:, slot], batch.synonym[:, slot]) for slot in range(7)]
    for language in world.languages:
        forms = world.grammar(language).lexicon()
        flat = [word for words in forms for word in words]
        assert len(forms) == world.lexemes
        assert all(forms)
        assert len(set(flat)) == len(flat)
        assert not set(flat) & {w for kind in world.grammar(language).function.values() for w in kind}
        for i, sentence in enumerate(world.render(batch, language)):
            for word, slot, part in zip(sentence.words, sentence.slots, sentence.parts, strict=True):
                assert (word in forms[stems[slot][i]]) == (part == synthetic.HEAD)


@pytest.mark.parametrize("seed", range(3))
def test_function_words_are_told_apart(seed):
    for language in synthetic.LANGUAGES:
        function = World(seed=seed).grammar(language).function
        kinds = [function["article"][0], function["particle"][0], *set(function["adposition"])]
        kinds += [word for word in function["question"] if word]
        assert len(set(kinds)) == len(kinds) == 7


def test_stems_are_counted_by_category_without_overlap(world):
    found = set()
    for slot in (AGENT, synthetic.AGENT_QUALITY, synthetic.VERB, synthetic.PLACE, synthetic.TIME):
        every = np.arange(synthetic.members(slot) + CATEGORIES[synthetic.SLOT_CATEGORY[slot]][0])
        found |= {int(stem) for synonym in (0, 1) for stem in world.stem(slot, every, synonym)}
    assert found == set(range(world.lexemes))
    assert int(world.stem(synthetic.TIME, np.array(ABSENT), np.array(1))) == ABSENT


def test_class_words_by_hand():
    assert CATEGORIES["entity"] == (3, 4)
    assert synthetic.class_word(AGENT, np.array([0, 3, 4, 11, 12, 14])).tolist() == [12, 12, 13, 14, 12, 14]


@pytest.mark.parametrize("name", [name for name in synthetic.LANGUAGES if name != "src"])
def test_the_share_of_cognates_is_near_the_one_asked_for(name):
    asked = synthetic.LANGUAGES[name].cognates
    worlds = [World(("src", name), seed) for seed in range(10)]
    same = [
        a == b
        for world in worlds
        for a, b in zip(world.grammar("src").stems, world.grammar(name).stems, strict=True)
    ]
    error = (asked * (1 - asked) / len(same)) ** 0.5
    assert abs(np.mean(same) - asked) < 4 * error


def test_agreement_and_case_are_suffixes(world):
    agents = one_clause(agent=0, verb=2, patient=5), one_clause(agent=4, verb=2, patient=5)  # two classes
    verbs = {language: [world.render(b, language)[0].words for b in agents] for language in ("src", "far")}
    assert verbs["src"][0][2] == verbs["src"][1][2]
    first, second = (words[-1] for words in verbs["far"])
    assert first != second
    assert first[:-2] == second[:-2]
    same = one_clause(agent=5, verb=2, patient=5)
    agent, patient, _ = world.render(same, "far")[0].words
    assert agent != patient
    assert agent[:-2] == patient[:-2]


def test_character_spans(world):
    sentence = world.render(one_clause(**FULL), "src")[0]
    for slot in range(7):
        offset, word = sentence.span(slot)
        assert sentence.text[offset : offset + len(word)] == word
        assert sentence.words.index(word) == sentence.text[:offset].count(" ")


def test_unknown_languages_are_named_with_the_known_ones():
    with pytest.raises(StudyError, match="'de'; known: src, .*published languages need data: real"):
        Runs(params(languages=("src", "de"))).text()  # before any work
    with pytest.raises(StudyError, match="'klingon'.*src, near, mid, far, low"):
        World(("src", "klingon"))


def test_every_meaning_belongs_to_one_split():
    rows = random(0).integers(-1, 12, (5000, 7))
    member = {split: in_split(rows, split) for split in ("test", "dev", "train", "text")}
    assert (member["test"].astype(int) + member["dev"] + member["train"] == 1).all()
    assert (member["text"] == member["train"]).all()
    for split, share in (("test", 0.2), ("dev", 0.1), ("train", 0.7)):
        assert abs(member[split].mean() - share) < 4 * (share * (1 - share) / 5000) ** 0.5
    # the split says nothing about a single slot: every value of it is in the test split about equally often
    for slot in range(7):
        shares = [member["test"][rows[:, slot] == value].mean() for value in range(-1, 12)]
        assert max(shares) - min(shares) < 0.15


def test_events_fill_the_core_and_stay_in_their_split(world):
    rows = world.events(2000, random(3), "dev")
    assert rows.shape == (2000, 7)
    assert in_split(rows, "dev").all()
    assert (rows[:, list(synthetic.CORE)] != ABSENT).all()
    assert (abs((rows[:, list(synthetic.OPTIONAL)] == ABSENT).mean(0) - 0.6) < 0.05).all()


def test_wording_is_kept_about_as_often_as_said(world):
    rng = random(4)
    rows = world.events(4000, rng)
    first = clauses(rows, rng)
    same = (first.synonym == clauses(rows, rng, first).synonym).mean()
    assert abs(same - 0.75) < 0.02  # half are copied, half of the rest agree by chance
    assert not first.fronted[rows[:, synthetic.PLACE] == ABSENT].any()


# A slow checker, written from the definitions, not from the generator: concepts as sets of what they denote


def denoted(slot, concept):
    """The members that a word can speak of: one for a member's word, all of them for a class's word."""
    classes, members = CATEGORIES[synthetic.SLOT_CATEGORY[slot]]
    if concept < classes * members:
        return {concept}
    first = (concept - classes * members) * members
    return set(range(first, first + members))


ENTAILMENT, NEUTRAL, CONTRADICTION = range(3)  # the order of `LABELS`


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
def test_labels_are_those_of_the_definitions(split):
    first, second, labels = synthetic.nli(600, split, random(1))
    checked = [nli_label(a, b) for a, b in zip(first.concept.tolist(), second.concept.tolist(), strict=True)]
    assert checked == labels.tolist()
    first, second, labels = synthetic.paraphrase(600, split, random(1))
    assert ((first.concept == second.concept).all(1) == (labels == synthetic.PARAPHRASE)).all()
    exchanged = first.concept[:, [3, 4, 2, 0, 1, 5, 6]]  # agent and patient, with their qualities
    swapped = (exchanged == second.concept).all(1)  # half of the different pairs, over the same words
    assert swapped[labels == synthetic.PARAPHRASE].sum() == 0
    assert swapped.sum() == (labels != synthetic.PARAPHRASE).sum() / 2


@pytest.mark.parametrize("task", ["nli", "paraphrase"])
def test_labels_are_balanced_and_parallel(world, task):
    examples = task_examples(world, task, 302, "dev", 0)
    assert set(examples) == set(world.languages)
    counts = np.bincount([e.label for e in examples["src"]], minlength=len(LABELS[task]))
    assert counts.max() - counts.min() <= 1
    for language in world.languages:
        assert [(e.id, e.label) for e in examples[language]] == [(e.id, e.label) for e in examples["src"]]
    assert len({e.id for e in examples["src"]}) == 302
    assert len({e.text_a + "|" + e.text_b for e in examples["src"]}) == 302


def test_qa_answers_are_where_their_offsets_say_in_all_languages(world):
    examples = task_examples(world, "qa", 200, "test", 0)
    for language in world.languages:
        assert [e.id for e in examples[language]] == [e.id for e in examples["src"]]
        for example in examples[language]:
            ((start, text),) = example.answers
            assert example.context[start : start + len(text)] == text
            assert (" " + example.context)[start] == " "  # whole words only
            assert (example.context + " ")[start + len(text)] == " "


def test_qa_asks_about_one_clause_that_the_question_tells_apart():
    drawn = synthetic.qa(600, "train", random(3))
    for i, (k, asked) in enumerate(zip(drawn.which, drawn.second.asked, strict=True)):
        told = [part.concept[i] for part in drawn.passage[: drawn.count[i]]]
        others = [slot for slot in synthetic.CORE if slot != asked]
        asked_for = drawn.second.concept[i, others]
        assert [n for n, clause in enumerate(told) if (clause[others] == asked_for).all()] == [k]
        assert told[k][asked] != ABSENT
    assert set(drawn.second.asked) == {AGENT, PATIENT, synthetic.PLACE}
    assert set(drawn.count) == set(range(1, synthetic.PASSAGE + 1))
    # neither the first nor the last clause has the answer much more often
    for count in range(2, synthetic.PASSAGE + 1):
        chosen = drawn.which[drawn.count == count]
        share = np.bincount(chosen, minlength=count) / len(chosen)
        assert (abs(share - 1 / count) < 4 * (1 / count / len(chosen)) ** 0.5).all()


@pytest.mark.parametrize("task", ["nli", "paraphrase"])
def test_one_sentence_alone_says_next_to_nothing(task):
    train, test = (task_examples(World(("src",)), task, 3000, split, 0)["src"] for split in ("train", "test"))
    chance = 1 / len(LABELS[task])
    error = (chance * (1 - chance) / len(test)) ** 0.5  # of one accuracy at chance: 0.9 points
    for side in ("text_a", "text_b"):
        texts = [[getattr(e, side) for e in examples] for examples in (train, test)]
        predicted = ngram_predictions(texts[0], [e.label for e in train], texts[1])
        assert np.mean(predicted == [e.label for e in test]) < chance + 3 * error


# Splits


def drawn_meanings(world, split):
    """The meanings that each task and the text draw for a split, before any is changed."""
    rng, text = random(5), {"train": "text"}.get(split, split)
    yield from synthetic._uniform_meanings(400, split, rng)
    yield from synthetic._passages(100, split, rng).reshape(-1, 7)
    yield from synthetic.parallel(world, 400, rng, text).concept
    yield from world.events(400, rng, text)


def test_no_meaning_is_in_two_splits(world):
    drawn = [{row.tobytes() for row in drawn_meanings(world, split)} for split in ("train", "dev", "test")]
    assert len(set.union(*drawn)) == sum(map(len, drawn))


@pytest.mark.parametrize("task", ["nli", "paraphrase", "qa"])
def test_hardly_a_test_example_is_a_training_example(task):
    """Different meanings can look alike where a word is its class's: in less than 1 of 100."""
    train = task_examples(World(("src",)), task, 3000, "train", 0)["src"]
    test = task_examples(World(("src",)), task, 300, "test", 0)["src"]
    texts = (lambda e: (e.question, e.context)) if task == "qa" else (lambda e: (e.text_a, e.text_b))
    seen = {texts(e) for e in train}
    assert np.mean([texts(e) in seen for e in test]) < 0.01


def test_uniform_meanings_are_distinct_and_uniform():
    rows = synthetic._uniform_meanings(2000, "train", random(7))
    assert len({row.tobytes() for row in rows}) == 2000
    assert ((rows == ABSENT).sum(1) == 2).all()
    assert (rows[:, AGENT] != rows[:, PATIENT]).all()
    counts = np.bincount(rows[:, AGENT])
    assert (abs(counts - counts.mean()) < 4 * counts.mean() ** 0.5).all()


def test_documents_go_on_about_one_of_their_clauses(world):
    drawn = synthetic.documents(world, 1000, random(8))
    assert all(in_split(part.concept, "text").all() for part in drawn.passage)
    told = np.stack([part.concept for part in drawn.passage], 1)
    for i, (passage, _, answer) in enumerate(drawn.render(world, "far")):
        about, after = told[i, drawn.which[i]], drawn.second.concept[i]
        assert passage.count(".") == drawn.count[i] - 1 >= drawn.which[i]
        if drawn.second.asked[i] != ABSENT:
            assert (about == after).all()
            start, word = answer  # a whole word of the passage
            assert f" {passage} "[start:].startswith(f" {word} ")
        elif after[AGENT] != about[AGENT]:
            assert denoted(AGENT, about[AGENT]) < denoted(AGENT, after[AGENT])
    assert (abs(np.bincount(drawn.count)[1:] / 1000 - 1 / synthetic.PASSAGE) < 0.06).all()
    assert 0.05 < (drawn.second.asked != ABSENT).mean() < 0.6


def test_parallel_clauses_say_the_same_in_two_languages(world):
    batch = synthetic.parallel(world, 300, random(10))
    asked = batch.asked != ABSENT
    assert abs(asked.mean() - 0.2) < 0.08
    assert (batch.concept[asked, batch.asked[asked]] != ABSENT).all()
    for a, b in zip(world.render(batch, "src"), world.render(batch, "low"), strict=True):
        assert set(a.slots) == set(b.slots)
