"""Fashion-MNIST on two CPU cores: as MNIST, but for data, moments and noise levels.

experiments/mnist_cpu says what it reaches, and on what machine.

    python -m dpdm_jax.main --config=configs/fashion_mnist_cpu.py:eps=10
"""

import ml_collections

from dpdm_jax.configs import mnist_cpu

VARIANTS = mnist_cpu.VARIANTS


def get_config(variant: str = "eps=10") -> ml_collections.ConfigDict:
    """Returns the config of a budget."""
    config = mnist_cpu.get_config(variant)
    config.name = f"fashion_{config.name}"
    config.data.tfds.name = "fashion_mnist"
    # Garments on black. Assumed, not measured.
    config.diffusion.edm_dct.mean_data = -0.5
    # Cloth is decided at smaller noise than a digit's shape.
    config.diffusion.log_normal.p_mean = -0.4
    if config.privacy.epsilon == 10:
        # Makes the steps' noise larger by 5 %.
        config.diffusion.edm_moments.components = 20
        config.diffusion.noise_multiplicity = 4
        config.train.batch_size, config.train.num_steps = 4000, 150
        config.train.engine_microbatch_size = 4
    return config
