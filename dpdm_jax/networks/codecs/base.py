"""The interface of codecs."""

from typing import Protocol

import jax
from jaxtyping import PRNGKeyArray

from dpdm_jax.networks.network import Params

#: Under which codecs keep what they do among a model's parameters.
KEPT = "codec"


class Codec(Protocol):
    """Encodes what a source gives, on the device, and decodes what is sampled.

    Attributes:
        latent_shape: (h, w, c) of what network and diffusion see.
        sample_shape: (h, w, c) of the images that are published.
        identity: what weights must agree in besides names and shapes, as a text; "" of
            pixels.
    """

    @property
    def latent_shape(self) -> tuple[int, int, int]: ...

    @property
    def sample_shape(self) -> tuple[int, int, int]: ...

    @property
    def identity(self) -> str: ...

    @property
    def spec(self) -> jax.ShapeDtypeStruct:
        """Shape and dtype of one image as the source gives it."""
        ...

    def init(self, key: PRNGKeyArray) -> Params:
        """Returns what the codec keeps among a model's parameters, by name.

        No step trains it. What is random here stands in for weights that were trained
        on public data.

        Args:
            key: determines what is random.

        Returns:
            Under ``KEPT``; {} of a codec without parameters.
        """
        ...

    @property
    def shapes(self) -> Params:
        """Shapes and dtypes of what ``init`` returns; uses no device."""
        ...

    @property
    def law_spec(self) -> jax.ShapeDtypeStruct:
        """Shape and dtype of one image's law; ``spec`` where that is the image."""
        ...

    def law(self, params: Params, images: jax.Array) -> jax.Array:
        """Returns what latents are drawn of: no randomness, and each image by itself.

        Args:
            params: of the model; what ``init`` gave is enough.
            images: as in ``spec``, [n, ...].

        Returns:
            As in ``law_spec``, [n, ...].
        """
        ...

    def draw(self, law: jax.Array, key: jax.Array) -> jax.Array:
        """Draws one image's latent.

        Args:
            law: as in ``law_spec``.
            key: PRNG key, for what is drawn.

        Returns:
            float32 of ``latent_shape``.
        """
        ...

    def encode(self, params: Params, image: jax.Array, key: jax.Array) -> jax.Array:
        """Encodes one image: ``draw`` of its ``law``.

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
