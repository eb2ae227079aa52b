"""DP diffusion of arXiv 2302.13861 on MNIST, from scratch, eps 10, delta 1e-5.

docs/dp_finetuning.md says of each figure where it is from; the paper's results on MNIST
were not found.

    python -m dpdm_jax.main --config=configs/mnist_adm.py
"""

import ml_collections

from dpdm_jax.configs import base, cifar10_finetune, mnist

VARIANTS = ("eps=10",)


def get_config(variant: str = "eps=10") -> ml_collections.ConfigDict:
    """Returns the config: that of CIFAR-10 with a small network of random weights."""
    base.parse_variant(variant, VARIANTS)
    config = cifar10_finetune.get_config("eps=10")
    config.name = "mnist_adm_eps10"
    config.data = mnist.get_config("eps=10").data
    config.initial = base.get_config().initial

    # Section 1 of docs/dp_finetuning.md: 4,239,041 weights. Attention "at 16" is none
    # of the levels, which have 28, 14 and 7 pixels.
    config.network.adm.base_channels = 64
    config.network.adm.channel_multipliers = (1, 2, 2)
    config.network.adm.num_res_blocks = 1
    config.network.adm.attention_factors = ()

    # Section 2.
    config.diffusion.ddpm.intervals = (200, 800)
    config.diffusion.ddpm.weights = (0.05, 0.9, 0.05)
    # Section 3; ours: a digit's mirror image is none.
    config.diffusion.views.flip = False

    # Section 4.
    config.train.batch_size = 4096
    config.train.num_steps = 4000
    config.train.learning_rate = 5e-4

    # Ours, as in cifar10_finetune.
    config.train.engine_microbatch_size = 2
    config.diffusion.draws_at_once = 0
    config.checkpoint.every_steps = 50
    config.log.every_steps = 10
    config.log.snapshot_every_steps = 250
    config.evaluate.metrics = ("fid", "fid_lenet", "logreg", "mlp", "cnn")
    return config
