"""Text of real languages: parallel sentences without those of any test set, and gold word alignments."""

import os
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np

from xltlib import StudyError
from xltlib.alignment import links
from xltlib.data import corpora, tasks
from xltlib.data.tasks import ChoiceExample, PairExample, SentencePair, SpanExample
from xltlib.textfile import parse_json, read_lines, read_text, stream_lines

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
RETRIEVAL = {"retrieval": "", "captions": "@multi30k"}  # probe -> what its settings end with
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
    keys, source = test_keys(tuple(params["languages"]), folder())[0], params["source"]
    found, seen = {}, set()
    counts = dict.fromkeys(("pairs", "overlap", "repeated", "kept"), 0)
    for name in params["corpora"]:
        if name not in corpora.CORPORA:
            raise StudyError(f"corpora: {name!r} is not known; known are {', '.join(corpora.CORPORA)}")
        if not {source, language} <= set(corpora.CORPORA[name].languages):
            continue
        strict = params["official_counts"]
        pairs = corpora.parallel(name, source, language, folder(), nfkc=True, strict=strict)
        kept, dropped = corpora.drop_overlap(pairs, keys)
        found[name] = [pair for pair in dict.fromkeys(kept) if pair not in seen]
        seen.update(found[name])
        counts["pairs"] += len(pairs)
        counts["overlap"] += dropped["dropped"]
        counts["repeated"] += len(kept) - len(found[name])
        counts["kept"] += len(found[name])
    if not counts["kept"]:
        known = ", ".join(corpora.corpora_with(source, language)) or "no corpus"
        raise StudyError(f"corpora = {list(params['corpora'])}: none has {source}-{language}; {known} has it")
    return found, counts


@cache
def test_keys(languages: tuple[str, ...], folder: Path | None) -> tuple[frozenset[str], tuple[str, ...]]:
    """What copies of test sentences share (`corpora.overlap_key`), and the names of the sets they are from.

    A set counts for the languages that the folder, or the hub, has of it.
    """
    keys: set[str] = set()
    used: list[str] = []
    for name in (*TEST_SETS, *HELD_OUT, *(["gold alignments"] if folder else [])):
        if name in TEST_SETS:
            sentences = set(_test_sentences(name, languages, folder))
        elif name in HELD_OUT:
            sentences = set(_held_out(name, languages, folder))
        else:
            sentences = set(_gold_sentences(languages))
        keys |= set(map(corpora.overlap_key, sentences))
        used += [name] if sentences else []
    return frozenset(keys), tuple(used)


def task_texts(params: Mapping) -> Iterator[str]:
    """All texts that a task or a method may read: its sets in all languages, and the words of its lists."""
    names = dict.fromkeys((*params["train_sets"], *params["test_sets"], *TEST_SETS))
    for name in names:
        yield from _test_sentences(name, params["languages"], folder(), whole=True)
    if params["neighbour_lists"]:
        for word, near in neighbour_lists(params["neighbour_lists"]).items():
            yield from (word, *near)
    if params["dictionaries"]:
        targets = [x for x in params["languages"] if x != params["source"]]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # languages without one matter where text is switched
            tables = dictionaries(params["dictionaries"], params["source"], targets)
        for table in tables.values():
            for word, translations in table.items():
                yield from (word, *translations)


def _test_sentences(
    name: str, languages: Sequence[str], folder: Path | None, whole: bool = False
) -> Iterator[str]:
    """Both sides of pairs, questions, and the sentences of passages, or with `whole` the passages."""
    name, split = name.split("/")
    for language in tasks.SETS[name].counts[split]:
        if not set(language.split("|")) <= set(languages) or not _is_there(name, split, language, folder):
            continue
        if tasks.SETS[name].format == "conllu":  # its records have multiword tokens in parts
            lines = read_lines(tasks.file_of(name, split, language, folder))
            yield from (line.partition("=")[2] for line in lines if line.startswith("# text ="))
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # counts and placeholders matter where a set is tested on
            records = tasks.load(name, split, language, folder, strict=False, unlabelled=True)
        contexts = {record.context for record in records if isinstance(record, SpanExample)}
        yield from (s for context in contexts for s in ([context] if whole else _SENTENCE_END.split(context)))
        yield from (text for record in records for text in _texts(record))


def _is_there(name: str, split: str, language: str, folder: Path | None) -> bool:
    """Whether the folder, or the hub, has one split of one language of a set."""
    try:
        if folder:
            tasks.file_of(name, split, language, folder)
        else:
            tasks.hub_rows(name, split, language)
    except StudyError:
        return False
    return True


def _texts(record: tasks.Record) -> Iterator[str]:
    """The sentences of a pair, the question on a passage, the premise and its choices."""
    if isinstance(record, PairExample):
        yield from (record.text_a, record.text_b)
    elif isinstance(record, SentencePair):
        yield from (record.source, record.target)
    elif isinstance(record, ChoiceExample):
        yield from (record.premise, *record.choices)
    else:
        yield record.question


def _held_out(name: str, languages: Sequence[str], folder: Path | None) -> Iterator[str]:
    name, split = name.split("/")
    for language in set(languages) & set(corpora.CORPORA[name].languages) if folder else ():
        try:
            yield from corpora.monolingual(name, language, folder, split, strict=False)
        except StudyError:
            continue  # the corpus is not there in this language


def _gold_sentences(languages: Sequence[str]) -> Iterator[str]:
    for source, language in GOLD:
        if {source, language} <= set(languages) and has_gold(source, language):
            for pair in gold_alignments(source, language)[0]:
                yield from map(" ".join, pair)


def has_gold(source: str, language: str) -> bool:
    """Whether the folder of real data has gold word alignments of a pair of languages."""
    if (source, language) not in GOLD or folder() is None:
        return False
    return (folder() / GOLD[source, language][0]).is_file()


def gold_alignments(source: str, language: str) -> tuple[WordPairs, links.Gold]:
    """Test sentences as (source words, target words), as their publisher cut them, and their gold links."""
    if (source, language) not in GOLD:
        known = ", ".join(map("-".join, GOLD))
        raise StudyError(f"no gold word alignments of {source}-{language}; there are some of {known}")
    name, exchanged = GOLD[source, language]
    if folder() is None:
        raise StudyError(f"{name}: gold alignments are on no hub; name their folder in XLT_DATA")
    path = corpora.find_file(folder(), [name], f"gold alignments of {source}-{language}")
    if path.suffix == ".tsv":
        rows = (line.split("\t") for _, line in stream_lines(path))
        pairs = [(row[0].split(), row[1].split()) for row in rows]
        return pairs, links.read_gold(path, _lengths(pairs), index_base=0, column=2)
    pairs = list(links.tokenized_pairs(path))
    gold = links.read_gold(path.with_suffix(".gold"), _lengths(pairs), index_base=1)
    if not exchanged:
        return pairs, gold
    sure, possible = ([x[:, ::-1] for x in side] for side in (gold.sure, gold.possible))
    turned = links.Gold(sure, possible, gold.index_base, gold.out_of_range, gold.out_of_range_pairs)
    return [(b, a) for a, b in pairs], turned


def _lengths(pairs: WordPairs) -> links.Lengths:
    return [(len(a), len(b)) for a, b in pairs]


def retrieval_pairs(params: Mapping, language: str) -> dict[str, Pairs]:
    """Test sentences of a language and their translations in the source, by the setting of their set.

    "" is Tatoeba, whose translations are English; "@multi30k" the captions of its test part. Sets that the
    study does not probe, or that lack the language, are left out.
    """
    source, strict, found = params["source"], params["official_counts"], {}
    wanted = {RETRIEVAL[name] for name in params["probes"] if name in RETRIEVAL}
    if "" in wanted and source == "en" and language in tasks.SETS["tatoeba"].languages:
        records = tasks.load("tatoeba", "test", language, folder(), strict=strict)
        found[""] = [(record.source, record.target) for record in records]
    captions = corpora.CORPORA["multi30k"].languages
    if "@multi30k" in wanted and {source, language} <= set(captions):
        pairs = corpora.parallel("multi30k", language, source, folder(), "test", strict=strict)
        found["@multi30k"] = pairs
    return found


def neighbour_lists(name: str) -> dict[str, list[str]]:
    """The words near each word, from a file as RS-DA was released with: JSON of word -> list of words."""
    path = corpora.find_file(folder() or Path(), [name], f"neighbour lists, for example {LISTS}")
    found = parse_json(read_text(path), str(path))
    if not isinstance(found, dict):
        raise StudyError(f"{path}: expected an object of word -> list of words, found {type(found).__name__}")
    for word, near in found.items():
        if not (isinstance(near, list) and all(isinstance(other, str) for other in near)):
            raise StudyError(f"{path}: {word!r}: expected a list of words, found {near!r}")
    return found


def dictionaries(pattern: str, source: str, targets: Sequence[str]) -> dict[str, dict[str, list[str]]]:
    """Translations of source words in lower case, by target language, from files of a pair of words a line.

    `pattern` names the files, as "muse/{source}-{target}.txt". Target languages without a file are left out,
    which one warning tells.
    """
    if "{target}" not in pattern:
        raise StudyError(f"dictionaries = {pattern!r}: expected {{source}} and {{target}} in it")
    found: dict[str, dict[str, list[str]]] = {}
    absent: list[str] = []
    for target in targets:
        name = pattern.replace("{source}", source).replace("{target}", target)
        try:
            path = corpora.find_file(folder() or Path(), [name], f"a dictionary of {source}-{target}")
        except StudyError:
            absent.append(target)
            continue
        table = found[target] = {}
        for number, line in enumerate(read_lines(path), start=1):
            pair = line.split("\t") if "\t" in line else line.split()
            if len(pair) != 2:
                raise StudyError(f"{path}:{number}: expected two words, found {line!r}")
            known = table.setdefault(pair[0].strip().lower(), [])
            if pair[1].strip() not in known:
                known.append(pair[1].strip())
    if not found:
        raise StudyError(f"dictionaries = {pattern!r}: there is no such file for any of {', '.join(targets)}")
    if absent:
        warnings.warn(f"dictionaries = {pattern!r}: no such file for {', '.join(absent)}", stacklevel=2)
    return found


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
