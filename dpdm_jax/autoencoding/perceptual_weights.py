"""The weights of the perceptual distance, from a file of its authors' PyTorch code."""

import pathlib
from collections.abc import Mapping

import numpy as np

from dpdm_jax.errors import InputError
from dpdm_jax.interop import torch_checkpoints
from dpdm_jax.networks import Params, perceptual
from dpdm_jax.networks.codecs.training import Settings

# Where checkpoints of latent diffusion's autoencoders have it.
_PREFIX = "loss.perceptual_loss."


def read(settings: Settings) -> Params:
    """Reads the weights that a config names.

    Args:
        settings: reads ``perceptual_weights``: a file of the state of ``lpips.LPIPS``
            with VGG16, or a checkpoint of an autoencoder that was trained with it.

    Returns:
        Parameters of ``perceptual.Perceptual``; {} if none are named.

    Raises:
        InputError: there is no such file, or it has other weights.
    """
    if not settings.perceptual_weights:
        return {}
    path = pathlib.Path(settings.perceptual_weights)
    tensors = torch_checkpoints.read_state_dict(path)
    return converted(
        {name.removeprefix(_PREFIX): tensor for name, tensor in tensors.items()}, path
    )


def converted(tensors: Mapping[str, np.ndarray], path: pathlib.Path) -> Params:
    """Puts PyTorch's tensors where the network has them.

    Args:
        tensors: by name, as LPIPS calls them.
        path: whose they are, for messages.

    Raises:
        InputError: one is missing, or of another shape.
    """

    def taken(name: str, shape: tuple[int, ...]) -> np.ndarray:
        found = tensors.get(name)
        if found is None or found.shape != shape:
            has = "lacks" if found is None else f"has the shape {found.shape} for"
            raise InputError(
                f"{path} {has} {name}; allowed: the weights of LPIPS with VGG16, whose "
                f"{name} has the shape {shape}."
            )
        return found.astype(np.float32)

    stages: Params = {}
    weights: Params = {}
    channels, number = 3, 0
    for i, widths in enumerate(perceptual.STAGES):
        stage = stages[f"stage_{i}"] = {}
        for j, width in enumerate(widths):
            name = f"net.slice{i + 1}.{number}"
            kernel = taken(f"{name}.weight", (width, channels, 3, 3))
            stage[f"conv_{j}"] = {
                "kernel": kernel.transpose(2, 3, 1, 0),
                "bias": taken(f"{name}.bias", (width,)),
            }
            channels, number = width, number + 2  # an activation between
        number += 1  # and pooling
        weight = taken(f"lin{i}.model.1.weight", (1, widths[-1], 1, 1))
        weights[f"stage_{i}"] = weight.reshape(-1)
    return {"stages": stages, "weights": weights}
