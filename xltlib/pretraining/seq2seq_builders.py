"""Runs of encoder-decoders: span corruption with and without noise, then questions answered in writing."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from torch import Tensor

from xltlib.data.tasks import SpanExample
from xltlib.data.text import keyboard_of, tokenizer_of, world_of
from xltlib.data.tokenization import SEP
from xltlib.evaluation import qa_scores
from xltlib.finetuning import methods as finetuning
from xltlib.finetuning import task_builders
from xltlib.finetuning.encoding import Encoded
from xltlib.finetuning.task_case import Case
from xltlib.noise import typing as noise
from xltlib.pretraining import encoder_builders, models, seq2seq
from xltlib.pretraining.losses import Recipe, tokens_read
from xltlib.pretraining.options import SpanOptions
from xltlib.pretraining.training import Optimization, Progress, fit
from xltlib.store import Result, Spec, save_scores


def build_seq2seq(spec: Spec, inputs: list[Result], directory: Path, progress: Progress | None) -> dict:
    """Pre-train an encoder-decoder from scratch by span corruption of documents, as the run's options say."""
    params, (text,) = spec.params, inputs
    chosen = SpanOptions(**params["options"])
    shape = {name: params[name] for name in ("hidden_size", "num_layers", "num_heads")}
    model = seq2seq.tiny(text.values["vocab_size"], seed=params["seed"], **shape)
    model = model.to(models.device(params.get("device", "cpu")))
    tokens = params.get("batch_tokens", 0)
    recipe = Recipe(params["batch_size"], chosen.mask_rate, params["seed"], batch_tokens=tokens)
    loss = seq2seq.span_loss(model, _documents(text), tokenizer_of(text), recipe, chosen)
    precision = params.get("precision", "float32")
    opt = Optimization(params["pretrain_steps"], params["pretrain_lr"], precision=precision)
    name = f"span corruption, noise {chosen.noise}, seed {params['seed']}"
    history = fit(model, loss, opt, directory, progress, name)
    model.save(directory)
    told = {"tokens": tokens_read(history)} if tokens else {}
    return {"parameters": models.parameter_count(model), "history": history} | told


def _documents(text: Result) -> seq2seq.Corpus:
    pools, weights = encoder_builders.document_pools(text)
    languages, real = list(text.values["languages"]), text.params.get("data", "synthetic") == "real"
    found = map(noise.keyboard_for if real else partial(keyboard_of, world_of(text)), languages)
    return seq2seq.Corpus(pools, weights, list(found))


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
    steps = finetuning.steps_for(data, params["batch_size"], params["finetune_epochs"])
    name = f"answers by {case.method} from {case.labels['objective']}, seed {case.seed}"
    opt, size = case.optimization(steps), params["batch_size"]
    history = finetuning.finetune(model, data, opt, size, case.seed, _loss, directory, progress, name)
    longest = min(data.targets.shape[1] - 1, seq2seq.LONGEST_ANSWER)
    test, scores = case.examples("test", params["test_examples"]), {}
    plain = {name: test[name] for name in case.languages if name in test}
    noisy = task_builders.typo_settings("qa", plain, *case.keyboards(plain))
    for setting, examples in [*((name, test[name]) for name in case.settings(test)), *noisy]:
        scores |= task_builders.named(setting, answer_scores(model, case, examples, setting, longest))
    save_scores(directory / "scores.npz", scores)
    told = {"labels": case.labels, "means": task_builders.means(scores)}
    return told | {"updates": steps, "history": history}


def _loss(model: seq2seq.EncoderDecoder, batch: finetuning.Batch) -> dict[str, Tensor]:
    return seq2seq.target_loss(model, batch.ids, batch.told.get("attention_mask"), batch.targets)


def encode(case: Case, examples: Sequence[SpanExample], end: int, training: bool = False) -> Encoded:
    """Questions in the form of pre-training: passage [SEP] question sentinel end -> sentinel answer end.

    Rows, windows and spans are those of `encoding.encode`; `second` is 0, where the passage begins.
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
    model: seq2seq.EncoderDecoder, case: Case, examples: Sequence[SpanExample], setting: str, longest: int
) -> dict[str, np.ndarray]:
    """Per-example scores (N,) of the answers that a model writes: {"": exact match, "f1": F1}.

    Of the windows of a long passage the one counts whose answer is the surest.
    """
    rows = encode(case, examples, model.end)
    written, sure = seq2seq.write(model, rows.ids, longest)
    pieces, best, texts = seq2seq.pieces_of(case.tokenizer), {}, {}
    for row in np.argsort(sure, kind="stable").tolist():
        best[int(rows.examples[row])] = row
    for number, row in best.items():
        texts[examples[number].id] = _in_passage(rows, row, written[row], examples[number].context, pieces)
    found = qa_scores(examples, texts, *case.comparison(setting))
    return {"": found["exact_match"], "f1": found["f1"]}


def _in_passage(rows: Encoded, row: int, ids: np.ndarray, context: str, pieces: Sequence[str]) -> str:
    """The text of an answer: where its subwords first stand in the passage, or put together from them."""
    passage = rows.ids[row][: len(rows.spans[row])]
    for at in np.flatnonzero(passage == ids[0]).tolist() if len(ids) else ():
        if np.array_equal(passage[at : at + len(ids)], ids):
            start, stop = rows.characters([row], np.array([[at, at + len(ids) - 1]]))[0]
            return context[start:stop]
    return seq2seq.text_of(ids, pieces)
