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

from dpdm_jax.errors import InputError
from dpdm_jax.evaluation import neighbours
from dpdm_jax.evaluation.image_sets import Sets
from dpdm_jax.evaluation.measured import Measured
from dpdm_jax.evaluation.neighbours import Nearest
from dpdm_jax.evaluation.reference_statistics import Statistics
from dpdm_jax.evaluation.words import Words
from dpdm_jax.sampling.images import grid, write_png

NAME = "memorisation"
WORDS = Words(
    NAME,
    "Memorisation",
    "0.5 is ideal",
    "Probability that a synthetic image is nearer to the training images than a fresh "
    "real image is; 1 means copying.",
)
CLOSEST_PIXELS = "PRIVATE_closest_pairs_pixels.png"
CLOSEST_FEATURES = "PRIVATE_closest_pairs_features.png"

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


def check(sets: Sets) -> None:
    """Raises InputError unless there are fresh images to compare with."""
    if sets.real_test is None:
        raise InputError(
            f"{NAME} is asked for without real_test; allowed: with real images that "
            "the generator was not trained on, to compare with."
        )


def measure(
    features_of: str,
    sets: Sets,
    real: Statistics,
    synthetic: Statistics,
    held_out: Statistics,
    pictures: pathlib.Path | None,
) -> Measured:
    """Looks for copies, by features and by pixels.

    Args:
        features_of: the network, for people.
        sets: with ``real_test``; see ``check``.
        real: of the real images, all of them kept.
        synthetic: of the synthetic images, k >= 1 of them kept; no others are judged.
        held_out: of the test images, likewise.
        pictures: folder for pictures of the closest pairs; None draws none.

    Returns:
        The probability by features, and ``Copying`` of both as details.
    """
    assert sets.real_test is not None
    training = sets.real.images
    samples = sets.synthetic.images[synthetic.order[: len(synthetic.kept)]]
    fresh = sets.real_test.images[held_out.order[: len(held_out.kept)]]
    in_features = neighbours.nearest(synthetic.kept, real.kept)
    # Features come in a random order.
    in_features = in_features._replace(indices=real.order[in_features.indices])
    spaces = {
        "features": (
            in_features,
            neighbours.nearest(held_out.kept, real.kept),
            CLOSEST_FEATURES,
        ),
        "pixels": (
            neighbours.nearest(_flat(samples), _flat(training)),
            neighbours.nearest(_flat(fresh), _flat(training)),
            CLOSEST_PIXELS,
        ),
    }
    details: dict[str, Any] = {"features_of": features_of}
    for space, (ours, theirs, picture) in spaces.items():
        details[space] = copying(ours.distances, theirs.distances).to_dict()
        if pictures is not None:
            write_closest_pairs(pictures / picture, samples, training, ours)
    return Measured({NAME: {"": details["features"]["auc"]}}, details={NAME: details})


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
    write_png(path, grid(tiles, columns=columns), private=True)


def _flat(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1)
