"""How each kind of run is built from its spec and the runs that it builds on."""

from collections.abc import Callable
from pathlib import Path

from xltlib.data.text import build_links, build_pairs, build_text
from xltlib.finetuning.baseline_builders import build_baselines
from xltlib.finetuning.task_builders import build_evaluation, build_lexicon, build_transfer
from xltlib.pretraining import encoder_builders, probing
from xltlib.pretraining.encoder_builders import build_encoder
from xltlib.pretraining.seq2seq_builders import build_answers, build_seq2seq
from xltlib.pretraining.training import Progress
from xltlib.runs import closure
from xltlib.store import Result, Spec, Store


def compute(
    spec: Spec, store: Store, fresh: bool = False, progress: Progress | None = None, files=None
) -> Result:
    """The result of a run, from the store or built now together with whatever it builds on."""

    def build(directory: Path) -> dict:
        inputs = [compute(other, store, fresh, progress, files=True) for other in spec.inputs]
        return BUILDERS[spec.kind](spec, inputs, directory, progress)

    return store.compute(spec, build, fresh=fresh, files=files)


def _by_data(synthetic: Callable[..., dict], real: Callable[..., dict]) -> Callable[..., dict]:
    """The builder for the text that a run builds on, which alone says what kind of languages it has."""

    def build(spec: Spec, *rest) -> dict:
        is_real = any("data" in s.params for s in closure([spec]) if s.kind == "text")
        return (real if is_real else synthetic)(spec, *rest)

    return build


BUILDERS: dict[str, Callable[..., dict]] = {
    "text": build_text,
    "pairs": build_pairs,
    "links": build_links,
    "encoder": build_encoder,
    "transfer": build_transfer,
    "probe": _by_data(encoder_builders.build_probe, probing.build_probe),
    "tagging": probing.build_tagging,
    "baselines": build_baselines,
    "evaluation": build_evaluation,
    "lexicon": build_lexicon,
    "seq2seq": build_seq2seq,
    "answers": build_answers,
}
