"""Runs of pre-training: options of objectives, what each one changes, code-switched text, and sweeps."""

import numpy as np
import pytest
import torch
from cipher import Watched, encoder, text
from safetensors.torch import load_file
from tiny import computed, params

from xltlib import StudyError
from xltlib.data import tokenization
from xltlib.data.synthetic import World
from xltlib.data.text import kept_pairs, read_sentences
from xltlib.pretraining import encoders
from xltlib.pretraining.encoders import gold_lexicon, linked_lexicon, mixed_texts, read_links
from xltlib.pretraining.objectives import Recipe, objective_loss
from xltlib.pretraining.options import OBJECTIVES, Objective, link_kind, options
from xltlib.runs import Runs
from xltlib.store import Store

BILINGUAL = list(OBJECTIVES)[1:]


@pytest.mark.parametrize(
    ("objective", "given", "told"),
    [
        ("tlm", "lambda=2", "objective tlm has no option lambda_"),
        ("subword_weam", "links=gold", "no option links"),
        ("weam", "links=subword", "links: found 'subword'"),
        ("weam", "lambda=-1", "lambda_: found -1"),
        ("none", "epochs=2", "no option epochs"),
    ],
)
def test_options_that_an_objective_lacks_are_refused(objective, given, told):
    with pytest.raises(StudyError, match=told):
        options(objective, given)


def test_which_objectives_need_which_links():
    kinds = {name: link_kind(name, options(name)) for name in BILINGUAL}
    aligned = {"weam": "estimated", "word_aligned": "estimated"}
    subwords = {"subword_weam": "subword", "subword_aligned": "subword"}
    assert {name: kind for name, kind in kinds.items() if kind} == aligned | subwords
    assert link_kind("mixed", options("mixed", "lexicon=estimated")) == "estimated"
    assert link_kind("weam", options("weam", "links=corrupt0.5")) == "corrupt0.5"


def one(logits, states, batch):
    return {"loss": states.sum()}


def other(logits, states, batch):
    return {"loss": states.mean()}


def test_an_objective_of_ones_own_is_a_run_of_its_text(monkeypatch):
    made = []
    for function in (one, other, one):
        monkeypatch.setitem(OBJECTIVES, "own", Objective(function, "pairs", linked=True))
        made.append(Runs(params()).encoder("own", 0, "epochs=2"))
    assert made[0] == made[2] != made[1]
    assert "states.mean()" in made[1].params["code"]
    assert made[0].inputs[-1] == Runs(params()).links()
    with pytest.raises(StudyError, match="objective own has no option lambda_"):
        options("own", "lambda=2")


# Whole runs


@pytest.fixture(scope="module")
def runs():
    return Runs(params(seeds=1, document_share=0.2))


@pytest.fixture(scope="module")
def weights(runs, store):
    """The weights that an objective ends with, as one vector."""

    def found(objective, given="", target=""):
        (result,) = computed([runs.encoder(objective, 0, given, target)], store)
        return torch.cat([w.flatten() for w in load_file(result.file("model.safetensors")).values()])

    return found


@pytest.mark.parametrize("name", ["weam", "subword_weam"])
def test_runs_that_must_be_equal_are_equal_to_the_last_bit(weights, name):
    assert torch.equal(weights(name, "lambda=0"), weights("tlm"))


@pytest.mark.parametrize(
    ("objective", "given"),
    [
        ("tlm", "pairs=0.5"), ("weam", "links=gold"), ("weam", "lambda=0.5"), ("weam", "pairs=0.5"),
        ("word_aligned", "links=random"), ("mixed", "lexicon=estimated"), ("mixed", "pairs=0.5"),
        ("subword_weam", "pairs=0.5"), ("subword_aligned", "pairs=0.5"),
    ],
)  # fmt: skip
def test_an_option_changes_a_run(weights, objective, given):
    found = weights(objective, given)
    assert found.isfinite().all()
    assert not torch.equal(found, weights(objective))


def test_mixed_text_without_a_switched_word_is_that_of_mlm(runs, tmp_path, monkeypatch, weights):
    monkeypatch.setattr(encoders, "SWITCHED", 0.0)
    for given in ("", "lexicon=estimated"):
        (result,) = computed([runs.encoder("mixed", 0, given)], Store(tmp_path))
        plain = load_file(result.file("model.safetensors")).values()
        assert torch.equal(torch.cat([w.flatten() for w in plain]), weights("mlm"))


def test_every_objective_makes_another_encoder(weights):
    found = [weights(name) for name in BILINGUAL]
    assert len({w.double().sum().item() for w in found}) == len(BILINGUAL)
    assert not torch.equal(weights("mixed", target="far"), weights("mixed"))


def test_links_of_the_kept_pairs_are_made_from_these_alone(runs, store):
    """Half of the pairs, as if there had never been more."""
    plain, half, small = computed([runs.links(), runs.links("estimated", 0.5), runs.pairs()], store)
    kept = kept_pairs("low", small.values["pairs"]["low"], 0.5)
    assert len(read_links(half, "low")) == kept < len(read_links(plain, "low"))
    far = [np.concatenate(read_links(result, "far")) for result in (half, plain)]
    assert np.array_equal(*far)
    assert runs.links("estimated", 1.0) == runs.links()


# Code-switching


def test_the_gold_lexicon_translates_stems_in_all_their_forms():
    world = World(("src", "near", "far"), 0)
    lexicon, back = gold_lexicon(world, "src", "far"), gold_lexicon(world, "far", "src")
    stems = list(zip(world.grammar("src").lexicon(), world.grammar("far").lexicon(), strict=True))
    assert set(lexicon) == {form for forms, _ in stems for form in forms}
    for forms, translations in stems:
        assert all(set(translations) <= set(lexicon[form]) for form in forms)
        assert all(set(forms) <= set(back[form]) for form in translations)
    assert all(len(set(found)) == len(found) for found in lexicon.values())


def test_a_lexicon_of_links_by_hand():
    source, target = [["a", "b"]] * 11, [["x", "y"]] * 10 + [["z", "y"]]
    links = [np.array([[0, 0], [1, 1]])] * 11
    assert linked_lexicon(source, target, links) == {"a": ["x"], "b": ["y"]}  # z: less than a tenth
    assert linked_lexicon(source[:10], [*target[:9], target[-1]], links[:10])["a"] == ["x", "z"]
    assert linked_lexicon(source, target, [np.empty((0, 2), int)] * 11) == {}


def test_mixed_text_is_switched_into_the_right_languages_at_the_rate(runs, store):
    """Source sentences get words of both targets, sentences of a target those of the source; others stay."""
    pairs, text_run = computed([runs.pairs(), runs.text()], store)
    languages = ["far", "low"]
    tokenizer, world = tokenization.load(text_run.directory), World(("src", "far", "low"), 0)

    def spelt(ids):
        return " ".join(tokenizer.convert_ids_to_tokens(ids.tolist())).replace(" ##", "")

    def switched(seed):
        made = mixed_texts(pairs, None, text_run, languages, 1.0, seed)
        return {lang: [[spelt(ids) for ids in side] for side in (t.source, t.target)]
                for lang, t in zip(languages, made, strict=True)}  # fmt: skip

    one = switched(0)
    assert one == switched(0)
    assert one != switched(1)
    plain = read_sentences(pairs, "far", "source")
    into = [gold_lexicon(world, "src", language) for language in languages]
    changed = known = 0
    for words, mixed in zip(plain, one["far"][0], strict=True):
        assert len(mixed.split()) == len(words)
        for word, other in zip(words, mixed.split(), strict=True):
            possible = {form for lexicon in into for form in lexicon.get(word, [])}
            assert other == word or other in possible
            known, changed = known + bool(possible - {word}), changed + (other != word)
    assert 0.22 < changed / known < 0.45  # a cognate is its own translation, so a little less than the rate
    back = gold_lexicon(world, "far", "src")
    for words, mixed in zip(read_sentences(pairs, "far", "target"), one["far"][1], strict=True):
        assert all(o == w or o in back.get(w, []) for w, o in zip(words, mixed.split(), strict=True))


# Sweeps


@pytest.mark.parametrize("rate", [0.15, 0.45, 0.6])
def test_equal_predictions_at_another_mask_rate(rate):
    """As many predicted subwords as at the profile's rate, to within the rounding in each sequence."""
    runs = Runs(params(continue_steps=60, mask_rate=0.3))
    predicted = []
    for given in ("", f"mask_rate={rate},predicted=equal"):
        spec, model = runs.encoder("tlm", 0, given), Watched(encoder().lm)
        loss = objective_loss("tlm", model, [text(20, n, n) for n in (14, 17, 21)],
                              Recipe(4, spec.params["mask_rate"], 0))  # fmt: skip
        with torch.no_grad():
            for step in range(spec.params["continue_steps"]):
                loss(step)
        predicted.append(model.predicted)
    assert predicted[1] == pytest.approx(predicted[0], rel=0.05)
    assert runs.encoder("tlm", 0, f"mask_rate={rate}").params["continue_steps"] == 60


def test_epochs_and_languages_apart_are_updates():
    runs = Runs(params(continue_steps=120))
    steps = [runs.encoder("weam", 0, *x).params["continue_steps"] for x in
             (("",), ("epochs=2",), ("joint=false", "far"), ("epochs=0.5,joint=false", "far"))]  # fmt: skip
    assert steps == [120, 240, 60, 30]
