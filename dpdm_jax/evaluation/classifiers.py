"""The three small classifiers of DPDM's downstream protocol, and what they are made of.

Architectures: Dockhorn et al., 2023 (arXiv 2210.09929), section 5.1. Each is a value
that holds no parameters; ``init`` makes them and ``apply`` uses them.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from dpdm_jax.data import transforms
from dpdm_jax.errors import InputError

Params = dict[str, Any]

_MLP_WIDTH = 100
_CNN_CHANNELS = (32, 64, 128)
_KERNEL = 3
#: Width of the CNN's last hidden layer.
CNN_FEATURES = 128
#: Rows and columns that leave one of each before the CNN's linear layers.
CNN_MIN_SIZE = 2 * (2 * (1 + _KERNEL - 1) + _KERNEL - 1) + _KERNEL - 1


class Classifier(Protocol):
    """A pure image classifier; equal ones compare equal and hash alike.

    Attributes:
        image_shape: (h, w, c).
        num_classes: number of logits.
    """

    @property
    def image_shape(self) -> tuple[int, int, int]: ...

    @property
    def num_classes(self) -> int: ...

    def init(self, key: jax.Array) -> Params:
        """Draws float32 parameters."""
        ...

    def apply(
        self, params: Params, x: jax.Array, dropout_key: jax.Array | None = None
    ) -> jax.Array:
        """Computes logits.

        Args:
            params: what ``init`` returned.
            x: float32 [n, h, w, c] in [-1, 1].
            dropout_key: typed key for training; None computes without dropout.

        Returns:
            float32 [n, num_classes].
        """
        ...


@dataclass(frozen=True)
class LogReg:
    """Logistic regression: 7,850 parameters for 28x28 and 10 classes."""

    image_shape: tuple[int, int, int]
    num_classes: int

    def init(self, key: jax.Array) -> Params:
        shape = (math.prod(self.image_shape), self.num_classes)
        return init_uniform(key, {"linear": shape})

    def apply(
        self, params: Params, x: jax.Array, dropout_key: jax.Array | None = None
    ) -> jax.Array:
        del dropout_key
        return linear(params["linear"], _flatten(x))


@dataclass(frozen=True)
class MLP:
    """One hidden layer of 100: 79,510 parameters for 28x28 and 10 classes."""

    image_shape: tuple[int, int, int]
    num_classes: int

    def init(self, key: jax.Array) -> Params:
        pixels = math.prod(self.image_shape)
        shapes = {
            "linear_1": (pixels, _MLP_WIDTH),
            "linear_2": (_MLP_WIDTH, self.num_classes),
        }
        return init_uniform(key, shapes)

    def apply(
        self, params: Params, x: jax.Array, dropout_key: jax.Array | None = None
    ) -> jax.Array:
        del dropout_key
        hidden = jax.nn.relu(linear(params["linear_1"], _flatten(x)))
        return linear(params["linear_2"], hidden)


@dataclass(frozen=True)
class CNN:
    """Three convolutions with dropout: 241,546 parameters for 28x28x1, 10 classes."""

    image_shape: tuple[int, int, int]
    num_classes: int

    def __post_init__(self) -> None:
        check_size("cnn", self.image_shape, CNN_MIN_SIZE)

    def init(self, key: jax.Array) -> Params:
        height, width, channels = self.image_shape
        features = _cnn_output_size(height) * _cnn_output_size(width)
        conv = (_KERNEL, _KERNEL)
        first, second, third = _CNN_CHANNELS
        shapes = {
            "conv_1": (*conv, channels, first),
            "conv_2": (*conv, first, second),
            "conv_3": (*conv, second, third),
            "linear_1": (features * third, CNN_FEATURES),
            "linear_2": (CNN_FEATURES, self.num_classes),
        }
        return init_uniform(key, shapes)

    def apply(
        self, params: Params, x: jax.Array, dropout_key: jax.Array | None = None
    ) -> jax.Array:
        x = self.features(params, x, dropout_key)
        return linear(params["linear_2"], x)

    def features(
        self, params: Params, x: jax.Array, dropout_key: jax.Array | None = None
    ) -> jax.Array:
        """Computes what the last layer sees; arguments as in ``apply``.

        Returns:
            float32 [n, ``CNN_FEATURES``].
        """

        def dropout(x: jax.Array, layer: int) -> jax.Array:
            if dropout_key is None:
                return x
            return drop_half(jax.random.fold_in(dropout_key, layer), x)

        x = dropout(jax.nn.relu(_max_pool(_conv(params["conv_1"], x))), 1)
        x = dropout(jax.nn.relu(_max_pool(_conv(params["conv_2"], x))), 2)
        x = _flatten(jax.nn.relu(_conv(params["conv_3"], x)))
        return dropout(jax.nn.relu(linear(params["linear_1"], x)), 3)


def check_size(name: str, image_shape: tuple[int, int, int], minimum: int) -> None:
    """Raises InputError if images have fewer rows or columns than a network needs."""
    if min(image_shape[:2]) < minimum:
        raise InputError(
            f"the {name} classifier is asked for on images of "
            f"{transforms.format_shape(image_shape)}; allowed: at least "
            f"{minimum}x{minimum} pixels (logreg and mlp take any size)."
        )


def num_parameters(classifier: Classifier) -> int:
    """Counts a classifier's trained scalars without allocating them."""
    shapes = jax.eval_shape(classifier.init, jax.random.key(0))
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))


def drop_half(key: jax.Array, x: jax.Array) -> jax.Array:
    """Sets each element to zero with probability 1/2, and doubles the others.

    One random bit an element is enough, and random words cost as much as the layers
    between them.
    """
    words = jax.random.bits(key, (-(-x.size // 32),), jnp.uint32)
    bits = words[:, None] >> jnp.arange(32, dtype=jnp.uint32) & 1
    keep = bits.reshape(-1)[: x.size].reshape(x.shape) != 0
    return jnp.where(keep, 2 * x, 0)


def init_uniform(key: jax.Array, kernels: Mapping[str, tuple[int, ...]]) -> Params:
    """Draws layers, weights and biases from U(+-1/sqrt(fan in)), PyTorch's default.

    Args:
        key: typed key.
        kernels: name -> shape of a kernel, output last.

    Returns:
        name -> {"kernel": float32 of that shape, "bias": float32 [output]}.
    """
    total = sum(math.prod(shape) + shape[-1] for shape in kernels.values())
    # One draw cut into tensors, since XLA would compile a draw for every shape.
    draw = jax.random.uniform(key, (total,), minval=-1.0, maxval=1.0)
    params: Params = {}
    start = 0
    for name, shape in kernels.items():
        bound = 1 / np.sqrt(math.prod(shape[:-1]))
        sizes = {"kernel": shape, "bias": shape[-1:]}
        params[name] = {}
        for part, part_shape in sizes.items():
            size = math.prod(part_shape)
            values = draw[start : start + size].reshape(part_shape)
            params[name][part] = jnp.float32(bound) * values
            start += size
    return params


def _flatten(x: jax.Array) -> jax.Array:
    return x.reshape(len(x), -1)


def linear(params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    """[n, in] -> [n, out]."""
    return x @ params["kernel"] + params["bias"]


def convolve(x: jax.Array, kernel: jax.Array, stride: int = 1) -> jax.Array:
    """Convolution without padding.

    Args:
        x: [n, h, w, in].
        kernel: [k, k, in, out].
        stride: both ways.

    Returns:
        [n, (h - k) // stride + 1, (w - k) // stride + 1, out].
    """
    # XLA's own convolution is an order of magnitude slower inside lax.scan on CPU.
    return jax.lax.platform_dependent(
        x,
        kernel,
        cpu=lambda x, kernel: _product_with_patches(x, kernel, stride),
        default=lambda x, kernel: jax.lax.conv_general_dilated(
            x,
            kernel,
            (stride, stride),
            "VALID",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        ),
    )


def _product_with_patches(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    size = len(kernel)
    height, width = x.shape[1] - size + 1, x.shape[2] - size + 1
    patches = [
        x[:, i : i + height : stride, j : j + width : stride]
        for i in range(size)
        for j in range(size)
    ]
    return jnp.concatenate(patches, axis=-1) @ kernel.reshape(-1, kernel.shape[-1])


def _conv(params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    return convolve(x, params["kernel"]) + params["bias"]


def _max_pool(x: jax.Array) -> jax.Array:
    """Takes the maximum of 2x2 blocks; an odd last row or column is left out."""
    x = x[:, : x.shape[1] // 2 * 2, : x.shape[2] // 2 * 2]
    x = jnp.maximum(x[:, ::2], x[:, 1::2])
    return jnp.maximum(x[:, :, ::2], x[:, :, 1::2])


def _cnn_output_size(size: int) -> int:
    """Rows (or columns) before the linear layers, of an image with ``size``."""
    margin = _KERNEL - 1
    return ((size - margin) // 2 - margin) // 2 - margin
