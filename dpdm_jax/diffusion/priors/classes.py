"""A prior of classes, whose means and spreads were measured privately."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from dpdm_jax.conditions import Condition, num_classes_for
from dpdm_jax.diffusion.priors.base import Linear, Params
from dpdm_jax.diffusion.priors.spectral import Spectral

#: Name of the moments among the parameters of a model.
MOMENTS = "moments"
#: What messages call who reads the classes.
READER = "diffusion.parameterization 'edm_moments'"


@dataclasses.dataclass(frozen=True)
class Classes(Spectral):
    """``Spectral`` of means and spectra of each class.

    A network of zeros is then the best linear denoiser of Gaussian classes, whose
    images already look like blurred ones of theirs; the network learns the rest. With
    principal components each of them is scaled by its own standard deviation, and what
    is orthogonal to all by that of each frequency: that is (but for correlations of the
    rest) the best linear denoiser of classes with few directions in which pixels vary
    together.

    The moments are in assumed standard deviations from the assumed mean, and cost a
    part of the privacy budget: see ``privacy.class_moments``.

    Attributes:
        components: of each class, >= 0.
    """

    components: int = dataclasses.field(default=0, kw_only=True)

    def init(self, image_shape: tuple[int, int, int], condition: Condition) -> Params:
        """Returns the moments that are assumed until they are measured.

        Returns:
            {"moments": {"mean": ..., "std": ...}}, float32 [num_classes + 1, h, w, c],
            of which the last are those of all images: 0 and 1. With components there
            are "components" float32 [num_classes + 1, components, h, w, c], orthonormal
            vectors of frequencies, and "component_std" [num_classes + 1, components] in
            assumed standard deviations of pixels, too.

        Raises:
            InputError: the condition is no class.
        """
        rows = num_classes_for(condition, READER) + 1
        moments = {
            "mean": jnp.zeros((rows, *image_shape)),
            "std": jnp.ones((rows, *image_shape)),
        }
        if self.components:
            first = jnp.eye(self.components, math.prod(image_shape))
            first = first.reshape(self.components, *image_shape)
            moments["components"] = jnp.tile(first, (rows, 1, 1, 1, 1))
            moments["component_std"] = jnp.ones((rows, self.components))
        return {MOMENTS: moments}

    def given(self, params: Params, label: jax.Array) -> Linear:
        moments = {name: value[label] for name, value in params[MOMENTS].items()}
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(Spectral)}
        if not self.components:
            return _GivenMoments(**fields, **moments)
        return _GivenComponents(**fields, **moments)

    def whiten(self, x: jax.Array) -> jax.Array:
        """Returns images' frequencies in assumed means and standard deviations.

        Args:
            x: [n, h, w, c].

        Returns:
            [n, h, w, c], in whose units the moments are.
        """
        return self.analyse(x - self.mean_data) / self.assumed_stds


@dataclasses.dataclass(frozen=True)
class _GivenMoments(Spectral):
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
