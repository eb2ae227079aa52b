"""A multi-layer perceptron on an image's low frequencies, beside another network.

At large noise nothing else of an image is left, and what it shows is decided there. A
network of shared weights learns that late, a perceptron of a few weights at once.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Float32, Key, PRNGKeyArray

from dpdm_jax import validate
from dpdm_jax.conditions import Condition
from dpdm_jax.errors import InputError
from dpdm_jax.images.frequencies import dct_matrix
from dpdm_jax.networks import mlp
from dpdm_jax.networks.network import Init, Network, Params


@dataclasses.dataclass(frozen=True)
class Settings:
    """``config.network.low_frequencies``.

    Attributes:
        count: of frequencies along each side of the image, the lowest, that the
            perceptron sees; 0 for no perceptron.
        base_width: channels of the positional embedding of the noise level, >= 4.
        hidden_width: features of the perceptron's one block, >= 1.
        condition_gain: factor of the embeddings of noise level and condition, > 0; see
            ``conditioned.Settings``.

    Raises:
        InputError: a field is out of range.
    """

    count: int = 0
    base_width: int = 32
    hidden_width: int = 128
    condition_gain: float = 1.0

    def __post_init__(self) -> None:
        path = "network.low_frequencies"
        validate.integer(f"{path}.count", self.count, minimum=0)
        validate.integer(f"{path}.base_width", self.base_width, minimum=4)
        validate.integer(f"{path}.hidden_width", self.hidden_width, minimum=1)
        validate.real(f"{path}.condition_gain", self.condition_gain, above=0)


def beside(
    settings: Settings,
    network: Network,
    condition: Condition,
    *,
    outputs: int,
    dtype: DTypeLike,
) -> Network:
    """Returns a network with the perceptron of given settings beside it.

    Args:
        settings: the perceptron's, which has a ``count``.
        network: on images.
        condition: of the examples.
        outputs: channels of the network's output for each of the image's, >= 1.
        dtype: of the perceptron's computation.

    Raises:
        InputError: images do not have so many frequencies a side.
    """
    count = settings.count
    height, width, channels = network.image_shape
    if count > min(height, width):
        raise InputError(
            f"network.low_frequencies.count is {count}; allowed for images of "
            f"{height}x{width}: 0 to {min(height, width)}."
        )
    one_block = mlp.Settings(
        base_width=settings.base_width,
        hidden_width=settings.hidden_width,
        num_blocks=1,
        condition_gain=settings.condition_gain,
    )
    seen = (count, count, channels)
    perceptron = mlp.build(
        one_block, seen, condition, out_channels=outputs * channels, dtype=dtype
    )
    return with_perceptron(network, perceptron)


def with_perceptron(network: Network, perceptron: Network) -> Network:
    """Returns the sum of a network and a perceptron that sees low frequencies.

    Args:
        network: on images.
        perceptron: on the coefficients, count by count, of their lowest frequencies
            in the orthonormal discrete cosine transform.

    Returns:
        A network whose parameters are {"network": ..., "low_frequencies": ...}.
    """
    height, width, _ = network.image_shape
    count = perceptron.image_shape[0]
    rows, columns = dct_matrix(height)[:count], dct_matrix(width)[:count]

    def init(key: PRNGKeyArray) -> Params:
        keys = jax.random.split(key)
        return {
            "network": network.init(keys[0]),
            "low_frequencies": perceptron.init(keys[1]),
        }

    def apply(
        params: Params,
        x: Float[Array, "n h w c"],
        c_noise: Float[Array, " n"],
        condition: Any,
        *keys: Key[Array, " n"],
    ) -> Float32[Array, "n h w out"]:
        low = jnp.einsum("ui,nijc,vj->nuvc", rows, x, columns)
        low = perceptron.apply(params["low_frequencies"], low, c_noise, condition)
        low = jnp.einsum("ui,nuvc,vj->nijc", rows, low, columns)
        return network.apply(params["network"], x, c_noise, condition, *keys) + low

    known = network.parts.below("network") + perceptron.parts.below("low_frequencies")
    # The perceptron sees conditions as they are.
    shapes = {"network": network.shapes, "low_frequencies": perceptron.shapes}
    return dataclasses.replace(
        network, init=Init(init, shapes), apply=apply, parts=known, embed=None
    )
