"""Texts and tasks over the synthetic world: documents, parallel pairs, NLI, paraphrase, extractive QA.

Every set exists in every language with the same ids and labels. Fillers of task sentences are drawn
uniformly, and the shapes of the two sentences of a pair have the same distribution under every label, so
that one sentence alone says nothing about the label.
"""

from dataclasses import dataclass

import numpy as np

from xltlib import StudyError
from xltlib.data.records import PairExample, SpanExample
from xltlib.data.synthetic import (
    ABSENT,
    AGENT,
    AGENT_QUALITY,
    CATEGORIES,
    CORE,
    OPTIONAL,
    PATIENT,
    PATIENT_QUALITY,
    PLACE,
    SLOT_CATEGORY,
    TIME,
    Clauses,
    World,
    class_word,
    clauses,
    in_split,
)

ENTAILMENT, NEUTRAL, CONTRADICTION = range(3)
DIFFERENT, PARAPHRASE = range(2)
ASKED = (AGENT, PATIENT, PLACE)
PASSAGE = 3  # clauses of a passage at most


def documents(world: World, n: int, rng: np.random.Generator) -> "Documents":
    """n documents: a passage of one to three clauses, then one of them again, a question about it with its
    answer, or a clause that goes on with its agent."""
    facts = np.stack([world.events(n, rng) for _ in range(PASSAGE)], 1)
    count = rng.integers(1, PASSAGE + 1, n)
    which = rng.integers(0, count)
    told = [clauses(facts[:, k], rng) for k in range(PASSAGE)]
    base = _pick(told, which)
    again = base.concept.copy()
    for slot in CORE:
        general = rng.random(n) < 0.2
        again[general, slot] = class_word(SLOT_CATEGORY[slot], again[general, slot])
    for slot in OPTIONAL:
        again[rng.random(n) < 0.3, slot] = ABSENT
    onward = world.events(n, rng)
    onward[:, AGENT] = base.concept[:, AGENT]
    kind = rng.choice(3, n, p=(0.55, 0.35, 0.1))  # again, question, onward
    asked = np.where(kind == 1, _askable(base.concept, rng), ABSENT)
    second = np.choose(kind[:, None], (again, base.concept, onward))
    second = np.where(
        in_split(second, "text")[:, None], second, base.concept
    )  # no meaning of a test, however told
    return Documents(told, count, clauses(second, rng, base, asked), base)


@dataclass(frozen=True)
class Documents:
    """Passages of ``count`` (n,) clauses each, the clause after them, and the one that it is about."""

    told: list[Clauses]
    count: np.ndarray
    second: Clauses
    about: Clauses

    def render(self, world: World, language: str) -> list[tuple[list[str], list[str]]]:
        """The words of the passage (clauses set apart by full stops) and of what follows, with an answer."""
        told = [world.render(part, language) for part in self.told]
        about, out = world.render(self.about, language), []
        for i, second in enumerate(world.render(self.second, language)):
            passage = [w for k in range(self.count[i]) for w in (*told[k][i].words, ".")][:-1]
            slot = int(self.second.asked[i])
            answer = [about[i].span(slot)[1]] if slot != ABSENT else []
            out.append((passage, [*second.words, *answer]))
        return out


def _pick(options: list[Clauses], which: np.ndarray) -> Clauses:
    """Row i of the result is row i of ``options[which[i]]``."""
    fields = ("concept", "synonym", "fronted", "asked")
    rows = np.arange(len(which))
    return Clauses(*(np.stack([getattr(o, name) for o in options])[which, rows] for name in fields))


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
    """Distinct concepts (n, 7): uniform members in every core slot and in the optional ones ``shown``
    (default: two of the four, at random)."""
    chosen: list[np.ndarray] = []
    seen: set[bytes] = set()
    while len(chosen) < n:
        rows = np.stack([rng.integers(0, _members(slot), 2 * n) for slot in range(7)], 1)
        rows[rows[:, AGENT] == rows[:, PATIENT], PATIENT] += 1
        rows[:, PATIENT] %= _members(PATIENT)
        hidden = rng.permuted(np.tile(np.array(OPTIONAL), (2 * n, 1)), axis=1)[:, 2:]
        if shown:
            hidden = np.tile([s for s in OPTIONAL if s not in shown], (2 * n, 1))
        np.put_along_axis(rows, hidden, ABSENT, 1)
        for row in rows[in_split(rows, split)]:
            if row.tobytes() not in seen and len(chosen) < n:
                seen.add(row.tobytes())
                chosen.append(row)
    return np.array(chosen)


def _members(slot: int) -> int:
    classes, members = CATEGORIES[SLOT_CATEGORY[slot]]
    return classes * members


def _sibling(slot: int, concept: int, rng: np.random.Generator) -> int:
    """Another member of the same class; for a class-level concept another class."""
    classes, members = CATEGORIES[SLOT_CATEGORY[slot]]
    if concept >= classes * members:
        return (
            classes * members + (concept - classes * members + 1 + int(rng.integers(classes - 1))) % classes
        )
    return concept // members * members + (concept % members + 1 + int(rng.integers(members - 1))) % members


def nli(world: World, n: int, split: str, rng: np.random.Generator) -> tuple[Clauses, Clauses, np.ndarray]:
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
        premise[i, core[0]] = _class(core[0], meaning[i, core[0]])
        more = rng.choice(["core", "optional", "both"]) if label == NEUTRAL else None
        specific = core[0] if more in ("core", "both") else core[1]
        kept = absent[0] if more in ("optional", "both") else present[0]
        for slot in CORE:
            if slot != specific:
                hypothesis[i, slot] = _class(slot, meaning[i, slot])
        hypothesis[i, list(OPTIONAL)] = ABSENT
        hypothesis[i, kept] = meaning[i, kept] if kept in present else rng.integers(_members(kept))
        if label == CONTRADICTION:
            for slot in rng.permutation([*CORE, kept])[: rng.integers(2, 5)]:
                hypothesis[i, slot] = _sibling(slot, hypothesis[i, slot], rng)
    first = clauses(premise, rng)
    return first, clauses(hypothesis, rng, first), labels


def _class(slot: int, concept: int) -> int:
    return int(class_word(SLOT_CATEGORY[slot], np.array(concept)))


def paraphrase(
    world: World, n: int, split: str, rng: np.random.Generator
) -> tuple[Clauses, Clauses, np.ndarray]:
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
        told = rng.permutation([s for s in range(7) if meaning[i, s] != ABSENT])
        for slot in told[: rng.integers(1, 4)]:
            other[i, slot] = _sibling(slot, meaning[i, slot], rng)
    first = clauses(meaning, rng)
    return first, clauses(other, rng, first), labels


def qa(world: World, n: int, split: str, rng: np.random.Generator) -> tuple[Documents, np.ndarray]:
    """n passages of one to three clauses with a question about one of them, and the number of that clause.

    Clauses of a passage share no agent, verb, patient or place. The question names all other slots of its
    clause, partly in other words.
    """
    facts = _passages(n, split, rng)
    count = rng.integers(1, PASSAGE + 1, n)
    which = rng.integers(0, count)
    told = [clauses(facts[:, k], rng) for k in range(PASSAGE)]
    about = _pick(told, which)
    return Documents(told, count, clauses(about.concept, rng, about, rng.choice(ASKED, n)), about), which


def _passages(n: int, split: str, rng: np.random.Generator) -> np.ndarray:
    """Meanings (n, 3, 7) whose three clauses share no agent, verb, patient or place."""
    kept: list[np.ndarray] = []
    while sum(map(len, kept)) < n:
        groups = _uniform_meanings(PASSAGE * n, split, rng, (AGENT_QUALITY, PLACE, TIME)).reshape(
            -1, PASSAGE, 7
        )
        ordered = np.sort(groups[:, :, [*CORE, PLACE]], 1)
        kept.append(groups[(np.diff(ordered, axis=1) != 0).all((1, 2))])
    return np.concatenate(kept)[:n]


@dataclass(frozen=True)
class TaskSet:
    """Examples of one split, parallel over languages: ``examples[language][i]`` has id i everywhere."""

    task: str
    examples: dict[str, list]


def task_set(world: World, task: str, n: int, split: str, seed: int) -> TaskSet:
    """n examples of a task in every language of the world."""
    rng = np.random.default_rng([seed, world.seed, len(task), *split.encode()])
    if task in ("nli", "paraphrase"):
        first, second, labels = {"nli": nli, "paraphrase": paraphrase}[task](world, n, split, rng)
        return TaskSet(
            task, {lang: _pairs(world, lang, first, second, labels, split) for lang in world.languages}
        )
    if task == "qa":
        drawn, which = qa(world, n, split, rng)
        return TaskSet(task, {lang: _spans(world, lang, drawn, which, split) for lang in world.languages})
    raise StudyError(f"unknown task {task!r}; known: nli, paraphrase, qa")


def _pairs(
    world: World, language: str, first: Clauses, second: Clauses, labels: np.ndarray, split: str
) -> list:
    both = zip(world.render(first, language), world.render(second, language), labels.tolist(), strict=True)
    return [PairExample(f"{split}-{i}", a.text, b.text, label) for i, (a, b, label) in enumerate(both)]


def _spans(world: World, language: str, drawn: Documents, which: np.ndarray, split: str) -> list[SpanExample]:
    rendered = [world.render(part, language) for part in drawn.told]
    questions = world.render(drawn.second, language)
    examples = []
    for i, (question, k) in enumerate(zip(questions, which.tolist(), strict=True)):
        sentences = [part[i] for part in rendered[: drawn.count[i]]]
        before = sum(len(s.text) + len(" . ") for s in sentences[:k])
        offset, answer = sentences[k].span(int(drawn.second.asked[i]))
        context = " . ".join(s.text for s in sentences) + " ."
        examples.append(SpanExample(f"{split}-{i}", question.text, context, ((before + offset, answer),)))
    return examples
