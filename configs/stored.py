"""The config of a run, as its directory has it: to sample from it or to evaluate it.

    python -m dpdm_jax.main --config=configs/stored.py:WORKDIR --mode=sample

It is what --workdir=WORKDIR alone means to the modes behind training.
"""

import ml_collections

from dpdm_jax import json_values, run_dir, stored_config
from dpdm_jax.errors import reason
from dpdm_jax.user_paths import user_path


def get_config(workdir: str = "") -> ml_collections.ConfigDict:
    """Returns the config of a run.

    Args:
        workdir: its directory.

    Raises:
        ValueError: there is none, or it is damaged.
    """
    path = user_path("the run", workdir) / run_dir.CONFIG
    try:
        values = json_values.loads(path.read_bytes())
        if not isinstance(values, dict):
            raise ValueError("no object")
    except (OSError, ValueError) as e:
        raise ValueError(
            f"{path} cannot be read ({reason(e)}); allowed: "
            "configs/stored.py:WORKDIR with the directory of a run."
        ) from None
    return stored_config.read(values, path)
