"""One step of an autoencoder and of its discriminator, over all devices.

The loss is that of latent diffusion (Rombach et al. 2022, appendix G): the error of
the images, what keeps latents regular and, from some step on, what a discriminator says
of the reconstructions. Both networks take their step at once, from the same images.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, PRNGKeyArray, UInt8

from dpdm_jax import devices
from dpdm_jax.autoencoding import losses
from dpdm_jax.images import pixels
from dpdm_jax.networks import Params, discriminator
from dpdm_jax.networks.codecs import KEPT
from dpdm_jax.networks.codecs.autoencoder import AutoencoderCodec
from dpdm_jax.networks.codecs.training import Settings
from dpdm_jax.networks.network import functional
from dpdm_jax.networks.perceptual import perceptual as make_perceptual

# The authors' Adam.
_B1, _B2 = 0.5, 0.9
# Of the keys of initial weights.
_DISCRIMINATOR_STREAM = 1


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
    """State of a training after ``step`` steps.

    Attributes:
        step: int32 [].
        params: of the autoencoder, as ``Codec.init`` gives them.
        opt_state: of its optimizer.
        discriminator: its parameters, {} without one.
        discriminator_opt_state: of its optimizer.
    """

    step: jax.Array
    params: Params
    opt_state: Any
    discriminator: Params
    discriminator_opt_state: Any


@dataclasses.dataclass(frozen=True)
class Training:
    """What steps are taken by.

    Attributes:
        init: ``init(key) -> State``.
        step: ``step(state, perceptual, images, key) -> (State, numbers)``, without
            discriminator: parameters of the perceptual distance, {} without; images
            uint8 [n, h, w, c]; the numbers, by name, say how it goes.
        adversarial_step: likewise, with it; None if there is none.
    """

    init: Callable[[PRNGKeyArray], State]
    step: Callable[..., tuple[State, dict[str, jax.Array]]]
    adversarial_step: Callable[..., tuple[State, dict[str, jax.Array]]] | None

    def step_at(self, step: int, start: int) -> Callable[..., tuple[State, Any]]:
        """Returns the function of a step, given when the discriminator starts."""
        if self.adversarial_step is None or step < start:
            return self.step
        return self.adversarial_step


def make_training(
    codec: AutoencoderCodec[Any],
    settings: Settings,
    mesh: Mesh,
) -> Training:
    """Builds the steps.

    Args:
        codec: what is trained.
        settings: how.
        mesh: the devices, over which the images of a step are divided.
    """
    optimizer = optax.adam(settings.learning_rate, b1=_B1, b2=_B2)
    judge = functional(
        lambda rngs: discriminator.Discriminator(
            codec.sample_shape[2],
            settings.discriminator_width,
            settings.discriminator_layers,
        )
    )

    distance = make_perceptual()
    penalty_weight = getattr(settings, codec.penalty_field)

    def init(key: PRNGKeyArray) -> State:
        params = codec.init(key)
        judging = (
            judge.init(jax.random.fold_in(key, _DISCRIMINATOR_STREAM))
            if settings.has_discriminator
            else {}
        )
        return State(
            step=jnp.zeros((), jnp.int32),
            params=params,
            opt_state=optimizer.init(params),
            discriminator=judging,
            discriminator_opt_state=optimizer.init(judging),
        )

    def error(perceptual: Params, images: Array, made: Array) -> Float[Array, ""]:
        each = losses.pixel_error(images, made, settings.error)
        if perceptual:
            # Added to every pixel's, as the authors do.
            far = distance.bind(perceptual)(images, made)[:, None, None, None]
            each += settings.perceptual_weight * far
        of_images = jnp.sum(each, axis=(1, 2, 3)) / (
            1 if codec.error_is_summed else each[0].size
        )
        return jnp.mean(of_images)

    def step(
        state: State,
        perceptual: Params,
        images: UInt8[Array, "n h w c"],
        key: PRNGKeyArray,
        *,
        judged: bool,
    ) -> tuple[State, dict[str, jax.Array]]:
        x = pixels.to_float(images)
        noise = jax.random.normal(key, (len(x), *codec.latent_shape))
        critic = judge.bind(state.discriminator) if judged else None

        def made_of(params: Params) -> Array:
            return codec.reconstruct(params, x, noise).images

        def scores(made: Array) -> Float[Array, ""]:
            assert critic is not None  # there is one
            return -jnp.mean(critic(made))

        weight = jnp.zeros(())
        if judged:
            last = _last_kernel(state.params)
            of_error, of_scores = (
                jax.grad(lambda k, f=f: f(made_of(_with_last(state.params, k))))(last)
                for f in (functools.partial(error, perceptual, x), scores)
            )
            weight = settings.adversarial_weight * losses.balance(of_error, of_scores)

        def loss(params: Params) -> tuple[jax.Array, Any]:
            made, penalty = codec.reconstruct(params, x, noise)
            found = error(perceptual, x, made)
            total = found + penalty_weight * penalty
            if judged:
                total += weight * scores(made)
            return total, (made, {"error": found, "penalty": penalty})

        grads, (made, numbers) = jax.grad(loss, has_aux=True)(state.params)
        params, opt_state = _updated(optimizer, grads, state.opt_state, state.params)
        changed = {"params": params, "opt_state": opt_state}
        if judged:

            def judging_loss(judging: Params) -> jax.Array:
                critic = judge.bind(judging)
                return losses.hinge(critic(x), critic(jax.lax.stop_gradient(made)))

            value, grads = jax.value_and_grad(judging_loss)(state.discriminator)
            judging, opt_state = _updated(
                optimizer, grads, state.discriminator_opt_state, state.discriminator
            )
            changed["discriminator"] = judging
            changed["discriminator_opt_state"] = opt_state
            numbers |= {"discriminator": value, "adversarial_weight": weight}
        return dataclasses.replace(state, step=state.step + 1, **changed), numbers

    replicated = devices.replicated(mesh)
    compiled = [
        jax.jit(
            functools.partial(step, judged=judged),
            in_shardings=(replicated, replicated, devices.divided(mesh), replicated),
            out_shardings=replicated,
            donate_argnums=0,
        )
        for judged in (False, True)
    ]
    adversarial = compiled[1] if settings.has_discriminator else None
    return Training(init, compiled[0], adversarial)


def _last_kernel(params: Params) -> Array:
    kernel: Array = params[KEPT]["decoder"]["head"]["conv"]["kernel"]
    return kernel


def _with_last(params: Params, kernel: Array) -> Params:
    """Returns the parameters with another kernel of the decoder's last layer."""
    decoder = params[KEPT]["decoder"]
    head = decoder["head"]
    head = {**head, "conv": {**head["conv"], "kernel": kernel}}
    return {KEPT: {**params[KEPT], "decoder": {**decoder, "head": head}}}


def _updated(
    optimizer: optax.GradientTransformation, grads: Any, opt_state: Any, params: Any
) -> tuple[Any, Any]:
    updates, opt_state = optimizer.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state
