"""Text to tokens: bytes, or pieces of words from a vocabulary file.

A vocabulary, and the length, are public settings: they must not be made from private
captions. What made the tokens of a run is part of its condition, by the SHA-256 of the
file, so that prompts are read as the captions were.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from dpdm_jax import validate
from dpdm_jax.conditions.tokens import Tokens
from dpdm_jax.errors import InputError, reason
from dpdm_jax.user_paths import user_path

#: What ``Tokens.tokenizer`` is of bytes; of a file it is its SHA-256.
BYTES = "bytes"

_FILES = "a file tokenizer.json of the library tokenizers, or a vocab.txt of BERT's"
# What stands at place 0 of a vocabulary that has a token to fill up with.
_PADS = ("[PAD]", "<pad>", "<PAD>")
_SPECIAL = ("[CLS]", "[SEP]", "[UNK]")


@dataclasses.dataclass(frozen=True)
class Settings:
    """How text becomes tokens.

    Attributes:
        length: tokens of every caption, >= 1: longer ones are cut at their end, shorter
            ones filled up with token 0.
        vocabulary: a file tokenizer.json of the library tokenizers, or vocab.txt of
            BERT's; "" takes the bytes of UTF-8.

    Raises:
        InputError: the length is out of range.
    """

    length: int = 64
    vocabulary: str = ""

    def __post_init__(self) -> None:
        validate.integer("data.captions.length", self.length, minimum=1)


class Tokenized(NamedTuple):
    """Texts as tokens.

    Attributes:
        tokens: int32 [n, length].
        is_cut: bool [n], True where a text was too long.
    """

    tokens: np.ndarray
    is_cut: np.ndarray


class Tokenizer(Protocol):
    """Turns texts into tokens.

    Attributes:
        condition: what its tokens are.
    """

    @property
    def condition(self) -> Tokens: ...

    def __call__(self, texts: Sequence[str]) -> Tokenized:
        """Tokenizes texts; blanks around one are no part of it."""
        ...


@dataclasses.dataclass(frozen=True)
class _Tokenizer:
    """A tokenizer; ``pieces`` gives the tokens of a text, and whether it was cut."""

    condition: Tokens
    pieces: Callable[[str], tuple[Sequence[int], bool]]

    def __call__(self, texts: Sequence[str]) -> Tokenized:
        """See ``Tokenizer``."""
        tokens = np.zeros((len(texts), self.condition.length), np.int32)
        is_cut = np.zeros(len(texts), bool)
        for i, text in enumerate(texts):
            found, is_cut[i] = self.pieces(text.strip())
            tokens[i, : len(found)] = found
        return Tokenized(tokens, is_cut)


def build(settings: Settings) -> Tokenizer:
    """Builds the tokenizer of given settings.

    Raises:
        InputError: the vocabulary cannot be read, or the library that reads it is not
            installed.
    """
    if settings.vocabulary:
        return _from_file(settings.vocabulary, settings.length)
    return of_bytes(settings.length)


def of_bytes(length: int) -> Tokenizer:
    """Returns the tokenizer whose tokens are the bytes of UTF-8, each one more.

        >>> made = of_bytes(4)(["cat", "", "horse"])
        >>> made.tokens.tolist()
        [[100, 98, 117, 0], [0, 0, 0, 0], [105, 112, 115, 116]]
        >>> made.is_cut.tolist()
        [False, False, True]

    Args:
        length: tokens of a text, >= 1.
    """

    def pieces(text: str) -> tuple[Sequence[int], bool]:
        found = text.encode(errors="surrogatepass")
        return [byte + 1 for byte in found[:length]], len(found) > length

    return _Tokenizer(Tokens(length, 257, BYTES), pieces)


def describe(condition: Tokens) -> str:
    """Returns which settings of a config give the tokens of a condition."""
    vocabulary = f"=FILE with the SHA-256 {condition.tokenizer}"
    if condition.tokenizer == BYTES:
        vocabulary = "=''"
    return (
        f"data.condition='captions', data.captions.length={condition.length} and "
        f"data.captions.vocabulary{vocabulary}"
    )


def _from_file(name: str, length: int) -> Tokenizer:
    path = user_path("data.captions.vocabulary", name)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"data.captions.vocabulary is {name!r}, which cannot be read "
            f"({reason(error)}); allowed: {_FILES}, or '' for bytes."
        ) from None
    library = _import_tokenizers(name)
    try:
        made = _of_library(library, path.suffix, content.decode())
        vocabulary = made.get_vocab(with_added_tokens=True)
        # Of files without padding at place 0, tokens are one more.
        shift = int(made.id_to_token(0) not in _PADS)
        size = max(vocabulary.values()) + 1 + shift
        made.no_padding()
        made.enable_truncation(max_length=length)
        pieces = functools.partial(_pieces, made, shift)
        empty, _ = pieces("")
    # The library raises Exception itself for what is no tokenizer, or no room for the
    # tokens that it puts around each text.
    except Exception as error:
        raise InputError(
            f"data.captions.vocabulary is {name!r}, with which {length} tokens cannot "
            f"be made ({reason(error)}); allowed: {_FILES}."
        ) from None
    digest = hashlib.sha256(content).hexdigest()
    return _Tokenizer(Tokens(length, size, digest, tuple(empty)), pieces)


def _pieces(made: Any, shift: int, text: str) -> tuple[Sequence[int], bool]:
    encoding = made.encode(text.encode(errors="replace").decode())
    return [token + shift for token in encoding.ids], bool(encoding.overflowing)


def _of_library(library: Any, suffix: str, content: str) -> Any:
    """Returns the library's tokenizer; raises whatever it raises."""
    if suffix == ".json":
        return library.Tokenizer.from_str(content)
    pieces = [line.rstrip("\r") for line in content.removesuffix("\n").split("\n")]
    if pieces[0] not in _PADS or not {*_SPECIAL} <= {*pieces}:
        raise ValueError(f"no [PAD] in its first line, or no {', '.join(_SPECIAL)}")
    # Only a vocabulary of cased text has capitals, those of special tokens aside.
    lowercase = not any(p.lower() != p for p in pieces if not p.startswith("["))
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    return library.BertWordPieceTokenizer(vocabulary, lowercase=lowercase)


def _import_tokenizers(name: str) -> Any:
    try:
        import tokenizers
    except ImportError as error:
        raise InputError(
            f"data.captions.vocabulary is {name!r}, which needs tokenizers "
            f"({reason(error)}); allowed: pip install 'dpdm_jax[text]', or '' for "
            "bytes."
        ) from None
    return tokenizers
