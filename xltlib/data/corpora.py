"""Raw and parallel text from local files, as the publishers lay them out, and how to cut it into words."""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Iterable, Set
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

from xltlib import StudyError
from xltlib.data import hub
from xltlib.textfile import read_lines

# Character ranges of the scripts written without spaces: Han, Kana, Thai.
UNSPACED = (
    "\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
    "\u3040-\u30ff\u31f0-\u31ff\uff66-\uff9f"
    "\u0e01-\u0e3a\u0e40-\u0e4e"
)


@dataclass(frozen=True, slots=True)
class Corpus:
    """Where one corpus lies below the data folder, and what is done to its lines.

    `file` is a pattern with `{split}`, `{language}`, `{pair}` (where files come in pairs with English, the
    other language of the pair) and `{both}` (that pair: "de-en"); `lines` is the published number of lines
    per split; `hub` is a repository whose configurations are such pairs.
    """

    languages: tuple[str, ...]
    file: str
    lines: dict[str, int]
    source: str
    licence: str
    split_names: dict[str, str] | None = None  # ours -> the file's
    codes: dict[str, str] | None = None  # language -> the file's code
    exceptions: dict[str, str] | None = None  # language -> a file that does not follow the pattern
    columns: tuple[str, ...] = ()  # one tab-separated file that holds these languages in this order
    drop_repeats: bool = False
    hub: str = ""


def _corpora() -> dict[str, Corpus]:
    table = yaml.safe_load(Path(__file__).with_name("corpora.yaml").read_text(encoding="utf-8"))
    lists = ("languages", "columns")
    return {
        name: Corpus(**{key: tuple(value) if key in lists else value for key, value in entry.items()})
        for name, entry in table.items()
    }


CORPORA = _corpora()


def find_file(folder: Path | str, names: Iterable[str], what: str) -> Path:
    """Return the first of `names` below `folder` that exists, plain or with `.gz` appended.

    A name may also lie without its first directory, where `folder` is that directory itself.
    `what` says, for the error message, which set is missing and where it is published.
    """
    folder, names = Path(folder), list(names)
    if not folder.is_dir():
        raise StudyError(f"{folder}: no such folder; expected {what}, as {names[0]} below it")
    for name in names:
        for relative in (name, name.split("/", 1)[-1]):
            for path in (folder / relative, folder / (relative + ".gz")):
                if path.is_file():
                    return path
    raise StudyError(f"{folder}: {names[0]}[.gz] not found; download {what}, and put it there")


def read_pairs(path_a: Path | str, path_b: Path | str | None = None) -> list[tuple[str, str]]:
    """Return the pairs of two files, line n with line n, or of one file of `a ||| b` or `a TAB b` lines.

    Empty lines of two files come back as empty strings; those of the one-file form are left out.
    """
    lines = read_lines(path_a)
    if path_b is not None:
        return _zip_lines(lines, path_a, read_lines(path_b), path_b)
    mark = "\t" if "\t" in lines[0] else "|||"
    pairs = []
    for row, line in enumerate(lines, start=1):
        first, found, rest = line.partition(mark)
        if line.strip() and not found:
            raise StudyError(f"{path_a}:{row}: no {mark!r} between two sentences")
        if found:
            pairs.append((first.strip(), rest.split(mark)[0].strip()))
    return pairs


def _zip_lines(a: list[str], path_a: Path | str, b: list[str], path_b: Path | str) -> list[tuple[str, str]]:
    if len(a) != len(b):
        raise StudyError(f"{path_b}: {len(b)} lines, but {path_a} has {len(a)}; line n must translate line n")
    return list(zip(a, b, strict=True))


def clean(line: str, nfkc: bool = False) -> str:
    """Undo HTML escapes (`&quot;`, `&#91;`), collapse white space; `nfkc` unifies character variants."""
    while (plain := html.unescape(line)) != line:  # 3AM is escaped twice
        line = plain
    return " ".join((unicodedata.normalize("NFKC", line) if nfkc else line).split())


def corpora_with(*languages: str) -> list[str]:
    """Return the names of the corpora that hold all of `languages`."""
    return [name for name, corpus in CORPORA.items() if set(languages) <= set(corpus.languages)]


def parallel(
    name: str,
    lang_a: str,
    lang_b: str,
    folder: Path | str | None = None,
    split: str = "train",
    *,
    revision: str | None = None,
    nfkc: bool = False,
    strict: bool = True,
) -> list[tuple[str, str]]:
    """Return the sentence pairs `(lang_a, lang_b)` of a corpus in `CORPORA`, cleaned.

    Without a `folder` the hub is asked, at `revision` or at the pinned commit. A pair with an empty side (a
    missing verse) is left out; so are repeats where the corpus says so. With `strict` the number of lines
    must be the published one.
    """
    corpus = _corpus(name, split, (lang_a, lang_b))
    if folder is None:
        path, pairs = f"{name} {split} of the hub", _hub_pairs(name, lang_a, lang_b, split, revision)
    else:
        path, *other = files_of(name, lang_a, lang_b, folder, split)
        pairs = read_pairs(path, *other)
        if corpus.columns and corpus.columns != (lang_a, lang_b):
            pairs = [(b, a) for a, b in pairs]
    _check_lines(path, len(pairs), corpus.lines[split], strict)
    pairs = [(clean(a, nfkc), clean(b, nfkc)) for a, b in pairs]
    pairs = [pair for pair in pairs if all(pair)]
    return list(dict.fromkeys(pairs)) if corpus.drop_repeats else pairs


def files_of(name: str, lang_a: str, lang_b: str, folder: Path | str, split: str = "train") -> list[Path]:
    """Return the files of a pair of languages: one that holds both, or one each; StudyError where missing."""
    corpus = _corpus(name, split, (lang_a, lang_b))
    if corpus.columns:
        return [find_file(folder, [corpus.file], f"{name} ({corpus.source})")]
    both = ((lang_a, lang_b), (lang_b, lang_a))
    return [_language_file(name, one, other, folder, split) for one, other in both]


def _hub_pairs(
    name: str, lang_a: str, lang_b: str, split: str, revision: str | None
) -> list[tuple[str, str]]:
    """The pairs of a corpus that the hub has as one configuration for each pair of languages."""
    corpus, both = CORPORA[name], "-".join(sorted((lang_a, lang_b)))
    if not corpus.hub:
        raise StudyError(f"{name} is not read from the hub; download {corpus.source} and pass its folder")
    folder = f"Or download {corpus.source}, and pass the folder that holds {corpus.file}."
    hub_split = "validation" if split == "dev" else split
    rows = hub.table(f"datasets/{corpus.hub}", both, hub_split, revision, folder)["translation"]
    return [(row[lang_a], row[lang_b]) for row in rows]


def monolingual(
    name: str,
    language: str,
    folder: Path | str,
    split: str = "train",
    *,
    nfkc: bool = False,
    strict: bool = True,
) -> list[str]:
    """Return the non-empty sentences of one language of a corpus, cleaned, in the order of the file."""
    corpus = _corpus(name, split, (language,))
    if corpus.columns:
        path = find_file(folder, [corpus.file], f"{name} ({corpus.source})")
        lines = [pair[corpus.columns.index(language)] for pair in read_pairs(path)]
    else:
        path = _language_file(name, language, None, folder, split)
        lines = read_lines(path)
    _check_lines(path, len(lines), corpus.lines[split], strict)
    sentences = [sentence for line in lines if (sentence := clean(line, nfkc))]
    return list(dict.fromkeys(sentences)) if corpus.drop_repeats else sentences


def _corpus(name: str, split: str, languages: tuple[str, ...]) -> Corpus:
    """Return the entry of `CORPORA`, refusing names, splits and languages it does not have."""
    if name not in CORPORA:
        raise StudyError(f"corpus {name!r} is not known; known are {', '.join(CORPORA)}")
    corpus = CORPORA[name]
    if split not in corpus.lines:
        raise StudyError(f"{name} has no split {split!r}; it has {', '.join(corpus.lines)}")
    for language in languages:
        if language not in corpus.languages:
            raise StudyError(f"{name} has no language {language!r}; it has {', '.join(corpus.languages)}")
    if len(set(languages)) < len(languages):
        raise StudyError(f"{name}: a pair needs two languages, got {languages[0]!r} twice")
    return corpus


def _language_file(name: str, language: str, partner: str | None, folder: Path | str, split: str) -> Path:
    """Return one language's file; in sets paired with English, English is read beside `partner`."""
    corpus = CORPORA[name]
    pattern = (corpus.exceptions or {}).get(language, corpus.file)
    pairs = (
        [language]
        if language != "en"
        else [partner]
        if partner
        else [c for c in corpus.languages if c != "en"]
    )
    fields = {
        "split": (corpus.split_names or {}).get(split, split),
        "language": (corpus.codes or {}).get(language, language),
    }
    both = {pair: "-".join(sorted(("en", pair))) for pair in pairs}
    names = list(dict.fromkeys(pattern.format(pair=pair, both=both[pair], **fields) for pair in pairs))
    return find_file(folder, names, f"{name} ({corpus.source})")


def _check_lines(path: Path | str, found: int, published: int, strict: bool) -> None:
    if found != published and strict:
        raise StudyError(
            f"{path}: {found} lines, but the published file has {published}; fetch it again, "
            "or pass strict=False to use it all the same"
        )


def overlap_key(sentence: str) -> str:
    """Return what copies of a sentence share: its letters and digits, without case, width and marks.

    Empty for a sentence without letters and digits, which therefore overlaps with nothing.
    """
    return re.sub(r"[\W_]+", "", unicodedata.normalize("NFKC", html.unescape(sentence)).casefold())


def drop_overlap(
    pairs: Iterable[tuple[str, str]], test_keys: Set[str]
) -> tuple[list[tuple[str, str]], dict[str, int]]:
    """Remove the pairs with a side whose `overlap_key` is given: no test set may leak into training text.

    Returns
    -------
    kept, counts
        The other pairs in their order, and the numbers `pairs`, `dropped`, and how many matched on
        the `first` and on the `second` side.
    """
    test_keys = test_keys - {""}
    kept, counts = [], {"pairs": 0, "dropped": 0, "first": 0, "second": 0}
    for a, b in pairs:
        first, second = overlap_key(a) in test_keys, overlap_key(b) in test_keys
        counts["pairs"] += 1
        counts["first"] += first
        counts["second"] += second
        counts["dropped"] += first or second
        if not (first or second):
            kept.append((a, b))
    return kept, counts


@cache
def _word_pattern() -> re.Pattern:
    """Compile the rule of `token_spans`; `\\w` alone would cut Hindi and Arabic at their vowel signs."""
    plane = map(chr, range(0x10000))  # marks above it are of historic scripts
    marks = "".join(char for char in plane if unicodedata.category(char).startswith("M"))
    marks += "\u200c\u200d"  # zero-width joiners stand inside words
    return re.compile(rf"[{UNSPACED}][{marks}]*|(?:(?![{UNSPACED}])[\w{marks}])+|\S")


def token_spans(text: str) -> list[tuple[int, int]]:
    """Cut `text` into words without a trained model and return their `(start, end)` character offsets.

    One letter of an unspaced script (Han, Kana, Thai) with its combining marks is a word; any other run of
    letters, marks and digits is a word; every other character that is not white space stands alone.
    """
    return [match.span() for match in _word_pattern().finditer(text)]


def simple_tokenize(text: str) -> list[str]:
    """Return the words of `token_spans`: `"don't 我们"` gives `["don", "'", "t", "我", "们"]`."""
    return [text[start:end] for start, end in token_spans(text)]
