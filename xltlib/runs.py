"""The catalogue of runs: for each kind what it is made of, what builds it, and where its results are read.

A kind of run is one entry: its spec is made by the method of `Runs` that has its name, and the decorator
`kind` above that method says the rest. Nothing here needs what trains.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from xltlib import StudyError
from xltlib.data import hub, synthetic
from xltlib.finetuning import options as finetuning
from xltlib.params import Params, changed, in_order
from xltlib.pretraining import options as pretraining
from xltlib.store import Spec

STAGES = (
    "01_alignment",
    "02_pretraining",
    "03_finetuning",
    "04_noise_ablations",
    "05_significance",
    "06_claims",
)
REAL_TEXT = 1  # version of how real text is read, beside that of the kind `text`
REAL_LINKS = ("estimated", "eflomal", "subword", "random")  # that need no gold ones
# options of an objective that a spec shows elsewhere
IN_SPEC = (*pretraining.SHAPE, "mask_rate", "predicted", "epochs", "joint", "links")


@dataclass(frozen=True)
class Kind(pretraining.Entry):
    """A kind of run: the function that computes it, (spec, inputs, directory, progress) -> values, and more.

    version : a result is reused only where it is the same: raise it when the numbers of the kind change
    stage : the notebook that shows those runs which a statement asks for
    compared : whether tests of statements and questions compare its scores
    task : what statements call its task, where that is none of the study's
    labels : which labels of a statement its spec depends on; the others must be the defaults, or the `fixed`
    """

    name: str
    version: int = 1
    stage: str = ""
    compared: bool = False
    task: str = ""
    labels: tuple[str, ...] = ()
    fixed: Mapping[str, str] = field(default_factory=dict)


KINDS: dict[str, Kind] = {}  # in the order in which they build on one another


def kind(function: str, **properties: Any) -> Callable:
    """The entry of a kind of run, written above the method of `Runs` that makes its spec."""

    def enter(method: Callable) -> Callable:
        KINDS[method.__name__] = Kind(function, method.__name__, **properties)
        return method

    return enter


class Runs:
    """The specs of a study's runs, by what they are; the parameters say how many and how large."""

    def __init__(self, params: Params) -> None:
        self.params, self.real, self._changed = params, params.data == "real", changed(params)
        for name in ("text", "pairs", "links", "base", "stage"):  # what others are made of, each made once
            setattr(self, name, cache(getattr(self, name)))

    def _spec(self, kind: str, taken: dict, *inputs: Spec, version: str | int = "") -> Spec:
        """A spec of a kind, in the kind's own version where no other is given."""
        return Spec(kind, taken, version or KINDS[kind].version, inputs)

    @kind("xltlib.data.text:build_text")
    def text(self, seed: int | None = None) -> Spec:
        """Documents of every language and the joint tokenizer; of a seed's own world where each has one."""
        taken = self._take("languages", "documents", "vocab_size")
        if not self.real:
            synthetic.check_languages(self.params.languages)  # before any work
            return self._spec("text", taken | {"world_seed": self.params.world_of(seed)})
        taken |= self._take("data", "source", "corpora", "official_counts", "max_length", "model")
        if self.params.cut_subwords:  # those of all text that a run may read
            taken |= self._take("cut_subwords", "train_sets", "test_sets", "neighbour_lists", "dictionaries")
        return self._spec("text", taken, version=f"{KINDS['text'].version}.{REAL_TEXT}")

    @kind("xltlib.data.text:build_pairs")
    def pairs(self, seed: int | None = None) -> Spec:
        """Translation pairs of the source with every target language; with gold links where synthetic."""
        return self._spec("pairs", self._take("source", "parallel_pairs"), self.text(seed))

    @kind("xltlib.data.text:build_links")
    def links(self, kind: str = "estimated", share: float = 1.0, seed: int | None = None) -> Spec:
        """Links of the pairs, of a kind that `pretraining.Options.links` names or of subwords ("subword").

        `share`: from this share of its pairs alone, for a language with little text.
        """
        if self.real and kind not in REAL_LINKS:
            known = ", ".join(REAL_LINKS)
            raise StudyError(f"links {kind!r}: real text has no gold links; there are {known}")
        taken = {"links": kind} | ({"share": share} if share < 1 else {})
        return self._spec("links", taken, self.pairs(seed))

    @kind("xltlib.finetuning.baselines:build_baselines", version=3)
    def baselines(self) -> Spec:
        """What costs no encoder, for every measure on real languages."""
        taken = self._take("source", "languages", "tasks", "probes", "train_examples", "test_examples")
        return self._spec("baselines", taken | self._real_tasks(), self.text(), self.pairs(), self.links())

    def base(self, seed: int, chosen: pretraining.Options | None = None) -> Spec:
        """An encoder pre-trained by MLM on documents; its shape is the profile's where none is chosen.

        A published encoder that only gets a head for masked words is the same for every seed.
        """
        chosen = chosen or pretraining.Options()
        shape = {name: getattr(chosen, name) or getattr(self.params, name) for name in pretraining.SHAPE}
        taken = shape | self._take("pretrain_steps", "batch_size", "mask_rate", "pretrain_lr")
        taken |= self._further("batch_tokens", "model", "device", "precision", "compile")
        if self.params.model and (layers := chosen.num_layers or self.params.model_layers):
            taken["model_layers"] = layers
        if self.params.model in hub.HEADLESS:
            seed = 0
        taken |= {"objective": "base", "seed": seed}
        return Spec("encoder", taken, pretraining.OBJECTIVES["none"].version, (self.text(seed),))

    @kind("xltlib.pretraining.encoders:build_encoder", stage="02_pretraining")
    def encoder(self, objective: str, seed: int, options: str = "", target: str = "") -> Spec:
        """The base encoder after the updates of an objective ("none": the base itself).

        `target`: trained on the pairs of this language alone, for its share of the updates.
        """
        chosen = pretraining.options(objective, options)
        entry = pretraining.OBJECTIVES[objective]
        seed = self.params.pretraining_of(seed)
        if objective == "none":
            return self.base(seed, chosen)
        if objective == "mixed" and self.real:  # no other lexicon is there
            chosen = chosen.replace(lexicon="estimated")
        taken = self._take("batch_size", "mask_rate", "continue_lr", "document_share")
        taken |= self._further("batch_tokens", "device", "precision", "compile")
        steps = self.params.continue_steps * chosen.epochs / (len(self.params.targets) if target else 1)
        if chosen.mask_rate:
            taken["mask_rate"] = chosen.mask_rate
            if chosen.predicted == "equal":
                steps *= self.params.mask_rate / chosen.mask_rate
        taken |= {"continue_steps": round(steps), "objective": objective, "seed": seed}
        others = {name: value for name, value in changed(chosen).items() if name not in IN_SPEC}
        more = {"options": others, "target": target, "code": entry.source}
        taken |= {name: value for name, value in more.items() if value}
        inputs = (self.base(seed, chosen), self.pairs(seed), self.text(seed))
        if kind := pretraining.link_kind(objective, chosen):
            inputs += (self.links(kind, chosen.pairs, seed),)
        return Spec("encoder", taken, entry.version, inputs)

    @kind(
        "xltlib.pretraining.probing:build_probe", stage="02_pretraining", compared=True, task="retrieval",
        labels=("objective", "objective_options"),
    )  # fmt: skip
    def probe(self, objective: str, seed: int, objective_options: str = "") -> Spec:
        """Sentence and word retrieval and word alignment by layer, of an encoder before any fine-tuning."""
        seed = self.params.pretraining_of(seed)
        labels = self._labels("retrieval", objective, seed, objective_options)
        taken = self._take("source", "languages") | {"labels": labels}
        if self.real:
            taken |= self._take("official_counts")
            taken["probes"] = [name for name in self.params.probes if name != "tagging"]
        else:
            taken["sentences"] = 500
        return self._spec("probe", taken, self.encoder(objective, seed, objective_options), self.text(seed))

    @kind("xltlib.pretraining.probing:build_tagging", compared=True)
    def tagging(self, objective: str, seed: int, options: str = "") -> Spec:
        """Tags and dependency labels of real text, told from the last layer of an encoder as it is."""
        seed = self.params.pretraining_of(seed)
        labels = self._labels("tagging", objective, seed, options)
        taken = self._take("source", "languages", "official_counts") | {"labels": labels}
        return self._spec("tagging", taken, self.encoder(objective, seed, options), self.text(seed))

    @kind(
        "xltlib.finetuning.transfer:build_lexicon", stage="03_finetuning", compared=True, task="lexicon",
        labels=("objective", "method_options"), fixed={"method": "salt"},
    )  # fmt: skip
    def lexicon(self, objective: str, seed: int, method_options: str = "") -> Spec:
        """How many of the word pairs that SALT distils from an encoder are translations."""
        seed = self.params.pretraining_of(seed)
        finetuning.options("salt", method_options)
        labels = self._labels("lexicon", objective, seed, "", "salt", method_options)
        taken = self._take("source", "languages", "train_examples") | {"labels": labels}
        if self.real:
            taken |= self._real_tasks() | self._take("dictionaries") | self._further("device", "precision")
            finetuning.check_real("lexicon", "salt", method_options, taken)
        version = f"{KINDS['lexicon'].version}.{finetuning.METHODS['salt'].version}"
        return self._spec("lexicon", taken, self.text(seed), self.encoder(objective, seed), version=version)

    @kind(
        "xltlib.finetuning.transfer:build_transfer", version=2, stage="03_finetuning", compared=True,
        labels=("task", "objective", "objective_options", "method", "method_options"),
    )  # fmt: skip
    def transfer(
        self, task: str, objective: str, seed: int, method: str = "standard",
        objective_options: str = "", method_options: str = "",
    ) -> Spec:  # fmt: skip
        """One encoder fine-tuned on one task by one method, then predicting in every language.

        With `joint=false` every target language has an encoder of its own, in the order of `Params.targets`.
        """
        finetuning.options(method, method_options)
        entry = finetuning.METHODS[method]
        taken = self._take(
            "source", "languages", "train_examples", "test_examples", "batch_size", "finetune_lr",
            "finetune_epochs", "freeze_embeddings", "pooling",
        )  # fmt: skip
        taken |= self._real_tasks() | self._further("device", "precision", "compile", "finetune_until")
        if self.real:
            taken |= self._take(entry.file) if entry.file else {}
            finetuning.check_real(task, method, method_options, taken)
            if method in ("translate_train", "intermediate"):
                from xltlib.data import task_data  # synthetic languages do without

                first = finetuning.first_task(task) if method == "intermediate" else task
                task_data.check_translations(taken, first)
        taken |= {"code": entry.source} if entry.source else {}
        joint = pretraining.options(objective, objective_options).joint
        labels = self._labels(task, objective, seed, objective_options, method, method_options)
        targets = ("",) if joint else self.params.targets
        encoders = [self.encoder(objective, seed, objective_options, target) for target in targets]
        version = f"{KINDS['transfer'].version}.{entry.version}"
        return self._spec("transfer", taken | {"labels": labels}, self.text(seed), *encoders, version=version)

    @kind("xltlib.finetuning.transfer:build_evaluation", stage="03_finetuning", compared=True)
    def evaluation(self, settings: str, transfer: Spec) -> Spec:
        """A fine-tuned model scored in other settings: "pairs" of languages, or "typo" (typing errors)."""
        taken = self._take("test_examples") | {"settings": settings, "labels": transfer.params["labels"]}
        taken |= self._further("pair_languages") if settings == "pairs" else {}
        return self._spec("evaluation", taken, transfer, transfer.inputs[0])

    @kind("xltlib.finetuning.answers:build_seq2seq")
    def seq2seq(self, seed: int, options: str = "") -> Spec:
        """An encoder-decoder pre-trained by span corruption of the documents, with or without noise."""
        chosen = pretraining.span_options(options)
        if self.real:
            raise StudyError("span_corruption is of synthetic languages")
        taken = self._take(*pretraining.SHAPE, "pretrain_steps", "batch_size", "pretrain_lr")
        taken |= self._further("batch_tokens", "device", "precision")
        seed = self.params.pretraining_of(seed)
        taken |= {"options": changed(chosen), "seed": seed, "objective": "span_corruption"}
        return self._spec("seq2seq", taken, self.text(seed))

    @kind("xltlib.finetuning.answers:build_answers", compared=True)
    def answers(self, seed: int, options: str = "") -> Spec:
        """An encoder-decoder fine-tuned to write answers, scored in every language, noisy and clean."""
        labels = self._labels("qa", "span_corruption", seed, options)
        taken = self._take(
            "source", "languages", "train_examples", "test_examples", "batch_size", "finetune_lr",
            "freeze_embeddings",
        )  # fmt: skip
        taken |= self._real_tasks() | self._further("device", "precision")
        # writing an answer takes longer to learn than pointing at it
        taken |= {"finetune_epochs": 3 * self.params.finetune_epochs, "labels": labels}
        version = f"{KINDS['transfer'].version}.{KINDS['answers'].version}"
        return self._spec("answers", taken, self.text(seed), self.seq2seq(seed, options), version=version)

    @kind("xltlib.claims.campaign:build_campaigns")
    def campaign(self, rules: Mapping[str, Any], world: Mapping[str, Any], tests: int, repeats: int) -> Spec:
        """Simulated confirmations judged by the rules of a design, in a world whose truth is known."""
        taken = {"rules": rules, "world": world, "tests": tests, "repeats": repeats}
        return self._spec("campaign", taken)

    @kind("xltlib.notebooks:execute")
    def notebook(self, stage: str, parameters: Mapping[str, Any], shown: str) -> Spec:
        """A notebook executed with some parameters; `shown`: digest of all else that it depends on."""
        return self._spec("notebook", {"stage": stage, "parameters": parameters, "shown": shown})

    def stage(self, name: str) -> tuple[Spec, ...]:
        """The runs whose results a notebook shows; what they build on is found from them."""
        params, seeds = self.params, self.params.every_seed
        cheap = [self.baselines()] if self.real else []
        if name == "01_alignment":
            kinds = params.link_kinds
            options = ["" if kind == "estimated" else f"links={kind}" for kind in kinds]
            shown = [("none", ""), *(("weam", option) for option in options)] if kinds else []
            scored = [
                # encoders of real languages that are trained here do not learn nli
                self.tagging(o, s, x) if self.real else self.transfer("nli", o, s, objective_options=x)
                for s in seeds
                for o, x in shown
            ]
            return (self.links(), *map(self.links, kinds), *(cheap if kinds else ()), *scored)
        if name == "02_pretraining":
            encoders = [(o, s) for s in seeds for o in (*params.objectives, *params.further_objectives)]
            probes = [self.probe(*one) for one in encoders]
            if self.real and "tagging" in params.probes:
                probes += [self.tagging(*one) for one in encoders]
            # links: what probes are compared with
            return (self.links(), *cheap, *(self.encoder(*one) for one in encoders), *probes)
        if name == "03_finetuning":
            return (*cheap, *self._grid(params.tasks))
        if name == "04_noise_ablations":
            clean = self._grid(params.noise_tasks)
            return (*clean, *(self.evaluation("typo", transfer) for transfer in clean))
        return tuple(spec for earlier in STAGES[1:4] for spec in self.stage(earlier))

    def for_labels(self, labels: Mapping[str, str], settings: Collection[str] = ()) -> list[Spec]:
        """The runs, one a seed, that have scores for the labels and settings of a statement's test.

        None where this version, or the profile, has no such run.
        """
        task = labels["task"]
        entry = next((each for each in KINDS.values() if each.task == task), KINDS["transfer"])
        usual = {"objective_options": "", "method": "standard", "method_options": ""} | entry.fixed
        if any(labels[name] != usual[name] for name in usual if name not in entry.labels):
            return []
        if not entry.task and task not in self.params.tasks:
            return []
        chosen = {name: labels[name] for name in entry.labels}
        try:
            specs = [getattr(self, entry.name)(seed=seed, **chosen) for seed in self.params.every_seed]
        except StudyError:  # an objective, a method or an option that this version does not have
            return []
        pairs = specs if any("|" in name for name in settings) else []
        return [*specs, *(self.evaluation("pairs", transfer) for transfer in pairs)]

    def _grid(self, tasks: Collection[str]) -> list[Spec]:
        """Every objective by standard fine-tuning, then every other method, on those of the study's tasks."""
        params = self.params
        systems = [(objective, "standard", "") for objective in params.objectives]
        for entry in params.methods:
            method, _, options = entry.partition(":")  # rs_da:updates=equal
            if entry != "standard":
                systems += [(objective, method, options) for objective in params.method_objectives]
        return [
            self.transfer(task, objective, seed, method, method_options=options)
            for seed in params.every_seed
            for objective, method, options in systems
            for task in params.tasks
            if task in tasks
        ]

    def _take(self, *names: str) -> dict:
        return {name: getattr(self.params, name) for name in names}

    def _further(self, *names: str) -> dict:
        """Those of the parameters that are not as by default: most studies do without them."""
        return {name: value for name, value in self._changed.items() if name in names}

    def _labels(
        self, task: str, objective: str, seed: int, objective_options: str = "", method: str = "standard",
        method_options: str = "",
    ) -> dict[str, Any]:  # fmt: skip
        """What tells a run with scores from others; options in one order, so that equal ones are one run."""
        if objective in pretraining.OBJECTIVES:  # span corruption has its own options, one at a time
            objective_options = in_order(pretraining.Options, objective_options)
        repeated = self.params.unit_of(seed)
        return {
            "objective": objective, "objective_options": objective_options, "method": method,
            "method_options": in_order(finetuning.Options, method_options), "task": task, "seed": seed,
            **({"repeats": repeated} if repeated != seed else {}),
        }  # fmt: skip

    def _real_tasks(self) -> dict:
        """Where the examples of real tasks come from, and how long they may be."""
        names = ("data", "train_sets", "test_sets", "official_counts", "max_length", "question_length")
        return self._take(*names) if self.real else {}


def closure(specs: Iterable[Spec]) -> list[Spec]:
    """The specs and all that they build on, each once, inputs before what builds on them."""
    found: dict[Spec, None] = {}
    for spec in specs:
        if spec not in found:
            found |= dict.fromkeys([*closure(spec.inputs), spec])
    return list(found)
