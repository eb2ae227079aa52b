"""What is assumed, or known, of images before a network has learned anything.

A prior is the best linear denoiser of images that would be Gaussian, in a basis of its
own; a network corrects it. See ``diffusion.denoiser``.
"""

from dpdm_jax.diffusion.priors.base import Linear, Prior
from dpdm_jax.diffusion.priors.classes import Classes
from dpdm_jax.diffusion.priors.pixels import Flat, Gaussian
from dpdm_jax.diffusion.priors.spectral import Spectral

__all__ = ["Classes", "Flat", "Gaussian", "Linear", "Prior", "Spectral"]
