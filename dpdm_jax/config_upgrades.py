"""Where the fields of earlier configs went.

Format 1, which states no format, had the fields of most kinds side by side, and one
field for several kinds. Format 2 has a group for each kind.
"""

import copy
from collections.abc import Mapping
from typing import Any

#: Today's; stored configs state it.
FORMAT = 2
#: Those that are read.
FORMATS = (1, FORMAT)


def _of_kinds(room: str, kinds: str, fields: str) -> dict[str, tuple[str, ...]]:
    return {
        f"{room}.{field}": tuple(f"{room}.{kind}.{field}" for kind in kinds.split())
        for field in fields.split()
    }


#: Fields of format 1 by their whole names, and what they are now.
MOVED: Mapping[str, tuple[str, ...]] = {
    **_of_kinds("data", "tfds", "name"),
    **_of_kinds(
        "network", "ncsnpp", "channel_multipliers num_res_blocks attention_resolutions"
    ),
    **_of_kinds(
        "network", "ncsnpp mlp mixer transformer low_frequencies", "base_width"
    ),
    **_of_kinds("network", "mlp mixer transformer", "hidden_width num_blocks"),
    **_of_kinds("network", "mlp mixer transformer low_frequencies", "condition_gain"),
    **_of_kinds("network", "transformer", "num_heads"),
    "network.low_frequencies": ("network.low_frequencies.count",),
    "network.low_frequency_width": ("network.low_frequencies.hidden_width",),
    **_of_kinds("diffusion", "edm_dct", "mean_data corner"),
    "diffusion.moments_clip": ("diffusion.edm_moments.clip",),
    "diffusion.moments_components": ("diffusion.edm_moments.components",),
    **_of_kinds("diffusion", "log_normal", "p_mean p_std"),
    **_of_kinds("diffusion", "cosine", "min_log_snr max_log_snr"),
    **_of_kinds("diffusion", "log_uniform", "sigma_min sigma_max"),
    **_of_kinds("diffusion", "vp", "beta_min beta_d num_timesteps eps_t"),
    **_of_kinds("sampler", "ddim", "stochastic"),
    **_of_kinds("sampler", "edm", "rho"),
    **_of_kinds("sampler", "heun", "s_churn s_min s_max s_noise churn_limit"),
    # Gave way to evaluate.metrics, which may differ from call to call.
    "evaluate.classifiers": (),
}
_PRESETS = "sampler_presets"


def upgraded(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a stored config in today's format.

    Args:
        values: JSON values of format 1. What is not as in a config stays as it is.

    Returns:
        JSON values. A field of several kinds is there for each: of kinds that are not
        chosen, too.
    """
    found = copy.deepcopy(dict(values))
    _move(found, MOVED)
    presets = found.get(_PRESETS)
    for preset in presets.values() if isinstance(presets, dict) else ():
        # A preset has fields and groups of the sampler.
        inside = {"sampler": preset}
        _move(inside, MOVED)
    return found | {"format": FORMAT}


def _move(values: dict[str, Any], moved: Mapping[str, tuple[str, ...]]) -> None:
    taken = {}
    for name in moved:
        group, _, field = name.rpartition(".")
        place = values.get(group)
        if not isinstance(place, dict) or isinstance(place.get(field), dict):
            continue
        if field in place:
            taken[name] = place.pop(field)
    for name, value in taken.items():
        for target in moved[name]:
            room, group, field = target.split(".")
            values[room].setdefault(group, {})[field] = value
