"""Which runs a study consists of: their specs, what they build on, and which notebook needs them."""

from collections.abc import Collection, Iterable
from functools import cached_property

from xltlib import finetuning, pretraining
from xltlib.params import Params, StudyError
from xltlib.results import Spec

# a result is reused only where the version of what made it is the same: raise one when its numbers change
VERSIONS = {"text": 1, "pairs": 1, "links": 1, "probe": 1, "tasks": 1}
OPTIONS = ("mask_rate", "lambda", "links")  # of an objective, for sweeps
STAGES = (
    "01_alignment",
    "02_pretraining",
    "03_finetuning",
    "04_noise_ablations",
    "05_significance",
    "06_claims",
)


class Runs:
    """The specs of a study's runs, by what they are; the parameters say how many and how large."""

    def __init__(self, params: Params) -> None:
        self.params = params

    @property
    def targets(self) -> tuple[str, ...]:
        return tuple(name for name in self.params.languages if name != self.params.source)

    @cached_property
    def text(self) -> Spec:
        """Documents of every language and the joint tokenizer."""
        return Spec(
            "text", self._take("world_seed", "languages", "documents", "vocab_size"), VERSIONS["text"]
        )

    @cached_property
    def pairs(self) -> Spec:
        """Translation pairs of the source with every target language, as subwords, with gold word links."""
        return Spec("pairs", self._take("source", "parallel_pairs"), VERSIONS["pairs"], (self.text,))

    def links(self, kind: str = "estimated") -> Spec:
        """Word links of the pairs: estimated by the aligner, gold, random, or gold with a share corrupted."""
        return Spec("links", {"links": kind}, VERSIONS["links"], (self.pairs,))

    def base(self, seed: int) -> Spec:
        """An encoder pre-trained by MLM on documents of all languages."""
        shape = self._take("hidden_size", "num_layers", "num_heads")
        taken = shape | self._take("pretrain_steps", "batch_size", "mask_rate", "pretrain_lr")
        return Spec(
            "encoder", taken | {"objective": "base", "seed": seed}, pretraining.VERSIONS["base"], (self.text,)
        )

    def encoder(self, objective: str, seed: int, options: str = "") -> Spec:
        """The base encoder after the updates of an objective ("none": the base itself)."""
        _check("objective", objective, pretraining.OBJECTIVES)
        if objective == "none":
            if options:
                raise StudyError(f"objective 'none' has no options, found {options!r}")
            return self.base(seed)
        taken = self._take("continue_steps", "batch_size", "mask_rate", "continue_lr", "document_share")
        chosen = _options(options)
        taken |= {"objective": objective, "seed": seed}
        taken |= {key: float(chosen[key]) for key in ("mask_rate", "lambda") if key in chosen}
        inputs = (self.base(seed), self.pairs, self.text)
        if objective in pretraining.LINKED:
            inputs += (self.links(chosen.get("links", "estimated")),)
        return Spec("encoder", taken, pretraining.VERSIONS[objective], inputs)

    def transfer(
        self, task: str, objective: str, seed: int, method: str = "standard",
        objective_options: str = "", method_options: str = "",
    ) -> Spec:  # fmt: skip
        """One encoder fine-tuned on one task by one method, then predicting in every language."""
        _check("method", method, finetuning.METHODS)
        taken = self._take(
            "source", "languages", "train_examples", "test_examples", "batch_size", "finetune_lr",
            "finetune_epochs", "freeze_embeddings", "pooling",
        )  # fmt: skip
        labels = {
            "objective": objective, "objective_options": objective_options,
            "method": method, "method_options": method_options, "task": task, "seed": seed,
        }  # fmt: skip
        encoder = self.encoder(objective, seed, objective_options)
        version = f"{VERSIONS['tasks']}.{finetuning.VERSIONS[method]}"
        return Spec("transfer", taken | {"labels": labels}, version, (encoder, self.text))

    def probe(self, objective: str, seed: int) -> Spec:
        """Sentence and word retrieval and word alignment by layer, of an encoder before any fine-tuning."""
        labels = {
            "objective": objective, "objective_options": "", "method": "standard", "method_options": "",
            "task": "retrieval", "seed": seed,
        }  # fmt: skip
        taken = self._take("source", "languages") | {"sentences": 500, "labels": labels}
        return Spec("probe", taken, VERSIONS["probe"], (self.encoder(objective, seed), self.text))

    def stage(self, name: str) -> list[Spec]:
        """The runs whose results a notebook shows; what they build on is found from them."""
        params, seeds = self.params, range(self.params.seeds)
        if name == "01_alignment":
            return [self.links()]
        if name == "02_pretraining":
            encoders = [self.encoder(o, s) for s in seeds for o in params.objectives]
            probes = [self.probe(o, s) for s in seeds for o in params.objectives]
            return [self.links(), *encoders, *probes]  # the aligner's links are what probes are compared with
        if name == "03_finetuning":
            grid = [(t, o, s, "standard") for s in seeds for o in params.objectives for t in params.tasks]
            for method in params.methods:
                if method != "standard":
                    grid += [
                        (t, o, s, method)
                        for s in seeds
                        for o in params.method_objectives
                        for t in params.tasks
                    ]
            return [self.transfer(task, objective, seed, method) for task, objective, seed, method in grid]
        if name in ("05_significance", "06_claims"):
            return [*self.stage("02_pretraining"), *self.stage("03_finetuning")]
        return []

    def _take(self, *names: str) -> dict:
        return {name: getattr(self.params, name) for name in names}


def _options(text: str) -> dict[str, str]:
    """The options of an objective, written "mask_rate=0.15,links=gold", by name."""
    chosen = {}
    for option in filter(None, text.split(",")):
        name, _, value = option.partition("=")
        _check("option of an objective", name, OPTIONS)
        chosen[name] = value
    return chosen


def _check(what: str, name: str, known: Collection[str]) -> None:
    if name not in known:
        raise StudyError(f"{what} {name!r} is not known; known: {', '.join(known)}")


def closure(specs: Iterable[Spec]) -> list[Spec]:
    """The specs and all that they build on, each once, inputs before what builds on them."""
    found: dict[str, Spec] = {}

    def add(spec: Spec) -> None:
        if spec.digest not in found:
            for other in spec.inputs:
                add(other)
            found[spec.digest] = spec

    for spec in specs:
        add(spec)
    return list(found.values())
