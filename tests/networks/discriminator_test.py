import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_params import random_like

from dpdm_jax.networks import discriminator
from dpdm_jax.networks.network import functional

torch = pytest.importorskip("torch")


def pytorch(channels, width, params):
    """The published network, in PyTorch's own layers, with these weights."""
    nn = torch.nn
    layers = [nn.Conv2d(channels, width, 4, 2, 1), nn.LeakyReLU(0.2)]
    wider = [width, 2 * width, 4 * width]
    for i in range(2):
        stride = 2 if i == 0 else 1
        layers += [
            nn.Conv2d(wider[i], wider[i + 1], 4, stride, 1, bias=False),
            nn.BatchNorm2d(wider[i + 1]),
            nn.LeakyReLU(0.2),
        ]
    layers.append(nn.Conv2d(wider[2], 1, 4, 1, 1))
    found = nn.Sequential(*layers).double()
    convs = [m for m in found if isinstance(m, nn.Conv2d)]
    norms = [m for m in found if isinstance(m, nn.BatchNorm2d)]
    blocks = [params["blocks"][f"block_{i}"] for i in (1, 2)]
    ours = [params["first"], *(b["conv"] for b in blocks), params["last"]]
    with torch.no_grad():
        for module, p in zip(convs, ours, strict=True):
            kernel = np.asarray(p["kernel"], np.float64)
            module.weight.copy_(torch.tensor(kernel.transpose(3, 2, 0, 1)))
            if "bias" in p:
                module.bias.copy_(torch.tensor(np.asarray(p["bias"], np.float64)))
        for module, b in zip(norms, blocks, strict=True):
            module.weight.copy_(torch.tensor(np.asarray(b["norm"]["scale"])))
            module.bias.copy_(torch.tensor(np.asarray(b["norm"]["bias"])))
    return found


def test_scores_are_those_of_pytorchs_layers():
    made = functional(lambda rngs: discriminator.Discriminator(3, 8, 2))
    params = random_like(jax.eval_shape(made.init, jax.random.key(0)))
    x = np.random.default_rng(0).normal(size=(4, 14, 14, 3)).astype(np.float32)
    scores = jax.jit(lambda p, x: made.bind(p)(x))(params, x)
    expected = pytorch(3, 8, params)(torch.tensor(x.astype(np.float64)).movedim(-1, 1))
    np.testing.assert_allclose(
        scores, expected.detach().movedim(1, -1), rtol=1e-4, atol=1e-5
    )


def test_weights_begin_as_published():
    """Kernels N(0, 0.02^2), gains N(1, 0.02^2), shifts 0."""
    made = functional(lambda rngs: discriminator.Discriminator(3, 64, 2))
    params = made.init(jax.random.key(0))
    block = params["blocks"]["block_1"]
    assert abs(np.std(block["conv"]["kernel"]) / 0.02 - 1) < 0.01
    assert abs(np.mean(block["norm"]["scale"]) - 1) < 0.01
    assert 0.01 < np.std(block["norm"]["scale"]) < 0.03
    assert not np.any(block["norm"]["bias"])
    widths = [params["blocks"][f"block_{i}"]["conv"]["kernel"].shape for i in (1, 2)]
    assert widths == [(4, 4, 64, 128), (4, 4, 128, 256)]


@pytest.mark.parametrize("num_layers", [1, 2, 3])
def test_the_smallest_side_is_left_with_a_score(num_layers):
    made = functional(lambda rngs: discriminator.Discriminator(1, 4, num_layers))
    params = jax.eval_shape(made.init, jax.random.key(0))
    side = discriminator.smallest_side(num_layers)

    def shape(side):
        x = jax.ShapeDtypeStruct((2, side, side, 1), jnp.float32)
        return jax.eval_shape(lambda p, x: made.bind(p)(x), params, x).shape

    assert shape(side) == (2, 1, 1, 1)
    assert 0 in shape(side - 1)
