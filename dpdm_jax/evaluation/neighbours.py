"""Nearest neighbours among many vectors, without the matrix of all distances."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

_BLOCK = 1024  # queries at a time
_POINTS = 16_384  # points at a time, where they are many


class Nearest(NamedTuple):
    """Of each query, the nearest point.

    Attributes:
        distances: float32 [n], Euclidean.
        indices: int64 [n] into the points.
    """

    distances: np.ndarray
    indices: np.ndarray


def squared_distances(
    queries: np.ndarray, points: np.ndarray
) -> Iterator[tuple[slice, np.ndarray]]:
    """Yields squared Euclidean distances, some queries at a time.

    Args:
        queries: float [n, d].
        points: float [m, d].

    Yields:
        A slice of the queries, and float32 [its length, m], >= 0.
    """
    # Products of centred vectors lose the fewest digits.
    centre = points.mean(axis=0, dtype=np.float64).astype(np.float32)
    points = points.astype(np.float32) - centre
    norms = np.einsum("nd,nd->n", points, points)
    for start in range(0, len(queries), _BLOCK):
        part = slice(start, min(start + _BLOCK, len(queries)))
        block = queries[part].astype(np.float32) - centre
        squares = block @ points.T
        squares *= -2
        squares += norms
        squares += np.einsum("nd,nd->n", block, block)[:, None]
        yield part, np.maximum(squares, 0, out=squares)


def radii(points: np.ndarray, ks: tuple[int, ...]) -> np.ndarray:
    """Finds squared distances to the k-th nearest other point.

    Args:
        points: float [n, d], n > max(ks).
        ks: each >= 1; a point is no neighbour of itself.

    Returns:
        float32 [len(ks), n].
    """
    result = np.empty((len(ks), len(points)), np.float32)
    for part, squares in squared_distances(points, points):
        # The point itself comes first, whatever rounding makes of its distance.
        squares[np.arange(len(squares)), np.arange(part.start, part.stop)] = -1
        result[:, part] = np.partition(squares, ks, axis=1)[:, ks].T
    return result


def nearest(queries: np.ndarray, points: np.ndarray) -> Nearest:
    """Finds the nearest point of each query.

    Args:
        queries: [n, d], float, or uint8 such as pixels.
        points: [m, d] likewise, m >= 1. They are converted a block at a time.

    Returns:
        The points and their distances; of points equally near, the first.
    """
    squares = np.full(len(queries), np.inf, np.float32)
    indices = np.zeros(len(queries), np.int64)
    for start in range(0, len(points), _POINTS):
        block = points[start : start + _POINTS]
        for part, found in squared_distances(queries, block):
            best = found.argmin(axis=1)
            least = found[np.arange(len(found)), best]
            closer = least < squares[part]
            squares[part] = np.where(closer, least, squares[part])
            indices[part] = np.where(closer, best + start, indices[part])
    # Once more for the winners, without the rounding of the products.
    distances = np.empty(len(queries), np.float32)
    for start in range(0, len(queries), _BLOCK):
        part = slice(start, start + _BLOCK)
        gap = queries[part].astype(np.float32) - points[indices[part]].astype(
            np.float32
        )
        distances[part] = np.sqrt(np.einsum("nd,nd->n", gap, gap))
    return Nearest(distances, indices)
