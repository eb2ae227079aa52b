"""Runs of one config and plan share their step, which takes no key and no data."""

import dataclasses
import os
from collections.abc import Callable
from typing import Any

from dpdm_jax.training import from_config


def shared() -> Callable[..., from_config.Training]:
    """Returns ``build_training``, which compiles a step once for all its runs."""
    made: dict[tuple[Any, ...], Any] = {}

    def build_once(config, plan, loss, noise_key, mesh):
        training = from_config.build_training(config, plan, loss, noise_key, mesh)
        fields = config.copy_and_resolve_references()
        fields.train.stop_after_steps = 0
        fields.codec.cache = "auto"
        chosen = ("data", "codec", "network", "diffusion")
        groups = (repr(fields[name]) for name in chosen)
        cheaply = os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"]
        key = (*groups, repr(fields.train), repr(plan), mesh, cheaply)
        step_fns = made.setdefault(key, training.step_fns)
        return dataclasses.replace(training, step_fns=step_fns)

    return build_once
