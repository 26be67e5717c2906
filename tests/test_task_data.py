"""Examples of tasks by setting: fixed choices, equal ids in every language, sets that may not be read."""

import pytest
import tinydata

from xltlib import StudyError
from xltlib.data import synthetic, task_data
from xltlib.data.synthetic import World

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture
def real(tiny_dir, monkeypatch):
    monkeypatch.setenv("XLT_DATA", str(tiny_dir))
    return tinydata.PARAMS


def ids(records):
    return [record.id for record in records]


def test_synthetic_examples_are_those_of_the_world():
    params = {"source": "src", "languages": ("src", "near"), "world_seed": 3}
    for split in ("train", "dev", "test"):
        expected = synthetic.task_examples(World(("src", "near"), 3), "nli", 5, split, 0)
        assert task_data.examples(params, "nli", split, 5, translations=True) == expected
        own = {"src": expected["src"]} if split != "test" else expected
        assert task_data.examples(params, "nli", split, 5) == own


def test_training_examples_are_the_sources_and_a_smaller_count_takes_some_of_them(real):
    all_of_them = task_data.examples(real, "nli", "train", 1000)
    assert list(all_of_them) == ["en"]
    assert len(all_of_them["en"]) == 220
    some = task_data.examples(real, "nli", "train", 7)["en"]
    assert some == all_of_them["en"][:7]
    assert ids(some) != [str(i) for i in range(7)]


def test_translations_of_training_examples_have_their_ids_and_labels(real, tmp_path, monkeypatch):
    found = task_data.examples(real, "paraphrase", "train", 12, translations=True)
    own = {record.id: record for record in found["en"]}
    assert set(found) == {"en", "es"}
    assert len(own) == 12
    assert set(ids(found["es"])) == set(own) - {"3"}  # where the translator left a side out
    assert all(own[x.id].label == x.label and own[x.id].text_a != x.text_a for x in found["es"])
    with pytest.raises(StudyError, match="taxinli/train: none of the languages es is there"):
        task_data.examples(real, "nli", "train", 12, translations=True)
    with pytest.raises(StudyError, match="taxinli/train: the folder has it in none of the other languages"):
        task_data.check_translations(real, "nli")
    task_data.check_translations(real, "paraphrase")
    monkeypatch.setenv("XLT_DATA", str(tinydata.make(tmp_path)))
    path = tmp_path / "pawsx/x-final/es/dev_2k.tsv"
    first, *others = path.read_text("utf-8").replace("\t0\n", "\t2\n").replace("\t1\n", "\t0\n").split("\n")
    path.write_text("\n".join([first, *others]).replace("\t2\n", "\t1\n"), "utf-8")
    with pytest.raises(StudyError, match="has another label in es than in en"):
        task_data.examples(real, "paraphrase", "train", 12, translations=True)


def test_the_hub_has_some_sets_in_part(real, monkeypatch):
    squad = real | {"train_sets": ["squad/train"], "languages": ["en", "de", "ja"]}
    assert task_data.in_languages("squad", "train", squad["languages"]) == ["en", "de"]
    task_data.check_translations(squad, "qa")
    monkeypatch.delenv("XLT_DATA")
    assert task_data.in_languages("squad", "train", squad["languages"]) == ["en"]
    assert task_data.in_languages("pawsx", "train", squad["languages"]) == ["en", "de", "ja"]
    with pytest.raises(StudyError, match="squad/train: the hub has it in none of the other languages"):
        task_data.check_translations(squad, "qa")


def test_test_examples_have_equal_ids_in_every_language(real):
    found = task_data.examples(real, "paraphrase", "test", 1000)
    assert list(found) == ["en", "es"]
    assert ids(found["en"]) == ids(found["es"])
    assert len(found["en"]) == 108  # without the one that was not translated
    assert "3" not in ids(found["en"])
    assert ids(task_data.examples(real, "paraphrase", "test", 9)["es"]) == ids(found["es"])[:9]


def test_further_sets_are_settings_of_their_own(real):
    found = task_data.examples(real, "qa", "test", 12)
    assert {name: len(records) for name, records in found.items()} == {
        "en": 12, "es": 12, "en@mlqa": 9, "es@mlqa": 9,
    }  # fmt: skip
    assert ids(found["en"]) == ids(found["es"])
    with pytest.raises(StudyError, match="en@mlqa would be two sets"):
        task_data.examples(real | {"test_sets": ["xquad/test", "mlqa/dev", "mlqa/dev"]}, "qa", "test", 5)


def test_real_tasks_have_no_development_examples(real):
    with pytest.raises(StudyError, match="finetune_until: real tasks have no development examples"):
        task_data.examples(real, "nli", "dev", 5)


def test_what_is_not_there_is_named(real):
    with pytest.raises(StudyError, match=r"train_sets = .*: no set of qa; add one of .*squad"):
        task_data.examples(real | {"train_sets": ["taxinli/train"]}, "qa", "train", 5)
    with pytest.raises(StudyError, match="set 'nothing' is not known"):
        task_data.examples(real | {"test_sets": ["nothing/test"]}, "nli", "test", 5)
    french = real | {"languages": ["en", "es", "fr"]}
    with pytest.warns(UserWarning, match="fr is left out of xnli/test"):
        assert list(task_data.examples(french, "nli", "test", 5)) == ["en", "es"]
    with pytest.raises(StudyError, match=r"test-en\.tsv: .*|officially 5010"):
        task_data.examples(french | {"official_counts": True}, "nli", "test", 5)


def test_published_sets_are_read(data_dir, monkeypatch):
    monkeypatch.setenv("XLT_DATA", str(data_dir))
    params = tinydata.PARAMS | {"languages": ["en", "de", "zh"], "test_sets": ["pawsx/test", "xquad/test"]}
    found = task_data.examples(params, "paraphrase", "test", 2000)
    assert ids(found["en"]) == ids(found["de"]) == ids(found["zh"])
    assert len(found["en"]) == 1994 - 26 - 19  # in English, but neither translated into German nor Chinese
    assert len(task_data.examples(params, "qa", "train", 10**6)["en"]) == 3696
