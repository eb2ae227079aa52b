"""What each metric means, for people who have not met it."""

import dataclasses

from dpdm_jax.evaluation import alignment, memorisation
from dpdm_jax.evaluation.on_features import GIVEN_SUFFIX, LENET_SUFFIX
from dpdm_jax.evaluation.registry import CLASSIFIERS, FEATURE_METRICS
from dpdm_jax.evaluation.words import HIGHER


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
_GIVEN = "On the features given"
_SMALL_NETWORK = "On a small network's features"
_USEFULNESS = "Usefulness"
_ALIGNMENT = "Alignment"
_COPYING = "Copying"

#: What to say of each group of metrics.
GROUPS = {
    _INCEPTION: "Do the images look alike to the network that FID is defined on?",
    _GIVEN: "Do the images look alike to a network of the owner's choice? Comparable "
    "only on the same features.",
    _SMALL_NETWORK: "Do the images look alike to a small network that was trained on "
    "the real ones? No FID or KID, and comparable only with itself.",
    _USEFULNESS: "Accuracy on real test images of classifiers that were trained on the "
    "synthetic images alone; mean and standard deviation over the trainings.",
    _ALIGNMENT: "Do the synthetic images show what they were asked for by, a class or "
    "a caption?",
    _COPYING: "Are the synthetic images the training images?",
}

_FEATURE_WORDS = tuple(
    words
    for metric in dict.fromkeys(FEATURE_METRICS.values())
    for words in metric.words
)

#: What to say of each metric, in the order of the page.
EXPLANATIONS = {
    **{
        words.name: Explanation(_INCEPTION, words.title, words.better, words.meaning)
        for words in _FEATURE_WORDS
    },
    **{
        words.name + suffix: Explanation(
            group, words.title_elsewhere or words.title, words.better, words.meaning
        )
        for suffix, group in ((GIVEN_SUFFIX, _GIVEN), (LENET_SUFFIX, _SMALL_NETWORK))
        for words in _FEATURE_WORDS
    },
    **{
        name: Explanation(_USEFULNESS, classifier.title, HIGHER, percent=True)
        for name, classifier in CLASSIFIERS.items()
    },
    alignment.NAME: Explanation(
        _ALIGNMENT,
        alignment.WORDS.title,
        alignment.WORDS.better,
        alignment.WORDS.meaning,
        percent=True,
    ),
    memorisation.NAME: Explanation(
        _COPYING,
        memorisation.WORDS.title,
        memorisation.WORDS.better,
        memorisation.WORDS.meaning,
    ),
}
