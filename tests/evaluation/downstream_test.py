import json

import numpy as np
import pytest
from reading import images_and_labels

from dpdm_jax import data
from dpdm_jax.errors import InputError
from dpdm_jax.evaluation import downstream, fitting, registry


def _accuracy(name, *sets, num_classes=10, **settings):
    """Runs the protocol, with some of the recipe's numbers replaced."""
    changed = {
        key: settings.pop(key)
        for key in ("epochs", "batch_size", "learning_rate")
        if key in settings
    }
    recipe = registry.recipe(name, **changed)
    return downstream.downstream_accuracy(
        name, *sets, num_classes, recipe=recipe, **settings
    )


def _accuracy_curve(*args, **settings):
    """Runs the protocol; returns its result and each seed's selection accuracies."""
    curves = {}

    def on_epoch(seed, epoch, selection_accuracy):
        curves.setdefault(seed, []).append(selection_accuracy)
        assert len(curves[seed]) == epoch

    result = _accuracy(*args, **settings, on_epoch=on_epoch)
    return result, curves


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "threshold"),
    # Seen: at least 0.947 and 0.969.
    [("logreg", 0.92), ("mlp", 0.95)],
)
def test_learns_digits(digits, name, threshold):
    result = _accuracy(name, *digits, epochs=20, learning_rate=3e-3, shuffle=True)
    assert len(result.accuracies) == 3
    assert min(result.accuracies) > threshold


@pytest.mark.slow
def test_cnn_learns(digits):
    # The inner 6x6 pixels, enlarged to the smallest size that the CNN takes.
    enlarged = [
        (images[:, 1:7, 1:7].repeat(3, axis=1).repeat(3, axis=2), labels)
        for images, labels in digits
    ]
    result = _accuracy(
        "cnn", *enlarged, seeds=(0,), epochs=3, learning_rate=3e-3, batch_size=64
    )
    assert result.mean > 0.8


def test_labels_carry_the_information(digits):
    # With labels permuted the accuracy on 360 images is that of chance, 0.1: above 0.2
    # with probability below 1e-6.
    (images, labels), selection, test = digits
    permuted = np.random.default_rng(0).permutation(labels)
    result = _accuracy(
        "logreg", (images, permuted), selection, test, seeds=(0,), epochs=3
    )
    assert result.mean < 0.2


def test_selects_the_first_of_the_best_epochs(digits):
    # Few images to select on make ties common.
    train, (images, labels), test = digits
    selection = (images[:12], labels[:12])
    settings = {"learning_rate": 3e-3, "shuffle": True}
    result, curves = _accuracy_curve(
        "mlp", train, selection, test, epochs=12, **settings
    )
    for run in result.runs:
        curve = curves[run.seed]
        assert run.selection_accuracy == max(curve)
        assert run.epoch == curve.index(max(curve)) + 1
        # Stopped there, the training reports the same.
        stopped, _ = _accuracy_curve(
            "mlp",
            train,
            selection,
            test,
            seeds=(run.seed,),
            epochs=run.epoch,
            **settings,
        )
        assert stopped.runs == (run,)
    assert any(c.count(max(c)) > 1 for c in curves.values())


def test_test_set_plays_no_part_in_selection(digits):
    train, selection, (images, labels) = digits
    settings = {"epochs": 6, "learning_rate": 3e-3, "seeds": (0,)}
    first, curves = _accuracy_curve(
        "mlp", train, selection, (images, labels), **settings
    )
    shifted, shifted_curves = _accuracy_curve(
        "mlp", train, selection, (images, (labels + 1) % 10), **settings
    )
    assert curves == shifted_curves
    assert first.runs[0].epoch == shifted.runs[0].epoch
    assert first.mean > 0.8
    assert shifted.mean < 0.1


@pytest.mark.slow
def test_seeds_differ_and_repeat(digits):
    settings = {"epochs": 2, "seeds": (0, 1, 2)}
    a, curves = _accuracy_curve("mlp", *digits, **settings)
    b, curves_again = _accuracy_curve("mlp", *digits, **settings)
    assert a == b
    assert curves == curves_again
    assert len(set(map(tuple, curves.values()))) == 3


def test_result_as_json(digits):
    result = _accuracy("logreg", *digits, seeds=(3, 5), epochs=2, batch_size=64)
    stored = json.loads(json.dumps(result.to_dict()))
    assert stored["classifier"] == "logreg"
    assert stored["accuracy"] == np.mean(result.accuracies)
    assert stored["accuracy_std"] == pytest.approx(np.std(result.accuracies, ddof=1))
    assert [run["seed"] for run in stored["runs"]] == [3, 5]
    assert [run["test_accuracy"] for run in stored["runs"]] == stored["accuracies"]
    assert stored["settings"] == {
        "epochs": 2,
        "batch_size": 64,
        "optimizer": "adam",
        "learning_rate": 3e-4,
        "schedule": "constant",
        "weight_decay": 0.0,
        "label_smoothing": 0.0,
        "augmentation": False,
        "shuffle": False,
        "seeds": [3, 5],
        "num_train": 1237,
        "num_selection": 200,
        "num_test": 360,
        "image_shape": [8, 8, 1],
        "num_classes": 10,
        "num_parameters": 650,
    }


def test_an_ensemble_of_the_seeds(digits):
    result = _accuracy("mlp", *digits, seeds=(0, 1, 2), epochs=2, learning_rate=3e-3)
    # It is no mean of theirs, and no worse than the worst of them.
    assert result.ensemble != result.mean
    assert result.ensemble >= min(result.accuracies)
    assert result.to_dict()["ensemble_accuracy"] == result.ensemble
    # One network three times is as good as once.
    alone = _accuracy("mlp", *digits, seeds=(1,), epochs=2, learning_rate=3e-3)
    assert alone.ensemble is None

    def again(*args, seed, **settings):
        return fitting.fit(*args, seed=1, **settings)

    thrice = _accuracy(
        "mlp", *digits, seeds=(0, 1, 2), epochs=2, learning_rate=3e-3, fit=again
    )
    assert {thrice.ensemble, *thrice.accuracies} == {alone.mean}


def test_one_seed_has_no_spread():
    run = downstream.SeedResult(0, 1, 0.5, 0.25)
    result = downstream.DownstreamResult("mlp", (run,), {})
    assert result.mean == 0.25
    assert result.std is None


def _sets(**replaced):
    sets = {}
    for name in ("train", "selection", "test"):
        sets[name] = (np.zeros((20, 8, 8, 1), np.uint8), np.arange(20) % 10)
    return {**sets, **replaced}


_IMAGES, _LABELS = _sets()["train"]


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        ({"train": (_IMAGES, None)}, "training set has no labels"),
        ({"test": (_IMAGES, None)}, "test set has no labels"),
        ({"train": (_IMAGES, _LABELS % 8)}, "no image of class 8, 9; allowed"),
        ({"train": (_IMAGES, _LABELS + 1)}, "label of the training set is 10; allowed"),
        ({"selection": (_IMAGES, _LABELS - 1)}, "label of the selection set is -1"),
        ({"train": (_IMAGES, _LABELS[:5])}, r"shape \(5,\); allowed: .* \(20,\)"),
        ({"train": (_IMAGES, _LABELS / 1)}, "float64"),
        ({"train": (_IMAGES / 255, _LABELS)}, "float64 .* allowed: uint8"),
        ({"train": (_IMAGES[..., 0], _LABELS)}, r"\(20, 8, 8\)"),
        ({"test": (_IMAGES[:0], _LABELS[:0])}, "not empty"),
        ({"test": (_IMAGES[:, 1:], _LABELS)}, "7x8x1; allowed: 8x8x1"),
    ],
)
def test_refuses_sets(sets, message):
    with pytest.raises(InputError, match=message):
        _accuracy("mlp", *_sets(**sets).values())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "cnn"}, "at least 18x18"),
        ({"name": "svm"}, "'svm'; allowed: logreg, mlp, cnn"),
        ({"num_classes": 0}, "num_classes is 0"),
        ({"seeds": ()}, r"seeds are \[\]; allowed: one or more"),
        ({"seeds": (1, 1)}, r"seeds are \[1, 1\]; allowed: .*different"),
        ({"seeds": (-1,)}, "a seed is -1"),
        ({"epochs": 0}, "epochs is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0"),
    ],
)
def test_refuses_settings(settings, message):
    settings = {"name": "mlp", **settings}
    with pytest.raises(InputError, match=message):
        _accuracy(settings.pop("name"), *_sets().values(), **settings)


@pytest.mark.slow
def test_logistic_regression_on_mnist(data_config, real_data):
    config = data_config(source="idx", path=str(real_data / "mnist"))

    def read(split):
        source = data.load_source(config, split)
        return images_and_labels(source)

    images, labels = read("train")
    # As two disjoint synthetic sets would be.
    result = downstream.downstream_accuracy(
        "logreg",
        (images[:50000], labels[:50000]),
        (images[50000:], labels[50000:]),
        read("test"),
        10,
        shuffle=True,
    )
    assert 0.91 < min(result.accuracies) <= max(result.accuracies) < 0.935
