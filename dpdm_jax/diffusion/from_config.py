"""The diffusion objects that a config names."""

import dataclasses
import itertools
import math

import ml_collections
import numpy as np

from dpdm_jax import validate
from dpdm_jax.diffusion import discretizations, priors, schedules
from dpdm_jax.diffusion import noise_levels as nl
from dpdm_jax.diffusion import parameterizations as p
from dpdm_jax.diffusion.samplers import DDIM, Ancestral, DDIMEta, Heun, Sampler
from dpdm_jax.diffusion.views import Views
from dpdm_jax.errors import InputError

_PARAMETERIZATIONS = ("edm", "v", "ve", "vp", "edm_dct", "edm_moments", "ddpm")
_NOISE_LEVELS = ("log_normal", "cosine", "log_uniform", "vp_time", "time_mixture")
# Grids made of the steps of a schedule.
_STEP_GRIDS = ("ddpm", "ldm")
_GRIDS = ("edm", "log_uniform", "cosine", *_STEP_GRIDS)
# Values of an image whose covariances, a matrix for each class, are measured at most.
_MAX_COVARIED = 3072
_SAMPLERS = ("ddim", "heun", "ancestral", "ddim_eta")
_SCHEDULE_FIELDS = tuple(f.name for f in dataclasses.fields(schedules.Settings))
_VARIANCES = ("fixed_large", "fixed_small")


def parameterization(config: ml_collections.ConfigDict) -> p.Parameterization:
    """Builds what ``config.diffusion.parameterization`` names."""
    validate.one_of(
        "diffusion.parameterization", config.parameterization, _PARAMETERIZATIONS
    )
    match config.parameterization:
        case "edm" | "edm_dct" | "edm_moments":
            validate.real("diffusion.sigma_data", config.sigma_data, above=0)
            return p.EDM(config.sigma_data)
        case "v":
            return p.V()
        case "ve":
            return p.VE()
        case "ddpm":
            return p.DDPM(_schedule(config.ddpm))
        case _:
            _check_vp(config)
            validate.real("diffusion.num_timesteps", config.num_timesteps, above=0)
            return p.VP(config.beta_min, config.beta_d, config.num_timesteps)


def prior(
    config: ml_collections.ConfigDict, image_shape: tuple[int, int, int]
) -> priors.Prior:
    """Builds the prior that goes with ``config.diffusion.parameterization``.

    Args:
        config: ``config.diffusion``.
        image_shape: (h, w, c).
    """
    own = parameterization(config).prior
    if config.parameterization not in ("edm_dct", "edm_moments"):
        return own
    validate.real("diffusion.mean_data", config.mean_data, minimum=-1, maximum=1)
    validate.real("diffusion.corner", config.corner, above=0)
    height, width, _ = image_shape
    arguments = (height, width, config.sigma_data, config.mean_data, config.corner)
    if config.parameterization == "edm_dct":
        return priors.Spectral(*arguments)
    # Released configs of earlier versions do not have the field.
    components = config.get("moments_components", 0)
    _check_components(components, image_shape)
    return priors.Classes(*arguments, components=components)


def _check_components(components: int, image_shape: tuple[int, int, int]) -> None:
    validate.integer("diffusion.moments_components", components, minimum=0)
    size = math.prod(image_shape)
    most = size if size <= _MAX_COVARIED else 0
    if components > most:
        raise InputError(
            f"diffusion.moments_components is {components}; allowed for images of "
            f"{'x'.join(map(str, image_shape))}: 0 to {most}"
            + ("." if most else f", above {_MAX_COVARIED} values 0 alone.")
        )


def views(
    config: ml_collections.ConfigDict, image_shape: tuple[int, int, int]
) -> Views:
    """Builds what ``config.diffusion.views`` describes.

    Args:
        config: ``config.diffusion``.
        image_shape: (h, w, c).
    """
    # Released configs of earlier versions do not have the group.
    fields = config.get("views") or {}
    found = Views(**fields)
    validate.integer("diffusion.views.crop", found.crop, minimum=0)
    if found.crop >= min(image_shape[:2]):
        raise InputError(
            f"diffusion.views.crop is {found.crop}; allowed for images of "
            f"{'x'.join(map(str, image_shape))}: less than a side."
        )
    validate.one_of("diffusion.views.flip", found.flip, (True, False))
    validate.integer("diffusion.views.count", found.count, minimum=0)
    draws = config.noise_multiplicity
    if found.count and draws % found.count:
        raise InputError(
            f"diffusion.views.count is {found.count}; allowed: 0 for a view a draw, or "
            f"a divisor of diffusion.noise_multiplicity, {draws}."
        )
    return found


def noise_levels(config: ml_collections.ConfigDict) -> nl.NoiseLevels:
    """Builds what ``config.diffusion.noise_levels`` names."""
    validate.one_of("diffusion.noise_levels", config.noise_levels, _NOISE_LEVELS)
    match config.noise_levels:
        case "log_normal":
            validate.real("diffusion.p_mean", config.p_mean)
            validate.real("diffusion.p_std", config.p_std, above=0)
            return nl.LogNormal(config.p_mean, config.p_std)
        case "cosine":
            validate.real("diffusion.min_log_snr", config.min_log_snr)
            validate.real(
                "diffusion.max_log_snr", config.max_log_snr, above=config.min_log_snr
            )
            return nl.CosineTime(config.min_log_snr, config.max_log_snr)
        case "log_uniform":
            validate.real("diffusion.sigma_min", config.sigma_min, above=0)
            validate.real(
                "diffusion.sigma_max", config.sigma_max, above=config.sigma_min
            )
            return nl.LogUniform(config.sigma_min, config.sigma_max)
        case "time_mixture":
            return _time_mixture(config.ddpm)
        case _:
            _check_vp(config)
            validate.real("diffusion.eps_t", config.eps_t, above=0, below=1)
            return nl.VPTime(config.beta_min, config.beta_d, config.eps_t)


def _time_mixture(config: ml_collections.ConfigDict) -> nl.TimeMixture:
    settings = _schedule(config)
    cuts, weights = tuple(config.intervals), tuple(config.weights)
    ends = (0, *cuts, settings.num_steps)
    whole = all(isinstance(cut, int) and not isinstance(cut, bool) for cut in cuts)
    if not whole or any(end <= start for start, end in itertools.pairwise(ends)):
        raise InputError(
            f"diffusion.ddpm.intervals is {cuts}; allowed: rising integers above 0 and "
            f"below diffusion.ddpm.num_steps, {settings.num_steps}."
        )
    for i, weight in enumerate(weights):
        validate.real(f"diffusion.ddpm.weights[{i}]", weight, minimum=0)
    if len(weights) != len(cuts) + 1 or abs(sum(weights) - 1) > 1e-6:
        raise InputError(
            f"diffusion.ddpm.weights is {weights}; allowed: {len(cuts) + 1} numbers of "
            "sum 1, one more than diffusion.ddpm.intervals has."
        )
    return nl.TimeMixture(settings, cuts, weights)


def _schedule(config: ml_collections.ConfigDict) -> schedules.Settings:
    return schedules.Settings(**{name: config[name] for name in _SCHEDULE_FIELDS})


def with_preset(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """The sampler's config with its preset applied.

    Args:
        config: a whole config; ``sampler.preset`` names one of ``sampler_presets``.

    Returns:
        A copy of ``config.sampler`` without a preset. Where the grid is made of steps,
        ``ddpm`` also has the schedule of ``config.diffusion.ddpm``: a sampler has no
        other. With grid "ddpm" ``num_steps`` is the number of steps it visits.

    Raises:
        InputError: the preset is unknown to this config.
    """
    resolved = config.sampler.copy_and_resolve_references()
    if resolved.preset:
        validate.one_of("sampler.preset", resolved.preset, list(config.sampler_presets))
        resolved.update(config.sampler_presets[resolved.preset])
        resolved.preset = ""
    if resolved.grid in _STEP_GRIDS:
        with resolved.unlocked():
            resolved.ddpm.update(
                {name: config.diffusion.ddpm[name] for name in _SCHEDULE_FIELDS}
            )
    if resolved.grid == "ddpm":
        resolved.num_steps = len(_grid(resolved))
    return resolved


def sampler(config: ml_collections.ConfigDict) -> Sampler:
    """Builds what ``config.sampler``, as ``with_preset`` gives it, names."""
    validate.one_of("sampler.name", config.name, _SAMPLERS)
    grid = _grid(config)
    match config.name:
        case "ddim":
            return DDIM(grid, config.stochastic)
        case "heun":
            return _heun(config, grid)
        case "ancestral":
            variance = config.ancestral.variance
            validate.one_of("sampler.ancestral.variance", variance, _VARIANCES)
            return Ancestral(grid, variance, _clips(config))
        case _:
            eta = config.ddim_eta.eta
            validate.real("sampler.ddim_eta.eta", eta, minimum=0, maximum=1)
            end = 0.0
            if config.grid == "ldm":
                end = float(_schedule(config.ddpm).tables.sigmas[0])
            return DDIMEta(grid, eta, _clips(config), end)


def _clips(config: ml_collections.ConfigDict) -> bool:
    validate.one_of("sampler.clip_denoised", config.clip_denoised, (True, False))
    return config.clip_denoised


def _heun(config: ml_collections.ConfigDict, grid: np.ndarray) -> Heun:
    validate.real("sampler.s_churn", config.s_churn, minimum=0)
    validate.real("sampler.s_min", config.s_min, minimum=0)
    validate.real("sampler.s_max", config.s_max, minimum=config.s_min, allow_inf=True)
    validate.real("sampler.s_noise", config.s_noise, minimum=0)
    validate.real("sampler.churn_limit", config.churn_limit, minimum=0)
    return Heun(
        grid,
        s_churn=config.s_churn,
        s_min=config.s_min,
        s_max=config.s_max,
        s_noise=config.s_noise,
        churn_limit=config.churn_limit,
    )


def _grid(config: ml_collections.ConfigDict) -> np.ndarray:
    validate.one_of("sampler.grid", config.grid, _GRIDS)
    if config.grid == "ddpm":
        schedule = _schedule(config.ddpm).tables
        return discretizations.step_grid(schedule, config.ddpm.respacing)
    validate.integer("sampler.num_steps", config.num_steps, minimum=2)
    if config.grid == "ldm":
        schedule = _schedule(config.ddpm).tables
        return discretizations.ldm_grid(schedule, config.num_steps)
    validate.real("sampler.sigma_min", config.sigma_min, above=0)
    validate.real("sampler.sigma_max", config.sigma_max, above=config.sigma_min)
    ends = config.num_steps, config.sigma_min, config.sigma_max
    match config.grid:
        case "edm":
            validate.real("sampler.rho", config.rho, above=0)
            return discretizations.edm_grid(*ends, config.rho)
        case "log_uniform":
            return discretizations.log_uniform_grid(*ends)
        case _:
            return discretizations.cosine_grid(*ends)


def _check_vp(config: ml_collections.ConfigDict) -> None:
    for field in ("beta_min", "beta_d"):
        validate.real(f"diffusion.{field}", config[field], above=0)
