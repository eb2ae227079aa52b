"""What must hold for any config and any data, on examples that hypothesis makes up."""

import json
import math
import tempfile
import warnings
from pathlib import Path

import hypothesis
import ml_collections
import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from reading import images_and_labels, shape_of

from dpdm_jax import data, json_values, planning, rooms, validate
from dpdm_jax import settings as settings_by_kind
from dpdm_jax.configs import base, digits
from dpdm_jax.errors import InputError
from dpdm_jax.evaluation import image_sets
from dpdm_jax.images import pixels
from dpdm_jax.models.model import build_model
from dpdm_jax.padding import PADDING, pad_indices
from dpdm_jax.privacy import PoissonSampling, PrivacyPlan
from dpdm_jax.sampling import images as sampled


def settings(max_examples: int) -> hypothesis.settings:
    return hypothesis.settings(
        max_examples=max_examples, deadline=None, derandomize=True
    )


def check_is_sentence(error: InputError) -> None:
    assert "\n" not in str(error)
    assert str(error).endswith(".")


# Configs -----------------------------------------------------------------------------

_NAMES = (
    *("mlp", "ncsnpp", "edm", "v", "ve", "vp", "log_normal", "cosine", "log_uniform"),
    *("vp_time", "rdp", "float32", "bfloat16", "", "x"),
)
_INTEGERS = st.sampled_from((-1, 0, 1, 2, 4, 6, 64, 300, 1437, 1438))
_NUMBERS = st.sampled_from((-1.0, 0.0, 1e-9, 1e-5, 0.5, 1.0, 8.0, 1e9, math.inf))
_SECTIONS = ("privacy", "diffusion", "network", "train")


def values_like(value: object, *, nan: bool) -> st.SearchStrategy:
    """Values of a field's type; None is a placeholder's."""
    if isinstance(value, bool):
        return st.booleans()
    if isinstance(value, int):
        return _INTEGERS
    if isinstance(value, float) or value is None:
        return _NUMBERS | st.just(math.nan) if nan else _NUMBERS
    if isinstance(value, tuple):
        return st.lists(st.sampled_from((-1, 0, 1, 2, 3)), max_size=3).map(tuple)
    return st.sampled_from(_NAMES)


@st.composite
def configs(draw, *, sections=None, nan=True, most=3) -> ml_collections.ConfigDict:
    """The digits config with some fields changed, mostly within their ranges."""
    config = digits.network_alone()
    config.privacy.accountant = "rdp"  # PLD takes seconds a plan
    of_kinds = settings_by_kind.defaults(rooms.ROOMS)
    read = settings_by_kind.names_read(rooms.ROOMS, config)
    sections = sections or [n for n in config if n not in ("name", "seed")]
    for _ in range(draw(st.integers(0, most))):
        section = draw(st.sampled_from(sections))
        names = [
            name
            for name in settings_by_kind.names(config[section], section)
            # What no chosen kind reads changes nothing.
            if (name in read or name not in of_kinds)
            and name not in ("privacy.fixed_keys_seed", "evaluate.metrics")
        ]
        if names:
            name = draw(st.sampled_from(names))
            value = settings_by_kind.lookup(config, name)
            settings_by_kind.assign(config, name, draw(values_like(value, nan=nan)))
    return config


@pytest.mark.slow
@settings(40)
@hypothesis.given(config=configs(sections=_SECTIONS))
def test_a_config_plans_within_its_budget_or_gets_a_sentence(config):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            problem = planning.public_problem(config)
            model = build_model(config, problem.image_shape, problem.condition)
            plan = planning.privacy_plan(config, problem.num_examples, model)
            model.loss()
        except InputError as e:
            check_is_sentence(e)
            return
    assert 0 <= plan.epsilon <= config.privacy.epsilon
    assert PrivacyPlan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan
    assert 0 < plan.sampling.sampling_probability <= 1
    assert plan.expected_batch_size <= config.train.batch_size
    assert model.num_parameters > 0


@pytest.mark.slow
@settings(200)
@hypothesis.given(config=configs(nan=False, most=10))
def test_a_config_comes_back_from_its_file(config):
    text = json.dumps(json_values.encode(config.to_dict()), allow_nan=False)
    again = base.get_config()
    again.update(json_values.decode(json.loads(text)))
    assert again.to_dict() == config.to_dict()


# Data --------------------------------------------------------------------------------

_SHAPES = st.tuples(
    st.integers(1, 5), st.integers(1, 9), st.integers(1, 9), st.sampled_from((1, 3))
)
_IMAGES = hnp.arrays(np.uint8, _SHAPES)


@st.composite
def labelled(draw) -> tuple[np.ndarray, np.ndarray]:
    """Images, and a label below 256 for each, of which one is 0."""
    images = draw(_IMAGES)
    labels = draw(hnp.arrays(np.uint8, len(images)))
    # Where the highest label tells the classes, the first of them must occur.
    labels[draw(st.integers(0, len(images) - 1))] = 0
    return images, labels


def all_of(source: data.Source) -> tuple[np.ndarray, np.ndarray]:
    return images_and_labels(source)


def loaded(kind: str, path: Path, **fields) -> data.Source:
    config = base.get_config().data
    config.update({"source": kind, "path": str(path)} | fields)
    return data.load_source(config, "train")


@settings(200)
@hypothesis.given(
    images=hnp.arrays(
        st.sampled_from((np.uint8, np.int64, np.float32, np.bool_, "U1", "M8[s]")),
        hnp.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=4),
    ),
    labels=st.none()
    | hnp.arrays(
        st.sampled_from((np.int8, np.uint64, np.int64, np.float64, np.bool_, "U1")),
        hnp.array_shapes(min_dims=0, max_dims=2, min_side=0, max_side=4),
    ),
    num_classes=st.integers(-1, 3),
)
def test_any_arrays_make_a_sound_source_or_get_a_sentence(images, labels, num_classes):
    try:
        source = data.ArraySource(images, labels, num_classes)
    except InputError as e:
        check_is_sentence(e)
        return
    stored, found = all_of(source)
    np.testing.assert_array_equal(stored, images)
    assert stored.dtype == np.uint8
    assert stored.shape == (len(source), *shape_of(source))
    assert found.dtype == np.int32
    assert found.shape == (len(source),)
    assert ((found >= 0) & (found < max(1, source.condition.num_classes))).all()


@settings(60)
@hypothesis.given(given=labelled(), with_labels=st.booleans())
def test_npz_gives_back_what_was_written(given, with_labels):
    images, labels = given
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.npz"
        sampled.write_npz(path, images, labels if with_labels else None)
        source = loaded("npz", path)
        found = image_sets.load(str(path))
    np.testing.assert_array_equal(all_of(source)[0], images)
    np.testing.assert_array_equal(found.images, images)
    assert (found.labels is not None) == with_labels
    if with_labels:
        np.testing.assert_array_equal(all_of(source)[1], labels)
        np.testing.assert_array_equal(found.labels, labels)


@settings(60)
@hypothesis.given(given=labelled())
def test_idx_gives_back_what_was_written(given):
    images, labels = given
    grey = images[..., 0]
    with tempfile.TemporaryDirectory() as folder:
        for name, array in (("images-idx3", grey), ("labels-idx1", labels)):
            header = (
                bytes((0, 0, 8, array.ndim)) + np.array(array.shape, ">u4").tobytes()
            )
            path = Path(folder) / f"train-{name}-ubyte"
            path.write_bytes(header + array.tobytes())
        source = loaded("idx", Path(folder))
    np.testing.assert_array_equal(all_of(source)[0], grey[..., None])
    np.testing.assert_array_equal(all_of(source)[1], labels)


@settings(60)
@hypothesis.given(images=_IMAGES)
def test_png_gives_back_what_was_written(images):
    with tempfile.TemporaryDirectory() as folder:
        for index, image in enumerate(images):
            sampled.write_png(Path(folder) / f"{index}.png", image)
        source = loaded("image_folder", Path(folder))
    np.testing.assert_array_equal(all_of(source)[0], images)
    assert source.condition.num_classes == 0


@pytest.mark.slow
@settings(100)
@hypothesis.given(images=_IMAGES, start=st.sampled_from(("0,1", "-1,1", "0,255")))
def test_floats_give_back_the_bytes_that_they_stand_for(images, start):
    low, high = image_sets.FLOAT_RANGES[start]
    floats = (low + images / 255 * (high - low)).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        np.savez(Path(folder) / "a.npz", images=np.clip(floats, low, high))
        found = image_sets.load(
            f"{folder}/a.npz", float_range=start, rounding="nearest"
        )
    np.testing.assert_array_equal(found.images, images)
    np.testing.assert_array_equal(
        sampled.to_uint8(pixels.to_float(images), "nearest"), images
    )


@settings(100)
@hypothesis.given(
    image=hnp.arrays(np.uint8, _SHAPES.map(lambda shape: shape[1:])),
    crop=st.sampled_from(data.CROPS),
    size=st.integers(0, 12),
    channels=st.sampled_from((0, 1, 3)),
    filter_name=st.sampled_from(list(data.RESIZE_FILTERS)),
)
def test_a_prepared_image_has_the_shape_asked_for(
    image, crop, size, channels, filter_name
):
    prepare = data.Preparation(crop, size, filter_name, channels)
    try:
        made = prepare(image)
    except InputError:
        # The aligned CelebA images are larger; a resized image must be square.
        assert crop == "celeba" or (size and image.shape[0] != image.shape[1])
        return
    assert made.dtype == np.uint8
    assert made.shape[-1] == (channels or image.shape[-1])
    if size:
        assert made.shape[:2] == (size, size)
    if image.min() == image.max():  # no transform makes a picture of a plain surface
        assert made.min() == made.max() == image.min()


# Batches -----------------------------------------------------------------------------


@settings(100)
@hypothesis.given(
    num_examples=st.integers(1, 3000),
    fraction=st.floats(0, 1),
    step=st.integers(0, 9),
    seed=st.binary(min_size=16, max_size=32),
    microbatch=st.integers(1, 70),
)
def test_a_batch_holds_examples_once_and_can_be_replayed(
    num_examples, fraction, step, seed, microbatch
):
    batch_size = max(1, round(fraction * num_examples))
    sampling = PoissonSampling.from_batch_size(num_examples, batch_size, num_steps=10)
    chosen = sampling.indices(num_examples, seed, step)
    assert (np.diff(chosen) > 0).all()
    assert ((chosen >= 0) & (chosen < num_examples)).all()
    if sampling.sampling_probability == 1:
        assert len(chosen) == num_examples
    np.testing.assert_array_equal(chosen, sampling.indices(num_examples, seed, step))
    padded = pad_indices(chosen, microbatch)
    assert len(padded) % microbatch == 0
    assert len(padded) - len(chosen) < microbatch or len(padded) == microbatch
    np.testing.assert_array_equal(padded[: len(chosen)], chosen)
    assert (padded[len(chosen) :] == PADDING).all()


def test_a_damaged_picture_is_not_read_as_another(tmp_path):
    """Decoders of PNG skip checksums of pixels; any flipped bit must be noticed."""
    image = np.random.default_rng(0).integers(0, 256, (4, 4, 3), np.uint8)
    path = tmp_path / "a.png"
    Image.fromarray(image).save(path)
    whole = path.read_bytes()
    # The last chunk is empty, and none of its bits change the picture.
    last = whole.index(b"IEND") - 4
    for bit in range(0, 8 * last, 7):
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        with pytest.raises(InputError, match="cannot be decoded"):
            loaded("image_folder", tmp_path)


def test_a_value_of_many_lines_is_shown_on_one():
    value = ml_collections.ConfigDict({"a": {"b": 1}})
    assert "\n" in repr(value)
    with pytest.raises(InputError) as e:
        validate.real("x", value)
    check_is_sentence(e.value)
