import dataclasses
import math

import jax
import numpy as np

from dpdm_jax import validate
from dpdm_jax.diffusion.denoiser import BoundDenoiser, Images
from dpdm_jax.diffusion.samplers.base import (
    Grid,
    Row,
    denoise_at,
    renoise,
)


@dataclasses.dataclass(frozen=True)
class Settings:
    """``config.sampler.ddim_eta``.

    Attributes:
        eta: share of DDPM's noise, in [0, 1]: 0 none, 1 all of it.

    Raises:
        InputError: it is out of range.
    """

    eta: float = 0.0

    def __post_init__(self) -> None:
        validate.real("sampler.ddim_eta.eta", self.eta, minimum=0, maximum=1)


@dataclasses.dataclass(frozen=True)
class DDIMEta:
    """DDIM with a share eta of DDPM's noise (Song et al. 2021, eqs. 12 and 16).

    With x = x_t / sqrt(abar), D the denoised x and a step from a to b, the noise has
    standard deviation ``s = eta b sqrt(a^2 - b^2) / a``, and x becomes
    ``D + sqrt(b^2 - s^2) / a (x - D) + s n``. At eta 0 that is ``DDIM``, at eta 1
    ``Ancestral`` with variance "fixed_small". The last step goes to the noise level
    ``end``. N network calls on a grid of N points.

    Attributes:
        grid: decreasing noise levels, N of them.
        eta: in [0, 1].
        clip_denoised: whether predicted clean images are clipped to [-1, 1], and the
            noise derived from what remains.
        end: noise level of what is returned, in [0, grid[-1]). Above 0 the last step
            adds noise, too, and DDPM's x_t is returned, as latent diffusion does.
    """

    grid: Grid
    eta: float = 0.0
    clip_denoised: bool = False
    end: float = 0.0

    @property
    def start_scale(self) -> float:
        return math.sqrt(1.0 + self.grid[0] ** 2)

    def rows(self) -> Row:
        return self._rows(self.grid[:-1], self.grid[1:])

    def _rows(self, a: np.ndarray, b: np.ndarray) -> Row:
        # Share of b's variance that is drawn anew.
        drawn = self.eta**2 * (1.0 - (b / a) ** 2)
        return Row(a, b / a * np.sqrt(1.0 - drawn), b * np.sqrt(drawn))

    def noisy_steps(self) -> tuple[int, ...]:
        steps = len(self.grid) if self.end else len(self.grid) - 1
        return tuple(range(steps)) if self.eta else ()

    def step(
        self,
        denoise: BoundDenoiser,
        x: Images,
        row: Row,
        noise: Images | None,
    ) -> Images:
        clean = denoise_at(denoise, x, row.sigma, clip=self.clip_denoised)
        return renoise(clean, x, row, noise)

    def finish(self, denoise: BoundDenoiser, x: Images, noise: Images | None) -> Images:
        row = self._rows(self.grid[-1:], np.array([self.end]))
        x = self.step(denoise, x, jax.tree.map(np.ndarray.item, row), noise)
        return x / math.sqrt(1.0 + self.end**2)
