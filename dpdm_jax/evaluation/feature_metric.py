"""What a metric on features is."""

from typing import Protocol

from dpdm_jax.evaluation.measured import Measured
from dpdm_jax.evaluation.reference_statistics import Statistics
from dpdm_jax.evaluation.words import Words


class FeatureMetric(Protocol):
    """Compares real and synthetic images by the features of both.

    Attributes:
        words: of each of its numbers.
        min_images: that it needs of either set, >= 2.
        on_kept: whether it looks at kept features. Of each set at most
            ``Settings.neighbour_images`` are kept, and none unless a metric does.
    """

    words: tuple[Words, ...]
    min_images: int
    on_kept: bool

    def measure(
        self, real: Statistics, synthetic: Statistics, *, suffix: str, seed: int
    ) -> Measured:
        """Computes all its numbers, those that were not asked for too.

        Args:
            real: of n >= ``min_images`` images, and as many kept if ``on_kept``.
            synthetic: of m >= ``min_images`` images, likewise.
            suffix: ends the names of the numbers on these features, such as "_lenet".
            seed: of what is drawn at random.

        Returns:
            The numbers, named by ``words`` and the suffix, and what goes with them.
        """
        ...
