import dataclasses
import pathlib

import jax
import numpy as np
import pytest

from dpdm_jax.autoencoding import perceptual_weights
from dpdm_jax.errors import InputError
from dpdm_jax.networks.codecs.training import Settings
from dpdm_jax.networks.perceptual import STAGES, perceptual

torch = pytest.importorskip("torch")
# Places of VGG16's convolutions, by stage, as its authors count layers.
_PLACES = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))


def state_dict():
    """Weights by LPIPS's names, each filled with a number of its own."""
    found, channels, number = {}, 3, 0.0
    for i, (widths, places) in enumerate(zip(STAGES, _PLACES, strict=True)):
        for width, place in zip(widths, places, strict=True):
            name = f"net.slice{i + 1}.{place}"
            number += 1
            found[f"{name}.weight"] = torch.full((width, channels, 3, 3), number)
            found[f"{name}.bias"] = torch.full((width,), -number)
            channels = width
        found[f"lin{i}.model.1.weight"] = torch.full((1, widths[-1], 1, 1), i + 0.5)
    found["scaling_layer.shift"] = torch.zeros(1, 3, 1, 1)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("prefix", ["", "loss.perceptual_loss."])
def test_weights_are_found_by_their_published_names(tmp_path, prefix):
    path = tmp_path / "lpips.pth"
    torch.save({prefix + name: x for name, x in state_dict().items()}, path)
    params = perceptual_weights.read(Settings(perceptual_weights=str(path)))
    shapes = jax.eval_shape(perceptual().init, jax.random.key(0))
    assert jax.tree.map(np.shape, params) == jax.tree.map(np.shape, shapes)
    assert np.unique(params["stages"]["stage_2"]["conv_1"]["kernel"]) == 6.0
    assert np.unique(params["stages"]["stage_2"]["conv_1"]["bias"]) == -6.0
    assert np.unique(params["weights"]["stage_4"]) == 4.5


def test_kernels_are_turned_as_ours_lie():
    tensors = {name: x.numpy() for name, x in state_dict().items()}
    kernel = np.random.default_rng(0).normal(size=(64, 3, 3, 3)).astype(np.float32)
    tensors["net.slice1.0.weight"] = kernel
    params = perceptual_weights.converted(tensors, pathlib.Path("x"))
    ours = params["stages"]["stage_0"]["conv_0"]["kernel"]
    np.testing.assert_array_equal(ours[1, 2, 0], kernel[:, 0, 1, 2])


def test_no_name_is_no_distance():
    assert perceptual_weights.read(Settings()) == {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lin2.model.1.weight": None}, "lacks lin2.model.1.weight"),
        ({"net.slice2.7.bias": np.zeros(3)}, r"has the shape \(3,\) for net.slice2.7"),
    ],
)
def test_other_weights_are_refused(change, message):
    tensors = {name: x.numpy() for name, x in state_dict().items()} | change
    tensors = {name: x for name, x in tensors.items() if x is not None}
    with pytest.raises(InputError, match=message):
        perceptual_weights.converted(tensors, pathlib.Path("x"))


def test_a_missing_file_is_one_sentence(tmp_path):
    settings = dataclasses.replace(
        Settings(), perceptual_weights=str(tmp_path / "none.pth")
    )
    with pytest.raises(InputError, match="none.pth"):
        perceptual_weights.read(settings)
