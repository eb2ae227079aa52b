"""The interface of codecs."""

from typing import Protocol

import jax

from dpdm_jax.networks.network import Params


class Codec(Protocol):
    """Encodes what a source gives, on the device, and decodes what is sampled.

    Attributes:
        latent_shape: (h, w, c) of what network and diffusion see.
        sample_shape: (h, w, c) of the images that are published.
    """

    @property
    def latent_shape(self) -> tuple[int, int, int]: ...

    @property
    def sample_shape(self) -> tuple[int, int, int]: ...

    @property
    def spec(self) -> jax.ShapeDtypeStruct:
        """Shape and dtype of one image as the source gives it."""
        ...

    def init(self) -> Params:
        """Returns what the codec keeps among a model's parameters, by name.

        No step trains it: it was given, or trained on public data.
        """
        ...

    def encode(self, params: Params, image: jax.Array, key: jax.Array) -> jax.Array:
        """Encodes one image.

        Args:
            params: of the model; what ``init`` gave is among them.
            image: as in ``spec``.
            key: PRNG key, for what is drawn.

        Returns:
            float32 of ``latent_shape``.
        """
        ...

    def decode(self, params: Params, latents: jax.Array) -> jax.Array:
        """Decodes a batch, float32 [n, h, w, c], to images nominally in [-1, 1]."""
        ...
