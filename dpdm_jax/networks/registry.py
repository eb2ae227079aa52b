"""Networks by name."""

import dataclasses
from collections.abc import Callable
from typing import Any

import ml_collections
from jax.typing import DTypeLike

from dpdm_jax import validate
from dpdm_jax.conditions import Condition, num_classes_for
from dpdm_jax.networks import (
    adm,
    latent_unet,
    low_frequencies,
    mixer,
    mlp,
    ncsnpp,
    patches,
    text_transformer,
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


def reads_classes(name: str, build: Callable[..., Network]) -> Callable[..., Network]:
    """Returns the builder of a network that embeds class labels and nothing else.

    Args:
        name: of the network.
        build: takes the settings, (h, w, c), the number of classes, 0 for none,
            ``out_channels`` and ``dtype``.
    """

    def of_condition(
        settings: Any,
        image_shape: tuple[int, int, int],
        condition: Condition,
        *,
        out_channels: int,
        dtype: DTypeLike,
    ) -> Network:
        num_classes = num_classes_for(condition, f"network {name!r}")
        return build(
            settings, image_shape, num_classes, out_channels=out_channels, dtype=dtype
        )

    return of_condition


def _of_classes(name: str, build: Callable[..., Network], settings: type[Any]) -> Kind:
    return Kind(reads_classes(name, build), (Group(f"network.{name}", settings),))


#: A builder takes the settings, (h, w, c), the examples' condition, ``out_channels``
#: and ``dtype``.
ROOM = Room(
    "network.name",
    {
        "adm": _of_classes("adm", adm.build, adm.Settings),
        "latent_unet": Kind(
            latent_unet.build,
            (
                Group("network.latent_unet", latent_unet.Settings),
                Group("network.text_transformer", text_transformer.Settings),
            ),
        ),
        "mixer": Kind(mixer.build, (Group("network.mixer", mixer.Settings),)),
        "mlp": Kind(mlp.build, (Group("network.mlp", mlp.Settings),)),
        "ncsnpp": _of_classes("ncsnpp", ncsnpp.build, ncsnpp.Settings),
        "transformer": Kind(
            transformer.build, (Group("network.transformer", transformer.Settings),)
        ),
    },
    shared=(_EVERY,),
)

#: What is put beside a network; a builder takes the settings, the network, the
#: examples' condition, ``outputs`` as of ``build_network``, and ``dtype``.
BESIDE = Switch(
    "network.low_frequencies.count",
    {
        0: Kind(lambda network, condition, **options: network),
        1: Kind(
            low_frequencies.beside,
            (Group("network.low_frequencies", low_frequencies.Settings),),
        ),
    },
)


def build_network(
    config: ml_collections.ConfigDict,
    image_shape: tuple[int, int, int],
    condition: Condition,
    *,
    outputs: int = 1,
) -> Network:
    """Builds the network that a config names.

    Args:
        config: ``config.network``.
        image_shape: (h, w, c).
        condition: of the examples.
        outputs: channels of its output for each of the image's, >= 1.

    Returns:
        The network.

    Raises:
        InputError: the name is unknown, or a setting is not allowed.
    """
    settings = _EVERY.read(config)
    dtype = DTYPES[settings.dtype]
    shape = patches.folded_shape(image_shape, settings.patch_size)
    network = ROOM.build(
        config, shape, condition, out_channels=outputs * shape[2], dtype=dtype
    )
    network = patches.on_patches(network, settings.patch_size)
    return BESIDE.build(config, network, condition, outputs=outputs, dtype=dtype)
