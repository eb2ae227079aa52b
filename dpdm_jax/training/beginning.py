"""What a new run begins with, where that is not all random."""

from collections.abc import Callable
from typing import Any, NamedTuple

import ml_collections

from dpdm_jax.models.model import Model
from dpdm_jax.privacy.lineage import Origin


class Beginning(NamedTuple):
    """Parameters, and where they come from.

    Attributes:
        params: all of a model's.
        origin: whose weights its network's are; None for random ones.
        codec: whose weights its codec's are; None of a codec without any.
    """

    params: Any
    origin: Origin | None = None
    codec: Origin | None = None


#: Reads what a config names, given the model, its random parameters and the digest of
#: the training data, see ``data.bind``.
ReadInitial = Callable[[ml_collections.ConfigDict, Model, Any, bytes], Beginning]
