"""An encoder-decoder in the manner of mT5, and its pre-training by span corruption, with noise or without.

Shapes: B batch, T tokens of a document, S of a source, U of a target, H hidden, V vocabulary.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from xltlib import StudyError
from xltlib.data.text import keyboard_of, tokenizer_of, world_of
from xltlib.data.tokenization import PAD, SPECIAL, PreTrainedTokenizerFast, WordEncoder
from xltlib.noise import typing as noise
from xltlib.pretraining import models
from xltlib.pretraining.encoders import document_pools
from xltlib.pretraining.models import device_of
from xltlib.pretraining.objectives import Loss, Recipe, tokens_read
from xltlib.pretraining.options import SpanOptions
from xltlib.pretraining.training import Optimization, Pool, Progress, fit, stacked
from xltlib.store import Result, Spec

SENTINELS = 32  # as many masked spans a document may have (T5 has 100, for documents of 512 subwords)
LONGEST_TARGET = 128  # subwords and sentinels
MASK_RATE, MEAN_SPAN = 0.15, 3.0  # share of the subwords masked, and the mean length of a span: as mT5
NOISY = (
    0.1  # share of the words (typing errors) or subwords (replaced ones) that noise hits; no source has one
)
IGNORED = -100  # a target that no loss counts
DECODER = "decoder.safetensors"


class EncoderDecoder(nn.Module):
    """An encoder, and a decoder that shares its embeddings and its output layer.

    The vocabulary goes on after the tokenizer's: `end`, which ends sources and targets, then the sentinels.
    The encoder is the one that all other objectives have: at this size mT5's own (attention unscaled, a bias
    for each distance) is several times slower to learn how to compare words across sentences.
    """

    def __init__(self, encoder: models.Encoder, num_layers: int) -> None:
        super().__init__()
        hidden, heads = encoder.hidden_size, encoder.lm.config.num_attention_heads
        layer = nn.TransformerDecoderLayer(
            hidden, heads, 2 * hidden, 0.0, "gelu", batch_first=True, norm_first=True, bias=False
        )  # fmt: skip
        self.encoder = encoder
        self.decoder = nn.ModuleDict({
            "positions": nn.Embedding(LONGEST_TARGET, hidden),
            "norm": nn.LayerNorm(hidden, bias=False),
            "layers": nn.TransformerDecoder(layer, num_layers, nn.LayerNorm(hidden, bias=False)),
        })  # fmt: skip
        nn.init.normal_(self.decoder["positions"].weight, std=0.05)

    @property
    def end(self) -> int:
        """The id that ends sources and targets; the first sentinel is the next one."""
        return self.encoder.vocab_size - 1 - SENTINELS

    def decode(self, states: Tensor, mask: Tensor | None, before: Tensor) -> Tensor:
        """Vectors (B, U, H) for what follows each token of `before` (B, U), given states (B, S, H)."""
        length = before.shape[1]
        if length > LONGEST_TARGET:
            raise StudyError(
                f"a target of {length} tokens; at most {LONGEST_TARGET}: mask less of the documents"
            )
        embedded = (
            self.decoder["norm"](self.encoder.embeddings()(before))
            + self.decoder["positions"].weight[:length]
        )
        later = torch.ones(length, length, dtype=torch.bool, device=states.device).triu(1)
        hidden = None if mask is None else mask == 0
        return self.decoder["layers"](
            embedded, states, later, memory_key_padding_mask=hidden, tgt_is_causal=True
        )

    def forward(self, source: Tensor, mask: Tensor | None, target: Tensor) -> Tensor:
        """Scores (B, U, V) of each token of the targets (B, U), given a source (B, S) and those before it."""
        before = F.pad(target[:, :-1].clamp(min=PAD), (1, 0), value=PAD)
        return self.encoder.logits(self.decode(self.encoder.states(source, mask), mask, before))

    def save(self, directory: Path) -> None:
        """Write the encoder, and the decoder beside it (safetensors); `models.load` reads the encoder."""
        self.encoder.save(directory)
        save_file(self.decoder.state_dict(), Path(directory) / DECODER)


def tiny(words: int, hidden_size: int, num_layers: int, num_heads: int, seed: int) -> EncoderDecoder:
    """A new encoder-decoder for a tokenizer of so many subwords, with one layer in the decoder.

    The seed fixes its weights; the global generator is left as it was.
    """
    encoder = models.tiny(words + 1 + SENTINELS, hidden_size, num_layers, num_heads, seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return EncoderDecoder(encoder, 1)


def load(directory: Path) -> EncoderDecoder:
    """An encoder-decoder that `save` wrote. StudyError where the folder does not hold one."""
    encoder = models.load(directory)
    try:
        weights = load_file(Path(directory) / DECODER)
        layers = {name.split(".")[2] for name in weights if name.startswith("layers.layers.")}
        model = EncoderDecoder(encoder, len(layers))
        model.decoder.load_state_dict(weights)
    except (OSError, SafetensorError, RuntimeError, IndexError) as error:
        raise StudyError(f"{directory}: the decoder cannot be loaded: {error}") from error
    return model


def target_loss(
    model: EncoderDecoder, source: Tensor, mask: Tensor | None, target: Tensor
) -> dict[str, Tensor]:
    """Mean cross-entropy of the targets (B, U), but where they are IGNORED."""
    scores = model(source, mask, target)
    return {"loss": F.cross_entropy(scores.flatten(0, 1), target.flatten(), ignore_index=IGNORED)}


# Span corruption


def span_mask(length: int, rng: np.random.Generator) -> np.ndarray:
    """Which of `length` tokens are masked (T,) bool: seen and masked spans in turn, a seen one first.

    round(length x MASK_RATE) tokens in round(that / MEAN_SPAN) spans, whatever is drawn: documents of one
    length have sources of one length, and targets too. The last token is always masked.
    Source: `random_spans_noise_mask` as released with T5 (arXiv 1910.10683), without its optional roll.
    """
    if length < 2:
        raise StudyError(f"span corruption: a document of {length} subwords; it takes at least two")
    masked = min(max(round(length * MASK_RATE), 1), length - 1)
    spans = min(max(round(masked / MEAN_SPAN), 1), length - masked)
    lengths = np.stack([_segments(length - masked, spans, rng), _segments(masked, spans, rng)], 1)
    return np.repeat(np.tile([False, True], spans), lengths.ravel())


def _segments(items: int, parts: int, rng: np.random.Generator) -> np.ndarray:
    """Lengths (parts,) of a random division of the items, each at least 1."""
    cuts = np.sort(rng.choice(items - 1, parts - 1, replace=False)) + 1
    return np.diff(np.concatenate([[0], cuts, [items]]))


def source_of(ids: np.ndarray, masked: np.ndarray, end: int) -> np.ndarray:
    """What the encoder reads (S,): ids (T,) with one sentinel for each masked span, then `end`.

    The sentinels are end + 1, end + 2, ... from left to right.
    """
    first, sentinels = _first(masked, end)
    return np.append(np.where(first, sentinels, ids)[~masked | first], end)


def target_of(ids: np.ndarray, masked: np.ndarray, end: int) -> np.ndarray:
    """What the decoder writes (U,): each masked span of ids (T,) after its sentinel, then `end`."""
    first, sentinels = _first(masked, end)
    return np.append(np.stack([sentinels, ids], 1)[np.stack([first, masked], 1)], end)


def _first(masked: np.ndarray, end: int) -> tuple[np.ndarray, np.ndarray]:
    """Where a masked span begins (T,), and the sentinel of the last one begun (T,)."""
    first = masked & ~np.concatenate([[False], masked[:-1]])
    if first.sum() > SENTINELS:
        raise StudyError(
            f"span corruption: {first.sum()} spans, but {SENTINELS} sentinels: mask less, in longer spans"
        )
    return first, end + first.cumsum()


# Noise in sources


class Typist:
    """Typing errors in sequences of subwords: in their words, which are then cut into subwords again."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._pieces = pieces_of(tokenizer)
        self._encode = WordEncoder(tokenizer)

    def __call__(
        self, sources: Sequence[np.ndarray], rate: float, keyboard: noise.Keyboard, rng: np.random.Generator
    ) -> list[np.ndarray]:
        """The sources with an error in a share `rate` of their words; special ids stay as they are."""
        parts = [self._words(source) for source in sources]
        words = [(row, at) for row, own in enumerate(parts) for at, (word, _) in enumerate(own) if word]
        hit = [words[i] for i in np.flatnonzero(rng.random(len(words)) < rate)]
        typed = noise.typo_many([parts[row][at][0] for row, at in hit], 1.0, keyboard, rng)
        for (row, at), word in zip(hit, typed, strict=True):
            parts[row][at] = word, self._encode([word])[0]
        return [np.array([i for _, ids in own for i in ids]) for own in parts]

    def _words(self, source: np.ndarray) -> list[tuple[str, list[int]]]:
        """Each word with its subwords; special ids, and the end of a word after a sentinel, have no text."""
        words: list[tuple[str, list[int]]] = []
        for i in source.tolist():
            piece = self._pieces[i] if len(SPECIAL) <= i < len(self._pieces) else ""
            if not piece.startswith("##"):
                words.append((piece, [i]))
            elif words and words[-1][0]:
                words[-1] = words[-1][0] + piece[2:], [*words[-1][1], i]
            else:
                words.append(("", [i]))
        return words


def pieces_of(tokenizer: PreTrainedTokenizerFast) -> list[str]:
    """The text of each id of a tokenizer; one that goes on with a word starts with ##."""
    return tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))


def replace_ids(
    sources: Sequence[np.ndarray], rate: float, end: int, rng: np.random.Generator
) -> list[np.ndarray]:
    """The sources with a share `rate` of their subwords replaced by any others; special ids stay."""
    special = [*range(len(SPECIAL)), *range(end, end + 1 + SENTINELS)]
    noisy = noise.corrupt_ids(np.concatenate(sources), rate, rng, special, end)
    return np.split(noisy, np.cumsum([len(source) for source in sources])[:-1])


def span_loss(
    model: EncoderDecoder, pools: Sequence[Pool], weights: Sequence[float],
    keyboards: Sequence[noise.Keyboard], tokenizer: PreTrainedTokenizerFast, recipe: Recipe,
    options: SpanOptions,
) -> Loss:  # fmt: skip
    """Span corruption of the documents, with noise in the sources alone: what is to be written stays clean.

    pools, weights, keyboards : each language's documents, how often it is drawn, and how it is typed.
    Noise has a generator of its own, so that text and spans are the same with it and without.
    """
    p, typist = np.asarray(weights, float) / np.sum(weights), Typist(tokenizer)
    device = device_of(model)

    def loss(step: int) -> dict[str, Tensor]:
        rng, other = recipe.rng(step), np.random.default_rng([recipe.seed, 47, step])
        language = rng.choice(len(pools), p=p)
        whole = recipe.draw(pools[language], rng)[0]
        ids = whole[:, 1:-1]
        masks = [span_mask(len(row), rng) for row in ids]
        sources = [source_of(row, mask, model.end) for row, mask in zip(ids, masks, strict=True)]
        target = np.stack([target_of(row, mask, model.end) for row, mask in zip(ids, masks, strict=True)])
        if options.noise == "typo":
            sources = typist(sources, NOISY, keyboards[language], other)
        elif options.noise == "token":
            sources = replace_ids(sources, NOISY, model.end, other)
        source, mask = stacked(sources)
        tensors = [x if x is None else x.to(device) for x in (source, mask, torch.from_numpy(target))]
        return recipe.counted(target_loss(model, *tensors), whole.size)

    return loss


def build_seq2seq(spec: Spec, inputs: list[Result], directory: Path, progress: Progress | None) -> dict:
    """Pre-train an encoder-decoder from scratch by span corruption of documents, as the run's options say."""
    params, (text,) = spec.params, inputs
    options = SpanOptions(**params["options"])
    shape = {name: params[name] for name in ("hidden_size", "num_layers", "num_heads")}
    model = tiny(text.values["vocab_size"], seed=params["seed"], **shape)
    model = model.to(models.device(params.get("device", "cpu")))
    tokens = params.get("batch_tokens", 0)
    recipe = Recipe(params["batch_size"], MASK_RATE, params["seed"], batch_tokens=tokens)
    real = text.params.get("data", "synthetic") == "real"
    keyboard = noise.keyboard_for if real else partial(keyboard_of, world_of(text))
    keyboards = [keyboard(language) for language in text.values["languages"]]
    loss = span_loss(model, *document_pools(text), keyboards, tokenizer_of(text), recipe, options)
    opt = Optimization(
        params["pretrain_steps"], params["pretrain_lr"], precision=params.get("precision", "float32")
    )
    name = f"span corruption, noise {options.noise}, seed {params['seed']}"
    history = fit(model, loss, opt, directory, progress, name)
    model.save(directory)
    counted = {"tokens": tokens_read(history)} if tokens else {}
    return {"parameters": models.parameter_count(model), "history": history} | counted
