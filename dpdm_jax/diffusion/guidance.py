import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from dpdm_jax.diffusion.denoiser import Denoiser, Images, Params, Prediction, Values


class _Both(NamedTuple):
    """Conditions and as many nulls behind them, as a denoiser prepares them."""

    prepared: Any


def guide(denoise: Denoiser, scale: float, null: Values | None) -> Denoiser:
    """Classifier-free guidance (Ho and Salimans 2022) as a denoiser of a denoiser.

    ``D_w(x, sigma, y) = (1 + w) D(x, sigma, y) - w D(x, sigma, null)``, in one call of
    the network on a doubled batch. What else the network says is of the condition y.

    Args:
        denoise: the conditional denoiser.
        scale: w >= 0; 0 returns ``denoise`` itself.
        null: the condition of one image that stands for none; None where there never
            is one, and only scale 0 makes sense.

    Returns:
        The guided denoiser.

    Raises:
        ValueError: scale > 0 without a null, or scale < 0 or not finite.
    """
    if not 0 <= scale < math.inf:
        raise ValueError(f"The guidance scale is {scale}; allowed: finite and >= 0.")
    if scale == 0:
        return denoise
    if null is None:
        raise ValueError(
            f"The guidance scale is {scale}, but the model has no labels; allowed: 0."
        )

    def with_null(values: jax.Array, one: jax.typing.ArrayLike) -> jax.Array:
        nulls = jnp.broadcast_to(jnp.asarray(one, values.dtype), values.shape)
        return jnp.concatenate([values, nulls])

    def prepare(params: Params, condition: Values) -> _Both:
        both = jax.tree.map(with_null, condition, null)
        return _Both(denoise.prepare(params, both))

    def predict(
        params: Params,
        x: Images,
        sigma: Float[Array, " n"],
        condition: Values | _Both,
        *keys: Key[Array, " n"],
    ) -> Prediction:
        if not isinstance(condition, _Both):
            condition = prepare(params, condition)
        both = denoise.predict(
            params,
            jnp.concatenate([x, x]),
            jnp.concatenate([sigma, sigma]),
            condition.prepared,
            *(jnp.concatenate([each, each]) for each in keys),
        )
        conditional, unconditional = jnp.split(both.clean, 2)
        return Prediction(
            (1.0 + scale) * conditional - scale * unconditional,
            None if both.more is None else both.more[: len(x)],
        )

    return Denoiser(predict, prepare)
