"""The U-Net of ``dpdm_jax.networks.latent_unet`` in PyTorch, layer for layer.

Written for comparisons of speed, as ``torch_adm`` is, which has its residual blocks. It
knows class labels as conditions.
"""

from collections.abc import Callable

import ml_collections
import torch
import torch.nn.functional as F
from torch import nn

from experiments.benchmarks import finetune_problem, latent_sides, torch_adm
from experiments.benchmarks.torch_steps import LAYOUTS


class Attention(nn.Module):
    """Attention of tokens to others, of several heads."""

    def __init__(self, width: int, context_width: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(context_width, width, bias=False)
        self.value = nn.Linear(context_width, width, bias=False)
        self.output = nn.Linear(width, width)

    def forward(self, x: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        def by_head(h: torch.Tensor) -> torch.Tensor:
            return h.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

        h = F.scaled_dot_product_attention(
            by_head(self.query(x)),
            by_head(self.key(context)),
            by_head(self.value(context)),
        )
        return self.output(h.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """Hidden layer with a gated GELU."""

    def __init__(self, width: int):
        super().__init__()
        self.hidden = nn.Linear(width, 8 * width)
        self.output = nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h, gate = self.hidden(x).chunk(2, dim=-1)
        return self.output(h * F.gelu(gate))


class TransformerBlock(nn.Module):
    """Attention between tokens and to a context, and hidden layers, as residuals."""

    def __init__(self, width: int, context_width: int, num_heads: int):
        super().__init__()
        self.norm_a = nn.LayerNorm(width)
        self.self_attention = Attention(width, width, num_heads)
        self.norm_b = nn.LayerNorm(width)
        self.cross_attention = Attention(width, context_width, num_heads)
        self.norm_c = nn.LayerNorm(width)
        self.feed_forward = FeedForward(width)

    def forward(self, x: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        h = self.norm_a(x)
        x = x + self.self_attention(h, h)
        x = x + self.cross_attention(self.norm_b(x), context)
        return x + self.feed_forward(self.norm_c(x))


class SpatialTransformer(nn.Module):
    """Transformer blocks over pixels, as a residual."""

    def __init__(self, channels: int, context_width: int, num_heads: int, depth: int):
        super().__init__()
        self.norm = nn.GroupNorm(32, channels, eps=1e-6)
        self.input = nn.Linear(channels, channels)
        self.blocks = nn.ModuleDict(
            {
                f"block_{i}": TransformerBlock(channels, context_width, num_heads)
                for i in range(depth)
            }
        )
        self.output = nn.Linear(channels, channels)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(self, x: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        h = self.input(self.norm(x).flatten(2).transpose(1, 2))
        for block in self.blocks.values():
            h = block(h, context)
        return x + self.output(h).transpose(1, 2).reshape(x.shape)


class LatentUNet(torch_adm.UNet):
    """The network: x [n, c, h, w], steps [n], label int64 [n] -> like x.

    Args:
        config: ``config.network.latent_unet`` of the library's configs.
        channels: of the latents.
        num_classes: > 0.

    Raises:
        ValueError: the config asks for blocks that this one does not know.
    """

    def __init__(
        self, config: ml_collections.ConfigDict, channels: int, num_classes: int
    ):
        for name in ("scale_shift", "resample_in_blocks"):
            if config[name]:
                raise ValueError(f"{name} is set; allowed: networks without it.")

        def attention(width: int) -> SpatialTransformer:
            heads = config.num_heads
            if config.head_channels:
                heads = width // config.head_channels
            return SpatialTransformer(width, config.context_width, heads, config.depth)

        super().__init__(config, channels, attention)
        self.embedding = torch_adm.StepEmbedding(config.base_channels)
        rows = num_classes + config.null_row
        label = nn.Embedding(rows, config.context_width)
        self.context = nn.ModuleDict({"label": label})

    def forward(
        self, x: torch.Tensor, steps: torch.Tensor, label: torch.Tensor
    ) -> torch.Tensor:
        context = self.context["label"](label)[:, None]
        return self.under(x, self.embedding(steps), context)


def step_of(
    network: str, batch_size: int, *, is_least: bool, layout: str = "nhwc"
) -> tuple[Callable[[], None], nn.Module]:
    """The ordinary step: gradients of the mean squared error of DDPM's noise.

    Args:
        network: a config of latent diffusion, in configs/.
        batch_size: latents, at once.
        is_least: whether all is tiny.
        layout: of latents and kernels, a name in ``torch_steps.LAYOUTS``.

    Returns:
        A function that takes a step, and the network.
    """
    config = latent_sides.load_config(network, is_least=is_least)
    height, width, channels = finetune_problem.load_model(config).latent_shape
    num_classes = config.data.num_classes
    torch.manual_seed(0)
    module = LatentUNet(config.network.latent_unet, channels, num_classes)
    module = module.to(memory_format=LAYOUTS[layout])
    kept = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000), dim=0)
    latents = torch.randn(batch_size, channels, height, width)
    labels = torch.arange(batch_size) % num_classes

    def step() -> None:
        module.zero_grad(set_to_none=True)
        steps = torch.randint(len(kept), (batch_size,))
        signal = kept[steps][:, None, None, None]
        noise = torch.randn_like(latents)
        noisy = signal.sqrt() * latents + (1 - signal).sqrt() * noise
        noisy = noisy.contiguous(memory_format=LAYOUTS[layout])
        predicted = module(noisy, steps.float(), labels)
        (predicted - noise).square().mean().backward()

    return step, module
