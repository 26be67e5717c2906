"""Where the spread of an effect comes from: worlds, pre-trainings or fine-tunings, by a nested design."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from xltlib import StudyError

SOURCES = ("world", "pre-training", "fine-tuning")
DRAWS = 20_000  # of the mean squares behind an interval


class Costs(NamedTuple):
    """Seconds of a world (text, pairs, links), of a pre-training in it, and of a fine-tuning from that."""

    world: float
    pretraining: float
    finetuning: float


def variance_components(values: np.ndarray, alpha: float) -> pd.DataFrame:
    """The variances of y = mu + W + P(W) + F(P) that its sources add, with 1 - `alpha` intervals.

    values : (W, P, F), for each of W worlds P pre-trainings with F fine-tunings each; two of each or more

    Rows are SOURCES, columns `variance`, `low` and `high`. The estimates equate the mean squares of a nested
    analysis of variance with what is expected of them (fine-tunings: f; pre-trainings: f + F p; worlds:
    f + F p + F P w), none below 0. The intervals are generalised ones (Weerahandi 1993): the estimates again,
    from sums of squares divided by draws of their chi-squared distributions. StudyError where one of the
    sizes is below two.
    """
    if values.ndim != 3 or min(values.shape) < 2:
        raise StudyError(f"variance components need two of each source or more, found {values.shape}")
    worlds, pretrainings, finetunings = values.shape
    by_pretraining, by_world = values.mean(2), values.mean((1, 2))
    squares = np.array([
        pretrainings * finetunings * ((by_world - values.mean()) ** 2).sum(),
        finetunings * ((by_pretraining - by_world[:, None]) ** 2).sum(),
        ((values - by_pretraining[..., None]) ** 2).sum(),
    ])  # fmt: skip
    free = np.array([worlds - 1, worlds * (pretrainings - 1), worlds * pretrainings * (finetunings - 1)])

    def components(mean_squares: np.ndarray) -> np.ndarray:
        added = -np.diff(mean_squares, append=0)  # each beyond the one below it
        return np.maximum(added / [pretrainings * finetunings, finetunings, 1], 0)

    drawn = components(squares / np.random.default_rng(0).chisquare(free, (DRAWS, 3)))
    low, high = np.quantile(drawn, [alpha / 2, 1 - alpha / 2], axis=0)
    told = {"variance": components(squares / free), "low": low, "high": high}
    return pd.DataFrame(told, index=pd.Index(SOURCES, name="source"))


def relative_error(
    variances: Sequence[float], costs: Costs, pretrainings: Sequence[int], finetunings: Sequence[int]
) -> pd.DataFrame:
    """The standard error of a mean effect at equal cost, by pre-trainings a world and fine-tunings of each.

    variances : of SOURCES. 1 stands for one of each in as many worlds as the time allows; below 1: another
    division of the same time tells more.
    """
    world, pretraining, finetuning = variances

    def squared(p: int, f: int) -> float:
        """Variance of a world's mean, times its seconds."""
        seconds = costs.world + p * (costs.pretraining + f * costs.finetuning)
        return (world + pretraining / p + finetuning / (p * f)) * seconds

    told = [[np.sqrt(squared(p, f) / squared(1, 1)) for f in finetunings] for p in pretrainings]
    index = pd.Index(pretrainings, name="pre-trainings a world")
    return pd.DataFrame(told, index, pd.Index(finetunings, name="fine-tunings of each"))
