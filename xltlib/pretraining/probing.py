"""Runs that probe an encoder of real languages before any task: retrieval, word links, and tags."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from xltlib import StudyError, evaluation
from xltlib.alignment import links
from xltlib.data import real_data, tasks, tokenization
from xltlib.data.corpora import clean
from xltlib.data.tasks import TaggedSentence
from xltlib.data.text import tokenizer_of
from xltlib.pretraining import models
from xltlib.pretraining.training import Progress, epoch_batches
from xltlib.store import Result, Spec, save_scores

BATCH = 64  # sentences of equal length at once
UNSPACED = ("zh", "ja", "th")  # languages written without blanks
TRAINED, CHOSEN, TESTED = slice(0, 700), slice(700, 800), slice(800, 1000)  # PUD's sentences, in its order
MEASURES = {"": "sentences", "@multi30k": "captions"}  # setting of a retrieval set -> what it measures
STRENGTHS = (1e-4, 1e-3, 1e-2)  # of L2, against the mean loss; the best for the source's chosen sentences
TAGGING_LIMITS = {"zh": "PUD is in traditional characters, the Chinese text trained on in simplified ones"}

Words = Sequence[Sequence[str]]


class Reader:
    """Vectors of sentences and of words by a frozen encoder."""

    def __init__(self, encoder_run: Result, text: Result) -> None:
        self.tokenizer = tokenizer_of(text)
        self.special = tokenization.specials(self.tokenizer)
        self.room = text.params["max_length"] - len(tokenization.join((), special=self.special))
        device = encoder_run.params.get("device", "cpu")
        self.encoder = models.load(encoder_run.file("config.json").parent).to(device).eval()
        self.device = device

    @torch.inference_mode()
    def states(self, coded: Sequence[Sequence[int]], last: bool = False) -> list[list[np.ndarray]]:
        """By layer (the embeddings first; `last`: the last one alone), each sentence's subwords (T, H).

        A sentence that is longer than `max_length` is read to there.
        """
        ids = [tokenization.join(one[: self.room], special=self.special) for one in coded]
        first, layers = len(self.special.before), []
        for rows in epoch_batches(map(len, ids), BATCH, np.random.default_rng(0)):
            batch = torch.from_numpy(np.stack([ids[row] for row in rows])).to(self.device)
            found = self.encoder.layers(batch)[-1 if last else 0 :].float().cpu().numpy()
            layers = layers or [[np.empty(0)] * len(ids) for _ in found]
            for layer, states in zip(layers, found, strict=True):
                for row, one in zip(rows, states, strict=True):
                    layer[row] = one[first : first + min(len(coded[row]), self.room)]
        return layers

    def sentences(self, texts: Sequence[str]) -> list[np.ndarray]:
        """By layer, the mean of each text's subwords (N, H), centred."""
        ids, _ = tokenization.encode_texts(self.tokenizer, [clean(text, nfkc=True) for text in texts])
        pooled = (np.stack([x.mean(0) for x in layer]) for layer in self.states(ids))
        return [vectors - vectors.mean(0) for vectors in pooled]

    def words(self, sentences: Words, language: str, last: bool = False) -> list[list[np.ndarray]]:
        """By layer, each sentence's words (W, H): the mean of a word's subwords; zeros for one without."""
        ids, pieces = self._pieces(sentences, language)
        return [
            [_word_means(states, spans) for states, spans in zip(layer, pieces, strict=True)]
            for layer in self.states(ids, last)
        ]

    def _pieces(self, sentences: Words, language: str) -> tuple[list[list[int]], list[np.ndarray]]:
        """Ids of sentences given as words, and of each word the first subword and the one after its last."""
        blank, texts, places = "" if language in UNSPACED else " ", [], []
        for words in sentences:
            cleaned = [clean(word, nfkc=True) for word in words]
            ends = np.cumsum([len(word) + len(blank) for word in cleaned]).tolist()
            texts.append(blank.join(cleaned))
            places.append(
                [(e - len(blank) - len(w), e - len(blank)) for w, e in zip(cleaned, ends, strict=True)]
            )
        ids, spans = tokenization.encode_texts(self.tokenizer, texts)
        return ids, [tokenization.overlaps(a, b) for a, b in zip(places, spans, strict=True)]


def _word_means(states: np.ndarray, pieces: np.ndarray) -> np.ndarray:
    """Means of the states (T, H) from a word's first subword to its last: (W, H)."""
    sums = np.concatenate([np.zeros_like(states[:1]), states.cumsum(0, dtype=np.float64)])
    first, stop = np.minimum(pieces, len(states)).T
    return (sums[stop] - sums[first]) / np.maximum(stop - first, 1)[:, None]


def build_probe(spec: Spec, inputs: list[Result], directory: Path, progress: Progress | None) -> dict:
    """How near translations lie in an encoder, by layer: retrieval of sentences and captions, and word links.

    Retrieval is from each language to the source, as in XTREME; AER is of mutual best matches on gold
    sentences. Vectors are centred by language. `scores`: hits of retrieval in the last layer, those of
    captions as "de@multi30k".
    """
    params, reader = spec.params, Reader(*inputs)
    values: dict[str, dict[str, list[float]]] = {}
    scores = {}
    for language in params["languages"]:
        if language == params["source"]:
            continue
        found = values[language] = {}
        for setting, pairs in real_data.retrieval_pairs(params, language).items():
            hits = _retrieval(reader, pairs)
            found[MEASURES[setting]] = [_round(x.mean()) for x in hits]
            scores[language + setting] = hits[-1]
        if "alignment" in params["probes"] and real_data.has_gold(params["source"], language):
            found["aer"] = _alignment(reader, params["source"], language)
    save_scores(directory / "scores.npz", scores)
    return {"labels": params["labels"], "by_layer": values}


def _retrieval(reader: Reader, pairs: real_data.Pairs) -> list[np.ndarray]:
    """By layer, 1 for each first sentence whose nearest second one is its translation (N,)."""
    layers = zip(*(reader.sentences(side) for side in zip(*pairs, strict=True)), strict=True)
    return [evaluation.retrieval_scores(links.similarity(a, b))["forward"] for a, b in layers]


def _alignment(reader: Reader, source: str, language: str) -> list[float]:
    """AER by layer."""
    pairs, gold = real_data.gold_alignments(source, language)
    sides = (
        reader.words(list(side), name)
        for name, side in zip((source, language), zip(*pairs, strict=True), strict=True)
    )
    found = []
    for both in zip(*sides, strict=True):
        a, b = (links.centred(side) for side in both)
        made = [links.argmax_links(links.similarity(x, y)) for x, y in zip(a, b, strict=True)]
        found.append(_round(links.aer(made, gold.sure, gold.possible).aer))
    return found


def pud(params: Mapping) -> dict[str, list[TaggedSentence]]:
    """PUD's 1,000 sentences of the study's languages that it has, the same in each."""
    found = {}
    for language in params["languages"]:
        if language in tasks.SETS["pud"].languages:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore" if not params["official_counts"] else "default")
                found[language] = tasks.load(
                    "pud", "test", language, real_data.folder(), strict=params["official_counts"]
                )
    if params["source"] not in found:
        raise StudyError(f"PUD has no {params['source']!r}: tags are learnt from the source language")
    return tasks.align(found)


def documents(params: Mapping) -> list[str]:
    """The document of each test sentence of PUD: its id without the last three digits, as in n03001007."""
    return [sentence.id[:-3] for sentence in pud(params)[params["source"]][TESTED]]


def tag_sets(sentence: TaggedSentence) -> dict[str, tuple[str, ...]]:
    """What is told of each word: by "" its tag, by "#deprel" the universal part of its dependency label."""
    return {"": sentence.tags, "#deprel": tuple(label.partition(":")[0] for label in sentence.deprels)}


def build_tagging(spec: Spec, inputs: list[Result], directory: Path, progress: Progress | None) -> dict:
    """Tags and dependency labels of PUD, told by a linear classifier from the frozen encoder's last layer.

    A word is the mean of its subwords. The classifier is trained on sentences 1 to 700 of the source, its L2
    strength chosen on 701 to 800, and all languages are tested on 801 to 1000. `scores`: each sentence's
    accuracy, "de" for tags and "de#deprel" for dependency labels.
    """
    params, reader = spec.params, Reader(*inputs)
    sentences, source = pud(params), params["source"]
    vectors = {}
    for language, found in sentences.items():
        wanted = range(len(found)) if language == source else range(*TESTED.indices(len(found)))
        read = reader.words([found[row].words for row in wanted], language, last=True)[0]
        vectors[language] = dict(zip(wanted, read, strict=True))
    scores, strengths = {}, {}
    for name in ("", "#deprel"):
        classifier = _fit(vectors[source], [tag_sets(s)[name] for s in sentences[source]])
        strengths[name.removeprefix("#") or "tags"] = classifier.strength
        for language, found in sentences.items():
            rows = range(*TESTED.indices(len(found)))
            gold = [tag_sets(found[row])[name] for row in rows]
            scores[language + name] = _accuracies(classifier, [vectors[language][row] for row in rows], gold)
    save_scores(directory / "scores.npz", scores)
    means = {name: round(float(x.mean()), 6) for name, x in scores.items()}
    limits = {x: text for x, text in TAGGING_LIMITS.items() if x in sentences}
    return {"labels": params["labels"], "means": means, "l2": strengths, "limits": limits}


class Classifier:
    """Softmax regression on standardised vectors."""

    def __init__(self, vectors: np.ndarray, labels: Sequence[str], strength: float) -> None:
        self.strength = strength
        self.mean, self.width = vectors.mean(0), vectors.std(0) + 1e-6
        self.labels, targets = np.unique(np.asarray(labels), return_inverse=True)
        self.weights = evaluation.softmax_regression(self._inputs(vectors), targets, strength)

    def _inputs(self, vectors: np.ndarray) -> np.ndarray:
        """Standardised, with a last column of ones."""
        return np.column_stack([(vectors - self.mean) / self.width, np.ones(len(vectors))])

    def __call__(self, vectors: np.ndarray) -> np.ndarray:
        """The label of each vector (N,)."""
        return self.labels[(self._inputs(vectors) @ self.weights).argmax(axis=1)]


def _fit(vectors: Mapping[int, np.ndarray], gold: Sequence[Sequence[str]]) -> Classifier:
    rows = range(len(gold))
    trained, chosen = rows[TRAINED], rows[CHOSEN]
    inputs, labels = (
        np.concatenate([vectors[row] for row in trained]),
        [x for row in trained for x in gold[row]],
    )
    tried = [Classifier(inputs, labels, strength) for strength in STRENGTHS]
    own = [vectors[row] for row in chosen]
    return max(tried, key=lambda one: _accuracies(one, own, [gold[row] for row in chosen]).mean())


def _accuracies(
    classifier: Classifier, vectors: Sequence[np.ndarray], gold: Sequence[Sequence[str]]
) -> np.ndarray:
    """The share of right labels in each sentence (N,)."""
    predicted = [classifier(one).tolist() for one in vectors]
    found = evaluation.tagging_scores(gold, predicted)
    return found["correct"] / found["words"]


def _round(value: float) -> float:
    return round(float(value), 4)
