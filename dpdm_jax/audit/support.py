"""Does the noise hide which sum it was added to, down to the last bit?

Noise on a sum makes both of two neighbouring sums possible, if every value that can be
released under the one can be released under the other. With floating-point numbers this
fails: near its centre the noise takes few of the values that a float can hold, and
where they lie after the addition depends on the sum. One released value that is
impossible under a sum rules it out, whatever epsilon was claimed (Mironov, "On
significance of the least significant bits for differential privacy", 2012).

Two neighbouring sums that lie close together have nearly the same density, so that of
values which are released twice as many are shared by the two as belong to one. More of
the latter show that a value tells of its sum. Nothing need be known of the mechanism,
and rounding what it released is no fault.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import scipy.stats

from dpdm_jax import conditions, data, devices, padding
from dpdm_jax.audit.canaries import with_plain_descent
from dpdm_jax.errors import InputError
from dpdm_jax.privacy import PrivacyPlan, Query, class_moments
from dpdm_jax.training.from_config import build_training
from dpdm_jax.training.secrets import fresh_secrets
from dpdm_jax.training.state import create_state

#: ``released(with_it) -> [n]``: what a mechanism with fresh noise releases of n like
#: coordinates, with or without one example that adds little to each.
Mechanism = Callable[[bool], np.ndarray]

# Pairs of equal values, below which nothing can be said.
_MIN_PAIRS = 100
# Examples in both sums: a sum of 0 would be added without rounding.
_BYSTANDERS = 7


def p_value(released: Mechanism) -> float:
    """Tests whether all values are possible under both of two neighbouring sums.

    Args:
        released: the mechanism; about 2^20 coordinates of float32 have enough values in
            common.

    Returns:
        The one-sided p-value of the number of pairs of equal values within a sum beside
        that across both.

    Raises:
        InputError: hardly any value occurs twice.
    """
    without, with_it = (np.ravel(released(part)) for part in (False, True))
    if without.size != with_it.size:
        raise InputError(
            f"{without.size} values were released without an example and "
            f"{with_it.size} with it; allowed: as many."
        )
    values, where = np.unique(np.concatenate([without, with_it]), return_inverse=True)
    counts = np.bincount(where, minlength=len(values)).astype(np.float64)
    first = np.bincount(where[: without.size], minlength=len(values))
    pairs = np.sum(counts * (counts - 1)) / 2
    if pairs < _MIN_PAIRS:
        raise InputError(
            f"of {without.size} values released twice {pairs:.0f} pairs are equal; "
            f"allowed: at least {_MIN_PAIRS}, which more values have."
        )
    # Each value's occurrences fall to either side by a coin flip: this has a mean of 0
    # and a variance of so many pairs.
    excess = np.sum((2 * first - counts) ** 2 - counts) / 2
    return float(scipy.stats.norm.sf(excess / np.sqrt(pairs)))


def of_step(
    config: ml_collections.ConfigDict, plan: PrivacyPlan, size: int = 2**20
) -> float:
    """Tests the run's own training step, from the gradients of examples to the weights.

    Args:
        config: of the run; reads ``train``. Its optimizer gives way to plain descent.
        plan: the privacy plan, with noise.
        size: weights of the model, among which an example's gradient is divided.

    Returns:
        See ``p_value``.
    """
    config = with_plain_descent(config)
    mesh = devices.data_mesh()

    def loss(
        params: jax.Array, fixed: Any, example: data.Example, key: jax.Array
    ) -> jax.Array:
        del fixed, example, key
        return plan.l2_clip_norm * jnp.sum(params)

    def released(with_it: bool) -> np.ndarray:
        secrets = fresh_secrets()
        training = build_training(config, plan, loss, secrets.noise_key, mesh)
        state = create_state(jnp.zeros(size), training.optimizer, training.noise)
        state = devices.place(state, training.layout(state))
        room = -(-(_BYSTANDERS + 1) // mesh.size) * mesh.size
        spec = data.image_spec((1, 1, 1), conditions.Unconditional())
        batch = devices.place(
            (
                padding.blank_examples(spec, room),
                np.arange(room) >= _BYSTANDERS + with_it,
                np.arange(room, dtype=np.int32),
            ),
            devices.divided(mesh),
        )
        step_fns = training.step_fns
        partial = step_fns.accumulate(
            step_fns.start(state.params), state.params, {}, *batch, secrets.loss_key(0)
        )
        return np.asarray(step_fns.finish(state, partial)[0].params)

    return p_value(released)


def of_moments(query: Query, size: int = 2**20) -> float:
    """Tests the first sum of a query of moments.

    Args:
        query: of the privacy plan.
        size: features of an example.

    Returns:
        See ``p_value``.
    """

    def released(with_it: bool) -> np.ndarray:
        count = _BYSTANDERS + with_it
        answers: list[class_moments.Released] = []
        class_moments.noised_moments(
            lambda: [(np.ones((count, size), np.float32), np.zeros(count, np.int32))],
            0,
            np.ones(size),
            l2_clip_norm=1.0,
            noise_multiplier=query.noise_multiplier,
            noise_key=fresh_secrets().query_key(query.name),
            on_release=answers.append,
        )
        return answers[0].noised[0, :-1]  # the last is a count

    return p_value(released)
