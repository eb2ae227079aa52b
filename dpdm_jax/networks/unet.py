"""The U-Net of guided-diffusion (Dhariwal and Nichol 2021, arXiv 2105.05233).

What embeds step and condition, and what attends, is up to who builds on it. Parameters
lie under readable names: ``stem``, ``down/level_0/block_0`` (and ``attention_0``,
``downsample``), ``middle``, ``up/level_2/block_0`` (and ``attention_0``, ``upsample``),
``head``. Initial values follow guided-diffusion: PyTorch's laws, and zero for the last
layer of each residual and of the network.
"""

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any, ClassVar

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Float32, Key

from dpdm_jax import validate
from dpdm_jax.errors import InputError
from dpdm_jax.networks import adm_blocks, layers, torch_layers


@dataclasses.dataclass(frozen=True)
class Settings:
    """Of a U-Net.

    Attributes:
        base_channels: channels at full resolution, a multiple of 32.
        channel_multipliers: width of each level as a multiple of ``base_channels``,
            from full resolution down; each further level halves height and width.
        num_res_blocks: residual blocks per level on the way down; one more going up.
        attention_factors: how many times smaller than the image (1, 2, 4, ...) the
            levels are at which attention follows each block.
        head_channels: channels of an attention head; 0 for ``num_heads`` heads.
        num_heads: heads at every width, where ``head_channels`` is 0.
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

    path: ClassVar[str]

    base_channels: int = 192
    channel_multipliers: tuple[int, ...] = (1, 2, 2, 2)
    num_res_blocks: int = 2
    attention_factors: tuple[int, ...] = (2,)
    head_channels: int = 64
    num_heads: int = 4
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
            validate.integer(f"{self.path}.{name}", value, minimum=minimum)
        check_levels(self.path, self.base_channels, self.channel_multipliers)
        check_factors(self.path, self.attention_factors, len(self.channel_multipliers))
        for name in ("scale_shift", "resample_in_blocks", "remat"):
            validate.one_of(f"{self.path}.{name}", getattr(self, name), (True, False))
        validate.real(f"{self.path}.dropout", self.dropout, minimum=0, below=1)

    def heads(self, channels: int) -> int:
        """Number of attention heads at a width.

        Raises:
            InputError: the heads don't divide the channels.
        """
        name = "head_channels" if self.head_channels else "num_heads"
        divisor = getattr(self, name)
        if channels % divisor:
            raise InputError(
                f"{self.path}.{name} is {divisor}; allowed with attention at {channels}"
                f" channels: a divisor of {channels}."
            )
        return channels // divisor if self.head_channels else divisor


def check_levels(path: str, base_channels: int, multipliers: tuple[int, ...]) -> None:
    """Raises InputError unless 32 groups divide the width of every level."""
    if base_channels % torch_layers.NUM_GROUPS:
        raise InputError(
            f"{path}.base_channels is {base_channels}; allowed: a multiple of "
            f"{torch_layers.NUM_GROUPS}."
        )
    if not multipliers:
        raise InputError(f"{path}.channel_multipliers is (); allowed: at least one.")
    for i, value in enumerate(multipliers):
        validate.integer(f"{path}.channel_multipliers[{i}]", value, minimum=1)


def check_factors(path: str, factors: tuple[int, ...], num_levels: int) -> None:
    """Raises InputError unless attention is at levels that there are."""
    levels = [2**i for i in range(num_levels)]
    for i, value in enumerate(factors):
        validate.one_of(f"{path}.attention_factors[{i}]", value, levels)


def check_sides(
    path: str, image_shape: tuple[int, int, int], multipliers: tuple[int, ...]
) -> None:
    """Raises InputError unless an image can be halved from level to level."""
    factor = 2 ** (len(multipliers) - 1)
    if image_shape[0] % factor or image_shape[1] % factor:
        raise InputError(
            f"The image is {image_shape[0]}x{image_shape[1]} pixels; allowed with "
            f"{len(multipliers)} {path}.channel_multipliers: height and width "
            f"divisible by {factor}."
        )


class UNet(nnx.Module):
    """The network but for its embeddings.

    Args:
        settings: its shape.
        in_channels: channels of the image.
        out_channels: channels of the output.
        embedding_channels: length of the embedding that residual blocks are under.
        attention: ``attention(channels)``, what follows residual blocks.
        dtype: of the computation; parameters and output are float32.
        rngs: see ``layers.dense``.
    """

    def __init__(
        self,
        settings: Settings,
        in_channels: int,
        out_channels: int,
        embedding_channels: int,
        attention: Callable[[int], nnx.Module],
        *,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.settings = settings
        make: layers.Make = {"dtype": dtype, "rngs": rngs}
        numbers = itertools.count()
        self.stem = torch_layers.conv3x3(in_channels, settings.base_channels, **make)

        def block(
            in_channels: int, out_channels: int, **options: Any
        ) -> adm_blocks.ResidualBlock:
            return adm_blocks.ResidualBlock(
                in_channels,
                out_channels,
                embedding_channels,
                scale_shift=settings.scale_shift,
                dropout=settings.dropout,
                number=next(numbers),
                **options,
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
                    else torch_layers.conv3x3(channels, channels, stride=2, **make)
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
                    else torch_layers.conv3x3(channels, channels, **make)
                )

        self.head = layers.Head(
            norm=torch_layers.group_norm(channels, **make),
            conv=layers.conv3x3(channels, out_channels, laws=layers.ZERO, **make),
        )

    def forward(
        self,
        x: Float[Array, "n h w c"],
        embedding: Float[Array, "n e"],
        context: tuple[Array, ...] = (),
        *keys: Key[Array, " n"],
    ) -> Float32[Array, "n h w out"]:
        """Applies the network.

        Args:
            x: noisy images; every level but the last halves h and w.
            embedding: of step and condition, [n, embedding_channels].
            context: what attention takes besides features.
            *keys: of the images, for dropout; without keys nothing is dropped.

        Returns:
            What the settings say, of out_channels.
        """
        run = layers.caller(remat=self.settings.remat)
        in_blocks = self.settings.resample_in_blocks
        h = self.stem(x)

        skips = [h]
        for i in range(len(self.down)):
            level = self.down[f"level_{i}"]
            for j in range(self.settings.num_res_blocks):
                h = run(level[f"block_{j}"], h, embedding, *keys)
                if f"attention_{j}" in level:
                    h = run(level[f"attention_{j}"], h, *context)
                skips.append(h)
            if "downsample" in level:
                down = level["downsample"]
                h = run(down, h, embedding, *keys) if in_blocks else down(h)
                skips.append(h)

        h = run(self.middle["block_0"], h, embedding, *keys)
        h = run(self.middle["attention"], h, *context)
        h = run(self.middle["block_1"], h, embedding, *keys)

        for i in reversed(range(len(self.up))):
            level = self.up[f"level_{i}"]
            for j in range(self.settings.num_res_blocks + 1):
                h = jnp.concatenate([h, skips.pop()], axis=-1)
                h = run(level[f"block_{j}"], h, embedding, *keys)
                if f"attention_{j}" in level:
                    h = run(level[f"attention_{j}"], h, *context)
            if "upsample" in level:
                up = level["upsample"]
                if in_blocks:
                    h = run(up, h, embedding, *keys)
                else:
                    h = up(layers.upsample(h))

        return self.head(h)
