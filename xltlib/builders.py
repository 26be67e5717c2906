"""How each kind of run is built from its spec and the runs that it builds on."""

from collections.abc import Callable
from pathlib import Path

from xltlib.encoder_builders import build_encoder, build_probe
from xltlib.results import Result, Spec
from xltlib.seq2seq_builders import build_answers, build_seq2seq
from xltlib.store import Store
from xltlib.task_builders import build_evaluation, build_lexicon, build_transfer
from xltlib.text_builders import build_links, build_pairs, build_text
from xltlib.training import Progress


def compute(
    spec: Spec, store: Store, fresh: bool = False, progress: Progress | None = None, files=None
) -> Result:
    """The result of a run, from the store or built now together with whatever it builds on."""

    def build(directory: Path) -> dict:
        inputs = [compute(other, store, fresh, progress, files=True) for other in spec.inputs]
        return BUILDERS[spec.kind](spec, inputs, directory, progress)

    return store.compute(spec, build, fresh=fresh, files=files)


BUILDERS: dict[str, Callable[..., dict]] = {
    "text": build_text,
    "pairs": build_pairs,
    "links": build_links,
    "encoder": build_encoder,
    "transfer": build_transfer,
    "probe": build_probe,
    "evaluation": build_evaluation,
    "lexicon": build_lexicon,
    "seq2seq": build_seq2seq,
    "answers": build_answers,
}
