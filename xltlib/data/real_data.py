"""Text of real languages: parallel sentences without those of `TEST_SETS`, and gold word alignments."""

import os
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import chain
from pathlib import Path

import numpy as np

from xltlib import StudyError
from xltlib.alignment import links
from xltlib.data import formats, tasks
from xltlib.data.tasks import SETS, SpanExample
from xltlib.data.words import clean, overlap_key, simple_tokenize
from xltlib.textfile import excerpt, parse_json, read_lines, read_text, stream_lines

# Their sentences are left out of training text. Those of sick, cad_nli and squad/dev are not, as no study
# tests on these: Multi30k has some of the first two.
TEST_SETS = (
    *("tatoeba/test", "pud/test", "xnli/dev", "xnli/test", "pawsx/dev", "pawsx/test"),
    *("xquad/test", "mlqa/dev", "mlqa/test", "tydiqa/dev", "xcopa/dev", "xcopa/test"),
    *("multi30k/dev", "multi30k/test"),
)
RETRIEVED = {"retrieval": "tatoeba", "captions": "multi30k"}  # probe -> the set of text that it is made on
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
    is left out if a side is also a sentence of a test set of any of the languages, or if it came before: how
    many `pairs` were read, dropped as `overlap` and as `repeated`, and `kept`, comes second.
    """
    both, pairs, seen = (params["source"], language), {}, set()
    keys, _ = test_keys(tuple(params["languages"]), folder())
    having = [name for name, each in SETS.items() if each.translates(both)]
    counts = Counter(pairs=0, overlap=0, repeated=0, kept=0)
    for name in (name for name in params["corpora"] if name in having):
        every = tasks.load_pairs(name, both, folder(), nfkc=True, strict=params["official_counts"])
        others = [pair for pair in every if keys.isdisjoint(map(overlap_key, pair))]
        own = pairs[name] = [pair for pair in dict.fromkeys(others) if pair not in seen]
        seen.update(own)
        counts.update(pairs=len(every), overlap=len(every) - len(others))
        counts.update(repeated=len(others) - len(own), kept=len(own))
    if not counts["kept"]:
        known = ", ".join(having) or "no corpus"
        raise StudyError(f"corpora = {list(params['corpora'])}: none has {'-'.join(both)}; {known} has it")
    return pairs, dict(counts)


@cache
def test_keys(languages: tuple[str, ...], folder: Path | None) -> tuple[frozenset[str], tuple[str, ...]]:
    """What copies of test sentences share (`overlap_key`), and the names of the sets they are from."""
    keys = {name: {overlap_key(x) for x in _sentences(name, languages, folder)} for name in TEST_SETS}
    aligned = [gold_alignments(*pair)[0] for pair in GOLD if set(pair) <= set(languages) and has_gold(*pair)]
    keys["gold alignments"] = {
        overlap_key(" ".join(side)) for pairs in aligned for sides in pairs for side in sides
    }
    return frozenset().union(*keys.values()) - {""}, tuple(name for name, own in keys.items() if own)


def task_texts(params: Mapping) -> Iterator[str]:
    """All texts that a task or a method may read: its sets in all languages, and the words of its lists."""
    for name in dict.fromkeys((*params["train_sets"], *params["test_sets"], *TEST_SETS)):
        yield from _sentences(name, params["languages"], folder(), whole=True)
    tables = [neighbour_lists(params["neighbour_lists"])] if params["neighbour_lists"] else []
    if params["dictionaries"]:
        targets = [x for x in params["languages"] if x != params["source"]]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # languages without one matter where text is switched
            tables += dictionaries(params["dictionaries"], params["source"], targets).values()
    for table in tables:
        for word, others in table.items():
            yield from (word, *others)


def _sentences(
    part: str, languages: Sequence[str], folder: Path | None, whole: bool = False
) -> Iterator[str]:
    """Both sides of pairs, questions, and the sentences of passages, or with `whole` the passages.

    Of a part of a set (`xnli/dev`), in those of the languages that the folder, or the hub, has.
    """
    name, split = part.split("/")
    is_text = SETS[name].task == "text"
    for own in SETS[name].counts[split]:
        language = f"{own}|en" if is_text else own
        known = not (is_text and own == "en") and set(own.split("|")) <= set(languages)
        if not known or not tasks.is_there(name, split, language, folder):
            continue
        if is_text:
            yield from chain(*tasks.load_pairs(name, (own, "en"), folder, split, strict=False))
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
    path = tasks.find_file(folder(), [name], f"gold alignments of {source}-{language}")
    if path.suffix == ".tsv":
        rows = (line.split("\t") for _, line in stream_lines(path))
        pairs, place = [(row[0].split(), row[1].split()) for row in rows], {"index_base": 0, "column": 2}
    else:
        pairs, place = list(links.tokenized_pairs(path)), {"index_base": 1}
        path = path.with_suffix(".gold")
    gold = links.read_gold(path, [(len(a), len(b)) for a, b in pairs], **place)
    if exchanged:
        pairs = [(b, a) for a, b in pairs]
        gold = links.Gold(*([pair[:, ::-1] for pair in side] for side in gold))
    return pairs, gold


def retrieval_pairs(params: Mapping, language: str) -> dict[str, Pairs]:
    """Test sentences of a language and their translations in the source, by the setting of their set.

    "" is Tatoeba, whose translations are English; "@multi30k" the captions of its test part. Sets that the
    study does not probe, or that lack the language, are left out.
    """
    both, pairs = (language, params["source"]), {}
    for probe, name in RETRIEVED.items():
        if probe in params["probes"] and SETS[name].translates(both, "test"):
            found = tasks.load_pairs(name, both, folder(), "test", strict=params["official_counts"])
            pairs["" if name == "tatoeba" else f"@{name}"] = found
    return pairs


def neighbour_lists(name: str) -> dict[str, list[str]]:
    """The words near each word, from a file as RS-DA was released with: JSON of word -> list of words."""
    path = tasks.find_file(folder() or Path(), [name], f"neighbour lists, for example {LISTS}")
    lists = parse_json(read_text(path), str(path))
    formats.check(lists, {}, str(path))
    for word, near in lists.items():
        formats.check(near, [str], str(path), f": {excerpt(word)}")
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
            path = tasks.find_file(folder() or Path(), [name], f"a dictionary of {source}-{target}")
        except StudyError:
            continue
        table: dict[str, dict[str, None]] = {}  # of a word its translations, each once
        for number, line in enumerate(read_lines(path), start=1):
            pair = line.split("\t") if "\t" in line else line.split()
            if len(pair) != 2:
                raise StudyError(f"{path}:{number}: expected two words, found {excerpt(line)}")
            table.setdefault(pair[0].strip().lower(), {})[pair[1].strip()] = None
        tables[target] = {word: list(translations) for word, translations in table.items()}
    absent = ", ".join(target for target in targets if target not in tables)
    if not tables:
        raise StudyError(f"dictionaries = {pattern!r}: there is no such file for any of {absent}")
    if absent:
        warnings.warn(f"dictionaries = {pattern!r}: no such file for {absent}", stacklevel=2)
    return tables


def lowered(words: Sequence[str]) -> list[str]:
    """Words in lower case, as they are aligned."""
    return [word.lower() for word in words]


def pairs_of_units(pairs: WordPairs) -> tuple[WordPairs, list[tuple[np.ndarray, np.ndarray]]]:
    """Both sides of each pair as an aligner reads them, and whose part each of their units is.

    Units are the words of `simple_tokenize`, in NFKC and lower case, of words that a publisher cut in another
    way: "don't" and 科学家 are three each.
    """
    own, owners = [], []
    for pair in pairs:
        parts = [[simple_tokenize(clean(word.lower(), nfkc=True)) for word in side] for side in pair]
        own.append(tuple([unit for part in side for unit in part] for side in parts))
        owners.append(tuple(np.repeat(np.arange(len(side)), [*map(len, side)]) for side in parts))
    return own, owners
