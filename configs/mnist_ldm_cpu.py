"""MNIST by latent diffusion from public glyphs, on two CPU cores, delta 1e-5.

The method is DP-LDM's (arXiv 2305.15759): an autoencoder and a latent diffusion model
of public images, of which steps on private ones train the attention alone. The networks
are this project's.

    python -m dpdm_jax.main --config=configs/mnist_ldm_cpu.py:eps=10 \
        --config.initial.weights=runs/glyphs_ldm_public
"""

import ml_collections

from dpdm_jax.configs import base, glyphs_ldm_public, mnist

VARIANTS = ("eps=1", "eps=10")

#: By epsilon: noise draws per image, batch size, steps. The smaller the budget, the
#: more is an image's gradient worth beside the time that it takes.
BUDGETS = {"1": (4, 4096, 30), "10": (2, 4096, 60)}


def get_config(variant: str = "eps=10") -> ml_collections.ConfigDict:
    """Returns the config of a budget: the model of the public stages."""
    epsilon = base.parse_variant(variant, VARIANTS).get("eps", "10")
    config = glyphs_ldm_public.get_config()
    config.name = f"mnist_ldm_cpu_eps{epsilon}"
    config.data = mnist.get_config(variant).data
    config.codec.training = base.get_config().codec.training
    config.initial.parent = "configs/glyphs_ldm_public.py"
    config.train.trainable = "attention"

    draws, batch_size, steps = BUDGETS[epsilon]
    config.diffusion.noise_multiplicity = draws
    config.diffusion.stratified = True
    config.privacy.epsilon = float(epsilon)
    # Shorter than any gradient, each of which then counts as much.
    config.privacy.l2_clip_norm = 1e-3
    config.train.gradient_unit = "clip_norm"
    config.train.batch_size = batch_size
    config.train.exact_batch_size = True
    config.train.num_steps = steps
    config.train.engine_microbatch_size = 16 // draws
    config.train.learning_rate = 4e-3
    config.train.schedule = "constant"
    config.train.warmup_steps = 0
    # The average of the last half of the steps, about.
    config.train.ema_decay = 0.95
    config.checkpoint.every_steps = 10
    config.log.every_steps = 10
    config.log.snapshot_every_steps = 40
    return config
