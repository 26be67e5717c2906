"""Joint tokenizers: the same from every process, with maps between words, subwords and characters."""

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest

from xltlib import tokenization
from xltlib.params import StudyError
from xltlib.tokenization import (
    CLS,
    MASK,
    PAD,
    SEP,
    SPECIAL,
    UNK,
    WordEncoder,
    encode_texts,
    join,
    pack,
    unpack,
)

TEXTS = [
    "the cat sat on the mat .",
    "a cat and a dog sat",
    "кот сидел на ковре",
    "кот и пёс",
    "the dog sat",
] * 3

TRAIN = f"""
import sys
from xltlib import tokenization
tokenization.train({TEXTS!r}, 90).save_pretrained(sys.argv[1])
"""


@pytest.fixture(scope="module")
def tokenizer():
    return tokenization.train(TEXTS, 90)


def test_special_tokens_have_the_ids_that_the_study_counts_on(tokenizer):
    assert tokenizer.convert_tokens_to_ids(list(SPECIAL)) == [PAD, UNK, CLS, SEP, MASK] == list(range(5))
    assert (tokenizer.pad_token_id, tokenizer.mask_token_id) == (PAD, MASK)
    assert len(tokenizer) <= 90


def test_two_processes_train_the_same_files(tokenizer, tmp_path):
    found = []
    for seed in ("1", "2"):
        folder = tmp_path / seed
        command = [sys.executable, "-c", TRAIN, str(folder)]
        subprocess.run(command, check=True, env=os.environ | {"PYTHONHASHSEED": seed})
        files = sorted(folder.iterdir())
        found.append({p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in files})
    assert found[0] == found[1]
    assert "tokenizer.json" in found[0]
    assert tokenization.load(tmp_path / "1").get_vocab() == tokenizer.get_vocab()


def test_frequent_words_are_one_subword_and_unseen_words_are_put_together(tokenizer):
    assert len(tokenizer.encode("cat", add_special_tokens=False)) == 1
    pieces = tokenizer.tokenize("tacodog")
    assert "".join(piece.removeprefix("##") for piece in pieces) == "tacodog"
    assert UNK not in tokenizer.encode("tacodog сок", add_special_tokens=False)
    assert tokenizer.encode("漢", add_special_tokens=False) == [UNK]


def test_words_and_subwords_map_both_ways(tokenizer):
    words = ["the", "tacodog", "сидел", "."]
    ids, owners = WordEncoder(tokenizer)(words)
    assert len(ids) == len(owners)
    assert sorted(set(owners)) == [0, 1, 2, 3]
    assert owners == sorted(owners)
    for index, word in enumerate(words):
        pieces = tokenizer.convert_ids_to_tokens(
            [i for i, owner in zip(ids, owners, strict=True) if owner == index]
        )
        assert "".join(piece.removeprefix("##") for piece in pieces) == word
    assert WordEncoder(tokenizer)([]) == ([], [])


def test_words_one_by_one_are_the_text_as_a_whole(tokenizer):
    for text in TEXTS[:5]:
        assert WordEncoder(tokenizer)(text.split())[0] == encode_texts(tokenizer, [text])[0][0]


def test_subwords_know_their_characters(tokenizer):
    ids, spans = encode_texts(tokenizer, ["the tacodog  sat", "кот", ""])
    assert [len(i) for i in ids] == [len(s) for s in spans]
    text = "the tacodog  sat"
    pieces = [text[start:end] for start, end in spans[0]]
    assert pieces == [p.removeprefix("##") for p in tokenizer.convert_ids_to_tokens(ids[0])]
    assert "".join(pieces) == text.replace(" ", "")
    assert (ids[2], spans[2]) == ([], [])
    assert encode_texts(tokenizer, []) == ([], [])


@pytest.mark.parametrize(
    "text",
    ["ﬁne ﬁsh", "कुत्ता बैठा", "الكلب جلس", "สุนัข นั่ง", "ё ё", "狗 坐"],  # ligatures, marks that combine
)
def test_characters_map_back_in_every_script(text):
    tokenizer = tokenization.train([text] * 3, 120)
    ids, spans = encode_texts(tokenizer, [text])
    assert UNK not in ids[0]
    covered = {i for start, end in spans[0] for i in range(start, end)}
    assert covered == {i for i, char in enumerate(text) if not char.isspace()}


def test_a_vocabulary_too_small_for_the_characters_is_refused():
    with pytest.raises(StudyError, match="vocab_size 20 is too small.* 41 subwords"):
        tokenization.train(["abcdefghijklmnopqr"], 20)  # 5 special, 18 characters, each twice


def test_a_folder_without_a_tokenizer_is_refused(tmp_path):
    with pytest.raises(StudyError, match="tokenizer.json is missing"):
        tokenization.load(tmp_path)


def test_join():
    assert join([7, 8], [9]).tolist() == [CLS, 7, 8, SEP, 9, SEP]
    assert join([7]).dtype == np.int64
    assert join([], []).tolist() == [CLS, SEP, SEP]


@pytest.mark.parametrize("sequences", [[[1, 2], [3], [4, 5, 6]], [[], [1], []], [[]], []])
def test_packing_round_trip(sequences):
    packed = pack(sequences)
    assert [s.tolist() for s in unpack(packed["values"], packed["ends"])] == sequences
    assert packed["values"].dtype == np.int32
