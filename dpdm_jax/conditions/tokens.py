"""Text, as the numbers of its tokens."""

import dataclasses

import jax
import numpy as np
from numpy.typing import ArrayLike

from dpdm_jax import validate
from dpdm_jax.conditions.base import given_integers
from dpdm_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Tokens:
    """A caption of an example, int32 [length]; see ``Condition``.

    Token 0 stands for none: it fills up short captions. The null is the empty caption.

    Attributes:
        length: tokens of a caption, >= 1.
        vocabulary: tokens lie in [0, vocabulary), vocabulary >= 2.
        tokenizer: which one made them, see ``tokenizers``; "" if that is not known.
        empty: the tokens of the empty caption, before it is filled up.

    Raises:
        InputError: length or vocabulary is out of range.
    """

    length: int
    vocabulary: int
    tokenizer: str = ""
    empty: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "empty", tuple(self.empty))  # JSON has lists
        validate.integer("length of captions", self.length, minimum=1)
        validate.integer("size of the vocabulary", self.vocabulary, minimum=2)
        if len(self.empty) > self.length:
            raise InputError(
                f"length of captions is {self.length}; allowed: at least "
                f"{len(self.empty)}, which the empty caption has."
            )

    def __str__(self) -> str:
        made = f" made by the tokenizer {self.tokenizer}" if self.tokenizer else ""
        return f"captions of {self.length} tokens 0 to {self.vocabulary - 1}{made}"

    @property
    def spec(self) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((self.length,), np.int32)

    @property
    def null(self) -> np.ndarray:
        null = np.zeros(self.length, np.int32)
        null[: len(self.empty)] = self.empty
        return null

    @property
    def num_classes(self) -> None:
        return None

    def check(self, values: np.ndarray) -> None:
        outside = (values < 0) | (values >= self.vocabulary)
        if outside.any():
            raise InputError(
                f"a token is {values[outside][0]}; allowed: 0 to {self.vocabulary - 1}."
            )

    def in_turn(self, count: int) -> np.ndarray:
        """Returns captions of a single token, of each but 0 in turn."""
        captions = np.zeros((count, self.length), np.int32)
        captions[:, 0] = 1 + np.arange(count) % (self.vocabulary - 1)
        return captions

    def choose(self, wanted: str | ArrayLike, count: int, seed: int) -> np.ndarray:
        """See ``Condition``."""
        shape = (count, self.length)
        if isinstance(wanted, str) and wanted == "uniform":
            rng = np.random.default_rng(seed)
            return rng.integers(self.vocabulary, size=shape, dtype=np.int32)
        if isinstance(wanted, str) and wanted == "balanced":
            return self.in_turn(count)
        allowed = (
            f"uniform, balanced, or a .npy file of {count} rows of {self.length} "
            f"tokens 0 to {self.vocabulary - 1}"
        )
        captions = given_integers(wanted, shape, allowed)
        self.check(captions)
        return captions.astype(np.int32)
