"""Codecs: between the images of a data set and what a diffusion model sees of them."""

from dpdm_jax.networks.codecs.base import Codec
from dpdm_jax.networks.codecs.pixels import PixelCodec

__all__ = ["Codec", "PixelCodec"]
