import shutil
from pathlib import Path

import idx_files
import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from PIL import Image, ImageFont
from reading import images_and_labels, shape_of
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from dpdm_jax import data
from dpdm_jax.data import binding, fonts
from dpdm_jax.data.font_rendering import Distortion, Renderer, outline
from dpdm_jax.errors import InputError

NONE = {
    "rotation": 0.0,
    "shear": 0.0,
    "scale": (1.0, 1.0),
    "stroke": (0.0, 0.0),
    "elastic_amplitude": 0.0,
}
DIGITS = "0123456789"
BUNDLED = {path.name: path for path in fonts.font_files("")}


@pytest.fixture
def glyph_config(data_config):
    """Makes a data config of this source; names of the group's fields are its."""

    def make(**overrides):
        config = data_config(source="glyphs")
        config.glyphs.images_per_character = 20
        for name, value in overrides.items():
            (config.glyphs if name in config.glyphs else config)[name] = value
        return config

    return make


def read(config, split="train", indices=None):
    source = data.load_source(config, split)
    return images_and_labels(source, indices)


def draw_font(path, drawn="", empty="", alike=""):
    """Writes a font that draws bars of various lengths."""
    builder = FontBuilder(1000, isTTF=True)
    shapes = {}
    for k, name in enumerate([".notdef", *drawn, "empty", "alike"]):
        pen = TTGlyphPen(None)
        if name != "empty":
            corners = [(0, 0), (0, 100 + 9 * k), (200, 100 + 9 * k), (200, 0)]
            pen.moveTo(corners[0])
            for corner in corners[1:]:
                pen.lineTo(corner)
            pen.closePath()
        shapes[name if len(name) > 1 else f"g{k}"] = pen.glyph()
    builder.setupGlyphOrder(list(shapes))
    names = {ord(c): f"g{1 + k}" for k, c in enumerate(drawn)}
    names |= {ord(c): "empty" for c in empty} | {ord(c): "alike" for c in alike}
    builder.setupCharacterMap(names)
    builder.setupGlyf(shapes)
    builder.setupHorizontalMetrics(dict.fromkeys(shapes, (300, 0)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": path.stem, "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(path)


def test_source(glyph_config):
    for split in ("train", "test"):
        source = data.load_source(glyph_config(characters="aB7"), split)
        assert isinstance(source, data.Source)
        assert (len(source), source.condition.num_classes) == (60, 3)
        assert shape_of(source) == (28, 28, 1)
        images, labels = images_and_labels(source, np.array([4, 0, 59]))
        assert (images.dtype, labels.dtype) == (np.uint8, np.int32)
        assert images.shape == (3, 28, 28, 1)
        np.testing.assert_array_equal(labels, [1, 0, 2])


@pytest.mark.slow
def test_images_depend_neither_on_order_nor_instance_nor_number(glyph_config):
    images, labels = read(glyph_config())
    assert len({image.tobytes() for image in images}) == 200
    order = np.random.default_rng(0).permutation(200)
    config = glyph_config(images_per_character=30)
    shuffled, shuffled_labels = read(config, indices=order)
    np.testing.assert_array_equal(shuffled, images[order])
    np.testing.assert_array_equal(shuffled_labels, labels[order])
    for other in (glyph_config(seed=1), glyph_config(elastic_smoothness=9.0)):
        assert (read(other)[0] != images).any(axis=(1, 2, 3)).all()


def test_digest(glyph_config):
    digests = []
    for seed in (0, 0, 1):
        source = data.load_source(glyph_config(seed=seed), "train")
        bound, digest = binding.bind(source)
        digests.append(digest)
        images, labels = images_and_labels(bound, np.array([7, 3]))
        expected = images_and_labels(source, np.array([7, 3]))
        np.testing.assert_array_equal(images, expected[0])
        np.testing.assert_array_equal(labels, expected[1])
    assert digests[0] == digests[1] != digests[2]


def test_symbol_fonts_are_passed_over():
    names = {path.name for path in fonts.fonts_with(DIGITS, list(BUNDLED.values()))}
    letters = {path.name for path in fonts.fonts_with("aQ", list(BUNDLED.values()))}
    text = {"DejaVuSans.ttf", "DejaVuSerif-Bold.ttf", "STIXGeneral.ttf", "cmr10.ttf"}
    symbols = {"cmex10.ttf", "LastResortHE-Regular.ttf", "STIXSizOneSymReg.ttf"}
    symbols |= {"DejaVuSansDisplay.ttf", "STIXNonUni.ttf", "cmsy10.ttf"}
    for chosen in (names, letters):
        assert text < chosen
        assert not symbols & chosen


@pytest.mark.slow
def test_splits_share_no_font_and_follow_names(tmp_path, glyph_config):
    usable = fonts.fonts_with(DIGITS, list(BUNDLED.values()))
    split_of = {}
    for split in ("train", "test"):
        source = data.load_source(glyph_config(), split)
        split_of |= dict.fromkeys((p.name for p in source._fonts), split)
    assert len(split_of) == len(usable)
    assert list(split_of.values()).count("test") == 2 == round(len(usable) / 10)
    # Written in another order and to other folders.
    for k, path in enumerate(reversed(usable)):
        folder = tmp_path / str(k % 3)
        folder.mkdir(exist_ok=True)
        shutil.copy(path, folder)
    (tmp_path / "0" / "README.txt").write_text("not a font")
    shutil.copy(usable[0], tmp_path / "2")  # a second copy
    for split in ("train", "test"):
        source = data.load_source(glyph_config(path=str(tmp_path)), split)
        names = [p.name for p in source._fonts]
        assert len(names) == len(set(names))
        assert set(names) == {n for n, s in split_of.items() if s == split}
        np.testing.assert_array_equal(
            images_and_labels(source, np.arange(200))[0], read(glyph_config(), split)[0]
        )


def test_images_are_of_the_test_fonts(tmp_path, glyph_config):
    """With one character in one font, undistorted, images show which font it is."""
    for k in range(3):
        draw_font(tmp_path / f"{k}.ttf", drawn="xy"[: 1 + k])
    config = glyph_config(path=str(tmp_path), characters="x", **NONE)
    names = [p.name for p in fonts.font_files(str(tmp_path))]
    test, train = names[:1], names[1:]
    assert [p.name for p in data.load_source(config, "test")._fonts] == test
    assert [p.name for p in data.load_source(config, "train")._fonts] == train


@pytest.mark.parametrize("size", [8, 28, 40])
def test_mnist_frame(glyph_config, size):
    images = read(glyph_config(image_size=size, characters="0L7q"))[0][..., 0]
    assert images.shape == (80, size, size)
    weights = images / images.sum(axis=(1, 2), keepdims=True)
    for axis in (1, 2):
        centres = weights.sum(axis=3 - axis) @ np.arange(size)
        np.testing.assert_allclose(np.median(centres), size / 2, atol=0.3)
        # As far as whole pixels, and the edges, allow.
        lines = images.any(axis=3 - axis)
        at_edge = lines[:, 0] | lines[:, -1]
        np.testing.assert_allclose(centres[~at_edge], size / 2, atol=0.51)
        assert at_edge.mean() < (0.7 if size == 8 else 0.1)
    inked = images > 0
    sides = np.maximum(inked.any(axis=1).sum(axis=1), inked.any(axis=2).sum(axis=1))
    assert (sides == round(size * 20 / 28)).all()
    assert (images.max(axis=(1, 2)) > (100 if size == 8 else 200)).all()


@pytest.mark.parametrize("size", [8, 28])
def test_full_frame(glyph_config, size):
    images = read(glyph_config(image_size=size, frame="full"))[0][..., 0]
    # 0 to 16 inked ones of 16.
    np.testing.assert_array_equal(np.unique(images), np.rint(np.arange(17) * 255 / 16))
    inked = images > 0
    rows, columns = inked.any(axis=2), inked.any(axis=1)
    full = rows.all(axis=1) | columns.all(axis=1)
    # Corners may fill less than half of their fine pixel.
    assert full.mean() > 0.98
    for lines in (rows, columns):
        before, after = lines.argmax(axis=1), lines[:, ::-1].argmax(axis=1)
        assert abs(before - after).max() <= 1


def plain(path, character, box):
    """A glyph in a box of so many pixels, by Pillow alone."""
    mask = ImageFont.truetype(path, 400).getmask(character, mode="L")
    image = Image.frombytes("L", mask.size, bytes(mask))
    image = image.crop(image.getbbox())
    scale = box / max(image.size)
    size = tuple(max(1, round(scale * side)) for side in image.size)
    return np.asarray(image.resize(size, Image.Resampling.BOX)).astype(int)


def test_without_distortion_glyphs_are_as_the_font_draws_them(glyph_config):
    source = data.load_source(glyph_config(**NONE), "train")
    num_fonts = len(source._fonts)
    images = images_and_labels(source, np.arange(10 * num_fonts))[0][..., 0].astype(int)
    off = []
    for i, image in enumerate(images):
        rows, columns = (np.flatnonzero(image.any(axis=axis)) for axis in (1, 0))
        cut = image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        expected = plain(source._fonts[i // 10], DIGITS[i % 10], 20)
        if cut.shape == expected.shape:
            off.append(abs(cut - expected).mean())
    # A side may be rounded to one pixel more.
    assert len(off) > 0.85 * len(images)
    assert np.mean(off) < 8
    assert np.max(off) < 20
    again = data.load_source(glyph_config(**NONE, seed=3), "train")
    same = images_and_labels(again, np.arange(10 * num_fonts))[0][..., 0]
    np.testing.assert_array_equal(images, same)


@pytest.mark.parametrize(
    "distortion",
    [
        {"rotation": 12.0},
        {"shear": 0.3},
        {"scale": (0.8, 1.2)},
        {"stroke": (5.0, 6.0)},
        {"elastic_amplitude": 1.5},
    ],
)
def test_each_distortion_changes_images(glyph_config, distortion):
    indices = np.arange(60)
    undistorted = read(glyph_config(**NONE), indices=indices)[0]
    images = read(glyph_config(**(NONE | distortion)), indices=indices)[0]
    changed = (images != undistorted).any(axis=(1, 2, 3))
    assert changed.mean() > 0.9


def test_distortions_do_what_they_say():
    bar = outline(np.full((60, 10), 255, np.uint8))
    assert (bar.height, bar.width) == (60, 10)
    assert bar.stroke == pytest.approx(10, abs=1.5)
    render = Renderer(28, "mnist")

    def slope(distortion):
        rows, columns = np.nonzero(render(bar, distortion) > 127)
        return np.polyfit(rows, columns, 1)[0]  # to the right, going down

    tan20 = np.tan(np.radians(20))
    assert slope(Distortion()) == pytest.approx(0, abs=0.02)
    assert slope(Distortion(rotation=20)) == pytest.approx(tan20, abs=0.08)
    assert slope(Distortion(shear=0.4)) == pytest.approx(-0.4, abs=0.08)

    def width(distortion):
        return (render(bar, distortion) / 255).sum() / 20

    assert width(Distortion()) == pytest.approx(20 / 6, abs=0.4)
    assert width(Distortion(width=1.5)) == pytest.approx(1.5 * 20 / 6, abs=0.4)
    assert width(Distortion(height=2.0)) == pytest.approx(20 / 12, abs=0.4)
    assert width(Distortion(stroke=5)) == pytest.approx(5, abs=0.6)
    assert width(Distortion(stroke=0.1)) == pytest.approx(10 / 6, abs=0.4)


def test_elastic_displacement_has_its_amplitude():
    """The top edge of a wide block moves by it, up and down."""
    block = outline(np.full((100, 100), 255, np.uint8))
    draws = np.random.RandomState(0)
    heights = []
    render = Renderer(140, "full", amplitude=0.7, smoothness=2.0)
    for _ in range(6):
        image = render(block, Distortion(), draws.standard_normal(render.noise_shape))
        heights.append((image > 127).argmax(axis=0)[30:110])
    heights = np.array(heights) - np.mean(heights, axis=1, keepdims=True)
    # 0.7 parts of 7 pixels, less what the mean of an edge takes.
    assert 2.5 < heights.std() < 5.5


@pytest.mark.slow
def test_a_classifier_carries_over(glyph_config):
    """To fonts that it was not trained on, and to real digits; chance is 0.1."""
    kind = {"image_size": 8, "frame": "full", "images_per_character": 150}
    images, labels = read(glyph_config(**kind))
    model = LogisticRegression(C=0.1, max_iter=200)
    model.fit(images.reshape(len(images), -1) / 255, labels)
    images, labels = read(glyph_config(**kind | {"images_per_character": 40}), "test")
    accuracy = model.score(images.reshape(len(images), -1) / 255, labels)
    assert accuracy > 0.45
    digits = load_digits()
    assert model.score(digits.data / 16, digits.target) > 0.58


def test_preparation_applies(glyph_config):
    grey = read(glyph_config(), indices=np.arange(3))[0]
    colour = read(glyph_config(channels=3), indices=np.arange(3))[0]
    np.testing.assert_array_equal(colour, np.repeat(grey, 3, axis=-1))


def test_labels_can_be_hidden(glyph_config):
    source = data.load_source(glyph_config(num_classes=0), "train")
    assert source.condition.num_classes == 0
    assert not images_and_labels(source, np.arange(20))[1].any()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"characters": ""}, "characters is ''; allowed: at least one character"),
        ({"characters": "0121"}, "'0121', in which '1' is repeated; allowed: each"),
        ({"characters": "0\U000e0001"}, "is in none of [0-9]+ fonts; allowed: charac"),
        ({"characters": "0 "}, "of which ' ' is in none of [0-9]+ fonts"),
        ({"images_per_character": -5}, "character is -5; allowed: an integer >= 1"),
        ({"images_per_character": 10**17}, "allowed: as many as fit into memory"),
        ({"seed": -1}, "glyphs.seed is -1; allowed: an integer >= 0"),
        ({"frame": "none"}, "glyphs.frame is 'none'; allowed: mnist, full"),
        ({"rotation": -1.0}, "rotation is -1.0; allowed: a finite number >= 0"),
        ({"shear": -0.1}, "shear is -0.1; allowed: a finite number >= 0"),
        ({"scale": (0.0, 1.0)}, "a bound of .*scale is 0.0; allowed: .* >= 0.2"),
        ({"scale": (1.2, 0.8)}, r"\(1.2, 0.8\); allowed: the smaller number first"),
        ({"stroke": (1.0,)}, r"stroke is \(1.0,\); allowed: 2 values"),
        ({"stroke": (-1.0, 1.0)}, "a bound of .*stroke is -1.0; allowed: .* >= 0"),
        ({"elastic_amplitude": -1.0}, "amplitude is -1.0; allowed: a finite number"),
        ({"elastic_smoothness": 0.0}, "smoothness is 0.0; allowed: .* >= 1 and <= 20"),
        ({"image_size": 3}, "image_size is 3; allowed: 4 to 512 for glyphs, or 0"),
        ({"num_classes": 5}, "go up to 9; allowed: 0 to 4"),
        ({"crop": "celeba"}, "crop is 'celeba' but the image is 28x28x1"),
        ({"train_split": "all"}, "train_split is 'all'; allowed: train, test"),
        ({"num_examples": 7}, "is 7 but the training data has 200 images"),
        ({"path": "/nowhere"}, "path is '/nowhere', which is missing; allowed: a f"),
    ],
)
def test_bad_settings_are_refused(glyph_config, overrides, message):
    with pytest.raises(InputError, match=message) as caught:
        data.load_source(glyph_config(**overrides), "train")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("drawing", "message"),
    [
        ({}, "has no font files; allowed: a folder of .ttf or .otf"),
        ({"a": {"drawn": "xy"}}, "of 1 font files 1 draw all of 'xy'; allowed: at"),
        ({"a": {"drawn": "xy"}, "b": {"drawn": "x"}}, "of 2 font files 1 draw all"),
        ({"a": {"drawn": "x"}, "b": {"drawn": "x"}}, "'y' is in none of 2 fonts"),
        ({"a": {"drawn": "x", "empty": "y"}}, "'y' is in none of 1 fonts"),
        ({"a": {"alike": "xy\U0001fffe"}}, "'x' is in none of 1 fonts"),
    ],
)
def test_fonts_that_do_not_draw_are_refused(tmp_path, glyph_config, drawing, message):
    for name, drawn in drawing.items():
        draw_font(tmp_path / f"{name}.ttf", **drawn)
    config = glyph_config(path=str(tmp_path), characters="xy")
    with pytest.raises(InputError, match=message):
        data.load_source(config, "train")


@pytest.mark.parametrize("content", [b"", b"not a font", None])
def test_damaged_font_is_named(tmp_path, glyph_config, content):
    shutil.copy(BUNDLED["DejaVuSans.ttf"], tmp_path / "good.ttf")
    whole = Path(tmp_path / "good.ttf").read_bytes()
    content = whole[:2000] if content is None else content
    (tmp_path / "bad.OTF").write_bytes(content)
    config = glyph_config(path=str(tmp_path))
    with pytest.raises(InputError, match=r"bad\.OTF cannot be read as a font .*allow"):
        data.load_source(config, "train")


def test_hairlines_and_dots_are_rendered(glyph_config):
    config = glyph_config(characters=".-|'", images_per_character=20)
    images = read(config)[0]
    assert (images.max(axis=(1, 2, 3)) > 100).all()


def test_prepared_files_are_read_as_they_are(tmp_path, glyph_config):
    """Labels 0-9, A-Z, a-z; those of the characters that are asked for."""
    images = np.random.default_rng(0).integers(0, 256, (7, 9, 9), np.uint8)
    labels = np.array([3, 10, 61, 0, 3, 35, 36], np.uint8)
    for prefix in ("train", "t10k"):
        idx_files.write(tmp_path, images, labels, prefix=prefix, zipped=True)
    config = glyph_config(path=str(tmp_path), characters="3zA", num_classes=3)
    for split in ("train", "test"):
        found, classes = read(config, split, np.arange(4))
        np.testing.assert_array_equal(found[..., 0], images[[0, 1, 2, 4]])
        np.testing.assert_array_equal(classes, [0, 2, 1, 0])
    config.image_size = 6
    assert shape_of(data.load_source(config, "train")) == (6, 6, 1)
    config.glyphs.characters = "3\u00e4"
    with pytest.raises(InputError, match="has labels up to 61; allowed: some of 0-9, "):
        data.load_source(config, "train")
    config.glyphs.characters = "3zA"
    idx_files.write(tmp_path, images, labels[:6], zipped=True)
    with pytest.raises(InputError, match="has 7 images and 6 labels of 'train'; allow"):
        data.load_source(config, "train")
