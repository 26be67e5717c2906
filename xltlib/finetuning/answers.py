"""Questions answered in writing: an encoder-decoder fine-tuned, and its answers scored.

Shapes: B batch, T tokens, N examples.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from xltlib.data.tasks import SpanExample
from xltlib.data.tokenization import PAD, SEP, SPECIAL
from xltlib.evaluation import qa_scores
from xltlib.finetuning import transfer
from xltlib.finetuning.case import Case
from xltlib.finetuning.methods import Batch, finetune, steps_for
from xltlib.finetuning.tasks import Encoded
from xltlib.pretraining import seq2seq
from xltlib.pretraining.models import device_of
from xltlib.pretraining.seq2seq import EncoderDecoder
from xltlib.pretraining.training import Progress, stacked
from xltlib.store import Result, Spec, save_scores

LONGEST = 16  # subwords and end written at most, or as many as the longest training answer has


def build_answers(spec: Spec, inputs: list[Result], directory: Path, progress: Progress | None) -> dict:
    """Fine-tune an encoder-decoder on the source's questions, then score its answers in every language.

    Answers are scored on clean text and under typing errors in questions and passages, at every rate.
    """
    params, (text, start) = spec.params, inputs
    case = Case(params, text, params["languages"])
    model = seq2seq.load(start.file("config.json").parent).to(case.device)
    if params["freeze_embeddings"]:
        model.encoder.embeddings().requires_grad_(False)
    train = case.examples("train", params["train_examples"])[case.source]
    data = encode(case, train, model.end, training=True)
    steps = steps_for(data, params["batch_size"], params["finetune_epochs"])
    name = f"answers by {case.method} from {case.labels['objective']}, seed {case.seed}"
    opt, size = case.optimization(steps), params["batch_size"]
    history = finetune(model, data, opt, size, case.seed, _loss, directory, progress, name)
    longest = min(data.targets.shape[1] - 1, LONGEST)
    test, scores = case.examples("test", params["test_examples"]), {}
    plain = {name: test[name] for name in case.languages if name in test}
    noisy = transfer.typo_settings("qa", plain, *case.keyboards(plain))
    for setting, examples in [*((name, test[name]) for name in case.settings(test)), *noisy]:
        scores |= transfer.named(setting, answer_scores(model, case, examples, setting, longest))
    save_scores(directory / "scores.npz", scores)
    values = {"labels": case.labels, "means": transfer.means(scores)}
    return values | {"updates": steps, "history": history}


def _loss(model: EncoderDecoder, batch: Batch) -> dict[str, Tensor]:
    return seq2seq.target_loss(model, batch.ids, batch.extra.get("attention_mask"), batch.targets)


def encode(case: Case, examples: Sequence[SpanExample], end: int, training: bool = False) -> Encoded:
    """Questions in the form of pre-training: passage [SEP] question sentinel end -> sentinel answer end.

    Rows, windows and spans are those of `tasks.encode`; `second` is 0, where the passage begins.
    """
    rows = case.encode(examples, training)
    begin, between = len(rows.special.before), len(rows.special.between)
    sources, answers = [], []
    for ids, first, stop, (a, b) in zip(rows.ids, *rows.passages(), rows.targets, strict=True):
        sources.append(np.array([*ids[first:stop], SEP, *ids[begin : first - between], end + 1, end]))
        answers.append(ids[a : b + 1] if a >= 0 else ids[:0])
    targets = np.full((len(answers), max(map(len, answers)) + 2), seq2seq.IGNORED)
    for row, answer in zip(targets, answers, strict=True):
        row[: len(answer) + 2] = [end + 1, *answer, end]
    return replace(rows, ids=sources, targets=targets, second=np.zeros(len(sources), dtype=np.int64))


def answer_scores(
    model: EncoderDecoder, case: Case, examples: Sequence[SpanExample], setting: str, longest: int
) -> dict[str, np.ndarray]:
    """Per-example scores (N,) of the answers that a model writes: {"": exact match, "f1": F1}.

    Of the windows of a long passage the one counts whose answer is the surest.
    """
    rows = encode(case, examples, model.end)
    written, sure = write(model, rows.ids, longest)
    pieces, best, texts = seq2seq.pieces_of(case.tokenizer), {}, {}
    for row in np.argsort(sure, kind="stable").tolist():
        best[int(rows.examples[row])] = row
    for number, row in best.items():
        texts[examples[number].id] = _in_passage(rows, row, written[row], examples[number].context, pieces)
    metrics = qa_scores(examples, texts, *case.comparison(setting))
    return {"": metrics["exact_match"], "f1": metrics["f1"]}


def _in_passage(rows: Encoded, row: int, ids: np.ndarray, context: str, pieces: Sequence[str]) -> str:
    """The text of an answer: where its subwords first stand in the passage, or put together from them."""
    passage = rows.ids[row][: len(rows.spans[row])]
    for at in np.flatnonzero(passage == ids[0]).tolist() if len(ids) else ():
        if np.array_equal(passage[at : at + len(ids)], ids):
            start, stop = rows.characters([row], np.array([[at, at + len(ids) - 1]]))[0]
            return context[start:stop]
    return text_of(ids, pieces)


@torch.inference_mode()
def write(
    model: EncoderDecoder, sources: Sequence[np.ndarray], longest: int = LONGEST, batch_size: int = 250
) -> tuple[list[np.ndarray], np.ndarray]:
    """What the model writes for each source's first sentinel, greedily: ids up to `end`, at most `longest`,
    and how sure it is (N,), the mean log-probability of what it wrote and of its end.

    Only ordinary subwords of the source can be written, as answers are spans of their passage: a model tuned
    in one language slips into it elsewhere (the "accidental translation" of mT5, arXiv 2010.11934).
    """
    model.eval()
    out: list[np.ndarray] = [np.empty(0, int)] * len(sources)
    sure, device = np.zeros(len(sources)), device_of(model)
    order = np.argsort([len(source) for source in sources], kind="stable")
    for rows in np.split(order, range(batch_size, len(order), batch_size)):
        source, mask = (x if x is None else x.to(device) for x in stacked([sources[row] for row in rows]))
        states = model.encoder.states(source, mask)
        other = torch.ones(len(rows), model.encoder.vocab_size, dtype=torch.bool, device=device)
        other = other.scatter(1, source, False)
        other[:, : len(SPECIAL)] = other[:, model.end + 1 :] = True
        before, chances = torch.tensor([[PAD, model.end + 1]], device=device).repeat(len(rows), 1), []
        for _ in range(longest):
            scores = model.encoder.logits(model.decode(states, mask, before)[:, -1])
            best = scores.masked_fill(other, -torch.inf).log_softmax(1).max(1, keepdim=True)
            before, chances = torch.cat([before, best.indices], 1), [*chances, best.values]
            if (before[:, 2:] == model.end).any(1).all():
                break
        written = zip(rows, before[:, 2:].cpu().numpy(), torch.cat(chances, 1).cpu().numpy(), strict=True)
        for row, ids, logs in written:
            ended = int(np.argmax(ids == model.end)) if (ids == model.end).any() else len(ids)
            out[row], sure[row] = ids[:ended], logs[: ended + 1].mean()
    return out, sure


def text_of(ids: Sequence[int], pieces: Sequence[str]) -> str:
    """The words of subwords; special ids and sentinels have no text."""
    words = "".join(
        pieces[i][2:] if pieces[i].startswith("##") else " " + pieces[i]
        for i in ids
        if len(SPECIAL) <= i < len(pieces)
    )
    return words.strip()
