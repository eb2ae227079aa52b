"""Codecs by name."""

import dataclasses
from collections.abc import Callable
from typing import Literal

import ml_collections

from dpdm_jax.networks.codecs import kl, training, vq
from dpdm_jax.networks.codecs.base import Codec
from dpdm_jax.networks.codecs.pixels import PixelCodec
from dpdm_jax.settings import Group, Kind, Room


@dataclasses.dataclass(frozen=True)
class Weights:
    """What ``config.codec`` has for codecs with parameters.

    Attributes:
        weights: to begin with: the folder of an autoencoder's training, a release with
            a codec, a checkpoint of latent diffusion's authors, or the folder of
            diffusers' AutoencoderKL; "" for those that come with the network of
            ``initial.weights``.
        public: names the public data that they were trained on.
        cache: where the steps find what the codec makes of the training images, made
            before the first of them: "memory", "disk" (in the run directory, for its
            owner alone), or "off", where every step makes it anew; "auto" chooses by
            the number of visits and of bytes. Views of images are made anew: "auto" or
            "off".
    """

    weights: str = ""
    public: str = ""
    cache: Literal["auto", "memory", "disk", "off"] = "auto"


_WEIGHTS = Group("codec", Weights)


def _autoencoder(make: Callable[..., Codec], settings: Group) -> Kind:
    # Whose weights they are is for those who begin a run.
    return Kind(
        lambda settings, weights, shape: make(settings, shape), (settings, _WEIGHTS)
    )


#: A builder takes the settings and (h, w, c) of the images.
ROOM = Room(
    "codec.name",
    {
        "pixels": Kind(PixelCodec),
        "kl": _autoencoder(kl.KLCodec, Group("codec.kl", kl.Settings)),
        "vq": _autoencoder(vq.VQCodec, Group("codec.vq", vq.Settings)),
    },
)

_TRAINING = Group(training.Settings.path, training.Settings)


def _itself(settings: training.Settings) -> training.Settings:
    return settings


#: How codecs are trained: gives ``training.Settings``; None of one without weights.
TRAINING = Room(
    ROOM.choice,
    {
        "pixels": Kind(lambda: None),
        "kl": Kind(_itself, (_TRAINING,)),
        "vq": Kind(_itself, (_TRAINING,)),
    },
)


def cache_of(config: ml_collections.ConfigDict) -> str:
    """Returns where a config keeps what its codec makes of images; see ``Weights``.

    Args:
        config: ``config.codec``.

    Raises:
        InputError: a setting is not allowed.
    """
    if _WEIGHTS not in ROOM.kind(config).groups:
        return "off"
    cache: str = _WEIGHTS.read(config).cache
    return cache


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
