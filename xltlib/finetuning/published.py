"""Zero-shot scores of mBERT as they were published: what an encoder trained from scratch is far from."""

from dataclasses import dataclass, field
from typing import Any

PERCENT, LINE = 100, "-."


@dataclass(frozen=True)
class Anchor:
    """Published scores of a model on a test set, in per cent: by language, or their mean."""

    name: str  # with the place where they stand
    scores: dict[str, float] = field(default_factory=dict)
    mean: float | None = None


# All models were fine-tuned on the full English training set; MLQA's scores are of its test part.
MBERT = {
    "xnli": Anchor(
        "mBERT, zero-shot (multilingual.md of google-research/bert)",
        {"en": 81.4, "zh": 63.8, "es": 74.3, "de": 70.5, "ar": 62.1, "ur": 58.3},
    ),
    "pawsx": Anchor("mBERT, mean of 7 languages (README of multilingual-t5)", mean=81.9),
    "xquad": Anchor(
        "mBERT, zero-shot (README of XQuAD)",
        {"en": 83.5, "ar": 61.5, "de": 70.6, "el": 62.6, "es": 75.5, "hi": 59.2}
        | {"ru": 71.3, "th": 42.7, "tr": 55.4, "vi": 69.5, "zh": 58.0},
    ),
    "mlqa": Anchor(
        "mBERT, zero-shot, test part (README of MLQA)",
        {"en": 77.7, "es": 64.3, "de": 57.9, "zh": 57.5, "ar": 45.7, "hi": 43.8, "vi": 57.1},
    ),
}


def beside(test_set: str, languages: tuple[str, ...]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Levels and marks of a figure's panel: what was published on a test set, none where nothing was."""
    if test_set not in MBERT:
        return [], []
    anchor = MBERT[test_set]
    levels = (
        []
        if anchor.mean is None
        else [{"name": anchor.name, "y": round(anchor.mean / PERCENT, 4), "line": LINE}]
    )
    values = [anchor.scores.get(x) for x in languages]
    shares = [None if value is None else round(value / PERCENT, 4) for value in values]
    return levels, [{"name": anchor.name, "values": shares, "line": LINE}] if any(shares) else []
