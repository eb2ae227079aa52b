"""TensorFlow Datasets: mnist, fashion_mnist, cifar10, celeb_a, imagenet_resized, ...

TensorFlow reads files here and nothing else; it never sees a GPU.
"""

import concurrent.futures
import dataclasses
import itertools
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tqdm
from absl import logging

from dpdm_jax import validate
from dpdm_jax.data.random_access import RandomAccessSource, same_shape
from dpdm_jax.data.sources import (
    ArraySource,
    DataSettings,
    Source,
    check_same_names,
    checked_labels,
    resolve_num_classes,
    split_name,
)
from dpdm_jax.data.transforms import Preparation
from dpdm_jax.errors import InputError, reason

_CHUNK = 256
_CHOICE = {"label": " by data.tfds.label"}


@dataclasses.dataclass(frozen=True)
class Settings:
    """``config.data.tfds``.

    Attributes:
        name: TFDS builder, such as "mnist" or "imagenet_resized/32x32".
        label: the feature that has the labels, of classes or of plain integers; "" for
            the one of classes, or the one called "label".
        first_label: what labels count from, 0 or 1; they are read as counting from 0.
        transpose: exchange rows and columns of images, as EMNIST's want it.
    """

    name: str = ""
    label: str = ""
    first_label: int = 0
    transpose: bool = False


def load(settings: Settings, config: DataSettings, split: str) -> Source:
    """Loads a split of a TFDS builder, downloading it if TFDS can.

    Data prepared in a format with random access (array_record) is read on demand; a
    TFRecord split is read into memory once, after preparation.

    Args:
        settings: the builder.
        config: ``path`` is TFDS's data_dir; "" is TFDS's own default. Builders without
            a label are unlabelled.
        split: "train" or "test".

    Returns:
        The source.

    Raises:
        InputError: no such builder, split, image feature or data, or labels lie out of
            range.
    """
    validate.integer("data.tfds.first_label", settings.first_label, minimum=0)
    builder = _prepared_builder(settings.name, config.path)
    name = split_name(config, split)
    image_key = _image_key(builder)
    label_key = _label_key(builder, settings, config) if config.num_classes else None
    found = _num_classes(builder, label_key, settings, config) if label_key else None
    num_classes = resolve_num_classes(
        config.num_classes, found, f"the TFDS builder {settings.name}"
    )
    keys = (image_key, label_key if num_classes else None)
    try:
        return _read(builder, settings, config, name, keys, num_classes)
    except InputError:
        raise
    # Unknown splits, missing shards and damaged records each have their own errors, of
    # TFDS, TensorFlow and ArrayRecord.
    except Exception as error:
        raise InputError(
            f"split {name!r} of {settings.name} cannot be read from "
            f"{builder.data_dir}: {reason(error)}."
        ) from error


def _import_tfds() -> Any:
    try:
        import tensorflow as tf
        import tensorflow_datasets
    except ImportError as error:
        raise InputError(
            "data.source is 'tfds', which needs tensorflow-datasets and TensorFlow "
            f"({reason(error)}); allowed: pip install 'dpdm_jax[tfds]', or the source "
            "digits, idx, image_folder or npz."
        ) from None

    # TensorFlow would take the memory of GPUs that JAX needs.
    tf.config.set_visible_devices([], "GPU")
    return tensorflow_datasets


def _prepared_builder(name: str, path: str) -> Any:
    if not name:
        raise InputError(
            "data.tfds.name is ''; allowed: a TFDS builder such as 'mnist'."
        )
    tfds = _import_tfds()
    data_dir = os.path.expanduser(path) or None
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except ValueError as error:
        raise InputError(
            f"data.tfds.name is {name!r}; allowed: a TFDS builder such as 'mnist' or "
            f"'imagenet_resized/32x32', or one prepared in data.path "
            f"({reason(error)})."
        ) from error
    if not builder.is_prepared():
        logging.warning("%s is not in %s: downloading", name, builder.data_dir)
    try:
        # Does nothing if the data is there.
        builder.download_and_prepare()
    # A download can fail in any way: no network, a moved file, a full disk, a licence
    # that wants a manual step.
    except Exception as error:
        raise InputError(
            f"the TFDS data {name} is not in {builder.data_dir} and cannot be "
            "prepared there; set data.path to a data_dir that holds it, or use "
            f"data.source=idx, image_folder or npz ({reason(error)})."
        ) from error
    return builder


def _of_kind(builder: Any, kind: type) -> list[str]:
    features = builder.info.features
    return sorted(key for key, f in features.items() if isinstance(f, kind))


def _image_key(builder: Any) -> str:
    """Finds the image feature."""
    tfds, features = _import_tfds(), builder.info.features
    image = _only("image", _of_kind(builder, tfds.features.Image), builder.name)
    if image is None:
        raise InputError(
            f"the TFDS builder {builder.name} has no image feature; "
            "allowed: a builder of images."
        )
    feature = features[image]
    if feature.np_dtype != np.uint8 or feature.shape[-1] not in (1, 3):
        raise InputError(
            f"the images of the TFDS builder {builder.name} are "
            f"{np.dtype(feature.np_dtype)} with {feature.shape[-1]} channels; "
            "allowed: uint8 with 1 or 3."
        )
    return image


def _label_key(builder: Any, settings: Settings, config: DataSettings) -> str | None:
    """Finds the feature of the labels; None where there is none."""
    tfds, features = _import_tfds(), builder.info.features
    of_classes = _of_kind(builder, tfds.features.ClassLabel)
    integers = [
        key
        for key, feature in features.items()
        if isinstance(feature, tfds.features.Tensor)
        and feature.shape == ()
        and np.issubdtype(feature.np_dtype, np.integer)
    ]
    wanted = settings.label
    if not wanted and (of_classes or not integers):
        return _only("label", of_classes, builder.name)
    if not wanted and "label" in integers:
        return "label"
    if not wanted and config.num_classes < 0:
        return None  # who states no classes may have none
    if wanted not in integers:  # classes are such, too
        raise InputError(
            f"data.tfds.label is {wanted!r}; allowed for the TFDS builder "
            f"{builder.name}: {', '.join(sorted(integers)) or 'none, it has no labels'}"
            ", with data.num_classes where they are no classes of TFDS's."
        )
    return wanted


def _num_classes(
    builder: Any, key: str, settings: Settings, config: DataSettings
) -> int:
    """Returns how many classes the labels are of, as builder or config states it."""
    feature = builder.info.features[key]
    name = f"the TFDS builder {builder.name}"
    if not isinstance(feature, _import_tfds().features.ClassLabel):
        if config.num_classes < 0:
            raise InputError(
                f"the labels {key!r} of {name} are integers, whose number of classes "
                "it does not state; allowed: data.num_classes, of labels from 0."
            )
        return config.num_classes
    names = list(feature.names or ())
    if names == [str(i) for i in range(feature.num_classes)]:
        # TFDS's, where there are no others. It may then count more classes than there
        # are (37 of EMNIST's 26 letters); labels are checked as they are read.
        found = feature.num_classes - settings.first_label
        return min(found, config.num_classes) if config.num_classes > 0 else found
    names = names[settings.first_label :]
    check_same_names(config, names, name)
    return len(names)


def _only(usual: str, keys: list[str], name: str) -> str | None:
    if usual in keys or not keys:
        return usual if keys else None
    if len(keys) > 1:
        raise InputError(
            f"the TFDS builder {name} has the {usual} features {', '.join(keys)}; "
            f"allowed: one of them{_CHOICE.get(usual, '')}, or one called {usual!r}."
        )
    return keys[0]


def _read(
    builder: Any,
    settings: Settings,
    config: DataSettings,
    split: str,
    keys: tuple[str, str | None],
    num_classes: int,
) -> Source:
    tfds = _import_tfds()
    preparation = Preparation.from_config(config)
    first_label = settings.first_label

    def prepare(image: np.ndarray) -> np.ndarray:
        return preparation(image.swapaxes(0, 1) if settings.transpose else image)

    random_access = tfds.core.FileFormat.with_random_access()
    if builder.info.available_file_formats() & random_access:
        records = builder.as_data_source(split=split)
        if keys[1] and (first_label or _declared(builder, keys[1]) > num_classes):
            _check_labels(builder, split, keys, num_classes, first_label)
        return RandomAccessSource(records, keys, prepare, num_classes, first_label)
    if config.on_demand:
        raise InputError(
            f"data.on_demand is True and {builder.name} lies in files without random "
            "access; allowed: False, or the data prepared as array_record."
        )
    decoders = tfds.decode.PartialDecoding({key: True for key in keys if key})
    # One file after another: the order is the same in every run.
    read_config = tfds.ReadConfig(interleave_cycle_length=1)
    dataset = builder.as_dataset(
        split=split, decoders=decoders, read_config=read_config, shuffle_files=False
    )
    images, labels = _read_all(dataset, keys, prepare)
    name = f"the TFDS builder {builder.name}"
    known = labels - first_label if keys[1] else None
    return ArraySource(images, known, num_classes, name)


def _declared(builder: Any, label_key: str) -> int:
    """Number of classes that TFDS states; 0 of plain integers."""
    return getattr(builder.info.features[label_key], "num_classes", 0)


def _check_labels(
    builder: Any,
    split: str,
    keys: tuple[str, str | None],
    num_classes: int,
    first_label: int,
) -> None:
    """Reads all labels, which are not what TFDS states, without decoding an image."""
    skipped = {keys[0]: _import_tfds().decode.SkipDecoding()}
    records = builder.as_data_source(split=split, decoders=skipped)
    labels = np.array([int(row[keys[1]]) for row in records]) - first_label
    checked_labels(labels, len(labels), num_classes, f"the TFDS builder {builder.name}")


def _read_all(
    dataset: Any,
    keys: tuple[str, str | None],
    prepare: Callable[[np.ndarray], np.ndarray],
) -> tuple[np.ndarray, np.ndarray]:
    """Reads a tf.data set into uint8 [N, H, W, C] and int32 [N]."""
    size = int(dataset.cardinality())
    images = np.empty((size, 0, 0, 0), np.uint8)
    labels = np.zeros(size, np.int32)
    start = 0
    progress = tqdm.tqdm(desc="reading images", total=size, leave=False, disable=None)
    with progress, concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for stored, found in _chunks(dataset, keys):
            for i, image in enumerate(pool.map(prepare, stored), start):
                if i == 0:
                    images = np.empty((size, *image.shape), np.uint8)
                images[i] = same_shape(image, images.shape[1:])
            labels[start : start + len(stored)] = found
            start += len(stored)
            progress.update(len(stored))
    return images, labels


def _chunks(dataset: Any, keys: tuple[str, str | None]) -> Iterator[tuple[Any, Any]]:
    """Yields some stored images at a time, and their labels or 0."""
    image_key, label_key = keys
    if None not in dataset.element_spec[image_key].shape:
        # Images of one static shape cross from TensorFlow many at a time.
        for rows in dataset.batch(_CHUNK).as_numpy_iterator():
            yield rows[image_key], rows[label_key] if label_key else 0
        return
    rows = dataset.as_numpy_iterator()
    while chunk := list(itertools.islice(rows, _CHUNK)):
        found = [row[label_key] for row in chunk] if label_key else 0
        yield [row[image_key] for row in chunk], found
