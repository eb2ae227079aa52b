"""The training step that a config and its privacy plan describe."""

import dataclasses
import functools
import math

import jax
import ml_collections
import optax
from jax.sharding import Mesh

from dpdm_jax import devices, validate
from dpdm_jax.models.model import TrainedLoss
from dpdm_jax.privacy import PrivacyPlan, gaussian_noise, normalize_by
from dpdm_jax.training.optimizer import build_optimizer
from dpdm_jax.training.state import TrainState, layout
from dpdm_jax.training.step import TrainStep, draws_in_parts, make_train_step
from dpdm_jax.training.units import images_per_unit

_GRADIENT_UNITS = ("one", "clip_norm")


@dataclasses.dataclass(frozen=True)
class Training:
    """What turns a state into the next one.

    Attributes:
        optimizer: sees the noised mean gradient.
        noise: adds the noise; its state holds the key.
        step_fns: the functions of a logical step.
        mesh: the devices.
        sharded: whether devices keep a part of the state each.
    """

    optimizer: optax.GradientTransformation
    noise: optax.GradientTransformation
    step_fns: TrainStep
    mesh: Mesh
    sharded: bool

    def layout(self, state: TrainState) -> TrainState:
        """Returns where a state's arrays are; see ``state.layout``."""
        return layout(state, self.mesh, sharded=self.sharded)


def build_training(
    config: ml_collections.ConfigDict,
    plan: PrivacyPlan,
    loss: TrainedLoss,
    noise_key: jax.Array,
    mesh: Mesh,
) -> Training:
    """Builds optimizer, noise and step.

    Args:
        config: the whole config; reads ``train``.
        plan: the privacy plan.
        loss: of one image; see ``Model.loss``.
        noise_key: see ``gaussian_noise``.
        mesh: see ``make_train_step``.

    Raises:
        InputError: a field is out of range.
    """
    # Of an extension, too: it goes on at the rate that the first steps ended with.
    optimizer = build_optimizer(config.train, plan.phases[0].num_steps)
    sharded = config.train.sharded_state
    noise = gaussian_noise(
        plan.noise_stddev,
        noise_key,
        sharding=devices.divided(mesh) if draws_in_parts(mesh) else None,
        layout=functools.partial(devices.spread, mesh) if sharded else None,
    )
    step_fns = make_train_step(
        loss,
        optimizer,
        noise,
        normalize_by(plan.expected_batch_size * _gradient_unit(config.train, plan)),
        mesh,
        l2_clip_norm=plan.l2_clip_norm,
        ema_decay=config.train.ema_decay,
        power_averages=config.train.power_averages,
        engine=config.train.engine,
        engine_microbatch_size=config.train.engine_microbatch_size or None,
        sharded=sharded,
        images_per_unit=images_per_unit(plan.unit),
    )
    return Training(optimizer, noise, step_fns, mesh, sharded)


def _gradient_unit(config: ml_collections.ConfigDict, plan: PrivacyPlan) -> float:
    """Returns what the noised mean is measured in.

    Divided by the clip norm C, clipped gradients are vectors of length 1 at most, and
    Adam's epsilon means the same for every C (De et al. 2022, arXiv 2204.13650, whose
    code rescales to unit norm). The noised sum is divided by a public constant: that is
    post-processing, of no consequence for privacy.

    Args:
        config: ``config.train``.
        plan: the privacy plan.

    Raises:
        InputError: the unit is unknown.
    """
    validate.one_of("train.gradient_unit", config.gradient_unit, _GRADIENT_UNITS)
    # Without clipping there is no C to measure in.
    in_clip_norms = config.gradient_unit == "clip_norm"
    is_clipped = math.isfinite(plan.l2_clip_norm)
    return plan.l2_clip_norm if in_clip_norms and is_clipped else 1.0
