"""A denoiser from a config: the one place that joins a network to the diffusion."""

import dataclasses
import functools
import math
from collections.abc import Callable, Set
from typing import Any

import jax
import ml_collections

from dpdm_jax import conditions
from dpdm_jax.conditions import Condition
from dpdm_jax.diffusion import from_config, learned_range, losses, noise_levels
from dpdm_jax.diffusion.denoiser import Denoiser, make_denoiser
from dpdm_jax.diffusion.parameterizations import Parameterization
from dpdm_jax.diffusion.priors import Prior
from dpdm_jax.diffusion.views import Views
from dpdm_jax.errors import InputError
from dpdm_jax.models import partition
from dpdm_jax.models.identity import named_leaves, of_codec, of_denoiser
from dpdm_jax.models.trainable import ALL, Trainable, select
from dpdm_jax.networks import Network, Params, adapters, build_network
from dpdm_jax.networks.codecs import Codec, build_codec
from dpdm_jax.networks.codecs.registry import cache_of

# The network's part of the parameters, where there are others.
_NETWORK = "network"
# Of an example's key, of which ``diffusion.losses`` has the others, and of the model's.
_CODEC_STREAM = 4
# What ``codec.cache`` may be where each step makes latents of its own.
_UNKEPT = ("auto", "off")

#: ``loss(trained, fixed, example, key) -> scalar``, of an example of ``Model.example``
TrainedLoss = Callable[[Any, Any, dict[str, Any], jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True)
class Model:
    """A network, the way it denoises and the noise levels it is trained at.

    Its parameters are the network's own, with the low-rank adapters that are trained;
    where prior or codec keep some, too, they are
    {"network": ..., **those of the prior, **those of the codec}.

    Attributes:
        network: the raw network.
        parameterization: what the network sees, and the weight of the loss.
        prior: what the network corrects.
        noise_levels: training distribution of sigma.
        denoise: ``denoise(params, x, sigma, condition)``, see ``diffusion.denoiser``.
        draws: of an example's noise, for the loss.
        views: of an image, for the loss, or for what is encoded ahead of it.
        bound: a loss beside that of ``denoise``, where the network learns more than to
            denoise; else None.
        condition: of the examples.
        codec: what network and diffusion see of an image.
        trainable: which of the network's parameters are trained.
    """

    network: Network
    parameterization: Parameterization
    prior: Prior
    noise_levels: noise_levels.NoiseLevels
    denoise: Denoiser
    draws: losses.Settings
    views: Views
    bound: losses.Bound | None
    condition: Condition
    codec: Codec
    trainable: Trainable

    @property
    def ordinary(self) -> "Model":
        """The same without adapters, as samples and releases are of."""
        return dataclasses.replace(self, trainable=Trainable())

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(h, w, c) of what network and diffusion see."""
        return self.codec.latent_shape

    @property
    def sample_shape(self) -> tuple[int, int, int]:
        """(h, w, c) of the images that are published."""
        return self.codec.sample_shape

    @property
    def stored(self) -> dict[str, Any]:
        """Shapes and dtypes of one example as a source gives it."""
        return {"image": self.codec.spec, "condition": self.condition.spec}

    @property
    def example(self) -> dict[str, Any]:
        """The same as the loss takes it, with the law of latents for an image.

        There is a law for each view where latents are of views.
        """
        law = self.codec.law_spec
        if self.encodes_views:
            number = self.views.number(self.draws.noise_multiplicity)
            law = jax.ShapeDtypeStruct((number, *law.shape), law.dtype)
        return {"image": law, "condition": self.condition.spec}

    @property
    def encodes_views(self) -> bool:
        """Whether views of an image are drawn ahead of the loss, and encoded.

        A view of a latent would be none of an image.
        """
        return self.codec.law_spec != self.codec.spec and not self.views.are_the_image

    def init(self, key: jax.Array) -> Params:
        """Returns the parameters before the first step, determined by the key."""
        kept = self.prior.init(self.codec.latent_shape, self.condition)
        # Another key than the network's, whose draws these would repeat.
        kept |= self.codec.init(jax.random.fold_in(key, _CODEC_STREAM))
        return self._whole(self.network.init(key), kept, key)

    def network_of(self, params: Params) -> Params:
        """Returns the network's own part of the parameters, without adapters."""
        return adapters.taken_apart(self._of_network(params))[0]

    def with_network(self, params: Params, network: Params) -> Params:
        """Returns the parameters with another network's part, and their adapters."""
        _, found = adapters.taken_apart(self._of_network(params))
        return self._with(params, adapters.put_in(network, found))

    def merged(self, params: Params) -> Params:
        """Returns parameters of the ``ordinary`` model for the same function."""
        if not self.trainable.adapted:
            return params
        return self._with(params, adapters.merged(self._of_network(params)))

    def _of_network(self, params: Params) -> Params:
        return params if self._is_alone else params[_NETWORK]

    def _with(self, params: Params, network: Params) -> Params:
        return network if self._is_alone else {**params, _NETWORK: network}

    def _whole(self, network: Params, kept: Params, key: jax.Array) -> Params:
        params = self.trainable.with_adapters(network, key)
        return {_NETWORK: params, **kept} if kept else params

    @property
    def _is_alone(self) -> bool:
        return not self._kept_names

    @functools.cached_property
    def _kept_shapes(self) -> Params:
        return _kept_shapes(self.prior, self.codec, self.condition)

    @property
    def _kept_names(self) -> Set[str]:
        return self._kept_shapes.keys()

    @functools.cached_property
    def shapes(self) -> Params:
        """Shapes and dtypes of the parameters; allocates none, and uses no device."""

        def whole(network: Params, kept: Params) -> Params:
            # The key is made here: outside it would start a device.
            return self._whole(network, kept, jax.random.key(0))

        return jax.eval_shape(whole, self.network.shapes, self._kept_shapes)

    def split(self, params: Params) -> tuple[Params, Params]:
        """Takes parameters apart into the trained and the fixed, see ``partition``."""
        kept = self._kept_names

        def is_trained(path: str) -> bool:
            if kept:
                first, _, path = path.partition("/")
                if first in kept:
                    return False
            return path not in self.trainable.frozen

        return partition.split(params, is_trained)

    def trained_network(self, params: Params) -> Params:
        """Returns the trained ones of the network's parameters, and its adapters."""
        return self._of_network(self.split(params)[0])

    @property
    def num_parameters(self) -> int:
        """Number of scalars, trained or fixed; those of adapters are not counted."""
        return num_scalars(self.shapes) - self.num_adapters

    @property
    def num_adapters(self) -> int:
        """Number of scalars of low-rank adapters."""
        return num_scalars(adapters.taken_apart(self._of_network(self.shapes))[1])

    @property
    def num_trained(self) -> int:
        """Number of scalars that steps change, those of adapters among them."""
        return num_scalars(self.split(self.shapes)[0])

    def loss(self) -> losses.ExampleLoss:
        """Builds the loss of one example, see ``example``, by all parameters."""
        draw: Callable[[jax.Array, jax.Array], jax.Array] = self.codec.draw
        views = self.views
        if self.encodes_views:
            draw, views = _drawn_of_each(draw), losses.THE_IMAGE
        of_latents = losses.make_loss(
            self.denoise,
            self.parameterization.loss_weight,
            self.noise_levels,
            **dataclasses.asdict(self.draws),
            null=self.condition.null,
            bound=self.bound,
            views=views,
            drops=self.network.drops,
        )

        def loss(params: Params, example: dict[str, Any], key: jax.Array) -> jax.Array:
            latent = draw(example["image"], _codec_key(key))
            return of_latents(params, example | {"image": latent}, key)

        return loss

    def encoded(
        self, params: Params, example: dict[str, Any], key: jax.Array
    ) -> dict[str, Any]:
        """Returns an example, see ``stored``, with its image as the diffusion sees it.

        Args:
            params: all parameters.
            example: of a source.
            key: of this example in this step.
        """
        latent = self.codec.encode(params, example["image"], _codec_key(key))
        return example | {"image": latent}

    def trained_loss(self) -> TrainedLoss:
        """Builds the training loss of one example, by trained and fixed parameters."""
        of_all = self.loss()

        def loss(
            trained: Params, fixed: Params, example: dict[str, Any], key: jax.Array
        ) -> jax.Array:
            return of_all(partition.join(trained, fixed), example, key)

        return loss


def build_model(
    config: ml_collections.ConfigDict,
    sample_shape: tuple[int, int, int],
    condition: Condition,
) -> Model:
    """Builds the model that a config describes.

    Args:
        config: the whole config; reads ``codec``, ``network``, ``diffusion`` and
            ``train.trainable``.
        sample_shape: (h, w, c) of the images.
        condition: of the examples.

    Raises:
        InputError: a field is out of range.
    """
    codec = build_codec(config.codec, sample_shape)
    bound = from_config.bound(config.diffusion)
    network = build_network(
        config.network,
        codec.latent_shape,
        condition,
        outputs=1 if bound is None else learned_range.OUTPUTS,
    )
    parameterization, prior = from_config.parameterization(
        config.diffusion, codec.latent_shape
    )
    is_alone = not _kept_shapes(prior, codec, condition)
    draws, views = from_config.objective(config.diffusion, sample_shape)

    def apply(
        params: Params,
        x: jax.Array,
        c_noise: jax.Array,
        values: Any,
        *keys: jax.Array,
    ) -> jax.Array:
        return network.apply(params[_NETWORK], x, c_noise, values, *keys)

    def embed(params: Params, values: Any) -> Any:
        assert network.embed is not None
        return network.embed(params if is_alone else params[_NETWORK], values)

    model = Model(
        network=network,
        parameterization=parameterization,
        prior=prior,
        noise_levels=from_config.noise_levels(config.diffusion),
        denoise=make_denoiser(
            network.apply if is_alone else apply,
            parameterization,
            prior,
            None if network.embed is None else embed,
        ),
        draws=draws,
        views=views,
        bound=bound,
        condition=condition,
        codec=codec,
        trainable=select(config.train.trainable, network),
    )
    if codec.identity and codec.law_spec == codec.spec and not views.are_the_image:
        raise InputError(
            f"diffusion.views are of images, and the codec {codec.identity} makes "
            "latents of them in the loss alone; allowed: no views."
        )
    if model.encodes_views and (cache := cache_of(config.codec)) not in _UNKEPT:
        raise InputError(
            f"codec.cache is {cache!r}, and diffusion.views make other latents of an "
            f"image in each step; allowed: {' or '.join(_UNKEPT)}."
        )
    return model


def _drawn_of_each(
    draw: Callable[[jax.Array, jax.Array], jax.Array],
) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """Makes of a draw of one law that of several [v, ...], by keys of their own."""

    def of_each(laws: jax.Array, key: jax.Array) -> jax.Array:
        latents: jax.Array = jax.vmap(draw)(laws, jax.random.split(key, len(laws)))
        return latents

    return of_each


def _codec_key(key: jax.Array) -> jax.Array:
    # Another block of the key's stream than any that the loss draws.
    return jax.random.fold_in(key, _CODEC_STREAM)


def _kept_shapes(prior: Prior, codec: Codec, condition: Condition) -> Params:
    """What is among a model's parameters besides its network's."""
    of_prior = jax.eval_shape(lambda: prior.init(codec.latent_shape, condition))
    return of_prior | codec.shapes


def num_scalars(shapes: Any) -> int:
    """Returns how many numbers arrays of these shapes have."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))


def signature(model: Model) -> dict[str, Any]:
    """What must agree for weights to fit a model, as JSON values.

    What is trained is there where that is not all.
    """
    selector = model.trainable.selector
    return ({} if selector == ALL else {"trainable": selector}) | {
        "image_shape": list(model.sample_shape),
        **conditions.to_dict(model.condition),
        "parameterization": of_denoiser(model.parameterization, model.prior),
        **of_codec(model.codec),
        "parameters": {
            name: list(leaf.shape) for name, leaf in named_leaves(model.shapes).items()
        },
    }
