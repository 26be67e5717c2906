"""Objectives on models and tokenizers shaped as mBERT's and XLM-R's, and runs from such a model on."""

from functools import cache

import numpy as np
import pytest
import shapes
import tinydata
import torch
from test_tokenization import published
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import XLMRobertaTokenizer

from xltlib import StudyError
from xltlib.data.text import tokenizer_of
from xltlib.data.tokenization import WordEncoder, join, pack, specials
from xltlib.pretraining import encoders, models, objectives
from xltlib.pretraining.encoders import build_encoder, subword_links
from xltlib.pretraining.objectives import ParallelText, Recipe, mask_tokens, objective_loss
from xltlib.pretraining.options import Options
from xltlib.pretraining.training import Optimization, fit
from xltlib.store import Spec

SOURCE = ["the cat sat on the mat .", "a dog and a cat sat ."]
TARGET = ["кот сидел на ковре .", "пёс и кот сидели ."]
LINKS = [[[1, 0], [2, 1], [3, 2], [5, 3], [6, 4]], [[1, 0], [2, 1], [4, 2], [5, 3], [6, 4]]]
KINDS = {"bert": "mbert", "xlmr": "xlmr-base"}


def tokenizer(kind):
    """A tokenizer with special tokens as in mBERT's or XLM-R's, and words in place of most subwords."""
    if kind == "bert":
        return published(kind, [*SOURCE, *TARGET] * 3, 90)
    words = dict.fromkeys(" ".join([*SOURCE, *TARGET]).replace("ковре", "ков").split())
    pieces = ["<s>", "<pad>", "</s>", "<unk>", *("\N{LOWER ONE EIGHTH BLOCK}" + word for word in words), "ре"]
    return XLMRobertaTokenizer(vocab=[(piece, -1.0) for piece in [*pieces, "<mask>"]])


def encoder(kind, words):
    return shapes.encoder(shapes.small(KINDS[kind], vocab_size=words))


def coded(made, sentences):
    """Subwords of each sentence, and for each subword the index of its word."""
    encode = WordEncoder(made)
    return [[np.array(part) for part in encode(sentence.split())] for sentence in sentences]


def text(made, times=1):
    """The two pairs, so many times."""
    (source, a), (target, b) = (zip(*coded(made, sentences), strict=True) for sentences in (SOURCE, TARGET))
    links = [subword_links(np.array(x), *words) for x, *words in zip(LINKS, a, b, strict=True)]
    return ParallelText(list(source) * times, list(target) * times, links * times)


@pytest.fixture(scope="module", params=KINDS)
def setting(request):
    """The kind, its tokenizer, and what objectives are told of its special tokens."""
    made = tokenizer(request.param)
    return request.param, made, specials(made)


def test_partners_are_where_the_words_are(setting):
    _, made, special = setting
    pairs = text(made)
    for ids, partner in zip(*pairs.concatenated(special=special), strict=True):
        row = partner.tolist()
        assert [row[other] for other in row] == list(range(len(ids)))
        assert special.ordinary(ids[partner != np.arange(len(ids))]).all()
    (first, _, swapped, _), (partner, *_) = pairs.concatenated(special=special)
    assert first.tolist() == made(SOURCE[0], TARGET[0])["input_ids"]
    assert swapped.tolist() == made(TARGET[0], SOURCE[0])["input_ids"]
    moved = {made.decode([first[i]]).strip(): made.decode([first[partner[i]]]).strip() for i in range(1, 8)}
    assert moved["cat"] == "кот"


def given_to(kind, made, special, name):
    """What the base model is given in one update of an objective."""
    model, seen = encoder(kind, len(made)), {}
    hook = lambda module, args, given: seen.update(given)  # noqa: E731
    model.lm.base_model.register_forward_pre_hook(hook, with_kwargs=True)
    objective_loss(name, model, [text(made, 8)], Recipe(4, 0.3, 0, special=special))(0)
    return seen


def test_models_are_told_segments_in_their_own_way(setting):
    kind, made, special = setting
    for name in ("tlm", "mlm"):
        seen = given_to(kind, made, special, name)
        assert ("token_type_ids" in seen) == (kind == "bert")
        if kind == "bert":
            row, types = seen["input_ids"][0].tolist(), seen["token_type_ids"][0].tolist()
            assert types == [int(i > row.index(special.between[0])) for i in range(len(row))]


def test_weam_of_weight_zero_is_tlm_bit_for_bit_with_dropout(setting):
    kind, made, special = setting
    found = []
    for name, weight in (("tlm", 1.0), ("weam", 0.0), ("weam", 1.0)):
        model, recipe = encoder(kind, len(made)), Recipe(4, 0.3, 0, special=special)
        assert model.lm.config.hidden_dropout_prob > 0
        loss = objective_loss(name, model, [text(made, 8)], recipe, Options(lambda_=weight))
        fit(model, loss, Optimization(3, 1e-2, precision="bfloat16"))
        found.append(torch.cat([p.detach().flatten() for p in model.lm.parameters()]))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


# Devices


class OneDevice(TorchDispatchMode):
    """Fails where an operation takes tensors of different devices, as a GPU would."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor) and x.ndim]
        assert len({x.device for x in tensors}) < 2, func
        return func(*args, **(kwargs or {}))


class Unmasked(models.Encoder):
    """An encoder without its mask of padding, whose values transformers would read."""

    def states(self, input_ids, attention_mask=None, **given):
        return super().states(input_ids, **given)


@pytest.mark.parametrize("name", ["mlm", "tlm", "weam", "word_aligned"])
def test_all_that_a_loss_computes_is_where_the_model_is(setting, name):
    kind, made, special = setting
    model = Unmasked(encoder(kind, len(made)).lm).to("meta")
    recipe = Recipe(4, 0.3, 0, special=special, batch_tokens=60)
    loss = objective_loss(name, model, [text(made, 8)], recipe)
    with OneDevice():
        assert {part.device.type for part in loss(0).values()} == {"meta"}


# Runs


PARAMS = {"batch_size": 4, "batch_tokens": 100, "mask_rate": 0.2, "seed": 1, "precision": "bfloat16"}


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """A model's folder with its tokenizer, text and pairs of two real languages made with it, and links."""

    def build(kind):
        made, root = tokenizer(kind), tmp_path_factory.mktemp(kind)
        encoder(kind, len(made)).save(root)
        made.save_pretrained(root)
        documents, pairs, special = {}, {}, specials(made)
        for language, side, sentences in (("en", "source", SOURCE * 10), ("ru", "target", TARGET * 10)):
            ids, words = zip(*coded(made, sentences), strict=True)
            documents |= pack(language, [join(own, special=special) for own in ids])
            pairs |= pack(f"ru/{side}", ids) | pack(f"ru/{side}_words", words)
            (root / f"ru.{side}.txt").write_text("\n".join(sentences) + "\n", "utf-8")
        np.savez(root / "documents.npz", **documents)
        np.savez(root / "pairs.npz", **pairs)
        np.savez(root / "links.npz", **pack("ru", [np.ravel(x) for x in LINKS * 10]))
        sizes = {"vocab_size": len(made), "languages": {x: {"documents": 20} for x in ("en", "ru")}}
        made_up = (
            ({"data": "real", "model": str(root)}, sizes),
            ({"source": "en"}, {"pairs": {"ru": 20}}),
            ({"links": "estimated"}, {}),
        )
        return [tinydata.result(Spec("", params, 1), values, root) for params, values in made_up]

    return cache(build)


def base(text_run, directory, steps=0, **changes):
    params = PARAMS | {"objective": "base", "model": text_run.params["model"], "pretrain_lr": 1e-3}
    params |= {"pretrain_steps": steps, "hidden_size": 8, "num_layers": 1, "num_heads": 1} | changes
    return tinydata.run(build_encoder, params, [text_run], directory)


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_goes_on_from_a_published_model(real, tmp_path, kind):
    text_run, *_ = real(kind)
    plain, trained = (base(text_run, tmp_path / str(steps), steps) for steps in (0, 5))
    first, same, moved = (models.load(x.directory).embeddings().weight for x in (text_run, plain, trained))
    assert plain.values == {"parameters": plain.values["parameters"], "history": [], "tokens": 0}
    assert torch.equal(first, same)
    assert not torch.equal(first, moved)
    assert moved.dtype == torch.float32
    assert [point["step"] for point in trained.values["history"]] == [5]
    assert abs(trained.values["tokens"] - 500) <= 5 * 8  # half a document each


@pytest.mark.parametrize(
    ("objective", "given"),
    [("mlm", {}), ("tlm", {}), ("weam", {"lambda_": 0.5}), ("word_aligned", {}),
     ("mixed", {"lexicon": "estimated"})],
)  # fmt: skip
def test_every_objective_goes_on_from_it(real, tmp_path, monkeypatch, objective, given):
    text_run, pairs, linked = real("xlmr")
    monkeypatch.setattr(encoders, "world_of", None)  # real languages have none
    special, seen = specials(tokenizer_of(text_run)), []

    def masked(*given):
        seen.append(given[-1])
        return mask_tokens(*given)

    monkeypatch.setattr(objectives, "mask_tokens", masked)
    start = base(text_run, tmp_path / "base")
    params = PARAMS | {"objective": objective, "continue_steps": 5, "continue_lr": 1e-3, "options": given}
    inputs = [start, pairs, text_run, *([linked] if objective not in ("mlm", "tlm") else [])]
    params["document_share"] = 0.2
    trained = tinydata.run(build_encoder, params, inputs, tmp_path / "trained")
    assert set(seen) == {special}
    assert abs(trained.values["tokens"] - 500) <= 5 * 15
    first, moved = (models.load(x.directory).embeddings().weight for x in (start, trained))
    assert not torch.equal(first, moved)


def test_what_a_run_on_real_text_lacks_is_told_at_once(real, tmp_path, monkeypatch):
    text_run, *_ = real("bert")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(StudyError, match="device cuda: torch finds no GPU here"):
        base(text_run, tmp_path / "cuda", device="cuda")
    monkeypatch.setitem(text_run.values, "vocab_size", 1000)
    expected = "the tokenizer of the text 1000: make the text with the model's own"
    with pytest.raises(StudyError, match=expected):
        base(text_run, tmp_path / "cpu")
