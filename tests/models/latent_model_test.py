"""Latent diffusion as a config has it: an autoencoder, a U-Net, loss and samples."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import safetensors.numpy
from float_sums import clipped_grad
from jax.extend.core import jaxprs_in_params
from official_files import officially
from random_params import random_like

from dpdm_jax import rooms, settings
from dpdm_jax.conditions import Tokens, of_classes
from dpdm_jax.configs import digits
from dpdm_jax.devices import data_mesh
from dpdm_jax.diffusion import from_config
from dpdm_jax.diffusion.denoiser import Denoiser
from dpdm_jax.errors import InputError
from dpdm_jax.images import pixels
from dpdm_jax.initial import read_initial
from dpdm_jax.interop import autoencoder_names, name_maps
from dpdm_jax.models.identity import named_leaves
from dpdm_jax.models.model import build_model
from dpdm_jax.padding import blank_examples
from dpdm_jax.sampling.generate import make_generator, sampling_program

SHAPE, LATENT = (8, 8, 1), (4, 4, 2)
CAPTIONS = Tokens(length=3, vocabulary=7)
TABLE, CONTEXT = (7, 5), (3, 5)  # of tokens, and what captions become
CLIP_NORM = 0.05


@pytest.fixture(scope="module")
def config():
    config = digits.network_alone()
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
        "network.text_transformer.depth": 1,
        "network.text_transformer.num_heads": 2,
        "network.text_transformer.head_channels": 4,
        "network.text_transformer.positions": 3,
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


@pytest.fixture(scope="module")
def text_model(config):
    return build_model(config, SHAPE, CAPTIONS)


@pytest.fixture(scope="module")
def text_params(text_model):
    return random_like(text_model.shapes, 0.1)


def some_examples(model, count):
    batch = blank_examples(model.example, count)
    rng = np.random.default_rng(0)
    batch["image"][:] = rng.normal(size=batch["image"].shape)
    batch["condition"][:] = rng.integers(0, 3, batch["condition"].shape)
    return batch


def anew(model):
    """The same model, which makes a context for each draw and at each step."""
    return dataclasses.replace(model, denoise=Denoiser(model.denoise.predict))


def first(batch):
    return jax.tree.map(lambda x: x[0], batch)


def test_the_network_is_trained_on_latents_and_the_codec_is_not(model):
    assert model.network.image_shape == model.latent_shape == LATENT
    trained, fixed = model.split(model.shapes)
    assert trained.keys() == {"network"}
    # Before a single token the queries of cross-attention do nothing, either.
    assert fixed.keys() == {"codec", "network"}
    inert = named_leaves(fixed["network"])
    assert all("cross_attention/" in name or "norm_b/" in name for name in inert)
    assert model.num_trained < model.num_parameters


@pytest.mark.parametrize("trainable", ["all", "lora:2"])
def test_shapes_are_those_of_what_is_drawn(config, trainable):
    with_adapters = config.copy_and_resolve_references()
    with_adapters.train.trainable = trainable
    model = build_model(with_adapters, SHAPE, of_classes(3))
    assert model.shapes == jax.eval_shape(model.init, jax.random.key(0))
    assert (model.num_adapters > 0) == (trainable != "all")


def check_neighbours(clipped_sum, arguments, aux):
    """Another image moves the clipped sum by two clip norms at most; none, by one."""
    trained, batch, keys = arguments
    assert aux.grad_norms[1] > CLIP_NORM
    total, _ = clipped_sum(trained, batch, keys)

    def moved(image):
        images = batch["image"].copy()
        images[1] = image
        other, _ = clipped_sum(trained, batch | {"image": images}, keys)
        return float(optax.global_norm(jax.tree.map(jnp.subtract, other, total)))

    assert 0 < moved(-3.0 * batch["image"][1]) <= 2 * CLIP_NORM * (1 + 1e-5)
    # A gradient that is not finite is left out.
    assert moved(np.nan) == pytest.approx(CLIP_NORM, rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("condition", ["classes", "captions"])
def test_engines_give_the_same_clipped_sum_of_the_network_alone(
    model, params, text_model, text_params, condition
):
    if condition == "captions":
        model, params = text_model, text_params
    batch = some_examples(model, 3)
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
    check_neighbours(compiled, (trained, batch, keys), other)
    assert np.isfinite(aux.values).all()
    np.testing.assert_allclose(other.values, aux.values, rtol=1e-4)
    np.testing.assert_allclose(other.grad_norms, aux.grad_norms, rtol=1e-4)
    found, other = named_leaves(expected), named_leaves(total)
    largest = max(np.abs(leaf).max() for leaf in found.values())
    for name, leaf in found.items():
        np.testing.assert_allclose(
            other[name], leaf, rtol=0, atol=1e-4 * largest, err_msg=name
        )
    if condition == "captions":
        assert fixed.keys() == {"codec"}
        assert any("context/blocks" in name for name in found)
        return
    # One token of context: nothing depends on who asks for it, nor by what key.
    inert = named_leaves(fixed["network"])
    assert {name.split("block_0/")[-1] for name in inert} == {
        "norm_b/scale",
        "norm_b/bias",
        "cross_attention/query/kernel",
        "cross_attention/key/kernel",
    }


def test_the_latent_is_drawn_anew_at_each_visit(model, params):
    example = jax.tree.map(lambda x: x[0], blank_examples(model.stored, 1))
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
        guidance_scale=config.sampler.guidance,
        batch_size=2,
    )
    key = jax.random.key(2)
    images = generate(key, params, np.arange(3), np.arange(3))
    assert images.shape == (3, *SHAPE)
    assert np.isfinite(images).all()
    assert pixels.to_uint8(images).dtype == np.uint8
    # They do not depend on the batch that they are in.
    np.testing.assert_allclose(
        generate(key, params, np.array([2]), np.array([2]))[0], images[2], atol=1e-3
    )


@pytest.mark.slow
@pytest.mark.parametrize("draws_at_once", [0, 1])
def test_draws_share_a_context_and_the_loss_is_the_same(
    text_model, text_params, draws_at_once
):
    draws = dataclasses.replace(text_model.draws, draws_at_once=draws_at_once)
    model = dataclasses.replace(text_model, draws=draws)
    example, key = first(some_examples(model, 1)), jax.random.key(1)
    found = []
    for each in (model, anew(model)):
        compiled = jax.jit(jax.value_and_grad(each.loss()))
        found.append(compiled(text_params, example, key))
    (loss, grads), (other, others) = found
    assert loss > 0
    np.testing.assert_allclose(other, loss, rtol=1e-5)
    grads, others = named_leaves(grads), named_leaves(others)
    largest = max(np.abs(leaf).max() for leaf in grads.values())
    for name, leaf in grads.items():
        np.testing.assert_allclose(
            others[name], leaf, rtol=0, atol=1e-5 * largest, err_msg=name
        )
    assert np.any(grads["network/context/token/embedding"])


def looked_up(function, *arguments):
    """Shapes of what is looked up in the table of tokens; "scan" for a loop's."""
    found = []

    def look(jaxpr, place):
        for equation in jaxpr.eqns:
            is_loop = equation.primitive.name == "scan"
            for inner in jaxprs_in_params(equation.params):
                look(inner, "scan" if is_loop else place)
            shapes = [getattr(v.aval, "shape", ()) for v in equation.invars]
            if equation.primitive.name == "gather" and shapes[0] == TABLE:
                found.append((place, equation.outvars[0].aval.shape))

    look(jax.make_jaxpr(function)(*arguments).jaxpr, "once")
    return found


@pytest.mark.parametrize("draws_at_once", [0, 1])
def test_a_context_is_made_once_an_example(text_model, draws_at_once):
    draws = dataclasses.replace(text_model.draws, draws_at_once=draws_at_once)
    model = dataclasses.replace(text_model, draws=draws)
    arguments = (model.shapes, first(some_examples(model, 1)), jax.random.key(0))
    assert looked_up(model.loss(), *arguments) == [("once", (1, *CONTEXT))]
    place, count = ("scan", 1) if draws_at_once else ("once", 2)
    expected = [(place, (count, *CONTEXT))]
    assert looked_up(anew(model).loss(), *arguments) == expected


@pytest.mark.parametrize("scale", [0.0, 0.5])
def test_a_context_is_made_once_a_batch_of_samples(text_model, config, scale):
    sampler = from_config.sampler(from_config.with_preset(config))
    asked = np.arange(2, dtype=np.int32), np.zeros((2, 3), np.int32)
    found = []
    for model in (text_model, anew(text_model)):
        program = sampling_program(model, sampler, data_mesh(), guidance_scale=scale)
        key = jax.random.key(0)
        found.append(looked_up(program, key, model.shapes, *asked))
    rows = 4 if scale else 2
    assert found[0] == [("once", (rows, *CONTEXT))]
    assert ("scan", (rows, *CONTEXT)) in found[1]


@pytest.mark.slow
def test_samples_are_the_same_with_a_context_made_once(text_model, text_params, config):
    made = []
    for model in (text_model, anew(text_model)):
        generate = make_generator(
            model,
            from_config.sampler(from_config.with_preset(config)),
            guidance_scale=0.5,
            batch_size=2,
        )
        asked = some_examples(text_model, 2)["condition"]
        made.append(generate(jax.random.key(2), text_params, np.arange(2), asked))
    np.testing.assert_array_equal(*made)


@pytest.mark.slow
@pytest.mark.parametrize("condition", ["classes", "captions"])
def test_one_file_has_network_and_autoencoder(
    config, model, params, text_model, text_params, tmp_path, condition
):
    """As CompVis writes them, and as the configs of CelebA-HQ read them."""
    if condition == "captions":
        model, params = text_model, text_params
    network, codec = params["network"], params["codec"]
    of_network = officially(network, name_maps.official_names(network))
    tensors = {
        name if name.startswith("cond_stage") else f"model.diffusion_model.{name}": x
        for name, x in of_network.items()
    }
    of_codec = officially(codec, autoencoder_names.compvis_names(codec))
    tensors |= {f"first_stage_model.{name}": x for name, x in of_codec.items()}
    tensors["scale_factor"] = np.float32(0.5)
    path = tmp_path / "model.safetensors"
    safetensors.numpy.save_file(
        {name: np.array(x, order="C") for name, x in tensors.items()}, path
    )
    changed = config.copy_and_resolve_references()
    changed.initial.weights = changed.codec.weights = str(path)
    changed.initial.public, changed.codec.public = "LAION", "OpenImages"
    changed.initial.label_table = "reuse"
    begun = read_initial(changed, model, model.init(jax.random.key(9)))
    jax.tree.map(np.testing.assert_array_equal, begun.params, params)
    assert (begun.origin.public_data, begun.codec.public_data) == (
        "LAION",
        "OpenImages",
    )


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        (
            name_maps.STEM,
            (32, 4, 3, 3),
            "a network for 4 channels, and what .* has 2; allowed: a codec with 4 lat",
        ),
        (
            name_maps.HEAD,
            (4, 32, 3, 3),
            "says 4 numbers of a pixel, and the config's says 2; allowed: "
            r"diffusion\.ddpm\.learned_range=True, or other weights",
        ),
        (
            name_maps.TOKEN_TABLE,
            (30, 5),
            r"has a table of 30 tokens, and .* has 7; allowed: data\.captions\.vocabul",
        ),
    ],
)
def test_a_file_of_another_codec_output_or_vocabulary(
    config, text_model, text_params, tmp_path, name, shape, message
):
    path = tmp_path / "model.safetensors"
    safetensors.numpy.save_file({name: np.zeros(shape, np.float32)}, path)
    changed = config.copy_and_resolve_references()
    changed.initial.weights, changed.initial.public = str(path), "photographs"
    with pytest.raises(InputError, match=message):
        read_initial(changed, text_model, text_params)
