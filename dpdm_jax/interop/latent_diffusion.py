"""Weights of latent diffusion: its authors' checkpoints, diffusers' autoencoders."""

import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from dpdm_jax import json_values
from dpdm_jax.errors import InputError, reason
from dpdm_jax.interop import autoencoder_names, name_maps, torch_checkpoints
from dpdm_jax.interop.convert import placed
from dpdm_jax.networks import Params
from dpdm_jax.networks.codecs import KEPT
from dpdm_jax.networks.codecs.autoencoder import AutoencoderCodec
from dpdm_jax.networks.torch_layers import NUM_GROUPS

# In checkpoints of whole models: the U-Net's tensors, and the autoencoder's.
_UNET = "model.diffusion_model."
_AUTOENCODER = "first_stage_model."
# Of a text transformer, unused: it maps back to the vocabulary.
_UNUSED_HEAD = f"{name_maps.CONDITION}.transformer.to_logits."
# In checkpoints of autoencoders: what trained them, and their average.
_NOT_AUTOENCODER = ("loss.", "model_ema.")
_SCALE_FACTOR = "scale_factor"

_CONFIG = "config.json"
_DIFFUSERS_SCALE = 0.18215  # where it is not stated
_WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
# Earlier names of diffusers' attention.
_EARLIER_NAMES = {
    ".query.": ".to_q.",
    ".key.": ".to_k.",
    ".value.": ".to_v.",
    ".proj_attn.": ".to_out.0.",
}


def network_tensors(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Picks the network's tensors out of a checkpoint.

    Args:
        tensors: of a checkpoint, by name.

    Returns:
        Of a whole model those of U-Net and condition, the raw ones, by the names of
        ``name_maps``; all tensors of any other file.
    """
    if not any(name.startswith(_UNET) for name in tensors):
        return dict(tensors)
    return {
        name.removeprefix(_UNET): tensor
        for name, tensor in tensors.items()
        if name.startswith((_UNET, f"{name_maps.CONDITION}."))
        and not name.startswith(_UNUSED_HEAD)
    }


def read_autoencoder(path: pathlib.Path, codec: AutoencoderCodec[Any]) -> Params:
    """Reads the weights of a codec.

    Args:
        path: a checkpoint of latent diffusion's authors, of an autoencoder or of a
            whole model; or the folder of diffusers' AutoencoderKL.
        codec: that they are for.

    Returns:
        What the codec keeps among a model's parameters, float32.

    Raises:
        InputError: the file or folder cannot be read, or is of another autoencoder;
            tensors that are missing, unexpected or of other shapes are listed.
    """
    shapes = jax.eval_shape(codec.init, jax.random.key(0))[KEPT]
    if path.is_dir():
        found = _read_diffusers(path, codec)
        names = autoencoder_names.diffusers_names(shapes)
    else:
        found = _autoencoder_tensors(path, codec)
        names = autoencoder_names.compvis_names(shapes)
    return {KEPT: placed(found, names, "the configured codec")}


def _autoencoder_tensors(
    path: pathlib.Path, codec: AutoencoderCodec[Any]
) -> dict[str, np.ndarray]:
    tensors = torch_checkpoints.read_state_dict(path)
    if _SCALE_FACTOR in tensors:
        scale = tensors[_SCALE_FACTOR].tolist()  # a number
        _check_scale(path, _SCALE_FACTOR, scale, codec)
    if any(name.startswith(_AUTOENCODER) for name in tensors):
        tensors = {
            name.removeprefix(_AUTOENCODER): tensor
            for name, tensor in tensors.items()
            if name.startswith(_AUTOENCODER)
        }
    return {
        name: tensor
        for name, tensor in tensors.items()
        if not name.startswith(_NOT_AUTOENCODER)
    }


def _read_diffusers(
    path: pathlib.Path, codec: AutoencoderCodec[Any]
) -> dict[str, np.ndarray]:
    try:
        config = json_values.loads((path / _CONFIG).read_bytes())
    except (OSError, ValueError) as e:
        raise InputError(
            f"{path / _CONFIG} cannot be read ({reason(e)}); allowed: the folder of an "
            "AutoencoderKL, as diffusers saves it."
        ) from None
    _check_diffusers(path, config, codec)
    present = [path / name for name in _WEIGHTS if (path / name).is_file()]
    if not present:
        raise InputError(
            f"{path} has no weights; allowed: a folder with {' or '.join(_WEIGHTS)}."
        )
    tensors = torch_checkpoints.read_state_dict(present[0])
    return {_today(name): tensor for name, tensor in tensors.items()}


def _today(name: str) -> str:
    for earlier, today in _EARLIER_NAMES.items():
        name = name.replace(earlier, today)
    return name


def _check_diffusers(
    path: pathlib.Path, config: Any, codec: AutoencoderCodec[Any]
) -> None:
    """Refuses what names and shapes of tensors do not tell apart."""
    where = path / _CONFIG
    for field, value in (
        ("_class_name", "AutoencoderKL"),
        ("act_fn", "silu"),
        ("norm_num_groups", NUM_GROUPS),
    ):
        found = config.get(field) if isinstance(config, dict) else None
        if found != value:
            raise InputError(f"{where} has {field} {found!r}; allowed: {value!r}.")
    scale = config.get("scaling_factor", _DIFFUSERS_SCALE)
    _check_scale(where, "scaling_factor", scale, codec)
    if config.get("shift_factor"):
        raise InputError(
            f"{where} has shift_factor {config['shift_factor']!r}; allowed: none."
        )


def _check_scale(
    where: pathlib.Path, field: str, found: object, codec: AutoencoderCodec[Any]
) -> None:
    """Refuses weights that were trained with another factor of the latents."""
    wanted = codec.settings.scale_factor
    if not isinstance(found, (int, float)) or not np.isclose(found, wanted, rtol=1e-6):
        raise InputError(
            f"{where} has {field} {found!r}; allowed with "
            f"{codec.settings.path}.scale_factor={wanted!r}: the same."
        )
