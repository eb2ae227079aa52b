"""What each metric means, for people who have not met it."""

import dataclasses

from dpdm_jax.evaluation import registry
from dpdm_jax.evaluation.metrics import LENET_SUFFIX, MEMORISATION

_LOWER = "lower is better"
_HIGHER = "higher is better"


@dataclasses.dataclass(frozen=True)
class Explanation:
    """What a page says of a metric.

    Attributes:
        group: the heading that it stands under, a key of ``GROUPS``.
        title: its name for people.
        better: which way is better.
        meaning: one sentence; empty where the group's says it all.
        percent: whether it is shown in percent.
    """

    group: str
    title: str
    better: str
    meaning: str = ""
    percent: bool = False


_INCEPTION = "On Inception's features"
_SMALL_NETWORK = "On a small network's features"
_USEFULNESS = "Usefulness"
_COPYING = "Copying"

#: What to say of each group of metrics.
GROUPS = {
    _INCEPTION: "Do the images look alike to the network that FID is defined on?",
    _SMALL_NETWORK: "Do the images look alike to a small network that was trained on "
    "the real ones? No FID or KID, and comparable only with itself.",
    _USEFULNESS: "Accuracy on real test images of classifiers that were trained on the "
    "synthetic images alone; mean and standard deviation over the trainings.",
    _COPYING: "Are the synthetic images the training images?",
}

_ON_FEATURES: dict[str, tuple[str, str, str]] = {
    "fid": (
        "FID",
        _LOWER,
        "Distance between real and synthetic images as two clouds of features; the "
        "floor is what real images score against real ones.",
    ),
    "kid": (
        "KID",
        _LOWER,
        "Distance between small random subsets, so that the number of images matters "
        "less; about 0 for perfect images.",
    ),
    "precision": (
        "Precision",
        _HIGHER,
        "Part of the synthetic images that lie among the real ones: do they look real?",
    ),
    "recall": (
        "Recall",
        _HIGHER,
        "Part of the real images that lie among the synthetic ones: is their variety "
        "there?",
    ),
    "density": (
        "Density",
        _HIGHER,
        "How thickly real images surround the synthetic ones; about 1 for perfect "
        "images.",
    ),
    "coverage": (
        "Coverage",
        _HIGHER,
        "Part of the real images that have a synthetic image close by.",
    ),
}
# Not to be taken for figures that other people publish.
_SMALL_NETWORK_TITLES = {"fid": "Frechet distance", "kid": "Kernel distance"}
_CLASSIFIER_TITLES = {
    "logreg": "Logistic regression",
    "mlp": "Multi-layer perceptron",
    "cnn": "Convolutional network",
    "wrn": "Wide residual network",
}

#: What to say of each metric, in the order of the page.
EXPLANATIONS = {
    **{name: Explanation(_INCEPTION, *texts) for name, texts in _ON_FEATURES.items()},
    **{
        name + LENET_SUFFIX: Explanation(
            _SMALL_NETWORK, _SMALL_NETWORK_TITLES.get(name, title), better, text
        )
        for name, (title, better, text) in _ON_FEATURES.items()
    },
    **{
        name: Explanation(
            _USEFULNESS, _CLASSIFIER_TITLES.get(name, name), _HIGHER, percent=True
        )
        for name in registry.CLASSIFIERS
    },
    MEMORISATION: Explanation(
        _COPYING,
        "Memorisation",
        "0.5 is ideal",
        "Probability that a synthetic image is nearer to the training images than a "
        "fresh real image is; 1 means copying.",
    ),
}
