"""Text to tokens, and what is said of vocabularies that cannot be used."""

import builtins
import hashlib
import json

import numpy as np
import pytest

from dpdm_jax.conditions import Tokens, tokenizers
from dpdm_jax.conditions.tokenizers import Settings
from dpdm_jax.errors import InputError

BERT = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "cat", "##s", "dog"]


@pytest.fixture
def vocab_txt(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(BERT) + "\n")
    return path


@pytest.fixture
def tokenizer_json(tmp_path):
    """Makes a file of whole words."""
    library = pytest.importorskip("tokenizers")

    def make(*words):
        vocabulary = {word: number for number, word in enumerate(words)}
        model = library.models.WordLevel(vocabulary, unk_token="<unk>")
        made = library.Tokenizer(model)
        made.pre_tokenizer = library.pre_tokenizers.Whitespace()
        made.save(str(tmp_path / "tokenizer.json"))
        return tmp_path / "tokenizer.json"

    return make


def test_bytes():
    tokenizer = tokenizers.build(Settings(length=5))
    assert tokenizer.condition == Tokens(5, 257, "bytes")
    tokens, is_cut = tokenizer([" cat\n", "", "café", "cats and dogs"])
    assert tokens.dtype == np.int32
    assert (tokens[0] - 1).tolist()[:3] == list(b"cat")
    assert tokens[:2, 3:].tolist() == [[0, 0], [0, 0]]
    np.testing.assert_array_equal(tokens[1], tokenizer.condition.null)
    assert (tokens[2] - 1).tolist() == list("café".encode())
    assert (tokens[3] - 1).tolist() == list(b"cats ")
    assert is_cut.tolist() == [False, False, False, True]
    tokenizer.condition.check(tokens)


def test_a_vocabulary_of_bert(vocab_txt):
    pytest.importorskip("tokenizers")
    tokenizer = tokenizers.build(Settings(6, str(vocab_txt)))
    digest = hashlib.sha256(vocab_txt.read_bytes()).hexdigest()
    assert tokenizer.condition == Tokens(6, 8, digest, (2, 3))
    tokens, is_cut = tokenizer(["A cats dog", "bird", "", "a a a a a", "\ud800"])
    assert tokens.tolist() == [
        [2, 4, 5, 6, 7, 3],  # lower-cased, for the file has no capitals
        [2, 1, 3, 0, 0, 0],
        [2, 3, 0, 0, 0, 0],
        [2, 4, 4, 4, 4, 3],
        [2, 1, 3, 0, 0, 0],
    ]
    assert is_cut.tolist() == [False, False, False, True, False]
    np.testing.assert_array_equal(tokens[2], tokenizer.condition.null)


def test_a_cased_vocabulary_of_bert(vocab_txt):
    pytest.importorskip("tokenizers")
    vocab_txt.write_text("\r\n".join([*BERT, "Cat"]))
    tokens, _ = tokenizers.build(Settings(4, str(vocab_txt)))(["Cat cat"])
    assert tokens.tolist() == [[2, 8, 5, 3]]


def test_a_file_without_padding_leaves_token_0_to_it(tokenizer_json):
    path = tokenizer_json("a", "cat", "<unk>")
    tokenizer = tokenizers.build(Settings(3, str(path)))
    assert tokenizer.condition.vocabulary == 4
    tokens, is_cut = tokenizer(["a cat dog", "cat", "a a a a"])
    assert tokens.tolist() == [[1, 2, 3], [2, 0, 0], [1, 1, 1]]
    assert is_cut.tolist() == [False, False, True]


def test_a_file_with_padding_keeps_its_numbers(tokenizer_json):
    path = tokenizer_json("<pad>", "a", "cat", "<unk>")
    tokenizer = tokenizers.build(Settings(3, str(path)))
    assert tokenizer.condition.vocabulary == 4
    assert tokenizer(["a cat"]).tokens.tolist() == [[1, 2, 0]]


def test_another_file_is_another_condition(tokenizer_json):
    made = []
    for words in (("<pad>", "a", "<unk>"), ("<pad>", "b", "<unk>")):
        path = tokenizer_json(*words)
        made.append(tokenizers.build(Settings(3, str(path))).condition)
    assert made[0] != made[1]
    assert made[0].vocabulary == made[1].vocabulary


@pytest.mark.parametrize(
    ("name", "content", "length", "message"),
    [
        ("vocab.txt", b"a\nb\n", 4, r"ValueError: no \[PAD\] in its first line"),
        ("vocab.txt", b"\xff\xfe", 4, "UnicodeDecodeError"),
        ("vocab.txt", "\n".join(BERT).encode(), 1, "is 1; allowed: at least 2"),
        ("tokenizer.json", b"{", 4, "4 tokens cannot be made"),
        ("tokenizer.json", json.dumps({"a": 1}).encode(), 4, "allowed: a file"),
    ],
)
def test_bad_files(tmp_path, name, content, length, message):
    pytest.importorskip("tokenizers")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        tokenizers.build(Settings(length, str(tmp_path / name)))
    assert "\n" not in str(error.value)


def test_a_missing_file_and_a_bad_length(tmp_path):
    with pytest.raises(InputError, match=r"none\.txt', which cannot be read"):
        tokenizers.build(Settings(4, str(tmp_path / "none.txt")))
    with pytest.raises(InputError, match=r"data\.captions\.length is 0"):
        Settings(0)


def test_the_extra_is_named_where_it_is_missing(vocab_txt, monkeypatch):
    real = builtins.__import__

    def without(name, *args):
        if name == "tokenizers":
            raise ImportError("No module named 'tokenizers'")
        return real(name, *args)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match=r"allowed: pip install 'dpdm_jax\[text\]'"):
        tokenizers.build(Settings(4, str(vocab_txt)))
    tokenizers.build(Settings(4))  # bytes need nothing
