"""What the metrics need to know of a set of images' features, kept for next time."""

import pathlib
from typing import NamedTuple

import numpy as np

from dpdm_jax import progress
from dpdm_jax.evaluation import cache, features
from dpdm_jax.evaluation.moments import Moments


class Statistics(NamedTuple):
    """Features of a set, in a random order that a seed determines.

    Attributes:
        first: moments of the first images of that order.
        rest: moments of the others.
        kept: float32 [k, d], features of the first k images of that order.
        order: int [n], their indices.
    """

    first: Moments
    rest: Moments
    kept: np.ndarray
    order: np.ndarray

    @property
    def moments(self) -> Moments:
        """Moments of all images."""
        return self.first.merged(self.rest)


def statistics(
    extractor: features.Extractor,
    images: np.ndarray,
    *,
    first: int,
    keep: int,
    seed: int,
    what: str,
    cache_folder: pathlib.Path | None = None,
) -> Statistics:
    """Computes a set's statistics, or reads them from the cache.

    Args:
        extractor: of the features.
        images: uint8 [n, h, w, c].
        first: images in the first part, 0 <= first <= n.
        keep: images whose features are kept, 0 <= keep <= n.
        seed: of the order.
        what: a word for the progress bar.
        cache_folder: where the result is kept under a checksum of the images, the
            weights, the preprocessing and these arguments; None keeps it nowhere. As
            the images, so is the file: private if they are.

    Returns:
        The statistics.
    """
    order = np.random.default_rng(seed).permutation(len(images))
    path = None
    if cache_folder is not None:
        key = cache.checksum(extractor.fingerprint, f"{first} {seed}", images)
        path = cache_folder / f"features-{key}.npz"
        arrays = cache.read_arrays(path)
        if arrays is not None and len(arrays["kept"]) >= keep:
            stored_first, stored_rest = (
                Moments.from_arrays(*(arrays[f"{p}_{f}"] for f in Moments.FIELDS))
                for p in ("first", "rest")
            )
            return Statistics(stored_first, stored_rest, arrays["kept"][:keep], order)
    parts = Moments(extractor.num_features), Moments(extractor.num_features)
    kept = np.empty((keep, extractor.num_features), np.float32)
    start = 0
    with progress.progress_bar(f"{extractor.name}, {what}", len(images)) as bar:
        for batch in features.compute(extractor, images, order, bar):
            cut = max(0, first - start)
            parts[0].add(batch[:cut])
            parts[1].add(batch[cut:])
            wanted = batch[: max(0, keep - start)]
            kept[start : start + len(wanted)] = wanted
            start += len(batch)
    result = Statistics(*parts, kept, order)
    if path is not None:
        arrays = {
            f"{part}_{field}": array
            for part, moments in zip(("first", "rest"), parts, strict=True)
            for field, array in moments.to_arrays().items()
        }
        cache.keep_arrays(path, arrays | {"kept": kept})
    return result
