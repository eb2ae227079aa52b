"""Training on images that stay in their files."""

import jax
import numpy as np
import pytest
from PIL import Image

from dpdm_jax.training.loop import train


@pytest.mark.slow
def test_it_ends_with_the_same_weights(tiny_config, tmp_path):
    rng = np.random.default_rng(0)
    for i in range(120):
        path = tmp_path / "images" / str(i % 10) / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (9, 9), np.uint8)).save(path)

    def trained(on_demand):
        config = tiny_config(
            data__source="image_folder",
            data__path=str(tmp_path / "images"),
            data__num_examples=120,
            data__image_size=8,
            data__channels=1,
            data__on_demand=on_demand,
            privacy__fixed_keys_seed=5,
            train__batch_size=70,  # more than a micro-batch
            train__num_steps=3,
        )
        return train(config, tmp_path / f"run_{on_demand}")

    kept, read = trained(False), trained(True)
    assert int(kept.step) == int(read.step) == 3
    for name in ("params", "ema_params", "opt_state"):
        jax.tree.map(
            np.testing.assert_array_equal, getattr(kept, name), getattr(read, name)
        )
