"""Classifiers ranked by a run's images, and for its owner by real ones."""

import pathlib
from collections.abc import Sequence
from typing import Any

import ml_collections
import numpy as np

from dpdm_jax import files, processes
from dpdm_jax.errors import InputError
from dpdm_jax.evaluation import cache, checkpoint_images, downstream
from dpdm_jax.evaluation import run as evaluation_run
from dpdm_jax.evaluation.downstream import DownstreamResult, LabelledImages
from dpdm_jax.evaluation.selection import grid, ranking
from dpdm_jax.evaluation.selection.grid import Entry
from dpdm_jax.evaluation.trainings import Trainings
from dpdm_jax.progress import progress_bar
from dpdm_jax.sampling import run as sampling_run
from dpdm_jax.sampling.maker import Asked, read_asked, without_labels_file

#: In the run directory.
FOLDER = "selection"
#: Below it, in a folder of the samples' name.
RESULT = "ranking.json"
PRIVATE_RESULT = "PRIVATE_real_test.json"
_TRAINED = "trained"

_GRID = "select.grid"
# A fifth ranks, a fifth of the rest selects the epoch, the others are trained on.
_MIN_OF_CLASS = 10

SYNTHETIC = "no real image was looked at; this is as private as the images are"


def select(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> dict[str, Any]:
    """Trains a grid of classifiers on a run's images and ranks them by others of them.

    What is found without real images costs no privacy: it follows from the images.
    Trained classifiers are kept; none is trained twice. Several processes make images;
    process 0 does the rest.

    Args:
        config: the whole config; reads ``select``, ``evaluate`` and, for images that
            are still to be made, ``sample`` and ``sampler``; with
            ``select.real_test`` also ``data``.
        workdir: a run directory with a checkpoint.

    Returns:
        What was written to <workdir>/selection/<sample.name>/: under "synthetic" the
        ranking by synthetic images (``RESULT``), under "real" what real test images say
        of it (``PRIVATE_RESULT``, readable by its owner alone), None if not asked.

    Raises:
        InputError: the grid is empty or has an unknown classifier or a value that is
            not allowed, images are too few or have no labels, or there is no
            checkpoint.
    """
    asked = read_asked(config, workdir, config.sample.num_images)
    processes.from_first(lambda: _check(config, workdir, asked))
    samples = sampling_run.sample(config, workdir)
    return processes.from_first(lambda: _select(config, workdir, asked, samples))


def _check(
    config: ml_collections.ConfigDict, workdir: pathlib.Path, asked: Asked
) -> None:
    """Refuses what could not be ranked once images are made."""
    chosen = _entries(config, workdir)
    num_classes = checkpoint_images.check(
        {entry.classifier for entry in chosen}, asked, workdir
    )
    counts = np.bincount(asked.values, minlength=num_classes)
    if counts.min() < _MIN_OF_CLASS:
        raise InputError(
            f"sample.num_images is {asked.num_images}, which makes {counts.min()} of "
            f"class {np.argmin(counts)}; allowed: at least {_MIN_OF_CLASS} of each of "
            f"the {num_classes} classes."
        )
    if config.select.real_test:
        checkpoint_images.real_test(config, asked)


def _entries(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> list[Entry]:
    settings = evaluation_run.settings_of(config, workdir)
    settings.check()
    return grid.entries(config.select.grid, settings.recipe, _GRID)


def _select(
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path,
    asked: Asked,
    samples: pathlib.Path,
) -> dict[str, Any]:
    with np.load(samples / sampling_run.ARCHIVE) as archive:
        labelled = archive["images"], archive["labels"]
    settings = evaluation_run.settings_of(config, workdir)
    rest, held_out = downstream.set_apart(downstream.shuffled(labelled, settings.seed))
    train, selection = downstream.set_apart(rest)
    folder = workdir / FOLDER / samples.name
    trainings = Trainings(folder / _TRAINED, cache.checksum(*train, *selection))
    seeds = settings.seeds
    chosen = _entries(config, workdir)

    def measure(test: LabelledImages) -> list[DownstreamResult]:
        found = []
        epochs = [len(seeds) * entry.recipe.epochs for entry in chosen]
        with progress_bar("classifiers", sum(epochs)) as bar:
            for number, entry in enumerate(chosen, start=1):
                found.append(
                    downstream.downstream_accuracy(
                        entry.classifier,
                        train,
                        selection,
                        test,
                        asked.condition.num_classes or 0,
                        seeds=seeds,
                        recipe=entry.recipe,
                        on_epoch=lambda *_: bar.update(1),
                        fit=trainings.fit,
                    )
                )
                # Past what was trained before, too.
                bar.update(sum(epochs[:number]) - bar.n)
        return found

    by_synthetic = measure(held_out)
    made = evaluation_run.provenance(workdir, samples)
    ranked = {
        "note": SYNTHETIC,
        # The ranking may be published.
        **made | {"sample": without_labels_file(made["sample"])},
        "num_train": len(train[0]),
        "num_selection": len(selection[0]),
        "num_held_out": len(held_out[0]),
        "image_shape": list(asked.image_shape),
        "num_classes": asked.condition.num_classes,
        "seeds": list(seeds),
        "varied": grid.varied_fields(config.select.grid),
        "ranking": _ranked(by_synthetic),
    }
    files.write_json(folder / RESULT, ranked)
    if not config.select.real_test:
        return {"synthetic": ranked, "real": None}
    real = checkpoint_images.real_test(config, asked)
    compared = _compared(by_synthetic, measure(real.labelled())) | {
        "num_real_test": len(real),
        "test_split": config.data.test_split,
        "varied": ranked["varied"],
    }
    files.write_json(folder / PRIVATE_RESULT, compared, private=True)
    return {"synthetic": ranked, "real": compared}


def _ranked(results: Sequence[DownstreamResult]) -> list[dict[str, Any]]:
    ranks = ranking.ranks([result.mean for result in results])
    found = [
        {"rank": rank, **result.to_dict()}
        for rank, result in zip(ranks, results, strict=True)
    ]
    return sorted(found, key=lambda entry: entry["rank"])


def _compared(
    by_synthetic: Sequence[DownstreamResult], by_real: Sequence[DownstreamResult]
) -> dict[str, Any]:
    """Says what real images say of classifiers that synthetic ones rank."""
    synthetic = [result.mean for result in by_synthetic]
    real = [result.mean for result in by_real]
    agreement = ranking.agreement(synthetic, real)
    ranks = ranking.ranks(synthetic)
    entries = [
        {
            "rank": rank_real,
            "rank_synthetic": rank,
            "accuracy_synthetic": accuracy,
            **result.to_dict(),
        }
        for rank, rank_real, accuracy, result in zip(
            ranks, ranking.ranks(real), synthetic, by_real, strict=True
        )
    ]
    return {
        "private": checkpoint_images.PRIVATE,
        "spearman": agreement and agreement.spearman,
        "kendall": agreement and agreement.kendall,
        # Of several that share the first rank, the first of the grid.
        "chosen_accuracy": real[ranks.index(1)],
        "best_accuracy": max(real),
        "ranking": sorted(entries, key=lambda entry: entry["rank"]),
    }
