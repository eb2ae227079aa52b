import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpdm_jax.conditions import Labels
from dpdm_jax.diffusion.denoiser import make_denoiser
from dpdm_jax.diffusion.parameterizations import EDM
from dpdm_jax.diffusion.priors import Classes, Flat, Gaussian, Spectral
from dpdm_jax.images.frequencies import falling_spectrum


@pytest.mark.parametrize("prior", [Gaussian(0.5), Flat(), Flat(-1), Spectral(6, 6)])
def test_constants_keep_nothing_among_the_parameters(prior):
    assert prior.init((6, 6, 1), Labels(2)) == {}
    assert prior.given({}, jnp.zeros(3, jnp.int32)) is prior


@pytest.mark.parametrize("components", [0, 4])
def test_what_is_assumed_of_classes_has_the_shapes_of_what_is_measured(components):
    kept = Classes(6, 6, components=components).init((6, 6, 1), Labels(2))["moments"]
    measured = (components_of if components else moments_of)(np.random.default_rng(0))
    assert {k: v.shape for k, v in kept.items()} == {
        k: v.shape for k, v in measured["moments"].items()
    }


@pytest.mark.slow
def test_spectral_of_a_flat_spectrum_is_edm():
    flat = Spectral(6, 5, sigma_data=0.4, corner=1e6)
    x = jax.random.normal(jax.random.key(0), (3, 6, 5, 2))
    sigma = jnp.array([0.01, 0.5, 20.0])

    def apply(params, scaled, c_noise, label):
        return jnp.tanh(scaled) * c_noise[:, None, None, None]

    labels = jnp.zeros(3, jnp.int32)
    np.testing.assert_allclose(
        make_denoiser(apply, EDM(0.4), flat)({}, x, sigma, labels),
        make_denoiser(apply, EDM(0.4))({}, x, sigma, labels),
        rtol=1e-4,
        atol=1e-5,
    )


@pytest.mark.slow
def test_spectral_without_a_network_is_the_wiener_filter():
    p = Spectral(8, 8, sigma_data=0.7, mean_data=-0.25, corner=2.0)
    stds = 0.7 * falling_spectrum(8, 8, 2.0)
    clean_key, noise_key = jax.random.split(jax.random.key(0))
    n = 20_000
    unit = jax.random.normal(clean_key, (n, 8, 8, 1))
    clean = p.synthesise(stds * unit) - 0.25
    noisy = clean + 0.5 * jax.random.normal(noise_key, clean.shape)
    denoise = make_denoiser(lambda params, x, *_: jnp.zeros_like(x), EDM(), p)
    labels = jnp.zeros(n, jnp.int32)
    error = denoise({}, noisy, jnp.full(n, 0.5), labels) - clean
    # The Wiener filter's error per frequency; 64 n values: within 0.4 % at 3 sigma.
    expected = np.mean(stds**2 * 0.25 / (stds**2 + 0.25))
    np.testing.assert_allclose(np.mean(error**2), expected, rtol=4e-3)


def test_spectral_asks_for_unit_variance_at_every_frequency():
    p = Spectral(8, 8, sigma_data=0.7, corner=2.0)
    stds = 0.7 * falling_spectrum(8, 8, 2.0)
    s = np.full((1, 1, 1, 1), 0.5, np.float32)
    variance = (1 - p.c_skip(s)) ** 2 * stds**2 + (p.c_skip(s) * s) ** 2
    np.testing.assert_allclose(variance / p.c_out(s) ** 2, 1, rtol=1e-4)


def moments_of(rng, rows=3):
    """Means and standard deviations of classes and of all images, of 6x6."""
    mean = rng.standard_normal((rows, 6, 6, 1)).astype(np.float32)
    std = rng.uniform(0.3, 2, (rows, 6, 6, 1)).astype(np.float32)
    return {"moments": {"mean": mean, "std": std}}


@pytest.mark.slow
def test_assumed_moments_are_the_spectrum():
    arguments = (6, 6, 0.4, -0.5, 2.0)
    x = jax.random.normal(jax.random.key(0), (3, 6, 6, 1))
    sigma, labels = jnp.array([0.01, 0.5, 20.0]), jnp.array([0, 1, 2])
    params = {
        "moments": {"mean": jnp.zeros((3, 6, 6, 1)), "std": jnp.ones((3, 6, 6, 1))}
    }

    def apply(params, scaled, c_noise, label):
        return jnp.tanh(scaled) * c_noise[:, None, None, None]

    np.testing.assert_allclose(
        make_denoiser(apply, EDM(0.4), Classes(*arguments))(params, x, sigma, labels),
        make_denoiser(apply, EDM(0.4), Spectral(*arguments))({}, x, sigma, labels),
        rtol=1e-5,
        atol=1e-6,
    )


@pytest.mark.slow
def test_measured_moments_without_a_network_are_the_best_linear_denoiser():
    p = Classes(6, 6, sigma_data=0.7, mean_data=-0.25, corner=2.0)
    params = moments_of(np.random.default_rng(0))
    assumed = 0.7 * falling_spectrum(6, 6, 2.0)
    clean_key, noise_key = jax.random.split(jax.random.key(0))
    n = 10_000
    labels = jnp.arange(n) % 3
    mean, std = (
        np.asarray(params["moments"][k])[labels] * assumed for k in ("mean", "std")
    )
    unit = jax.random.normal(clean_key, (n, 6, 6, 1))
    clean = p.synthesise(mean + std * unit) - 0.25
    np.testing.assert_allclose(
        p.whiten(clean) * assumed, mean + std * unit, rtol=1e-4, atol=1e-4
    )
    noisy = clean + 0.5 * jax.random.normal(noise_key, clean.shape)
    denoise = make_denoiser(lambda params, x, *_: jnp.zeros_like(x), EDM(), p)
    error = denoise(params, noisy, jnp.full(n, 0.5), labels) - clean
    # The posterior's variance per frequency and class; 360,000 values: 3 sigma.
    expected = np.mean(std**2 * 0.25 / (std**2 + 0.25))
    np.testing.assert_allclose(np.mean(error**2), expected, rtol=8e-3)


def components_of(rng, count=4, rows=3):
    """``moments_of`` with principal components beside what is left of the spreads."""
    moments = moments_of(rng, rows)["moments"]
    vectors = np.linalg.qr(rng.standard_normal((rows, 36, count)))[0]
    moments["components"] = vectors.transpose(0, 2, 1).reshape(rows, count, 6, 6, 1)
    moments["component_std"] = rng.uniform(0.5, 3, (rows, count))
    return {"moments": {k: v.astype(np.float32) for k, v in moments.items()}}


@pytest.mark.slow
def test_components_are_taken_apart_and_put_together():
    p = Classes(6, 6, components=4)
    params = components_of(np.random.default_rng(0))
    given = p.given(params, jnp.array([0, 2]))
    x = jax.random.normal(jax.random.key(0), (2, 6, 6, 1))
    parts = given.analyse(x)
    assert parts.shape == (2, 1, 1, 4 + 36)
    np.testing.assert_allclose(given.synthesise(parts), x, atol=1e-5)
    # What is beside the components is orthogonal to them.
    alone = parts.at[..., :4].set(0)
    again = given.analyse(given.synthesise(alone))
    np.testing.assert_allclose(again[..., :4], 0, atol=1e-5)


@pytest.mark.slow
def test_components_of_the_frequencies_own_spreads_are_the_spectrum():
    arguments = (6, 6, 0.4, -0.5, 2.0)
    x = jax.random.normal(jax.random.key(0), (3, 6, 6, 1))
    sigma, labels = jnp.array([0.01, 0.5, 20.0]), jnp.array([0, 1, 2])
    first = np.eye(5, 36, dtype=np.float32).reshape(5, 6, 6, 1)
    spreads = falling_spectrum(6, 6, 2.0).reshape(-1)[:5]
    moments = {
        "mean": np.zeros((3, 6, 6, 1), np.float32),
        "std": np.ones((3, 6, 6, 1), np.float32),
        "components": np.tile(first, (3, 1, 1, 1, 1)),
        "component_std": np.tile(spreads, (3, 1)),
    }

    def apply(params, scaled, c_noise, label):
        return jnp.tanh(scaled) * c_noise[:, None, None, None]

    p = Classes(*arguments, components=5)
    np.testing.assert_allclose(
        make_denoiser(apply, EDM(0.4), p)({"moments": moments}, x, sigma, labels),
        make_denoiser(apply, EDM(0.4), Spectral(*arguments))({}, x, sigma, labels),
        rtol=1e-4,
        atol=1e-5,
    )


@pytest.mark.slow
def test_components_without_a_network_are_the_best_linear_denoiser():
    """Exactly so where what is beside them has one variance."""
    p = Classes(6, 6, sigma_data=0.7, mean_data=-0.25, components=4)
    params = components_of(np.random.default_rng(0))
    moments = params["moments"]
    moments["std"] = np.broadcast_to(0.3 / p.assumed_stds, (3, 6, 6, 1))
    clean_key, rest_key, noise_key = jax.random.split(jax.random.key(0), 3)
    n = 10_000
    labels = jnp.arange(n) % 3
    along = moments["component_std"] * 0.7
    vectors = moments["components"].reshape(3, 4, 36)
    unit = np.asarray(jax.random.normal(rest_key, (n, 36)))
    own = vectors[labels]
    rest = unit - np.einsum("nkd,nk->nd", own, np.einsum("nkd,nd->nk", own, unit))
    drawn = along[labels] * np.asarray(jax.random.normal(clean_key, (n, 4)))
    frequencies = 0.3 * rest + np.einsum("nkd,nk->nd", own, drawn)
    frequencies = frequencies.reshape(n, 6, 6, 1) + (
        moments["mean"][labels] * p.assumed_stds
    )
    clean = p.synthesise(jnp.asarray(frequencies, jnp.float32)) - 0.25
    noisy = clean + 0.5 * jax.random.normal(noise_key, clean.shape)
    denoise = make_denoiser(lambda params, x, *_: jnp.zeros_like(x), EDM(), p)
    error = denoise(params, noisy, jnp.full(n, 0.5), labels) - clean

    def posterior(std):
        return std**2 * 0.25 / (std**2 + 0.25)

    expected = (posterior(along).sum(axis=1).mean() + 32 * posterior(0.3)) / 36
    # 360,000 values: 3 sigma.
    np.testing.assert_allclose(np.mean(error**2), expected, rtol=8e-3)
