"""Sides of the benchmark of large networks; runs in a ``worker.Worker`` each.

A process of its own tells how much memory a side takes.
"""

import pathlib
from collections.abc import Callable
from typing import Any

from dpdm_jax import files, xla_flags

# Flags must be set before JAX looks for them.
xla_flags.configure()

from experiments.benchmarks import resident  # noqa: E402


def side(
    kind: str, name: str, size: dict[str, Any], answer: str
) -> dict[str, Callable[[], None]]:
    """A step, which has been taken once.

    Args:
        kind: "pixels", of ``finetune_sides``, or "latents", of ``latent_sides``.
        name: "private", "ordinary", "private_part" (latents: the config's own
            ``train.trainable``), or "torch_ordinary".
        size: arguments of what builds the side.
        answer: .json file for the bytes that a step takes: its arguments, weights among
            them, and the rise of the resident memory in a second step; and for those
            that --mode=plan expects of it, of a private one.

    Returns:
        "step" -> function that takes a step.
    """
    builders = {"pixels": _of_pixels, "latents": _of_latents}
    run, held = builders[kind](name, size)
    run()
    found = {"bytes": held + resident.rise(run)}
    if name.startswith("private"):
        found["planned_bytes"] = _planned(kind, name, size)
    files.write_json(pathlib.Path(answer), found)
    return {"step": run}


def _planned(kind: str, name: str, size: dict[str, Any]) -> int:
    """What the plan of a run says, without its average and Adam's two moments."""
    from dpdm_jax import planning
    from experiments.benchmarks import finetune_problem, latent_sides

    if kind == "pixels":
        config = finetune_problem.load_config(
            size["network"],
            size["dtype"],
            size["noise_multiplicity"],
            size["views_at_once"],
        )
    else:
        config = latent_sides.load_config(size["network"], is_least=size["is_least"])
        config.privacy.noise_multiplier, config.train.num_steps = 100.0, 1
        if name == "private":
            config.train.trainable = "all"
    config.train.microbatch_size = size["batch_size"]
    plan = planning.plan_report(config)
    kept_by_the_rest = 3 * 4 * plan["num_trained"]
    return int(plan["estimated_device_memory_bytes"]) - kept_by_the_rest


_Built = tuple[Callable[[], None], int]


def _of_pixels(name: str, size: dict[str, Any]) -> _Built:
    if name == "torch_ordinary":
        from experiments.benchmarks import torch_finetune

        return _of_torch(*torch_finetune.step_of(**size))
    from dpdm_jax.compilation.memory import program_memory
    from experiments.benchmarks import finetune_sides

    built = finetune_sides.build(name, size)
    held = program_memory(built.compiled)["arguments"]
    return finetune_sides.runner(built), held


def _of_latents(name: str, size: dict[str, Any]) -> _Built:
    if name == "torch_ordinary":
        from experiments.benchmarks import torch_latent_unet

        return _of_torch(*torch_latent_unet.step_of(**size))
    from experiments.benchmarks import latent_sides

    selector = "all"
    if name == "private_part":
        own = latent_sides.load_config(size["network"], is_least=size["is_least"])
        selector = own.train.trainable
    is_private = name != "ordinary"
    run, sizes = latent_sides.build(selector=selector, is_private=is_private, **size)
    return run, sizes["arguments"]


def _of_torch(run: Callable[[], None], module: Any) -> _Built:
    return run, sum(p.nbytes for p in module.parameters())
