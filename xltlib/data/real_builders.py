"""Runs of real text: documents and tokenizer, translation pairs, and word links measured on gold ones."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers, trainers
from tokenizers import models as subword_models
from transformers import PreTrainedTokenizerFast

from xltlib import StudyError
from xltlib.alignment import aligner, links
from xltlib.data import corpora, real_data, tokenization
from xltlib.data.text_builders import link_subwords, read_sentences, tokenizer_of
from xltlib.pretraining import models
from xltlib.pretraining import options as pretraining
from xltlib.pretraining.training import Progress
from xltlib.store import Result, Spec

COVERAGE = 0.9995  # of each language's characters; words with one of the others, mostly rare Han, are [UNK]
SAMPLED = 200_000  # sentences that the tokenizer is trained on
BLOCK = 20_000  # sentences cut into subwords at once: bounds memory
HEURISTICS = {"estimated": "intersect", "grown": "grow-diag-final-and"}
# `corpora.token_spans` as tokenizers write it: words found in a text are those that text was trained on as
_WORD = (
    rf"[{corpora.UNSPACED}][\p{{M}}\u200c\u200d]*"
    rf"|(?:(?![{corpora.UNSPACED}])[\p{{L}}\p{{N}}\p{{M}}_\u200c\u200d])+|\S"
)


class Sentence(NamedTuple):
    """A sentence as words, its subwords' ids (T,), and the word of each subword (T,)."""

    words: list[str]
    ids: list[int]
    owners: list[int]


def cut(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], published: bool) -> list[Sentence]:
    """Texts in words and subwords, every subword a part of one word.

    Words are those of `corpora.token_spans`; where a published tokenizer has a subword of several of them, as
    in Chinese, they are one. One of `train_tokenizer` cuts words as it cuts texts: each is looked up once.
    """
    if published:
        found = []
        for start in range(0, len(texts), BLOCK):
            block = texts[start : start + BLOCK]
            coded = tokenization.encode_words(tokenizer, block)
            found += [_sentence(text, one) for text, one in zip(block, coded, strict=True)]
        return found
    sentences = [corpora.simple_tokenize(text) for text in texts]
    distinct = list(dict.fromkeys(word for words in sentences for word in words))
    coded = tokenizer(distinct, add_special_tokens=False)["input_ids"] if distinct else []
    pieces = dict(zip(distinct, coded, strict=True))
    return [
        Sentence(
            words,
            [piece for word in words for piece in pieces[word]],
            [number for number, word in enumerate(words) for _ in pieces[word]],
        )
        for words in sentences
    ]


def _sentence(text: str, coded: tokenization.Coded) -> Sentence:
    first, stop = coded.pieces.T
    if len(first) and first[0] == 0 and stop[-1] == len(coded.ids) and (first[1:] == stop[:-1]).all():
        words = [text[a:b] for a, b in coded.words]
        return Sentence(words, coded.ids, np.repeat(np.arange(len(words)), stop - first).tolist())
    words, ends = [], []
    for (a, b), begin, end in zip(coded.words, first.tolist(), stop.tolist(), strict=True):
        if ends and begin < ends[-1]:
            words[-1] += text[a:b]
            ends[-1] = max(ends[-1], end)
        else:
            words.append(text[a:b])
            ends.append(end)
    owners = np.searchsorted(ends, np.arange(len(coded.ids)), side="right")
    return Sentence(words, coded.ids, np.minimum(owners, max(len(words) - 1, 0)).tolist())


def side_limit(tokenizer: PreTrainedTokenizerFast, max_length: int) -> int:
    """The most subwords of a sentence such that any two fit into one sequence."""
    return (max_length - len(tokenization.join((), (), special=tokenization.specials(tokenizer)))) // 2


def train_tokenizer(sentences: Mapping[str, Sequence[str]], vocab_size: int) -> PreTrainedTokenizerFast:
    """A joint WordPiece tokenizer of the sentences of each language, by the square root of their number.

    Unlike `tokenization.train` it leaves rare characters out, of which real text has thousands, and cuts
    scripts without spaces as `corpora.token_spans` does.
    """
    texts = _sample(sentences)
    alphabet = sorted(set().union(*map(_alphabet, texts.values())))
    seeded = [*tokenization.SPECIAL, *alphabet]
    if len(seeded) > vocab_size:
        raise StudyError(
            f"vocab_size {vocab_size} is too small: characters alone need {len(seeded)} subwords"
        )
    known = set(alphabet)
    cuts = (
        (w for w in text.split() if known.issuperset(_forms(w))) for part in texts.values() for text in part
    )
    learner = Tokenizer(subword_models.WordPiece(unk_token="[UNK]"))
    learner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size, special_tokens=seeded, continuing_subword_prefix="##", show_progress=False
    )
    learner.train_from_iterator(map(" ".join, cuts), trainer)
    made = Tokenizer(
        subword_models.WordPiece(learner.get_vocab(), unk_token="[UNK]", continuing_subword_prefix="##")
    )
    made.normalizer = normalizers.NFKC()
    made.pre_tokenizer = pre_tokenizers.Split(Regex(_WORD), "removed", invert=True)
    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    return PreTrainedTokenizerFast(
        tokenizer_object=made, **dict(zip(names, tokenization.SPECIAL, strict=True))
    )


def _sample(sentences: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Sentences of each language, words between blanks; those of a small one more than once."""
    roots = {language: len(found) ** 0.5 for language, found in sentences.items()}
    wanted = min(SAMPLED, sum(map(len, sentences.values()))) / sum(roots.values())
    texts = {}
    for number, (language, found) in enumerate(sentences.items()):
        order = np.random.default_rng([0, 62, number]).permutation(len(found))
        rows = np.resize(order, max(1, round(wanted * roots[language])))
        texts[language] = [" ".join(corpora.simple_tokenize(found[row])) for row in rows.tolist()]
    return texts


def _forms(word: str) -> list[str]:
    """The characters of a word as subwords: the first, and those that continue it."""
    return [word[0], *("##" + character for character in word[1:])]


def _alphabet(texts: Iterable[str]) -> list[str]:
    """The commonest forms of characters, `COVERAGE` of all."""
    counts: Counter[str] = Counter()
    for word, count in Counter(word for text in texts for word in text.split()).items():
        for form in _forms(word):
            counts[form] += count
    forms = sorted(counts, key=lambda form: (-counts[form], form))
    total = np.cumsum([counts[form] for form in forms])
    return forms[: int(np.searchsorted(total, COVERAGE * total[-1])) + 1]


def build_text(spec: Spec, inputs: list[Result], directory: Path, progress: Progress | None) -> dict:
    """Documents of two consecutive sentences of a corpus in every language, and the joint tokenizer.

    A language has its side of its pairs with the source; the source has all of its sides, each once.
    """
    params, texts, counts = spec.params, {params_source(spec.params): {}}, {}
    for language in _targets(params):
        found, counts[language] = real_data.parallel_text(params, language)
        texts[language] = {name: list(dict.fromkeys(b for _, b in pairs)) for name, pairs in found.items()}
        for name, pairs in found.items():
            texts[params["source"]].setdefault(name, {}).update(dict.fromkeys(a for a, _ in pairs))
    texts = {x: {name: list(side) for name, side in texts[x].items()} for x in params["languages"]}
    if params.get("model"):
        tokenizer = tokenization.load(models.find(params["model"]))
    else:
        joined = {x: [s for side in by_corpus.values() for s in side] for x, by_corpus in texts.items()}
        tokenizer = train_tokenizer(joined, params["vocab_size"])
    tokenizer.save_pretrained(directory)
    special, limit = tokenization.specials(tokenizer), side_limit(tokenizer, params["max_length"])
    around = len(tokenization.join((), (), special=special))
    arrays, sizes = {}, {}
    for number, (language, by_corpus) in enumerate(texts.items()):
        documents = []
        for sentences in by_corpus.values():
            cut_up = cut(tokenizer, sentences, bool(params.get("model")))
            kept = [s for s in cut_up if 0 < len(s.ids) <= limit]
            documents += zip(kept[::2], kept[1::2], strict=False)
        if len(documents) > params["documents"]:
            order = np.random.default_rng([0, 63, number]).permutation(len(documents))
            documents = [documents[row] for row in np.sort(order[: params["documents"]])]
        ids = [tokenization.join(a.ids, b.ids, special=special) for a, b in documents]
        words = sum(len(a.words) + len(b.words) for a, b in documents)
        arrays |= {f"{language}/{name}": array for name, array in tokenization.pack(ids).items()}
        subwords = int(sum(map(len, ids)))
        per_word = round((subwords - around * len(ids)) / max(words, 1), 3)
        sizes[language] = {"documents": len(ids), "subwords": subwords, "subwords_per_word": per_word}
    np.savez(directory / "documents.npz", **arrays)
    used = real_data.test_keys(tuple(params["languages"]), real_data.folder())[1]
    told = {"parallel": counts, "without_sentences_of": list(used)}
    return {"languages": sizes, "vocab_size": len(tokenizer)} | told


def params_source(params: Mapping) -> str:
    """The source, which must be one of the languages."""
    if params["source"] not in params["languages"]:
        raise StudyError(f"source {params['source']!r} is not one of languages = {list(params['languages'])}")
    return params["source"]


def _targets(params: Mapping) -> list[str]:
    return [language for language in params["languages"] if language != params["source"]]


def build_pairs(spec: Spec, inputs: list[Result], directory: Path, progress: Progress | None) -> dict:
    """Translation pairs of all corpora in an order shuffled once; those with a long side are left out."""
    (text,) = inputs
    tokenizer = tokenizer_of(text)
    limit = side_limit(tokenizer, text.params["max_length"])
    arrays, counts, told = {}, {}, {}
    for number, language in enumerate(_targets(text.params)):
        found, _ = real_data.parallel_text(text.params, language)
        pairs = [pair for kept in found.values() for pair in kept]
        order = np.random.default_rng([0, 64, number]).permutation(len(pairs))
        pairs = [pairs[row] for row in order.tolist()]
        sides = [cut(tokenizer, side, bool(text.params.get("model"))) for side in zip(*pairs, strict=True)]
        fits = [all(0 < len(s.ids) <= limit for s in both) for both in zip(*sides, strict=True)]
        rows = np.flatnonzero(fits)[: spec.params["parallel_pairs"]].tolist()
        for name, side in zip(("source", "target"), sides, strict=True):
            kept = [side[row] for row in rows]
            parts = {name: [s.ids for s in kept], f"{name}_words": [s.owners for s in kept]}
            for part, sequences in parts.items():
                packed = tokenization.pack(sequences)
                arrays |= {f"{language}/{part}/{key}": array for key, array in packed.items()}
            lines = "".join(" ".join(s.words) + "\n" for s in kept)
            (directory / f"{language}.{name}.txt").write_text(lines, "utf-8")
        counts[language], told[language] = len(rows), len(fits) - sum(fits)
    np.savez(directory / "pairs.npz", **arrays)
    return {"pairs": counts, "too_long": told}


def build_links(spec: Spec, inputs: list[Result], directory: Path, progress: Progress | None) -> dict:
    """Links of the pairs that are kept; the aligner that made them is measured on gold sentences.

    Words are aligned in lower case. `quality` is told for kinds "estimated" and "grown", whose words gold
    alignments speak of, and for languages with gold ones.
    """
    (pairs,), kind = inputs, spec.params["links"]
    source, arrays, found = pairs.params["source"], {}, {}
    for number, (language, count) in enumerate(pairs.values["pairs"].items()):
        kept = pretraining.kept_pairs(language, count, spec.params.get("share", 1.0))
        if kind == "subword":
            made = link_subwords(pairs, language, kept)[0]
        else:
            words = [
                [real_data.lowered(x) for x in read_sentences(pairs, language, s)[:kept]]
                for s in ("source", "target")
            ]
            ways = aligner.train_both(list(zip(*words, strict=True)))
            rng = np.random.default_rng([number, count])
            made = _made(kind, ways, [(len(a), len(b)) for a, b in zip(*words, strict=True)], rng)
            if kind in HEURISTICS and real_data.has_gold(source, language):
                score = _on_gold(ways, HEURISTICS[kind], source, language)
                found[language] = {name: round(float(x), 4) for name, x in score._asdict().items()}
        arrays |= {f"{language}/{k}": v for k, v in tokenization.pack([np.ravel(x) for x in made]).items()}
    np.savez(directory / "links.npz", **arrays)
    return {"quality": found}


def _made(kind: str, ways: Sequence, lengths: list, rng: np.random.Generator) -> links.Links:
    """Links of a kind, from both directions of the aligner."""
    sides = [way.links for way in ways]
    if kind in HEURISTICS:
        return links.symmetrize(*sides, HEURISTICS[kind])
    if kind == "random":  # as many as estimated ones
        counts = [len(x) for x in links.symmetrize(*sides, "intersect")]
        return links.random_links(lengths, counts, rng)
    known = ", ".join((*HEURISTICS, "subword", "random"))
    raise StudyError(f"links {kind!r}: text of real languages has no gold links; expected one of {known}")


def _on_gold(ways: Sequence, heuristic: str, source: str, language: str) -> links.AlignmentScore:
    """The score of a trained aligner on the sentences with gold links, whose words are cut in their way."""
    gold_pairs, gold = real_data.gold_alignments(source, language)
    cuts = [
        [real_data.units(real_data.lowered(words)) for words in side]
        for side in zip(*gold_pairs, strict=True)
    ]
    test = [(a, b) for (a, _), (b, _) in zip(*cuts, strict=True)]
    made = links.symmetrize(*(way.align(test) for way in ways), heuristic)
    owners = zip(made, *([owner for _, owner in side] for side in cuts), strict=True)
    of_words = [np.unique(np.stack([a[x[:, 0]], b[x[:, 1]]], 1), axis=0) for x, a, b in owners]
    return links.aer(of_words, gold.sure, gold.possible)
