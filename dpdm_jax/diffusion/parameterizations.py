"""From a raw network to a denoiser: preconditionings behind one interface.

A parameterization turns a network ``F`` into a denoiser (DPDM, section 2; Karras et al.
2022, eq. 7), always in variance-exploding coordinates ``x + sigma * n``::

    D(x, sigma, y) = c_skip(sigma) x + c_out(sigma) F(c_in(sigma) x, c_noise(sigma), y)

``loss_weight`` is lambda(sigma). In the papers' four ``lambda * c_out**2 = 1``:
training is an unweighted regression on ``F``. Three more, ``SpectralEDM``,
``MomentsEDM`` and ``ComponentsEDM``, scale each frequency of the image by itself.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from dpdm_jax import frequencies

Params = Any
#: ``apply(params, x [n,h,w,c], c_noise [n], label [n]) -> [n,h,w,c]``
NetworkApply = Callable[[Params, jax.Array, jax.Array, jax.Array], jax.Array]
#: ``denoise(params, x [n,h,w,c], sigma [n], label [n]) -> x0 [n,h,w,c]``
Denoiser = Callable[[Params, jax.Array, jax.Array, jax.Array], jax.Array]


class Parameterization(Protocol):
    """What is scaled, and by what.

    ``analyse`` maps images [n, h, w, c] linearly to what c_skip and c_out scale, an
    array of four axes, and ``synthesise`` back. The others are functions of the noise
    level sigma > 0, elementwise on arrays of any shape that broadcasts with those.

    Attributes:
        mean_data: assumed mean of pixels, in [-1, 1]; images are centred by it. A
            public constant: it must not be measured on private images.
    """

    mean_data: float

    @property
    def expected(self) -> float | jax.Array:
        """Mean of what ``analyse`` makes of centred images; 0 unless measured."""
        ...

    def given(self, params: Params, label: jax.Array) -> "Parameterization":
        """Returns the parameterization of images of some classes.

        Args:
            params: of the model, whose ``"moments"`` may have been measured.
            label: int32 [n].
        """
        ...

    def analyse(self, x: jax.Array) -> jax.Array: ...
    def synthesise(self, scaled: jax.Array) -> jax.Array: ...
    def c_skip(self, sigma: jax.Array) -> jax.Array: ...
    def c_out(self, sigma: jax.Array) -> jax.Array: ...
    def c_in(self, sigma: jax.Array) -> jax.Array: ...
    def c_noise(self, sigma: jax.Array) -> jax.Array: ...
    def loss_weight(self, sigma: jax.Array) -> jax.Array: ...


class PixelParameterization:
    """Scales pixels as they are, as the papers do."""

    mean_data = 0.0
    expected = 0.0

    def given(self, params: Params, label: jax.Array) -> Parameterization:
        return self

    def analyse(self, x: jax.Array) -> jax.Array:
        return x

    def synthesise(self, scaled: jax.Array) -> jax.Array:
        return scaled


@dataclasses.dataclass(frozen=True)
class EDM(PixelParameterization):
    """Karras et al. 2022, table 1; DPDM fixes sigma_data to the std of U[-1, 1].

    Attributes:
        sigma_data: assumed standard deviation of the data, > 0. A public constant: it
            must not be measured on private images.
    """

    sigma_data: float = 3**-0.5

    def c_skip(self, sigma: jax.Array) -> jax.Array:
        return self.sigma_data**2 / (sigma**2 + self.sigma_data**2)

    def c_out(self, sigma: jax.Array) -> jax.Array:
        return sigma * self.sigma_data / jnp.sqrt(sigma**2 + self.sigma_data**2)

    def c_in(self, sigma: jax.Array) -> jax.Array:
        return 1.0 / jnp.sqrt(sigma**2 + self.sigma_data**2)

    def c_noise(self, sigma: jax.Array) -> jax.Array:
        return jnp.log(sigma) / 4.0

    def loss_weight(self, sigma: jax.Array) -> jax.Array:
        return (sigma**2 + self.sigma_data**2) / (sigma * self.sigma_data) ** 2


@dataclasses.dataclass(frozen=True)
class V(PixelParameterization):
    """v-prediction (Salimans and Ho 2022); ``F`` predicts minus their v."""

    def c_skip(self, sigma: jax.Array) -> jax.Array:
        return 1.0 / (1.0 + sigma**2)

    def c_out(self, sigma: jax.Array) -> jax.Array:
        return sigma / jnp.sqrt(1.0 + sigma**2)

    def c_in(self, sigma: jax.Array) -> jax.Array:
        return 1.0 / jnp.sqrt(1.0 + sigma**2)

    def c_noise(self, sigma: jax.Array) -> jax.Array:
        return (2.0 / jnp.pi) * jnp.arctan(sigma)

    def loss_weight(self, sigma: jax.Array) -> jax.Array:
        return (1.0 + sigma**2) / sigma**2


@dataclasses.dataclass(frozen=True)
class VE(PixelParameterization):
    """Variance exploding (Song et al. 2021); ``F`` predicts minus the unit noise."""

    def c_skip(self, sigma: jax.Array) -> jax.Array:
        return jnp.ones_like(sigma)

    def c_out(self, sigma: jax.Array) -> jax.Array:
        return sigma

    def c_in(self, sigma: jax.Array) -> jax.Array:
        return jnp.ones_like(sigma)

    def c_noise(self, sigma: jax.Array) -> jax.Array:
        return jnp.log(sigma / 2.0)

    def loss_weight(self, sigma: jax.Array) -> jax.Array:
        return 1.0 / sigma**2


@dataclasses.dataclass(frozen=True)
class VP(PixelParameterization):
    """Variance preserving (Song et al. 2021); ``F`` predicts the unit noise.

    Attributes:
        beta_min: beta at t = 0, > 0.
        beta_d: beta(1) - beta(0), > 0.
        num_timesteps: scale M of the time that the network sees.
    """

    beta_min: float = 0.1
    beta_d: float = 19.9
    num_timesteps: float = 1000.0

    def time(self, sigma: jax.Array) -> jax.Array:
        """The t in [0, 1] at which the process has noise level sigma."""
        ratio = self.beta_min / self.beta_d
        # The difference of nearly equal numbers -r + sqrt(r^2 + c), without
        # cancellation: c / (r + sqrt(r^2 + c)).
        c = 2.0 * jnp.log1p(sigma**2) / self.beta_d
        return c / (ratio + jnp.sqrt(ratio**2 + c))

    def c_skip(self, sigma: jax.Array) -> jax.Array:
        return jnp.ones_like(sigma)

    def c_out(self, sigma: jax.Array) -> jax.Array:
        return -sigma

    def c_in(self, sigma: jax.Array) -> jax.Array:
        return 1.0 / jnp.sqrt(1.0 + sigma**2)

    def c_noise(self, sigma: jax.Array) -> jax.Array:
        return self.num_timesteps * self.time(sigma)

    def loss_weight(self, sigma: jax.Array) -> jax.Array:
        return 1.0 / sigma**2


@dataclasses.dataclass(frozen=True)
class SpectralEDM:
    """EDM's scalings of what is predicted, for each frequency by an assumed spectrum.

    EDM (Karras et al. 2022, table 1) gives what a network is to predict unit variance
    if all frequencies of an image have one variance. They do not: nearly all of it lies
    in low ones, and EDM's network has to learn to take the noise out of the others.
    Here ``sigma_data`` depends on the frequency in c_skip and c_out, so that a network
    of zeros is the Wiener filter of the spectrum, and what remains to be learned needs
    fewer steps. What the network sees, and the loss, stay EDM's.

    Attributes:
        height: of images, in pixels.
        width: of images, in pixels.
        sigma_data: assumed standard deviation of pixels, > 0.
        mean_data: assumed mean of pixels, in [-1, 1].
        corner: see ``frequencies.falling_spectrum``.

    The last three are public constants: they must not be measured on private images.
    """

    height: int
    width: int
    sigma_data: float = 3**-0.5
    mean_data: float = 0.0
    corner: float = 5.0

    @property
    def expected(self) -> float | jax.Array:
        return 0.0

    def given(self, params: Params, label: jax.Array) -> Parameterization:
        return self

    def analyse(self, x: jax.Array) -> jax.Array:
        rows, columns = self._transforms()
        return jnp.einsum("ui,nijc,vj->nuvc", rows, x, columns)

    def synthesise(self, scaled: jax.Array) -> jax.Array:
        rows, columns = self._transforms()
        return jnp.einsum("ui,nuvc,vj->nijc", rows, scaled, columns)

    def c_skip(self, sigma: jax.Array) -> jax.Array:
        variances = self._stds() ** 2
        return variances / (sigma**2 + variances)

    def c_out(self, sigma: jax.Array) -> jax.Array:
        stds = self._stds()
        return sigma * stds / jnp.sqrt(sigma**2 + stds**2)

    def c_in(self, sigma: jax.Array) -> jax.Array:
        return EDM(self.sigma_data).c_in(sigma)

    def c_noise(self, sigma: jax.Array) -> jax.Array:
        return EDM(self.sigma_data).c_noise(sigma)

    def loss_weight(self, sigma: jax.Array) -> jax.Array:
        return EDM(self.sigma_data).loss_weight(sigma)

    def _transforms(self) -> tuple[np.ndarray, np.ndarray]:
        return frequencies.dct_matrix(self.height), frequencies.dct_matrix(self.width)

    def _stds(self) -> np.ndarray | jax.Array:
        return self.assumed_stds

    @property
    def assumed_stds(self) -> np.ndarray:
        """Assumed standard deviations of what ``analyse`` gives, [height, width, 1]."""
        return self.sigma_data * frequencies.falling_spectrum(
            self.height, self.width, self.corner
        )


@dataclasses.dataclass(frozen=True)
class MomentsEDM(SpectralEDM):
    """``SpectralEDM`` of means and spectra that were measured privately of each class.

    A network of zeros is then the best linear denoiser of Gaussian classes, whose
    images already look like blurred ones of theirs; the network learns the rest. The
    moments, which cost a part of the privacy budget, are among the parameters and are
    not trained: see ``privacy.class_moments``.
    """

    # Principal components of each class among the moments.
    components = 0

    def given(self, params: Params, label: jax.Array) -> Parameterization:
        moments = jax.lax.stop_gradient(params["moments"])
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return _GivenMoments(
            **fields, mean=moments["mean"][label], std=moments["std"][label]
        )

    def whiten(self, x: jax.Array) -> jax.Array:
        """Returns images' frequencies in assumed means and standard deviations.

        Args:
            x: [n, h, w, c].

        Returns:
            [n, h, w, c], in whose units the moments are.
        """
        return self.analyse(x - self.mean_data) / self.assumed_stds


@dataclasses.dataclass(frozen=True)
class _GivenMoments(SpectralEDM):
    """Of images [n, h, w, c] whose frequencies have these moments.

    Attributes:
        mean: [n, h, w, c], in assumed standard deviations from the assumed mean.
        std: [n, h, w, c], > 0, in assumed standard deviations.
    """

    mean: jax.Array = dataclasses.field(kw_only=True)
    std: jax.Array = dataclasses.field(kw_only=True)

    @property
    def expected(self) -> float | jax.Array:
        return self.mean * self.assumed_stds

    def _stds(self) -> np.ndarray | jax.Array:
        return self.std * self.assumed_stds


@dataclasses.dataclass(frozen=True)
class ComponentsEDM(MomentsEDM):
    """``MomentsEDM`` that knows principal components of each class, too.

    Each is scaled by its own standard deviation, and what is orthogonal to all of them
    by that of each frequency: a network of zeros is then (but for correlations of the
    rest) the best linear denoiser of Gaussian classes with few directions in which
    pixels vary together.

    Attributes:
        components: of each class, >= 1.
    """

    components: int = dataclasses.field(kw_only=True)

    def given(self, params: Params, label: jax.Array) -> Parameterization:
        moments = jax.lax.stop_gradient(params["moments"])
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        del fields["components"]
        return _GivenComponents(
            **fields,
            mean=moments["mean"][label],
            std=moments["std"][label],
            components=moments["components"][label],
            component_std=moments["component_std"][label],
        )


@dataclasses.dataclass(frozen=True)
class _GivenComponents(_GivenMoments):
    """Of images with these moments and principal components.

    What is scaled is, side by side in [n, 1, 1, k + h w c], an image's k components and
    the frequencies of the rest of it.

    Attributes:
        std: of the rest, as in ``_GivenMoments``.
        components: [n, k, h, w, c], orthonormal vectors of frequencies.
        component_std: [n, k], > 0, in assumed standard deviations of pixels.
    """

    components: jax.Array = dataclasses.field(kw_only=True)
    component_std: jax.Array = dataclasses.field(kw_only=True)

    @property
    def expected(self) -> float | jax.Array:
        return self._split(super().expected)

    def analyse(self, x: jax.Array) -> jax.Array:
        return self._split(super().analyse(x))

    def synthesise(self, scaled: jax.Array) -> jax.Array:
        count = self.component_std.shape[1]
        along = scaled[:, 0, 0, :count]
        _, rest = self._apart(scaled[:, 0, 0, count:].reshape(self.std.shape))
        return super().synthesise(rest + self._sum(along))

    def _stds(self) -> jax.Array:
        rest = super()._stds()
        along = self.component_std * self.sigma_data
        return self._side_by_side(along, rest)

    def _split(self, frequencies: jax.Array) -> jax.Array:
        return self._side_by_side(*self._apart(frequencies))

    def _apart(self, frequencies: jax.Array) -> tuple[jax.Array, jax.Array]:
        along = jnp.einsum("nkuvc,nuvc->nk", self.components, frequencies)
        return along, frequencies - self._sum(along)

    def _sum(self, along: jax.Array) -> jax.Array:
        return jnp.einsum("nkuvc,nk->nuvc", self.components, along)

    def _side_by_side(self, along: jax.Array, rest: jax.Array) -> jax.Array:
        both = jnp.concatenate([along, rest.reshape(len(rest), -1)], axis=1)
        return both[:, None, None, :]


def make_denoiser(apply: NetworkApply, parameterization: Parameterization) -> Denoiser:
    """Wraps a raw network as a denoiser.

    Args:
        apply: the network ``F``, see ``NetworkApply``.
        parameterization: the scalings.

    Returns:
        ``denoise(params, x, sigma, label)``: x float32 [n, h, w, c] in noisy
        coordinates, sigma float32 [n] > 0, label int32 [n]; the predicted clean images,
        float32 [n, h, w, c].
    """

    def denoise(
        params: Params, x: jax.Array, sigma: jax.Array, label: jax.Array
    ) -> jax.Array:
        s = sigma[:, None, None, None]
        p = parameterization.given(params, label)
        x = x - p.mean_data
        raw = apply(params, p.c_in(s) * x, p.c_noise(sigma), label)
        clean = p.c_skip(s) * (p.analyse(x) - p.expected) + p.c_out(s) * p.analyse(raw)
        return p.synthesise(clean + p.expected) + p.mean_data

    return denoise
