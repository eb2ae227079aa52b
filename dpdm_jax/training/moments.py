"""Measures the moments of classes privately, before the first step of a run."""

from collections.abc import Iterator

import jax
import numpy as np

from dpdm_jax import data
from dpdm_jax.diffusion.parameterizations import MomentsEDM
from dpdm_jax.model import Model
from dpdm_jax.privacy import class_moments

# Images that are looked at together.
_BATCH = 1000


def measure(
    model: Model,
    source: data.Source,
    *,
    clip: float,
    noise_multiplier: float,
    noise_key: jax.Array,
) -> dict[str, np.ndarray]:
    """Measures what ``with_moments`` keeps.

    The same key and data give the same moments, so that a run that is interrupted
    before its first checkpoint with moments releases none twice.

    Args:
        model: of ``MomentsEDM``.
        source: the training data.
        clip: bound on the root mean square of an image's frequencies, in assumed
            standard deviations, > 0.
        noise_multiplier: sigma of each query, > 0.
        noise_key: see ``gaussian_noise``.

    Returns:
        Float32 [classes + 1, h, w, c] each: "mean" and "std".

    Raises:
        InputError: a value is out of range.
    """
    shape = model.network.image_shape
    size = int(np.prod(shape))
    measured = class_moments.measure(
        lambda: _whitened(model.parameterization, source),
        model.num_classes,
        _mean_prior(model.parameterization, shape),
        l2_clip_norm=clip * size**0.5,
        noise_multiplier=noise_multiplier,
        noise_key=noise_key,
    )
    return {
        name: value.reshape(-1, *shape) for name, value in measured._asdict().items()
    }


def _whitened(
    parameterization: MomentsEDM, source: data.Source
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    whiten = jax.jit(parameterization.whiten)
    for start in range(0, len(source), _BATCH):
        indices = np.arange(start, min(start + _BATCH, len(source)))
        batch = data.load_batch(source, indices)
        features = np.asarray(whiten(batch.images))
        yield features.reshape(len(features), -1), batch.labels


def _mean_prior(
    parameterization: MomentsEDM, shape: tuple[int, int, int]
) -> np.ndarray:
    """Guesses how far the classes' means are apart: the less, the finer the detail."""
    stds = parameterization.assumed_stds
    return np.broadcast_to(stds / stds.max(), shape).reshape(-1)
