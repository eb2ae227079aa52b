"""All rooms, and what their kinds read of a whole config."""

from collections.abc import Collection

import ml_collections

from dpdm_jax import settings
from dpdm_jax.data import registry as sources
from dpdm_jax.diffusion import from_config
from dpdm_jax.networks import registry as networks
from dpdm_jax.networks.codecs import registry as codecs

ROOMS = (
    sources.ROOM,
    sources.CONDITIONS,
    codecs.ROOM,
    codecs.TRAINING,
    networks.ROOM,
    networks.BESIDE,
    *from_config.ROOMS,
)


def add_fields(config: ml_collections.ConfigDict) -> None:
    """Adds all that kinds read to a config, with the defaults."""
    for name, default in settings.defaults(ROOMS).items():
        settings.assign(config, name, default)


def check(config: ml_collections.ConfigDict) -> None:
    """Refuses settings for kinds that are not chosen: nothing would read them.

    Args:
        config: the whole config; its preset may choose another sampler.

    Raises:
        InputError: there is such a setting, a kind is unknown, or the sampler does not
            fit the network or the codec.
    """
    read = settings.names_read(ROOMS, config)
    sampler = config.sampler
    if sampler.preset:
        sampler = from_config.with_preset(config)
        with_preset = config.copy_and_resolve_references()
        with_preset.sampler = sampler
        read |= settings.names_read(ROOMS, with_preset)
    else:
        from_config.check_variance(sampler, config.diffusion)
    settings.refuse_foreign(ROOMS, config, read)
    if config.codec.name != "pixels":
        from_config.check_latents(sampler, config.diffusion)


def forget_foreign(
    config: ml_collections.ConfigDict, given: Collection[str] | None = None
) -> None:
    """Lets go of settings for kinds that gave way to others.

    Args:
        config: the whole config, which is changed.
        given: whole names of what was set after the rest, such as kinds, and stays;
            None lets go of all that is not read.

    Raises:
        InputError: a kind is unknown.
    """
    if given is None:
        given = [room.choice for room in ROOMS]
    settings.forget_foreign(ROOMS, config, given)
