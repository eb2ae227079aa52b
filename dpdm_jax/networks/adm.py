"""The ADM U-Net of guided-diffusion (Dhariwal and Nichol 2021, arXiv 2105.05233).

It sees the number of a DDPM step in place of a noise level, and adds a row of a table
for the class. Parameters lie under ``embedding`` and under the names of ``unet``.
"""

import dataclasses

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Float32, Int, Key

from dpdm_jax import validate
from dpdm_jax.networks import adm_blocks, network, unet


@dataclasses.dataclass(frozen=True)
class Settings(unet.Settings):
    """``config.network.adm``; the defaults are those of arXiv 2302.13861 for CIFAR-10.

    Attributes:
        new_attention_order: see ``query_first`` of ``adm_blocks.AttentionBlock``.
    """

    path = "network.adm"

    new_attention_order: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        validate.one_of(
            f"{self.path}.new_attention_order", self.new_attention_order, (True, False)
        )


class ADM(unet.UNet):
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
        def attention(channels: int) -> adm_blocks.AttentionBlock:
            return adm_blocks.AttentionBlock(
                channels,
                num_heads=settings.heads(channels),
                query_first=settings.new_attention_order,
                dtype=dtype,
                rngs=rngs,
            )

        self.embedding = adm_blocks.StepAndLabelEmbedding(
            settings.base_channels, num_classes, dtype=dtype, rngs=rngs
        )
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
        return self.forward(x, self.embedding(steps, label), (), *keys)


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
    unet.check_sides(settings.path, image_shape, settings.channel_multipliers)
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
