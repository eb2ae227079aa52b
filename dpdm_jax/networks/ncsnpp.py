"""DDPM++ flavour of NCSN++ (Song et al. 2021), as used by DPDM.

A U-Net of BigGAN-style residual blocks, which also resample, with self-attention at
chosen feature widths and always in the middle. Parameters lie under readable names:
``embedding``, ``stem``, ``down/level_0/block_0`` (and ``attention_0``, ``downsample``),
``middle``, ``up/level_2/block_0`` (and ``attention``, ``upsample``), ``head``.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
from flax import nnx
from jax.typing import DTypeLike

from dpdm_jax import validate
from dpdm_jax.errors import InputError
from dpdm_jax.fusion import materialize
from dpdm_jax.networks import embeddings, layers, network


@dataclasses.dataclass(frozen=True)
class Architecture:
    """Shape of the network, from ``config.network``.

    Attributes:
        base_width: channels at full resolution.
        channel_multipliers: width of each level as a multiple of ``base_width``, from
            full resolution down; each further level halves height and width.
        num_res_blocks: residual blocks per level on the way down; one more going up.
        attention_resolutions: feature widths (pixels) at which attention follows.
        dtype: of the computation; parameters and output are float32.
        out_channels: channels of the output; None for those of the image.
    """

    base_width: int
    channel_multipliers: tuple[int, ...]
    num_res_blocks: int
    attention_resolutions: tuple[int, ...]
    dtype: DTypeLike = jnp.float32
    out_channels: int | None = None


class NCSNpp(nnx.Module):
    """The network ``F``: see the module's description.

    Args:
        architecture: its shape.
        image_shape: (h, w, c), where every level but the last halves h and w.
        num_classes: number of classes; 0 for a network without labels.
        rngs: see ``layers.dense``.
    """

    def __init__(
        self,
        architecture: Architecture,
        image_shape: tuple[int, int, int],
        num_classes: int,
        *,
        rngs: nnx.Rngs,
    ):
        self.architecture = architecture
        base_width = architecture.base_width
        num_blocks = architecture.num_res_blocks
        make = {"dtype": architecture.dtype, "rngs": rngs}

        self.embedding = embeddings.NoiseAndLabelEmbedding(
            base_width, num_classes, **make
        )
        self.stem = layers.conv3x3(image_shape[2], base_width, **make)

        def block(
            in_channels: int, out_channels: int, **options: Any
        ) -> layers.ResidualBlock:
            return layers.ResidualBlock(
                in_channels, out_channels, self.embedding.channels, **options, **make
            )

        widths = [base_width * m for m in architecture.channel_multipliers]
        last = len(widths) - 1
        channels = base_width
        skips = [channels]  # channels of each tensor that the way up takes in again

        self.down = nnx.Dict()
        for i, width in enumerate(widths):
            level = self.down[f"level_{i}"] = nnx.Dict()
            for j in range(num_blocks):
                level[f"block_{j}"] = block(channels, width)
                if image_shape[1] >> i in architecture.attention_resolutions:
                    level[f"attention_{j}"] = layers.AttentionBlock(width, **make)
                channels = width
                skips.append(channels)
            if i < last:
                level["downsample"] = block(
                    channels, channels, resample=layers.downsample
                )
                skips.append(channels)

        self.middle = nnx.Dict(
            block_0=block(channels, channels),
            attention=layers.AttentionBlock(channels, **make),
            block_1=block(channels, channels),
        )

        self.up = nnx.Dict()
        for i, width in reversed(list(enumerate(widths))):
            level = self.up[f"level_{i}"] = nnx.Dict()
            for j in range(num_blocks + 1):
                level[f"block_{j}"] = block(channels + skips.pop(), width)
                channels = width
            if image_shape[1] >> i in architecture.attention_resolutions:
                level["attention"] = layers.AttentionBlock(channels, **make)
            if i > 0:
                level["upsample"] = block(channels, channels, resample=layers.upsample)

        self.head = nnx.Dict(
            norm=layers.group_norm(channels, **make),
            conv=layers.conv3x3(
                channels,
                architecture.out_channels or image_shape[2],
                scale=layers.NEARLY_ZERO,
                **make,
            ),
        )

    def __call__(self, x: jax.Array, c_noise: jax.Array, label: jax.Array) -> jax.Array:
        """Applies the network.

        Args:
            x: [n, h, w, c], scaled noisy images.
            c_noise: float32 [n], the noise condition.
            label: int32 [n] in 0..num_classes (the null label); ignored without labels.

        Returns:
            float32 [n, h, w, out_channels].
        """
        num_blocks = self.architecture.num_res_blocks
        num_levels = len(self.architecture.channel_multipliers)
        embedding = self.embedding(c_noise, label)
        h = self.stem(x)

        skips = [h]
        for i in range(num_levels):
            level = self.down[f"level_{i}"]
            for j in range(num_blocks):
                h = level[f"block_{j}"](h, embedding)
                if f"attention_{j}" in level:
                    h = level[f"attention_{j}"](h)
                skips.append(h)
            if "downsample" in level:
                h = level["downsample"](h, embedding)
                skips.append(h)

        h = self.middle["block_0"](h, embedding)
        h = self.middle["attention"](h)
        h = self.middle["block_1"](h, embedding)

        for i in reversed(range(num_levels)):
            level = self.up[f"level_{i}"]
            for j in range(num_blocks + 1):
                h = jnp.concatenate([h, skips.pop()], axis=-1)
                h = level[f"block_{j}"](h, embedding)
            if "attention" in level:
                h = level["attention"](h)
            if "upsample" in level:
                h = level["upsample"](h, embedding)

        h = materialize(self.head["norm"].then_silu(h))
        h = self.head["conv"](h)
        return h.astype(jnp.float32)


def build(
    config: ml_collections.ConfigDict,
    image_shape: tuple[int, int, int],
    num_classes: int,
) -> network.Network:
    """Builds the network that a config describes.

    Args:
        config: ``config.network``; its fields are those of ``Architecture``, with
            ``dtype`` "float32" or "bfloat16".
        image_shape: (h, w, c).
        num_classes: number of classes; 0 for a network without labels.

    Returns:
        The network.

    Raises:
        InputError: a field is out of range, or the image can't be halved often enough.
    """
    validate.integer("network.base_width", config.base_width, minimum=4)
    if config.base_width % 2:  # half sines, half cosines
        raise InputError(
            f"network.base_width is {config.base_width}; allowed: an even number."
        )
    _validate_integers("network.channel_multipliers", config.channel_multipliers)
    _validate_integers("network.attention_resolutions", config.attention_resolutions)
    if not config.channel_multipliers:
        raise InputError("network.channel_multipliers is empty; allowed: at least one.")
    validate.integer("network.num_res_blocks", config.num_res_blocks, minimum=1)
    validate.one_of("network.dtype", config.dtype, network.DTYPES)
    factor = 2 ** (len(config.channel_multipliers) - 1)
    if image_shape[0] % factor or image_shape[1] % factor:
        raise InputError(
            f"The image is {image_shape[0]}x{image_shape[1]} pixels; allowed with "
            f"{len(config.channel_multipliers)} network.channel_multipliers: height "
            f"and width divisible by {factor}."
        )
    architecture = Architecture(
        base_width=config.base_width,
        channel_multipliers=tuple(config.channel_multipliers),
        num_res_blocks=config.num_res_blocks,
        attention_resolutions=tuple(config.attention_resolutions),
        dtype=network.DTYPES[config.dtype],
    )
    return from_architecture(architecture, image_shape, num_classes)


def from_architecture(
    architecture: Architecture, image_shape: tuple[int, int, int], num_classes: int
) -> network.Network:
    """Builds the network of an architecture; arguments as in ``NCSNpp``."""
    return network.from_module(
        lambda rngs: NCSNpp(architecture, image_shape, num_classes, rngs=rngs),
        image_shape,
    )


def _validate_integers(name: str, values: Sequence[int]) -> None:
    for i, value in enumerate(values):
        validate.integer(f"{name}[{i}]", value, minimum=1)
