"""A prior of an assumed spectrum: low frequencies vary most."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dpdm_jax import validate
from dpdm_jax.conditions import Condition
from dpdm_jax.diffusion.priors.base import Linear, Params, Scaled
from dpdm_jax.images import frequencies


@dataclasses.dataclass(frozen=True)
class Settings:
    """``config.diffusion.edm_dct``, which "edm_moments" reads as well.

    Both are assumed, public constants: they must not be measured on private images.

    Attributes:
        mean_data: mean of pixels, in [-1, 1].
        corner: half cycles across the image, > 0, where the spectrum falls.

    Raises:
        InputError: a field is out of range.
    """

    mean_data: float = 0.0
    corner: float = 5.0

    def __post_init__(self) -> None:
        path = "diffusion.edm_dct"
        validate.real(f"{path}.mean_data", self.mean_data, minimum=-1, maximum=1)
        validate.real(f"{path}.corner", self.corner, above=0)


@dataclasses.dataclass(frozen=True)
class Spectral:
    """Independent frequencies, whose variances fall.

    EDM (Karras et al. 2022, table 1) gives what a network is to predict unit variance
    if all frequencies of an image have one variance. They do not: nearly all of it lies
    in low ones, and EDM's network has to learn to take the noise out of the others.
    Here the standard deviation depends on the frequency, so that a network of zeros is
    the Wiener filter of the spectrum, and what remains to be learned needs fewer steps.

    Attributes:
        height: of images, in pixels.
        width: of images, in pixels.
        sigma_data: assumed standard deviation of pixels, > 0.
        mean_data: assumed mean of pixels, in [-1, 1].
        corner: see ``frequencies.falling_spectrum``.

    The last three are public constants: they must not be measured on private images.
    """

    height: int
    width: int
    sigma_data: float = 3**-0.5
    mean_data: float = 0.0
    corner: float = 5.0

    def init(self, image_shape: tuple[int, int, int], condition: Condition) -> Params:
        return {}

    def given(self, params: Params, condition: Any) -> Linear:
        return self

    @property
    def expected(self) -> float | Scaled:
        return 0.0

    def analyse(self, x: Float[Array, "n h w c"]) -> Scaled:
        rows, columns = self._transforms()
        return jnp.einsum("ui,nijc,vj->nuvc", rows, x, columns)

    def synthesise(self, scaled: Scaled) -> Float[Array, "n h w c"]:
        rows, columns = self._transforms()
        return jnp.einsum("ui,nuvc,vj->nijc", rows, scaled, columns)

    def c_skip(self, sigma: Float[Array, "*shape"]) -> Float[Array, "*scales"]:
        variances = self._stds() ** 2
        return jnp.divide(variances, sigma**2 + variances)

    def c_out(self, sigma: Float[Array, "*shape"]) -> Float[Array, "*scales"]:
        stds = self._stds()
        return sigma * stds / jnp.sqrt(sigma**2 + stds**2)

    def _transforms(self) -> tuple[np.ndarray, np.ndarray]:
        return frequencies.dct_matrix(self.height), frequencies.dct_matrix(self.width)

    def _stds(self) -> np.ndarray | Array:
        return self.assumed_stds

    @property
    def assumed_stds(self) -> Float[np.ndarray, "{self.height} {self.width} 1"]:
        """Assumed standard deviations of what ``analyse`` gives."""
        return self.sigma_data * frequencies.falling_spectrum(
            self.height, self.width, self.corner
        )
