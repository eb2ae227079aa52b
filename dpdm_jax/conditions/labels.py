"""Class labels."""

import dataclasses

import jax
import numpy as np
from numpy.typing import ArrayLike

from dpdm_jax.conditions.base import Condition, given_integers, is_file
from dpdm_jax.conditions.unconditional import Unconditional
from dpdm_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Labels:
    """The class of an example, int32 []; see ``Condition``.

    Attributes:
        num_classes: n >= 1; labels lie in [0, n), and n is the null label.
    """

    num_classes: int

    def __str__(self) -> str:
        return f"{self.num_classes} classes"

    @property
    def spec(self) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((), np.int32)

    @property
    def null(self) -> np.int32:
        return np.int32(self.num_classes)

    def check(self, values: np.ndarray) -> None:
        outside = (values < 0) | (values >= self.num_classes)
        if outside.any():
            raise InputError(
                f"a label is {values[outside][0]}; allowed: 0 to "
                f"{self.num_classes - 1}."
            )

    def in_turn(self, count: int) -> np.ndarray:
        return np.arange(count, dtype=np.int32) % self.num_classes

    def choose(self, wanted: str | ArrayLike, count: int, seed: int) -> np.ndarray:
        """See ``Condition``; one class, as 3 or "3", is allowed, too."""
        allowed = (
            f"uniform, balanced, a class 0 to {self.num_classes - 1}, or a .npy file "
            f"of {count} such integers"
        )
        if isinstance(wanted, str) and not is_file(wanted):
            if wanted == "uniform":
                rng = np.random.default_rng(seed)
                return rng.integers(self.num_classes, size=count, dtype=np.int32)
            if wanted == "balanced":
                return self.in_turn(count)
            if not wanted.isdecimal():
                raise InputError(f"sample.labels is {wanted!r}; allowed: {allowed}.")
            labels = np.full(count, int(wanted))
        elif not isinstance(wanted, str) and np.ndim(wanted) == 0:
            if not isinstance(wanted, (int, np.integer)) or isinstance(wanted, bool):
                raise InputError(f"sample.labels is {wanted!r}; allowed: {allowed}.")
            labels = np.full(count, int(wanted))
        else:
            labels = given_integers(wanted, (count,), allowed)
        outside = (labels < 0) | (labels >= self.num_classes)
        if outside.any():
            raise InputError(
                f"sample.labels asks for class {labels[outside][0]}; allowed: "
                f"{allowed}."
            )
        return labels.astype(np.int32)


def of_classes(num_classes: int) -> Condition:
    """Returns class labels, or no condition if there are 0 classes."""
    return Labels(num_classes) if num_classes else Unconditional()
