"""Sets of images from anywhere, in memory, and the checks that make two comparable."""

import dataclasses
import pathlib
import re
from typing import NamedTuple

import numpy as np

from dpdm_jax import data, validate
from dpdm_jax.data import idx, image_folder, npz, tfds, transforms
from dpdm_jax.data.sources import DataSettings
from dpdm_jax.errors import InputError
from dpdm_jax.images import pixels
from dpdm_jax.user_paths import user_path

#: Ranges that float images may be in, by what states them.
FLOAT_RANGES = {"0,1": (0.0, 1.0), "-1,1": (-1.0, 1.0), "0,255": (0.0, 255.0)}
_IDX_IMAGES = re.compile(r"(.+)-images-idx3-ubyte(\.gz)?")
_WANTED = (
    "an .npz file, a folder with PNG, JPEG, .npz or IDX files, each also as "
    "PATH:SPLIT, or tfds:NAME:SPLIT"
)


@dataclasses.dataclass(frozen=True)
class ImageSet:
    """Images, and labels if there are any.

    Attributes:
        name: what messages call the set.
        images: uint8 [n, h, w, c], c = 1 or 3, n >= 1.
        labels: int32 [n] in [0, num_classes), or None.
        num_classes: 0 without labels.
        class_names: names of the classes' folders, in order of their labels, where the
            set came with such names; else None.
    """

    name: str
    images: np.ndarray
    labels: np.ndarray | None = None
    num_classes: int = 0
    class_names: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.images)

    def labelled(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns images and labels of a set that has some; see ``check_labels``."""
        assert self.labels is not None
        return self.images, self.labels


class Sets(NamedTuple):
    """What an evaluation compares.

    Attributes:
        real: what the generator was trained on.
        synthetic: what it made.
        real_test: real images that it was not trained on, or None.
    """

    real: ImageSet
    synthetic: ImageSet
    real_test: ImageSet | None = None


def from_source(source: data.Source, name: str) -> ImageSet:
    """Reads all of a source into memory."""
    found = source.examples(np.arange(len(source)))
    num_classes = source.condition.num_classes
    if not num_classes:
        return ImageSet(name, found["image"])
    return ImageSet(name, found["image"], found["condition"], num_classes)


def load(spec: str, *, float_range: str = "", rounding: str = "nearest") -> ImageSet:
    """Reads a set of images.

    Args:
        spec: ``tfds:NAME`` or ``tfds:NAME:SPLIT``; or a path, or ``PATH:SPLIT``, of an
            .npz file with ``images`` (uint8 NHWC) and perhaps ``labels``; a folder of
            such files by split; a folder of IDX files; or a folder of images, flat or
            with one sub-folder per class, or with such folders by split. Without a
            SPLIT it is "train" where there are several.
        float_range: range that float images of an .npz file are in, one of
            ``FLOAT_RANGES``; "" refuses them.
        rounding: of such images to uint8, "nearest", or "truncate" as the papers, which
            makes 63 of the 256 levels one lower where bytes became float32 in [-1, 1].

    Returns:
        The set. Class folders are numbered by sorted name, as in training.

    Raises:
        InputError: nothing is there, it is damaged, or not as described.
    """
    if float_range and float_range not in FLOAT_RANGES:
        raise InputError(
            f"float_range is {float_range!r}; allowed: {' or '.join(FLOAT_RANGES)}."
        )
    validate.one_of("rounding", rounding, pixels.ROUNDINGS)
    if spec.startswith("tfds:"):
        _, name, *rest = spec.split(":", 2)
        stored = DataSettings(train_split=rest[0] if rest else "train")
        source = tfds.load(tfds.Settings(name), stored, "train")
        return from_source(source, spec)
    path, split = _path_and_split(spec)
    if path.is_file():
        return _from_npz(path, spec, float_range, rounding)
    if archives := sorted(file.stem for file in path.glob("*.npz")):
        file = path / f"{_chosen(spec, split, archives)}.npz"
        return _from_npz(file, spec, float_range, rounding)
    found = (_IDX_IMAGES.fullmatch(file.name) for file in path.iterdir())
    if prefixes := sorted({match[1] for match in found if match}):
        split = "t10k" if split == "test" and "test" not in prefixes else split
        return _from_idx(path, spec, _chosen(spec, split, prefixes))
    return _from_image_folder(path, spec, split)


def check_comparable(reference: ImageSet, other: ImageSet) -> None:
    """Refuses two sets whose comparison would say nothing.

    Raises:
        InputError: their shapes or ranges of values differ.
    """
    if other.images.shape[1:] != reference.images.shape[1:]:
        raise InputError(
            f"the images of {other.name} are "
            f"{transforms.format_shape(other.images.shape[1:])} and those of "
            f"{reference.name} {transforms.format_shape(reference.images.shape[1:])}; "
            "allowed: one shape."
        )
    highest = {s.name: int(s.images.max()) for s in (reference, other)}
    for name, value in highest.items():
        # 0 and 1 alone are no picture, but what [0, 1] becomes as whole numbers.
        if value <= 1 < max(highest.values()):
            raise InputError(
                f"the images of {name} go up to {value} and the others up to "
                f"{max(highest.values())}; allowed: 0 to 255 in both (were images in "
                "[0, 1] turned into integers?)."
            )


def check_labels(
    reference: ImageSet, other: ImageSet, needed_by: str, *, every_class: bool = True
) -> None:
    """Refuses sets that no classifier can be trained on and tested with.

    Args:
        reference: the real images.
        other: those to train on, or to judge.
        needed_by: the metric, for messages.
        every_class: whether each class must occur in the other.

    Raises:
        InputError: labels are missing or mean different things.
    """
    for labelled in (reference, other):
        if labelled.labels is None:
            raise InputError(
                f"{needed_by} needs labels and {labelled.name} has none; allowed: "
                "labelled images, or other metrics."
            )
    names = [", ".join(s.class_names or ()) for s in (reference, other)]
    if all(names) and names[0] != names[1]:
        raise InputError(
            f"the classes of {other.name} are {names[1]}; allowed: those of "
            f"{reference.name}, {names[0]}."
        )
    if any(names) and reference.num_classes != other.num_classes:
        raise InputError(
            f"{other.name} has {other.num_classes} classes and {reference.name} "
            f"{reference.num_classes}; allowed: the same ones, for class folders are "
            "numbered by sorted name."
        )
    if other.num_classes > reference.num_classes:
        raise InputError(
            f"the labels of {other.name} go up to {other.num_classes - 1}; allowed: 0 "
            f"to {reference.num_classes - 1}, as in {reference.name}."
        )
    _, labels = other.labelled()
    missing = np.setdiff1d(np.arange(reference.num_classes), labels)
    if every_class and missing.size:
        raise InputError(
            f"{other.name} has no image of class {', '.join(map(str, missing))}; "
            f"allowed: at least one of each of the {reference.num_classes} classes of "
            f"{reference.name}, 0 to {reference.num_classes - 1}."
        )


def _path_and_split(spec: str) -> tuple[pathlib.Path, str | None]:
    path = user_path("an image set", spec)
    if spec and path.exists():
        return path, None
    parent, colon, split = spec.rpartition(":")
    path = user_path("an image set", parent)
    if colon and split and path.is_dir():
        return path, split
    raise InputError(f"{spec!r} is no file or folder; allowed: {_WANTED}.")


def _chosen(spec: str, split: str | None, found: list[str]) -> str:
    """Decides which of the splits in a folder is meant."""
    if split is None and len(found) == 1:
        return found[0]
    wanted = split or "train"
    if wanted not in found:
        raise InputError(
            f"{spec!r} has no split {wanted}; allowed: PATH:SPLIT with one of "
            f"{', '.join(found)}."
        )
    return wanted


def _from_npz(
    path: pathlib.Path, name: str, float_range: str, rounding: str
) -> ImageSet:
    arrays = npz.read_arrays(path, ("images", "labels"))
    images = arrays["images"]
    if images.dtype.kind == "f":
        if not float_range:
            raise InputError(
                f"the images of {name} are {images.dtype} values; allowed: uint8 in "
                f"0..255, or floats whose range float_range states "
                f"({' or '.join(FLOAT_RANGES)})."
            )
        images = _quantised(images, name, float_range, rounding)
    if images.ndim == 3:
        images = images[..., None]
    return from_source(data.ArraySource(images, arrays.get("labels"), name=name), name)


def _quantised(
    images: np.ndarray, name: str, float_range: str, rounding: str
) -> np.ndarray:
    low, high = FLOAT_RANGES[float_range]
    inside = (images >= low) & (images <= high)
    if not inside.all():
        raise InputError(
            f"a pixel of {name} is {images[~inside][0]:g}; allowed: {low:g} to "
            f"{high:g}, as float_range states."
        )
    return pixels.to_uint8(images, rounding, (low, high))


def _from_idx(folder: pathlib.Path, name: str, prefix: str) -> ImageSet:
    labels = f"{prefix}-labels-idx1-ubyte"
    labelled = any((folder / (labels + end)).is_file() for end in ("", ".gz"))
    stored = DataSettings(
        path=str(folder), train_split=prefix, num_classes=-1 if labelled else 0
    )
    return from_source(idx.load(stored, "train"), name)


def _from_image_folder(folder: pathlib.Path, name: str, split: str | None) -> ImageSet:
    splits = sorted(f.name for f in folder.iterdir() if f.name in ("train", "test"))
    if split is not None:
        if not (folder / split).is_dir():
            raise InputError(
                f"{name!r} has no split {split}; allowed: PATH:SPLIT with a folder in "
                f"{folder}."
            )
        folder = folder / split
    elif splits:
        folder = folder / _chosen(name, None, splits)
    stored = DataSettings(path=str(folder), train_split=".", test_split=".")
    result = from_source(
        image_folder.load(image_folder.Settings(), stored, "train"), name
    )
    names = image_folder.class_names(folder)
    return dataclasses.replace(
        result, class_names=None if names is None else tuple(names)
    )
