"""What a method of fine-tuning is: its entry in the registry, and the options that it has.

Nothing here needs torch: which runs a study has is known without training.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from xltlib import StudyError
from xltlib.params import Settings, changed, par, parse_options

# Of 79 common Spanish, French and German words tried, 22 stand in the lists released with Robust-XLT (arXiv
# 2104.08645): they code-switch by accident.
FOREIGN = 0.28
MIXES = ("vector", "scalar", "half", "hard", "none")
TYPO_RATES = (0.1, 0.2, 0.3)  # shares of words with a typing error, at which fine-tuned models are scored
COMMON = ("select",)  # options of every method


@dataclass(frozen=True)
class Method:
    """A method of fine-tuning.

    `code` is the function that makes it differ from the standard one, as "module:function"; `file`: the
    parameter that names what it needs a file for on real languages. A result is reused only where the
    `version` is the same: raise it when the method's numbers change.
    """

    code: str
    options: tuple[str, ...] = ()
    file: str = ""
    version: int | str = 1
    source: str = ""  # the function itself, where it is none of the study's


_ROBUST = "xltlib.finetuning.robust"
METHODS = {
    "standard": Method("xltlib.finetuning.methods:standard_loss"),
    "translate_train": Method("xltlib.finetuning.methods:translated", ("translations",)),
    "adversarial": Method(
        f"{_ROBUST}:adversarial_loss", ("norm", "epsilon", "steps", "step_size", "clean_weight")
    ),
    "rs_rp": Method(f"{_ROBUST}:randomly_moved", ("size", "distribution", "vote")),
    "rs_da": Method(
        f"{_ROBUST}:rs_da_examples", ("copies", "updates", "neighbours", "foreign", "vote"), "neighbour_lists"
    ),
    "salt": Method(
        "xltlib.finetuning.salt:augment",
        ("threshold", "synonym_threshold", "synonyms", "restrict", "hide", "rate", "mix", "draw"),
    ),
    "code_switch": Method(f"{_ROBUST}:switched_examples", ("ratio", "cross"), "dictionaries"),
    "intermediate": Method("xltlib.finetuning.task_builders:intermediate_task", ("first", "n", "sampling")),
}


# fmt: off
class Options(Settings):
    """What may differ between two runs of one method; a run's label names what is not the default."""

    select: Literal["last", "source", "oracle"] = par("last", "weights that are scored: the last ones, the best of four points on development examples of the source, or (an oracle) on those of each language")
    norm: Literal["l2", "linf"] = par("l2", "ball of a token's perturbation; linf: the cube within it")
    epsilon: float = par(0.01, "radius of the ball, relative to the mean length of the embeddings; the largest of 0.003, 0.01, 0.02, 0.05 that cost no point of source accuracy on development examples of nli (0.02: 26)", low=0.0, high=10.0)
    steps: int = par(2, "projected gradient steps; an update costs at most 1 + steps", low=1, high=100)
    step_size: float = par(0.75, "length of such a step, relative to the radius: two of them reach the border", low=0.0, high=10.0)
    clean_weight: float = par(0.5, "weight of the loss without perturbation; on the other alone, training collapses", low=0.0, high=1.0)
    size: float = par(0.3, "root mean square length of the random perturbation, relative to the mean length of the embeddings; the largest of 0.1, 0.3, 1 that cost no point of source accuracy on development examples of nli (1: 44)", low=0.0, high=10.0)
    distribution: Literal["normal", "uniform"] = par("normal", "of the numbers of a random perturbation")
    vote: int = par(0, "perturbed copies that a label is voted on at prediction; 0, as released: none", low=0, high=1000)
    copies: int = par(0, "perturbed copies of the training examples; 0, as released: 10 for paraphrase, 3 for others", low=0, high=1000)
    updates: Literal["released", "equal"] = par("released", "released: passes over all copies, so copies times the updates of standard; equal: as many as standard")
    neighbours: Literal["all", "no_foreign"] = par("all", "no_foreign: lists without the foreign words that got into them by accident")
    foreign: float = par(FOREIGN, "share of concepts of which a foreign word stands in the lists: 22 of 79 words tried in the released ones", low=0.0, high=1.0)
    threshold: float = par(0.5, "probability that a word of the target language must pass to be a substitution: more than all others together (source accuracy on development examples of nli at 0.3, 0.5, 0.7, 0.9: .89 .96 .94 .97)", low=0.0, high=1.0)
    synonym_threshold: float = par(0.7, "the same for synonyms in the source language", low=0.0, high=1.0)
    synonyms: bool = par(True, "synonyms in the source language are substitutions too")
    restrict: bool = par(True, "only words of the target language's text; false: words of any language")
    hide: bool = par(False, "mask the words to be replaced, all at once; by default the encoder sees them")
    rate: float = par(0.5, "share of the words for which substitutions are looked for", low=0.0, high=1.0)
    mix: Literal[MIXES] = par("vector", "r of the mixture: a random vector, a random number, 0.5, 0 or 1 by word; none: substitutions as they are")
    draw: Literal["step", "once"] = par("step", "r drawn anew in each step, or once for each example")
    ratio: float = par(1.0, "share of the sentences that are code-switched (CoSDA-ML: 1)", low=0.0, high=1.0)
    cross: float = par(0.4, "share of their words (CoSDA-ML: 0.4 to 0.9)", low=0.0, high=1.0)
    translations: Literal["perfect", "noisy"] = par("perfect", "noisy: a quarter of the words are another word of their kind, as by a translator of that error rate; synthetic languages only")
    first: Literal["auto", "nli", "paraphrase", "qa"] = par("auto", "intermediate task; auto: paraphrase, and before paraphrase nli")
    n: int = par(1000, "intermediate examples for each language, in balanced sampling", low=1, high=10_000_000)
    sampling: Literal["balanced", "random"] = par("balanced", "random: as many in all, drawn from languages in proportion to their text")
# fmt: on


def options(method: str, text: str = "") -> Options:
    """The options of a method, written "threshold=0.7,synonyms=false"; StudyError for one that it lacks."""
    chosen = parse_options(Options, text, f"method {method}")
    foreign = sorted(set(changed(chosen)) - {*COMMON, *METHODS[method].options})
    if foreign:
        raise StudyError(f"method {method} has no option {', '.join(foreign)}, found {text!r}")
    return chosen


def check_real(task: str, method: str, given: Mapping[str, Any]) -> None:
    """StudyError where the parameters that are `given` name no file of what only synthetic languages have."""
    what, file = (task, "dictionaries") if task == "lexicon" else (method, METHODS[method].file)
    if file and not given.get(file):
        raise StudyError(f"{what} on real languages needs a file: name it by the parameter {file}")


def first_task(chosen: Options, task: str) -> str:
    """The intermediate task before a task."""
    return ("nli" if task == "paraphrase" else "paraphrase") if chosen.first == "auto" else chosen.first
