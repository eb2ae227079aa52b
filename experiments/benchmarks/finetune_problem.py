"""What the benchmark of DP fine-tuning runs on: its networks, or a tiny one."""

import ml_collections

from dpdm_jax import command_line
from dpdm_jax.conditions import of_classes
from dpdm_jax.models.model import Model, build_model

#: Network -> file in configs/, and what changes of the config.
NETWORKS: dict[str, tuple[str, dict]] = {
    "adm_80m": ("cifar10_finetune", {}),
    "adm_4m": ("mnist_adm", {}),
    # For tests of the benchmark itself.
    "least": (
        "mnist_adm",
        {
            "data": {"image_size": 8},
            "network": {
                "adm": {
                    "base_channels": 32,
                    "channel_multipliers": (1,),
                    "head_channels": 32,
                }
            },
        },
    ),
}


def load_config(
    network: str, dtype: str, noise_multiplicity: int, draws_at_once: int
) -> ml_collections.ConfigDict:
    """The config of a network, of one private step.

    Args:
        network: a name in ``NETWORKS``.
        dtype: of the network.
        noise_multiplicity: K, views of an image.
        draws_at_once: views that the network sees together.
    """
    name, changes = NETWORKS[network]
    config = command_line.load_config(f"configs/{name}.py")
    config.update(changes)
    config.network.dtype = dtype
    config.diffusion.noise_multiplicity = noise_multiplicity
    config.diffusion.draws_at_once = draws_at_once
    config.train.num_steps = 1
    # One image at a time: a step holds one gradient, whatever its batch.
    config.train.engine, config.train.engine_microbatch_size = "scan", 1
    # A plan that is quickly made: the figures do not depend on it.
    config.privacy.noise_multiplier = 100.0
    return config


def load_model(config: ml_collections.ConfigDict) -> Model:
    """The model of a config, of the config's own shape of images."""
    data = config.data
    shape = (data.image_size, data.image_size, data.channels)
    return build_model(config, shape, of_classes(data.num_classes))
