"""The interfaces of priors."""

import dataclasses
from typing import Any, ClassVar, Protocol

from jaxtyping import Array, Float

from dpdm_jax.conditions import Condition

#: Nested dictionary of float32 arrays.
Params = Any
#: What a linear denoiser scales, for each image.
Scaled = Float[Array, "n _ _ _"]


class Linear(Protocol):
    """A linear denoiser, and what a network's correction of it is scaled by.

    ``analyse`` maps images linearly to what c_skip and c_out scale, and ``synthesise``
    back. ``c_skip`` and ``c_out`` are functions of the noise level sigma > 0, in shapes
    that broadcast with that.
    """

    @property
    def expected(self) -> float | Scaled:
        """Mean of what ``analyse`` makes of centred images; 0 unless measured."""
        ...

    def analyse(self, x: Float[Array, "n h w c"]) -> Scaled: ...
    def synthesise(self, scaled: Scaled) -> Float[Array, "n h w c"]: ...
    def c_skip(self, sigma: Float[Array, "*shape"]) -> Float[Array, "*scales"]: ...
    def c_out(self, sigma: Float[Array, "*shape"]) -> Float[Array, "*scales"]: ...


class Prior(Protocol):
    """What clean images are taken for before a network has learned anything.

    A dataclass, whose fields tell checkpoints apart.

    Attributes:
        mean_data: assumed mean of pixels, in [-1, 1]; images are centred by it. A
            public constant: it must not be measured on private images.
    """

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]

    @property
    def mean_data(self) -> float: ...

    def init(self, image_shape: tuple[int, int, int], condition: Condition) -> Params:
        """Returns what the prior keeps among a model's parameters, by name.

        No step trains it. What is not as assumed here, a query fills in.

        Args:
            image_shape: (h, w, c).
            condition: of the examples.

        Returns:
            Float32 arrays, as assumed; {} of a prior that is all constants.

        Raises:
            InputError: the prior does not know such conditions.
        """
        ...

    def given(self, params: Params, condition: Any) -> Linear:
        """Returns the denoiser of images under some conditions.

        Args:
            params: of the model; what ``init`` gave is among them, or what was measured
                in its place.
            condition: a tree of arrays [n, ...].
        """
        ...
