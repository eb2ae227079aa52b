"""The PyTorch U-Net of latent diffusion computes what ours does."""

import jax
import numpy as np
import pytest
from random_params import random_like
from torch_parameters import torch_state

from dpdm_jax.conditions import of_classes
from dpdm_jax.networks import latent_unet, text_transformer
from experiments.benchmarks import latent_sides

torch = pytest.importorskip("torch")

from experiments.benchmarks import torch_latent_unet  # noqa: E402

CHANNELS, CLASSES = 2, 3


def test_other_blocks_are_refused():
    config = latent_sides.load_config("mnist_ldm", is_least=True).network.latent_unet
    with pytest.raises(ValueError, match="scale_shift"):
        torch_latent_unet.LatentUNet(config, CHANNELS, CLASSES)


@pytest.mark.slow
def test_outputs_and_gradients_agree():
    config = latent_sides.load_config("cifar10_ldm", is_least=True).network.latent_unet
    config.update(context_width=5)
    network = latent_unet.build(
        latent_unet.Settings(**config),
        text_transformer.Settings(),
        (4, 4, CHANNELS),
        of_classes(CLASSES),
    )
    params = random_like(jax.eval_shape(network.init, jax.random.key(0)))
    twin = torch_latent_unet.LatentUNet(config, CHANNELS, CLASSES)
    twin.load_state_dict(torch_state(params), strict=True)
    rng = np.random.default_rng(1)
    x, dy = rng.normal(size=(2, 3, 4, 4, CHANNELS)).astype(np.float32)
    steps, label = np.float32([0, 17, 999]), np.int32([2, 3, 1])

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
