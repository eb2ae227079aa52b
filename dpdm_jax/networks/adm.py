"""The ADM U-Net of guided-diffusion (Dhariwal and Nichol 2021, arXiv 2105.05233).

It sees the number of a DDPM step in place of a noise level. Parameters lie under
readable names: ``embedding``, ``stem``, ``down/level_0/block_0`` (and ``attention_0``,
``downsample``), ``middle``, ``up/level_2/block_0`` (and ``attention_0``, ``upsample``),
``head``. Initial values follow guided-diffusion: PyTorch's laws, and zero for the last
layer of each residual and of the network.
"""

import dataclasses
import itertools
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Float32, Int, Key

from dpdm_jax import validate
from dpdm_jax.errors import InputError
from dpdm_jax.networks import adm_blocks, layers, network


@dataclasses.dataclass(frozen=True)
class Settings:
    """``config.network.adm``; the defaults are those of arXiv 2302.13861 for CIFAR-10.

    Attributes:
        base_channels: channels at full resolution, a multiple of 32.
        channel_multipliers: width of each level as a multiple of ``base_channels``,
            from full resolution down; each further level halves height and width.
        num_res_blocks: residual blocks per level on the way down; one more going up.
        attention_factors: how many times smaller than the image (1, 2, 4, ...) the
            levels are at which attention follows each block.
        head_channels: channels of an attention head; 0 for ``num_heads`` heads.
        num_heads: heads at every width, where ``head_channels`` is 0.
        new_attention_order: see ``query_first`` of ``adm_blocks.AttentionBlock``.
        scale_shift: see ``adm_blocks.ResidualBlock``.
        resample_in_blocks: whether residual blocks change the resolution, and not
            convolutions.
        dropout: probability that a feature of a residual block is dropped in training,
            in [0, 1).
        remat: whether the backward pass computes the blocks' insides anew, and keeps
            only their inputs: memory for a third more work.

    Raises:
        InputError: a field is out of range.
    """

    base_channels: int = 192
    channel_multipliers: tuple[int, ...] = (1, 2, 2, 2)
    num_res_blocks: int = 2
    attention_factors: tuple[int, ...] = (2,)
    head_channels: int = 64
    num_heads: int = 4
    new_attention_order: bool = False
    scale_shift: bool = False
    resample_in_blocks: bool = False
    dropout: float = 0.0
    remat: bool = False

    def __post_init__(self) -> None:
        for name, minimum in (
            ("base_channels", 32),
            ("num_res_blocks", 1),
            ("head_channels", 0),
            ("num_heads", 1),
        ):
            value = getattr(self, name)
            validate.integer(f"network.adm.{name}", value, minimum=minimum)
        if self.base_channels % 32:
            raise InputError(
                f"network.adm.base_channels is {self.base_channels}; allowed: a "
                "multiple of 32."
            )
        if not self.channel_multipliers:
            raise InputError(
                "network.adm.channel_multipliers is (); allowed: at least one."
            )
        for i, value in enumerate(self.channel_multipliers):
            name = f"network.adm.channel_multipliers[{i}]"
            validate.integer(name, value, minimum=1)
        levels = [2**i for i in range(len(self.channel_multipliers))]
        for i, value in enumerate(self.attention_factors):
            validate.one_of(f"network.adm.attention_factors[{i}]", value, levels)
        for name in (
            "new_attention_order",
            "scale_shift",
            "resample_in_blocks",
            "remat",
        ):
            value = getattr(self, name)
            validate.one_of(f"network.adm.{name}", value, (True, False))
        validate.real("network.adm.dropout", self.dropout, minimum=0, below=1)

    def heads(self, channels: int) -> int:
        """Number of attention heads at a width.

        Raises:
            InputError: the heads don't divide the channels.
        """
        name = "head_channels" if self.head_channels else "num_heads"
        divisor = getattr(self, name)
        if channels % divisor:
            raise InputError(
                f"network.adm.{name} is {divisor}; allowed with attention at {channels}"
                f" channels: a divisor of {channels}."
            )
        return channels // divisor if self.head_channels else divisor


class ADM(nnx.Module):
    """The network: see the module's description.

    Args:
        settings: its shape.
        in_channels: channels of the image.
        out_channels: channels of the output.
        num_classes: number of classes; 0 for a network without labels.
        dtype: of the computation; parameters and output are float32.
        rngs: see ``layers.dense``.
    """

    def __init__(
        self,
        settings: Settings,
        in_channels: int,
        out_channels: int,
        num_classes: int,
        *,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.settings = settings
        make: layers.Make = {"dtype": dtype, "rngs": rngs}
        numbers = itertools.count()
        self.embedding = adm_blocks.StepAndLabelEmbedding(
            settings.base_channels, num_classes, **make
        )
        self.stem = adm_blocks.conv3x3(in_channels, settings.base_channels, **make)

        def block(
            in_channels: int, out_channels: int, **options: Any
        ) -> adm_blocks.ResidualBlock:
            return adm_blocks.ResidualBlock(
                in_channels,
                out_channels,
                self.embedding.channels,
                scale_shift=settings.scale_shift,
                dropout=settings.dropout,
                number=next(numbers),
                **options,
                **make,
            )

        def attention(channels: int) -> adm_blocks.AttentionBlock:
            return adm_blocks.AttentionBlock(
                channels,
                num_heads=settings.heads(channels),
                query_first=settings.new_attention_order,
                **make,
            )

        widths = [settings.base_channels * m for m in settings.channel_multipliers]
        last = len(widths) - 1
        channels = settings.base_channels
        skips = [channels]  # channels of each tensor that the way up takes in again

        self.down: nnx.Dict[nnx.Dict[nnx.Module]] = nnx.Dict()
        for i, width in enumerate(widths):
            level = self.down[f"level_{i}"] = nnx.Dict()
            for j in range(settings.num_res_blocks):
                level[f"block_{j}"] = block(channels, width)
                channels = width
                if 2**i in settings.attention_factors:
                    level[f"attention_{j}"] = attention(channels)
                skips.append(channels)
            if i < last:
                level["downsample"] = (
                    block(channels, channels, resample=layers.downsample)
                    if settings.resample_in_blocks
                    else adm_blocks.conv3x3(channels, channels, stride=2, **make)
                )
                skips.append(channels)

        self.middle = nnx.Dict(
            block_0=block(channels, channels),
            attention=attention(channels),
            block_1=block(channels, channels),
        )

        self.up: nnx.Dict[nnx.Dict[nnx.Module]] = nnx.Dict()
        for i, width in reversed(list(enumerate(widths))):
            level = self.up[f"level_{i}"] = nnx.Dict()
            for j in range(settings.num_res_blocks + 1):
                level[f"block_{j}"] = block(channels + skips.pop(), width)
                channels = width
                if 2**i in settings.attention_factors:
                    level[f"attention_{j}"] = attention(channels)
            if i > 0:
                level["upsample"] = (
                    block(channels, channels, resample=layers.upsample)
                    if settings.resample_in_blocks
                    else adm_blocks.conv3x3(channels, channels, **make)
                )

        self.head = layers.Head(
            norm=adm_blocks.group_norm(channels, **make),
            conv=layers.conv3x3(channels, out_channels, laws=layers.ZERO, **make),
        )

    def __call__(
        self,
        x: Float[Array, "n h w c"],
        steps: Float[Array, " n"],
        label: Int[Array, " n"],
        *keys: Key[Array, " n"],
    ) -> Float32[Array, "n h w out"]:
        """Applies the network.

        Args:
            x: noisy images; every level but the last halves h and w.
            steps: numbers of DDPM steps, from 0; they need not be whole.
            label: in 0..num_classes (the null label); ignored without labels.
            *keys: of the images, for dropout; without keys nothing is dropped.

        Returns:
            What the settings say, of out_channels.
        """
        run = nnx.remat(_run) if self.settings.remat else _run
        in_blocks = self.settings.resample_in_blocks
        embedding = self.embedding(steps, label)
        h = self.stem(x)

        skips = [h]
        for i in range(len(self.down)):
            level = self.down[f"level_{i}"]
            for j in range(self.settings.num_res_blocks):
                h = run(level[f"block_{j}"], h, embedding, *keys)
                if f"attention_{j}" in level:
                    h = run(level[f"attention_{j}"], h)
                skips.append(h)
            if "downsample" in level:
                down = level["downsample"]
                h = run(down, h, embedding, *keys) if in_blocks else down(h)
                skips.append(h)

        h = run(self.middle["block_0"], h, embedding, *keys)
        h = run(self.middle["attention"], h)
        h = run(self.middle["block_1"], h, embedding, *keys)

        for i in reversed(range(len(self.up))):
            level = self.up[f"level_{i}"]
            for j in range(self.settings.num_res_blocks + 1):
                h = jnp.concatenate([h, skips.pop()], axis=-1)
                h = run(level[f"block_{j}"], h, embedding, *keys)
                if f"attention_{j}" in level:
                    h = run(level[f"attention_{j}"], h)
            if "upsample" in level:
                up = level["upsample"]
                if in_blocks:
                    h = run(up, h, embedding, *keys)
                else:
                    h = up(layers.upsample(h))

        return self.head(h)


def _run(block: nnx.Module, *arguments: Array) -> Array:
    return block(*arguments)


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
        InputError: the image can't be halved often enough, or heads don't divide the
            channels where attention is.
    """
    factor = 2 ** (len(settings.channel_multipliers) - 1)
    if image_shape[0] % factor or image_shape[1] % factor:
        raise InputError(
            f"The image is {image_shape[0]}x{image_shape[1]} pixels; allowed with "
            f"{len(settings.channel_multipliers)} network.adm.channel_multipliers: "
            f"height and width divisible by {factor}."
        )
    channels = image_shape[2]
    return network.from_module(
        lambda rngs: ADM(
            settings,
            channels,
            out_channels or channels,
            num_classes,
            dtype=dtype,
            rngs=rngs,
        ),
        image_shape,
        drops=settings.dropout > 0,
    )
