"""Networks by name."""

from collections.abc import Callable

import ml_collections

from dpdm_jax import validate
from dpdm_jax.networks import (
    adm,
    low_frequencies,
    mixer,
    mlp,
    ncsnpp,
    patches,
    transformer,
)
from dpdm_jax.networks.network import Network

#: A builder reads its own fields of ``config.network``.
Builder = Callable[[ml_collections.ConfigDict, tuple[int, int, int], int], Network]

BUILDERS: dict[str, Builder] = {
    "adm": adm.build,
    "mixer": mixer.build,
    "mlp": mlp.build,
    "ncsnpp": ncsnpp.build,
    "transformer": transformer.build,
}


def build_network(
    config: ml_collections.ConfigDict,
    image_shape: tuple[int, int, int],
    num_classes: int,
) -> Network:
    """Builds the network that a config names.

    Args:
        config: ``config.network``; ``name`` picks the builder, which reads the rest but
            for ``patch_size`` and ``low_frequencies``.
        image_shape: (h, w, c).
        num_classes: number of classes; 0 for a network without labels.

    Returns:
        The network.

    Raises:
        InputError: the name is unknown, or the builder refuses a field.
    """
    validate.one_of("network.name", config.name, BUILDERS)
    shape = patches.folded_shape(image_shape, config.patch_size)
    count = config.low_frequencies
    low_frequencies.check_count(image_shape, count)
    network = BUILDERS[config.name](config, shape, num_classes)
    network = patches.on_patches(network, config.patch_size)
    if count == 0:
        return network
    seen = (count, count, image_shape[-1])
    perceptron = mlp.build(_perceptron(config), seen, num_classes)
    return low_frequencies.with_perceptron(network, perceptron)


def _perceptron(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    perceptron = config.copy_and_resolve_references()
    perceptron.hidden_width = config.low_frequency_width
    perceptron.num_blocks = 1
    return perceptron
