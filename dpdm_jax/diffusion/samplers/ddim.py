import dataclasses
from typing import NamedTuple

import numpy as np

from dpdm_jax.diffusion.denoiser import BoundDenoiser, Images
from dpdm_jax.diffusion.samplers.base import (
    Column,
    Grid,
    denoise_at,
)


@dataclasses.dataclass(frozen=True)
class Settings:
    """``config.sampler.ddim``.

    Attributes:
        stochastic: reverse SDE rather than probability-flow ODE.
    """

    stochastic: bool = False


class DDIMRow(NamedTuple):
    """One step from noise level a to b < a."""

    sigma: Column  # a
    drift: Column  # multiplies (x - D) / a
    diffusion: Column  # multiplies the unit noise


@dataclasses.dataclass(frozen=True)
class DDIM:
    """First-order sampler of DPDM: Euler on the probability-flow ODE or reverse SDE.

    With ``d = (x - D(x, a)) / a``, a step from a to b is ``x + (b - a) d``, or if
    stochastic ``x + 2 (b - a) d + sqrt(2 (a - b) a) n`` (Euler-Maruyama); it ends with
    ``D(x, sigma_min)``. N network calls on a grid of N points.

    Attributes:
        grid: decreasing noise levels, N of them.
        stochastic: which of the two.
    """

    grid: Grid
    stochastic: bool = False

    @property
    def start_scale(self) -> float:
        return self.grid[0]

    def rows(self) -> DDIMRow:
        a, b = self.grid[:-1], self.grid[1:]
        scale = 2.0 if self.stochastic else 1.0
        return DDIMRow(
            sigma=a,
            drift=scale * (b - a),
            diffusion=np.sqrt(2.0 * (a - b) * a) * self.stochastic,
        )

    def noisy_steps(self) -> tuple[int, ...]:
        return tuple(range(len(self.grid) - 1)) if self.stochastic else ()

    def step(
        self,
        denoise: BoundDenoiser,
        x: Images,
        row: DDIMRow,
        noise: Images | None,
    ) -> Images:
        d = (x - denoise_at(denoise, x, row.sigma)) / row.sigma
        x = x + row.drift * d
        return x if noise is None else x + row.diffusion * noise

    def finish(self, denoise: BoundDenoiser, x: Images, noise: Images | None) -> Images:
        del noise  # the last step only denoises
        return denoise_at(denoise, x, self.grid[-1])
