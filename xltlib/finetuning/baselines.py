"""Runs of what costs no encoder, for every measure on real languages: scores that an encoder has to beat."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from scipy.sparse import csr_matrix, diags

from xltlib import evaluation
from xltlib.data import corpora, real_data, task_data
from xltlib.data.real_data import lowered
from xltlib.data.tasks import PairExample, SpanExample, TaggedSentence
from xltlib.data.text import link_lists, read_sentences
from xltlib.pretraining import probing
from xltlib.pretraining.encoders import linked_lexicon
from xltlib.pretraining.training import Progress
from xltlib.significance.tests import numbered
from xltlib.store import Result, Spec

AROUND = 10  # words on either side of an answer in which those of the question are looked for

Translate = Callable[[Sequence[str]], list[str]]
Scores = dict[str, dict[str, float]]  # name of a baseline -> setting -> score


def build_baselines(spec: Spec, inputs: list[Result], directory: Path, progress: Progress | None) -> dict:
    """Scores by task, baseline and setting, means over examples: accuracies; exact match and, "de#f1", F1.

    Tasks are those of the study, "retrieval" (Tatoeba, "de@multi30k": captions) and "tagging" (PUD,
    as `build_tagging` scores it: "de" for tags, "de#deprel" for dependency labels). An "EM lexicon" gives
    each word the source's word that it is linked with most often in the pairs.
    """
    _, pairs, linked = inputs
    params = spec.params
    translate = {x: _translator(pairs, linked, x) for x in pairs.values["pairs"]}
    translate[params["source"]] = lowered
    scores = {task: TASKS[task](params, translate) for task in params["tasks"]}
    for name, measure in (("retrieval", _retrieval), ("tagging", _tagging)):
        if measured := measure(params, translate, pairs):
            scores[name] = measured
    rounded = {
        task: {name: {x: round(float(y), 5) for x, y in own.items()} for name, own in each.items()}
        for task, each in scores.items()
    }
    clusters = {task: _clusters(params, task) for task in params["tasks"]}
    if "tagging" in scores:
        clusters["tagging"] = {"": numbered(probing.documents(params))}
    return {"baselines": rounded, "clusters": clusters}


def _clusters(params: Mapping, task: str) -> dict[str, list[int]]:
    """Which test examples share a passage, or their first sentence, by setting; none where no two do.

    Where a set has the same examples in all languages the source's say it for all: "" of the first test set,
    "@sick" of a further one.
    """
    clusters, aligned = {}, task in task_data.ALIGNED
    for setting, examples in task_data.examples(params, task, "test", params["test_examples"]).items():
        language = task_data.language_of(setting)
        if not aligned or language == params["source"]:
            shared = [e.context if isinstance(e, SpanExample) else e.text_a for e in examples]
            if len(set(shared)) < len(shared):
                clusters[setting.removeprefix(language) if aligned else setting] = numbered(shared)
    return clusters


def _translator(pairs: Result, linked: Result, language: str) -> Translate:
    """Gives each word of a language the source's, in lower case; a word without a link stays as it is."""
    with np.load(linked.file("links.npz"), allow_pickle=False) as arrays:
        links = link_lists(arrays, language)
    sides = [[lowered(x) for x in read_sentences(pairs, language, side)[: len(links)]]
             for side in ("target", "source")]  # fmt: skip
    lexicon = linked_lexicon(*sides, [pair[:, ::-1] for pair in links])
    best = {word: words[0] for word, words in lexicon.items() if words}
    return lambda words: [best.get(word, word) for word in lowered(words)]


def _words(text: str) -> list[str]:
    return lowered(corpora.simple_tokenize(corpora.clean(text, nfkc=True)))


# Tasks


def _examples(params: Mapping, task: str) -> tuple[list, dict[str, list]]:
    """Training examples of the source, test examples by setting."""
    train = task_data.examples(params, task, "train", params["train_examples"])[params["source"]]
    return train, task_data.examples(params, task, "test", params["test_examples"])


def _majority(train: Sequence[PairExample], test: Mapping[str, Sequence[PairExample]]) -> dict[str, float]:
    labels = [e.label for e in train]
    return {x: evaluation.majority_accuracy(labels, [e.label for e in each]) for x, each in test.items()}


def _nli(params: Mapping, translate: Mapping[str, Translate]) -> Scores:
    """The majority label; n-grams of the hypothesis alone, in other languages than the source translated."""
    train, test = _examples(params, "nli")
    texts = [" ".join(_words(e.text_b)) for e in train]
    tested = [
        " ".join(translate.get(task_data.language_of(x), lowered)(_words(e.text_b)))
        for x, each in test.items()
        for e in each
    ]
    predicted = evaluation.ngram_predictions(texts, [e.label for e in train], tested)
    parts = np.split(predicted, np.cumsum([len(each) for each in test.values()])[:-1])
    settings = zip(test.items(), parts, strict=True)
    alone = {x: np.mean(part == [e.label for e in each]) for (x, each), part in settings}
    return {"majority": _majority(train, test), "hypothesis only": alone}


def _paraphrase(params: Mapping, translate: Mapping[str, Translate]) -> Scores:
    """The majority label; a threshold, the best for the training examples, on the words shared."""
    train, test = _examples(params, "paraphrase")
    shared, labels = np.array([_shared(e) for e in train]), np.array([e.label for e in train])
    tried = [*np.unique(shared), np.inf]
    best = tried[int(np.argmax([np.mean((shared >= one) == labels) for one in tried]))]
    overlap = {x: np.mean([(_shared(e) >= best) == e.label for e in each]) for x, each in test.items()}
    return {"majority": _majority(train, test), "word overlap": overlap}


def _shared(example: PairExample) -> float:
    """The share of the words of either sentence that are in both."""
    a, b = set(_words(example.text_a)), set(_words(example.text_b))
    return len(a & b) / max(len(a | b), 1)


def _qa(params: Mapping, translate: Mapping[str, Translate]) -> Scores:
    """The words, as many as a training answer usually has, with most of the question around them."""
    train, test = _examples(params, "qa")
    lengths = [len(corpora.token_spans(e.answers[0][1])) for e in train]
    length, scores = max(1, round(float(np.median(lengths)))), {}
    first = task_data.sets(params, "qa", "test_sets")[0][0]
    for setting, examples in test.items():
        language, _, name = setting.partition("@")
        style = evaluation.OFFICIAL_STYLE.get(name or first, "squad")
        answers = {e.id: window(e, length) for e in examples}
        metrics = evaluation.qa_scores(examples, answers, language, style)
        scores |= {setting: metrics["exact_match"].mean(), f"{setting}#f1": metrics["f1"].mean()}
    return {"words near the question's": scores}


def window(example: SpanExample, length: int) -> str:
    """`length` words of the passage, those with most words of the question near them; the first of equals.

    A word of the question weighs more where it is rare in the passage, and by 1 / (1 + its distance); within
    the answer it counts against it.
    """
    spans = corpora.token_spans(example.context)
    words = [example.context[a:b].lower() for a, b in spans]
    counts, asked = Counter(words), set(_words(example.question))
    weights = [np.log(1 + len(words) / counts[w]) if w in asked and w.isalnum() else 0.0 for w in words]
    near = np.convolve(weights, 1 / (1 + np.abs(np.arange(-AROUND, AROUND + 1))))[
        AROUND : AROUND + len(words)
    ]
    total = np.cumsum([0.0, *(near - 3 * np.array(weights))])
    starts = np.arange(max(1, len(words) - length + 1))
    stops = np.minimum(starts + length, len(words))
    inside = np.round(total[stops] - total[starts], 9)  # so that processors agree on which ones are equal
    best = int(np.argmax(inside))
    return example.context[spans[best][0] : spans[int(stops[best]) - 1][1]]


TASKS = {"nli": _nli, "paraphrase": _paraphrase, "qa": _qa}


# Probes


def _retrieval(params: Mapping, translate: Mapping[str, Translate], pairs: Result) -> Scores:
    """Accuracy of finding the source's sentence by its translated words, or by character trigrams."""
    scores: Scores = {"EM lexicon": {}, "character trigrams": {}}
    for language in pairs.values["pairs"]:
        weigh = [lowered(words) for words in read_sentences(pairs, language, "source")]
        for setting, sentences in real_data.retrieval_pairs(params, language).items():
            own, other = ([_words(text) for text in side] for side in zip(*sentences, strict=True))
            name = language + setting
            scores["EM lexicon"][name] = _nearest([translate[language](words) for words in own], other, weigh)
            grams = [[_trigrams(words) for words in side] for side in (own, other)]
            scores["character trigrams"][name] = _nearest(*grams, [*grams[0], *grams[1]])
    return {name: own for name, own in scores.items() if own}


def _trigrams(words: Sequence[str]) -> list[str]:
    padded = f" {' '.join(words)} "
    return [padded[i : i + 3] for i in range(len(padded) - 2)]


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
    a, b = (_unit_rows(side, number, rarity) for side in (own, other))
    return float(evaluation.retrieval_scores((a @ b.T).toarray())["forward"].mean())


def _unit_rows(
    sentences: Sequence[Sequence[str]], number: Mapping[str, int], rarity: np.ndarray
) -> csr_matrix:
    cells = [(row, number[term]) for row, terms in enumerate(sentences) for term in dict.fromkeys(terms)]
    rows, columns = np.array(cells).T
    terms = csr_matrix((rarity[columns], (rows, columns)), shape=(len(sentences), len(number)))
    norms = np.sqrt(terms.multiply(terms).sum(axis=1)).A1
    return diags(1 / np.maximum(norms, 1e-9)) @ terms


def _tagging(params: Mapping, translate: Mapping[str, Translate], pairs: Result) -> Scores:
    """The commonest tag, a word's own character n-grams, and the tag of its translation in the source."""
    if "tagging" not in params["probes"]:
        return {}
    sentences = probing.pud(params)
    scores: Scores = {"majority": {}, "word shape (n-grams)": {}, "EM lexicon": {}}
    train = sentences[params["source"]][probing.TRAINED]
    test = {x: each[probing.TESTED] for x, each in sentences.items()}
    words = [word for each in test.values() for s in each for word in s.words]
    for name in ("", "#deprel"):
        tags = [tag for s in train for tag in probing.tag_sets(s)[name]]
        common = Counter(tags).most_common(1)[0][0]
        shape = iter(evaluation.ngram_predictions([w for s in train for w in s.words], tags, words))
        votes = _votes(train, name)
        for language, each in test.items():
            own, gold = translate.get(language, lowered), [probing.tag_sets(s)[name] for s in each]
            tagged = {
                "majority": [[common] * len(s.words) for s in each],
                "word shape (n-grams)": [[next(shape) for _ in s.words] for s in each],
                "EM lexicon": [[_tag(own, word, votes, common) for word in s.words] for s in each],
            }
            for baseline, predicted in tagged.items():
                right = evaluation.tagging_scores(gold, predicted)
                scores[baseline][language + name] = np.mean(right["correct"] / right["words"])
    return scores


def _votes(train: Sequence[TaggedSentence], name: str) -> dict[str, Counter[str]]:
    """How often each word, and each of the parts that our text has it in, has each tag."""
    votes: dict[str, Counter[str]] = {}
    for sentence in train:
        for word, tag in zip(sentence.words, probing.tag_sets(sentence)[name], strict=True):
            for part in dict.fromkeys([word.lower(), *_words(word)]):
                votes.setdefault(part, Counter())[tag] += 1
    return votes


def _tag(translate: Translate, word: str, votes: Mapping[str, Counter[str]], common: str) -> str:
    """The commonest tag of a word's translation; of a word in parts, of all their translations together."""
    whole = translate([word])[0]
    parts = [whole] if whole in votes else translate(_words(word))
    counts = sum((votes[part] for part in parts if part in votes), Counter())
    return counts.most_common(1)[0][0] if counts else common
