"""What notebook 05 shows: differences with intervals, how honest these are, and what a study can see."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from statsmodels.stats.proportion import proportion_confint

from xltlib import drawing
from xltlib.claims.scores import Selection, system
from xltlib.claims.verdicts import decide
from xltlib.drawing import Drawn, Session
from xltlib.params import Params
from xltlib.significance import honesty
from xltlib.significance.resampling import second_opinions
from xltlib.significance.tests import Effect, difference

CLAIMS = ["S0-1", "S0-2", "S0-3", "S1-7", "S1-18", "S1-22", "S1-23"]
SEEDS = (2, 3, 4, 6, 9, 12)  # numbers of seeds of simulated studies
EQUAL = 0.02  # two points: the difference whose power is shown, and the margin of equivalence
NOT_MODELLED, CLUSTERED = "five examples to a passage, not modelled", "five examples to a passage, modelled"
# simulated studies like the measured ones: luck of seeds and items on the latent scale, the rival's accuracy
SIMULATED = {"sd_seed": 0.1, "sd_item": 0.5, "base": 0.6}
INTERVALS = {
    "crossed": "crossed model (used here)", "bootstrap": "bootstrap of seeds, then examples",
    "seeds_only": "t over seeds", "examples_only": "t over examples",
}  # fmt: skip


# Differences


def shared_seeds(a: Selection, b: Selection) -> list[list[np.ndarray]]:
    """The scores of two systems in the seeds that both have; none where runs are missing."""
    seeds = sorted(set(a.seeds) & set(b.seeds))
    return [] if a.missing or b.missing or not seeds else [list(x.only(seeds).scores) for x in (a, b)]


def difference_row(a: Selection, b: Selection, alpha: float) -> dict[str, Any] | None:
    """A row of a forest: the paired difference of two systems; None where runs are missing."""
    both = shared_seeds(a, b)
    return effect_row(difference(*both, alpha=alpha)) if both else None


def effect_row(effect: Effect) -> dict[str, Any]:
    """A row of a forest: an effect with its interval and seeds."""
    numbers = {name: getattr(effect, name) for name in ("estimate", "low", "high", "p")}
    return numbers | {"seeds": list(effect.per_seed)}


def decided_forest(session: Session, name: str, rows: list[dict], caption: str, **data: Any) -> Drawn:
    """A forest of one family of differences, with p-values and outcomes after Holm's correction."""
    decide(rows, session.params.alpha)
    data = {"x_label": "difference in accuracy (qa: F1)"} | data
    return drawing.save(
        session.figures / name, drawing.forest, rows, caption=drawing.caption(caption, session.params), **data
    )


def pairwise(session: Session, scores: pd.DataFrame) -> Drawn:
    """All pairwise differences of objectives, with the bootstrap, sign flips and stochastic order beside."""
    params, rows = session.params, []
    for task in params.tasks:
        for b, a in combinations(params.objectives, 2):
            both = shared_seeds(*(system(scores, task, o, params.targets) for o in (a, b)))
            if not both:
                continue
            rng, count = np.random.default_rng(0), params.bootstrap_samples
            opinions = second_opinions(*both, rng, count, params.alpha)
            second = {"second": opinions["bootstrap"], "p_flips": opinions["p_seeds"]}
            row = effect_row(difference(*both, alpha=params.alpha)) | second
            rows.append({"label": f"{task}: {a} − {b}", "eps_min": opinions["eps_min"]} | row)
    return decided_forest(
        session, "pairwise", rows, title="Differences between objectives", claims=CLAIMS,
        caption="Mean difference over the target languages; outcome (is the first one better?) after Holm "
        f"over {len(rows)} comparisons.",
        alt="Differences with their intervals, a row for each task and pair of objectives.",
        second="bootstrap of seeds, then examples",
    )  # fmt: skip


def difference_table(drawn: Drawn) -> pd.DataFrame:
    """The rows of a forest of differences, with their p-values and what the second opinions say.

    `p_flips` is an exact test over seeds alone; `eps_min` near 0: the better one is so at all quantiles of
    its seeds; 0.5 and above: no order between the two.
    """
    names = ["label", "estimate", "low", "high", "p", "p_holm", "outcome", "p_flips", "eps_min"]
    return drawn.rows.reindex(columns=names).set_index("label").dropna(axis=1, how="all")


# Honesty and power


def coverage(session: Session, seeds: Sequence[int] = SEEDS, repeats: int = 2000) -> Drawn:
    """How often each kind of interval holds the true difference in simulated studies of this size."""
    params = session.params
    shape = {"examples": params.test_examples, "settings": len(params.targets), "mu": 0.02, **SIMULATED}
    shape |= {"repeats": repeats, "alpha": params.alpha}
    rows = []
    for count in seeds:
        shares = honesty.coverage(np.random.default_rng(count), seeds=count, **shape)
        rows += [_rate("", name, count, shares[kind]) for kind, name in INTERVALS.items()]
    return drawing.save(
        session.figures / "coverage", drawing.facets, rows, title="Do intervals hold what they promise?",
        caption=f"{repeats} simulated studies for each number of seeds, {params.test_examples} examples in "
        f"{len(params.targets)} languages; grey: two standard errors of the simulation.",
        alt="Coverage by number of seeds for four kinds of interval.", claims=[],
        y_label="share of intervals that hold the truth", columns=1, height=3.2,
        **_promises({"": 1 - params.alpha}, seeds, shares["error"]),
    )  # fmt: skip


def error_rates(session: Session, seeds: Sequence[int] = SEEDS, repeats: int = 2000) -> Drawn:
    """Coverage, false verdicts and power by number of seeds, in worlds that differ in what varies."""
    alpha, rows = session.params.alpha, []
    nominal = {
        "intervals that hold the truth": 1 - alpha,
        "verdicts without any difference": alpha,
        "called equal at the margin": alpha,
        "power for two points": None,
    }
    grouped = {CLUSTERED: honesty.GROUPED | {"clustered": True}, NOT_MODELLED: honesty.GROUPED}
    for k, (name, world) in enumerate({**honesty.WORLDS, **grouped}.items()):
        for count in seeds:
            shape = {"gains": (0.0, EQUAL), "repeats": repeats, "alpha": alpha, "mu": 0.02, **world}
            rng = np.random.default_rng([k, count])
            none, some = honesty.error_rates(rng, seeds=count, equivalence_margin=EQUAL, **shape)
            verdicts = none["supported"] + none["contradicted"]
            rates = (none["covered"], verdicts, some["equivalent"], some["supported"])
            rows += [_rate(panel, name, count, y) for panel, y in zip(nominal, rates, strict=True)]
    return drawing.save(
        session.figures / "honesty", drawing.facets, rows, title="Honesty in simulated studies", claims=[],
        caption=f"{repeats} simulated studies for each point; grey: the nominal rate with two standard "
        f"errors of the simulation. {len(honesty.WORLDS)} worlds that differ in what varies, and one in "
        "which five examples share a passage, which the intervals model, or do not.",
        alt="Coverage, false verdicts, false equivalence and power by number of seeds, a line a world.",
        y_label="share", columns=2, repeats=repeats, **_promises(nominal, seeds, none["error"]),
    )  # fmt: skip


def _rate(panel: str, series: str, seeds: int, y: float) -> dict[str, Any]:
    return {"panel": panel, "series": series, "x": seeds, "mean": y, "seeds": []}


def _promises(nominal: Mapping[str, float | None], seeds: Sequence[int], error: float) -> dict[str, Any]:
    """How panels of rates by number of seeds are drawn: the nominal rate, and the error of the simulation."""
    known = {panel: rate for panel, rate in nominal.items() if rate is not None}
    return {
        "lines": True, "x_label": "seeds", "ticks": {str(s): s for s in seeds},
        "marks": [{"panel": panel, "name": "nominal", "y": rate} for panel, rate in known.items()],
        "bands": {panel: [rate - 2 * error, rate + 2 * error] for panel, rate in known.items()},
    }  # fmt: skip


def honesty_table(drawn: Drawn) -> pd.DataFrame:
    """An `error_rates` figure by number of seeds, without the world that is not modelled.

    Rates over all worlds, and the worst world with Wilson's 95% interval.
    """
    rows, repeats = drawn.rows, drawn.data["repeats"]
    table: dict[int, dict] = {}
    for (panel, seeds), own in rows[rows["series"] != NOT_MODELLED].groupby(["panel", "x"], sort=False):
        y, row = own["mean"], table.setdefault(seeds, {})
        row[panel] = f"{y.mean():.3f} ({y.min():.3f} to {y.max():.3f})"
        if panel.startswith("verdicts"):
            low, high = proportion_confint(y.max() * repeats, repeats, method="wilson")
            row["worst world"] = f"{y.max():.3f} [{low:.3f}, {high:.3f}]"
    return pd.DataFrame(table).T.rename_axis("seeds")


def error_table(
    params: Params, gains: Sequence[float] = (0.0, 0.01, 0.02, 0.05), repeats: int = 2000
) -> pd.DataFrame:
    """How often each verdict falls in simulated studies of this size, by the true difference."""
    shape = {"examples": params.test_examples, "settings": len(params.targets), "mu": 0.02, **SIMULATED}
    shape |= {"seeds": max(params.seeds, 2), "repeats": repeats, "alpha": params.alpha}
    rows = honesty.error_rates(np.random.default_rng(0), gains, equivalence_margin=EQUAL, **shape)
    table = pd.DataFrame(rows).rename(columns={"gain": "true difference"}).set_index("true difference")
    return table[["seeds", "supported", "contradicted", "equivalent"]]


def smallest_effects(session: Session, scores: pd.DataFrame, a: str, b: str) -> Drawn:
    """The gain of `a` over `b` seen with power 0.8, by number of seeds, from the measured spread."""
    params, seeds, rows = session.params, range(2, 13), []
    for task in params.tasks:
        both = shared_seeds(*(system(scores, task, o, params.targets) for o in (a, b)))
        if both:
            effect = difference(*both, alpha=params.alpha)
            sizes = (effect.examples, params.alpha)
            rows += [
                _rate("", task, count, honesty.smallest_detectable(effect.components, count, *sizes))
                for count in seeds
            ]
    few = " One seed shows no spread of seeds: these are too hopeful." if params.seeds == 1 else ""
    return drawing.save(
        session.figures / "smallest_effect", drawing.facets, rows, claims=CLAIMS,
        title="The smallest effect that can be seen",
        caption=f"Difference of {a} and {b} found with power 0.8 before correction, {params.test_examples} "
        f"examples a language; spread estimated from {params.seeds} seed(s).{few}",
        alt="The smallest detectable difference falls with the number of seeds, by task.",
        lines=True, x_label="seeds", y_label="smallest difference seen", limits=[0, None], columns=1,
        ticks={str(s): s for s in seeds}, marks=[{"panel": "", "name": "two points", "y": EQUAL}], height=3.2,
    )  # fmt: skip
