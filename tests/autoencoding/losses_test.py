import jax
import jax.numpy as jnp
import numpy as np

from dpdm_jax.autoencoding import losses


def test_errors_of_pixels():
    x, y = jnp.array([1.0, -0.5]), jnp.array([0.0, 0.5])
    assert losses.pixel_error(x, y, "l1").tolist() == [1.0, 1.0]
    assert losses.pixel_error(x, 2 * y, "l2").tolist() == [1.0, 2.25]


def test_the_hinge_is_flat_where_the_discriminator_is_sure():
    assert losses.hinge(jnp.full(3, 1.5), jnp.full(3, -1.0)) == 0
    assert losses.hinge(jnp.array([0.0]), jnp.array([-1.0])) == 0.5
    assert losses.hinge(jnp.array([1.0, 0.0]), jnp.array([2.0])) == 0.5 * (0.5 + 3.0)
    assert jax.grad(lambda x: losses.hinge(x, x))(2.0) == 0.5


def test_the_balance_is_the_ratio_of_norms_within_its_limits():
    a, b = jnp.array([[3.0], [4.0]]), jnp.array([[0.0], [2.0]])
    np.testing.assert_allclose(losses.balance(a, b), 5.0 / (2.0 + 1e-4), rtol=1e-6)
    assert losses.balance(a, 0.0 * b) == 10_000
    assert losses.balance(0.0 * a, b) == 0
