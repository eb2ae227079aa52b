import jax
import jax.numpy as jnp
import numpy as np
from random_params import random_like
from scipy import integrate

from dpdm_jax.networks.codecs import kl


def test_moments_are_mean_and_logarithm_of_the_variance_clamped():
    moments = np.zeros((1, 1, 1, 4), np.float32)
    moments[..., :] = (3.0, -2.0, -100.0, 21.0)
    law = kl.posterior(moments)
    assert law.mean.ravel().tolist() == [3.0, -2.0]
    assert law.log_variance.ravel().tolist() == [-30.0, 20.0]
    np.testing.assert_allclose(law.std.ravel(), np.exp([-15.0, 10.0]), rtol=1e-6)
    sample = law.sample(np.ones((1, 1, 1, 2), np.float32))
    np.testing.assert_allclose(sample, law.mean + law.std)


def test_divergence_is_that_from_the_standard_normal_law():
    means, log_variances = [0.5, -1.0], [0.3, -0.7]
    law = kl.posterior(jnp.array([[[means + log_variances]]]))

    def integrand(x, mean, variance):
        log_ratio = -((x - mean) ** 2) / (2 * variance) - np.log(variance) / 2
        density = np.exp(-((x - mean) ** 2) / (2 * variance))
        return density / np.sqrt(2 * np.pi * variance) * (log_ratio + x**2 / 2)

    expected = sum(
        integrate.quad(integrand, -20, 20, args=(m, np.exp(v)))[0]
        for m, v in zip(means, log_variances, strict=True)
    )
    np.testing.assert_allclose(law.divergence(), [expected], rtol=1e-5)


def test_latents_are_drawn_by_the_key():
    settings = kl.Settings(base_channels=32, num_res_blocks=1, attention_factors=())
    codec = kl.KLCodec(settings, (2, 2, 1))
    params = codec.init(jax.random.key(0))
    image = np.full((2, 2, 1), 100, np.uint8)
    encode = jax.jit(lambda key: codec.encode(params, image, key))
    keys = jax.random.split(jax.random.key(1), 2)
    np.testing.assert_array_equal(encode(keys[0]), encode(keys[0]))
    assert np.abs(encode(keys[0]) - encode(keys[1])).min() > 1e-3


def test_latents_are_rescaled_by_the_weights():
    settings = kl.Settings(base_channels=32, num_res_blocks=1, attention_factors=())
    codec = kl.KLCodec(settings, (4, 4, 1))
    params = random_like(jax.eval_shape(codec.init, jax.random.key(0)), 0.2)
    larger = codec.rescaled(params, 4.0)
    images = np.linspace(-1, 1, 32, dtype=np.float32).reshape(2, 4, 4, 1)
    before, after = (codec.posterior(p, images) for p in (params, larger))
    np.testing.assert_allclose(after.mean, 4.0 * before.mean, rtol=1e-5)
    np.testing.assert_allclose(after.std, 4.0 * before.std, rtol=1e-5)
    latents = before.sample(np.ones_like(before.mean))
    np.testing.assert_allclose(
        codec.decode(larger, 4.0 * latents),
        codec.decode(params, latents),
        rtol=1e-4,
        atol=1e-5,
    )
