"""What a codec makes of images, ahead of the loss: a compiled program of its own.

It is the same whether its result goes into a step at once or is kept for it; as a part
of the step's program it would be fused with the rest, and round in another way. Views
of images have another program, whose results are of one step and never kept.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array

from dpdm_jax.devices import DATA_AXIS
from dpdm_jax.diffusion.losses import VIEWS_STREAM
from dpdm_jax.models import image_keys
from dpdm_jax.models.model import Model
from dpdm_jax.networks import Params
from dpdm_jax.networks.codecs import KEPT, Codec
from dpdm_jax.networks.codecs.registry import cache_of

#: ``encode(fixed, examples, positions, step_key) -> examples``, of the parameters that
#: no step changes, of arrays [n, ...] that are divided over the devices, of the places
#: of their units in the logical batch, and of the key of the step.
Encode = Callable[[Any, Any, Any, Any], Any]

# Most images of an accelerator: enough to occupy it, and little memory.
_AT_ONCE = 16
# "auto" keeps no more than this in the memory of the host.
_IN_MEMORY = 2**30


def place_of_laws(
    config: ml_collections.ConfigDict, model: Model, num_examples: int, visits: float
) -> str:
    """Says where a run keeps the laws of its training images.

    Args:
        config: ``config.codec``.
        model: of the run.
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
    if model.encodes_views or visits <= num_examples:
        return "off"  # there is nothing to spare
    law = model.codec.law_spec
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


def as_read(fixed: Any, examples: Any, positions: Any, step_key: Any) -> Any:
    """Leaves examples as they are; see ``Encode``."""
    del fixed, positions, step_key
    return examples


def make_encoder(model: Model, mesh: Mesh, *, images_per_unit: int = 1) -> Encode:
    """Builds what makes of examples of a source those that the loss takes.

    Args:
        model: of the run.
        mesh: devices with the one axis ``DATA_AXIS``.
        images_per_unit: g, the room for images in a unit of privacy; n = m g.

    Returns:
        The function; ``as_read`` where the law is the image itself.
    """
    codec = model.codec
    if codec.law_spec == codec.spec:
        return as_read
    if model.encodes_views:
        of_views = views_program(model, mesh, images_per_unit=images_per_unit)

        def encode_views(fixed: Any, examples: Any, *which: Any) -> Any:
            made = of_views(weights_of(fixed), examples["image"], *which)
            return examples | {"image": made}

        return encode_views
    laws = encoding_program(codec, mesh)

    def encode(fixed: Any, examples: Any, *which: Any) -> Any:
        del which
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


def views_program(
    model: Model, mesh: Mesh, *, images_per_unit: int
) -> jax.stages.Wrapped:
    """Builds the jitted function that gives the laws of views of a batch.

    Views are those that ``diffusion.losses`` would draw of pixels.

    Args:
        model: of the run.
        mesh: see ``make_encoder``.
        images_per_unit: likewise.

    Returns:
        ``laws(weights, images [n, ...], positions int32 [m], step_key) -> laws
        [n, V, ...]``. To the last bit, those of an image follow on a CPU from it, its
        unit's position and the key; see ``encoding_program`` for other devices.
    """
    most = images_at_once(mesh.devices.flat[0].platform)
    views, codec = model.views, model.codec
    number = views.number(model.draws.noise_multiplicity)
    per_device = P(DATA_AXIS)

    @jax.jit
    @functools.partial(
        jax.shard_map,
        mesh=mesh,
        in_specs=(P(), per_device, per_device, P()),
        out_specs=per_device,
        check_vma=False,  # nothing is exchanged
    )
    def laws(params: Any, images: Array, positions: Array, step_key: Array) -> Array:
        keys = image_keys.of_step(step_key, positions, images_per_unit)
        keys = jax.vmap(jax.random.fold_in, (0, None))(keys, VIEWS_STREAM)
        keys = jax.vmap(lambda key: jax.random.split(key, number))(keys)

        def of_view(which: tuple[Array, Array]) -> Array:
            row, key = which
            return codec.law(params, views.view(key, images[row])[None])[0]

        rows = jnp.repeat(jnp.arange(len(images)), number)
        made = jax.lax.map(
            of_view,
            (rows, keys.reshape(-1)),
            batch_size=_together(len(rows), most),
        )
        return made.reshape(len(images), number, *made.shape[1:])

    return laws


def _together(number: int, most: int) -> int:
    """As many images, at most so many, as leave none over for another program."""
    return max(n for n in range(1, most + 1) if number % n == 0)
