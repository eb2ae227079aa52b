"""Weights of one model into another of the same network."""

import jax
import numpy as np

from dpdm_jax.conditions import Condition, Tokens
from dpdm_jax.errors import InputError
from dpdm_jax.interop.convert import LABEL
from dpdm_jax.models.identity import named_leaves
from dpdm_jax.networks import Params

#: What becomes of label tables: taken as they are, or by their first rows where they
#: have more; left random, or set to zero.
TABLES = ("reuse", "first", "random", "zero")


def fit(
    found: Params, wanted: Params, label_table: str, num_classes: int = 0
) -> Params:
    """Takes weights that are called and shaped as those of a network.

    Args:
        found: the weights.
        wanted: the network's own, random ones.
        label_table: one of ``TABLES``, for tables of classes.
        num_classes: of the network, for "first". Class i gets row i; a row behind the
            classes, that of the null label, gets the last.

    Returns:
        Parameters like ``wanted``.

    Raises:
        InputError: names or shapes differ; the first that does is named.
    """
    have, want = named_leaves(found), named_leaves(wanted)
    for name in sorted({*have, *want}):
        if name not in have or name not in want:
            state = "lack" if name in want else "have the unknown"
            raise InputError(
                f"the initial weights {state} {name}; allowed: those of the config's "
                "network."
            )
    leaves = [
        _taken(name, np.asarray(have[name]), np.asarray(own), label_table, num_classes)
        for name, own in want.items()
    ]
    return jax.tree.unflatten(jax.tree.structure(wanted), leaves)


def check_tokens(found: Condition, wanted: Condition) -> None:
    """Refuses weights that read text in other tokens than a network's.

    Args:
        found: what the weights were trained on.
        wanted: what the network reads.

    Raises:
        InputError: both read text, in other tokens.
    """
    if isinstance(found, Tokens) and isinstance(wanted, Tokens) and found != wanted:
        raise InputError(
            f"the initial weights read {found} and the config's data has {wanted}; "
            "allowed: the same length and vocabulary."
        )


def _taken(
    name: str, value: np.ndarray, own: np.ndarray, label_table: str, num_classes: int
) -> np.ndarray:
    is_table = LABEL in name.split("/")
    if is_table and label_table in ("random", "zero"):
        return own if label_table == "random" else np.zeros_like(own)
    if is_table and label_table == "first":
        value = _first(name, value, own, num_classes)
    if value.shape != own.shape:
        hint = ""
        if is_table:
            hint = ", or initial.label_table 'random' or 'zero'"
            if len(value) > len(own):
                hint = ", or initial.label_table 'first', 'random' or 'zero'"
        raise InputError(
            f"the initial weights {name} have shape {value.shape}; allowed: "
            f"{own.shape}, that of the config's network{hint}."
        )
    return value.astype(own.dtype)


def _first(
    name: str, value: np.ndarray, own: np.ndarray, num_classes: int
) -> np.ndarray:
    """The first rows of a table for the classes, and the last ones for what follows."""
    if len(value) < len(own):
        raise InputError(
            f"the initial weights {name} have {len(value)} rows and "
            f"initial.label_table is 'first'; allowed: at least {len(own)} rows, as "
            "many as the config's network has, or 'random' or 'zero'."
        )
    behind = len(own) - num_classes
    return np.concatenate([value[:num_classes], value[len(value) - behind :]])
