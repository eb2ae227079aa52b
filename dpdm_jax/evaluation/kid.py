"""The kernel distance between two sets of features, without bias in the set size.

Binkowski et al., 2018 (arXiv 1801.01401), section 4: the squared maximum mean
discrepancy under a polynomial kernel. It is called KID only for the features of
``inception``.
"""

from typing import NamedTuple

import numpy as np

from dpdm_jax.evaluation.measured import Measured
from dpdm_jax.evaluation.reference_statistics import Statistics
from dpdm_jax.evaluation.words import LOWER, Words

NUM_SUBSETS = 100
SUBSET_SIZE = 1000


class Kid:
    """The distance of kept features, with its spread over subsets."""

    words: tuple[Words, ...] = (
        Words(
            "kid",
            "KID",
            LOWER,
            "Distance between small random subsets, so that the number of images "
            "matters less; about 0 for perfect images.",
            title_elsewhere="Kernel distance",
        ),
    )
    min_images = 4
    on_kept = True

    def measure(
        self, real: Statistics, synthetic: Statistics, *, suffix: str, seed: int
    ) -> Measured:
        name = f"kid{suffix}"
        distance = kernel_distance(real.kept, synthetic.kept, seed=seed)
        return Measured(
            {name: {"": distance.mean, "_std": distance.std}},
            {name: {"subsets": NUM_SUBSETS, "subset_size": distance.subset_size}},
        )


class KernelDistance(NamedTuple):
    """Mean and standard deviation over subsets, and the images in a subset."""

    mean: float
    std: float
    subset_size: int


def kernel_distance(
    a: np.ndarray,
    b: np.ndarray,
    *,
    seed: int = 0,
    num_subsets: int = NUM_SUBSETS,
    subset_size: int = SUBSET_SIZE,
) -> KernelDistance:
    """Averages the unbiased estimate over random subsets.

    Args:
        a: float32 [n, d], n >= 4.
        b: float32 [m, d], m >= 4.
        seed: of the subsets.
        num_subsets: >= 1.
        subset_size: vectors of either set in a subset, drawn without replacement; half
            the smaller set if that is less, so that subsets differ.

    Returns:
        The distance. For two samples of one distribution its expectation is 0, and it
        may be negative.
    """
    size = min(subset_size, len(a) // 2, len(b) // 2)
    rng = np.random.default_rng(seed)
    estimates = [
        squared_mmd(
            a[rng.choice(len(a), size, replace=False)],
            b[rng.choice(len(b), size, replace=False)],
        )
        for _ in range(num_subsets)
    ]
    return KernelDistance(float(np.mean(estimates)), float(np.std(estimates)), size)


def squared_mmd(a: np.ndarray, b: np.ndarray) -> float:
    """Estimates without bias the squared discrepancy under ``(x.y / d + 1)^3``.

    Args:
        a: [n, d], n >= 2.
        b: [m, d], m >= 2.

    Returns:
        The mean kernel value of pairs within ``a`` and within ``b``, of different
        vectors, minus twice that of pairs across.
    """
    within = 0.0
    for x in (a, b):
        kernel = _kernel(x, x)
        pairs = kernel.sum(dtype=np.float64) - np.trace(kernel, dtype=np.float64)
        within += pairs / (len(x) * (len(x) - 1))
    return float(within - 2 * _kernel(a, b).mean(dtype=np.float64))


def _kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    base = x @ y.T / np.asarray(x.shape[1], x.dtype) + np.asarray(1, x.dtype)
    return base * base * base
