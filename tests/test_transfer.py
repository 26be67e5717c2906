"""Runs of every method: what they train on, for how many updates, and what they leave."""

from collections import Counter
from dataclasses import replace
from functools import partial

import pytest
from tiny import computed, params

from xltlib.data import synthetic
from xltlib.data.text import world_of
from xltlib.finetuning import methods, salt
from xltlib.finetuning.case import Case
from xltlib.runs import Runs


@pytest.fixture(scope="module")
def runs():
    return Runs(params(seeds=1))


@pytest.fixture(scope="module")
def world(text):
    return world_of(text)


def words_of(world, language):
    return {word for forms in world.grammar(language).lexicon() for word in forms}


def run(runs, store, method="standard", options="", task="nli", **labels):
    """The result of one transfer."""
    return computed([runs.transfer(task, "none", 0, method, method_options=options, **labels)], store)[0]


def case(runs, text, method, options="", task="nli"):
    return Case(runs.transfer(task, "none", 0, method, method_options=options).params, text, ("src", "far"))


def test_fine_tuning_ends_where_the_source_is_learnt(runs, text, store, monkeypatch):
    plain, sooner = Case.optimization, partial(replace, look_every=5, cooldown=5)
    usual = plain(case(runs, text, "standard"), 1)
    assert (usual.look_every, usual.cooldown) == (250, 250)
    monkeypatch.setattr(Case, "optimization", lambda *given: sooner(plain(*given)))
    early = run(Runs(params(seeds=1, finetune_until=0.01, finetune_epochs=2)), store)
    never = run(Runs(params(seeds=1, finetune_until=1.0, finetune_epochs=2)), store)
    assert early.values["updates"] == 10 < never.values["updates"]
    assert early.values["source_development"] > 0.01
    assert never.values["source_development"] < 1.0


def test_noisy_translations_are_words_of_the_same_language(runs, text, world):
    train = synthetic.task_examples(world, "nli", 96, "train", 0)
    perfect, noisy = (
        methods.translate_train(case(runs, text, "translate_train", f"translations={kind}"), train)
        for kind in ("perfect", "noisy")
    )
    words = words_of(world, "far")
    pairs = [
        (old, new)
        for one, other in zip(perfect, noisy, strict=True)
        for old, new in zip(one.text_a.split(), other.text_a.split(), strict=True)
    ]
    changed = [(old, new) for old, new in pairs if old != new]
    assert all({old, new} <= words for old, new in changed)
    share = len(changed) / sum(old in words for old, _ in pairs)
    assert share == pytest.approx(0.25, abs=0.06)  # four standard errors of some 780 words


@pytest.mark.parametrize(("task", "copies"), [("nli", 3), ("paraphrase", 10), ("qa", 3)])
def test_copies_of_rs_da(runs, text, world, task, copies):
    train = synthetic.task_examples(world, task, 20, "train", 0)
    released = methods.rs_da(case(runs, text, "rs_da", task=task), train)
    assert Counter(e.id for e in released) == {e.id: copies for e in train["src"]}
    for e in released if task == "qa" else ():
        ((start, answer),) = e.answers
        assert e.context[start : start + len(answer)] == answer in e.context.split(" ")
    plain = case(runs, text, "rs_da", "neighbours=no_foreign", task)
    own = words_of(world, "src")
    assert {other for near in plain.neighbours.values() for other in near} <= own
    assert not {other for near in case(runs, text, "rs_da").neighbours.values() for other in near} <= own


def test_code_switching_uses_the_languages_of_the_run(runs, text, world, monkeypatch):
    monkeypatch.setattr(methods, "SWITCHED", 1.0)
    train = synthetic.task_examples(world, "nli", 200, "train", 0)
    switched = methods.code_switched(case(runs, text, "code_switch"), train)
    words = {word for e in switched for side in e.texts for word in side.split()}
    own, far, low = (words_of(world, language) for language in ("src", "far", "low"))
    assert words & (far - own)
    assert not words & (low - own - far)


# Methods


def test_salt_tells_the_share_of_exchanged_words(runs, store):
    shares = run(runs, store, "salt", "threshold=0.0,synonyms=false").values["exchanged"]
    assert shares["synonyms"] == 0
    assert shares["switched"] > 0.15
    none = run(runs, store, "salt", "threshold=1.0,synonyms=false")
    assert none.values["exchanged"] == {"synonyms": 0.0, "switched": 0.0}


def test_one_encoder_for_each_target_language(runs, store):
    spec = runs.transfer("nli", "tlm", 0, "salt", "joint=false", "threshold=0.1")
    (result,) = computed([spec], store)
    assert set(result.scores) == {"src", "far", "low"}


# Intermediate tasks


def test_an_intermediate_task_comes_first(runs, store):
    told = run(runs, store, "intermediate", "n=16").values
    assert told["intermediate"].pop("updates") >= 6
    assert told["intermediate"] == {"src": 16, "far": 16, "low": 16}
    assert told["history"] != run(runs, store).values["history"]
    random = run(runs, store, "intermediate", "n=16,sampling=random").values["intermediate"]
    assert sum(random[name] for name in ("src", "far", "low")) == 48
    assert random["low"] < 16


def test_the_first_task_is_another_one(runs, store, monkeypatch):
    seen, made = [], synthetic.task_examples

    def watched(world, task, n, split, seed):
        if seed:  # examples of no task that is scored
            seen.append((task, world.languages))
        return made(world, task, n, split, seed)

    monkeypatch.setattr(synthetic, "task_examples", watched)
    for task, first in (("nli", "paraphrase"), ("paraphrase", "nli"), ("qa", "paraphrase")):
        seen.clear()
        run(runs, store, "intermediate", "n=9", task)
        assert set(seen) == {(first, (language,)) for language in ("src", "far", "low")}


# The lexicon


def test_lexicon_runs(runs, store):
    strict, loose = computed([runs.lexicon("none", 0, f"threshold={t}") for t in (0.9, 0.0)], store)
    assert set(strict.scores) == set(loose.scores) == {"far", "low"}
    assert {len(values) for values in loose.scores.values()} == {salt.PAIRS}
    assert strict.values["pairs"]["far"]["proposed"] < loose.values["pairs"]["far"]["proposed"]
    assert loose.values["means"]["far"] == pytest.approx(loose.values["pairs"]["far"]["precision"], abs=0.01)
    assert strict.labels["task"] == "lexicon"
