"""What tests read of sources of labelled images, and write for them."""

import io

import numpy as np
from PIL import Image


def images_and_labels(source, indices=None):
    """Returns both of some examples, or of all, in their order."""
    indices = np.arange(len(source)) if indices is None else indices
    found = source.examples(indices)
    return found["image"], found["condition"]


def shape_of(source):
    """Returns (h, w, c) of its images."""
    return source.spec["image"].shape


def png(image: np.ndarray) -> bytes:
    """Returns a PNG file of an image uint8 [H, W, 3]."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, format="PNG")
    return file.getvalue()
