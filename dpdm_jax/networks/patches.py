"""Space to depth: a network that sees squares of pixels as the channels of one.

An image of a quarter of the pixels and four times the channels costs a convolutional
network a quarter at its largest resolution, and a transformer a sixteenth.
"""

import dataclasses
from typing import Any

from jaxtyping import Array, Float, Float32, Key

from dpdm_jax import validate
from dpdm_jax.errors import InputError
from dpdm_jax.networks.network import Network, Params


def folded_shape(
    image_shape: tuple[int, int, int], patch_size: int
) -> tuple[int, int, int]:
    """Returns the shape of folded images.

    Args:
        image_shape: (h, w, c).
        patch_size: side of a square in pixels.

    Raises:
        InputError: ``network.patch_size`` is not positive, or does not divide h and w.
    """
    validate.integer("network.patch_size", patch_size, minimum=1)
    height, width, channels = image_shape
    if height % patch_size or width % patch_size:
        raise InputError(
            f"network.patch_size is {patch_size}; allowed for images of "
            f"{height}x{width}: a divisor of both sides."
        )
    return height // patch_size, width // patch_size, channels * patch_size**2


def fold(
    x: Float[Array, "n h w c"], patch_size: int
) -> Float[Array, "n h//{patch_size} w//{patch_size} {patch_size}**2*c"]:
    """Moves a square's pixels to channels."""
    n, height, width, channels = x.shape
    rows, columns = height // patch_size, width // patch_size
    x = x.reshape(n, rows, patch_size, columns, patch_size, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(n, rows, columns, -1)


def unfold(
    x: Float[Array, "n h w c"], patch_size: int
) -> Float[Array, "n {patch_size}*h {patch_size}*w c//{patch_size}**2"]:
    """Undoes ``fold``."""
    n, rows, columns, _ = x.shape
    x = x.reshape(n, rows, columns, patch_size, patch_size, -1)
    x = x.transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(n, rows * patch_size, columns * patch_size, -1)


def on_patches(network: Network, patch_size: int) -> Network:
    """Returns a network on images that applies one on folded images.

    Args:
        network: on images of ``folded_shape``.
        patch_size: side of a square in pixels.
    """
    if patch_size == 1:
        return network
    rows, columns, channels = network.image_shape

    def apply(
        params: Params,
        x: Float[Array, "n h w c"],
        c_noise: Float[Array, " n"],
        condition: Any,
        *keys: Key[Array, " n"],
    ) -> Float32[Array, "n h w out"]:
        x = network.apply(params, fold(x, patch_size), c_noise, condition, *keys)
        return unfold(x, patch_size)

    return dataclasses.replace(
        network,
        apply=apply,
        image_shape=(
            rows * patch_size,
            columns * patch_size,
            channels // patch_size**2,
        ),
    )
