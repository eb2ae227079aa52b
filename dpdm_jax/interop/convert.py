"""Official tensors into our parameters, refusing anything that doesn't fit."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from dpdm_jax.errors import InputError
from dpdm_jax.interop import name_maps
from dpdm_jax.interop.official_layers import Target
from dpdm_jax.networks import Network, Params

#: The module of a label table, in the path of its parameter.
LABEL = "label"


def convert(
    state_dict: Mapping[str, np.ndarray],
    network: Network,
    *,
    any_label_table: bool = False,
) -> Params:
    """Converts the official network's tensors.

    Args:
        state_dict: tensors in PyTorch layout by official name, see
            ``name_maps.official_names``.
        network: the network they are for, of a name that is known there.
        any_label_table: whether tables of labels may have other numbers of rows.

    Returns:
        Parameters of ``network``, float32.

    Raises:
        InputError: names are missing or unexpected, or shapes differ; the message
            counts them and lists the first few.
    """
    return placed(
        state_dict,
        name_maps.official_names(network.shapes),
        "the configured network",
        any_label_table=any_label_table,
    )


def placed(
    state_dict: Mapping[str, np.ndarray],
    targets: Mapping[str, Target],
    what: str,
    *,
    any_label_table: bool = False,
) -> Params:
    """Puts official tensors into their places in our parameters.

    Args:
        state_dict: tensors in PyTorch layout by official name.
        targets: their places.
        what: the tensors should be of, for messages.
        any_label_table: see ``convert``.

    Returns:
        Our parameters, float32.

    Raises:
        InputError: see ``convert``.
    """

    def fits(name: str, target: Target) -> bool:
        found, wanted = np.shape(state_dict[name]), target.official_shape
        if any_label_table and LABEL in target.path:
            found, wanted = found[1:], wanted[1:]
        return found == wanted

    missing = [name for name in targets if name not in state_dict]
    unexpected = [name for name in state_dict if name not in targets]
    misshapen = [
        f"{name} {np.shape(state_dict[name])} instead of {target.official_shape}"
        for name, target in targets.items()
        if name in state_dict and not fits(name, target)
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
            f"The tensors are not those of {what}: {'; '.join(problems)}; allowed: "
            "each of its tensors, and no other."
        )
    params: dict[str, Any] = {}
    for name, target in targets.items():
        *parents, leaf = target.path
        node = params
        for parent in parents:
            node = node.setdefault(parent, {})
        tensor = np.transpose(np.asarray(state_dict[name]), target.axes)
        shape = target.shape
        if LABEL in target.path:
            shape = (len(tensor), *shape[1:])
        node[leaf] = jnp.asarray(tensor.reshape(shape), jnp.float32)
    return params


def _some(names: list[str], most: int = 4) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")
