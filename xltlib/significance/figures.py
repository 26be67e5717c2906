"""What notebook 05 shows: differences with intervals, how honest these are, and what a study can see."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from xltlib import drawing
from xltlib.claims import scores as score_table
from xltlib.claims.ledger import label
from xltlib.claims.scores import DEFAULTS, QUERY, Selection, Setting, paired, system
from xltlib.claims.verdicts import outcome
from xltlib.drawing import Drawn, Session
from xltlib.params import Params
from xltlib.significance import honesty
from xltlib.significance.resampling import second_opinions
from xltlib.significance.spread import SOURCES, Costs, relative_error, variance_components
from xltlib.significance.tests import Effect, difference, holm
from xltlib.store import Result

SEEDS = (2, 3, 4, 6, 9, 12)  # numbers of seeds of simulated studies
REPEATS = 1000  # simulated studies: a rate of .05 has a standard error of .007
EQUAL = 0.02  # two points: the difference whose power is shown, and the margin of equivalence
NOT_MODELLED, CLUSTERED = "five examples to a passage, not modelled", "five examples to a passage, modelled"
# simulated studies like the measured ones: luck of seeds and items on the latent scale, the rival's accuracy
SIMULATED = {"sd_seed": 0.1, "sd_item": 0.5, "base": 0.6, "mu": EQUAL}
INTERVALS = {
    "crossed": "crossed model (used here)", "bootstrap": "bootstrap of seeds, then examples",
    "seeds_only": "t over seeds", "examples_only": "t over examples",
}  # fmt: skip
REPEATED = {  # kinds of runs of a nested design, by what each is repeated with
    "text": "world", "pairs": "world", "links": "world", "encoder": "pretraining", "transfer": "finetuning",
}  # fmt: skip


# Differences


def shared_seeds(a: Selection, b: Selection) -> list[list[np.ndarray]]:
    """The scores of two systems in the seeds that both have; none where runs are missing."""
    seeds = sorted(set(a.seeds) & set(b.seeds))
    return [] if a.missing or b.missing or not seeds else [list(x.only(seeds).scores) for x in (a, b)]


def effect_row(label: str, effect: Effect) -> dict[str, Any]:
    """A row of a forest: an effect with its interval and seeds."""
    numbers = {name: getattr(effect, name) for name in ("estimate", "low", "high", "p")}
    return {"label": label, **numbers, "seeds": list(effect.per_seed)}


def decided_forest(session: Session, name: str, rows: list[dict], **told: Any) -> Drawn:
    """A forest of one family of differences, with p-values and outcomes after Holm's correction."""
    for row, p in zip(rows, holm([row["p"] for row in rows]), strict=True):
        decided = outcome(row["estimate"], p, len(row["seeds"]), session.params.alpha)
        row |= {"p_holm": float(p), "outcome": decided}
    return drawing.save(session, name, rows, {"count": len(rows), **told})


def pairwise(session: Session, scores: pd.DataFrame) -> Drawn:
    """All pairwise differences of objectives, with the bootstrap, sign flips and stochastic order beside.

    Of its rows, `p_flips` is an exact test over seeds alone; `eps_min` near 0: the better one is so at all
    quantiles of its seeds; 0.5 and above: no order between the two.
    """
    params, rows = session.params, []
    for task in params.tasks:
        for b, a in combinations(params.objectives, 2):
            if both := shared_seeds(*(system(scores, task, o, params.targets) for o in (a, b))):
                rng, count = np.random.default_rng(0), params.bootstrap_samples
                opinions = second_opinions(*both, rng, count, params.alpha)
                second = {"second": opinions["bootstrap"], "p_flips": opinions["p_seeds"]}
                row = effect_row(f"{task}: {a} − {b}", difference(*both, alpha=params.alpha))
                rows.append(row | second | {"eps_min": opinions["eps_min"]})
    return decided_forest(session, "pairwise", rows)


# Where the spread comes from


def spread(session: Session, results: Sequence[Result]) -> Drawn:
    """The standard deviation that each source adds to a score and to the differences from it, in points.

    Over worlds, pre-trainings in each and fine-tunings of each, mean over the target languages; beside them
    the part of the worlds that the sampling of their test examples explains.
    """
    params, rows = session.params, []
    repeated = min(params.seeds, params.pretrainings, params.finetunings) > 1
    for task, name, scores in _trainings(params, results) if repeated else ():
        found = variance_components(scores.mean(-1), params.alpha).reset_index()
        own = scores.mean((1, 2))  # (W, N)
        sampled = float(own.var(-1, ddof=1).mean() / own.shape[-1])
        found.loc[len(found)] = ["test examples", sampled, None, None]
        points = 100 * found[["variance", "low", "high"]].astype(float) ** 0.5
        points = points.set_axis(["mean", "low", "high"], axis=1).assign(panel=task, series=name)
        rows += points.assign(x=found["source"], seeds=[[]] * len(found)).to_dict("records")
    return drawing.save(session, "spread", rows, categories=[*SOURCES, "test examples"])


def equal_cost(session: Session, spread: Drawn, results: Sequence[Result]) -> Drawn:
    """The standard error of each row of a `spread` figure at equal cost, by how the time is divided.

    `results` are all runs of the profile, whose seconds are the costs.
    """
    params, rows = session.params, []
    pretrained = params.seeds * params.pretrainings
    numbers = Costs(params.seeds, pretrained, pretrained * params.finetunings)
    known = [(REPEATED[r.kind], r.seconds) for r in results if r.kind in REPEATED]
    total = pd.DataFrame(known, columns=["part", "seconds"]).groupby("part")["seconds"].sum()
    costs = Costs(**{part: total.get(part, 0.0) / number for part, number in numbers._asdict().items()})
    for (panel, name), own in spread.rows.groupby(["panel", "series"], sort=False) if spread.path else ():
        variances = own["mean"][: len(SOURCES)] ** 2
        if not variances.any():
            continue
        table = relative_error(variances, costs, (1, 2, 3), (1, 2, 3, 5))
        for (pretrainings, finetunings), error in table.stack().items():
            series = drawing.counted(pretrainings, "pre-training") + " a world"
            where = {"panel": f"{panel}: {name}", "series": series, "x": finetunings}
            rows.append(where | {"mean": error, "seeds": []})
    told = {name: drawing.counted(round(value), "second") for name, value in costs._asdict().items()}
    return drawing.save(session, "equal_cost", rows, told, ticks={str(f): f for f in (1, 2, 3, 5)})


def _trainings(params: Params, results: Sequence[Result]) -> Iterator[tuple[str, str, np.ndarray]]:
    """The task, name and scores (W, P, F, N) of standard fine-tuning, and differences of others from it.

    Means over the target languages, whose examples are parallel.
    """
    scores = score_table.table(results, repeats=True)
    scores, settings = scores[scores["kind"] == "transfer"], [Setting(x) for x in params.targets]
    shape = (params.seeds, params.pretrainings, params.finetunings, -1)
    for task, of_task in scores.groupby("task", sort=False):
        systems = {}
        for query in of_task[[*QUERY]].drop_duplicates().to_dict("records"):
            own = paired(of_task, query, settings)
            if own.seeds == tuple(params.every_seed):
                systems[label(query)] = np.mean(own.scores, axis=0).reshape(shape)
        plain = systems.pop(label(DEFAULTS), None)
        if plain is not None:
            yield task, "standard", plain
            yield from ((task, f"{name} − standard", own - plain) for name, own in systems.items())


# Honesty and power


def coverage(session: Session, seeds: Sequence[int] = SEEDS, repeats: int = REPEATS) -> Drawn:
    """How often each kind of interval holds the true difference in simulated studies of this size."""
    params, rows = session.params, []
    for count in seeds:
        shape = _like(params) | {"seeds": count, "repeats": repeats}
        shares = honesty.coverage(np.random.default_rng(count), **shape)
        rows += [_rate("", name, count, shares[kind]) for kind, name in INTERVALS.items()]
    told, promised = {"repeats": repeats, "count": len(params.targets)}, {"": 1 - params.alpha}
    return drawing.save(session, "coverage", rows, told, **_promises(promised, seeds, shares["error"]))


def _like(params: Params) -> dict[str, Any]:
    """What makes simulated studies like that of a profile."""
    shape = {"examples": params.test_examples, "settings": len(params.targets), "alpha": params.alpha}
    return shape | SIMULATED


def error_rates(session: Session, seeds: Sequence[int] = SEEDS, repeats: int = REPEATS) -> Drawn:
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
            shape = {"gains": (0.0, EQUAL), "repeats": repeats, "alpha": alpha, "mu": EQUAL, **world}
            rng = np.random.default_rng([k, count])
            none, some = honesty.error_rates(rng, seeds=count, equivalence_margin=EQUAL, **shape)
            verdicts = none["supported"] + none["contradicted"]
            rates = (none["covered"], verdicts, some["equivalent"], some["supported"])
            rows += [_rate(panel, name, count, y) for panel, y in zip(nominal, rates, strict=True)]
    told = {"repeats": repeats, "worlds": len(honesty.WORLDS)}
    promises = _promises(nominal, seeds, none["error"])
    return drawing.save(session, "honesty", rows, told, repeats=repeats, **promises)


def _rate(panel: str, series: str, seeds: int, y: float) -> dict[str, Any]:
    return {"panel": panel, "series": series, "x": seeds, "mean": y, "seeds": []}


def _promises(nominal: Mapping[str, float | None], seeds: Sequence[int], error: float) -> dict[str, Any]:
    """What panels of rates by number of seeds show beside: nominal rates, and the error of the simulation."""
    known = {panel: rate for panel, rate in nominal.items() if rate is not None}
    return {
        "ticks": {str(s): s for s in seeds},
        "marks": [{"panel": panel, "name": "nominal", "y": rate} for panel, rate in known.items()],
        "bands": {panel: [rate - 2 * error, rate + 2 * error] for panel, rate in known.items()},
    }


def honesty_table(drawn: Drawn) -> pd.DataFrame:
    """An `error_rates` figure by number of seeds, without the world that is not modelled.

    Rates over all worlds, and the worst world with Wilson's 95% interval.
    """
    rows, repeats = drawn.rows[drawn.rows["series"] != NOT_MODELLED], drawn.data["repeats"]
    rates = rows.groupby(["x", "panel"], sort=False)["mean"].agg(["mean", "min", "max"])
    words = [f"{mean:.3f} ({low:.3f} to {high:.3f})" for mean, low, high in rates.to_numpy()]
    told = rates.assign(words=words)["words"].unstack()[rows["panel"].unique()]
    worst = rates["max"].xs("verdicts without any difference", level="panel")
    ends = [stats.binomtest(round(y * repeats), repeats).proportion_ci(method="wilson") for y in worst]
    told["worst world"] = [f"{y:.3f} [{a:.3f}, {b:.3f}]" for y, (a, b) in zip(worst, ends, strict=True)]
    return told.rename_axis("seeds")


def error_table(
    params: Params, gains: Sequence[float] = (0.0, 0.01, 0.02, 0.05), repeats: int = REPEATS
) -> pd.DataFrame:
    """How often each verdict falls in simulated studies of this size, by the true difference."""
    shape = _like(params) | {"seeds": max(params.seeds, 2), "repeats": repeats}
    rows = honesty.error_rates(np.random.default_rng(0), gains, equivalence_margin=EQUAL, **shape)
    table = pd.DataFrame(rows).set_index("gain").rename_axis("true difference")
    return table[["seeds", "supported", "contradicted", "equivalent"]]


def smallest_effects(session: Session, scores: pd.DataFrame, a: str, b: str) -> Drawn:
    """The gain of `a` over `b` seen with power 0.8, by number of seeds, from the measured spread."""
    params, seeds, rows = session.params, range(2, 13), []
    for task in params.tasks:
        if both := shared_seeds(*(system(scores, task, o, params.targets) for o in (a, b))):
            effect = difference(*both, alpha=params.alpha)
            for count in seeds:
                sizes = (count, effect.examples, params.alpha)
                rows.append(_rate("", task, count, honesty.smallest_detectable(effect.components, *sizes)))
    few = " One seed shows no spread of seeds: these are too hopeful." if params.seeds == 1 else ""
    return drawing.save(
        session, "smallest_effect", rows, {"a": a, "b": b, "few": few},
        ticks={str(s): s for s in seeds}, marks=[{"panel": "", "name": "two points", "y": EQUAL}],
    )  # fmt: skip
