"""Weights as others publish them."""

import json

import numpy as np
import safetensors.numpy

from dpdm_jax.interop import autoencoder_names
from dpdm_jax.networks.codecs import KEPT

DIFFUSERS = {"_class_name": "AutoencoderKL", "act_fn": "silu", "norm_num_groups": 32}


def officially(params, names):
    """Our parameters as official tensors; undoes the conversion."""

    def tensor(target):
        value = params
        for name in target.path:
            value = value[name]
        shape = [target.official_shape[axis] for axis in target.axes]
        return np.ascontiguousarray(
            np.transpose(np.reshape(value, shape), np.argsort(target.axes))
        )

    return {name: tensor(target) for name, target in names.items()}


def diffusers(params):
    """The tensors of diffusers' AutoencoderKL."""
    return officially(params[KEPT], autoencoder_names.diffusers_names(params[KEPT]))


def write_diffusers(folder, tensors, scale_factor, **changes):
    """Writes the folder of an AutoencoderKL, its config changed if need be."""
    folder.mkdir()
    config = DIFFUSERS | {"scaling_factor": scale_factor} | changes
    (folder / "config.json").write_text(json.dumps(config))
    name = "diffusion_pytorch_model.safetensors"
    safetensors.numpy.save_file(tensors, folder / name)
    return folder
