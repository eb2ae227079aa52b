"""The denoising loss of one example, averaged over its noise draws.

DPDM, section 3.2 and eq. 8: the K draws of one image are averaged *before* clipping, so
K (the noise multiplicity) does not enter the privacy analysis. Everything here sees one
example; the privacy engines put the batch around it.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Key, PRNGKeyArray

from dpdm_jax import validate
from dpdm_jax.diffusion import noise_levels as noise_levels_lib
from dpdm_jax.diffusion.denoiser import Denoiser, Params, Prediction, Values
from dpdm_jax.diffusion.parts import mean_of_parts
from dpdm_jax.diffusion.views import Views, for_draws
from dpdm_jax.errors import InputError

#: Every view is the image as it is.
THE_IMAGE = Views()

# An example's key is split in three; 4 is the codec's (``models.model``).
VIEWS_STREAM = 3
_DROPOUT_STREAM = 5
# Axes of an image; views of it have one more.
_ONE_IMAGE = 3

#: An image, or a view of it for each draw.
Seen = Float[Array, "h w c"] | Float[Array, "k h w c"]
#: ``bound(predicted, image, sigma)``, a loss of each draw beside the squared error.
Bound = Callable[[Prediction, Seen, Float32[Array, " k"]], Float32[Array, " k"]]
#: ``loss(params, {"image": float32 [h, w, c], "condition": ...}, key)``; the image may
#: also be V views of itself, [v, h, w, c].
ExampleLoss = Callable[[Params, dict[str, Any], PRNGKeyArray], Float32[Array, ""]]


@dataclasses.dataclass(frozen=True)
class Settings:
    """What ``config.diffusion`` says of the loss of an example.

    Attributes:
        noise_multiplicity: K >= 1, draws of noise an example and step.
        draws_at_once: draws that the network sees together, a divisor of K; 0 for all.
            Less takes less memory for activations, and one gradient more.
        stratified: spread an example's K noise levels evenly.
        label_dropout: probability in [0, 1] that an example trains without condition.

    Raises:
        InputError: a field is out of range.
    """

    noise_multiplicity: int = 32
    draws_at_once: int = 0
    stratified: bool = False
    label_dropout: float = 0.1

    def __post_init__(self) -> None:
        draws, at_once = self.noise_multiplicity, self.draws_at_once
        validate.integer("diffusion.noise_multiplicity", draws, minimum=1)
        validate.real(
            "diffusion.label_dropout", self.label_dropout, minimum=0, maximum=1
        )
        validate.integer("diffusion.draws_at_once", at_once, minimum=0)
        if at_once and draws % at_once:
            raise InputError(
                f"diffusion.draws_at_once is {at_once}; allowed: 0, or a divisor of "
                f"diffusion.noise_multiplicity, {draws}."
            )


class Draws(NamedTuple):
    """The randomness of one example's loss.

    Attributes:
        drop_label: whether the null replaces the condition; shared by all K.
        sigma: the noise levels.
        noise: unit normal.
        dropout: keys of what the network drops; None where it drops nothing.
    """

    drop_label: Bool[Array, ""]
    sigma: Float32[Array, " k"]
    noise: Float32[Array, "k h w c"]
    dropout: Key[Array, " k"] | None = None


def draw(
    key: PRNGKeyArray,
    image_shape: tuple[int, ...],
    noise_levels: noise_levels_lib.NoiseLevels,
    *,
    noise_multiplicity: int,
    label_dropout: float,
    stratified: bool = False,
) -> Draws:
    """Draws the randomness of one example's loss.

    Args:
        key: PRNG key of this example in this step.
        image_shape: (h, w, c).
        noise_levels: training distribution of sigma.
        noise_multiplicity: number of draws K >= 1.
        label_dropout: probability in [0, 1] that the condition is dropped.
        stratified: see ``noise_levels.draw``.

    Returns:
        The draws.
    """
    drop_key, sigma_key, noise_key = jax.random.split(key, 3)
    return Draws(
        drop_label=jax.random.bernoulli(drop_key, label_dropout),
        sigma=noise_levels_lib.draw(
            sigma_key, noise_levels, noise_multiplicity, stratified=stratified
        ),
        noise=jax.random.normal(noise_key, (noise_multiplicity, *image_shape)),
    )


def denoising_loss(
    denoise: Denoiser,
    loss_weight: Callable[[Float32[Array, " k"]], Float32[Array, " k"]],
    params: Params,
    image: Seen,
    condition: Values,
    draws: Draws,
    null: Values | None,
    *,
    bound: Bound | None = None,
) -> Float32[Array, ""]:
    """Weighted squared error of the denoiser on one example.

    The mean over pixels follows the official code (the paper's formula sums): the clip
    norm of 1 is tied to it.

    Args:
        denoise: the denoiser.
        loss_weight: lambda(sigma).
        params: parameters of the denoiser.
        image: in [-1, 1].
        condition: of the example, a tree of arrays.
        draws: the randomness, with K draws.
        null: the condition that stands for none; None where there never is one.
        bound: what is added to each draw's loss; None for nothing.

    Returns:
        ``mean_k lambda(sigma_k) mean_pixels (D(x + n_k) - x)^2``, and the mean of
        ``bound``.
    """
    prepared = _prepared(denoise, params, condition, draws, null)
    return _mean(denoise, loss_weight, params, image, prepared, draws, bound)


def _prepared(
    denoise: Denoiser,
    params: Params,
    condition: Values,
    draws: Draws,
    null: Values | None,
) -> Any:
    """What all draws of an example share of its condition, or of none; arrays [1, ...].

    A text encoder is applied once in place of once a draw.
    """
    if null is not None:
        condition = jax.tree.map(
            lambda given, none: jnp.where(draws.drop_label, none, given),
            condition,
            null,
        )
    return denoise.prepare(
        params, jax.tree.map(lambda x: jnp.asarray(x)[None], condition)
    )


def _mean(
    denoise: Denoiser,
    loss_weight: Callable[[Float32[Array, " k"]], Float32[Array, " k"]],
    params: Params,
    image: Seen,
    prepared: Any,
    draws: Draws,
    bound: Bound | None,
) -> Float32[Array, ""]:
    """See ``denoising_loss``; ``prepared`` is what ``_prepared`` gives."""
    shared = jax.tree.map(
        lambda x: jnp.broadcast_to(x, (*draws.sigma.shape, *x.shape[1:])), prepared
    )
    noisy = image + draws.sigma[:, None, None, None] * draws.noise
    keys = () if draws.dropout is None else (draws.dropout,)
    predicted = denoise.predict(params, noisy, draws.sigma, shared, *keys)
    errors = jnp.mean((predicted.clean - image) ** 2, axis=(1, 2, 3))
    losses = loss_weight(draws.sigma) * errors
    if bound is not None:
        losses = losses + bound(predicted, image, draws.sigma)
    return jnp.mean(losses)


def make_loss(
    denoise: Denoiser,
    loss_weight: Callable[[Float32[Array, " k"]], Float32[Array, " k"]],
    noise_levels: noise_levels_lib.NoiseLevels,
    *,
    noise_multiplicity: int,
    label_dropout: float,
    null: Values | None,
    bound: Bound | None = None,
    stratified: bool = False,
    views: Views = THE_IMAGE,
    drops: bool = False,
    draws_at_once: int = 0,
) -> ExampleLoss:
    """Binds the loss of one example to its random draws.

    Args:
        denoise: the denoiser.
        loss_weight: lambda(sigma).
        noise_levels: training distribution of sigma.
        noise_multiplicity: K >= 1.
        label_dropout: probability in [0, 1].
        null: see ``denoising_loss``.
        bound: see ``denoising_loss``.
        stratified: see ``noise_levels.draw``.
        views: how the image is seen, unless it comes as views.
        drops: whether the network drops features in training: for each draw others.
        draws_at_once: draws that the network sees together, a divisor of K, or 0 for
            all; see ``mean_of_parts``. The loss is the same but for rounding.

    Returns:
        The loss, see ``ExampleLoss``.
    """

    def loss(
        params: Params, example: dict[str, Any], key: PRNGKeyArray
    ) -> Float32[Array, ""]:
        image, condition = example["image"], example["condition"]
        draws = draw(
            key,
            image.shape[-3:],
            noise_levels,
            noise_multiplicity=noise_multiplicity,
            label_dropout=label_dropout,
            stratified=stratified,
        )
        # Other blocks of the key's stream than any of ``draw``.
        if image.ndim > _ONE_IMAGE:
            seen = for_draws(image, noise_multiplicity)
        else:
            views_key = jax.random.fold_in(key, VIEWS_STREAM)
            seen = views.draw(views_key, image, noise_multiplicity)
        if drops:
            dropout_key = jax.random.fold_in(key, _DROPOUT_STREAM)
            keys = jax.random.split(dropout_key, noise_multiplicity)
            draws = draws._replace(dropout=keys)

        def of_some(
            weights: tuple[Params, Any], drop_label: Array, some: tuple[Any, Seen]
        ) -> Float32[Array, ""]:
            (params, prepared), (each, seen) = weights, some
            draws = Draws(drop_label, *each)
            return _mean(denoise, loss_weight, params, seen, prepared, draws, bound)

        # What is shared is no part of what is worked out for each part: its gradient
        # is that of all of them.
        weights = params, _prepared(denoise, params, condition, draws, null)
        if draws_at_once in (0, noise_multiplicity):
            return of_some(weights, draws.drop_label, (draws[1:], seen))
        if seen.ndim < draws.noise.ndim:
            seen = jnp.broadcast_to(seen, draws.noise.shape)
        parts = jax.tree.map(
            lambda x: x.reshape(-1, draws_at_once, *x.shape[1:]), (draws[1:], seen)
        )
        return mean_of_parts(of_some, weights, draws.drop_label, parts)

    return loss
