"""What the benchmark on a GPU runs on: published networks with their noise draws."""

import ml_collections

from dpdm_jax import command_line
from experiments.benchmarks import problem

#: Network -> config, and what changes of it.
NETWORKS: dict[str, tuple[str, dict]] = {
    "mnist": ("configs/mnist.py:eps=10", {}),
    "cifar10": ("configs/cifar10.py", {}),
    # For tests of the benchmark itself; PyTorch knows the second alone.
    **{
        name: (
            "configs/mnist.py:eps=10",
            {
                "data": {"image_size": 8},
                "network": problem.NETWORKS[name],
                "diffusion": {"noise_multiplicity": 2},
            },
        )
        for name in ("mlp", "least")
    },
}
# Noisy images that keep a large GPU busy, whose activations take some 20 GB in float32.
_MANY, _WITHIN = 2048, 60 * 10**9
_FEW = 512


def load_config(network: str) -> ml_collections.ConfigDict:
    """The config of a published run, K included.

    Args:
        network: a name in ``NETWORKS``.
    """
    name, changes = NETWORKS[network]
    config = command_line.load_config(name)
    config.update(changes)
    return config


def noisy_images(bytes_limit: int | None) -> int:
    """How many noisy images, B K, a batch has.

    Args:
        bytes_limit: of the device's memory; None where it is not known.
    """
    return _MANY if (bytes_limit or 0) >= _WITHIN else _FEW
