"""The hub: rows of pinned commits are the records of the official files; what is missing is told at once."""

import time

import hubs
import pytest
from official import write
from test_tasks import squad

from xltlib import StudyError
from xltlib.data import corpora, hub, tasks
from xltlib.data.tasks import ChoiceExample, PairExample, SentencePair

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


def same(name, split, language, folder):
    """The records of the hub, after a look at those of the official files."""
    loaded = [tasks.load(name, split, language, where, strict=False) for where in (folder, None)]
    assert loaded[0] == loaded[1]
    return loaded[1]


pytestmark = pytest.mark.filterwarnings("ignore:.*officially")


def test_xnli(cache, tmp_path):
    table = {"premise": ["a cat", "a cat"], "hypothesis": ["an animal", "a dog"], "label": [0, 2]}
    hubs.fill(cache, "datasets/facebook/xnli", {("de", "validation"): rows(table, label=NLI)})
    write(tmp_path / "xnli/dev-de.tsv", "a cat\tan animal\tentailment\na cat\ta dog\tcontradiction\n")
    assert same("xnli", "dev", "de", tmp_path)[1] == PairExample("1", "a cat", "a dog", 2)


def test_multinli_in_several_parts(cache, tmp_path):
    more = {"promptID": [1], "pairID": ["1n"], "genre": ["fiction"]}
    parts = [
        rows(more | {"premise": [a], "hypothesis": [b], "label": [label]}, label=NLI, promptID=NUMBER)
        for a, b, label in (("A", "B", 1), ("C", "D", 0))
    ]
    hubs.fill(cache, "datasets/facebook/xnli", {("en", "train"): parts})
    write(tmp_path / "multinli/train-en.tsv", "A\tB\tneutral\nC\tD\tentailment\n")
    assert len(same("multinli", "train", "en", tmp_path)) == 2


@pytest.mark.filterwarnings("ignore:.*have a side NS")
def test_pawsx(cache, tmp_path):
    table = {"id": [7, 8, 9], "sentence1": ["A", "NS", "C"], "sentence2": ["B", "B", "D"], "label": [1, 0, 0]}
    repo = "datasets/google-research-datasets/paws-x"
    hubs.fill(cache, repo, {("ja", "test"): rows(table, id=NUMBER, label=BINARY)})
    lines = ["id\tsentence1\tsentence2\tlabel", "7\tA\tB\t1", "8\tNS\tB\t0", "9\tC\tD\t0"]
    write(tmp_path / "pawsx/x-final/ja/test_2k.tsv", "\n".join(lines))
    assert [e.id for e in same("pawsx", "test", "ja", tmp_path)] == ["7", "9"]


@pytest.mark.parametrize(
    ("name", "split", "language", "repo", "config", "hub_split", "file"),
    [
        ("xquad", "test", "th", "google/xquad", "xquad.th", "validation", "xquad/xquad.th.json"),
        ("mlqa", "dev", "de|es", "google/xtreme", "MLQA.de.es", "validation",
         "mlqa/MLQA_V1/dev/dev-context-de-question-es.json"),
        ("tydiqa", "dev", "sw", "google/xtreme", "tydiqa", "validation", "tydiqa/tydiqa-goldp-v1.1-dev.json"),
        ("squad", "train", "en", "rajpurkar/squad", "plain_text", "train", "squad/train-v1.1.json"),
    ],
)  # fmt: skip
def test_questions(cache, tmp_path, name, split, language, repo, config, hub_split, file):
    keys, context = ["swahili-1", "swahili-2", "korean-3"], "\ufeffmoja mbili"
    answers = [
        {"answer_start": [start], "text": [text]} for start, text in ((6, "mbili"), (1, "moja"), (6, "mbili"))
    ]
    feature = {"answer_start": datasets.List(NUMBER), "text": datasets.List(TEXT)}
    table = {
        "id": keys,
        "title": ["t"] * 3,
        "context": [context] * 3,
        "question": ["?"] * 3,
        "answers": answers,
    }
    hubs.fill(cache, f"datasets/{repo}", {(config, hub_split): rows(table, answers=feature)})
    spans = [(key, context, a["answer_start"][0], a["text"][0]) for key, a in zip(keys, answers, strict=True)]
    write(tmp_path / file, squad(*spans))
    assert len(same(name, split, language, tmp_path)) == (2 if name == "tydiqa" else 3)


def test_choices(cache, tmp_path):
    names = {"premise": ["P"] * 2, "choice1": ["A"] * 2, "choice2": ["B"] * 2, "question": ["cause"] * 2}
    numbers = {"idx": [4, 5], "label": [1, 0]}
    plain = rows(names | numbers, idx=NUMBER, label=NUMBER)
    hubs.fill(cache, "datasets/cambridgeltl/xcopa", {("tr", "validation"): plain})
    named = rows(names | numbers, idx=NUMBER, label=datasets.ClassLabel(names=["choice1", "choice2"]))
    hubs.fill(cache, "datasets/aps/super_glue", {("copa", "validation"): named})
    line = '{"premise": "P", "choice1": "A", "choice2": "B", "question": "cause", "idx": %d, "label": %d}\n'
    for language in ("tr", "en"):
        write(tmp_path / f"xcopa/{language}/val.{language}.jsonl", line % (4, 1) + line % (5, 0))
        found = same("xcopa", "dev", language, tmp_path)
        assert found[0] == ChoiceExample("4", "P", "cause", ("A", "B"), 1)


@pytest.mark.parametrize("source", ["deu", "eng"])
def test_retrieval_pairs_have_english_as_the_target(cache, tmp_path, source):
    sides = {"deu": ["Hallo.", "Du."], "eng": ["Hello.", "You."]}
    other = "eng" if source == "deu" else "deu"
    table = {"source_sentence": sides[source], "target_sentence": sides[other]}
    table |= {"source_lang": [source] * 2, "target_lang": [other] * 2}
    hubs.fill(cache, "datasets/google/xtreme", {("tatoeba.deu", "validation"): rows(table)})
    write(tmp_path / "tatoeba_laser/tatoeba.deu-eng.deu", "Hallo.\nDu.\n")
    write(tmp_path / "tatoeba_laser/tatoeba.deu-eng.eng", "Hello.\nYou.\n")
    assert same("tatoeba", "test", "de", tmp_path)[1] == SentencePair("1", "Du.", "You.")


def test_parallel_text(cache, tmp_path):
    pairs = [{"de": "Hallo  Welt", "en": "Hello &quot;world&quot;"}, {"de": "", "en": "nothing"}]
    table = datasets.Dataset.from_dict({"translation": pairs})
    hubs.fill(cache, "datasets/Helsinki-NLP/opus-100", {("de-en", "validation"): table})
    folder = "opus-100-corpus/v1.0/supervised/de-en/opus.de-en-dev."
    write(tmp_path / (folder + "de"), "Hallo  Welt\n\n")
    write(tmp_path / (folder + "en"), "Hello &quot;world&quot;\nnothing\n")
    for where in (tmp_path, None):
        found = corpora.load("opus100", ("en", "de"), where, "dev", strict=False)
        assert found == [('Hello "world"', "Hallo Welt")]
    with pytest.raises(StudyError, match="2 lines, but the published file has 2000"):
        corpora.load("opus100", ("en", "de"), None, "dev")
    with pytest.raises(StudyError, match="bible is not read from the hub; download github"):
        corpora.load("bible", ("en", "de"), None)


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

    def download(name, *, repo_type, revision, allow_patterns, local_files_only):
        asked.append((name, repo_type, local_files_only))
        if local_files_only:
            raise huggingface_hub.errors.LocalEntryNotFoundError("not here")
        if repo_type == "model":
            raise huggingface_hub.errors.EntryNotFoundError("404 nothing\nmore")
        return str(two_parts(cache))

    monkeypatch.setattr(hub, "online", lambda: True)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    hub.snapshot("datasets/facebook/xnli", ["de/*"])
    assert asked == [("facebook/xnli", "dataset", True), ("facebook/xnli", "dataset", False)]
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


def test_only_a_commit_is_a_revision(cache):
    for revision in ("main", "0123456789abcdef" * 2 + "0123456"):
        with pytest.raises(StudyError, match=r"40 hexadecimal digits.*datasets/facebook/xnli/commits/main"):
            hub.commit("datasets/facebook/xnli", revision)
    with pytest.raises(StudyError, match=r"google/mt5-base: the hub needs a revision .* got None"):
        hub.commit("google/mt5-base")
    with pytest.raises(StudyError, match=r"squad in 'de' is not read from the hub; .*mlqa-translate-train"):
        tasks.load("squad", "train", "de")
    with pytest.raises(StudyError, match="pud is not read from the hub; download github"):
        tasks.load("pud", "test", "de")


def two_parts(cache, language="de"):
    parts = [rows({"premise": ["a"], "hypothesis": ["b"], "label": [label]}, label=NLI) for label in (0, 1)]
    return hubs.fill(cache, "datasets/facebook/xnli", {(language, "validation"): parts})


def test_another_commit_than_the_asked_one_is_never_read(cache):
    two_parts(cache)
    with pytest.raises(StudyError, match="datasets/facebook/xnli at 0{40} is not on this machine"):
        hub.snapshot("datasets/facebook/xnli", ["de/*"], "0" * 40)


def test_a_truncated_file_is_refused_and_an_interrupted_download_has_too_few_rows(cache):
    snapshot = two_parts(cache)
    blob = (snapshot / "de/validation-00000-of-00002.parquet").resolve()
    blob.write_bytes(blob.read_bytes()[:-40])
    with pytest.raises(StudyError, match="cannot be read .*; a truncated download"):
        tasks.load("xnli", "dev", "de")
    for file in (snapshot / "de").iterdir():  # copied without their digest
        file.unlink()
        file.write_bytes(b"PAR1")
    with pytest.raises(StudyError, match="cannot be read .*; a truncated download"):
        tasks.load("xnli", "dev", "de")
    snapshot = two_parts(cache, "fr")
    (snapshot / "fr/validation-00001-of-00002.parquet").unlink()
    with pytest.raises(StudyError, match=r"xnli dev fr: 1 examples .*, officially 2490"):
        tasks.load("xnli", "dev", "fr")


def test_a_repository_without_such_a_table_is_refused(cache):
    two_parts(cache)
    with pytest.raises(StudyError, match=r"has no fr/validation\*"):
        tasks.load("xnli", "dev", "fr")


def test_what_is_cached_is_known(cache):
    two_parts(cache)
    assert hub.cached("datasets/facebook/xnli", ["de/*"])
    assert not hub.cached("datasets/facebook/xnli", ["fr/*"])
    assert not hub.cached("google/mt5-base", ["config.json"])


def test_every_data_set_of_the_hub_is_pinned():
    sets = tasks.SETS.values()
    repos = {s.hub[0] for s in sets if s.hub} | {r for s in sets for r, _ in (s.hub_elsewhere or {}).values()}
    repos |= {corpus.hub for corpus in corpora.CORPORA.values() if corpus.hub}
    assert {f"datasets/{repo}" for repo in repos} == {
        name for name in hub.PINNED if name.startswith("datasets/")
    }
    assert all(len(commit) == 40 for commit in hub.PINNED.values())
