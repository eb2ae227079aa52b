"""The ADM U-Net of ``dpdm_jax.networks.adm`` in PyTorch, layer for layer.

Written for comparisons of speed: what a PyTorch user would write, with the same layers
and the same names of them, so that parameters of one fit the other. Of the options of
``network.adm`` it knows those that the configs of DP fine-tuning set.
"""

import math
from collections.abc import Callable

import ml_collections
import torch
import torch.nn.functional as F
from torch import nn

_NUM_GROUPS = 32


def _conv(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1)


def _group_norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(_NUM_GROUPS, channels, eps=1e-5)


def _zeroed(layer: nn.Module) -> nn.Module:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


class StepEmbedding(nn.Module):
    """Embeds a step's number [n] as [n, 4 base_channels]."""

    def __init__(self, base_channels: int):
        super().__init__()
        self.base_channels = base_channels
        channels = 4 * base_channels
        self.hidden = nn.Linear(base_channels, channels)
        self.output = nn.Linear(channels, channels)

    def forward(self, steps: torch.Tensor) -> torch.Tensor:
        half = self.base_channels // 2
        exponent = torch.arange(half, dtype=torch.float32, device=steps.device) / half
        angle = steps[:, None] * torch.exp(-math.log(10_000) * exponent)
        h = torch.cat([torch.cos(angle), torch.sin(angle)], dim=1)
        return self.output(F.silu(self.hidden(h.to(self.hidden.weight.dtype))))


class Embedding(StepEmbedding):
    """Embeds a step's number [n] and label [n] as [n, 4 base_channels]."""

    def __init__(self, base_channels: int, num_classes: int):
        super().__init__(base_channels)
        self.label = nn.Embedding(num_classes, 4 * base_channels)

    def forward(self, steps: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        return super().forward(steps) + self.label(label)


class ResidualBlock(nn.Module):
    """Residual block under an embedding."""

    def __init__(self, in_channels: int, out_channels: int, embedding_channels: int):
        super().__init__()
        self.norm_a = _group_norm(in_channels)
        self.conv_a = _conv(in_channels, out_channels)
        self.embedding = nn.Linear(embedding_channels, out_channels)
        self.norm_b = _group_norm(out_channels)
        self.conv_b = _zeroed(_conv(out_channels, out_channels))
        self.shortcut = None
        if in_channels != out_channels:
            self.shortcut = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        h = self.conv_a(F.silu(self.norm_a(x)))
        h = h + self.embedding(F.silu(embedding))[:, :, None, None]
        h = self.conv_b(F.silu(self.norm_b(h)))
        return (x if self.shortcut is None else self.shortcut(x)) + h


class AttentionBlock(nn.Module):
    """Self-attention of several heads over pixels, as a residual."""

    def __init__(self, channels: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.norm = _group_norm(channels)
        self.query_key_value = nn.Linear(channels, 3 * channels)
        self.output = _zeroed(nn.Linear(channels, channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, channels, height, width = x.shape
        h = self.norm(x).flatten(2).transpose(1, 2)
        # Each head's query, key and value are neighbours.
        h = self.query_key_value(h).unflatten(2, (self.num_heads, 3, -1))
        query, key, value = h.permute(3, 0, 2, 1, 4)
        h = F.scaled_dot_product_attention(query, key, value)
        h = self.output(h.transpose(1, 2).reshape(n, height * width, channels))
        return x + h.transpose(1, 2).reshape(x.shape)


class UNet(nn.Module):
    """The network but for its embeddings.

    Args:
        config: ``config.network.adm`` of the library's configs, or ``latent_unet``.
        channels: of the image.
        attention: ``attention(width)``, what follows residual blocks.
    """

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        channels: int,
        attention: Callable[[int], nn.Module],
    ):
        super().__init__()
        base, num_blocks = config.base_channels, config.num_res_blocks
        self.num_blocks = num_blocks
        self.stem = _conv(channels, base)
        widths = [base * m for m in config.channel_multipliers]

        def block(in_channels: int, out_channels: int) -> ResidualBlock:
            return ResidualBlock(in_channels, out_channels, 4 * base)

        width = base
        skips = [width]
        self.down = nn.ModuleDict()
        for i, wide in enumerate(widths):
            level = self.down[f"level_{i}"] = nn.ModuleDict()
            for j in range(num_blocks):
                level[f"block_{j}"] = block(width, wide)
                width = wide
                if 2**i in config.attention_factors:
                    level[f"attention_{j}"] = attention(width)
                skips.append(width)
            if i < len(widths) - 1:
                level["downsample"] = _conv(width, width, stride=2)
                skips.append(width)
        self.middle = nn.ModuleDict(
            {
                "block_0": block(width, width),
                "attention": attention(width),
                "block_1": block(width, width),
            }
        )
        self.up = nn.ModuleDict()
        for i, wide in reversed(list(enumerate(widths))):
            level = self.up[f"level_{i}"] = nn.ModuleDict()
            for j in range(num_blocks + 1):
                level[f"block_{j}"] = block(width + skips.pop(), wide)
                width = wide
                if 2**i in config.attention_factors:
                    level[f"attention_{j}"] = attention(width)
            if i > 0:
                level["upsample"] = _conv(width, width)
        self.head = nn.ModuleDict(
            {"norm": _group_norm(width), "conv": _zeroed(_conv(width, channels))}
        )

    def under(
        self, x: torch.Tensor, embedding: torch.Tensor, *context: torch.Tensor
    ) -> torch.Tensor:
        """Applies the network.

        Args:
            x: [n, c, h, w].
            embedding: [n, 4 base_channels].
            *context: what attention takes besides features.

        Returns:
            Like x.
        """
        h = self.stem(x)
        skips = [h]
        for level in self.down.values():
            for j in range(self.num_blocks):
                h = self._block(level, j, h, embedding, *context)
                skips.append(h)
            if "downsample" in level:
                h = level["downsample"](h)
                skips.append(h)
        h = self.middle["block_0"](h, embedding)
        h = self.middle["attention"](h, *context)
        h = self.middle["block_1"](h, embedding)
        for level in self.up.values():
            for j in range(self.num_blocks + 1):
                h = torch.cat([h, skips.pop()], dim=1)
                h = self._block(level, j, h, embedding, *context)
            if "upsample" in level:
                h = F.interpolate(h, scale_factor=2.0, mode="nearest")
                h = level["upsample"](h)
        return self.head["conv"](F.silu(self.head["norm"](h)))

    @staticmethod
    def _block(
        level: nn.ModuleDict,
        j: int,
        h: torch.Tensor,
        embedding: torch.Tensor,
        *context: torch.Tensor,
    ) -> torch.Tensor:
        h = level[f"block_{j}"](h, embedding)
        return level[f"attention_{j}"](h, *context) if f"attention_{j}" in level else h


class ADM(UNet):
    """The network: x [n, c, h, w], steps [n], label int64 [n] -> like x.

    Args:
        config: ``config.network.adm`` of the library's configs.
        channels: of the image.
        num_classes: > 0.
    """

    def __init__(
        self, config: ml_collections.ConfigDict, channels: int, num_classes: int
    ):
        super().__init__(
            config,
            channels,
            lambda width: AttentionBlock(width, width // config.head_channels),
        )
        self.embedding = Embedding(config.base_channels, num_classes)

    def forward(
        self, x: torch.Tensor, steps: torch.Tensor, label: torch.Tensor
    ) -> torch.Tensor:
        return self.under(x, self.embedding(steps, label))
