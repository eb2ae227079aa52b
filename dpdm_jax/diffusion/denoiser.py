"""From a raw network to a denoiser, by a prior and a parameterization.

A network ``F`` corrects what a prior knows (DPDM, section 2; Karras et al. 2022, eq.
7), always in variance-exploding coordinates ``x + sigma * n``::

    D(x, sigma, y) = c_skip(sigma) x + c_out(sigma) F(c_in(sigma) x, c_noise(sigma), y)

c_skip and c_out are the prior's, in a basis of its own; c_in, c_noise and the weight
of the loss are the parameterization's.
"""

from collections.abc import Callable
from typing import Any

from jaxtyping import Array, Float

from dpdm_jax.diffusion.parameterizations import Parameterization
from dpdm_jax.diffusion.priors import Prior

Params = Any
#: Noisy images, clean ones, or a number for each of their pixels.
Images = Float[Array, "n h w c"]
#: The condition of a batch: a tree of arrays [n, ...], such as labels int32 [n].
Values = Any
#: ``apply(params, x, c_noise, condition)``
NetworkApply = Callable[[Params, Images, Float[Array, " n"], Values], Images]
#: ``denoise(params, x, sigma, condition) -> x0``
Denoiser = Callable[[Params, Images, Float[Array, " n"], Values], Images]


def make_denoiser(
    apply: NetworkApply,
    parameterization: Parameterization,
    prior: Prior | None = None,
) -> Denoiser:
    """Wraps a raw network as a denoiser.

    Args:
        apply: the network ``F``, see ``NetworkApply``.
        parameterization: what the network sees.
        prior: what it corrects; None for the parameterization's own.

    Returns:
        ``denoise(params, x, sigma, condition)``: x in noisy coordinates and sigma > 0,
        condition a tree of arrays [n, ...]; the predicted clean images.
    """
    if prior is None:
        prior = parameterization.prior

    def denoise(
        params: Params,
        x: Images,
        sigma: Float[Array, " n"],
        condition: Values,
    ) -> Images:
        s = sigma[:, None, None, None]
        known = prior.given(params, condition)
        x = x - prior.mean_data
        raw = apply(
            params,
            parameterization.c_in(s) * x,
            parameterization.c_noise(sigma),
            condition,
        )
        clean = known.c_skip(s) * (known.analyse(x) - known.expected)
        clean = clean + known.c_out(s) * known.analyse(raw)
        return known.synthesise(clean + known.expected) + prior.mean_data

    return denoise
