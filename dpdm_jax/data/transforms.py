"""Pure image transforms; one image is uint8 [H, W, C] with C = 1 (grey) or 3 (RGB).

The preparations of the DPDM paper (Dockhorn et al., 2023), in these terms:

- CelebA at 32 or 64 pixels: the aligned 218x178 images, ``crop="celeba"`` (the square
  of 178x178 in the middle), ``resize="lanczos"``. The paper does not print its command;
  this is the centre crop of the preparation tool that its code names.
- ImageNet at 32 pixels: ``crop="center_square"`` (the largest square in the middle),
  ``resize="lanczos"`` on full-size files, by the same tool. TFDS's
  ``imagenet_resized/32x32`` and ``downsampled_imagenet/32x32`` are already 32x32, made
  with other filters, and pass through unchanged.
"""

import dataclasses
from typing import Any

import numpy as np
from PIL import Image

from dpdm_jax import validate
from dpdm_jax.errors import InputError

CROPS = ("none", "center_square", "celeba")
RESIZE_FILTERS = {
    "lanczos": Image.Resampling.LANCZOS,
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "box": Image.Resampling.BOX,
}
_CELEBA_SHAPE = (218, 178)


def format_shape(shape: tuple[int, ...]) -> str:
    """Formats an image shape for messages, (28, 28, 1) as ``28x28x1``."""
    return "x".join(str(n) for n in shape)


def center_crop_square(image: np.ndarray, side: int = 0) -> np.ndarray:
    """Cuts a square out of the middle of an image.

    Args:
        image: [H, W, C]. An odd margin leaves its extra row or column at the end.
        side: of the square in pixels, at most min(H, W); 0 for that.

    Returns:
        [side, side, C].

    Raises:
        InputError: the image is smaller.
    """
    height, width = image.shape[:2]
    side = side or min(height, width)
    if side > min(height, width):
        raise InputError(
            f"the image is {format_shape(image.shape)}; allowed: at least "
            f"{side}x{side}, the square to cut out of its middle."
        )
    top, left = (height - side) // 2, (width - side) // 2
    return image[top : top + side, left : left + side]


def center_crop_celeba(image: np.ndarray) -> np.ndarray:
    """Cuts rows 20 to 197 out of an aligned CelebA image, all 178 columns.

    Args:
        image: [218, 178, C].

    Returns:
        [178, 178, C].

    Raises:
        InputError: the image is not 218x178, so it is no aligned CelebA image.
    """
    if image.shape[:2] != _CELEBA_SHAPE:
        raise InputError(
            f"data.crop is 'celeba' but the image is {format_shape(image.shape)}; "
            f"allowed: aligned CelebA images of {format_shape(_CELEBA_SHAPE)} pixels."
        )
    return center_crop_square(image)


def resize(image: np.ndarray, size: int, filter_name: str) -> np.ndarray:
    """Resizes a square image with Pillow's antialiased filters.

    An image that has the size already is returned as it is.

    Args:
        image: uint8 [S, S, C].
        size: the new side in pixels, >= 1.
        filter_name: one of ``RESIZE_FILTERS``; the filter's support grows with the
            factor of reduction, and results are rounded to uint8.

    Returns:
        uint8 [size, size, C].

    Raises:
        InputError: the image is not square (it would be distorted), or the filter is
            unknown.
    """
    validate.one_of("data.resize", filter_name, RESIZE_FILTERS)
    height, width = image.shape[:2]
    if height == width == size:
        return image
    if height != width:
        raise InputError(
            f"the image is {format_shape(image.shape)} and would be distorted by "
            f"resizing to {size}x{size}; allowed: a square image, or "
            "data.crop='center_square'."
        )
    resized = _to_pillow(image).resize((size, size), RESIZE_FILTERS[filter_name])
    return np.asarray(resized).reshape(size, size, image.shape[-1])


def set_channels(image: np.ndarray, channels: int) -> np.ndarray:
    """Converts between grey and RGB.

    Args:
        image: uint8 [H, W, C], C = 1 or 3.
        channels: 1 or 3. Grey to RGB repeats the value three times; RGB to grey takes
            the ITU-R 601-2 luma, 0.299 R + 0.587 G + 0.114 B, as Pillow rounds it.

    Returns:
        uint8 [H, W, channels].
    """
    if image.shape[-1] == channels:
        return image
    if channels == 3:
        return np.repeat(image, 3, axis=-1)
    return np.asarray(_to_pillow(image).convert("L"))[..., None]


@dataclasses.dataclass(frozen=True)
class Preparation:
    """Crop, then channels, then resize: what turns a stored image into a training one.

    Attributes:
        crop: one of ``CROPS``.
        image_size: side of the result in pixels; 0 keeps the size after the crop.
        filter_name: one of ``RESIZE_FILTERS``.
        channels: 1, 3, or 0 to keep the stored ones.
    """

    crop: str = "none"
    image_size: int = 0
    filter_name: str = "lanczos"
    channels: int = 0

    @classmethod
    def from_config(cls, config: Any) -> "Preparation":
        """Reads crop, image_size, resize and channels of ``sources.DataSettings``."""
        return cls(config.crop, config.image_size, config.resize, config.channels)

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Prepares one image, uint8 [H, W, C] to uint8 [S, S', C'].

        Raises:
            InputError: the image does not fit the crop, or is not square when it must
                be resized.
        """
        if self.crop == "celeba":
            image = center_crop_celeba(image)
        elif self.crop == "center_square":
            image = center_crop_square(image)
        if self.channels:
            image = set_channels(image, self.channels)
        if self.image_size:
            image = resize(image, self.image_size, self.filter_name)
        return image


def _to_pillow(image: np.ndarray) -> Image.Image:
    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
