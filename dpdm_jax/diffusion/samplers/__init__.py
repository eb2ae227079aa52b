from dpdm_jax.diffusion.samplers.base import BoundDenoiser, Sampler, sample
from dpdm_jax.diffusion.samplers.ddim import DDIM
from dpdm_jax.diffusion.samplers.heun import Heun

__all__ = ["DDIM", "BoundDenoiser", "Heun", "Sampler", "sample"]
