"""The Frechet distance between two sets of features.

Heusel et al., 2017 (arXiv 1706.08500), equation 6. It is called FID only for the
features of ``inception``.
"""

import numpy as np
from scipy import linalg

from dpdm_jax.evaluation.measured import Measured
from dpdm_jax.evaluation.moments import Moments
from dpdm_jax.evaluation.reference_statistics import Statistics
from dpdm_jax.evaluation.words import LOWER, Words


class Fid:
    """The distance, and beside it what real images score against real ones."""

    words: tuple[Words, ...] = (
        Words(
            "fid",
            "FID",
            LOWER,
            "Distance between real and synthetic images as two clouds of features; the "
            "floor is what real images score against real ones.",
            title_elsewhere="Frechet distance",
        ),
    )
    min_images = 4  # two in either part of the real ones
    on_kept = False

    def measure(
        self, real: Statistics, synthetic: Statistics, *, suffix: str, seed: int
    ) -> Measured:
        del seed
        name = f"fid{suffix}"
        num_features = len(real.first.mean)
        fewest = min(real.moments.count, synthetic.moments.count)
        caveats = (
            f"{name} is from {fewest} images, no more than its {num_features} "
            f"features, and far too high for that: compare it with {name}_floor, "
            "and at equal numbers of images only",
        )
        return Measured(
            {
                name: {
                    "": frechet_distance(real.moments, synthetic.moments),
                    "_floor": frechet_distance(real.first, real.rest),
                }
            },
            {f"{name}_floor": {"images": [real.first.count, real.rest.count]}},
            caveats=caveats if fewest <= num_features else (),
        )


def frechet_distance(a: Moments, b: Moments) -> float:
    """Computes ``|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2))``.

    With S1 = R R^T, the trace of the root is the sum of the roots of the eigenvalues of
    the symmetric R^T S2 R, which stays accurate where S1 or S2 has no full rank.

    Args:
        a: moments of at least two vectors.
        b: moments of at least two others.

    Returns:
        The distance, in squared units of the features.
    """
    first, second = a.covariance, b.covariance
    root = _root(first)
    # Symmetric, and with the eigenvalues of S1 S2 that are not 0.
    product = linalg.eigvalsh(root.T @ second @ root) if root.size else np.zeros(1)
    # Directions without variance add nothing but rounding errors.
    floor = len(first) * np.finfo(float).eps * max(product[-1], 0.0)
    trace_of_root = np.sum(np.sqrt(product[product > floor]))
    between = np.sum((a.mean - b.mean) ** 2)
    return float(between + np.trace(first) + np.trace(second) - 2 * trace_of_root)


def _root(covariance: np.ndarray) -> np.ndarray:
    """Returns R [d, rank] with R R^T the covariance [d, d], which may be singular.

    By Cholesky's decomposition with pivots: several times faster than eigenvectors.
    """
    factor, pivots, rank, _ = linalg.lapack.dpstrf(covariance, lower=1)
    if not covariance.any():
        rank = 0
    root = np.empty((len(covariance), rank))
    root[pivots - 1] = np.tril(factor)[:, :rank]
    return root
