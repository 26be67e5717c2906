"""What an objective of pre-training is: its entry in the registry, and the options that it has.

Nothing here needs torch: which runs a study has is known without training. The losses are in `objectives`.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from importlib import import_module
from typing import Literal

from xltlib import StudyError
from xltlib.params import LinkKind, Settings, par, parse_options

SHAPE = ("hidden_size", "num_layers", "num_heads")
_COMMON = (*SHAPE, "mask_rate", "predicted", "epochs", "joint", "pairs")


@dataclass(frozen=True)
class Entry:
    """An entry of a registry: one function, or where it stands ("module:function")."""

    function: str | Callable

    @property
    def source(self) -> str:
        """The text of a function that is none of the study's, and how it is called: its runs are of both."""
        if isinstance(self.function, str):
            return ""
        called = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "function"}
        try:
            return f"{called}\n{inspect.getsource(self.function)}"
        except (OSError, TypeError):
            expected = "a function that is written in a cell or a module"
            raise StudyError(f"{self.function!r}: its text cannot be read: expected {expected}") from None

    def load(self) -> Callable:
        """The function itself."""
        if not isinstance(self.function, str):
            return self.function
        module, _, name = self.function.partition(":")
        return getattr(import_module(module), name)


@dataclass(frozen=True)
class Objective(Entry):
    """An objective of pre-training: a function of tensors that gives the parts of a loss by name.

    reads : two sentences of one language in one sequence ("sentences"), or a sentence and its translation
        ("pairs"): then it is called as `objectives.mlm_loss` is; or both apart ("sides"): as `pulling_loss` is
    options : the names of those of `Options` that its runs may have
    linked : whether it is trained on word links of the pairs
    version : a result is reused only where it is the same: raise it when the objective's numbers change
    """

    reads: str
    options: tuple[str, ...] = _COMMON
    linked: bool = False
    version: int | str = 1


_MLM, _WEAM, _PULL = (f"xltlib.pretraining.objectives:{name}_loss" for name in ("mlm", "weam", "pulling"))
OBJECTIVES = {
    "none": Objective(_MLM, "documents", SHAPE),  # the base that all others go on from
    "mlm": Objective(_MLM, "sentences"),
    "tlm": Objective(_MLM, "pairs"),
    "weam": Objective(_WEAM, "pairs", (*_COMMON, "lambda_", "links"), linked=True),
    "word_aligned": Objective(_PULL, "sides", (*_COMMON, "links"), linked=True),
    "mixed": Objective(_MLM, "sentences", (*_COMMON, "lexicon")),  # the sentences of mlm, code-switched
    "subword_weam": Objective(_WEAM, "pairs", (*_COMMON, "lambda_"), linked=True),
    "subword_aligned": Objective(_PULL, "sides", linked=True),
}


# fmt: off
class Options(Settings):
    """What may differ between two encoders of one objective; a run's label names what is not the default."""

    mask_rate: float = par(0.0, "share of the subwords masked; 0: the profile's", low=0.0, high=0.9)
    predicted: Literal["any", "equal"] = par("any", "equal: as many predicted subwords as at the profile's mask rate, by more or fewer updates")
    epochs: float = par(1.0, "updates, in units of the profile's continue_steps", low=0.01, high=100.0)
    joint: bool = par(True, "one encoder for all target languages; false: one each, with equal updates for a language")
    pairs: float = par(1.0, "share of its translation pairs that the language with little text has, or each real target language; links and lexicons are estimated on these alone", low=0.001, high=1.0)
    links: LinkKind = par("estimated", "estimated (both directions intersected), eflomal (the same by that program), gold, random, or corrupt0.5 (gold, with any share corrupted)")
    lambda_: float = par(1.0, "weight of WEAM's cross-lingual prediction", low=0.0, high=100.0)
    lexicon: Literal["gold", "estimated"] = par("gold", "translations of code-switched words: of the languages' own stems (gold), or by links of the pairs (estimated)")
    hidden_size: int = par(0, "width of the encoder's vectors; 0: the profile's", low=0, high=8192)
    num_layers: int = par(0, "layers of the encoder; 0: the profile's", low=0, high=96)
    num_heads: int = par(0, "attention heads; 0: the profile's", low=0, high=128)
# fmt: on


def options(objective: str, text: str = "") -> Options:
    """The options of an objective, written "mask_rate=0.15,links=gold".

    StudyError for an objective that is not there, and for an option that it lacks.
    """
    if objective not in OBJECTIVES:
        raise StudyError(f"objective {objective!r} is not known; known: {', '.join(OBJECTIVES)}")
    return parse_options(Options, text, f"objective {objective}", OBJECTIVES[objective].options)


def link_kind(objective: str, options: Options) -> str:
    """The kind of the links that an objective is trained on, as `Runs.links` takes it; "" for none."""
    if objective.startswith("subword_"):
        return "subword"
    needed = OBJECTIVES[objective].linked or (objective == "mixed" and options.lexicon == "estimated")
    return options.links if needed else ""


class SpanOptions(Settings):
    """What may differ between two span corruptions; a run's label names what is not the default."""

    noise: Literal["none", "typo", "token"] = par(
        "none", "what the encoder's input suffers: typing errors in words, or subwords replaced by others"
    )


def span_options(text: str = "") -> SpanOptions:
    """The options of span corruption, written "noise=typo"; StudyError for one that it lacks."""
    return parse_options(SpanOptions, text, "objective span_corruption", tuple(SpanOptions.model_fields))
