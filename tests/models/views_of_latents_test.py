"""Views of an image are drawn and encoded ahead of the loss where there is a codec."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_params import random_like

from dpdm_jax import devices
from dpdm_jax.conditions import of_classes
from dpdm_jax.configs import digits
from dpdm_jax.diffusion import losses
from dpdm_jax.errors import InputError
from dpdm_jax.images import pixels
from dpdm_jax.models import encoding, image_keys
from dpdm_jax.models.model import build_model
from dpdm_jax.networks.codecs import KEPT, PixelCodec, kl
from dpdm_jax.training import unit_loss

SHAPE, DRAWS = (6, 6, 1), 4
STEP_KEY = jax.random.key(5)
KL = kl.KLCodec(
    kl.Settings(
        base_channels=32,
        num_res_blocks=1,
        attention_factors=(),
        latent_channels=2,
        scale_factor=0.5,
    ),
    SHAPE,
)


@dataclasses.dataclass(frozen=True)
class Floats(PixelCodec):
    """Pixels again, as numbers in [-1, 1], and encoded ahead of the loss."""

    @property
    def law_spec(self):
        return jax.ShapeDtypeStruct(self.sample_shape, np.float32)

    def law(self, params, images):
        return pixels.to_float(images)

    def draw(self, law, key):
        return law


class Normal(Floats):
    """Latents that are drawn around the pixels."""

    def draw(self, law, key):
        return law + jax.random.normal(key, law.shape)


def model_of(codec, **views):
    config = digits.network_alone()
    config.network.mlp.hidden_width = 8
    config.diffusion.noise_multiplicity = DRAWS
    config.diffusion.views.update(views)
    model = build_model(config, SHAPE, of_classes(3))
    return dataclasses.replace(model, codec=codec)


def images_of(number):
    return np.random.default_rng(0).integers(0, 256, (number, *SHAPE), np.uint8)


def laws_of(model, params, images, positions, **options):
    encode = encoding.make_encoder(model, devices.data_mesh(), **options)
    positions = np.asarray(positions, np.int32)
    return np.asarray(encode(params, {"image": images}, positions, STEP_KEY)["image"])


@pytest.mark.parametrize("count", [0, 2])
@pytest.mark.parametrize("images_per_unit", [1, 2])
def test_they_are_the_views_that_the_loss_draws_of_pixels(count, images_per_unit):
    views = {"crop": 2, "flip": True, "count": count}
    of_floats = model_of(Floats(SHAPE), **views)
    of_pixels = model_of(PixelCodec(SHAPE), **views)
    assert of_floats.encodes_views
    assert not of_pixels.encodes_views
    units, positions = 3, np.array([7, 2, 11])
    images, condition = images_of(units * images_per_unit), jnp.arange(3)
    laws = laws_of(
        of_floats, {KEPT: {}}, images, positions, images_per_unit=images_per_unit
    )
    assert laws.shape[1:] == of_floats.example["image"].shape
    assert laws.shape[:2] == (len(images), count or DRAWS)
    assert len({x.tobytes() for x in laws[0]}) > 1
    params = of_pixels.init(jax.random.key(0))
    keys = image_keys.of_units(STEP_KEY, positions)

    def losses_of(model, images):
        condition_of_images = jnp.repeat(condition, images_per_unit)
        examples = {"image": images, "condition": condition_of_images}
        loss = model.trained_loss()
        if images_per_unit > 1:
            is_padding = np.zeros(len(images), bool)
            examples, _ = unit_loss.as_units(examples, is_padding, images_per_unit)
            loss = unit_loss.of_units(loss)
        return jax.vmap(loss, (None, None, 0, 0))(params, {}, examples, keys)

    expected = losses_of(of_pixels, images)
    np.testing.assert_allclose(losses_of(of_floats, laws), expected, rtol=1e-6)
    others = losses_of(of_floats, laws[:, ::-1, ::-1])
    assert np.all(np.abs(others / expected - 1) > 1e-3)


def test_laws_of_views_follow_from_their_image_and_its_place_in_the_batch():
    """Neighbouring data, whatever is encoded beside it: to the last bit."""
    model = model_of(KL, crop=1, flip=True)
    params = random_like(KL.shapes, 0.1)
    images, positions = images_of(5), np.arange(5)
    laws = laws_of(model, params, images, positions)
    assert laws.shape == (5, DRAWS, *KL.law_spec.shape)
    other = images.copy()
    other[2, 3, 3] ^= 255
    differ = (laws_of(model, params, other, positions) != laws).any(axis=(1, 2, 3, 4))
    assert differ.tolist() == [False, False, True, False, False]
    rows = np.array([4, 0])
    np.testing.assert_array_equal(
        laws_of(model, params, images[rows], positions[rows]), laws[rows]
    )
    key = jax.random.split(
        jax.random.fold_in(jax.random.fold_in(STEP_KEY, 3), 3), DRAWS
    )[1]
    view = model.views.view(key, jnp.asarray(images[3]))
    alone = jax.jit(KL.law)(params, view[None])[0]
    np.testing.assert_allclose(laws[3, 1], alone, rtol=1e-4, atol=1e-5)


def test_each_view_has_a_latent_of_its_own(monkeypatch):
    """Where two views are alike as well; all draws of noise on a view share it."""
    model = model_of(Normal(SHAPE), flip=True, count=2)
    seen, spread = [], losses.for_draws

    def watched(views, num):
        seen.append((views, spread(views, num)))
        return seen[-1][1]

    monkeypatch.setattr(losses, "for_draws", watched)
    example = {"image": jnp.zeros((2, *SHAPE)), "condition": jnp.int32(0)}
    model.loss()(model.init(jax.random.key(0)), example, jax.random.key(1))
    ((latents, of_draws),) = seen
    assert latents.shape == (2, *SHAPE)
    assert abs(np.corrcoef(latents[0].ravel(), latents[1].ravel())[0, 1]) < 0.5
    np.testing.assert_array_equal(of_draws, np.repeat(latents, 2, axis=0))


@pytest.mark.parametrize("cache", ["memory", "disk"])
def test_laws_of_views_are_not_kept(cache):
    config = digits.network_alone()
    config.codec.name = "kl"
    config.codec.cache = cache
    config.codec.kl.update(base_channels=32, attention_factors=())
    build_model(config, SHAPE, of_classes(3))
    config.diffusion.views.flip = True
    message = f"codec.cache is '{cache}', and diffusion.views make .*: auto or off"
    with pytest.raises(InputError, match=message):
        build_model(config, SHAPE, of_classes(3))
    config.codec.cache = "auto"
    model = build_model(config, SHAPE, of_classes(3))
    assert encoding.place_of_laws(config.codec, model, 10, 10**6) == "off"
