"""The stage before a run, in whose weights the run begins."""

import pathlib
from typing import Any

import ml_collections

from dpdm_jax import command_line, validate


def parent_of(
    config: ml_collections.ConfigDict, workdir: pathlib.Path
) -> tuple[ml_collections.ConfigDict, pathlib.Path] | None:
    """Finds the run that a config's weights come from, unless it names the weights.

    Args:
        config: the whole config; reads ``initial``.
        workdir: the config's run directory.

    Returns:
        The parent's config, as its file has it, and its run directory: beside the
        child's, so that several children share it. None if there is no parent, or if
        ``initial.weights`` says where it is.

    Raises:
        InputError: ``initial.parent`` names no config, or its name is no folder's.
    """
    settings = config.initial
    if not settings.parent or settings.weights:
        return None
    parent = command_line.load_config(settings.parent)
    name = validate.folder_name(f"name of {settings.parent}", parent.name)
    return parent, workdir.parent / name


def planned_parent(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Returns what public data a run's parent is of, for its plan; {} without one.

    Args:
        config: the whole config.

    Raises:
        InputError: as ``parent_of``.
    """
    parent = parent_of(config, pathlib.Path())
    if parent is None or not parent[0].data.public:
        return {}
    return {"begins_with_public_data": parent[0].data.public}
