"""A multi-layer perceptron on an image's low frequencies, beside another network.

At large noise nothing else of an image is left, and what it shows is decided there. A
network of shared weights learns that late, a perceptron of a few weights at once.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from dpdm_jax import validate
from dpdm_jax.errors import InputError
from dpdm_jax.images.frequencies import dct_matrix
from dpdm_jax.networks.network import Network, Params


def check_count(image_shape: tuple[int, int, int], count: int) -> None:
    """Raises InputError unless images of (h, w, c) have so many frequencies a side."""
    validate.integer("network.low_frequencies", count, minimum=0)
    height, width, _ = image_shape
    if count > min(height, width):
        raise InputError(
            f"network.low_frequencies is {count}; allowed for images of "
            f"{height}x{width}: 0 to {min(height, width)}."
        )


def with_perceptron(network: Network, perceptron: Network) -> Network:
    """Returns the sum of a network and a perceptron that sees low frequencies.

    Args:
        network: on images.
        perceptron: on the coefficients [n, count, count, c] of their lowest frequencies
            in the orthonormal discrete cosine transform.

    Returns:
        A network whose parameters are {"network": ..., "low_frequencies": ...}.
    """
    height, width, _ = network.image_shape
    count = perceptron.image_shape[0]
    rows, columns = dct_matrix(height)[:count], dct_matrix(width)[:count]

    def init(key: jax.Array) -> Params:
        keys = jax.random.split(key)
        return {
            "network": network.init(keys[0]),
            "low_frequencies": perceptron.init(keys[1]),
        }

    def apply(
        params: Params, x: jax.Array, c_noise: jax.Array, condition: Any
    ) -> jax.Array:
        low = jnp.einsum("ui,nijc,vj->nuvc", rows, x, columns)
        low = perceptron.apply(params["low_frequencies"], low, c_noise, condition)
        low = jnp.einsum("ui,nuvc,vj->nijc", rows, low, columns)
        return network.apply(params["network"], x, c_noise, condition) + low

    return dataclasses.replace(network, init=init, apply=apply)
