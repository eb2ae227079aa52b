import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from dpdm_jax.errors import InputError
from dpdm_jax.evaluation import given_features, metrics
from dpdm_jax.evaluation.image_sets import ImageSet
from dpdm_jax.evaluation.settings import Settings

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(256, size=(40, 6, 6, 1), dtype=np.uint8)
OTHERS = RNG.integers(128, size=(30, 6, 6, 1), dtype=np.uint8)
ASKED = ("fid_features", "sliced_features", "precision_features")


def columns(images):
    """The means of an image's columns."""
    return images.astype(jnp.float32).mean(axis=(1, 3)) / 255


def measure(given, **options):
    labels = np.arange(40) % 2
    return metrics.measure(
        ASKED,
        ImageSet("real", IMAGES, labels, 2),
        ImageSet("made", OTHERS, labels[:30], 2),
        settings=Settings(features=given, cache_folder=None, **options),
    )


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    path = tmp_path_factory.mktemp("features") / "columns.jax"
    given_features.export_features(columns, (6, 6, 1), path)
    return path


def test_a_function_and_its_file_give_the_same_figures(exported):
    by_function, by_file = measure(columns), measure(str(exported))
    for name in ASKED:
        assert by_function[name] == pytest.approx(by_file[name], rel=1e-5)
    a, b = (columns(x) for x in (IMAGES, OTHERS))
    assert by_file["fid_features"] > np.sum((a.mean(0) - b.mean(0)) ** 2)
    assert by_file["sliced_features"] > by_file["sliced_features_floor"] > 0
    assert by_file["sliced_features_std"] > 0
    assert set(by_file["details"]["precision_features"]["of_each_class"]) == {"0", "1"}
    assert by_file["settings"]["columns.jax"]["features"] == "columns.jax"
    (caveat,) = [c for c in by_file["caveats"] if "columns.jax" in c]
    assert "compare only with others on the same features" in caveat
    (caveat,) = [c for c in by_file["caveats"] if "alignment does" in c]
    assert caveat.startswith("fid_features and sliced_features say nothing of")


def test_statistics_of_a_file_are_kept_and_of_a_function_not(exported, tmp_path):
    real = ImageSet("real", IMAGES)
    for given, count in ((columns, 0), (str(exported), 1)):
        settings = Settings(features=given, cache_folder=tmp_path)
        metrics.measure(["fid_features"], real, real, settings=settings)
        assert len(list(tmp_path.iterdir())) == count


def test_a_file_for_one_number_of_images(tmp_path):
    shape = jax.ShapeDtypeStruct((16, 6, 6, 1), np.uint8)
    path = tmp_path / "sixteen"
    exported = export.export(jax.jit(columns))(shape)
    given_features.export_features(exported, (6, 6, 1), path)
    found = given_features.load(path, IMAGES)(IMAGES)
    np.testing.assert_allclose(found, columns(IMAGES), rtol=1e-6)


@pytest.mark.parametrize(
    ("function", "shape", "message"),
    [
        (columns, (8, 8, 1), r"takes uint8\[n,8,8,1\]; allowed: uint8 images 6x6"),
        (lambda x: x, (6, 6, 1), "returns uint8.*allowed: floats"),
        (
            lambda x: columns(x).sum(),
            (6, 6, 1),
            r"returns float32\[\].*allowed: floats",
        ),
    ],
)
def test_functions_of_other_kinds_are_refused(function, shape, message, tmp_path):
    def give():
        given_features.export_features(function, shape, tmp_path / "file")
        return given_features.load(tmp_path / "file", IMAGES)

    with pytest.raises(InputError, match=message):
        give()


def test_files_of_other_kinds_and_damaged_ones_are_refused(tmp_path, exported):
    content = exported.read_bytes()
    changed = bytearray(content)
    changed[len(content) // 2] ^= 1
    # JAX itself would crash at some of these.
    for found in (b"", b"no program", bytes(200), content[:-1], content[9:], changed):
        (tmp_path / "file").write_bytes(found)
        with pytest.raises(InputError, match="is damaged or of another kind; allowed"):
            given_features.load(tmp_path / "file", IMAGES)
    with pytest.raises(InputError, match="no file; allowed: a function"):
        given_features.load(tmp_path / "none", IMAGES)


def test_nothing_given_is_said_before_anything_is_measured():
    with pytest.raises(InputError, match="no features are given; allowed: --features="):
        measure(None)


def test_features_that_are_no_vectors_are_refused():
    with pytest.raises(
        InputError, match=r"returns \[\] of one image; allowed: \[1, d\]"
    ):
        given_features.load(lambda x: 1.0, IMAGES)
    odd = given_features.load(lambda x: np.full((len(x), 2), np.nan), IMAGES)
    with pytest.raises(InputError, match="are not all finite"):
        odd(IMAGES)
    odd = given_features.load(lambda x: np.zeros((1, 2)), IMAGES)
    with pytest.raises(InputError, match=r"\[1, 2\]; allowed: floats \[40, 2\]"):
        odd(IMAGES)
