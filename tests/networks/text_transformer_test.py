import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_params import awake

from dpdm_jax.errors import InputError
from dpdm_jax.networks.network import functional
from dpdm_jax.networks.text_transformer import Settings, TextTransformer

SETTINGS = Settings(depth=2, num_heads=2, head_channels=5, positions=6)
TOKENS = jnp.array([[3, 0, 7, 7], [1, 2, 0, 0]], jnp.int32)


@pytest.fixture(scope="module")
def transformer():
    return awake(
        lambda rngs: TextTransformer(SETTINGS, 8, 12, dtype=jnp.float32, rngs=rngs)
    )


@pytest.fixture(scope="module")
def apply(transformer):
    params, bind = transformer
    return jax.jit(lambda tokens: bind(params)(tokens))


def test_it_is_that_of_pytorch_layers(transformer, apply):
    official = pytest.importorskip("torch_latents")
    expected = official.text_transformer(official.as_torch(transformer[0]), TOKENS, 2)
    np.testing.assert_allclose(apply(TOKENS), expected, rtol=0, atol=2e-5)


def test_every_token_sees_all_of_its_caption_alone(apply):
    out = apply(TOKENS)
    assert out.shape == (2, 4, 12)
    moved = np.abs(apply(TOKENS.at[0, 3].set(1)) - out).max(axis=-1)
    assert moved[0].min() > 1e-3
    assert moved[1].max() < 1e-6


def test_tables_start_small_and_the_rest_as_pytorch_does(transformer):
    module = functional(
        lambda rngs: TextTransformer(SETTINGS, 800, 64, dtype=jnp.float32, rngs=rngs)
    )
    params = module.init(jax.random.key(0))
    np.testing.assert_allclose(params["token"]["embedding"].std(), 0.02, rtol=0.02)
    block = params["blocks"]["block_0"]
    assert "bias" not in block["attention"]["query"]
    hidden = np.asarray(block["feed_forward"]["hidden"]["kernel"])
    assert 0.99 / 8 < np.abs(hidden).max() <= 1 / 8


def test_remat_keeps_the_output_and_forgets_the_insides(transformer, apply):
    params, _ = transformer
    programs = []
    for remat in (False, True):
        settings = dataclasses.replace(SETTINGS, remat=remat)
        module = functional(
            lambda rngs, settings=settings: TextTransformer(
                settings, 8, 12, dtype=jnp.float32, rngs=rngs
            )
        )

        def embed(params, module=module):
            return module.bind(params)(TOKENS)

        np.testing.assert_allclose(jax.jit(embed)(params), apply(TOKENS), atol=1e-5)
        programs.append(str(jax.make_jaxpr(embed)(params)).count("remat"))
    assert programs == [0, SETTINGS.depth]


@pytest.mark.parametrize("name", ["depth", "num_heads", "head_channels", "positions"])
def test_bad_setting_is_refused(name):
    with pytest.raises(InputError, match=f"text_transformer.{name} is 0; allowed: an"):
        Settings(**{name: 0})
