"""Options of objectives: what each one changes in the text, the loss and whole tiny runs."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from cipher import Watched, encoder, text
from safetensors.torch import load_file
from tiny import computed, params
from transformers import XLMRobertaTokenizer

from xltlib import StudyError
from xltlib.data import tokenization
from xltlib.data.synthetic import World
from xltlib.data.text import kept_pairs
from xltlib.data.tokenization import MASK
from xltlib.pretraining import losses, models
from xltlib.pretraining.encoder_builders import (
    gold_lexicon,
    linked_lexicon,
    mixed_texts,
    parallel_texts,
    punctuation_ids,
)
from xltlib.pretraining.losses import Recipe, extended, objective_loss
from xltlib.pretraining.options import OBJECTIVES, Options, needs_links, options
from xltlib.pretraining.training import Optimization, fit
from xltlib.runs import Runs

BILINGUAL = list(OBJECTIVES)[1:]


# Options


PAIR = torch.from_numpy(np.stack(text(1).concatenated()[0]))  # [CLS] a [SEP] b [SEP], and b first
SWAPPED = np.array([False, True])


def seen_by_the_encoder(chosen, vectors=None):
    """What the base model is given for a pair in both orders, and the vectors that come out."""
    model, seen = extended(encoder(), chosen, 2), {}
    if vectors is not None:
        model.languages.weight.data[:] = vectors
    hook = lambda module, args, given: seen.update(given)  # noqa: E731
    model.lm.base_model.register_forward_pre_hook(hook, with_kwargs=True)
    with torch.no_grad():
        states = losses._states_of_pairs(model, PAIR, Recipe(2, 0.3, 0, chosen), 0, SWAPPED)
        return seen, states, model.embeddings()(PAIR)


def test_positions_are_reset_in_the_second_sentence():
    seen, states, _ = seen_by_the_encoder(Options(positions="reset"))
    assert seen["position_ids"].tolist() == [[0, 1, 2, 3, 4, 5, 6, 1, 2, 3, 4, 5, 6]] * 2
    assert torch.equal(seen["input_ids"], PAIR)
    assert not torch.equal(states, seen_by_the_encoder(Options())[1])


def test_language_embeddings_start_as_nothing_and_tell_languages_apart():
    chosen = Options(language_embeddings=True)
    assert torch.allclose(seen_by_the_encoder(chosen)[1], seen_by_the_encoder(Options())[1], atol=1e-6)
    vectors = torch.zeros(2, 16)
    vectors[1, 0] = 1.0  # of the target language alone
    seen, _, embedded = seen_by_the_encoder(chosen, vectors)
    assert "position_ids" not in seen
    added = (seen["inputs_embeds"] - embedded)[..., 0].round().int().tolist()
    assert added == [[0] * 7 + [1] * 6, [1] * 7 + [0] * 6]


def test_what_an_objective_adds_is_trained_and_not_saved(tmp_path):
    chosen = Options(language_embeddings=True, head="own")
    model = extended(encoder(), chosen, 2)
    own_head = [p.clone() for p in model.lm.head.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(own_head, model.second.parameters(), strict=True))
    fit(model, objective_loss("weam", model, [text(8)], Recipe(4, 0.3, 0, chosen)), Optimization(3, 1e-2))
    assert model.languages.weight.abs().min() > 0
    assert not torch.equal(model.second.dense.weight, model.lm.head.dense.weight)
    model.save(tmp_path)
    kept = models.load(tmp_path)
    assert {name for name, _ in kept.named_parameters()} == {name for name, _ in encoder().named_parameters()}
    assert torch.equal(kept.embeddings().weight, model.embeddings().weight)
    plain = encoder()
    assert extended(plain, Options(), 2) is plain


def test_the_pure_mask_shows_no_other_word():
    model = Watched(encoder().lm)
    for step in range(5):
        objective_loss("weam", model, [text(20)], Recipe(8, 0.3, 0, options("weam", "corruption=mask")))(step)
    assert all(((ids == MASK).sum(1) == 3).all() for ids in model.seen)


def test_pulling_means_of_words_and_boundaries():
    """Links of whole words to one subword each are those of subwords; the ends add two links to each pair."""
    plain = text(20)
    spans = [np.stack([x[:, 0], x[:, 0] + 1, x[:, 1], x[:, 1] + 1], 1) for x in plain.links]
    found = {}
    for links, ends in ((plain.links, False), (spans, False), (plain.links, True), (spans, True)):
        chosen = Options(boundaries=ends)
        loss = objective_loss(
            "word_aligned", encoder(), [replace(plain, links=links)], Recipe(4, 0.3, 0, chosen)
        )
        found[links[0].shape[1], ends] = loss(0)["pull"].item()
    assert found[2, False] == pytest.approx(found[4, False], rel=1e-4)
    assert found[2, True] == pytest.approx(found[4, True], rel=1e-4)
    assert found[2, True] != pytest.approx(found[2, False], rel=1e-2)


def test_beta_weighs_the_drift():
    model = encoder()
    loss = objective_loss("word_aligned", model, [text(20)], Recipe(4, 0.3, 0, Options(beta=2.5)))
    with torch.no_grad():
        model.embeddings().weight.mul_(1.5)
    parts = loss(0)
    assert parts["loss"].item() == pytest.approx(parts["pull"].item() + 2.5 * parts["drift"].item())


@pytest.mark.parametrize(
    ("objective", "given", "told"),
    [
        ("tlm", "lambda=2", "objective tlm has no option lambda_"),
        ("subword_weam", "links=gold", "no option links"),
        ("weam", "links=subword", "what subword_weam and subword_aligned stand for"),
        ("weam", "expand=mean", "only nth, first and last can be exchanged"),
        ("mixed", "rate=1.5", "rate: found 1.5"),
        ("none", "order=source_first", "no option order"),
    ],
)
def test_options_that_an_objective_lacks_are_refused(objective, given, told):
    with pytest.raises(StudyError, match=told):
        options(objective, given)


def test_which_objectives_need_which_links():
    needed = {name: needs_links(name, options(name)) for name in BILINGUAL}
    assert {name for name, needs in needed.items() if needs} == {
        "weam", "word_aligned", "subword_weam", "subword_aligned"
    }  # fmt: skip
    assert needs_links("mixed", options("mixed", "lexicon=estimated"))
    assert {options(name).links for name in BILINGUAL if name.startswith("subword")} == {"subword"}


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


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("weam", "lambda=0"), ("tlm", "")),
        (("subword_weam", "lambda=0"), ("tlm", "")),
        (
            ("weam", "lambda=0,positions=reset,order=source_first"),
            ("tlm", "positions=reset,order=source_first"),
        ),
        (("mixed", "rate=0"), ("mlm", "")),
        (("mixed", "rate=0,lexicon=estimated"), ("mlm", "")),
        (("weam", "punctuation=false"), ("weam", "")),  # sentences of pairs have none
    ],
)
def test_runs_that_must_be_equal_are_equal_to_the_last_bit(weights, one, other):
    assert torch.equal(weights(*one), weights(*other))


@pytest.mark.parametrize(
    ("objective", "given"),
    [
        ("tlm", "order=source_first"), ("tlm", "positions=reset"), ("tlm", "language_embeddings=true"),
        ("tlm", "corruption=mask"), ("tlm", "pairs=0.5"), ("weam", "expand=first"), ("weam", "expand=last"),
        ("weam", "links=grown"), ("weam", "unaligned=drop"),
        ("weam", "both_masked=false"), ("weam", "head=own"), ("weam", "pairs=0.5"),
        ("word_aligned", "expand=mean"), ("word_aligned", "boundaries=true"), ("word_aligned", "beta=0"),
        ("mixed", "rate=0.9"), ("mixed", "lexicon=estimated"), ("mixed", "pairs=0.5"),
        ("subword_weam", "pairs=0.5"), ("subword_aligned", "pairs=0.5"),
    ],
)  # fmt: skip
def test_an_option_changes_a_run(weights, objective, given):
    found = weights(objective, given)
    assert found.isfinite().all()
    assert not torch.equal(found, weights(objective))


@pytest.mark.parametrize("rule", ["nearest", "none"])
def test_rules_for_several_links_of_a_word_change_a_run(weights, rule):
    assert not torch.equal(weights("weam", f"links=grown,one_to_many={rule}"), weights("weam", "links=grown"))


def test_every_objective_makes_another_encoder(weights):
    found = [weights(name) for name in BILINGUAL]
    assert len({w.double().sum().item() for w in found}) == len(BILINGUAL)
    assert not torch.equal(weights("mixed", target="far"), weights("mixed"))


def words_of(pairs, language, side):
    lines = pairs.file(f"{language}.{side}.txt").read_text("utf-8").splitlines()
    return [line.split() for line in lines]


def test_links_of_the_kept_pairs_are_made_from_these_alone(runs, store):
    """Half of the pairs, as if there had never been more."""
    plain, half, small = computed([runs.links(), runs.links("estimated", 0.5), runs.pairs()], store)
    kept = kept_pairs("low", len(words_of(small, "low", "source")), 0.5)
    found = {}
    for name, result in (("plain", plain), ("half", half)):
        with np.load(result.file("links.npz"), allow_pickle=False) as arrays:
            found[name] = {k: arrays[k] for k in arrays.files}
    assert len(found["half"]["low/ends"]) == kept < len(found["plain"]["low/ends"])
    assert np.array_equal(found["half"]["far/values"], found["plain"]["far/values"])
    assert runs.links("estimated", 1.0) == runs.links()


def test_subword_links_stay_within_their_pairs_and_are_scored_by_words(runs, store):
    result, pairs = computed([runs.links("subword"), runs.pairs()], store)
    with np.load(result.file("links.npz")) as links, np.load(pairs.file("pairs.npz")) as sides:
        read = tokenization.unpack(links["far/values"], links["far/ends"])
        lengths = [np.diff(sides[f"far/{side}/ends"], prepend=0) for side in ("source", "target")]
    for row, link in enumerate(read):
        at = link.reshape(-1, 2)
        assert (at < [lengths[0][row], lengths[1][row]]).all()
        assert len(np.unique(at[:, 0])) == len(at) == len(np.unique(at[:, 1]))  # intersected
    assert 0.5 < result.values["quality"]["far"]["precision"] <= 1


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
    chosen, languages = options("mixed", "rate=0.5"), ["far", "low"]
    tokenizer, world = tokenization.load(text_run.directory), World(("src", "far", "low"), 0)

    def spelt(ids):
        return " ".join(tokenizer.convert_ids_to_tokens(ids.tolist())).replace(" ##", "")

    def switched(seed):
        made = mixed_texts(pairs, None, text_run, languages, chosen, seed)
        return {lang: [[spelt(ids) for ids in side] for side in (t.source, t.target)]
                for lang, t in zip(languages, made, strict=True)}  # fmt: skip

    one = switched(0)
    assert one == switched(0)
    assert one != switched(1)
    plain = words_of(pairs, "far", "source")
    into = [gold_lexicon(world, "src", language) for language in languages]
    changed = known = 0
    for words, mixed in zip(plain, one["far"][0], strict=True):
        assert len(mixed.split()) == len(words)
        for word, other in zip(words, mixed.split(), strict=True):
            possible = {form for lexicon in into for form in lexicon.get(word, [])}
            assert other == word or other in possible
            known, changed = known + bool(possible - {word}), changed + (other != word)
    assert 0.3 < changed / known < 0.55  # a cognate is its own translation, so a little less than the rate
    back = gold_lexicon(world, "far", "src")
    for words, mixed in zip(words_of(pairs, "far", "target"), one["far"][1], strict=True):
        assert all(o == w or o in back.get(w, []) for w, o in zip(words, mixed.split(), strict=True))


# Punctuation


def test_punctuation_is_what_has_no_letter():
    tokenizer = tokenization.train(["ab ab . , ab... «ab»"] * 5, 60)
    words = tokenizer.convert_ids_to_tokens(sorted(punctuation_ids(tokenizer)))
    assert {".", ",", "«", "»"} <= set(words)
    assert not [word for word in words if any(c.isalpha() for c in word)]
    blank = "\N{LOWER ONE EIGHTH BLOCK}"
    pieces = ["<s>", "<pad>", "</s>", "<unk>", blank, ",", f"{blank}ab", f"{blank}.", "a.", "<mask>"]
    made = XLMRobertaTokenizer(vocab=[(piece, 0.0) for piece in pieces])
    assert made.convert_ids_to_tokens(sorted(punctuation_ids(made))) == [",", f"{blank}."]


def test_no_link_touches_what_is_left_out(runs, store):
    pairs, links = computed([runs.pairs(), runs.links()], store)
    plain, _ = parallel_texts(pairs, links, ["far", "low"], Options(), set())
    barred = {int(plain.source[0][plain.links[0][0, 0]])}
    text, _ = parallel_texts(pairs, links, ["far", "low"], Options(), barred)
    linked = [{int(x) for x in ids[at[:, 0]]} for ids, at in zip(text.source, text.links, strict=True)]
    assert not any(barred & ids for ids in linked)
    assert 0 < sum(map(len, text.links)) < sum(map(len, plain.links))


# Sweeps


@pytest.mark.parametrize("rate", [0.15, 0.45, 0.6])
def test_equal_predictions_at_another_mask_rate(rate):
    """As many predicted subwords as at the profile's rate, to within the rounding in each sequence."""
    runs = Runs(params(continue_steps=200, mask_rate=0.3))
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
    assert runs.encoder("tlm", 0, f"mask_rate={rate}").params["continue_steps"] == 200


def test_epochs_and_languages_apart_are_updates():
    runs = Runs(params(continue_steps=120))
    steps = [runs.encoder("weam", 0, *x).params["continue_steps"] for x in
             (("",), ("epochs=2",), ("joint=false", "far"), ("epochs=0.5,joint=false", "far"))]  # fmt: skip
    assert steps == [120, 240, 60, 30]
