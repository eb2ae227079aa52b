"""A denoiser from a config: the one place that joins a network to the diffusion."""

import dataclasses
import hashlib
from typing import Any

import jax
import ml_collections
import numpy as np

from dpdm_jax import validate
from dpdm_jax.diffusion import from_config, losses, noise_levels, parameterizations
from dpdm_jax.networks import Network, build_network
from dpdm_jax.networks.moments import MOMENTS, with_moments


@dataclasses.dataclass(frozen=True)
class Model:
    """A network, the way it denoises and the noise levels it is trained at.

    Attributes:
        network: the raw network.
        parameterization: scalings and loss weight.
        noise_levels: training distribution of sigma.
        denoise: ``denoise(params, x, sigma, label)``, see ``parameterizations``.
    """

    network: Network
    parameterization: parameterizations.Parameterization
    noise_levels: noise_levels.NoiseLevels
    denoise: parameterizations.Denoiser

    @property
    def num_classes(self) -> int:
        """Number of classes; 0 for unlabelled data."""
        return self.network.num_classes

    @property
    def null_label(self) -> int | None:
        """The label that stands for 'no label'; None for unlabelled data."""
        return self.num_classes or None

    @property
    def has_moments(self) -> bool:
        """Whether the parameters hold moments, which are measured and not trained."""
        return isinstance(self.parameterization, parameterizations.MomentsEDM)

    def loss(self, config: ml_collections.ConfigDict) -> losses.ExampleLoss:
        """Builds the training loss of one example.

        Args:
            config: ``config.diffusion``.

        Raises:
            InputError: a field is out of range.
        """
        validate.integer(
            "diffusion.noise_multiplicity", config.noise_multiplicity, minimum=1
        )
        validate.real(
            "diffusion.label_dropout", config.label_dropout, minimum=0, maximum=1
        )
        return losses.make_loss(
            self.denoise,
            self.parameterization.loss_weight,
            self.noise_levels,
            noise_multiplicity=config.noise_multiplicity,
            label_dropout=config.label_dropout,
            null_label=self.null_label,
            stratified=config.stratified,
        )


def build_model(
    config: ml_collections.ConfigDict,
    image_shape: tuple[int, int, int],
    num_classes: int,
) -> Model:
    """Builds the model that a config describes.

    Args:
        config: the whole config; reads ``network`` and ``diffusion``.
        image_shape: (h, w, c).
        num_classes: 0 for unlabelled data.

    Raises:
        InputError: a field is out of range.
    """
    network = build_network(config.network, image_shape, num_classes)
    parameterization = from_config.parameterization(config.diffusion, image_shape)
    if isinstance(parameterization, parameterizations.MomentsEDM):
        network = with_moments(network, parameterization.components)
    return Model(
        network=network,
        parameterization=parameterization,
        noise_levels=from_config.noise_levels(config.diffusion),
        denoise=parameterizations.make_denoiser(network.apply, parameterization),
    )


def kinds_of(params: dict[str, Any]) -> dict[str, str]:
    """Returns "trained" or "measured" for each part of the parameters."""
    return {name: "measured" if name == MOMENTS else "trained" for name in params}


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
        checksum.update(np.ascontiguousarray(leaf).tobytes())
    return checksum.hexdigest()


def signature(model: Model) -> dict[str, Any]:
    """What must agree for weights to fit a model, as JSON values."""
    shapes = jax.eval_shape(model.network.init, jax.random.key(0))
    return {
        "image_shape": list(model.network.image_shape),
        "num_classes": model.num_classes,
        "parameterization": repr(model.parameterization),
        "parameters": {
            name: list(leaf.shape) for name, leaf in named_leaves(shapes).items()
        },
    }
