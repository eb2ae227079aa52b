"""PyTorch's sides of the benchmarks; runs in a ``worker.Worker``."""

import itertools
import warnings
from collections.abc import Callable, Sequence

import ml_collections
import numpy as np
import torch

from dpdm_jax.diffusion import discretizations
from experiments.benchmarks import problem, torch_ncsnpp

LAYOUTS = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}

#: Computes the gradients of one batch, in the order of the module's parameters.
Gradients = Callable[[], list[torch.Tensor]]


def make_denoiser(network: str, layout: str) -> torch_ncsnpp.Denoiser:
    """The denoiser of a network of ``problem.NETWORKS``, see ``denoiser_of``."""
    return denoiser_of(problem.load_config(network, noise_multiplicity=1), layout)


def denoiser_of(
    config: ml_collections.ConfigDict, layout: str
) -> torch_ncsnpp.Denoiser:
    """The denoiser with fresh weights, its kernels in the given layout."""
    data = config.data
    torch.manual_seed(0)
    net = torch_ncsnpp.NCSNpp(
        config.network.ncsnpp,
        (data.image_size, data.image_size, data.channels),
        data.num_classes,
    )
    denoiser = torch_ncsnpp.Denoiser(net, config.diffusion.sigma_data)
    return denoiser.to(memory_format=LAYOUTS[layout])


class Losses:
    """EDM's losses of a batch, with K fresh noise draws an example.

    Calling it with a denoiser gives the losses of all draws, [B * K], the draws of one
    example beside one another.

    Args:
        batch_size: B.
        noise_multiplicity: K.
        layout: of the images, a name in ``LAYOUTS``.
        config: of a published run with EDM's noise levels; None for MNIST's.
        device: of the images.
    """

    def __init__(
        self,
        batch_size: int,
        noise_multiplicity: int,
        layout: str,
        *,
        config: ml_collections.ConfigDict | None = None,
        device: str = "cpu",
    ):
        config = config or problem.load_config("mnist", noise_multiplicity)
        data = config.data
        self.batch_size = batch_size
        self.noise_multiplicity = noise_multiplicity
        self._diffusion = config.diffusion
        self._layout = LAYOUTS[layout]
        self._null = data.num_classes
        self._make = {"device": device}
        shape = (batch_size, data.channels, data.image_size, data.image_size)
        self._images = torch.rand(shape, **self._make) * 2 - 1
        self._labels = torch.arange(batch_size, **self._make) % data.num_classes

    def __call__(self, denoiser: torch.nn.Module) -> torch.Tensor:
        d = self._diffusion
        count, k = self.batch_size, self.noise_multiplicity
        dropped = torch.rand(count, **self._make) < d.label_dropout
        labels = torch.where(dropped, self._null, self._labels)
        images = self._images.repeat_interleave(k, dim=0)
        levels = d.log_normal
        sigma = torch.exp(
            levels.p_mean + levels.p_std * torch.randn(count * k, **self._make)
        )
        noisy = images + sigma[:, None, None, None] * torch.randn_like(images)
        noisy = noisy.contiguous(memory_format=self._layout)
        error = denoiser(noisy, sigma, labels.repeat_interleave(k)) - images
        variance = sigma**2 + d.sigma_data**2
        weight = variance / (sigma * d.sigma_data) ** 2
        return weight * (error**2).mean(dim=(1, 2, 3))


def step_sides(
    sides: Sequence[str],
    network: str,
    batch_size: int,
    noise_multiplicity: int,
    layout: str,
) -> dict[str, Gradients]:
    """The gradients of one batch.

    Args:
        sides: of "torch_nonprivate", "opacus", "opacus_ghost".
        network: a name in ``problem.NETWORKS``.
        batch_size: B.
        noise_multiplicity: K; ghost clipping knows only 1.
        layout: of images and kernels, a name in ``LAYOUTS``; not for Opacus.

    Returns:
        Name -> function that computes the gradients once; for Opacus's sides the sum
        of clipped ones, C = 1.
    """
    makers = {
        "torch_nonprivate": nonprivate,
        "opacus": opacus_hooks,
        "opacus_ghost": opacus_ghost,
    }
    # Opacus 1.6 takes convolutions' inputs for contiguous: under channels_last its
    # per-example gradients are wrong.
    layouts = {"torch_nonprivate": layout}

    def side(name: str) -> Gradients:
        own = layouts.get(name, "nchw")
        losses = Losses(batch_size, noise_multiplicity, own)
        return makers[name](make_denoiser(network, own), losses)

    return {name: side(name) for name in sides}


def nonprivate(denoiser: torch.nn.Module, losses: Losses) -> Gradients:
    """The gradient of the mean loss, as ordinary training takes it."""

    def run() -> list[torch.Tensor]:
        denoiser.zero_grad(set_to_none=True)
        losses(denoiser).mean().backward()
        return [p.grad for p in denoiser.parameters()]

    return run


def opacus_hooks(denoiser: torch.nn.Module, losses: Losses) -> Gradients:
    """Hooks that keep a gradient for every draw, averaged over K before clipping.

    Opacus has no noise multiplicity. This is how the authors of DPDM get it.
    """
    from opacus import GradSampleModule
    from opacus.optimizers import DPOptimizer

    count, k = losses.batch_size, losses.noise_multiplicity
    module = GradSampleModule(denoiser, loss_reduction="mean")
    optimizer = DPOptimizer(
        torch.optim.SGD(module.parameters(), lr=1e-3),
        noise_multiplier=0.0,
        max_grad_norm=1.0,
        expected_batch_size=count,
    )

    def run() -> list[torch.Tensor]:
        optimizer.zero_grad(set_to_none=True)
        _backward(losses(module).mean())
        if k > 1:
            for p in module.parameters():
                p.grad_sample = p.grad_sample.view(count, k, *p.shape).mean(dim=1)
        optimizer.clip_and_accumulate()
        return [p.summed_grad for p in module.parameters()]

    return run


def opacus_ghost(denoiser: torch.nn.Module, losses: Losses) -> Gradients:
    """Norms of per-example gradients first, then a second, weighted backward pass."""
    from opacus.grad_sample import GradSampleModuleFastGradientClipping
    from opacus.optimizers import DPOptimizerFastGradientClipping
    from opacus.utils.fast_gradient_clipping_utils import DPTensorFastGradientClipping

    if losses.noise_multiplicity != 1:
        raise ValueError("Opacus's ghost clipping has no noise multiplicity.")
    module = GradSampleModuleFastGradientClipping(
        denoiser, loss_reduction="mean", max_grad_norm=1.0, use_ghost_clipping=True
    )
    optimizer = DPOptimizerFastGradientClipping(
        torch.optim.SGD(module.parameters(), lr=1e-3),
        noise_multiplier=0.0,
        max_grad_norm=1.0,
        expected_batch_size=losses.batch_size,
    )

    def run() -> list[torch.Tensor]:
        optimizer.zero_grad(set_to_none=True)
        loss = DPTensorFastGradientClipping(module, optimizer, losses(module), "mean")
        _backward(loss)
        return [p.grad for p in module.parameters()]

    return run


def _backward(loss: torch.Tensor) -> None:
    with warnings.catch_warnings():
        # Opacus's hooks on layers whose input needs no gradient.
        warnings.simplefilter("ignore")
        loss.backward()


def sampling_sides(
    network: str, batch_size: int, num_steps: int, layout: str
) -> dict[str, Callable[[], None]]:
    """Images by deterministic DDIM.

    Args:
        network: a name in ``problem.NETWORKS``.
        batch_size: images.
        num_steps: network calls an image.
        layout: of images and kernels, a name in ``LAYOUTS``.

    Returns:
        The one side "torch".
    """
    denoiser = make_denoiser(network, layout)
    labels = torch.arange(batch_size) % problem.NUM_CLASSES
    grid = discretizations.edm_grid(num_steps)
    height, width, channels = problem.IMAGE_SHAPE

    def run() -> None:
        start = torch.randn(batch_size, channels, height, width)
        start = start.contiguous(memory_format=LAYOUTS[layout])
        ddim(denoiser, start, labels, grid)

    return {"torch": run}


@torch.inference_mode()
def ddim(
    denoiser: torch.nn.Module,
    start: torch.Tensor,
    labels: torch.Tensor,
    grid: np.ndarray,
) -> torch.Tensor:
    """What ``dpdm_jax.diffusion.samplers.DDIM`` computes.

    Args:
        denoiser: D(x, sigma, label).
        start: [n, c, h, w], unit normal.
        labels: int64 [n].
        grid: decreasing noise levels.

    Returns:
        Images, like ``start``.
    """
    x = start * float(grid[0])
    for a, b in itertools.pairwise(grid):
        sigma = torch.full(labels.shape, float(a), device=labels.device)
        x = x + float((b - a) / a) * (x - denoiser(x, sigma, labels))
    return denoiser(x, torch.full_like(sigma, float(grid[-1])), labels)
