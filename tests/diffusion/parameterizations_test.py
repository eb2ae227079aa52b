import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpdm_jax.diffusion.noise_levels import VPTime
from dpdm_jax.diffusion.parameterizations import (
    EDM,
    VE,
    VP,
    ComponentsEDM,
    MomentsEDM,
    SpectralEDM,
    V,
    make_denoiser,
)
from dpdm_jax.frequencies import falling_spectrum

SIGMAS = jnp.geomspace(1e-3, 90.0, 50)
ALL = [EDM(), EDM(sigma_data=0.5), V(), VE(), VP()]


@pytest.mark.parametrize("p", ALL)
def test_training_is_an_unweighted_regression_on_the_network(p):
    product = p.loss_weight(SIGMAS) * p.c_out(SIGMAS) ** 2
    np.testing.assert_allclose(product, 1.0, rtol=1e-5)


@pytest.mark.parametrize(
    ("p", "data_std"), [(EDM(), 3**-0.5), (EDM(0.5), 0.5), (V(), 1.0)]
)
def test_network_input_and_target_have_unit_variance(p, data_std):
    noisy_variance = SIGMAS**2 + data_std**2
    np.testing.assert_allclose(p.c_in(SIGMAS) ** 2 * noisy_variance, 1.0, rtol=1e-5)
    # The target is (x - c_skip (x + sigma e)) / c_out. In float64: 1 - c_skip cancels.
    skip, out, s = (
        np.asarray(a, np.float64) for a in (p.c_skip(SIGMAS), p.c_out(SIGMAS), SIGMAS)
    )
    variance = ((1 - skip) ** 2 * data_std**2 + (skip * s) ** 2) / out**2
    big_enough = s > 0.05
    np.testing.assert_allclose(variance[big_enough], 1.0, rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("p", [*ALL, SpectralEDM(4, 4, mean_data=-0.5)])
def test_denoiser_returns_its_input_where_there_is_no_noise(p):
    x = jax.random.normal(jax.random.key(0), (3, 4, 4, 2))
    denoise = make_denoiser(lambda params, x, c_noise, label: 5.0 * jnp.cos(x), p)
    clean = denoise({}, x, jnp.full((3,), 1e-6), jnp.zeros((3,), jnp.int32))
    np.testing.assert_allclose(clean, x, atol=1e-5)


# What the network has to predict, from the clean image x and the unit noise e.
TARGETS = [
    (VP(), lambda x, e, s: e),
    (VE(), lambda x, e, s: -e),
    (V(), lambda x, e, s: (s * x - e) / np.sqrt(1 + s**2)),
    # (x - c_skip (x + s e)) / c_out with d = 1/2.
    (EDM(0.5), lambda x, e, s: (s * x - 0.25 * e) / (0.5 * np.sqrt(s**2 + 0.25))),
]


@pytest.mark.parametrize(("p", "target"), TARGETS)
def test_a_perfect_network_gives_the_clean_image(p, target):
    rng = np.random.default_rng(0)
    x, e = rng.standard_normal((2, 5, 2, 2, 1), np.float32)
    sigma = np.array([0.01, 0.1, 1.0, 3.0, 20.0], np.float32)
    s = sigma[:, None, None, None]
    denoise = make_denoiser(lambda *args: target(x, e, s), p)
    clean = denoise({}, x + s * e, sigma, np.zeros(5, np.int32))
    np.testing.assert_allclose(clean, x, atol=2e-5)


@pytest.mark.parametrize(
    ("p", "sigma", "c_noise"),
    [
        (EDM(), 1.0, 0.0),
        (EDM(), np.e**2, 0.5),
        (V(), 1.0, 0.5),
        (V(), np.tan(np.pi / 8), 0.25),
        (VE(), 2.0, 0.0),
        (VE(), 2.0 * np.e, 1.0),
        (VP(), np.sqrt(np.expm1(19.9 / 2 + 0.1)), 1000.0),
        (VP(num_timesteps=999), np.sqrt(np.expm1(19.9 / 8 + 0.05)), 499.5),
    ],
)
def test_noise_level_that_the_network_sees(p, sigma, c_noise):
    np.testing.assert_allclose(p.c_noise(jnp.float32(sigma)), c_noise, atol=1e-6)


@pytest.mark.parametrize(("beta_min", "beta_d"), [(0.1, 19.9), (0.5, 4.0)])
def test_vp_time_inverts_its_noise_level(beta_min, beta_d):
    base_draw = jnp.concatenate([jnp.geomspace(1e-5, 0.1, 50), jnp.linspace(0, 1, 50)])
    levels = VPTime(beta_min, beta_d, eps_t=1e-5)
    time = VP(beta_min, beta_d).time(levels.sigma(base_draw))
    expected = 1e-5 + (1 - 1e-5) * np.asarray(base_draw, np.float64)
    np.testing.assert_allclose(time, expected, rtol=2e-6)


def test_denoiser_scales_what_the_network_sees():
    seen = []

    def network(params, x, c_noise, label):
        seen.append((params, x, c_noise, label))
        return jnp.ones_like(x)

    x = jnp.ones((2, 3, 3, 1))
    sigma = jnp.array([1.0, 3.0])
    label = jnp.array([4, 7])
    out = make_denoiser(network, V())("params", x, sigma, label)
    ((params, network_input, c_noise, network_label),) = seen
    assert params == "params"
    np.testing.assert_array_equal(network_label, label)
    np.testing.assert_allclose(
        network_input[:, 0, 0, 0], [2**-0.5, 10**-0.5], rtol=1e-6
    )
    np.testing.assert_allclose(c_noise, [0.5, 2 / np.pi * np.arctan(3)], rtol=1e-6)
    # c_skip + c_out of each image.
    expected = [1 / 2 + 2**-0.5, 1 / 10 + 3 * 10**-0.5]
    np.testing.assert_allclose(out[:, 1, 2, 0], expected, rtol=1e-6)


@pytest.mark.slow
def test_spectral_edm_of_a_flat_spectrum_is_edm():
    flat = SpectralEDM(6, 5, sigma_data=0.4, corner=1e6)
    x = jax.random.normal(jax.random.key(0), (3, 6, 5, 2))
    sigma = jnp.array([0.01, 0.5, 20.0])

    def apply(params, scaled, c_noise, label):
        return jnp.tanh(scaled) * c_noise[:, None, None, None]

    labels = jnp.zeros(3, jnp.int32)
    np.testing.assert_allclose(
        make_denoiser(apply, flat)({}, x, sigma, labels),
        make_denoiser(apply, EDM(0.4))({}, x, sigma, labels),
        rtol=1e-4,
        atol=1e-5,
    )


@pytest.mark.slow
def test_spectral_edm_without_a_network_is_the_wiener_filter():
    p = SpectralEDM(8, 8, sigma_data=0.7, mean_data=-0.25, corner=2.0)
    stds = 0.7 * falling_spectrum(8, 8, 2.0)
    clean_key, noise_key = jax.random.split(jax.random.key(0))
    n = 20_000
    unit = jax.random.normal(clean_key, (n, 8, 8, 1))
    clean = p.synthesise(stds * unit) - 0.25
    noisy = clean + 0.5 * jax.random.normal(noise_key, clean.shape)
    denoise = make_denoiser(lambda params, x, *_: jnp.zeros_like(x), p)
    labels = jnp.zeros(n, jnp.int32)
    error = denoise({}, noisy, jnp.full(n, 0.5), labels) - clean
    # The Wiener filter's error per frequency; 64 n values: within 0.4 % at 3 sigma.
    expected = np.mean(stds**2 * 0.25 / (stds**2 + 0.25))
    np.testing.assert_allclose(np.mean(error**2), expected, rtol=4e-3)


def test_spectral_edm_asks_for_unit_variance_at_every_frequency():
    p = SpectralEDM(8, 8, sigma_data=0.7, corner=2.0)
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
def test_assumed_moments_are_spectral_edm():
    arguments = (6, 6, 0.4, -0.5, 2.0)
    x = jax.random.normal(jax.random.key(0), (3, 6, 6, 1))
    sigma, labels = jnp.array([0.01, 0.5, 20.0]), jnp.array([0, 1, 2])
    params = {
        "moments": {"mean": jnp.zeros((3, 6, 6, 1)), "std": jnp.ones((3, 6, 6, 1))}
    }

    def apply(params, scaled, c_noise, label):
        return jnp.tanh(scaled) * c_noise[:, None, None, None]

    np.testing.assert_allclose(
        make_denoiser(apply, MomentsEDM(*arguments))(params, x, sigma, labels),
        make_denoiser(apply, SpectralEDM(*arguments))({}, x, sigma, labels),
        rtol=1e-5,
        atol=1e-6,
    )


@pytest.mark.slow
def test_measured_moments_without_a_network_are_the_best_linear_denoiser():
    p = MomentsEDM(6, 6, sigma_data=0.7, mean_data=-0.25, corner=2.0)
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
    denoise = make_denoiser(lambda params, x, *_: jnp.zeros_like(x), p)
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
    p = ComponentsEDM(6, 6, components=4)
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
def test_components_of_the_frequencies_own_spreads_are_spectral_edm():
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

    p = ComponentsEDM(*arguments, components=5)
    np.testing.assert_allclose(
        make_denoiser(apply, p)({"moments": moments}, x, sigma, labels),
        make_denoiser(apply, SpectralEDM(*arguments))({}, x, sigma, labels),
        rtol=1e-4,
        atol=1e-5,
    )


@pytest.mark.slow
def test_components_without_a_network_are_the_best_linear_denoiser():
    """Exactly so where what is beside them has one variance."""
    p = ComponentsEDM(6, 6, sigma_data=0.7, mean_data=-0.25, components=4)
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
    denoise = make_denoiser(lambda params, x, *_: jnp.zeros_like(x), p)
    error = denoise(params, noisy, jnp.full(n, 0.5), labels) - clean

    def posterior(std):
        return std**2 * 0.25 / (std**2 + 0.25)

    expected = (posterior(along).sum(axis=1).mean() + 32 * posterior(0.3)) / 36
    # 360,000 values: 3 sigma.
    np.testing.assert_allclose(np.mean(error**2), expected, rtol=8e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("p", "moments"),
    [
        (MomentsEDM(6, 6), moments_of),
        (ComponentsEDM(6, 6, components=4), components_of),
    ],
)
def test_no_gradient_reaches_the_moments(p, moments):
    params = moments(np.random.default_rng(0)) | {"w": jnp.float32(0.5)}

    def apply(params, x, c_noise, label):
        return params["w"] * x

    def loss(params):
        x = jax.random.normal(jax.random.key(0), (3, 6, 6, 1))
        denoise = make_denoiser(apply, p)
        return jnp.sum(denoise(params, x, jnp.ones(3), jnp.arange(3)) ** 2)

    grads = jax.grad(loss)(params)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(grads["moments"]))
    assert grads["w"] != 0
