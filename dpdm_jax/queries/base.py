"""The interface of queries before the first step."""

from collections.abc import Callable
from typing import Any, Protocol

import jax
import numpy as np

from dpdm_jax import data
from dpdm_jax.privacy import Query
from dpdm_jax.privacy.class_moments import Batch, Released

#: Is told of each sum that a query releases, for audits.
OnRelease = Callable[[Released], None]


class NamedQuery(Protocol):
    """Asks sums of all examples, under noise, and makes fixed parameters of them."""

    @property
    def planned(self) -> Query:
        """What the plan and the ledger count."""
        ...

    @property
    def num_coordinates(self) -> int:
        """How many numbers its largest sum has."""
        ...

    def answer(
        self,
        source: data.Source,
        noise_key: jax.Array,
        on_release: OnRelease | None = None,
        groups: data.Groups | None = None,
    ) -> dict[str, Any]:
        """Asks.

        The same key and data give the same answer, so that a run that is interrupted
        before its first checkpoint with it releases nothing twice.

        Args:
            source: the training data.
            noise_key: see ``gaussian_noise``.
            on_release: see ``OnRelease``.
            groups: whose the images are; of each group the mean of its images' vectors
                is added, of norm 1 at most. None if each is a unit by itself.

        Returns:
            Fixed parameters by name, float32 arrays: what they take the place of is
            among those of ``Prior.init``.
        """
        ...

    def features(
        self, source: data.Source, groups: data.Groups | None = None
    ) -> list[Batch]:
        """Returns what ``Released.query`` takes: of all of a few images."""
        ...

    def on_canaries(self, count: int, seed: int) -> tuple["NamedQuery", np.ndarray]:
        """Returns this query of small images that each add as much as one can.

        Args:
            count: of the images, each of a class of its own.
            seed: of the images; public.

        Returns:
            The query, which asks as many sums under the same noise, and the images,
            uint8 [count, h, w, c].
        """
        ...
