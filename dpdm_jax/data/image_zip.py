"""Zip files of images, as EDM's and StyleGAN's tools write data sets."""

import contextlib
import pathlib
import re
import threading
import zipfile
from collections.abc import Iterator, Sequence

import numpy as np

from dpdm_jax.data import dataset_json, image_folder, paths
from dpdm_jax.data.sources import (
    DataSettings,
    Source,
    foreign_class,
    split_name,
)
from dpdm_jax.data.stored_images import source_of
from dpdm_jax.data.transforms import Preparation
from dpdm_jax.errors import InputError, reason

# What operating systems put beside files.
_HIDDEN = re.compile(r"(^|/)(\.|__MACOSX/)")
_WANTED = "a .zip file of images, or a folder with train.zip and test.zip"


def load(config: DataSettings, split: str) -> Source:
    """Reads the images of a zip file, in natural order of paths.

    Labels are those of its ``dataset.json``. Without that file they are the images'
    topmost folders in the zip file, in natural order or as ``data.class_names`` has
    them; images in none have no labels.

    Args:
        config: reads path, num_classes, class_names, on_demand, train_split, test_split
            and the fields of ``Preparation``. The path is a folder that holds
            ``SPLIT.zip``, or one file, which then is the training split.
        split: "train" or "test".

    Returns:
        The source.

    Raises:
        InputError: the file is missing or damaged, has no images, or one that does not
            fit.
    """
    path = _find(config, split)
    prepare = Preparation.from_config(config)
    with _opened(path) as archive:
        names = _names(archive, path)
        labels = _labels(config, archive, names, path)
    archive, lock = zipfile.ZipFile(path), threading.Lock()

    def read(index: int) -> np.ndarray:
        where = f"{path}: {names[index]}"
        try:
            with lock:
                content = archive.read(names[index])
        except Exception as e:  # a damaged zip raises many kinds
            raise _unreadable(path, e) from None
        decoded = image_folder.decode(content, where)
        return image_folder.prepared(decoded, prepare, where)

    return source_of(
        read,
        None if labels is None else np.array(labels),
        config.num_classes,
        names=names,
        name=str(path),
        on_demand=config.on_demand,
    )


def _find(config: DataSettings, split: str) -> pathlib.Path:
    path = paths.existing(config.path, _WANTED)
    if path.is_dir():
        path = path / f"{split_name(config, split)}.zip"
        if not path.is_file():
            raise InputError(f"{path} is missing; data.path allows {_WANTED}.")
    elif split != "train":
        raise InputError(
            f"data.path is {config.path!r}, which has no {split} split; allowed: a "
            "folder with a zip file of each split."
        )
    return path


@contextlib.contextmanager
def _opened(path: pathlib.Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except InputError:
        raise
    except Exception as e:  # a damaged zip raises many kinds
        raise _unreadable(path, e) from None


def _unreadable(path: pathlib.Path, error: Exception) -> InputError:
    return InputError(
        f"{path} cannot be read as a zip file ({reason(error)}); allowed: an undamaged "
        "one."
    )


def _names(archive: zipfile.ZipFile, path: pathlib.Path) -> list[str]:
    """Lists the images of a zip file."""
    found = [name for name in archive.namelist() if not _HIDDEN.search(name)]
    names = image_folder.image_names(found, path)
    if not names:
        raise InputError(f"{path} has no images; allowed: {_WANTED}.")
    return sorted(names, key=image_folder.natural_order)


def _labels(
    config: DataSettings,
    archive: zipfile.ZipFile,
    names: Sequence[str],
    path: pathlib.Path,
) -> list[int] | None:
    if dataset_json.NAME in archive.namelist():
        where = f"{path}: {dataset_json.NAME}"
        stated = dataset_json.read(archive.read(dataset_json.NAME), where)
        return None if stated is None else dataset_json.of_files(stated, names, where)
    folders = _folders(names)
    if "" in folders:
        if any(folders):
            raise InputError(
                f"{path} has images both in folders and in none; allowed: one of the "
                f"two, or {dataset_json.NAME}."
            )
        return None
    classes = list(config.class_names)
    if not classes:
        training, classes = _find(config, "train"), folders
        if training != path:
            with _opened(training) as other:
                classes = _folders(_names(other, training))
        classes = sorted(set(classes), key=image_folder.natural_order)
    if foreign := sorted(set(folders) - set(classes)):
        raise foreign_class(path, foreign[0], classes)
    return [classes.index(folder) for folder in folders]


def _folders(names: Sequence[str]) -> list[str]:
    """Returns the topmost folder of each path; "" where there is none."""
    return [name.partition("/")[0] if "/" in name else "" for name in names]
