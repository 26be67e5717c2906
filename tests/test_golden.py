"""Pinned results of tiny runs of every stage: they fail when numbers change while a version does not.

The pins are `golden.json`. After a change that is meant: raise the version named by the message, so that no
stored result of the old method is taken for one of the new, and renew the pins with

    XLT_RENEW_GOLDEN=1 python -m pytest tests/test_golden.py
"""

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
import tinydata
from safetensors.torch import load_file
from tiny import computed, equal, params

from xltlib import runs
from xltlib.data import synthetic
from xltlib.data.text import tokenizer_of, world_of
from xltlib.finetuning import methods
from xltlib.finetuning import options as finetuning
from xltlib.finetuning.case import Case
from xltlib.finetuning.methods import steps_for
from xltlib.finetuning.tasks import encode
from xltlib.pretraining import options as pretraining
from xltlib.runs import Runs
from xltlib.store import Store

PINS = Path(__file__).with_name("golden.json")
RENEW = bool(os.environ.get("XLT_RENEW_GOLDEN"))
FLOATS = 1e-3  # relative: sums of floats differ a little between processors, far less than between methods
COUNTS = 0.04  # of what lies under "means": one of 30 examples near a tie may fall either way

OBJECTIVES = ("mlm", "tlm", "weam", "word_aligned", "mixed", "subword_weam", "subword_aligned")
TASKS = ("nli", "paraphrase", "qa")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """An empty store, and a made-up folder of real data."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XLT_DATA", str(tinydata.make(tmp_path_factory.mktemp("data"))))
        yield Store(tmp_path_factory.mktemp("golden"))


def arrays_digest(path):
    """Digest of the arrays in an npz file: of names, types and values."""
    found = hashlib.sha256()
    with np.load(path, allow_pickle=False) as arrays:
        for name in sorted(arrays.files):
            array = arrays[name]
            found.update(f"{name} {array.dtype} {array.shape} ".encode() + array.tobytes())
    return found.hexdigest()[:16]


def text(result):
    tokenizer = hashlib.sha256(result.file("tokenizer.json").read_bytes()).hexdigest()[:16]
    return {"documents": arrays_digest(result.file("documents.npz")), "tokenizer": tokenizer}


def pairs(result):
    return {"pairs": arrays_digest(result.file("pairs.npz"))}


def links(result):
    return {"links": arrays_digest(result.file("links.npz")), "quality": result.values["quality"]}


def encoder(result):
    weights = load_file(result.file("model.safetensors"))
    sizes = {name: float(weights[name].double().norm()) for name in sorted(weights)}
    return {"history": result.values["history"], "norms": sizes}


def real_text(result):
    return text(result) | {"values": result.values}


def values(*names, **others):
    """What takes these values of a result; `others`: name in the pins -> name of the value."""
    chosen = dict(zip(names, names, strict=True)) | others
    return lambda result: {pinned: result.values[name] for pinned, name in chosen.items()}


def entry(module, registry, key):
    number, place = getattr(module, registry)[key].version, module.__name__.replace(".", "/")
    return number, f'version of {registry}["{key}"] in {place}.py'


RULES = {
    "confirmation": {
        "profile": "confirmation", "first_seed": 0,
        "looks": [{"seeds": 9, "alpha": 0.02}, {"seeds": 12, "alpha": 0.03}],
    },
    "learnt": {"scale": "mechanism", "source_score": {"nli": 0.9}, "share": 0.75},
}  # fmt: skip


def cases():
    """Name -> (spec, what is pinned of its result, its version, where that stands)."""
    study, real = Runs(params(seeds=1)), Runs(params(seeds=1, **tinydata.PARAMS, scale="reduced"))
    typo = study.evaluation("typo", study.transfer("nli", "none", 0))
    means, trained = values("means"), values("history", "updates", "means")
    kinds = {
        "text": (study.text(), text),
        "pairs": (study.pairs(), pairs),
        "links": (study.links(), links),
        "evaluation": (typo, means),
        "lexicon": (study.lexicon("none", 0), means),
        "answers": (study.answers(0, "noise=typo"), trained),
        "tagging": (real.tagging("none", 0), means),
        "baselines": (real.baselines(), values(means="baselines")),
        "probe": (study.probe("none", 0), values(means="by_layer")),
        "campaign": (
            study.campaign(RULES, {"gains": [0.0, 0.03]}, 4, 10),
            values("decided", "false", "seeds"),
        ),
    }
    found = {name: (*case, *entry(runs, "KINDS", name)) for name, case in kinds.items()} | {
        "base": (study.base(0), encoder, *entry(pretraining, "OBJECTIVES", "none")),
        "span_corruption": (study.seq2seq(0), values("history"), *entry(runs, "KINDS", "seq2seq")),
        "real": (real.text(), real_text, runs.REAL_TEXT, "REAL_TEXT in xltlib/runs.py"),
    }
    for name in OBJECTIVES:
        found[name] = (study.encoder(name, 0), encoder, *entry(pretraining, "OBJECTIVES", name))
    for method in finetuning.METHODS:
        for task in TASKS:
            few = "n=96" if method == "intermediate" else ""
            spec = study.transfer(task, "none", 0, method, method_options=few)
            found[f"{method}-{task}"] = (spec, trained, *entry(finetuning, "METHODS", method))
    return found


pytestmark = pytest.mark.filterwarnings("ignore:.*(officially|not translated)")
CASES = cases()


def differences(found, pinned, where=""):
    """Where two plain values differ; floats may by a little."""
    if isinstance(found, dict) and isinstance(pinned, dict) and found.keys() == pinned.keys():
        return [line for key in found for line in differences(found[key], pinned[key], f"{where}.{key}")]
    if isinstance(found, list) and isinstance(pinned, list) and len(found) == len(pinned):
        both = enumerate(zip(found, pinned, strict=True))
        return [line for i, (a, b) in both for line in differences(a, b, f"{where}[{i}]")]
    if isinstance(found, float) and isinstance(pinned, float):
        near = pytest.approx(pinned, rel=FLOATS, abs=COUNTS if ".means" in where else 1e-6)
        return [] if found == near else [f"{where}: {found} != {pinned}"]
    return [] if found == pinned else [f"{where}: {found!r} != {pinned!r}"]


@pytest.mark.parametrize("name", CASES)
def test_numbers_are_those_of_their_version(store, name):
    spec, pick, number, place = CASES[name]
    (result,) = computed([spec], store)
    found = json.loads(json.dumps({"version": number, "values": pick(result)}))
    pins = json.loads(PINS.read_text("utf-8")) if PINS.exists() else {}
    if RENEW:
        pins[name] = found
        PINS.write_text(json.dumps({k: pins[k] for k in CASES if k in pins}, indent=1) + "\n", "utf-8")
        return
    assert name in pins, f"no pins of {name}: renew them (see the top of this file)"
    if found["version"] != pins[name]["version"]:
        pytest.fail(f"{place} is {number}, the pins are of {pins[name]['version']}: renew them (see the top)")
    changed = differences(found["values"], pins[name]["values"])
    assert not changed, (
        f"numbers changed: raise the version of {name}, {place}. First: {'; '.join(changed[:3])}"
    )


def test_methods_have_the_updates_of_standard_but_for_rs_da_as_released(store):
    specs = {method: CASES[f"{method}-nli"][0] for method in finetuning.METHODS}
    study, released = Runs(params(seeds=1)), specs["rs_da"]
    specs["equal"] = study.transfer("nli", "none", 0, "rs_da", method_options="updates=equal")
    text, *results = computed([study.text(), *specs.values()], store)
    updates = {method: result.values["updates"] for method, result in zip(specs, results, strict=True)}
    longer = updates.pop("rs_da")
    assert updates == dict.fromkeys(updates, updates["standard"])
    train = synthetic.task_examples(world_of(text), "nli", 96, "train", 0)
    drawn = methods.rs_da(Case(released.params, text, ("src", "far")), train)
    assert len(drawn) == 3 * 96
    assert longer == steps_for(encode(tokenizer_of(text), "nli", drawn), 8, 1)
    assert longer > updates["standard"]  # by less than 3 times here, where few examples have one length


def test_runs_of_methods_repeat_to_the_last_bit(store, tmp_path):
    specs = [CASES[f"{method}-nli"][0] for method in ("adversarial", "rs_rp", "salt")]
    assert all(map(equal, computed(specs, store), computed(specs, Store(tmp_path))))


def test_every_version_is_pinned():
    objectives = {"base", *OBJECTIVES}
    assert set(pretraining.OBJECTIVES) | {"base"} == objectives | {"none"}
    assert {f"{method}-{task}" for method in finetuning.METHODS for task in TASKS} <= set(CASES)
    # by objective and method; the case "span_corruption"; no numbers of their own
    elsewhere = {"encoder", "transfer", "seq2seq", "notebook"}
    assert objectives | set(runs.KINDS) - elsewhere <= set(CASES)


def test_differences_by_hand():
    pinned = {"a": [1, 2.0], "b": "x"}
    assert differences({"a": [1, 2.001], "b": "x"}, pinned) == []
    assert differences({"a": [1, 2.01], "b": "x"}, pinned) == [".a[1]: 2.01 != 2.0"]
    assert differences({"a": [2, 2.0], "b": "y"}, pinned) == [".a[0]: 2 != 1", ".b: 'y' != 'x'"]
    assert len(differences({"a": [1]}, pinned)) == 1
    assert differences({"means": {"far": 0.5}}, {"means": {"far": 0.53}}) == []
    assert differences({"means": {"far": 0.5}}, {"means": {"far": 0.55}}) == [".means.far: 0.5 != 0.55"]
