import dataclasses
import math
from typing import NamedTuple

import numpy as np

from dpdm_jax import validate
from dpdm_jax.diffusion.denoiser import BoundDenoiser, Images
from dpdm_jax.diffusion.samplers.base import (
    Column,
    Grid,
    denoise_at,
)


@dataclasses.dataclass(frozen=True)
class Settings:
    """``config.sampler.heun``; by default it is deterministic.

    Attributes:
        s_churn: S_churn >= 0, how much noise is added on the way.
        s_min: smallest noise level with churn, >= 0.
        s_max: largest noise level with churn, >= s_min; may be infinite.
        s_noise: scale of the churn noise, >= 0.
        churn_limit: cap of s_churn over the number of grid points, >= 0.

    Raises:
        InputError: a field is out of range.
    """

    s_churn: float = 0.0
    s_min: float = 0.0
    s_max: float = math.inf
    s_noise: float = 1.0
    churn_limit: float = 1.0

    def __post_init__(self) -> None:
        for name in ("s_churn", "s_min", "s_noise", "churn_limit"):
            validate.real(f"sampler.heun.{name}", getattr(self, name), minimum=0)
        validate.real(
            "sampler.heun.s_max", self.s_max, minimum=self.s_min, allow_inf=True
        )


class HeunRow(NamedTuple):
    """One step from noise level a over the churned level h >= a to b < a."""

    sigma_hat: Column  # h
    sigma_next: Column  # b
    churn: Column  # multiplies the unit noise


@dataclasses.dataclass(frozen=True)
class Heun:
    """Second-order EDM sampler with churn (Karras et al. 2022, algorithm 2).

    After the last grid point follows a step to 0, which is Euler only and therefore the
    denoiser's output. 2N - 1 network calls on a grid of N points.

    Attributes:
        grid: decreasing noise levels, N of them.
        s_churn: S_churn >= 0; 0 makes the sampler deterministic.
        s_min: churn only where a >= s_min (tested before churning).
        s_max: churn only where a <= s_max.
        s_noise: scale of the churn noise.
        churn_limit: cap of gamma = s_churn / N. DPDM uses 1 where Karras et al. cap at
            sqrt(2) - 1.
    """

    grid: Grid
    s_churn: float = 0.0
    s_min: float = 0.0
    s_max: float = math.inf
    s_noise: float = 1.0
    churn_limit: float = 1.0

    @property
    def start_scale(self) -> float:
        return self.grid[0]

    def _gamma(self) -> Grid:
        inside = (self.grid >= self.s_min) & (self.grid <= self.s_max)
        return inside * min(self.s_churn / len(self.grid), self.churn_limit)

    def _churn(self) -> tuple[Grid, Grid]:
        """The churned level and the standard deviation of the added noise."""
        gamma = self._gamma()
        added = self.s_noise * self.grid * np.sqrt(gamma * (2.0 + gamma))
        return self.grid * (1.0 + gamma), added

    def rows(self) -> HeunRow:
        sigma_hat, churn = self._churn()
        return HeunRow(sigma_hat[:-1], self.grid[1:], churn[:-1])

    def noisy_steps(self) -> tuple[int, ...]:
        return tuple(int(i) for i in np.flatnonzero(self._gamma()))

    def step(
        self,
        denoise: BoundDenoiser,
        x: Images,
        row: HeunRow,
        noise: Images | None,
    ) -> Images:
        if noise is not None:
            x = x + row.churn * noise
        slope = (x - denoise_at(denoise, x, row.sigma_hat)) / row.sigma_hat
        step = row.sigma_next - row.sigma_hat
        euler = x + step * slope
        slope_next = (euler - denoise_at(denoise, euler, row.sigma_next)) / (
            row.sigma_next
        )
        return x + step * 0.5 * (slope + slope_next)

    def finish(self, denoise: BoundDenoiser, x: Images, noise: Images | None) -> Images:
        sigma_hat, churn = self._churn()
        if noise is not None:
            x = x + churn[-1] * noise
        return denoise_at(denoise, x, sigma_hat[-1])
