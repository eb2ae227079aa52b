"""The Inception of FID against the network of the package pytorch-fid."""

import jax
import numpy as np
import pytest

from dpdm_jax.errors import InputError
from dpdm_jax.evaluation import inception


@pytest.fixture(scope="module")
def pytorch_fid_network(pytorch_fid, inception_state):
    """pytorch-fid's own network with the random weights."""
    import torch

    state = {name: torch.from_numpy(a.copy()) for name, a in inception_state.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            pytorch_fid.inception, "load_state_dict_from_url", lambda *a, **k: state
        )
        yield pytorch_fid.inception.InceptionV3().eval()


def photos(number, height, width, channels, seed=0):
    """Random images that are smooth here and rough there, uint8."""
    rng = np.random.default_rng(seed)
    rough = rng.uniform(0, 1, (number, height, width, channels))
    smooth = np.cumsum(rng.normal(0, 0.1, rough.shape), axis=1)
    return (255 * np.clip(0.3 * rough + np.abs(np.sin(smooth)), 0, 1)).astype(np.uint8)


# Smaller and larger than what the network sees, grey and colour, not square.
@pytest.mark.slow
@pytest.mark.parametrize("shape", [(28, 28, 1), (32, 32, 3), (310, 320, 3)])
def test_activations_are_those_of_pytorch_fid(
    pytorch_fid_network, inception_state, shape
):
    import torch

    images = photos(2, *shape)
    params = inception.params_from_state_dict(inception_state)
    ours = jax.jit(inception.features)(params, images)
    colour = np.repeat(images, 3, axis=-1) if shape[-1] == 1 else images
    x = torch.from_numpy(colour.transpose(0, 3, 1, 2)).to(torch.float32) / 255
    with torch.no_grad():
        (theirs,) = pytorch_fid_network(x)
    theirs = theirs.numpy()[:, :, 0, 0]
    assert ours.shape == theirs.shape == (2, inception.NUM_FEATURES)
    # The images must differ in their features for the comparison to say anything.
    assert np.abs(theirs[0] - theirs[1]).max() > 0.1
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4 * theirs.std())


def test_pooling_by_hand():
    x = np.arange(9, dtype=np.float32).reshape(1, 3, 3, 1)
    averages = np.asarray(inception.average_pool(x))[0, :, :, 0]
    # Corners average 4 pixels, edges 6.
    assert averages[0, 0] == np.mean([0, 1, 3, 4])
    assert averages[0, 1] == np.mean([0, 1, 2, 3, 4, 5])
    assert averages[1, 1] == 4
    np.testing.assert_array_equal(
        np.asarray(inception.max_pool(-x, stride=1))[0, :, :, 0],
        [[0, 0, -1], [0, 0, -1], [-3, -3, -4]],
    )
    assert np.asarray(inception.max_pool(x, stride=2)).ravel() == [8]


def test_resize_by_hand():
    x = np.array([0, 4], np.float32).reshape(1, 1, 2, 1)
    resized = np.asarray(inception.resize_bilinear(x, 4))[0, :, :, 0]
    np.testing.assert_array_equal(resized, [[0, 1, 3, 4]] * 4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("Mixed_6e.branch_pool.bn.bias"), "no Mixed_6e.branch_pool.bn"),
        (
            lambda s: s.update({"Mixed_7a.branch3x3_1.bn.bias": np.zeros(3)}),
            r"Mixed_7a.branch3x3_1.bn.bias has shape \(3,\); allowed: \(192,\)",
        ),
        (lambda s: s.update({"AuxLogits.bn": np.zeros(3)}), "have AuxLogits.bn"),
    ],
)
def test_other_weights_are_refused(inception_state, change, message):
    state = dict(inception_state)
    change(state)
    with pytest.raises(InputError, match=message):
        inception.params_from_state_dict(state)
