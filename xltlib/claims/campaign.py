"""Simulated confirmations: what the rules of params/design.yaml decide where the truth is known."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from xltlib.claims.ledger import Design, Test
from xltlib.claims.scores import Comparison
from xltlib.claims.verdicts import CONTRADICTED, SUPPORTED, Family, Lines

MATTERS = 0.02  # of the simulated tests, as in the ledger; their margin is 0
EXAMPLES = 400  # in the source
SOURCE = {True: 0.99, False: 0.6}  # score in the source of a training that has learnt, or has not
WORLDS = {  # share of the first system's trainings that fail, by how much, and whether both systems fail
    "normal": {},
    "two modes": {"failing": 0.3, "depth": 0.25, "both": True},
    "one system fails in a tenth": {"failing": 0.1, "depth": 0.3},
    "one system fails in a tenth, slightly": {"failing": 0.1, "depth": 0.06},
}


def campaigns(
    design: Design,
    spreads: Mapping[str, float],
    gains: Mapping[str, float],
    rng: np.random.Generator,
    repeats: int = 200,
    seeds: int = 0,
    failing: float = 0.0,
    depth: float = 0.0,
    both: bool = False,
) -> dict[str, float]:
    """How often a family of tests gets verdicts, in simulated confirmations judged by the study's own rules.

    Parameters
    ----------
    spreads : standard deviation of a test's gain over seeds, by test, as far as no training fails
    gains : the true mean gain of each test over all seeds
    seeds : how many there are in the end; all looks of the design by default
    failing, depth : the first system fails in this share of its trainings by this much, seen in the source;
        it gains as much more in the others, so that means over all trainings are `gains`
    both : the second system fails as often, so that no such gain is needed

    Returns shares of the campaigns with any verdict that is false of the trainings that succeed (`false`) or
    of the mean over all (`false_all`), and of the tests `supported`, `contradicted` and `decided`; `seeds`:
    the mean number of seeds at which a decided test was decided.
    """
    last = seeds or design.looks[-1].seeds
    numbers = tuple(range(design.first_seed, design.first_seed + last))
    lines = dict.fromkeys(spreads, Lines("superiority", 0.0, MATTERS))
    counts = dict.fromkeys(("false", "false_all", SUPPORTED, CONTRADICTED, "seeds"), 0.0)
    beside = 0.0 if both else failing * depth
    for _ in range(repeats):
        data = {}
        for name, spread in spreads.items():
            failed = rng.random((2, last)) < [[failing], [failing if both else 0.0]]
            luck = spread * rng.standard_normal(last) + beside
            gain = np.clip(gains[name] + luck - depth * (failed[0].astype(float) - failed[1]), -0.5, 0.5)
            data[name] = _comparison(numbers, gain, failed)
        family = Family(data, lines, design.looks, design, design.learnt_scale, waits=True)
        judgements = family.judgements()
        outcomes = {name: j.outcome for name, j in judgements.items()}
        for truth, more in (("false", beside), ("false_all", 0.0)):
            true = {name: gains[name] + more for name in outcomes}
            counts[truth] += any(
                (outcome == SUPPORTED and true[name] <= 0)
                or (outcome == CONTRADICTED and true[name] >= MATTERS)
                for name, outcome in outcomes.items()
            )
        for outcome in (SUPPORTED, CONTRADICTED):
            counts[outcome] += list(outcomes.values()).count(outcome)
        counts["seeds"] += sum(j.look for j in judgements.values() if j.outcome in counts)
    tests, decided = repeats * len(spreads), counts[SUPPORTED] + counts[CONTRADICTED]
    return {
        "false": counts["false"] / repeats,
        "false_all": counts["false_all"] / repeats,
        SUPPORTED: counts[SUPPORTED] / tests,
        CONTRADICTED: counts[CONTRADICTED] / tests,
        "decided": decided / tests,
        "seeds": counts["seeds"] / decided if decided else np.nan,
    }


def table(design: Design, spread: float, tests: int = 21, repeats: int = 20) -> pd.DataFrame:
    """`campaigns` of equal tests in every world of WORLDS and with gains of none, two and five points."""
    spreads = {str(k): spread for k in range(tests)}
    rows = {}
    for world, shape in WORLDS.items():
        for gain in (0.0, MATTERS, 0.05) if world == "normal" else (0.0,):
            rng = np.random.default_rng(0)
            shares = campaigns(design, spreads, dict.fromkeys(spreads, gain), rng, repeats, **shape)
            rows[world, f"{100 * gain:g} points"] = shares
    return pd.DataFrame(rows).T.rename_axis(["world", "true gain"])


def _comparison(seeds: tuple[int, ...], gain: np.ndarray, failed: np.ndarray) -> Comparison:
    """A test of two systems whose scores differ by `gain` (R,); `failed` (2, R) have not learnt."""
    scores = tuple([(0.5 + part)[:, None]] for part in (gain, 0 * gain))
    names = ("first", "second")
    sources = {
        name: np.tile(np.where(own, SOURCE[False], SOURCE[True])[:, None], EXAMPLES)
        for name, own in zip(names, failed, strict=True)
    }
    missed = {
        name: tuple(s for s, bad in zip(seeds, own, strict=True) if bad)
        for name, own in zip(names, failed, strict=True)
    }
    return Comparison(
        Test("superiority", task="nli"), seeds, scores, ("targets",), ("simulated",), sources, missed
    )
