"""Parallel synthetic languages: one grammar over an interlingua, with gold word alignments and three tasks.

A *clause* is a row of seven slots (agent, its quality, verb, patient, its quality, place, time), each filled
by a concept of a small taxonomy. A language turns clauses into words by its own lexicon, word order and
morphology, so that every text exists in every language and every word knows the slot that it came from.

Task sets have the same ids and labels in every language. Fillers of task sentences are drawn uniformly, and
the shapes of the two sentences of a pair have the same distribution under every label, so that one sentence
alone says nothing about the label.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property, partial
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

import numpy as np
import yaml

from xltlib import StudyError
from xltlib.data.formats import LABELS
from xltlib.data.tasks import PairExample, SpanExample

SLOTS = ("agent", "agent_quality", "verb", "patient", "patient_quality", "place", "time")
AGENT, AGENT_QUALITY, VERB, PATIENT, PATIENT_QUALITY, PLACE, TIME = range(7)
CORE, OPTIONAL = (AGENT, VERB, PATIENT), (AGENT_QUALITY, PATIENT_QUALITY, PLACE, TIME)
ABSENT = -1

# classes x members of each category; every member has two synonymous words, every class one word of its own
CATEGORIES = {"entity": (3, 4), "quality": (2, 4), "action": (3, 4), "place": (2, 4), "time": (2, 3)}
SLOT_CATEGORY = ("entity", "quality", "action", "entity", "quality", "place", "time")
SYNONYMS = 2
SAME_WORD = 0.5  # how often a second mention repeats the first one's word without choosing among the synonyms

# a word's part in its slot: links between parts of different kinds are "possible", not "sure"
HEAD, FUNCTION = 0, 1


@dataclass(frozen=True)
class Language:
    """How a language differs from the source; each field is one axis of distance."""

    name: str
    consonants: str
    vowels: str
    order: str = "SVO"  # order of agent, verb, patient
    cognates: float = 1.0  # share of stems identical with the source's
    script: str = "latin"
    adjective_first: bool = True
    article: bool = False  # a separate word before each noun phrase
    adposition: str = "before"  # place and time: a word "before" or "after", or a "suffix"
    case: bool = False  # suffixes mark agent and patient
    agreement: bool = False  # the verb carries the class of its agent
    particle: bool = False  # the verb is two words (fertility 2)
    text_share: float = 1.0  # pre-training text relative to the other languages


_TABLE = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
LANGUAGES = {name: Language(name, **entry) for name, entry in _TABLE.items()}


def members(slot: int) -> int:
    """How many members a slot's category has; the concepts of its classes are counted on from there."""
    classes, size = CATEGORIES[SLOT_CATEGORY[slot]]
    return classes * size


def class_word(slot: int, concept: np.ndarray) -> np.ndarray:
    """The class-level concept (hypernym) of each concept of a slot; a class's own is itself."""
    own = concept // CATEGORIES[SLOT_CATEGORY[slot]][1]
    return np.where(concept >= members(slot), concept, members(slot) + own)


class Clauses(NamedTuple):
    """A batch of n clauses."""

    concept: np.ndarray  # (n, 7), -1 where a slot is empty
    synonym: np.ndarray  # (n, 7) in {0, 1}
    fronted: np.ndarray  # (n,) bool: place before the rest
    asked: np.ndarray  # (n,) slot replaced by a question word, or -1


def clauses(
    concept: np.ndarray,
    rng: np.random.Generator,
    like: Clauses | None = None,
    asked: np.ndarray | None = None,
) -> Clauses:
    """Clauses with these concepts (n, 7); wording drawn at random, or mostly that of the clauses `like`."""
    n = len(concept)
    synonym = rng.integers(0, SYNONYMS, concept.shape)
    if like is not None:
        synonym = np.where(rng.random(concept.shape) < SAME_WORD, like.synonym, synonym)
    fronted = (rng.random(n) < 0.3) & (concept[:, PLACE] != ABSENT)
    return Clauses(concept, synonym, fronted, np.full(n, ABSENT) if asked is None else asked)


def check_languages(names: Iterable[str]) -> None:
    """StudyError for a language that has no grammar here."""
    for name in names:
        if name not in LANGUAGES:
            known = f"{', '.join(LANGUAGES)}; published languages need data: real"
            raise StudyError(f"unknown synthetic language {name!r}; known: {known}")


class World:
    """The interlingua with its languages. `seed` fixes lexicons and selectional preferences."""

    def __init__(self, languages: tuple[str, ...] = tuple(LANGUAGES), seed: int = 0):
        check_languages(languages)
        self.languages, self.seed = languages, seed
        lexemes = [classes * size * SYNONYMS + classes for classes, size in CATEGORIES.values()]
        self.lexemes, first = sum(lexemes), accumulate(lexemes, initial=0)
        self._first = dict(zip(CATEGORIES, first, strict=False))  # stem of each category
        rng = np.random.default_rng([seed, 1])
        self._preferences = {}  # P(concept of slot | concept of given): tells members apart, is never zero
        for slot, given in _GIVEN.items():
            drawn = rng.dirichlet(np.full(members(slot), 0.25), members(given))
            self._preferences[slot] = 0.9 * drawn + 0.1 / members(slot)
        self.grammar = cache(partial(_Grammar, self))  # of a language: its word forms and word order

    def stem(self, slot: int, concept: np.ndarray, synonym: np.ndarray) -> np.ndarray:
        """Index of the stem for each concept and synonym; -1 stays -1."""
        of_class = members(slot) * SYNONYMS + concept - members(slot)
        within = np.where(concept < members(slot), concept * SYNONYMS + synonym, of_class)
        return np.where(concept == ABSENT, ABSENT, self._first[SLOT_CATEGORY[slot]] + within)

    def render(self, batch: Clauses, language: str) -> list["Sentence"]:
        """The clauses in one language."""
        return self.grammar(language).render(batch)

    def events(self, n: int, rng: np.random.Generator, splits: str = "text") -> np.ndarray:
        """Concepts (n, 7) drawn by the world's preferences, of meanings that belong to the split."""
        rows = np.empty((0, 7), dtype=np.int64)
        while len(rows) < n:
            more = np.full((2 * n, 7), ABSENT)
            more[:, AGENT] = rng.integers(0, members(AGENT), 2 * n)
            for slot, given in _GIVEN.items():
                bounds = self._preferences[slot][more[:, given]].cumsum(1)
                more[:, slot] = (rng.random((2 * n, 1)) > bounds[:, :-1]).sum(1)
            for slot in OPTIONAL:
                more[rng.random(2 * n) < 0.6, slot] = ABSENT
            rows = np.concatenate([rows, more[in_split(more, splits)]])
        return rows[:n]


# slot -> the one given which it is drawn, in the order of drawing
_GIVEN = {
    VERB: AGENT, PATIENT: VERB, AGENT_QUALITY: AGENT, PATIENT_QUALITY: PATIENT, PLACE: VERB, TIME: PLACE,
}  # fmt: skip


def in_split(concept: np.ndarray, split: str) -> np.ndarray:
    """Whether each meaning (n, 7) belongs to "test", "dev", "train" or "text" (train and text share theirs).

    The split is a hash of the meaning itself, so no meaning can be in two splits, whatever is generated when.
    """
    weights = np.array([7919, 104729, 1299709, 15485863, 179424673, 2038074743, 22801763489], dtype=np.uint64)
    mixed = ((concept + 1).astype(np.uint64) * weights).sum(1, dtype=np.uint64)
    mixed ^= mixed >> np.uint64(29)
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    bucket = (mixed ^ (mixed >> np.uint64(32))) % np.uint64(10)
    return {"test": bucket < 2, "dev": bucket == 2, "train": bucket > 2, "text": bucket > 2}[split]


@dataclass(frozen=True, slots=True)
class Sentence:
    """Words of one clause; `slots` and `parts` say for each word where it came from."""

    words: tuple[str, ...]
    slots: tuple[int, ...]
    parts: tuple[int, ...]

    @property
    def text(self) -> str:
        return " ".join(self.words)

    def span(self, slot: int) -> tuple[int, str]:
        """Character offset and text of the slot's head word."""
        index = list(zip(self.slots, self.parts, strict=True)).index((slot, HEAD))
        return len(" ".join(self.words[:index])) + (index > 0), self.words[index]


def gold_links(source: Sentence, target: Sentence) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Sure and possible links, 0-based (source word, target word).

    Heads of the same slot are sure; a function word (article, adposition, particle) is linked for sure with
    the same kind of word in the other language, else only possibly with the head that carries its meaning.
    """
    sure, possible = [], []
    for i, (slot, part) in enumerate(zip(source.slots, source.parts, strict=True)):
        for j, (slot_j, part_j) in enumerate(zip(target.slots, target.parts, strict=True)):
            if slot == slot_j:
                (sure if part == part_j else possible).append((i, j))
    return sure, sure + possible


class _Grammar:
    """Word forms and word order of one language, as tables: rendering is then a look-up."""

    def __init__(self, world: World, name: str):
        self.world, self.language = world, LANGUAGES[name]
        self.stems = self._drawn_stems()
        self.function, self.suffixes = self._drawn_function_words()

    def _fresh(self, rng: np.random.Generator, syllables: int, taken: set[str]) -> str:
        """A random word in the language's letters that is not taken yet."""
        consonants, vowels = list(self.language.consonants), list(self.language.vowels)
        while True:
            word = "".join(rng.choice(consonants) + rng.choice(vowels) for _ in range(syllables))
            if word not in taken:
                taken.add(word)
                return word

    def _drawn_stems(self) -> list[str]:
        """One stem per lexeme; a cognate is the source's stem, letter by letter, whatever the script."""
        own, count = self.language, self.world.lexemes
        if own.name == "src":
            rng, taken = np.random.default_rng([self.world.seed, 2]), set()
            return [self._fresh(rng, 3, taken) for _ in range(count)]
        rng = np.random.default_rng([self.world.seed, 3, *own.name.encode()])
        source = self.world.grammar("src").stems
        is_cognate, taken = rng.random(count) < own.cognates, set(source)
        fresh = [self._fresh(rng, 3, taken) for _ in range(count)]
        return [a if same else b for a, b, same in zip(source, fresh, is_cognate, strict=True)]

    def _drawn_function_words(self) -> tuple[dict[str, list[str]], list[list[str]]]:
        """Short words by kind and slot, which may be cognates; suffixes by slot and class of the agent."""
        own, taken = self.language, set()
        rng = np.random.default_rng([self.world.seed, 4, *own.name.encode()])
        short = [self._fresh(rng, 1, taken) for _ in range(16)]
        question = [short[4] + short[n] for n in (5, 6, 7, 8)]
        words = [*short[:4], *question]  # article, particle, two adpositions; who, whom, where, a spare one
        if own.name != "src":
            both = list(zip(self.world.grammar("src").function["words"], words, strict=True))
            words = [a if rng.random() < own.cognates and a not in words else b for a, b in both]
        article, particle, place, time, who, whom, where, _ = words
        function = {
            "words": words, "article": [article] * 7, "particle": [particle] * 7,
            "adposition": [place] * 6 + [time], "question": [who, "", "", whom, "", where, ""],
        }  # fmt: skip
        classes = CATEGORIES["entity"][0]
        suffixes = [[""] * classes for _ in SLOTS]
        if own.case:
            suffixes[AGENT], suffixes[PATIENT] = [short[9]] * classes, [short[10]] * classes
        if own.adposition == "suffix":
            suffixes[PLACE], suffixes[TIME] = [short[11]] * classes, [short[12]] * classes
        if own.agreement:
            suffixes[VERB] = short[13 : 13 + classes]
        return function, suffixes

    @cached_property
    def _plans(self) -> tuple[list[tuple[int, str]], list[tuple[int, str]]]:
        """The pieces of a clause, (slot, kind of word), in this language's order; with its place in front."""
        own = self.language
        adverbial = {"before": ("adposition", "head"), "after": ("head", "adposition"), "suffix": ("head",)}
        place, time = ([(slot, kind) for kind in adverbial[own.adposition]] for slot in (PLACE, TIME))
        phrases = {"V": [(VERB, "head")] + [(VERB, "particle")] * own.particle}
        for letter, slot in (("S", AGENT), ("O", PATIENT)):
            words = [(slot + 1, "head"), (slot, "head")]  # quality and noun
            words = words if own.adjective_first else words[::-1]
            phrases[letter] = [(slot, "article")] * own.article + words
        core = [piece for letter in own.order for piece in phrases[letter]]
        return core + place + time, place + core + time

    def render(self, batch: Clauses) -> list[Sentence]:
        """The clauses as sentences."""
        stems = [self.world.stem(s, batch.concept[:, s], batch.synonym[:, s]) for s in range(7)]
        agent_class = class_word(AGENT, np.maximum(batch.concept[:, AGENT], 0)) - members(AGENT)
        sentences = []
        columns = (np.stack(stems, 1), agent_class, batch.fronted, batch.asked)
        for row, klass, front, asked in zip(*(column.tolist() for column in columns), strict=True):
            words = []
            for slot, kind in self._plans[front]:
                if slot == asked and kind == "head":
                    words.append((self.function["question"][slot], slot, HEAD))
                elif slot == asked or row[slot] == ABSENT:
                    continue
                elif kind == "head":
                    words.append((self.stems[row[slot]] + self.suffixes[slot][klass], slot, HEAD))
                else:
                    words.append((self.function[kind][slot], slot, FUNCTION))
            sentences.append(Sentence(*zip(*words, strict=True)))
        return sentences

    def lexicon(self) -> list[list[str]]:
        """All word forms of each stem, in the order of stem indices."""
        forms: list[dict[str, None]] = [{} for _ in range(self.world.lexemes)]
        for slot, category in enumerate(SLOT_CATEGORY):
            first, classes = self.world._first[category], CATEGORIES[category][0]
            for stem in range(first, first + members(slot) * SYNONYMS + classes):
                forms[stem] |= dict.fromkeys(self.stems[stem] + suffix for suffix in self.suffixes[slot])
        return [list(own) for own in forms]


# Texts and tasks

ENTAILMENT, NEUTRAL, CONTRADICTION = range(3)
DIFFERENT, PARAPHRASE = range(2)
ASKED = (AGENT, PATIENT, PLACE)
PASSAGE = 3  # clauses of a passage at most


@dataclass(frozen=True)
class Documents:
    """n passages of clauses set apart by full stops, and the clause that follows each."""

    passage: list[Clauses]
    count: np.ndarray  # (n,) clauses of each passage
    which: np.ndarray  # (n,) number of the one that the clause after them is about
    second: Clauses

    def render(self, world: World, language: str) -> Iterator[tuple[str, str, tuple[int, str] | None]]:
        """Each passage, what follows it, and place in the passage and text of the answer if that asks."""
        parts = [world.render(part, language) for part in self.passage]
        for i, second in enumerate(world.render(self.second, language)):
            sentences, answer = [part[i] for part in parts[: self.count[i]]], None
            texts = [sentence.text for sentence in sentences]
            if (asked := self.second.asked[i]) != ABSENT:
                start, word = sentences[self.which[i]].span(asked)
                answer = start + len(" . ".join([*texts[: self.which[i]], ""])), word
            yield " . ".join(texts), second.text, answer


def documents(world: World, n: int, rng: np.random.Generator) -> Documents:
    """n documents: a passage of one to three clauses, then one of them again, a question about it with its
    answer, or a clause that goes on with its agent."""
    facts = np.stack([world.events(n, rng) for _ in range(PASSAGE)], 1)
    passage, count, which, base = _passage_about(facts, rng)
    again = base.concept.copy()
    for slot in CORE:
        general = rng.random(n) < 0.2
        again[general, slot] = class_word(slot, again[general, slot])
    for slot in OPTIONAL:
        again[rng.random(n) < 0.3, slot] = ABSENT
    onward = world.events(n, rng)
    onward[:, AGENT] = base.concept[:, AGENT]
    kind = rng.choice(3, n, p=(0.55, 0.35, 0.1))  # again, question, onward
    asked = np.where(kind == 1, _askable(base.concept, rng), ABSENT)
    second = np.choose(kind[:, None], (again, base.concept, onward))
    # no meaning of a test, however told
    second = np.where(in_split(second, "text")[:, None], second, base.concept)
    return Documents(passage, count, which, clauses(second, rng, base, asked))


def _passage_about(
    facts: np.ndarray, rng: np.random.Generator
) -> tuple[list[Clauses], np.ndarray, np.ndarray, Clauses]:
    """Passages from meanings (n, PASSAGE, 7): clauses, how many count, and the number of one, with it."""
    count = rng.integers(1, PASSAGE + 1, len(facts))
    which = rng.integers(0, count)
    passage = [clauses(facts[:, k], rng) for k in range(PASSAGE)]
    fields = (np.stack(each)[which, np.arange(len(facts))] for each in zip(*passage, strict=True))
    return passage, count, which, Clauses(*fields)


def _askable(concept: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A slot to ask for in each clause: agent, patient, or place where there is one."""
    slot = rng.choice(ASKED, len(concept))
    return np.where((slot == PLACE) & (concept[:, PLACE] == ABSENT), AGENT, slot)


def parallel(world: World, n: int, rng: np.random.Generator, split: str = "text") -> Clauses:
    """n clauses, a fifth of them questions, to be rendered in two languages."""
    concept = world.events(n, rng, split)
    return clauses(concept, rng, asked=np.where(rng.random(n) < 0.2, _askable(concept, rng), ABSENT))


def _uniform_meanings(
    n: int, split: str, rng: np.random.Generator, shown: tuple[int, ...] = ()
) -> np.ndarray:
    """Distinct concepts (n, 7): uniform members in every core slot and in the optional ones `shown`
    (default: two of the four, at random)."""
    chosen: list[np.ndarray] = []
    seen: set[bytes] = set()
    while len(chosen) < n:
        rows = np.stack([rng.integers(0, members(slot), 2 * n) for slot in range(7)], 1)
        rows[rows[:, AGENT] == rows[:, PATIENT], PATIENT] += 1
        rows[:, PATIENT] %= members(PATIENT)
        hidden = rng.permuted(np.tile(np.array(OPTIONAL), (2 * n, 1)), axis=1)[:, 2:]
        if shown:
            hidden = np.tile([s for s in OPTIONAL if s not in shown], (2 * n, 1))
        np.put_along_axis(rows, hidden, ABSENT, 1)
        for row in rows[in_split(rows, split)]:
            if row.tobytes() not in seen and len(chosen) < n:
                seen.add(row.tobytes())
                chosen.append(row)
    return np.array(chosen)


def _sibling(slot: int, concept: int, rng: np.random.Generator) -> int:
    """Another member of the same class; for a class-level concept another class."""
    classes, size = CATEGORIES[SLOT_CATEGORY[slot]]
    first = concept // size * size
    if concept >= classes * size:
        first, size = classes * size, classes
    return first + (concept - first + 1 + int(rng.integers(size - 1))) % size


def nli(n: int, split: str, rng: np.random.Generator) -> tuple[Clauses, Clauses, np.ndarray]:
    """n premises and hypotheses with balanced labels.

    A premise has one class-level word among agent, verb and patient and two optional slots; a hypothesis has
    two class-level words and one optional slot. The hypothesis follows (entailment) if each of its words
    equals the premise's or generalises it; it is neutral if one says more than the premise does; it
    contradicts if two to four of them name a sibling instead.
    """
    meaning = _uniform_meanings(n, split, rng)
    labels = rng.permutation(np.arange(n) % 3)
    premise, hypothesis = meaning.copy(), meaning.copy()
    for i, label in enumerate(labels):
        core = rng.permutation(CORE)  # core[0] is the premise's general slot
        present = rng.permutation([s for s in OPTIONAL if meaning[i, s] != ABSENT])
        absent = rng.permutation([s for s in OPTIONAL if meaning[i, s] == ABSENT])
        premise[i, core[0]] = class_word(core[0], meaning[i, core[0]])
        more = rng.choice(["core", "optional", "both"]) if label == NEUTRAL else None
        specific = core[0] if more in ("core", "both") else core[1]
        kept = absent[0] if more in ("optional", "both") else present[0]
        for slot in CORE:
            if slot != specific:
                hypothesis[i, slot] = class_word(slot, meaning[i, slot])
        hypothesis[i, list(OPTIONAL)] = ABSENT
        said = kept in present
        hypothesis[i, kept] = meaning[i, kept] if said else rng.integers(members(kept))
        if label == CONTRADICTION:
            for slot in rng.permutation([*CORE, kept])[: rng.integers(2, 5)]:
                hypothesis[i, slot] = _sibling(slot, hypothesis[i, slot], rng)
    first = clauses(premise, rng)
    return first, clauses(hypothesis, rng, first), labels


def paraphrase(n: int, split: str, rng: np.random.Generator) -> tuple[Clauses, Clauses, np.ndarray]:
    """n pairs with balanced labels. Both sides are worded afresh (synonyms, fronting); of the pairs that
    differ, half exchange agent and patient with their qualities (the same bag of concepts), half name
    siblings in 1-3 slots."""
    meaning = _uniform_meanings(n, split, rng)
    labels = rng.permutation(np.arange(n) % 2)
    other = meaning.copy()
    different = np.flatnonzero(labels == DIFFERENT)
    swapped = different[::2]
    left, right = [AGENT, AGENT_QUALITY], [PATIENT, PATIENT_QUALITY]
    other[np.ix_(swapped, left + right)] = meaning[np.ix_(swapped, right + left)]
    for i in different[1::2]:
        filled = rng.permutation([s for s in range(7) if meaning[i, s] != ABSENT])
        for slot in filled[: rng.integers(1, 4)]:
            other[i, slot] = _sibling(slot, meaning[i, slot], rng)
    first = clauses(meaning, rng)
    return first, clauses(other, rng, first), labels


def qa(n: int, split: str, rng: np.random.Generator) -> Documents:
    """n passages of one to three clauses with a question about one of them.

    Clauses of a passage share no agent, verb, patient or place. The question names all other slots of its
    clause, partly in other words.
    """
    passage, count, which, about = _passage_about(_passages(n, split, rng), rng)
    return Documents(passage, count, which, clauses(about.concept, rng, about, rng.choice(ASKED, n)))


def chance_score(task: str) -> float:
    """What a system scores in expectation that has learnt the form of a task's answers and nothing else.

    The share of one label of equally many; for questions F1 of a word of the right kind from a clause of the
    passage drawn at random: passages have one to PASSAGE clauses, equally often, which share no answer.
    """
    if task in LABELS:
        return 1 / len(LABELS[task])
    return float(np.mean(1 / np.arange(1, PASSAGE + 1)))


def _passages(n: int, split: str, rng: np.random.Generator) -> np.ndarray:
    """Meanings (n, 3, 7) whose three clauses share no agent, verb, patient or place."""
    kept: list[np.ndarray] = []
    while sum(map(len, kept)) < n:
        groups = _uniform_meanings(PASSAGE * n, split, rng, (AGENT_QUALITY, PLACE, TIME))
        groups = groups.reshape(-1, PASSAGE, 7)
        ordered = np.sort(groups[:, :, [*CORE, PLACE]], 1)
        kept.append(groups[(np.diff(ordered, axis=1) != 0).all((1, 2))])
    return np.concatenate(kept)[:n]


def task_examples(world: World, task: str, n: int, split: str, seed: int) -> dict[str, list]:
    """n examples of a task by language, parallel: the i-th example has the same id everywhere."""
    rng = np.random.default_rng([seed, world.seed, len(task), *split.encode()])
    drawn, by_language = {"nli": nli, "paraphrase": paraphrase, "qa": qa}[task](n, split, rng), {}
    for language in world.languages:
        if task == "qa":
            rows = enumerate(drawn.render(world, language))
            own = [SpanExample(f"{split}-{i}", asked, f"{text} .", (x,)) for i, (text, asked, x) in rows]
        else:
            *sides, labels = drawn
            sides = [[sentence.text for sentence in world.render(side, language)] for side in sides]
            rows = enumerate(zip(*sides, labels.tolist(), strict=True))
            own = [PairExample(f"{split}-{i}", *row) for i, row in rows]
        by_language[language] = own
    return by_language
