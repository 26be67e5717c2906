"""Training on a GPU: the numbers of a CPU, an exact resume, runs side by side, a whole study by papermill.

The same tests run on the CPU, so that they are known to work before they meet a GPU:

    python -m pytest tests/test_gpu.py --slow
"""

import json
from dataclasses import replace
from functools import partial

import cipher
import numpy as np
import pytest
import tiny
import tinystudy
import torch
import yaml

from xltlib import pool, study
from xltlib.data.tokenization import join
from xltlib.finetuning.methods import finetune
from xltlib.finetuning.options import METHODS, Options
from xltlib.finetuning.salt import mixup_loss
from xltlib.finetuning.tasks import Encoded, TaskModel, predict
from xltlib.pool import compute_all
from xltlib.pretraining import models, objectives
from xltlib.pretraining.training import Optimization, fit
from xltlib.runs import Runs
from xltlib.store import Store

GPU = torch.cuda.is_available()
OPT = Optimization(12, 2e-3, log_every=3, checkpoint_seconds=0)
RECIPE = objectives.Recipe(8, 0.3, seed=0)


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not GPU, reason="no GPU"))])
def device(request) -> str:
    return request.param


def encoder(device: str = "cpu") -> models.Encoder:
    return cipher.encoder(hidden=32, layers=2).to(models.device(device))


def pairs(padded: bool) -> Encoded:
    """Pairs with a label; where they are not padded all are of one length."""
    rng = np.random.default_rng(1)
    sides = [[rng.integers(5, cipher.VOCAB, 3 + padded * (i % 4)) for i in range(64)] for _ in range(2)]
    second = np.array([2 + len(first) for first in sides[0]])
    ids = [join(*both) for both in zip(*sides, strict=True)]
    return Encoded(ids, rng.integers(0, 3, 64), second, padded=padded)


def trained(objective: str, device: str, opt: Optimization = OPT, directory=None, stop=None):
    """History and weights after an objective; KeyboardInterrupt before the update `stop`."""
    model = encoder(device)
    inner = objectives.objective_loss(objective, model, [cipher.text(64)], RECIPE)

    def loss(step: int):
        if step == stop:
            raise KeyboardInterrupt
        return inner(step)

    return fit(model, loss, opt, directory), {name: p.cpu() for name, p in model.state_dict().items()}


@pytest.mark.parametrize("objective", ["mlm", "tlm", "weam", "word_aligned"])
def test_objectives_take_the_course_that_they_take_on_a_cpu(device, objective):
    history, _ = trained(objective, device)
    for found, wanted in zip(history, trained(objective, "cpu")[0], strict=True):
        assert found == pytest.approx(wanted, rel=1e-3)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("objective", ["tlm", "weam", "word_aligned"])
def test_a_resume_is_exact(tmp_path, device, objective, precision):
    opt = replace(OPT, precision=precision)
    wanted = trained(objective, device, opt)
    with pytest.raises(KeyboardInterrupt):
        trained(objective, device, opt, tmp_path, stop=7)
    history, weights = trained(objective, device, opt, tmp_path)
    assert history == wanted[0]
    assert all(torch.equal(weights[name], wanted[1][name]) for name in weights)


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("method", ["standard", "adversarial", "rs_rp", "salt"])
def test_methods_learn_what_they_learn_on_a_cpu(device, method, padded):
    data, found = pairs(padded), []
    twins = [np.where(ids > 5, ids - 1, ids) for ids in data.ids]
    for where in (device, "cpu"):
        model = TaskModel(encoder(), "nli", 0).to(models.device(where))
        loss = METHODS[method].load()
        if method == "salt":
            loss = partial(mixup_loss, options=Options(), seed=0, twins=twins)
        history = finetune(model, data, OPT, 8, 0, loss)
        found.append(([point["loss"] for point in history], predict(model, data)))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-3)
    assert (found[0][1] == found[1][1]).mean() > 0.95


def test_encoders_are_compiled_where_that_is_asked_for(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(models, "compiled", lambda encoder: seen.append(encoder) or encoder)
    for asked in (False, True):
        specs = [Runs(tiny.params(compile=asked)).transfer("nli", "tlm", 0)]
        tiny.computed(specs, Store(tmp_path))
        assert len(seen) == 3 * asked  # pre-training, going on with TLM, fine-tuning
        assert specs[0].params.get("compile", False) == asked


@pytest.mark.slow
def test_runs_side_by_side(tmp_path, device):
    """Four processes share what there is; each run has the numbers that it has alone."""
    given = tiny.params(device=device, precision="bfloat16", seeds=4)
    specs = [Runs(given).transfer("nli", "weam", seed) for seed in range(4)]
    many = compute_all(specs, Store(tmp_path / "many"), jobs=4)
    alone = compute_all(specs[:1], Store(tmp_path / "alone"))
    assert tiny.equal(many[0], alone[0])
    assert [result.record["environment"]["gpu"] is not None for result in many] == [device == "cuda"] * 4


@pytest.mark.slow
def test_a_compiled_study_by_papermill(tmp_path, monkeypatch, device):
    """From parameters to verdicts: runs on the device, notebooks by papermill, evidence published."""
    profile = tinystudy.make(tmp_path, tinystudy.WORKS)
    changed = tinystudy.SMALL | {"device": device, "precision": "bfloat16", "compile": device == "cuda"}
    profile.write_text(yaml.safe_dump(changed), encoding="utf-8")
    for stage in study.STAGES:
        path = tmp_path / "notebooks" / f"{stage}.ipynb"
        tinystudy.write_notebook(path, tinystudy.WORKS.format(name=stage), names=tuple(changed))
    monkeypatch.setenv("XLT_ROOT", str(tmp_path))
    session = study.run(profile, jobs=2, tell=lambda line: None)
    claims = json.loads((session.computed / "claims.json").read_bytes())
    assert claims["claims"][0]["verdict"]
    published = json.loads((session.computed / "runs.json").read_bytes())
    assert {spec.digest for spec in session.specs("06_claims")} <= published.keys()


def test_the_gpus_are_those_that_torch_sees():
    assert len(pool.gpus()) == torch.cuda.device_count()
