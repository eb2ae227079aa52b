"""Measures the moments of classes privately, before the first step of a run."""

import functools
from collections.abc import Callable, Iterator

import jax
import numpy as np

from dpdm_jax import data
from dpdm_jax.diffusion.parameterizations import MomentsEDM
from dpdm_jax.privacy import class_moments

# Images that are looked at together.
_BATCH = 1000

# Bound on an image's deviation from the mean of its class, for covariances: of the root
# mean square of its pixels in units of sigma_data. A public guess, near 1.
_COVARIANCE_CLIP = 1.25

# What of a frequency's variance is left beside the principal components at least, and
# the variance of one of these.
_LEAST_REST = 0.02
_LEAST_VARIANCE = 1e-4


def measure(
    parameterization: MomentsEDM,
    source: data.Source,
    *,
    clip: float,
    noise_multiplier: float,
    noise_key: jax.Array,
    on_release: Callable[[class_moments.Released], None] | None = None,
) -> dict[str, np.ndarray]:
    """Measures what ``with_moments`` keeps.

    The same key and data give the same moments, so that a run that is interrupted
    before its first checkpoint with moments releases none twice.

    Args:
        parameterization: what the moments are for.
        source: the training data.
        clip: bound on the root mean square of an image's frequencies, in assumed
            standard deviations, > 0.
        noise_multiplier: sigma of each query, > 0.
        noise_key: see ``gaussian_noise``.
        on_release: see ``class_moments.measure``; of features as ``whitened`` gives.

    Returns:
        Float32 arrays by their name.

    Raises:
        InputError: a value is out of range.
    """
    shape = source.image_shape
    scales = _of_frequencies(parameterization.assumed_stds, shape)
    covariances = class_moments.Covariances(
        weights=scales / parameterization.sigma_data,
        l2_clip_norm=_COVARIANCE_CLIP * scales.size**0.5,
    )
    components = parameterization.components
    measured = class_moments.measure(
        lambda: whitened(parameterization, source),
        source.num_classes,
        # How far the means of classes are apart: the less, the finer the detail.
        scales / scales.max(),
        covariances if components else None,
        l2_clip_norm=clip * scales.size**0.5,
        noise_multiplier=noise_multiplier,
        noise_key=noise_key,
        on_release=on_release,
    )
    moments = {"mean": measured.mean, "std": measured.std}
    if components:
        moments |= _components(measured, components, scales)
        moments["component_std"] /= parameterization.sigma_data
        moments["components"] = moments["components"].reshape(-1, components, *shape)
    for name in ("mean", "std"):
        moments[name] = moments[name].reshape(-1, *shape)
    return {name: value.astype(np.float32) for name, value in moments.items()}


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
    parameterization: MomentsEDM, source: data.Source
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields the features of all images, and their labels.

    Args:
        parameterization: whose frequencies they are.
        source: the images.

    Returns:
        An iterator over (float32 [n, h w c], int32 [n]), each image once.
    """
    for start in range(0, len(source), _BATCH):
        indices = np.arange(start, min(start + _BATCH, len(source)))
        batch = data.load_batch(source, indices)
        features = np.asarray(_whiten(parameterization, batch.images))
        yield features.reshape(len(features), -1), batch.labels


@functools.partial(jax.jit, static_argnums=0)
def _whiten(parameterization: MomentsEDM, images: jax.Array) -> jax.Array:
    return parameterization.whiten(images)


def _of_frequencies(stds: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    return np.broadcast_to(stds, shape).reshape(-1).astype(np.float64)
