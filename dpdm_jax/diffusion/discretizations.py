"""Grids of noise levels on which samplers step, from the largest to the smallest."""

import dataclasses
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

from dpdm_jax import validate
from dpdm_jax.diffusion import schedules


class Grid(NamedTuple):
    """Noise levels on which a sampler steps.

    Attributes:
        levels: float64 [N], decreasing.
        end: a noise level below them, down to which a sampler of DDPM's family may go;
            0 for clean images.
    """

    levels: np.ndarray
    end: float = 0.0


@dataclasses.dataclass(frozen=True)
class Ends:
    """Where grids that are no steps of a schedule begin and end, in ``config.sampler``.

    Attributes:
        sigma_min: smallest noise level, > 0.
        sigma_max: largest noise level.

    Raises:
        InputError: a field is out of range.
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0

    def __post_init__(self) -> None:
        validate.real("sampler.sigma_min", self.sigma_min, above=0)
        validate.real("sampler.sigma_max", self.sigma_max, above=self.sigma_min)


@dataclasses.dataclass(frozen=True)
class EDM:
    """``config.sampler.edm``, of ``edm_grid``.

    Attributes:
        rho: how strongly the points crowd at small noise, > 0.

    Raises:
        InputError: it is not positive.
    """

    rho: float = 7.0

    def __post_init__(self) -> None:
        validate.real("sampler.edm.rho", self.rho, above=0)


@dataclasses.dataclass(frozen=True)
class Steps:
    """``config.sampler.ddpm``, of ``step_grid``.

    Attributes:
        respacing: which steps. "" all; "N" with fractional strides from the first to
            the last; "ddimN" with a whole stride from the first on.
    """

    respacing: str = ""


def edm_grid(
    num_steps: int, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0
) -> Float64[np.ndarray, " {num_steps}"]:
    """Grid that is uniform in sigma^(1/rho) (Karras et al. 2022, eq. 5).

    Args:
        num_steps: number of grid points N >= 2.
        sigma_min: smallest noise level, > 0.
        sigma_max: largest noise level.
        rho: how strongly the points crowd at small noise.

    Returns:
        Noise levels that fall from sigma_max to sigma_min, both exact.
    """
    ends = np.array([sigma_max, sigma_min], np.float64) ** (1.0 / rho)
    grid = np.linspace(ends[0], ends[1], num_steps) ** rho
    grid[0], grid[-1] = sigma_max, sigma_min
    return grid


def log_uniform_grid(
    num_steps: int, sigma_min: float, sigma_max: float
) -> Float64[np.ndarray, " {num_steps}"]:
    """Grid that is uniform in ln sigma; arguments and result as in ``edm_grid``."""
    return np.geomspace(sigma_max, sigma_min, num_steps)


def cosine_grid(
    num_steps: int, sigma_min: float, sigma_max: float
) -> Float64[np.ndarray, " {num_steps}"]:
    """Grid that is uniform in t = (2 / pi) arctan(sigma), the time of v-prediction.

    Arguments and result as in ``edm_grid``.
    """
    grid = np.tan(np.linspace(np.arctan(sigma_max), np.arctan(sigma_min), num_steps))
    grid[0], grid[-1] = sigma_max, sigma_min
    return grid


def step_grid(
    schedule: schedules.Schedule, respacing: str = ""
) -> Float64[np.ndarray, " n"]:
    """Grid of the noise levels of DDPM's steps, or of some of them.

    Args:
        schedule: of T steps.
        respacing: which steps, see ``schedules.respacing``; "" for all.

    Returns:
        Decreasing; each is a noise level of the schedule to the last bit.

    Raises:
        InputError: the respacing is malformed or does not fit the number of steps.
    """
    # The levels of ``schedule.respaced`` would be these but for rounding.
    sigmas = schedule.sigmas
    if respacing:
        sigmas = sigmas[schedules.respacing(respacing, len(sigmas))]
    return sigmas[::-1].copy()


def ldm_grid(schedule: schedules.Schedule, num_steps: int) -> Float64[np.ndarray, " n"]:
    """Grid of the steps of latent diffusion's DDIM sampler.

    It ends at step 1; the sampler goes on to the noise level of step 0.

    Args:
        schedule: of T steps.
        num_steps: S, see ``schedules.ddim_steps``.

    Returns:
        S noise levels or more, decreasing.

    Raises:
        InputError: see ``schedules.ddim_steps``.
    """
    steps = schedules.ddim_steps(schedule, num_steps).steps
    return schedule.sigmas[steps][::-1].copy()
