"""A network that sees the lowest frequencies of an image and leaves out the others."""

import dataclasses

import jax
import jax.numpy as jnp

from dpdm_jax import validate
from dpdm_jax.errors import InputError
from dpdm_jax.networks.network import Network, Params


def seen_shape(
    image_shape: tuple[int, int, int], num_frequencies: int
) -> tuple[int, int, int]:
    """Returns the shape of what the network sees.

    Args:
        image_shape: (h, w, c), of coefficients of the discrete cosine transform.
        num_frequencies: how many along each side, the lowest; 0 for all.

    Raises:
        InputError: ``network.num_frequencies`` is negative or larger than a side.
    """
    height, width, channels = image_shape
    validate.integer("network.num_frequencies", num_frequencies, minimum=0)
    if num_frequencies > min(height, width):
        raise InputError(
            f"network.num_frequencies is {num_frequencies}; allowed for images of "
            f"{height}x{width}: 0 to {min(height, width)}."
        )
    if num_frequencies == 0:
        return image_shape
    return num_frequencies, num_frequencies, channels


def on_lowest(network: Network, image_shape: tuple[int, int, int]) -> Network:
    """Returns a network on all coefficients that applies one on the lowest.

    For the others it predicts 0.

    Args:
        network: on coefficients of ``seen_shape``.
        image_shape: (h, w, c), of all coefficients.
    """
    if network.image_shape == image_shape:
        return network
    rows, columns, _ = network.image_shape
    height, width, _ = image_shape
    rest = ((0, 0), (0, height - rows), (0, width - columns), (0, 0))

    def apply(
        params: Params, x: jax.Array, c_noise: jax.Array, label: jax.Array
    ) -> jax.Array:
        seen = network.apply(params, x[:, :rows, :columns], c_noise, label)
        return jnp.pad(seen, rest)

    return dataclasses.replace(network, apply=apply, image_shape=image_shape)
