"""Measures the moments of classes privately, before the first step of a run."""

import dataclasses
import functools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np

from dpdm_jax import data, validate
from dpdm_jax.conditions import Condition, num_classes_for
from dpdm_jax.diffusion import from_config
from dpdm_jax.diffusion.priors import Classes, Prior
from dpdm_jax.diffusion.priors.classes import MOMENTS, READER
from dpdm_jax.errors import InputError
from dpdm_jax.images import pixels
from dpdm_jax.privacy import PoissonSampling, Query, accounting, class_moments
from dpdm_jax.privacy.class_moments import Batch
from dpdm_jax.queries.base import OnRelease

# Images that are looked at together.
_BATCH = 1000

# Bound on an image's deviation from the mean of its class, for covariances: of the root
# mean square of its pixels in units of sigma_data. A public guess, near 1.
_COVARIANCE_CLIP = 1.25

# What of a frequency's variance is left beside the principal components at least, and
# the variance of one of these.
_LEAST_REST = 0.02
_LEAST_VARIANCE = 1e-4

# How strong the noise is: by itself, or by what it takes of the budget.
_SIGMA, _SHARE = "moments_noise_multiplier", "moments_share"

# In place of a share of a budget without end.
_NEXT_TO_NONE = 1e-3

# Canaries: small images, since covariances grow with their square, and contrasts over
# those assumed.
_CANARY_SHAPE = (4, 4, 1)
_CANARY_STRENGTH = 1e3


@dataclasses.dataclass(frozen=True)
class MomentsQuery:
    """Measures what the prior ``Classes`` keeps; see ``NamedQuery``.

    Attributes:
        prior: what the moments are for.
        image_shape: (h, w, c).
        num_classes: 0 for unlabelled data.
        clip: bound on the root mean square of an image's frequencies, in assumed
            standard deviations, > 0.
        noise_multiplier: sigma of each query, > 0.
    """

    prior: Classes
    image_shape: tuple[int, int, int]
    num_classes: int
    clip: float
    noise_multiplier: float

    @property
    def planned(self) -> Query:
        count = class_moments.num_queries(covariances=self._has_covariances)
        return Query(class_moments.NAME, count, float(self.noise_multiplier))

    @property
    def num_coordinates(self) -> int:
        return class_moments.num_coordinates(
            self.num_classes,
            math.prod(self.image_shape),
            covariances=self._has_covariances,
        )

    @property
    def _has_covariances(self) -> bool:
        return self.prior.components > 0

    def answer(
        self,
        source: data.Source,
        noise_key: jax.Array,
        on_release: OnRelease | None = None,
        groups: data.Groups | None = None,
    ) -> dict[str, Any]:
        shape, components = self.image_shape, self.prior.components
        scales = _of_frequencies(self.prior.assumed_stds, shape)
        covariances = class_moments.Covariances(
            weights=scales / self.prior.sigma_data,
            l2_clip_norm=_COVARIANCE_CLIP * scales.size**0.5,
        )
        measured = class_moments.noised_moments(
            lambda: whitened(self.prior, source, groups),
            self.num_classes,
            # How far the means of classes are apart: the less, the finer the detail.
            scales / scales.max(),
            covariances if components else None,
            l2_clip_norm=self.clip * scales.size**0.5,
            noise_multiplier=self.noise_multiplier,
            noise_key=noise_key,
            on_release=on_release,
        )
        moments = {"mean": measured.mean, "std": measured.std}
        if components:
            moments |= _components(measured, components, scales)
            moments["component_std"] /= self.prior.sigma_data
            moments["components"] = moments["components"].reshape(
                -1, components, *shape
            )
        for name in ("mean", "std"):
            moments[name] = moments[name].reshape(-1, *shape)
        return {MOMENTS: {k: value.astype(np.float32) for k, value in moments.items()}}

    def features(
        self, source: data.Source, groups: data.Groups | None = None
    ) -> list[Batch]:
        return list(whitened(self.prior, source, groups))

    def on_canaries(self, count: int, seed: int) -> tuple["MomentsQuery", np.ndarray]:
        height, width, _ = _CANARY_SHAPE
        prior = dataclasses.replace(
            self.prior,
            height=height,
            width=width,
            # Contrasts far beyond what is assumed reach the bound.
            sigma_data=self.prior.sigma_data / _CANARY_STRENGTH,
            components=min(1, self.prior.components),  # any number asks as much
        )
        pixels = np.random.default_rng(seed).random((count, *_CANARY_SHAPE))
        query = dataclasses.replace(
            self, prior=prior, image_shape=_CANARY_SHAPE, num_classes=count
        )
        return query, np.where(pixels < 0.5, 0, 255).astype(np.uint8)


def build(
    config: ml_collections.ConfigDict,
    prior: Prior,
    image_shape: tuple[int, int, int],
    condition: Condition,
) -> MomentsQuery | None:
    """Builds the query of a run whose prior keeps moments; see ``queries.Builder``.

    Raises:
        InputError: moments are measured and not used, or used and not measured; or a
            field is out of range.
    """
    sigma, share = config.privacy[_SIGMA], config.privacy[_SHARE]
    validate.real(f"privacy.{_SHARE}", share, minimum=0, below=1)
    stated = {_SIGMA: sigma, _SHARE: share}
    given = [_SIGMA] * (sigma is not None) + [_SHARE] * (share != 0)
    kind = config.diffusion.parameterization
    if not isinstance(prior, Classes):
        if given:
            raise InputError(
                f"privacy.{given[0]} is {stated[given[0]]} with "
                f"diffusion.parameterization {kind!r}; allowed: "
                f"{'none' if given[0] == _SIGMA else '0'}, or 'edm_moments'."
            )
        return None
    if len(given) != 1:
        values = " and ".join(f"privacy.{k} is {v}" for k, v in stated.items())
        raise InputError(
            f"{values} with diffusion.parameterization {kind!r}; allowed: one of them."
        )
    clip = from_config.MOMENTS.read(config.diffusion).clip
    num_classes = num_classes_for(condition, READER)
    query = MomentsQuery(prior, image_shape, num_classes, clip, 1.0)
    if share:
        sigma = _share_of_budget(config.privacy, query.planned.count)
    validate.real(f"privacy.{_SIGMA}", sigma, above=0)
    return dataclasses.replace(query, noise_multiplier=sigma)


def as_planned(config: ml_collections.ConfigDict, planned: Sequence[Query]) -> None:
    """Puts the noise that a plan states in the place of a share of the budget.

    Args:
        config: unlocked; changed in place.
        planned: the queries of the plan.
    """
    of_moments = [query for query in planned if query.name == class_moments.NAME]
    if config.privacy[_SHARE] and of_moments:
        config.privacy[_SHARE] = 0.0
        config.privacy[_SIGMA] = of_moments[0].noise_multiplier


def _share_of_budget(privacy: ml_collections.ConfigDict, count: int) -> float:
    """Returns the noise multiplier with which sums alone take a share of epsilon."""
    validate.real("epsilon", privacy.epsilon, above=0, allow_inf=True)
    if math.isinf(privacy.epsilon):
        return _NEXT_TO_NONE
    return accounting.calibrate_noise_multiplier(
        PoissonSampling(1.0, count),
        privacy[_SHARE] * privacy.epsilon,
        privacy.delta,
        privacy.accountant,
    )


def _components(
    measured: class_moments.ClassMoments, count: int, scales: np.ndarray
) -> dict[str, np.ndarray]:
    """Returns principal components, their spreads, and those of the rest.

    Args:
        measured: moments of d features, with covariances.
        count: of the components.
        scales: [d], by which features are multiplied before.
    """
    values, vectors = np.linalg.eigh(measured.covariance * np.outer(scales, scales))
    values, vectors = values[:, ::-1][:, :count], vectors[:, :, ::-1][:, :, :count]
    variances = np.maximum(values, 0)
    explained = np.einsum("kij,kj->ki", vectors**2, variances) / scales**2
    rest = measured.std**2 - explained
    least = _LEAST_REST * measured.std**2
    return {
        "std": np.sqrt(np.maximum(rest, least)),
        "components": vectors.transpose(0, 2, 1),
        "component_std": np.sqrt(np.maximum(variances, _LEAST_VARIANCE)),
    }


def whitened(
    prior: Classes, source: data.Source, groups: data.Groups | None = None
) -> Iterator[Batch]:
    """Yields the features of all images, and their labels.

    Args:
        prior: in whose units they are.
        source: the images.
        groups: whose they are; None if each is a unit of privacy by itself.

    Returns:
        An iterator over (float32 [n, h w c], int32 [n]), each image once; and of groups
        each image's share in its own, float64 [n].
    """
    shares = () if groups is None else (groups.shares,)
    for start in range(0, len(source), _BATCH):
        indices = np.arange(start, min(start + _BATCH, len(source)))
        batch = data.load_batch(source, indices)
        images = pixels.to_float(batch.examples["image"])
        features = np.asarray(_whiten(prior, images))
        labels = batch.examples["condition"]
        parts = (share[indices] for share in shares)
        yield (features.reshape(len(features), -1), labels, *parts)


@functools.partial(jax.jit, static_argnums=0)
def _whiten(prior: Classes, images: jax.Array) -> jax.Array:
    return prior.whiten(images)


def _of_frequencies(stds: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    return np.broadcast_to(stds, shape).reshape(-1).astype(np.float64)
