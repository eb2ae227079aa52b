"""PyTorch's sides of the benchmarks compute what they are timed for."""

import copy

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("opacus")

from experiments.benchmarks import torch_steps  # noqa: E402

BATCH = 3


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # two threads on a busy machine wait for each other
    yield
    torch.set_num_threads(threads)


def clipped_sum_by_hand(denoiser, losses):
    by_example = losses(denoiser).view(BATCH, -1).mean(dim=1)
    parameters = list(denoiser.parameters())
    total = [torch.zeros_like(p) for p in parameters]
    norms = []
    for loss in by_example:
        gradient = torch.autograd.grad(loss, parameters, retain_graph=True)
        norms.append(float(torch.sqrt(sum((g**2).sum() for g in gradient))))
        factor = min(1.0, 1.0 / norms[-1])
        total = [t + factor * g for t, g in zip(total, gradient, strict=True)]
    assert max(norms) > 1.5  # or clipping would not show
    return total


@pytest.mark.parametrize(
    ("side", "noise_multiplicity"),
    [("opacus_hooks", 2), ("opacus_hooks", 1), ("opacus_ghost", 1)],
)
def test_opacus_clips_and_sums(side, noise_multiplicity):
    denoiser = torch_steps.make_denoiser("tiny", "nchw")
    losses = torch_steps.Losses(BATCH, noise_multiplicity, "nchw")
    with torch.no_grad():  # initial weights have tiny gradients
        for p in denoiser.parameters():
            p.add_(0.2 * torch.randn_like(p))
    torch.manual_seed(1)
    expected = clipped_sum_by_hand(copy.deepcopy(denoiser), losses)
    run = getattr(torch_steps, side)(denoiser, losses)
    for _ in range(2):  # nothing is left over from the call before
        torch.manual_seed(1)
        total = run()
    for ours, theirs in zip(total, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)
