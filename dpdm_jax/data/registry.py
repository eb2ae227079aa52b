"""Image sources by name.

The modules are imported here, the libraries that they read with where they are used: no
source pays for another one's.
"""

import ml_collections

from dpdm_jax import validate
from dpdm_jax.data import camelyon17, digits, glyphs, idx, image_folder, npz, tfds
from dpdm_jax.data.sources import SPLITS, DataSettings, Source
from dpdm_jax.errors import InputError
from dpdm_jax.settings import Group, Kind, Room

_EVERY = Group("data", DataSettings)

#: A builder takes its own settings, those of every source, and "train" or "test".
ROOM = Room(
    "data.source",
    {
        "digits": Kind(digits.load),
        "tfds": Kind(tfds.load, (Group("data.tfds", tfds.Settings),)),
        "idx": Kind(idx.load),
        "image_folder": Kind(image_folder.load),
        "npz": Kind(npz.load),
        "glyphs": Kind(glyphs.load, (Group("data.glyphs", glyphs.Settings),)),
        "camelyon17": Kind(
            camelyon17.load, (Group("data.camelyon17", camelyon17.Settings),)
        ),
    },
    shared=(_EVERY,),
)


def load_source(config: ml_collections.ConfigDict, split: str) -> Source:
    """Loads the train or test split that a config describes.

    All sources crop, convert and resize as the config says.

    Args:
        config: ``config.data``.
        split: "train" or "test".

    Returns:
        The source.

    Raises:
        InputError: a field has a value that is not allowed, or the data is missing,
            damaged, or not what the config says.
    """
    validate.one_of("split", split, SPLITS)
    ROOM.kind(config)  # its name before the other settings
    settings = _EVERY.read(config)
    source = ROOM.build(config, settings, split)
    # The accountant trusts this number, so it must be that of the data.
    if split == "train" and settings.num_examples not in (0, len(source)):
        raise InputError(
            f"data.num_examples is {settings.num_examples} but the training data has "
            f"{len(source)} images; allowed: that number, or 0 to take it."
        )
    return source
