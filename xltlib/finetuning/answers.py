"""Question 0, of the synthetic languages: an encoder-decoder in the manner of mT5 that answers in writing.

It is pre-trained by span corruption, with noise in what it reads or without, then tuned on the source's
questions. Shapes: B batch, T tokens of a document, S of a source, U of a target, H hidden, V vocabulary,
N examples.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from xltlib.data.languages import keyboard_of
from xltlib.data.tasks import SpanExample
from xltlib.data.text import tokenizer_of, world_of
from xltlib.data.tokenization import PAD, SEP, SPECIAL, PreTrainedTokenizerFast, WordEncoder
from xltlib.evaluation import qa_scores
from xltlib.finetuning import tasks
from xltlib.finetuning.case import Case
from xltlib.finetuning.methods import finetune, steps_for
from xltlib.finetuning.tasks import Encoded, named
from xltlib.finetuning.transfer import saved, typo_settings
from xltlib.noise import typing as noise
from xltlib.pretraining import models
from xltlib.pretraining.encoders import document_pools
from xltlib.pretraining.objectives import Loss, Recipe, tokens_read
from xltlib.pretraining.options import SHAPE, SpanOptions
from xltlib.pretraining.training import Optimization, Pool, Progress, fit, pad, stacked
from xltlib.store import Result, Spec

SENTINELS = 32  # as many masked spans a document may have (T5 has 100, for documents of 512 subwords)
LONGEST_TARGET = 128  # subwords and sentinels
MASK_RATE, MEAN_SPAN = 0.15, 3.0  # share of the subwords masked, and the mean length of a span: as mT5
NOISY = 0.1  # share of the words (typing errors) or subwords (replaced) that noise hits; no source has one
IGNORED = -100  # a target that no loss counts
DECODER = "decoder.safetensors"
LONGEST = 16  # subwords and end of an answer, at most, or as many as the longest training answer has


class EncoderDecoder(nn.Module):
    """An encoder, and a decoder of one layer that shares its embeddings and its output layer.

    The vocabulary goes on after the tokenizer's: `end`, which ends sources and targets, then the sentinels.
    The encoder is the one that all other objectives have: at this size mT5's own (attention unscaled, a bias
    for each distance) is several times slower to learn how to compare words across sentences.
    """

    def __init__(self, encoder: models.Encoder) -> None:
        super().__init__()
        hidden, heads = encoder.hidden_size, encoder.lm.config.num_attention_heads
        layer = nn.TransformerDecoderLayer(
            hidden, heads, 2 * hidden, 0.0, "gelu", batch_first=True, norm_first=True, bias=False
        )  # fmt: skip
        self.encoder = encoder
        self.decoder = nn.ModuleDict({
            "positions": nn.Embedding(LONGEST_TARGET, hidden),
            "norm": nn.LayerNorm(hidden, bias=False),
            "layers": nn.TransformerDecoder(layer, 1, nn.LayerNorm(hidden, bias=False)),
        })  # fmt: skip
        nn.init.normal_(self.decoder["positions"].weight, std=0.05)

    @property
    def end(self) -> int:
        """The id that ends sources and targets; the first sentinel is the next one."""
        return self.encoder.vocab_size - 1 - SENTINELS

    def decode(self, states: Tensor, mask: Tensor | None, before: Tensor) -> Tensor:
        """Vectors (B, U, H) for what follows each token of `before` (B, U), given states (B, S, H)."""
        length = before.shape[1]
        words = self.decoder["norm"](self.encoder.embeddings()(before))
        embedded = words + self.decoder["positions"].weight[:length]
        later = torch.ones(length, length, dtype=torch.bool, device=states.device).triu(1)
        hidden = None if mask is None else mask == 0
        return self.decoder["layers"](
            embedded, states, later, memory_key_padding_mask=hidden, tgt_is_causal=True
        )

    def forward(self, source: Tensor, target: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Scores (B, U, V) of each token of the targets (B, U), given a source (B, S) and those before it."""
        before = F.pad(target[:, :-1].clamp(min=PAD), (1, 0), value=PAD)
        states = self.encoder.states(source, attention_mask)
        return self.encoder.logits(self.decode(states, attention_mask, before))

    def save(self, directory: Path) -> None:
        """Write the encoder, and the decoder beside it (safetensors); `models.load` reads the encoder."""
        self.encoder.save(directory)
        save_file(self.decoder.state_dict(), directory / DECODER)


def tiny(words: int, hidden_size: int, num_layers: int, num_heads: int, seed: int) -> EncoderDecoder:
    """A new encoder-decoder for so many subwords; the seed alone fixes its weights."""
    encoder = models.tiny(words + 1 + SENTINELS, hidden_size, num_layers, num_heads, seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return EncoderDecoder(encoder)


def load(directory: Path) -> EncoderDecoder:
    """An encoder-decoder that `save` wrote."""
    model = EncoderDecoder(models.load(directory))
    model.decoder.load_state_dict(load_file(directory / DECODER))
    return model


def target_loss(
    model: EncoderDecoder, source: Tensor, target: Tensor, attention_mask: Tensor | None = None
) -> dict[str, Tensor]:
    """Mean cross-entropy of the targets (B, U), but where they are IGNORED."""
    scores = model(source, target, attention_mask)
    return {"loss": F.cross_entropy(scores.flatten(0, 1), target.flatten(), ignore_index=IGNORED)}


# Span corruption


def span_mask(length: int, rng: np.random.Generator) -> np.ndarray:
    """Which of `length` tokens are masked (T,) bool: seen and masked spans in turn, a seen one first.

    round(length x MASK_RATE) tokens in round(that / MEAN_SPAN) spans, whatever is drawn: documents of one
    length have sources of one length, and targets too. The last token is always masked.
    Source: `random_spans_noise_mask` as released with T5 (arXiv 1910.10683), without its optional roll.
    """
    masked = min(max(round(length * MASK_RATE), 1), length - 1)
    spans = min(max(round(masked / MEAN_SPAN), 1), length - masked)
    lengths = np.empty((spans, 2), dtype=int)  # each a random division into parts of at least 1
    for column, total in enumerate((length - masked, masked)):
        cuts = np.sort(rng.choice(total - 1, spans - 1, replace=False)) + 1
        lengths[:, column] = np.diff([0, *cuts, total])
    return np.repeat(np.tile([False, True], spans), lengths.ravel())


def corrupted(ids: np.ndarray, masked: np.ndarray, end: int) -> tuple[np.ndarray, np.ndarray]:
    """What the encoder reads (S,) and what the decoder writes (U,) of ids (T,) of which some are masked.

    In the source each masked span is one sentinel (end + 1, end + 2, ... from left to right), in the target
    it follows its sentinel; both close with `end`.
    """
    first = masked & ~np.concatenate([[False], masked[:-1]])
    sentinels = end + first.cumsum()
    source = np.where(first, sentinels, ids)[~masked | first]
    target = np.stack([sentinels, ids], 1)[np.stack([first, masked], 1)]
    return np.append(source, end), np.append(target, end)


class Typist:
    """Typing errors in sequences of subwords: in their words, which are then cut into subwords again."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._pieces = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
        self._encode = WordEncoder(tokenizer)

    def __call__(
        self, sources: Sequence[np.ndarray], rate: float, keyboard: noise.Keyboard, rng: np.random.Generator
    ) -> list[np.ndarray]:
        """The sources with an error in a share `rate` of their words; special ids stay as they are."""
        parts = [self._words(source) for source in sources]
        words = [(own, at) for own in parts for at, (word, _) in enumerate(own) if word]
        hit = [words[i] for i in np.flatnonzero(rng.random(len(words)) < rate)]
        typed = noise.typo_many([own[at][0] for own, at in hit], 1.0, keyboard, rng)
        for (own, at), word in zip(hit, typed, strict=True):
            own[at] = word, self._encode([word])[0]
        return [np.array([i for _, ids in own for i in ids]) for own in parts]

    def _words(self, source: np.ndarray) -> list[tuple[str, list[int]]]:
        """Each word with its subwords; special ids, and the end of a word after a sentinel, have no text."""
        words: list[tuple[str, list[int]]] = []
        for i in source.tolist():
            piece = self._pieces[i] if len(SPECIAL) <= i < len(self._pieces) else ""
            if piece.startswith("##") and words and words[-1][0]:
                words[-1] = words[-1][0] + piece[2:], [*words[-1][1], i]
            else:
                words.append(("" if piece.startswith("##") else piece, [i]))
        return words


def span_loss(
    model: EncoderDecoder, pools: Sequence[Pool], chances: np.ndarray,
    keyboards: Sequence[noise.Keyboard], tokenizer: PreTrainedTokenizerFast, recipe: Recipe,
    options: SpanOptions,
) -> Loss:  # fmt: skip
    """Span corruption of the documents, with noise in the sources alone: what is to be written stays clean.

    pools, chances, keyboards : each language's documents, how often it is drawn, and how it is typed.
    Noise has a generator of its own, so that text and spans are the same with it and without.
    """
    typist, device, end = Typist(tokenizer), models.device_of(model), model.end
    special = [*range(len(SPECIAL)), *range(end, end + 1 + SENTINELS)]

    def loss(step: int) -> dict[str, Tensor]:
        rng, other = recipe.rng(step), np.random.default_rng([recipe.seed, 47, step])
        language = rng.choice(len(pools), p=chances)
        whole, _ = pools[language].draw(rng, recipe.batch_size, recipe.batch_tokens)
        ids = whole[:, 1:-1]
        masks = [span_mask(len(row), rng) for row in ids]
        both = (corrupted(row, mask, end) for row, mask in zip(ids, masks, strict=True))
        sources, targets = zip(*both, strict=True)
        if options.noise == "typo":
            sources = typist(sources, NOISY, keyboards[language], other)
        elif options.noise == "token":
            noisy = noise.corrupt_ids(np.concatenate(sources), NOISY, other, special, end)
            sources = np.split(noisy, np.cumsum([len(source) for source in sources])[:-1])
        source, mask = stacked(sources)
        tensors = source, torch.from_numpy(np.stack(targets)), mask
        given = (x if x is None else x.to(device) for x in tensors)
        return recipe.counted(target_loss(model, *given), whole.size)

    return loss


def build_seq2seq(spec: Spec, inputs: list[Result], directory: Path, progress: Progress | None) -> dict:
    """Pre-train an encoder-decoder from scratch by span corruption of documents, as the run's options say."""
    params, (text,) = spec.params, inputs
    options, seed = SpanOptions(**params["options"]), params["seed"]
    model = tiny(text.values["vocab_size"], seed=seed, **{name: params[name] for name in SHAPE})
    model = model.to(models.device(params.get("device", "cpu")))
    recipe = Recipe(params["batch_size"], MASK_RATE, seed, batch_tokens=params.get("batch_tokens", 0))
    keyboards = [keyboard_of(world_of(text), language) for language in text.values["languages"]]
    loss = span_loss(model, *document_pools(text), keyboards, tokenizer_of(text), recipe, options)
    opt = Optimization(
        params["pretrain_steps"], params["pretrain_lr"], precision=params.get("precision", "float32")
    )
    name = f"span corruption, noise {options.noise}, seed {seed}"
    history = fit(model, loss, opt, directory, progress, name)
    model.save(directory)
    counted = {"tokens": tokens_read(history)} if recipe.batch_tokens else {}
    return {"parameters": models.parameter_count(model), "history": history} | counted


# Answers


def build_answers(spec: Spec, inputs: list[Result], directory: Path, progress: Progress | None) -> dict:
    """Fine-tune an encoder-decoder on the source's questions, then score its answers in every language.

    Answers are scored on clean text and under typing errors in questions and passages, at every rate.
    """
    params, (text, start) = spec.params, inputs
    case = Case(params, text)
    model = load(start.file("config.json").parent).to(case.device)
    if params["freeze_embeddings"]:
        model.encoder.embeddings().requires_grad_(False)
    train = case.examples("train", params["train_examples"])[case.source]
    data = encode(case.tokenizer, train, model.end)
    steps = steps_for(data, params["batch_size"], params["finetune_epochs"])
    name = f"answers by {case.method} from {case.labels['objective']}, seed {case.seed}"
    history = finetune(
        model, data, case.optimization(steps), params["batch_size"], case.seed,
        lambda model, batch: target_loss(model, batch.ids, batch.targets, **batch.extra),
        directory, progress, name,
    )  # fmt: skip
    longest = min(data.targets.shape[1] - 1, LONGEST)
    test, scores = case.examples("test", params["test_examples"]), {}
    for setting, examples in [*test.items(), *typo_settings(case, test)]:
        written = write(model, encode(case.tokenizer, examples, model.end), longest)
        texts = [text_of(ids, case.tokenizer) for ids in written]
        scores |= named(setting, qa_scores(examples, texts))
    return {"labels": case.labels, **saved(scores, directory), "updates": steps, "history": history}


def encode(tokenizer: PreTrainedTokenizerFast, examples: Sequence[SpanExample], end: int) -> Encoded:
    """Questions in the form of pre-training: passage [SEP] question sentinel end -> sentinel answer end."""
    rows = tasks.encode(tokenizer, "qa", examples)
    sources, answers = [], []
    for ids, second, (first, last) in zip(rows.ids, rows.second, rows.targets, strict=True):
        question, passage = ids[1 : second - 1], ids[second:-1]  # between [CLS] and [SEP], [SEP] and [SEP]
        sources.append(np.array([*passage, SEP, *question, end + 1, end]))
        answers.append(np.array([end + 1, *ids[first : last + 1], end]))
    targets, _ = pad(answers, IGNORED)
    return replace(rows, ids=sources, targets=targets.numpy(), second=None)


@torch.inference_mode()
def write(model: EncoderDecoder, data: Encoded, longest: int, batch_size: int = 250) -> list[np.ndarray]:
    """What the model writes for each source's first sentinel, greedily: ids up to `end`, at most `longest`.

    Only ordinary subwords of the source can be written, as answers are spans of their passage: a model tuned
    in one language slips into it elsewhere (the "accidental translation" of mT5, arXiv 2010.11934).
    """
    model.eval()
    out: list[np.ndarray] = [np.empty(0, int)] * len(data.ids)
    device, end = models.device_of(model), model.end
    order = np.argsort(data.lengths, kind="stable")
    for rows in np.split(order, range(batch_size, len(order), batch_size)):
        source, extra = tasks.inputs(data, rows, device)
        mask = extra.get("attention_mask")
        states = model.encoder.states(source, mask)
        other = torch.ones(len(rows), model.encoder.vocab_size, dtype=torch.bool, device=device)
        other = other.scatter(1, source, False)
        other[:, : len(SPECIAL)] = other[:, end + 1 :] = True
        before = torch.tensor([[PAD, end + 1]], device=device).repeat(len(rows), 1)
        while before.shape[1] < longest + 2 and not (before == end).any(1).all():
            scores = model.encoder.logits(model.decode(states, mask, before)[:, -1])
            best = scores.masked_fill(other, -torch.inf).argmax(1, keepdim=True)
            before = torch.cat([before, best], 1)
        for row, ids in zip(rows, before[:, 2:].cpu().numpy(), strict=True):
            out[row] = ids[: [*ids.tolist(), end].index(end)]
    return out


def text_of(ids: Sequence[int], tokenizer: PreTrainedTokenizerFast) -> str:
    """The words of subwords; special ids and sentinels have no text."""
    ordinary = [i for i in ids if len(SPECIAL) <= i < len(tokenizer)]
    return " ".join(tokenizer.convert_ids_to_tokens(ordinary)).replace(" ##", "").removeprefix("##")
