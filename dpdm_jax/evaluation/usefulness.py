"""Usefulness of synthetic images: accuracy of classifiers that are trained on them.

Beside it stands what the same classifiers reach that are trained on the real images, as
they are or by DP-SGD.
"""

from collections.abc import Collection

from dpdm_jax import progress
from dpdm_jax.errors import InputError
from dpdm_jax.evaluation import downstream, image_sets, registry
from dpdm_jax.evaluation.dp_sgd import dp_sgd_accuracy
from dpdm_jax.evaluation.image_sets import Sets
from dpdm_jax.evaluation.measured import Measured, merged
from dpdm_jax.evaluation.settings import Settings


def check(metrics: Collection[str], sets: Sets, settings: Settings) -> None:
    """Refuses sets that a classifier among the metrics can't learn from.

    Raises:
        InputError: labels are missing or of other classes, images are too small, or
            DP-SGD is asked for without ``real_test``.
    """
    real = sets.real
    for name in (name for name in registry.CLASSIFIERS if name in metrics):
        image_sets.check_labels(real, sets.synthetic, name)
        downstream.check_set_apart(sets.synthetic.labelled()[1], sets.synthetic.name)
        if sets.real_test is not None:
            image_sets.check_labels(real, sets.real_test, name)
            image_sets.check_labels(real, real, name)
            downstream.check_set_apart(real.labelled()[1], real.name)
        registry.build_classifier(name, real.images.shape[1:], real.num_classes)
    if settings.dp_sgd is not None and sets.real_test is None:
        raise InputError(
            "dp_sgd is asked for without real_test; allowed: with real images that the "
            "classifiers are not trained on."
        )


def measure(metrics: Collection[str], sets: Sets, settings: Settings) -> Measured:
    """Trains the classifiers among the metrics, and tests them.

    Args:
        metrics: names.
        sets: which ``check`` lets pass; without ``real_test`` tests are on ``real``.
        settings: of the trainings.

    Returns:
        Accuracies in [0, 1] with their spreads, and as details all they depend on.
    """
    return merged(
        _measure(name, sets, settings)
        for name in registry.CLASSIFIERS
        if name in metrics
    )


def _measure(name: str, sets: Sets, settings: Settings) -> Measured:
    """Trains a classifier on synthetic images, and on real ones to compare with."""
    labelled_test = (sets.real_test or sets.real).labelled()
    trained_on = {"": sets.synthetic}
    caveats: tuple[str, ...] = ()
    if sets.real_test is not None:
        trained_on["_real"] = sets.real
    else:
        caveats = (
            f"classifiers are tested on {sets.real.name}, which the generator may have "
            "been trained on, and there is no real_test to compare with training on "
            "real images",
        )
    seeds = settings.seeds
    private, recipe = settings.dp_sgd, settings.recipe(name)
    epochs = len(trained_on) * recipe.epochs
    epochs += private.epochs if private is not None else 0
    classes = sets.real.num_classes
    results = {}
    with progress.progress_bar(name, len(seeds) * epochs) as bar:
        for ending, labelled in trained_on.items():
            train, selection = downstream.set_apart(
                downstream.shuffled(labelled.labelled(), settings.seed)
            )
            results[ending] = downstream.downstream_accuracy(
                name,
                train,
                selection,
                labelled_test,
                classes,
                seeds=seeds,
                recipe=recipe,
                on_epoch=lambda *_: bar.update(1),
            )
        if private is not None:
            results["_dp_sgd"] = dp_sgd_accuracy(
                name,
                sets.real.labelled(),
                labelled_test,
                classes,
                private,
                seeds=seeds,
                on_epoch=lambda *_: bar.update(1),
            )
    numbers: dict[str, float | None] = {}
    for ending, result in results.items():
        numbers |= {ending: result.mean, f"{ending}_std": result.std}
        # Not of DP-SGD: several private classifiers would spend several budgets.
        if result.ensemble is not None:
            numbers[f"{ending}_ensemble"] = result.ensemble
    return Measured(
        {name: numbers},
        details={name + ending: result.to_dict() for ending, result in results.items()},
        caveats=caveats,
    )
