"""Runs of one config and plan share their step, which takes no key and no data.

Runs that differ in their plans or rates alone share what comes before the noise.
"""

import dataclasses
import os
from collections.abc import Callable
from typing import Any

from dpdm_jax.training import from_config, units

# Sums of clipped gradients know these by the plan's clip norm and unit, or not at all.
_OF_PLANS = ("batch_size", "epochs", "learning_rate", "num_steps")


def shared() -> Callable[..., from_config.Training]:
    """Returns ``build_training``, which compiles a step once for all its runs."""
    made: dict[tuple[Any, ...], Any] = {}

    def build_once(config, plan, loss, noise_key, mesh):
        training = from_config.build_training(config, plan, loss, noise_key, mesh)
        fields = config.copy_and_resolve_references()
        fields.train.stop_after_steps = 0
        fields.codec.cache = "auto"
        chosen = ("data", "codec", "network", "diffusion")
        groups = (repr(fields[name].to_dict()) for name in chosen)
        cheaply = os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"]
        key = (*groups, mesh, cheaply)
        of_train = fields.train.to_dict()
        rest = {n: v for n, v in of_train.items() if n not in _OF_PLANS}
        in_unit = units.images_per_unit(plan.unit)
        sums = made.setdefault(
            (*key, repr(rest), plan.l2_clip_norm, in_unit), training.step_fns
        )
        step_fns = made.setdefault(
            (*key, repr(of_train), repr(plan)),
            dataclasses.replace(sums, finish=training.step_fns.finish),
        )
        return dataclasses.replace(training, step_fns=step_fns)

    return build_once
