"""How rough a denoiser, the sampler made of it, and a GAN's generator are in 2-D.

python -m experiments.toy_2d [--seeds 0 1 2] > results.json

Figure 2 of DPDM (Dockhorn et al., 2023, arXiv 2210.09929): a diffusion model and a GAN
are fitted to a mixture of Gaussians, without privacy, and the Frobenius norms of their
Jacobians compared. Mixture, networks and training are ours: the paper's are not known.
"""

import argparse
import functools
import json
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dpdm_jax.diffusion import (
    discretizations,
    losses,
    noise_levels,
    parameterizations,
    samplers,
)
from dpdm_jax.diffusion.denoiser import make_denoiser
from dpdm_jax.networks.embeddings import positional
from experiments.benchmarks import machine

# 5 x 5 Gaussians on a grid of unit variance.
_CENTRES = np.stack(np.meshgrid(*2 * [np.arange(-2, 3) / 2**0.5]), -1).reshape(-1, 2)
_UNLABELLED = np.zeros(1, np.int32)
_STD = 0.05
_HIDDEN = (128, 128, 128)
_EMBEDDING = 16  # channels of the denoiser's noise level
_BATCH = 512
_STEPS = 20_000
_POINTS = 2_000  # that norms are averaged over
_SAMPLES = 10_000
_GRID = discretizations.edm_grid(40, 0.002, 80.0, 7.0)
_SIGMAS = np.geomspace(0.002, 80.0, 41)
_EDM = parameterizations.EDM(sigma_data=1.0)

Layers = list[tuple[jax.Array, jax.Array]]


def init_mlp(key: jax.Array, sizes: Sequence[int]) -> Layers:
    """Draws weights: fan-in scaling, and zero biases."""
    keys = jax.random.split(key, len(sizes) - 1)
    return [
        (jax.random.normal(k, (n, m)) * (2 / n) ** 0.5, jnp.zeros(m))
        for k, n, m in zip(keys, sizes[:-1], sizes[1:], strict=True)
    ]


def mlp(layers: Layers, x: jax.Array) -> jax.Array:
    """Applies dense layers with SiLU between them: [n, in] -> [n, out]."""
    for weight, bias in layers[:-1]:
        x = jax.nn.silu(x @ weight + bias)
    weight, bias = layers[-1]
    return x @ weight + bias


def draw_data(key: jax.Array, count: int) -> jax.Array:
    """Draws points of the mixture: float32 [count, 2]."""
    which, offset = jax.random.split(key)
    centres = jnp.asarray(_CENTRES, jnp.float32)
    chosen = centres[jax.random.randint(which, (count,), 0, len(centres))]
    return chosen + _STD * jax.random.normal(offset, (count, 2))


def perfect_denoise(x: jax.Array, sigma: jax.Array) -> jax.Array:
    """The mixture's own posterior mean: x [2], sigma [] -> [2]."""
    variance = _STD**2 + sigma**2

    def log_density(x: jax.Array) -> jax.Array:
        return jax.nn.logsumexp(-jnp.sum((x - _CENTRES) ** 2, -1) / (2 * variance))

    return x + sigma**2 * jax.grad(log_density)(x)


def _network(layers: Layers, x: jax.Array, c_noise: jax.Array, _: Any) -> jax.Array:
    flat = jnp.concatenate([x.reshape(len(x), 2), positional(c_noise, _EMBEDDING)], 1)
    return mlp(layers, flat).reshape(x.shape)


# The diffusion package sees a point as an image of 1 x 2 pixels.
_denoise_images = make_denoiser(_network, _EDM)


def denoise(layers: Layers, x: jax.Array, sigma: jax.Array) -> jax.Array:
    """Denoises one point: x [2], sigma [] -> [2]."""
    clean = _denoise_images(layers, x.reshape(1, 1, 2, 1), sigma[None], _UNLABELLED)
    return clean.reshape(2)


def sample(layers: Layers, z: jax.Array) -> jax.Array:
    """Follows the probability-flow ODE from one unit normal point: [2] -> [2]."""
    image = samplers.sample(
        samplers.Heun(_GRID),
        lambda x, sigma: _denoise_images(layers, x, sigma, _UNLABELLED),
        z.reshape(1, 1, 2, 1),
        lambda step: jnp.zeros((1, 1, 2, 1)),
    )
    return image.reshape(2)


def train_denoiser(key: jax.Array, num_steps: int) -> Layers:
    """Trains by the EDM loss; returns the average of the weights."""
    init_key, train_key = jax.random.split(key)
    layers = init_mlp(init_key, (2 + _EMBEDDING, *_HIDDEN, 2))
    example_loss = losses.make_loss(
        _denoise_images,
        _EDM.loss_weight,
        noise_levels.LogNormal(),
        noise_multiplicity=1,
        label_dropout=0.0,
        null=None,
    )
    optimizer = optax.adam(optax.cosine_decay_schedule(2e-3, num_steps))

    def loss(layers: Layers, key: jax.Array) -> jax.Array:
        data_key, loss_key = jax.random.split(key)
        points = draw_data(data_key, _BATCH).reshape(_BATCH, 1, 2, 1)
        keys = jax.random.split(loss_key, _BATCH)
        examples = {"image": points, "condition": jnp.zeros(_BATCH, jnp.int32)}
        each = jax.vmap(example_loss, (None, 0, 0))
        return jnp.mean(each(layers, examples, keys))

    def step(carry: Any, key: jax.Array) -> tuple[Any, None]:
        layers, average, state = carry
        updates, state = optimizer.update(jax.grad(loss)(layers, key), state)
        layers = optax.apply_updates(layers, updates)
        return (layers, optax.incremental_update(layers, average, 1e-3), state), None

    keys = jax.random.split(train_key, num_steps)
    start = (layers, layers, optimizer.init(layers))
    return jax.jit(lambda: jax.lax.scan(step, start, keys)[0])()[1]


def train_generator(key: jax.Array, num_steps: int) -> Layers:
    """Trains a GAN with the non-saturating loss; returns the generator."""
    generator_key, critic_key, train_key = jax.random.split(key, 3)
    generator = init_mlp(generator_key, (2, *_HIDDEN, 2))
    critic = init_mlp(critic_key, (2, *_HIDDEN, 1))
    optimizer = optax.adam(2e-4, b1=0.5)

    def critic_loss(critic: Layers, real: jax.Array, fake: jax.Array) -> jax.Array:
        wrong = jax.nn.softplus(mlp(critic, fake)) + jax.nn.softplus(-mlp(critic, real))
        return jnp.mean(wrong)

    def generator_loss(generator: Layers, critic: Layers, z: jax.Array) -> jax.Array:
        return jnp.mean(jax.nn.softplus(-mlp(critic, mlp(generator, z))))

    def step(carry: Any, key: jax.Array) -> tuple[Any, None]:
        generator, critic, generator_state, critic_state = carry
        data_key, z_key, next_z_key = jax.random.split(key, 3)
        fake = mlp(generator, jax.random.normal(z_key, (_BATCH, 2)))
        gradient = jax.grad(critic_loss)(critic, draw_data(data_key, _BATCH), fake)
        updates, critic_state = optimizer.update(gradient, critic_state)
        critic = optax.apply_updates(critic, updates)
        z = jax.random.normal(next_z_key, (_BATCH, 2))
        gradient = jax.grad(generator_loss)(generator, critic, z)
        updates, generator_state = optimizer.update(gradient, generator_state)
        generator = optax.apply_updates(generator, updates)
        return (generator, critic, generator_state, critic_state), None

    keys = jax.random.split(train_key, num_steps)
    start = (generator, critic, optimizer.init(generator), optimizer.init(critic))
    return jax.jit(lambda: jax.lax.scan(step, start, keys)[0])()[0]


def jacobian_norms(function: Any, points: jax.Array) -> jax.Array:
    """Frobenius norms of a function's Jacobians: [n, 2] -> [n]."""
    jacobians = jax.vmap(jax.jacfwd(function))(points)
    return jnp.sqrt(jnp.sum(jacobians**2, axis=(1, 2)))


def quality(points: jax.Array) -> dict[str, float]:
    """How many Gaussians are found, and the share of points close to one.

    A point is close within four standard deviations; a Gaussian is found if at least a
    fifth of its share of the points is close to it.
    """
    distances = jnp.linalg.norm(points[:, None] - _CENTRES, axis=-1)
    close = jnp.min(distances, 1) < 4 * _STD
    counts = np.bincount(np.argmin(distances, 1)[close], minlength=len(_CENTRES))
    found = int(np.sum(counts >= len(points) / len(_CENTRES) / 5))
    return {"gaussians_found": found, "points_close": float(jnp.mean(close))}


def measure(seed: int, num_steps: int = _STEPS) -> dict[str, Any]:
    """Fits both models and measures them.

    Args:
        seed: of data, weights and latents.
        num_steps: of each training.

    Returns:
        Mean norms, the denoiser's at each of the noise levels, and the samples'
        quality; ``points`` are samples of both for the picture.
    """
    keys = jax.random.split(jax.random.key(seed), 5)
    start = time.perf_counter()
    layers = jax.block_until_ready(train_denoiser(keys[0], num_steps))
    between = time.perf_counter()
    generator = jax.block_until_ready(train_generator(keys[1], num_steps))
    seconds = {
        "denoiser": round(between - start, 1),
        "gan": round(time.perf_counter() - between, 1),
    }
    data, noise = draw_data(keys[2], _POINTS), jax.random.normal(keys[3], (_POINTS, 2))
    latents = jax.random.normal(keys[4], (_SAMPLES, 2))

    @jax.jit
    def of_denoiser(sigma: jax.Array) -> tuple[jax.Array, jax.Array]:
        noisy = data + sigma * noise
        return tuple(
            jnp.mean(jacobian_norms(functools.partial(f, sigma=sigma), noisy))
            for f in (functools.partial(denoise, layers), perfect_denoise)
        )

    def generate(z: jax.Array) -> jax.Array:
        return mlp(generator, z[None])[0]

    follow = functools.partial(sample, layers)
    by_sigma = [of_denoiser(sigma) for sigma in jnp.asarray(_SIGMAS, jnp.float32)]
    made = {"sampler": jax.jit(jax.vmap(follow))(latents)}
    made["generator"] = jax.vmap(generate)(latents)
    norms = {"sampler": jax.jit(functools.partial(jacobian_norms, follow))}
    norms["generator"] = functools.partial(jacobian_norms, generate)
    return {
        "seed": seed,
        "sigmas": _SIGMAS.tolist(),
        "denoiser": [float(ours) for ours, _ in by_sigma],
        "perfect_denoiser": [float(perfect) for _, perfect in by_sigma],
        **{name: float(jnp.mean(f(latents[:_POINTS]))) for name, f in norms.items()},
        "quality": {name: quality(points) for name, points in made.items()},
        "points": {
            name: np.round(points[:1000], 3).astype(float).tolist()
            for name, points in made.items()
        },
        "training_seconds": seconds,
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Measures with every seed and prints one JSON object."""
    parser = argparse.ArgumentParser(prog="python -m experiments.toy_2d")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    arguments = parser.parse_args(argv)
    recorder = machine.Recorder()
    runs = [measure(seed) for seed in arguments.seeds]
    for run in runs[1:]:
        del run["points"]  # one picture is enough
    print(json.dumps({"runs": runs} | recorder.record(), indent=1))


if __name__ == "__main__":
    main()
