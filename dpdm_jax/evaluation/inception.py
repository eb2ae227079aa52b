"""The Inception network of FID, in Flax.

The network of the TensorFlow graph ``inception-2015-12-05``, on whose 2,048 features
after the last pooling the Frechet Inception Distance is defined (Heusel et al., 2017,
arXiv 1706.08500). It is Inception-v3 (Szegedy et al., 2015, arXiv 1512.00567) with two
properties of that graph: average pooling divides by the number of pixels inside the
image, and the pooling of the very last block takes the maximum.

Batch normalisation, which is a constant map here, is part of the kernels and biases.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from dpdm_jax.errors import InputError

NUM_FEATURES = 2048
#: Side of the square image that the network sees.
INPUT_SIZE = 299
#: Raised when the same images and weights give other features than before.
PREPROCESSING = "tf_bilinear_299_v1"

_BATCH_NORM_EPSILON = 1e-3

Params = dict[str, Any]


class ConvUnit(nnx.Module):
    """Convolution with bias, then ReLU: [n, h, w, in] -> [n, h', w', out]."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: tuple[int, int] = (1, 1),
        *,
        stride: int = 1,
        padding: str = "SAME",
    ):
        self.kernel = nnx.Param(jnp.zeros((*kernel_size, in_channels, out_channels)))
        self.bias = nnx.Param(jnp.zeros(out_channels))
        self.stride = stride
        self.padding = padding

    def __call__(self, x: jax.Array) -> jax.Array:
        return jax.nn.relu(
            _convolve(x, self.kernel[...], self.stride, self.padding) + self.bias[...]
        )


class MixedA(nnx.Module):
    """35x35 block: 1x1, 5x5, twice 3x3, and average pooling."""

    def __init__(self, channels: int, pool_channels: int):
        self.branch1x1 = ConvUnit(channels, 64)
        self.branch5x5_1 = ConvUnit(channels, 48)
        self.branch5x5_2 = ConvUnit(48, 64, (5, 5))
        self.branch3x3dbl_1 = ConvUnit(channels, 64)
        self.branch3x3dbl_2 = ConvUnit(64, 96, (3, 3))
        self.branch3x3dbl_3 = ConvUnit(96, 96, (3, 3))
        self.branch_pool = ConvUnit(channels, pool_channels)

    def __call__(self, x: jax.Array) -> jax.Array:
        branches = [
            self.branch1x1(x),
            self.branch5x5_2(self.branch5x5_1(x)),
            self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x))),
            self.branch_pool(average_pool(x)),
        ]
        return jnp.concatenate(branches, axis=-1)


class MixedB(nnx.Module):
    """35x35 to 17x17 block: 3x3, twice 3x3, and maximum pooling."""

    def __init__(self, channels: int):
        self.branch3x3 = ConvUnit(channels, 384, (3, 3), stride=2, padding="VALID")
        self.branch3x3dbl_1 = ConvUnit(channels, 64)
        self.branch3x3dbl_2 = ConvUnit(64, 96, (3, 3))
        self.branch3x3dbl_3 = ConvUnit(96, 96, (3, 3), stride=2, padding="VALID")

    def __call__(self, x: jax.Array) -> jax.Array:
        branches = [
            self.branch3x3(x),
            self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x))),
            max_pool(x, stride=2),
        ]
        return jnp.concatenate(branches, axis=-1)


class MixedC(nnx.Module):
    """17x17 block: 1x1, 7x7 and twice 7x7 in factors, and average pooling."""

    def __init__(self, inner: int):
        row, column = (1, 7), (7, 1)
        self.branch1x1 = ConvUnit(768, 192)
        self.branch7x7_1 = ConvUnit(768, inner)
        self.branch7x7_2 = ConvUnit(inner, inner, row)
        self.branch7x7_3 = ConvUnit(inner, 192, column)
        self.branch7x7dbl_1 = ConvUnit(768, inner)
        self.branch7x7dbl_2 = ConvUnit(inner, inner, column)
        self.branch7x7dbl_3 = ConvUnit(inner, inner, row)
        self.branch7x7dbl_4 = ConvUnit(inner, inner, column)
        self.branch7x7dbl_5 = ConvUnit(inner, 192, row)
        self.branch_pool = ConvUnit(768, 192)

    def __call__(self, x: jax.Array) -> jax.Array:
        once = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        twice = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        twice = self.branch7x7dbl_5(self.branch7x7dbl_4(twice))
        pooled = self.branch_pool(average_pool(x))
        return jnp.concatenate([self.branch1x1(x), once, twice, pooled], axis=-1)


class MixedD(nnx.Module):
    """17x17 to 8x8 block: 3x3, 7x7 in factors then 3x3, and maximum pooling."""

    def __init__(self) -> None:
        halving = functools.partial(
            ConvUnit, kernel_size=(3, 3), stride=2, padding="VALID"
        )
        self.branch3x3_1 = ConvUnit(768, 192)
        self.branch3x3_2 = halving(192, 320)
        self.branch7x7x3_1 = ConvUnit(768, 192)
        self.branch7x7x3_2 = ConvUnit(192, 192, (1, 7))
        self.branch7x7x3_3 = ConvUnit(192, 192, (7, 1))
        self.branch7x7x3_4 = halving(192, 192)

    def __call__(self, x: jax.Array) -> jax.Array:
        factored = self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x)))
        branches = [
            self.branch3x3_2(self.branch3x3_1(x)),
            self.branch7x7x3_4(factored),
            max_pool(x, stride=2),
        ]
        return jnp.concatenate(branches, axis=-1)


class MixedE(nnx.Module):
    """8x8 block: 1x1, forked 3x3, 3x3 then forked 3x3, and pooling."""

    def __init__(self, channels: int, *, pools_maximum: bool):
        row, column = (1, 3), (3, 1)
        self.branch1x1 = ConvUnit(channels, 320)
        self.branch3x3_1 = ConvUnit(channels, 384)
        self.branch3x3_2a = ConvUnit(384, 384, row)
        self.branch3x3_2b = ConvUnit(384, 384, column)
        self.branch3x3dbl_1 = ConvUnit(channels, 448)
        self.branch3x3dbl_2 = ConvUnit(448, 384, (3, 3))
        self.branch3x3dbl_3a = ConvUnit(384, 384, row)
        self.branch3x3dbl_3b = ConvUnit(384, 384, column)
        self.branch_pool = ConvUnit(channels, 192)
        self.pools_maximum = pools_maximum

    def __call__(self, x: jax.Array) -> jax.Array:
        once = self.branch3x3_1(x)
        twice = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        pooled = max_pool(x, stride=1) if self.pools_maximum else average_pool(x)
        branches = [
            self.branch1x1(x),
            self.branch3x3_2a(once),
            self.branch3x3_2b(once),
            self.branch3x3dbl_3a(twice),
            self.branch3x3dbl_3b(twice),
            self.branch_pool(pooled),
        ]
        return jnp.concatenate(branches, axis=-1)


class Inception(nnx.Module):
    """Features [n, 2048] of images [n, 299, 299, 3] in [-1, 1].

    Attributes are named as in the published file, but for the first letter.
    """

    def __init__(self) -> None:
        self.conv2d_1a_3x3 = ConvUnit(3, 32, (3, 3), stride=2, padding="VALID")
        self.conv2d_2a_3x3 = ConvUnit(32, 32, (3, 3), padding="VALID")
        self.conv2d_2b_3x3 = ConvUnit(32, 64, (3, 3))
        self.conv2d_3b_1x1 = ConvUnit(64, 80)
        self.conv2d_4a_3x3 = ConvUnit(80, 192, (3, 3), padding="VALID")
        self.mixed_5b = MixedA(192, 32)
        self.mixed_5c = MixedA(256, 64)
        self.mixed_5d = MixedA(288, 64)
        self.mixed_6a = MixedB(288)
        self.mixed_6b = MixedC(128)
        self.mixed_6c = MixedC(160)
        self.mixed_6d = MixedC(160)
        self.mixed_6e = MixedC(192)
        self.mixed_7a = MixedD()
        self.mixed_7b = MixedE(1280, pools_maximum=False)
        self.mixed_7c = MixedE(2048, pools_maximum=True)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.conv2d_2a_3x3(self.conv2d_1a_3x3(x))
        x = max_pool(self.conv2d_2b_3x3(x), stride=2)
        x = max_pool(self.conv2d_4a_3x3(self.conv2d_3b_1x1(x)), stride=2)
        x = self.mixed_5d(self.mixed_5c(self.mixed_5b(x)))
        x = self.mixed_6a(x)
        x = self.mixed_6e(self.mixed_6d(self.mixed_6c(self.mixed_6b(x))))
        x = self.mixed_7c(self.mixed_7b(self.mixed_7a(x)))
        return jnp.mean(x, axis=(1, 2))


def params_from_state_dict(state: Mapping[str, np.ndarray]) -> Params:
    """Turns the published weights into parameters, batch normalisation folded in.

    Args:
        state: arrays by name, kernels [out, in, h, w], as in ``pytorch-fid``'s file:
            ``Conv2d_1a_3x3.conv.weight``, ``Conv2d_1a_3x3.bn.running_mean`` and so on.
            The classifier's ``fc`` is not used and may be missing.

    Returns:
        Float32 parameters of ``features``.

    Raises:
        InputError: an array is missing, superfluous, or of another shape.
    """
    params: Params = {}
    used = {name for name in state if name.startswith("fc.")}
    used |= {name for name in state if name.endswith(".num_batches_tracked")}

    def take(name: str, shape: tuple[int, ...]) -> np.ndarray:
        if name not in state:
            raise InputError(
                f"the Inception weights have no {name}; allowed: the weights that "
                "pytorch-fid uses."
            )
        array = np.asarray(state[name], np.float64)
        if array.shape != shape:
            raise InputError(
                f"the Inception weights' {name} has shape {array.shape}; allowed: "
                f"{shape}, as in the weights that pytorch-fid uses."
            )
        used.add(name)
        return array

    for path, shape in parameter_shapes().items():
        if path[-1] != "kernel":
            continue
        unit = ".".join((path[0].capitalize(), *path[1:-1]))
        height, width, fan_in, out = shape
        kernel = take(f"{unit}.conv.weight", (out, fan_in, height, width))
        scale, shift, mean, variance = (
            take(f"{unit}.bn.{name}", (out,))
            for name in ("weight", "bias", "running_mean", "running_var")
        )
        gain = scale / np.sqrt(variance + _BATCH_NORM_EPSILON)
        node = params
        for part in path[:-1]:
            node = node.setdefault(part, {})
        node["kernel"] = jnp.asarray(kernel.transpose(2, 3, 1, 0) * gain, jnp.float32)
        node["bias"] = jnp.asarray(shift - mean * gain, jnp.float32)
    superfluous = sorted(set(state) - used)
    if superfluous:
        raise InputError(
            f"the Inception weights have {superfluous[0]}, which the network has not; "
            "allowed: the weights that pytorch-fid uses."
        )
    return params


def parameter_shapes() -> dict[tuple[str, ...], tuple[int, ...]]:
    """Returns the shapes of the network's kernels and biases, by path."""
    _, state = _graph_and_state()
    return {
        tuple(map(str, path)): leaf.shape for path, leaf in nnx.to_flat_state(state)
    }


def features(params: Params, images: jax.Array) -> jax.Array:
    """Computes what FID compares.

    Args:
        params: of ``params_from_state_dict``.
        images: uint8 [n, h, w, c] of any size; c is 3, or 1, which is repeated.

    Returns:
        float32 [n, 2048].
    """
    graph, _ = _graph_and_state()
    x = resize_bilinear(images.astype(jnp.float32) / 255, INPUT_SIZE)
    if x.shape[-1] == 1:
        x = jnp.repeat(x, 3, axis=-1)
    return nnx.merge(graph, params)(2 * x - 1)


def resize_bilinear(x: jax.Array, size: int) -> jax.Array:
    """Interpolates linearly between the two nearest pixels a side, never averaging.

    Pixel centres lie at halves and the border is repeated. Reducing an image this way
    skips pixels; FID is defined with it all the same.

    Args:
        x: float [n, h, w, c].
        size: new height and width.

    Returns:
        float [n, size, size, c].
    """
    rows = _interpolation(x.shape[1], size)
    columns = _interpolation(x.shape[2], size)
    precision = jax.lax.Precision.HIGHEST
    x = jnp.einsum("nhwc,ih->niwc", x, rows, precision=precision)
    return jnp.einsum("niwc,jw->nijc", x, columns, precision=precision)


def average_pool(x: jax.Array) -> jax.Array:
    """Means of 3x3 windows at stride 1, over the pixels inside the image."""
    total = _pool(_pool(x, jnp.add, 0, 1, axis=1), jnp.add, 0, 1, axis=2)
    rows, columns = _pixels_inside(x.shape[1]), _pixels_inside(x.shape[2])
    return total / (rows[:, None, None] * columns[:, None])


def max_pool(x: jax.Array, *, stride: int) -> jax.Array:
    """Maxima of 3x3 windows: at stride 1 padded to keep the size, at 2 not padded."""
    padding = -jnp.inf if stride == 1 else None
    x = _pool(x, jnp.maximum, padding, stride, axis=1)
    return _pool(x, jnp.maximum, padding, stride, axis=2)


def _pool(
    x: jax.Array,
    combine: Callable[[jax.Array, jax.Array], jax.Array],
    padding: float | None,
    stride: int,
    axis: int,
) -> jax.Array:
    """Combines three neighbours along an axis; as slices, since XLA's windows crawl."""
    if padding is not None:
        widths = [(0, 0)] * x.ndim
        widths[axis] = (1, 1)
        x = jnp.pad(x, widths, constant_values=padding)
    length = (x.shape[axis] - 3) // stride * stride + 1
    first, second, third = (
        jax.lax.slice_in_dim(x, start, start + length, stride, axis)
        for start in range(3)
    )
    return combine(combine(first, second), third)


def _pixels_inside(size: int) -> np.ndarray:
    """Counts, float32 [size], how many of three neighbours lie inside."""
    counts = np.full(size, 3, np.float32)
    counts[0] -= 1
    counts[-1] -= 1
    return counts


def _convolve(x: jax.Array, kernel: jax.Array, stride: int, padding: str) -> jax.Array:
    if kernel.shape[:2] == (1, 1):
        # A matrix product, and faster as one.
        return x @ kernel[0, 0]
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def _interpolation(old: int, new: int) -> np.ndarray:
    """Returns the matrix, float32 [new, old], of linear interpolation."""
    position = np.maximum((np.arange(new) + 0.5) * old / new - 0.5, 0)
    low = np.minimum(position.astype(int), old - 1)
    high = np.minimum(low + 1, old - 1)
    fraction = position - low
    matrix = np.zeros((new, old))
    np.add.at(matrix, (np.arange(new), low), 1 - fraction)
    np.add.at(matrix, (np.arange(new), high), fraction)
    return matrix.astype(np.float32)


@functools.cache
def _graph_and_state() -> tuple[Any, Any]:
    return nnx.split(nnx.eval_shape(Inception))
