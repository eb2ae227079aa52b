"""Reverse steps whose variance is learned within a range (improved DDPM).

Nichol and Dhariwal 2021, section 3.1: a network with twice as many channels as images
predicts, besides the noise, v: where the logarithm of the variance lies between the
smallest and the largest possible one. ``samplers.Ancestral`` reads v, and the loss here
teaches it.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from dpdm_jax.diffusion import parameterizations, schedules
from dpdm_jax.diffusion.denoiser import Images, Prediction

#: Channels of the network's output for each of the image's: the noise and v.
OUTPUTS = 2

# Half the distance of two of the 256 values that pixels have.
_HALF_VALUE = 1.0 / 255.0
# Where a pixel is of the darkest or the lightest value.
_ENDS = 0.999
_SMALLEST_PROBABILITY = 1e-12


@dataclasses.dataclass(frozen=True)
class Settings:
    """``config.diffusion.ddpm``, of the variance of reverse steps.

    Attributes:
        learned_range: whether the network also learns that variance, for sampler
            "ancestral" with variance "learned"; it then has twice the channels out.
    """

    learned_range: bool = False


def log_variance(
    v: Images, smallest: Float[ArrayLike, "*n"], largest: Float[ArrayLike, "*n"]
) -> Images:
    """Returns the logarithm of each value's variance (eq. 15).

    Args:
        v: -1 for the smallest variance, 1 for the largest, linear in between and
            beyond.
        smallest: logarithm of the posterior's variance.
        largest: logarithm of beta.
    """
    share = (v + 1.0) / 2.0
    return share * largest + (1.0 - share) * smallest


@dataclasses.dataclass(frozen=True)
class VariationalBound:
    """A step's term of the variational bound, which teaches the variance alone.

    It stands beside the squared error with weight 1 (eq. 16 with 1000 steps). Pixels
    have 256 values from -1 to 1.

    Attributes:
        settings: of the schedule.
    """

    settings: schedules.Settings

    def __call__(
        self,
        predicted: Prediction,
        image: Float[Array, "*n h w c"],
        sigma: Float[Array, " n"],
    ) -> Float[Array, " n"]:
        """Weighs predictions of one noisy image each.

        Args:
            predicted: of a network whose further channels are v. Its clean images are a
                constant here.
            image: clean images in [-1, 1], or the one of all.
            sigma: noise levels; between two steps the nearer one's term is taken.

        Returns:
            Bits per dimension, of one step of the T that the bound sums over.
        """
        assert predicted.more is not None  # the network was built with OUTPUTS
        schedule = self.settings.tables
        step = parameterizations.DDPM(self.settings).c_noise(sigma)
        t = jnp.round(step).astype(jnp.int32)

        def at(table: schedules.Table) -> Float[Array, "n 1 1 1"]:
            return jnp.asarray(table, sigma.dtype)[t][:, None, None, None]

        clean = jax.lax.stop_gradient(predicted.clean)
        smallest = at(schedule.posterior_log_variance_clipped)
        learned = log_variance(predicted.more, smallest, at(np.log(schedule.betas)))
        # The two means share what they keep of the noisy image.
        apart = at(schedule.posterior_mean_coef1) * (clean - image)
        divergence = _kl_divergence(apart, smallest, learned)
        # At the first step pixels have one of 256 values (Ho et al. 2020, eq. 13).
        decoded = -_log_probability(image, clean, learned)
        nats = jnp.where(t == 0, _mean(decoded), _mean(divergence))
        return nats / math.log(2.0)


def _mean(x: Images) -> Float[Array, " n"]:
    return jnp.mean(x, axis=(1, 2, 3))


def _kl_divergence(apart: Array, log_variance: Array, log_variance_2: Array) -> Array:
    """Of a Gaussian from a second one of another mean, for each value, in nats."""
    difference = log_variance - log_variance_2
    distance = apart**2 * jnp.exp(-log_variance_2)
    return 0.5 * (jnp.exp(difference) - 1.0 - difference + distance)


def _log_probability(image: Array, mean: Array, log_variance: Array) -> Array:
    """Of each pixel's value under a Gaussian that is rounded to the 256 values."""
    scale = jnp.exp(-0.5 * log_variance)
    above = _normal_cdf((image - mean + _HALF_VALUE) * scale)
    below = _normal_cdf((image - mean - _HALF_VALUE) * scale)
    above = jnp.where(image > _ENDS, 1.0, above)
    below = jnp.where(image < -_ENDS, 0.0, below)
    return jnp.log(jnp.maximum(above - below, _SMALLEST_PROBABILITY))


def _normal_cdf(x: Array) -> Array:
    """The normal distribution function by Page's formula (1977), as in the papers."""
    y = math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)
    # XLA's own tanh misses some last digits near 1, which differences magnify.
    tanh = 1.0 - 2.0 * jax.nn.sigmoid(-2.0 * y)
    return 0.5 * (1.0 + tanh)
