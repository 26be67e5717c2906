"""A study so small that all its kinds of runs take a few seconds together, for the tests of runs."""

import numpy as np

from xltlib.params import Params
from xltlib.pool import compute
from xltlib.runs import closure
from xltlib.store import Result, Spec, Store

SIZES = {
    "languages": ("src", "far", "low"), "documents": 300, "parallel_pairs": 60, "vocab_size": 220,
    "hidden_size": 16, "num_layers": 1, "num_heads": 2, "batch_size": 8, "pretrain_steps": 20,
    "continue_steps": 8, "train_examples": 96, "test_examples": 30, "finetune_epochs": 1, "seeds": 2,
}  # fmt: skip


def params(**changes) -> Params:
    """The small study's parameters, some of them changed, at the scale that follows from them."""
    real = "pretrained" if changes.get("model") else "reduced"
    scale = {"scale": real if changes.get("data") == "real" else "mechanism"}
    return Params(**SIZES | scale | changes)


def computed(specs: list[Spec], store: Store) -> list[Result]:
    """The results of runs and of what they build on, computed in this process."""
    for spec in closure(specs):
        compute(spec, store)
    return [store.result(spec) for spec in specs]


def equal(one: Result, two: Result) -> bool:
    """Whether two results agree to the last bit in values, scores and files."""
    files = [{name: file["sha256"] for name, file in r.record["files"].items()} for r in (one, two)]
    same = set(one.scores) == set(two.scores) and files[0] == files[1] and one.values == two.values
    return same and all(np.array_equal(one.scores[name], two.scores[name]) for name in one.scores)
