"""Text of real languages: parallel sentences without those of any test set, and gold word alignments."""

import os
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

import numpy as np

from xltlib import StudyError
from xltlib.alignment import links
from xltlib.data import corpora, tasks
from xltlib.data.tasks import SpanExample
from xltlib.textfile import excerpt, parse_json, read_lines, read_text, stream_lines

TEST_SETS = (
    *("tatoeba/test", "pud/test", "xnli/dev", "xnli/test", "pawsx/dev", "pawsx/test"),
    *("xquad/test", "mlqa/dev", "mlqa/test", "tydiqa/dev", "xcopa/dev", "xcopa/test"),
)
HELD_OUT = ("multi30k/dev", "multi30k/test")  # of corpora whose other part is training text
# source and language -> the file with gold links, and whether the source is its second side
GOLD = {
    ("en", "bg"): ("word_alignment/xl-wa/bg/test.tsv", False),
    ("en", "es"): ("word_alignment/xl-wa/es/test.tsv", False),
    ("en", "fr"): ("word_alignment/enfr/enfr.src-tgt", False),
    ("en", "ja"): ("word_alignment/jaen/jaen.src-tgt", True),
    ("en", "ru"): ("word_alignment/xl-wa/ru/test.tsv", False),
    ("en", "zh"): ("word_alignment/zhen/zhen.src-tgt", True),
}
LISTS = "counterfitted_neighbors.json as released with Robust-XLT (arXiv 2104.08645)"
_SENTENCE_END = re.compile(r"(?<=[.!?…؟۔।。！？])(?:\s+|(?<=[。！？]))")

Pairs = list[tuple[str, str]]
WordPairs = list[tuple[list[str], list[str]]]


def folder() -> Path | None:
    """The folder of real data that the environment variable XLT_DATA names; None: data come from the hub."""
    named = os.environ.get("XLT_DATA")
    if named and not Path(named).is_dir():
        raise StudyError(f"XLT_DATA: {named} is not a folder; name the one with the real data, or unset it")
    return Path(named) if named else None


def parallel_text(params: Mapping, language: str) -> tuple[dict[str, Pairs], dict[str, int]]:
    """The sentence pairs (source, language) of each corpus that has both, in the order of the files.

    params: `languages`, `source`, `corpora`, `official_counts`. The sentences are cleaned and in NFKC. A pair
    is left out if a side is also a sentence of a test set of any of the languages, or if it came before.

    Returns
    -------
    pairs, counts
        Pairs by corpus; numbers of all `pairs` read, of those dropped as `overlap` and as `repeated`, and of
        those `kept`.
    """
    both = (params["source"], language)
    keys, having = test_keys(tuple(params["languages"]), folder())[0], corpora_of(both)
    by_corpus, seen = {}, set()
    counts = dict.fromkeys(("pairs", "overlap", "repeated", "kept"), 0)
    for name in params["corpora"]:
        if name not in having:
            continue
        pairs = corpora.load(name, both, folder(), nfkc=True, strict=params["official_counts"])
        others = [pair for pair in pairs if keys.isdisjoint(map(corpora.overlap_key, pair))]
        by_corpus[name] = [pair for pair in dict.fromkeys(others) if pair not in seen]
        seen.update(by_corpus[name])
        counts["pairs"] += len(pairs)
        counts["overlap"] += len(pairs) - len(others)
        counts["repeated"] += len(others) - len(by_corpus[name])
        counts["kept"] += len(by_corpus[name])
    if not counts["kept"]:
        known = ", ".join(having) or "no corpus"
        raise StudyError(f"corpora = {list(params['corpora'])}: none has {'-'.join(both)}; {known} has it")
    return by_corpus, counts


def corpora_of(languages: Iterable[str]) -> list[str]:
    """The names of the corpora that hold all of the languages."""
    return [name for name, corpus in corpora.CORPORA.items() if set(languages) <= set(corpus.languages)]


@cache
def test_keys(languages: tuple[str, ...], folder: Path | None) -> tuple[frozenset[str], tuple[str, ...]]:
    """What copies of test sentences share (`corpora.overlap_key`), and the names of the sets they are from.

    A set counts for the languages that the folder, or the hub, has of it.
    """
    sentences = {name: set(_test_sentences(name, languages, folder)) for name in TEST_SETS}
    if folder:
        for name in HELD_OUT:
            corpus, split = name.split("/")
            sentences[name] = set()
            for language in set(languages) & set(corpora.CORPORA[corpus].languages):
                with suppress(StudyError):  # the corpus is not there in this language
                    rows = corpora.load(corpus, (language,), folder, split, strict=False)
                    sentences[name].update(sentence for (sentence,) in rows)
        aligned = [pair for pair in GOLD if set(pair) <= set(languages) and has_gold(*pair)]
        sentences["gold alignments"] = {
            " ".join(side) for pair in aligned for sides in gold_alignments(*pair)[0] for side in sides
        }
    keys = frozenset(corpora.overlap_key(sentence) for own in sentences.values() for sentence in own)
    return keys - {""}, tuple(name for name, own in sentences.items() if own)


def task_texts(params: Mapping) -> Iterator[str]:
    """All texts that a task or a method may read: its sets in all languages, and the words of its lists."""
    for name in dict.fromkeys((*params["train_sets"], *params["test_sets"], *TEST_SETS)):
        yield from _test_sentences(name, params["languages"], folder(), whole=True)
    tables = []
    if params["neighbour_lists"]:
        tables.append(neighbour_lists(params["neighbour_lists"]))
    if params["dictionaries"]:
        targets = [x for x in params["languages"] if x != params["source"]]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # languages without one matter where text is switched
            tables += dictionaries(params["dictionaries"], params["source"], targets).values()
    for table in tables:
        for word, others in table.items():
            yield from (word, *others)


def _test_sentences(
    name: str, languages: Sequence[str], folder: Path | None, whole: bool = False
) -> Iterator[str]:
    """Both sides of pairs, questions, and the sentences of passages, or with `whole` the passages."""
    name, split = name.split("/")
    for language in tasks.SETS[name].counts[split]:
        if not set(language.split("|")) <= set(languages):
            continue
        try:
            path = tasks.file_of(name, split, language, folder) if folder else None
            if not folder:
                tasks.hub_rows(name, split, language)
        except StudyError:
            continue  # the folder, or the hub, does not have this language of the set
        if path and tasks.SETS[name].format == "conllu":  # its records have multiword tokens in parts
            yield from (line.partition("=")[2] for line in read_lines(path) if line.startswith("# text ="))
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # counts and placeholders matter where a set is tested on
            records = tasks.load(name, split, language, folder, strict=False, unlabelled=True)
        passages = dict.fromkeys(record.context for record in records if isinstance(record, SpanExample))
        yield from (s for text in passages for s in ([text] if whole else _SENTENCE_END.split(text)))
        yield from (text for record in records for text in record.texts)


def has_gold(source: str, language: str) -> bool:
    """Whether the folder of real data has gold word alignments of a pair of languages."""
    if (source, language) not in GOLD or folder() is None:
        return False
    return (folder() / GOLD[source, language][0]).is_file()


def gold_alignments(source: str, language: str) -> tuple[WordPairs, links.Gold]:
    """Test sentences as (source words, target words), as their publisher cut them, and their gold links.

    Of languages for which `has_gold` says that there are some.
    """
    name, exchanged = GOLD[source, language]
    path = corpora.find_file(folder(), [name], f"gold alignments of {source}-{language}")
    if path.suffix == ".tsv":
        rows = (line.split("\t") for _, line in stream_lines(path))
        pairs, place = [(row[0].split(), row[1].split()) for row in rows], {"index_base": 0, "column": 2}
    else:
        pairs, place = list(links.tokenized_pairs(path)), {"index_base": 1}
        path = path.with_suffix(".gold")
    gold = links.read_gold(path, [(len(a), len(b)) for a, b in pairs], **place)
    if not exchanged:
        return pairs, gold
    sure, possible = ([x[:, ::-1] for x in side] for side in gold)
    return [(b, a) for a, b in pairs], links.Gold(sure, possible)


def retrieval_pairs(params: Mapping, language: str) -> dict[str, Pairs]:
    """Test sentences of a language and their translations in the source, by the setting of their set.

    "" is Tatoeba, whose translations are English; "@multi30k" the captions of its test part. Sets that the
    study does not probe, or that lack the language, are left out.
    """
    source, strict, pairs = params["source"], params["official_counts"], {}
    if "retrieval" in params["probes"] and source == "en" and language in tasks.SETS["tatoeba"].languages:
        records = tasks.load("tatoeba", "test", language, folder(), strict=strict)
        pairs[""] = [record.texts for record in records]
    if "captions" in params["probes"] and "multi30k" in corpora_of((source, language)):
        pairs["@multi30k"] = corpora.load("multi30k", (language, source), folder(), "test", strict=strict)
    return pairs


def neighbour_lists(name: str) -> dict[str, list[str]]:
    """The words near each word, from a file as RS-DA was released with: JSON of word -> list of words."""
    path = corpora.find_file(folder() or Path(), [name], f"neighbour lists, for example {LISTS}")
    lists = parse_json(read_text(path), str(path))
    tasks.check(lists, {}, str(path))
    for word, near in lists.items():
        tasks.check(near, [str], str(path), f": {excerpt(word)}")
    return lists


def dictionaries(pattern: str, source: str, targets: Sequence[str]) -> dict[str, dict[str, list[str]]]:
    """Translations of source words in lower case, by target language, from files of a pair of words a line.

    `pattern` names the files, as "muse/{source}-{target}.txt". Target languages without a file are left out,
    which one warning tells.
    """
    if "{target}" not in pattern:
        raise StudyError(f"dictionaries = {pattern!r}: expected {{source}} and {{target}} in it")
    tables: dict[str, dict[str, list[str]]] = {}
    for target in targets:
        name = pattern.replace("{source}", source).replace("{target}", target)
        try:
            path = corpora.find_file(folder() or Path(), [name], f"a dictionary of {source}-{target}")
        except StudyError:
            continue
        table = tables[target] = {}
        for number, line in enumerate(read_lines(path), start=1):
            pair = line.split("\t") if "\t" in line else line.split()
            if len(pair) != 2:
                raise StudyError(f"{path}:{number}: expected two words, found {excerpt(line)}")
            word, translation = pair[0].strip().lower(), pair[1].strip()
            table[word] = list(dict.fromkeys((*table.get(word, ()), translation)))
    absent = ", ".join(target for target in targets if target not in tables)
    if not tables:
        raise StudyError(f"dictionaries = {pattern!r}: there is no such file for any of {absent}")
    if absent:
        warnings.warn(f"dictionaries = {pattern!r}: no such file for {absent}", stacklevel=2)
    return tables


def lowered(words: Sequence[str]) -> list[str]:
    """Words in lower case, as they are aligned."""
    return [word.lower() for word in words]


def units(words: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """The words of `corpora.simple_tokenize`, in NFKC, of words cut in another way, and whose part each is.

    A gold alignment's or a treebank's "don't" and 科学家 are three of ours each.
    """
    parts = [corpora.simple_tokenize(corpora.clean(word, nfkc=True)) for word in words]
    owners = np.repeat(np.arange(len(words)), [len(part) for part in parts])
    return [unit for part in parts for unit in part], owners
