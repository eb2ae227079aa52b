"""Networks by name."""

import dataclasses

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
from dpdm_jax.networks.network import DTYPES, Network
from dpdm_jax.settings import Group, Kind, Room, Switch


@dataclasses.dataclass(frozen=True)
class Settings:
    """What ``config.network`` has for every network.

    Attributes:
        patch_size: side of the squares of pixels that the network sees as one pixel
            with more channels; divides the image's sides. Widths and resolutions of the
            network are counted in those.
        dtype: of the computation, "float32" or "bfloat16"; parameters are float32.

    Raises:
        InputError: the dtype is another one.
    """

    patch_size: int = 1
    dtype: str = "float32"

    def __post_init__(self) -> None:
        validate.one_of("network.dtype", self.dtype, DTYPES)


_EVERY = Group("network", Settings)

#: A builder takes the settings, (h, w, c), the number of classes and ``dtype``.
ROOM = Room(
    "network.name",
    {
        "adm": Kind(adm.build, (Group("network.adm", adm.Settings),)),
        "mixer": Kind(mixer.build, (Group("network.mixer", mixer.Settings),)),
        "mlp": Kind(mlp.build, (Group("network.mlp", mlp.Settings),)),
        "ncsnpp": Kind(ncsnpp.build, (Group("network.ncsnpp", ncsnpp.Settings),)),
        "transformer": Kind(
            transformer.build, (Group("network.transformer", transformer.Settings),)
        ),
    },
    shared=(_EVERY,),
)

#: What is put beside a network; a builder takes the settings, the network, and the
#: dtype of the computation.
BESIDE = Switch(
    "network.low_frequencies.count",
    {
        0: Kind(lambda network, dtype: network),
        1: Kind(
            low_frequencies.beside,
            (Group("network.low_frequencies", low_frequencies.Settings),),
        ),
    },
)


def build_network(
    config: ml_collections.ConfigDict,
    image_shape: tuple[int, int, int],
    num_classes: int,
) -> Network:
    """Builds the network that a config names.

    Args:
        config: ``config.network``.
        image_shape: (h, w, c).
        num_classes: number of classes; 0 for a network without labels.

    Returns:
        The network.

    Raises:
        InputError: the name is unknown, or a setting is not allowed.
    """
    settings = _EVERY.read(config)
    dtype = DTYPES[settings.dtype]
    shape = patches.folded_shape(image_shape, settings.patch_size)
    network = ROOM.build(config, shape, num_classes, dtype=dtype)
    network = patches.on_patches(network, settings.patch_size)
    return BESIDE.build(config, network, dtype)
