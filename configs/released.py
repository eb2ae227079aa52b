"""The config of a release, to sample from it or to evaluate it.

    python -m dpdm_jax.main --config=configs/released.py:FOLDER --mode=sample

The folder is one that --mode=release wrote. --config.x.y= overrides as ever.
"""

import json
import pathlib

import ml_collections

from configs import base
from dpdm_jax import run_dir


def get_config(bundle: str = "") -> ml_collections.ConfigDict:
    """Returns the config of a release.

    Args:
        bundle: its folder.

    Raises:
        ValueError: there is no release, or its config is of another version.
    """
    path = pathlib.Path(bundle) / "config.json"
    try:
        released = run_dir.from_json_values(json.loads(path.read_bytes()))
        config = base.get_config()
        config.update(released)
    except (OSError, ValueError, AttributeError, TypeError) as e:
        raise ValueError(
            f"{path} cannot be read ({type(e).__name__}); allowed: "
            "configs/released.py:FOLDER with the folder of a release."
        ) from None
    # Not the directory of the run that it came from.
    config.name = f"{config.name}_released"
    config.release.bundle = bundle
    return config
