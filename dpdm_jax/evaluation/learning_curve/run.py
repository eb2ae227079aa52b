"""Classifiers on more and more of a run's images, which are made as they are needed."""

import contextlib
import dataclasses
import functools
import json
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import ml_collections

from dpdm_jax import files, json_values, processes, validate
from dpdm_jax.errors import InputError
from dpdm_jax.evaluation import checkpoint_images, downstream, fitting, registry
from dpdm_jax.evaluation import run as evaluation_run
from dpdm_jax.evaluation.image_sets import ImageSet
from dpdm_jax.evaluation.recipes import Recipe
from dpdm_jax.evaluation.settings import Settings
from dpdm_jax.evaluation.trainings import Trainings
from dpdm_jax.progress import progress_bar
from dpdm_jax.sampling import parts
from dpdm_jax.sampling.maker import Asked, claim, open_maker, read_asked

#: In the run directory.
FOLDER = "learning_curve"
#: Below it, in a folder of the samples' name.
RESULT = "curve.jsonl"
PICTURE = "curve.png"
_IMAGES = "images"
_TRAINED = "trained"


def learning_curve(
    config: ml_collections.ConfigDict, workdir: pathlib.Path
) -> list[dict[str, Any]]:
    """Tests classifiers on real images after training on so many synthetic ones.

    The images are those of ``sampling.run.sample``: the first of them select the epoch,
    those behind them are trained on. They lie in files of many images each and are read
    as needed. Called again after an interruption it goes on; with more images it adds
    to them. All of it reads real images outside the mechanism: it is for the owner of
    the data. Several processes make images; process 0 does the rest.

    Args:
        config: the whole config; reads ``learning_curve``, ``evaluate`` (how
            classifiers are trained), ``sample``, ``sampler`` and ``data``.
        workdir: a run directory with a checkpoint.

    Returns:
        What was written to <workdir>/learning_curve/<sample.name>/, a line a classifier
        and number of images: what ``DownstreamResult.to_dict`` returns, and
        ``num_images``.

    Raises:
        InputError: a field is out of range, images are too few for all classes or have
            no labels, real ones are of another kind, or there is no checkpoint.
    """
    chosen = config.learning_curve
    num_selection = chosen.selection_images
    with processes.together():
        _check(chosen)
        settings = evaluation_run.settings_of(config, workdir)
        settings.check()
    asked = read_asked(config, workdir, num_selection + chosen.num_images[-1])
    test = functools.cache(lambda: checkpoint_images.real_test(config, asked))
    # Before images are made.
    processes.from_first(lambda: _check_images(chosen, asked, workdir))
    processes.from_first(lambda: len(test()))
    maker = open_maker(config, workdir, asked)
    folder = workdir / FOLDER / config.sample.name
    made = parts.Parts(folder / _IMAGES, maker)
    points: list[dict[str, Any]] = []

    def measure(size: int) -> list[dict[str, Any]]:
        sets = _sets(made, asked, num_selection, size)
        described = json.dumps([maker.described, num_selection, size], sort_keys=True)
        trainings = Trainings(folder / _TRAINED, described)
        return [
            {"num_images": size}
            | _result(name, sets, test(), settings, chosen.max_steps, trainings)
            for name in chosen.classifiers
        ]

    with contextlib.ExitStack() as resources:
        claim(folder / _IMAGES, maker.described, resources)
        for size in chosen.num_images:
            made.make(num_selection + size)
            points += processes.from_first(functools.partial(measure, size))
            processes.from_first(functools.partial(_write, folder, points))
    return points


class _Sets(NamedTuple):
    """What classifiers are trained on and selected with."""

    train: fitting.TrainingSet
    selection: fitting.TrainingSet


def _sets(made: parts.Parts, asked: Asked, num_selection: int, num_train: int) -> _Sets:
    """The first images select, whatever the number of those behind them."""
    behind = slice(num_selection, num_selection + num_train)
    return _Sets(
        (made.images(num_selection, num_train), asked.values[behind]),
        (made.images(0, num_selection), asked.values[:num_selection]),
    )


def _result(
    name: str,
    sets: _Sets,
    test: ImageSet,
    settings: Settings,
    max_steps: int,
    trainings: Trainings,
) -> dict[str, Any]:
    """Trains a classifier and tests it."""
    recipe = at_most(settings.recipe(name), len(sets.train[0]), max_steps)
    epochs = settings.classifier_seeds * recipe.epochs
    with progress_bar(name, epochs) as bar:
        result = downstream.downstream_accuracy(
            name,
            *sets,
            test.labelled(),
            test.num_classes,
            seeds=settings.seeds,
            recipe=recipe,
            on_epoch=lambda *_: bar.update(1),
            fit=trainings.fit,
        )
        # Past what was trained before, too.
        bar.update(epochs - bar.n)
    return result.to_dict()


def at_most(recipe: Recipe, num_images: int, max_steps: int) -> Recipe:
    """Returns a recipe with fewer epochs where there would be too many steps.

    Args:
        recipe: of a classifier.
        num_images: to train on.
        max_steps: of the training, but for its first epoch; 0 for any number.
    """
    if not max_steps:
        return recipe
    steps = -(-num_images // recipe.batch_size)
    return dataclasses.replace(
        recipe, epochs=min(recipe.epochs, max(1, max_steps // steps))
    )


def _check(chosen: ml_collections.ConfigDict) -> None:
    where = "learning_curve"
    for name in chosen.classifiers:
        validate.one_of(f"{where}.classifiers", name, registry.CLASSIFIERS)
    for size in chosen.num_images:
        validate.integer(f"{where}.num_images", size, minimum=1)
    if not chosen.classifiers or not chosen.num_images:
        raise InputError(
            f"{where}.classifiers is {chosen.classifiers} and {where}.num_images "
            f"{chosen.num_images}; allowed: one or more of each."
        )
    if list(chosen.num_images) != sorted(set(chosen.num_images)):
        raise InputError(
            f"{where}.num_images is {chosen.num_images}; allowed: increasing numbers."
        )
    validate.integer(f"{where}.selection_images", chosen.selection_images, minimum=1)
    validate.integer(f"{where}.max_steps", chosen.max_steps, minimum=0)


def _check_images(
    chosen: ml_collections.ConfigDict, asked: Asked, workdir: pathlib.Path
) -> None:
    num_classes = checkpoint_images.check(chosen.classifiers, asked, workdir)
    first = chosen.selection_images
    fewest = asked.values[first : first + chosen.num_images[0]]
    downstream.check_every_class(fewest, num_classes)


def _write(folder: pathlib.Path, points: Sequence[dict[str, Any]]) -> None:
    from dpdm_jax.evaluation.learning_curve import plot  # matplotlib takes its time

    with files.replacing(folder / RESULT, private=True) as temporary:
        lines = map(json_values.dumps, points)
        temporary.write_text("".join(f"{line}\n" for line in lines))
    plot.draw(folder / PICTURE, points)
