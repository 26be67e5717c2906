"""Runs of what costs no encoder, for every measure on real languages: scores that an encoder has to beat."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from scipy.sparse import csr_matrix, diags

from xltlib import evaluation
from xltlib.data import real_data, task_data
from xltlib.data.real_data import lowered
from xltlib.data.task_data import language_of
from xltlib.data.tasks import PairExample, SpanExample
from xltlib.data.text import read_sentences
from xltlib.data.words import clean, simple_tokenize, token_spans
from xltlib.finetuning.case import comparison
from xltlib.pretraining import probing
from xltlib.pretraining.encoders import linked_lexicon, read_links
from xltlib.pretraining.training import Progress
from xltlib.significance.tests import numbered
from xltlib.store import Result, Spec

AROUND = 10  # words on either side of an answer in which those of the question are looked for

Translators = Mapping[str, Callable[[Sequence[str]], list[str]]]  # by language: words to the source's
Scores = dict[str, dict[str, float]]  # name of a baseline -> setting -> score


def build_baselines(spec: Spec, inputs: list[Result], directory: Path, progress: Progress | None) -> dict:
    """Scores by task, baseline and setting, means over examples: accuracies; exact match and, "de#f1", F1.

    Tasks are those of the study, "retrieval" (Tatoeba, "de@multi30k": captions) and "tagging" (PUD,
    as `build_tagging` scores it: "de" for tags, "de#deprel" for dependency labels). An "EM lexicon" gives
    each word the source's word that it is linked with most often in the pairs.
    """
    params, (_, pairs, linked) = spec.params, inputs
    translate = {x: _translator(pairs, linked, x) for x in pairs.values["pairs"]}
    scores, clusters = {}, {}
    for task in params["tasks"]:
        train = task_data.examples(params, task, "train", params["train_examples"])[params["source"]]
        test = task_data.examples(params, task, "test", params["test_examples"])
        clusters[task] = _clusters(test, params["source"], task in task_data.ALIGNED)
        if task == "qa":
            scores[task] = _near_words(train, test, params)
        else:
            gold, labels = {x: [e.label for e in own] for x, own in test.items()}, [e.label for e in train]
            majority = {x: evaluation.majority_accuracy(labels, own) for x, own in gold.items()}
            own = _hypothesis_only(train, test, translate) if task == "nli" else _word_overlap(train, test)
            scores[task] = {"majority": majority} | own
    if retrieval := _retrieval(params, translate, pairs):
        scores["retrieval"] = retrieval
    if "tagging" in params["probes"]:
        scores["tagging"] = _tagging(params, translate)
        clusters["tagging"] = {"": numbered(probing.documents(params))}
    rounded = {
        task: {name: {x: round(float(y), 5) for x, y in own.items()} for name, own in each.items()}
        for task, each in scores.items()
    }
    return {"baselines": rounded, "clusters": clusters}


def _clusters(test: Mapping[str, Sequence], source: str, aligned: bool) -> dict[str, list[int]]:
    """Which test examples share a passage, or their first sentence, by setting; none where no two do.

    Where a set has the same examples in all languages (`aligned`) the source's say it for all: "" of the
    first test set, "@xnli" of a further one.
    """
    clusters = {}
    for setting, examples in test.items():
        shared = [e.context if isinstance(e, SpanExample) else e.text_a for e in examples]
        if len(set(shared)) < len(shared) and not (aligned and language_of(setting) != source):
            clusters[setting.removeprefix(source) if aligned else setting] = numbered(shared)
    return clusters


def _translator(pairs: Result, linked: Result, language: str) -> Callable[[Sequence[str]], list[str]]:
    """Gives each word of a language the source's, in lower case; a word without a link stays as it is."""
    links = read_links(linked, language)
    target, source = (
        [lowered(words) for words in read_sentences(pairs, language, side)[: len(links)]]
        for side in ("target", "source")
    )
    lexicon = linked_lexicon(target, source, [pair[:, ::-1] for pair in links])
    best = {word: words[0] for word, words in lexicon.items() if words}
    return lambda words: [best.get(word, word) for word in lowered(words)]


def _words(text: str) -> list[str]:
    return lowered(simple_tokenize(clean(text, nfkc=True)))


# Tasks: each from training examples of the source and test examples by setting


def _hypothesis_only(
    train: Sequence[PairExample], test: Mapping[str, Sequence[PairExample]], translate: Translators
) -> Scores:
    """N-grams of the hypothesis alone, in other languages than the source translated."""
    texts = [" ".join(_words(e.text_b)) for e in train]
    tested = [
        " ".join(translate.get(language_of(x), lowered)(_words(e.text_b)))
        for x, own in test.items()
        for e in own
    ]
    predicted = iter(evaluation.ngram_predictions(texts, [e.label for e in train], tested))
    return {"hypothesis only": {x: np.mean([next(predicted) == e.label for e in y]) for x, y in test.items()}}


def _word_overlap(train: Sequence[PairExample], test: Mapping[str, Sequence[PairExample]]) -> Scores:
    """A threshold, the best for the training examples, on the share of words that are in both sentences."""

    def shared(examples: Sequence[PairExample]) -> np.ndarray:
        sides = [(set(_words(e.text_a)), set(_words(e.text_b))) for e in examples]
        return np.array([len(a & b) / max(len(a | b), 1) for a, b in sides])

    def right(shares: np.ndarray, threshold: float, examples: Sequence[PairExample]) -> float:
        return np.mean((shares >= threshold) == [e.label for e in examples])

    shares = shared(train)
    best = max([*np.unique(shares), np.inf], key=lambda threshold: right(shares, threshold, train))
    return {"word overlap": {x: right(shared(own), best, own) for x, own in test.items()}}


def _near_words(
    train: Sequence[SpanExample], test: Mapping[str, Sequence[SpanExample]], params: Mapping
) -> Scores:
    """The words, as many as a training answer usually has, with most of the question around them."""
    lengths = [len(token_spans(e.answers[0][1])) for e in train]
    length, scores = max(1, round(float(np.median(lengths)))), {}
    for setting, examples in test.items():
        texts = [window(e, length) for e in examples]
        metrics = evaluation.qa_scores(examples, texts, *comparison(params, setting))
        scores |= {setting: metrics["exact_match"].mean(), f"{setting}#f1": metrics["f1"].mean()}
    return {"words near the question's": scores}


def window(example: SpanExample, length: int) -> str:
    """`length` words of the passage, those with most words of the question near them; the first of equals.

    A word of the question weighs more where it is rare in the passage, and by 1 / (1 + its distance); within
    the answer it counts against it.
    """
    spans = token_spans(example.context)
    words = [example.context[a:b].lower() for a, b in spans]
    counts, asked = Counter(words), set(_words(example.question))
    weights = [np.log(1 + len(words) / counts[w]) if w in asked and w.isalnum() else 0.0 for w in words]
    spread = np.convolve(weights, 1 / (1 + np.abs(np.arange(-AROUND, AROUND + 1))))
    near = spread[AROUND : AROUND + len(words)]
    total = np.cumsum([0.0, *(near - 3 * np.array(weights))])
    starts = np.arange(max(1, len(words) - length + 1))
    stops = np.minimum(starts + length, len(words))
    inside = np.round(total[stops] - total[starts], 9)  # so that processors agree on which ones are equal
    best = int(np.argmax(inside))
    return example.context[spans[best][0] : spans[int(stops[best]) - 1][1]]


# Probes


def _retrieval(params: Mapping, translate: Translators, pairs: Result) -> Scores:
    """Accuracy of finding the source's sentence by its translated words, or by character trigrams."""
    lexicon, trigrams = {}, {}
    for language in pairs.values["pairs"]:
        weigh = [lowered(words) for words in read_sentences(pairs, language, "source")]
        for setting, sentences in real_data.retrieval_pairs(params, language).items():
            own, other = ([_words(text) for text in side] for side in zip(*sentences, strict=True))
            translated = [translate[language](words) for words in own]
            lexicon[language + setting] = _nearest(translated, other, weigh)
            texts = ([f" {' '.join(words)} " for words in side] for side in (own, other))
            grams = [[[x[i : i + 3] for i in range(len(x) - 2)] for x in side] for side in texts]
            trigrams[language + setting] = _nearest(*grams, grams[0] + grams[1])
    return {"EM lexicon": lexicon, "character trigrams": trigrams} if lexicon else {}


def _nearest(
    own: Sequence[Sequence[str]], other: Sequence[Sequence[str]], weighed: Iterable[Sequence[str]]
) -> float:
    """The share of `own` whose nearest of `other` by common terms is their translation.

    Cosines of the terms that each has, by the logarithm of how rare they are in `weighed`.
    """
    number = {term: i for i, term in enumerate(dict.fromkeys(t for one in [*own, *other] for t in one))}
    texts = [set(terms) for terms in weighed]
    counts = Counter(term for terms in texts for term in terms)
    rarity = np.array([np.log((len(texts) + 1) / (counts[term] + 1)) for term in number])

    def unit_rows(side: Sequence[Sequence[str]]) -> csr_matrix:
        cells = [(row, number[term]) for row, terms in enumerate(side) for term in dict.fromkeys(terms)]
        rows, columns = np.array(cells).T
        terms = csr_matrix((rarity[columns], (rows, columns)), shape=(len(side), len(number)))
        norms = np.sqrt(terms.multiply(terms).sum(axis=1)).A1
        return diags(1 / np.maximum(norms, 1e-9)) @ terms

    cosines = (unit_rows(own) @ unit_rows(other).T).toarray()
    return float(evaluation.retrieval_scores(cosines).mean())


def _tagging(params: Mapping, translate: Translators) -> Scores:
    """The commonest tag, a word's own character n-grams, and the tag of its translation in the source."""
    sentences = probing.pud(params)
    scores: Scores = {"majority": {}, "word shape (n-grams)": {}, "EM lexicon": {}}
    train = sentences[params["source"]][probing.TRAINED]
    test = {x: own[probing.TESTED] for x, own in sentences.items()}
    known = [word for s in train for word in s.words]
    words = [word for own in test.values() for s in own for word in s.words]
    for name in ("", "#deprel"):
        tags = [tag for s in train for tag in probing.tag_sets(s)[name]]
        ((common, _),) = Counter(tags).most_common(1)
        shape = iter(evaluation.ngram_predictions(known, tags, words))
        votes: dict[str, Counter[str]] = {}  # of each word, and of the parts that our text has it in
        for word, tag in zip(known, tags, strict=True):
            for part in dict.fromkeys([word.lower(), *_words(word)]):
                votes.setdefault(part, Counter())[tag] += 1
        for language, own in test.items():
            to_source = translate.get(language, lowered)
            tagged = {
                "majority": [[common] * len(s.words) for s in own],
                "word shape (n-grams)": [[next(shape) for _ in s.words] for s in own],
                "EM lexicon": [[_tag(to_source, word, votes, common) for word in s.words] for s in own],
            }
            gold = [probing.tag_sets(s)[name] for s in own]
            for baseline, predicted in tagged.items():
                scores[baseline][language + name] = evaluation.tagging_scores(gold, predicted).mean()
    return scores


def _tag(
    translate: Callable[[Sequence[str]], list[str]], word: str, votes: Mapping[str, Counter[str]], common: str
) -> str:
    """The commonest tag of a word's translation; of a word in parts, of all their translations together."""
    (whole,) = translate([word])
    parts = [whole] if whole in votes else translate(_words(word))
    counts = sum((votes[part] for part in parts if part in votes), Counter())
    return counts.most_common(1)[0][0] if counts else common
