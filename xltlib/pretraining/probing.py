"""Runs that probe an encoder before any task: retrieval of translations, word links, and tags."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from xltlib import StudyError, evaluation
from xltlib.alignment import links
from xltlib.data import real_data, synthetic, task_data, tokenization
from xltlib.data.tasks import TaggedSentence
from xltlib.data.text import tokenizer_of, world_of
from xltlib.data.words import clean
from xltlib.pretraining import models
from xltlib.pretraining.training import Progress, epoch_batches
from xltlib.store import Result, Spec, save_scores

UNSPACED = ("zh", "ja", "th")  # languages written without blanks
TRAINED, CHOSEN, TESTED = slice(0, 700), slice(700, 800), slice(800, 1000)  # PUD's sentences, in its order
MEASURES = {"": "sentences", "@multi30k": "captions"}  # setting of a retrieval set -> what it measures
STRENGTHS = (1e-4, 1e-3, 1e-2)  # of L2, against the mean loss; the best for the source's chosen sentences
TAGGING_LIMITS = {"zh": "PUD is in traditional characters, the Chinese text trained on in simplified ones"}

Words = Sequence[Sequence[str]]
# by language: measures by layer, and hits in the last one
Probed = tuple[dict[str, dict[str, list[float]]], dict[str, np.ndarray]]
Tagger = Callable[[np.ndarray], np.ndarray]  # vectors (W, H) to labels (W,)


class Reader:
    """Vectors of sentences and of words by a frozen encoder."""

    def __init__(self, encoder_run: Result, text: Result) -> None:
        self.tokenizer = tokenizer_of(text)
        self.special = tokenization.specials(self.tokenizer)
        limit = text.params.get("max_length")  # synthetic sentences are short: they have none
        self.room = limit and limit - len(tokenization.join((), special=self.special))
        self.batch = 64 if limit else 128  # sentences of equal length at once
        self.device = encoder_run.params.get("device", "cpu")
        self.encoder = models.load(encoder_run.file("config.json").parent).to(self.device).eval()

    @torch.inference_mode()
    def states(self, coded: Sequence[Sequence[int]], last: bool = False) -> list[list[np.ndarray]]:
        """By layer (the embeddings first; `last`: the last one alone), each sentence's subwords (T, H).

        A sentence that is longer than `max_length` is read to there.
        """
        coded = [one[: self.room] for one in coded]
        ids = [tokenization.join(one, special=self.special) for one in coded]
        first, layers = len(self.special.before), []
        for rows in epoch_batches(map(len, ids), self.batch, np.random.default_rng(0)):
            batch = torch.from_numpy(np.stack([ids[row] for row in rows])).to(self.device)
            states = self.encoder.layers(batch)[-1 if last else 0 :].float().cpu().numpy()
            layers = layers or [[np.empty(0)] * len(ids) for _ in states]
            for layer, vectors in zip(layers, states, strict=True):
                for row, one in zip(rows, vectors, strict=True):
                    layer[row] = one[first : first + len(coded[row])]
        return layers

    def sentences(self, texts: Sequence[str]) -> list[np.ndarray]:
        """By layer, the mean of each text's subwords (N, H), centred."""
        ids, _ = tokenization.encode_texts(self.tokenizer, [clean(text, nfkc=True) for text in texts])
        pooled = (np.stack([x.mean(0) for x in layer]) for layer in self.states(ids))
        return [vectors - vectors.mean(0) for vectors in pooled]

    def words(self, sentences: Words, language: str, last: bool = False) -> list[list[np.ndarray]]:
        """By layer, each sentence's words (W, H): the mean of a word's subwords; zeros for one without."""
        blank, texts, places = "" if language in UNSPACED else " ", [], []
        for words in sentences:
            cleaned = [clean(word, nfkc=True) for word in words]
            starts = np.cumsum([0, *(len(word) + len(blank) for word in cleaned)]).tolist()
            texts.append(blank.join(cleaned))
            places.append([(a, a + len(word)) for a, word in zip(starts, cleaned, strict=False)])
        ids, spans = tokenization.encode_texts(self.tokenizer, texts)
        pieces = [tokenization.overlaps(*both) for both in zip(places, spans, strict=True)]
        return [
            [_word_means(*both) for both in zip(layer, pieces, strict=True)]
            for layer in self.states(ids, last)
        ]


def _word_means(states: np.ndarray, pieces: np.ndarray) -> np.ndarray:
    """Means of the states (T, H) from a word's first subword to its last: (W, H)."""
    sums = np.concatenate([np.zeros_like(states[:1]), states.cumsum(0, dtype=np.float64)])
    first, stop = np.minimum(pieces, len(states)).T
    return (sums[stop] - sums[first]) / np.maximum(stop - first, 1)[:, None]


def build_probe(spec: Spec, inputs: list[Result], directory: Path, progress: Progress | None) -> dict:
    """How near translations lie in an encoder, by layer: retrieval of sentences and of words, and word links.

    Retrieval is from each language to the source, AER that of mutual best matches on gold sentences. Vectors
    are centred by language: a constant offset says nothing about words. `scores`: hits of retrieval in the
    last layer (N,), by language; those of captions as "de@multi30k".
    """
    params, reader = spec.params, Reader(*inputs)
    probe = _probe_published if inputs[1].params.get("data", "synthetic") == "real" else _probe_synthetic
    values, scores = probe(params, reader, inputs[1])
    save_scores(directory / "scores.npz", scores)
    return {"labels": params["labels"], "by_layer": values}


def _probe_synthetic(params: Mapping, reader: Reader, text: Result) -> Probed:
    """Fresh sentences of the world; how near two of them are say the means of their words' vectors."""
    world, encode, vectors = world_of(text), tokenization.WordEncoder(reader.tokenizer), {}
    drawn = synthetic.parallel(world, params["sentences"], np.random.default_rng([world.seed, 23]), "test")
    sentences = {name: world.render(drawn, name) for name in params["languages"]}
    for name, own in sentences.items():
        ids, words = zip(*(encode(s.words) for s in own), strict=True)
        vectors[name] = [
            links.centred([links.pool_words(x, np.array(at)) for x, at in zip(layer, words, strict=True)])
            for layer in reader.states(ids)
        ]
    values, scores, source = {}, {}, params["source"]
    for language in (name for name in params["languages"] if name != source):
        both = zip(sentences[source], sentences[language], strict=True)
        sure, possible = zip(*(map(np.array, synthetic.gold_links(a, b)) for a, b in both), strict=True)
        own = values[language] = {"sentences": [], "words": [], "aer": []}
        for layer in zip(vectors[source], vectors[language], strict=True):
            means = [np.stack([one.mean(0) for one in side]) for side in layer]
            scores[language] = evaluation.retrieval_scores(links.similarity(*means))
            a, b = (
                np.concatenate([one[at[:, k]] for one, at in zip(side, sure, strict=True)])[:1000]
                for k, side in enumerate(layer)
            )
            right = (b[links.similarity(a, b).argmax(1)] == b).all(1)  # a word's vector, wherever it stands
            own["sentences"].append(round(float(scores[language].mean()), 4))
            own["words"].append(round(float(right.mean()), 4))
            own["aer"].append(_error_rate(layer, sure, possible))
    return values, scores


def _probe_published(params: Mapping, reader: Reader, text: Result) -> Probed:
    """Published sentence pairs, retrieved as in XTREME by the means of subwords; published gold links."""
    values, scores, source = {}, {}, params["source"]
    for language in (name for name in params["languages"] if name != source):
        own = values[language] = {}
        for setting, pairs in real_data.retrieval_pairs(params, language).items():
            layers = zip(*(reader.sentences(side) for side in zip(*pairs, strict=True)), strict=True)
            hits = [evaluation.retrieval_scores(links.similarity(*both)) for both in layers]
            own[MEASURES[setting]] = [round(float(x.mean()), 4) for x in hits]
            scores[language + setting] = hits[-1]
        if "alignment" in params["probes"] and real_data.has_gold(source, language):
            pairs, gold = real_data.gold_alignments(source, language)
            sides = zip(zip(*pairs, strict=True), (source, language), strict=True)
            layers = zip(*(reader.words(*side) for side in sides), strict=True)
            own["aer"] = [_error_rate(map(links.centred, both), gold.sure, gold.possible) for both in layers]
    return values, scores


def _error_rate(both: Iterable[Sequence[np.ndarray]], sure: links.Links, possible: links.Links) -> float:
    """AER of the words (W, H) of each sentence in two languages that are nearest to one another."""
    mutual = [links.argmax_links(links.similarity(x, y)) for x, y in zip(*both, strict=True)]
    return round(float(links.aer(mutual, sure, possible).aer), 4)


def pud(params: Mapping) -> dict[str, list[TaggedSentence]]:
    """PUD's 1,000 sentences of the study's languages that it has, the same in each."""
    sentences = task_data.records_of(params, "pud", "test", params["languages"])
    if params["source"] not in sentences:
        raise StudyError(f"PUD has no {params['source']!r}: tags are learnt from the source language")
    return sentences


def documents(params: Mapping) -> list[str]:
    """The document of each test sentence of PUD: its id without the last three digits, as in n03001007."""
    return [sentence.id[:-3] for sentence in pud(params)[params["source"]][TESTED]]


def tag_sets(sentence: TaggedSentence) -> dict[str, tuple[str, ...]]:
    """The labels of each word: by "" its tag, by "#deprel" the universal part of its dependency label."""
    return {"": sentence.tags, "#deprel": tuple(label.partition(":")[0] for label in sentence.deprels)}


def build_tagging(spec: Spec, inputs: list[Result], directory: Path, progress: Progress | None) -> dict:
    """Tags and dependency labels of PUD, told by a linear classifier from the frozen encoder's last layer.

    A word is the mean of its subwords. The classifier is trained on sentences 1 to 700 of the source, its L2
    strength chosen on 701 to 800, and all languages are tested on 801 to 1000. `scores`: each sentence's
    accuracy, "de" for tags and "de#deprel" for dependency labels.
    """
    params, reader = spec.params, Reader(*inputs)
    sentences, source = pud(params), params["source"]
    vectors, scores, strengths = {}, {}, {}
    for language, own in sentences.items():
        read = own if language == source else own[TESTED]
        (vectors[language],) = reader.words([s.words for s in read], language, last=True)
    for name in ("", "#deprel"):
        gold = [tag_sets(s)[name] for s in sentences[source]]
        words, tags = np.concatenate(vectors[source][TRAINED]), np.concatenate(gold[TRAINED])
        taggers = {strength: tagger(words, tags, strength) for strength in STRENGTHS}
        chosen = {x: _accuracies(one, vectors[source][CHOSEN], gold[CHOSEN]) for x, one in taggers.items()}
        best = strengths[name.removeprefix("#") or "tags"] = max(STRENGTHS, key=lambda x: chosen[x].mean())
        for language, own in sentences.items():
            tested = vectors[language][TESTED] if language == source else vectors[language]
            gold = [tag_sets(s)[name] for s in own[TESTED]]
            scores[language + name] = _accuracies(taggers[best], tested, gold)
    save_scores(directory / "scores.npz", scores)
    means = {name: round(float(x.mean()), 6) for name, x in scores.items()}
    limits = {x: text for x, text in TAGGING_LIMITS.items() if x in sentences}
    return {"labels": params["labels"], "means": means, "l2": strengths, "limits": limits}


def tagger(vectors: np.ndarray, tags: np.ndarray, strength: float) -> Tagger:
    """Softmax regression on standardised vectors (W, H), with L2 of this strength."""
    mean, width = vectors.mean(0), vectors.std(0) + 1e-6
    names, targets = np.unique(tags, return_inverse=True)

    def inputs(x: np.ndarray) -> np.ndarray:
        return np.column_stack([(x - mean) / width, np.ones(len(x))])

    weights = evaluation.softmax_regression(inputs(vectors), targets, strength)
    return lambda x: names[(inputs(x) @ weights).argmax(axis=1)]


def _accuracies(tell: Tagger, vectors: Sequence[np.ndarray], gold: Sequence[Sequence[str]]) -> np.ndarray:
    """The share of right labels in each sentence (N,)."""
    return evaluation.tagging_scores(gold, [tell(one).tolist() for one in vectors])
