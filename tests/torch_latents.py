"""Latent diffusion's layers in PyTorch's own, from their description, for tests.

Each takes a nested dictionary of our parameters and arrays with channels last.
"""

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch")
functional = torch.nn.functional


def as_torch(params):
    """Nested dictionary of float64 tensors."""
    return jax.tree.map(lambda a: torch.tensor(np.asarray(a, np.float64)), params)


def dense(p, x):
    return x @ p["kernel"] + p.get("bias", 0.0)


def conv(p, x, stride=1, pad=(1, 1, 1, 1)):
    """``pad`` is left, right, top, bottom."""
    x = functional.pad(x.movedim(-1, 1), pad)
    kernel = p["kernel"].permute(3, 2, 0, 1).contiguous()
    return functional.conv2d(x, kernel, p["bias"], stride=stride).movedim(1, -1)


def group_norm(p, x, eps):
    x = functional.group_norm(x.movedim(-1, 1), 32, p["scale"], p["bias"], eps)
    return x.movedim(1, -1)


def layer_norm(p, x):
    return functional.layer_norm(x, x.shape[-1:], p["scale"], p["bias"])


def attention(p, x, context, heads):
    def split(y):
        return y.unflatten(-1, (heads, -1)).transpose(1, 2)

    parts = dense(p["query"], x), dense(p["key"], context), dense(p["value"], context)
    attended = functional.scaled_dot_product_attention(*map(split, parts))
    return dense(p["output"], attended.transpose(1, 2).flatten(2))


def transformer_block(p, x, context, heads):
    h = layer_norm(p["norm_a"], x)
    x = x + attention(p["self_attention"], h, h, heads)
    h = layer_norm(p["norm_b"], x)
    x = x + attention(p["cross_attention"], h, h if context is None else context, heads)
    value, gate = dense(p["feed_forward"]["hidden"], layer_norm(p["norm_c"], x)).chunk(
        2, dim=-1
    )
    return x + dense(p["feed_forward"]["output"], value * functional.gelu(gate))


def spatial_transformer(p, x, context, heads):
    h = dense(p["input"], group_norm(p["norm"], x, 1e-6).flatten(1, 2))
    for block in p["blocks"].values():
        h = transformer_block(block, h, context, heads)
    return x + dense(p["output"], h).unflatten(1, x.shape[1:3])


def text_transformer(p, tokens, heads):
    tokens = torch.tensor(np.asarray(tokens))
    rows = p["token"]["embedding"][tokens]
    x = rows + p["position"]["embedding"][: tokens.shape[1]]
    for block in p["blocks"].values():
        h = layer_norm(block["norm_a"], x)
        x = x + attention(block["attention"], h, h, heads)
        h = dense(block["feed_forward"]["hidden"], layer_norm(block["norm_b"], x))
        x = x + dense(block["feed_forward"]["output"], functional.gelu(h))
    return layer_norm(p["norm"], x)


def autoencoder_block(p, x):
    h = conv(p["conv_a"], functional.silu(group_norm(p["norm_a"], x, 1e-6)))
    h = conv(p["conv_b"], functional.silu(group_norm(p["norm_b"], h, 1e-6)))
    return h + (dense(p["shortcut"], x) if "shortcut" in p else x)


def autoencoder_attention(p, x):
    h = group_norm(p["norm"], x, 1e-6).flatten(1, 2)
    return x + attention(p, h, h, 1).unflatten(1, x.shape[1:3])


def _blocks(level, x):
    for j in range(sum(name.startswith("block_") for name in level)):
        x = autoencoder_block(level[f"block_{j}"], x)
        if f"attention_{j}" in level:
            x = autoencoder_attention(level[f"attention_{j}"], x)
    return x


def _middle(p, x):
    x = autoencoder_attention(p["attention"], autoencoder_block(p["block_0"], x))
    return autoencoder_block(p["block_1"], x)


def _head(p, x):
    return conv(p["conv"], functional.silu(group_norm(p["norm"], x, 1e-6)))


def encoder(p, x):
    x = conv(p["stem"], x)
    for i in range(len(p["down"])):
        level = p["down"][f"level_{i}"]
        x = _blocks(level, x)
        if "downsample" in level:
            x = conv(level["downsample"], x, stride=2, pad=(0, 1, 0, 1))
    return _head(p["head"], _middle(p["middle"], x))


def decoder(p, z):
    x = _middle(p["middle"], conv(p["stem"], z))
    for i in reversed(range(len(p["up"]))):
        level = p["up"][f"level_{i}"]
        x = _blocks(level, x)
        if "upsample" in level:
            x = x.repeat_interleave(2, dim=1).repeat_interleave(2, dim=2)
            x = conv(level["upsample"], x)
    return _head(p["head"], x)
