"""Small task sets in the publishers' formats, made up; and mutations of such files."""

import gzip
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from xltlib.data.tasks import SETS

NLI = ("entailment", "neutral", "contradiction")
SENTENCES = {  # some words in each language
    "en": "The quick brown fox jumps over the lazy dog.",
    "de": "Zwölf Boxkämpfer jagen Viktor quer, groß",
    "es": "El pingüino Wenceslao hizo kilómetros",
    "fr": "Portez ce vieux whisky, Zoé, à l'été",
    "ru": "Съешь ещё этих мягких булок",
    "ar": "هناك استياء بين بعض أعضاء جمعية",
    "hi": "वेल्श के सदस्य चिंतित हैं कि",
    "th": "สมาชิกสภาแห่งชาติเวลส์บางคน",
    "tr": "Pijamalı hasta yağız İstanbul",
    "vi": "Một số thành viên quốc hội lo lắng",
    "zh": "这是一个测试句子。London 在哪里",
    "ja": "ウェールズ議会の議員が心配",
    "ko": "멍청이처럼 보이는 것을 걱정했다",
    "el": "Μερικοί βουλευτές ανησυχούν",
    "bg": "Членове на парламента са обезпокоени",
    "sw": "Baadhi ya wabunge wana wasiwasi",
    "ur": "ویلش اسمبلی کے اراکین پریشان ہیں",
}


def sentence(language: str, number: int) -> str:
    """A sentence that no other number has."""
    return f"{SENTENCES.get(language, language)} {number}"


def xnli(language: str, rows: int = 6) -> str:
    """XTREME's layout: premise TAB hypothesis TAB label."""
    lines = [f"{sentence(language, i)}\t{sentence(language, i + 7)}\t{NLI[i % 3]}\n" for i in range(rows)]
    return "".join(lines)


XNLI_COLUMNS = [
    *("language", "gold_label", "sentence1_binary_parse", "sentence2_binary_parse", "sentence1_parse"),
    *("sentence2_parse", "sentence1", "sentence2", "promptID", "pairID", "genre"),
    *(f"label{i}" for i in range(1, 6)),
    *("sentence1_tokenized", "sentence2_tokenized", "match"),
]


def xnli_original(rows: int = 6) -> str:
    """The publishers' layout: a header, all languages in one file."""
    lines = ["\t".join(XNLI_COLUMNS)]
    for language in ("zh", "de", "en"):
        for i in range(rows):
            label, a, b = NLI[i % 3], sentence(language, i), sentence(language, i + 7)
            cells = [language, label, "", "", "", "", a, b, str(i // 3 + 1), str(i + 1), "fiction"]
            lines.append("\t".join([*cells, *[label] * 5, a, b, "True"]))
    return "\n".join(lines) + "\n"


def pawsx(language: str, rows: int = 6) -> str:
    """A header, and ids that are no row numbers."""
    pairs = [f"{sentence(language, i)}\t{sentence(language, i + 7)}" for i in range(rows)]
    lines = [f"{2 * i + 5}\t{pair}\t{i % 2}" for i, pair in enumerate(pairs)]
    return "\n".join(["id\tsentence1\tsentence2\tlabel", *lines]) + "\n"


def xcopa(language: str, rows: int = 6) -> str:
    """One object a line, lines ended by CRLF as published."""
    records = [
        {
            "premise": sentence(language, i), "choice1": sentence(language, i + 7),
            "choice2": sentence(language, i + 14), "question": ("cause", "effect")[i // 2 % 2],
            "label": i % 2, "idx": i + 3, "changed": False,
        }
        for i in range(rows)
    ]  # fmt: skip
    return "".join(json.dumps(record, ensure_ascii=False) + "\r\n" for record in records)


def squad(*questions: tuple) -> dict:
    """SQuAD 1.1 of (id, question, context, start of the answer, its text), each with a passage of its own."""
    paragraphs = []
    for key, question, context, start, text in questions:
        answers = [{"answer_start": start, "text": text}]
        asked = {"id": key, "question": question, "answers": answers}
        paragraphs.append({"context": context, "qas": [asked]})
    return {"version": "1.1", "data": [{"title": "t", "paragraphs": paragraphs}]}


def questions(language: str, prefix: str = "q", rows: int = 6) -> dict:
    """Two questions on the same words; the answer is the second last of them, or the last."""
    asked = []
    for i in range(rows):
        words = [*sentence(language, i // 2 * 2).split(), f"Ende{i // 2 * 2}"]
        context, answer = " ".join(words), words[i % 2 - 2]
        asked.append((f"{prefix}-{i}", f"{i}?", context, context.rindex(answer), answer))
    return squad(*asked)


def tagged(words: Sequence[tuple[str, str, int, str]]) -> list[str]:
    """Lines of CoNLL-U for (word, tag, head, dependency label)."""
    rows = [(word, "_", tag, "_", "_", str(head), relation, "_", "_") for word, tag, head, relation in words]
    return ["\t".join((str(place), *row)) for place, row in enumerate(rows, start=1)]


def conllu(sentences: int = 4) -> str:
    """Words that depend on the last one, so that none can be lost unseen, and a multiword token."""
    lines = []
    for i in range(sentences):
        words = (("de", "ADP", 3, "case"), ("le", "DET", 3, "det"), (f"pain{i}", "NOUN", 0, "root"))
        lines += [f"# sent_id = n{i}", "# text = du pain", "1-2\tdu" + "\t_" * 8, *tagged(words), ""]
    return "\n".join(lines) + "\n"


def labels(rows: int = 6) -> str:
    """The labels of XTREME's test files, as the study keeps them beside those."""
    return "genre\tlabel\n" + "".join(f"fiction\t{NLI[i % 3]}\n" for i in range(rows))


def place(name: str, split: str, language: str) -> str:
    """The first of the paths at which a set is looked for."""
    return SETS[name].paths(split, language)[0]


PLAIN = (
    *(("xnli", "dev", "de"), ("taxinli", "train", "en"), ("sick", "dev", "en"), ("cad_nli", "test", "en")),
    *(("pawsx", "test", "zh"), ("xquad", "test", "de"), ("mlqa", "dev", "de|en"), ("squad", "train", "de")),
    *(("xcopa", "dev", "zh"), ("pud", "test", "fr")),
)


def sets(rows: int = 6) -> dict[tuple[str, str, str], dict[str, str]]:
    """The files, by their path, of (set, split, language), each with `rows` examples."""
    files = {key: {place(*key): content(key[0], key[2], rows)} for key in PLAIN}
    mixed = {"data": questions("en", "russian", rows)["data"] + questions("en", "swahili", rows)["data"]}
    repeated = json.dumps({"data": questions("en", "x", 2)["data"] * (rows // 2)})
    unlabelled = "".join(line.rpartition("\t")[0] + "\n" for line in xnli("de", rows).splitlines())
    return files | {
        ("xnli", "dev", "zh"): {"XNLI-1.0/xnli.dev.tsv": xnli_original(rows)},
        ("xnli", "test", "de"): {"xnli/test-de.tsv": unlabelled, "xnli/test.labels.tsv": labels(rows)},
        ("tydiqa", "dev", "sw"): {"tydiqa/tydiqa-goldp-v1.1-dev.json": json.dumps(mixed)},
        ("tydiqa", "train", "en"): {place("tydiqa", "train", "en"): repeated},
    }


def make(folder: Path, rows: int = 6) -> Path:
    """A folder with every split in every language of all sets, `rows` examples each; of text both sides."""
    for name, task_set in SETS.items():
        for split, languages in task_set.counts.items():
            for language in languages:
                if task_set.task != "text":
                    write(folder / place(name, split, language), content(name, language, rows))
                elif language != "en":
                    text(folder, name, split, language, rows)
    return folder


def text(folder: Path, name: str, split: str, language: str, rows: int) -> None:
    """Sentences of a language and English ones, in two files or in the columns of one."""
    sides = {x: [f"{sentence(x, i)} {i}" for i in range(rows)] for x in ("en", language)}
    paths = [folder / place(name, split, pair) for pair in (f"en|{language}", f"{language}|en")]
    if paths[0] == paths[1]:
        write(paths[0], [f"{a}\t{b}\tCC" for a, b in zip(*sides.values(), strict=True)])
        return
    for path, lines in zip(paths, sides.values(), strict=True):
        write(path, lines)


def content(name: str, language: str, rows: int) -> str:
    """A file of a task's set in its official format."""
    language = language.partition("|")[0]
    if name == "sick":
        cells = (line.split("\t") for line in xnli(language, rows).splitlines())
        return "".join(f"{i}\t{a}\t{b}\t3.5\t{x.upper()}\n" for i, (a, b, x) in enumerate(cells))
    formats = {"nli": xnli, "paraphrase": pawsx, "choice": xcopa}
    if SETS[name].task in formats:
        header = "sentence1\tsentence2\tgold_label\n" if name == "cad_nli" else ""
        return header + formats[SETS[name].task](language, rows)
    if SETS[name].task == "qa":
        return json.dumps(questions(language, SETS[name].codes.get(language, "q"), rows))
    return conllu(rows)


def write(path: Path, content: str | bytes | Sequence[str]) -> Path:
    """Write lines, or a file as it is, with the folders above it; packed where its name says so."""
    content = content if isinstance(content, str | bytes) else "".join(line + "\n" for line in content)
    data = content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


# Mutations: each is a text and a generator -> another text. None is a change of a label, an id or an answer
# to another one that is as good: such a file says something else, and nobody could know.


def _line(change: Callable[[str, np.random.Generator], list[str]]) -> Callable:
    """A mutation of one line: what stands in its place."""

    def mutation(text: str, rng: np.random.Generator) -> str:
        lines = text.split("\n")[:-1]
        place = int(rng.integers(len(lines)))
        lines[place : place + 1] = change(lines[place], rng)
        return "\n".join(lines) + "\n"

    return mutation


def _cells(change: Callable[[list[str], int], list[str]]) -> Callable:
    """A mutation of one cell of a line."""

    def one(line: str, rng: np.random.Generator) -> list[str]:
        cells = line.split("\t")
        return ["\t".join(change(cells, int(rng.integers(len(cells)))))]

    return _line(one)


def _without_line_end(text: str, rng: np.random.Generator) -> str:
    lines = text.split("\n")
    place = int(rng.integers(len(lines) - 2))
    return "\n".join([*lines[:place], lines[place] + lines[place + 1], *lines[place + 2 :]])


LINES: dict[str, Callable[[str, np.random.Generator], str]] = {
    "a cell less": _cells(lambda cells, k: cells[:k] + cells[k + 1 :]),
    "a cell twice": _cells(lambda cells, k: [*cells[:k], cells[k], *cells[k:]]),
    "an empty cell more": _cells(lambda cells, k: [*cells[:k], "", *cells[k:]]),
    "a cell of two lines": _cells(
        lambda cells, k: [*cells[:k], f'"{cells[k]}\n{cells[k]}"', *cells[k + 1 :]]
    ),
    "a blank line": _line(lambda line, rng: ["", line]),
    "a line of blanks": _line(lambda line, rng: [" \t "]),
    "a line twice": _line(lambda line, rng: [line, line]),
    "a line less": _line(lambda line, rng: []),
    "two lines in one": _without_line_end,
    "another file's line": _line(lambda line, rng: ['{"x": [1, 2]}', line]),
    "a list": _line(lambda line, rng: ["[1, 2]"]),
    "an error page": _line(lambda line, rng: ["<html>404 not found</html>"]),
    "a zero byte": _line(lambda line, rng: [line + "\0"]),
}
LABELS = {
    f"{bad!r} for a label": _cells(lambda cells, k, bad=bad: [*cells[:-1], bad])
    for bad in ("", "maybe", "-1", "7", "1.0", "true", "None", "entailmentneutral", "0 1")
}
CUT = {"cut anywhere": lambda text, rng: text[: int(rng.integers(1, len(text)))]}
VALUES: list[Any] = [None, True, 1.5, -4, "", [], {}, [1], {"a": 1}, "x" * 10**5, 10**30, [[]]]


def _nodes(value: Any) -> Iterator[tuple[Any, Any]]:
    """(list or object, index or key) of each value in a JSON value."""
    keys = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from _nodes(value[key])


def json_mutation(text: str, rng: np.random.Generator) -> str:
    """A JSON text in which one value is of another type (ids may be), is gone, or stands there twice."""
    value = json.loads(text)
    kind, nodes = int(rng.integers(3)), list(_nodes(value))
    parent, key = nodes[int(rng.integers(len(nodes)))]
    if kind == 0 and key not in ("id", "idx"):
        others = [x for x in VALUES if type(x) is not type(parent[key])]
        parent[key] = others[int(rng.integers(len(others)))]
    elif kind == 1:
        del parent[key]
    elif isinstance(parent, list):
        parent.append(parent[key])
    else:
        again = f"{json.dumps(key)}: {json.dumps(parent[key])}"
        parent[key] = "here"
        return json.dumps(value).replace(f'{json.dumps(key)}: "here"', f"{again}, {again}")
    return json.dumps(value)


JSON = {"JSON": json_mutation}
JSON_LINES = {"JSON": _line(lambda line, rng: [json_mutation(line, rng)])}
