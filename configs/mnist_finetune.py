"""MNIST from public glyphs, on two CPU cores, delta 1e-5.

DP fine-tuning (arXiv 2302.13861) with a small network of this project's, and public
images that need no download.

    python -m dpdm_jax.main --config=configs/mnist_finetune.py:eps=10 \
        --config.initial.weights=runs/glyphs_public
"""

import ml_collections

from dpdm_jax.configs import base, mnist, mnist_cpu

VARIANTS = mnist.VARIANTS

#: By epsilon: noise draws per image, batch size, steps. The smaller the budget, the
#: more is an image's gradient worth beside the time that it takes.
BUDGETS = {"0.2": (16, 4096, 20), "1": (8, 4096, 40), "10": (2, 4096, 150)}


def get_config(variant: str = "eps=10") -> ml_collections.ConfigDict:
    """Returns the config of a budget: the model of the public stage."""
    epsilon = base.parse_variant(variant, VARIANTS).get("eps", "10")
    config = mnist_cpu.network_alone()
    config.name = f"mnist_finetune_eps{epsilon}"
    config.initial.parent = "configs/glyphs_public.py"

    draws, batch_size, steps = BUDGETS[epsilon]
    config.diffusion.noise_multiplicity = draws
    config.privacy.epsilon = float(epsilon)
    # Shorter than any gradient, each of which then counts as much.
    config.privacy.l2_clip_norm = 1e-3
    config.train.gradient_unit = "clip_norm"
    config.train.batch_size = batch_size
    config.train.exact_batch_size = True
    config.train.num_steps = steps
    config.train.engine_microbatch_size = 16 // draws
    # Handwriting is far from print, and the steps are few.
    config.train.learning_rate = 4e-3
    config.train.warmup_steps = 0
    config.checkpoint.every_steps = 10
    config.log.snapshot_every_steps = 50
    return config
