"""Sampling from a run's checkpoint into files, resumable.

With several processes each makes its share of every batch, and process 0 writes.
"""

import contextlib
import logging
import pathlib
import re
import shutil

import ml_collections
import numpy as np

from dpdm_jax import files, processes, run_dir
from dpdm_jax.sampling import images, parts
from dpdm_jax.sampling.maker import Asked, claim, open_maker, read_asked

_log = logging.getLogger(__name__)

ARCHIVE = "samples.npz"
GRID = "grid.png"
_PARTS = "parts"
_GRID_PER_CLASS = 10


def sample(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> pathlib.Path:
    """Makes images from a checkpoint.

    Writes ``samples.npz`` (images uint8 [n, h, w, c], labels int32 [n], class_names of
    the labels where ``data.class_names`` states them), ``grid.png``
    and, if asked, a PNG file an image, in <workdir>/samples/<sample.name>/. Called
    again after an interruption it goes on; with more images it adds to them.

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
        if settings.png:
            processes.from_first(lambda: _write_png_files(folder))
    return folder


def _join_parts(folder: pathlib.Path, made: parts.Parts, asked: Asked) -> None:
    joined = made.read(np.arange(asked.num_images))
    images.write_png(folder / GRID, _picture(joined, asked))
    # Last: once it is there, nothing is made again.
    images.write_npz(
        folder / ARCHIVE, joined, asked.labels, asked.texts, asked.class_names
    )


def _picture(made: np.ndarray, asked: Asked) -> np.ndarray:
    if asked.rows is None:
        return images.grid(made[: _GRID_PER_CLASS**2])
    # More rows than a person can look at help nobody.
    rows = min(asked.num_rows, 2 * _GRID_PER_CLASS)
    return images.class_grid(made, asked.rows, rows, _GRID_PER_CLASS)


def _write_png_files(folder: pathlib.Path) -> None:
    """Writes png/<class or prompt>/<index>.png, or png/<index>.png without either."""
    with np.load(folder / ARCHIVE) as archive:
        made = archive["images"]
        labels, texts = archive.get("labels"), archive.get("prompts")
        of_classes = archive.get("class_names")
    names = None if labels is None else [str(label) for label in labels]
    if labels is not None and of_classes is not None:
        names = of_classes[labels].tolist()
    if texts is not None:
        # In order of the prompts, which may have signs that no file system takes.
        number = {text: i for i, text in enumerate(dict.fromkeys(texts.tolist()))}
        names = [f"{number[t]:04d}_{_plain(t)}" for t in texts.tolist()]
    for index, image in enumerate(made):
        target = folder / "png"
        if names is not None:
            target = target / names[index]
        files.make_folder(target)
        images.write_png(target / f"{index:07d}.png", image)


def _plain(text: str) -> str:
    """Returns what of a text a folder may be called."""
    return re.sub(r"[^A-Za-z0-9]+", "_", text)[:60].strip("_")
