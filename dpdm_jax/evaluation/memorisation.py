"""Are samples nearer to the training images than fresh images are?

The three-sample test of Meehan et al., 2020 (arXiv 2004.05675), over the whole space:
each sample's distance to its nearest training image against the same for held-out real
images. A model that generalises gives samples as far from the training images as
held-out images are; one that copies gives nearer ones. All of it reads the training
images outside any privacy budget: it is for their owner alone.
"""

import dataclasses
import pathlib
from typing import Any

import numpy as np
from scipy import stats

from dpdm_jax.evaluation.neighbours import Nearest
from dpdm_jax.sampling import images as pictures

NUM_PAIRS = 32
_PAIRS_IN_ROW = 4
# Of held-out images, this fraction is nearer to the training images than "close" is.
_CLOSE = 0.01


@dataclasses.dataclass(frozen=True)
class Copying:
    """Samples against held-out images, by distance to the nearest training image.

    Attributes:
        auc: probability that a sample is nearer than a held-out image, ties counting
            half; 0.5 for a model that generalises, 1 for one that copies.
        z: the same in standard errors from 0.5 under equal distributions; above 3 or
            so, samples are nearer than chance explains.
        close_fraction: of the samples, those nearer than all but the nearest 1 % of the
            held-out images; 0.01 expected.
        exact_copies: samples at distance 0.
        exact_copies_held_out: held-out images at distance 0: the data's own duplicates.
        median_distance: of the samples.
        median_distance_held_out: of the held-out images.
    """

    auc: float
    z: float
    close_fraction: float
    exact_copies: int
    exact_copies_held_out: int
    median_distance: float
    median_distance_held_out: float

    def to_dict(self) -> dict[str, Any]:
        """Returns everything as JSON has values."""
        return dataclasses.asdict(self)


def copying(samples: np.ndarray, held_out: np.ndarray) -> Copying:
    """Compares distances to the nearest training image.

    Args:
        samples: float [n], of the samples, n >= 1.
        held_out: float [m], of real images that were not trained on, m >= 1.

    Returns:
        The comparison.
    """
    n, m = len(samples), len(held_out)
    farther = stats.mannwhitneyu(samples, held_out, method="asymptotic").statistic
    auc = 1 - farther / (n * m)
    return Copying(
        auc=float(auc),
        z=float((auc - 0.5) / np.sqrt((n + m + 1) / (12 * n * m))),
        close_fraction=float(np.mean(samples < np.quantile(held_out, _CLOSE))),
        exact_copies=int(np.count_nonzero(samples == 0)),
        exact_copies_held_out=int(np.count_nonzero(held_out == 0)),
        median_distance=float(np.median(samples)),
        median_distance_held_out=float(np.median(held_out)),
    )


def write_closest_pairs(
    path: pathlib.Path,
    samples: np.ndarray,
    training: np.ndarray,
    nearest: Nearest,
    num_pairs: int = NUM_PAIRS,
) -> None:
    """Draws the samples that are nearest to a training image, each beside that image.

    The picture shows training images: it is private.

    Args:
        path: PNG file to write; its name should say that it is private.
        samples: uint8 [n, h, w, c].
        training: uint8 [m, h, w, c].
        nearest: of each sample among the training images.
        num_pairs: pairs to draw at most, nearest first, four in a row.
    """
    chosen = np.argsort(nearest.distances, kind="stable")[:num_pairs]
    pairs = np.stack([samples[chosen], training[nearest.indices[chosen]]], axis=1)
    tiles = pairs.reshape(-1, *samples.shape[1:])
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = 2 * min(_PAIRS_IN_ROW, len(chosen))
    pictures.write_png(path, pictures.grid(tiles, columns=columns))
