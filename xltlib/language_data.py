"""The languages of a study as its notebooks show them: sentences, gold links, keyboards, baselines."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pandas as pd

from xltlib import StudyError, evaluation
from xltlib.alignment import links
from xltlib.alignment.encoder_alignment import word_links
from xltlib.data import real_data, synthetic, task_data
from xltlib.data.corpora import simple_tokenize
from xltlib.data.real_data import WordPairs
from xltlib.data.tasks import LABELS
from xltlib.data.text import keyboard_of
from xltlib.finetuning import published
from xltlib.noise import typing as noise
from xltlib.params import Params, to_dict
from xltlib.store import Result

STREAMS = {"train": 41, "test": 42}  # random streams of their own: none of these sentences is in a run's text
CHANCE = "majority label (qa: a random word)"


@dataclass(frozen=True)
class Sample:
    """Sentence pairs of the source with one language, and gold links of their words.

    pairs: both sides as an aligner reads them; words: as gold counts them; owners: where the two differ, for
    each unit of both sides the word that it is a part of.
    """

    language: str
    pairs: WordPairs
    words: WordPairs
    gold: links.Gold
    owners: list[tuple[np.ndarray, np.ndarray]] | None = None

    @property
    def lengths(self) -> list[tuple[int, int]]:
        """(source words, target words) of each pair."""
        return [(len(a), len(b)) for a, b in self.words]

    def only(self, row: int) -> "Sample":
        """One pair alone."""
        gold = links.Gold([self.gold.sure[row]], [self.gold.possible[row]], 0, 0, ())
        owners = None if self.owners is None else [self.owners[row]]
        return Sample(self.language, [self.pairs[row]], [self.words[row]], gold, owners)

    def of_words(self, found: links.Links) -> links.Links:
        """Links of words from those that an aligner has found in `pairs`."""
        if self.owners is None:
            return found
        return [word_links(x, *both) for x, both in zip(found, self.owners, strict=True)]


class Languages:
    """What synthetic and real languages have in common."""

    def __init__(self, params: Params) -> None:
        self.params = params

    def examples(self, task: str, split: str, count: int) -> dict[str, list]:
        """Examples of a task by language (of "train": of the source at least)."""
        return task_data.examples(to_dict(self.params), task, split, count)


class Synthetic(Languages):
    """Languages that the study makes: gold links, labels and translations for every sentence."""

    distance_label = "language; share of stems unlike the source's; order"

    def __init__(self, params: Params) -> None:
        super().__init__(params)
        self.world = synthetic.World(params.languages, params.world_of())

    @property
    def linked(self) -> tuple[str, ...]:
        """The languages with gold links."""
        return self.params.targets

    def sample(self, language: str, count: int, split: str = "test", draw: int = 0) -> Sample:
        """`count` fresh sentence pairs with gold links; "test" pairs share no meaning with "train" pairs."""
        if split not in STREAMS:
            raise StudyError(f"split {split!r}: expected one of {', '.join(STREAMS)}")
        rng = np.random.default_rng([self.world.seed, STREAMS[split], draw])
        drawn = synthetic.parallel(self.world, count, rng, split)
        sides = [self.world.render(drawn, name) for name in (self.params.source, language)]
        gold = [synthetic.gold_links(a, b) for a, b in zip(*sides, strict=True)]
        sure, possible = ([np.array(g[k], np.int32).reshape(-1, 2) for g in gold] for k in (0, 1))
        pairs = [(list(a.words), list(b.words)) for a, b in zip(*sides, strict=True)]
        return Sample(language, pairs, pairs, links.Gold(sure, possible, 0, 0, ()))

    def texts(self, language: str, count: int) -> list[str]:
        """`count` test sentences of a language."""
        return [" ".join(words[-1]) for words in self.sample(language, count).pairs]

    def keyboard(self, language: str) -> noise.Keyboard:
        """A keyboard of the language's own letters."""
        return keyboard_of(self.world, language)

    def sentence_table(self) -> pd.DataFrame:
        """One sentence in all languages, with the slot of the meaning that each word comes from."""
        drawn = synthetic.parallel(self.world, 200, np.random.default_rng([self.world.seed, 43]), "test")
        filled = np.where(drawn.asked == synthetic.ABSENT, (drawn.concept != synthetic.ABSENT).sum(1), 0)
        row = int(filled.argmax())
        found = {name: self.world.render(drawn, name)[row] for name in self.params.languages}
        slots = {n: " ".join(synthetic.SLOTS[s] for s in sentence.slots) for n, sentence in found.items()}
        return pd.DataFrame({"words": {name: s.text for name, s in found.items()}, "slots": slots})

    def facts(self, language: str) -> dict[str, Any]:
        """How a language differs from the source."""
        made = synthetic.LANGUAGES[language]
        return {
            "order": made.order, "cognates": made.cognates, "script": made.script, "case": made.case,
            "agreement": made.agreement, "verb in two words": made.particle,
        }  # fmt: skip

    def by_distance(self) -> list[tuple[str, str]]:
        """The target languages by the share of stems unlike the source's, and what an axis says of each."""
        far = {x: round(1 - synthetic.LANGUAGES[x].cognates, 4) for x in self.params.targets}
        order = sorted(self.params.targets, key=far.get)
        return [(x, f"{x}\n{far[x]:g}\n{synthetic.LANGUAGES[x].order}") for x in order]

    def baselines(self, results: Sequence[Result] = ()) -> dict[str, dict]:
        """What costs no encoder, by task: chance, and one sentence alone (trained on the same examples)."""
        params, found = self.params, {}
        for task in params.tasks:
            test = self.examples(task, "test", params.test_examples)
            if task not in LABELS:
                words = np.mean([1 / len(e.context.replace(" .", "").split()) for e in test[params.source]])
                found[task] = {"levels": [{"name": CHANCE, "y": round(float(words), 5)}], "marks": []}
                continue
            train = self.examples(task, "train", params.train_examples)[params.source]
            gold = np.array([e.label for e in test[params.source]])
            majority = evaluation.majority_accuracy([e.label for e in train], gold)
            texts = [e.text_b for name in params.languages for e in test[name]]
            labels = [e.label for e in train]
            guessed = evaluation.ngram_predictions([e.text_b for e in train], labels, texts)
            shares = (guessed.reshape(len(params.languages), -1) == gold).mean(1).round(5).tolist()
            found[task] = {
                "levels": [{"name": CHANCE, "y": round(majority, 5)}],
                "marks": [{"name": "second sentence alone (n-grams)", "values": shares}],
            }
        return found


class Real(Languages):
    """Languages that people speak: text and test sets of the publishers, gold links for some of them."""

    distance_label = "language"

    @property
    def linked(self) -> tuple[str, ...]:
        """The languages with gold links."""
        return tuple(x for x in self.params.targets if real_data.has_gold(self.params.source, x))

    def sample(self, language: str, count: int, split: str = "test", draw: int = 0) -> Sample:
        """Pairs of parallel text ("train", a drawn part of it) or those with gold links ("test")."""
        if split not in STREAMS:
            raise StudyError(f"split {split!r}: expected one of {', '.join(STREAMS)}")
        if split == "train":
            pairs = _parallel(self.params, language)
            rng = np.random.default_rng([self.params.world_of(), STREAMS[split], draw])
            drawn = [pairs[i] for i in rng.permutation(len(pairs))[:count]]
            cut = [(simple_tokenize(a.lower()), simple_tokenize(b.lower())) for a, b in drawn]
            return Sample(language, cut, cut, links.Gold([], [], 0, 0, ()))
        words, gold = real_data.gold_alignments(self.params.source, language)
        words, sure, possible = words[:count], gold.sure[:count], gold.possible[:count]
        both = [[real_data.units(real_data.lowered(side)) for side in pair] for pair in words]
        pairs = [(a[0], b[0]) for a, b in both]
        owners = [(a[1], b[1]) for a, b in both]
        return Sample(language, pairs, words, links.Gold(sure, possible, 0, 0, ()), owners)

    def texts(self, language: str, count: int) -> list[str]:
        """`count` sentences of a language, drawn from its parallel text."""
        source = language == self.params.source
        pairs = _parallel(self.params, self.params.targets[0] if source else language)
        rng = np.random.default_rng([self.params.world_of(), STREAMS["test"]])
        return [pairs[i][0 if source else 1] for i in rng.permutation(len(pairs))[:count]]

    def keyboard(self, language: str) -> noise.Keyboard:
        """The keyboard that is usual for the language."""
        return noise.keyboard_for(language)

    def sentence_table(self) -> pd.DataFrame:
        """One test example of natural language inference, or of the first task, in all languages."""
        task = "nli" if "nli" in self.params.tasks else self.params.tasks[0]
        found = {name: rows[0] for name, rows in self.examples(task, "test", 1).items()}
        texts = {name: e.text_a if task in LABELS else e.question for name, e in found.items()}
        return pd.DataFrame(
            {"sentence": texts, "words": {x: len(simple_tokenize(t)) for x, t in texts.items()}}
        )

    def facts(self, language: str) -> dict[str, Any]:
        """What the study has of a language beside its text."""
        return {"gold word links": "yes" if language in self.linked else "no"}

    def by_distance(self) -> list[tuple[str, str]]:
        """The target languages in the order of the profile: no single distance orders them."""
        return [(name, name) for name in self.params.targets]

    def baselines(self, results: Sequence[Result] = ()) -> dict[str, dict]:
        """The baselines that a run has computed, and scores of mBERT as published, by task.

        "qa@mlqa" is of a further test set; questions are scored by F1.
        """
        run = next((r for r in results if r.kind == "baselines"), None)
        if run is None:
            raise StudyError("the results hold no run of baselines: notebooks 02 and 03 make it")
        found: dict[str, dict] = {}
        for task, named in run.values["baselines"].items():
            suffixes = dict.fromkeys(
                x[len(task_data.language_of(x)) :] for scores in named.values() for x in scores
            )
            judged = [x for x in suffixes if x.endswith("#f1")] or suffixes  # exact matches beside F1 are not
            for suffix in judged:
                marks = [
                    {"name": name, "values": [scores.get(x + suffix) for x in self.params.languages]}
                    for name, scores in named.items()
                ]
                levels, known = published.beside(self._test_set(task, suffix), self.params.languages)
                found[task + suffix.removesuffix("#f1")] = {"levels": levels, "marks": [*marks, *known]}
        return found

    def _test_set(self, task: str, suffix: str) -> str:
        """The test set of a setting: the one that it names, or the first of the task; "" for probes."""
        named = suffix.partition("#")[0].removeprefix("@")
        if named or task not in self.params.tasks:
            return named
        return task_data.sets(to_dict(self.params), task, "test_sets")[0][0]


@cache
def _parallel(params: Params, language: str) -> list[tuple[str, str]]:
    """The parallel text of the source and a language, read once for all figures."""
    found, _ = real_data.parallel_text(to_dict(params), language)
    return [pair for pairs in found.values() for pair in pairs]


@cache
def of(params: Params) -> Languages:
    """The languages of a profile."""
    return Real(params) if params.data == "real" else Synthetic(params)
