"""Synthetic languages: one meaning in every language, gold links by hand, splits that share no meaning."""

import subprocess
import sys

import numpy as np
import pytest

from xltlib import StudyError
from xltlib.data.synthetic import (
    ABSENT,
    AGENT,
    AGENT_QUALITY,
    CATEGORIES,
    CORE,
    FUNCTION,
    HEAD,
    LANGUAGES,
    OPTIONAL,
    PATIENT,
    PATIENT_QUALITY,
    PLACE,
    SLOT_CATEGORY,
    SYNONYMS,
    TIME,
    VERB,
    Clauses,
    World,
    class_of,
    class_word,
    clauses,
    gold_links,
    in_split,
)


@pytest.fixture(scope="module")
def world():
    return World()


def one_clause(fronted=False, asked=ABSENT, **slots):
    """One clause; slots by name, all others empty, first words of the synonyms."""
    concept = np.full((1, 7), ABSENT)
    for name, value in slots.items():
        concept[
            0, ("agent", "agent_quality", "verb", "patient", "patient_quality", "place", "time").index(name)
        ] = value
    return Clauses(concept, np.zeros((1, 7), int), np.array([fronted]), np.array([asked]))


def kinds(sentence):
    """The slots of a sentence's words in order, function words in brackets."""
    names = ("A", "a", "V", "P", "p", "L", "T")
    pairs = zip(sentence.slots, sentence.parts, strict=True)
    return " ".join(names[slot] if part == HEAD else f"({names[slot]})" for slot, part in pairs)


FULL = {"agent": 0, "agent_quality": 1, "verb": 2, "patient": 5, "patient_quality": 0, "place": 3, "time": 4}


@pytest.mark.parametrize(
    ("language", "expected"),
    [
        ("src", "(A) a A V (P) p P (L) L (T) T"),
        ("near", "(A) a A V (P) p P (L) L (T) T"),
        ("mid", "A a V (V) P p (L) L (T) T"),
        ("far", "a A p P V L T"),
        ("low", "A a V P p L (L) T (T)"),
    ],
)
def test_word_order_and_function_words_of_each_language(world, language, expected):
    assert kinds(world.render(one_clause(**FULL), language)[0]) == expected


def test_a_fronted_place_comes_first_and_keeps_its_adposition(world):
    assert kinds(world.render(one_clause(True, **FULL), "low")[0]) == "L (L) A a V P p T (T)"


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
    sure, all_links = gold_links(source, mid)
    assert sorted(sure) == [(1, 0), (2, 1), (4, 4), (5, 3), (6, 5), (7, 6)]
    # articles lie possibly with their nouns, the particle with the verb, an adposition with the other's place
    assert sorted(set(all_links) - set(sure)) == [(0, 0), (2, 2), (3, 3), (6, 6), (7, 5)]
    sure, all_links = gold_links(source, far)
    assert sorted(sure) == [(1, 0), (2, 3), (4, 1), (5, 2), (7, 4)]
    assert sorted(set(all_links) - set(sure)) == [(0, 0), (3, 2), (6, 4)]


def test_links_are_the_same_read_from_either_side(world):
    batch = one_clause(**FULL)
    a, b = world.render(batch, "near")[0], world.render(batch, "low")[0]
    forward, backward = gold_links(a, b), gold_links(b, a)
    for there, back in zip(forward, backward, strict=True):
        assert sorted(there) == sorted((i, j) for j, i in back)


def test_every_language_says_the_same_clause(world):
    rng = np.random.default_rng(0)
    batch = clauses(world.events(200, rng), rng)
    for language in world.languages:
        for concept, sentence in zip(batch.concept, world.render(batch, language), strict=True):
            heads = [s for s, part in zip(sentence.slots, sentence.parts, strict=True) if part == HEAD]
            assert sorted(heads) == np.flatnonzero(concept != ABSENT).tolist()


def test_words_tell_the_stem_in_every_language(world):
    for language in world.languages:
        forms = world.grammar(language).lexicon()
        flat = [word for words in forms for word in words]
        assert len(forms) == world.lexemes
        assert all(forms)
        assert len(set(flat)) == len(flat)
        assert not set(flat) & {w for kind in world.grammar(language).function.values() for w in kind}


@pytest.mark.parametrize("seed", range(3))
def test_function_words_are_told_apart(seed):
    for language in LANGUAGES:
        function = World(seed=seed).grammar(language).function
        kinds = [function["article"][0], function["particle"][0], *set(function["adposition"])]
        kinds += [word for word in function["question"] if word]
        assert len(set(kinds)) == len(kinds) == 7


def test_rendered_words_are_those_of_the_lexicon(world):
    rng = np.random.default_rng(1)
    batch = clauses(world.events(100, rng), rng)
    for language in world.languages:
        forms = world.grammar(language).lexicon()
        for i, sentence in enumerate(world.render(batch, language)):
            for word, slot, part in zip(sentence.words, sentence.slots, sentence.parts, strict=True):
                if part == FUNCTION:
                    continue
                stem = world.stem(slot, batch.concept[i, slot : slot + 1], batch.synonym[i, slot : slot + 1])
                assert word in forms[int(stem[0])]


def test_stems_are_counted_by_category_without_overlap(world):
    found = set()
    for slot in (AGENT, AGENT_QUALITY, VERB, PLACE, TIME):
        classes, members = CATEGORIES[SLOT_CATEGORY[slot]]
        for concept in range(classes * members):
            for synonym in range(SYNONYMS):
                found.add(int(world.stem(slot, np.array(concept), np.array(synonym))))
        for concept in range(classes * members, classes * members + classes):
            found |= {int(world.stem(slot, np.array(concept), np.array(s))) for s in range(SYNONYMS)}
    assert found == set(range(world.lexemes))
    assert int(world.stem(TIME, np.array(ABSENT), np.array(1))) == ABSENT


def test_classes():
    classes, members = CATEGORIES["entity"]
    concept = np.array([0, members - 1, members, classes * members, classes * members + classes - 1])
    assert class_of("entity", concept).tolist() == [0, 0, 1, 0, classes - 1]
    assert (class_word("entity", concept) == classes * members + class_of("entity", concept)).all()


@pytest.mark.parametrize("name", [name for name in LANGUAGES if name != "src"])
def test_the_share_of_cognates_is_near_the_one_asked_for(name):
    asked = LANGUAGES[name].cognates
    worlds = [World(("src", name), seed) for seed in range(10)]
    same = [
        a == b
        for world in worlds
        for a, b in zip(world.grammar("src")._stems, world.grammar(name)._stems, strict=True)
    ]
    error = (asked * (1 - asked) / len(same)) ** 0.5
    assert abs(np.mean(same) - asked) < 4 * error


def test_distance_is_graded():
    shares = [LANGUAGES[name].cognates for name in ("src", "near", "mid", "far")]
    assert shares == sorted(shares, reverse=True)
    assert LANGUAGES["low"].text_share < 1
    assert LANGUAGES["far"].script != LANGUAGES["src"].script


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
    with pytest.raises(StudyError, match="'klingon'.*src, near, mid, far, low"):
        World(("src", "klingon"))
    with pytest.raises(StudyError, match="'far' is not in this world.*src, near"):
        World(("src", "near")).render(one_clause(agent=0, verb=0, patient=1), "far")


def test_every_meaning_belongs_to_one_split():
    rows = np.random.default_rng(0).integers(-1, 12, (5000, 7))
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
    rows = world.events(2000, np.random.default_rng(3), "dev")
    assert rows.shape == (2000, 7)
    assert in_split(rows, "dev").all()
    assert (rows[:, list(CORE)] != ABSENT).all()
    absent = (rows[:, list(OPTIONAL)] == ABSENT).mean(0)
    assert (abs(absent - 0.6) < 0.05).all()


def test_wording_is_kept_about_as_often_as_said(world):
    rng = np.random.default_rng(4)
    rows = world.events(4000, rng)
    first = clauses(rows, rng)
    again = clauses(rows, rng, first)
    same = (first.synonym == again.synonym).mean()
    assert abs(same - 0.75) < 0.02  # half are copied, half of the rest agree by chance
    assert not first.fronted[rows[:, PLACE] == ABSENT].any()


def test_qualities_follow_their_nouns():
    assert (AGENT_QUALITY, PATIENT_QUALITY) == (AGENT + 1, PATIENT + 1)  # `_noun_phrase` counts on it


def test_another_process_renders_the_same_text(world):
    code = (
        "import numpy as np; from xltlib.data.synthetic import World, clauses; "
        "world = World(); rng = np.random.default_rng(7); batch = clauses(world.events(50, rng), rng); "
        "print('\\n'.join(s.text for name in world.languages for s in world.render(batch, name)))"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    rng = np.random.default_rng(7)
    batch = clauses(world.events(50, rng), rng)
    here = [s.text for name in world.languages for s in world.render(batch, name)]
    assert told.splitlines() == here


def test_worlds_of_other_seeds_have_other_words():
    texts = {World(seed=seed).render(one_clause(**FULL), "src")[0].text for seed in range(3)}
    assert len(texts) == 3
