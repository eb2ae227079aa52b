"""The diffusion objects that a config names."""

import dataclasses
import functools

import ml_collections

from dpdm_jax import settings, validate
from dpdm_jax.diffusion import discretizations as d
from dpdm_jax.diffusion import learned_range, losses, priors, schedules
from dpdm_jax.diffusion import noise_levels as nl
from dpdm_jax.diffusion import parameterizations as p
from dpdm_jax.diffusion.discretizations import Grid
from dpdm_jax.diffusion.learned_range import VariationalBound
from dpdm_jax.diffusion.priors import classes, spectral
from dpdm_jax.diffusion.samplers import (
    DDIM,
    Ancestral,
    DDIMEta,
    Heun,
    Sampler,
    ancestral,
    base,
    ddim,
    ddim_eta,
    heun,
)
from dpdm_jax.diffusion.views import Views
from dpdm_jax.errors import InputError
from dpdm_jax.settings import Group, Kind, Room

_EDM = Group("diffusion", p.EDM)
_SPECTRUM = Group("diffusion.edm_dct", spectral.Settings)
#: What "edm_moments" reads of its own.
MOMENTS = Group("diffusion.edm_moments", classes.Settings)
_SCHEDULE = Group("diffusion.ddpm", schedules.Settings)
_VARIANCE = Group("diffusion.ddpm", learned_range.Settings)
_ANCESTRAL = Group("sampler.ancestral", ancestral.Settings)
_VIEWS = Group("diffusion.views", Views)
_LOSS = Group("diffusion", losses.Settings)
_ENDS = Group("sampler", d.Ends)
_CLIPPING = Group("sampler", base.Clipping)


def _alone(
    parameterization: p.Parameterization, image_shape: tuple[int, int, int]
) -> tuple[p.Parameterization, priors.Prior]:
    del image_shape
    return parameterization, parameterization.prior


def _edm_dct(
    edm: p.EDM, assumed: spectral.Settings, image_shape: tuple[int, int, int]
) -> tuple[p.Parameterization, priors.Prior]:
    height, width, _ = image_shape
    given = edm.sigma_data, assumed.mean_data, assumed.corner
    return edm, priors.Spectral(height, width, *given)


def _edm_moments(
    edm: p.EDM,
    assumed: spectral.Settings,
    measured: classes.Settings,
    image_shape: tuple[int, int, int],
) -> tuple[p.Parameterization, priors.Prior]:
    measured.check_fit(image_shape)
    height, width, _ = image_shape
    given = edm.sigma_data, assumed.mean_data, assumed.corner
    components = measured.components
    return edm, priors.Classes(height, width, *given, components=components)


#: Parameterizations with the priors that go with them; a builder takes the settings and
#: (h, w, c).
PARAMETERIZATIONS = Room(
    "diffusion.parameterization",
    {
        "edm": Kind(_alone, (_EDM,)),
        "v": Kind(functools.partial(_alone, p.V())),
        "ve": Kind(functools.partial(_alone, p.VE())),
        "vp": Kind(_alone, (Group("diffusion.vp", p.VP),)),
        "edm_dct": Kind(_edm_dct, (_EDM, _SPECTRUM)),
        "edm_moments": Kind(_edm_moments, (_EDM, _SPECTRUM, MOMENTS)),
        "ddpm": Kind(
            lambda schedule, variance, shape: _alone(p.DDPM(schedule), shape),
            (_SCHEDULE, _VARIANCE),
        ),
    },
    shared=(_VIEWS, _LOSS),
)


def _itself(found: nl.NoiseLevels) -> nl.NoiseLevels:
    return found


#: Distributions of training noise levels; a builder takes the settings.
NOISE_LEVELS = Room(
    "diffusion.noise_levels",
    {
        "log_normal": Kind(_itself, (Group("diffusion.log_normal", nl.LogNormal),)),
        "cosine": Kind(_itself, (Group("diffusion.cosine", nl.CosineTime),)),
        "log_uniform": Kind(_itself, (Group("diffusion.log_uniform", nl.LogUniform),)),
        "vp_time": Kind(_itself, (Group("diffusion.vp", nl.VPTime),)),
        "time_mixture": Kind(
            nl.TimeMixture, (_SCHEDULE, Group("diffusion.ddpm", nl.Intervals))
        ),
    },
)

#: Grids for samplers; a builder takes the settings and the number of points.
GRIDS = Room(
    "sampler.grid",
    {
        "edm": Kind(
            lambda ends, edm, num: Grid(d.edm_grid(num, **vars(ends), **vars(edm))),
            (_ENDS, Group("sampler.edm", d.EDM)),
        ),
        "log_uniform": Kind(
            lambda ends, num: Grid(d.log_uniform_grid(num, **vars(ends))), (_ENDS,)
        ),
        "cosine": Kind(
            lambda ends, num: Grid(d.cosine_grid(num, **vars(ends))), (_ENDS,)
        ),
        "ddpm": Kind(
            lambda schedule, steps, _: Grid(
                d.step_grid(schedule.tables, steps.respacing)
            ),
            (_SCHEDULE, Group("sampler.ddpm", d.Steps)),
        ),
        "ldm": Kind(
            lambda schedule, num: Grid(
                d.ldm_grid(schedule.tables, num), float(schedule.tables.sigmas[0])
            ),
            (_SCHEDULE,),
        ),
    },
)

#: Samplers; a builder takes the settings and the grid.
SAMPLERS = Room(
    "sampler.name",
    {
        "ddim": Kind(
            lambda own, grid: DDIM(grid.levels, **vars(own)),
            (Group("sampler.ddim", ddim.Settings),),
        ),
        "heun": Kind(
            lambda own, grid: Heun(grid.levels, **vars(own)),
            (Group("sampler.heun", heun.Settings),),
        ),
        "ancestral": Kind(
            lambda own, clipping, grid: Ancestral(
                grid.levels, **vars(own), **vars(clipping)
            ),
            (_ANCESTRAL, _CLIPPING),
        ),
        "ddim_eta": Kind(
            lambda own, clipping, grid: DDIMEta(
                grid.levels, **vars(own), **vars(clipping), end=grid.end
            ),
            (Group("sampler.ddim_eta", ddim_eta.Settings), _CLIPPING),
        ),
    },
)

#: All that this module builds.
ROOMS = (PARAMETERIZATIONS, NOISE_LEVELS, SAMPLERS, GRIDS)


def parameterization(
    config: ml_collections.ConfigDict, image_shape: tuple[int, int, int]
) -> tuple[p.Parameterization, priors.Prior]:
    """Builds the parameterization that ``config.diffusion`` names, and its prior.

    Args:
        config: ``config.diffusion``.
        image_shape: (h, w, c).
    """
    return PARAMETERIZATIONS.build(config, image_shape)


def bound(config: ml_collections.ConfigDict) -> VariationalBound | None:
    """Builds the loss of a variance, if ``config.diffusion`` has it learned."""
    if _VARIANCE not in PARAMETERIZATIONS.kind(config).groups:
        return None
    is_learned = _VARIANCE.read(config).learned_range
    return VariationalBound(_SCHEDULE.read(config)) if is_learned else None


def noise_levels(config: ml_collections.ConfigDict) -> nl.NoiseLevels:
    """Builds the noise levels that ``config.diffusion`` names."""
    return NOISE_LEVELS.build(config)


def objective(
    config: ml_collections.ConfigDict, image_shape: tuple[int, int, int]
) -> tuple[losses.Settings, Views]:
    """Reads how an example is weighed, and in which views.

    Args:
        config: ``config.diffusion``.
        image_shape: (h, w, c) of the images that views are of.

    Raises:
        InputError: a field is out of range.
    """
    loss, views = _LOSS.read(config), _VIEWS.read(config)
    if views.crop >= min(image_shape[:2]):
        raise InputError(
            f"diffusion.views.crop is {views.crop}; allowed for images of "
            f"{'x'.join(map(str, image_shape))}: less than a side."
        )
    draws = loss.noise_multiplicity
    if views.count and draws % views.count:
        raise InputError(
            f"diffusion.views.count is {views.count}; allowed: 0 for a view a draw, or "
            f"a divisor of diffusion.noise_multiplicity, {draws}."
        )
    return loss, views


def with_preset(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """The sampler's config with its preset applied.

    Args:
        config: a whole config; ``sampler.preset`` names one of ``sampler_presets``.

    Returns:
        A copy of ``config.sampler`` without a preset. Where the grid is made of steps,
        ``ddpm`` also has the schedule of ``config.diffusion.ddpm``: a sampler has no
        other. With grid "ddpm" ``num_steps`` is the number of steps it visits.

    Raises:
        InputError: the preset is unknown to this config, or sets what the sampler of
            its name does not read; or the sampler reads a variance that the network
            does not learn.
    """
    config = config.copy_and_resolve_references()
    resolved = config.sampler
    if resolved.preset:
        validate.one_of("sampler.preset", resolved.preset, list(config.sampler_presets))
        preset = config.sampler_presets[resolved.preset]
        resolved.update(preset)
        resolved.preset = ""
        given = settings.names(preset, "sampler")
        settings.forget_foreign(ROOMS, config, given)
        settings.refuse_foreign(ROOMS, config, settings.names_read(ROOMS, config))
    check_variance(resolved, config.diffusion)
    if _SCHEDULE in GRIDS.kind(resolved).groups:
        schedule = _SCHEDULE.read(config.diffusion)
        with resolved.unlocked():
            resolved.ddpm.update(dataclasses.asdict(schedule))
    if resolved.grid == "ddpm":
        resolved.num_steps = len(_grid(resolved).levels)
    return resolved


def check_variance(
    sampler: ml_collections.ConfigDict, diffusion: ml_collections.ConfigDict
) -> None:
    """Refuses a sampler that reads a variance which the network does not learn.

    Args:
        sampler: ``config.sampler``.
        diffusion: ``config.diffusion``.

    Raises:
        InputError: it is so.
    """
    is_ancestral = _ANCESTRAL in SAMPLERS.kind(sampler).groups
    reads_variance = is_ancestral and sampler.ancestral.variance == "learned"
    if reads_variance and bound(diffusion) is None:
        raise InputError(
            "sampler.ancestral.variance is 'learned', and the network learns none; "
            "allowed: fixed_large, fixed_small, or learned with "
            "diffusion.ddpm.learned_range."
        )


def check_latents(
    sampler: ml_collections.ConfigDict, diffusion: ml_collections.ConfigDict
) -> None:
    """Refuses what makes sense of pixels alone, where a codec makes latents of them.

    Args:
        sampler: ``config.sampler``.
        diffusion: ``config.diffusion``.

    Raises:
        InputError: latents are clipped to the range of pixels, or to be of a prior
            that is measured on images.
    """
    if _CLIPPING in SAMPLERS.kind(sampler).groups and sampler.clip_denoised:
        raise InputError(
            f"sampler.clip_denoised is {sampler.clip_denoised!r}; allowed for latents "
            "of a codec: False."
        )
    if MOMENTS in PARAMETERIZATIONS.kind(diffusion).groups:
        raise InputError(
            f"diffusion.parameterization is {diffusion.parameterization!r}, whose "
            "moments are those of images; allowed for latents of a codec: another one."
        )


def sampler(config: ml_collections.ConfigDict) -> Sampler:
    """Builds what ``config.sampler``, as ``with_preset`` gives it, names."""
    SAMPLERS.kind(config)  # its name before the grid's settings
    return SAMPLERS.build(config, _grid(config))


def _grid(config: ml_collections.ConfigDict) -> Grid:
    validate.integer("sampler.num_steps", config.num_steps, minimum=2)
    return GRIDS.build(config, config.num_steps)
