"""Images from a denoiser: a key per image, batches of one shape, all devices."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from dpdm_jax import devices
from dpdm_jax.diffusion import guidance, samplers
from dpdm_jax.diffusion.denoiser import Denoiser
from dpdm_jax.errors import InputError
from dpdm_jax.models.model import Model
from dpdm_jax.padding import blank_examples, fill_rows

#: ``generate(key, params, indices int [n], conditions [n, ...])
#: -> float32 [n, h, w, c]``, of a typed PRNG key.
Generate = Callable[[jax.Array, Any, np.ndarray, Any], np.ndarray]


def make_generator(
    model: Model,
    sampler: samplers.Sampler,
    *,
    guidance_scale: float,
    batch_size: int,
) -> Generate:
    """Builds a function that makes the images of given indices.

    All randomness of image i comes from the key folded with i, so neither the batch
    size nor the number of devices nor the other images change it (the last bits of
    float arithmetic aside). Another key compiles nothing anew.

    Args:
        model: the model.
        sampler: the numerical scheme.
        guidance_scale: w >= 0 of classifier-free guidance.
        batch_size: images per compiled call, over all devices; rounded up to a multiple
            of their number.

    Returns:
        The function; its images are nominally in [-1, 1], not clipped.

    Raises:
        InputError: guidance of an unlabelled model, or w < 0.
    """
    mesh = devices.data_mesh()
    batch_size = -(-batch_size // mesh.size) * mesh.size
    run = sampling_program(model, sampler, mesh, guidance_scale=guidance_scale)
    shape = model.sample_shape
    asked = (jax.ShapeDtypeStruct((), np.int32), model.condition.spec)

    def generate(
        key: jax.Array, params: Any, indices: np.ndarray, conditions: Any
    ) -> np.ndarray:
        key = devices.place(key, devices.replicated(mesh))
        batches = []
        for start in range(0, len(indices), batch_size):
            part = slice(start, start + batch_size)
            count = len(indices[part])
            # The last batch is filled up, so that one shape is compiled.
            drawn = blank_examples(asked, batch_size)
            values = jax.tree.map(lambda x, part=part: x[part], (indices, conditions))
            fill_rows(drawn, slice(count), values)
            images = run(key, params, *devices.place(drawn, devices.divided(mesh)))
            # Each process made its share, and receives the others'.
            batches.append(
                multihost_utils.process_allgather(images, tiled=True)[:count]
            )
        return np.concatenate(batches) if batches else np.zeros((0, *shape), np.float32)

    return generate


def guided(model: Model, scale: float) -> Denoiser:
    """Returns a model's denoiser with guidance.

    Args:
        model: the model.
        scale: w >= 0 of classifier-free guidance.

    Raises:
        InputError: guidance of an unlabelled model, or w < 0.
    """
    try:
        return guidance.guide(model.denoise, scale, model.condition.null)
    except ValueError as e:
        raise InputError(f"sampler.guidance: {e}") from None


def sampling_program(
    model: Model,
    sampler: samplers.Sampler,
    mesh: Mesh,
    *,
    guidance_scale: float,
) -> jax.stages.Wrapped:
    """Builds the jitted function that makes one batch of images.

    Args:
        model: the model.
        sampler: the numerical scheme.
        mesh: devices with one axis, over which the images divide.
        guidance_scale: w >= 0 of classifier-free guidance.

    Returns:
        ``run(key, params, indices int32 [n], conditions [n, ...])
        -> float32 [n, h, w, c]``, of a typed PRNG key.

    Raises:
        InputError: guidance of an unlabelled model, or w < 0.
    """
    draw = batch_function(model, sampler, guidance_scale=guidance_scale)
    per_device = P(mesh.axis_names)

    return jax.jit(
        jax.shard_map(
            draw,
            mesh=mesh,
            in_specs=(P(), P(), per_device, per_device),
            out_specs=per_device,
            # Every device makes its own images. Left to partition the program by
            # itself, XLA moves halves of the batch about where guidance doubles it.
            check_vma=False,
        )
    )


def batch_function(
    model: Model, sampler: samplers.Sampler, *, guidance_scale: float
) -> Callable[[jax.Array, Any, jax.Array, Any], jax.Array]:
    """Builds the pure function that makes one batch of images.

    Args:
        model: the model.
        sampler: the numerical scheme.
        guidance_scale: w >= 0 of classifier-free guidance.

    Returns:
        ``draw(key, params, indices int32 [n], conditions [n, ...]) -> float32
        [n, h, w, c]``, of a typed PRNG key.

    Raises:
        InputError: guidance of an unlabelled model, or w < 0.
    """
    denoise = guided(model, guidance_scale)
    shape = model.latent_shape

    def draw(
        key: jax.Array, params: Any, indices: jax.Array, conditions: Any
    ) -> jax.Array:
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, indices)

        def draw_noise(step: jax.Array) -> jax.Array:
            def one(image_key: jax.Array) -> jax.Array:
                # 0 is the start, so that steps count from 1.
                return jax.random.normal(jax.random.fold_in(image_key, step), shape)

            return jax.vmap(one)(keys)

        latents = samplers.sample(
            sampler,
            denoise.bind(params, conditions),
            draw_noise(jnp.asarray(0)),
            lambda step: draw_noise(step + 1),
        )
        return model.codec.decode(params, latents)

    return draw
