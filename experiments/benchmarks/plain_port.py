"""A first step of private training as a plain port of DPDM to JAX would take it.

``jit`` of ``vmap(grad)``, clipping, noise and Adam over Flax's own layers, with no
compiler flags: what ``first_step`` and ``step_time`` compare with. It prints "done"
when the step is.

python -m experiments.benchmarks.plain_port NETWORK B K
"""

import dataclasses
import math
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import optax
from flax import linen as nn

from dpdm_jax.conditions import of_classes
from dpdm_jax.diffusion.denoiser import make_denoiser
from dpdm_jax.diffusion.losses import ExampleLoss
from dpdm_jax.models.model import build_model
from dpdm_jax.networks import Network, embeddings
from experiments.benchmarks import problem

Params = dict[str, Any]


def _conv(p: Params, x: jax.Array) -> jax.Array:
    return nn.Conv(p["kernel"].shape[-1], (3, 3)).apply({"params": p}, x)


def _dense(p: Params, x: jax.Array) -> jax.Array:
    return nn.Dense(p["kernel"].shape[-1]).apply({"params": p}, x)


def _norm(p: Params, x: jax.Array) -> jax.Array:
    groups = min(x.shape[-1] // 4, 32)
    return nn.GroupNorm(groups, epsilon=1e-6).apply({"params": p}, x)


def _downsample(x: jax.Array) -> jax.Array:
    return nn.avg_pool(x, (2, 2), (2, 2))


def _upsample(x: jax.Array) -> jax.Array:
    return x.repeat(2, axis=1).repeat(2, axis=2)


def _block(
    p: Params,
    x: jax.Array,
    embedding: jax.Array,
    resample: Callable[[jax.Array], jax.Array] = lambda x: x,
) -> jax.Array:
    h = resample(nn.silu(_norm(p["norm_a"], x)))
    h = _conv(p["conv_a"], h)
    h = h + _dense(p["embedding"], nn.silu(embedding))[:, None, None]
    h = _conv(p["conv_b"], nn.silu(_norm(p["norm_b"], h)))
    x = resample(x)
    if "shortcut" in p:
        x = _dense(p["shortcut"], x)
    return (x + h) / math.sqrt(2)


def _attention(p: Params, x: jax.Array) -> jax.Array:
    n, height, width, channels = x.shape
    h = _norm(p["norm"], x).reshape(n, height * width, 1, channels)
    h = nn.dot_product_attention(
        _dense(p["query"], h), _dense(p["key"], h), _dense(p["value"], h)
    )
    return (x + _dense(p["output"], h).reshape(x.shape)) / math.sqrt(2)


def make_apply(config: ml_collections.ConfigDict) -> Callable[..., jax.Array]:
    """The forward pass over the parameters of ``dpdm_jax.networks.ncsnpp``.

    Args:
        config: ``config.network.ncsnpp``.

    Returns:
        ``apply(params, x, c_noise, label)``, as in ``networks.Network``.
    """

    def apply(
        params: Params, x: jax.Array, c_noise: jax.Array, label: jax.Array
    ) -> jax.Array:
        p = params["embedding"]
        table = p["label"]["embedding"]
        embedding = embeddings.positional(c_noise, config.base_width) + table[label]
        embedding = _dense(p["output"], nn.silu(_dense(p["hidden"], embedding)))
        h = _conv(params["stem"], x)
        skips = [h]
        for i in range(len(params["down"])):
            level = params["down"][f"level_{i}"]
            for j in range(config.num_res_blocks):
                h = _block(level[f"block_{j}"], h, embedding)
                if f"attention_{j}" in level:
                    h = _attention(level[f"attention_{j}"], h)
                skips.append(h)
            if "downsample" in level:
                h = _block(level["downsample"], h, embedding, _downsample)
                skips.append(h)
        h = _block(params["middle"]["block_0"], h, embedding)
        h = _attention(params["middle"]["attention"], h)
        h = _block(params["middle"]["block_1"], h, embedding)
        for i in reversed(range(len(params["up"]))):
            level = params["up"][f"level_{i}"]
            for j in range(config.num_res_blocks + 1):
                h = jnp.concatenate([h, skips.pop()], axis=-1)
                h = _block(level[f"block_{j}"], h, embedding)
            if "attention" in level:
                h = _attention(level["attention"], h)
            if "upsample" in level:
                h = _block(level["upsample"], h, embedding, _upsample)
        return _conv(params["head"]["conv"], nn.silu(_norm(params["head"]["norm"], h)))

    return apply


def build(network: str, noise_multiplicity: int) -> tuple[Network, ExampleLoss]:
    """The network, for its initialisation, and the port's loss of one example."""
    config = problem.load_config(network, noise_multiplicity)
    model = build_model(config, problem.IMAGE_SHAPE, of_classes(problem.NUM_CLASSES))
    denoise = make_denoiser(make_apply(config.network.ncsnpp), model.parameterization)
    ported = dataclasses.replace(model, denoise=denoise)
    return model.network, ported.loss()


def main() -> None:
    """Takes one step from random weights on random images."""
    network_name, batch_size, noise_multiplicity = sys.argv[1], *map(int, sys.argv[2:])
    network, loss = build(network_name, noise_multiplicity)
    optimizer = optax.adam(3e-4)

    @jax.jit
    def step(params, opt_state, examples, key):
        loss_key, noise_key = jax.random.split(key)
        keys = jax.random.split(loss_key, batch_size)
        grads = jax.vmap(jax.grad(loss), (None, 0, 0))(params, examples, keys)
        norms = jax.vmap(optax.global_norm)(grads)
        factors = jnp.minimum(1.0, 1.0 / norms)
        leaves, treedef = jax.tree.flatten(
            jax.tree.map(lambda g: jnp.tensordot(factors, g, 1), grads)
        )
        noise_keys = jax.random.split(noise_key, len(leaves))
        noised = [
            (leaf + jax.random.normal(key, leaf.shape)) / batch_size
            for leaf, key in zip(leaves, noise_keys, strict=True)
        ]
        updates, opt_state = optimizer.update(treedef.unflatten(noised), opt_state)
        return optax.apply_updates(params, updates), opt_state

    params = network.init(jax.random.key(0))
    shape = (batch_size, *problem.IMAGE_SHAPE)
    examples = {
        "image": jax.random.randint(jax.random.key(1), shape, 0, 256, jnp.uint8),
        "condition": jnp.arange(batch_size) % problem.NUM_CLASSES,
    }
    state = step(params, optimizer.init(params), examples, jax.random.key(2))
    jax.block_until_ready(state)
    print("done", flush=True)


if __name__ == "__main__":
    main()
