"""From a raw network to a denoiser: the four preconditionings behind one interface.

A parameterization turns a network ``F`` into a denoiser (DPDM, section 2; Karras et al.
2022, eq. 7), always in variance-exploding coordinates ``x + sigma * n``::

    D(x, sigma, y) = c_skip(sigma) x + c_out(sigma) F(c_in(sigma) x, c_noise(sigma), y)

``loss_weight`` is lambda(sigma). In all four ``lambda * c_out**2 = 1``: training is an
unweighted regression on ``F``.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp

Params = Any
#: ``apply(params, x [n,h,w,c], c_noise [n], label [n]) -> [n,h,w,c]``
NetworkApply = Callable[[Params, jax.Array, jax.Array, jax.Array], jax.Array]
#: ``denoise(params, x [n,h,w,c], sigma [n], label [n]) -> x0 [n,h,w,c]``
Denoiser = Callable[[Params, jax.Array, jax.Array, jax.Array], jax.Array]


class Parameterization(Protocol):
    """Functions of the noise level sigma > 0, elementwise on arrays of any shape."""

    def c_skip(self, sigma: jax.Array) -> jax.Array: ...
    def c_out(self, sigma: jax.Array) -> jax.Array: ...
    def c_in(self, sigma: jax.Array) -> jax.Array: ...
    def c_noise(self, sigma: jax.Array) -> jax.Array: ...
    def loss_weight(self, sigma: jax.Array) -> jax.Array: ...


@dataclasses.dataclass(frozen=True)
class EDM:
    """Karras et al. 2022, table 1; DPDM fixes sigma_data to the std of U[-1, 1].

    Attributes:
        sigma_data: assumed standard deviation of the data, > 0. A public constant: it
            must not be measured on private images.
    """

    sigma_data: float = 3**-0.5

    def c_skip(self, sigma: jax.Array) -> jax.Array:
        return self.sigma_data**2 / (sigma**2 + self.sigma_data**2)

    def c_out(self, sigma: jax.Array) -> jax.Array:
        return sigma * self.sigma_data / jnp.sqrt(sigma**2 + self.sigma_data**2)

    def c_in(self, sigma: jax.Array) -> jax.Array:
        return 1.0 / jnp.sqrt(sigma**2 + self.sigma_data**2)

    def c_noise(self, sigma: jax.Array) -> jax.Array:
        return jnp.log(sigma) / 4.0

    def loss_weight(self, sigma: jax.Array) -> jax.Array:
        return (sigma**2 + self.sigma_data**2) / (sigma * self.sigma_data) ** 2


@dataclasses.dataclass(frozen=True)
class V:
    """v-prediction (Salimans and Ho 2022); ``F`` predicts minus their v."""

    def c_skip(self, sigma: jax.Array) -> jax.Array:
        return 1.0 / (1.0 + sigma**2)

    def c_out(self, sigma: jax.Array) -> jax.Array:
        return sigma / jnp.sqrt(1.0 + sigma**2)

    def c_in(self, sigma: jax.Array) -> jax.Array:
        return 1.0 / jnp.sqrt(1.0 + sigma**2)

    def c_noise(self, sigma: jax.Array) -> jax.Array:
        return (2.0 / jnp.pi) * jnp.arctan(sigma)

    def loss_weight(self, sigma: jax.Array) -> jax.Array:
        return (1.0 + sigma**2) / sigma**2


@dataclasses.dataclass(frozen=True)
class VE:
    """Variance exploding (Song et al. 2021); ``F`` predicts minus the unit noise."""

    def c_skip(self, sigma: jax.Array) -> jax.Array:
        return jnp.ones_like(sigma)

    def c_out(self, sigma: jax.Array) -> jax.Array:
        return sigma

    def c_in(self, sigma: jax.Array) -> jax.Array:
        return jnp.ones_like(sigma)

    def c_noise(self, sigma: jax.Array) -> jax.Array:
        return jnp.log(sigma / 2.0)

    def loss_weight(self, sigma: jax.Array) -> jax.Array:
        return 1.0 / sigma**2


@dataclasses.dataclass(frozen=True)
class VP:
    """Variance preserving (Song et al. 2021); ``F`` predicts the unit noise.

    Attributes:
        beta_min: beta at t = 0, > 0.
        beta_d: beta(1) - beta(0), > 0.
        num_timesteps: scale M of the time that the network sees.
    """

    beta_min: float = 0.1
    beta_d: float = 19.9
    num_timesteps: float = 1000.0

    def time(self, sigma: jax.Array) -> jax.Array:
        """The t in [0, 1] at which the process has noise level sigma."""
        ratio = self.beta_min / self.beta_d
        # The difference of nearly equal numbers -r + sqrt(r^2 + c), without
        # cancellation: c / (r + sqrt(r^2 + c)).
        c = 2.0 * jnp.log1p(sigma**2) / self.beta_d
        return c / (ratio + jnp.sqrt(ratio**2 + c))

    def c_skip(self, sigma: jax.Array) -> jax.Array:
        return jnp.ones_like(sigma)

    def c_out(self, sigma: jax.Array) -> jax.Array:
        return -sigma

    def c_in(self, sigma: jax.Array) -> jax.Array:
        return 1.0 / jnp.sqrt(1.0 + sigma**2)

    def c_noise(self, sigma: jax.Array) -> jax.Array:
        return self.num_timesteps * self.time(sigma)

    def loss_weight(self, sigma: jax.Array) -> jax.Array:
        return 1.0 / sigma**2


def make_denoiser(apply: NetworkApply, parameterization: Parameterization) -> Denoiser:
    """Wraps a raw network as a denoiser.

    Args:
        apply: the network ``F``, see ``NetworkApply``.
        parameterization: the scalings.

    Returns:
        ``denoise(params, x, sigma, label)``: x float32 [n, h, w, c] in noisy
        coordinates, sigma float32 [n] > 0, label int32 [n]; the predicted clean images,
        float32 [n, h, w, c].
    """

    def denoise(
        params: Params, x: jax.Array, sigma: jax.Array, label: jax.Array
    ) -> jax.Array:
        s = sigma[:, None, None, None]
        p = parameterization
        raw = apply(params, p.c_in(s) * x, p.c_noise(sigma), label)
        return p.c_skip(s) * x + p.c_out(s) * raw

    return denoise
