"""Folders of image files, with one sub-folder per class or none."""

import dataclasses
import io
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image, ImageOps

from dpdm_jax.data import bit_depth, dataset_json, metadata, paths
from dpdm_jax.data.columns import Column
from dpdm_jax.data.sources import (
    DataSettings,
    Source,
    foreign_class,
    resolve_num_classes,
    split_name,
)
from dpdm_jax.data.stored_images import source_of
from dpdm_jax.data.transforms import Preparation
from dpdm_jax.errors import InputError, reason

_SUFFIXES = (".png", ".jpg", ".jpeg", ".jfif", ".webp", ".tif", ".tiff", ".bmp", ".gif")
_FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF")
# Of images that are not read. Passed over, they would be missed by nobody.
_OTHER_IMAGES = (
    *(".apng", ".avif", ".cr2", ".dcm", ".dicom", ".dng", ".exr", ".hdr", ".heic"),
    *(".heif", ".ico", ".j2k", ".jp2", ".jpe", ".jxl", ".mha", ".mpo", ".nef", ".nii"),
    *(".nrrd", ".pbm", ".pcx", ".pgm", ".pnm", ".ppm", ".psd", ".raw", ".sgi", ".svg"),
    ".tga",
)
_NAMED = 3
_SEVERAL = ("GIF", "PNG", "TIFF", "WEBP")  # of which files may have several images
_GREY_MODES = ("1", "L", "LA")
_COLOUR_MODES = ("P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")
_WANTED = (
    f"a folder of {', '.join(_SUFFIXES[:-1])} or {_SUFFIXES[-1]} files, or of one "
    "folder per class"
)
_NUMBER = re.compile(r"(\d+)")


@dataclasses.dataclass(frozen=True)
class Settings:
    """``config.data.image_folder``.

    Attributes:
        value_range: the values of grey images of more than 8 bits that become 0 and
            255, low < high; what lies outside is cut to them. Public: it must not be
            read off private images. () refuses such images.
    """

    value_range: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        given = self.value_range
        if given and (len(given) != 2 or not given[0] < given[1]):
            raise InputError(
                f"{bit_depth.RANGE} is {given}; allowed: (LOW, HIGH) with LOW < HIGH, "
                "or ()."
            )


@dataclasses.dataclass(frozen=True)
class _Listing:
    """The files of one split, in their lasting order.

    ``classes`` is None and ``labels`` empty for images that lie flat. Where a file
    states the labels, the highest tells how many classes there are.
    """

    files: list[Path]
    labels: list[int]
    classes: list[str] | None
    is_counted: bool = False


def load(settings: Settings, config: DataSettings, split: str) -> Source:
    """Reads the images ``PATH/CLASS/**`` or ``PATH/*``.

    If PATH has sub-folders named by data.train_split and data.test_split, they are the
    splits; otherwise PATH is the training split. Classes are numbered in natural order
    of their names (1, 2, 10), those of the training split for both, or as
    ``data.class_names`` has them; images follow in order of folder and path. Names that
    start with a dot, and files that are no images by their suffix, are passed over;
    images of kinds that are not read are refused. A split's ``dataset.json`` states the
    labels of its images in place of folders.
    The EXIF orientation is applied; transparency is dropped; palettes and CMYK become
    RGB. Then ``Preparation`` crops, converts and resizes.

    Args:
        settings: what images of more than 8 bits become.
        config: reads path, train_split, test_split, num_classes, class_names, on_demand
            and the fields of ``Preparation``.
        split: "train" or "test".

    Returns:
        The source.

    Raises:
        InputError: the folder is missing, empty, or mixed, or an image is damaged or
            does not fit; the message names the file.
    """
    listing, folder = _find(config, split)
    found = None if listing.classes is None else len(listing.classes)
    num_classes = resolve_num_classes(config.num_classes, found, str(folder))
    prepare = Preparation.from_config(config)

    def read(index: int) -> np.ndarray:
        return decode_prepared(listing.files[index], prepare, settings.value_range)

    return source_of(
        read,
        np.array(listing.labels) if num_classes else None,
        -1 if listing.is_counted and config.num_classes == -1 else num_classes,
        names=listing.files,
        name=str(folder),
        on_demand=config.on_demand,
    )


def column(config: DataSettings, name: str, split: str) -> Column:
    """Reads a column of the table in the split's folder, for ``load``'s images.

    The layout of Hugging Face's image folders: ``metadata.csv``, or ``metadata.jsonl``
    with one JSON object a line, has a row for each image. Its ``file_name`` is
    the image's path below the split's folder.

    Args:
        config: see ``load``.
        name: of the column.
        split: "train" or "test".

    Raises:
        InputError: see ``load``; or the table is missing or damaged.
    """
    listing, folder = _find(config, split)
    table, rows = metadata.read(folder, name)
    names = _names(listing, folder, table, rows)
    return Column([rows.get(name) for name in names], names, str(table))


def _names(
    listing: _Listing, folder: Path, table: Path, rows: Mapping[str, object]
) -> list[str]:
    """Returns what a table calls a split's images, if it lists no others."""
    names = [file.relative_to(folder).as_posix() for file in listing.files]
    for name in rows.keys() - set(names):
        raise InputError(
            f"{table} lists {name!r}, which is no image in {folder}; allowed: the "
            "paths of its images, relative to it."
        )
    return names


def _find(config: DataSettings, split: str) -> tuple[_Listing, Path]:
    """Lists the images of a split; returns its folder, too."""
    root = paths.existing_folder(config.path, _WANTED)
    train_folder = root / split_name(config, "train")
    test_folder = root / split_name(config, "test")
    if not train_folder.is_dir():
        if test_folder.is_dir():
            raise InputError(
                f"{root} has a folder {test_folder.name} but no {train_folder.name}; "
                "allowed: both, or neither."
            )
        train_folder = root
    train = _list_images(train_folder, list(config.class_names) or None)
    listing, folder = train, train_folder
    if split == "test":
        if not test_folder.is_dir():
            raise InputError(
                f"{root} has no folder {test_folder.name}; allowed: a folder with "
                f"{config.train_split} and {test_folder.name} in it."
            )
        listing, folder = _list_images(test_folder, train.classes), test_folder
        if (listing.classes is None) != (train.classes is None):
            raise InputError(
                f"of {train_folder} and {test_folder} one has class folders and the "
                "other has not; allowed: both, or neither."
            )
    return listing, folder


def class_names(folder: Path) -> list[str] | None:
    """Returns the names of a split's class folders, in order; None if images lie flat.

    Raises:
        InputError: the folder has no images, or some in itself and some in sub-folders.
    """
    return _list_images(folder).classes


def decode_image(path: Path, value_range: tuple[int, ...] = ()) -> np.ndarray:
    """Decodes one file.

    Args:
        path: the file.
        value_range: see ``Settings``.

    Returns:
        uint8 [H, W, C], C = 1 for grey files and 3 for all others.

    Raises:
        InputError: the file is damaged, of another format, of several images, or of
            more than 8 bits a channel where that is not allowed.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise _undecodable(path, error) from error
    return decode(content, path, value_range)


def decode(
    content: bytes, name: object, value_range: tuple[int, ...] = ()
) -> np.ndarray:
    """Decodes the content of a file.

    Args:
        content: of the file.
        name: what messages call it.
        value_range: see ``Settings``.

    Returns:
        As ``decode_image``.

    Raises:
        InputError: likewise.
    """
    try:
        with Image.open(io.BytesIO(content), formats=_FORMATS) as stored:
            # Decoding alone does not look at a PNG file's checksums; JPEG has none.
            stored.verify()
        with Image.open(io.BytesIO(content), formats=_FORMATS) as stored:
            mode = stored.mode
            # Photographs in JPEG may have a preview behind them.
            frames = getattr(stored, "n_frames", 1)
            if frames > 1 and stored.format in _SEVERAL:
                raise InputError(
                    f"{name} has {frames} images; allowed: one image a file."
                )
            depth = bit_depth.bits(content, stored)
            image = ImageOps.exif_transpose(stored)
            if depth > 8:
                return bit_depth.to_bytes(image, depth, value_range, name)
            if mode in _GREY_MODES:
                return np.asarray(image.convert("L"))[..., None]
            if mode in _COLOUR_MODES:
                return np.asarray(image.convert("RGB"))
    except InputError:
        raise
    # Pillow's decoders raise many kinds of error on damaged files, SyntaxError among
    # them; whichever it is, the user needs the name of the file.
    except Exception as error:
        raise _undecodable(name, error) from error
    raise InputError(
        f"{name} has pixels of Pillow's mode {mode!r}; allowed: 8 bits per channel."
    )


def _undecodable(name: object, error: Exception) -> InputError:
    return InputError(
        f"{name} cannot be decoded ({reason(error)}); allowed: an undamaged file of "
        f"{', '.join(_FORMATS[:-1])} or {_FORMATS[-1]}."
    )


def decode_prepared(
    path: Path,
    prepare: Callable[[np.ndarray], np.ndarray],
    value_range: tuple[int, ...] = (),
) -> np.ndarray:
    """Decodes one file and prepares its image.

    Args:
        path: the file.
        prepare: of uint8 [H, W, C], such as a ``Preparation``.
        value_range: see ``Settings``.

    Returns:
        uint8 [H', W', C'].

    Raises:
        InputError: see ``decode_image``; or the image does not fit, which names the
            file.
    """
    return prepared(decode_image(path, value_range), prepare, path)


def prepared(
    image: np.ndarray, prepare: Callable[[np.ndarray], np.ndarray], name: object
) -> np.ndarray:
    """Prepares an image, and names it should it not fit."""
    try:
        return prepare(image)
    except InputError as error:
        raise InputError(f"{name}: {error}") from error


def _list_images(folder: Path, classes: list[str] | None = None) -> _Listing:
    """Lists a split; ``classes`` fixes the numbers of the classes if given."""
    stated = folder / dataset_json.NAME
    if stated.is_file():
        return _list_stated(folder, stated)
    flat = list(_image_files(folder))
    by_class = {
        sub.name: list(_images_below(sub))
        for sub in sorted(_visible(folder), key=lambda path: natural_order(path.name))
        if sub.is_dir()
    }
    empty = [name for name, members in by_class.items() if not members]
    by_class = {name: members for name, members in by_class.items() if members}
    if flat and by_class:
        raise InputError(
            f"{folder} has images both in itself and in sub-folders; "
            f"allowed: {_WANTED}."
        )
    if not flat and not by_class:
        raise InputError(f"{folder} has no images; allowed: {_WANTED}.")
    if flat:
        return _Listing(flat, [], None)
    if empty and classes is None:
        raise InputError(
            f"{folder / empty[0]} has no images; allowed: at least one in each of the "
            "class folders, which are numbered in turn, or not to have it."
        )
    classes = classes or list(by_class)
    files, labels = [], []
    for name, members in by_class.items():
        if name not in classes:
            raise foreign_class(folder, name, classes)
        files += members
        labels += [classes.index(name)] * len(members)
    return _Listing(files, labels, classes)


def _list_stated(folder: Path, stated: Path) -> _Listing:
    """Lists a split whose labels are in a file."""
    found = list(_images_below(folder))
    if not found:
        raise InputError(f"{folder} has no images; allowed: {_WANTED}.")
    labels = dataset_json.read(stated.read_bytes(), stated)
    if labels is None:
        return _Listing(found, [], None)
    names = [path.relative_to(folder).as_posix() for path in found]
    numbers = dataset_json.of_files(labels, names, stated)
    classes = [str(i) for i in range(max(numbers) + 1)]
    return _Listing(found, numbers, classes, is_counted=True)


def natural_order(name: str) -> tuple[tuple[int | str, ...], str]:
    """Returns what to sort names by so that numbers in them are in order: 1, 2, 10."""
    parts = enumerate(_NUMBER.split(name))
    return tuple(int(part) if i % 2 else part for i, part in parts), name


def image_names(names: Iterable[str], where: object) -> list[str]:
    """Chooses the names of images that are read, in the order given.

    Args:
        names: of files.
        where: they are, for messages.

    Raises:
        InputError: there are images of other kinds.
    """
    by_suffix = [(name, PurePosixPath(name).suffix.lower()) for name in names]
    others = [name for name, suffix in by_suffix if suffix in _OTHER_IMAGES]
    if others:
        raise InputError(
            f"{where} has {len(others)} images of kinds that are not read "
            f"({', '.join(others[:_NAMED])}); allowed: {', '.join(_SUFFIXES)}."
        )
    return [name for name, suffix in by_suffix if suffix in _SUFFIXES]


def _visible(folder: Path) -> list[Path]:
    entries = [path for path in folder.iterdir() if not path.name.startswith(".")]
    return sorted(entries, key=lambda path: path.name)


def _image_files(folder: Path) -> Iterator[Path]:
    """Lists what is read of a folder itself.

    Raises:
        InputError: it has images of other kinds.
    """
    found = [path.name for path in _visible(folder) if path.is_file()]
    return (folder / name for name in image_names(found, folder))


def _images_below(folder: Path) -> Iterator[Path]:
    """Lists what is read of a folder and of those in it, at any depth."""
    yield from _image_files(folder)
    for path in _visible(folder):
        if path.is_dir():
            yield from _images_below(path)
