"""What the codecs of autoencoders share; what they do not is beside each."""

import dataclasses
import math

import jax
import numpy as np
import pytest
from random_params import random_like

from dpdm_jax.configs import base
from dpdm_jax.errors import InputError
from dpdm_jax.networks.codecs import KEPT, build_codec, kl, vq

SHAPE = (4, 4, 3)
KINDS = {"kl": (kl.KLCodec, kl.Settings), "vq": (vq.VQCodec, vq.Settings)}


def tiny(kind="kl", shape=SHAPE, **changes):
    make, settings = KINDS[kind]
    fields = {
        "base_channels": 32,
        "num_res_blocks": 1,
        "inner_channels": 2,
        "latent_channels": 4,
        "scale_factor": 0.5,
    }
    return make(settings(**fields | changes), shape)


def shapes_of(codec):
    return jax.eval_shape(codec.init, jax.random.key(0))


@pytest.fixture(scope="module")
def codec():
    return tiny()


@pytest.fixture(scope="module")
def params(codec):
    return random_like(shapes_of(codec))


@pytest.mark.parametrize(
    ("kind", "shape", "fields", "latent", "count"),
    [
        (
            "kl",
            (32, 32, 3),
            {"channel_multipliers": (1, 2, 3, 5), "attention_factors": (1, 2, 4)},
            (4, 4, 3),
            102_553_535,
        ),
        ("kl", (32, 32, 3), {}, (16, 16, 3), 14_639_807),
        (
            "kl",
            (64, 64, 3),
            {"base_channels": 192, "attention_factors": ()},
            (32, 32, 3),
            29_935_359,
        ),
        (
            "vq",
            (256, 256, 3),
            {"channel_multipliers": (1, 2, 4), "attention_factors": ()},
            (64, 64, 3),
            55_322_782,
        ),
        (
            "kl",
            (256, 256, 3),
            {
                "channel_multipliers": (1, 2, 4, 4),
                "attention_factors": (),
                "inner_channels": 4,
                "latent_channels": 4,
            },
            (32, 32, 4),
            83_653_863,
        ),
    ],
    ids=["mnist", "imagenet_32", "imagenet_64", "vq_f4", "kl_f8"],
)
def test_parameter_count_is_the_official_one(kind, shape, fields, latent, count):
    make, settings = KINDS[kind]
    codec = make(settings(**fields), shape)
    assert codec.latent_shape == latent
    leaves = jax.tree.leaves(shapes_of(codec))
    assert sum(math.prod(leaf.shape) for leaf in leaves) == count


def test_it_is_that_of_pytorch_layers(codec, params):
    official = pytest.importorskip("torch_latents")
    x = 0.1 * jax.random.normal(jax.random.key(0), (2, *SHAPE))
    z = jax.random.normal(jax.random.key(1), (2, 2, 2, 4))
    kept = official.as_torch(params[KEPT])
    x64, z64 = official.as_torch((x, z))
    encoded = official.dense(kept["to_latent"], official.encoder(kept["encoder"], x64))
    decoded = official.decoder(
        kept["decoder"], official.dense(kept["from_latent"], z64)
    )
    actual = jax.jit(lambda p, x: codec.bind(p).encode(x))(params, x)
    np.testing.assert_allclose(actual, encoded, rtol=0, atol=3e-5)
    actual = jax.jit(lambda p, z: codec.bind(p).decode(z))(params, z)
    np.testing.assert_allclose(actual, decoded, rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_latents_are_scaled_for_the_diffusion_alone(kind):
    codec = tiny(kind, num_codes=7) if kind == "vq" else tiny(kind)
    settings = dataclasses.replace(codec.settings, scale_factor=1.0)
    plain = dataclasses.replace(codec, settings=settings)
    params = random_like(shapes_of(codec))
    image = np.arange(48, dtype=np.uint8).reshape(SHAPE)
    key = jax.random.key(3)
    latent = codec.encode(params, image, key)
    assert latent.shape == codec.latent_shape == (2, 2, 4)
    np.testing.assert_allclose(latent, 0.5 * plain.encode(params, image, key))
    np.testing.assert_allclose(
        codec.decode(params, latent[None]),
        plain.decode(params, latent[None] / 0.5),
        atol=1e-6,
    )
    assert codec.identity == f"{kind}, scale_factor=0.5"


def test_a_codec_starts_as_pytorch_layers_do(codec):
    kept = codec.init(jax.random.key(0))[KEPT]
    kernel = kept["decoder"]["middle"]["block_0"]["conv_b"]["kernel"]
    bound = 1 / math.sqrt(9 * 64)
    assert 0.99 * bound < np.abs(kernel).max() <= bound
    # Nothing starts at zero but the shifts of normalisations.
    flat = jax.tree_util.tree_leaves_with_path(kept)
    zero = {
        path[-2].key
        for path, leaf in flat
        if not np.any(leaf) and path[-1].key == "bias"
    }
    assert zero == {"norm", "norm_a", "norm_b"}


def test_a_config_names_the_codec():
    config = base.get_config().codec
    assert build_codec(config, SHAPE).init(jax.random.key(0)) == {}
    config.name = "vq"
    config.vq.update(base_channels=32, num_codes=5)
    codec = build_codec(config, SHAPE)
    assert shapes_of(codec)[KEPT]["codes"]["embedding"].shape == (5, 3)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"base_channels": 33}, "codec.kl.base_channels is 33; allowed: a multiple of"),
        ({"channel_multipliers": ()}, "codec.kl.channel_multipliers is "),
        ({"num_res_blocks": 0}, "codec.kl.num_res_blocks is 0; allowed: an integer"),
        ({"attention_factors": (4,)}, r"attention_factors\[0\] is 4; allowed: 1, 2"),
        ({"inner_channels": 0}, "codec.kl.inner_channels is 0; allowed: an integer"),
        ({"latent_channels": 0}, "codec.kl.latent_channels is 0; allowed: an integer"),
        ({"scale_factor": 0.0}, "codec.kl.scale_factor is 0.0; allowed: a finite numb"),
        ({"shape": (4, 3, 3)}, "4x3 pixels; allowed with 2 codec.kl.channel_multipl"),
        ({"kind": "vq", "num_codes": 0}, "codec.vq.num_codes is 0; allowed: an integ"),
    ],
)
def test_what_does_not_fit_is_refused(fields, message):
    with pytest.raises(InputError, match=message):
        _ = tiny(**fields).latent_shape
