"""Accuracy against the number of images, which are real digits here."""

import json

import numpy as np
import pytest
from PIL import Image
from reading import images_and_labels

from dpdm_jax import data
from dpdm_jax.configs import digits
from dpdm_jax.errors import InputError
from dpdm_jax.evaluation import fitting, registry
from dpdm_jax.evaluation.learning_curve import run
from dpdm_jax.evaluation.learning_curve.description import describe
from dpdm_jax.sampling import parts
from dpdm_jax.sampling import run as sampling_run
from dpdm_jax.sampling.maker import Maker


def config_of(**fields):
    config = digits.network_alone()
    config.network.mlp.hidden_width = 8
    config.sampler.num_steps = 3
    config.evaluate.seeds = 2
    config.evaluate.epochs = 6
    config.evaluate.learning_rate = 3e-3
    config.learning_curve.classifiers = ("logreg",)
    config.learning_curve.num_images = (40, 400)
    config.learning_curve.selection_images = 50
    for name, value in fields.items():
        config.learning_curve[name] = value
    return config


@pytest.fixture
def workdir(with_checkpoint, tmp_path):
    return with_checkpoint(config_of(), tmp_path)


@pytest.fixture
def work(monkeypatch):
    """Real digits in place of samples, in turn; tells what is made and trained."""
    images, labels = images_and_labels(
        data.load_source(config_of().data, "train"), np.arange(1437)
    )
    by_class = [images[labels == label] for label in range(10)]
    found = {"made": [], "trained": []}
    fit = fitting.fit

    def make(self, indices, on_batch):
        found["made"] += indices.tolist()
        on_batch(len(indices))
        return np.stack([by_class[i % 10][i // 10] for i in indices])

    def recorded(classifier, train, *args, seed, **settings):
        found["trained"].append((len(train[0]), seed))
        return fit(classifier, train, *args, seed=seed, **settings)

    monkeypatch.setattr(parts, "PART_SIZE", 100)
    monkeypatch.setattr(Maker, "make", make)
    monkeypatch.setattr(fitting, "fit", recorded)
    return found


@pytest.mark.slow
def test_more_images_are_better_and_nothing_is_done_twice(workdir, work):
    few, many = run.learning_curve(config_of(), workdir)
    assert (few["num_images"], many["num_images"]) == (40, 400)
    assert few["accuracy"] + 0.1 < many["accuracy"]
    assert many["ensemble_accuracy"] > 0.8
    assert few["settings"]["num_test"] == 360
    assert work["made"] == list(range(450))
    assert work["trained"] == [(40, 0), (40, 1), (400, 0), (400, 1)]
    folder = workdir / "learning_curve" / "samples"
    lines = (folder / run.RESULT).read_text().splitlines()
    assert [json.loads(line) for line in lines] == [few, many]
    assert Image.open(folder / run.PICTURE).size[0] > 400
    for name in (run.RESULT, run.PICTURE):
        assert (folder / name).stat().st_mode & 0o077 == 0
    words = describe([few, many])
    assert words.startswith("PRIVATE, measured on real images; not covered by the ")
    assert [line.split()[0] for line in words.splitlines()[2:]] == [
        "images",
        "40",
        "400",
    ]
    # The same again, and one more.
    more = run.learning_curve(config_of(num_images=(40, 60, 400)), workdir)
    assert [more[0], more[2]] == [few, many]
    assert len(work["made"]) == 450
    assert work["trained"][4:] == [(60, 0), (60, 1)]


@pytest.mark.slow
def test_images_beyond_memory_are_read_in_pieces(
    workdir, work, with_checkpoint, tmp_path, monkeypatch
):
    whole = run.learning_curve(config_of(), workdir)
    monkeypatch.setattr(fitting, "_ON_DEVICE_BYTES", 0)
    monkeypatch.setattr(fitting, "_PIECE_BYTES", 2 * 128 * 64)
    other = tmp_path / "other"
    other.mkdir()
    pieces = run.learning_curve(config_of(), with_checkpoint(config_of(), other))
    for a, b in zip(whole, pieces, strict=True):
        # The sums of other programs round otherwise, which may turn an image in 360.
        assert a["accuracies"] == pytest.approx(b["accuracies"], abs=2 / 360)


@pytest.mark.slow
def test_images_are_those_of_sampling(workdir):
    config = config_of(num_images=(30,), selection_images=20)
    config.sample.num_images = 50
    config.evaluate.epochs = 1
    run.learning_curve(config, workdir)
    with np.load(sampling_run.sample(config, workdir) / "samples.npz") as archive:
        expected = archive["images"]
    (path,) = (workdir / "learning_curve" / "samples" / "images").glob("*.npz")
    with np.load(path) as archive:
        np.testing.assert_array_equal(archive["images"], expected)
    config.sample.seed = 1
    with pytest.raises(InputError, match=r"holds images of other settings \(seed\)"):
        run.learning_curve(config, workdir)


@pytest.mark.parametrize(
    ("num_images", "max_steps", "epochs"),
    [(1000, 0, 50), (1000, 400, 50), (1000, 80, 10), (10**6, 80, 1)],
)
def test_many_images_get_fewer_epochs(num_images, max_steps, epochs):
    recipe = registry.recipe("mlp")
    assert run.at_most(recipe, num_images, max_steps).epochs == epochs


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"classifiers": ()}, "learning_curve.classifiers is .* one or more of each"),
        ({"num_images": ()}, "learning_curve.num_images .* one or more of each"),
        ({"classifiers": ("svm",)}, "'svm'; allowed: logreg, mlp, cnn, wrn"),
        ({"classifiers": ("cnn",)}, "at least 18x18"),
        ({"num_images": (400, 40)}, "allowed: increasing numbers"),
        ({"num_images": (0, 40)}, "learning_curve.num_images is 0"),
        ({"num_images": (9, 40)}, "no image of class 9"),
        ({"selection_images": 0}, "learning_curve.selection_images is 0"),
        ({"max_steps": -1}, "learning_curve.max_steps is -1"),
    ],
)
def test_bad_input_is_refused_before_any_work(workdir, fields, message):
    with pytest.raises(InputError, match=message):
        run.learning_curve(config_of(**fields), workdir)
    assert not (workdir / "learning_curve").exists()


def test_images_without_labels_or_of_other_classes(with_checkpoint, tmp_path):
    for num_classes, message in ((0, "have no labels"), (5, "the synthetic ones .* 5")):
        folder = tmp_path / str(num_classes)
        folder.mkdir()
        with_checkpoint(config_of(), folder, num_classes)
        with pytest.raises(InputError, match=message):
            run.learning_curve(config_of(), folder)
        assert not (folder / "learning_curve").exists()
