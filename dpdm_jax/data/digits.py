"""scikit-learn's handwritten digits: 1,797 real images of 8x8 pixels, embedded.

Test set of the UCI "Optical Recognition of Handwritten Digits" data (Alpaydin and
Kaynak, 1998), shipped with scikit-learn, so that it needs neither network nor path.
Captions are this module's own.
"""

from typing import Any

import numpy as np

from dpdm_jax import validate
from dpdm_jax.data import digit_captions
from dpdm_jax.data.sources import (
    ArraySource,
    DataSettings,
    MemorySource,
    resolve_num_classes,
    split_name,
)
from dpdm_jax.data.transforms import Preparation

NUM_TRAIN = 1437
NUM_TEST = 360
SPLIT_SEED = 1797
_NUM_CLASSES = 10
_MAX_INK = 16


def load(config: DataSettings, split: str) -> MemorySource:
    """Loads the digits as uint8 [N, 8, 8, 1] with labels 0 to 9.

    A stored value v in 0..16 becomes floor((255 v + 8) / 16), which is 255 v / 16
    rounded half up. The images come in the order of one permutation that never changes,
    ``np.random.RandomState(1797).permutation(1797)``: the first 1,437 are the training
    split, the other 360 the test split.

    Args:
        config: reads num_classes, train_split, test_split and what
            ``Preparation`` does.
        split: "train" or "test".

    Returns:
        The source.

    Raises:
        InputError: fewer than 10 classes are asked for, or another split.
    """
    chosen = _chosen(config, split)
    num_classes = resolve_num_classes(
        config.num_classes, _NUM_CLASSES, "scikit-learn's digits"
    )
    data = _load_digits()
    ink = data.images.astype(np.int32)
    images = ((255 * ink + _MAX_INK // 2) // _MAX_INK).astype(np.uint8)[..., None]
    source = ArraySource(
        images[chosen], data.target[chosen], num_classes, name="scikit-learn's digits"
    )
    return source.prepared(Preparation.from_config(config))


def captions(config: DataSettings, column: str, split: str) -> list[str]:
    """Returns a caption for each of ``load``'s images, such as "the digit three".

    Each is one of ``digit_captions.WORDINGS``, drawn at random once and for all.

    Args:
        config: see ``load``.
        column: of a table, which there is none of.
        split: "train" or "test".

    Raises:
        InputError: another split is asked for.
    """
    del column
    chosen = _chosen(config, split)
    wordings = digit_captions.drawn(NUM_TRAIN + NUM_TEST, SPLIT_SEED + 1)[chosen]
    return digit_captions.written(wordings, _load_digits().target[chosen])


def _chosen(config: DataSettings, split: str) -> np.ndarray:
    """Returns the images of a split, in order, by their number in scikit-learn."""
    name = split_name(config, split)
    validate.one_of(f"data.{split}_split", name, ("train", "test"))
    # RandomState is frozen by NumPy, unlike Generator: the split outlives versions.
    order = np.random.RandomState(SPLIT_SEED).permutation(NUM_TRAIN + NUM_TEST)
    return order[:NUM_TRAIN] if name == "train" else order[NUM_TRAIN:]


def _load_digits() -> Any:
    # scikit-learn takes a second to import.
    from sklearn.datasets import load_digits

    return load_digits()
