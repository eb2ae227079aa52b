"""Sampling from a run's checkpoint into files, resumable.

With several processes each makes its share of every batch, and process 0 writes.
"""

import contextlib
import logging
import pathlib
import shutil
from collections.abc import Sequence

import ml_collections
import numpy as np

from dpdm_jax import processes, run_dir
from dpdm_jax.sampling import images, parts
from dpdm_jax.sampling.formats import registry
from dpdm_jax.sampling.formats.base import ImageSet
from dpdm_jax.sampling.maker import (
    Asked,
    claim,
    open_maker,
    read_asked,
    wanted_formats,
)

_log = logging.getLogger(__name__)

ARCHIVE = "samples.npz"
GRID = "grid.png"
_PARTS = "parts"
_GRID_PER_CLASS = 10


def sample(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> pathlib.Path:
    """Makes images from a checkpoint.

    Writes ``samples.npz`` (images uint8 [n, h, w, c], labels int32 [n], class_names of
    the labels where ``data.class_names`` states them), ``grid.png`` and, if asked, the
    same in other formats, in <workdir>/samples/<sample.name>/. Called again after an
    interruption it goes on. With more images all are made again, and the first ones are
    what they were.

    Args:
        config: the whole config; reads ``sample`` and ``sampler``.
        workdir: a run directory with a checkpoint.

    Returns:
        The folder that was written.

    Raises:
        InputError: a field is out of range, there is no fitting checkpoint, or the
            folder holds images of other settings.
    """
    settings = config.sample
    folder = workdir / run_dir.SAMPLES / settings.name
    asked = read_asked(config, workdir, settings.num_images)
    maker = open_maker(config, workdir, asked)
    with contextlib.ExitStack() as resources:
        claim(folder, maker.described, resources)
        if parts.is_there(folder / ARCHIVE, settings.num_images):
            _log.debug("%s already holds these images.", folder)
        else:
            made = parts.Parts(folder / _PARTS, maker)
            made.make(settings.num_images)
            processes.from_first(lambda: _join_parts(folder, made, asked))
        processes.from_first(lambda: shutil.rmtree(folder / _PARTS, ignore_errors=True))
        formats = wanted_formats(settings)
        if formats:
            processes.from_first(lambda: _write_formats(folder, formats, asked))
    return folder


def _join_parts(folder: pathlib.Path, made: parts.Parts, asked: Asked) -> None:
    joined = made.read(np.arange(asked.num_images))
    images.write_png(folder / GRID, _picture(joined, asked))
    # Last: once it is there, nothing is made again.
    images.write_npz(
        folder / ARCHIVE, joined, asked.labels, asked.texts, asked.class_names
    )


def _write_formats(folder: pathlib.Path, formats: Sequence[str], asked: Asked) -> None:
    num_classes = asked.condition.num_classes or 0
    registry.write(folder, formats, read_set(folder / ARCHIVE, num_classes))


def _picture(made: np.ndarray, asked: Asked) -> np.ndarray:
    if asked.rows is None:
        return images.grid(made[: _GRID_PER_CLASS**2])
    # More rows than a person can look at help nobody.
    rows = min(asked.num_rows, 2 * _GRID_PER_CLASS)
    return images.class_grid(made, asked.rows, rows, _GRID_PER_CLASS)


def read_set(path: pathlib.Path, num_classes: int) -> ImageSet:
    """Reads an archive of images.

    Args:
        path: the archive.
        num_classes: of the model; 0 for none.
    """
    with np.load(path, allow_pickle=False) as archive:
        names = archive.get("class_names", range(num_classes))
        return ImageSet(
            archive["images"],
            archive.get("labels"),
            archive.get("prompts"),
            tuple(map(str, names)),
        )
