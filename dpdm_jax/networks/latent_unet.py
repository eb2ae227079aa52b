"""The U-Net of latent diffusion (Rombach et al. 2022, arXiv 2112.10752).

It sees the number of a DDPM step, and attends to a *context*: tokens that are made of
the condition. A class is one token, a row of a table; captions pass through a
transformer of their own. Parameters lie under ``embedding``, ``context`` and under the
names of ``unet``. Without a context it differs from ``adm`` by its attention alone.
"""

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Float32, Int, Key, PyTree

from dpdm_jax import validate
from dpdm_jax.conditions import Condition, Labels, Tokens, Unconditional
from dpdm_jax.errors import InputError
from dpdm_jax.networks import (
    adm_blocks,
    layers,
    network,
    parts,
    text_transformer,
    unet,
)
from dpdm_jax.networks.spatial_transformer import SpatialTransformer


@dataclasses.dataclass(frozen=True)
class Settings(unet.Settings):
    """``config.network.latent_unet``; the defaults are DP-LDM's for CIFAR-10.

    Attributes:
        depth: blocks of each transformer, >= 1.
        context_width: features of a token of the context, >= 1.
        null_row: whether the table of classes has a row for the null label, too. Else
            that is a token of zeros.
    """

    path = "network.latent_unet"

    base_channels: int = 128
    channel_multipliers: tuple[int, ...] = (1, 2, 2, 4)
    attention_factors: tuple[int, ...] = (1, 2, 4)
    head_channels: int = 0
    num_heads: int = 8
    depth: int = 1
    context_width: int = 512
    null_row: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("depth", "context_width"):
            validate.integer(f"{self.path}.{name}", getattr(self, name), minimum=1)
        validate.one_of(f"{self.path}.null_row", self.null_row, (True, False))


class Context(NamedTuple):
    """What conditions are attended to as.

    Attributes:
        tokens: of each.
    """

    tokens: Float[Array, "n t w"]


class LabelContext(nnx.Module):
    """A class as one token.

    Args:
        num_classes: number of classes.
        width: features of a token.
        null_row: see ``Settings``.
        dtype: of the tokens; the table is float32.
        rngs: see ``layers.dense``.
    """

    role = parts.CONDITION

    def __init__(
        self,
        num_classes: int,
        width: int,
        *,
        null_row: bool,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.num_classes = num_classes
        self.null_row = null_row
        self.label = layers.embed(num_classes + null_row, width, dtype=dtype, rngs=rngs)

    def __call__(self, label: Int[Array, " n"]) -> Float[Array, "n 1 w"]:
        """Looks labels up.

        Args:
            label: in 0..num_classes; one that is out of this range gives NaN.

        Returns:
            A token of each.
        """
        if self.null_row:
            return self.label(label)[:, None]
        is_null = label == self.num_classes
        rows = self.label(jnp.where(is_null, 0, label))
        return jnp.where(is_null[:, None], 0, rows)[:, None]


class LatentUNet(unet.UNet):
    """The network: see the module's description.

    Args:
        settings: its shape.
        in_channels: channels of the latents.
        out_channels: channels of the output.
        context: makes a context [n, tokens, ``context_width``] of conditions; None
            without conditions.
        dtype: of the computation; parameters and output are float32.
        rngs: see ``layers.dense``.
    """

    def __init__(
        self,
        settings: Settings,
        in_channels: int,
        out_channels: int,
        context: nnx.Module | None,
        *,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        def attention(channels: int) -> SpatialTransformer:
            return SpatialTransformer(
                channels,
                None if context is None else settings.context_width,
                num_heads=settings.heads(channels),
                depth=settings.depth,
                dtype=dtype,
                rngs=rngs,
            )

        self.embedding = adm_blocks.StepEmbedding(
            settings.base_channels, dtype=dtype, rngs=rngs
        )
        self.context = context
        super().__init__(
            settings,
            in_channels,
            out_channels,
            self.embedding.channels,
            attention,
            dtype=dtype,
            rngs=rngs,
        )

    def __call__(
        self,
        x: Float[Array, "n h w c"],
        steps: Float[Array, " n"],
        condition: PyTree | Context,
        *keys: Key[Array, " n"],
    ) -> Float32[Array, "n h w out"]:
        """Applies the network.

        Args:
            x: noisy latents; every level but the last halves h and w.
            steps: numbers of DDPM steps, from 0; they need not be whole.
            condition: what ``context`` takes, or what ``embed`` made of it; ignored
                without conditions.
            *keys: of the images, for dropout; without keys nothing is dropped.

        Returns:
            What the settings say, of out_channels.
        """
        context: tuple[Array, ...] = ()
        if self.context is not None:
            is_embedded = isinstance(condition, Context)
            context = condition if is_embedded else self.embed(condition)
        return self.forward(x, self.embedding.of_steps(steps), context, *keys)

    def embed(self, condition: PyTree) -> Context:
        """Returns what the network attends to, for calls that share conditions."""
        assert self.context is not None  # else there is nothing to share
        # Wide, since its gradient is a sum over those that share it.
        return Context(self.context(condition).astype(jnp.float32))


def build(
    settings: Settings,
    text: text_transformer.Settings,
    image_shape: tuple[int, int, int],
    condition: Condition,
    *,
    out_channels: int | None = None,
    dtype: DTypeLike = jnp.float32,
) -> network.Network:
    """Builds the network of given settings.

    Args:
        settings: its shape.
        text: that of the transformer for captions, if the condition is such.
        image_shape: (h, w, c) of the latents.
        condition: class labels, tokens, or none.
        out_channels: channels of the output; None for those of the latents.
        dtype: of the computation; parameters and output are float32.

    Returns:
        The network.

    Raises:
        InputError: the latents can't be halved often enough, heads don't divide the
            channels where attention is, captions are too long, or the condition is
            none of these.
    """
    unet.check_sides(settings.path, image_shape, settings.channel_multipliers)
    if isinstance(condition, Tokens) and condition.length > text.positions:
        raise InputError(
            f"network.text_transformer.positions is {text.positions}; allowed for "
            f"{condition}: an integer >= {condition.length}."
        )
    channels = image_shape[2]

    def make(rngs: nnx.Rngs) -> LatentUNet:
        return LatentUNet(
            settings,
            channels,
            out_channels or channels,
            _context(settings, text, condition, dtype, rngs),
            dtype=dtype,
            rngs=rngs,
        )

    tokens = _tokens(condition)
    return network.from_module(
        make,
        image_shape,
        drops=settings.dropout > 0,
        tokens=tokens,
        embed=None if tokens is None else LatentUNet.embed,
    )


def _tokens(condition: Condition) -> int | None:
    """How many tokens a context of a condition has."""
    match condition:
        case Labels():
            return 1
        case Tokens():
            return condition.length
    return None


def _context(
    settings: Settings,
    text: text_transformer.Settings,
    condition: Condition,
    dtype: DTypeLike,
    rngs: nnx.Rngs,
) -> nnx.Module | None:
    make: layers.Make = {"dtype": dtype, "rngs": rngs}
    match condition:
        case Unconditional():
            return None
        case Labels():
            return LabelContext(
                condition.num_classes,
                settings.context_width,
                null_row=settings.null_row,
                **make,
            )
        case Tokens():
            return text_transformer.TextTransformer(
                text, condition.vocabulary, settings.context_width, **make
            )
    raise InputError(
        f"network 'latent_unet' reads class labels or captions, and the condition of "
        f"the data is {condition}; allowed: one of them, or none."
    )
