"""Image sources by name.

The modules are imported here, the libraries that they read with where they are used: no
source pays for another one's.
"""

import collections
import contextlib
import contextvars
import dataclasses
from collections.abc import Callable, Iterator, Mapping

import ml_collections

from dpdm_jax import validate
from dpdm_jax.conditions import Condition, of_classes
from dpdm_jax.conditions.tokenizers import Tokenizer
from dpdm_jax.data import (
    camelyon17,
    captions,
    digits,
    glyphs,
    huggingface,
    idx,
    image_folder,
    image_zip,
    npz,
    parquet,
    tfds,
    webdataset,
)
from dpdm_jax.data.captions import Captions
from dpdm_jax.data.columns import Column
from dpdm_jax.data.groups import Groups, complete_groups
from dpdm_jax.data.sources import SPLITS, DataSettings, MemorySource, Source
from dpdm_jax.data.stored_images import StoredSource
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
        "image_folder": Kind(
            image_folder.load, (Group("data.image_folder", image_folder.Settings),)
        ),
        "image_zip": Kind(image_zip.load),
        "npz": Kind(npz.load),
        "glyphs": Kind(glyphs.load, (Group("data.glyphs", glyphs.Settings),)),
        "camelyon17": Kind(
            camelyon17.load, (Group("data.camelyon17", camelyon17.Settings),)
        ),
        "parquet": Kind(parquet.load, (Group("data.parquet", parquet.Settings),)),
        "huggingface": Kind(
            huggingface.load, (Group("data.huggingface", huggingface.Settings),)
        ),
        "webdataset": Kind(
            webdataset.load, (Group("data.webdataset", webdataset.Settings),)
        ),
    },
    shared=(_EVERY,),
)

#: Of an example, what it is asked for by. A builder takes its own settings, and returns
#: what reads captions; None leaves the labels that a source has.
CONDITIONS = Room(
    "data.condition",
    {
        "labels": Kind(lambda: None),
        "captions": Kind(captions.build, (Group("data.captions", captions.Settings),)),
    },
)

#: The sources that can leave images in their files; the first two always do.
ON_DEMAND = (
    *("camelyon17", "tfds"),
    *("huggingface", "image_folder", "image_zip", "webdataset"),
)

#: Reads a column of a data set, by ``config.data``, its name and "train" or "test".
ReadColumn = Callable[[DataSettings, str, str], Column]


def _captions_of(read: ReadColumn) -> Kind:
    return Kind(lambda *which: captions.complete(*read(*which)))


#: The sources that have captions. What reads those of its examples, in their order,
#: takes its own settings, those of every source, the column of a table, and "train" or
#: "test".
CAPTIONED = Room(
    "data.source",
    {
        "digits": Kind(digits.captions),
        "glyphs": Kind(glyphs.captions, (Group("data.glyphs", glyphs.Settings),)),
        "huggingface": _captions_of(huggingface.column),
        "image_folder": _captions_of(image_folder.column),
        "npz": _captions_of(npz.captions),
        "parquet": _captions_of(parquet.column),
        "webdataset": _captions_of(webdataset.column),
    },
)

#: The sources that can say whose an image is, by a column.
GROUPED: Mapping[str, ReadColumn] = {
    "camelyon17": camelyon17.column,
    "huggingface": huggingface.column,
    "image_folder": image_folder.column,
    "npz": npz.column,
    "parquet": parquet.column,
    "webdataset": webdataset.column,
}


@dataclasses.dataclass(frozen=True)
class _Loaded:
    """Sources that are kept, and how often each is wanted."""

    uses: int | None
    sources: dict[tuple[ml_collections.FrozenConfigDict, str], Source] = (
        dataclasses.field(default_factory=dict)
    )
    counts: collections.Counter[object] = dataclasses.field(
        default_factory=collections.Counter
    )


_loaded: contextvars.ContextVar[_Loaded | None] = contextvars.ContextVar(
    "loaded", default=None
)


@contextlib.contextmanager
def loaded_once(uses: int | None = None) -> Iterator[None]:
    """Has ``load_source`` read each split of each config once, and keep it.

    What a command checks before it trains, trains on and evaluates against is then
    decoded once. One within another keeps for itself.

    Args:
        uses: how often each is asked for; it is let go then. None keeps all.
    """
    before = _loaded.set(_Loaded(uses))
    try:
        yield
    finally:
        _loaded.reset(before)


def load_source(config: ml_collections.ConfigDict, split: str) -> Source:
    """Loads the train or test split that a config describes.

    All sources crop, convert and resize as the config says. Within ``loaded_once``
    what has been loaded is returned again.

    Args:
        config: ``config.data``.
        split: "train" or "test".

    Returns:
        The source.

    Raises:
        InputError: a field has a value that is not allowed, or the data is missing,
            damaged, or not what the config says.
    """
    kept = _loaded.get()
    if kept is None:
        return _load(config, split)
    key = (ml_collections.FrozenConfigDict(config), split)
    if key not in kept.sources:
        kept.sources[key] = _load(config, split)
    kept.counts[key] += 1
    if kept.counts[key] == kept.uses:
        return kept.sources.pop(key)
    return kept.sources[key]


def _load(config: ml_collections.ConfigDict, split: str) -> Source:
    settings = _settings(config, split)
    made: Captions | None = CONDITIONS.build(config)
    if made is None:
        source = ROOM.build(config, settings, split)
    else:
        # First, for images take longer.
        texts = _texts(config, settings, split, made)
        unlabelled = dataclasses.replace(settings, num_classes=0)
        source = made.of(ROOM.build(config, unlabelled, split), texts)
    if split == "train":
        _check_first_label(source)
    if split == "train" and not settings.group:
        _check_number(settings, len(source), "images")
    return source


def load_groups(config: ml_collections.ConfigDict, source: Source) -> Groups | None:
    """Reads whose the training images are.

    Args:
        config: ``config.data``.
        source: of them.

    Returns:
        None where each image is a unit of privacy by itself.

    Raises:
        InputError: as ``load_source``; the source has no groups, there is no such
            column, or an image has no value in it.
    """
    settings = _settings(config, "train")
    if not settings.group:
        return None
    check_group(config)
    column = GROUPED[config.source](settings, settings.group, "train")
    values = complete_groups(column.values, column.names, settings.group, column.where)
    if len(values) != len(source):
        raise InputError(
            f"data.group is {settings.group!r}, which has {len(values)} values for "
            f"{len(source)} images; allowed: one for each."
        )
    groups = Groups.of(values)
    _check_number(settings, len(groups), f"groups by {settings.group}")
    return groups


def check_group(config: ml_collections.ConfigDict) -> None:
    """Refuses groups of a source that cannot say whose an image is.

    Args:
        config: ``config.data``.

    Raises:
        InputError: it cannot.
    """
    if config.group and config.source not in GROUPED:
        raise InputError(
            f"data.group is {config.group!r} and data.source is {config.source!r}, "
            f"which has no groups; allowed: {', '.join(GROUPED)}."
        )


def _check_number(settings: DataSettings, number: int, units: str) -> None:
    # The accountant trusts this number, so it must be that of the data.
    if settings.num_examples not in (0, number):
        raise InputError(
            f"data.num_examples is {settings.num_examples} but the training data has "
            f"{number} {units}; allowed: that number, or 0 to take it."
        )


def _check_first_label(source: Source) -> None:
    """Refuses labels that were counted from 1, where the highest tells the classes."""
    if not isinstance(source, MemorySource | StoredSource) or not source.is_counted:
        return
    found = source.condition.num_classes
    if not found:
        return
    first, last = int(source.conditions.min()), int(source.conditions.max())
    if first > 0 and last == found - 1:
        raise InputError(
            f"the labels of the training data go from {first} to {last}; allowed: from "
            f"0, or data.num_classes={found} where the classes before do not occur."
        )


def load_captions(config: ml_collections.ConfigDict, split: str) -> list[str]:
    """Reads the captions of ``load_source``'s examples, in their order.

    Args:
        config: ``config.data``, of captions.
        split: "train" or "test".

    Raises:
        InputError: as ``load_source``.
    """
    settings = _settings(config, split)
    return _texts(config, settings, split, CONDITIONS.build(config))


def labelled(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """Returns the config of the same data whose examples have their labels.

    Args:
        config: ``config.data``.
    """
    config = config.copy_and_resolve_references()
    config.condition = "labels"
    return config


def tokenizer(config: ml_collections.ConfigDict) -> Tokenizer | None:
    """Returns what makes tokens of captions; None where there are none.

    Args:
        config: ``config.data``.

    Raises:
        InputError: see ``tokenizers.build``.
    """
    made: Captions | None = CONDITIONS.build(config)
    return None if made is None else made.tokenizer


def stated_condition(config: ml_collections.ConfigDict) -> Condition | None:
    """Returns the condition that a config states by itself, without its data.

    Args:
        config: ``config.data``.

    Returns:
        The condition of its examples; None where the data has to say it.

    Raises:
        InputError: a setting is not allowed.
    """
    made: Captions | None = CONDITIONS.build(config)
    if made is not None:
        return made.condition
    num_classes = _EVERY.read(config).num_classes
    return None if num_classes < 0 else of_classes(num_classes)


def _settings(config: ml_collections.ConfigDict, split: str) -> DataSettings:
    validate.one_of("split", split, SPLITS)
    ROOM.kind(config)  # its name before the other settings
    settings: DataSettings = _EVERY.read(config)
    if settings.on_demand and config.source not in ON_DEMAND:
        raise InputError(
            f"data.on_demand is True and data.source is {config.source!r}, which is "
            f"read into memory; allowed: {', '.join(ON_DEMAND)}."
        )
    return settings


def _texts(
    config: ml_collections.ConfigDict,
    settings: DataSettings,
    split: str,
    made: Captions,
) -> list[str]:
    if config.source not in CAPTIONED.kinds:
        raise InputError(
            f"data.condition is 'captions' and data.source is {config.source!r}, which "
            f"has none; allowed: {', '.join(CAPTIONED.kinds)}."
        )
    texts: list[str] = CAPTIONED.build(config, settings, made.settings.column, split)
    return texts
