"""Priors that scale pixels as they are, as the papers do."""

import dataclasses
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from dpdm_jax.conditions import Condition
from dpdm_jax.diffusion.priors.base import Linear, Params


class _Pixels:
    """What priors have in common that are constants and look at pixels."""

    mean_data = 0.0
    expected = 0.0

    def init(self, image_shape: tuple[int, int, int], condition: Condition) -> Params:
        return {}

    def analyse(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
        return x

    def synthesise(self, scaled: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
        return scaled


@dataclasses.dataclass(frozen=True)
class Gaussian(_Pixels):
    """Independent pixels of one variance (Karras et al. 2022, table 1).

    A network has to predict what has unit variance.

    Attributes:
        sigma_data: assumed standard deviation of the data, > 0. A public constant: it
            must not be measured on private images.
    """

    sigma_data: float

    def given(self, params: Params, condition: Any) -> Linear:
        return self

    def c_skip(self, sigma: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return self.sigma_data**2 / (sigma**2 + self.sigma_data**2)

    def c_out(self, sigma: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return sigma * self.sigma_data / jnp.sqrt(sigma**2 + self.sigma_data**2)


@dataclasses.dataclass(frozen=True)
class Flat(_Pixels):
    """Nothing: of an infinite variance. A network has to predict the unit noise.

    Attributes:
        sign: 1 for minus the noise, -1 for the noise.
    """

    sign: int = 1

    def given(self, params: Params, condition: Any) -> Linear:
        return self

    def c_skip(self, sigma: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return jnp.ones_like(sigma)

    def c_out(self, sigma: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return self.sign * sigma
