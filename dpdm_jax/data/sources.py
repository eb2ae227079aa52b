"""The interface of every image source, and what all of them read of a config."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np

from dpdm_jax import validate
from dpdm_jax.conditions import Condition, class_names, of_classes
from dpdm_jax.data import transforms
from dpdm_jax.errors import InputError, listed

SPLITS = ("train", "test")
# Labels, and one more for no label, are int32.
_MAX_CLASSES = 2**31 - 1

#: One or more examples: a pytree with "image" and "condition" at its top.
Example = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class DataSettings:
    """What ``config.data`` has for every source.

    Attributes:
        path: folder or file of the data; "" for the source's default, if any.
        train_split: TFDS split, as in "train[:90%]"; for other sources the first part
            of file names, or the sub-folder.
        test_split: likewise.
        num_examples: size of the training split, public: its images, or its groups
            where there are any; 0 takes it from the data.
        group: column of the data (of metadata.csv, metadata.jsonl or Parquet, an array
            of an npz file, patient of camelyon17) that says whose an image is: all
            images with one value are one unit of privacy. "" for units of one image.
        image_size: side in pixels; 0 as stored.
        channels: 1 or 3; 0 as stored.
        num_classes: -1 from the data, 0 unlabelled. Where the condition is captions,
            evaluation alone reads labels.
        class_names: of the labels 0, 1, ..., in order; () where they are not stated.
            Public: report, samples and release show them, and names that are read off
            private data are shown nowhere. Class folders, and names that the data has
            itself, are held to them; a class may be without images.
        crop: see ``transforms``: "none", "center_square" or "celeba".
        resize: likewise: "lanczos", "bicubic", "bilinear" or "box".
        on_demand: images stay in their files and are decoded whenever a step reads
            them, for data larger than memory; of image_folder, image_zip, huggingface
            and webdataset. camelyon17, and tfds with random access, always are so.

    Raises:
        InputError: a field is out of range.
    """

    path: str = ""
    train_split: str = "train"
    test_split: str = "test"
    num_examples: int = 0
    group: str = ""
    image_size: int = 0
    channels: int = 0
    num_classes: int = -1
    class_names: tuple[str, ...] = ()
    crop: str = "none"
    resize: str = "lanczos"
    on_demand: bool = False

    def __post_init__(self) -> None:
        validate.one_of("data.crop", self.crop, transforms.CROPS)
        validate.one_of("data.resize", self.resize, transforms.RESIZE_FILTERS)
        validate.one_of("data.channels", self.channels, (0, 1, 3))
        validate.integer("data.image_size", self.image_size, minimum=0)
        validate.integer("data.num_classes", self.num_classes, minimum=-1)
        validate.integer("data.num_examples", self.num_examples, minimum=0)
        if self.class_names:
            class_names.check(self.class_names, self.num_classes)
            if self.num_classes == -1:
                object.__setattr__(self, "num_classes", len(self.class_names))


@runtime_checkable
class Source(Protocol):
    """Random access to examples, in an order that never changes.

    Attributes:
        spec: shapes and dtypes of one example, as a pytree: {"image": ...,
            "condition": ...}, see ``image_spec``.
        condition: what examples say of themselves.
    """

    @property
    def spec(self) -> Example: ...

    @property
    def condition(self) -> Condition: ...

    def __len__(self) -> int: ...

    def examples(self, indices: np.ndarray) -> Example:
        """Reads examples.

        Args:
            indices: int [n], each in [0, len).

        Returns:
            The tree of ``spec``, of arrays [n, ...].
        """
        ...


def image_spec(shape: tuple[int, ...], condition: Condition) -> Example:
    """Returns the ``Source.spec`` of images of bytes, of (H, W, C)."""
    image = jax.ShapeDtypeStruct(shape, np.uint8)
    return {"image": image, "condition": condition.spec}


class MemorySource:
    """A source whose examples lie in memory; see ``Source``."""

    def __init__(
        self, examples: Example, condition: Condition, *, is_counted: bool = False
    ):
        """Keeps arrays.

        Args:
            examples: a pytree of arrays [N, ...], N >= 1.
            condition: see ``Source``.
            is_counted: whether the highest label told the number of classes.
        """
        self._examples = examples
        self.condition = condition
        self.is_counted = is_counted
        self.spec = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), examples
        )

    def __len__(self) -> int:
        return len(jax.tree.leaves(self._examples)[0])

    def examples(self, indices: np.ndarray) -> Example:
        """Reads examples; see ``Source.examples``."""
        return jax.tree.map(lambda x: x[indices], self._examples)

    @property
    def conditions(self) -> Any:
        """What the examples say of themselves, arrays [N, ...]."""
        return self._examples["condition"]

    def with_condition(self, values: Any, condition: Condition) -> "MemorySource":
        """Returns the same images with another condition.

        Args:
            values: of the examples, arrays [N, ...].
            condition: which allows them.
        """
        return MemorySource(self._examples | {"condition": values}, condition)


class ConditionedSource:
    """Images of a source that need not lie in memory, with another condition."""

    def __init__(self, source: Source, values: Any, condition: Condition):
        """Keeps them.

        Args:
            source: of the images.
            values: of its examples, arrays [N, ...].
            condition: which allows them.
        """
        self._source, self._values = source, values
        self.condition = condition
        self.spec = {**source.spec, "condition": condition.spec}

    def __len__(self) -> int:
        return len(self._source)

    def examples(self, indices: np.ndarray) -> Example:
        """Reads examples; see ``Source.examples``."""
        condition = jax.tree.map(lambda x: x[indices], self._values)
        return self._source.examples(indices) | {"condition": condition}


class ArraySource(MemorySource):
    """A source of images of bytes that lie in memory."""

    def __init__(
        self,
        images: np.ndarray,
        labels: np.ndarray | None = None,
        num_classes: int = -1,
        name: str = "data",
    ):
        """Checks and keeps the arrays.

        Args:
            images: uint8 [N, H, W, C], N >= 1, C = 1 or 3.
            labels: integers [N] in [0, num_classes), or None if there are none.
            num_classes: -1 takes the largest label + 1 (0 without labels), 0 ignores
                the labels. A private run should state it: the largest label is read off
                the private data.
            name: what messages call the data.

        Raises:
            InputError: the arrays are not as described.
        """
        images = np.asarray(images)
        if images.dtype != np.uint8:
            nan = images.dtype.kind == "f" and np.isnan(images).any()
            holds = f"{images.dtype} values" + (", some of them NaN" if nan else "")
            raise InputError(
                f"the images of {name} are {holds}; allowed: uint8 in 0..255."
            )
        if images.ndim != 4 or images.shape[-1] not in (1, 3):
            raise InputError(
                f"the images of {name} have shape {images.shape}; "
                "allowed: (number, height, width, channels) with 1 or 3 channels."
            )
        if 0 in images.shape:
            raise InputError(
                f"the images of {name} have shape {images.shape}; "
                "allowed: at least one image of at least 1x1."
            )
        values, condition = checked_labels(labels, len(images), num_classes, name)
        super().__init__(
            {"image": images, "condition": values},
            condition,
            is_counted=num_classes == -1,
        )

    def prepared(self, preparation: transforms.Preparation) -> MemorySource:
        """Returns the source with its images cropped, converted and resized.

        For data that is read as one array; the other sources prepare what they read
        file by file.

        Raises:
            InputError: see ``Preparation``.
        """
        # All images have one shape: what keeps the first one's changes none.
        stored = self._examples["image"]
        if preparation(stored[0]).shape == stored[0].shape:
            return self
        images = np.stack([preparation(image) for image in stored])
        prepared = self._examples | {"image": images}
        return MemorySource(prepared, self.condition, is_counted=self.is_counted)


def checked_labels(
    labels: np.ndarray | None, count: int, num_classes: int, name: str
) -> tuple[np.ndarray, Condition]:
    """Checks labels; arguments and errors as of ``ArraySource``.

    Args:
        labels: integers [N], or None.
        count: N.
        num_classes: -1 takes the largest label + 1, 0 ignores the labels.
        name: what messages call the data.

    Returns:
        int32 [N], zeros where there are none, and the condition that they are.
    """
    found = None
    if labels is not None:
        labels = np.asarray(labels)
        found = _count_classes(labels, count, name)
    num_classes = resolve_num_classes(num_classes, found, name)
    if labels is None or num_classes == 0:
        labels = np.zeros(count)
    return labels.astype(np.int32), of_classes(num_classes)


def resolve_num_classes(requested: int, found: int | None, name: str) -> int:
    """Decides the number of classes from the config's and the data's.

    Args:
        requested: data.num_classes; -1 means the data's, 0 means unlabelled.
        found: number of classes in the data, or None if it has no labels.
        name: what messages call the data.

    Returns:
        The number of classes, >= 0.

    Raises:
        InputError: labels are wanted where there are none, or lie out of range.
    """
    if requested == 0:
        return 0
    if found is None:
        if requested > 0:
            raise InputError(
                f"data.num_classes is {requested} but {name} has no labels; "
                "allowed: 0 (unlabelled)."
            )
        return 0
    if requested == -1:
        return found
    if found > requested:
        raise InputError(
            f"the labels of {name} go up to {found - 1}; allowed: 0 to "
            f"{requested - 1}, for data.num_classes is {requested}."
        )
    return requested


def check_same_names(config: DataSettings, found: Sequence[str], name: str) -> None:
    """Refuses data whose classes have other names, or another order, than is stated.

    Args:
        config: which may state names.
        found: names that the data has itself, in order of its labels.
        name: what messages call the data.

    Raises:
        InputError: they differ.
    """
    stated = config.class_names
    if stated and config.num_classes and tuple(found) != tuple(stated):
        raise InputError(
            f"data.class_names is {listed(stated)} and {name} has the classes "
            f"{listed(found)}; allowed: those names in that order, or ()."
        )


def foreign_class(where: object, name: str, classes: Sequence[str]) -> InputError:
    """Returns the refusal of a class folder that no label stands for.

    Args:
        where: the folder or file with it.
        name: of the class.
        classes: those that there are labels for, in order.
    """
    return InputError(
        f"{where} has the class {name!r}, which is neither in data.class_names nor one "
        f"of the training images; allowed: {', '.join(classes)}."
    )


def split_name(config: DataSettings, split: str) -> str:
    """Returns the config's name for the split "train" or "test".

    Raises:
        InputError: the name is empty.
    """
    name = config.train_split if split == "train" else config.test_split
    if not name:
        raise InputError(f"data.{split}_split is ''; allowed: the name of a split.")
    return name


def _count_classes(labels: np.ndarray, num_images: int, name: str) -> int:
    if labels.shape != (num_images,):
        raise InputError(
            f"the labels of {name} have shape {labels.shape}; "
            f"allowed: one integer per image, ({num_images},)."
        )
    if labels.dtype.kind not in "iu":
        raise InputError(
            f"the labels of {name} are {labels.dtype} values; allowed: integers."
        )
    if labels.min() < 0:
        raise InputError(
            f"the labels of {name} go down to {labels.min()}; allowed: integers >= 0."
        )
    highest = int(labels.max())
    if highest >= _MAX_CLASSES:
        raise InputError(
            f"the labels of {name} go up to {highest}; allowed: less than "
            f"{_MAX_CLASSES}."
        )
    return highest + 1
