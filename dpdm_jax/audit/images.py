"""The configured network, trained on the data and on images that do not belong there.

Images of pure noise under random conditions, each in the data by a coin flip, and an
attacker who sees their loss under the trained weights. The canaries of ``canaries`` are
the worst case; these show what an attacker gets who sees the finished network alone.
"""

import logging
from typing import Any

import ml_collections
import numpy as np

from dpdm_jax import data, devices, padding, queries, rngs
from dpdm_jax.audit import attacks, membership
from dpdm_jax.audit.mechanism import OneRun, judge_one_run, shortened
from dpdm_jax.models import partition
from dpdm_jax.models.encoding import make_encoder
from dpdm_jax.models.model import Model
from dpdm_jax.privacy import PrivacyPlan
from dpdm_jax.training.from_config import build_training
from dpdm_jax.training.logical_step import Mechanism, take_step
from dpdm_jax.training.secrets import fresh_secrets
from dpdm_jax.training.state import create_state
from dpdm_jax.training.units import images_per_unit

_log = logging.getLogger(__name__)


class _Joined:
    """Two sources of one kind, one after the other; see ``data.Source``."""

    def __init__(self, first: data.Source, second: data.Source):
        self._first, self._second = first, second
        self.spec = first.spec
        self.condition = first.condition

    def __len__(self) -> int:
        return len(self._first) + len(self._second)

    def examples(self, indices: np.ndarray) -> data.Example:
        """Reads examples; see ``data.Source.examples``."""
        joined = padding.blank_examples(self.spec, len(indices))
        in_first = indices < len(self._first)
        for source, rows, start in (
            (self._first, in_first, 0),
            (self._second, ~in_first, len(self._first)),
        ):
            if rows.any():
                found = source.examples(indices[rows] - start)
                padding.fill_rows(joined, rows, found)
        return joined


def audit_images(
    config: ml_collections.ConfigDict,
    plan: PrivacyPlan,
    model: Model,
    source: data.Source,
    fixed: Any,
    groups: data.Groups | None = None,
) -> OneRun:
    """Trains the network on the data and about half of the canaries, and attacks it.

    Args:
        config: the whole config; the training, its optimizer and all, is the run's.
        plan: of the run, with noise.
        model: what the run trains.
        source: its training data.
        fixed: its parameters that no step changed, as of ``Model.split``.
        groups: whose its training data's images are; each canary is a group of its own.

    Returns:
        What was found, for the first ``audit.num_steps`` steps and what comes before
        them.
    """
    settings = config.audit
    plan = shortened(plan, settings.num_steps)
    count = settings.image_canaries
    rng = np.random.default_rng(settings.seed)
    member = rng.random(count) < 0.5
    pixels = rng.integers(0, 256, (count, *source.spec["image"].shape), np.uint8)
    asked = source.condition.choose("uniform", count, settings.seed)
    canaries = data.MemorySource(
        {"image": pixels, "condition": asked}, source.condition
    )
    members = data.MemorySource(
        canaries.examples(np.flatnonzero(member)), source.condition
    )
    joined = _Joined(source, members)
    if groups is not None:
        groups = groups.and_singles(len(members))

    losses_of = membership.make_image_losses(model, settings)
    trained, random = model.split(model.init(rngs.stream(config.seed, "init")))
    params = partition.join(trained, fixed or random)
    before = losses_of(params, canaries, np.arange(count))
    _log.info("One run of %d steps on %d images of noise.", plan.num_steps, count)
    params, sizes = _train(config, plan, model, params, joined, groups)
    after = losses_of(params, canaries, np.arange(count))
    scores = {attacks.LOSS: before - after}
    number = len(joined if groups is None else groups)
    return judge_one_run(plan, settings, member, scores, sizes, number)


def _train(
    config: ml_collections.ConfigDict,
    plan: PrivacyPlan,
    model: Model,
    params: Any,
    source: data.Source,
    groups: data.Groups | None = None,
) -> tuple[Any, np.ndarray]:
    """Asks the plan's queries, and takes all of its steps.

    Returns:
        The parameters, averaged ones, and the batch sizes.
    """
    secrets, mesh = fresh_secrets(), devices.data_mesh()
    trained, fixed = model.split(params)
    for query in queries.of_run(config, model):
        key = secrets.query_key(query.planned.name)
        fixed = fixed | query.answer(source, key, None, groups)
    loss = model.trained_loss()
    training = build_training(config, plan, loss, secrets.noise_key, mesh)
    everywhere = devices.replicated(mesh)
    fixed = devices.place(fixed, everywhere)
    mechanism = Mechanism(
        plan=plan,
        source=source,
        step_fns=training.step_fns,
        fixed=fixed,
        mesh=mesh,
        secrets=secrets,
        microbatch_size=config.train.microbatch_size,
        encode=make_encoder(model, mesh, images_per_unit=images_per_unit(plan.unit)),
        groups=groups,
    )
    state = create_state(trained, training.optimizer, training.noise)
    state = devices.place(state, training.layout(state))
    sizes = []
    for step in range(plan.num_steps):
        state, _, size = take_step(mechanism, state, step)
        sizes.append(size)
    return partition.join(state.ema_params, fixed), np.array(sizes)
