import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_params import random_like

from dpdm_jax import devices
from dpdm_jax.conditions import of_classes
from dpdm_jax.configs import base, digits
from dpdm_jax.errors import InputError
from dpdm_jax.models import encoding
from dpdm_jax.models.model import build_model
from dpdm_jax.networks.codecs import PixelCodec, kl, vq

SHAPE = (8, 8, 1)
SMALL = {"base_channels": 32, "num_res_blocks": 1, "attention_factors": ()}
# Of ``encode``, where latents are of no views.
NO_VIEWS = (None, None)
KL = kl.KLCodec(kl.Settings(latent_channels=2, scale_factor=0.5, **SMALL), SHAPE)
VQ = vq.VQCodec(vq.Settings(num_codes=5, **SMALL), SHAPE)


def model_of(codec):
    config = digits.network_alone()
    config.network.mlp.hidden_width = 8
    model = build_model(config, SHAPE, of_classes(3))
    return dataclasses.replace(model, codec=codec)


@pytest.mark.parametrize(("codec", "channels"), [(KL, 4), (VQ, 3)])
def test_a_law_is_all_that_a_latent_is_drawn_of(codec, channels):
    params = random_like(jax.eval_shape(codec.init, jax.random.key(0)), 0.1)
    images = np.random.default_rng(0).integers(0, 256, (20, *SHAPE), np.uint8)
    encode = encoding.make_encoder(model_of(codec), devices.data_mesh())
    given = {"image": images, "condition": jnp.arange(20)}
    encoded = encode({**params, "network": {}}, given, *NO_VIEWS)
    assert codec.law_spec.shape == (4, 4, channels)
    assert encoded["image"].shape == (20, 4, 4, channels)
    assert encoded["image"].dtype == codec.law_spec.dtype
    assert encoded["condition"] is given["condition"]
    key = jax.random.key(1)
    drawn = codec.draw(encoded["image"][17], key)
    whole = jax.jit(codec.encode)(params, images[17], key)
    np.testing.assert_allclose(drawn, whole, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_law_follows_from_its_image_to_the_last_bit():
    """Whichever others are encoded beside it, how many, and where it is among them."""
    params = random_like(jax.eval_shape(KL.init, jax.random.key(0)), 0.1)
    images = np.random.default_rng(0).integers(0, 256, (24, *SHAPE), np.uint8)
    encode = encoding.make_encoder(model_of(KL), devices.data_mesh())

    def laws(rows):
        return np.asarray(encode(params, {"image": images[rows]}, *NO_VIEWS)["image"])

    expected = laws(np.arange(24))
    for rows in (np.arange(24)[::-1], np.arange(6), np.array([17, 3])):
        np.testing.assert_array_equal(laws(rows), expected[rows])


@pytest.mark.parametrize(("number", "together"), [(1, 1), (6, 6), (24, 12), (17, 1)])
def test_no_part_of_a_batch_has_a_program_of_its_own(number, together):
    assert encoding._together(number, 16) == together


def test_pixels_are_encoded_by_nothing():
    encode = encoding.make_encoder(model_of(PixelCodec(SHAPE)), devices.data_mesh())
    assert encode is encoding.as_read
    assert encode({}, "examples", *NO_VIEWS) == "examples"


@pytest.mark.parametrize(
    ("visits", "limit", "expected"),
    [(6, 2**30, "off"), (7, 2**30, "memory"), (7, 100, "disk")],
)
def test_auto_goes_by_visits_and_bytes(monkeypatch, visits, limit, expected):
    monkeypatch.setattr(encoding, "_IN_MEMORY", limit)
    config = base.get_config().codec
    config.name = "kl"
    assert encoding.place_of_laws(config, model_of(KL), 6, visits) == expected
    config.cache = "disk"
    assert encoding.place_of_laws(config, model_of(KL), 6, visits) == "disk"
    config.cache = "ram"
    with pytest.raises(InputError, match=r"codec\.cache is .ram.; allowed: auto, mem"):
        encoding.place_of_laws(config, model_of(KL), 6, visits)


def test_laws_of_pixels_are_kept_nowhere():
    config = base.get_config().codec
    assert encoding.place_of_laws(config, model_of(PixelCodec(SHAPE)), 6, 7) == "off"
