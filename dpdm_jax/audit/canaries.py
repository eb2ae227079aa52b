"""The run's own queries and training step, on examples that an attacker would choose.

A canary's loss is linear in one weight of its own ("Dirac canaries"), and its gradient
far longer than the clipping bound: the worst case that the accountant assumes. Such
canaries go through the same batch selection, micro-batches, clipping, noise and
optimizer step as images do. Under the guarantee an attacker may see the weights after
every step, so each step's noised sum is what they get.

Where a run asks queries before its first step, a canary is an image that adds as much
as one can to each. What each query released is what an attacker gets.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from dpdm_jax import conditions, data, devices, padding, queries
from dpdm_jax.privacy import PrivacyPlan, gaussian_noise
from dpdm_jax.privacy.class_moments import Released
from dpdm_jax.training.from_config import build_training
from dpdm_jax.training.logical_step import Mechanism, take_step
from dpdm_jax.training.secrets import Secrets, fresh_secrets
from dpdm_jax.training.state import TrainState, create_state

# Norm of a canary's gradient, over the clipping bound.
_STRENGTH = 1e3


class Answer(NamedTuple):
    """What a query before the first step released, and what a canary adds to it.

    Attributes:
        noised: float64 [num_canaries, ...], of the canary's class.
        added: float64 [num_canaries, ...], of norm 1 at most if the code is right.
        noise_multiplier: sigma that is claimed for it.
    """

    noised: np.ndarray
    added: np.ndarray
    noise_multiplier: float

    def of_first(self, count: int) -> "Answer":
        """Returns what was released of the first canaries."""
        return self._replace(noised=self.noised[:count], added=self.added[:count])


class Run(NamedTuple):
    """What one run released of its canaries.

    Attributes:
        sums: the noised sum of every step over the clipping bound, float64 [num_steps,
            num_canaries]: a canary adds 1 to its entry where it was selected.
        sizes: of the batches, int [num_steps].
        answers: to the queries before the first step, if there were any.
    """

    sums: np.ndarray
    sizes: np.ndarray
    answers: tuple[Answer, ...]

    def of_first(self, count: int) -> "Run":
        """Returns what was released of the first canaries."""
        answers = tuple(answer.of_first(count) for answer in self.answers)
        return self._replace(sums=self.sums[:, :count], answers=answers)


def with_plain_descent(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """Returns the config with an optimizer from whose weights sums can be read."""
    config = config.copy_and_resolve_references()
    config.train.update(
        optimizer="sgd",
        learning_rate=1.0,
        schedule="constant",
        warmup_steps=0,
        gradient_unit="one",
    )
    return config


class CanaryTraining:
    """Trains a model of one weight a canary, as a plan says."""

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        plan: PrivacyPlan,
        asked: Sequence[queries.NamedQuery],
        num_canaries: int,
    ):
        """Builds the training step.

        Args:
            config: of the run; reads ``train``. Its optimizer, which sees noised sums
                only, gives way to plain descent, from which each sum can be read.
            plan: the privacy plan, with noise.
            asked: the plan's queries before the first step.
            num_canaries: canaries that there are, whether in the data or not.

        Raises:
            InputError: a field is out of range.
        """
        if tuple(query.planned for query in asked) != plan.queries:
            raise ValueError("the queries asked are not those of the plan.")
        config = with_plain_descent(config)
        self._plan = plan
        self._num_canaries = num_canaries
        self._microbatch_size = config.train.microbatch_size
        self._mesh = devices.data_mesh()
        strength = _STRENGTH * plan.l2_clip_norm

        def loss(
            params: jax.Array, fixed: Any, example: data.Example, key: jax.Array
        ) -> jax.Array:
            del fixed, key
            return -strength * params[example["condition"]]

        self._training = build_training(
            config, plan, loss, fresh_secrets().noise_key, self._mesh
        )
        self._images = np.zeros((num_canaries, 1, 1, 1), np.uint8)
        self._asked = [
            query.on_canaries(num_canaries, config.audit.seed) for query in asked
        ]

    def one_run(self, members: np.ndarray) -> Run:
        """Trains once with the loop's own queries and step, under secrets of its own.

        Args:
            members: int [n], the canaries that are in the data; n >= 1.

        Returns:
            What it released.
        """
        secrets = fresh_secrets()
        mechanism = Mechanism(
            plan=self._plan,
            source=self._source(members, self._images),
            step_fns=self._training.step_fns,
            fixed={},
            mesh=self._mesh,
            secrets=secrets,
            microbatch_size=self._microbatch_size,
        )
        state = self._start(secrets.noise_key)
        state = devices.place(state, self._training.layout(state))
        weights, sizes = [np.array(state.params)], []
        for step in range(self._plan.num_steps):
            state, _, size = take_step(mechanism, state, step)
            weights.append(np.array(state.params))
            sizes.append(size)
        return Run(
            self._sums(np.stack(weights)),
            np.array(sizes),
            self._answers(members, secrets),
        )

    def many_runs(
        self, members: Sequence[np.ndarray]
    ) -> tuple[np.ndarray, list[tuple[Answer, ...]]]:
        """Trains many times, each under secrets of its own, in one compiled program.

        Steps call the functions of the run's step, with batches that its sampler chose.

        Args:
            members: of each run, see ``one_run``.

        Returns:
            Float64 [runs, num_steps, num_canaries] and the answers of each run, see
            ``Run``.
        """
        steps = self._plan.num_steps
        # One call of the gradient a step: room for all, divided over the devices.
        room = max(map(len, members))
        room = -(-room // self._mesh.size) * self._mesh.size
        labels = np.zeros((len(members), steps, room), np.int32)
        is_padding = np.ones(labels.shape, bool)
        keys, answers = [], []
        for run, present in enumerate(members):
            secrets = fresh_secrets()
            keys.append(secrets.noise_key)
            answers.append(self._answers(present, secrets))
            for step in range(steps):
                chosen = present[
                    self._plan.sampling.indices(
                        len(present), secrets.selection_seed, step
                    )
                ]
                labels[run, step, : len(chosen)] = chosen
                is_padding[run, step, : len(chosen)] = False
        train = jax.jit(lambda batches: jax.lax.map(self._train_at_once, batches))
        weights = np.asarray(train((jnp.stack(keys), labels, is_padding)))
        return self._sums(weights), answers

    def _train_at_once(self, run: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        """The weights after every step of one run, and before the first."""
        noise_key, labels, is_padding = run
        room = labels.shape[1]
        condition = conditions.of_classes(self._num_canaries)
        spec = data.image_spec(self._images.shape[1:], condition)
        blank = padding.blank_examples(spec, room)
        positions = jnp.arange(room)
        step_fns = self._training.step_fns
        draws = jax.random.key(0)  # which a canary's loss does not use

        def step(
            state: TrainState, batch: tuple[jax.Array, jax.Array]
        ) -> tuple[TrainState, jax.Array]:
            labels, is_padding = batch
            partial = step_fns.accumulate(
                step_fns.start(state.params),
                state.params,
                {},
                blank | {"condition": labels},
                is_padding,
                positions,
                draws,
            )
            state, _ = step_fns.finish(state, partial)
            return state, state.params

        start = self._start(noise_key)
        _, weights = jax.lax.scan(step, start, (labels, is_padding))
        return jnp.concatenate([start.params[None], weights])

    def _source(self, members: np.ndarray, images: np.ndarray) -> data.ArraySource:
        return data.ArraySource(
            images[members], members, self._num_canaries, "canaries"
        )

    def _answers(self, members: np.ndarray, secrets: Secrets) -> tuple[Answer, ...]:
        """Asks the queries before the first step."""
        answers = []
        for query, images in self._asked:
            released: list[Released] = []
            planned = query.planned
            query.answer(
                self._source(members, images),
                secrets.query_key(planned.name),
                released.append,
            )
            # Each is alone in its class, so that sums of all are what each adds.
            everyone = self._source(np.arange(self._num_canaries), images)
            features = query.features(everyone)
            answers += [
                Answer(
                    each.noised.astype(np.float64),
                    np.asarray(each.query(features).to_float(), np.float64),
                    planned.noise_multiplier,
                )
                for each in released
            ]
        return tuple(answers)

    def _start(self, noise_key: jax.Array) -> TrainState:
        return create_state(
            jnp.zeros(self._num_canaries),
            self._training.optimizer,
            gaussian_noise(self._plan.noise_stddev, noise_key),
        )

    def _sums(self, weights: np.ndarray) -> np.ndarray:
        """Reads the noised sums, in units of the clipping bound, off the weights."""
        moved = np.diff(weights.astype(np.float64), axis=-2)
        return moved * self._plan.expected_batch_size / self._plan.l2_clip_norm
