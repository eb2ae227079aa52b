"""No condition."""

import dataclasses

import jax
import numpy as np
from numpy.typing import ArrayLike

from dpdm_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Unconditional:
    """Nothing is said of an example; see ``Condition``. Its value is int32 [], 0."""

    def __str__(self) -> str:
        return "0 classes"

    @property
    def spec(self) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((), np.int32)

    @property
    def null(self) -> None:
        return None

    @property
    def num_classes(self) -> int:
        return 0

    def check(self, values: np.ndarray) -> None:
        if values.any():
            raise InputError(f"a label is {values[values != 0][0]}; allowed: 0 to 0.")

    def in_turn(self, count: int) -> np.ndarray:
        return np.zeros(count, np.int32)

    def choose(self, wanted: str | ArrayLike, count: int, seed: int) -> np.ndarray:
        """Returns zeros, whatever is wanted."""
        return np.zeros(count, np.int32)
