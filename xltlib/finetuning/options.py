"""What a method of fine-tuning is: its entry in the registry, and the options that it has.

Nothing here needs torch: which runs a study has is known without training.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from xltlib import StudyError
from xltlib.params import Settings, par, parse_options
from xltlib.pretraining.options import Entry

# Of 79 common Spanish, French and German words tried, 22 stand in the lists released with Robust-XLT (arXiv
# 2104.08645): they code-switch by accident.
FOREIGN = 0.28
TYPO_RATES = (0.1, 0.2, 0.3)  # shares of words with a typing error, at which fine-tuned models are scored


@dataclass(frozen=True)
class Method(Entry):
    """A method of fine-tuning: the function that makes it differ from the standard one.

    changes : the "loss" of a batch, then it is called as `methods.standard_loss` is; the "examples", as
        `methods.rs_da`; or the "encoder", before it is fine-tuned
    options : the names of those of `Options` that its runs may have
    file : the parameter that names what it needs a file for on real languages
    version : a result is reused only where it is the same: raise it when the method's numbers change
    """

    changes: Literal["loss", "examples", "encoder"] = "loss"
    options: tuple[str, ...] = ()
    file: str = ""
    version: int | str = 1


_METHODS = "xltlib.finetuning.methods"
METHODS = {
    "standard": Method(f"{_METHODS}:standard_loss"),
    "translate_train": Method(f"{_METHODS}:translate_train", "examples", ("translations",)),
    "adversarial": Method(f"{_METHODS}:adversarial_loss"),
    "rs_rp": Method(f"{_METHODS}:random_loss"),
    "rs_da": Method(f"{_METHODS}:rs_da", "examples", ("updates", "neighbours", "foreign"), "neighbour_lists"),
    "salt": Method(
        "xltlib.finetuning.salt:mixup_loss", "loss", ("threshold", "synonyms", "restrict", "mix", "draw")
    ),
    "code_switch": Method(f"{_METHODS}:code_switched", "examples", file="dictionaries"),
    "intermediate": Method("xltlib.finetuning.transfer:intermediate_task", "encoder", ("n", "sampling")),
}


# fmt: off
class Options(Settings):
    """What may differ between two runs of one method; a run's label names what is not the default."""

    updates: Literal["released", "equal"] = par("released", "released: passes over all copies, so copies times the updates of standard; equal: as many as standard")
    neighbours: Literal["all", "no_foreign"] = par("all", "no_foreign: lists without the foreign words that got into them by accident")
    foreign: float = par(FOREIGN, "share of concepts of which a foreign word stands in the lists: 22 of 79 words tried in the released ones; synthetic languages only", low=0.0, high=1.0)
    threshold: float = par(0.5, "probability that a word of the target language must pass to be a substitution: more than all others together (source accuracy on development examples of nli at 0.3, 0.5, 0.7, 0.9: .89 .96 .94 .97)", low=0.0, high=1.0)
    synonyms: bool = par(True, "synonyms in the source language are substitutions too")
    restrict: bool = par(True, "only words of the target language's text; false: words of any language")
    mix: Literal["vector", "scalar", "half", "hard", "none"] = par("vector", "r of the mixture: a random vector, a random number, 0.5, 0 or 1 by word; none: substitutions as they are")
    draw: Literal["step", "once"] = par("step", "r drawn anew in each step, or once for each example")
    translations: Literal["perfect", "noisy"] = par("perfect", "noisy: a quarter of the words are another word of their kind, as by a translator of that error rate; synthetic languages only")
    n: int = par(1000, "intermediate examples for each language, in balanced sampling", low=1, high=10_000_000)
    sampling: Literal["balanced", "random"] = par("balanced", "random: as many in all, drawn from languages in proportion to their text")
# fmt: on


def options(method: str, text: str = "") -> Options:
    """The options of a method, written "threshold=0.7,synonyms=false".

    StudyError for a method that is not there, and for an option that it lacks.
    """
    if method not in METHODS:
        raise StudyError(f"method {method!r} is not known; known: {', '.join(METHODS)}")
    return parse_options(Options, text, f"method {method}", METHODS[method].options)


def check_real(task: str, method: str, method_options: str, given: Mapping[str, Any]) -> None:
    """StudyError for what only synthetic languages have, unless the parameters `given` name a file of it."""
    asked = options(method, method_options)
    for name, plain in (("translations", "perfect"), ("foreign", FOREIGN)):
        if getattr(asked, name) != plain:
            raise StudyError(f"{method} with {name}={getattr(asked, name)} is for synthetic languages alone")
    what, file = (task, "dictionaries") if task == "lexicon" else (method, METHODS[method].file)
    if file and not given.get(file):
        raise StudyError(f"{what} on real languages needs a file: name it by the parameter {file}")


def first_task(task: str) -> str:
    """The intermediate task before a task: paraphrase, which has most to do with the others, or nli before it."""
    return "nli" if task == "paraphrase" else "paraphrase"
