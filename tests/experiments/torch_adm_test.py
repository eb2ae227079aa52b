"""The PyTorch ADM U-Net of the benchmarks computes what ours does."""

import pytest
from random_params import random_like
from torch_parameters import assert_twins

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
    assert_twins(network, params, twin, CHANNELS)
