"""Which class each sample is of; the private label histogram is never used."""

import pathlib

import numpy as np
from numpy.typing import ArrayLike

from dpdm_jax.errors import InputError, reason


def choose_labels(
    spec: str | ArrayLike, num_images: int, num_classes: int, seed: int
) -> np.ndarray:
    """Returns the labels of images 0 to num_images - 1.

    Args:
        spec: "uniform" (random classes), "balanced" (0, 1, 2, ... in turn), one class
            such as "3", the path of a .npy file with one integer per image, or such
            integers themselves.
        num_images: how many.
        num_classes: 0 for unlabelled models, whose labels are all 0.
        seed: of the random classes.

    Returns:
        int32 [num_images]. Fewer images are a prefix of more.

    Raises:
        InputError: the spec is none of these, or a class is out of range.
    """
    if num_classes == 0:
        return np.zeros(num_images, np.int32)
    allowed = (
        f"uniform, balanced, a class 0 to {num_classes - 1}, or a .npy file of "
        f"{num_images} such integers"
    )
    if not isinstance(spec, str):
        labels = _checked("The list", np.asarray(spec), num_images, allowed)
    elif spec == "uniform":
        rng = np.random.default_rng(seed)
        return rng.integers(num_classes, size=num_images, dtype=np.int32)
    elif spec == "balanced":
        return np.arange(num_images, dtype=np.int32) % num_classes
    elif spec.endswith(".npy"):
        labels = _checked(spec, _read(spec, allowed), num_images, allowed)
    elif spec.isdecimal():
        labels = np.full(num_images, int(spec))
    else:
        raise InputError(f"sample.labels is {spec!r}; allowed: {allowed}.")
    outside = (labels < 0) | (labels >= num_classes)
    if outside.any():
        raise InputError(
            f"sample.labels asks for class {labels[outside][0]}; allowed: {allowed}."
        )
    return labels.astype(np.int32)


def _checked(
    name: str, labels: np.ndarray, num_images: int, allowed: str
) -> np.ndarray:
    if labels.shape != (num_images,) or labels.dtype.kind not in "iu":
        raise InputError(
            f"{name} holds {labels.dtype} of shape {labels.shape}; "
            f"allowed for sample.labels: {allowed}."
        )
    return labels


def _read(path: str, allowed: str) -> np.ndarray:
    try:
        with open(pathlib.Path(path), "rb") as file:
            # Not np.load, which takes other files for archives or pickles.
            return np.lib.format.read_array(file, allow_pickle=False)
    except Exception as e:  # a damaged header raises many kinds
        raise InputError(
            f"sample.labels is {path!r}, which cannot be read ({reason(e)}); allowed: "
            f"{allowed}."
        ) from None
