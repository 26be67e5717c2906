"""Raw and parallel text from local files, as the publishers lay them out, and how to cut it into words."""

import html
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
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

    languages: list[str]
    file: str
    lines: dict[str, int]
    source: str
    licence: str
    split_names: dict[str, str] = field(default_factory=dict)  # ours -> the file's
    codes: dict[str, str] = field(default_factory=dict)  # language -> the file's code
    exceptions: dict[str, str] = field(default_factory=dict)  # language -> a file beside the pattern
    columns: list[str] = field(default_factory=list)  # of one tab-separated file that holds all languages
    drop_repeats: bool = False
    hub: str = ""


CORPORA = {
    name: Corpus(**entry)
    for name, entry in yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text("utf-8")).items()
}


def load(
    name: str,
    languages: Sequence[str],
    folder: Path | None,
    split: str = "train",
    *,
    nfkc: bool = False,
    strict: bool = True,
) -> list[tuple[str, ...]]:
    """The sentences of a corpus of `CORPORA` in one language, or its pairs in two, in their order.

    Without a `folder` the hub is asked, at the pinned commit. Sentences are cleaned; a pair with an empty
    side (a missing verse) is left out, and so are repeats where the corpus says so. With `strict` the number
    of lines must be the published one.
    """
    corpus = _corpus(name, split, languages)
    if folder is None:
        path, rows = f"{name} {split} of the hub", _hub_rows(name, languages, split)
    else:
        path, *others = files_of(name, languages, folder, split)
        if corpus.columns:
            order = [corpus.columns.index(language) for language in languages]
            rows = [tuple(pair[column] for column in order) for pair in read_pairs(path)]
        else:
            rows = read_pairs(path, *others) if others else [(line,) for line in read_lines(path)]
    if strict and len(rows) != corpus.lines[split]:
        raise StudyError(
            f"{path}: {len(rows)} lines, but the published file has {corpus.lines[split]}; fetch it again, "
            "or set official_counts: false to use it all the same"
        )
    rows = [tuple(clean(side, nfkc) for side in row) for row in rows]
    rows = [row for row in rows if all(row)]
    return list(dict.fromkeys(rows)) if corpus.drop_repeats else rows


def files_of(name: str, languages: Sequence[str], folder: Path, split: str = "train") -> list[Path]:
    """One file that holds all the languages, or one each; StudyError where one is missing.

    In sets paired with English, its file is the one beside the other language's, or beside any.
    """
    corpus = _corpus(name, split, languages)
    what = f"{name} ({corpus.source})"
    if corpus.columns:
        return [find_file(folder, [corpus.file], what)]
    paths, file_split = [], corpus.split_names.get(split, split)
    for language in languages:
        pairs, code = [language], corpus.codes.get(language, language)
        if language == "en":
            pairs = [x for x in (languages if len(languages) > 1 else corpus.languages) if x != "en"]
        pattern = corpus.exceptions.get(language, corpus.file)
        names = [
            pattern.format(split=file_split, language=code, pair=x, both="-".join(sorted(("en", x))))
            for x in pairs
        ]
        paths.append(find_file(folder, list(dict.fromkeys(names)), what))
    return paths


def _corpus(name: str, split: str, languages: Sequence[str]) -> Corpus:
    """The entry of `CORPORA`; StudyError for a name, split or language that is not in it."""
    if name not in CORPORA:
        raise StudyError(f"corpora: {name!r} is not known; known are {', '.join(CORPORA)}")
    corpus = CORPORA[name]
    if split not in corpus.lines:
        raise StudyError(f"{name} has no split {split!r}; it has {', '.join(corpus.lines)}")
    for language in languages:
        if language not in corpus.languages:
            raise StudyError(f"{name} has no language {language!r}; it has {', '.join(corpus.languages)}")
    return corpus


def _hub_rows(name: str, languages: Sequence[str], split: str) -> list[tuple[str, ...]]:
    """The pairs of a corpus that the hub has as one configuration for each pair of languages."""
    corpus = CORPORA[name]
    if not corpus.hub:
        raise StudyError(f"{name} is not read from the hub; download {corpus.source} and pass its folder")
    folder = f"Or download {corpus.source}, and pass the folder that holds {corpus.file}."
    hub_split = "validation" if split == "dev" else split
    table = hub.table(f"datasets/{corpus.hub}", "-".join(sorted(languages)), hub_split, folder)
    return [tuple(row[language] for language in languages) for row in table["translation"]]


def find_file(folder: Path | str, names: Sequence[str], what: str) -> Path:
    """The first of `names` below `folder` that exists, plain or with `.gz` appended.

    A name may also lie without its first directory, where `folder` is that directory itself.
    `what` says, for the error message, which set is missing and where it is published.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise StudyError(f"{folder}: no such folder; expected {what}, as {names[0]} below it")
    for name in names:
        for relative in (name, name.split("/", 1)[-1]):
            for path in (folder / relative, folder / (relative + ".gz")):
                if path.is_file():
                    return path
    raise StudyError(f"{folder}: {names[0]}[.gz] not found; download {what}, and put it there")


def read_pairs(path_a: Path, path_b: Path | None = None) -> list[tuple[str, str]]:
    """The pairs of two files, line n with line n, or of one file of `a TAB b` lines.

    Empty lines of two files come back as empty strings; those of the one-file form are left out.
    """
    lines = read_lines(path_a)
    if path_b is not None:
        others = read_lines(path_b)
        if len(lines) != len(others):
            sizes = f"{len(others)} lines, but {path_a} has {len(lines)}"
            raise StudyError(f"{path_b}: {sizes}; line n must translate line n")
        return list(zip(lines, others, strict=True))
    pairs = []
    for number, line in enumerate(lines, start=1):
        first, *rest = line.split("\t")
        if rest:
            pairs.append((first.strip(), rest[0].strip()))
        elif line.strip():
            raise StudyError(f"{path_a}:{number}: no tab between two sentences")
    return pairs


# Sentences and words


def clean(line: str, nfkc: bool = False) -> str:
    """A line without HTML escapes (`&quot;`, `&#91;`) and white space in a row; `nfkc` unifies variants."""
    while (plain := html.unescape(line)) != line:  # 3AM is escaped twice
        line = plain
    return " ".join((unicodedata.normalize("NFKC", line) if nfkc else line).split())


def overlap_key(sentence: str) -> str:
    """What copies of a sentence share: its letters and digits, without case, width and marks.

    Empty for a sentence without letters and digits, which therefore overlaps with nothing.
    """
    return re.sub(r"[\W_]+", "", unicodedata.normalize("NFKC", html.unescape(sentence)).casefold())


@cache
def _word_pattern() -> re.Pattern:
    """The rule of `token_spans`; `\\w` alone would cut Hindi and Arabic at their vowel signs."""
    plane = map(chr, range(0x10000))  # marks above it are of historic scripts
    marks = "".join(char for char in plane if unicodedata.category(char).startswith("M"))
    marks += "\u200c\u200d"  # zero-width joiners stand inside words
    return re.compile(rf"[{UNSPACED}][{marks}]*|(?:(?![{UNSPACED}])[\w{marks}])+|\S")


def token_spans(text: str) -> list[tuple[int, int]]:
    """The `(start, end)` character offsets of the words of a text, cut without a trained model.

    One letter of an unspaced script (Han, Kana, Thai) with its combining marks is a word; any other run of
    letters, marks and digits is a word; every other character that is not white space stands alone.
    """
    return [match.span() for match in _word_pattern().finditer(text)]


def simple_tokenize(text: str) -> list[str]:
    """The words of `token_spans`: `"don't 我们"` gives `["don", "'", "t", "我", "们"]`."""
    return [text[start:end] for start, end in token_spans(text)]
