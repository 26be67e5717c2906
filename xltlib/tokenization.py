"""Joint subword tokenizers: training, loading, and the maps between words, subwords and characters."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from unicodedata import normalize

import numpy as np
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from xltlib.params import StudyError

PAD, UNK, CLS, SEP, MASK = range(5)
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_NAMES = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")


def train(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """A WordPiece tokenizer of at most `vocab_size` subwords (special tokens and single characters included).

    The same texts give the same tokenizer: the trainer meets characters in the order of a hash map, so all of
    them and their continuing forms are handed to it, sorted, as if they were special tokens.
    """
    texts = list(texts)
    alphabet = sorted({c for text in texts for c in normalize("NFKC", text) if not c.isspace()})
    seeded = [*SPECIAL, *alphabet, *("##" + c for c in alphabet)]
    if len(seeded) > vocab_size:
        raise StudyError(
            f"vocab_size {vocab_size} is too small: the characters alone need {len(seeded)} subwords"
        )
    learner = _tokenizer(models.WordPiece(unk_token="[UNK]"))
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size, special_tokens=seeded, continuing_subword_prefix="##", show_progress=False
    )
    learner.train_from_iterator(texts, trainer)
    # a fresh model from the vocabulary: in the learner, characters would still be matched as special tokens
    model = models.WordPiece(learner.get_vocab(), unk_token="[UNK]", continuing_subword_prefix="##")
    return PreTrainedTokenizerFast(
        tokenizer_object=_tokenizer(model), **dict(zip(_NAMES, SPECIAL, strict=True))
    )


def _tokenizer(model: models.Model) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer


def load(directory: Path) -> PreTrainedTokenizerFast:
    """A tokenizer that `save_pretrained` wrote."""
    if not (Path(directory) / "tokenizer.json").is_file():
        raise StudyError(f"{directory}: no tokenizer there (tokenizer.json is missing)")
    return PreTrainedTokenizerFast.from_pretrained(directory)


class WordEncoder:
    """Subwords of words that are already apart; each distinct word is looked up once."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.tokenizer = tokenizer
        self._known: dict[str, list[int]] = {}

    def __call__(self, words: Sequence[str]) -> tuple[list[int], list[int]]:
        """Subword ids, and for each subword the index of its word."""
        ids, owners = [], []
        for index, word in enumerate(words):
            pieces = self._known.get(word)
            if pieces is None:
                pieces = self._known[word] = self.tokenizer.encode(word, add_special_tokens=False)
            ids += pieces
            owners += [index] * len(pieces)
        return ids, owners


def encode_texts(
    tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]
) -> tuple[list[list[int]], list[list[tuple[int, int]]]]:
    """Subword ids of each text, without special tokens, and their character spans (start, end)."""
    if not texts:
        return [], []
    out = tokenizer(list(texts), add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    return out["input_ids"], out["offset_mapping"]


def join(*segments: Sequence[int]) -> np.ndarray:
    """[CLS] a [SEP] b [SEP] ... as one array of ids."""
    ids = [CLS]
    for segment in segments:
        ids += [*segment, SEP]
    return np.array(ids, dtype=np.int64)


def pack(sequences: Sequence[Sequence[int]]) -> dict[str, np.ndarray]:
    """Sequences of different lengths as two arrays: all values in a row, and where each sequence ends."""
    flat = (
        np.concatenate([np.asarray(s, dtype=np.int32) for s in sequences])
        if sequences
        else np.empty(0, np.int32)
    )
    return {"values": flat, "ends": np.cumsum([len(s) for s in sequences], dtype=np.int64)}


def unpack(values: np.ndarray, ends: np.ndarray) -> list[np.ndarray]:
    """The sequences that `pack` took."""
    return np.split(values.astype(np.int64), ends[:-1]) if len(ends) else []
