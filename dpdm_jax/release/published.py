"""Which settings, metrics and samples of a run a release may show.

A config names places on a machine, and perhaps people and projects by way of them; it
may hold the seed of fixed keys; and the labels of samples may be read from a file that
somebody counted off private data. The rest of it is public by the privacy contract:
sizes, classes and settings.
"""

import re
from typing import Any

import ml_collections

from dpdm_jax import run_dir

_FROM_TRAINING = ("name", "seed", "data", "network", "diffusion", "privacy", "train")
# These may have been chosen after training; they use nothing private.
_AS_OF_NOW = ("sampler", "sampler_presets", "sample", "evaluate")
_EMPTIED = {"data.path": "", "privacy.fixed_keys_seed": None}
# Absolute paths, homes, drives, shares and URLs, anywhere in a text.
_PLACE = re.compile(r"(?:^|[\s\"'=(,;:\[])(?:/|~[/\w]|[A-Za-z]:[\\/]|\\\\|file:)\S")


def published_config(
    trained: dict[str, Any], present: ml_collections.ConfigDict
) -> tuple[dict[str, Any], list[str]]:
    """Returns what of a run's settings may be published.

    Args:
        trained: the config that the weights were trained with, as JSON values.
        present: the config of the release: sampler, samples and evaluation.

    Returns:
        JSON values, and the names of the fields that were emptied.
    """
    now = run_dir.to_json_values(present)
    return clean_config(trained | {name: now[name] for name in _AS_OF_NOW})


def clean_config(values: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Leaves out the groups of a config that are not published, and empties fields.

    Args:
        values: a config as JSON values.

    Returns:
        JSON values, and the names of the fields that were emptied.
    """
    groups = (*_FROM_TRAINING, *_AS_OF_NOW)
    values = {name: values[name] for name in groups if name in values}
    emptied: list[str] = []

    def clean(value: Any, name: str) -> Any:
        if isinstance(value, dict):
            return {
                field: clean(inner, f"{name}.{field}" if name else field)
                for field, inner in value.items()
            }
        if name in _EMPTIED:
            replacement = _EMPTIED[name]
        elif name == "sample.labels" and is_file(value):
            replacement = "uniform"
        else:
            replacement = without_places(value)
        if replacement != value:
            emptied.append(name)
        return replacement

    return clean(values, ""), emptied


def without_places(value: Any) -> Any:
    """Returns JSON values in which texts that name a place on a machine are empty."""
    if isinstance(value, dict):
        return {without_places(k): without_places(v) for k, v in value.items()}
    if isinstance(value, list):
        return [without_places(v) for v in value]
    if isinstance(value, str) and _PLACE.search(value):
        return ""
    return value


def is_file(labels: Any) -> bool:
    """Whether ``sample.labels`` names a file, whose labels may be private."""
    return isinstance(labels, str) and labels.endswith(".npy")
