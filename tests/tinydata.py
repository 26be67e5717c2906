"""A made-up folder of real data in the publishers' formats: English, and word-for-word Spanish."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import official
from official import write

from xltlib.store import Result, Spec, sha256_file

NOUNS = {"dog": "perro", "cat": "gato", "man": "hombre", "bird": "pájaro", "king": "rey", "horse": "caballo"}
VERBS = {"sees": "ve", "eats": "come", "likes": "quiere", "hears": "oye", "finds": "halla", "calls": "llama"}
SPANISH = NOUNS | VERBS | {".": ".", "now": "ahora"}
PARAMS = {
    "data": "real", "languages": ["en", "es"], "source": "en", "official_counts": False,
    "corpora": ["bible", "tico19", "tatoeba_en_zh"], "max_length": 32, "model": "", "documents": 1000,
    "vocab_size": 150, "tasks": ["nli", "paraphrase", "qa"], "train_examples": 1000, "test_examples": 1000,
    "probes": ["retrieval", "alignment", "tagging"],
    "train_sets": ["taxinli/train", "pawsx/dev", "tydiqa/train"],
    "test_sets": ["xnli/test", "pawsx/test", "xquad/test", "mlqa/dev"],
}  # fmt: skip
LABELS = ("entailment", "neutral", "contradiction")


def sentences(count: int, seed: int) -> list[tuple[str, str]]:
    """Different English sentences with their translations."""
    rng, found = np.random.default_rng(seed), {}
    nouns, verbs = list(NOUNS), list(VERBS)
    while len(found) < count:
        words = [*rng.choice(nouns, 2), rng.choice(verbs), rng.choice(nouns), *["now"] * rng.integers(2), "."]
        found[" ".join(words)] = " ".join(SPANISH[word] for word in words)
    return list(found.items())


def squad(texts: list[str], key: str) -> str:
    """One question on each sentence: its first word is the answer."""
    words = [text.split() for text in texts]
    asked = [(f"{key}{i}", second, f"{texts[i]} {texts[i]}", 0, first)
             for i, (first, second, *_) in enumerate(words)]  # fmt: skip
    return json.dumps(official.squad(*asked))


def make(folder: Path) -> Path:
    """Write the sets that `PARAMS` name, PUD, Tatoeba and gold links."""
    text = sentences(1330, 0)
    corpus, test, tagged = text[:220], text[220:330], text[330:]
    # a test sentence and a repeated pair among the training text
    for number, language in enumerate(("en", "es")):
        side = [pair[number] for pair in (*corpus[:150], test[0], corpus[0])]
        write(folder / f"bible/bible.{language}.txt", side)
        write(folder / f"tico19/tico19.en-es.{language}", [pair[number] for pair in corpus[150:]])
        told = [pair[number] for pair in test]
        nli = [f"{a}\t{b}\t{LABELS[i % 3]}" for i, (a, b) in enumerate(pairwise(told))]
        write(folder / f"xnli/test-{language}.tsv", nli)
        write(folder / f"xnli/dev-{language}.tsv", nli[:30])
        pawsx = [f"{i}\t{a}\t{a if i % 2 else b}\t{i % 2}"
                 for i, (a, b) in enumerate(pairwise(told))]  # fmt: skip
        if language == "es":
            pawsx[3] = "3\tNS\tNS\t0"
        header = "id\tsentence1\tsentence2\tlabel"
        write(folder / f"pawsx/x-final/{language}/test_2k.tsv", [header, *pawsx])
        write(folder / f"pawsx/x-final/{language}/dev_2k.tsv", [header, *pawsx[:40]])
        write(folder / f"xquad/xquad.{language}.json", squad(told[:20], "x"))
        mlqa = f"mlqa/MLQA_V1/dev/dev-context-{language}-question-{language}.json"
        write(folder / mlqa, squad(told[:9], "m"))
        write(folder / f"tatoeba_laser/tatoeba.spa-eng.{('eng', 'spa')[number]}", told[:50])
        rows = [pair[number] for pair in tagged]
        write(folder / f"ud_pud/{language}_pud-ud-test.conllu", [conllu(i, x) for i, x in enumerate(rows)])
    english = [a for a, _ in corpus]
    nli = [f"{text}\t{text}\t{LABELS[i % 2]}" for i, text in enumerate(english)]
    write(folder / "multinli_taxinli/train-en.tsv", nli)
    write(folder / "tydiqa/tydiqa-goldp-v1.1-train/tydiqa.goldp.en.train.json", squad(english, "t"))
    gold = [f"{a}\t{b}\t" + " ".join(f"{i}-{i}" for i in range(len(a.split()))) for a, b in test[:20]]
    write(folder / "word_alignment/xl-wa/es/test.tsv", gold)
    return folder


def conllu(number: int, sentence: str) -> str:
    """Nouns, verbs and others; the first word is the root's."""
    english = {spanish: word for word, spanish in SPANISH.items()}
    words = []
    for place, word in enumerate(sentence.split()):
        plain = english.get(word, word)
        tag = "NOUN" if plain in NOUNS else "VERB" if plain in VERBS else "PUNCT"
        words.append((word, tag, place, {"NOUN": "nsubj:pass", "VERB": "root"}.get(tag, "punct")))
    name = f"n{number // 3:05}{number % 1000:03}"
    return "\n".join([f"# sent_id = {name}", f"# text = {sentence}", *official.tagged(words), ""])


def run(build, params: dict, inputs: list, directory: Path) -> Result:
    """The result of a builder, its files in a folder of their own."""
    directory.mkdir()
    spec = Spec(build.__name__.removeprefix("build_"), params, 1)
    return result(spec, build(spec, inputs, directory, None), directory)


def result(spec: Spec, values: dict, directory: Path) -> Result:
    files = {path.name: {"sha256": sha256_file(path), "size": path.stat().st_size}
             for path in directory.iterdir()}  # fmt: skip
    record = {"kind": spec.kind, "params": spec.params, "values": values, "seconds": 0.0, "files": files}
    return Result(spec.digest, record, directory)
