"""What both sides of the evaluation benchmark work on, and the tests of Inception."""

import importlib
from collections.abc import Iterator
from types import ModuleType

import numpy as np

from dpdm_jax.evaluation import inception

CLASSIFIERS = ("logreg", "mlp", "cnn")
NUM_CLASSES = 10
#: One image in so many selects the epoch.
SELECTION = 5


def labelled(number: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Images that classifiers can learn: uint8 [number, 28, 28, 1], labels [number]."""
    rng = np.random.default_rng(seed)
    prototypes = np.random.default_rng(0).integers(0, 128, (NUM_CLASSES, 28, 28, 1))
    labels = rng.integers(0, NUM_CLASSES, number).astype(np.int32)
    images = prototypes[labels] + rng.integers(0, 128, (number, 28, 28, 1))
    return images.astype(np.uint8), labels


def inception_state() -> dict[str, np.ndarray]:
    """Random weights of FID's Inception, by the names of the published file.

    Kernels keep the scale of activations, so that every layer matters to the features.
    """
    rng = np.random.default_rng(0)
    state = {}
    for path, shape in inception.parameter_shapes().items():
        if path[-1] != "kernel":
            continue
        unit = ".".join((path[0].capitalize(), *path[1:-1]))
        height, width, fan_in, out = shape
        kernel = rng.standard_normal((out, fan_in, height, width), np.float32)
        state |= {
            f"{unit}.conv.weight": kernel * np.sqrt(2 / (fan_in * height * width)),
            f"{unit}.bn.weight": rng.uniform(0.7, 1.3, out),
            f"{unit}.bn.bias": rng.normal(0, 0.1, out),
            f"{unit}.bn.running_mean": rng.normal(0, 0.1, out),
            f"{unit}.bn.running_var": rng.uniform(0.7, 1.3, out),
            f"{unit}.bn.num_batches_tracked": np.array(0),
        }
    state |= {
        "fc.weight": np.zeros((1008, 2048), np.float32),
        "fc.bias": np.zeros(1008, np.float32),
    }
    return {
        name: array.astype(np.float32) if array.ndim else array
        for name, array in state.items()
    }


def imported_pytorch_fid() -> Iterator[ModuleType]:
    """Yields the package pytorch-fid, importable while the generator lives.

    Its torchvision's binary part may fit another build of PyTorch and not load. Nothing
    here calls the operators in it, but torchvision refers to two of them.
    """
    import torch

    library = torch.library.Library("torchvision", "FRAGMENT")
    try:
        importlib.import_module("torchvision")
    except RuntimeError:
        for name in ("nms", "qnms"):
            library.define(
                f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            )
    importlib.import_module("pytorch_fid.fid_score")
    yield importlib.import_module("pytorch_fid")
    library._destroy()
