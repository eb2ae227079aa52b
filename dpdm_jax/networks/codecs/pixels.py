"""Pixels themselves: bytes of the source, floats of the diffusion."""

import dataclasses

import jax
import numpy as np
from jaxtyping import PRNGKeyArray

from dpdm_jax.images import pixels
from dpdm_jax.networks.network import Params


@dataclasses.dataclass(frozen=True)
class PixelCodec:
    """Diffusion of an image's own pixels; see ``Codec``.

    Attributes:
        sample_shape: (h, w, c).
    """

    sample_shape: tuple[int, int, int]

    identity = ""

    @property
    def shapes(self) -> Params:
        return {}

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        return self.sample_shape

    @property
    def spec(self) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(self.sample_shape, np.uint8)

    @property
    def law_spec(self) -> jax.ShapeDtypeStruct:
        return self.spec

    def law(self, params: Params, images: jax.Array) -> jax.Array:
        del params
        return images

    def draw(self, law: jax.Array, key: jax.Array) -> jax.Array:
        del key
        return pixels.to_float(law)

    def init(self, key: PRNGKeyArray) -> Params:
        del key
        return {}

    def encode(self, params: Params, image: jax.Array, key: jax.Array) -> jax.Array:
        del params
        return self.draw(image, key)

    def decode(self, params: Params, latents: jax.Array) -> jax.Array:
        del params
        return latents
