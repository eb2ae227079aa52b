"""The interface of conditions."""

from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike

from dpdm_jax.errors import InputError, reason
from dpdm_jax.user_paths import user_path


class Condition(Protocol):
    """A kind of condition, whose values are pytrees of arrays.

    Two are equal if they allow the same values; ``str`` is what messages call one.
    """

    @property
    def spec(self) -> Any:
        """Shapes and dtypes of the value of one example, as a pytree."""
        ...

    @property
    def null(self) -> Any | None:
        """The value that stands for no condition; None if there never is one.

        Label drop-out trains it, and guidance asks for it.
        """
        ...

    @property
    def num_classes(self) -> int | None:
        """Into how many classes examples fall; None if values are no classes."""
        ...

    def check(self, values: Any) -> None:
        """Raises InputError unless all values [n, ...] are allowed."""
        ...

    def in_turn(self, count: int) -> Any:
        """Returns values [count, ...], one after another of those that there are."""
        ...

    def choose(self, wanted: str | ArrayLike, count: int, seed: int) -> Any:
        """Returns the values that images are asked for by; private ones are not used.

        Args:
            wanted: "uniform" (at random), "balanced" (``in_turn``), the path of a .npy
                file with a value an image, such values, or what else a kind allows.
            count: of the images.
            seed: of random ones.

        Returns:
            Values [count, ...]. Those of fewer images are a prefix of those of more.

        Raises:
            InputError: what is wanted is none of these, or out of range.
        """
        ...


def num_classes_for(condition: Condition, reader: str) -> int:
    """Returns the number of classes, for what reads class labels and nothing else.

    Args:
        condition: of the data.
        reader: what messages call who reads.

    Returns:
        Number of classes; 0 for examples without a condition.

    Raises:
        InputError: the condition is no class.
    """
    if condition.num_classes is None:
        raise InputError(
            f"{reader} reads class labels and the condition of the data is "
            f"{condition}; allowed: class labels, or none."
        )
    return condition.num_classes


def is_file(wanted: Any) -> bool:
    """Whether images are asked for by a file, whose content may be private.

    Args:
        wanted: ``sample.labels``, or what stands there in its place.
    """
    return isinstance(wanted, str) and wanted.endswith(".npy")


def given_integers(
    wanted: str | ArrayLike, shape: tuple[int, ...], allowed: str
) -> np.ndarray:
    """Reads integers that are given for images, in a file or as they are.

    Args:
        wanted: path of a .npy file, or the integers.
        shape: that they must have.
        allowed: end of messages.

    Raises:
        InputError: they cannot be read, or are not integers of the shape.
    """
    name = "The list"
    if isinstance(wanted, str):
        name, wanted = wanted, _read(wanted, allowed)
    found = np.asarray(wanted)
    if found.shape != shape or found.dtype.kind not in "iu":
        raise InputError(
            f"{name} holds {found.dtype} of shape {found.shape}; "
            f"allowed for sample.labels: {allowed}."
        )
    return found


def _read(path: str, allowed: str) -> np.ndarray:
    file_path = user_path("sample.labels", path)
    try:
        with open(file_path, "rb") as file:
            # Not np.load, which takes other files for archives or pickles.
            return np.lib.format.read_array(file, allow_pickle=False)
    except Exception as e:  # a damaged header raises many kinds
        raise InputError(
            f"sample.labels is {path!r}, which cannot be read ({reason(e)}); allowed: "
            f"{allowed}."
        ) from None
