import math

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from dpdm_jax.diffusion.denoiser import Denoiser, Images, Params


def guide(denoise: Denoiser, scale: float, null_label: int | None) -> Denoiser:
    """Classifier-free guidance (Ho and Salimans 2022) as a denoiser of a denoiser.

    ``D_w(x, sigma, y) = (1 + w) D(x, sigma, y) - w D(x, sigma, null)``, in one call of
    the network on a doubled batch.

    Args:
        denoise: the conditional denoiser.
        scale: w >= 0; 0 returns ``denoise`` itself.
        null_label: the label that stands for 'no label'; None for unlabelled data,
            where only scale 0 makes sense.

    Returns:
        The guided denoiser.

    Raises:
        ValueError: scale > 0 without a null label, or scale < 0 or not finite.
    """
    if not 0 <= scale < math.inf:
        raise ValueError(f"The guidance scale is {scale}; allowed: finite and >= 0.")
    if scale == 0:
        return denoise
    if null_label is None:
        raise ValueError(
            f"The guidance scale is {scale}, but the model has no labels; allowed: 0."
        )

    def guided(
        params: Params,
        x: Images,
        sigma: Float[Array, " n"],
        label: Int[Array, " n"],
    ) -> Images:
        conditional, unconditional = jnp.split(
            denoise(
                params,
                jnp.concatenate([x, x]),
                jnp.concatenate([sigma, sigma]),
                jnp.concatenate([label, jnp.full_like(label, null_label)]),
            ),
            2,
        )
        return (1.0 + scale) * conditional - scale * unconditional

    return guided
