"""Characters of fonts that somebody has rendered before, in IDX files."""

import string
from pathlib import Path

import numpy as np

from dpdm_jax.data import idx
from dpdm_jax.data.sources import (
    ArraySource,
    DataSettings,
    Source,
    resolve_num_classes,
    split_name,
)
from dpdm_jax.data.transforms import Preparation
from dpdm_jax.errors import InputError

#: By their labels in the files.
CHARACTERS = string.digits + string.ascii_uppercase + string.ascii_lowercase


def are_in(folder: Path) -> bool:
    """Whether a folder has such files, and not those of fonts."""
    return any(folder.glob("*-images-idx3-ubyte*"))


def load(folder: Path, characters: str, config: DataSettings, split: str) -> Source:
    """Loads the images of some characters.

    Args:
        folder: with the files, see ``idx.load``; labels are places in ``CHARACTERS``.
        characters: to keep; labels are places in this text.
        config: see ``idx.load``.
        split: "train" or "test".

    Returns:
        The source, images [N, H, W, 1] unless the config asks for others.

    Raises:
        InputError: a file is missing, damaged, or not of this format, or has no such
            characters.
    """
    unknown = [each for each in characters if each not in CHARACTERS]
    name = split_name(config, split)
    images, labels = idx.read_images(folder, name), idx.read_labels(folder, name)
    places = np.array([characters.find(each) for each in CHARACTERS])
    if unknown or labels.max(initial=0) >= len(CHARACTERS):
        raise InputError(
            f"data.glyphs.characters is {characters!r} and {folder} has labels up to "
            f"{labels.max(initial=0)}; allowed: some of 0-9, A-Z, a-z, and labels that "
            f"count them in this order, up to {len(CHARACTERS) - 1}."
        )
    if len(labels) != len(images):
        raise InputError(
            f"{folder} has {len(images)} images and {len(labels)} labels of {name!r}; "
            "allowed: as many."
        )
    of_images = places[labels]
    kept = of_images >= 0
    source = ArraySource(
        images[kept][..., None],
        of_images[kept],
        resolve_num_classes(
            config.num_classes, len(characters), "data.glyphs.characters"
        ),
        name=f"{folder} ({name})",
    )
    return source.prepared(Preparation.from_config(config))
