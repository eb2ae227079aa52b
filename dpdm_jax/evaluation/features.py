"""What images are compared by: features of a network, in batches over all devices."""

from collections.abc import Iterator
from typing import Any, Protocol

import jax
import numpy as np
import tqdm

from dpdm_jax.evaluation import cache, inception
from dpdm_jax.evaluation.inception_weights import Weights

_OTHER_WEIGHTS = (
    "the Inception weights are not the published ones, so that no figure on them "
    "compares with any FID or KID elsewhere"
)


class Extractor(Protocol):
    """Turns images into features; equal fingerprints give equal features.

    Attributes:
        name: for people.
        num_features: d.
        fingerprint: checksum of weights and preprocessing.
        settings: what the features depend on, as JSON has values.
        caveats: what readers of any figure on them could get wrong.
        batch_size: images in a call that keep the devices busy.
    """

    name: str
    num_features: int
    fingerprint: str
    settings: dict[str, Any]
    caveats: tuple[str, ...]
    batch_size: int

    def __call__(self, images: np.ndarray) -> jax.Array:
        """Computes features.

        Args:
            images: uint8 [n, h, w, c]; n is a multiple of the number of devices, and
                always the same, so that one program is compiled.

        Returns:
            float32 [n, num_features].
        """
        ...


class InceptionFeatures:
    """The features that FID is defined on; see ``inception``."""

    name = "inception"
    num_features = inception.NUM_FEATURES

    def __init__(self, weights: Weights):
        """Keeps the weights on every device.

        Args:
            weights: of ``inception_weights.load``.
        """
        self.caveats: tuple[str, ...] = () if weights.published else (_OTHER_WEIGHTS,)
        self._params = on_every_device(weights.params)
        self._features = jax.jit(inception.features)
        on_cpu = jax.default_backend() == "cpu"
        self.batch_size = 16 if on_cpu else 128 * jax.local_device_count()
        self.fingerprint = cache.checksum(inception.PREPROCESSING, weights.sha256)
        self.settings = {
            "features": "Inception, TensorFlow 2015, pool3",
            "preprocessing": "u / 255 resized to 299x299 bilinearly without "
            "antialiasing, then 2 x - 1; grey repeated to RGB",
            "weights_sha256": weights.sha256,
            "weights_are_the_published_ones": weights.published,
        }

    def __call__(self, images: np.ndarray) -> jax.Array:
        return self._features(self._params, over_devices(images))


def compute(
    extractor: Extractor,
    images: np.ndarray,
    order: np.ndarray,
    bar: tqdm.tqdm | None = None,
) -> Iterator[np.ndarray]:
    """Yields the features of images, batch by batch.

    Args:
        extractor: what computes them.
        images: uint8 [N, h, w, c].
        order: int [n], which images, in which order.
        bar: moved by the number of images.

    Yields:
        float32 [at most the extractor's batch size, d].
    """
    devices = jax.local_device_count()
    batch_size = -(-extractor.batch_size // devices) * devices
    pending: tuple[jax.Array, int] | None = None
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        # One shape for all batches; what fills up the last one is cut off again.
        filled = np.resize(chosen, batch_size)
        # The devices compute a batch while the host gathers the next one.
        queued = extractor(images[filled]), len(chosen)
        if pending is not None:
            yield _fetch(*pending, bar)
        pending = queued
    if pending is not None:
        yield _fetch(*pending, bar)


def _fetch(features: jax.Array, number: int, bar: tqdm.tqdm | None) -> np.ndarray:
    result = np.asarray(features)[:number]
    if bar is not None:
        bar.update(number)
    return result


def on_every_device(values: Any) -> Any:
    """Copies a pytree of arrays to all local devices."""
    return jax.device_put(values, _sharding(jax.sharding.PartitionSpec()))


def over_devices(images: np.ndarray) -> jax.Array:
    """Divides images among all local devices."""
    return jax.device_put(images, _sharding(jax.sharding.PartitionSpec("images")))


def _sharding(spec: jax.sharding.PartitionSpec) -> jax.sharding.NamedSharding:
    mesh = jax.sharding.Mesh(np.array(jax.local_devices()), ("images",))
    return jax.sharding.NamedSharding(mesh, spec)
