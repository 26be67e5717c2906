"""Joint tokenizers: the same from every process, with maps between words, subwords and characters."""

import json
from unicodedata import category

import numpy as np
import pytest
import tokenizers
from transformers import BertConfig, BertTokenizer, T5Tokenizer, XLMRobertaConfig, XLMRobertaTokenizer

from xltlib import StudyError
from xltlib.data import tasks, tokenization
from xltlib.data.tokenization import CLS, PAD, SEP, SPECIAL, UNK, WordEncoder, encode_texts, join, overlaps

TEXTS = [
    "the cat sat on the mat .",
    "a cat and a dog sat",
    "кот сидел на ковре",
    "кот и пёс",
    "the dog sat",
] * 3


@pytest.fixture(scope="module")
def tokenizer():
    return tokenization.train(TEXTS, 90)


def test_special_tokens_have_the_ids_that_the_study_counts_on(tokenizer):
    ids = [PAD, UNK, CLS, SEP, tokenization.MASK]
    assert tokenizer.convert_tokens_to_ids(list(SPECIAL)) == ids == list(range(5))
    assert (tokenizer.pad_token_id, tokenizer.mask_token_id) == (PAD, tokenization.MASK)
    assert len(tokenizer) <= 90


def test_frequent_words_are_one_subword_and_unseen_words_are_put_together(tokenizer):
    assert len(tokenizer.encode("cat", add_special_tokens=False)) == 1
    pieces = tokenizer.tokenize("tacodog")
    assert "".join(piece.removeprefix("##") for piece in pieces) == "tacodog"
    assert UNK not in tokenizer.encode("tacodog сок", add_special_tokens=False)
    assert tokenizer.encode("漢", add_special_tokens=False) == [UNK]


def test_words_and_subwords_map_both_ways(tokenizer):
    words = ["the", "tacodog", "сидел", "."]
    ids, owners = WordEncoder(tokenizer)(words)
    assert owners == sorted(owners)
    pieces = [""] * len(words)
    for piece, owner in zip(tokenizer.convert_ids_to_tokens(ids), owners, strict=True):
        pieces[owner] += piece.removeprefix("##")
    assert pieces == words
    assert WordEncoder(tokenizer)([]) == ([], [])
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


def test_what_cannot_be_trained_or_loaded_is_refused(tmp_path):
    with pytest.raises(StudyError, match="vocab_size 20 is too small.* 41 subwords"):
        tokenization.train(["abcdefghijklmnopqr"], 20)  # 5 special, 18 characters, each twice
    with pytest.raises(StudyError, match="tokenizer.json is missing"):
        tokenization.load(tmp_path)


def test_join():
    assert join([7, 8], [9]).tolist() == [CLS, 7, 8, SEP, 9, SEP]
    assert join([7]).dtype == np.int64
    assert join([], []).tolist() == [CLS, SEP, SEP]


@pytest.mark.parametrize("sequences", [[[1, 2], [3], [4, 5, 6]], [[], [1], []], [[]], []])
def test_packing_round_trip(sequences):
    packed = tokenization.pack("de", sequences)
    assert [s.tolist() for s in tokenization.unpack(packed, "de")] == sequences
    assert packed["de/values"].dtype == np.int32


def sentencepiece(texts, size):
    """Pieces and scores of a Unigram model with XLM-R's special tokens, the alphabet in it."""
    learner = tokenizers.Tokenizer(tokenizers.models.Unigram())
    learner.normalizer = tokenizers.normalizers.NFKC()
    learner.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    trainer = tokenizers.trainers.UnigramTrainer(
        vocab_size=size, special_tokens=special, unk_token="<unk>", show_progress=False
    )
    learner.train_from_iterator(texts, trainer)
    return [tuple(piece) for piece in json.loads(learner.to_str())["model"]["vocab"]]


def published(kind, texts, size=400):
    """A tokenizer as a published model has it, with a vocabulary of its own."""
    if kind == "bert":
        words = [word for word in tokenization.train(texts, size).get_vocab() if word not in SPECIAL]
        # mBERT's order: special tokens are not the first five
        vocab = ["[PAD]", "unused", *words, "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        return BertTokenizer(vocab={word: index for index, word in enumerate(vocab)}, do_lower_case=False)
    pieces = sentencepiece(texts, size)
    if kind == "xlmr":
        made = XLMRobertaTokenizer(vocab=[*pieces, ("<mask>", 0.0)])
    else:
        made = T5Tokenizer(vocab=[("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *pieces[4:]], extra_ids=0)
    made.backend_tokenizer.normalizer = tokenizers.normalizers.NFKC()  # the published charsmap does as much
    return made


KINDS = ("bert", "xlmr", "t5")


@pytest.mark.parametrize("kind", KINDS)
def test_sequences_are_joined_as_the_tokenizer_does(kind):
    made = published(kind, TEXTS)
    special = tokenization.specials(made)
    (a, b), _ = encode_texts(made, ["the cat", "кот"])
    assert join(a, b, special=special).tolist() == made("the cat", "кот")["input_ids"]
    assert join(a, special=special).tolist() == made("the cat")["input_ids"]
    assert special.pad == made.pad_token_id
    assert (
        special.mask == made.mask_token_id == {"bert": special.mask, "xlmr": len(made) - 1, "t5": None}[kind]
    )
    expected = [i not in made.all_special_ids for i in made("the cat", "кот")["input_ids"]]
    assert special.ordinary(join(a, b, special=special)).tolist() == expected
    assert special.ordinary(np.array([[special.pad, a[0]]])).tolist() == [[False, True]]


def test_own_tokenizers_have_their_special_tokens_in_the_study_s_places(tokenizer):
    assert tokenization.specials(tokenizer) == tokenization.OWN
    bare = type(tokenizer)(tokenizer_object=tokenizer.backend_tokenizer)
    with pytest.raises(StudyError, match="no token to begin or to end a sequence with"):
        tokenization.specials(bare)


@pytest.mark.parametrize(("kind", "config"), [("bert", BertConfig), ("xlmr", XLMRobertaConfig)])
def test_a_published_tokenizer_is_loaded_from_beside_its_model(tmp_path, kind, config):
    made = published(kind, TEXTS)
    made.backend_tokenizer.enable_truncation(2)  # some are published with both
    made.backend_tokenizer.enable_padding()
    made.save_pretrained(tmp_path)
    config(vocab_size=len(made)).save_pretrained(tmp_path)
    if kind == "bert":  # as mBERT's: the names of its special tokens are known from its kind alone
        (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false, "model_max_length": 512}')
    loaded = tokenization.load(tmp_path)
    made.backend_tokenizer.no_truncation()
    made.backend_tokenizer.no_padding()
    assert encode_texts(loaded, ["the cat", "кот"]) == encode_texts(made, ["the cat", "кот"])
    assert tokenization.specials(loaded) == tokenization.specials(made)
    assert loaded("the cat", "кот")["input_ids"] == made("the cat", "кот")["input_ids"]
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(StudyError, match="the tokenizer cannot be loaded"):
        tokenization.load(tmp_path)


def test_overlaps_by_hand():
    words, pieces = [(0, 3), (4, 6), (6, 7), (9, 9), (10, 12)], [(0, 1), (1, 3), (4, 7), (8, 8), (10, 12)]
    assert overlaps(words, pieces).tolist() == [[0, 2], [2, 3], [2, 3], [4, 4], [4, 5]]
    assert overlaps(pieces, words).tolist() == [[0, 1], [0, 1], [1, 3], [3, 3], [4, 5]]
    assert overlaps([], pieces).shape == overlaps([], []).shape == (0, 2)
    assert overlaps([(0, 1)], []).tolist() == [[0, 0]]


def test_blanks_are_no_part_of_a_subword():
    made = published("t5", TEXTS)
    made.backend_tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    text = " the  cat"
    _, (spans,) = encode_texts(made, [text])
    assert all(text[start:end] == text[start:end].strip() for start, end in spans)
    (sentence,) = tokenization.cut_texts(made, [text])
    assert sentence.words == ["the", "cat"]


@pytest.mark.parametrize("kind", ["bert", "xlmr"])
def test_subwords_and_answers_are_found_again_in_every_script(data, kind):
    languages = ["ar", "de", "el", "en", "es", "hi", "ro", "ru", "th", "tr", "vi", "zh"]
    asked = {language: tasks.load("xquad", "test", language, data)[::20] for language in languages}
    examples = [example for own in asked.values() for example in own]
    alphabet = sorted({char for example in examples for char in example.context})
    made = published(kind, [*(example.question for example in examples), "".join(alphabet)], 6000)
    for example in examples:
        _, (spans,) = encode_texts(made, [example.context])
        covered = {place for start, end in spans for place in range(start, end)}
        lost = {c for place, c in enumerate(example.context) if place not in covered and not c.isspace()}
        # BERT drops what shows nothing, and the mark of a character that was lost before
        assert all(category(char).startswith("C") or char == "\ufffd" for char in lost), lost
        for start, text in example.answers:
            ((a, b),) = overlaps([(start, start + len(text))], spans)
            assert a < b, example.id
            assert spans[a][0] <= start + len(text) - len(text.lstrip()), example.id
            assert spans[b - 1][1] >= start + len(text.rstrip()), example.id
