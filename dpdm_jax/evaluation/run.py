"""Evaluation of a run's samples against real images."""

import pathlib
from typing import Any

import ml_collections
import numpy as np

from dpdm_jax import data, processes, run_dir, validate
from dpdm_jax.errors import InputError
from dpdm_jax.evaluation import classifiers
from dpdm_jax.evaluation.downstream import (
    LabelledImages,
    downstream_accuracy,
    set_apart,
)
from dpdm_jax.sampling import run as sampling_run

RESULTS = "downstream.json"


def evaluate(
    config: ml_collections.ConfigDict, workdir: pathlib.Path
) -> dict[str, Any]:
    """Trains classifiers on a run's samples and tests them on real images.

    Several processes make the samples that are missing; process 0 does the rest.

    Beside them stand the same classifiers trained on the real training images. Both
    read private data outside the mechanism: the results are for the owner of the data,
    and publishing one is a disclosure of its own.

    Args:
        config: the whole config; reads ``evaluate``, ``data`` and, for samples that are
            still to be made, ``sample`` and ``sampler``.
        workdir: a run directory with a checkpoint.

    Returns:
        What was written to <workdir>/evaluation/downstream.json.

    Raises:
        InputError: a field is out of range, or there are no labels or no checkpoint.
    """
    processes.from_first(lambda: _check(config))
    folder = sampling_run.sample(config, workdir)
    return processes.from_first(lambda: _evaluate(config, workdir, folder))


def _check(config: ml_collections.ConfigDict) -> None:
    settings = config.evaluate
    validate.integer("evaluate.seeds", settings.seeds, minimum=1)
    if not settings.classifiers:
        raise InputError("evaluate.classifiers is empty; allowed: at least one.")
    for name in settings.classifiers:
        validate.one_of("evaluate.classifiers", name, classifiers.CLASSIFIERS)
    if data.load_source(config.data, "test").num_classes == 0:
        raise InputError(
            "The data has no labels, so no classifier can be trained; allowed: data "
            "with labels."
        )


def _evaluate(
    config: ml_collections.ConfigDict, workdir: pathlib.Path, folder: pathlib.Path
) -> dict[str, Any]:
    settings = config.evaluate
    test_source = data.load_source(config.data, "test")
    num_classes = test_source.num_classes
    with np.load(folder / sampling_run.ARCHIVE) as archive:
        synthetic = archive["images"], archive["labels"]
    real = _all_of(data.load_source(config.data, "train"))
    test = _all_of(test_source)
    rows = []
    for classifier in settings.classifiers:
        # Real data comes in any order; generated images in that of their labels.
        for name, labelled in (("synthetic", synthetic), ("real", real)):
            train, selection = set_apart(labelled)
            result = downstream_accuracy(
                classifier,
                train,
                selection,
                test,
                num_classes,
                seeds=range(settings.seeds),
                epochs=settings.epochs,
                batch_size=settings.batch_size,
                learning_rate=settings.learning_rate,
                shuffle=name == "real",
            )
            rows.append({"trained_on": name} | result.to_dict())
    results = {
        "private": "measured on private data outside the privacy budget",
        "samples": str(folder.relative_to(workdir)),
        "test_split": config.data.test_split,
        "results": rows,
    }
    run_dir.write_json(workdir / run_dir.EVALUATION / RESULTS, results)
    return results


def describe(results: dict[str, Any]) -> str:
    """Says in a few lines what ``evaluate`` measured."""
    lines = ["Accuracy on real test images (a private diagnostic, not in the budget):"]
    for row in results["results"]:
        settings = row["settings"]
        spread = row["accuracy_std"]
        spread = "" if spread is None else f" +- {100 * spread:.2f}"
        lines.append(
            f"  {row['classifier']} trained on {row['trained_on']} images: "
            f"{100 * row['accuracy']:.2f}{spread} % ({len(settings['seeds'])} seeds, "
            f"{settings['num_train']} training and {settings['num_test']} test images)"
        )
    return "\n".join(lines)


def _all_of(source: data.Source) -> LabelledImages:
    return source.examples(np.arange(len(source)))
