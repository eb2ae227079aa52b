import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpdm_jax.diffusion.denoiser import Denoiser, Prediction, make_denoiser
from dpdm_jax.diffusion.guidance import guide
from dpdm_jax.diffusion.parameterizations import DDPM
from dpdm_jax.diffusion.schedules import Settings

NULL = 2
X = jax.random.normal(jax.random.key(0), (3, 2, 2, 1))
SIGMA = jnp.array([0.1, 1.0, 10.0])
LABEL = jnp.array([0, 1, 0])


def predict(params, x, sigma, label):
    scale = params[label] / (1.0 + sigma)
    more = label[:, None, None, None] + x
    return Prediction(scale[:, None, None, None] * jnp.cos(x), more)


denoise = Denoiser(predict)
PARAMS = jnp.array([1.0, -3.0, 0.5])


@pytest.mark.parametrize("scale", [0.25, 1.0, 7.0])
def test_guidance_extrapolates_from_the_unconditional_prediction(scale):
    guided = guide(denoise, scale, NULL)(PARAMS, X, SIGMA, LABEL)
    conditional = denoise(PARAMS, X, SIGMA, LABEL)
    unconditional = denoise(PARAMS, X, SIGMA, jnp.full((3,), NULL))
    expected = (1 + scale) * conditional - scale * unconditional
    np.testing.assert_allclose(guided, expected, rtol=1e-5, atol=1e-6)
    assert not np.allclose(guided, conditional)


def test_guidance_of_ddpm_is_that_of_the_predicted_noise():
    def network(params, x, step, label):
        return params[label][:, None, None, None] * jnp.cos(x)

    def guided_network(params, x, step, label):
        null = jnp.full_like(label, NULL)
        conditional = network(params, x, step, label)
        unconditional = network(params, x, step, null)
        return unconditional + 2.5 * (conditional - unconditional)

    guided = guide(make_denoiser(network, DDPM(Settings())), 1.5, NULL)
    expected = make_denoiser(guided_network, DDPM(Settings()))
    np.testing.assert_allclose(
        guided(PARAMS, X, SIGMA, LABEL), expected(PARAMS, X, SIGMA, LABEL), rtol=1e-4
    )


def test_only_clean_images_are_guided():
    guided = guide(denoise, 2.0, NULL).predict(PARAMS, X, SIGMA, LABEL)
    expected = denoise.predict(PARAMS, X, SIGMA, LABEL)
    np.testing.assert_array_equal(guided.more, expected.more)
    assert not np.allclose(guided.clean, expected.clean)


def test_guidance_hands_on_the_keys_of_training():
    seen = []

    def spy(params, x, sigma, label, *keys):
        seen.extend(keys)
        return predict(params, x, sigma, label)

    keys = jax.random.split(jax.random.key(1), 3)
    guide(Denoiser(spy), 1.0, NULL).predict(PARAMS, X, SIGMA, LABEL, keys)
    assert np.all(seen[0] == jnp.concatenate([keys, keys]))


def test_guidance_of_the_null_label_changes_nothing():
    null = jnp.full((3,), NULL)
    guided = guide(denoise, 2.0, NULL)(PARAMS, X, SIGMA, null)
    np.testing.assert_allclose(guided, denoise(PARAMS, X, SIGMA, null), rtol=1e-5)


@pytest.mark.parametrize("null_label", [NULL, None])
def test_no_guidance_is_the_denoiser_itself(null_label):
    assert guide(denoise, 0.0, null_label) is denoise


def test_guidance_calls_the_network_once():
    calls = []

    def spy(params, x, sigma, label):
        calls.append((sigma, label))
        return predict(params, x, sigma, label)

    guide(Denoiser(spy), 1.0, NULL)(PARAMS, X, SIGMA, LABEL)
    ((sigma, label),) = calls
    np.testing.assert_array_equal(sigma, jnp.tile(SIGMA, 2))
    np.testing.assert_array_equal(label, [0, 1, 0, NULL, NULL, NULL])


@pytest.mark.parametrize(
    ("scale", "null_label", "message"),
    [
        (-0.1, NULL, "scale is -0.1; allowed: finite and >= 0"),
        (float("nan"), NULL, "scale is nan; allowed: finite and >= 0"),
        (1.0, None, "scale is 1.0, but the model has no labels; allowed: 0"),
    ],
)
def test_impossible_guidance_is_refused(scale, null_label, message):
    with pytest.raises(ValueError, match=message):
        guide(denoise, scale, null_label)
