"""A prior of an assumed spectrum: low frequencies vary most."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dpdm_jax.conditions import Condition
from dpdm_jax.diffusion.priors.base import Linear, Params
from dpdm_jax.images import frequencies


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
    def expected(self) -> float | jax.Array:
        return 0.0

    def analyse(self, x: jax.Array) -> jax.Array:
        rows, columns = self._transforms()
        return jnp.einsum("ui,nijc,vj->nuvc", rows, x, columns)

    def synthesise(self, scaled: jax.Array) -> jax.Array:
        rows, columns = self._transforms()
        return jnp.einsum("ui,nuvc,vj->nijc", rows, scaled, columns)

    def c_skip(self, sigma: jax.Array) -> jax.Array:
        variances = self._stds() ** 2
        return variances / (sigma**2 + variances)

    def c_out(self, sigma: jax.Array) -> jax.Array:
        stds = self._stds()
        return sigma * stds / jnp.sqrt(sigma**2 + stds**2)

    def _transforms(self) -> tuple[np.ndarray, np.ndarray]:
        return frequencies.dct_matrix(self.height), frequencies.dct_matrix(self.width)

    def _stds(self) -> np.ndarray | jax.Array:
        return self.assumed_stds

    @property
    def assumed_stds(self) -> np.ndarray:
        """Assumed standard deviations of what ``analyse`` gives, [height, width, 1]."""
        return self.sigma_data * frequencies.falling_spectrum(
            self.height, self.width, self.corner
        )
