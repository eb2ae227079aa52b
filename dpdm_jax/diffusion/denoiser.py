"""From a raw network to a denoiser, by a prior and a parameterization.

A network ``F`` corrects what a prior knows (DPDM, section 2; Karras et al. 2022, eq.
7), always in variance-exploding coordinates ``x + sigma * n``::

    D(x, sigma, y) = c_skip(sigma) x + c_out(sigma) F(c_in(sigma) x, c_noise(sigma), y)

c_skip and c_out are the prior's, in a basis of its own; c_in, c_noise and the weight
of the loss are the parameterization's. Channels of ``F`` behind the image's take no
part in D; who reads them asks for the whole prediction.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from jaxtyping import Array, Float, Key

from dpdm_jax.diffusion.parameterizations import Parameterization
from dpdm_jax.diffusion.priors import Prior

Params = Any
#: Noisy images, clean ones, or a number for each of their pixels.
Images = Float[Array, "n h w c"]
#: The condition of a batch: a tree of arrays [n, ...], such as labels int32 [n].
Values = Any


class NetworkApply(Protocol):
    """``apply(params, x, c_noise, condition)``, of the image's channels or more.

    A network that drops features in training also takes keys, one an image.
    """

    def __call__(
        self,
        params: Params,
        x: Images,
        c_noise: Float[Array, " n"],
        condition: Values,
        /,
        *keys: Key[Array, " n"],
    ) -> Float[Array, "n h w out"]: ...


class Prepared(NamedTuple):
    """A condition, and what a network makes of it before it sees an image.

    Attributes:
        values: the condition, for the prior.
        embedded: what the network takes in its place.
    """

    values: Values
    embedded: Any


class Prediction(NamedTuple):
    """What a network says of noisy images.

    Attributes:
        clean: the predicted clean images.
        more: its channels behind the image's, as they are; None where it has none.
    """

    clean: Images
    more: Float[Array, "n h w more"] | None = None


@dataclasses.dataclass(frozen=True)
class BoundDenoiser:
    """``denoise(x, sigma) -> x0``, parameters and condition bound.

    Attributes:
        predict: ``predict(x, sigma)``, all that the network says.
    """

    predict: Callable[[Images, Float[Array, " n"]], Prediction]

    def __call__(self, x: Images, sigma: Float[Array, " n"]) -> Images:
        return self.predict(x, sigma).clean


class Predict(Protocol):
    """``predict(params, x, sigma, condition)``, all that the network says.

    In training with the keys of ``NetworkApply``.
    """

    def __call__(
        self,
        params: Params,
        x: Images,
        sigma: Float[Array, " n"],
        condition: Values,
        /,
        *keys: Key[Array, " n"],
    ) -> Prediction: ...


@dataclasses.dataclass(frozen=True)
class Denoiser:
    """``denoise(params, x, sigma, condition) -> x0``.

    Attributes:
        predict: see ``Predict``; takes what ``prepare`` gives for a condition, too.
        prepare: ``prepare(params, condition)``, what several calls on one condition can
            share: an array in it has the condition's leading axis.
    """

    predict: Predict
    prepare: Callable[[Params, Values], Any] = lambda params, condition: condition

    def __call__(
        self, params: Params, x: Images, sigma: Float[Array, " n"], condition: Values
    ) -> Images:
        return self.predict(params, x, sigma, condition).clean

    def bind(self, params: Params, condition: Values) -> BoundDenoiser:
        """Returns the denoiser of given parameters and of a batch's condition."""
        prepared = self.prepare(params, condition)
        return BoundDenoiser(lambda x, sigma: self.predict(params, x, sigma, prepared))


def make_denoiser(
    apply: NetworkApply,
    parameterization: Parameterization,
    prior: Prior | None = None,
    embed: Callable[[Params, Values], Any] | None = None,
) -> Denoiser:
    """Wraps a raw network as a denoiser.

    Args:
        apply: the network ``F``, see ``NetworkApply``.
        parameterization: what the network sees.
        prior: what it corrects; None for the parameterization's own.
        embed: ``embed(params, condition)``, what the network takes in the place of
            conditions, too; None of one that makes nothing of them beforehand.

    Returns:
        ``denoise(params, x, sigma, condition)``: x in noisy coordinates and sigma > 0,
        condition a tree of arrays [n, ...]; the predicted clean images, or all that the
        network says by ``denoise.predict``.
    """
    if prior is None:
        prior = parameterization.prior

    def prepare(params: Params, condition: Values) -> Prepared:
        embedded = condition if embed is None else embed(params, condition)
        return Prepared(condition, embedded)

    def predict(
        params: Params,
        x: Images,
        sigma: Float[Array, " n"],
        condition: Values | Prepared,
        *keys: Key[Array, " n"],
    ) -> Prediction:
        # Unless it is shared, the network makes of the condition what it needs itself.
        if isinstance(condition, Prepared):
            values, embedded = condition
        else:
            values = embedded = condition
        s = sigma[:, None, None, None]
        known = prior.given(params, values)
        x = x - prior.mean_data
        raw = apply(
            params,
            parameterization.c_in(s) * x,
            parameterization.c_noise(sigma),
            embedded,
            *keys,
        )
        channels, more = x.shape[-1], None
        if raw.shape[-1] > channels:
            raw, more = raw[..., :channels], raw[..., channels:]
        clean = known.c_skip(s) * (known.analyse(x) - known.expected)
        clean = clean + known.c_out(s) * known.analyse(raw)
        clean = known.synthesise(clean + known.expected) + prior.mean_data
        return Prediction(clean, more)

    return Denoiser(predict, prepare)
