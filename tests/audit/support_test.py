"""Which values can be released: noise in floating point would tell of its sum."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpdm_jax.audit import support
from dpdm_jax.errors import InputError
from dpdm_jax.privacy import PrivacyConfig, Query, make_plan
from dpdm_jax.training.secrets import fixed_secrets

_SIZE = 2**19
_STDDEV = 2.0**28  # in units of the grid


@pytest.fixture
def plan():
    return make_plan(
        PrivacyConfig(
            num_examples=100,
            batch_size=100,
            epsilon=math.inf,
            delta=1e-5,
            noise_multiplier=1.3,
            num_steps=1,
            queries=(Query("moments", 2, 10.0),),
        )
    )


@pytest.fixture(autouse=True)
def fixed_entropy(monkeypatch):
    """New secrets each time, the same in every test: p-values do not vary."""
    rng = np.random.default_rng(0)
    monkeypatch.setattr(
        support, "fresh_secrets", lambda: fixed_secrets(int(rng.integers(2**32)))
    )


def on_a_grid(rng, sum_of_integers):
    """A Gaussian rounded to integers, added to integers."""
    noise = np.rint(rng.normal(scale=_STDDEV, size=_SIZE)).astype(np.int64)
    return sum_of_integers + noise


@pytest.mark.parametrize("after", [lambda x: x, np.float32], ids=["exact", "float32"])
def test_integers_are_all_possible(after):
    """Also behind what is done with them afterwards."""
    rng = np.random.default_rng(0)

    def released(with_it):
        return after(on_a_grid(rng, 12345 + 67 * with_it))

    assert support.p_value(released) > 1e-3


def test_rounding_to_a_grid_hides_floats():
    rng = np.random.default_rng(0)

    def released(with_it):
        sums = np.float32(0.7123 + 0.0178 * with_it)
        noised = sums + np.float32(10) * rng.normal(size=_SIZE).astype(np.float32)
        return np.rint(noised * 4096 / 10)

    assert support.p_value(released) > 1e-3


@pytest.mark.parametrize("stddev", [1.0, 10.0])
def test_noise_with_holes_is_caught(stddev):
    """Noise takes a sixteenth of the grid's values, the sum any."""
    rng = np.random.default_rng(0)

    def released(with_it):
        noise = 16 * np.rint(rng.normal(scale=stddev * 2**16, size=_SIZE))
        return noise.astype(np.int64) + 5 + 8 * with_it

    assert support.p_value(released) < 1e-9


def test_neighbours_with_nothing_in_common_are_caught():
    rng = np.random.default_rng(0)

    def released(with_it):
        return 2 * on_a_grid(rng, 0) + with_it

    assert support.p_value(released) < 1e-9


def test_noise_in_floating_point_is_caught():
    rng = np.random.default_rng(0)

    def released(with_it):
        key = jax.random.key(int(rng.integers(2**32)))
        noise = 10 * jax.random.normal(key, (_SIZE,))
        return np.asarray(jnp.float32(0.7123) + np.float32(0.0178) * with_it + noise)

    assert support.p_value(released) < 1e-6


@pytest.mark.slow
def test_what_the_program_releases_is_possible_under_both(plan, make_config):
    config = make_config(train__microbatch_size=8)
    assert support.of_step(config, plan, _SIZE) > 1e-3
    assert support.of_moments(plan.queries[0], _SIZE) > 1e-3


def test_what_cannot_be_judged():
    rng = np.random.default_rng(0)
    with pytest.raises(InputError, match=r"0 pairs are equal; allowed: at least 100"):
        support.p_value(lambda with_it: rng.normal(size=1000))
    with pytest.raises(InputError, match="3 values were released without an example"):
        support.p_value(lambda with_it: np.zeros(3 + with_it))
