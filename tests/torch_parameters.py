"""Our parameters as those of PyTorch networks that name their layers alike."""

import jax
import numpy as np


def torch_state(params, *prefix):
    """Parameters under PyTorch's names, behind a prefix, and in its layouts."""
    import torch

    state = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        *module, name = [entry.key for entry in path]
        value = np.asarray(leaf)
        if value.ndim == 4:  # HWIO -> OIHW
            value = value.transpose(3, 2, 0, 1)
        elif name == "kernel":
            value = value.T[:, :, None, None] if module[-1] == "shortcut" else value.T
        names = {"kernel": "weight", "scale": "weight", "embedding": "weight"}
        state[".".join([*prefix, *module, names.get(name, name)])] = torch.tensor(value)
    return state


def assert_twins(network, params, twin, channels):
    """A diffusion network of three classes and its twin in PyTorch compute the same.

    Args:
        network: ``dpdm_jax.networks.network.Network`` of steps and labels.
        params: its parameters.
        twin: a module whose layers have the same names.
        channels: of images of 4x4 pixels.
    """
    import torch

    twin.load_state_dict(torch_state(params), strict=True)
    rng = np.random.default_rng(1)
    x, dy = rng.normal(size=(2, 3, 4, 4, channels)).astype(np.float32)
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
