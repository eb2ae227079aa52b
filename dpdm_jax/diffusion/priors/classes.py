"""A prior of classes, whose means and spreads were measured privately."""

import dataclasses
import math

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from dpdm_jax import validate
from dpdm_jax.conditions import Condition, num_classes_for
from dpdm_jax.diffusion.priors.base import Linear, Params, Scaled
from dpdm_jax.diffusion.priors.spectral import Spectral
from dpdm_jax.errors import InputError

#: Name of the moments among the parameters of a model.
MOMENTS = "moments"
#: What messages call who reads the classes.
READER = "diffusion.parameterization 'edm_moments'"

# Values of an image whose covariances, a matrix for each class, are measured at most.
_MAX_COVARIED = 3072


@dataclasses.dataclass(frozen=True)
class Settings:
    """``config.diffusion.edm_moments``.

    Attributes:
        clip: images that are further from the assumed mean than so many assumed
            standard deviations (root mean square of frequencies), > 0, count as if they
            were not.
        components: principal components of each class that are measured, too, by a
            third query, >= 0.

    Raises:
        InputError: a field is out of range.
    """

    clip: float = 2.0
    components: int = 0

    def __post_init__(self) -> None:
        path = "diffusion.edm_moments"
        validate.real(f"{path}.clip", self.clip, above=0)
        validate.integer(f"{path}.components", self.components, minimum=0)

    def check_fit(self, image_shape: tuple[int, int, int]) -> None:
        """Raises InputError unless images of (h, w, c) have so many components."""
        size = math.prod(image_shape)
        most = size if size <= _MAX_COVARIED else 0
        allowed = f"0 to {most}"
        if not most:
            allowed = (
                "0, as --config.diffusion.edm_moments.components=0 says it, since they "
                f"have more than {_MAX_COVARIED:,} values"
            )
        if self.components > most:
            raise InputError(
                f"diffusion.edm_moments.components is {self.components}; allowed for "
                f"images of {'x'.join(map(str, image_shape))}: {allowed}."
            )


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

    def given(self, params: Params, condition: Int[Array, " n"]) -> Linear:
        moments = {name: value[condition] for name, value in params[MOMENTS].items()}
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(Spectral)}
        if not self.components:
            return _GivenMoments(**fields, **moments)
        return _GivenComponents(**fields, **moments)

    def whiten(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
        """Returns images' frequencies in assumed means and standard deviations.

        Args:
            x: images.

        Returns:
            Frequencies, in whose units the moments are.
        """
        return self.analyse(x - self.mean_data) / self.assumed_stds


@dataclasses.dataclass(frozen=True)
class _GivenMoments(Spectral):
    """Of images [n, h, w, c] whose frequencies have these moments.

    Attributes:
        mean: in assumed standard deviations from the assumed mean.
        std: > 0, in assumed standard deviations.
    """

    mean: Float[Array, "n h w c"] = dataclasses.field(kw_only=True)
    std: Float[Array, "n h w c"] = dataclasses.field(kw_only=True)

    @property
    def expected(self) -> Scaled:
        return self.mean * self.assumed_stds

    def _stds(self) -> Float[Array, "n _ _ _"]:
        return self.std * self.assumed_stds


@dataclasses.dataclass(frozen=True)
class _GivenComponents(_GivenMoments):
    """Of images with these moments and principal components.

    What is scaled is, side by side, an image's k components and
    the frequencies of the rest of it.

    Attributes:
        std: of the rest, as in ``_GivenMoments``.
        components: orthonormal vectors of frequencies.
        component_std: > 0, in assumed standard deviations of pixels.
    """

    components: Float[Array, "n k h w c"] = dataclasses.field(kw_only=True)
    component_std: Float[Array, "n k"] = dataclasses.field(kw_only=True)

    @property
    def expected(self) -> Scaled:
        return self._split(super().expected)

    def analyse(self, x: Float[Array, "n h w c"]) -> Scaled:
        return self._split(super().analyse(x))

    def synthesise(self, scaled: Scaled) -> Float[Array, "n h w c"]:
        count = self.component_std.shape[1]
        along = scaled[:, 0, 0, :count]
        _, rest = self._apart(scaled[:, 0, 0, count:].reshape(self.std.shape))
        return super().synthesise(rest + self._sum(along))

    def _stds(self) -> Float[Array, "n _ _ _"]:
        rest = super()._stds()
        along = self.component_std * self.sigma_data
        return self._side_by_side(along, rest)

    def _split(self, frequencies: Float[Array, "n h w c"]) -> Scaled:
        return self._side_by_side(*self._apart(frequencies))

    def _apart(
        self, frequencies: Float[Array, "n h w c"]
    ) -> tuple[Float[Array, "n k"], Float[Array, "n h w c"]]:
        along = jnp.einsum("nkuvc,nuvc->nk", self.components, frequencies)
        return along, frequencies - self._sum(along)

    def _sum(self, along: Float[Array, "n k"]) -> Float[Array, "n h w c"]:
        return jnp.einsum("nkuvc,nk->nuvc", self.components, along)

    def _side_by_side(
        self, along: Float[Array, "n k"], rest: Float[Array, "n h w c"]
    ) -> Scaled:
        both = jnp.concatenate([along, rest.reshape(len(rest), -1)], axis=1)
        return both[:, None, None, :]
