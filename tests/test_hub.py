"""The hub: rows of pinned commits are the records of the official files; what is missing is told at once."""

import re
import time

import hubs
import pytest
from official import write

from xltlib import StudyError
from xltlib.data import hub, tasks

datasets = pytest.importorskip("datasets")

NLI = datasets.ClassLabel(names=["entailment", "neutral", "contradiction"])
BINARY = datasets.ClassLabel(names=["0", "1"])
TEXT, NUMBER = datasets.Value("string"), datasets.Value("int32")


def rows(table: dict, **features) -> "datasets.Dataset":
    """A table whose columns are texts, but for the `features` given."""
    return datasets.Dataset.from_dict(table, datasets.Features(dict.fromkeys(table, TEXT) | features))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of the hub, which is out of reach."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "tables")
    monkeypatch.setattr(hub, "online", lambda: False)
    return tmp_path / "hub"


pytestmark = pytest.mark.filterwarnings("ignore:.*officially")

PLACES = {  # set, split, language -> repository, configuration and split
    "xnli dev de": "facebook/xnli de validation",
    "multinli train en": "facebook/xnli en train",
    "pawsx test ja": "google-research-datasets/paws-x ja test",
    "xquad test th": "google/xquad xquad.th validation",
    "mlqa dev de|es": "google/xtreme MLQA.de.es validation",
    "tydiqa dev sw": "google/xtreme tydiqa validation",
    "squad train en": "rajpurkar/squad plain_text train",
}


def published(name, records) -> "datasets.Dataset":
    """Records in the columns that the hub's repository has."""
    columns = {key: [getattr(e, key) for e in records] for key in records[0].__dataclass_fields__}
    task = tasks.SETS[name].task
    if task == "nli":
        table = {"premise": columns["text_a"], "hypothesis": columns["text_b"], "label": columns["label"]}
        return rows(table, label=NLI)
    if task == "paraphrase":
        table = {"id": list(map(int, columns["id"])), "sentence1": columns["text_a"]}
        table |= {"sentence2": columns["text_b"], "label": columns["label"]}
        return rows(table, id=NUMBER, label=BINARY)
    pairs = (zip(*own, strict=True) for own in columns["answers"])
    answers = [dict(zip(("answer_start", "text"), map(list, pair), strict=True)) for pair in pairs]
    feature = {"answer_start": datasets.List(NUMBER), "text": datasets.List(TEXT)}
    return rows(columns | {"title": ["t"] * len(records), "answers": answers}, answers=feature)


@pytest.mark.parametrize("key", PLACES)
def test_rows_of_the_hub_are_the_records_of_the_official_files(cache, official_dir, key):
    (name, split, language), (repo, config, hub_split) = key.split(), PLACES[key].split()
    records = tasks.load(name, split, language, official_dir, strict=False)
    others = tasks.load(name, split, "ko", official_dir, strict=False) if name == "tydiqa" else []
    parts = [published(name, part) for part in (records[:3], records[3:] + others)]
    hubs.fill(cache, f"datasets/{repo}", {(config, hub_split): parts})
    assert tasks.load(name, split, language, strict=False) == records
    assert len(records) == 6


def test_parallel_text(cache, tmp_path):
    pairs = [{"de": "Hallo  Welt", "en": "Hello &quot;world&quot;"}, {"de": "", "en": "nothing"}]
    table = datasets.Dataset.from_dict({"translation": pairs})
    hubs.fill(cache, "datasets/Helsinki-NLP/opus-100", {("de-en", "train"): table})
    folder = "opus-100-corpus/v1.0/supervised/de-en/opus.de-en-train."
    write(tmp_path / (folder + "de"), "Hallo  Welt\n\n")
    write(tmp_path / (folder + "en"), "Hello &quot;world&quot;\nnothing\n")
    for where in (tmp_path, None):
        found = tasks.load_pairs("opus100", ("en", "de"), where, strict=False)
        assert found == [('Hello "world"', "Hallo Welt")]
    with pytest.raises(StudyError, match="2 lines, but the published file has 1000000"):
        tasks.load_pairs("opus100", ("en", "de"), None)
    with pytest.raises(StudyError, match="bible is not read from the hub; download github"):
        tasks.load_pairs("bible", ("en", "de"), None)


@pytest.mark.parametrize(("language", "english"), [("de", "source"), ("fr", "target")])
def test_english_is_either_side_of_tatoeba_s_pairs(cache, language, english):
    other = {"source": "target", "target": "source"}[english]
    table = {f"{english}_sentence": ["Hello."], f"{english}_lang": ["eng"], f"{other}_sentence": ["x"]}
    repo, config = "datasets/google/xtreme", {"de": "tatoeba.deu", "fr": "tatoeba.fra"}[language]
    hubs.fill(cache, repo, {(config, "validation"): rows(table | {f"{other}_lang": ["y"]})})
    assert tasks.load_pairs("tatoeba", (language, "en"), None, "test", strict=False) == [("x", "Hello.")]
    assert tasks.load_pairs("tatoeba", ("en", language), None, "test", strict=False) == [("Hello.", "x")]


def test_without_a_network_it_is_said_at_once_what_to_fetch_and_where_to_put_it(cache):
    start = time.monotonic()
    with pytest.raises(StudyError) as error:
        tasks.load("xquad", "test", "de")
    assert time.monotonic() - start < 10, "importing aside, it should not wait for a network"
    told = str(error.value)
    commit = hub.PINNED["datasets/google/xquad"]
    assert f"hf download google/xquad --repo-type dataset --revision {commit}" in told
    assert "--include 'xquad.de/validation*'" in told
    assert str(cache / "datasets--google--xquad") in told
    assert "download github.com/google-deepmind/xquad" in told
    assert "xquad/xquad.de.json" in told


def test_with_a_network_what_is_missing_is_fetched_and_an_error_told(cache, monkeypatch):
    import huggingface_hub

    asked = []

    def download(name, *, repo_type, revision, allow_patterns):
        asked.append((name, repo_type, revision == hub.PINNED["datasets/facebook/xnli"]))
        if repo_type == "model":
            raise huggingface_hub.errors.EntryNotFoundError("404 nothing\nmore")
        if "de/*" in allow_patterns:
            two_parts(cache)

    monkeypatch.setattr(hub, "online", lambda: True)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    for _ in range(2):  # fetched once
        assert (hub.snapshot("datasets/facebook/xnli", ["de/*"]) / "de").is_dir()
    assert asked == [("facebook/xnli", "dataset", True)]
    assert hub.cached("datasets/facebook/xnli", ["de/*"])
    assert not hub.cached("datasets/facebook/xnli", ["de/*", "fr/*"])
    with pytest.raises(StudyError, match=r"does not give it: it has no fr/\*"):
        hub.snapshot("datasets/facebook/xnli", ["fr/*"])
    name = "google-bert/bert-base-multilingual-cased"
    with pytest.raises(StudyError, match=f"{name} at .* does not give it: .*404 nothing. .* Or a folder.$"):
        hub.snapshot(name, ["config.json"], otherwise="Or a folder.")


def test_a_hub_that_does_not_answer_is_out_of_reach(monkeypatch):
    from huggingface_hub import constants

    assert not hub.online.__wrapped__()  # the tests forbid all questions to the hub
    monkeypatch.setattr(constants, "is_offline_mode", lambda: False)
    patience = []

    def silent(address, timeout):
        patience.append(timeout)
        raise TimeoutError

    monkeypatch.setattr(hub.socket, "create_connection", silent)
    assert not hub.online.__wrapped__()
    assert patience == [hub.CONNECT_TIMEOUT]


def test_what_the_hub_does_not_have_is_named(cache):
    with pytest.raises(StudyError, match=r"squad in 'de' is not read from the hub; .*mlqa-translate-train"):
        tasks.load("squad", "train", "de")
    with pytest.raises(StudyError, match="pud is not read from the hub; download github"):
        tasks.load("pud", "test", "de")


def two_parts(cache, language="de"):
    parts = [rows({"premise": ["a"], "hypothesis": ["b"], "label": [label]}, label=NLI) for label in (0, 1)]
    return hubs.fill(cache, "datasets/facebook/xnli", {(language, "validation"): parts})


def test_another_commit_than_the_pinned_one_is_never_read(cache, monkeypatch):
    two_parts(cache)
    monkeypatch.setitem(hub.PINNED, "datasets/facebook/xnli", "0" * 40)
    with pytest.raises(StudyError, match="datasets/facebook/xnli at 0{40} is not on this machine"):
        hub.snapshot("datasets/facebook/xnli", ["de/*"])


def test_a_truncated_file_is_refused_and_an_interrupted_download_has_too_few_rows(cache):
    snapshot = two_parts(cache)
    blob = (snapshot / "de/validation-00000-of-00002.parquet").resolve()
    blob.write_bytes(blob.read_bytes()[:-40])
    with pytest.raises(StudyError, match="cannot be read .*; a truncated download"):
        tasks.load("xnli", "dev", "de")
    assert tasks.is_there("xnli", "dev", "de", None)  # its sentences are not left in training text unseen
    snapshot = two_parts(cache, "fr")
    (snapshot / "fr/validation-00001-of-00002.parquet").unlink()
    with pytest.raises(StudyError, match=r"xnli dev fr: 1 examples .*, officially 2490"):
        tasks.load("xnli", "dev", "fr")


def test_every_data_set_of_the_hub_is_pinned():
    repos = {f"datasets/{each.hub.split()[0]}" for each in tasks.SETS.values() if each.hub}
    assert repos == {name for name in hub.PINNED if name.startswith("datasets/")}
    assert all(re.fullmatch("[0-9a-f]{40}", commit) for commit in hub.PINNED.values())
