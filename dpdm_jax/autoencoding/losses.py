"""What an autoencoder and its discriminator learn from (Esser et al. 2021)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

# Of the factor that balances discriminator and error.
_TINY, _LARGEST_FACTOR = 1e-4, 1e4


def pixel_error(
    images: Float[Array, "n h w c"], made: Float[Array, "n h w c"], kind: str
) -> Float[Array, "n h w c"]:
    """Returns the error of each pixel: "l1" its absolute value, "l2" its square."""
    difference = images - made
    return jnp.abs(difference) if kind == "l1" else difference**2


def hinge(
    of_images: Float[Array, "..."], of_made: Float[Array, "..."]
) -> Float[Array, ""]:
    """The discriminator's loss: what real images score below 1 and others above -1.

    Args:
        of_images: its scores of real images.
        of_made: of reconstructions.

    Returns:
        The mean of both means (Lim and Ye 2017).
    """
    real = jnp.mean(jax.nn.relu(1.0 - of_images))
    made = jnp.mean(jax.nn.relu(1.0 + of_made))
    return 0.5 * (real + made)


def balance(
    of_error: Float[Array, "*shape"], of_scores: Float[Array, "*shape"]
) -> Float[Array, ""]:
    """The factor that makes the scores' gradient as large as the error's.

    Args:
        of_error: gradient of the reconstruction error by the decoder's last kernel.
        of_scores: that of the scores.

    Returns:
        The ratio of their norms, at most 10,000 (Esser et al. 2021, equation 7).
    """
    ratio = jnp.linalg.norm(of_error) / (jnp.linalg.norm(of_scores) + _TINY)
    return jnp.clip(ratio, 0.0, _LARGEST_FACTOR)
