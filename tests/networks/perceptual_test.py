import jax
import numpy as np
import pytest
from random_params import random_like

from dpdm_jax.networks.perceptual import STAGES, perceptual

torch = pytest.importorskip("torch")


def pytorch(params, x, y):
    """The distance in PyTorch's own layers, float64."""
    functional = torch.nn.functional

    def features(image):
        shift = torch.tensor([-0.030, -0.088, -0.188])[:, None, None]
        scale = torch.tensor([0.458, 0.448, 0.450])[:, None, None]
        h = (torch.tensor(image.astype(np.float64)).movedim(-1, 1) - shift) / scale
        found = []
        for i, widths in enumerate(STAGES):
            if i:
                h = functional.max_pool2d(h, 2)
            for j in range(len(widths)):
                p = params["stages"][f"stage_{i}"][f"conv_{j}"]
                kernel = torch.tensor(np.asarray(p["kernel"], np.float64))
                bias = torch.tensor(np.asarray(p["bias"], np.float64))
                h = functional.conv2d(h, kernel.permute(3, 2, 0, 1), bias, padding=1)
                h = torch.relu(h)
            found.append(h / (h.norm(dim=1, keepdim=True) + 1e-10))
        return found

    total = 0.0
    for i, (a, b) in enumerate(zip(features(x), features(y), strict=True)):
        weights = np.asarray(params["weights"][f"stage_{i}"], np.float64)
        weighted = (a - b) ** 2 * torch.tensor(weights)[:, None, None]
        total = total + weighted.sum(dim=1).mean(dim=(1, 2))
    return total


@pytest.mark.slow
def test_distances_are_those_of_pytorchs_layers():
    made = perceptual()
    params = random_like(jax.eval_shape(made.init, jax.random.key(0)), 0.05)
    rng = np.random.default_rng(0)
    x, y = rng.uniform(-1, 1, (2, 2, 16, 16, 3)).astype(np.float32)
    distance = jax.jit(lambda p, x, y: made.bind(p)(x, y))
    found = distance(params, x, y)
    np.testing.assert_allclose(found, pytorch(params, x, y), rtol=1e-3)
    assert not np.any(distance(params, x, x))
    # Grey images are seen as coloured ones.
    grey = np.repeat(x[..., :1], 3, axis=-1)
    np.testing.assert_allclose(
        distance(params, x[..., :1], y[..., :1]),
        distance(params, grey, np.repeat(y[..., :1], 3, axis=-1)),
    )
