"""JAX's sides of the step benchmarks; runs in a ``worker.Worker``."""

import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from dpdm_jax import privacy, xla_flags
from dpdm_jax.conditions import of_classes
from dpdm_jax.diffusion import from_config, losses
from dpdm_jax.diffusion.losses import ExampleLoss
from dpdm_jax.images import pixels
from dpdm_jax.models.model import Model, build_model
from dpdm_jax.sampling.generate import make_generator
from experiments.benchmarks import plain_port, problem

#: ``gradient(params, images, labels, keys) -> pytree``
Gradient = Callable[..., Any]


def build(network: str, noise_multiplicity: int) -> tuple[Model, ExampleLoss]:
    """The model and the loss of one example."""
    config = problem.load_config(network, noise_multiplicity)
    model = build_model(config, problem.IMAGE_SHAPE, of_classes(problem.NUM_CLASSES))
    return model, model.loss()


def private(loss: ExampleLoss, **options: Any) -> Gradient:
    """The sum of clipped gradients, C = 1; options as in ``privacy.clipped_grad``."""
    return privacy.clipped_grad(loss, l2_clip_norm=1.0, prng_argnum=2, **options).fun


def nonprivate(model: Model) -> Gradient:
    """The gradient of the mean loss as ordinary training takes it.

    All draws of all examples go through the network as one batch, so that no gradient
    of a single example is ever asked for.
    """
    settings = model.draws
    multiplicity = settings.noise_multiplicity

    def mean_loss(
        params: Any, examples: dict[str, jax.Array], keys: jax.Array
    ) -> jax.Array:
        images, labels = pixels.to_float(examples["image"]), examples["condition"]
        draws = jax.vmap(
            lambda key: losses.draw(
                key,
                images.shape[1:],
                model.noise_levels,
                noise_multiplicity=multiplicity,
                label_dropout=settings.label_dropout,
                stratified=settings.stratified,
            )
        )(keys)
        labels = jnp.where(draws.drop_label, model.condition.null, labels)
        if model.views.are_the_image:
            seen = jnp.repeat(images, multiplicity, axis=0)
        else:

            def views(key: jax.Array, image: jax.Array) -> jax.Array:
                key = jax.random.fold_in(key, losses.VIEWS_STREAM)
                return model.views.draw(key, image, multiplicity)

            seen = jax.vmap(views)(keys, images).reshape(-1, *images.shape[1:])
        sigma = draws.sigma.reshape(-1)
        noise = draws.noise.reshape(seen.shape)
        denoised = model.denoise(
            params,
            seen + sigma[:, None, None, None] * noise,
            sigma,
            jnp.repeat(labels, multiplicity),
        )
        errors = jnp.mean((denoised - seen) ** 2, axis=(1, 2, 3))
        return jnp.mean(model.parameterization.loss_weight(sigma) * errors)

    return jax.grad(mean_loss)


def jax_privacy_default(loss: ExampleLoss) -> Gradient:
    """The same sum by jax_privacy, its defaults but for a loss of one example."""
    import jax_privacy

    # The keys are part of the batch: its prng_argnum takes a single key.
    return jax_privacy.clipped_grad(
        loss, l2_clip_norm=1.0, batch_argnums=(1, 2), keep_batch_dim=False
    )


def batch(
    batch_size: int, image_shape: tuple[int, int, int] = problem.IMAGE_SHAPE
) -> tuple[dict[str, jax.Array], jax.Array]:
    """Labelled images of bytes, and one key an example."""
    images = jax.random.randint(
        jax.random.key(1), (batch_size, *image_shape), 0, 256, jnp.uint8
    )
    labels = jnp.arange(batch_size, dtype=jnp.int32) % problem.NUM_CLASSES
    examples = {"image": images, "condition": labels}
    return examples, jax.random.split(jax.random.key(2), batch_size)


def step_sides(
    sides: Sequence[str], network: str, batch_size: int, noise_multiplicity: int
) -> dict[str, Callable[[], None]]:
    """The gradients of one batch.

    Args:
        sides: of "private", "nonprivate", "jax_privacy".
        network: a name in ``problem.NETWORKS``.
        batch_size: B.
        noise_multiplicity: K.

    Returns:
        Name -> function that computes the gradients once.
    """
    xla_flags.configure()
    model, loss = build(network, noise_multiplicity)
    gradients = {
        "private": private(loss),
        "nonprivate": nonprivate(model),
    }
    if "jax_privacy" in sides:
        gradients["jax_privacy"] = jax_privacy_default(loss)
    params = model.init(jax.random.key(0))
    arguments = (params, *batch(batch_size))
    return {name: _side(gradients[name], arguments) for name in sides}


def plain_step_sides(
    network: str, batch_size: int, noise_multiplicity: int
) -> dict[str, Callable[[], None]]:
    """jax_privacy as its users meet it: Flax's own layers, no compiler flags.

    Args:
        network: a name in ``problem.CONVOLUTIONAL``.
        batch_size: B.
        noise_multiplicity: K.

    Returns:
        The one side "jax_privacy_plain".
    """
    os.environ.pop("XLA_FLAGS", None)
    # An installed libtpu would look for its TPU first, which takes long in vain.
    jax.config.update("jax_platforms", "cpu")
    plain, loss = plain_port.build(network, noise_multiplicity)
    arguments = (plain.init(jax.random.key(0)), *batch(batch_size))
    return {"jax_privacy_plain": _side(jax_privacy_default(loss), arguments)}


def _side(gradient: Gradient, arguments: tuple) -> Callable[[], None]:
    compiled = jax.jit(gradient)
    return lambda: jax.block_until_ready(compiled(*arguments))


def sampling_sides(
    network: str, batch_size: int, num_steps: int
) -> dict[str, Callable[[], None]]:
    """Images by DDIM, as ``--mode=sample`` makes them.

    Args:
        network: a name in ``problem.NETWORKS``.
        batch_size: images.
        num_steps: network calls an image.

    Returns:
        The one side "ours".
    """
    xla_flags.configure()
    config = problem.load_config(network, noise_multiplicity=1)
    model = build_model(config, problem.IMAGE_SHAPE, of_classes(problem.NUM_CLASSES))
    return {"ours": sampling(config, model, batch_size, num_steps)}


def sampling(
    config: ml_collections.ConfigDict, model: Model, batch_size: int, num_steps: int
) -> Callable[[], np.ndarray]:
    """Returns what makes images of initial weights by the config's sampler.

    Args:
        config: of the model; its ``sampler.num_steps`` is set.
        model: the model.
        batch_size: images.
        num_steps: network calls an image.
    """
    config.sampler.num_steps = num_steps
    params = model.init(jax.random.key(0))
    generate = make_generator(
        model,
        from_config.sampler(config.sampler),
        guidance_scale=0.0,
        batch_size=batch_size,
    )
    indices = np.arange(batch_size)
    labels = model.condition.in_turn(batch_size)
    key = jax.random.key(1)
    return lambda: generate(key, params, indices, labels)
