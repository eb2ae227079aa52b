"""Runs of one config and plan share their step, which takes no key and no data.

Runs that differ in their plans or rates alone share what comes before the noise, and
those that differ in their engines what comes from the noise on.
"""

import dataclasses
import os
from collections.abc import Callable
from typing import Any

from dpdm_jax.training import from_config, units

# Sums of clipped gradients know these by the plan's clip norm and unit, or not at all.
_OF_PLANS = ("batch_size", "epochs", "learning_rate", "num_steps")
# How a sum is made, which is the same sum.
_OF_ENGINES = ("engine", "engine_microbatch_size", "microbatch_size")


def shared() -> Callable[..., from_config.Training]:
    """Returns ``build_training``, which compiles a step once for all its runs."""
    made: dict[tuple[Any, ...], Any] = {}

    def build_once(config, plan, loss, noise_key, mesh):
        training = from_config.build_training(config, plan, loss, noise_key, mesh)
        fields = config.copy_and_resolve_references()
        fields.train.stop_after_steps = 0
        fields.codec.cache, fields.data.on_demand = "auto", False
        chosen = ("data", "codec", "network", "diffusion")
        groups = (repr(fields[name].to_dict()) for name in chosen)
        cheaply = os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"]
        key = (*groups, mesh, cheaply)
        of_train = fields.train.to_dict()

        def rest(names):
            return repr({n: v for n, v in of_train.items() if n not in names})

        in_unit = units.images_per_unit(plan.unit)
        sums = made.setdefault(
            (*key, rest(_OF_PLANS), plan.l2_clip_norm, in_unit), training.step_fns
        )
        finish = made.setdefault(
            (*key, rest(_OF_ENGINES), repr(plan)), training.step_fns.finish
        )
        step_fns = dataclasses.replace(sums, finish=finish)
        return dataclasses.replace(training, step_fns=step_fns)

    return build_once
