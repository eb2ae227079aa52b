import math

import jax
import matplotlib.image
import numpy as np
import pytest
from reading import shape_of

from dpdm_jax import data
from dpdm_jax.audit import membership
from dpdm_jax.models.model import build_model
from dpdm_jax.privacy import guess_bound


def test_curve_of_known_losses():
    found = membership.membership(np.array([1.0, 2.0, 4.0]), np.array([3.0, 5.0]))
    assert found.auc == pytest.approx(5 / 6)  # of the pairs, all but (4, 3)
    assert found.true_positive_rates == pytest.approx((2 / 3, 2 / 3))
    assert (found.training_images, found.held_out_images) == (3, 2)
    assert (found.median_loss, found.median_loss_held_out) == (2.0, 4.0)


@pytest.mark.parametrize(("epsilon", "delta"), [(0.0, 0.0), (1.0, 0.01), (3.0, 1e-5)])
def test_highest_rates_agree_with_the_bound_on_guesses(epsilon, delta):
    rates = np.linspace(0, 1, 100_001)
    right = [(membership.highest_rate(r, epsilon, delta) + 1 - r) / 2 for r in rates]
    assert max(right) == pytest.approx(guess_bound(epsilon, delta), abs=1e-4)
    assert membership.highest_rate(0.0, epsilon, delta) == delta


def test_nothing_is_promised_without_a_guarantee():
    assert membership.highest_rate(0.0, math.inf, 1e-5) == 1


def test_losses_of_images(make_config):
    config = make_config()
    source = data.load_source(config.data, "test")
    model = build_model(config, shape_of(source), source.condition)
    params = model.init(jax.random.key(0))
    losses_of = membership.make_image_losses(model, config.audit)
    indices = np.arange(35)
    found = losses_of(params, source, indices)
    assert found.shape == (35,)
    assert np.isfinite(found).all()
    # An image's loss depends on that image alone, at the same noise.
    backwards = losses_of(params, source, indices[::-1])
    np.testing.assert_allclose(found, backwards[::-1], rtol=1e-5)
    assert np.unique(found).size > 30


def test_picture_is_for_its_owner(tmp_path):
    found = membership.membership(np.arange(5.0), np.arange(1.0, 9.0))
    path = tmp_path / "curve.png"
    membership.draw(path, found, 1.0, 1e-5)
    assert path.stat().st_mode & 0o777 == 0o600
    assert matplotlib.image.imread(path).shape[2] == 4
