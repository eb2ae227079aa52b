"""What the benchmarks run on: the MNIST network, or a smaller one of the same kind."""

import ml_collections

from dpdm_jax import command_line

IMAGE_SHAPE = (28, 28, 1)
NUM_CLASSES = 10

#: What a network of this name changes in ``config.network``.
NETWORKS: dict[str, dict] = {
    "mnist": {},
    # Half the depth: parameters and activations shrink alike.
    "small": {"ncsnpp": {"num_res_blocks": 1}},
    # For tests of the benchmarks themselves: one stage, without attention, for those
    # that compile it many times.
    "mlp": {
        "name": "mlp",
        "mlp": {"base_width": 8, "hidden_width": 32, "num_blocks": 1},
    },
    # For cost curves: quickly compiled, of several sizes.
    **{
        f"mlp_{width}": {
            "name": "mlp",
            "mlp": {"base_width": 32, "hidden_width": width, "num_blocks": 2},
        }
        for width in (32, 128, 256, 512)
    },
    "least": {
        "ncsnpp": {
            "base_width": 8,
            "channel_multipliers": (1,),
            "num_res_blocks": 1,
            "attention_resolutions": (),
        },
    },
    "tiny": {
        "ncsnpp": {
            "base_width": 8,
            "channel_multipliers": (1, 2),
            "num_res_blocks": 1,
            "attention_resolutions": (14,),
        },
    },
}

#: Those that PyTorch's side and the plain port know.
CONVOLUTIONAL = ("mnist", "small", "tiny", "least")


def load_config(network: str, noise_multiplicity: int) -> ml_collections.ConfigDict:
    """The config of the published MNIST run at epsilon 10.

    Args:
        network: a name in ``NETWORKS``.
        noise_multiplicity: K.
    """
    config = command_line.load_config("configs/mnist.py:eps=10")
    config.network.update(NETWORKS[network])
    config.diffusion.noise_multiplicity = noise_multiplicity
    return config


def size(text: str) -> tuple[int, int]:
    """Reads "B,K" from the command line."""
    batch_size, noise_multiplicity = map(int, text.split(","))
    return batch_size, noise_multiplicity
