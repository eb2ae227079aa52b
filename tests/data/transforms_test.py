import numpy as np
import pytest
from PIL import Image

from dpdm_jax.data import transforms
from dpdm_jax.errors import InputError


def random_image(height, width, channels, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (height, width, channels), np.uint8)


@pytest.mark.parametrize(
    ("shape", "rows", "columns"),
    [
        ((5, 9, 3), slice(0, 5), slice(2, 7)),
        ((9, 4, 1), slice(2, 6), slice(0, 4)),
        ((6, 6, 3), slice(0, 6), slice(0, 6)),
    ],
)
def test_center_crop_square_takes_the_middle(shape, rows, columns):
    image = random_image(*shape)
    cropped = transforms.center_crop_square(image)
    np.testing.assert_array_equal(cropped, image[rows, columns])


def test_center_crop_square_takes_a_stated_side():
    image = random_image(9, 6, 3)
    cropped = transforms.center_crop_square(image, 4)
    np.testing.assert_array_equal(cropped, image[2:6, 1:5])
    with pytest.raises(InputError, match="9x6x3; allowed: at least 7x7"):
        transforms.center_crop_square(image, 7)


@pytest.mark.parametrize("size", [32, 64])
def test_celeba_preparation_is_crop_178_then_lanczos(size):
    image = random_image(218, 178, 3)
    prepared = transforms.Preparation("celeba", size, "lanczos", 3)(image)
    cropped = Image.fromarray(image).crop((0, 20, 178, 198))
    expected = cropped.resize((size, size), Image.Resampling.LANCZOS)
    np.testing.assert_array_equal(prepared, np.asarray(expected))


def test_celeba_crop_refuses_other_sizes():
    with pytest.raises(InputError, match="178x218x3; allowed: aligned CelebA images"):
        transforms.center_crop_celeba(random_image(178, 218, 3))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", transforms.RESIZE_FILTERS)
def test_resize_keeps_constants_and_identity(name, channels):
    constant = np.full((20, 20, channels), 137, np.uint8)
    small = transforms.resize(constant, 8, name)
    np.testing.assert_array_equal(small, np.full((8, 8, channels), 137))
    image = random_image(8, 8, channels)
    np.testing.assert_array_equal(transforms.resize(image, 8, name), image)


def test_box_resize_averages_blocks():
    image = random_image(8, 8, 1)
    blocks = image.reshape(4, 2, 4, 2, 1).mean(axis=(1, 3))
    resized = transforms.resize(image, 4, "box")
    assert np.abs(resized - blocks).max() <= 1  # Pillow rounds after each axis


def test_filters_differ():
    image = random_image(32, 32, 3)
    results = [transforms.resize(image, 12, n) for n in transforms.RESIZE_FILTERS]
    for i, one in enumerate(results):
        for other in results[i + 1 :]:
            assert not np.array_equal(one, other)


def test_grey_and_rgb():
    grey = random_image(4, 5, 1)
    rgb = transforms.set_channels(grey, 3)
    assert rgb.shape == (4, 5, 3)
    np.testing.assert_array_equal(rgb, np.broadcast_to(grey, (4, 5, 3)))
    np.testing.assert_array_equal(transforms.set_channels(rgb, 1), grey)
    colour = random_image(4, 5, 3)
    luma = colour @ np.array([0.299, 0.587, 0.114])
    converted = transforms.set_channels(colour, 1)
    assert converted.shape == (4, 5, 1)
    assert np.abs(converted[..., 0] - luma).max() <= 1


def test_resize_refuses_to_distort():
    with pytest.raises(InputError, match=r"4x6x3 .*center_square"):
        transforms.resize(random_image(4, 6, 3), 4, "box")


def test_resize_refuses_unknown_filter():
    with pytest.raises(InputError, match=r"'nearest'; allowed: lanczos"):
        transforms.resize(random_image(4, 4, 3), 2, "nearest")
