"""Schedules of the discrete-time diffusion of DDPM (Ho et al. 2020), as plain tables.

A step t = 0, 1, ... gives ``x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) noise``, where
abar_t is the product of 1 - beta_s over s <= t. In the coordinates of the rest of this
package it is ``x_t / sqrt(abar_t) = x_0 + sigma_t noise``. All is NumPy's float64.
"""

import dataclasses
import functools
import re
from collections.abc import Callable

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float, Float64, Int64

from dpdm_jax import validate
from dpdm_jax.errors import InputError

#: A number for each step.
Table = Float64[np.ndarray, " t"]


@dataclasses.dataclass(frozen=True, eq=False)
class Schedule:
    """Tables over the steps of a diffusion, from the least noise to the most.

    Attributes:
        betas: of T >= 2 steps, each in (0, 1).
        steps: increasing; the number by which the network is told each step.
            It is 0..T-1 but for a part of a longer schedule.

    Raises:
        InputError: fewer than two steps, or a beta out of (0, 1).
    """

    betas: Table
    steps: Int64[np.ndarray, " t"]

    def __post_init__(self) -> None:
        if len(self.betas) < 2:
            raise InputError(
                f"The schedule has {len(self.betas)} steps; allowed: at least 2."
            )
        is_bad = ~((self.betas > 0) & (self.betas < 1))
        if is_bad.any():
            i = int(np.argmax(is_bad))
            raise InputError(
                f"The schedule's beta of step {self.steps[i]} is {self.betas[i]:g}; "
                "allowed: a number > 0 and < 1."
            )

    @functools.cached_property
    def alphas_cumprod(self) -> Table:
        """Abar, the share of the image in the variance of x_t, falling."""
        return np.cumprod(1.0 - self.betas)

    @functools.cached_property
    def alphas_cumprod_prev(self) -> Table:
        """The step before's abar, 1 before the first one."""
        return np.concatenate([[1.0], self.alphas_cumprod[:-1]])

    @functools.cached_property
    def posterior_variance(self) -> Table:
        """Variance of x_{t-1} given x_t and x_0; 0 at the first step (eq. 7)."""
        left = (1.0 - self.alphas_cumprod_prev) / (1.0 - self.alphas_cumprod)
        return self.betas * left

    @functools.cached_property
    def posterior_log_variance_clipped(self) -> Table:
        """Its logarithm; the first step, of -infinity, takes the second one's."""
        variance = self.posterior_variance
        return np.log(np.concatenate([variance[1:2], variance[1:]]))

    @functools.cached_property
    def posterior_mean_coef1(self) -> Table:
        """Factor of x_0 in the mean of x_{t-1} given x_t and x_0 (eq. 7)."""
        return (
            self.betas * np.sqrt(self.alphas_cumprod_prev) / (1.0 - self.alphas_cumprod)
        )

    @functools.cached_property
    def posterior_mean_coef2(self) -> Table:
        """Factor of x_t in that mean (eq. 7)."""
        return (
            (1.0 - self.alphas_cumprod_prev)
            * np.sqrt(1.0 - self.betas)
            / (1.0 - self.alphas_cumprod)
        )

    @functools.cached_property
    def sigmas(self) -> Table:
        """Noise over image, sqrt((1 - abar) / abar), rising."""
        return np.sqrt((1.0 - self.alphas_cumprod) / self.alphas_cumprod)

    def time_of_sigma(
        self, sigma: Float[ArrayLike, "*shape"]
    ) -> Float64[np.ndarray | np.float64, "*shape"]:
        """Inverts ``sigmas``, between steps linearly in ln sigma.

        Args:
            sigma: noise levels from ``sigmas[0]`` to ``sigmas[-1]``.

        Returns:
            Numbers in ``steps[0]..steps[-1]``; whole at a step.

        Raises:
            InputError: a noise level is out of that range.
        """
        sigma = np.asarray(sigma, np.float64)
        low, high = self.sigmas[0], self.sigmas[-1]
        is_bad = ~((sigma >= low) & (sigma <= high))
        if is_bad.any():
            raise InputError(
                f"sigma is {sigma[is_bad].flat[0]:g}; allowed with this schedule: "
                f"{low:g} to {high:g}."
            )
        return np.interp(np.log(sigma), np.log(self.sigmas), self.steps)

    def respaced(self, spec: str) -> "Schedule":
        """Returns the schedule that visits only some of the steps.

        Args:
            spec: see ``respacing``.

        Raises:
            InputError: the spec is malformed or does not fit the number of steps.
        """
        kept = respacing(spec, len(self.betas))
        kept_cumprod = self.alphas_cumprod[kept]
        before = np.concatenate([[1.0], kept_cumprod[:-1]])
        return Schedule(1.0 - kept_cumprod / before, self.steps[kept])


def linear(
    num_steps: int = 1000, beta_first: float = 1e-4, beta_last: float = 0.02
) -> Schedule:
    """Schedule that is linear in beta (Ho et al. 2020, section 4).

    Args:
        num_steps: T >= 2; the ends are not scaled with it.
        beta_first: beta of the first step, in (0, 1).
        beta_last: beta of the last step, in (0, 1).

    Raises:
        InputError: an argument is out of range.
    """
    _check_ends(num_steps, beta_first, beta_last)
    return _of_betas(np.linspace(beta_first, beta_last, num_steps))


def sqrt_linear(
    num_steps: int = 1000, beta_first: float = 0.0015, beta_last: float = 0.0155
) -> Schedule:
    """Latent diffusion's "linear", in sqrt(beta) (Rombach et al. 2022, their code).

    Arguments and errors as in ``linear``.
    """
    _check_ends(num_steps, beta_first, beta_last)
    return _of_betas(np.linspace(beta_first**0.5, beta_last**0.5, num_steps) ** 2)


def cosine(num_steps: int = 1000) -> Schedule:
    """Schedule whose abar is a squared cosine (Nichol and Dhariwal 2021, eq. 17).

    Args:
        num_steps: T >= 2. Beta is at most 0.999.

    Raises:
        InputError: the number is out of range.
    """
    validate.integer("the number of steps", num_steps, minimum=2)
    times = np.arange(num_steps + 1) / num_steps
    cumprod = np.cos((times + 0.008) / 1.008 * np.pi / 2) ** 2
    return _of_betas(np.minimum(1.0 - cumprod[1:] / cumprod[:-1], 0.999))


# A network of float32 tells noise levels apart up to here; cosine's 1000 steps end at
# 20,000.
_MAX_SIGMA = 1e6
_MAX_STEPS = 100_000


@dataclasses.dataclass(frozen=True)
class Settings:
    """A schedule by its settings, ``config.diffusion.ddpm``.

    Attributes:
        schedule: a name in ``SCHEDULES``.
        num_steps: T, 2 to 100,000.
        beta_first: beta of the first step, in (0, 1); nothing to "cosine".
        beta_last: beta of the last step, in (0, 1); nothing to "cosine".

    Raises:
        InputError: a field is out of range, or float32 has no room for the noise
            levels.
    """

    schedule: str = "linear"
    num_steps: int = 1000
    beta_first: float = 1e-4
    beta_last: float = 0.02

    def __post_init__(self) -> None:
        validate.one_of("diffusion.ddpm.schedule", self.schedule, SCHEDULES)
        validate.integer(
            "diffusion.ddpm.num_steps", self.num_steps, minimum=2, maximum=_MAX_STEPS
        )
        for name in ("beta_first", "beta_last"):
            value = getattr(self, name)
            validate.real(f"diffusion.ddpm.{name}", value, above=0, below=1)
        with np.errstate(divide="ignore", over="ignore"):
            sigmas = self.tables.sigmas.astype(np.float32)
        if not sigmas[-1] <= _MAX_SIGMA or np.any(np.diff(sigmas) <= 0):
            raise InputError(
                f"diffusion.ddpm has {self.num_steps} steps of schedule "
                f"{self.schedule!r} from noise level {sigmas[0]:g} to {sigmas[-1]:g}; "
                f"allowed: at most {_MAX_SIGMA:g}, and levels apart in float32."
            )

    @functools.cached_property
    def tables(self) -> Schedule:
        """The schedule itself."""
        return SCHEDULES[self.schedule](self)


#: The schedules that a config names, each of its settings.
SCHEDULES: dict[str, Callable[[Settings], Schedule]] = {
    "linear": lambda s: linear(s.num_steps, s.beta_first, s.beta_last),
    "cosine": lambda s: cosine(s.num_steps),
    "ldm": lambda s: sqrt_linear(s.num_steps, s.beta_first, s.beta_last),
}


def respacing(spec: str, num_steps: int) -> Int64[np.ndarray, " n"]:
    """Chooses steps evenly (guided-diffusion).

    Args:
        spec: "ddimN", every so many steps from 0 on such that there are N; or "N", also
            fractions apart and rounded, with both the first and the last.
        num_steps: T, number of steps to choose from.

    Returns:
        Their numbers, increasing.

    Raises:
        InputError: the spec is malformed, or no whole stride gives N steps.
    """
    match = re.fullmatch(r"(ddim)?([1-9][0-9]{0,8})", spec)
    num = int(match[2]) if match else 0
    if match is None or not 2 <= num <= num_steps:
        raise InputError(
            f"The respacing is {spec!r}; allowed: N or ddimN with N from 2 to "
            f"{num_steps}."
        )
    if not match[1]:
        stride = (num_steps - 1) / (num - 1)
        # Added up one by one: rounding of halves depends on the last digit.
        times = np.cumsum(np.concatenate([[0.0], np.full(num - 1, stride)]))
        return np.round(times).astype(np.int64)
    # ceil(T / stride) = N has a whole solution if and only if the smallest stride that
    # gives at most N gives N.
    stride = -(-num_steps // num)
    steps = np.arange(0, num_steps, stride)
    if len(steps) != num:
        raise InputError(
            f"The respacing is {spec!r}; allowed: an N such that every so many of the "
            f"{num_steps} steps make N."
        )
    return steps


@dataclasses.dataclass(frozen=True, eq=False)
class DDIMSteps:
    """What latent diffusion's DDIM sampler reads at each of its steps.

    Attributes:
        steps: increasing; numbers of the schedule's steps.
        alphas: abar of those steps.
        alphas_prev: abar of the steps before; of the schedule's first step
            before the first one.
    """

    steps: Int64[np.ndarray, " s"]
    alphas: Float64[np.ndarray, " s"]
    alphas_prev: Float64[np.ndarray, " s"]

    def sigmas(self, eta: float) -> Float64[np.ndarray, " s"]:
        """Standard deviation of each step's noise (Song et al. 2021, eq. 16).

        Args:
            eta: 0 for none, 1 for as much as DDPM adds.
        """
        left = (1.0 - self.alphas_prev) / (1.0 - self.alphas)
        return eta * np.sqrt(left * (1.0 - self.alphas / self.alphas_prev))


def ddim_steps(schedule: Schedule, num: int) -> DDIMSteps:
    """Chooses the steps of latent diffusion's DDIM sampler.

    Args:
        schedule: of T steps.
        num: S in 1..T. Every (T // S)-th step counts, from step 1 on, which can be more
            than S of them.

    Returns:
        The steps with their tables.

    Raises:
        InputError: the number is out of range, or the last step would be step T, which
            the schedule does not have.
    """
    num_steps = len(schedule.betas)
    validate.integer("the number of DDIM steps", num, minimum=1, maximum=num_steps)
    steps = np.arange(0, num_steps, num_steps // num) + 1
    if steps[-1] == num_steps:
        raise InputError(
            f"the number of DDIM steps is {num}; allowed: one for which {num_steps} // "
            f"it does not divide {num_steps - 1}."
        )
    cumprod = schedule.alphas_cumprod
    before = np.concatenate([[0], steps[:-1]])
    return DDIMSteps(steps, cumprod[steps], cumprod[before])


def _of_betas(betas: Table) -> Schedule:
    return Schedule(betas, np.arange(len(betas)))


def _check_ends(num_steps: int, beta_first: float, beta_last: float) -> None:
    validate.integer("the number of steps", num_steps, minimum=2)
    validate.real("the first beta", beta_first, above=0, below=1)
    validate.real("the last beta", beta_last, above=0, below=1)
