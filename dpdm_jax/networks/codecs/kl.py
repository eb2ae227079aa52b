"""An autoencoder whose latents are normal, near the standard (Rombach et al. 2022)."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Float32, PRNGKeyArray

from dpdm_jax.networks.codecs import autoencoder
from dpdm_jax.networks.network import Params

# Mean and logarithm of the variance.
_OUTPUTS = 2
_LOG_VARIANCES = (-30.0, 20.0)


@dataclasses.dataclass(frozen=True)
class Settings(autoencoder.Settings):
    """``config.codec.kl``."""

    path = "codec.kl"


class Posterior(NamedTuple):
    """Independent normal latents of images.

    Attributes:
        mean: of each.
        log_variance: of each, in [-30, 20].
    """

    mean: Float[Array, "n h w c"]
    log_variance: Float[Array, "n h w c"]

    @property
    def std(self) -> Float[Array, "n h w c"]:
        """Standard deviations."""
        return jnp.exp(0.5 * self.log_variance)

    def sample(self, noise: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
        """Returns latents, given unit normal noise."""
        return self.mean + self.std * noise

    def divergence(self) -> Float[Array, " n"]:
        """Kullback-Leibler divergence of each image's from standard normal latents."""
        each = self.mean**2 + jnp.exp(self.log_variance) - 1.0 - self.log_variance
        return 0.5 * jnp.sum(each, axis=(1, 2, 3))


def posterior(moments: Float[Array, "n h w moments"]) -> Posterior:
    """Returns the latents' law of what the autoencoder encodes: mean, log variance."""
    mean, log_variance = jnp.split(moments, _OUTPUTS, axis=-1)
    return Posterior(mean, jnp.clip(log_variance, *_LOG_VARIANCES))


@dataclasses.dataclass(frozen=True)
class KLCodec(autoencoder.AutoencoderCodec[autoencoder.Autoencoder]):
    """Diffusion of latents that are drawn anew at each visit; see ``Codec``."""

    outputs = _OUTPUTS

    settings: Settings
    error_is_summed = True
    penalty_field = "penalty_weight"

    def make(self, rngs: nnx.Rngs) -> autoencoder.Autoencoder:
        channels = self.sample_shape[2]
        return autoencoder.Autoencoder(
            self.settings, channels, _OUTPUTS, dtype=jnp.float32, rngs=rngs
        )

    def posterior(self, params: Params, images: Float[Array, "n h w c"]) -> Posterior:
        """Returns the law of images' latents, which are not scaled.

        Args:
            params: of the model.
            images: in [-1, 1].
        """
        return posterior(self.bind(params).encode(images))

    def reconstruct(
        self,
        params: Params,
        images: Float[Array, "n h w c"],
        noise: Float[Array, "n h2 w2 c2"],
    ) -> autoencoder.Reconstruction:
        module = self.bind(params)
        law = posterior(module.encode(images))
        made = module.decode(law.sample(noise))
        return autoencoder.Reconstruction(made, jnp.mean(law.divergence()))

    def rescaled(self, params: Params, factor: float) -> Params:
        ones = np.ones(self.settings.latent_channels, np.float32)
        return self.rescaled_ends(
            params,
            np.concatenate([factor * ones, ones]),
            # The logarithm of a variance grows by twice that of the factor.
            np.concatenate([0 * ones, 2 * np.log(np.float32(factor)) * ones]),
        )

    def draw(
        self, law: Float32[Array, "h w o"], key: PRNGKeyArray
    ) -> Float32[Array, "h w c"]:
        found = posterior(law[None])
        noise = jax.random.normal(key, found.mean.shape)
        return self.settings.scale_factor * found.sample(noise)[0]

    def decode(
        self, params: Params, latents: Float[Array, "n h w c"]
    ) -> Float32[Array, "n h2 w2 c2"]:
        unscaled = latents / self.settings.scale_factor
        return self.bind(params).decode(unscaled)
