"""The study's parameters: what each one means, its default, and what it may be."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from xltlib import StudyError
from xltlib.settings import NAME, allowed, check, literal, par, read_mapping, read_value, type_name, unknown

__all__ = ["Params", "describe", "from_notebook", "load", "notebook_cell", "to_dict"]


SET = r"[a-z0-9_]+/[a-z]+"
OPTIONS = r"(:[a-z_]+=[a-z0-9_.]+(,[a-z_]+=[a-z0-9_.]+)*)?"


# fmt: off
@dataclass(frozen=True)
class Params:
    """All parameters of a study, checked. Defaults are the quick profile's."""

    profile: str = par("quick", "name of this set of parameters: the folder figures/<profile>/", pattern=NAME)
    scale: str = par("mechanism", "what its verdicts may speak for", choices=("mechanism", "reduced", "pretrained", "paper"))
    data: str = par("synthetic", "languages made by the study, or real text: from the folder that the environment variable XLT_DATA names, or from the hub", choices=("synthetic", "real"))
    world_seed: int = par(0, "seed of the synthetic languages and their text", low=0)
    world_per_seed: bool = par(False, "each seed has synthetic languages of its own (world_seed + seed), so that seeds differ in all that chance decides")
    seeds: int = par(2, "independent pre-trainings; fewer than six cannot reach p < 0.05 by sign flips", low=1, high=1000)
    first_seed: int = par(0, "the first of their seeds; a replication takes those that no other profile has had", low=0, high=1_000_000)
    languages: tuple[str, ...] = par(("src", "near", "mid", "far", "low"), "all languages of the study", pattern=NAME)
    source: str = par("src", "the language that has labelled training data", pattern=NAME)
    corpora: tuple[str, ...] = par(("opus100",), "real parallel text: for each language what has it with the source", pattern=r"[a-z0-9_]+")
    train_sets: tuple[str, ...] = par(("multinli/train", "pawsx/train", "squad/train"), "real training examples of the source language, as set/split, one for each task", pattern=SET)
    test_sets: tuple[str, ...] = par(("xnli/test", "pawsx/test", "xquad/test", "mlqa/test"), "real test examples; a further set of the same task is scored as de@mlqa", pattern=SET)
    neighbour_lists: str = par("", "RS-DA's lists for a real source language, as released with Robust-XLT: JSON of word -> words near it; a path, or one below XLT_DATA", pattern=r"\S*")
    dictionaries: str = par("", "word pairs that code_switch may use on real languages, a pair a line, with {source} and {target} for the languages; a path, or one below XLT_DATA", pattern=r"\S*")
    official_counts: bool = par(True, "refuse real sets that have not as many examples as were published")
    model: str = par("", "published model, or folder of one, that every encoder starts from; none: from scratch", pattern=r"\S*")
    model_layers: int = par(0, "layers of the published model that are kept, its first ones; 0: all", low=0, high=96)
    cut_subwords: bool = par(False, "of a published model's subwords keep those alone that the study's text and tasks have, and all single characters: less memory, faster heads, the same segmentation of that text")
    pair_languages: tuple[str, ...] = par((), "languages of the generalised setting, whose two sentences are in two of them; none: all", pattern=NAME, empty=True)
    tasks: tuple[str, ...] = par(("nli", "paraphrase", "qa"), "what is transferred", choices=("nli", "paraphrase", "qa"))
    objectives: tuple[str, ...] = par(("none", "tlm", "weam"), "pre-training objectives compared", pattern=NAME)
    further_objectives: tuple[str, ...] = par((), "objectives whose encoders are probed, not fine-tuned", pattern=NAME, empty=True)
    probes: tuple[str, ...] = par(("retrieval",), "what encoders of real languages are probed for before any task", choices=("retrieval", "captions", "alignment", "tagging"))
    methods: tuple[str, ...] = par(("standard", "adversarial", "rs_rp", "rs_da:updates=equal", "salt"), "fine-tuning methods compared, with options as in rs_da:updates=equal", pattern=NAME + OPTIONS)
    documents: int = par(12_000, "raw text for each language", unit="documents of 2 to 4 sentences", low=100)
    parallel_pairs: int = par(6_000, "parallel text for each target language", unit="pairs", low=10)
    train_examples: int = par(10_000, "labelled examples of the source language", unit="examples", low=8)
    test_examples: int = par(1_000, "test examples, the same in each language", unit="examples", low=8)
    vocab_size: int = par(900, "size of the joint subword vocabulary", unit="subwords", low=50, high=1_000_000)
    hidden_size: int = par(64, "width of the encoder's vectors", low=8, high=8192)
    num_layers: int = par(3, "layers of the encoder", low=1, high=96)
    num_heads: int = par(2, "attention heads; with narrow ones the encoder is slow to compare words across sentences", low=1, high=128)
    pretrain_steps: int = par(6_000, "updates of MLM that every encoder gets", unit="updates", low=0)
    continue_steps: int = par(1_200, "updates of the compared objective after them", unit="updates", low=0)
    batch_size: int = par(32, "small batches learn more per second on a CPU", unit="sentences", low=1, high=65_536)
    batch_tokens: int = par(0, "for text of very different lengths: each update of pre-training has about so many tokens instead; 0: batch_size sentences", unit="tokens", low=0, high=10_000_000)
    max_length: int = par(128, "longest sequence of real text, special tokens included", unit="subwords", low=8, high=8192)
    question_length: int = par(384, "the same for a question with a window of its passage", unit="subwords", low=16, high=8192)
    device: str = par("cpu", "where encoders are trained and used", choices=("cpu", "cuda"))
    precision: str = par("float32", "of matrix products in training and prediction; weights stay float32", choices=("float32", "bfloat16"))
    compile: bool = par(False, "fuse the operations of each layer of the encoder (torch.compile), which takes a while at the start of each run: for large models on a GPU")
    mask_rate: float = par(0.3, "share of the subwords masked in MLM and TLM", low=0.01, high=0.9)
    pretrain_lr: float = par(3e-3, "highest learning rate of pre-training (Adam, tiny encoders)", low=1e-7, high=1.0)
    continue_lr: float = par(2e-3, "highest learning rate of the compared objectives", low=1e-7, high=1.0)
    document_share: float = par(0.5, "updates of an objective that go on with MLM on documents", low=0.0, high=0.9)
    finetune_lr: float = par(2e-3, "highest learning rate of fine-tuning", low=1e-7, high=1.0)
    finetune_epochs: int = par(2, "passes over the training examples", unit="epochs", low=1, high=1000)
    finetune_until: float = par(0.0, "score on development examples of the source (accuracy; F1 in qa) at which fine-tuning comes to its end; finetune_epochs passes are the most. 0: always those passes", low=0.0, high=1.0)
    freeze_embeddings: bool = par(True, "keep embeddings still in fine-tuning, so that all languages stay comparable")
    pooling: str = par("mean", "what a pair is classified by: mean of the states, or [CLS]", choices=("mean", "cls"))
    method_objectives: tuple[str, ...] = par(("none",), "encoders that other methods than standard start from", pattern=NAME)
    link_kinds: tuple[str, ...] = par((), "word links that WEAM is trained on to see what they matter", pattern=r"estimated|gold|random|corrupt[01](\.\d+)?", empty=True)
    noise_tasks: tuple[str, ...] = par(("nli",), "tasks whose fine-tuned models are scored under typing errors too", choices=("nli", "paraphrase", "qa"), empty=True)
    statement_runs: tuple[str, ...] = par((), "statements (by the start of their id, as S0 or S1-10) whose deciding tests get their runs", pattern=r"S\d?(-\d+)?", empty=True)
    control_runs: tuple[str, ...] = par((), "statements whose controls and ablations get theirs, too", pattern=r"S\d?(-\d+)?", empty=True)
    questions: tuple[int, ...] = par((), "open questions of the reports that are answered, by report", low=0, high=4, empty=True)
    alpha: float = par(0.05, "rate of false positives that a verdict allows, over all claims", low=1e-4, high=0.5)
    bootstrap_samples: int = par(2_000, "resamples behind an interval", unit="resamples", low=100, high=10_000_000)

    def __post_init__(self) -> None:
        for name, value in _complete(vars(self), {}, "Params").items():
            object.__setattr__(self, name, value)

    @property
    def every_seed(self) -> range:
        """The seeds of the pre-trainings."""
        return range(self.first_seed, self.first_seed + self.seeds)

    def world_of(self, seed: int | None = None) -> int:
        """The seed of the synthetic world of a seed; of the first one where none is given."""
        if not self.world_per_seed:
            return self.world_seed
        return self.world_seed + (self.first_seed if seed is None else seed)

    @property
    def targets(self) -> tuple[str, ...]:
        """The languages without labelled training data."""
        return tuple(name for name in self.languages if name != self.source)
# fmt: on


def load(path: str | Path, overrides: Mapping[str, str] | None = None) -> Params:
    """Read a YAML file of parameters; `overrides` (name -> YAML text, from `--set name=value`) win over it.

    Raises StudyError, before any work, for whatever the study does not know or cannot use.
    """
    values, places = read_mapping(path)
    for name, text in (overrides or {}).items():
        places[name] = f"--set {name}={text}"
        values[name] = read_value(text, places[name])
    return Params(**_complete(values, places, str(path)))


def from_notebook(namespace: Mapping[str, Any]) -> Params:
    """The parameters that a notebook has set; called with `globals()` right after its parameters cell.

    Every public name bound to a plain value (a number, a text, a flag, or a list of them) counts, so that a misspelt
    one is refused, not passed over. What else a notebook keeps does not, so that its cells can be run again;
    but a parameter's name counts whatever it is bound to, so that no import takes its place unseen.
    """
    own = {"In", "Out", "exit", "quit"}  # what IPython puts beside the notebook's names
    names = [n for n in namespace if not n.startswith("_") and n not in own]
    own_names = {f.name for f in fields(Params)}
    values = {name: namespace[name] for name in names if name in own_names or _is_plain(namespace[name])}
    return Params(**_complete(values, {}, "the notebook's parameters"))


def _is_plain(value: Any) -> bool:
    scalar = (bool, int, float, str, type(None))
    return isinstance(value, scalar) or (
        isinstance(value, list | tuple) and bool(value) and all(isinstance(item, scalar) for item in value)
    )


def notebook_cell(names: Iterable[str]) -> str:
    """The text of a notebook's parameters cell: one `name = default  # doc` line for each name."""
    known, lines = {f.name: f for f in fields(Params)}, []
    for name in names:
        if name not in known:
            raise StudyError(f"a notebook's parameters cell: {unknown(Params, name)}")
        choices = f" ({allowed(known[name])})" if known[name].metadata["choices"] else ""
        lines.append(f"{name} = {literal(known[name].default)}  # {_meaning(known[name])}{choices}")
    return "\n".join(lines)


def to_dict(params: Params) -> dict[str, Any]:
    """The parameters as plain values (tuples become lists), ready for JSON and YAML."""
    return {name: list(v) if isinstance(v, tuple) else v for name, v in vars(params).items()}


def describe() -> str:
    """A table of all parameters: name, type, default, what is allowed, meaning."""
    rows = [("name", "type", "default", "allowed", "meaning")]
    for f in fields(Params):
        rows.append((f.name, type_name(Params, f), literal(f.default), allowed(f), _meaning(f)))
    widths = [max(len(row[i]) for row in rows) for i in range(4)] + [0]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in rows)


def _meaning(f: Any) -> str:
    return f.metadata["doc"] + (f" [{f.metadata['unit']}]" if f.metadata["unit"] else "")


def _complete(values: Mapping[str, Any], places: Mapping[str, str], where: str) -> dict[str, Any]:
    """All parameters, each one checked and then together; StudyError where one cannot be used."""
    clean = check(Params, values, places, where)
    for name, expected in _conflicts(clean):
        raise StudyError(f"{places.get(name, where)}: {name} = {literal(clean[name])}: expected {expected}")
    return clean


def _conflicts(v: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    """What cannot be together, as (the parameter to change, what is expected of it)."""
    if len(v["languages"]) < 2:
        yield "languages", "the source and at least one target language"
    if v["source"] not in v["languages"]:
        yield "source", f"one of languages = {literal(v['languages'])}"
    if v["hidden_size"] % v["num_heads"]:
        yield "hidden_size", f"a multiple of num_heads = {v['num_heads']}"
