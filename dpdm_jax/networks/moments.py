"""Moments of the classes of images, kept beside the weights of a network."""

import dataclasses
import math

import jax
import jax.numpy as jnp

from dpdm_jax.networks.network import Network, Params

#: Name of the moments among the parameters. They are measured, not trained.
MOMENTS = "moments"


def with_moments(network: Network, components: int = 0) -> Network:
    """Returns a network that carries moments, which it does not look at.

    Args:
        network: on images.
        components: principal components of each class, 0 to h w c.

    Returns:
        A network whose parameters are {"network": ..., "moments": {"mean": ..., "std":
        ...}}, the latter float32 [classes + 1, h, w, c] in the units of
        ``MomentsEDM.whiten``, of which the last are those of all images. Until they are
        measured they are 0 and 1, those assumed. With principal components there are
        also "components" float32 [classes + 1, components, h, w, c], see
        ``ComponentsEDM``, and "component_std" [classes + 1, components].
    """
    classes = network.num_classes + 1
    shape = network.image_shape

    def init(key: jax.Array) -> Params:
        moments = {
            "mean": jnp.zeros((classes, *shape)),
            "std": jnp.ones((classes, *shape)),
        }
        if components:
            first = jnp.eye(components, math.prod(shape)).reshape(components, *shape)
            moments["components"] = jnp.tile(first, (classes, 1, 1, 1, 1))
            moments["component_std"] = jnp.ones((classes, components))
        return {"network": network.init(key), MOMENTS: moments}

    def apply(
        params: Params, x: jax.Array, c_noise: jax.Array, label: jax.Array
    ) -> jax.Array:
        return network.apply(params["network"], x, c_noise, label)

    return dataclasses.replace(network, init=init, apply=apply)
