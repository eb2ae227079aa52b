"""PyTorch's sides of the benchmarks compute what they are timed for."""

import copy
import importlib.util

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from experiments.benchmarks import torch_hooks, torch_steps  # noqa: E402

BATCH = 3
WITH_OPACUS = pytest.mark.skipif(
    importlib.util.find_spec("opacus") is None, reason="needs Opacus"
)


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
    ("module", "side", "noise_multiplicity"),
    [
        (torch_hooks, "hooks", 2),
        pytest.param(torch_steps, "opacus_hooks", 2, marks=WITH_OPACUS),
        pytest.param(torch_steps, "opacus_hooks", 1, marks=WITH_OPACUS),
        pytest.param(torch_steps, "opacus_ghost", 1, marks=WITH_OPACUS),
    ],
)
def test_gradients_of_examples_are_clipped_and_summed(module, side, noise_multiplicity):
    denoiser = torch_steps.make_denoiser("tiny", "nchw")
    losses = torch_steps.Losses(BATCH, noise_multiplicity, "nchw")
    with torch.no_grad():  # initial weights have tiny gradients
        for p in denoiser.parameters():
            p.add_(0.2 * torch.randn_like(p))
    torch.manual_seed(1)
    expected = clipped_sum_by_hand(copy.deepcopy(denoiser), losses)
    run = getattr(module, side)(denoiser, losses)
    for _ in range(2):  # nothing is left over from the call before
        torch.manual_seed(1)
        total = run()
    for ours, theirs in zip(total, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)
