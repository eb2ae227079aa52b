"""The class that each prompt asks for, as the config states it or the data shows it."""

from collections.abc import Sequence

import ml_collections
import numpy as np

from dpdm_jax import data, validate
from dpdm_jax.data import captions
from dpdm_jax.errors import InputError

_NAMED = 3


def classes_of(
    config: ml_collections.ConfigDict, prompts: Sequence[str], num_classes: int
) -> tuple[int, ...]:
    """Returns the class of each prompt.

    Args:
        config: the whole config; reads ``evaluate.prompt_classes`` and, where they are
            not stated, the captions and labels of the training data.
        prompts: what images are asked for by.
        num_classes: of the data.

    Raises:
        InputError: there is not one class for each prompt, or it is out of range.
    """
    stated = tuple(config.evaluate.prompt_classes)
    if not stated:
        return _beside_captions(config, prompts)
    if len(stated) != len(prompts):
        raise InputError(
            f"evaluate.prompt_classes has {len(stated)} classes for {len(prompts)} "
            "prompts; allowed: one for each, or () to take those of equal captions."
        )
    for i, value in enumerate(stated):
        name = f"evaluate.prompt_classes[{i}]"
        validate.integer(name, value, minimum=0, maximum=num_classes - 1)
    return stated


def of_images(classes: Sequence[int], count: int) -> np.ndarray:
    """Returns int32 [count], the class of each image: prompts take turns."""
    return np.array(classes, np.int32)[np.arange(count) % len(classes)]


def _beside_captions(
    config: ml_collections.ConfigDict, prompts: Sequence[str]
) -> tuple[int, ...]:
    source = data.load_source(data.labelled(config.data), "train")
    if isinstance(source, data.MemorySource | data.StoredSource):
        labels = source.conditions  # without a look at the images
    else:
        labels = source.examples(np.arange(len(source)))["condition"]
    known = captions.by_label(data.load_captions(config.data, "train"), labels)
    unknown = [prompt for prompt in prompts if prompt not in known]
    if unknown:
        listed = ", ".join(repr(prompt[:40]) for prompt in unknown[:_NAMED])
        raise InputError(
            f"{len(unknown)} of {len(prompts)} prompts are no caption that stands "
            f"beside one label in the training data ({listed}); allowed: "
            "evaluate.prompt_classes with the class of each prompt, or metrics that "
            "read no labels."
        )
    return tuple(known[prompt] for prompt in prompts)
