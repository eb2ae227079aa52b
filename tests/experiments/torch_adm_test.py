"""The PyTorch ADM U-Net of the benchmarks computes what ours does."""

import jax
import numpy as np
import pytest
from random_params import random_like
from torch_parameters import torch_state

from dpdm_jax.networks import adm
from experiments.benchmarks import finetune_problem

torch = pytest.importorskip("torch")

from experiments.benchmarks import torch_adm  # noqa: E402

CHANNELS, CLASSES = 2, 3


@pytest.mark.slow
def test_outputs_and_gradients_agree():
    """Two levels, attention on one of them, a head for each half of its channels."""
    config = finetune_problem.load_config("adm_4m", "float32", 1, 0)
    config.network.adm.update(
        base_channels=32,
        channel_multipliers=(1, 2),
        attention_factors=(2,),
        head_channels=32,
    )
    settings = adm.Settings(**config.network.adm)
    network = adm.build(settings, (4, 4, CHANNELS), CLASSES)
    params = random_like(network.shapes)
    twin = torch_adm.ADM(config.network.adm, CHANNELS, CLASSES)
    twin.load_state_dict(torch_state(params), strict=True)
    rng = np.random.default_rng(1)
    x, dy = rng.normal(size=(2, 3, 4, 4, CHANNELS)).astype(np.float32)
    steps, label = np.float32([0, 17, 999]), np.int32([2, 0, 1])

    @jax.jit
    def outputs_and_gradients(params):
        out, pull = jax.vjp(lambda p: network.apply(p, x, steps, label), params)
        return out, pull(dy)[0]

    ours, gradients = outputs_and_gradients(params)
    theirs = twin(
        torch.tensor(x).permute(0, 3, 1, 2), torch.tensor(steps), torch.tensor(label)
    ).permute(0, 2, 3, 1)
    assert float(abs(ours).max()) > 0.1
    np.testing.assert_allclose(ours, theirs.detach(), rtol=0, atol=1e-4)
    theirs.backward(torch.tensor(dy))
    found = {name: p.grad for name, p in twin.named_parameters()}
    for name, gradient in torch_state(gradients).items():
        bound = 1e-4 * max(1.0, float(gradient.abs().max()))
        np.testing.assert_allclose(gradient, found[name], rtol=0, atol=bound)
