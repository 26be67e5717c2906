"""Tasks on real languages, as published: settings, limits, methods that work and those that cannot."""

import json
import shutil
import warnings
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import shapes
import tinydata
from official import write
from test_tokenization import published
from tiny import params

from xltlib import StudyError
from xltlib.data import tokenization
from xltlib.data.formats import LABELS
from xltlib.finetuning import case as cases
from xltlib.finetuning import tasks, words
from xltlib.finetuning.case import Case
from xltlib.finetuning.transfer import build_evaluation, build_transfer, typo_settings
from xltlib.noise.typing import keyboard_for
from xltlib.runs import Runs
from xltlib.store import load_scores

LANGUAGES = ("en", "de", "zh")
TEXT = {
    "en": "the cat sat on mats and dogs ran to it from there who was where",
    "de": "die Katze saß auf Matten und Hunde liefen hin von dort wer war wo",
    "zh": "猫 坐 在 垫 子 上 狗 跑 来 去 那 里 谁 是",
}
WORDS = {language: text.split() for language, text in TEXT.items()}
PARAMS = {
    "data": "real", "source": "en", "languages": list(LANGUAGES), "official_counts": False,
    "train_sets": ["xnli/dev", "tydiqa/train"], "test_sets": ["xnli/test", "xquad/test", "mlqa/test"],
    "train_examples": 40, "test_examples": 12, "max_length": 24, "question_length": 40, "batch_size": 8,
    "finetune_lr": 1e-3, "finetune_epochs": 1, "freeze_embeddings": True, "pooling": "mean",
}  # fmt: skip


def sentence(language, rng, low=3, high=15):
    return ("" if language == "zh" else " ").join(rng.choice(WORDS[language], rng.integers(low, high)))


def questions(language, count, rng):
    paragraphs = []
    for number in range(count):
        context = sentence(language, rng, 20, 60)
        start = context.index(" ") + 1 if " " in context else 3
        answer = context[start : start + 6].split()[0]
        qa = {
            "id": str(number),
            "question": sentence(language, rng),
            "answers": [{"answer_start": start, "text": answer}],
        }
        paragraphs.append({"context": context, "qas": [qa]})
    return json.dumps({"data": [{"title": "t", "paragraphs": paragraphs}]})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """XNLI in three languages, XQuAD in two, MLQA in German alone, TyDiQA in English to train on."""
    folder, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    labels = [LABELS["nli"][label] for label in rng.integers(0, 3, 60)]
    for split in ("dev", "test"):
        for language in LANGUAGES:
            rows = [f"{sentence(language, rng)}\t{sentence(language, rng)}\t{label}" for label in labels]
            write(folder / f"xnli/{split}-{language}.tsv", "\n".join(rows) + "\n")
    for language in ("en", "de"):
        write(folder / f"xquad/xquad.{language}.json", questions(language, 15, rng))
    write(folder / "mlqa/MLQA_V1/test/test-context-de-question-de.json", questions("de", 15, rng))
    write(folder / "tydiqa/tydiqa-goldp-v1.1-train/tydiqa.goldp.en.train.json", questions("en", 30, rng))
    return folder


@pytest.fixture(autouse=True)
def known(folder, monkeypatch):
    monkeypatch.setenv("XLT_DATA", str(folder))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*(officially|left out)")
        yield


@pytest.fixture(scope="module", params=["bert", "xlmr"])
def start(request, tmp_path_factory):
    """Text with its tokenizer, and an encoder, as runs leave them."""
    directory, rng = tmp_path_factory.mktemp(request.param), np.random.default_rng(0)
    texts = {language: [sentence(language, rng) for _ in range(60)] for language in LANGUAGES}
    tokenizer = published(request.param, [text for side in texts.values() for text in side], 250)
    shapes.reading(tokenizer).save(directory)
    tokenizer.save_pretrained(directory)
    arrays: dict[str, np.ndarray] = {}
    for language, side in texts.items():
        arrays |= tokenization.pack(language, tokenizer(side)["input_ids"])
    np.savez(directory / "documents.npz", **arrays)
    text = SimpleNamespace(params={"data": "real", "languages": list(LANGUAGES)}, directory=directory)
    text.file = lambda name: directory / name
    return text


def spec(task, method="standard", options="", **changes):
    labels = {"task": task, "method": method, "method_options": options, "seed": 0, "objective": "none"}
    return SimpleNamespace(params={**PARAMS, "labels": labels, **changes})


def transfer(start, directory, *given, **changes):
    told = build_transfer(spec(*given, **changes), [start, start], directory, None)
    return told, load_scores(directory / "scores.npz")


def test_pairs_of_real_languages(start, tmp_path):
    told, scores = transfer(start, tmp_path, "nli")
    assert list(told["means"]) == list(told["recall"]) == list(LANGUAGES)
    assert set(scores) == set(LANGUAGES)
    assert {len(values) for values in scores.values()} == {12}
    assert told["updates"] == 5  # 40 examples of many lengths, 8 in an update
    assert "left_out" not in told
    case = Case(spec("nli").params, start, LANGUAGES)
    assert max(case.encode(case.examples("test", 60)["de"]).lengths) == 24


@pytest.mark.parametrize(
    ("method", "precision"), [("adversarial", "bfloat16"), ("rs_rp", "float32"), ("salt", "bfloat16")]
)
def test_methods_that_need_text_alone(start, tmp_path, method, precision):
    options = "threshold=0.0" if method == "salt" else ""
    told, scores = transfer(start, tmp_path, "nli", method, options, precision=precision)
    assert np.isfinite([row["loss"] for row in told["history"]]).all()
    assert set(scores) == set(LANGUAGES)
    if method == "salt":
        assert told["exchanged"]["switched"] > 0.05


def test_questions_are_scored_by_set_and_language(start, tmp_path, monkeypatch):
    seen, score = [], tasks.scores

    def scored(*given):
        seen.append(given[-2:])
        return score(*given)

    monkeypatch.setattr(cases, "scores", scored)
    told, _ = transfer(start, tmp_path, "qa")
    settings = ["en", "de", "de@mlqa"]  # no Chinese: it has no set
    assert list(told["means"]) == [name + metric for name in settings for metric in ("", "#f1")]
    assert seen == [("en", "squad"), ("de", "squad"), ("de", "mlqa")]
    assert told["recall"] == {}
    case = Case(spec("qa").params, start, LANGUAGES)
    coded = case.encode(case.examples("test", 12)["de"])
    assert max(coded.lengths) == 40
    assert len(coded.ids) > 12


def test_an_encoder_for_each_language_keeps_the_sources_mean(start, tmp_path):
    told = build_transfer(spec("qa"), [start, start, start], tmp_path, None)
    scores = load_scores(tmp_path / "scores.npz")
    assert set(scores) == {"en", "en#f1", "de", "de#f1", "de@mlqa", "de@mlqa#f1"}
    assert set(told["means"]) == set(scores)


@pytest.mark.parametrize(("method", "name"), [("rs_da", "neighbour_lists"), ("code_switch", "dictionaries")])
def test_methods_that_need_a_file_are_refused_without_before_any_work(method, name):
    runs = Runs(params(**tinydata.PARAMS))
    with pytest.raises(StudyError, match=f"{method} on real languages needs a file: .* parameter {name}"):
        runs.transfer("nli", "none", 0, method)


def test_a_task_without_examples_is_refused(start, tmp_path):
    with pytest.raises(StudyError, match="paraphrase"):
        transfer(start, tmp_path, "paraphrase")
    case = Case(spec("qa").params, start, ("zh",))
    with pytest.raises(StudyError, match="qa has no test examples in zh"):
        case.examples("test", 5)


def test_longer_than_the_encoder_reads_is_refused(start, tmp_path):
    with pytest.raises(StudyError, match="question_length 3000: the encoder reads at most"):
        transfer(start, tmp_path, "qa", question_length=3000)


@pytest.mark.parametrize("settings", ["pairs", "typo"])
def test_further_settings(start, tmp_path, settings):
    transfer(start, tmp_path, "nli")
    done = SimpleNamespace(params=spec("nli").params, file=lambda name: tmp_path / name)
    for file in start.directory.glob("tokenizer*"):
        shutil.copy(file, tmp_path)
    (tmp_path / settings).mkdir()
    wanted = SimpleNamespace(params={"test_examples": 6, "settings": settings})
    told = build_evaluation(wanted, [done, start], tmp_path / settings, None)
    if settings == "pairs":
        assert set(told["means"]) == {f"{a}|{b}" for a in LANGUAGES for b in LANGUAGES if a != b}
    else:
        assert set(told["means"]) == {f"{x}@typo{r}" for x in LANGUAGES for r in (0.1, 0.2, 0.3)}


def test_typing_errors_are_made_on_a_languages_own_keyboard(start):
    case = Case(spec("nli").params, start, LANGUAGES)
    keyboards, seed = case.keyboards(["de", "zh"])
    assert keyboards == {"de": keyboard_for("de"), "zh": keyboard_for("zh")}
    side = [replace(e, text_a="Küche Straße Bücher") for e in case.examples("test", 60)["de"]]
    noisy = dict(typo_settings("nli", {"de": side}, keyboards, seed))
    assert sum(a != b for a, b in zip(noisy["de@typo0.3"], side, strict=True)) > 30
    with pytest.raises(StudyError, match="no layout for language 'xx'"):
        case.keyboards(["xx"])


def test_vocabularies_are_those_of_the_text(start):
    pieces, found = Case(spec("nli", "salt").params, start, LANGUAGES).vocabularies()
    for language in LANGUAGES:
        spelt = {pieces.word(word) for rows in found[language].values() for word in rows}
        # a subword of Chinese may be several words
        assert spelt <= set(WORDS[language]) or (language == "zh" and set("".join(spelt)) <= set(WORDS["zh"]))
        assert len(spelt) > 10
    assert isinstance(pieces, words.Pieces)
