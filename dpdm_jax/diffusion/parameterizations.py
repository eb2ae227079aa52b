"""What a network sees of a noisy image, and how its errors are weighed.

Each parameterization has a prior of its own, what its paper lets a network correct;
``lambda * c_out**2 = 1`` for the two of them: training is an unweighted regression on
the network. Other priors may take its place, see ``diffusion.denoiser``.
"""

import dataclasses
from typing import Protocol

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dpdm_jax import validate
from dpdm_jax.diffusion import schedules
from dpdm_jax.diffusion.priors import Flat, Gaussian, Prior

#: Noise levels, or a function of each.
Levels = Float[Array, "*shape"]


class Parameterization(Protocol):
    """Functions of the noise level sigma > 0, elementwise on arrays of any shape."""

    @property
    def prior(self) -> Prior:
        """What the network corrects unless another prior is given."""
        ...

    def c_in(self, sigma: Levels) -> Levels: ...
    def c_noise(self, sigma: Levels) -> Levels: ...
    def loss_weight(self, sigma: Levels) -> Levels: ...


@dataclasses.dataclass(frozen=True)
class EDM:
    """Karras et al. 2022, table 1; DPDM fixes sigma_data to the std of U[-1, 1].

    Attributes:
        sigma_data: assumed standard deviation of the data, > 0. A public constant: it
            must not be measured on private images.

    Raises:
        InputError: it is not positive.
    """

    sigma_data: float = 3**-0.5

    def __post_init__(self) -> None:
        validate.real("diffusion.sigma_data", self.sigma_data, above=0)

    @property
    def prior(self) -> Prior:
        return Gaussian(self.sigma_data)

    def c_in(self, sigma: Levels) -> Levels:
        return 1.0 / jnp.sqrt(sigma**2 + self.sigma_data**2)

    def c_noise(self, sigma: Levels) -> Levels:
        return jnp.log(sigma) / 4.0

    def loss_weight(self, sigma: Levels) -> Levels:
        return (sigma**2 + self.sigma_data**2) / (sigma * self.sigma_data) ** 2


@dataclasses.dataclass(frozen=True)
class V:
    """v-prediction (Salimans and Ho 2022); ``F`` predicts minus their v."""

    @property
    def prior(self) -> Prior:
        return Gaussian(1.0)

    def c_in(self, sigma: Levels) -> Levels:
        return 1.0 / jnp.sqrt(1.0 + sigma**2)

    def c_noise(self, sigma: Levels) -> Levels:
        return (2.0 / jnp.pi) * jnp.arctan(sigma)

    def loss_weight(self, sigma: Levels) -> Levels:
        return (1.0 + sigma**2) / sigma**2


@dataclasses.dataclass(frozen=True)
class VE:
    """Variance exploding (Song et al. 2021); ``F`` predicts minus the unit noise."""

    @property
    def prior(self) -> Prior:
        return Flat()

    def c_in(self, sigma: Levels) -> Levels:
        return jnp.ones_like(sigma)

    def c_noise(self, sigma: Levels) -> Levels:
        return jnp.log(sigma / 2.0)

    def loss_weight(self, sigma: Levels) -> Levels:
        return 1.0 / sigma**2


@dataclasses.dataclass(frozen=True)
class VP:
    """Variance preserving (Song et al. 2021); ``F`` predicts the unit noise.

    Attributes:
        beta_min: beta at t = 0, > 0.
        beta_d: beta(1) - beta(0), > 0.
        num_timesteps: scale M of the time that the network sees, > 0.

    Raises:
        InputError: a field is out of range.
    """

    beta_min: float = 0.1
    beta_d: float = 19.9
    num_timesteps: float = 1000.0

    def __post_init__(self) -> None:
        for name in ("beta_min", "beta_d", "num_timesteps"):
            validate.real(f"diffusion.vp.{name}", getattr(self, name), above=0)

    @property
    def prior(self) -> Prior:
        return Flat(-1)

    def time(self, sigma: Levels) -> Levels:
        """The t in [0, 1] at which the process has noise level sigma."""
        ratio = self.beta_min / self.beta_d
        # The difference of nearly equal numbers -r + sqrt(r^2 + c), without
        # cancellation: c / (r + sqrt(r^2 + c)).
        c = 2.0 * jnp.log1p(sigma**2) / self.beta_d
        return c / (ratio + jnp.sqrt(ratio**2 + c))

    def c_in(self, sigma: Levels) -> Levels:
        return 1.0 / jnp.sqrt(1.0 + sigma**2)

    def c_noise(self, sigma: Levels) -> Levels:
        return self.num_timesteps * self.time(sigma)

    def loss_weight(self, sigma: Levels) -> Levels:
        return 1.0 / sigma**2


@dataclasses.dataclass(frozen=True)
class DDPM:
    """DDPM (Ho et al. 2020); ``F`` predicts the unit noise at a step of a schedule.

    ``c_in`` turns noisy images into DDPM's x_t, the network sees the number of the
    step, and the loss is the squared error of the noise (eq. 14 there; DP fine-tuning,
    arXiv 2302.13861).

    Attributes:
        settings: of the schedule.
    """

    settings: schedules.Settings

    @property
    def prior(self) -> Prior:
        return Flat(-1)

    def c_in(self, sigma: Levels) -> Levels:
        return 1.0 / jnp.sqrt(1.0 + sigma**2)

    def c_noise(self, sigma: Levels) -> Levels:
        """The step of a noise level, whole at the schedule's own in any precision.

        Between two it is linear in ln sigma, as ``Schedule.time_of_sigma``; beyond the
        ends it is theirs, since samplers on other grids reach there.
        """
        tables = self.settings.tables
        sigmas = jnp.asarray(tables.sigmas, sigma.dtype)
        # Levels are looked up before logarithms are taken, so that none is rounded to
        # its neighbourhood.
        passed = jnp.searchsorted(sigmas, sigma, side="right", method="scan_unrolled")
        below = jnp.maximum(passed - 1, 0)
        # After the last step there is no further one.
        gaps = np.append(np.diff(np.log(tables.sigmas)), 1.0)
        lengths = np.append(np.diff(tables.steps), 0.0)
        start = sigmas[below]
        step, length, gap = (
            jnp.asarray(table, sigma.dtype)[below]
            for table in (tables.steps, lengths, gaps)
        )
        fraction = jnp.log1p((sigma - start) / start) / gap
        return step + length * jnp.clip(fraction, 0.0, 1.0)

    def loss_weight(self, sigma: Levels) -> Levels:
        return 1.0 / sigma**2
