import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpdm_jax.errors import InputError
from dpdm_jax.evaluation import classifiers, registry

MNIST = (28, 28, 1)


def _wrn_40_4() -> int:
    """Kernels, and gain, bias, and scale and offset of what a convolution takes in."""

    def conv(size, inputs, outputs, norm=2):
        return size**2 * inputs * outputs + 2 * outputs + norm * inputs

    total, inputs = conv(3, 3, 16, norm=0), 16
    for outputs in (64, 128, 256):
        total += conv(1, inputs, outputs) + conv(3, inputs, outputs)
        total += 11 * conv(3, outputs, outputs)
        inputs = outputs
    return total + 2 * 256 + 257 * 10


WRN_40_4 = _wrn_40_4()


def _uniform_images(shape):
    return np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)


@pytest.mark.parametrize(
    ("name", "image_shape", "num_classes", "count"),
    [
        ("logreg", MNIST, 10, 7850),
        ("mlp", MNIST, 10, 79510),
        ("cnn", MNIST, 10, 241546),
        ("logreg", (8, 8, 1), 10, 650),
        ("mlp", (4, 6, 3), 2, 73 * 100 + 202),
        ("wrn", (32, 32, 3), 10, WRN_40_4),
        # A 20x18 image leaves 1x1 features before the linear layers.
        ("cnn", (20, 18, 3), 5, 28 * 32 + 289 * 64 + 577 * 128 + 129 * 128 + 129 * 5),
    ],
)
def test_parameter_counts(name, image_shape, num_classes, count):
    classifier = registry.build_classifier(name, image_shape, num_classes)
    assert classifiers.num_parameters(classifier) == count
    key = jax.random.key(0)
    images = jnp.zeros((3, *image_shape))
    logits = jax.eval_shape(
        lambda: classifier.apply(classifier.init(key), images, dropout_key=key)
    )
    assert logits.shape == (3, num_classes)


def test_initial_values_are_uniform_within_fan_in():
    params = jax.jit(classifiers.CNN(MNIST, 10).init)(jax.random.key(0))
    fan_in = {
        "conv_1": 9,
        "conv_2": 9 * 32,
        "conv_3": 9 * 64,
        "linear_1": 1152,
        "linear_2": 128,
    }
    assert params.keys() == fan_in.keys()
    for name, count in fan_in.items():
        for part in params[name].values():
            scaled = np.asarray(part).ravel() * np.sqrt(count)
            # U(-1, 1): the largest of n values falls below 1 - 14/n with probability
            # e^-7, in absolute value; 10 tensors in all.
            assert 1 - min(14 / scaled.size, 1) <= np.abs(scaled).max() <= 1 + 1e-6
            # Five standard errors of a mean.
            assert abs(scaled.mean()) < 5 / np.sqrt(3 * scaled.size)


@pytest.mark.slow
def test_seeds_give_different_values_and_one_seed_the_same():
    mlp = classifiers.MLP(MNIST, 10)
    a, b, again = (jax.jit(mlp.init)(jax.random.key(seed)) for seed in (0, 1, 0))
    assert np.mean(a["linear_1"]["kernel"] == b["linear_1"]["kernel"]) < 1e-3
    jax.tree.map(np.testing.assert_array_equal, a, again)


@pytest.mark.parametrize("name", ["logreg", "mlp"])
def test_logits_equal_numpy(name):
    classifier = registry.build_classifier(name, (5, 4, 3), 6)
    params = jax.tree.map(np.asarray, jax.jit(classifier.init)(jax.random.key(0)))
    x = _uniform_images((7, 5, 4, 3))
    expected = x.reshape(7, 60)
    for i, layer in enumerate(params.values()):
        expected = np.maximum(expected, 0) if i else expected
        expected = expected @ layer["kernel"] + layer["bias"]
    np.testing.assert_allclose(classifier.apply(params, x), expected, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("image_shape", [MNIST, (21, 30, 3)])
def test_cnn_equals_pytorch(image_shape):
    torch = pytest.importorskip("torch")
    nn = torch.nn
    cnn = classifiers.CNN(image_shape, 10)
    params = jax.jit(cnn.init)(jax.random.key(0))
    x = _uniform_images((5, *image_shape))

    def load(layer, name):
        kernel = torch.tensor(np.asarray(params[name]["kernel"]))
        order = (3, 2, 0, 1) if kernel.ndim == 4 else (1, 0)
        layer.weight.data = kernel.permute(order)
        layer.bias.data = torch.tensor(np.asarray(params[name]["bias"]))
        return layer

    convolutions = nn.Sequential(
        load(nn.Conv2d(image_shape[-1], 32, 3), "conv_1"),
        nn.MaxPool2d(2),
        nn.ReLU(),
        load(nn.Conv2d(32, 64, 3), "conv_2"),
        nn.MaxPool2d(2),
        nn.ReLU(),
        load(nn.Conv2d(64, 128, 3), "conv_3"),
        nn.ReLU(),
    )
    linear = nn.Sequential(
        load(nn.Linear(1, 128), "linear_1"),
        nn.ReLU(),
        load(nn.Linear(128, 10), "linear_2"),
    )
    with torch.no_grad():
        features = convolutions(torch.tensor(x).permute(0, 3, 1, 2))
        # Ours are flattened with channels last.
        expected = linear(features.permute(0, 2, 3, 1).flatten(1)).numpy()
    np.testing.assert_allclose(jax.jit(cnn.apply)(params, x), expected, atol=1e-5)


@pytest.mark.slow
def test_dropout_only_with_a_key():
    cnn = classifiers.CNN((18, 18, 1), 3)
    params = jax.jit(cnn.init)(jax.random.key(0))
    x = _uniform_images((4, 18, 18, 1))
    apply = jax.jit(cnn.apply)
    a, b = (apply(params, x, jax.random.key(seed)) for seed in (0, 1))
    plain = apply(params, x)
    np.testing.assert_array_equal(plain, apply(params, x))
    assert not np.allclose(a, b)
    assert not np.allclose(a, plain)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(100, 997), (3, 5)])
def test_drop_half(shape):
    x = np.random.default_rng(0).uniform(1, 2, shape).astype(np.float32)
    dropped = np.asarray(classifiers.drop_half(jax.random.key(0), x))
    kept = dropped != 0
    np.testing.assert_array_equal(dropped[kept], 2 * x[kept])
    # Five standard deviations of the number kept, over all and (for bits that repeat
    # along an axis) in every row and column.
    for axis in (None, 0, 1):
        count = kept.sum(axis=axis)
        size = kept.size / np.size(count)
        assert np.all(np.abs(count - size / 2) <= 2.5 * np.sqrt(size))


def test_drop_half_draws_neighbours_independently():
    kept = np.asarray(classifiers.drop_half(jax.random.key(0), jnp.ones(2**17))) != 0
    for lag in (1, 31, 32, 33):
        agree = np.mean(kept[lag:] == kept[:-lag])
        # Five standard errors.
        assert abs(agree - 0.5) < 2.5 / np.sqrt(kept.size - lag)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("resnet", MNIST, 10), "'resnet'; allowed: logreg, mlp, cnn, wrn"),
        (("mlp", MNIST, 1), "num_classes is 1"),
        (("cnn", (8, 8, 1), 10), "8x8x1; allowed: at least 18x18"),
        (("cnn", (17, 28, 1), 10), "17x28x1; allowed: at least 18x18"),
        (("wrn", (7, 28, 1), 10), "7x28x1; allowed: at least 8x8"),
    ],
)
def test_refuses(args, message):
    with pytest.raises(InputError, match=message):
        registry.build_classifier(*args)


def test_equal_classifiers_share_compiled_code():
    a, b = (registry.build_classifier("mlp", (8, 8, 1), 10) for _ in range(2))
    assert a == b
    assert hash(a) == hash(b)
    assert a != registry.build_classifier("logreg", (8, 8, 1), 10)
