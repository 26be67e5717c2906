"""What an objective of pre-training is: its entry in the registry, and the options that it has.

Nothing here needs torch: which runs a study has is known without training. The losses are in `objectives`.
"""

from dataclasses import dataclass
from typing import Literal

from xltlib import StudyError
from xltlib.params import Settings, changed, matching, par, parse_options

# published models without a head for masked words: pre-training on documents trains theirs, and nothing else
HEADLESS = ("multilingual-e5-small", "intfloat/multilingual-e5-small")
LINK_KINDS = r"estimated|grown|subword|gold|random|corrupt(0(\.\d+)?|1(\.0*)?)"

SHAPE = ("hidden_size", "num_layers", "num_heads")
_COMMON = (*SHAPE, "mask_rate", "corruption", "predicted", "epochs", "joint", "pairs")
_PAIRED = (*_COMMON, "order", "positions", "language_embeddings")
_EXCHANGED = (*_PAIRED, "lambda_", "one_to_many", "punctuation", "both_masked", "unaligned", "head")
_PULLED = (*_COMMON, "one_to_many", "beta", "boundaries")


@dataclass(frozen=True)
class Objective:
    """An objective of pre-training.

    `loss` is the function of tensors that it stands for, as "module:function". It `reads` two sentences of one
    language ("sentences"), a sentence and its translation in one sequence ("pairs"), or both apart ("sides").
    A result is reused only where the `version` is the same: raise it when the objective's numbers change.
    """

    loss: str
    reads: str
    options: tuple[str, ...]
    linked: bool = False  # trained on word links of the pairs
    version: int | str = 1
    source: str = ""  # the function itself, where it is none of the study's


_MLM, _WEAM, _PULL = (f"xltlib.pretraining.objectives:{name}_loss" for name in ("mlm", "weam", "pulling"))
OBJECTIVES = {
    "none": Objective(_MLM, "documents", SHAPE),  # the base that all others go on from
    "mlm": Objective(_MLM, "sentences", _COMMON),
    "tlm": Objective(_MLM, "pairs", _PAIRED),
    "weam": Objective(_WEAM, "pairs", (*_EXCHANGED, "links", "expand"), linked=True),
    "word_aligned": Objective(_PULL, "sides", (*_PULLED, "links", "expand"), linked=True),
    # the very same sentences as for mlm, code-switched
    "mixed": Objective(_MLM, "sentences", (*_COMMON, "rate", "lexicon")),
    "subword_weam": Objective(_WEAM, "pairs", _EXCHANGED, linked=True),
    "subword_aligned": Objective(_PULL, "sides", _PULLED, linked=True),
}


# fmt: off
class Options(Settings):
    """What may differ between two encoders of one objective; a run's label names what is not the default."""

    mask_rate: float = par(0.0, "share of the subwords masked; 0: the profile's", low=0.0, high=0.9)
    corruption: Literal["standard", "mask"] = par("standard", "masked subwords are 80 % [MASK], 10 % random, 10 % as they are (standard), or all [MASK] (mask)")
    predicted: Literal["any", "equal"] = par("any", "equal: as many predicted subwords as at the profile's mask rate, by more or fewer updates")
    epochs: float = par(1.0, "updates, in units of the profile's continue_steps", low=0.01, high=100.0)
    joint: bool = par(True, "one encoder for all target languages; false: one each, with equal updates for a language")
    pairs: float = par(1.0, "share of its translation pairs that the language with little text has, or each real target language; links and lexicons are estimated on these alone", low=0.001, high=1.0)
    order: Literal["random", "source_first"] = par("random", "sides of a pair: either first (random), or the source first")
    positions: Literal["continue", "reset"] = par("continue", "reset: positions restart in the second sentence of a pair (XLM)")
    language_embeddings: bool = par(False, "add a vector for its language to each subword's in pairs (XLM); it starts at 0 and is dropped after pre-training: documents and tasks do without, from the first update on")
    links: matching(LINK_KINDS) = par("estimated", "estimated (both directions intersected), grown (grow-diag-final-and), gold, random, or corrupt0.5 (gold, with any share corrupted)")
    one_to_many: Literal["first", "nearest", "none"] = par("first", "of several links of a word: the first, the one nearest the diagonal, or none is used")
    expand: Literal["nth", "first", "last", "mean"] = par("nth", "subwords of linked words: n-th with n-th, first with first, last with last; mean (word_aligned): the means of both")
    punctuation: bool = par(True, "exchange punctuation marks too")
    both_masked: bool = par(True, "exchange pairs of words that are both masked too: their vectors have seen neither word")
    lambda_: float = par(1.0, "weight of WEAM's cross-lingual prediction", low=0.0, high=100.0)
    unaligned: Literal["keep", "drop"] = par("keep", "masked subwords without a partner: predicted from their own vector after the exchange too, or left out there")
    head: Literal["shared", "own"] = par("shared", "own: predictions after the exchange have a second head, a copy of the first; it is dropped after pre-training")
    beta: float = par(1.0, "weight of the distance to the frozen start on the source language (word_aligned)", low=0.0, high=1000.0)
    boundaries: bool = par(False, "pull the two sides' [CLS] and [SEP] together too (word_aligned)")
    rate: float = par(0.4, "share of the words translated in code-switched text; 0.4 is CoSDA-ML's for classification (MLDoc)", low=0.0, high=1.0)
    lexicon: Literal["gold", "estimated"] = par("gold", "translations of code-switched words: of the languages' own stems (gold), or by links of the pairs (estimated)")
    hidden_size: int = par(0, "width of the encoder's vectors; 0: the profile's", low=0, high=8192)
    num_layers: int = par(0, "layers of the encoder; 0: the profile's", low=0, high=96)
    num_heads: int = par(0, "attention heads; 0: the profile's", low=0, high=128)
# fmt: on


def options(objective: str, text: str = "") -> Options:
    """The options of an objective, written "mask_rate=0.15,links=gold"; StudyError for one that it lacks."""
    chosen = parse_options(Options, text, f"objective {objective}")
    foreign = set(changed(chosen)) - set(OBJECTIVES[objective].options)
    if foreign:
        raise StudyError(f"objective {objective} has no option {', '.join(sorted(foreign))}, found {text!r}")
    if chosen.links == "subword":
        other = "subword_weam and subword_aligned"
        raise StudyError(f"objective {objective}: links=subword is what {other} stand for: take these")
    if chosen.expand == "mean" and objective != "word_aligned":
        raise StudyError(f"objective {objective}: expand=mean: only nth, first and last can be exchanged")
    return chosen.replace(links="subword") if objective.startswith("subword_") else chosen


def needs_links(objective: str, chosen: Options) -> bool:
    """Whether the objective is trained on links of the pairs (their kind: `chosen.links`)."""
    return OBJECTIVES[objective].linked or (objective == "mixed" and chosen.lexicon == "estimated")


class SpanOptions(Settings):
    """What may differ between two span corruptions; a run's label names what is not the default."""

    noise: Literal["none", "typo", "token"] = par(
        "none", "what the encoder's input suffers: typing errors in words, or subwords replaced by others"
    )
    rate: float = par(0.1, "share of the words (typo) or subwords (token) that it hits", low=0.0, high=1.0)
    mask_rate: float = par(0.15, "share of the subwords masked, as mT5", low=0.01, high=0.9)
    mean_span: float = par(3.0, "mean length of a masked span, as mT5", unit="subwords", low=1.0, high=100.0)


def span_options(text: str = "") -> SpanOptions:
    """The options of span corruption, written "noise=typo,rate=0.2"; StudyError for one that it lacks."""
    return parse_options(SpanOptions, text, "objective span_corruption")
