"""MNIST on two CPU cores: a small transformer, few steps, delta 1e-5.

experiments/mnist_cpu says what it reaches, and on what machine.

    python -m dpdm_jax.main --config=configs/mnist_cpu.py:eps=10
"""

import ml_collections

from configs import mnist


def get_config(variant: str = "eps=10") -> ml_collections.ConfigDict:
    """Returns the config of a budget, one of ``configs/mnist.py``'s."""
    config = mnist.get_config(variant)
    config.name = config.name.replace("mnist", "mnist_cpu")
    config.network.name = "transformer"
    config.network.patch_size = 4
    config.network.hidden_width = 96
    config.network.num_blocks = 4
    config.network.num_heads = 3
    # Time is scarcer here than privacy: new images are worth more than new noise.
    config.diffusion.noise_multiplicity = 2
    config.diffusion.stratified = True
    config.train.batch_size = 750
    config.train.num_steps = 1500
    config.train.learning_rate = 5e-3
    config.train.schedule = "cosine"
    config.train.warmup_steps = 20
    config.train.ema_decay = 0.995
    config.checkpoint.every_steps = 50
    config.log.snapshot_every_steps = 100
    config.sample.num_images = 10_000
    config.evaluate.metrics = ("fid_lenet", "cnn")
    config.release.dtype = "float16"
    return config
