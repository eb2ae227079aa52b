"""The config of a release, to sample from it or to evaluate it.

    python -m dpdm_jax.main --config=configs/released.py:FOLDER --mode=sample

The folder is one that --mode=release wrote. --config.x.y= overrides as ever.
"""

import ml_collections

from dpdm_jax.configs import base
from dpdm_jax.errors import reason
from dpdm_jax.release import bundle as release_bundle
from dpdm_jax.user_paths import user_path


def get_config(bundle: str = "") -> ml_collections.ConfigDict:
    """Returns the config of a release.

    Args:
        bundle: its folder.

    Raises:
        ValueError: there is no release, or its config is of another version.
    """
    folder = user_path("the release", bundle)
    try:
        config = release_bundle.read_config(folder)
    except ValueError as e:
        raise ValueError(
            f"{folder / release_bundle.CONFIG} cannot be read ({reason(e)}); allowed: "
            "configs/released.py:FOLDER with the folder of a release."
        ) from None
    presets = base.get_config().sampler_presets
    presets.update(config.sampler_presets)
    config.sampler_presets = presets
    # Not the directory of the run that it came from.
    config.name = f"{config.name}_released"
    config.release.bundle = bundle
    return config
