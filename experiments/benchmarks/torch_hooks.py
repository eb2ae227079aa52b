"""Gradients of single examples by hooks on PyTorch's layers, as Opacus takes them.

For machines that have PyTorch without Opacus: the same method, activations and
gradients of outputs kept by hooks and multiplied for each example (Goodfellow 2015;
Rochette et al. 2019), on the layers of ``torch_ncsnpp``.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from experiments.benchmarks.torch_steps import Gradients, Losses

#: ``rule(layer, input, gradient by output) -> a gradient [n, ...] by each parameter``
_Rule = Callable[..., dict[str, torch.Tensor]]


def _of_conv(layer: nn.Conv2d, x: torch.Tensor, dy: torch.Tensor) -> dict:
    windows = F.unfold(x, layer.kernel_size, padding=layer.padding)
    products = torch.einsum("nol,npl->nop", dy.flatten(2), windows)
    weight = products.view(len(x), *layer.weight.shape)
    return {"weight": weight, "bias": dy.sum(dim=(2, 3))}


def _of_linear(layer: nn.Linear, x: torch.Tensor, dy: torch.Tensor) -> dict:
    x, dy = (a.reshape(len(a), -1, a.shape[-1]) for a in (x, dy))
    return {"weight": torch.einsum("nto,nti->noi", dy, x), "bias": dy.sum(dim=1)}


def _of_group_norm(layer: nn.GroupNorm, x: torch.Tensor, dy: torch.Tensor) -> dict:
    normalised = F.group_norm(x, layer.num_groups, eps=layer.eps)
    return {"weight": (dy * normalised).sum(dim=(2, 3)), "bias": dy.sum(dim=(2, 3))}


def _of_embedding(layer: nn.Embedding, x: torch.Tensor, dy: torch.Tensor) -> dict:
    weight = dy.new_zeros((len(x), *layer.weight.shape))
    weight[torch.arange(len(x), device=x.device), x] = dy
    return {"weight": weight}


_RULES: dict[type[nn.Module], _Rule] = {
    nn.Conv2d: _of_conv,
    nn.Linear: _of_linear,
    nn.GroupNorm: _of_group_norm,
    nn.Embedding: _of_embedding,
}


def hooks(denoiser: nn.Module, losses: Losses) -> Gradients:
    """The sum of clipped gradients, C = 1, of examples averaged over their K draws.

    Args:
        denoiser: all of whose layers with parameters are used once a pass.
        losses: of a batch.

    Returns:
        A function of the kind of ``torch_steps.step_sides``.
    """
    found: dict[nn.Parameter, torch.Tensor] = {}

    def keep(layer: nn.Module, inputs: tuple, output: torch.Tensor) -> None:
        x = inputs[0].detach()

        def multiply(dy: torch.Tensor) -> None:
            given = x.to(dy.dtype) if x.is_floating_point() else x
            for name, gradient in _RULES[type(layer)](layer, given, dy).items():
                found[getattr(layer, name)] = gradient

        output.register_hook(multiply)

    for layer in denoiser.modules():
        if list(layer.parameters(recurse=False)):
            layer.register_forward_hook(keep)
    parameters = list(denoiser.parameters())
    count, k = losses.batch_size, losses.noise_multiplicity

    def run() -> list[torch.Tensor]:
        denoiser.zero_grad(set_to_none=True)
        found.clear()
        # Of the sum, so that what comes back to a draw is its own.
        losses(denoiser).sum().backward()
        gradients = [
            found.pop(p).float().view(count, k, *p.shape).mean(dim=1)
            for p in parameters
        ]
        squares = torch.stack([g.flatten(1).square().sum(dim=1) for g in gradients])
        factors = squares.sum(dim=0).sqrt().clamp(min=1.0).reciprocal()
        return [torch.einsum("n,n...->...", factors, g) for g in gradients]

    return run
