"""What tells models and weights from each other."""

import dataclasses
import hashlib
from typing import Any

import jax
import numpy as np

from dpdm_jax import devices
from dpdm_jax.diffusion.parameterizations import Parameterization
from dpdm_jax.diffusion.priors import Prior
from dpdm_jax.networks.codecs import Codec

# How checkpoints and releases have always called EDM with another prior: by the kind of
# the prior, and whether it has components.
_NAMES = {
    ("Spectral", False): "SpectralEDM",
    ("Classes", False): "MomentsEDM",
    ("Classes", True): "ComponentsEDM",
}


def named_leaves(params: Any) -> dict[str, Any]:
    """Returns the leaves of a pytree by their path, such as "block_0/weight"."""
    flat, _ = jax.tree_util.tree_flatten_with_path(params)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in flat
    }


def digest(tree: Any) -> str:
    """Returns a checksum of arrays, such as the weights that images were made with."""
    checksum = hashlib.sha256()
    for leaf in jax.tree.leaves(tree):
        checksum.update(np.ascontiguousarray(devices.to_host(leaf)).tobytes())
    return checksum.hexdigest()


def of_denoiser(parameterization: Parameterization, prior: Prior) -> str:
    """Returns one text for what a network sees and what it corrects.

    Checkpoints and releases hold it; it must not change for what there is.

    Args:
        parameterization: of the model.
        prior: of the model.
    """
    if prior == parameterization.prior:
        return repr(parameterization)
    settings = {f.name: getattr(prior, f.name) for f in dataclasses.fields(prior)}
    if not settings.get("components", True):
        del settings["components"]
    kind = type(prior).__name__
    name = _NAMES.get((kind, "components" in settings), f"{parameterization!r} {kind}")
    listed = ", ".join(f"{field}={value!r}" for field, value in settings.items())
    return f"{name}({listed})"


def of_codec(codec: Codec) -> dict[str, str]:
    """Returns {"codec": ...}, or {} of pixels, which models of before had alone."""
    return {"codec": codec.identity} if codec.identity else {}
