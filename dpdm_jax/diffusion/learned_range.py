"""Reverse steps whose variance is learned within a range (improved DDPM).

Nichol and Dhariwal 2021, section 3.1: a network with twice as many channels as images
predicts, besides the noise, where the logarithm of the variance lies between the
smallest and the largest possible one. Everything here is in DDPM's coordinates, of x_t,
and NHWC; what a network made of x_t at step t is given.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from dpdm_jax.diffusion import schedules
from dpdm_jax.diffusion.denoiser import Images
from dpdm_jax.diffusion.schedules import Schedule

# Half the distance of two of the 256 values that pixels have.
_HALF_VALUE = 1.0 / 255.0
# Where a pixel is of the darkest or the lightest value.
_ENDS = 0.999
_SMALLEST_PROBABILITY = 1e-12


class ReverseStep(NamedTuple):
    """The Gaussian of x_{t-1} given x_t.

    Attributes:
        mean: of each pixel.
        log_variance: of each pixel.
        clean: the clean images predicted on the way.
    """

    mean: Images
    log_variance: Images
    clean: Images


class Losses(NamedTuple):
    """Losses of each example.

    Attributes:
        mse: mean squared error of the noise over pixels and channels.
        vb: this step's term of the variational bound, in bits per dimension. It teaches
            only the variance: the predicted noise is a constant to it.
        total: their sum.
    """

    mse: Float[Array, " n"]
    vb: Float[Array, " n"]
    total: Float[Array, " n"]


def reverse_step(
    schedule: Schedule,
    output: Float[Array, "n h w d"],
    x_t: Images,
    t: Int[Array, " n"],
    *,
    clip_denoised: bool,
) -> ReverseStep:
    """Reads a network's output as the distribution of the step before.

    Args:
        schedule: of T steps.
        output: of the network, d = 2 c: the noise, then v. The logarithm of the
            variance is that of DDPM's smallest one at v = -1, of the largest, beta, at
            v = 1, and linear in between and beyond (eq. 15).
        x_t: noisy images.
        t: their steps, in 0..T-1.
        clip_denoised: whether predicted clean images are clipped to [-1, 1].

    Returns:
        The distribution.
    """
    noise, v = jnp.split(output, 2, axis=-1)

    def at(table: schedules.Table) -> Float[Array, "n 1 1 1"]:
        return _at(table, t, output.dtype)

    abar = schedule.alphas_cumprod
    # Quotients are taken in float64, before abar is rounded.
    clean = at(1.0 / np.sqrt(abar)) * x_t - at(schedule.sigmas) * noise
    if clip_denoised:
        clean = jnp.clip(clean, -1.0, 1.0)
    small = at(schedule.posterior_log_variance_clipped)
    large = at(np.log(schedule.betas))
    share = (v + 1.0) / 2.0
    return ReverseStep(
        _posterior_mean(schedule, clean, x_t, t),
        share * large + (1.0 - share) * small,
        clean,
    )


def losses(
    schedule: Schedule,
    output: Float[Array, "n h w d"],
    image: Images,
    noise: Images,
    t: Int[Array, " n"],
) -> Losses:
    """Weighs a network's output against what it should have been.

    Args:
        schedule: of T steps.
        output: see ``reverse_step``; of x_t = sqrt(abar) image + sqrt(1 - abar) noise.
        image: clean images in [-1, 1].
        noise: unit normal.
        t: steps, in 0..T-1.

    Returns:
        The losses (section 3.1, eq. 16 with weight 1; both terms are means over
        pixels, one step of the T that the bound sums over).
    """
    abar = schedule.alphas_cumprod
    x_t = _at(np.sqrt(abar), t, output.dtype) * image
    x_t = x_t + _at(np.sqrt(1.0 - abar), t, output.dtype) * noise
    predicted, v = jnp.split(output, 2, axis=-1)
    mse = _mean((predicted - noise) ** 2)
    frozen = jnp.concatenate([jax.lax.stop_gradient(predicted), v], axis=-1)
    step = reverse_step(schedule, frozen, x_t, t, clip_denoised=False)
    divergence = _kl_divergence(
        _posterior_mean(schedule, image, x_t, t),
        _at(schedule.posterior_log_variance_clipped, t, output.dtype),
        step.mean,
        step.log_variance,
    )
    # At the first step pixels have one of 256 values (Ho et al. 2020, eq. 13).
    decoded = -_log_probability(image, step.mean, step.log_variance)
    vb = jnp.where(t == 0, _mean(decoded), _mean(divergence)) / math.log(2.0)
    return Losses(mse, vb, mse + vb)


def _at(
    table: schedules.Table, t: Int[Array, " n"], dtype: jnp.dtype
) -> Float[Array, "n 1 1 1"]:
    return jnp.asarray(table, dtype)[t][:, None, None, None]


def _mean(x: Images) -> Float[Array, " n"]:
    return jnp.mean(x, axis=(1, 2, 3))


def _posterior_mean(schedule: Schedule, clean: Array, x_t: Array, t: Array) -> Array:
    of_clean = _at(schedule.posterior_mean_coef1, t, clean.dtype)
    of_noisy = _at(schedule.posterior_mean_coef2, t, clean.dtype)
    return of_clean * clean + of_noisy * x_t


def _kl_divergence(
    mean: Array,
    log_variance: Array,
    mean_2: Array,
    log_variance_2: Array,
) -> Array:
    """Of a first Gaussian from a second, for each value, in nats."""
    difference = log_variance - log_variance_2
    distance = (mean - mean_2) ** 2 * jnp.exp(-log_variance_2)
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
