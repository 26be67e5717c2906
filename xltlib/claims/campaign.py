"""Simulated confirmations: what the rules of params/design.yaml decide where the truth is known."""

from itertools import compress

import numpy as np
import pandas as pd

from xltlib.claims.ledger import Design, Test
from xltlib.claims.scores import Comparison, World
from xltlib.claims.verdicts import CONTRADICTED, SUPPORTED, judge
from xltlib.params import Params

MATTERS = 0.02  # of the simulated tests, as in the ledger; their margin is 0
EXAMPLES = 400  # in the source
LEARNT, FAILED = 0.99, 0.6  # score in the source of a training that has learnt, and of one that has not
WORLDS = {  # share of the first system's trainings that fail, by how much, and whether both systems fail
    "normal": {},
    "two modes": {"failing": 0.3, "depth": 0.25, "both": True},
    "one system fails in a tenth": {"failing": 0.1, "depth": 0.3},
    "one system fails in a tenth, slightly": {"failing": 0.1, "depth": 0.06},
}


def campaigns(
    design: Design, spread: float, gain: float, rng: np.random.Generator, tests: int = 21, repeats: int = 20,
    failing: float = 0.0, depth: float = 0.0, both: bool = False,
) -> dict[str, float]:  # fmt: skip
    """How often a family of tests gets verdicts, in simulated confirmations judged by the study's own rules.

    spread : standard deviation of each test's gain over seeds, as far as no training fails
    gain : the true mean gain of each test over all seeds
    failing, depth : the first system fails in this share of its trainings by this much, seen in the source;
        it gains as much more in the others, so that means over all trainings are `gain`
    both : the second system fails as often, so that no such gain is needed

    Returns shares of the campaigns with any verdict that is false of the trainings that succeed (`false`) or
    of the mean over all (`false_all`), and of the tests `supported`, `contradicted` and `decided`; `seeds`:
    the mean number of seeds at which a decided test was decided.
    """
    first, last = design.confirmation["first_seed"], design.confirmation["looks"][-1]["seeds"]
    world = World(Params(profile=design.confirmation["profile"]), design, {}, ())
    seeds, names = tuple(range(first, first + last)), ("first", "second")
    beside, test = 0.0 if both else failing * depth, Test("superiority", task="nli", matters=MATTERS)
    rows = []
    for repeat in range(repeats):
        family = {}
        for number in range(tests):
            fails = rng.random((2, last)) < [[failing], [failing if both else 0.0]]
            luck = spread * rng.standard_normal(last) + beside
            own = np.clip(gain + luck - depth * (fails[0].astype(float) - fails[1]), -0.5, 0.5)
            sources = np.tile(np.where(fails, FAILED, LEARNT)[..., None], EXAMPLES)
            family[str(number)] = Comparison(
                test, seeds, tuple([0.5 + part[:, None]] for part in (own, 0 * own)), settings=("targets",),
                sources=dict(zip(names, sources, strict=True)),
                failed={name: tuple(compress(seeds, x)) for name, x in zip(names, fails, strict=True)},
            )  # fmt: skip
        rows += [(repeat, j.outcome, j.look) for j in judge(family, world).values()]
    judged = pd.DataFrame(rows, columns=["campaign", "outcome", "seeds"])
    supported, contradicted = judged["outcome"] == SUPPORTED, judged["outcome"] == CONTRADICTED
    shares, decided = {}, supported | contradicted
    for name, mean in (("false", gain + beside), ("false_all", gain)):
        wrong = supported if mean <= 0 else contradicted & (mean >= MATTERS)
        shares[name] = wrong.groupby(judged["campaign"]).any().mean()
    return shares | {
        SUPPORTED: supported.mean(), CONTRADICTED: contradicted.mean(), "decided": decided.mean(),
        "seeds": judged["seeds"][decided].mean(),
    }  # fmt: skip


def table(design: Design, spread: float) -> pd.DataFrame:
    """`campaigns` of equal tests in every world of WORLDS and with gains of none, two and five points."""
    rows = {
        (world, f"{100 * gain:g} points"): campaigns(design, spread, gain, np.random.default_rng(0), **shape)
        for world, shape in WORLDS.items()
        for gain in ((0.0, MATTERS, 0.05) if world == "normal" else (0.0,))
    }
    return pd.DataFrame(rows).T.rename_axis(["world", "true gain"])
