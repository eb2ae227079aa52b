"""A model of a config: a network that also learns variances."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpdm_jax.conditions import of_classes
from dpdm_jax.configs import digits
from dpdm_jax.diffusion import from_config
from dpdm_jax.diffusion.denoiser import Denoiser, Prediction
from dpdm_jax.models.model import build_model
from dpdm_jax.padding import blank_examples
from dpdm_jax.sampling.generate import make_generator

SHAPE = (4, 4, 2)


def config_of(*, learned_range):
    config = digits.network_alone()
    config.network.name = "mlp"
    config.network.mlp.update({"base_width": 4, "num_blocks": 1, "hidden_width": 12})
    config.network.low_frequencies.update({"count": 2, "hidden_width": 4})
    config.diffusion.parameterization = "ddpm"
    config.diffusion.noise_levels = "time_mixture"
    config.diffusion.ddpm.learned_range = learned_range
    config.diffusion.noise_multiplicity = 4
    config.sampler.update({"preset": "", "num_steps": 3, "grid": "ddpm"})
    config.sampler.ddpm.respacing = "3"
    return config


def awake(model):
    rng = np.random.default_rng(2)
    return jax.tree.map(
        lambda leaf: 0.3 * rng.standard_normal(leaf.shape, np.float32), model.shapes
    )


@pytest.fixture(scope="module")
def config():
    return config_of(learned_range=True)


@pytest.fixture(scope="module")
def model(config):
    return build_model(config, SHAPE, of_classes(3))


@pytest.fixture(scope="module")
def params(model):
    return awake(model)


@pytest.fixture(scope="module")
def example(model):
    example = jax.tree.map(lambda x: x[0], blank_examples(model.example, 1))
    image = np.arange(32, dtype=np.uint8).reshape(SHAPE)
    return example | {"image": image}


def test_denoiser_reads_the_first_half_of_what_the_network_says(model, params):
    x = jax.random.normal(jax.random.key(0), (3, *SHAPE))
    sigma, label = jnp.array([0.1, 1.0, 10.0]), jnp.arange(3)
    predicted = jax.jit(model.denoise.predict)(params, x, sigma, label)
    out = jax.jit(model.network.apply)(
        params,
        model.parameterization.c_in(sigma)[:, None, None, None] * x,
        model.parameterization.c_noise(sigma),
        label,
    )
    assert out.shape == (3, *SHAPE[:2], 4)
    noise = (x - predicted.clean) / sigma[:, None, None, None]
    np.testing.assert_allclose(noise, out[..., :2], atol=1e-4)
    np.testing.assert_allclose(predicted.more, out[..., 2:], atol=1e-6)
    np.testing.assert_array_equal(
        jax.jit(model.denoise)(params, x, sigma, label), predicted.clean
    )


@pytest.mark.slow
def test_loss_is_that_of_the_noise_and_of_the_variance(config, model, params, example):
    key = jax.random.key(3)
    both = jax.value_and_grad(model.loss())(params, example, key)
    assert both[0].shape == ()
    alone = dataclasses.replace(model, bound=None)
    noise = jax.value_and_grad(alone.loss())(params, example, key)
    assert both[0] > noise[0]
    of_both, of_noise = (
        np.asarray(grads["network"]["output"]["bias"]).reshape(4, 4, 4)
        for _, grads in (both, noise)
    )
    # The bound does not reach the predicted noise, nor the error of that the variance.
    np.testing.assert_allclose(of_both[..., :2], of_noise[..., :2], rtol=1e-5)
    assert np.all(of_noise[..., 2:] == 0)
    assert np.all(of_both[..., 2:] != 0)


@pytest.mark.slow
def test_draws_in_parts_have_the_same_loss(config, model, params, example):
    in_parts = config.copy_and_resolve_references()
    in_parts.diffusion.draws_at_once = 2
    one, other = (
        jax.jit(each.loss())(params, example, jax.random.key(3))
        for each in (model, build_model(in_parts, SHAPE, of_classes(3)))
    )
    assert one != 0
    np.testing.assert_allclose(one, other, rtol=1e-5)


def images_of(model, params, config, guidance):
    generate = make_generator(
        model,
        from_config.sampler(from_config.with_preset(config)),
        guidance_scale=guidance,
        batch_size=3,
    )
    labels = np.arange(3, dtype=np.int32)
    return generate(jax.random.key(2), params, np.arange(3), labels)


@pytest.mark.slow
@pytest.mark.parametrize("guidance", [0.0, 1.5])
@pytest.mark.parametrize("name", ["ddim", "heun", "ddim_eta", "ancestral"])
def test_samplers_of_fixed_noise_do_not_see_the_variance(
    config, model, params, name, guidance
):
    """They sample as from the network without its further channels."""
    config = config.copy_and_resolve_references()
    config.sampler.name = name
    half = Denoiser(lambda *given: Prediction(model.denoise(*given)))
    np.testing.assert_array_equal(
        images_of(model, params, config, guidance),
        images_of(dataclasses.replace(model, denoise=half), params, config, guidance),
    )


@pytest.mark.slow
@pytest.mark.parametrize("guidance", [0.0, 1.5])
def test_ancestral_sampler_draws_with_the_learned_variance(
    config, model, params, guidance
):
    def with_v(v):
        """The model whose v is a number; None as it is."""

        def predict(*given):
            found = model.denoise.predict(*given)
            if v is None:
                return found
            return found._replace(more=jnp.full_like(found.more, v))

        return dataclasses.replace(model, denoise=Denoiser(predict))

    images = {}
    config = config.copy_and_resolve_references()
    config.sampler.name = "ancestral"
    for variance, v in (
        ("fixed_small", None),
        ("fixed_large", None),
        ("learned", None),
        ("learned", -1.0),
        ("learned", 1.0),
    ):
        config.sampler.ancestral.variance = variance
        images[variance, v] = images_of(with_v(v), params, config, guidance)
    for fixed, v in (("fixed_small", -1.0), ("fixed_large", 1.0)):
        np.testing.assert_allclose(
            images["learned", v], images[fixed, None], rtol=0, atol=1e-4
        )
        difference = np.abs(images["learned", None] - images[fixed, None])
        assert difference.max() > 1e-2


@pytest.mark.slow
@pytest.mark.parametrize("patch_size", [1, 2])
def test_dropout_is_of_the_training_loss_alone(example, patch_size):
    models = []
    config = config_of(learned_range=True)
    config.network.update({"name": "adm", "patch_size": patch_size})
    config.network.adm.update({"base_channels": 32, "channel_multipliers": (1,)})
    config.network.adm.update({"num_res_blocks": 1, "head_channels": 32})
    config.network.adm.attention_factors = ()
    for rate in (0.0, 0.5):
        config.network.adm.dropout = rate
        models.append(build_model(config, SHAPE, of_classes(3)))
    params, key = awake(models[0]), jax.random.key(3)
    losses = [
        [jax.jit(model.loss())(params, example, k) for k in (key, key)]
        for model in models
    ]
    assert losses[0][0] == losses[0][1] != losses[1][0] == losses[1][1]
    x, sigma, label = jnp.ones((3, *SHAPE)), jnp.ones(3), jnp.arange(3)
    np.testing.assert_array_equal(
        *(jax.jit(model.denoise)(params, x, sigma, label) for model in models)
    )


def test_plain_ddpm_learns_to_denoise_alone():
    model = build_model(config_of(learned_range=False), SHAPE, of_classes(3))
    assert model.bound is None
    x = jnp.zeros((3, *SHAPE))
    shapes = jax.eval_shape(
        model.denoise.predict, model.shapes, x, jnp.ones(3), jnp.arange(3)
    )
    assert shapes.clean.shape == x.shape
    assert shapes.more is None
