"""A codec between images and diffusion: shapes, fixed parameters, and nothing else."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpdm_jax.conditions import of_classes
from dpdm_jax.configs import digits
from dpdm_jax.diffusion import from_config
from dpdm_jax.images import pixels
from dpdm_jax.models import model as model_lib
from dpdm_jax.models.model import build_model, signature
from dpdm_jax.networks.codecs import PixelCodec
from dpdm_jax.networks.patches import fold, unfold
from dpdm_jax.padding import blank_examples
from dpdm_jax.sampling.generate import make_generator

SAMPLE, LATENT = (8, 8, 1), (4, 4, 4)


@dataclasses.dataclass(frozen=True)
class Folding:
    """Squares of pixels as channels, times a number that is among the parameters."""

    sample_shape: tuple[int, int, int]
    latent_shape = LATENT
    identity = "folding"

    @property
    def spec(self):
        return PixelCodec(self.sample_shape).spec

    @property
    def shapes(self):
        return {"codec": {"scale": jax.ShapeDtypeStruct((), jnp.float32)}}

    def init(self, key):
        return {"codec": {"scale": jnp.float32(0.5)}}

    @property
    def law_spec(self):
        return jax.ShapeDtypeStruct(LATENT, np.float32)

    def law(self, params, images):
        return params["codec"]["scale"] * fold(pixels.to_float(images), 2)

    def draw(self, law, key):
        return law

    def encode(self, params, image, key):
        return self.draw(self.law(params, image[None])[0], key)

    def decode(self, params, latents):
        return unfold(latents / params["codec"]["scale"], 2)


@pytest.fixture(scope="module")
def config():
    config = digits.network_alone()
    config.network.mlp.hidden_width = 8
    config.diffusion.noise_multiplicity = 2
    config.sampler.num_steps = 2
    return config


@pytest.fixture
def model(config, monkeypatch):
    monkeypatch.setattr(model_lib, "build_codec", lambda _, shape: Folding(shape))
    return build_model(config, SAMPLE, of_classes(10))


def test_network_and_sample_have_shapes_of_their_own(model):
    assert model.network.image_shape == model.latent_shape == LATENT
    assert model.sample_shape == SAMPLE
    assert signature(model)["image_shape"] == [*SAMPLE]
    assert signature(model)["codec"] == "folding"
    assert model.stored["image"] == jax.ShapeDtypeStruct(SAMPLE, np.uint8)
    assert model.example["image"] == jax.ShapeDtypeStruct(LATENT, np.float32)
    assert model.stored["condition"] == model.example["condition"]


def test_loss_and_samples_go_through_the_codec(model, config):
    params = model.init(jax.random.key(0))
    stored = jax.tree.map(lambda x: x[0], blank_examples(model.stored, 1))
    encoded = model.encoded(params, stored, jax.random.key(1))
    np.testing.assert_array_equal(encoded["image"], np.full(LATENT, -0.5))
    example = jax.tree.map(lambda x: x[0], blank_examples(model.example, 1))
    loss = model.loss()
    assert np.isfinite(loss(params, example, jax.random.key(1)))

    generate = make_generator(
        model,
        from_config.sampler(config.sampler),
        guidance_scale=0.0,
        batch_size=3,
    )
    key = jax.random.key(2)
    images = generate(key, params, np.arange(3), np.arange(3))
    assert images.shape == (3, *SAMPLE)
    doubled = params | {"codec": {"scale": jnp.float32(1.0)}}
    np.testing.assert_allclose(
        generate(key, doubled, np.arange(3), np.arange(3)), images / 2
    )


def test_what_a_codec_keeps_is_fixed(model):
    trained, fixed = model.split(model.shapes)
    assert fixed.keys() == {"codec"}
    assert trained.keys() == {"network"}


def test_pixels_keep_nothing(config):
    model = build_model(config, SAMPLE, of_classes(10))
    assert model.latent_shape == model.sample_shape == SAMPLE
    assert model.example == model.stored
    assert not model.split(model.shapes)[1]
    assert "codec" not in signature(model)
