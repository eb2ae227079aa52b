"""Generated images as uint8, as pictures for people, and as files."""

import io
import os
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image

from dpdm_jax import files, validate
from dpdm_jax.errors import InputError
from dpdm_jax.images import pixels

_GUTTER = 2  # pixels between tiles and around them
_BACKGROUND = 208  # light grey: neither the black of digits nor the white of paper
_TILE_SIZE = 48  # pixels that small images are enlarged to, roughly


def to_uint8(images: ArrayLike, rounding: str = "truncate") -> np.ndarray:
    """Maps generated images to bytes; see ``pixels.to_uint8``.

    Args:
        images: float [n, h, w, c], nominally in [-1, 1].
        rounding: one of ``pixels.ROUNDINGS``.

    Returns:
        uint8 [n, h, w, c].

    Raises:
        InputError: another rounding, or a pixel is NaN or infinite.
    """
    images = np.asarray(images, np.float32)
    finite = np.isfinite(images)
    if not finite.all():
        broken = np.count_nonzero(~finite.all(axis=tuple(range(1, images.ndim))))
        raise InputError(
            f"{broken} of {len(images)} generated images have a pixel that is "
            f"{images[~finite][0]}; allowed: finite pixels (has the model diverged?)."
        )
    return pixels.to_uint8(images, rounding)


def class_grid(
    images: np.ndarray,
    labels: np.ndarray,
    num_classes: int,
    per_class: int,
    scale: int | None = None,
) -> np.ndarray:
    """Lays out images with one row a class, in the order given.

    Args:
        images: uint8 [n, h, w, c].
        labels: int [n]. Images of labels outside [0, num_classes) are left out.
        num_classes: number of rows, >= 1.
        per_class: number of columns, >= 1. Where a class has fewer images, tiles stay
            blank.
        scale: enlargement, >= 1; None makes small images large enough to see.

    Returns:
        uint8 [H, W, c].

    Raises:
        InputError: an argument is not as described.
    """
    images = _checked(images)
    labels = np.asarray(labels)
    if labels.shape != (len(images),):
        raise InputError(
            f"labels have shape {labels.shape}; "
            f"allowed: one per image, ({len(images)},)."
        )
    validate.integer("num_classes", num_classes, minimum=1)
    validate.integer("per_class", per_class, minimum=1)
    tiles = {
        (row, column): images[index]
        for row in range(num_classes)
        for column, index in enumerate(np.flatnonzero(labels == row)[:per_class])
    }
    return _lay_out(tiles, num_classes, per_class, images.shape[1:], scale)


def grid(
    images: np.ndarray, columns: int | None = None, scale: int | None = None
) -> np.ndarray:
    """Lays out images row by row.

    Args:
        images: uint8 [n, h, w, c], n >= 1.
        columns: images in a row, >= 1; None makes the grid nearly square.
        scale: enlargement, >= 1; None makes small images large enough to see.

    Returns:
        uint8 [H, W, c].

    Raises:
        InputError: an argument is not as described.
    """
    images = _checked(images)
    if len(images) == 0:
        raise InputError("a grid of 0 images is asked for; allowed: 1 or more.")
    columns = int(np.ceil(np.sqrt(len(images)))) if columns is None else columns
    validate.integer("columns", columns, minimum=1)
    tiles = {divmod(i, columns): image for i, image in enumerate(images)}
    rows = -(-len(images) // columns)
    return _lay_out(tiles, rows, columns, images.shape[1:], scale)


def enlarge(image: np.ndarray, scale: int) -> np.ndarray:
    """Repeats every pixel of [h, w, c] to [scale h, scale w, c], sharp-edged."""
    return image.repeat(scale, axis=0).repeat(scale, axis=1)


def write_png(
    path: str | os.PathLike[str], image: np.ndarray, *, private: bool = False
) -> None:
    """Writes a PNG file in one step: a reader sees the old file or the new one.

    Args:
        path: the file; its folder exists.
        image: uint8 [h, w, c], c = 1 (grey) or 3 (RGB).
        private: let its owner alone read it.

    Raises:
        InputError: the image is not as described.
    """
    content = png(image)
    with files.replacing(path, private=private) as temporary:
        temporary.write_bytes(content)


def png(image: np.ndarray) -> bytes:
    """Returns the contents of a PNG file.

    Args:
        image: uint8 [h, w, c], c = 1 (grey) or 3 (RGB).

    Raises:
        InputError: the image is not as described.
    """
    image = _checked(np.asarray(image)[None])[0]
    if image.shape[-1] not in (1, 3):
        raise InputError(f"an image has {image.shape[-1]} channels; allowed: 1 or 3.")
    content = io.BytesIO()
    flat = image[..., 0] if image.shape[-1] == 1 else image
    Image.fromarray(flat).save(content, format="PNG")
    return content.getvalue()


def write_npz(
    path: str | os.PathLike[str],
    images: np.ndarray,
    labels: np.ndarray | None,
    prompts: np.ndarray | None = None,
    class_names: Sequence[str] = (),
) -> None:
    """Writes images in one step, as the data source ``npz`` reads them.

    Args:
        path: the file; its folder exists.
        images: uint8 [n, h, w, c], stored as ``images``.
        labels: int [n], stored as ``labels`` in int32; None for unlabelled images.
        prompts: strings [n], stored as ``prompts``; None for images without such.
        class_names: of the labels 0, 1, ..., stored as strings; () stores none.

    Raises:
        InputError: the arrays are not as described.
    """
    arrays = {"images": _checked(images)}
    if labels is not None:
        labels = np.asarray(labels)
        if labels.shape != (len(images),) or labels.dtype.kind not in "iu":
            raise InputError(
                f"labels are {labels.dtype} of shape {labels.shape}; "
                f"allowed: integers, one per image, ({len(images)},)."
            )
        arrays["labels"] = labels.astype(np.int32)
    if prompts is not None:
        arrays["prompts"] = prompts
    if labels is not None and class_names:
        arrays["class_names"] = np.array(class_names)
    with files.replacing(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]  # not allow_pickle


def _checked(images: np.ndarray) -> np.ndarray:
    images = np.asarray(images)
    if images.dtype != np.uint8 or images.ndim != 4:
        raise InputError(
            f"images are {images.dtype} of shape {images.shape}; allowed: uint8 of "
            "shape (number, height, width, channels)."
        )
    return images


def _lay_out(
    tiles: Mapping[tuple[int, int], np.ndarray],
    rows: int,
    columns: int,
    tile_shape: tuple[int, ...],
    scale: int | None,
) -> np.ndarray:
    """Places the tiles of given rows and columns; the rest stays background."""
    height, width, channels = tile_shape
    if scale is None:
        scale = max(1, round(_TILE_SIZE / max(height, width)))
    validate.integer("scale", scale, minimum=1)
    height, width = scale * height, scale * width
    canvas = np.full(
        (
            rows * (height + _GUTTER) + _GUTTER,
            columns * (width + _GUTTER) + _GUTTER,
            channels,
        ),
        _BACKGROUND,
        np.uint8,
    )
    for (row, column), image in tiles.items():
        top = _GUTTER + row * (height + _GUTTER)
        left = _GUTTER + column * (width + _GUTTER)
        canvas[top : top + height, left : left + width] = enlarge(image, scale)
    return canvas
