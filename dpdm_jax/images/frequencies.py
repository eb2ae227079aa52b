"""Frequencies of images: the discrete cosine transform and an assumed spectrum."""

import numpy as np


def dct_matrix(size: int) -> np.ndarray:
    """Returns the orthonormal discrete cosine transform (type II) of a line of pixels.

    Args:
        size: pixels in the line, >= 1.

    Returns:
        float32 [size, size]: row u holds the cosine of u half cycles across the line.
    """
    frequency = np.arange(size)[:, None]
    rows = np.cos(np.pi * frequency * (np.arange(size) + 0.5) / size)
    rows *= np.sqrt(np.where(frequency == 0, 1, 2) / size)
    return rows.astype(np.float32)


def falling_spectrum(height: int, width: int, corner: float) -> np.ndarray:
    """Returns the standard deviations that are assumed of an image's frequencies.

    Level up to the corner and falling with the square of the frequency beyond it: an
    image of smooth parts and edges. A public assumption: it must not be measured on
    private images.

    Args:
        height: of the image, in pixels.
        width: of the image, in pixels.
        corner: frequency in half cycles across the image, > 0, at which the standard
            deviation has fallen to a half.

    Returns:
        float32 [height, width, 1]: of the coefficient of (vertical, horizontal) half
        cycles across the image; their mean square is 1.
    """
    squared = np.arange(height)[:, None] ** 2 + np.arange(width)[None, :] ** 2
    stds = 1 / (1 + squared / corner**2)
    stds /= np.sqrt(np.mean(stds**2))
    return stds[:, :, None].astype(np.float32)
