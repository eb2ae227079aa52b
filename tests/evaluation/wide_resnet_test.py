import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpdm_jax.errors import InputError
from dpdm_jax.evaluation import classifiers, fitting, predictions, recipes, registry
from dpdm_jax.evaluation.wide_resnet import WideResNet
from dpdm_jax.padding import batch_indices


@pytest.mark.slow
@pytest.mark.parametrize(("depth", "size"), [(10, 9), (16, 8)])
def test_equals_pytorch(depth, size):
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    network = WideResNet((size, size, 3), 5, depth=depth, width=1)
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda x: np.asarray(x + 0.1 * rng.normal(size=x.shape), np.float32),
        jax.jit(network.init)(jax.random.key(0)),
    )
    x = rng.uniform(-1, 1, (4, size, size, 3)).astype(np.float32)

    def tensor(array):
        return torch.tensor(np.asarray(array))

    def convolve(layer, x, stride):
        kernel = tensor(layer["kernel"]).permute(3, 2, 0, 1)
        flat = kernel.flatten(1)
        flat = flat - flat.mean(1, keepdim=True)
        flat = flat / flat.norm(dim=1, keepdim=True)
        kernel = flat.view_as(kernel) * tensor(layer["gain"])[:, None, None, None]
        padding = kernel.shape[-1] // 2
        return functional.conv2d(x, kernel, tensor(layer["bias"]), stride, padding)

    def norm(layer, x):
        scale, bias = tensor(layer["scale"]), tensor(layer["bias"])
        return functional.group_norm(torch.relu(x), 16, scale, bias)

    def unit(layer, x, stride=1):
        return convolve(layer, norm(layer["norm"], x), stride)

    def block(params, x, stride=1):
        return unit(params["conv2"], unit(params["conv1"], x, stride))

    h = convolve(params["stem"], tensor(x).permute(0, 3, 1, 2), 1)
    for stage in range(3):
        first, stride = params[f"stage{stage}_first"], 1 if stage == 0 else 2
        h = unit(first["skip"], h, stride) + block(first, h, stride)
        for i in range((depth - 4) // 6 - 1):
            again = jax.tree.map(
                lambda leaf, i=i: leaf[i], params[f"stage{stage}_rest"]
            )
            h = h + block(again, h)
    h = norm(params["norm"], h).mean((2, 3))
    expected = h @ tensor(params["linear"]["kernel"]) + tensor(params["linear"]["bias"])
    logits = jax.jit(network.apply)(params, x)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)


def test_wrn_40_4_is_that_of_the_papers_authors():
    """Counted layer by layer: 8.9 million, as of the usual one with batch norm."""

    def convolution(size, channels, outputs):
        return size**2 * channels * outputs + 2 * outputs  # with gain and bias

    def norm(channels):
        return 2 * channels

    count, channels = convolution(3, 3, 16), 16
    for width in (64, 128, 256):
        # The skip path of a stage's first block has a normalisation of its own.
        count += norm(channels) + convolution(1, channels, width)
        count += norm(channels) + convolution(3, channels, width)
        # The second of the first block, and two of each of five more.
        count += 11 * (norm(width) + convolution(3, width, width))
        channels = width
    count += norm(256) + 256 * 10 + 10
    network = registry.build_classifier("wrn", (32, 32, 3), 10)
    assert network == WideResNet((32, 32, 3), 10, depth=40, width=4)
    assert classifiers.num_parameters(network) == count == 8_961_306


@pytest.mark.slow
def test_an_image_changes_no_other_logits():
    network = WideResNet((8, 8, 1), 3, depth=10, width=1)
    params = jax.jit(network.init)(jax.random.key(0))
    x = np.random.default_rng(0).uniform(-1, 1, (3, 8, 8, 1)).astype(np.float32)
    apply = jax.jit(network.apply)
    other = np.concatenate([x[:2], -x[2:]])
    before, after = apply(params, x), apply(params, other)
    np.testing.assert_allclose(before[:2], after[:2], rtol=1e-5)
    assert np.abs(before[2] - after[2]).max() > 1e-3


@pytest.mark.slow
def test_learns_colours_by_its_recipe():
    # Classes are the colour that dominates; mirroring and shifting leave it.
    rng = np.random.default_rng(0)
    images = rng.integers(0, 160, (192, 8, 8, 3))
    labels = np.arange(192) % 3
    images[np.arange(192), :, :, labels] += 60
    images = images.astype(np.uint8)
    network = WideResNet((8, 8, 3), 3, depth=10, width=1)
    recipe = recipes.WIDE_RESNET
    state = fitting.init_state(network, recipe, 12, jax.random.key(0))
    batches = batch_indices(np.arange(128), 32)
    for epoch in range(3):
        key = jax.random.key(epoch)
        state = fitting.train_epoch(
            network, recipe, 12, state, images, labels, batches, key
        )
    rest = jnp.asarray(images[128:]), jnp.asarray(labels[128:])
    assert predictions.accuracy(network, state.params, *rest) > 0.9


def test_refuses_a_depth():
    with pytest.raises(InputError, match="is 20; allowed: 10, 16, 22"):
        WideResNet((8, 8, 1), 3, depth=20)
