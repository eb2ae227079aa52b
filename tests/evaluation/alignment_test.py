"""Alignment: images under right, wrong and shuffled labels; classes of prompts."""

import numpy as np
import pytest

from dpdm_jax import command_line
from dpdm_jax.errors import InputError
from dpdm_jax.evaluation import alignment, metrics, prompt_classes
from dpdm_jax.evaluation.description import describe
from dpdm_jax.evaluation.image_sets import ImageSet
from dpdm_jax.evaluation.settings import Settings


@pytest.fixture(scope="module")
def sets(digits):
    (images, labels), (others, other_labels), (test, test_labels) = digits
    return {
        "real": ImageSet("real", images, labels, 10),
        "synthetic": ImageSet("made", others, other_labels, 10),
        "real_test": ImageSet("test", test, test_labels, 10),
    }


@pytest.fixture(scope="module")
def quick():
    return Settings(epochs=8, classifier_seeds=2, learning_rate=1e-2, cache_folder=None)


@pytest.fixture(scope="module")
def result(sets, quick):
    return metrics.measure(["alignment"], **sets, settings=quick)


@pytest.mark.slow
def test_right_labels_are_recognised(result):
    assert result["alignment"] > 0.9
    assert result["alignment_real_test"] > 0.85
    assert 0 <= result["alignment_std"] < 0.1
    details = result["details"]["alignment"]
    assert details["classifier"] == "mlp"  # too small for the CNN
    assert list(details["of_each_class"]) == [str(i) for i in range(10)]
    assert min(details["of_each_class"].values()) > 0.6
    assert np.mean(details["accuracies"]) == pytest.approx(result["alignment"])
    assert "outside any privacy budget" in result["private"]
    assert any("compare it with alignment_real_test" in c for c in result["caveats"])
    described = describe(result)
    assert "(real test images: 0." in described
    assert f"by class: 0: {details['of_each_class']['0']:.3g}, 1: " in described


def test_the_overall_share_is_that_of_the_classes(result, sets):
    of_each = result["details"]["alignment"]["of_each_class"]
    counts = np.bincount(sets["synthetic"].labels, minlength=10)
    shares = np.array([of_each[str(i)] for i in range(10)])
    assert counts @ shares / counts.sum() == pytest.approx(result["alignment"])


def test_images_of_other_classes_are_not(sets, quick):
    """Everything is as it was but for what was asked for."""
    made = sets["synthetic"]
    wrong = ImageSet("made", made.images, (made.labels + 1) % 10, 10)
    found = metrics.measure(
        ["alignment"], sets["real"], wrong, sets["real_test"], settings=quick
    )
    assert found["alignment"] < 0.1
    assert found["alignment_real_test"] > 0.85


def test_some_classes_are_enough_and_no_test_set_is_needed(sets, quick):
    made = sets["synthetic"]
    few = made.labels < 2
    some = ImageSet("made", made.images[few], made.labels[few], 10)
    found = metrics.measure(["alignment"], sets["real"], some, settings=quick)
    assert list(found["details"]["alignment"]["of_each_class"]) == ["0", "1"]
    assert "alignment_real_test" not in found


@pytest.mark.parametrize(
    ("labels", "num_classes", "message"),
    [
        (None, 0, "alignment needs labels and made has none"),
        (np.full(200, 10), 11, "the labels of made go up to 10; allowed: 0 to 9"),
    ],
)
def test_labels_that_cannot_be_compared(sets, quick, labels, num_classes, message):
    made = ImageSet("made", sets["synthetic"].images, labels, num_classes)
    with pytest.raises(InputError, match=message):
        metrics.measure(["alignment"], sets["real"], made, settings=quick)


def test_real_classes_without_images_or_alone(sets):
    real = sets["real"]
    lacking = ImageSet("real", real.images, real.labels, 11)
    with pytest.raises(InputError, match="real has no image of class 10"):
        alignment.check(metrics.Sets(lacking, sets["synthetic"]))
    one = ImageSet("real", real.images, np.zeros(len(real), np.int32), 1)
    with pytest.raises(InputError, match="real has one class; allowed"):
        alignment.check(metrics.Sets(one, one))


def config_of(**fields):
    config = command_line.load_config("configs/digits_text.py")
    config.evaluate.update(fields)
    return config


def test_stated_classes_of_prompts():
    config = config_of(prompt_classes=(3, 1))
    found = prompt_classes.classes_of(config, ["a", "b"], 10)
    assert found == (3, 1)
    assert prompt_classes.of_images(found, 5).tolist() == [3, 1, 3, 1, 3]


def test_classes_beside_equal_captions():
    config = config_of(prompt_classes=())
    prompts = ["the digit three", "a handwritten 0"]
    assert prompt_classes.classes_of(config, prompts, 10) == (3, 0)
    with pytest.raises(
        InputError,
        match="2 of 3 prompts are no caption that stands beside one label in the "
        r"training data \('a cat', 'a dog'\); allowed: evaluate.prompt_classes",
    ):
        prompt_classes.classes_of(config, ["a cat", *prompts[:1], "a dog"], 10)


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        ((1,), "has 1 classes for 2 prompts; allowed: one for each"),
        ((1, 10), r"prompt_classes\[1\] is 10; allowed: an integer <= 9"),
        ((-1, 1), r"prompt_classes\[0\] is -1; allowed: an integer >= 0"),
    ],
)
def test_bad_classes_of_prompts(stated, message):
    with pytest.raises(InputError, match=message):
        prompt_classes.classes_of(config_of(prompt_classes=stated), ["a", "b"], 10)
