import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from dpdm_jax.conditions import of_classes
from dpdm_jax.configs import base
from dpdm_jax.errors import InputError
from dpdm_jax.networks import build_network

MNIST = ((28, 28, 1), 10, {})
CELEBA_32 = ((32, 32, 3), 0, {"attention_resolutions": (8, 16)})
CIFAR10 = ((32, 32, 3), 10, {"attention_resolutions": (16,)})
IMAGENET_32 = ((32, 32, 3), 1000, {"attention_resolutions": (8, 16)})
CELEBA_64 = (
    (64, 64, 3),
    0,
    {"attention_resolutions": (8, 16), "channel_multipliers": (1, 1, 2, 2)},
)


def config(**changes):
    network = base.get_config().network
    for name, value in changes.items():
        (network if name in network else network.ncsnpp)[name] = value
    return network


@functools.cache
def tiny(image_shape=(8, 8, 2), num_classes=3, **changes):
    fields = {
        "base_width": 4,
        "channel_multipliers": (1, 2),
        "num_res_blocks": 1,
        "attention_resolutions": (4,),
    }
    return build_network(
        config(**fields | changes), image_shape, of_classes(num_classes)
    )


def tiny_batch():
    x = jax.random.normal(jax.random.key(1), (4, 8, 8, 2))
    return x, jnp.linspace(-1.0, 1.0, 4), jnp.arange(4, dtype=jnp.int32)


def awake(network):
    """Parameters of order one: near zero at the start, a network's output is too."""
    leaves, structure = jax.tree.flatten(shapes_of(network))
    rng = np.random.default_rng(2)
    return structure.unflatten(
        0.3 * rng.normal(size=leaf.shape).astype(np.float32) for leaf in leaves
    )


@pytest.fixture(scope="module")
def apply():
    """A tiny labelled network with awake parameters, compiled once."""
    network = tiny()
    return functools.partial(jax.jit(network.apply), awake(network))


def shapes_of(network):
    return network.shapes


def size_of(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variant", "count"),
    [
        (MNIST, 1_753_345),
        (CELEBA_32, 1_804_451),
        (CIFAR10, 1_754_499),
        (IMAGENET_32, 1_836_483),
        (CELEBA_64, 1_999_907),
    ],
)
def test_parameter_count_is_published_one(variant, count):
    image_shape, num_classes, changes = variant
    network = build_network(config(**changes), image_shape, of_classes(num_classes))
    assert network.num_parameters == count


@pytest.mark.slow
def test_parameter_count_of_each_block():
    shapes = shapes_of(build_network(config(), MNIST[0], of_classes(MNIST[1])))
    down, up = shapes["down"], shapes["up"]
    assert size_of(shapes["embedding"]) == 352 + 4224 + 16512
    assert size_of(shapes["stem"]) == 320
    assert size_of(down["level_0"]["block_0"]) == 22_752
    assert size_of(down["level_0"]["downsample"]) == 23_808
    assert size_of(down["level_1"]["block_0"]) == 65_984
    assert size_of(down["level_1"]["block_1"]) == 82_368
    assert size_of(down["level_2"]["attention_1"]) == 16_768
    assert size_of(up["level_2"]["block_2"]) == 127_616
    assert size_of(up["level_2"]["attention"]) == 16_768
    assert size_of(up["level_1"]["block_2"]) == 107_072
    assert size_of(up["level_0"]["block_0"]) == 44_416
    assert size_of(up["level_0"]["block_1"]) == 34_112
    assert size_of(shapes["head"]) == 64 + 289


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variant", "attention"),
    [(MNIST, 4), (CELEBA_32, 7), (CIFAR10, 4), (IMAGENET_32, 7), (CELEBA_64, 7)],
)
def test_attention_follows_the_feature_width(variant, attention):
    image_shape, num_classes, changes = variant
    shapes = shapes_of(
        build_network(config(**changes), image_shape, of_classes(num_classes))
    )
    queries = [
        path
        for path, _ in jax.tree.leaves_with_path(shapes)
        if "['query']" in jax.tree_util.keystr(path)
    ]
    assert len(queries) == 2 * attention  # kernel and bias


@pytest.mark.slow
def test_parameters_are_plain_dictionaries_of_float32_with_readable_names():
    params = tiny().init(jax.random.key(0))
    assert type(params) is dict
    assert set(params) == {"embedding", "stem", "down", "middle", "up", "head"}
    kernel = params["down"]["level_1"]["block_0"]["conv_a"]["kernel"]
    assert isinstance(kernel, jax.Array)
    assert kernel.shape == (3, 3, 4, 8)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))


@pytest.mark.slow
def test_initialisation_follows_the_stated_laws():
    """Kolmogorov-Smirnov tests; false alarm rate 1e-3 over all tensors together."""
    params = build_network(config(), MNIST[0], of_classes(MNIST[1])).init(
        jax.random.key(0)
    )
    flat = {
        "/".join(key.key for key in path): np.asarray(leaf)
        for path, leaf in jax.tree.leaves_with_path(params)
    }
    p_values = {}
    for name, values in flat.items():
        if name.endswith("bias"):
            assert not values.any(), name
        elif name.endswith("scale"):
            assert (values == 1).all(), name
        elif name.endswith("embedding"):
            p_values[name] = stats.kstest(values.ravel(), "norm").pvalue
        else:
            *window, fan_in, fan_out = values.shape
            fan = np.prod(window, initial=1) * (fan_in + fan_out) / 2
            bound = np.sqrt(3 * initial_scale(name) / fan)
            assert abs(values).max() <= bound * (1 + 1e-6), name
            uniform = stats.uniform(-bound, 2 * bound)
            p_values[name] = stats.kstest(values.ravel(), uniform.cdf).pvalue
    assert len(p_values) > 90
    assert min(p_values.values()) > 1e-3 / len(p_values), p_values


def initial_scale(name):
    if "/conv_b/" in name or name == "head/conv/kernel":
        return 1e-10
    if "attention" in name and "/output/" in name:
        return 1e-10
    if any(f"/{layer}/" in name for layer in ("query", "key", "value")):
        return 0.1
    return 1.0


@pytest.mark.slow
def test_initialisation_is_determined_by_the_key():
    network = tiny()
    first, again, other = (network.init(jax.random.key(s)) for s in (0, 0, 1))
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, first, again)))
    assert not np.array_equal(first["stem"]["kernel"], other["stem"]["kernel"])
    jitted = jax.jit(network.init)(jax.random.key(0))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), first, jitted
    )


@pytest.mark.slow
def test_tensors_start_uncorrelated():
    """Independent tensors exceed 5 / sqrt(n) in one run out of a million."""
    params = build_network(config(), MNIST[0], of_classes(MNIST[1])).init(
        jax.random.key(0)
    )
    level = params["down"]["level_2"]
    a, b = (np.ravel(level[f"block_{j}"]["conv_a"]["kernel"]) for j in range(2))
    assert abs(np.corrcoef(a, b)[0, 1]) < 5 / np.sqrt(a.size)


@pytest.mark.slow
def test_output_starts_nearly_zero_but_not_zero():
    network = tiny()
    out = jax.jit(network.apply)(network.init(jax.random.key(0)), *tiny_batch())
    assert 1e-6 < float(out.std()) < 1e-4


def test_output_has_the_shape_of_the_input_at_any_divisible_size():
    network = tiny(image_shape=(4, 12, 2))
    x = jnp.ones((5, 4, 12, 2))
    out = jax.eval_shape(
        network.apply, shapes_of(network), x, jnp.zeros(5), jnp.zeros(5, jnp.int32)
    )
    assert out.shape == x.shape
    assert out.dtype == jnp.float32


@pytest.mark.slow
def test_label_changes_the_output_and_the_null_label_is_a_class_of_its_own(apply):
    x = jnp.broadcast_to(tiny_batch()[0][:1], (4, 8, 8, 2))
    out = apply(x, jnp.zeros(4), jnp.arange(4))  # 3 is the null label
    for i in range(4):
        for j in range(i):
            assert float(abs(out[i] - out[j]).max()) > 1e-3


def test_label_out_of_range_gives_nan(apply):
    x, c_noise, _ = tiny_batch()
    out = apply(x, c_noise, jnp.array([0, 3, 4, 0]))
    assert np.isnan(out).any(axis=(1, 2, 3)).tolist() == [False, False, True, False]


def test_noise_level_changes_the_output(apply):
    x, c_noise, label = tiny_batch()
    moved = apply(x, c_noise, label) - apply(x, c_noise.at[1].add(1.0), label)
    assert (np.abs(moved).max(axis=(1, 2, 3)) > 1e-3).tolist() == [False, True] + 2 * [
        False
    ]


def test_no_example_sees_another_one(apply):
    x, c_noise, label = tiny_batch()
    out = apply(x, c_noise, label)
    changed = apply(x.at[1].set(9.0), c_noise.at[1].set(-3.0), label.at[1].set(0))
    assert float(abs(out[1] - changed[1]).max()) > 1e-3
    for i in (0, 2, 3):
        np.testing.assert_allclose(out[i], changed[i], atol=1e-6)


@pytest.mark.slow
def test_network_without_labels_ignores_the_label():
    network = tiny(num_classes=0)
    assert "label" not in shapes_of(network)["embedding"]
    apply = functools.partial(jax.jit(network.apply), awake(network))
    x, c_noise, label = tiny_batch()
    np.testing.assert_array_equal(
        apply(x, c_noise, label), apply(x, c_noise, label + 99)
    )


@pytest.mark.slow
def test_per_example_gradients_under_scan_and_vmap_reach_every_parameter():
    network = tiny(channel_multipliers=(1,))
    params = awake(network)

    def loss(params, x, c_noise, label):
        out = network.apply(params, x[None], c_noise[None], label[None])
        return jnp.mean((out - 1.0) ** 2)

    @jax.jit
    def by_scan(params, batch):
        return jax.lax.scan(lambda c, b: (c, jax.grad(loss)(params, *b)), 0, batch)[1]

    batch = tiny_batch()
    mapped = jax.jit(jax.vmap(jax.grad(loss), (None, 0, 0, 0)))(params, *batch)
    for (path, a), b in zip(
        jax.tree.leaves_with_path(mapped),
        jax.tree.leaves(by_scan(params, batch)),
        strict=True,
    ):
        assert a.shape[0] == 4
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)
        names = [key.key for key in path]
        if names[-2:] == ["key", "bias"]:
            continue  # shifts all logits of a softmax alike
        assert (abs(a).max(axis=tuple(range(1, a.ndim))) > 0).all(), names


@pytest.mark.slow
def test_bfloat16_computes_alike_with_float32_parameters(apply):
    network = tiny(dtype="bfloat16")
    params = awake(network)
    assert all(
        leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(shapes_of(network))
    )
    batch = tiny_batch()
    exact, rounded = apply(*batch), jax.jit(network.apply)(params, *batch)
    assert rounded.dtype == jnp.float32
    difference = float(abs(exact - rounded).max() / abs(exact).max())
    assert 1e-5 < difference < 0.1  # it did round, and only rounded
    assert "bf16[4,8,8,4]" in str(jax.make_jaxpr(network.apply)(params, *batch))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "unet"}, r"network.name is 'unet'; allowed: .*ncsnpp"),
        (
            {"base_width": 2},
            r"network.ncsnpp.base_width is 2; allowed: an integer >= 4",
        ),
        ({"base_width": 5}, r"network.ncsnpp.base_width is 5; allowed: an even number"),
        ({"base_width": 6}, r"layer of 18 channels; allowed"),
        ({"base_width": 36, "channel_multipliers": (1, 4)}, r"layer of \d+ channels"),
        ({"channel_multipliers": ()}, r"channel_multipliers is empty"),
        ({"channel_multipliers": (1, 0)}, r"channel_multipliers\[1\] is 0"),
        ({"num_res_blocks": 0}, r"num_res_blocks is 0"),
        ({"attention_resolutions": (-7,)}, r"attention_resolutions\[0\] is -7"),
        ({"dtype": "float16"}, r"network.dtype is 'float16'; allowed: float32, bfl"),
    ],
)
def test_bad_field_is_refused(changes, message):
    with pytest.raises(InputError, match=message):
        build_network(config(**changes), (8, 8, 1), of_classes(0))


@pytest.mark.parametrize("image_shape", [(30, 32, 1), (32, 30, 1), (2, 2, 1)])
def test_image_that_cannot_be_halved_is_refused(image_shape):
    with pytest.raises(InputError, match="height and width divisible by 4"):
        build_network(config(), image_shape, of_classes(0))
