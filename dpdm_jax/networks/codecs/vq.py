"""An autoencoder whose latents are rows of a table (Esser et al. 2021; Rombach 2022).

The diffusion sees what is encoded, and what is decoded is first replaced by its nearest
row.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Float32, Int, PRNGKeyArray

from dpdm_jax import validate
from dpdm_jax.networks import layers
from dpdm_jax.networks.codecs import autoencoder
from dpdm_jax.networks.codecs.base import KEPT
from dpdm_jax.networks.network import Params

# Weight of what moves rows to latents, against what moves latents to rows.
_ROWS_WEIGHT = 0.25


@dataclasses.dataclass(frozen=True)
class Settings(autoencoder.Settings):
    """``config.codec.vq``.

    Attributes:
        num_codes: rows of the table, >= 1.
    """

    path = "codec.vq"

    num_codes: int = 8192

    def __post_init__(self) -> None:
        super().__post_init__()
        validate.integer(f"{self.path}.num_codes", self.num_codes, minimum=1)


class VQAutoencoder(autoencoder.Autoencoder):
    """The autoencoder with its table.

    Args:
        settings: its shape.
        image_channels: channels of the images.
        dtype: of the computation; parameters and output are float32.
        rngs: see ``layers.dense``.
    """

    def __init__(
        self,
        settings: Settings,
        image_channels: int,
        *,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        super().__init__(settings, image_channels, 1, dtype=dtype, rngs=rngs)
        self.codes = layers.embed(
            settings.num_codes,
            settings.latent_channels,
            law=lambda u: u / settings.num_codes,
            dtype=dtype,
            rngs=rngs,
        )

    def indices(self, z: Float[Array, "n h w c"]) -> Int[Array, "n h w"]:
        """Returns which row of the table is nearest to each latent."""
        table = self.codes.embedding[...]
        products = jnp.einsum(
            "nhwc,kc->nhwk", z, table, precision=lax.Precision.HIGHEST
        )
        return jnp.argmin(jnp.sum(table**2, axis=1) - 2.0 * products, axis=-1)

    def quantized(self, z: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
        """Returns those rows."""
        return self.codes(self.indices(z))


def codebook_loss(
    latents: Float[Array, "n h w c"], quantized: Float[Array, "n h w c"]
) -> Float[Array, ""]:
    """What trains a table, and latents to lie near it (van den Oord et al. 2017).

    Args:
        latents: as encoded.
        quantized: their rows.

    Returns:
        The mean squared distance, whose gradient moves latents, and a quarter of it,
        whose gradient moves rows; latent diffusion's code weighs the two so, and the
        paper the other way.
    """
    of_latents = jnp.mean((lax.stop_gradient(quantized) - latents) ** 2)
    of_rows = jnp.mean((quantized - lax.stop_gradient(latents)) ** 2)
    return of_latents + _ROWS_WEIGHT * of_rows


@dataclasses.dataclass(frozen=True)
class VQCodec(autoencoder.AutoencoderCodec[VQAutoencoder]):
    """Diffusion of latents in front of their replacement by rows; see ``Codec``."""

    outputs = 1

    settings: Settings
    error_is_summed = False
    penalty_field = "codebook_weight"

    def make(self, rngs: nnx.Rngs) -> VQAutoencoder:
        channels = self.sample_shape[2]
        return VQAutoencoder(self.settings, channels, dtype=jnp.float32, rngs=rngs)

    def reconstruct(
        self,
        params: Params,
        images: Float[Array, "n h w c"],
        noise: Float[Array, "n h2 w2 c2"],
    ) -> autoencoder.Reconstruction:
        del noise
        module = self.bind(params)
        latents = module.encode(images)
        rows = module.quantized(latents)
        # Forward the rows, backward as if they were the latents.
        passed = latents + lax.stop_gradient(rows - latents)
        return autoencoder.Reconstruction(
            module.decode(passed), codebook_loss(latents, rows)
        )

    def rescaled(self, params: Params, factor: float) -> Params:
        factors = np.full(self.settings.latent_channels, factor, np.float32)
        params = self.rescaled_ends(params, factors, np.zeros_like(factors))
        kept = params[KEPT]
        codes = {"embedding": kept["codes"]["embedding"] * factor}
        return {**params, KEPT: {**kept, "codes": codes}}

    def draw(
        self, law: Float32[Array, "h w c"], key: PRNGKeyArray
    ) -> Float32[Array, "h w c"]:
        del key
        return self.settings.scale_factor * law

    def decode(
        self, params: Params, latents: Float[Array, "n h w c"]
    ) -> Float32[Array, "n h2 w2 c2"]:
        module = self.bind(params)
        return module.decode(module.quantized(latents / self.settings.scale_factor))
