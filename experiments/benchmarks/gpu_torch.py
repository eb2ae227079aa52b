"""PyTorch's tasks of the benchmark on a GPU; runs in a process of ``gpu``.

Each is named like the one of ``gpu_tasks`` that it is compared with.
"""

import contextlib
from collections.abc import Callable
from typing import Any

import torch

from dpdm_jax.diffusion import discretizations
from experiments.benchmarks import gpu_problem, pairs, torch_hooks, torch_steps


def step(
    network: str,
    precision: str,
    engine: str,
    noisy_images: int = 0,
    rounds: int = 5,
    round_seconds: float = 0.3,
) -> dict[str, Any]:
    """The ordinary gradient, and the private one by hooks.

    Args:
        network: a name in ``gpu_problem.NETWORKS``.
        precision: "float32", "tf32", or "bfloat16", which is autocast.
        engine: not read.
        noisy_images: of the batch, B K; 0 for what the device's memory suggests.
        rounds: of each side.
        round_seconds: see ``pairs.repeated``.
    """
    del engine
    device = _device(precision)
    config = gpu_problem.load_config(network)
    multiplicity = config.diffusion.noise_multiplicity
    noisy_images = noisy_images or gpu_problem.noisy_images(_bytes_limit(device))
    batch_size = max(1, noisy_images // multiplicity)
    seconds, peaks, failed = {}, {}, {}
    for name, make, layout in (
        ("torch_nonprivate", torch_steps.nonprivate, "nhwc"),
        ("torch_hooks", torch_hooks.hooks, "nchw"),
    ):
        denoiser = torch_steps.denoiser_of(config, layout).to(device)
        losses = torch_steps.Losses(
            batch_size, multiplicity, layout, config=config, device=device
        )
        run = make(denoiser, _Cast(losses, device, precision))
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        try:
            seconds[name] = _timed(run, device, rounds, round_seconds)
        except torch.OutOfMemoryError as e:
            failed[name] = str(e).splitlines()[0]
        if device == "cuda":
            peaks[name] = torch.cuda.max_memory_allocated()
    return {
        "batch_size": batch_size,
        "noise_multiplicity": multiplicity,
        "torch": torch.__version__,
        "seconds": {name: pairs.spread(s) for name, s in seconds.items()},
        "images_per_second": {
            name: pairs.spread([batch_size / x for x in s])
            for name, s in seconds.items()
        },
        "peak_bytes": peaks,
    } | ({"failed": failed} if failed else {})


def sampling(
    network: str,
    precision: str,
    num_steps: int = 50,
    batch_size: int = 1024,
    rounds: int = 3,
) -> dict[str, Any]:
    """Images a second of deterministic DDIM.

    Args:
        network: see ``step``.
        precision: see ``step``.
        num_steps: network calls an image.
        batch_size: images of a call.
        rounds: of a call each.
    """
    device = _device(precision)
    config = gpu_problem.load_config(network)
    data = config.data
    denoiser = torch_steps.denoiser_of(config, "nhwc").to(device)
    labels = torch.arange(batch_size, device=device) % data.num_classes
    shape = (batch_size, data.channels, data.image_size, data.image_size)
    grid = discretizations.edm_grid(num_steps)

    def run() -> None:
        start = torch.randn(shape, device=device)
        start = start.contiguous(memory_format=torch.channels_last)
        with _autocast(device, precision):
            torch_steps.ddim(denoiser, start, labels, grid)

    seconds = _timed(run, device, rounds)
    rates = [batch_size / s for s in seconds]
    return {
        "batch_size": batch_size,
        "num_steps": num_steps,
        "images_per_second": {"torch_sampling": pairs.spread(rates)},
    }


class _Cast:
    """Losses that the network's matrix products are cast for."""

    def __init__(self, losses: torch_steps.Losses, device: str, precision: str):
        self._losses, self._device, self._precision = losses, device, precision
        self.batch_size = losses.batch_size
        self.noise_multiplicity = losses.noise_multiplicity

    def __call__(self, denoiser: torch.nn.Module) -> torch.Tensor:
        with _autocast(self._device, self._precision):
            return self._losses(denoiser)


def _device(precision: str) -> str:
    torch.backends.cuda.matmul.allow_tf32 = precision != "float32"
    torch.backends.cudnn.allow_tf32 = precision != "float32"
    torch.backends.cudnn.benchmark = True
    torch.manual_seed(0)
    return "cuda" if torch.cuda.is_available() else "cpu"


def _autocast(device: str, precision: str) -> contextlib.AbstractContextManager:
    if precision != "bfloat16":
        return contextlib.nullcontext()
    return torch.autocast(device, dtype=torch.bfloat16)


def _bytes_limit(device: str) -> int | None:
    if device != "cuda":
        return None
    # What JAX takes of a GPU by default, so that both sides choose alike.
    return int(0.75 * torch.cuda.get_device_properties(0).total_memory)


def _timed(
    run: Callable[[], Any], device: str, rounds: int, round_seconds: float = 0.3
) -> list[float]:
    def wait(_: Any) -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    return pairs.repeated({"": run}, rounds, wait=wait, round_seconds=round_seconds)[""]
