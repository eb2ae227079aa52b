"""Precision, recall, density and coverage of one set of features by another.

Precision and recall: Kynkaanniemi et al., 2019 (arXiv 1904.06991). Density and
coverage: Naeem et al., 2020 (arXiv 2002.09797). All compare samples with balls around
points, each as large as the distance to the point's k-th neighbour in its own set.
"""

from typing import NamedTuple

import numpy as np

from dpdm_jax.evaluation import neighbours
from dpdm_jax.evaluation.measured import Measured
from dpdm_jax.evaluation.reference_statistics import Statistics
from dpdm_jax.evaluation.words import HIGHER, Words

PRECISION_RECALL_K = 3
DENSITY_COVERAGE_K = 5


class Covering:
    """The four figures of kept features."""

    words: tuple[Words, ...] = (
        Words(
            "precision",
            "Precision",
            HIGHER,
            "Part of the synthetic images that lie among the real ones: do they look "
            "real?",
        ),
        Words(
            "recall",
            "Recall",
            HIGHER,
            "Part of the real images that lie among the synthetic ones: is their "
            "variety there?",
        ),
        Words(
            "density",
            "Density",
            HIGHER,
            "How thickly real images surround the synthetic ones; about 1 for perfect "
            "images.",
        ),
        Words(
            "coverage",
            "Coverage",
            HIGHER,
            "Part of the real images that have a synthetic image close by.",
        ),
    )
    min_images = DENSITY_COVERAGE_K + 1  # a point and its neighbours
    on_kept = True

    def measure(
        self, real: Statistics, synthetic: Statistics, *, suffix: str, seed: int
    ) -> Measured:
        del seed
        found = precision_recall(real.kept, synthetic.kept)
        return Measured(
            {name + suffix: {"": value} for name, value in found._asdict().items()},
            {
                "neighbours": {
                    "precision and recall": PRECISION_RECALL_K,
                    "density and coverage": DENSITY_COVERAGE_K,
                }
            },
        )


class PrecisionRecall(NamedTuple):
    """How two sets cover each other.

    Attributes:
        precision: fraction of the samples inside a ball of the reference.
        recall: fraction of the reference inside a ball of the samples.
        density: balls of the reference that a sample lies in, on average, over k; it
            may exceed 1.
        coverage: fraction of the balls of the reference with a sample inside.
    """

    precision: float
    recall: float
    density: float
    coverage: float


def of_each_class(
    reference: np.ndarray,
    reference_labels: np.ndarray,
    samples: np.ndarray,
    sample_labels: np.ndarray,
) -> dict[str, dict[str, float]]:
    """Computes the four within each class.

    Args:
        reference: float [n, d].
        reference_labels: int [n].
        samples: float [m, d].
        sample_labels: int [m].

    Returns:
        Under each figure's name that of each class of which there are at least six of
        either.
    """
    found: dict[str, dict[str, float]] = {}
    for label in np.unique(reference_labels).tolist():
        real = reference[reference_labels == label]
        made = samples[sample_labels == label]
        if min(len(real), len(made)) < Covering.min_images:
            continue
        for name, value in precision_recall(real, made)._asdict().items():
            found.setdefault(name, {})[str(label)] = value
    return found


def precision_recall(reference: np.ndarray, samples: np.ndarray) -> PrecisionRecall:
    """Computes the four, with the papers' k: 3 for the first two, else 5.

    Args:
        reference: float [n, d], n >= 6.
        samples: float [m, d], m >= 6.

    Returns:
        The four figures.
    """
    ks = (PRECISION_RECALL_K, DENSITY_COVERAGE_K)
    reference_radii = neighbours.radii(reference, ks)
    sample_radii = neighbours.radii(samples, (PRECISION_RECALL_K,))[0]
    precise = np.empty(len(samples), bool)
    recalled = np.zeros(len(reference), bool)
    covered = np.zeros(len(reference), bool)
    inside = 0
    for part, squares in neighbours.squared_distances(samples, reference):
        precise[part] = (squares <= reference_radii[0]).any(axis=1)
        recalled |= (squares <= sample_radii[part, None]).any(axis=0)
        in_ball = squares <= reference_radii[1]
        inside += int(np.count_nonzero(in_ball))
        covered |= in_ball.any(axis=0)
    return PrecisionRecall(
        precision=float(precise.mean()),
        recall=float(recalled.mean()),
        density=inside / (DENSITY_COVERAGE_K * len(samples)),
        coverage=float(covered.mean()),
    )
