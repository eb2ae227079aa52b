import numpy as np
import pytest

from dpdm_jax.diffusion.schedules import (
    SCHEDULES,
    Schedule,
    Settings,
    cosine,
    ddim_steps,
    linear,
    respacing,
    sqrt_linear,
)
from dpdm_jax.errors import InputError

ALL = [linear, cosine, sqrt_linear]


def test_linear_schedule_has_the_published_marks():
    abar = linear().alphas_cumprod
    for step, value in ((30, 0.988), (200, 0.656), (300, 0.394), (600, 0.0256)):
        np.testing.assert_allclose(abar[step], value, rtol=2e-3)
    np.testing.assert_allclose(abar[[800, 999]], [0.00151, 4.0e-5], rtol=1e-2)


def test_betas_are_linear_and_linear_in_their_roots():
    np.testing.assert_allclose(linear(3, 0.1, 0.3).betas, [0.1, 0.2, 0.3])
    np.testing.assert_allclose(sqrt_linear(3, 0.01, 0.25).betas, [0.01, 0.09, 0.25])


def test_cosine_schedule_follows_its_curve_until_the_cap():
    schedule = cosine()
    assert schedule.betas.max() == schedule.betas[-1] == 0.999
    curve = np.cos((np.arange(1001) / 1000 + 0.008) / 1.008 * np.pi / 2) ** 2
    np.testing.assert_allclose(
        schedule.alphas_cumprod[:-1], curve[1:-1] / curve[0], rtol=1e-9
    )


@pytest.mark.parametrize("make", ALL)
def test_posterior_is_bayes_rule_of_the_steps(make):
    """Products of the densities of x_{t-1} given x_0 and of x_t given x_{t-1}."""
    schedule = make()
    prior = 1 - schedule.alphas_cumprod_prev[1:]
    beta = schedule.betas[1:]
    precision = 1 / prior + (1 - beta) / beta
    np.testing.assert_allclose(
        schedule.posterior_variance[1:], 1 / precision, rtol=1e-9
    )
    np.testing.assert_allclose(
        schedule.posterior_mean_coef1[1:],
        np.sqrt(schedule.alphas_cumprod_prev[1:]) / prior / precision,
        rtol=1e-9,
    )
    np.testing.assert_allclose(
        schedule.posterior_mean_coef2[1:],
        np.sqrt(1 - beta) / beta / precision,
        rtol=1e-9,
    )
    first = [t[0] for t in (schedule.posterior_mean_coef1, schedule.posterior_variance)]
    np.testing.assert_allclose(first, [1.0, 0.0], atol=1e-12)
    log_variance = schedule.posterior_log_variance_clipped
    assert log_variance[0] == log_variance[1] == np.log(schedule.posterior_variance[1])


@pytest.mark.parametrize("make", ALL)
def test_time_of_sigma_inverts_sigmas(make):
    schedule = make()
    assert np.all(np.diff(schedule.sigmas) > 0)
    np.testing.assert_allclose(
        schedule.alphas_cumprod, 1 / (1 + schedule.sigmas**2), rtol=1e-9
    )
    times = schedule.time_of_sigma(schedule.sigmas.reshape(10, 100))
    np.testing.assert_allclose(times.ravel(), np.arange(1000), atol=1e-9)
    between = np.sqrt(schedule.sigmas[3] * schedule.sigmas[4])
    np.testing.assert_allclose(schedule.time_of_sigma(between), 3.5, rtol=1e-9)


@pytest.mark.parametrize("sigma", [0.005, 200.0, np.nan])
def test_sigma_out_of_the_schedule_is_refused(sigma):
    message = rf"sigma is {sigma:g}; allowed with this schedule: 0.0100005 to 157.407"
    with pytest.raises(InputError, match=message):
        linear().time_of_sigma(np.array([1.0, sigma]))


@pytest.mark.parametrize(
    ("spec", "num_steps", "expected"),
    [
        ("ddim4", 10, [0, 3, 6, 9]),
        ("ddim5", 10, [0, 2, 4, 6, 8]),
        ("ddim10", 10, range(10)),
        ("4", 10, [0, 3, 6, 9]),
        ("3", 10, [0, 4, 9]),  # 4.5 goes to the even number
        ("10", 10, range(10)),
        ("2", 1000, [0, 999]),
    ],
)
def test_respacing(spec, num_steps, expected):
    np.testing.assert_array_equal(respacing(spec, num_steps), list(expected))


@pytest.mark.parametrize("num_steps", [10, 37, 64])
def test_ddim_respacing_finds_every_whole_stride(num_steps):
    possible = {len(range(0, num_steps, s)) for s in range(1, num_steps)} - {1}
    for num in range(2, num_steps + 1):
        if num in possible:
            assert len(respacing(f"ddim{num}", num_steps)) == num
        else:
            with pytest.raises(InputError, match=f"'ddim{num}'; allowed: an N such"):
                respacing(f"ddim{num}", num_steps)


@pytest.mark.parametrize("spec", ["", "0", "1", "11", "ddim", "ddim11", "-3", "2,2"])
def test_bad_respacing_is_refused(spec):
    message = rf"The respacing is '{spec}'; allowed: N or ddimN with N from 2 to 10\."
    with pytest.raises(InputError, match=message):
        respacing(spec, 10)


def test_respaced_schedule_keeps_its_noise_and_the_numbers_of_its_steps():
    schedule = cosine()
    part = schedule.respaced("ddim50")
    np.testing.assert_array_equal(part.steps, np.arange(0, 1000, 20))
    np.testing.assert_allclose(
        part.alphas_cumprod, schedule.alphas_cumprod[::20], rtol=1e-9
    )
    assert part.alphas_cumprod_prev[0] == 1.0
    np.testing.assert_allclose(part.time_of_sigma(part.sigmas), part.steps, atol=1e-9)
    twice = part.respaced("2")
    np.testing.assert_array_equal(twice.steps, [0, 980])


@pytest.mark.parametrize(("num", "count"), [(10, 10), (30, 31), (300, 334), (1, 1)])
def test_ddim_steps_start_at_one_and_may_be_more(num, count):
    schedule = sqrt_linear()
    if num == 300:
        with pytest.raises(InputError, match="1000 // it does not divide 999"):
            ddim_steps(schedule, num)
        return
    tables = ddim_steps(schedule, num)
    assert len(tables.steps) == count
    np.testing.assert_array_equal(tables.steps, np.arange(count) * (1000 // num) + 1)
    abar = schedule.alphas_cumprod
    np.testing.assert_array_equal(tables.alphas, abar[tables.steps])
    assert tables.alphas_prev[0] == abar[0] < 1
    np.testing.assert_array_equal(tables.alphas_prev[1:], tables.alphas[:-1])


def test_ddim_noise_is_that_of_the_posterior_at_eta_1():
    schedule = sqrt_linear()
    tables = ddim_steps(schedule, 100)
    np.testing.assert_array_equal(tables.sigmas(0.0), 0.0)
    np.testing.assert_allclose(tables.sigmas(0.5), tables.sigmas(1.0) / 2)
    part = Schedule(1 - tables.alphas / tables.alphas_prev, tables.steps)
    # Here the step before the first one is not the image itself.
    variance = part.betas * (1 - tables.alphas_prev) / (1 - tables.alphas)
    np.testing.assert_allclose(tables.sigmas(1.0) ** 2, variance, rtol=1e-9)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: linear(1), "the number of steps is 1; allowed: an integer >= 2"),
        (lambda: cosine(0), "the number of steps is 0; allowed: an integer >= 2"),
        (lambda: linear(9, 0.0, 0.1), "the first beta is 0.0; allowed"),
        (lambda: sqrt_linear(9, 0.1, 1.0), "the last beta is 1.0; allowed"),
        (lambda: Schedule(np.array([0.1]), np.array([0])), "has 1 steps; allowed"),
        (
            lambda: Schedule(np.array([0.1, 1.5]), np.array([0, 7])),
            "beta of step 7 is 1.5; allowed: a number > 0 and < 1",
        ),
        (lambda: ddim_steps(linear(), 0), "DDIM steps is 0; allowed"),
        (lambda: ddim_steps(linear(), 1001), "DDIM steps is 1001; allowed"),
        (lambda: ddim_steps(linear(), 37), "DDIM steps is 37; allowed: one for which"),
    ],
)
def test_bad_argument_is_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (Settings(), linear()),
        (Settings("linear", 20, 0.1, 0.2), linear(20, 0.1, 0.2)),
        (Settings("cosine", 30), cosine(30)),
        (Settings("ldm", 40, 0.01, 0.02), sqrt_linear(40, 0.01, 0.02)),
    ],
)
def test_settings_name_a_schedule(settings, expected):
    np.testing.assert_array_equal(settings.tables.betas, expected.betas)


def test_a_schedule_is_one_entry(monkeypatch):
    monkeypatch.setitem(SCHEDULES, "flat", lambda s: linear(s.num_steps, 0.1, 0.1))
    np.testing.assert_allclose(Settings("flat", 5).tables.betas, [0.1] * 5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"schedule": "x"}, "schedule is 'x'; allowed: linear, cosine, ldm"),
        ({"num_steps": 1}, "num_steps is 1; allowed: an integer >= 2"),
        ({"num_steps": 100_001}, "num_steps is 100001; allowed: an integer <= 100000"),
        ({"beta_first": 0.0}, "beta_first is 0.0; allowed: .* > 0 and < 1"),
        ({"beta_last": 1.0}, "beta_last is 1.0; allowed: .* > 0 and < 1"),
        # abar is 0 in float64; then levels that float32 does not tell apart.
        ({"beta_last": 0.9}, "schedule 'linear' from noise level .* to inf; allowed"),
        ({"num_steps": 5, "beta_first": 0.5, "beta_last": 1e-9}, "apart in float32"),
    ],
)
def test_bad_setting_is_refused(fields, message):
    with pytest.raises(InputError, match=rf"^diffusion\.ddpm.*{message}"):
        Settings(**fields)
