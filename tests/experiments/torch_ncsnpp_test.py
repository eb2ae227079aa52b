"""The PyTorch network of the benchmarks computes what ours does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from torch_parameters import torch_state

from dpdm_jax.conditions import of_classes
from dpdm_jax.diffusion import samplers
from dpdm_jax.diffusion.discretizations import edm_grid
from dpdm_jax.models.model import build_model
from experiments.benchmarks import problem

torch = pytest.importorskip("torch")

from experiments.benchmarks import torch_ncsnpp, torch_steps  # noqa: E402


@pytest.fixture(scope="module")
def both():
    config = problem.load_config("tiny", noise_multiplicity=1)
    model = build_model(config, problem.IMAGE_SHAPE, of_classes(problem.NUM_CLASSES))
    params = model.init(jax.random.key(0))
    # Initial weights that are almost zero would hide what follows them.
    leaves, treedef = jax.tree.flatten(params)
    rng = np.random.default_rng(0)
    params = treedef.unflatten(
        [np.asarray(x + 0.1 * rng.normal(size=x.shape), np.float32) for x in leaves]
    )
    network = torch_ncsnpp.NCSNpp(
        config.network.ncsnpp, problem.IMAGE_SHAPE, problem.NUM_CLASSES
    )
    twin = torch_ncsnpp.Denoiser(network, config.diffusion.sigma_data)
    twin.load_state_dict(torch_state(params, "network"), strict=True)
    return model, params, twin


@pytest.fixture(scope="module")
def inputs():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(3, *problem.IMAGE_SHAPE)).astype(np.float32)
    sigma = np.array([0.01, 0.5, 60.0], np.float32)
    label = np.array([0, 7, 10], np.int32)
    return x, sigma, label


def to_torch(x, sigma, label):
    return (
        torch.tensor(x).permute(0, 3, 1, 2),
        torch.tensor(sigma),
        torch.tensor(label, dtype=torch.int64),
    )


@pytest.mark.parametrize(
    "layout", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"]
)
def test_outputs_agree(both, inputs, layout):
    model, params, twin = both
    ours = jax.jit(model.denoise)(params, *inputs)
    with torch.no_grad():
        theirs = twin.to(memory_format=layout)(*to_torch(*inputs))
    # c_skip x would hide the network at small sigma: see the gradients below.
    np.testing.assert_allclose(ours, theirs.permute(0, 2, 3, 1), rtol=0, atol=1e-4)
    assert float(jnp.abs(ours).max()) > 0.1


def test_gradients_agree(both, inputs):
    model, params, twin = both
    weights = jnp.asarray([30.0, 1.0, 1.0])[:, None, None, None]

    def loss(params):
        return jnp.mean(weights * model.denoise(params, *inputs) ** 2)

    ours = torch_state(jax.jit(jax.grad(loss))(params), "network")
    twin.zero_grad()
    torch_weights = torch.tensor(np.array(weights))
    (torch_weights * twin(*to_torch(*inputs)) ** 2).mean().backward()
    theirs = {name: p.grad for name, p in twin.named_parameters()}
    assert ours.keys() == theirs.keys()
    for name, gradient in ours.items():
        bound = 1e-4 * max(1.0, float(gradient.abs().max()))
        np.testing.assert_allclose(gradient, theirs[name], rtol=0, atol=bound)
    total = sum(float((g**2).sum()) for g in ours.values()) ** 0.5
    assert total > 0.1


def test_ddim_agrees(both, inputs):
    model, params, twin = both
    start, _, label = inputs
    grid = edm_grid(3, sigma_min=0.1, sigma_max=10.0)
    ours = jax.jit(
        lambda params: samplers.sample(
            samplers.DDIM(grid),
            lambda x, sigma: model.denoise(params, x, sigma, label),
            jnp.asarray(start),
            draw_noise=lambda step: pytest.fail("a deterministic sampler drew noise"),
        )
    )(params)
    x, _, torch_label = to_torch(start, label, label)
    theirs = torch_steps.ddim(twin, x, torch_label, grid)
    np.testing.assert_allclose(ours, theirs.permute(0, 2, 3, 1), rtol=0, atol=1e-4)
