"""What classifiers need of the images that a checkpoint makes."""

import pathlib
from collections.abc import Iterable

import ml_collections

from dpdm_jax import data
from dpdm_jax.errors import InputError
from dpdm_jax.evaluation import image_sets, registry
from dpdm_jax.evaluation.image_sets import ImageSet
from dpdm_jax.sampling.maker import Asked

#: What results with real images say of themselves.
PRIVATE = "measured on real images; not covered by the privacy guarantee"


def check(names: Iterable[str], asked: Asked, workdir: pathlib.Path) -> int:
    """Refuses images that a classifier cannot be trained on.

    Args:
        names: of classifiers.
        asked: the images.
        workdir: of the checkpoint, for messages.

    Returns:
        The number of classes.

    Raises:
        InputError: the images have no labels or are too small, or a name is unknown.
    """
    num_classes = asked.condition.num_classes
    if not num_classes:
        raise InputError(
            f"{workdir} makes images of {asked.condition}, which have no labels to "
            "train a classifier with; allowed: a model of labelled images."
        )
    for name in names:
        registry.build_classifier(name, asked.image_shape, num_classes)
    return num_classes


def real_test(config: ml_collections.ConfigDict, asked: Asked) -> ImageSet:
    """Reads the real test images that classifiers of a checkpoint's are tested on.

    Args:
        config: the whole config; reads ``data``.
        asked: the checkpoint's images.

    Raises:
        InputError: there are none, or they are of another kind.
    """
    source = data.load_source(config.data, "test")
    found = (source.spec["image"].shape, source.condition)
    if found != (asked.image_shape, asked.condition):
        raise InputError(
            f"The real test images are {found[0]} of {found[1]}, and the synthetic "
            f"ones {asked.image_shape} of {asked.condition}; allowed: the same of both."
        )
    return image_sets.from_source(source, "real test images")
