import jax.numpy as jnp
import numpy as np
import pytest

from dpdm_jax.training import ema


@pytest.mark.parametrize(
    ("update", "decay"),
    [(1, 2 / 11), (2, 3 / 12), (4500, 4501 / 4510), (8990, 8991 / 9000), (9000, 0.999)],
)
def test_published_warm_up(update, decay):
    assert float(ema.decay_at(update, 0.999)) == pytest.approx(decay, rel=1e-6)


def test_mnist_runs_never_reach_the_nominal_decay():
    assert float(ema.decay_at(4500, 0.999)) == pytest.approx(0.99800, abs=5e-6)


def test_fine_tuning_of_200_steps_forgets_where_it_began():
    """Without warm-up 0.999^200, 82 %, of the average would be the public weights."""
    left = np.prod([float(ema.decay_at(n, 0.999)) for n in range(1, 201)])
    assert 0 < left < 1e-14


def test_average_is_the_recursion():
    average, rng = {"w": jnp.zeros(3)}, np.random.default_rng(0)
    expected = np.zeros(3)
    for n in range(1, 20):
        params = rng.normal(size=3).astype(np.float32)
        decay = ema.decay_at(n, 0.9)
        average = ema.update_average(average, {"w": jnp.asarray(params)}, decay)
        d = min(0.9, (1 + n) / (10 + n))
        expected = d * expected + (1 - d) * params
    np.testing.assert_allclose(average["w"], expected, rtol=1e-5)
