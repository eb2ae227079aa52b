"""A denoiser from a config: the one place that joins a network to the diffusion."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import ml_collections
import numpy as np

from dpdm_jax import conditions, validate
from dpdm_jax.conditions import Condition
from dpdm_jax.diffusion import from_config, losses, noise_levels
from dpdm_jax.diffusion.denoiser import Denoiser, make_denoiser
from dpdm_jax.diffusion.parameterizations import Parameterization
from dpdm_jax.diffusion.priors import Prior
from dpdm_jax.errors import InputError
from dpdm_jax.images import pixels
from dpdm_jax.models import partition
from dpdm_jax.models.identity import named_leaves, of_denoiser
from dpdm_jax.networks import Network, Params, build_network

# The network's part of the parameters, where there are others.
_NETWORK = "network"

#: ``loss(trained, fixed, example, key) -> scalar``, of an example of ``Model.example``
TrainedLoss = Callable[[Any, Any, dict[str, Any], jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True)
class Model:
    """A network, the way it denoises and the noise levels it is trained at.

    Its parameters are the network's own; where the prior keeps some, too, they are
    {"network": ..., **those of the prior}.

    Attributes:
        network: the raw network.
        parameterization: what the network sees, and the weight of the loss.
        prior: what the network corrects.
        noise_levels: training distribution of sigma.
        denoise: ``denoise(params, x, sigma, condition)``, see ``diffusion.denoiser``.
        condition: of the examples.
    """

    network: Network
    parameterization: Parameterization
    prior: Prior
    noise_levels: noise_levels.NoiseLevels
    denoise: Denoiser
    condition: Condition

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(h, w, c)."""
        return self.network.image_shape

    @property
    def example(self) -> dict[str, Any]:
        """Shapes and dtypes of one example as the loss takes it."""
        return {
            "image": jax.ShapeDtypeStruct(self.image_shape, np.uint8),
            "condition": self.condition.spec,
        }

    def init(self, key: jax.Array) -> Params:
        """Returns the parameters before the first step, determined by the key."""
        params = self.network.init(key)
        kept = self.prior.init(self.image_shape, self.condition)
        return {_NETWORK: params, **kept} if kept else params

    def network_of(self, params: Params) -> Params:
        """Returns the network's own part of the parameters."""
        return params if self._is_alone else params[_NETWORK]

    def with_network(self, params: Params, network: Params) -> Params:
        """Returns the parameters with another network's part."""
        return network if self._is_alone else {**params, _NETWORK: network}

    @property
    def _is_alone(self) -> bool:
        return not self._kept()

    def _kept(self) -> Params:
        """Shapes of what the prior keeps among the parameters."""
        return jax.eval_shape(lambda: self.prior.init(self.image_shape, self.condition))

    @property
    def shapes(self) -> Params:
        """Shapes and dtypes of the parameters; allocates none, and uses no device."""
        return jax.eval_shape(lambda: self.init(jax.random.key(0)))

    def split(self, params: Params) -> tuple[Params, Params]:
        """Takes parameters apart into the trained and the fixed, see ``partition``."""
        kept = self._kept()
        return partition.split(params, lambda path: path.split("/")[0] not in kept)

    @property
    def num_parameters(self) -> int:
        """Number of scalars, trained or fixed."""
        return num_scalars(self.shapes)

    @property
    def num_trained(self) -> int:
        """Number of scalars that steps change."""
        return num_scalars(self.split(self.shapes)[0])

    def loss(self, config: ml_collections.ConfigDict) -> losses.ExampleLoss:
        """Builds the loss of one example, see ``example``, by all parameters.

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
        of_floats = losses.make_loss(
            self.denoise,
            self.parameterization.loss_weight,
            self.noise_levels,
            noise_multiplicity=config.noise_multiplicity,
            label_dropout=config.label_dropout,
            null=self.condition.null,
            stratified=config.stratified,
            views=from_config.views(config, self.image_shape),
            draws_at_once=_draws_at_once(config),
        )

        def loss(params: Params, example: dict[str, Any], key: jax.Array) -> jax.Array:
            image = pixels.to_float(example["image"])
            return of_floats(params, example | {"image": image}, key)

        return loss

    def trained_loss(self, config: ml_collections.ConfigDict) -> TrainedLoss:
        """Builds the training loss of one example, by trained and fixed parameters.

        Args:
            config: ``config.diffusion``.

        Raises:
            InputError: a field is out of range.
        """
        of_all = self.loss(config)

        def loss(
            trained: Params, fixed: Params, example: dict[str, Any], key: jax.Array
        ) -> jax.Array:
            return of_all(partition.join(trained, fixed), example, key)

        return loss


def build_model(
    config: ml_collections.ConfigDict,
    image_shape: tuple[int, int, int],
    condition: Condition,
) -> Model:
    """Builds the model that a config describes.

    Args:
        config: the whole config; reads ``network`` and ``diffusion``.
        image_shape: (h, w, c).
        condition: of the examples.

    Raises:
        InputError: a field is out of range.
    """
    network = build_network(config.network, image_shape, condition)
    parameterization = from_config.parameterization(config.diffusion)
    prior = from_config.prior(config.diffusion, image_shape)
    is_alone = not jax.eval_shape(lambda: prior.init(image_shape, condition))

    def apply(
        params: Params, x: jax.Array, c_noise: jax.Array, values: Any
    ) -> jax.Array:
        return network.apply(params[_NETWORK], x, c_noise, values)

    return Model(
        network=network,
        parameterization=parameterization,
        prior=prior,
        noise_levels=from_config.noise_levels(config.diffusion),
        denoise=make_denoiser(
            network.apply if is_alone else apply, parameterization, prior
        ),
        condition=condition,
    )


def _draws_at_once(config: ml_collections.ConfigDict) -> int:
    at_once = config.get("draws_at_once", 0)
    validate.integer("diffusion.draws_at_once", at_once, minimum=0)
    if at_once and config.noise_multiplicity % at_once:
        raise InputError(
            f"diffusion.draws_at_once is {at_once}; allowed: 0, or a divisor of "
            f"diffusion.noise_multiplicity, {config.noise_multiplicity}."
        )
    return at_once


def num_scalars(shapes: Any) -> int:
    """Returns how many numbers arrays of these shapes have."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))


def signature(model: Model) -> dict[str, Any]:
    """What must agree for weights to fit a model, as JSON values."""
    return {
        "image_shape": list(model.image_shape),
        **conditions.to_dict(model.condition),
        "parameterization": of_denoiser(model.parameterization, model.prior),
        "parameters": {
            name: list(leaf.shape) for name, leaf in named_leaves(model.shapes).items()
        },
    }
