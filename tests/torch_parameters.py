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
