"""Networks by name."""

from collections.abc import Callable

import ml_collections

from dpdm_jax import conditions, validate
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
Builder = Callable[
    [ml_collections.ConfigDict, tuple[int, int, int], conditions.Condition], Network
]
#: One that is given a number of classes, 0 for none, in place of the condition.
ClassBuilder = Callable[[ml_collections.ConfigDict, tuple[int, int, int], int], Network]


def reads_classes(name: str, build: ClassBuilder) -> Builder:
    """Returns the builder of a network that embeds class labels and nothing else."""
    return lambda config, image_shape, condition: build(
        config, image_shape, conditions.num_classes_for(condition, f"network {name!r}")
    )


BUILDERS: dict[str, Builder] = {
    "adm": reads_classes("adm", adm.build),
    "mixer": reads_classes("mixer", mixer.build),
    "mlp": reads_classes("mlp", mlp.build),
    "ncsnpp": reads_classes("ncsnpp", ncsnpp.build),
    "transformer": reads_classes("transformer", transformer.build),
}


def build_network(
    config: ml_collections.ConfigDict,
    image_shape: tuple[int, int, int],
    condition: conditions.Condition,
) -> Network:
    """Builds the network that a config names.

    Args:
        config: ``config.network``; ``name`` picks the builder, which reads the rest but
            for ``patch_size`` and ``low_frequencies``.
        image_shape: (h, w, c).
        condition: of the examples.

    Returns:
        The network.

    Raises:
        InputError: the name is unknown, or the builder refuses a field or condition.
    """
    validate.one_of("network.name", config.name, BUILDERS)
    shape = patches.folded_shape(tuple(image_shape), config.patch_size)
    count = config.low_frequencies
    low_frequencies.check_count(image_shape, count)
    network = BUILDERS[config.name](config, shape, condition)
    network = patches.on_patches(network, config.patch_size)
    if count == 0:
        return network
    seen = (count, count, image_shape[-1])
    perceptron = BUILDERS["mlp"](_perceptron(config), seen, condition)
    return low_frequencies.with_perceptron(network, perceptron)


def _perceptron(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    perceptron = config.copy_and_resolve_references()
    perceptron.hidden_width = config.low_frequency_width
    perceptron.num_blocks = 1
    return perceptron
