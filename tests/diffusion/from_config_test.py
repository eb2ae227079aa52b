import ml_collections
import numpy as np
import pytest

from dpdm_jax import settings
from dpdm_jax.configs import base
from dpdm_jax.diffusion import from_config
from dpdm_jax.diffusion.discretizations import (
    cosine_grid,
    edm_grid,
    ldm_grid,
    log_uniform_grid,
    step_grid,
)
from dpdm_jax.diffusion.learned_range import VariationalBound
from dpdm_jax.diffusion.noise_levels import (
    CosineTime,
    Intervals,
    LogNormal,
    LogUniform,
    TimeMixture,
    VPTime,
)
from dpdm_jax.diffusion.parameterizations import DDPM, EDM, VE, VP, V
from dpdm_jax.diffusion.priors import Classes, Flat, Spectral
from dpdm_jax.diffusion.samplers import DDIM, Ancestral, DDIMEta, Heun
from dpdm_jax.diffusion.schedules import Settings
from dpdm_jax.errors import InputError

SETTINGS = Settings("ldm", 200, 0.001, 0.03)
MIXTURE = {
    "schedule": "ldm",
    "num_steps": 200,
    "beta_first": 0.001,
    "beta_last": 0.03,
    "intervals": (30, 150),
    "weights": (0.25, 0.5, 0.25),
}


def config_of(**changes):
    """A whole config of uncommon values; ``a__b`` is ``config.a.b``."""
    config = base.get_config()
    fields = {
        "diffusion__sigma_data": 0.6,
        "diffusion__edm_dct": {"mean_data": -0.5, "corner": 3.0},
        "diffusion__log_normal": {"p_mean": -1.0, "p_std": 1.5},
        "diffusion__cosine": {"min_log_snr": -8.0, "max_log_snr": 12.0},
        "diffusion__log_uniform": {"sigma_min": 0.03, "sigma_max": 50.0},
        "diffusion__vp": {"beta_min": 0.2, "beta_d": 18.0, "eps_t": 1e-4},
        "diffusion__vp__num_timesteps": 500.0,
        "diffusion__ddpm": MIXTURE,
        "sampler__num_steps": 9,
        "sampler__sigma_min": 0.01,
        "sampler__sigma_max": 60.0,
        "sampler__edm__rho": 5.0,
        "sampler__heun": {"s_churn": 2.0, "s_min": 0.1, "s_max": 40.0},
        "sampler__heun__s_noise": 1.01,
        "sampler__heun__churn_limit": 0.4,
        "sampler__clip_denoised": False,
        "sampler__ancestral__variance": "fixed_small",
        "sampler__ddim_eta__eta": 0.25,
        "sampler__ddpm__respacing": "ddim10",
    }
    with config.ignore_type():
        for name, value in (*fields.items(), *changes.items()):
            *path, field = name.split("__")
            settings.lookup(config, ".".join(path)).update({field: value})
    return config


def diffusion(**changes):
    named = {f"diffusion__{name}": value for name, value in changes.items()}
    return config_of(**named).diffusion


def sampler(**changes):
    named = {f"sampler__{name}": value for name, value in changes.items()}
    return config_of(**named).sampler


def test_components_that_images_do_not_have():
    two = diffusion(parameterization="edm_moments", edm_moments={"components": 2})
    expected = Classes(6, 8, 0.6, -0.5, 3.0, components=2)
    assert from_config.parameterization(two, (6, 8, 1)) == (EDM(0.6), expected)
    with pytest.raises(InputError, match=r"64x64x3: 0, .* more than 3,072 values"):
        from_config.parameterization(two, (64, 64, 3))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("edm", (EDM(0.6), EDM(0.6).prior)),
        ("v", (V(), V().prior)),
        ("ve", (VE(), VE().prior)),
        ("vp", (VP(0.2, 18.0, 500.0), VP().prior)),
        ("ddpm", (DDPM(SETTINGS), Flat(-1))),
        ("edm_dct", (EDM(0.6), Spectral(6, 8, 0.6, -0.5, 3.0))),
        ("edm_moments", (EDM(0.6), Classes(6, 8, 0.6, -0.5, 3.0))),
    ],
)
def test_parameterization_and_prior_by_name(name, expected):
    config = diffusion(parameterization=name)
    assert from_config.parameterization(config, (6, 8, 1)) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("log_normal", LogNormal(-1.0, 1.5)),
        ("cosine", CosineTime(-8.0, 12.0)),
        ("log_uniform", LogUniform(0.03, 50.0)),
        ("vp_time", VPTime(0.2, 18.0, 1e-4)),
        (
            "time_mixture",
            TimeMixture(SETTINGS, Intervals((30, 150), (0.25, 0.5, 0.25))),
        ),
    ],
)
def test_noise_levels_by_name(name, expected):
    assert from_config.noise_levels(diffusion(noise_levels=name)) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("edm", edm_grid(9, 0.01, 60.0, 5.0)),
        ("log_uniform", log_uniform_grid(9, 0.01, 60.0)),
        ("cosine", cosine_grid(9, 0.01, 60.0)),
    ],
)
@pytest.mark.parametrize("sampler_name", ["ddim", "heun"])
def test_grid_by_name(name, expected, sampler_name):
    built = from_config.sampler(sampler(grid=name, name=sampler_name))
    np.testing.assert_array_equal(built.grid, expected)


@pytest.mark.parametrize("stochastic", [False, True])
def test_ddim_by_name(stochastic):
    built = from_config.sampler(sampler(ddim={"stochastic": stochastic}))
    assert isinstance(built, DDIM)
    assert built.stochastic is stochastic


def test_heun_by_name():
    built = from_config.sampler(sampler(name="heun"))
    assert isinstance(built, Heun)
    settings = (built.s_churn, built.s_min, built.s_max, built.s_noise)
    assert settings == (2.0, 0.1, 40.0, 1.01)
    assert built.churn_limit == 0.4


def on_steps(**changes):
    """The sampler's config on a grid of steps of ``diffusion()``."""
    named = {f"sampler__{name}": value for name, value in changes.items()}
    return from_config.with_preset(config_of(**named).lock())


@pytest.mark.parametrize("name", ["ddim", "heun", "ancestral", "ddim_eta"])
@pytest.mark.parametrize(
    ("grid", "expected"),
    [
        ("ddpm", step_grid(SETTINGS.tables, "ddim10")),
        ("ldm", ldm_grid(SETTINGS.tables, 9)),
    ],
)
def test_grid_of_the_steps_of_the_diffusion(grid, expected, name):
    built = from_config.sampler(on_steps(grid=grid, name=name))
    np.testing.assert_array_equal(built.grid, expected)


def test_config_of_a_sampler_on_steps_describes_them():
    """It is what folders of samples keep."""
    resolved = on_steps(grid="ddpm")
    schedule = {"schedule": "ldm", "num_steps": 200}
    ends = {"beta_first": 0.001, "beta_last": 0.03}
    assert resolved.ddpm.to_dict() == {"respacing": "ddim10"} | schedule | ends
    assert resolved.num_steps == 10
    assert on_steps(grid="edm").to_dict() == sampler().to_dict()
    assert on_steps(grid="ldm").num_steps == 9


def test_ancestral_by_name():
    built = from_config.sampler(sampler(name="ancestral"))
    assert isinstance(built, Ancestral)
    assert (built.variance, built.clip_denoised) == ("fixed_small", False)


def learned(**changes):
    config = config_of(sampler__name="ancestral", diffusion__parameterization="ddpm")
    config.sampler.ancestral.variance = "learned"
    config.diffusion.ddpm.learned_range = True
    config.diffusion.update(changes)
    return config


def test_learned_range_by_name():
    config = learned()
    assert from_config.bound(config.diffusion) == VariationalBound(SETTINGS)
    assert from_config.sampler(from_config.with_preset(config)).variance == "learned"
    # What a network sees is that of DDPM.
    assert from_config.parameterization(config.diffusion, (6, 8, 1)) == (
        DDPM(SETTINGS),
        Flat(-1),
    )
    assert from_config.bound(diffusion(parameterization="ddpm")) is None
    assert from_config.bound(learned(parameterization="edm").diffusion) is None


@pytest.mark.parametrize(
    "changes", [{"ddpm": {"learned_range": False}}, {"parameterization": "vp"}]
)
def test_a_variance_that_the_network_does_not_learn_is_refused(changes):
    message = (
        "sampler.ancestral.variance is 'learned', and the network learns none; "
        "allowed: fixed_large, fixed_small, or learned with "
        "diffusion.ddpm.learned_range."
    )
    with pytest.raises(InputError) as error:
        from_config.with_preset(learned(**changes))
    assert str(error.value) == message


@pytest.mark.parametrize("grid", ["edm", "ldm"])
def test_ddim_eta_by_name(grid):
    built = from_config.sampler(on_steps(name="ddim_eta", grid=grid))
    assert isinstance(built, DDIMEta)
    assert (built.eta, built.clip_denoised) == (0.25, False)
    assert built.end == (0.0 if grid == "edm" else SETTINGS.tables.sigmas[0])


def preset_of(**preset):
    """A config without settings for kinds that are not chosen, and a preset."""
    config = base.get_config()
    config.sampler.num_steps = 9
    config.sampler.preset = "fid"
    config.sampler_presets.fid = ml_collections.ConfigDict(preset)
    return config.lock()


def test_preset_overrides_the_sampler_and_leaves_the_config_alone():
    config = preset_of(name="heun", heun={"s_churn": 100.0})
    before = config.to_dict()
    resolved = from_config.with_preset(config)
    assert (resolved.name, resolved.heun.s_churn) == ("heun", 100.0)
    assert resolved.num_steps == 9
    assert resolved.preset == ""
    assert config.to_dict() == before


def test_preset_of_another_sampler_lets_go_of_the_first_ones_settings():
    config = preset_of(name="heun", heun={"s_churn": 100.0})
    config.sampler.ddim.stochastic = True
    resolved = from_config.with_preset(config)
    assert resolved.ddim.stochastic is False
    assert config.sampler.ddim.stochastic is True
    config.sampler_presets.fid.name = "ddim"
    with pytest.raises(
        InputError, match=r"s_churn is 100\.0, and sampler\.name is 'ddim'"
    ):
        from_config.with_preset(config)


def test_no_preset_keeps_the_sampler():
    config = config_of()
    assert from_config.with_preset(config) == config.sampler


def test_unknown_preset_lists_the_known_ones():
    config = config_of(sampler__preset="best")
    with pytest.raises(
        InputError, match=r"preset is 'best'; allowed: ddim, ddim_stochastic\."
    ):
        from_config.with_preset(config)


@pytest.mark.parametrize(
    ("build", "changes", "message"),
    [
        ("parameterization", {"parameterization": "x"}, "'x'; allowed: edm, v, ve, vp"),
        ("parameterization", {"sigma_data": 0.0}, "sigma_data is 0.0; allowed: .* > 0"),
        (
            "parameterization",
            {"parameterization": "vp", "vp": {"beta_min": 0.0}},
            "beta_min is 0.0; allowed: .* > 0",
        ),
        (
            "parameterization",
            {"parameterization": "vp", "vp": {"beta_d": -1.0}},
            "beta_d is -1.0; allowed: .* > 0",
        ),
        (
            "parameterization",
            {"parameterization": "vp", "vp": {"num_timesteps": 0.0}},
            "num_timesteps is 0.0; allowed: .* > 0",
        ),
        (
            "parameterization",
            {"parameterization": "edm_dct", "sigma_data": -1.0},
            "sigma_data is -1.0; allowed: .* > 0",
        ),
        (
            "parameterization",
            {"parameterization": "edm_dct", "edm_dct": {"mean_data": 1.5}},
            "mean_data is 1.5; allowed: .* <= 1",
        ),
        (
            "parameterization",
            {"parameterization": "edm_dct", "edm_dct": {"corner": 0.0}},
            "corner is 0.0; allowed: .* > 0",
        ),
        (
            "parameterization",
            {"parameterization": "edm_moments", "edm_moments": {"components": -1}},
            "edm_moments.components is -1; allowed: an integer >= 0",
        ),
        (
            "parameterization",
            {"parameterization": "edm_moments", "edm_moments": {"components": 65}},
            "edm_moments.components is 65; allowed for images of 8x8x1: 0 to 64.",
        ),
        (
            "noise_levels",
            {"noise_levels": "x"},
            "'x'; allowed: log_normal, cosine, log_uniform, vp_time",
        ),
        (
            "noise_levels",
            {"log_normal": {"p_mean": float("nan")}},
            "p_mean is nan; allowed: a finite",
        ),
        (
            "noise_levels",
            {"log_normal": {"p_std": 0.0}},
            "p_std is 0.0; allowed: .* > 0",
        ),
        (
            "noise_levels",
            {"noise_levels": "cosine", "cosine": {"min_log_snr": float("-inf")}},
            "min_log_snr is -inf; allowed: a finite",
        ),
        (
            "noise_levels",
            {"noise_levels": "cosine", "cosine": {"max_log_snr": -8.0}},
            "max_log_snr is -8.0; allowed: .* > -8",
        ),
        (
            "noise_levels",
            {"noise_levels": "log_uniform", "log_uniform": {"sigma_min": 0.0}},
            "sigma_min is 0.0; allowed: .* > 0",
        ),
        (
            "noise_levels",
            {"noise_levels": "log_uniform", "log_uniform": {"sigma_max": 0.03}},
            "sigma_max is 0.03; allowed: .* > 0.03",
        ),
        (
            "noise_levels",
            {"noise_levels": "vp_time", "vp": {"eps_t": 1.0}},
            "eps_t is 1.0; allowed: .* > 0 and < 1",
        ),
        (
            "noise_levels",
            {"noise_levels": "vp_time", "vp": {"beta_d": 0.0}},
            "beta_d is 0.0; allowed: .* > 0",
        ),
        (
            "noise_levels",
            {
                "noise_levels": "time_mixture",
                "ddpm": MIXTURE | {"intervals": (150, 30)},
            },
            r"intervals is \(150, 30\); allowed: rising .*num_steps, 200",
        ),
        (
            "noise_levels",
            {"noise_levels": "time_mixture", "ddpm": MIXTURE | {"intervals": (0, 30)}},
            r"intervals is \(0, 30\); allowed: rising integers above 0",
        ),
        (
            "noise_levels",
            {
                "noise_levels": "time_mixture",
                "ddpm": MIXTURE | {"intervals": (30, 200)},
            },
            r"intervals is \(30, 200\); allowed: rising .* below",
        ),
        (
            "noise_levels",
            {
                "noise_levels": "time_mixture",
                "ddpm": MIXTURE | {"intervals": (30.5, 150)},
            },
            r"ddpm.intervals\[0\] is 30.5; allowed: an integer",
        ),
        (
            "noise_levels",
            {"noise_levels": "time_mixture", "ddpm": MIXTURE | {"intervals": (30,)}},
            r"weights is \(0.25, 0.5, 0.25\); allowed: 2 numbers of sum 1, one more",
        ),
        (
            "noise_levels",
            {"noise_levels": "time_mixture", "ddpm": MIXTURE | {"weights": (1, 1, -1)}},
            r"weights\[2\] is -1.0; allowed: .* >= 0",
        ),
        (
            "noise_levels",
            {
                "noise_levels": "time_mixture",
                "ddpm": MIXTURE | {"weights": (0.3, 0.3, 0.3)},
            },
            r"weights is \(0.3, 0.3, 0.3\); allowed: 3 numbers of sum 1",
        ),
        ("sampler", {"name": "x"}, "name is 'x'; allowed: ddim, heun, ancestral"),
        (
            "sampler",
            {"name": "ancestral", "ancestral": {"variance": "x"}},
            "sampler.ancestral.variance is 'x'; allowed: fixed_large, fixed_small",
        ),
        (
            "sampler",
            {"name": "ddim_eta", "ddim_eta": {"eta": 1.5}},
            "sampler.ddim_eta.eta is 1.5; allowed: .* >= 0 and <= 1",
        ),
        (
            "sampler",
            {"name": "ancestral", "clip_denoised": 2},
            "sampler.clip_denoised is 2; allowed: True, False",
        ),
        ("sampler", {"grid": "x"}, "'x'; allowed: edm, log_uniform, cosine, ddpm, ldm"),
        ("sampler", {"num_steps": 1}, "num_steps is 1; allowed: an integer >= 2"),
        ("sampler", {"sigma_min": 0.0}, "sigma_min is 0.0; allowed: .* > 0"),
        ("sampler", {"sigma_max": 0.01}, "sigma_max is 0.01; allowed: .* > 0.01"),
        ("sampler", {"edm": {"rho": 0.0}}, "rho is 0.0; allowed: .* > 0"),
        (
            "sampler",
            {"name": "heun", "heun": {"s_churn": -1.0}},
            "s_churn is -1.0; .* >= 0",
        ),
        (
            "sampler",
            {"name": "heun", "heun": {"s_min": -0.1}},
            "s_min is -0.1; .* >= 0",
        ),
        (
            "sampler",
            {"name": "heun", "heun": {"s_max": 0.05}},
            "s_max is 0.05; .* >= 0.1",
        ),
        (
            "sampler",
            {"name": "heun", "heun": {"s_noise": -1.0}},
            "s_noise is -1.0; .* >= 0",
        ),
        (
            "sampler",
            {"name": "heun", "heun": {"churn_limit": -1.0}},
            "churn_limit is -1.0; .*",
        ),
    ],
)
def test_bad_field_is_refused_with_what_is_allowed(build, changes, message):
    make = sampler if build == "sampler" else diffusion
    shape = ((8, 8, 1),) if build == "parameterization" else ()
    with pytest.raises(InputError, match=message):
        getattr(from_config, build)(make(**changes), *shape)


def test_heun_may_churn_without_upper_end():
    built = from_config.sampler(sampler(name="heun", heun={"s_max": float("inf")}))
    assert built.s_max == float("inf")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"crop": -1}, r"diffusion\.views\.crop is -1"),
        ({"crop": 8}, "views.crop is 8; allowed for images of 8x9x1: less than a side"),
        ({"flip": 2}, "views.flip is 2; allowed"),
        ({"count": 3}, "views.count is 3; allowed: 0 .* divisor of .*multiplicity, 4"),
    ],
)
def test_bad_views_are_refused(fields, message):
    config = diffusion(noise_multiplicity=4, views=fields)
    with pytest.raises(InputError, match=message):
        from_config.objective(config, (8, 9, 1))
