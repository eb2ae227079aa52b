import importlib

import numpy as np
import pytest

from dpdm_jax import command_line, data
from dpdm_jax.evaluation import inception


@pytest.fixture(scope="session")
def digits():
    """Real images: 1,237 to train, 200 to select, 360 to test, uint8 8x8x1."""
    config = command_line.load_config("configs/digits.py").data

    def read(split, part):
        source = data.load_source(config, split)
        return source.examples(np.arange(len(source))[part])

    return [
        read("train", slice(1237)),
        read("train", slice(1237, None)),
        read("test", slice(None)),
    ]


@pytest.fixture(scope="session")
def inception_state():
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


@pytest.fixture(scope="session")
def pytorch_fid():
    """The package pytorch-fid, or a skip that says what is missing."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("pytorch_fid")
    library = torch.library.Library("torchvision", "FRAGMENT")
    try:
        importlib.import_module("torchvision")
    except RuntimeError:
        # Its binary part fits another build of PyTorch and did not load. Nothing here
        # calls the operators in it, but torchvision refers to two of them.
        for name in ("nms", "qnms"):
            library.define(
                f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            )
    importlib.import_module("pytorch_fid.fid_score")
    yield importlib.import_module("pytorch_fid")
    library._destroy()
