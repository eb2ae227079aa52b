"""Official tensors into our parameters, refusing anything that doesn't fit."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dpdm_jax.errors import InputError
from dpdm_jax.interop import name_maps
from dpdm_jax.networks import Network, Params


def convert(state_dict: Mapping[str, np.ndarray], network: Network) -> Params:
    """Converts the official network's tensors.

    Args:
        state_dict: tensors in PyTorch layout by official name: DPDM's
            ``all_modules.0.weight`` and so on, or guided-diffusion's
            ``time_embed.0.weight`` and so on.
        network: the network they are for, of name ncsnpp or adm.

    Returns:
        Parameters of ``network``, float32.

    Raises:
        InputError: names are missing or unexpected, or shapes differ; the message
            counts them and lists the first few.
    """
    shapes = jax.eval_shape(network.init, jax.random.key(0))
    targets = name_maps.official_names(shapes)
    missing = [name for name in targets if name not in state_dict]
    unexpected = [name for name in state_dict if name not in targets]
    misshapen = [
        f"{name} {np.shape(state_dict[name])} instead of {target.official_shape}"
        for name, target in targets.items()
        if name in state_dict and np.shape(state_dict[name]) != target.official_shape
    ]
    problems = [
        f"{len(names)} {kind}: {_some(names)}"
        for kind, names in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("misshapen", misshapen),
        )
        if names
    ]
    if problems:
        raise InputError(
            "The tensors are not those of the configured network; "
            + "; ".join(problems)
            + "."
        )
    params: dict[str, Any] = {}
    for name, target in targets.items():
        *parents, leaf = target.path
        node = params
        for parent in parents:
            node = node.setdefault(parent, {})
        tensor = np.transpose(np.asarray(state_dict[name]), target.axes)
        node[leaf] = jnp.asarray(tensor.reshape(target.shape), jnp.float32)
    return params


def _some(names: list[str], most: int = 4) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")
