"""Sides of the benchmark of latent diffusion.

A step is the library's own, up to noise and optimizer: with clipping for private data,
and without for public.
"""

import math
from collections.abc import Callable

import jax
import ml_collections
import numpy as np

from dpdm_jax import command_line, devices, planning
from dpdm_jax.compilation.memory import program_memory
from dpdm_jax.padding import blank_examples
from dpdm_jax.training.from_config import build_training
from dpdm_jax.training.secrets import fixed_secrets
from experiments.benchmarks import finetune_problem

SEED = 0  # of weights, latents and keys
# Images of an ordinary step at once, the quickest found; of a private one the engine
# chooses.
_ORDINARY_AT_ONCE = 3
# For tests of the benchmark itself.
_LEAST = {
    "train": {"trainable": "attention,condition", "engine_microbatch_size": 1},
    "codec": {
        "kl": {
            "base_channels": 32,
            "channel_multipliers": (1, 1, 1, 1),
            "attention_factors": (),
        }
    },
    "network": {
        "latent_unet": {
            "base_channels": 32,
            "channel_multipliers": (1,),
            "num_res_blocks": 1,
            "attention_factors": (),
            "num_heads": 2,
        }
    },
}


def load_config(network: str, *, is_least: bool) -> ml_collections.ConfigDict:
    """The config of a published run.

    Args:
        network: a config of latent diffusion, in configs/.
        is_least: whether all is tiny.
    """
    config = command_line.load_config(f"configs/{network}.py")
    if is_least:
        config.update(_LEAST)
    return config


def build(
    network: str, selector: str, batch_size: int, *, is_private: bool, is_least: bool
) -> tuple[Callable[[], None], dict[str, int]]:
    """A step of a part of a network.

    Args:
        network: a config of latent diffusion, in configs/.
        selector: ``train.trainable``.
        batch_size: images, of which a few are worked on at once.
        is_private: whether gradients are clipped, image by image.
        is_least: whether all is tiny.

    Returns:
        A function that adds the gradients of a batch to those before, and sizes: of the
        trained weights, and in bytes of the program's memory, and of its arguments.
    """
    config = load_config(network, is_least=is_least)
    config.train.trainable = selector
    config.train.num_steps = 1
    # A plan that is quickly made: the figures do not depend on it.
    config.privacy.noise_multiplier = 100.0
    if not is_private:
        config.train.engine_microbatch_size = _ORDINARY_AT_ONCE
        config.data.public = "random numbers"
        config.privacy.noise_multiplier = None
    model = finetune_problem.load_model(config)
    plan = planning.privacy_plan(config, config.data.num_examples, model)
    assert is_private == math.isfinite(plan.l2_clip_norm)
    secrets, mesh = fixed_secrets(SEED), devices.data_mesh()
    step = build_training(
        config, plan, model.trained_loss(), secrets.noise_key, mesh
    ).step_fns
    trained, fixed = model.split(model.init(jax.random.key(SEED)))
    total = step.start(trained)
    rng = np.random.default_rng(SEED)
    batch = blank_examples(model.example, batch_size)
    batch["image"][:] = rng.normal(size=batch["image"].shape)
    batch["condition"][:] = model.condition.in_turn(batch_size)
    is_padding = np.zeros(batch_size, bool)
    positions = np.arange(batch_size, dtype=np.int32)
    arrays = devices.place((batch, is_padding, positions), devices.divided(mesh))
    call = (trained, fixed, *arrays, secrets.loss_key(0))
    compiled = step.accumulate.lower(total, *call).compile()
    memory = program_memory(compiled)

    def run() -> None:
        nonlocal total
        total = compiled(total, *call)
        jax.block_until_ready(total)

    sizes = {
        "trained": model.num_trained,
        "bytes": memory["peak"] - memory["code"],
        "arguments": memory["arguments"],
    }
    return run, sizes
