"""Latent diffusion as a config has it: an autoencoder, a U-Net, loss and samples."""

import jax
import numpy as np
import pytest
from float_sums import clipped_grad
from random_params import random_like

from dpdm_jax import command_line, rooms, settings
from dpdm_jax.conditions import of_classes
from dpdm_jax.diffusion import from_config
from dpdm_jax.images import pixels
from dpdm_jax.models.identity import named_leaves
from dpdm_jax.models.model import build_model
from dpdm_jax.padding import blank_examples
from dpdm_jax.sampling.generate import make_generator

SHAPE, LATENT = (8, 8, 1), (4, 4, 2)
CLIP_NORM = 0.05


@pytest.fixture(scope="module")
def config():
    config = command_line.load_config("configs/digits.py")
    changes = {
        "codec.name": "kl",
        "codec.kl.base_channels": 32,
        "codec.kl.num_res_blocks": 1,
        "codec.kl.attention_factors": (),
        "codec.kl.latent_channels": 2,
        "codec.kl.scale_factor": 0.5,
        "network.name": "latent_unet",
        "network.latent_unet.base_channels": 32,
        "network.latent_unet.channel_multipliers": (1,),
        "network.latent_unet.num_res_blocks": 1,
        "network.latent_unet.attention_factors": (),
        "network.latent_unet.context_width": 5,
        "network.latent_unet.null_row": True,
        "diffusion.parameterization": "ddpm",
        "diffusion.noise_levels": "time_mixture",
        "diffusion.ddpm.schedule": "ldm",
        "diffusion.ddpm.beta_first": 0.0015,
        "diffusion.ddpm.beta_last": 0.0155,
        "diffusion.noise_multiplicity": 2,
        "sampler.name": "ddim_eta",
        "sampler.grid": "ldm",
        "sampler.num_steps": 4,
        "sampler.ddim_eta.eta": 1.0,
        "sampler.clip_denoised": False,
        "sampler.guidance": 0.5,
    }
    for name, value in changes.items():
        settings.assign(config, name, value)
    rooms.forget_foreign(config, list(changes))
    rooms.check(config)
    return config


@pytest.fixture(scope="module")
def model(config):
    return build_model(config, SHAPE, of_classes(3))


@pytest.fixture(scope="module")
def params(model):
    return random_like(model.shapes, 0.1)


def test_the_network_is_trained_on_latents_and_the_codec_is_not(model):
    assert model.network.image_shape == model.latent_shape == LATENT
    trained, fixed = model.split(model.shapes)
    assert trained.keys() == {"network"}
    # Before a single token the queries of cross-attention do nothing, either.
    assert fixed.keys() == {"codec", "network"}
    inert = named_leaves(fixed["network"])
    assert all("cross_attention/" in name or "norm_b/" in name for name in inert)
    assert model.num_trained < model.num_parameters


@pytest.mark.slow
def test_engines_give_the_same_clipped_sum_of_the_network_alone(model, params):
    batch = blank_examples(model.example, 3)
    rng = np.random.default_rng(0)
    batch["image"][:] = rng.integers(0, 256, batch["image"].shape)
    batch["condition"][:] = [0, 1, 2]
    keys = jax.random.split(jax.random.key(1), 3)
    trained, fixed = model.split(params)
    loss = model.trained_loss()
    results = []
    for engine in ("vmap", "book_keeping"):
        grad_fn = clipped_grad(
            lambda trained, example, key: loss(trained, fixed, example, key),
            l2_clip_norm=CLIP_NORM,
            batch_argnums=(1, 2),
            return_values=True,
            return_grad_norms=True,
            engine=engine,
        )
        options = {"xla_backend_optimization_level": 0}
        compiled = jax.jit(grad_fn, compiler_options=options)
        results.append(compiled(trained, batch, keys))
    (expected, aux), (total, other) = results
    assert expected.keys() == {"network"}
    assert np.isfinite(aux.values).all()
    np.testing.assert_allclose(other.values, aux.values, rtol=1e-4)
    np.testing.assert_allclose(other.grad_norms, aux.grad_norms, rtol=1e-4)
    found, other = named_leaves(expected), named_leaves(total)
    largest = max(np.abs(leaf).max() for leaf in found.values())
    for name, leaf in found.items():
        np.testing.assert_allclose(
            other[name], leaf, rtol=0, atol=1e-4 * largest, err_msg=name
        )
    # One token of context: nothing depends on who asks for it, nor by what key.
    inert = named_leaves(fixed["network"])
    assert {name.split("block_0/")[-1] for name in inert} == {
        "norm_b/scale",
        "norm_b/bias",
        "cross_attention/query/kernel",
        "cross_attention/key/kernel",
    }


def test_the_latent_is_drawn_anew_at_each_visit(model, params):
    example = jax.tree.map(lambda x: x[0], blank_examples(model.example, 1))
    encode = jax.jit(lambda key: model.encoded(params, example, key)["image"])
    keys = jax.random.split(jax.random.key(0), 2)
    first, again, other = encode(keys[0]), encode(keys[0]), encode(keys[1])
    assert first.shape == LATENT
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-3


@pytest.mark.slow
def test_samples_are_images(model, params, config):
    generate = make_generator(
        model,
        from_config.sampler(from_config.with_preset(config)),
        jax.random.key(2),
        guidance_scale=config.sampler.guidance,
        batch_size=2,
    )
    images = generate(params, np.arange(3), np.arange(3))
    assert images.shape == (3, *SHAPE)
    assert np.isfinite(images).all()
    assert pixels.to_uint8(images).dtype == np.uint8
    # They do not depend on the batch that they are in.
    np.testing.assert_allclose(
        generate(params, np.array([2]), np.array([2]))[0], images[2], atol=1e-3
    )
