"""DDPM++ flavour of NCSN++ (Song et al. 2021), as used by DPDM.

A U-Net of BigGAN-style residual blocks, which also resample, with self-attention at
chosen feature widths and always in the middle. Parameters lie under readable names:
``embedding``, ``stem``, ``down/level_0/block_0`` (and ``attention_0``, ``downsample``),
``middle``, ``up/level_2/block_0`` (and ``attention``, ``upsample``), ``head``.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Float32, Int

from dpdm_jax import validate
from dpdm_jax.errors import InputError
from dpdm_jax.networks import embeddings, layers, network


@dataclasses.dataclass(frozen=True)
class Settings:
    """``config.network.ncsnpp``; the defaults are DPDM's.

    Attributes:
        base_width: channels at full resolution, >= 4 and even.
        channel_multipliers: width of each level as a multiple of ``base_width``, from
            full resolution down; each further level halves height and width.
        num_res_blocks: residual blocks per level on the way down, >= 1; one more going
            up.
        attention_resolutions: feature widths (pixels) at which attention follows.

    Raises:
        InputError: a field is out of range.
    """

    base_width: int = 32
    channel_multipliers: tuple[int, ...] = (1, 2, 2)
    num_res_blocks: int = 2
    attention_resolutions: tuple[int, ...] = (7,)

    def __post_init__(self) -> None:
        path = "network.ncsnpp"
        validate.integer(f"{path}.base_width", self.base_width, minimum=4)
        if self.base_width % 2:  # half sines, half cosines
            raise InputError(
                f"{path}.base_width is {self.base_width}; allowed: an even number."
            )
        if not self.channel_multipliers:
            raise InputError(
                f"{path}.channel_multipliers is empty; allowed: at least one."
            )
        validate.integer(f"{path}.num_res_blocks", self.num_res_blocks, minimum=1)
        for name in ("channel_multipliers", "attention_resolutions"):
            for i, value in enumerate(getattr(self, name)):
                validate.integer(f"{path}.{name}[{i}]", value, minimum=1)


class NCSNpp(nnx.Module):
    """The network ``F``: see the module's description.

    Args:
        settings: its shape.
        image_shape: (h, w, c), where every level but the last halves h and w.
        out_channels: channels of the output.
        num_classes: number of classes; 0 for a network without labels.
        dtype: of the computation; parameters and output are float32.
        rngs: see ``layers.dense``.
    """

    def __init__(
        self,
        settings: Settings,
        image_shape: tuple[int, int, int],
        out_channels: int,
        num_classes: int,
        *,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.settings = settings
        base_width = settings.base_width
        num_blocks = settings.num_res_blocks
        make: layers.Make = {"dtype": dtype, "rngs": rngs}

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

        widths = [base_width * m for m in settings.channel_multipliers]
        last = len(widths) - 1
        channels = base_width
        skips = [channels]  # channels of each tensor that the way up takes in again

        self.down: nnx.Dict[nnx.Dict[nnx.Module]] = nnx.Dict()
        for i, width in enumerate(widths):
            level = self.down[f"level_{i}"] = nnx.Dict()
            for j in range(num_blocks):
                level[f"block_{j}"] = block(channels, width)
                if image_shape[1] >> i in settings.attention_resolutions:
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

        self.up: nnx.Dict[nnx.Dict[nnx.Module]] = nnx.Dict()
        for i, width in reversed(list(enumerate(widths))):
            level = self.up[f"level_{i}"] = nnx.Dict()
            for j in range(num_blocks + 1):
                level[f"block_{j}"] = block(channels + skips.pop(), width)
                channels = width
            if image_shape[1] >> i in settings.attention_resolutions:
                level["attention"] = layers.AttentionBlock(channels, **make)
            if i > 0:
                level["upsample"] = block(channels, channels, resample=layers.upsample)

        self.head = layers.Head(
            norm=layers.group_norm(channels, **make),
            conv=layers.conv3x3(
                channels,
                out_channels,
                scale=layers.NEARLY_ZERO,
                **make,
            ),
        )

    def __call__(
        self,
        x: Float[Array, "n h w c"],
        c_noise: Float[Array, " n"],
        label: Int[Array, " n"],
    ) -> Float32[Array, "n h w out"]:
        """Applies the network.

        Args:
            x: scaled noisy images.
            c_noise: the noise condition.
            label: in 0..num_classes (the null label); ignored without labels.

        Returns:
            What the network predicts, of out_channels.
        """
        num_blocks = self.settings.num_res_blocks
        num_levels = len(self.settings.channel_multipliers)
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

        return self.head(h)


def build(
    settings: Settings,
    image_shape: tuple[int, int, int],
    num_classes: int,
    *,
    out_channels: int | None = None,
    dtype: DTypeLike = jnp.float32,
) -> network.Network:
    """Builds the network of given settings.

    Args:
        settings: its shape.
        image_shape: (h, w, c).
        num_classes: number of classes; 0 for a network without labels.
        out_channels: channels of the output; None for those of the image.
        dtype: of the computation; parameters and output are float32.

    Returns:
        The network.

    Raises:
        InputError: the image can't be halved often enough.
    """
    levels = len(settings.channel_multipliers)
    factor = 2 ** (levels - 1)
    if image_shape[0] % factor or image_shape[1] % factor:
        raise InputError(
            f"The image is {image_shape[0]}x{image_shape[1]} pixels; allowed with "
            f"{levels} network.ncsnpp.channel_multipliers: height and width divisible "
            f"by {factor}."
        )
    return network.from_module(
        lambda rngs: NCSNpp(
            settings,
            image_shape,
            out_channels or image_shape[2],
            num_classes,
            dtype=dtype,
            rngs=rngs,
        ),
        image_shape,
    )
