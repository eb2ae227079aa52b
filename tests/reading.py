"""What tests read of sources of labelled images."""

import numpy as np


def images_and_labels(source, indices=None):
    """Returns both of some examples, or of all, in their order."""
    indices = np.arange(len(source)) if indices is None else indices
    found = source.examples(indices)
    return found["image"], found["condition"]


def shape_of(source):
    """Returns (h, w, c) of its images."""
    return source.spec["image"].shape
