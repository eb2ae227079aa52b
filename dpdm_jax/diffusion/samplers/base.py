"""What a sampler is, and the only loop over noise levels."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from dpdm_jax.diffusion.denoiser import BoundDenoiser, Images, Prediction

#: Decreasing noise levels.
Grid = Float[np.ndarray, " n"]
#: A number for each step; for the step that is taken, where a sampler takes one.
Column = Float[np.ndarray, " steps"] | Float[Array, ""] | float


class Row(NamedTuple):
    """One step of DDPM's family from noise level a to b < a.

    Attributes:
        sigma: a.
        keep: multiplies what is left of the noise, x - D.
        diffusion: multiplies the unit noise, of all pixels or of each.
    """

    sigma: Column
    keep: Column
    diffusion: Column | Images


@dataclasses.dataclass(frozen=True)
class Clipping:
    """What ``config.sampler`` has for samplers of DDPM's family.

    Attributes:
        clip_denoised: whether predicted clean images are clipped to [-1, 1]; not for
            latents.
    """

    clip_denoised: bool = True


class Sampler(Protocol):
    """A numerical scheme on a decreasing grid of N noise levels.

    ``rows`` gives N - 1 rows of numbers, one for each step between grid points;
    ``step`` takes one of them; ``finish`` goes from the last grid point to an image.
    """

    @property
    def grid(self) -> Grid: ...

    @property
    def start_scale(self) -> float:
        """What unit normal noise is multiplied by, to be noisy at ``grid[0]``."""
        ...

    def rows(self) -> Any: ...

    def noisy_steps(self) -> tuple[int, ...]:
        """Which steps use fresh noise, of 0..N-1, where N - 1 is ``finish``."""
        ...

    def step(
        self, denoise: BoundDenoiser, x: Images, row: Any, noise: Images | None
    ) -> Images: ...

    def finish(
        self, denoise: BoundDenoiser, x: Images, noise: Images | None
    ) -> Images: ...


def denoise_at(
    denoise: BoundDenoiser,
    x: Images,
    sigma: Float[ArrayLike, ""],
    *,
    clip: bool = False,
) -> Images:
    """Calls the denoiser on a batch that shares one noise level.

    Args:
        denoise: the denoiser.
        x: noisy images.
        sigma: their noise level.
        clip: whether what it predicts is clipped to [-1, 1], where images are.

    Returns:
        Clean images.
    """
    clean = denoise(x, _for_each(x, sigma))
    return jnp.clip(clean, -1.0, 1.0) if clip else clean


def predict_at(
    denoise: BoundDenoiser,
    x: Images,
    sigma: Float[ArrayLike, ""],
    *,
    clip: bool = False,
) -> Prediction:
    """Returns all that the network says there; arguments as in ``denoise_at``."""
    predicted = denoise.predict(x, _for_each(x, sigma))
    if not clip:
        return predicted
    return predicted._replace(clean=jnp.clip(predicted.clean, -1.0, 1.0))


def _for_each(x: Images, sigma: Float[ArrayLike, ""]) -> Float[Array, " n"]:
    return jnp.full(x.shape[:1], sigma, x.dtype)


def renoise(clean: Images, x: Images, row: Row, noise: Images | None) -> Images:
    """Takes a step of DDPM's family.

    Args:
        clean: what is denoised of x.
        x: noisy images.
        row: the step.
        noise: unit normal; None where the step has none.

    Returns:
        Images of the next noise level.
    """
    x = clean + row.keep * (x - clean)
    return x if noise is None else x + row.diffusion * noise


def sample(
    sampler: Sampler,
    denoise: BoundDenoiser,
    start: Images,
    draw_noise: Callable[[Int[Array, ""]], Images],
) -> Images:
    """Runs a sampler from pure noise to images.

    Args:
        sampler: the scheme.
        denoise: the denoiser with parameters, labels and guidance bound.
        start: unit normal.
        draw_noise: ``draw_noise(step)``, unit normal, called inside the scan; only for
            samplers that use noise.

    Returns:
        Images, nominally in [-1, 1] (not clipped).
    """
    noisy = sampler.noisy_steps()
    last = len(sampler.grid) - 1

    def body(x: Images, index_and_row: Any) -> tuple[Images, None]:
        index, row = index_and_row
        return sampler.step(denoise, x, row, draw_noise(index) if noisy else None), None

    rows = jax.tree.map(lambda r: jnp.asarray(r, start.dtype), sampler.rows())
    x, _ = jax.lax.scan(body, start * sampler.start_scale, (jnp.arange(last), rows))
    return sampler.finish(
        denoise, x, draw_noise(jnp.asarray(last)) if last in noisy else None
    )
