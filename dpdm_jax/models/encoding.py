"""What a codec makes of images, ahead of the loss: a compiled program of its own.

It is the same whether its result goes into a step at once or is kept for it; as a part
of the step's program it would be fused with the rest, and round in another way.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import ml_collections
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array

from dpdm_jax.devices import DATA_AXIS
from dpdm_jax.networks import Params
from dpdm_jax.networks.codecs import KEPT, Codec
from dpdm_jax.networks.codecs.registry import cache_of

#: ``encode(fixed, examples) -> examples``, of the parameters that no step changes and
#: of arrays [n, ...] that are divided over the devices.
Encode = Callable[[Any, Any], Any]

# Most images of an accelerator: enough to occupy it, and little memory.
_AT_ONCE = 16
# "auto" keeps no more than this in the memory of the host.
_IN_MEMORY = 2**30


def place_of_laws(
    config: ml_collections.ConfigDict, codec: Codec, num_examples: int, visits: float
) -> str:
    """Says where a run keeps the laws of its training images.

    Args:
        config: ``config.codec``.
        codec: of the model.
        num_examples: images in all.
        visits: how often all steps together will see an image.

    Returns:
        "memory", "disk" or "off".

    Raises:
        InputError: a setting is not allowed.
    """
    chosen = cache_of(config)
    if chosen != "auto":
        return chosen
    if visits <= num_examples:
        return "off"  # there is nothing to spare
    law = codec.law_spec
    size = num_examples * law.size * law.dtype.itemsize
    return "memory" if size <= _IN_MEMORY else "disk"


def images_at_once(platform: str) -> int:
    """Returns how many images a device encodes together, at most.

    Args:
        platform: of the device. A CPU is as fast with one, and its libraries round what
            is convolved by its place among others.
    """
    return 1 if platform == "cpu" else _AT_ONCE


def weights_of(params: Params) -> Params:
    """Returns what a codec keeps of a model's parameters, or of the fixed ones."""
    return {KEPT: params[KEPT]}


def as_read(fixed: Any, examples: Any) -> Any:
    """Leaves examples as they are; see ``Encode``."""
    del fixed
    return examples


def make_encoder(codec: Codec, mesh: Mesh) -> Encode:
    """Builds what makes of examples of a source those that the loss takes.

    Args:
        codec: of the model.
        mesh: devices with the one axis ``DATA_AXIS``.

    Returns:
        The function; ``as_read`` where the law is the image itself.
    """
    if codec.law_spec == codec.spec:
        return as_read
    laws = encoding_program(codec, mesh)

    def encode(fixed: Any, examples: Any) -> Any:
        return examples | {"image": laws(weights_of(fixed), examples["image"])}

    return encode


def encoding_program(codec: Codec, mesh: Mesh) -> jax.stages.Wrapped:
    """Builds the jitted function that gives the laws of a batch.

    Args:
        codec: of the model.
        mesh: see ``make_encoder``.

    Returns:
        ``laws(weights, images [n, ...]) -> laws [n, ...]``, see ``weights_of``. To the
        last bit, the law of an image follows on a CPU from that image; elsewhere from n
        as well, and from the image's place where a compiler rounds by that.
    """
    most = images_at_once(mesh.devices.flat[0].platform)
    per_device = P(DATA_AXIS)

    @jax.jit
    @functools.partial(
        jax.shard_map,
        mesh=mesh,
        in_specs=(P(), per_device),
        out_specs=per_device,
        check_vma=False,  # nothing is exchanged
    )
    def laws(params: Any, images: Array) -> Array:
        return jax.lax.map(
            # Mapped over single images: none can have a part in another's law.
            lambda image: codec.law(params, image[None])[0],
            images,
            batch_size=_together(len(images), most),
        )

    return laws


def _together(number: int, most: int) -> int:
    """As many images, at most so many, as leave none over for another program."""
    return max(n for n in range(1, most + 1) if number % n == 0)
