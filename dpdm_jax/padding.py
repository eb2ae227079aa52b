"""Padding: how batches of any size are given one static shape."""

from typing import Any

import jax
import numpy as np

#: Stands for no example in an array of indices.
PADDING = -1


def pad_indices(indices: np.ndarray, multiple: int) -> np.ndarray:
    """Fills ``indices`` up with -1 to the next multiple, at least one multiple.

    Args:
        indices: int [n], n >= 0.
        multiple: the micro-batch size, >= 1.

    Returns:
        int64 [max(1, ceil(n / multiple)) * multiple], padding last.
    """
    length = max(1, -(-len(indices) // multiple)) * multiple
    padded = np.full(length, PADDING, np.int64)
    padded[: len(indices)] = indices
    return padded


def batch_indices(order: np.ndarray, batch_size: int) -> np.ndarray:
    """Cuts an order of examples into batches.

    Args:
        order: int [n], n >= 1.
        batch_size: >= 1.

    Returns:
        int32 [ceil(n / batch_size), batch_size], the last row filled up with -1.
    """
    return pad_indices(order, batch_size).reshape(-1, batch_size).astype(np.int32)


def fill_rows(room: Any, rows: Any, values: Any) -> None:
    """Writes a tree of arrays [n, ...] into some rows of another of its kind.

    Args:
        room: NumPy arrays [m, ...], see ``blank_examples``.
        rows: which n of the m: a slice, or bool [m].
        values: of which the arrays there are.
    """

    def fill(array: np.ndarray, some: np.ndarray) -> None:
        array[rows] = some

    jax.tree.map(fill, room, values)


def blank_examples(spec: Any, size: int) -> Any:
    """Returns what stands in a batch where there is no example.

    Args:
        spec: shapes and dtypes of one example, as a pytree.
        size: of the batch, >= 0.

    Returns:
        The same tree of zeros [size, ...], NumPy arrays that may be filled in.
    """
    return jax.tree.map(lambda one: np.zeros((size, *one.shape), one.dtype), spec)
