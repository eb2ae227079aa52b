"""Measures on features of a network: each registered metric, and memorisation."""

import dataclasses
import pathlib
from collections.abc import Callable, Collection, Iterator, Mapping

import numpy as np

from dpdm_jax.errors import InputError
from dpdm_jax.evaluation import (
    features,
    given_features,
    lenet_features,
    memorisation,
    precision_recall,
    reference_statistics,
    registry,
)
from dpdm_jax.evaluation.features import Extractor
from dpdm_jax.evaluation.image_sets import ImageSet, Sets
from dpdm_jax.evaluation.measured import Measured, merged
from dpdm_jax.evaluation.reference_statistics import Statistics
from dpdm_jax.evaluation.settings import Settings

GIVEN_SUFFIX, LENET_SUFFIX = "_features", "_lenet"
# Of the figures that have a share for each class, those that are shares themselves.
_BY_CLASS = ("precision", "recall", "coverage")


def _inception(real: ImageSet, settings: Settings) -> Extractor:
    del real
    return features.InceptionFeatures(settings.load_inception())


def _lenet(real: ImageSet, settings: Settings) -> Extractor:
    return lenet_features.train(
        real.images,
        real.labels,
        real.num_classes,
        num_steps=settings.lenet_steps,
        seed=settings.seed,
        cache_folder=settings.cache_folder,
    )


def _given(real: ImageSet, settings: Settings) -> Extractor:
    assert settings.features is not None  # see ``check``
    return given_features.load(settings.features, real.images)


#: Networks, the better features first, by what the names of metrics on them end in.
EXTRACTORS: Mapping[str, Callable[[ImageSet, Settings], Extractor]] = {
    "": _inception,
    GIVEN_SUFFIX: _given,
    LENET_SUFFIX: _lenet,
}


def names() -> tuple[str, ...]:
    """Returns the names of all metrics on features."""
    return tuple(
        name + suffix for suffix in EXTRACTORS for name in registry.FEATURE_METRICS
    )


def distances() -> tuple[str, ...]:
    """Returns the names of those that compare whole sets, whatever their classes."""
    return tuple(
        name + suffix
        for suffix in EXTRACTORS
        for name, metric in registry.FEATURE_METRICS.items()
        if not isinstance(metric, precision_recall.Covering)
    )


def check(metrics: Collection[str], sets: Sets, settings: Settings) -> None:
    """Refuses metrics on features for which something is missing.

    Raises:
        InputError: images are too few or too small, or no features are given.
    """
    if set(metrics).isdisjoint(names()):
        return
    check_given(metrics, settings, sets.real.images.shape[1:])
    for each in (sets.real, sets.synthetic):
        if len(each) < registry.min_images():
            raise InputError(
                f"{each.name} has {len(each)} images; allowed: at least "
                f"{registry.min_images()}."
            )
    if any(name.endswith(LENET_SUFFIX) for name in metrics):
        lenet_features.check(sets.real.images.shape[1:], sets.real.labels is not None)


def check_given(
    metrics: Collection[str], settings: Settings, image_shape: tuple[int, ...]
) -> None:
    """Refuses metrics on given features where these are missing, or of something else.

    Args:
        metrics: names.
        settings: what was given.
        image_shape: (h, w, c).

    Raises:
        InputError: see ``given_features.load``.
    """
    asked = [name for name in metrics if name.endswith(GIVEN_SUFFIX)]
    if not asked:
        return
    if settings.features is None:
        raise InputError(
            f"{asked[0]} is asked for, and no features are given; allowed: "
            "--features=FILE, or config.evaluate.features."
        )
    given_features.load(settings.features, np.zeros((1, *image_shape), np.uint8))


def measure(
    metrics: Collection[str],
    sets: Sets,
    settings: Settings,
    pictures: pathlib.Path | None,
) -> Measured:
    """Measures what of the metrics is on features, memorisation included.

    Args:
        metrics: names.
        sets: which ``check`` and ``memorisation.check`` let pass.
        settings: of networks, and of what is kept and drawn.
        pictures: see ``memorisation.measure``.

    Returns:
        What the metrics found.

    Raises:
        InputError: there are no weights, or images are too small for the network.
    """
    suffixes = [
        suffix
        for suffix in EXTRACTORS
        if any(name + suffix in metrics for name in registry.FEATURE_METRICS)
    ]
    with_memorisation = memorisation.NAME in metrics
    if with_memorisation and not suffixes:
        suffixes = [LENET_SUFFIX]
    # Memorisation takes the better features of those that are computed anyway.
    return merged(
        part
        for suffix in suffixes
        for part in _on_one_network(
            suffix,
            metrics,
            sets,
            settings,
            pictures,
            with_memorisation=with_memorisation and suffix == suffixes[0],
        )
    )


def _on_one_network(
    suffix: str,
    metrics: Collection[str],
    sets: Sets,
    settings: Settings,
    pictures: pathlib.Path | None,
    *,
    with_memorisation: bool,
) -> Iterator[Measured]:
    """Computes features once, and from them all metrics asked for."""
    extractor = EXTRACTORS[suffix](sets.real, settings)
    yield Measured(
        settings={extractor.name: extractor.settings}, caveats=extractor.caveats
    )
    registered = registry.FEATURE_METRICS
    chosen = dict.fromkeys(
        metric for name, metric in registered.items() if name + suffix in metrics
    )
    on_kept = with_memorisation or any(metric.on_kept for metric in chosen)
    limit = settings.neighbour_images if on_kept else 0

    def summary(
        images: ImageSet, what: str, first: int, keep: int, *, cached: bool
    ) -> Statistics:
        return reference_statistics.statistics(
            extractor,
            images.images,
            first=first,
            keep=min(len(images), keep),
            seed=settings.seed,
            what=what,
            # What is not known to be the same next time is not kept for it.
            cache_folder=(
                settings.cache_folder if cached and extractor.fingerprint else None
            ),
        )

    size = len(sets.real)
    real = summary(
        sets.real,
        "real",
        min(len(sets.synthetic), size // 2),
        size if with_memorisation else limit,
        cached=True,
    )
    synthetic = summary(sets.synthetic, "synthetic", 0, limit, cached=False)
    for metric in chosen:
        found = metric.measure(
            real._replace(kept=real.kept[:limit]),
            synthetic,
            suffix=suffix,
            seed=settings.seed,
        )
        asked = {
            name: value for name, value in found.numbers.items() if name in metrics
        }
        yield dataclasses.replace(found, numbers=asked)
    by_class = {f"{name}{suffix}" for name in _BY_CLASS} & set(metrics)
    if by_class and sets.real.labels is not None and sets.synthetic.labels is not None:
        kept = real.kept[:limit]
        shares = precision_recall.of_each_class(
            kept,
            sets.real.labels[real.order[: len(kept)]],
            synthetic.kept,
            sets.synthetic.labels[synthetic.order[: len(synthetic.kept)]],
        )
        yield Measured(
            details={
                f"{name}{suffix}": {"of_each_class": of_class}
                for name, of_class in shares.items()
                if f"{name}{suffix}" in by_class
            }
        )
    if on_kept and max(size, len(sets.synthetic)) > limit:
        others = [name for name, metric in registered.items() if not metric.on_kept]
        yield Measured(
            caveats=(
                f"all metrics on {extractor.name}'s features but {', '.join(others)} "
                f"look at {limit} images of each set at most, drawn at random",
            )
        )
    if with_memorisation:
        assert sets.real_test is not None  # see ``memorisation.check``
        held_out = summary(sets.real_test, "real test", 0, limit, cached=True)
        yield memorisation.measure(
            extractor.name, sets, real, synthetic, held_out, pictures
        )
