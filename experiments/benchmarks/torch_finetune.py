"""PyTorch's side of the benchmark of DP fine-tuning; runs in a ``worker.Worker``."""

import contextlib
from collections.abc import Callable

import torch

from experiments.benchmarks import finetune_problem as problem
from experiments.benchmarks import torch_adm
from experiments.benchmarks.torch_steps import LAYOUTS


def make_network(network: str) -> torch_adm.ADM:
    """The network with fresh weights.

    Args:
        network: a name in ``problem.NETWORKS``.
    """
    config = problem.load_config(network, "float32", 1, 0)
    torch.manual_seed(0)
    return torch_adm.ADM(
        config.network.adm, config.data.channels, config.data.num_classes
    )


def sides(
    network: str,
    dtype: str,
    batch_size: int,
    noise_multiplicity: int,
    views_at_once: int,
    layout: str = "nhwc",
) -> dict[str, Callable[[], None]]:
    """The ordinary step: gradients of the mean squared error of DDPM's noise.

    Args:
        network: a name in ``problem.NETWORKS``.
        dtype: "float32", or "bfloat16", which is autocast.
        batch_size: B, images.
        noise_multiplicity: K, views of each: of as many noisy images as B K.
        views_at_once: views in a micro-batch, whose gradients are added up.
        layout: of images and kernels, a name in ``torch_steps.LAYOUTS``.

    Returns:
        The one side "torch_ordinary".
    """
    return {
        "torch_ordinary": step_of(
            network, dtype, batch_size, noise_multiplicity, views_at_once, layout
        )[0]
    }


def step_of(
    network: str,
    dtype: str,
    batch_size: int,
    noise_multiplicity: int,
    views_at_once: int,
    layout: str = "nhwc",
) -> tuple[Callable[[], None], torch.nn.Module]:
    """The step of ``sides``, of these arguments, and the network."""
    data = problem.load_config(network, dtype, 1, 0).data
    module = make_network(network).to(memory_format=LAYOUTS[layout])
    kept = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000), dim=0)
    shape = (views_at_once, data.channels, data.image_size, data.image_size)
    images = torch.rand(shape) * 2 - 1
    labels = torch.arange(views_at_once) % data.num_classes
    calls = batch_size * noise_multiplicity // views_at_once
    cast = (
        torch.autocast("cpu", dtype=torch.bfloat16)
        if dtype == "bfloat16"
        else contextlib.nullcontext()
    )

    def step() -> None:
        module.zero_grad(set_to_none=True)
        for _ in range(calls):
            steps = torch.randint(len(kept), (views_at_once,))
            signal = kept[steps][:, None, None, None]
            noise = torch.randn_like(images)
            noisy = signal.sqrt() * images + (1 - signal).sqrt() * noise
            noisy = noisy.contiguous(memory_format=LAYOUTS[layout])
            with cast:
                predicted = module(noisy, steps.float(), labels)
            (predicted.float() - noise).square().mean().backward()

    return step, module
