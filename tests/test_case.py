"""Tasks on real languages, as published: settings, limits, methods that work and those that cannot."""

from dataclasses import replace

import numpy as np
import pytest
import shapes
import tinydata
from test_tokenization import published

from xltlib import StudyError
from xltlib.data import tokenization
from xltlib.finetuning import case as cases
from xltlib.finetuning import tasks
from xltlib.finetuning.case import Case
from xltlib.finetuning.transfer import build_evaluation, build_transfer, typo_settings
from xltlib.noise.typing import keyboard_for
from xltlib.store import Spec

pytestmark = pytest.mark.filterwarnings("ignore:.*(officially|left out)")

TEXTS = dict(zip(("en", "es"), zip(*tinydata.sentences(60, 1), strict=True), strict=True))
LANGUAGES = list(TEXTS)
FURTHER = [*LANGUAGES, "zh"]  # of which the folder has nothing
PARAMS = tinydata.PARAMS | {
    "train_examples": 40, "test_examples": 12, "max_length": 12, "question_length": 14, "batch_size": 8,
    "finetune_lr": 1e-3, "finetune_epochs": 1, "freeze_embeddings": True, "pooling": "mean",
}  # fmt: skip


@pytest.fixture(autouse=True)
def folder(tiny_dir, monkeypatch):
    monkeypatch.setenv("XLT_DATA", str(tiny_dir))


@pytest.fixture(scope="module", params=["bert", "xlmr"])
def start(request, tmp_path_factory):
    """Text with its tokenizer, and an encoder, as runs leave them."""
    directory, arrays = tmp_path_factory.mktemp(request.param), {}
    tokenizer = published(request.param, [text for side in TEXTS.values() for text in side], 250)
    shapes.reading(tokenizer).save(directory)
    tokenizer.save_pretrained(directory)
    for language, side in TEXTS.items():
        arrays |= tokenization.pack(language, tokenizer(list(side))["input_ids"])
    np.savez(directory / "documents.npz", **arrays)
    return tinydata.result(Spec("text", {"data": "real", "languages": LANGUAGES}, 1), {}, directory)


def asked(task, method="standard", options="", **changes):
    """The parameters of a run of a task."""
    labels = {"task": task, "method": method, "method_options": options, "seed": 0, "objective": "none"}
    return {**PARAMS, "labels": labels, **changes}


def transfer(start, folder, *given, encoders=1, **changes):
    return tinydata.run(build_transfer, asked(*given, **changes), [start] * (1 + encoders), folder / "run")


def test_pairs_of_real_languages(start, tmp_path):
    result = transfer(start, tmp_path, "nli")
    told = result.values
    assert list(told["means"]) == list(told["recall"]) == LANGUAGES
    assert set(result.scores) == set(LANGUAGES)
    assert {len(values) for values in result.scores.values()} == {12}
    assert told["updates"] == 5  # 40 examples of many lengths, 8 in an update
    assert "left_out" not in told
    case = Case(asked("nli"), start)
    assert max(case.encode(case.examples("test", 60)["es"]).lengths) == 12


def test_salt_needs_text_alone(start, tmp_path):
    result = transfer(start, tmp_path, "nli", "salt", "threshold=0.0", precision="bfloat16")
    assert np.isfinite([row["loss"] for row in result.values["history"]]).all()
    assert set(result.scores) == set(LANGUAGES)
    assert result.values["exchanged"]["switched"] > 0.05


def test_questions_are_scored_by_set_and_language(start, tmp_path, monkeypatch):
    seen, score = [], tasks.scores

    def scored(*given):
        seen.append(given[-2:])
        return score(*given)

    monkeypatch.setattr(cases, "scores", scored)
    told = transfer(start, tmp_path, "qa", languages=FURTHER).values
    settings = ["en", "en@mlqa", "es", "es@mlqa"]
    assert list(told["means"]) == [name + metric for name in settings for metric in ("", "#f1")]
    assert seen == [("en", "squad"), ("en", "mlqa"), ("es", "squad"), ("es", "mlqa")]
    assert told["recall"] == {}
    case = Case(asked("qa"), start)
    coded = case.encode(case.examples("test", 12)["es"])
    assert max(coded.lengths) == 14
    assert len(coded.ids) > 12


def test_an_encoder_for_each_language_keeps_the_sources_mean(start, tmp_path):
    result = transfer(start, tmp_path, "qa", encoders=2, languages=FURTHER)
    settings = {"en", "en@mlqa", "es", "es@mlqa"}
    assert set(result.scores) == settings | {f"{name}#f1" for name in settings}
    assert set(result.values["means"]) == set(result.scores)


def test_languages_without_examples_are_refused(start):
    case = Case(asked("qa", languages=FURTHER), start, ("zh",))
    with pytest.raises(StudyError, match="qa has no test examples in zh"):
        case.examples("test", 5)


def test_longer_than_the_encoder_reads_is_refused(start, tmp_path):
    with pytest.raises(StudyError, match="question_length 3000: the encoder reads at most"):
        transfer(start, tmp_path, "qa", question_length=3000)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [("pairs", {"en|es", "es|en"}), ("typo", {f"{x}@typo{r}" for x in LANGUAGES for r in (0.1, 0.2, 0.3)})],
)
def test_further_settings(start, tmp_path, kind, settings):
    inputs = [transfer(start, tmp_path, "nli"), start]
    wanted = {"test_examples": 6, "settings": kind}
    result = tinydata.run(build_evaluation, wanted, inputs, tmp_path / kind)
    assert set(result.scores) == set(result.values["means"]) == settings


def test_typing_errors_are_made_on_a_languages_own_keyboard(start):
    case = Case(asked("nli"), start)
    assert [case.keyboard(name) for name in ("de", "zh")] == [keyboard_for("de"), keyboard_for("zh")]
    side = [replace(e, text_a="pingüino hizo kilómetros") for e in case.examples("test", 60)["es"]]
    noisy = dict(typo_settings(case, {"es": side}))
    assert sum(a != b for a, b in zip(noisy["es@typo0.3"], side, strict=True)) > 30
    with pytest.raises(StudyError, match="no layout for language 'xx'"):
        case.keyboard("xx")


def test_vocabularies_are_those_of_the_text(start):
    pieces, found = Case(asked("nli", "salt"), start).vocabularies()
    for language, side in TEXTS.items():
        spelt = {pieces.word(word) for rows in found[language].values() for word in rows}
        assert spelt == set(" ".join(side).split()) - {"."}
