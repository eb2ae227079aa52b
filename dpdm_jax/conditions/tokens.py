"""Text, as the numbers of its tokens."""

import dataclasses

import jax
import numpy as np
from numpy.typing import ArrayLike

from dpdm_jax.conditions.base import given_integers
from dpdm_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Tokens:
    """A caption of an example, int32 [length]; see ``Condition``.

    Token 0 stands for none: it fills up short captions, and is all of the null.

    Attributes:
        length: tokens of a caption, >= 1.
        vocabulary: tokens lie in [0, vocabulary), vocabulary >= 2.
    """

    length: int
    vocabulary: int

    def __str__(self) -> str:
        return f"captions of {self.length} tokens 0 to {self.vocabulary - 1}"

    @property
    def spec(self) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((self.length,), np.int32)

    @property
    def null(self) -> np.ndarray:
        return np.zeros(self.length, np.int32)

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
