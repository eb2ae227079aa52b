"""Networks that read captions, and those that do not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpdm_jax import command_line
from dpdm_jax.conditions import Tokens, tokenizers
from dpdm_jax.errors import InputError
from dpdm_jax.networks import build_network, embeddings

LENGTH = 24
ngrams = jax.jit(embeddings.ngrams)
SHAPE = (4, 4, 1)


def tokens_of(*texts):
    return jnp.asarray(tokenizers.of_bytes(LENGTH)(texts).tokens)


def network_of(name, **fields):
    config = command_line.load_config("configs/digits.py").network
    config.name = name
    if name in config and name not in ("ncsnpp", "adm"):
        config[name].update({"base_width": 8, "hidden_width": 12, "num_blocks": 1})
    config.update(fields)
    return build_network(config, SHAPE, Tokens(LENGTH, 257, "bytes"))


def moved(params):
    """Away from the nearly zero start."""
    return jax.tree.map(
        lambda p: p + 0.3 * jax.random.normal(jax.random.key(p.size), p.shape), params
    )


@pytest.mark.parametrize("name", ["mlp", "mixer", "transformer"])
def test_captions_matter_and_examples_are_independent(name):
    network = network_of(name)
    params = moved(network.init(jax.random.key(0)))
    text = params["blocks"]["block_0"]
    text = text.get("text") or text.get("mlp", text.get("across_pixels"))["text"]
    assert text["rows"]["embedding"].shape[0] == 512
    x = jax.random.normal(jax.random.key(0), (1, *SHAPE)).repeat(4, axis=0)
    told = tokens_of("a cat", "a dog", "", "a cat")
    apply = jax.jit(network.apply)
    out = apply(params, x, jnp.zeros(4), told)
    assert out.shape == x.shape
    np.testing.assert_allclose(out[0], out[3], atol=1e-5)
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert float(jnp.abs(out[i] - out[j]).max()) > 1e-3
    alone = apply(params, x[1:2], jnp.zeros(1), told[1:2])
    np.testing.assert_allclose(alone[0], out[1], atol=1e-4)


def test_the_perceptron_on_low_frequencies_reads_captions_too():
    network = network_of("mlp", low_frequencies={"count": 2})
    params = network.shapes
    block = params["low_frequencies"]["blocks"]["block_0"]
    assert "text" in block
    assert "label" not in block


@pytest.mark.parametrize("name", ["ncsnpp", "adm"])
def test_others_refuse_them(name):
    with pytest.raises(InputError, match=f"network '{name}' reads class labels"):
        network_of(name)


def test_sequences_of_tokens():
    found = np.asarray(ngrams(tokens_of("cat", "cat", "act", "", "a cat", "tac cat")))
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), [1, 1, 1, 0, 1, 1])
    np.testing.assert_array_equal(found[0], found[1])
    # Three single bytes in common of six sequences.
    assert 0.3 < found[0] @ found[2] < 0.7
    assert found[0] @ found[4] > found[0] @ found[2]
    # The 6 sequences of "cat" and no other of 512 features.
    assert np.count_nonzero(found[0]) == 6


def test_padding_is_in_no_sequence():
    few, many = (
        ngrams(jnp.asarray(tokenizers.of_bytes(length)(["a cat"]).tokens))
        for length in (5, 40)
    )
    np.testing.assert_array_equal(few, many)
    one = jnp.zeros((1, 1), jnp.int32).at[0, 0].set(7)
    assert np.count_nonzero(ngrams(one)) == 1


def test_unrelated_texts_are_nearly_orthogonal():
    rng = np.random.default_rng(0)
    tokens = jnp.asarray(rng.integers(1, 30_000, (60, LENGTH)), jnp.int32)
    found = np.asarray(ngrams(tokens))
    products = (found @ found.T)[~np.eye(60, dtype=bool)]
    # Of 60 * 59 / 2 random pairs in 512 dimensions: standard deviation 1 / sqrt(512).
    assert abs(products.mean()) < 0.01
    assert 0.03 < products.std() < 0.06
