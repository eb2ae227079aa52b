"""Measures a set of synthetic images against real ones, by any of the metrics.

Everything here reads real images outside the mechanism of differential privacy. If they
are private, so are the results; publishing one is a disclosure of its own.
"""

import dataclasses
import pathlib
from collections.abc import Collection
from typing import Any

import numpy as np

from dpdm_jax import progress, validate
from dpdm_jax.errors import InputError
from dpdm_jax.evaluation import (
    cache,
    downstream,
    features,
    fid,
    image_sets,
    inception_weights,
    kid,
    lenet_features,
    memorisation,
    neighbours,
    precision_recall,
    registry,
)
from dpdm_jax.evaluation.dp_sgd import DPSGD, dp_sgd_accuracy
from dpdm_jax.evaluation.image_sets import ImageSet
from dpdm_jax.evaluation.inception_weights import Weights
from dpdm_jax.evaluation.recipes import Recipe
from dpdm_jax.evaluation.reference_statistics import Statistics, statistics

#: Metrics on features of Inception; with the suffix, on those of the small CNN.
FEATURE_METRICS = ("fid", "kid", "precision", "recall", "density", "coverage")
LENET_SUFFIX = "_lenet"
MEMORISATION = "memorisation"

PRIVATE = "measured on the real images, outside any privacy budget"
CLOSEST_PIXELS = "PRIVATE_closest_pairs_pixels.png"
CLOSEST_FEATURES = "PRIVATE_closest_pairs_features.png"


@dataclasses.dataclass(frozen=True)
class Settings:
    """What results depend on besides the images.

    Attributes:
        inception_weights: file of the weights; None finds or downloads them.
        neighbour_images: images of each set, at most and drawn at random, that kid,
            precision, recall, density, coverage and memorisation look at. The training
            images of memorisation are always all of them.
        lenet_steps: training steps of the small CNN.
        classifier_seeds: trainings of each classifier.
        epochs: of each training; None for the classifier's own recipe.
        batch_size: likewise.
        learning_rate: likewise.
        dp_sgd: with it, classifiers are also trained privately on the real images.
        seed: of everything drawn at random; the classifiers' seeds start at it.
        cache_folder: where weights and reference statistics are kept; None keeps no
            statistics and looks for weights in the usual place.
    """

    inception_weights: str | None = None
    neighbour_images: int = 10_000
    lenet_steps: int = lenet_features.NUM_STEPS
    classifier_seeds: int = 3
    epochs: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    dp_sgd: DPSGD | None = None
    seed: int = 0
    cache_folder: pathlib.Path | None = dataclasses.field(
        default_factory=cache.default_folder
    )

    def check(self) -> None:
        """Raises InputError unless every number is in range."""
        smallest = precision_recall.MIN_IMAGES
        validate.integer("neighbour_images", self.neighbour_images, minimum=smallest)
        for name in ("lenet_steps", "classifier_seeds"):
            validate.integer(name, getattr(self, name), minimum=1)
        validate.integer("seed", self.seed, minimum=0)
        for name in registry.CLASSIFIERS:
            self.recipe(name)

    def recipe(self, classifier_name: str) -> Recipe:
        """Returns how a classifier is trained; InputError if a number is wrong."""
        return registry.recipe(
            classifier_name,
            epochs=self.epochs,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
        )

    def load_inception(self) -> Weights:
        """Reads or downloads Inception's weights; InputError if that is impossible."""
        folder = self.cache_folder or cache.default_folder()
        return inception_weights.load(self.inception_weights, folder)


def names() -> tuple[str, ...]:
    """Returns the names of all metrics."""
    lenet = tuple(name + LENET_SUFFIX for name in FEATURE_METRICS)
    return (*FEATURE_METRICS, *lenet, *registry.CLASSIFIERS, MEMORISATION)


def check_names(metrics: Collection[str]) -> None:
    """Raises InputError unless there are metrics, all of them known."""
    if not metrics:
        raise InputError(f"metrics is empty; allowed: {', '.join(names())}.")
    for name in metrics:
        validate.one_of("a metric", name, names())


def measure(
    metrics: Collection[str],
    real: ImageSet,
    synthetic: ImageSet,
    real_test: ImageSet | None = None,
    *,
    settings: Settings | None = None,
    pictures: pathlib.Path | None = None,
) -> dict[str, Any]:
    """Measures synthetic images.

    Args:
        metrics: some of ``names()``:

            - fid, kid, precision, recall, density, coverage: between the real and the
              synthetic images, on Inception's features.
            - the same with ``_lenet``: on those of a small CNN trained on the real
              images; never comparable with the former, or between data sets.
            - logreg, mlp, cnn, wrn: accuracy on ``real_test`` of a classifier trained
              on the synthetic images, mean over seeds.
            - memorisation: how probably a synthetic image is nearer to its nearest
              image in ``real`` than a fresh one of ``real_test`` is; 0.5 is ideal.
        real: real images, those that the generator was trained on.
        synthetic: the images to judge.
        real_test: real images that it was not trained on; None tests classifiers on
            ``real``. Memorisation needs them.
        settings: None for the defaults.
        pictures: folder for the picture that memorisation draws; None draws none.

    Returns:
        As JSON has values: under each metric's name its number, and beside it

        - NAME_floor for fid and fid_lenet: the distance between two disjoint random
          parts of the real images, halves, or the one part as large as the synthetic
          set if that is smaller: what perfect images could score.
        - NAME_std for kid (over subsets) and classifiers (over seeds; null for one).
        - NAME_real for classifiers: the same classifier trained on ``real``, if there
          is ``real_test``; NAME_dp_sgd: trained on it by DP-SGD, if ``settings`` say
          so. Both with _std.
        - counts, image_shape, settings, caveats, details, private.

    Raises:
        InputError: a name is unknown, or the sets lack what a metric needs.
    """
    settings = settings or Settings()
    settings.check()
    _check(metrics, real, synthetic, real_test, settings)
    counts = {"num_real": len(real), "num_synthetic": len(synthetic)}
    if real_test is not None:
        counts["num_real_test"] = len(real_test)
    job = _Job(real, synthetic, real_test, settings, pictures)
    on_inception = [name for name in FEATURE_METRICS if name in metrics]
    on_lenet = [name for name in FEATURE_METRICS if name + LENET_SUFFIX in metrics]
    # Memorisation takes the better features of those that are computed anyway.
    with_memorisation = MEMORISATION in metrics
    if on_inception:
        job.measure_features(
            job.inception(), on_inception, "", with_memorisation=with_memorisation
        )
    if on_lenet or (with_memorisation and not on_inception):
        job.measure_features(
            job.lenet(),
            on_lenet,
            LENET_SUFFIX,
            with_memorisation=with_memorisation and not on_inception,
        )
    for name in registry.CLASSIFIERS:
        if name in metrics:
            job.measure_classifier(name)
    return (
        job.numbers
        | counts
        | {
            "image_shape": list(real.images.shape[1:]),
            "real": real.name,
            "synthetic": synthetic.name,
            "real_test": real_test.name if real_test is not None else None,
            "settings": {"seed": settings.seed} | job.settings,
            "details": job.details,
            "caveats": job.caveats,
            "private": PRIVATE,
        }
    )


def describe(results: dict[str, Any]) -> str:
    """Says in a few lines what ``measure`` found."""
    lines = [
        f"{results['synthetic']} ({results['num_synthetic']} images) against "
        f"{results['real']} ({results['num_real']} images):"
    ]
    for name in (name for name in names() if name in results):
        line = f"  {name:<18} {_with_spread(results, name)}"
        if f"{name}_floor" in results:
            line += f" (real against real: {results[f'{name}_floor']:.6g})"
        lines.append(line)
        for suffix, how in (("real", "as they are"), ("dp_sgd", "by DP-SGD")):
            if f"{name}_{suffix}" in results:
                line = f"    trained on real images {how}: "
                lines.append(line + _with_spread(results, f"{name}_{suffix}"))
    lines += [f"  note: {caveat}." for caveat in results["caveats"]]
    lines.append(f"  {results['private']}.")
    return "\n".join(lines)


def _with_spread(results: dict[str, Any], name: str) -> str:
    spread = results.get(f"{name}_std")
    return f"{results[name]:.6g}" + ("" if spread is None else f" +- {spread:.2g}")


class _Job:
    """One call of ``measure``: its sets and settings, and what it has found so far."""

    def __init__(
        self,
        real: ImageSet,
        synthetic: ImageSet,
        real_test: ImageSet | None,
        settings: Settings,
        pictures: pathlib.Path | None,
    ):
        self._real = real
        self._synthetic = synthetic
        self._real_test = real_test
        self._settings = settings
        self._pictures = pictures
        self.numbers: dict[str, float | None] = {}
        self.settings: dict[str, Any] = {}
        self.details: dict[str, Any] = {}
        self.caveats: list[str] = []

    def inception(self) -> features.Extractor:
        weights = self._settings.load_inception()
        if not weights.published:
            self.caveats.append(
                "the Inception weights are not the published ones, so that no figure "
                "on them compares with any FID or KID elsewhere"
            )
        return features.InceptionFeatures(weights)

    def lenet(self) -> features.Extractor:
        self.caveats.append(
            "figures on the small network (names that end in _lenet) are no FID, and "
            "compare only with the same measured against these real images"
        )
        return lenet_features.train(
            self._real.images,
            self._real.labels,
            self._real.num_classes,
            num_steps=self._settings.lenet_steps,
            seed=self._settings.seed,
            cache_folder=self._settings.cache_folder,
        )

    def measure_features(
        self,
        extractor: features.Extractor,
        metrics: list[str],
        suffix: str,
        *,
        with_memorisation: bool,
    ) -> None:
        """Computes features once, and from them all metrics asked for."""
        self.settings[extractor.name] = extractor.settings
        on_neighbours = set(metrics) & set(precision_recall.PrecisionRecall._fields)
        on_kept = bool(on_neighbours) or "kid" in metrics or with_memorisation
        limit = self._settings.neighbour_images if on_kept else 0

        def summary(
            images: ImageSet, what: str, first: int, keep: int, *, cached: bool
        ) -> Statistics:
            return statistics(
                extractor,
                images.images,
                first=first,
                keep=min(len(images), keep),
                seed=self._settings.seed,
                what=what,
                cache_folder=self._settings.cache_folder if cached else None,
            )

        size = len(self._real)
        real = summary(
            self._real,
            "real",
            min(len(self._synthetic), size // 2),
            size if with_memorisation else limit,
            cached=True,
        )
        synthetic = summary(self._synthetic, "synthetic", 0, limit, cached=False)
        real_kept = real.kept[:limit]
        if "fid" in metrics:
            self._add_fid("fid" + suffix, real, synthetic)
        if "kid" in metrics:
            distance = kid.kernel_distance(
                real_kept, synthetic.kept, seed=self._settings.seed
            )
            name = "kid" + suffix
            self.numbers |= {name: distance.mean, f"{name}_std": distance.std}
            self.settings[name] = {
                "subsets": kid.NUM_SUBSETS,
                "subset_size": distance.subset_size,
            }
        if on_neighbours:
            found = precision_recall.precision_recall(real_kept, synthetic.kept)
            for name, value in found._asdict().items():
                if name in on_neighbours:
                    self.numbers[name + suffix] = value
            self.settings["neighbours"] = {
                "precision and recall": precision_recall.PRECISION_RECALL_K,
                "density and coverage": precision_recall.DENSITY_COVERAGE_K,
            }
        if on_kept and max(size, len(self._synthetic)) > limit:
            self.caveats.append(
                f"all metrics on {extractor.name}'s features but fid look at {limit} "
                "images of each set at most, drawn at random"
            )
        if with_memorisation:
            assert self._real_test is not None  # see ``_check``
            held_out = summary(self._real_test, "real test", 0, limit, cached=True)
            fresh = self._real_test.images[held_out.order[: len(held_out.kept)]]
            self._add_memorisation(extractor, real, synthetic, held_out, fresh)

    def measure_classifier(self, name: str) -> None:
        """Trains a classifier on synthetic images, and on real ones to compare with."""
        settings = self._settings
        test = self._real_test or self._real
        trained_on = {"": self._synthetic}
        if self._real_test is not None:
            trained_on["_real"] = self._real
        elif not any("classifiers" in caveat for caveat in self.caveats):
            self.caveats.append(
                f"classifiers are tested on {self._real.name}, which the generator may "
                "have been trained on, and there is no real_test to compare with "
                "training on real images"
            )
        seeds = range(settings.seed, settings.seed + settings.classifier_seeds)
        private, recipe = settings.dp_sgd, settings.recipe(name)
        epochs = len(trained_on) * recipe.epochs
        epochs += private.epochs if private is not None else 0
        labelled_test = test.labelled()
        classes = self._real.num_classes
        with progress.progress_bar(name, len(seeds) * epochs) as bar:
            for suffix, labelled in trained_on.items():
                train, selection = downstream.set_apart(_shuffled(labelled, settings))
                result = downstream.downstream_accuracy(
                    name,
                    train,
                    selection,
                    labelled_test,
                    classes,
                    seeds=seeds,
                    recipe=recipe,
                    on_epoch=lambda *_: bar.update(1),
                )
                self._add_accuracy(name + suffix, result)
            if private is not None:
                result = dp_sgd_accuracy(
                    name,
                    self._real.labelled(),
                    labelled_test,
                    classes,
                    private,
                    seeds=seeds,
                    on_epoch=lambda *_: bar.update(1),
                )
                self._add_accuracy(f"{name}_dp_sgd", result)

    def _add_accuracy(self, name: str, result: downstream.DownstreamResult) -> None:
        self.numbers |= {name: result.mean, f"{name}_std": result.std}
        self.details[name] = result.to_dict()

    def _add_fid(self, name: str, real: Statistics, synthetic: Statistics) -> None:
        self.numbers[name] = fid.frechet_distance(real.moments, synthetic.moments)
        self.numbers[f"{name}_floor"] = fid.frechet_distance(real.first, real.rest)
        parts = [real.first.count, real.rest.count]
        self.settings[f"{name}_floor"] = {"images": parts}
        num_features = len(real.first.mean)
        fewest = min(real.moments.count, synthetic.moments.count)
        if fewest <= num_features:
            self.caveats.append(
                f"{name} is from {fewest} images, no more than its {num_features} "
                f"features, and far too high for that: compare it with {name}_floor, "
                "and at equal numbers of images only"
            )

    def _add_memorisation(
        self,
        extractor: features.Extractor,
        real: Statistics,
        synthetic: Statistics,
        held_out: Statistics,
        fresh: np.ndarray,
    ) -> None:
        training = self._real.images
        samples = self._synthetic.images[synthetic.order[: len(synthetic.kept)]]
        in_features = neighbours.nearest(synthetic.kept, real.kept)
        # Features come in a random order.
        in_features = in_features._replace(indices=real.order[in_features.indices])
        spaces = {
            "features": (
                in_features,
                neighbours.nearest(held_out.kept, real.kept),
                CLOSEST_FEATURES,
            ),
            "pixels": (
                neighbours.nearest(_flat(samples), _flat(training)),
                neighbours.nearest(_flat(fresh), _flat(training)),
                CLOSEST_PIXELS,
            ),
        }
        details: dict[str, Any] = {"features_of": extractor.name}
        for space, (ours, theirs, picture) in spaces.items():
            details[space] = memorisation.copying(
                ours.distances, theirs.distances
            ).to_dict()
            if self._pictures is not None:
                path = self._pictures / picture
                memorisation.write_closest_pairs(path, samples, training, ours)
        self.numbers[MEMORISATION] = details["features"]["auc"]
        self.details[MEMORISATION] = details


def _check(
    metrics: Collection[str],
    real: ImageSet,
    synthetic: ImageSet,
    real_test: ImageSet | None,
    settings: Settings,
) -> None:
    """Refuses what can't be measured, before hours go into measuring the rest."""
    check_names(metrics)
    sets = [real, synthetic] + ([real_test] if real_test is not None else [])
    for other in sets[1:]:
        image_sets.check_comparable(real, other)
    if any(name.removesuffix(LENET_SUFFIX) in FEATURE_METRICS for name in metrics):
        for each in sets[:2]:
            if len(each) < precision_recall.MIN_IMAGES:
                raise InputError(
                    f"{each.name} has {len(each)} images; allowed: at least "
                    f"{precision_recall.MIN_IMAGES}."
                )
    for name in metrics:
        if name in registry.CLASSIFIERS:
            image_sets.check_labels(real, synthetic, name)
            if real_test is not None:
                image_sets.check_labels(real, real_test, name)
            shape = real.images.shape[1:]
            registry.build_classifier(name, shape, real.num_classes)
    if settings.dp_sgd is not None and real_test is None:
        raise InputError(
            "dp_sgd is asked for without real_test; allowed: with real images that the "
            "classifiers are not trained on."
        )
    if MEMORISATION in metrics and real_test is None:
        raise InputError(
            "memorisation is asked for without real_test; allowed: with real images "
            "that the generator was not trained on, to compare with."
        )


def _shuffled(labelled: ImageSet, settings: Settings) -> downstream.LabelledImages:
    """Puts images in one random order: files often come sorted by class."""
    order = np.random.default_rng(settings.seed).permutation(len(labelled))
    images, labels = labelled.labelled()
    return images[order], labels[order]


def _flat(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1)
