"""The wide residual network that judges synthetic colour images.

Zagoruyko and Komodakis, 2016 (arXiv 1605.07146), with group normalisation and
standardised kernels in place of batch normalisation, as De et al., 2022 (arXiv
2204.13650), whose authors use it for synthetic images in arXiv 2302.13861, write it.
Without batch statistics an image's gradient is its own, so that the network can also be
trained by DP-SGD. Initial weights are ours, and so is the border of convolutions with a
stride, the same on both sides.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from dpdm_jax.errors import InputError
from dpdm_jax.evaluation import classifiers
from dpdm_jax.evaluation.classifiers import Params

_STEM_CHANNELS = 16
_STAGES = 3
_GROUPS = 16
_EPSILON = 1e-5
#: Each of the two transitions between stages halves the sides.
MIN_SIZE = 8


@dataclass(frozen=True)
class WideResNet:
    """WRN-40-4 by default: 8.9 million parameters.

    Attributes:
        image_shape: (h, w, c), h, w >= 8.
        num_classes: number of logits.
        depth: layers, 4 more than a multiple of 6.
        width: multiple of the channels 16, 32 and 64 of the stages.
    """

    image_shape: tuple[int, int, int]
    num_classes: int
    depth: int = 40
    width: int = 4

    def __post_init__(self) -> None:
        if self.depth < 10 or (self.depth - 4) % 6:
            raise InputError(
                f"the depth of a wide residual network is {self.depth}; allowed: 10, "
                "16, 22, ... (4 more than a multiple of 6)."
            )
        classifiers.check_size("wrn", self.image_shape, MIN_SIZE)

    def init(self, key: jax.Array) -> Params:
        repeats = (self.depth - 4) // 6 - 1
        keys = iter(jax.random.split(key, 2 + 2 * _STAGES))
        stem = {"stem": (3, 3, self.image_shape[-1], _STEM_CHANNELS)}
        params = _init(next(keys), stem)
        channels = _STEM_CHANNELS
        for stage in range(_STAGES):
            wider = self.width * _STEM_CHANNELS * 2**stage
            params[f"stage{stage}_first"] = _init(
                next(keys),
                {
                    "skip": (1, 1, channels, wider),
                    "conv1": (3, 3, channels, wider),
                    "conv2": (3, 3, wider, wider),
                },
            )
            kernel = (3, 3, wider, wider)
            # Equal blocks are one block with stacked parameters, compiled once.
            params[f"stage{stage}_rest"] = jax.vmap(
                lambda k, kernel=kernel: _init(k, {"conv1": kernel, "conv2": kernel})
            )(jax.random.split(next(keys), repeats))
            channels = wider
        params["norm"] = _norm_params(channels)
        head = {"linear": (channels, self.num_classes)}
        return params | classifiers.init_uniform(next(keys), head)

    def apply(
        self, params: Params, x: jax.Array, dropout_key: jax.Array | None = None
    ) -> jax.Array:
        del dropout_key
        x = _convolve(params["stem"], x, 1)
        for stage in range(_STAGES):
            first = params[f"stage{stage}_first"]
            stride = 1 if stage == 0 else 2
            skip = _unit(first["skip"], x, stride)
            x = skip + _residual(first, x, stride)
            x, _ = jax.lax.scan(
                lambda x, block: (x + _residual(block, x, 1), None),
                x,
                params[f"stage{stage}_rest"],
            )
        x = jnp.mean(_group_norm(params["norm"], jax.nn.relu(x)), axis=(1, 2))
        return classifiers.linear(params["linear"], x)


def _residual(block: Params, x: jax.Array, stride: int) -> jax.Array:
    return _unit(block["conv2"], _unit(block["conv1"], x, stride), 1)


def _unit(params: Params, x: jax.Array, stride: int) -> jax.Array:
    """ReLU, normalisation, convolution."""
    return _convolve(params, _group_norm(params["norm"], jax.nn.relu(x)), stride)


def _convolve(params: Params, x: jax.Array, stride: int) -> jax.Array:
    kernel = params["kernel"]
    # Mean 0 and the variance that keeps that of the activations, for each output.
    inputs = (0, 1, 2)
    mean = jnp.mean(kernel, inputs, keepdims=True)
    variance = jnp.var(kernel, inputs, keepdims=True) * math.prod(kernel.shape[:3])
    kernel = (kernel - mean) * jax.lax.rsqrt(jnp.maximum(variance, 1e-4))
    border = (len(kernel) - 1) // 2
    x = jnp.pad(x, ((0, 0), (border, border), (border, border), (0, 0)))
    x = classifiers.convolve(x, kernel * params["gain"], stride)
    return x + params["bias"]


def _group_norm(params: Params, x: jax.Array) -> jax.Array:
    grouped = x.reshape(*x.shape[:3], _GROUPS, -1)
    over = (1, 2, 4)
    mean = jnp.mean(grouped, over, keepdims=True)
    variance = jnp.var(grouped, over, keepdims=True)
    normal = (grouped - mean) * jax.lax.rsqrt(variance + _EPSILON)
    return normal.reshape(x.shape) * params["scale"] + params["bias"]


def _init(key: jax.Array, kernels: Mapping[str, tuple[int, ...]]) -> Params:
    """Convolutions by name, each with the normalisation of what it takes in."""
    params = {}
    for name, drawn in classifiers.init_uniform(key, kernels).items():
        channels, outputs = drawn["kernel"].shape[-2:]
        params[name] = {
            "kernel": drawn["kernel"],
            "gain": jnp.ones(outputs),
            "bias": jnp.zeros(outputs),
        }
        if name != "stem":
            params[name]["norm"] = _norm_params(channels)
    return params


def _norm_params(channels: int) -> dict[str, jax.Array]:
    return {"scale": jnp.ones(channels), "bias": jnp.zeros(channels)}
