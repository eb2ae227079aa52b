"""Moments of the classes of images, kept beside the weights of a network."""

import dataclasses

import jax
import jax.numpy as jnp

from dpdm_jax.networks.network import Network, Params

#: Name of the moments among the parameters. They are measured, not trained.
MOMENTS = "moments"


def with_moments(network: Network) -> Network:
    """Returns a network that carries moments, which it does not look at.

    Args:
        network: on images.

    Returns:
        A network whose parameters are {"network": ..., "moments": {"mean": ..., "std":
        ...}}, the latter float32 [classes + 1, h, w, c] in the units of
        ``MomentsEDM.whiten``, of which the last are those of all images. Until they are
        measured they are 0 and 1, those assumed.
    """
    shape = (network.num_classes + 1, *network.image_shape)

    def init(key: jax.Array) -> Params:
        moments = {"mean": jnp.zeros(shape), "std": jnp.ones(shape)}
        return {"network": network.init(key), MOMENTS: moments}

    def apply(
        params: Params, x: jax.Array, c_noise: jax.Array, label: jax.Array
    ) -> jax.Array:
        return network.apply(params["network"], x, c_noise, label)

    return dataclasses.replace(network, init=init, apply=apply)
