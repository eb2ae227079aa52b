"""Codecs by name."""

import ml_collections

from dpdm_jax.networks.codecs import kl, vq
from dpdm_jax.networks.codecs.base import Codec
from dpdm_jax.networks.codecs.pixels import PixelCodec
from dpdm_jax.settings import Group, Kind, Room

#: A builder takes the settings and (h, w, c) of the images.
ROOM = Room(
    "codec.name",
    {
        "pixels": Kind(PixelCodec),
        "kl": Kind(kl.KLCodec, (Group("codec.kl", kl.Settings),)),
        "vq": Kind(vq.VQCodec, (Group("codec.vq", vq.Settings),)),
    },
)


def build_codec(
    config: ml_collections.ConfigDict, sample_shape: tuple[int, int, int]
) -> Codec:
    """Builds the codec that a config names.

    Args:
        config: ``config.codec``.
        sample_shape: (h, w, c) of the images.

    Raises:
        InputError: the name is unknown, or a setting is not allowed.
    """
    codec: Codec = ROOM.build(config, sample_shape)
    return codec
