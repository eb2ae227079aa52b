"""DP-SGD on scikit-learn's digits for any model, with ``dpdm_jax.privacy`` alone."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import sklearn.datasets

from dpdm_jax import privacy

_NUM_TRAIN = 1437
_BATCH_SIZE = 180  # expected
_EPSILON, _DELTA = 8.0, 1e-4
_MICROBATCH = 64


def train_and_test(
    logits: Callable[[Any, jax.Array], jax.Array], params: Any, *, num_steps: int = 120
) -> tuple[float, float]:
    """Trains a classifier privately and tests it.

    Args:
        logits: ``logits(params, image [8, 8, 1] in [0, 1]) -> [10]``.
        params: initial parameters, any pytree of arrays.
        num_steps: steps that the budget is spread over.

    Returns:
        Accuracy on the 360 test images, and the epsilon spent.
    """
    images, labels = sklearn.datasets.load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(images))
    images = jnp.asarray(images[order].reshape(-1, 8, 8, 1) / 16.0, jnp.float32)
    labels = jnp.asarray(labels[order], jnp.int32)

    def loss(params: Any, image: jax.Array, label: jax.Array) -> jax.Array:
        return optax.softmax_cross_entropy_with_integer_labels(
            logits(params, image), label
        )

    grad_fn = privacy.clipped_grad(loss, l2_clip_norm=1.0, batch_argnums=(1, 2))
    sampling = privacy.PoissonSampling(_BATCH_SIZE / _NUM_TRAIN, num_steps)
    sigma = privacy.accounting.calibrate_noise_multiplier(sampling, _EPSILON, _DELTA)
    optimizer = optax.chain(
        privacy.gaussian_noise(sigma * grad_fn.sensitivity(), privacy.new_noise_key()),
        privacy.normalize_by(_BATCH_SIZE),
        optax.adam(5e-3),
    )

    @jax.jit
    def add_clipped(total: Any, params: Any, indices: jax.Array) -> Any:
        clipped = grad_fn(
            params, images[indices], labels[indices], is_padding_example=indices < 0
        )
        return total + clipped

    @jax.jit
    def step(params: Any, state: Any, total: Any) -> tuple[Any, Any]:
        updates, state = optimizer.update(total, state, params)
        return optax.apply_updates(params, updates), state

    state = optimizer.init(params)
    batches = sampling.batches(
        _NUM_TRAIN, privacy.new_seed(), pad_to_multiple_of=_MICROBATCH
    )
    for indices in batches:
        total = grad_fn.zeros(params)
        # However large the batch, one shape is compiled and nothing is dropped.
        for part in indices.reshape(-1, _MICROBATCH):
            total = add_clipped(total, params, jnp.asarray(part))
        params, state = step(params, state, total)

    predicted = jax.vmap(logits, (None, 0))(params, images[_NUM_TRAIN:]).argmax(-1)
    accuracy = float((predicted == labels[_NUM_TRAIN:]).mean())
    return accuracy, privacy.accounting.epsilon(sampling, sigma, _DELTA)


def report(name: str, accuracy: float, epsilon: float) -> None:
    """Prints one line."""
    print(
        f"{name}: {100 * accuracy:.1f} % of 360 real test digits at epsilon "
        f"{privacy.format_epsilon(epsilon)}, delta {_DELTA:g}"
    )
