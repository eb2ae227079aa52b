import dataclasses
import math
from typing import Literal, NamedTuple

import jax.numpy as jnp
import numpy as np

from dpdm_jax.diffusion import learned_range
from dpdm_jax.diffusion.denoiser import BoundDenoiser, Images
from dpdm_jax.diffusion.samplers.base import (
    Column,
    Grid,
    Row,
    denoise_at,
    predict_at,
    renoise,
)


@dataclasses.dataclass(frozen=True)
class Settings:
    """``config.sampler.ancestral``.

    Attributes:
        variance: of a step's noise: "fixed_large" (beta), "fixed_small" (that of the
            posterior), or "learned" (in between, by a network with
            ``diffusion.ddpm.learned_range``).
    """

    variance: Literal["fixed_large", "fixed_small", "learned"] = "fixed_large"


class LearnedRow(NamedTuple):
    """A ``Row`` whose noise the network decides on.

    Attributes:
        sigma: a.
        keep: multiplies what is left of the noise, x - D.
        smallest: logarithm of the noise's smallest variance.
        largest: of its largest one.
    """

    sigma: Column
    keep: Column
    smallest: Column
    largest: Column


@dataclasses.dataclass(frozen=True)
class Ancestral:
    """DDPM's sampler (Ho et al. 2020, algorithm 2), on any grid.

    A step draws from the distribution of the less noisy image given the noisy one and
    what is predicted for the clean one (eqs. 6 and 7 there). With x = x_t / sqrt(abar),
    a = sigma_t and b = sigma_{t-1} its mean is ``D + b^2 / a^2 (x - D)``, D the
    denoised x. Both variances are those of eq. 7 and of section 3.2, where DDPM's beta
    is ``(a^2 - b^2) / (1 + a^2)``: of the steps of the grid, as guided-diffusion has
    it for a part of a schedule; so is the range of a learned one (``learned_range``).
    It ends with ``D(x, sigma_min)``. N network calls on a grid of N points.

    Attributes:
        grid: decreasing noise levels, N of them.
        variance: of a step's noise, in x_{t-1}: "fixed_large", beta, "fixed_small",
            that of x_{t-1} given x_t and the clean image, or "learned", between them
            by what else the network predicts.
        clip_denoised: whether predicted clean images are clipped to [-1, 1].
    """

    grid: Grid
    variance: Literal["fixed_large", "fixed_small", "learned"] = "fixed_large"
    clip_denoised: bool = False

    @property
    def start_scale(self) -> float:
        return math.sqrt(1.0 + self.grid[0] ** 2)

    def rows(self) -> Row | LearnedRow:
        a2, b2 = self.grid[:-1] ** 2, self.grid[1:] ** 2
        largest = (a2 - b2) * (1.0 + b2) / (1.0 + a2)
        smallest = (a2 - b2) * b2 / a2
        a, keep = self.grid[:-1], b2 / a2
        if self.variance == "learned":
            return LearnedRow(a, keep, np.log(smallest), np.log(largest))
        added = largest if self.variance == "fixed_large" else smallest
        return Row(a, keep, np.sqrt(added))

    def noisy_steps(self) -> tuple[int, ...]:
        return tuple(range(len(self.grid) - 1))

    def step(
        self,
        denoise: BoundDenoiser,
        x: Images,
        row: Row | LearnedRow,
        noise: Images | None,
    ) -> Images:
        if isinstance(row, Row):
            clean = denoise_at(denoise, x, row.sigma, clip=self.clip_denoised)
            return renoise(clean, x, row, noise)
        predicted = predict_at(denoise, x, row.sigma, clip=self.clip_denoised)
        assert predicted.more is not None  # the network learned it
        log_variance = learned_range.log_variance(
            predicted.more, row.smallest, row.largest
        )
        diffusion = jnp.exp(0.5 * log_variance)
        return renoise(predicted.clean, x, Row(row.sigma, row.keep, diffusion), noise)

    def finish(self, denoise: BoundDenoiser, x: Images, noise: Images | None) -> Images:
        del noise  # the last step only denoises
        return denoise_at(denoise, x, self.grid[-1], clip=self.clip_denoised)
