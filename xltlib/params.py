"""The study's parameters and the options of its methods: meaning, default and bounds, checked where they enter.

Values come from a YAML file, from `--set name=value`, from a notebook's cell, or from a text such as
"threshold=0.7,rate=0.3". What cannot be used is refused before any work, with the place where it stands.
"""

import difflib
import re
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from pathlib import Path
from reprlib import repr as _short
from typing import Annotated, Any, Literal, Self, TypeVar

import yaml
from annotated_types import MinLen
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, Strict, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from xltlib import StudyError
from xltlib.textfile import read_text

# What the scale of a study takes besides real languages: the papers' models, and their benchmarks in full.
PAPER_MODELS = ("mbert", "xlmr-base", "xlmr-large", "mt5-small", "mt5-base", "mt5-large")
PAPER_EXAMPLES = {"train_examples": 392_702, "test_examples": 5_010}  # of MultiNLI and XNLI

LARGEST = 2**20  # characters of a file of parameters


# --- settings in general


class Settings(BaseModel):
    """Values that are checked by type and bounds when they are set, and never change.

    `places` says where a value stands (a line of a file, an option of the command line), `where` where all
    others do. Raises StudyError for an unknown name and for a value that cannot be used.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=()
    )

    def __init__(self, places: Mapping[str, str] | None = None, where: str = "", /, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise _refusal(type(self), error, places or {}, where or type(self).__name__) from None

    def replace(self, **changes: Any) -> Self:
        """The same values but for these, checked again."""
        return type(self)(**{**vars(self), **changes})


def par(
    default: Any, doc: str, *, unit: str = "", low: float | None = None, high: float | None = None
) -> Any:
    """One setting: its default, what it means, and its bounds (inclusive)."""
    return Field(default, description=doc + (f" [{unit}]" if unit else ""), ge=low, le=high)


def matching(pattern: str) -> Any:
    """Text of which all matches the pattern."""
    return Annotated[str, Field(pattern=f"^({pattern})$")]


def conflict(found: Any, expected: str, name: str = "") -> PydanticCustomError:
    """The refusal of a value that has its type and bounds; `name` where several settings were looked at."""
    return PydanticCustomError("conflict", f"expected {expected}", {"found": found, "name": name})


def _without_repeats(items: tuple) -> tuple:
    for i, item in enumerate(items):
        if item in items[:i]:
            raise conflict(item, "each item once")
    return items


T = TypeVar("T")
ZeroOrMore = Annotated[tuple[T, ...], Strict(False), AfterValidator(_without_repeats)]  # a list will do, too
OneOrMore = Annotated[tuple[T, ...], MinLen(1), Strict(False), AfterValidator(_without_repeats)]
NAME = r"[a-z][a-z0-9_-]*"  # becomes a folder or a part of "src|near", so it holds no separator
Name = matching(NAME)


def literal(value: Any) -> str:
    """`value` as a notebook and a YAML file both write it (only True and False differ by their case)."""
    if isinstance(value, list | tuple):
        return "[" + ", ".join(literal(item) for item in value) + "]"
    return f'"{value}"' if isinstance(value, str) else repr(value)


def described(cls: type[Settings]) -> list[dict[str, str]]:
    """Each setting with its default, what it may be (choices, bounds, or a type), and what it means."""
    rows = []
    for name, field in cls.model_json_schema()["properties"].items():
        item = field.get("items", field)
        choices = " | ".join(map(str, item.get("enum", [])))
        bounds = f"{item['minimum']} to {item['maximum']}" if "minimum" in item else ""
        kind = f"list of {item['type']}" if "items" in field else item["type"]
        row = {"name": name, "default": literal(field["default"]), "may be": choices or bounds or kind}
        rows.append(row | {"meaning": field["description"]})
    return rows


def changed(settings: Settings) -> dict[str, Any]:
    """Those settings that differ from their default, by name."""
    return settings.model_dump(exclude_defaults=True)


# --- refusals


def unknown(cls: type[Settings], name: str, what: str = "parameter") -> str:
    """Error text for a name that the settings do not have, with the closest one that they have."""
    names = [known.rstrip("_") for known in cls.model_fields]
    near = difflib.get_close_matches(str(name), names, n=1, cutoff=0.5)
    others = "`xlt params` lists all of them" if what == "parameter" else f"known: {', '.join(names)}"
    return f"there is no {what} {_short(name)}: {f'did you mean {near[0]}?' if near else others}"


def _refusal(
    cls: type[Settings], error: ValidationError, places: Mapping[str, str], where: str
) -> StudyError:
    """The first of the errors in one line: where, what was found, what is expected."""
    problems = error.errors(include_url=False)
    problem = next((p for p in problems if p["type"] == "extra_forbidden"), problems[0])
    details = problem["ctx"] if problem["type"] == "conflict" else {}
    name = problem["loc"][0] if problem["loc"] else details["name"]
    place, value = places.get(name, where), details.get("found", problem["input"])
    if problem["type"] == "extra_forbidden":
        return StudyError(f"{place}: {unknown(cls, name)}")
    found, expected = f"{_short(value)} ({type(value).__name__})", problem["msg"]
    hint = _hint(problem["type"], value, expected)
    return StudyError(f"{place}: {name}: found {found}: {expected[0].lower()}{expected[1:]}{hint}")


def _hint(kind: str, value: Any, expected: str) -> str:
    """How to write in YAML what was probably meant."""
    text = value if isinstance(value, str) else ""
    if kind == "tuple_type":
        return f": a list, such as [{text or 'one, another'}]"
    if kind in ("literal_error", "string_type") and isinstance(value, bool):
        words = "yes, on or true" if value else "no, off or false"
        return f' (unquoted, YAML takes {words} for {value}: put the word in quotes, such as "no")'
    if kind == "literal_error":
        near = difflib.get_close_matches(text, re.findall(r"'([^']*)'", expected), n=1)
        return f": {near[0]}?" if near else ""
    if kind == "string_type" and isinstance(value, int | float):
        return " (put it in quotes)"
    if kind == "float_type" and (power := re.fullmatch(r"([-+]?\d+)[eE]([-+]?\d+)", text)):
        return f" (YAML takes {text} for text: write {power[1]}.0e{power[2]})"
    if kind in ("int_type", "float_type") and re.fullmatch(r"[-+]?\d{1,15}(\.\d{1,15})?", text):
        return " (write it without quotes)"
    if kind == "int_type" and isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return f" (write {value:.0f})"
    return ""


# --- reading


class UniqueLoader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
    """A safe loader that refuses what would silently mean something else.

    That is a key given twice, of which the later would win, a merge (<<), whose values have no line of their
    own, a set, which has no order, and 010 or 1:30, which YAML 1.1 takes for octal and for base 60.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = []
        for key, _ in node.value:
            if key.value in seen or key.value == "<<":
                name = _short(key.value)[1:-1]
                problem = "<< is not read" if name == "<<" else f"{name} is given twice"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            seen.append(key.value)
        return super().construct_mapping(node, deep)

    def construct_scalar(self, node: yaml.ScalarNode) -> str:
        number = isinstance(node, yaml.ScalarNode) and node.tag.endswith((":int", ":float"))
        if number and re.match(r"[-+]?0\d|.*:", node.value):
            problem = f"{_short(node.value)[1:-1]} is octal or base 60 in YAML: write a decimal number"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
        return super().construct_scalar(node)


UniqueLoader.add_constructor("tag:yaml.org,2002:set", UniqueLoader.construct_undefined)


def read_mapping(path: str | Path) -> tuple[dict[str, Any], dict[str, str]]:
    """The names and values of a YAML file that holds one mapping, and the place (file, line) of each.

    Raises StudyError where the file is missing, empty, not text, not YAML, or gives a name twice.
    """
    path = Path(path)
    if not path.exists():
        beside = ", ".join(sorted(file.name for file in path.parent.glob("*.y*ml")))
        raise StudyError(f"{path}: there is no such file" + (f"; there is {beside}" if beside else ""))
    text, usual = read_text(path), "expected lines such as `seeds: 3`"
    if len(text) > LARGEST:
        raise StudyError(f"{path}: {usual}, found {len(text):,} characters: no profile is that large")
    root, values = _parsed(text, str(path))
    if not isinstance(values, dict):
        raise StudyError(f"{path}: {usual}, found {_short(values)}")
    places = {key.value: f"{path}, line {key.start_mark.line + 1}" for key, _ in root.value}
    if len(places) != len(values):
        raise StudyError(f"{path}: {usual}, found two names that YAML takes for one value, as 1 and 1.0")
    return dict(zip(places, values.values(), strict=True)), places


def read_value(text: str, place: str) -> Any:
    """What a text in YAML holds; StudyError names `place`, and its line, where that cannot be read."""
    return _parsed(text, place)[1]


def _parsed(text: str, place: str) -> tuple[yaml.Node | None, Any]:
    """The root of a text in YAML, which knows where everything stands, and the value that it means."""
    try:
        loader = UniqueLoader(text)
        root = loader.get_single_node()
        return root, None if root is None else loader.construct_document(root)
    except (yaml.YAMLError, RecursionError, ValueError, LookupError) as error:  # such as of `!!bool maybe`
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise StudyError(f"{place}{line}: not valid YAML: {str(problem or error)[:100]}") from None


# --- options of a method or an objective


@cache
def parse_options(cls: type[T], text: str, where: str, known: Collection[str]) -> T:
    """The options of a method or an objective, written "threshold=0.7,synonyms=false", as a `cls`.

    A field whose name Python keeps for itself ends in "_" (`lambda_`); the text leaves that out. StudyError
    where one is not as by default that is not among the `known` ones, the fields that it has.
    """
    fields, values, places = {name.rstrip("_"): name for name in cls.model_fields}, {}, {}
    for option in filter(None, text.split(",")):
        name, _, value = option.partition("=")
        if name not in fields:
            raise StudyError(f"{where}: {unknown(cls, name, 'option')}")
        if fields[name] in values:
            raise StudyError(f"{where}: option {name} is given twice")
        places[fields[name]] = f"{where}: {_short(option)[1:-1]}"
        values[fields[name]] = read_value(value, places[fields[name]])
    parsed = cls(places, where, **values)
    if foreign := sorted(set(changed(parsed)) - set(known)):
        raise StudyError(f"{where} has no option {', '.join(foreign)}, found {text!r}")
    return parsed


def in_order(cls: type[Settings], text: str) -> str:
    """Options as `parse_options` reads them, in the order of the fields: one text for the same options."""
    order = {name.rstrip("_"): place for place, name in enumerate(cls.model_fields)}
    # an unknown one is refused by `parse_options`
    return ",".join(sorted(filter(None, text.split(",")), key=lambda x: order.get(x.partition("=")[0], -1)))


# --- the parameters of a study

CorpusName = matching("[a-z0-9_]+")
SetName = matching("[a-z0-9_]+/[a-z]+")
MethodName = matching(NAME + r"(:[a-z_]+=[a-z0-9_.]+(,[a-z_]+=[a-z0-9_.]+)*)?")
LinkKind = matching(r"estimated|eflomal|gold|random|corrupt(0(\.\d+)?|1(\.0*)?)")
StatementId = matching(r"S\d?(-\d+)?")
PathName = matching(r"\S*")
Task = Literal["nli", "paraphrase", "qa"]


# fmt: off
class Params(Settings):
    """All parameters of a study, checked. Defaults are the quick profile's."""

    profile: Name = par("quick", "name of this set of parameters: the folder figures/<profile>/")
    scale: Literal["mechanism", "reduced", "pretrained", "paper"] = par("mechanism", "what its verdicts may speak for")
    data: Literal["synthetic", "real"] = par("synthetic", "languages made by the study, or real text: from the folder that the environment variable XLT_DATA names, or from the hub")
    world_seed: int = par(0, "seed of the synthetic languages and their text", low=0, high=1_000_000_000)
    world_per_seed: bool = par(False, "each seed has synthetic languages of its own (world_seed + seed), so that seeds differ in all that chance decides")
    seeds: int = par(2, "independent pre-trainings; fewer than six cannot reach p < 0.05 by sign flips, and ten are needed once some twenty tests are corrected for", low=1, high=200)
    first_seed: int = par(0, "the first of their seeds; a replication takes those that no other profile has had", low=0, high=1_000_000)
    pretrainings: int = par(1, "pre-trainings in the world of each seed; those after the first tell where the spread comes from, and no test counts them", low=1, high=20)
    finetunings: int = par(1, "fine-tunings of each pre-training, which differ in the order of examples and the new output layer; the same holds", low=1, high=20)
    languages: OneOrMore[Name] = par(("src", "near", "mid", "far", "low"), "all languages of the study")
    source: Name = par("src", "the language that has labelled training data")
    corpora: OneOrMore[CorpusName] = par(("opus100",), "real parallel text: for each language what has it with the source")
    train_sets: OneOrMore[SetName] = par(("multinli/train", "pawsx/train", "squad/train"), "real training examples of the source language, as set/split, one for each task")
    test_sets: OneOrMore[SetName] = par(("xnli/test", "pawsx/test", "xquad/test", "mlqa/test"), "real test examples; a further set of the same task is scored as de@mlqa")
    neighbour_lists: PathName = par("", "RS-DA's lists for a real source language, as released with Robust-XLT: JSON of word -> words near it; a path, or one below XLT_DATA")
    dictionaries: PathName = par("", "word pairs that code_switch may use on real languages, a pair a line, with {source} and {target} for the languages; a path, or one below XLT_DATA")
    official_counts: bool = par(True, "refuse real sets that have not as many examples as were published")
    model: PathName = par("", "published model, or folder of one, that every encoder starts from; none: from scratch")
    model_layers: int = par(0, "layers of the published model that are kept, its first ones; 0: all", low=0, high=96)
    cut_subwords: bool = par(False, "of a published model's subwords keep those alone that the study's text and tasks have, and all single characters: less memory, faster heads, the same segmentation of that text")
    pair_languages: ZeroOrMore[Name] = par((), "languages of the generalised setting, whose two sentences are in two of them; none: all")
    tasks: OneOrMore[Task] = par(("nli", "qa"), "what is transferred")
    objectives: OneOrMore[Name] = par(("none", "tlm", "weam"), "pre-training objectives compared")
    further_objectives: ZeroOrMore[Name] = par((), "objectives whose encoders are probed, not fine-tuned")
    probes: OneOrMore[Literal["retrieval", "captions", "alignment", "tagging"]] = par(("retrieval",), "what encoders of real languages are probed for before any task")
    methods: OneOrMore[MethodName] = par(("standard", "rs_da:updates=equal", "salt"), "fine-tuning methods compared, with options as in rs_da:updates=equal")
    documents: int = par(4_000, "raw text for each language", unit="documents of 2 to 4 sentences", low=100, high=100_000_000)
    parallel_pairs: int = par(2_000, "parallel text for each target language", unit="pairs", low=10, high=100_000_000)
    train_examples: int = par(1_600, "labelled examples of the source language", unit="examples", low=8, high=100_000_000)
    test_examples: int = par(128, "test examples, the same in each language", unit="examples", low=8, high=10_000_000)
    vocab_size: int = par(900, "size of the joint subword vocabulary", unit="subwords", low=50, high=1_000_000)
    hidden_size: int = par(64, "width of the encoder's vectors", low=8, high=8192)
    num_layers: int = par(3, "layers of the encoder", low=1, high=96)
    num_heads: int = par(2, "attention heads; with narrow ones the encoder is slow to compare words across sentences", low=1, high=128)
    pretrain_steps: int = par(750, "updates of MLM that every encoder gets", unit="updates", low=0, high=100_000_000)
    continue_steps: int = par(160, "updates of the compared objective after them", unit="updates", low=0, high=100_000_000)
    batch_size: int = par(32, "small batches learn more per second on a CPU", unit="sentences", low=1, high=65_536)
    batch_tokens: int = par(0, "for text of very different lengths: each update of pre-training has about so many tokens instead; 0: batch_size sentences", unit="tokens", low=0, high=10_000_000)
    max_length: int = par(128, "longest sequence of real text, special tokens included", unit="subwords", low=8, high=8192)
    question_length: int = par(384, "the same for a question with a window of its passage", unit="subwords", low=16, high=8192)
    device: Literal["cpu", "cuda"] = par("cpu", "where encoders are trained and used")
    precision: Literal["float32", "bfloat16"] = par("float32", "of matrix products in training and prediction; weights stay float32")
    compile: bool = par(False, "fuse the operations of each layer of the encoder (torch.compile), which takes a while at the start of each run: for large models on a GPU")
    mask_rate: float = par(0.3, "share of the subwords masked in MLM and TLM", low=0.01, high=0.9)
    pretrain_lr: float = par(3e-3, "highest learning rate of pre-training (Adam, tiny encoders)", low=1e-7, high=1.0)
    continue_lr: float = par(2e-3, "highest learning rate of the compared objectives", low=1e-7, high=1.0)
    document_share: float = par(0.5, "updates of an objective that go on with MLM on documents", low=0.0, high=0.9)
    finetune_lr: float = par(2e-3, "highest learning rate of fine-tuning", low=1e-7, high=1.0)
    finetune_epochs: int = par(2, "passes over the training examples", unit="epochs", low=1, high=1000)
    finetune_until: float = par(0.0, "score on development examples of the source (accuracy; F1 in qa) at which fine-tuning comes to its end; finetune_epochs passes are the most. 0: always those passes", low=0.0, high=1.0)
    freeze_embeddings: bool = par(True, "keep embeddings still in fine-tuning, so that all languages stay comparable")
    pooling: Literal["mean", "cls"] = par("mean", "what a pair is classified by: mean of the states, or [CLS]")
    method_objectives: OneOrMore[Name] = par(("none",), "encoders that other methods than standard start from")
    link_kinds: ZeroOrMore[LinkKind] = par((), "word links that WEAM is trained on to see what they matter")
    noise_tasks: ZeroOrMore[Task] = par(("qa",), "tasks whose fine-tuned models are scored under typing errors too")
    statement_runs: ZeroOrMore[StatementId] = par((), "statements (by the start of their id, as S0 or S1-10) whose deciding tests get their runs")
    control_runs: ZeroOrMore[StatementId] = par((), "statements whose controls and ablations get theirs, too")
    questions: ZeroOrMore[Literal[0, 1, 2, 3, 4]] = par((), "open questions of the reports that are answered, by report")
    alpha: float = par(0.05, "rate of false positives that a verdict allows, over all claims", low=1e-4, high=0.5)
    bootstrap_samples: int = par(2_000, "resamples behind an interval", unit="resamples", low=100, high=10_000_000)

    @property
    def every_seed(self) -> range:
        """The seeds of all trainings: of a seed's own first, then those of its repeats."""
        repeats = self.pretrainings * self.finetunings
        return range(self.first_seed, self.first_seed + self.seeds * repeats)

    def pretraining_of(self, seed: int) -> int:
        """The seed of the pre-training that a fine-tuning starts from."""
        return seed - (seed - self.first_seed) % self.finetunings

    def unit_of(self, seed: int) -> int:
        """The seed that a training repeats; itself where it is the first."""
        return seed - (seed - self.first_seed) % (self.pretrainings * self.finetunings)

    def world_of(self, seed: int | None = None) -> int:
        """The seed of the synthetic world of a seed; of the first one where none is given."""
        if not self.world_per_seed:
            return self.world_seed
        return self.world_seed + (self.first_seed if seed is None else self.unit_of(seed))

    @property
    def depth(self) -> int:
        """The layers of the profile's encoder: its own, or those that are kept of a published model."""
        return self.model_layers or self.num_layers

    @property
    def targets(self) -> tuple[str, ...]:
        """The languages without labelled training data."""
        return tuple(name for name in self.languages if name != self.source)

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        scale, reason = _scale(self)
        lone = self.pretrainings > 1 and not self.world_per_seed
        known = len(self.pair_languages) != 1 and set(self.pair_languages) <= set(self.languages)
        for name, wrong, expected in (
            ("languages", len(self.languages) < 2, "the source and at least one target language"),
            ("source", self.source not in self.languages, f"one of languages = {literal(self.languages)}"),
            ("hidden_size", self.hidden_size % self.num_heads, f"a multiple of num_heads = {self.num_heads}"),
            ("pretrainings", lone, "1, since all seeds are of one world (world_per_seed: false)"),
            ("pair_languages", not known, f"two or more of languages = {literal(self.languages)}, or none"),
            ("model", self.model and self.data == "synthetic", "none, since the languages are synthetic"),
            ("model_layers", self.model_layers and not self.model, "0, since there is no published model"),
            ("cut_subwords", self.cut_subwords and not self.model, "false, since there is no published model"),
            ("scale", self.scale != scale, f'"{scale}", since {reason}'),
        ):
            if wrong:
                raise conflict(getattr(self, name), expected, name)
        return self
# fmt: on


def _scale(params: Params) -> tuple[str, str]:
    """What verdicts may speak for, which follows from data and model, and why."""
    if params.data == "synthetic":
        return "mechanism", "the languages are synthetic"
    if not params.model:
        return "reduced", "encoders are trained from scratch on real languages (no model)"
    if params.model not in PAPER_MODELS:
        return "pretrained", f"{params.model} is not among the papers' models ({', '.join(PAPER_MODELS)})"
    if not params.official_counts:
        return "pretrained", "the benchmarks are not published ones in full (official_counts: false)"
    for name, full in PAPER_EXAMPLES.items():
        if getattr(params, name) < full:
            return "pretrained", f"the benchmarks are cut ({name} below {full})"
    return "paper", f"{params.model} learns the published benchmarks in full"


def load(path: str | Path, overrides: Mapping[str, str] | None = None) -> Params:
    """Read a YAML file of parameters; `overrides` (name -> YAML text, from `--set name=value`) win over it.

    Raises StudyError, before any work, for whatever the study does not know or cannot use.
    """
    values, places = read_mapping(path)
    for name, text in (overrides or {}).items():
        places[name] = f"--set {_short(f'{name}={text}')[1:-1]}"
        values[name] = read_value(text, places[name])
    return Params(places, str(path), **values)


def from_notebook(namespace: Mapping[str, Any]) -> Params:
    """The parameters that a notebook has set; called with `globals()` right after its parameters cell.

    Every public name bound to a plain value (a number, a text, a flag, or a list of them) counts, so that a
    misspelt one is refused, not passed over. What else a notebook keeps does not, so that its cells can be run
    again; but a parameter's name counts whatever it is bound to, so that no import takes its place unseen.
    """
    own, scalar = {"In", "Out", "exit", "quit"}, (bool, int, float, str, type(None))  # IPython's own names
    values = {}
    for name in [each for each in namespace if not each.startswith("_") and each not in own]:
        value = namespace[name]
        items = value if isinstance(value, list | tuple) and value else [value]
        if name in Params.model_fields or all(isinstance(item, scalar) for item in items):
            values[name] = value
    return Params({}, "the notebook's parameters", **values)


def to_dict(params: Params) -> dict[str, Any]:
    """The parameters as plain values (tuples become lists), ready for JSON and YAML."""
    return params.model_dump(mode="json")


def table(rows: Sequence[Sequence[str]]) -> str:
    """A table of text, its first row the heading: columns of numbers to the right, others to the left."""
    columns = []
    for heading, *cells in zip(*rows, strict=True):
        width = max(map(len, (heading, *cells)))
        numbers = all(re.match(r"[-+]?\d|-?$", cell) for cell in cells)
        columns.append([cell.rjust(width) if numbers else cell.ljust(width) for cell in (heading, *cells)])
    return "\n".join("  ".join(cells).rstrip() for cells in zip(*columns, strict=True))
