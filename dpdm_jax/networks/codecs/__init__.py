"""Codecs: between the images of a data set and what a diffusion model sees of them."""

from dpdm_jax.networks.codecs.base import KEPT, Codec
from dpdm_jax.networks.codecs.pixels import PixelCodec
from dpdm_jax.networks.codecs.registry import build_codec

__all__ = ["KEPT", "Codec", "PixelCodec", "build_codec"]
