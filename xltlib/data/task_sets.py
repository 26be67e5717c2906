"""The table of published task sets: where their files lie, and how many examples each split must hold."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from xltlib.data.records import LABELS

NLI_NAMES = {name: index for index, name in enumerate(LABELS["nli"])}
BINARY_NAMES = {"0": 0, "1": 1}


@dataclass(frozen=True, slots=True)
class TaskSet:
    """One published set.

    `counts` gives, per split and language, the official number of examples (two where the sources differ).
    `files` are patterns below the data folder, the first that exists is read; they know `{split}` (renamed by
    `split_names`), `{language}`, `{code}` (the language renamed by `codes`) and, where a language is written
    `context|question`, `{context}` and `{question}`; `hub` is a repository and a configuration of it.
    """

    task: str  # nli, paraphrase, qa, choice, tagging, retrieval
    format: str  # tsv, squad, jsonl, conllu, lines
    counts: dict[str, dict[str, int | tuple[int, ...]]]
    files: tuple[str, ...]
    source: str
    licence: str
    labels: dict[str, int] | None = None  # a label's name in the file, in lower case -> our integer
    columns: tuple[str, ...] = ()  # of a tab-separated file without a header
    split_names: dict[str, str] | None = None  # our name of a split -> the files'
    codes: dict[str, str] | None = None  # our code of a language -> the files'
    hub: tuple[str, str] | None = None
    hub_splits: dict[str, str] | None = None
    hub_elsewhere: dict[str, tuple[str, str]] | None = None  # languages that another repository holds
    hub_languages: tuple[str, ...] = ()  # where the hub has not all of them: those that it has
    repeated_ids: tuple[str, ...] = ()  # splits whose ids repeat: the row number is put in front

    @property
    def languages(self) -> tuple[str, ...]:
        """Every language of any split."""
        return tuple(sorted(set().union(*self.counts.values())))


def _each(languages: str, count: int) -> dict[str, int]:
    return dict.fromkeys(languages.split(), count)


def _mlqa_counts(same: dict, pairs: dict[str, int]) -> dict:
    """Spread MLQA's counts over all `context|question`; with English it is the other language's count."""
    counts = dict(same)
    for a, b in itertools.permutations(same, 2):
        key = " ".join(sorted((a, b)))
        counts[f"{a}|{b}"] = pairs[key] if key in pairs else same[b if a == "en" else a]
    return counts


XNLI_LANGUAGES = "ar bg de el en es fr hi ru sw th tr ur vi zh"
PAWSX_LANGUAGES = "de en es fr ja ko zh"
XCOPA_LANGUAGES = "et ht id it qu sw ta th tr vi zh"
PUD_LANGUAGES = "ar cs de en es fi fr gl hi id is it ja ko pl pt ru sv th tr zh"

TATOEBA_CODES = {
    **{
        "af": "afr",
        "ar": "ara",
        "bg": "bul",
        "bn": "ben",
        "de": "deu",
        "el": "ell",
        "es": "spa",
        "et": "est",
    },
    **{
        "eu": "eus",
        "fa": "pes",
        "fi": "fin",
        "fr": "fra",
        "he": "heb",
        "hi": "hin",
        "hu": "hun",
        "id": "ind",
    },
    **{
        "it": "ita",
        "ja": "jpn",
        "jv": "jav",
        "ka": "kat",
        "kk": "kaz",
        "ko": "kor",
        "ml": "mal",
        "mr": "mar",
    },
    **{
        "nl": "nld",
        "pt": "por",
        "ru": "rus",
        "sw": "swh",
        "ta": "tam",
        "te": "tel",
        "th": "tha",
        "tl": "tgl",
    },
    **{"tr": "tur", "ur": "urd", "vi": "vie", "zh": "cmn"},
}
TATOEBA_SHORT = {"jv": 205, "ka": 746, "kk": 575, "ml": 687, "sw": 390, "ta": 307, "te": 234, "th": 548}

TYDIQA_CODES = {
    **{"ar": "arabic", "bn": "bengali", "en": "english", "fi": "finnish", "id": "indonesian", "ko": "korean"},
    **{"ru": "russian", "sw": "swahili", "te": "telugu"},
}
TYDIQA_DEV = {
    "ar": 921,
    "bn": 113,
    "en": 440,
    "fi": 782,
    "id": 565,
    "ko": 276,
    "ru": 812,
    "sw": 499,
    "te": 669,
}
TYDIQA_TRAIN = {
    **{
        "ar": 14805,
        "bn": 2390,
        "en": 3696,
        "fi": 6855,
        "id": 5702,
        "ko": 1625,
        "ru": 6490,
        "sw": 2755,
        "te": 5563,
    }
}

MLQA_DEV = _mlqa_counts(
    {"ar": 517, "de": 512, "en": 1148, "es": 500, "hi": 507, "vi": 511, "zh": 504},
    {
        "ar de": 207,
        "ar es": 161,
        "ar hi": 186,
        "ar vi": 163,
        "ar zh": 188,
        "de es": 196,
        "de hi": 163,
        "de vi": 182,
    }
    | {"de zh": 190, "es hi": 187, "es vi": 189, "es zh": 161, "hi vi": 177, "hi zh": 189, "vi zh": 184},
)
MLQA_TEST = _mlqa_counts(  # the hub's data card; MLQA's README has 5,254 for Spanish
    {"ar": 5335, "de": 4517, "en": 11590, "es": (5253, 5254), "hi": 4918, "vi": 5495, "zh": 5137},
    {"ar de": 1649, "ar es": 1978, "ar hi": 1831, "ar vi": 2047, "ar zh": 1912, "de es": 1776, "de hi": 1430}
    | {
        "de vi": 1675,
        "de zh": 1621,
        "es hi": 1723,
        "es vi": 2018,
        "es zh": 1947,
        "hi vi": 1947,
        "hi zh": 1767,
    }
    | {"vi zh": 1943},
)

# the English ones, and those of them that MLQA's authors could translate (card of facebook/mlqa on the hub)
SQUAD_TRAIN = {
    "en": 87599, "ar": 78058, "de": 80069, "es": 81810, "hi": 82451, "vi": 84816, "zh": 76285,
}  # fmt: skip

SETS = {
    "xnli": TaskSet(
        task="nli",
        format="tsv",
        counts={"dev": _each(XNLI_LANGUAGES, 2490), "test": _each(XNLI_LANGUAGES, 5010)},
        files=("xnli/{split}-{language}.tsv", "xnli/xnli.{split}.tsv", "XNLI-1.0/xnli.{split}.tsv"),
        source="XNLI 1.0 of cims.nyu.edu/~sbowman/xnli, or its layout in XTREME's download script",
        licence="CC BY-NC 4.0",
        labels=NLI_NAMES,
        columns=("text_a", "text_b", "label"),
        hub=("facebook/xnli", "{language}"),
        hub_splits={"dev": "validation"},
    ),
    "multinli": TaskSet(
        task="nli",
        format="tsv",
        counts={"train": _each(XNLI_LANGUAGES, 392702)},  # other languages than English: machine-translated
        files=(
            "multinli/train-{language}.tsv",
            "xnli/train-{language}.tsv",
            "XNLI-MT-1.0/multinli/multinli.train.{language}.tsv",
        ),
        source="XNLI-MT 1.0 of cims.nyu.edu/~sbowman/xnli, or XTREME's download script",
        licence="OANC, CC BY 3.0, CC BY-SA 3.0",
        labels=NLI_NAMES | {"contradictory": 2},  # XNLI-MT's spelling
        columns=("text_a", "text_b", "label"),
        hub=("facebook/xnli", "{language}"),
    ),
    "taxinli": TaskSet(
        task="nli",
        format="tsv",
        counts={"train": {"en": 10071}},
        files=("multinli_taxinli/train-en.tsv",),
        source="MultiNLI pairs of github.com/microsoft/TaxiNLI, as premise TAB hypothesis TAB label",
        licence="Computational Use of Data Agreement 1.0",
        labels=NLI_NAMES,
        columns=("text_a", "text_b", "label"),
    ),
    "sick": TaskSet(
        task="nli",
        format="tsv",
        counts={"train": {"en": 4500}, "dev": {"en": 500}, "test": {"en": 4927}},
        files=("sick/SICK_{split}.txt",),
        source="SICK (SemEval 2014 task 1), five columns without a header",
        licence="CC BY-NC-SA 3.0",
        labels=NLI_NAMES,
        columns=("id", "text_a", "text_b", "score", "label"),
        split_names={"dev": "trial", "test": "test_annotated"},
    ),
    "cad_nli": TaskSet(
        task="nli",
        format="tsv",
        counts={"train": {"en": 8330}, "dev": {"en": 1000}, "test": {"en": 2000}},
        files=("cad_nli/all_combined/{split}.tsv",),
        source="github.com/acmi-lab/counterfactually-augmented-data, NLI/all_combined",
        licence="Apache 2.0; SNLI text CC BY-SA 4.0",
        labels=NLI_NAMES,
    ),
    "pawsx": TaskSet(
        task="paraphrase",
        format="tsv",
        counts={
            "train": _each(PAWSX_LANGUAGES, 49401),  # other languages than English: machine-translated
            "dev": _each(PAWSX_LANGUAGES, 2000),
            "test": _each(PAWSX_LANGUAGES, 2000),
        },
        files=(
            "pawsx/x-final/{language}/{split}.tsv",
            "pawsx/x-final/{language}/translated_{split}.tsv",
            "x-final/{language}/{split}.tsv",
            "x-final/{language}/translated_{split}.tsv",
        ),
        source="x-final.tar.gz of github.com/google-research-datasets/paws (pawsx)",
        licence="free for any purpose, acknowledge Google",
        labels=BINARY_NAMES,
        split_names={"dev": "dev_2k", "test": "test_2k"},
        hub=("google-research-datasets/paws-x", "{language}"),
        hub_splits={"dev": "validation"},
    ),
    "xquad": TaskSet(
        task="qa",
        format="squad",
        counts={"test": _each("ar de el en es hi ro ru th tr vi zh", 1190)},
        files=("xquad/xquad.{language}.json",),
        source="github.com/google-deepmind/xquad (English comes from SQuAD 1.1 dev: do not train on that)",
        licence="CC BY-SA 4.0",
        hub=("google/xquad", "xquad.{language}"),
        hub_splits={"test": "validation"},
    ),
    "mlqa": TaskSet(
        task="qa",
        format="squad",
        counts={"dev": MLQA_DEV, "test": MLQA_TEST},
        files=("mlqa/MLQA_V1/{split}/{split}-context-{context}-question-{question}.json",),
        source="MLQA_V1.zip of github.com/facebookresearch/MLQA",
        licence="CC BY-SA 3.0",
        hub=("google/xtreme", "MLQA.{context}.{question}"),
        hub_splits={"dev": "validation"},
    ),
    "tydiqa": TaskSet(
        task="qa",
        format="squad",
        counts={"train": TYDIQA_TRAIN, "dev": TYDIQA_DEV},
        files=(
            "tydiqa/tydiqa-goldp-v1.1-{split}/tydiqa.goldp.{language}.{split}.json",
            "tydiqa/tydiqa-goldp-v1.1-{split}/tydiqa-goldp-{split}-{code}.json",
            "tydiqa/tydiqa-goldp-v1.1-{split}.json",
        ),
        source="TyDiQA-GoldP v1.1 of github.com/google-research-datasets/tydiqa, or XTREME's split of it",
        licence="Apache 2.0",
        codes=TYDIQA_CODES,
        hub=("google/xtreme", "tydiqa"),
        hub_splits={"dev": "validation"},
        repeated_ids=("train",),
    ),
    "squad": TaskSet(
        task="qa",
        format="squad",
        counts={"train": SQUAD_TRAIN, "dev": {"en": 10570}},
        files=("{code}{split}-v1.1.json",),
        source="train-v1.1.json and dev-v1.1.json of rajpurkar.github.io/SQuAD-explorer; "
        "translations: mlqa-translate-train.tar.gz of github.com/facebookresearch/MLQA",
        licence="CC BY-SA 4.0",
        hub=("rajpurkar/squad", "plain_text"),
        codes={"en": "squad/"}
        | {x: f"mlqa-translate-train/{x}_squad-translate-train-" for x in SQUAD_TRAIN if x != "en"},
        hub_languages=("en",),
        hub_splits={"dev": "validation"},
    ),
    "xcopa": TaskSet(
        task="choice",
        format="jsonl",
        counts={
            "train": {"en": 400},
            "dev": _each("en " + XCOPA_LANGUAGES, 100),
            "test": _each("en " + XCOPA_LANGUAGES, 500),
        },
        files=("xcopa/{language}/{split}.{language}.jsonl", "xcopa/{split}-{language}.jsonl"),
        source="github.com/cambridgeltl/xcopa (data); English: COPA of SuperGLUE",
        licence="CC BY 4.0; English BSD 2-Clause",
        labels=BINARY_NAMES | {"choice1": 0, "choice2": 1},  # SuperGLUE's names on the hub
        split_names={"dev": "val"},
        hub=("cambridgeltl/xcopa", "{language}"),
        hub_splits={"dev": "validation"},
        hub_elsewhere={"en": ("aps/super_glue", "copa")},
    ),
    "pud": TaskSet(
        task="tagging",
        format="conllu",
        counts={"test": _each(PUD_LANGUAGES, 1000)},
        files=("ud_pud/{language}_pud-ud-test.conllu",),
        source="github.com/UniversalDependencies, the repository UD_<Language>-PUD",
        licence="CC BY-SA 3.0",
    ),
    "tatoeba": TaskSet(
        task="retrieval",
        format="lines",
        counts={"test": dict.fromkeys(TATOEBA_CODES, 1000) | TATOEBA_SHORT},
        files=("tatoeba_laser/tatoeba.{code}-eng.{code}",),
        source="github.com/facebookresearch/LASER, data/tatoeba/v1",
        licence="CC BY 2.0 FR",
        codes=TATOEBA_CODES,
        hub=("google/xtreme", "tatoeba.{code}"),
        hub_splits={"test": "validation"},
    ),
}
