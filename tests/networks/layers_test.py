import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy import stats

from dpdm_jax.errors import InputError
from dpdm_jax.networks import embeddings, layers

F32 = {"dtype": jnp.float32, "rngs": nnx.Rngs(0)}


def random(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def test_downsample_is_the_mean_of_2x2_pixels():
    x = random(2, 4, 6, 3)
    expected = (
        x[:, ::2, ::2] + x[:, 1::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, 1::2]
    ) / 4
    np.testing.assert_allclose(layers.downsample(x), expected, atol=1e-6)


def test_dropout_drops_at_its_rate_and_keeps_the_mean():
    x = 1.0 + np.abs(random(40, 10, 10, 5))
    out = layers.dropout(jnp.asarray(x), 0.3, jax.random.split(jax.random.key(0), 40))
    dropped = np.asarray(out) == 0
    # Rejects a right program with probability 1e-6.
    low, high = stats.binom.interval(1 - 1e-6, dropped.size, 0.3)
    assert low <= dropped.sum() <= high
    np.testing.assert_allclose(out[~dropped], x[~dropped] / 0.7, rtol=1e-6)
    rough = layers.dropout(
        jnp.asarray(x, jnp.bfloat16), 0.3, jax.random.split(jax.random.key(0), 40)
    )
    assert rough.dtype == jnp.bfloat16
    np.testing.assert_array_equal(rough == 0, dropped)


def test_dropout_of_an_image_follows_from_its_own_key():
    x = jnp.ones((3, 4, 4, 2))
    keys = jax.random.split(jax.random.key(0), 3)
    whole = layers.dropout(x, 0.5, keys)
    np.testing.assert_array_equal(layers.dropout(x[1:2], 0.5, keys[1:2]), whole[1:2])
    assert len(np.unique(np.asarray(whole).reshape(3, -1), axis=0)) == 3


def test_upsample_repeats_pixels():
    x = random(2, 3, 5, 4)
    np.testing.assert_array_equal(
        layers.upsample(x), x.repeat(2, axis=1).repeat(2, axis=2)
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("channels", "groups"), [(4, 1), (32, 8), (64, 16), (96, 24), (128, 32), (256, 32)]
)
def test_group_norm_normalises_groups_of_channels(channels, groups):
    norm = layers.group_norm(channels, **F32)
    assert norm.num_groups == groups
    norm.scale[...] = jnp.ones(channels)
    # A mean far above the deviation, where E[x^2] - E[x]^2 would lose all digits.
    x = 1000 + random(2, 4, 4, channels)
    grouped = x.astype(np.float64).reshape(2, 16, groups, -1)
    mean = grouped.mean(axis=(1, 3), keepdims=True)
    variance = grouped.var(axis=(1, 3), keepdims=True)
    expected = (grouped - mean) / np.sqrt(variance + 1e-6)
    np.testing.assert_allclose(norm(x), expected.reshape(x.shape), atol=2e-3)


@pytest.mark.parametrize("channels", [2, 18, 144])
def test_group_norm_refuses_widths_that_groups_do_not_divide(channels):
    with pytest.raises(InputError, match=f"layer of {channels} channels; allowed"):
        layers.group_norm(channels, **F32)


def test_group_norm_of_a_given_number_of_groups():
    norm = layers.group_norm(96, num_groups=32, epsilon=1e-5, **F32)
    assert (norm.num_groups, norm.epsilon) == (32, 1e-5)
    with pytest.raises(InputError, match="of 80 channels; allowed: multiples of 32"):
        layers.group_norm(80, num_groups=32, **F32)


@pytest.mark.slow
def test_modulation_scales_and_shifts_what_is_normalised():
    norm = layers.group_norm(8, **F32)
    norm.scale[...], norm.bias[...] = random(8), random(8) + 1
    x, gain, shift = random(2, 3, 5, 8), random(2, 8), random(2, 8) - 1
    expected = norm(x) * (1 + gain[:, None, None]) + shift[:, None, None]
    np.testing.assert_allclose(
        norm.then_silu(x, (gain, shift)), jax.nn.silu(expected), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("channels", [2, 5, 32])
def test_timestep_embedding_has_cosines_first_and_frequencies_below_1(channels):
    steps = np.array([0, 1, 17, 999])
    half = channels // 2
    angle = steps[:, None] * 10_000.0 ** (-np.arange(half) / half)
    expected = np.concatenate([np.cos(angle), np.sin(angle)], axis=1)
    actual = embeddings.timestep(jnp.asarray(steps), channels)
    assert (actual.shape, actual.dtype) == ((4, channels), jnp.float32)
    np.testing.assert_allclose(actual[:, : 2 * half], expected, atol=1e-4)
    assert not np.any(actual[:, 2 * half :])


def test_positional_embedding_has_sines_first_and_frequencies_from_1_to_1e_minus_4():
    c_noise = np.array([-1.5, 0.0, 999.0], np.float32)
    actual = embeddings.positional(jnp.asarray(c_noise), 32)
    frequency = np.exp(-np.log(10_000) * np.arange(16) / 15)
    angle = c_noise[:, None] * frequency
    expected = np.concatenate([np.sin(angle), np.cos(angle)], axis=1)
    np.testing.assert_allclose(actual, expected, atol=3e-4)  # of 999 in float32


def test_laws_have_the_stated_scale():
    u = jnp.linspace(-1, 1, 9).at[0].set(-0.999).reshape(3, 3)
    bound = np.sqrt(3 * 0.5 / 3)
    np.testing.assert_allclose(layers.fan_average_uniform(0.5)(u), bound * u, rtol=1e-6)
    np.testing.assert_allclose(
        layers.unit_normal(jnp.float32(0.6826895)), 1.0, rtol=1e-5
    )
    window = jnp.ones((3, 3, 4, 8))  # both fans count the window
    np.testing.assert_allclose(
        layers.fan_average_uniform(1.0)(window)[0, 0, 0, 0], np.sqrt(3 / 54), rtol=1e-6
    )


@pytest.mark.slow
def test_attention_is_softmax_over_all_pixels():
    block = layers.AttentionBlock(4, **F32)
    for layer in (block.query, block.key, block.value, block.output):
        layer.kernel[...] = jax.random.normal(jax.random.key(layer.in_features), (4, 4))
    block.norm.scale[...] = jnp.ones(4)
    x = random(2, 3, 3, 4)
    h = np.asarray(block.norm(x)).reshape(2, 9, 4)
    kernel = np.asarray(block.query.kernel[...])  # all four are the same here
    q = h @ kernel
    weights = jax.nn.softmax(q @ q.transpose(0, 2, 1) / 2, axis=-1)
    expected = (x + (weights @ q @ kernel).reshape(x.shape)) / np.sqrt(2)
    np.testing.assert_allclose(block(x), expected, rtol=1e-4, atol=1e-4)
