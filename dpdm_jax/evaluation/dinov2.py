"""DINOv2's vision transformer, from its published weights.

Oquab et al., 2023 (arXiv 2304.07193): patches of 14 pixels, blocks with layer scale,
the class token behind the last normalisation as the image's features. Written from the
paper, for the names of the published state dictionary (``dinov2_vits14_pretrain.pth``
and the wider ones with the same parts, without registers).
"""

import math
import pathlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dpdm_jax.errors import InputError
from dpdm_jax.interop import torch_checkpoints

PATCH, SIDE = 14, 224
PREPROCESSING = (
    "u / 255 resized to 224x224 bicubically with antialiasing, less ImageNet's mean "
    "and over its deviation; grey repeated to RGB"
)
_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_HEAD = 64  # features of an attention head, in all published sizes
_EPSILON = 1e-6
# Added to the grid's side before positions are resized to it, as in training.
_OFFSET = 0.1
_BLOCK = {
    **{f"norm{i}.{part}": "w" for i in (1, 2) for part in ("weight", "bias")},
    **{f"ls{i}.gamma": "w" for i in (1, 2)},
    "attn.qkv.weight": "3w,w",
    "attn.qkv.bias": "3w",
    "attn.proj.weight": "w,w",
    "attn.proj.bias": "w",
    "mlp.fc1.weight": "4w,w",
    "mlp.fc1.bias": "4w",
    "mlp.fc2.weight": "w,4w",
    "mlp.fc2.bias": "w",
}
_UNUSED = "mask_token"  # of its training alone

Params = dict[str, jax.Array]


class Network(NamedTuple):
    """What was read.

    Attributes:
        params: float32 arrays under the published names, blocks' stacked, [depth, ...].
        num_features: width.
        num_heads: of each attention.
    """

    params: dict[str, np.ndarray]
    num_features: int
    num_heads: int


def load(path: pathlib.Path) -> Network:
    """Reads published weights; every name and shape must be as it should.

    Raises:
        InputError: the file is missing, damaged or of something else, or PyTorch, which
            reads .pth, is not installed.
    """
    return from_state_dict(torch_checkpoints.read_state_dict(path), str(path))


def from_state_dict(state: dict[str, np.ndarray], name: str = "the file") -> Network:
    """Makes a network of arrays under the published names.

    Args:
        state: of the whole network.
        name: of where it comes from, for errors.

    Raises:
        InputError: a name is missing or not known, or a shape is another.
    """
    state = {key: value for key, value in state.items() if key != _UNUSED}
    width = state["cls_token"].shape[-1] if "cls_token" in state else 0
    depth = len({key.split(".")[1] for key in state if key.startswith("blocks.")})
    if not width or width % _HEAD or not depth:
        raise InputError(
            f"{name} holds no weights of DINOv2; allowed: those of its ViT-S/14, B/14 "
            "or L/14 without registers, .pth or .safetensors."
        )
    positions = state.get("pos_embed", np.zeros((1, 0, 0))).shape[1]
    wanted = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, math.isqrt(max(positions - 1, 1)) ** 2 + 1, width),
        "patch_embed.proj.weight": (width, 3, PATCH, PATCH),
        "patch_embed.proj.bias": (width,),
        "norm.weight": (width,),
        "norm.bias": (width,),
    }
    block = {
        key: tuple(int(n[:-1] or 1) * width for n in shape.split(","))
        for key, shape in _BLOCK.items()
    }
    for i in range(depth):
        wanted |= {f"blocks.{i}.{key}": shape for key, shape in block.items()}
    found = {key: value.shape for key, value in state.items()}
    for key in sorted(wanted.keys() | found.keys()):
        if wanted.get(key) != found.get(key):
            raise InputError(
                f"{name} has {key} {list(found[key]) if key in found else 'not at all'}"
                f"; allowed in a DINOv2 of {depth} blocks and width {width}: "
                f"{list(wanted[key]) if key in wanted else 'no such name'}."
            )
    params = {
        key: np.asarray(state[key], np.float32)
        for key in wanted
        if not key.startswith("blocks.")
    }
    for key in block:
        stacked = [state[f"blocks.{i}.{key}"] for i in range(depth)]
        params[key] = np.stack(stacked).astype(np.float32)
    return Network(params, width, width // _HEAD)


def features(params: Params, num_heads: int, images: jax.Array) -> jax.Array:
    """Computes the normalised class token of each image.

    Args:
        params: of ``Network``.
        num_heads: likewise.
        images: uint8 [n, h, w, c], c 1 or 3.

    Returns:
        float32 [n, width].
    """
    x = images.astype(jnp.float32) / 255
    x = jnp.broadcast_to(x, (*x.shape[:-1], 3))
    x = jax.image.resize(x, (len(x), SIDE, SIDE, 3), "cubic")
    x = (x - jnp.array(_MEAN)) / jnp.array(_DEVIATION)
    return encode(params, num_heads, x)


def encode(params: Params, num_heads: int, x: jax.Array) -> jax.Array:
    """As ``features``, of prepared images float32 [n, s, s, 3], s a multiple of 14."""
    n, grid = len(x), x.shape[1] // PATCH
    x = x.reshape(n, grid, PATCH, grid, PATCH, 3)
    kernel = params["patch_embed.proj.weight"]
    x = jnp.einsum("ngphqc,dcpq->nghd", x, kernel).reshape(n, grid * grid, -1)
    x = x + params["patch_embed.proj.bias"]
    token = jnp.broadcast_to(params["cls_token"], (n, 1, x.shape[-1]))
    x = jnp.concatenate([token, x], axis=1) + _positions(params["pos_embed"], grid)

    def block(x: jax.Array, part: Params) -> tuple[jax.Array, None]:
        y = _normalised(x, part["norm1.weight"], part["norm1.bias"])
        x = x + part["ls1.gamma"] * _attention(part, num_heads, y)
        y = _normalised(x, part["norm2.weight"], part["norm2.bias"])
        y = y @ part["mlp.fc1.weight"].T + part["mlp.fc1.bias"]
        y = jax.nn.gelu(y, approximate=False)
        y = y @ part["mlp.fc2.weight"].T + part["mlp.fc2.bias"]
        return x + part["ls2.gamma"] * y, None

    x, _ = jax.lax.scan(block, x, {key: params[key] for key in _BLOCK})
    return _normalised(x, params["norm.weight"], params["norm.bias"])[:, 0]


def _attention(part: Params, num_heads: int, x: jax.Array) -> jax.Array:
    n, length, width = x.shape
    qkv = x @ part["attn.qkv.weight"].T + part["attn.qkv.bias"]
    q, k, v = jnp.moveaxis(qkv.reshape(n, length, 3, num_heads, -1), 2, 0)
    y = jax.nn.dot_product_attention(q, k, v).reshape(n, length, width)
    return y @ part["attn.proj.weight"].T + part["attn.proj.bias"]


def _normalised(x: jax.Array, weight: jax.Array, bias: jax.Array) -> jax.Array:
    mean = x.mean(axis=-1, keepdims=True)
    variance = jnp.square(x - mean).mean(axis=-1, keepdims=True)
    return (x - mean) * jax.lax.rsqrt(variance + _EPSILON) * weight + bias


def _positions(embedding: jax.Array, grid: int) -> jax.Array:
    """Returns the positions' embedding for a grid, [1, 1 + grid^2, width]."""
    side = math.isqrt(embedding.shape[1] - 1)
    if side == grid:
        return embedding
    weights = _bicubic(side, grid)
    table = embedding[0, 1:].reshape(side, side, -1)
    resized = jnp.einsum("gs,ht,std->ghd", weights, weights, table)
    resized = resized.reshape(1, grid * grid, -1)
    return jnp.concatenate([embedding[:, :1], resized], axis=1)


def _bicubic(size: int, wanted: int) -> np.ndarray:
    """Returns [wanted, size] weights of bicubic interpolation, at PyTorch's a = -0.75.

    The scale is that of a grid a little larger, as the weights were trained.
    """
    scale = size / (wanted + _OFFSET)
    at = (np.arange(wanted) + 0.5) * scale - 0.5
    weights = np.zeros((wanted, size), np.float32)
    for offset in range(-1, 3):
        source = np.floor(at).astype(int) + offset
        distance = np.abs(at - source)
        a = -0.75
        near = (a + 2) * distance**3 - (a + 3) * distance**2 + 1
        far = a * (distance**3 - 5 * distance**2 + 8 * distance - 4)
        # Beyond the edge its last value goes on.
        chosen = np.clip(source, 0, size - 1)
        np.add.at(
            weights, (np.arange(wanted), chosen), np.where(distance <= 1, near, far)
        )
    return weights
