"""From a raw network to a denoiser: preconditionings behind one interface.

A parameterization turns a network ``F`` into a denoiser (DPDM, section 2; Karras et al.
2022, eq. 7), always in variance-exploding coordinates ``x + sigma * n``::

    D(x, sigma, y) = c_skip(sigma) x + c_out(sigma) F(c_in(sigma) x, c_noise(sigma), y)

``loss_weight`` is lambda(sigma). In the papers' four ``lambda * c_out**2 = 1``:
training is an unweighted regression on ``F``. A fifth, ``SpectralEDM``, scales each
frequency of the image by itself.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from dpdm_jax import frequencies

Params = Any
#: ``apply(params, x [n,h,w,c], c_noise [n], label [n]) -> [n,h,w,c]``
NetworkApply = Callable[[Params, jax.Array, jax.Array, jax.Array], jax.Array]
#: ``denoise(params, x [n,h,w,c], sigma [n], label [n]) -> x0 [n,h,w,c]``
Denoiser = Callable[[Params, jax.Array, jax.Array, jax.Array], jax.Array]


class Parameterization(Protocol):
    """What is scaled, and by what.

    ``analyse`` and ``synthesise``, its inverse, map images [n, h, w, c] linearly to
    what c_skip and c_out scale, and back. The others are functions of the noise level
    sigma > 0, elementwise on arrays of any shape that broadcasts with images.

    Attributes:
        mean_data: assumed mean of pixels, in [-1, 1]; images are centred by it. A
            public constant: it must not be measured on private images.
    """

    mean_data: float

    def analyse(self, x: jax.Array) -> jax.Array: ...
    def synthesise(self, scaled: jax.Array) -> jax.Array: ...
    def c_skip(self, sigma: jax.Array) -> jax.Array: ...
    def c_out(self, sigma: jax.Array) -> jax.Array: ...
    def c_in(self, sigma: jax.Array) -> jax.Array: ...
    def c_noise(self, sigma: jax.Array) -> jax.Array: ...
    def loss_weight(self, sigma: jax.Array) -> jax.Array: ...


class PixelParameterization:
    """Scales pixels as they are, as the papers do."""

    mean_data = 0.0

    def analyse(self, x: jax.Array) -> jax.Array:
        return x

    def synthesise(self, scaled: jax.Array) -> jax.Array:
        return scaled


@dataclasses.dataclass(frozen=True)
class EDM(PixelParameterization):
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
class V(PixelParameterization):
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
class VE(PixelParameterization):
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
class VP(PixelParameterization):
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


@dataclasses.dataclass(frozen=True)
class SpectralEDM:
    """EDM's scalings of what is predicted, for each frequency by an assumed spectrum.

    EDM (Karras et al. 2022, table 1) gives what a network is to predict unit variance
    if all frequencies of an image have one variance. They do not: nearly all of it lies
    in low ones, and EDM's network has to learn to take the noise out of the others.
    Here ``sigma_data`` depends on the frequency in c_skip and c_out, so that a network
    of zeros is the Wiener filter of the spectrum, and what remains to be learned needs
    fewer steps. What the network sees, and the loss, stay EDM's.

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

    def c_in(self, sigma: jax.Array) -> jax.Array:
        return EDM(self.sigma_data).c_in(sigma)

    def c_noise(self, sigma: jax.Array) -> jax.Array:
        return EDM(self.sigma_data).c_noise(sigma)

    def loss_weight(self, sigma: jax.Array) -> jax.Array:
        return EDM(self.sigma_data).loss_weight(sigma)

    def _transforms(self) -> tuple[np.ndarray, np.ndarray]:
        return frequencies.dct_matrix(self.height), frequencies.dct_matrix(self.width)

    def _stds(self) -> np.ndarray:
        return self.sigma_data * frequencies.falling_spectrum(
            self.height, self.width, self.corner
        )


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
        x = x - p.mean_data
        raw = apply(params, p.c_in(s) * x, p.c_noise(sigma), label)
        clean = p.c_skip(s) * p.analyse(x) + p.c_out(s) * p.analyse(raw)
        return p.synthesise(clean) + p.mean_data

    return denoise
