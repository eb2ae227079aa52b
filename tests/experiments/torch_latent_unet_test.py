"""The PyTorch U-Net of latent diffusion computes what ours does."""

import jax
import pytest
from random_params import random_like
from torch_parameters import assert_twins

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
    assert_twins(network, params, twin, CHANNELS)
