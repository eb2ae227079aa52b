from dpdm_jax.diffusion.samplers.ancestral import Ancestral
from dpdm_jax.diffusion.samplers.base import Sampler, sample
from dpdm_jax.diffusion.samplers.ddim import DDIM
from dpdm_jax.diffusion.samplers.ddim_eta import DDIMEta
from dpdm_jax.diffusion.samplers.heun import Heun

__all__ = [
    "DDIM",
    "Ancestral",
    "DDIMEta",
    "Heun",
    "Sampler",
    "sample",
]
