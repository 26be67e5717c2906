"""Simulated confirmations: what the rules of params/design.yaml decide where the truth is known."""

from collections.abc import Sequence
from itertools import compress
from pathlib import Path

import numpy as np
import pandas as pd

from xltlib.claims.ledger import Design, Test
from xltlib.claims.scores import Comparison, World
from xltlib.claims.verdicts import CONTRADICTED, SUPPORTED, judge
from xltlib.params import Params
from xltlib.runs import Runs
from xltlib.store import Result, Spec, json_digest

MATTERS = 0.02  # of the simulated tests, as in the ledger; their margin is 0
SPREAD = 0.025  # standard deviation of a test's gain over seeds, as far as no training fails
TESTS, REPEATS = 21, 200  # tests of a family, and campaigns: a share of .05 has a standard error of .015
EXAMPLES = 100  # in the source
LEARNT, FAILED = 0.99, 0.6  # score in the source of a training that has learnt, and of one that has not
WORLDS = {  # the true mean gains of a family's tests, in turn, and how trainings fail: see `campaigns`
    "no gain": {"gains": [0.0]},
    "two points": {"gains": [0.02]},
    "five points": {"gains": [0.05]},
    "none and five points": {"gains": [0.0, 0.05]},
    "no gain, two modes": {"gains": [0.0], "failing": 0.3, "depth": 0.25, "both": True},
    "one system fails in a tenth": {"gains": [0.0], "failing": 0.1, "depth": 0.3},
    "one system fails in a tenth, slightly": {"gains": [0.0], "failing": 0.1, "depth": 0.06},
}


def build_campaigns(spec: Spec, inputs: list[Result], directory: Path, progress: object) -> dict:
    """The shares of `campaigns` in one of the WORLDS."""
    sizes, rng = (spec.params["tests"], spec.params["repeats"]), np.random.default_rng(0)
    design = Design(exploration={"profiles": []}, matters_real=0.0, frozen="", **spec.params["rules"])
    return campaigns(design, rng, *sizes, **spec.params["world"])


def campaigns(
    design: Design, rng: np.random.Generator, tests: int, repeats: int, gains: Sequence[float],
    failing: float = 0.0, depth: float = 0.0, both: bool = False,
) -> dict[str, float]:  # fmt: skip
    """How often a family of tests gets verdicts, in simulated confirmations judged by the study's own rules.

    gains : the true mean gains over all seeds, of one test after the other
    failing, depth : the first system fails in this share of its trainings by this much, seen in the source;
        it gains as much more in the others, so that means over all trainings are the `gains`
    both : the second system fails as often, so that no such gain is needed

    Returns shares of the campaigns with any verdict that is false of the trainings that succeed (`false`) or
    of the mean over all (`false_all`), and of the tests `supported`, `contradicted` and `decided`; `seeds`:
    the mean number of seeds at which a decided test was decided, None where none was.
    """
    first, last = design.confirmation["first_seed"], design.confirmation["looks"][-1]["seeds"]
    world = World(Params(profile=design.confirmation["profile"]), design, {}, ())
    seeds, names = tuple(range(first, first + last)), ("first", "second")
    beside, test = 0.0 if both else failing * depth, Test("superiority", task="nli", matters=MATTERS)
    rows = []
    for repeat in range(repeats):
        family, truth = {}, dict(zip(map(str, range(tests)), np.resize(gains, tests).tolist(), strict=True))
        for name, gain in truth.items():
            fails = rng.random((2, last)) < [[failing], [failing if both else 0.0]]
            luck = SPREAD * rng.standard_normal(last) + beside
            own = np.clip(gain + luck - depth * (fails[0].astype(float) - fails[1]), -0.5, 0.5)
            sources = np.tile(np.where(fails, FAILED, LEARNT)[..., None], EXAMPLES)
            family[name] = Comparison(
                test, seeds, tuple([0.5 + part[:, None]] for part in (own, 0 * own)), settings=("targets",),
                sources=dict(zip(names, sources, strict=True)),
                failed={name: tuple(compress(seeds, x)) for name, x in zip(names, fails, strict=True)},
            )  # fmt: skip
        rows += [(repeat, truth[name], j.outcome, j.look) for name, j in judge(family, world).items()]
    judged = pd.DataFrame(rows, columns=["campaign", "gain", "outcome", "seeds"])
    supported, contradicted = judged["outcome"] == SUPPORTED, judged["outcome"] == CONTRADICTED
    shares, decided = {}, supported | contradicted
    for name, mean in (("false", judged["gain"] + beside), ("false_all", judged["gain"])):
        wrong = (supported & (mean <= 0)) | (contradicted & (mean >= MATTERS))
        shares[name] = float(wrong.groupby(judged["campaign"]).any().mean())
    means = {SUPPORTED: supported.mean(), CONTRADICTED: contradicted.mean(), "decided": decided.mean()}
    asked = float(judged["seeds"][decided].mean()) if decided.any() else None
    return shares | {name: float(x) for name, x in means.items()} | {"seeds": asked}


def specs(runs: Runs, design: Design) -> list[Spec]:
    """The simulated confirmations of a design, one for each of the WORLDS."""
    rules = {"confirmation": design.confirmation, "learnt": design.learnt}
    return [runs.campaign(rules, world, TESTS, REPEATS) for world in WORLDS.values()]


def table(results: Sequence[Result]) -> pd.DataFrame:
    """Simulated confirmations as they were computed, a row for each of the WORLDS."""
    names = {json_digest(world): name for name, world in WORLDS.items()}
    rows = {names[json_digest(result.params["world"])]: result.values for result in results}
    columns = ["false", "false_all", SUPPORTED, CONTRADICTED, "decided", "seeds"]
    return pd.DataFrame(rows, columns=[*WORLDS], index=columns, dtype=float).T.rename_axis("world")
