"""All metrics together, on real digits, real Fashion-MNIST and the random Inception."""

import dataclasses
import json
import types

import numpy as np
import PIL.Image
import pytest

from dpdm_jax.data import idx
from dpdm_jax.errors import InputError
from dpdm_jax.evaluation import (
    features,
    inception,
    inception_weights,
    memorisation,
    metrics,
    on_features,
    registry,
    usefulness,
)
from dpdm_jax.evaluation.description import describe
from dpdm_jax.evaluation.dp_sgd import DPSGD
from dpdm_jax.evaluation.image_sets import ImageSet
from dpdm_jax.evaluation.measured import Measured
from dpdm_jax.evaluation.settings import Settings
from dpdm_jax.evaluation.words import HIGHER, Words

LENET = [f"{name}_lenet" for name in registry.FEATURE_METRICS]


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """Little training, and networks kept between tests."""
    return Settings(
        cache_folder=tmp_path_factory.mktemp("cache"),
        lenet_steps=30,
        epochs=20,
        classifier_seeds=2,
        learning_rate=3e-3,
    )


@pytest.fixture(scope="module")
def sets(digits):
    """Half of the training digits, the other half, and the test digits."""
    (images, labels), _, (test_images, test_labels) = digits
    half = len(images) // 2
    return types.SimpleNamespace(
        real=ImageSet("real", images[:half], labels[:half], 10),
        other=ImageSet("other", images[half:], labels[half:], 10),
        test=ImageSet("test", test_images, test_labels, 10),
    )


class FewAtOnce(features.InceptionFeatures):
    """Fills no batch up with images that nobody asks for."""

    def __init__(self, weights):
        super().__init__(weights)
        self.batch_size = 4


@pytest.fixture(scope="module")
def random_inception(inception_state):
    """Replaces the published weights by random ones."""
    params = inception.params_from_state_dict(inception_state)
    weights = inception_weights.Weights(params, "0" * 64, False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inception_weights, "load", lambda path, folder: weights)
        patch.setattr(features, "InceptionFeatures", FewAtOnce)
        yield


@pytest.mark.slow
@pytest.mark.optimized  # trains long enough to gain by it
def test_real_against_itself(quick, sets):
    result = metrics.measure(LENET, sets.real, sets.real, settings=quick)
    assert abs(result["fid_lenet"]) < 1e-6 * result["fid_lenet_floor"]
    assert result["precision_lenet"] == result["recall_lenet"] == 1
    assert result["coverage_lenet"] == 1
    assert result["density_lenet"] > 1
    assert result["num_real"] == result["num_synthetic"] == len(sets.real)
    assert result["settings"]["fid_lenet_floor"]["images"] == [309, 309]
    assert any("no FID" in caveat for caveat in result["caveats"])
    assert json.loads(json.dumps(result)) == result


@pytest.mark.slow
@pytest.mark.optimized  # trains long enough to gain by it
def test_real_against_other_real(quick, sets):
    result = metrics.measure(LENET, sets.real, sets.other, settings=quick)
    # As far apart as two halves of one set, within a factor for their fewer images.
    assert 0.2 < result["fid_lenet"] / result["fid_lenet_floor"] < 2
    assert abs(result["kid_lenet"]) < 5 * result["kid_lenet_std"]
    assert result["precision_lenet"] > 0.8
    assert result["recall_lenet"] > 0.8
    afresh = dataclasses.replace(quick, cache_folder=None)
    assert metrics.measure(LENET, sets.real, sets.other, settings=afresh) == result


@pytest.mark.slow
def test_blank_images(quick, sets):
    blank = ImageSet("blank", np.full_like(sets.real.images[:100], 255))
    result = metrics.measure(LENET, sets.real, blank, settings=quick)
    assert result["fid_lenet"] > 3 * result["fid_lenet_floor"]
    assert result["precision_lenet"] == 0
    assert result["coverage_lenet"] < 0.05
    assert any("from 100 images" in caveat for caveat in result["caveats"])
    # As large as the synthetic set, since that is smaller than a half.
    assert result["settings"]["fid_lenet_floor"]["images"] == [100, 518]


@pytest.mark.slow
@pytest.mark.optimized
def test_distance_grows_with_noise(quick, real_data):
    folder = real_data / "fashion_mnist"
    images = idx.read_idx(folder / "train-images-idx3-ubyte.gz", 3)[:2000, ..., None]
    labels = idx.read_idx(folder / "train-labels-idx1-ubyte.gz", 1)[:2000]
    real = ImageSet("real", images[:1000], labels[:1000].astype(np.int32), 10)
    rng = np.random.default_rng(0)
    noise = rng.normal(size=images[1000:].shape)
    distances = []
    for level in (0, 15, 30, 60, 120):
        noisy = np.clip(images[1000:] + level * noise, 0, 255).astype(np.uint8)
        found = metrics.measure(
            ["fid_lenet", "kid_lenet"], real, ImageSet("noisy", noisy), settings=quick
        )
        distances.append([found["fid_lenet"], found["kid_lenet"]])
    assert (np.diff(distances, axis=0) > 0).all()


@pytest.mark.slow
def test_classifiers(quick, sets):
    names = ["logreg", "mlp"]
    result = metrics.measure(names, sets.real, sets.other, sets.test, settings=quick)
    words = describe(result)
    for name in names:
        assert result[name] > 0.7
        assert result[f"{name}_real"] > 0.7
        assert result[f"{name}_std"] >= 0
        for which in (name, f"{name}_real"):
            ensemble = result[f"{which}_ensemble"]
            assert ensemble == result["details"][which]["ensemble_accuracy"] > 0.7
        assert f"(as one ensemble: {result[f'{name}_ensemble']:.6g})" in words
        details = result["details"][name]
        assert details["accuracy"] == result[name]
        assert details["settings"]["seeds"] == [0, 1]
        # A fifth of the synthetic images selects the epoch.
        assert details["settings"]["num_selection"] < len(sets.other) / 5
        assert details["settings"]["num_test"] == len(sets.test)
    assert result["caveats"] == []


@pytest.mark.slow
def test_classifiers_by_dp_sgd(quick, sets):
    settings = dataclasses.replace(quick, dp_sgd=DPSGD(8.0, 1e-4, epochs=10))
    result = metrics.measure(
        ["logreg"], sets.real, sets.other, sets.test, settings=settings
    )
    assert 0.5 < result["logreg_dp_sgd"] < result["logreg_real"]
    assert result["logreg_dp_sgd_std"] >= 0
    assert "logreg_dp_sgd_ensemble" not in result
    assert "real images by DP-SGD: 0." in describe(result)
    with pytest.raises(InputError, match="dp_sgd is asked for without real_test"):
        metrics.measure(["logreg"], sets.real, sets.other, settings=settings)


def test_classifiers_of_sorted_images_without_a_test_set(quick, sets):
    order = np.argsort(sets.other.labels, kind="stable")
    by_class = ImageSet(
        "sorted", sets.other.images[order], sets.other.labels[order], 10
    )
    result = metrics.measure(["logreg"], sets.real, by_class, settings=quick)
    assert result["logreg"] > 0.7
    assert "logreg_real" not in result
    alone = dataclasses.replace(quick, classifier_seeds=1, epochs=1)
    single = metrics.measure(["logreg"], sets.real, by_class, settings=alone)
    assert "logreg_ensemble" not in single
    assert "ensemble" not in describe(single)
    assert "tested on real" in result["caveats"][0]


@pytest.mark.slow
def test_memorisation(quick, sets, tmp_path):
    result = metrics.measure(
        ["memorisation"], sets.real, sets.other, sets.test, settings=quick
    )
    # Fresh images as samples: z beyond 4.5 has p < 1e-5 but for the test digits' being
    # other people's, which moves it some more.
    assert abs(result["memorisation"] - 0.5) < 0.15
    copies = ImageSet("copies", sets.real.images[100:150])
    result = metrics.measure(
        ["memorisation"],
        sets.real,
        copies,
        sets.test,
        settings=quick,
        pictures=tmp_path / "pictures",
    )
    assert result["memorisation"] > 0.95
    for space in ("features", "pixels"):
        details = result["details"]["memorisation"][space]
        assert details["exact_copies"] == 50
        assert details["z"] > 5
    for name in (memorisation.CLOSEST_FEATURES, memorisation.CLOSEST_PIXELS):
        assert name.startswith("PRIVATE")
        picture = np.asarray(PIL.Image.open(tmp_path / "pictures" / name))
        # Four pairs in a row, tiles of 48 pixels and gutters of 2: equal halves.
        assert picture.shape[1] == 8 * 50 + 2
        np.testing.assert_array_equal(picture[2:50, 2:50], picture[2:50, 52:100])


@pytest.mark.parametrize(
    ("names", "changes", "message"),
    [
        ([], {}, "metrics is empty; allowed: fid, kid"),
        (["fidd"], {}, "a metric is 'fidd'; allowed: fid, kid, .*fid_lenet, .*logreg"),
        (["cnn"], {}, "cnn classifier is asked for on images of 8x8x1"),
        (["memorisation"], {"real_test": None}, "without real_test"),
        (
            ["logreg"],
            {"synthetic": "unlabelled"},
            "needs labels and unlabelled has none",
        ),
        (["fid"], {"synthetic": "few"}, "few has 5 images; allowed: at least 6"),
    ],
)
def test_what_cannot_be_measured_is_refused_at_once(
    quick, sets, monkeypatch, names, changes, message
):
    for measuring in (on_features, usefulness):
        monkeypatch.setattr(measuring, "measure", None)
    arguments = {"real": sets.real, "synthetic": sets.other, "real_test": sets.test}
    others = {
        None: None,
        "unlabelled": ImageSet("unlabelled", sets.other.images),
        "few": ImageSet("few", sets.other.images[:5]),
    }
    arguments |= {key: others[value] for key, value in changes.items()}
    with pytest.raises(InputError, match=message):
        metrics.measure(names, **arguments, settings=quick)


@pytest.mark.parametrize(
    "field", ["neighbour_images", "lenet_steps", "classifier_seeds", "epochs"]
)
def test_settings_out_of_range(sets, field):
    settings = Settings(**{field: 0})
    with pytest.raises(InputError, match=f"{field} is 0; allowed: an integer"):
        metrics.measure(["fid"], sets.real, sets.other, settings=settings)


def test_neighbours_among_some_images_only(quick, sets):
    settings = dataclasses.replace(quick, neighbour_images=50)
    result = metrics.measure(["recall_lenet"], sets.real, sets.other, settings=settings)
    assert result["recall_lenet"] * 50 == pytest.approx(
        round(result["recall_lenet"] * 50)
    )
    assert any("look at 50 images" in caveat for caveat in result["caveats"])


class Toy:
    """Two numbers: how many features of real images are kept, and another."""

    words = (
        Words("toy", "Toy", HIGHER, "Counts."),
        Words("other_toy", "Other toy", HIGHER, "Is one."),
    )
    min_images = 2
    on_kept = True

    def measure(self, real, synthetic, *, suffix, seed):
        return Measured(
            {
                f"toy{suffix}": {"": len(real.kept), "_std": len(synthetic.kept) / 100},
                f"other_toy{suffix}": {"": 1.0, "_floor": 0.0},
            },
            {f"toy{suffix}": {"seed": seed}},
            caveats=(f"toy{suffix} is a toy",),
        )


def test_a_metric_is_one_registration(quick, sets, monkeypatch):
    toy = Toy()
    for words in toy.words:
        monkeypatch.setitem(registry.FEATURE_METRICS, words.name, toy)
    assert {"toy", "toy_lenet", "other_toy"} < set(metrics.names())
    settings = dataclasses.replace(quick, neighbour_images=50)
    result = metrics.measure(["toy_lenet"], sets.real, sets.other, settings=settings)
    assert (result["toy_lenet"], result["toy_lenet_std"]) == (50, 0.5)
    assert not any(name.startswith("other_toy") for name in result)
    assert result["settings"]["toy_lenet"] == {"seed": 0}
    assert "toy_lenet is a toy" in result["caveats"]
    assert any("look at 50 images" in caveat for caveat in result["caveats"])
    text = describe(result)
    assert "toy_lenet          50 +- 0.5" in text
    assert "note: toy_lenet is a toy." in text
    few = ImageSet("few", sets.other.images[:7])
    monkeypatch.setattr(toy, "min_images", 8)
    with pytest.raises(InputError, match="few has 7 images; allowed: at least 8"):
        metrics.measure(["toy"], sets.real, few, settings=settings)


@pytest.mark.slow
def test_inception_metrics_and_noise(quick, sets, random_inception):
    # So few images that the covariances have a rank of 7.
    real = ImageSet("real", sets.real.images[:8])
    noise = np.random.default_rng(0).normal(size=real.images.shape)
    found = []
    for level in (0, 60, 240):
        noisy = np.clip(real.images + level * noise, 0, 255).astype(np.uint8)
        names = ["fid", "kid", "density"] if level == 60 else ["fid"]
        synthetic = ImageSet("noisy", noisy)
        found.append(metrics.measure(names, real, synthetic, settings=quick))
    same, noisy, noisier = found
    assert abs(same["fid"]) < 1e-6 * noisy["fid"]
    assert noisy["fid"] < noisier["fid"]
    assert set(noisy) >= {"fid", "fid_floor", "kid", "kid_std", "density"}
    assert any("not the published ones" in text for text in noisy["caveats"])
    assert any("fid is from 8 images" in text for text in noisy["caveats"])
    text = describe(noisy)
    assert "real against real" in text
    assert "note: the Inception weights are not the published ones" in text
