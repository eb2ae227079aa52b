"""The DDPM++ network of ``dpdm_jax.networks.ncsnpp`` in PyTorch, layer for layer.

Written for comparisons of speed: what a PyTorch user would write, with the same layers
and the same names of them, so that parameters of one fit the other.
"""

import math
from collections.abc import Callable

import ml_collections
import torch
import torch.nn.functional as F
from torch import nn

_NEARLY_ZERO = 1e-10


def _initialised(layer: nn.Module, scale: float = 1.0) -> nn.Module:
    nn.init.xavier_uniform_(layer.weight, gain=math.sqrt(scale))
    nn.init.zeros_(layer.bias)
    return layer


def _conv(in_channels: int, out_channels: int, size: int = 3, scale: float = 1.0):
    layer = nn.Conv2d(in_channels, out_channels, size, padding=size // 2)
    return _initialised(layer, scale)


def _linear(in_channels: int, out_channels: int, scale: float = 1.0) -> nn.Linear:
    return _initialised(nn.Linear(in_channels, out_channels), scale)


def _group_norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(min(channels // 4, 32), channels, eps=1e-6)


def _downsample(x: torch.Tensor) -> torch.Tensor:
    return F.avg_pool2d(x, 2)


def _upsample(x: torch.Tensor) -> torch.Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


class Embedding(nn.Module):
    """Embeds noise condition [n] and label [n] as [n, 4 base_width]."""

    def __init__(self, base_width: int, num_classes: int):
        super().__init__()
        self.base_width = base_width
        self.label = nn.Embedding(num_classes + 1, base_width)
        self.hidden = _linear(base_width, 4 * base_width)
        self.output = _linear(4 * base_width, 4 * base_width)

    def forward(self, c_noise: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        half = self.base_width // 2
        exponent = torch.arange(half, dtype=torch.float32, device=c_noise.device)
        frequencies = torch.exp(-math.log(10_000) / (half - 1) * exponent)
        angle = c_noise[:, None] * frequencies
        h = torch.cat([torch.sin(angle), torch.cos(angle)], dim=1) + self.label(label)
        return self.output(F.silu(self.hidden(h)))


class ResidualBlock(nn.Module):
    """Residual block under an embedding, which may resample."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        embedding_channels: int,
        resample: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ):
        super().__init__()
        self.resample = resample
        self.norm_a = _group_norm(in_channels)
        self.conv_a = _conv(in_channels, out_channels)
        self.embedding = _linear(embedding_channels, out_channels)
        self.norm_b = _group_norm(out_channels)
        self.conv_b = _conv(out_channels, out_channels, scale=_NEARLY_ZERO)
        self.shortcut = None
        if in_channels != out_channels or resample is not None:
            self.shortcut = _conv(in_channels, out_channels, size=1)

    def forward(self, x: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        h = F.silu(self.norm_a(x))
        if self.resample is not None:
            h, x = self.resample(h), self.resample(x)
        h = self.conv_a(h) + self.embedding(F.silu(embedding))[:, :, None, None]
        h = self.conv_b(F.silu(self.norm_b(h)))
        if self.shortcut is not None:
            x = self.shortcut(x)
        return (x + h) / math.sqrt(2)


class AttentionBlock(nn.Module):
    """Single-head self-attention over pixels, as a residual."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = _group_norm(channels)
        self.query = _linear(channels, channels, scale=0.1)
        self.key = _linear(channels, channels, scale=0.1)
        self.value = _linear(channels, channels, scale=0.1)
        self.output = _linear(channels, channels, scale=_NEARLY_ZERO)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.norm(x).flatten(2).transpose(1, 2)
        h = F.scaled_dot_product_attention(self.query(h), self.key(h), self.value(h))
        h = self.output(h).transpose(1, 2).reshape(x.shape)
        return (x + h) / math.sqrt(2)


class NCSNpp(nn.Module):
    """The network: x [n, c, h, w], c_noise [n], label int64 [n] -> like x.

    Args:
        config: ``config.network.ncsnpp`` of the library's configs.
        image_shape: (h, w, c).
        num_classes: > 0.
    """

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        image_shape: tuple[int, int, int],
        num_classes: int,
    ):
        super().__init__()
        base, num_blocks = config.base_width, config.num_res_blocks
        self.num_blocks = num_blocks
        self.embedding = Embedding(base, num_classes)
        self.stem = _conv(image_shape[2], base)
        widths = [base * m for m in config.channel_multipliers]
        has_attention = [
            image_shape[1] >> i in config.attention_resolutions
            for i in range(len(widths))
        ]

        def block(in_channels, out_channels, resample=None):
            return ResidualBlock(in_channels, out_channels, 4 * base, resample)

        channels = base
        skips = [channels]
        self.down = nn.ModuleDict()
        for i, width in enumerate(widths):
            level = self.down[f"level_{i}"] = nn.ModuleDict()
            for j in range(num_blocks):
                level[f"block_{j}"] = block(channels, width)
                if has_attention[i]:
                    level[f"attention_{j}"] = AttentionBlock(width)
                channels = width
                skips.append(channels)
            if i < len(widths) - 1:
                level["downsample"] = block(channels, channels, _downsample)
                skips.append(channels)
        self.middle = nn.ModuleDict(
            {
                "block_0": block(channels, channels),
                "attention": AttentionBlock(channels),
                "block_1": block(channels, channels),
            }
        )
        self.up = nn.ModuleDict()
        for i, width in reversed(list(enumerate(widths))):
            level = self.up[f"level_{i}"] = nn.ModuleDict()
            for j in range(num_blocks + 1):
                level[f"block_{j}"] = block(channels + skips.pop(), width)
                channels = width
            if has_attention[i]:
                level["attention"] = AttentionBlock(channels)
            if i > 0:
                level["upsample"] = block(channels, channels, _upsample)
        self.head = nn.ModuleDict(
            {
                "norm": _group_norm(channels),
                "conv": _conv(channels, image_shape[2], scale=_NEARLY_ZERO),
            }
        )

    def forward(
        self, x: torch.Tensor, c_noise: torch.Tensor, label: torch.Tensor
    ) -> torch.Tensor:
        embedding = self.embedding(c_noise, label)
        h = self.stem(x)
        skips = [h]
        for level in self.down.values():
            for j in range(self.num_blocks):
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
        for level in self.up.values():
            for j in range(self.num_blocks + 1):
                h = torch.cat([h, skips.pop()], dim=1)
                h = level[f"block_{j}"](h, embedding)
            if "attention" in level:
                h = level["attention"](h)
            if "upsample" in level:
                h = level["upsample"](h, embedding)
        return self.head["conv"](F.silu(self.head["norm"](h)))


class Denoiser(nn.Module):
    """The EDM denoiser D(x, sigma, label) around a network (Karras et al. 2022).

    Args:
        network: see ``NCSNpp``.
        sigma_data: assumed standard deviation of the data.
    """

    def __init__(self, network: nn.Module, sigma_data: float):
        super().__init__()
        self.network = network
        self.sigma_data = sigma_data

    def forward(
        self, x: torch.Tensor, sigma: torch.Tensor, label: torch.Tensor
    ) -> torch.Tensor:
        s = sigma[:, None, None, None]
        variance = s**2 + self.sigma_data**2
        raw = self.network(x * torch.rsqrt(variance), torch.log(sigma) / 4, label)
        c_skip = self.sigma_data**2 / variance
        c_out = s * self.sigma_data * torch.rsqrt(variance)
        return c_skip * x + c_out * raw
