import jax
import numpy as np
import pytest

from dpdm_jax.conditions import of_classes
from dpdm_jax.configs import digits
from dpdm_jax.diffusion import discretizations, samplers
from dpdm_jax.errors import InputError
from dpdm_jax.models.model import build_model
from dpdm_jax.sampling.generate import make_generator


@pytest.fixture(scope="module")
def model_and_params():
    config = digits.network_alone()
    config.network.mlp.hidden_width = 16
    model = build_model(config, (8, 8, 1), of_classes(10))
    params = model.init(jax.random.key(1))
    # Away from its nearly zero start, so that labels and noise levels matter.
    params = jax.tree.map(
        lambda p: p + 0.2 * jax.random.normal(jax.random.key(p.size), p.shape), params
    )
    return model, params


def stochastic_sampler():
    return samplers.DDIM(discretizations.edm_grid(6), stochastic=True)


@pytest.mark.slow
def test_images_do_not_depend_on_batch_size_or_order(model_and_params):
    model, params = model_and_params
    indices, labels = np.arange(11), np.arange(11) % 10
    key, made = jax.random.key(3), {}
    for size in (1, 4, 11):
        generate = make_generator(
            model,
            stochastic_sampler(),
            guidance_scale=0.5,
            batch_size=size,
        )
        made[size] = generate(key, params, indices, labels)
        assert made[size].shape == (11, 8, 8, 1)
        part = generate(key, params, indices[[7, 2]], labels[[7, 2]])
        np.testing.assert_allclose(part, made[size][[7, 2]], rtol=0, atol=1e-4)
    np.testing.assert_allclose(made[1], made[11], rtol=0, atol=1e-4)
    np.testing.assert_allclose(made[4], made[11], rtol=0, atol=1e-4)


@pytest.mark.slow
def test_indices_labels_and_keys_change_images(model_and_params):
    model, params = model_and_params

    def make(seed, index, label):
        generate = make_generator(
            model,
            stochastic_sampler(),
            guidance_scale=0.0,
            batch_size=1,
        )
        return generate(
            jax.random.key(seed), params, np.array([index]), np.array([label])
        )

    base = make(0, 0, 0)
    np.testing.assert_array_equal(base, make(0, 0, 0))
    for other in (make(1, 0, 0), make(0, 1, 0), make(0, 0, 1)):
        assert np.abs(base - other).max() > 1e-3


def test_no_images(model_and_params):
    model, params = model_and_params
    generate = make_generator(
        model,
        stochastic_sampler(),
        guidance_scale=0.0,
        batch_size=4,
    )
    none = np.zeros(0, int)
    assert generate(jax.random.key(0), params, none, none).shape == (0, 8, 8, 1)


def test_guidance_needs_labels():
    config = digits.network_alone()
    model = build_model(config, (8, 8, 1), of_classes(0))
    with pytest.raises(InputError, match=r"sampler\.guidance"):
        make_generator(
            model,
            stochastic_sampler(),
            guidance_scale=1.0,
            batch_size=4,
        )
