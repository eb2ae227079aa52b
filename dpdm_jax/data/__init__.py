"""Images and what they show: sources, transforms, and padded batches.

Importing this package pulls in neither TensorFlow nor scikit-learn; a source's library
is imported when that source is loaded.
"""

from dpdm_jax.data.binding import bind
from dpdm_jax.data.groups import Groups
from dpdm_jax.data.loading import Batch, load_batch
from dpdm_jax.data.registry import (
    check_group,
    labelled,
    load_captions,
    load_groups,
    load_source,
    loaded_once,
    stated_condition,
    tokenizer,
)
from dpdm_jax.data.sources import (
    ArraySource,
    Example,
    MemorySource,
    Source,
    image_spec,
)
from dpdm_jax.data.stored_images import StoredSource
from dpdm_jax.data.transforms import (
    CROPS,
    RESIZE_FILTERS,
    Preparation,
    center_crop_celeba,
    center_crop_square,
    resize,
    set_channels,
)

__all__ = [
    "CROPS",
    "RESIZE_FILTERS",
    "ArraySource",
    "Batch",
    "Example",
    "Groups",
    "MemorySource",
    "Preparation",
    "Source",
    "StoredSource",
    "bind",
    "center_crop_celeba",
    "center_crop_square",
    "check_group",
    "image_spec",
    "labelled",
    "load_batch",
    "load_captions",
    "load_groups",
    "load_source",
    "loaded_once",
    "resize",
    "set_channels",
    "stated_condition",
    "tokenizer",
]
