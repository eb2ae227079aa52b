"""Random views of an image: crops and flips."""

import jax
import jax.numpy as jnp


def random_crop(key: jax.Array, image: jax.Array, padding: int) -> jax.Array:
    """Cuts an image's size out of the image, padded by reflection.

    As in De et al. 2022 (arXiv 2204.13650), who pad 32x32 images by 4.

    Args:
        key: PRNG key.
        image: [h, w, c], of more than ``padding`` pixels along each side.
        padding: pixels added along each edge, >= 0.

    Returns:
        [h, w, c]; every offset of 0 to 2 ``padding`` is as likely along each side.
    """
    if padding == 0:
        return image
    edges = ((padding, padding), (padding, padding), (0, 0))
    wide = jnp.pad(image, edges, mode="reflect")
    row, column = jax.random.randint(key, (2,), 0, 2 * padding + 1)
    return jax.lax.dynamic_slice(wide, (row, column, 0), image.shape)


def random_flip(key: jax.Array, image: jax.Array) -> jax.Array:
    """Exchanges left and right of an image [h, w, c], or not: half the time each."""
    return jnp.where(jax.random.bernoulli(key), image[:, ::-1], image)
