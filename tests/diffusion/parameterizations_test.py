import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpdm_jax.diffusion import losses
from dpdm_jax.diffusion.denoiser import make_denoiser
from dpdm_jax.diffusion.discretizations import step_grid
from dpdm_jax.diffusion.noise_levels import VPTime
from dpdm_jax.diffusion.parameterizations import DDPM, EDM, VE, VP, V
from dpdm_jax.diffusion.priors import Spectral
from dpdm_jax.diffusion.schedules import SCHEDULES, Settings

SIGMAS = jnp.geomspace(1e-3, 90.0, 50)
ALL = [EDM(), EDM(sigma_data=0.5), V(), VE(), VP(), DDPM(Settings())]


@pytest.mark.parametrize("p", ALL)
def test_training_is_an_unweighted_regression_on_the_network(p):
    product = p.loss_weight(SIGMAS) * p.prior.c_out(SIGMAS) ** 2
    np.testing.assert_allclose(product, 1.0, rtol=1e-5)


@pytest.mark.parametrize(
    ("p", "data_std"), [(EDM(), 3**-0.5), (EDM(0.5), 0.5), (V(), 1.0)]
)
def test_network_input_and_target_have_unit_variance(p, data_std):
    noisy_variance = SIGMAS**2 + data_std**2
    np.testing.assert_allclose(p.c_in(SIGMAS) ** 2 * noisy_variance, 1.0, rtol=1e-5)
    # The target is (x - c_skip (x + sigma e)) / c_out. In float64: 1 - c_skip cancels.
    skip, out, s = (
        np.asarray(a, np.float64)
        for a in (p.prior.c_skip(SIGMAS), p.prior.c_out(SIGMAS), SIGMAS)
    )
    variance = ((1 - skip) ** 2 * data_std**2 + (skip * s) ** 2) / out**2
    big_enough = s > 0.05
    np.testing.assert_allclose(variance[big_enough], 1.0, rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("prior", [None, Spectral(4, 4, mean_data=-0.5)])
@pytest.mark.parametrize("p", ALL)
def test_denoiser_returns_its_input_where_there_is_no_noise(p, prior):
    x = jax.random.normal(jax.random.key(0), (3, 4, 4, 2))
    denoise = make_denoiser(
        lambda params, x, c_noise, label: 5.0 * jnp.cos(x), p, prior
    )
    clean = denoise({}, x, jnp.full((3,), 1e-6), jnp.zeros((3,), jnp.int32))
    np.testing.assert_allclose(clean, x, atol=1e-5)


# What the network has to predict, from the clean image x and the unit noise e.
TARGETS = [
    (VP(), lambda x, e, s: e),
    (DDPM(Settings()), lambda x, e, s: e),
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


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_ddpm_network_sees_the_very_numbers_of_steps(schedule, compiled):
    p = DDPM(Settings(schedule))
    c_noise = jax.jit(p.c_noise) if compiled else p.c_noise
    # As samplers and training hand them over.
    sigmas = jnp.asarray(p.settings.tables.sigmas, jnp.float32)
    np.testing.assert_array_equal(c_noise(sigmas), np.arange(1000))
    some = jnp.asarray(step_grid(p.settings.tables, "ddim50"), jnp.float32)
    np.testing.assert_array_equal(c_noise(some), np.arange(980, -1, -20))


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_ddpm_steps_between_those_of_the_schedule_and_beyond(schedule):
    p = DDPM(Settings(schedule))
    tables = p.settings.tables
    sigma = np.geomspace(tables.sigmas[0], tables.sigmas[-1], 3001)[1:-1]
    steps = p.c_noise(jnp.asarray(sigma, jnp.float32))
    np.testing.assert_allclose(steps, tables.time_of_sigma(sigma), rtol=0, atol=2e-4)
    beyond = p.c_noise(jnp.array([1e-9, 1e9]))
    np.testing.assert_array_equal(beyond, [0.0, 999.0])


def test_ddpm_loss_is_the_error_of_the_noise():
    p = DDPM(Settings("cosine"))
    image, noise, guess = jax.random.normal(jax.random.key(1), (3, 4, 5, 5, 2))
    sigma = jnp.asarray(p.settings.tables.sigmas[[0, 100, 500, 900]], jnp.float32)
    draws = losses.Draws(jnp.asarray(False), sigma, noise)
    loss = losses.denoising_loss(
        make_denoiser(lambda params, x, steps, label: guess, p),
        p.loss_weight,
        {},
        image,
        jnp.asarray(0),
        draws,
        None,
    )
    np.testing.assert_allclose(loss, np.mean((guess - noise) ** 2), rtol=1e-4)
