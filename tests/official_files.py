"""Weights as others publish them."""

import json
import re

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


def diffusers_of_compvis(tensors):
    """An autoencoder's tensors as diffusers' own script of conversion renames them.

    Written by hand, and not by the package's table of names.
    """
    levels = 1 + max(
        int(found[1]) for name in tensors if (found := re.match(_LEVEL, name))
    )
    return {
        _in_diffusers(name, levels): (
            tensor[:, :, 0, 0]
            if re.search(r"\.attn.*(q|k|v|proj_out)\.weight$", name)
            else tensor
        )
        for name, tensor in tensors.items()
    }


_LEVEL = r"decoder\.up\.(\d+)\."
_RENAMED = [
    (r"\.mid\.block_1\.", ".mid_block.resnets.0."),
    (r"\.mid\.block_2\.", ".mid_block.resnets.1."),
    (r"\.mid\.attn_1\.", ".mid_block.attentions.0."),
    (r"\.down\.(\d+)\.", r".down_blocks.\1."),
    (r"_blocks\.(\d+)\.block\.", r"_blocks.\1.resnets."),
    (r"_blocks\.(\d+)\.attn\.", r"_blocks.\1.attentions."),
    (r"\.downsample\.", ".downsamplers.0."),
    (r"\.upsample\.", ".upsamplers.0."),
    (r"\.nin_shortcut\.", ".conv_shortcut."),
    (r"(attentions\.\d+)\.norm\.", r"\1.group_norm."),
    (r"(attentions\.\d+)\.([qkv])\.", r"\1.to_\2."),
    (r"(attentions\.\d+)\.proj_out\.", r"\1.to_out.0."),
    (r"\.norm_out\.", ".conv_norm_out."),
]


def _in_diffusers(name, levels):
    # The coarsest level is the first one there.
    name = re.sub(
        _LEVEL, lambda found: f"decoder.up_blocks.{levels - 1 - int(found[1])}.", name
    )
    for before, after in _RENAMED:
        name = re.sub(before, after, name)
    return name


def write_diffusers(folder, tensors, scale_factor, **changes):
    """Writes the folder of an AutoencoderKL, its config changed if need be."""
    folder.mkdir()
    config = DIFFUSERS | {"scaling_factor": scale_factor} | changes
    (folder / "config.json").write_text(json.dumps(config))
    name = "diffusion_pytorch_model.safetensors"
    safetensors.numpy.save_file(tensors, folder / name)
    return folder
