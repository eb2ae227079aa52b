"""Evaluation of a run's samples against real images."""

import dataclasses
import pathlib
import warnings
from typing import Any

import ml_collections
import numpy as np

from dpdm_jax import data, files, json_values, processes, run_dir
from dpdm_jax.errors import InputError
from dpdm_jax.evaluation import (
    image_sets,
    metrics,
    on_features,
    prompt_classes,
    registry,
)
from dpdm_jax.evaluation.dp_sgd import DPSGD
from dpdm_jax.evaluation.image_sets import ImageSet
from dpdm_jax.evaluation.settings import Settings
from dpdm_jax.models.model import build_model
from dpdm_jax.privacy import read_ledger
from dpdm_jax.sampling import maker, prompts
from dpdm_jax.sampling import run as sampling_run
from dpdm_jax.sampling.maker import Asked


def evaluate(
    config: ml_collections.ConfigDict, workdir: pathlib.Path
) -> dict[str, Any]:
    """Measures a run's samples, which are made if they are missing.

    Several processes make samples; process 0 does the rest. All of it reads private
    data outside the mechanism: the results are for the owner of the data, and
    publishing one is a disclosure of its own.

    Args:
        config: the whole config; reads ``evaluate``, ``data`` and, for samples that are
            still to be made, ``sample`` and ``sampler``.
        workdir: a run directory with a checkpoint.

    Returns:
        What was written to <workdir>/evaluation/<sample.name>.json: the result of
        ``metrics.measure``, and how the images were made.

    Raises:
        InputError: a field is out of range, the data lacks what a metric needs, or
            there is no checkpoint.
    """
    processes.from_first(lambda: check(config, workdir))
    folder = sampling_run.sample(config, workdir)
    return processes.from_first(lambda: _evaluate(config, workdir, folder))


def check(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Refuses what could not be measured once a model is trained or samples are made.

    Downloads Inception's weights if they are needed and missing.

    Args:
        config: see ``evaluate``.
        workdir: a run directory, which may be empty yet.

    Raises:
        InputError: as ``evaluate``; or the weights are not to be had.
    """
    _check(config, workdir, _real(config, "test"))


def check_ahead(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Refuses, before a model is trained, what ``evaluate`` would refuse afterwards.

    Reads the training and the test data.

    Args:
        config: see ``evaluate``.
        workdir: a run directory, which may be empty yet.

    Raises:
        InputError: as ``evaluate``.
    """
    train = _real(config, "train")
    num_classes = train.condition.num_classes or 0
    test = _real(config, "test", num_classes)
    _check(config, workdir, test)
    condition = data.stated_condition(config.data) or train.condition
    model = build_model(config, train.spec["image"].shape, condition)
    asked = maker.check_ahead(config, model)
    _check_sets(config, workdir, asked, train, test)


def check_sampling(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Refuses, before a model is trained, what it could not be asked for afterwards.

    For training alone, which does without test data and Inception's weights: they are
    not looked for. What the training data lacks for the metrics is a warning, for these
    can be chosen anew once the model is trained.

    Args:
        config: see ``evaluate``.
        workdir: a run directory, which may be empty yet.

    Raises:
        InputError: a field of ``sample``, ``sampler`` or ``evaluate`` is out of range,
            or the sampler does not fit the model.
    """
    metrics.check_names(config.evaluate.metrics)
    settings_of(config, workdir).check()
    train = data.load_source(config.data, "train")
    model = build_model(config, train.spec["image"].shape, train.condition)
    if data.tokenizer(config.data) is not None:
        if prompts.read(config.sample):
            maker.check_ahead(config, model)
        return  # others come later; labels would be read for evaluation alone
    asked = maker.check_ahead(config, model)
    try:
        _check_labels(config, train)
        _check_sets(config, workdir, asked, train, train)
    except InputError as error:
        warnings.warn(
            f"once it is trained, evaluation will be refused: {error}", stacklevel=2
        )


def _check_sets(
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path,
    asked: Asked,
    train: data.Source,
    test: data.Source,
) -> None:
    """Refuses what could not be measured of the images that are asked for."""
    num_classes = train.condition.num_classes or 0
    labels = asked.labels
    classes = _prompt_classes(config, num_classes)
    if classes is not None:
        labels = prompt_classes.of_images(classes, asked.num_images)
    samples = _outline("samples", asked.num_images, asked.image_shape, labels)
    metrics.check(
        config.evaluate.metrics,
        image_sets.Sets(
            _outline_of(train, _NAMES["train"]),
            dataclasses.replace(samples, num_classes=num_classes),
            _outline_of(test, _NAMES["test"]),
        ),
        settings_of(config, workdir),
    )


_NAMES = {split: f"real {split}ing images" for split in ("train", "test")}


def _real(
    config: ml_collections.ConfigDict, split: str, num_classes: int | None = None
) -> data.Source:
    """Reads real images with their labels.

    Args:
        config: the whole config.
        split: "train" or "test".
        num_classes: of the training images, where the config does not state it.
    """
    chosen = data.labelled(config.data)
    if num_classes is not None and chosen.num_classes == -1:
        chosen.num_classes = num_classes
    return data.load_source(chosen, split)


def _outline_of(source: data.Source, name: str) -> ImageSet:
    """Returns a set with the labels of a source's images.

    What is not in memory is taken to have every class.
    """
    condition, shape = source.condition, source.spec["image"].shape
    labels = None
    if condition.num_classes and isinstance(
        source, data.MemorySource | data.StoredSource
    ):
        labels = source.conditions
    elif condition.num_classes:
        labels = condition.in_turn(len(source))
    outline = _outline(name, len(source), shape, labels)
    return dataclasses.replace(outline, num_classes=condition.num_classes or 0)


def _outline(
    name: str, count: int, shape: tuple[int, int, int], labels: np.ndarray | None
) -> ImageSet:
    """Returns a set whose images take no memory."""
    images = np.broadcast_to(np.uint8(255), (count, *shape))
    return ImageSet(name, images, labels)


def _check(
    config: ml_collections.ConfigDict, workdir: pathlib.Path, test: data.Source
) -> None:
    chosen = config.evaluate.metrics
    metrics.check_names(chosen)
    settings = settings_of(config, workdir)
    settings.check()
    if set(chosen) & set(registry.FEATURE_METRICS):
        settings.load_inception()
    on_features.check_given(chosen, settings, test.spec["image"].shape)
    _check_labels(config, test)


def _check_labels(config: ml_collections.ConfigDict, test: data.Source) -> None:
    chosen = config.evaluate.metrics
    needing = [name for name in chosen if name in metrics.reading_labels()]
    num_classes = test.condition.num_classes or 0
    if needing and num_classes == 0:
        raise InputError(
            f"evaluate.metrics has {needing[0]}, and the data has no labels to train a "
            "classifier with; allowed: data with labels, or metrics without "
            f"{', '.join(metrics.reading_labels())}."
        )
    _prompt_classes(config, num_classes)
    for name in (name for name in needing if name in registry.CLASSIFIERS):
        registry.build_classifier(name, test.spec["image"].shape, num_classes)


def provenance(workdir: pathlib.Path, folder: pathlib.Path) -> dict[str, Any]:
    """Says where images lie and how they were made, for results about them.

    Args:
        workdir: the run directory.
        folder: of the images, in it.
    """
    made = json_values.loads((folder / maker.SETTINGS).read_text())
    return {
        "samples": str(folder.relative_to(workdir)),
        "sampler": made.pop("sampler"),
        "sample": made,
    }


def settings_of(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> Settings:
    """Returns what ``config.evaluate`` says of a run's evaluation."""
    chosen = config.evaluate
    return Settings(
        inception_weights=chosen.inception_weights or None,
        features=chosen.features or None,
        neighbour_images=chosen.neighbour_images,
        lenet_steps=chosen.lenet_steps,
        classifier_seeds=chosen.seeds,
        # 0 leaves the recipe as it is.
        epochs=chosen.epochs or None,
        batch_size=chosen.batch_size or None,
        learning_rate=chosen.learning_rate or None,
        dp_sgd=_dp_sgd(config, workdir),
        seed=chosen.seed,
    )


def _dp_sgd(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> DPSGD | None:
    """DP-SGD under the budget of the run, if it has one and it is asked for.

    Not for a run whose unit of privacy is a group.
    """
    chosen = config.evaluate.dp_sgd
    ledger = workdir / run_dir.LEDGER
    if not chosen.epochs or not ledger.exists():
        return None
    plan = read_ledger(ledger).plan
    if not plan.is_private or plan.unit is not None:
        # It clips single images, and would protect nobody as the run does.
        return None
    return DPSGD(plan.epsilon, plan.delta, **chosen.to_dict())


def _prompt_classes(
    config: ml_collections.ConfigDict, num_classes: int
) -> tuple[int, ...] | None:
    """Returns the class of each prompt; None without prompts, or where none is read."""
    if data.tokenizer(config.data) is None:
        if config.evaluate.prompt_classes:
            raise InputError(
                f"evaluate.prompt_classes is {config.evaluate.prompt_classes} and "
                "data.condition is 'labels'; allowed: (), for images asked for by "
                "labels."
            )
        return None
    texts = prompts.required(config.sample)
    if texts is None or set(config.evaluate.metrics).isdisjoint(
        metrics.reading_labels()
    ):
        return None
    return prompt_classes.classes_of(config, texts, num_classes)


def _evaluate(
    config: ml_collections.ConfigDict, workdir: pathlib.Path, folder: pathlib.Path
) -> dict[str, Any]:
    name = config.sample.name
    train = image_sets.from_source(_real(config, "train"), _NAMES["train"])
    test = _real(config, "test", train.num_classes)
    with np.load(folder / sampling_run.ARCHIVE) as archive:
        images, labels = archive["images"], archive.get("labels")
    classes = _prompt_classes(config, train.num_classes)
    if classes is not None:
        labels = prompt_classes.of_images(classes, len(images))
    result = metrics.measure(
        config.evaluate.metrics,
        train,
        ImageSet("samples", images, labels, train.num_classes),
        image_sets.from_source(test, _NAMES["test"]),
        settings=settings_of(config, workdir),
        pictures=workdir / run_dir.EVALUATION / name,
    )
    result |= provenance(workdir, folder) | {
        "train_split": config.data.train_split,
        "test_split": config.data.test_split,
    }
    if classes is not None:
        result["prompt_classes"] = list(classes)
    path = workdir / run_dir.EVALUATION / f"{name}.json"
    files.write_json(path, result, private=True)
    return result
