"""From the units of privacy that a step takes to the images that it reads."""

import numpy as np

from dpdm_jax import data
from dpdm_jax.padding import PADDING
from dpdm_jax.privacy import group_selection
from dpdm_jax.privacy.units import Group


def images_per_unit(unit: Group | None) -> int:
    """Returns how many images of a unit a step has room for.

    Args:
        unit: of a plan; None for one image.
    """
    return 1 if unit is None else unit.images


def load_units(
    source: data.Source,
    groups: data.Groups | None,
    units: np.ndarray,
    room: int,
    seed: bytes,
    step: int,
) -> data.Batch:
    """Reads the images of some units, each with the room of so many.

    Args:
        source: of the images.
        groups: whose they are; None if each is a unit of its own.
        units: int [m], numbers of units, or -1 for padding.
        room: g, see ``images_per_unit``.
        seed: secret, of the batches.
        step: of the run.

    Returns:
        Images [m g, ...], those of one unit after another's, and where there is none.
    """
    if groups is None:
        return data.load_batch(source, units)
    rows = np.full((len(units), room), PADDING, np.int64)
    for place in np.flatnonzero(units != PADDING):
        group = int(units[place])
        members = groups.members(group)
        chosen = group_selection.choose(seed, step, group, len(members), room)
        rows[place, : len(chosen)] = members[chosen]
    return data.load_batch(source, rows.reshape(-1))
