"""Classifiers trained on real images by DP-SGD: what synthetic images compete with.

Table 2 of DPDM (Dockhorn et al., 2023, arXiv 2210.09929): a classifier that is all one
wants needs no generator. Its settings were not published; those here are ours.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dpdm_jax import privacy, rngs, validate
from dpdm_jax.evaluation import classifiers, downstream, predictions, registry
from dpdm_jax.evaluation.downstream import (
    DownstreamResult,
    LabelledImages,
    SeedResult,
)
from dpdm_jax.evaluation.fitting import FitState
from dpdm_jax.images import pixels
from dpdm_jax.padding import PADDING, pad_indices

# Batches are filled up to a multiple of this.
_MULTIPLE = 64


@dataclasses.dataclass(frozen=True)
class DPSGD:
    """Settings of a private training by Adam at a constant rate.

    Attributes:
        epsilon: budget, > 0.
        delta: in (0, 1), below one over the number of images.
        epochs: expected passes over the training set, >= 1.
        batch_size: nominal batch size of Poisson sampling, >= 1; at most a tenth of the
            set is taken.
        learning_rate: > 0.
        l2_clip_norm: bound on an image's gradient, > 0.
    """

    epsilon: float
    delta: float
    epochs: int = 10
    batch_size: int = 2048
    learning_rate: float = 2e-3
    l2_clip_norm: float = 1.0

    def __post_init__(self) -> None:
        validate.plain_fields(self)
        validate.real("dp_sgd epsilon", self.epsilon, above=0)
        validate.real("dp_sgd delta", self.delta, above=0, below=1)
        validate.integer("dp_sgd epochs", self.epochs, minimum=1)
        validate.integer("dp_sgd batch_size", self.batch_size, minimum=1)
        validate.real("dp_sgd learning_rate", self.learning_rate, above=0)
        validate.real("dp_sgd l2_clip_norm", self.l2_clip_norm, above=0)


def dp_sgd_accuracy(
    classifier_name: str,
    train: LabelledImages,
    test: LabelledImages,
    num_classes: int,
    settings: DPSGD,
    *,
    seeds: Sequence[int] = (0, 1, 2),
    on_epoch: Callable[[int, int], None] | None = None,
) -> DownstreamResult:
    """Trains a classifier privately and tests what the last step leaves.

    Nothing is selected, since that would cost privacy. Dropout is left out: the noise
    regularises enough. Noise and batches come from secrets that the operating system
    draws for each training and nobody keeps. So the result cannot be repeated exactly,
    and two results for sets that differ in an image share no noise.

    Args:
        classifier_name: a name in ``registry.CLASSIFIERS``.
        train: real images and labels; every class occurs.
        test: real ones that were not trained on.
        num_classes: labels lie in [0, num_classes).
        settings: of the training.
        seeds: of the initial weights, one training each; different, >= 0.
        on_epoch: called after every epoch with the seed and the epoch, from 1.

    Returns:
        Accuracies and settings; ``settings["noise_multiplier"]`` is what the budget
        allows.

    Raises:
        InputError: an argument is not as described.
    """
    downstream.check_seeds(seeds)
    image_shape = downstream.check_sets({"training": train, "test": test}, num_classes)
    classifier = registry.build_classifier(classifier_name, image_shape, num_classes)
    size = len(train[0])
    plan = privacy.make_plan(
        privacy.PrivacyConfig(
            num_examples=size,
            batch_size=max(1, min(settings.batch_size, size // 10)),
            epsilon=settings.epsilon,
            delta=settings.delta,
            l2_clip_norm=settings.l2_clip_norm,
            epochs=settings.epochs,
            coordinates=classifiers.num_parameters(classifier),
        )
    )
    on_device = [(jnp.asarray(x), jnp.asarray(y, jnp.int32)) for x, y in (train, test)]
    runs = []
    for seed in seeds:
        params = _train(
            classifier,
            *on_device[0],
            settings=settings,
            plan=plan,
            seed=seed,
            on_epoch=on_epoch,
        )
        accuracy = predictions.accuracy(classifier, params, *on_device[1])
        runs.append(SeedResult(seed, settings.epochs, None, accuracy))
    described = dataclasses.asdict(settings) | {
        "batch_size": plan.expected_batch_size,
        "noise_multiplier": plan.noise_multiplier,
        "num_steps": plan.num_steps,
        "accountant": plan.accountant,
        "optimizer": "adam",
        "seeds": list(seeds),
        "num_train": size,
        "num_test": len(test[0]),
        "image_shape": list(image_shape),
        "num_classes": num_classes,
        "num_parameters": classifiers.num_parameters(classifier),
    }
    return DownstreamResult(classifier_name, tuple(runs), described)


def _train(
    classifier: classifiers.Classifier,
    images: jax.Array,
    labels: jax.Array,
    *,
    settings: DPSGD,
    plan: privacy.PrivacyPlan,
    seed: int,
    on_epoch: Callable[[int, int], None] | None,
) -> classifiers.Params:
    optimizer = optax.chain(
        privacy.gaussian_noise(plan.noise_stddev, privacy.new_noise_key()),
        privacy.normalize_by(plan.expected_batch_size),
        optax.adam(settings.learning_rate),
    )
    params = jax.jit(classifier.init)(rngs.stream(seed, "dp_sgd_init"))
    state = FitState(params, optimizer.init(params))
    take_steps = jax.jit(
        functools.partial(_take_steps, classifier, optimizer, plan.l2_clip_norm),
        donate_argnums=0,
    )
    batches = _of_one_width(
        list(plan.sampling.batches(len(images), privacy.new_seed()))
    )
    for epoch, part in enumerate(np.split(batches, settings.epochs), start=1):
        state = jax.block_until_ready(take_steps(state, images, labels, part))
        if on_epoch is not None:
            on_epoch(seed, epoch)
    return state.params


def _of_one_width(batches: list[np.ndarray]) -> np.ndarray:
    """Fills batches up to the size of the largest; none loses an example."""
    width = -(-max(map(len, batches)) // _MULTIPLE) * _MULTIPLE
    filled = [pad_indices(batch, max(width, _MULTIPLE)) for batch in batches]
    return np.stack(filled).astype(np.int32)


def _take_steps(
    classifier: classifiers.Classifier,
    optimizer: optax.GradientTransformation,
    l2_clip_norm: float,
    state: FitState,
    images: jax.Array,
    labels: jax.Array,
    batches: jax.Array,
) -> FitState:
    def loss(params: classifiers.Params, image: jax.Array, label: jax.Array) -> Any:
        logits = classifier.apply(params, image[None])[0]
        return optax.softmax_cross_entropy_with_integer_labels(logits, label)

    clipped_grad = privacy.clipped_grad(
        loss, l2_clip_norm=l2_clip_norm, batch_argnums=(1, 2)
    )

    def step(state: FitState, batch: jax.Array) -> tuple[FitState, None]:
        total = clipped_grad(
            state.params,
            pixels.to_float(images[batch]),
            labels[batch],
            is_padding_example=batch == PADDING,
        )
        updates, opt_state = optimizer.update(total, state.opt_state, state.params)
        return FitState(optax.apply_updates(state.params, updates), opt_state), None

    return jax.lax.scan(step, state, batches)[0]
