import functools
import re

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
from flax import nnx
from float_sums import clipped_grad
from scipy import stats

from dpdm_jax.conditions import of_classes
from dpdm_jax.configs import base
from dpdm_jax.diffusion import losses
from dpdm_jax.diffusion.denoiser import make_denoiser
from dpdm_jax.diffusion.noise_levels import LogNormal
from dpdm_jax.diffusion.parameterizations import EDM
from dpdm_jax.errors import InputError
from dpdm_jax.networks import adm, adm_blocks, build_network, layers

F32 = {"dtype": jnp.float32, "rngs": nnx.Rngs(0)}
CLIP_NORM = 8.0  # shortens some gradients and leaves others
CIFAR10 = ((32, 32, 3), 10, {})
MNIST = (
    (28, 28, 1),
    10,
    {
        "base_channels": 64,
        "channel_multipliers": (1, 2, 2),
        "num_res_blocks": 1,
        "attention_factors": (),
    },
)


@functools.cache
def tiny(image_shape=(4, 4, 1), num_classes=2, out_channels=None, **changes):
    """One level of 64 channels, so that a group has two of them."""
    fields = {
        "base_channels": 32,
        "channel_multipliers": (2,),
        "num_res_blocks": 1,
        "attention_factors": (1,),
        "head_channels": 16,
    }
    settings = adm.Settings(**fields | changes)
    return adm.build(settings, image_shape, num_classes, out_channels=out_channels)


def tiny_batch(channels=1):
    x = jax.random.normal(jax.random.key(1), (3, 4, 4, channels))
    return x, jnp.array([0.0, 17.5, 999.0]), jnp.arange(3, dtype=jnp.int32)


def shapes_of(network):
    return network.shapes


def random_like(tree, size=0.2):
    leaves, structure = jax.tree.flatten(tree)
    rng = np.random.default_rng(2)
    return structure.unflatten(
        size * rng.standard_normal(leaf.shape, np.float32) for leaf in leaves
    )


def awake(network):
    """Parameters of order one: at the start the output is zero."""
    return random_like(shapes_of(network))


@pytest.fixture(scope="module")
def apply():
    """A tiny network with awake parameters, compiled once."""
    network = tiny()
    return functools.partial(jax.jit(network.apply), awake(network))


@pytest.fixture(scope="module")
def out(apply):
    return apply(*tiny_batch())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variant", "changes", "count"),
    [
        (CIFAR10, {}, 80_390_403),
        ((*CIFAR10[:1], 1000, {}), {}, 81_150_723),
        ((*CIFAR10[:1], 2, {}), {}, 80_384_259),
        (MNIST, {}, 4_239_041),
        (CIFAR10, {"scale_shift": True}, 86_148_675),
        (CIFAR10, {"attention_factors": (2, 4)}, 83_351_043),
        (CIFAR10, {"resample_in_blocks": True}, 88_992_387),
    ],
)
def test_parameter_count_is_the_official_one(variant, changes, count):
    image_shape, num_classes, fields = variant
    config = base.get_config().network
    config.name = "adm"
    config.adm.update(fields | changes)
    network = build_network(config, image_shape, of_classes(num_classes))
    assert network.num_parameters == count


def test_config_read_from_json_builds_the_same_network():
    config = base.get_config().network
    config.name = "adm"
    config.adm.update(MNIST[2])
    config.adm.update(base_channels=32, head_channels=32, channel_multipliers=(1,))
    as_lists = ml_collections.ConfigDict(
        config.to_dict() | {"adm": config.adm.to_dict() | {"channel_multipliers": [1]}}
    )
    one, other = (
        build_network(c, (8, 8, 1), of_classes(2)) for c in (config, as_lists)
    )
    assert shapes_of(one) == shapes_of(other)


def test_output_starts_at_zero():
    network = tiny()
    params = network.init(jax.random.key(0))
    np.testing.assert_array_equal(jax.jit(network.apply)(params, *tiny_batch()), 0)
    assert not np.any(params["up"]["level_0"]["block_0"]["conv_b"]["kernel"])
    assert not np.any(params["middle"]["attention"]["output"]["kernel"])
    assert not np.any(params["head"]["conv"]["kernel"])


@pytest.mark.slow
def test_initialisation_follows_the_laws_of_pytorch():
    """Kolmogorov-Smirnov tests; false alarm rate 1e-3 over all tensors together."""
    params = tiny(channel_multipliers=(1, 2), image_shape=(8, 8, 3)).init(
        jax.random.key(0)
    )
    flat = {
        "/".join(key.key for key in path): np.asarray(leaf)
        for path, leaf in jax.tree.leaves_with_path(params)
    }
    p_values = {}
    for name, values in flat.items():
        layer = name.rpartition("/")[0]
        if re.search(r"conv_b$|attention(_\d)?/output$|head/conv$", layer):
            assert not values.any(), name
        elif f"{layer}/scale" in flat:
            assert (values == float(name.endswith("scale"))).all(), name
        elif name == "embedding/label/embedding":
            p_values[name] = stats.kstest(values.ravel(), "norm").pvalue
        else:
            kernel = flat[f"{layer}/kernel"]
            bound = 1 / np.sqrt(kernel.size / kernel.shape[-1])
            assert abs(values).max() <= bound * (1 + 1e-6), name
            uniform = stats.uniform(-bound, 2 * bound)
            p_values[name] = stats.kstest(values.ravel(), uniform.cdf).pvalue
    assert len(p_values) > 30
    assert min(p_values.values()) > 1e-3 / len(p_values), p_values


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [{"new_attention_order": True}, {"head_channels": 0}],
)
def test_attention_has_other_heads_with_the_same_parameters(out, changes):
    network = tiny(**{"num_heads": 1} | changes)
    params = awake(tiny())
    assert shapes_of(network) == shapes_of(tiny())
    other = jax.jit(network.apply)(params, *tiny_batch())
    assert float(abs(other - out).max()) > 1e-3


@pytest.mark.parametrize(
    ("changes", "heads"),
    [
        ({"head_channels": 16, "num_heads": 3}, 4),
        ({"head_channels": 0, "num_heads": 8}, 8),
    ],
)
def test_channels_of_a_head_override_the_number_of_heads(changes, heads):
    assert adm.Settings(**changes).heads(64) == heads


@pytest.mark.parametrize(
    ("factors", "expected"),
    [
        ((), {"middle"}),
        ((2,), {"middle", "down/level_1", "up/level_1"}),
        ((1,), {"middle", "down/level_0", "up/level_0"}),
    ],
)
def test_attention_follows_the_factor(factors, expected):
    network = tiny(channel_multipliers=(1, 1), attention_factors=factors)
    found = {
        "/".join(key.key for key in path).partition("/attention")[0]
        for path, _ in jax.tree.leaves_with_path(shapes_of(network))
        if "query_key_value" in jax.tree_util.keystr(path)
    }
    assert found == expected


def test_output_may_have_other_channels_than_the_image():
    network = tiny((4, 4, 3), out_channels=6)
    x, *rest = tiny_batch(channels=3)
    out = jax.eval_shape(network.apply, shapes_of(network), x, *rest)
    assert (out.shape, out.dtype) == ((3, 4, 4, 6), jnp.float32)


def test_step_and_label_change_the_output_of_their_image_only(apply, out):
    x, steps, label = tiny_batch()
    for changed in (
        apply(x, steps.at[1].set(20.0), label),
        apply(x, steps, label.at[1].set(0)),
        apply(x.at[1].add(1.0), steps, label),
    ):
        moved = np.abs(changed - out).max(axis=(1, 2, 3))
        assert moved[1] > 1e-3
        assert moved[[0, 2]].max() < 1e-6


def test_null_label_adds_nothing_and_others_give_nan(apply, out):
    x, steps, label = tiny_batch()
    assert label[2] == 2  # the null label
    unlabelled = tiny(num_classes=0)
    params = awake(tiny())
    del params["embedding"]["label"]
    without = jax.jit(unlabelled.apply)(params, x, steps, label)
    np.testing.assert_allclose(out[2], without[2], atol=1e-6)
    assert float(abs(out[:2] - without[:2]).max()) > 1e-3
    bad = np.isnan(apply(x, steps, jnp.array([3, 0, 2]))).any(axis=(1, 2, 3))
    assert bad.tolist() == [True, False, False]


@pytest.mark.slow
def test_remat_keeps_the_output_and_forgets_the_insides(out):
    network = tiny(remat=True)
    params = awake(network)
    again = jax.jit(network.apply)(params, *tiny_batch())
    np.testing.assert_allclose(again, out, rtol=0, atol=1e-5)
    programs = [
        str(jax.make_jaxpr(n.apply)(params, *tiny_batch())) for n in (tiny(), network)
    ]
    # Five residual blocks and four of attention.
    assert [program.count("remat") for program in programs] == [0, 9]


@pytest.mark.slow
def test_bfloat16_computes_alike_with_float32_parameters(out):
    config = base.get_config().network
    config.name, config.dtype = "adm", "bfloat16"
    config.adm.update(
        base_channels=32,
        channel_multipliers=(2,),
        num_res_blocks=1,
        attention_factors=(1,),
        head_channels=16,
    )
    network = build_network(config, (4, 4, 1), of_classes(2))
    rounded = jax.jit(network.apply)(awake(network), *tiny_batch())
    assert rounded.dtype == jnp.float32
    assert {x.dtype for x in jax.tree.leaves(shapes_of(network))} == {
        jnp.dtype(jnp.float32)
    }
    difference = float(abs(rounded - out).max() / abs(out).max())
    assert 1e-5 < difference < 0.1  # it did round, and only rounded


@pytest.mark.slow
def test_engines_give_the_same_clipped_sum_with_and_without_remat():
    results = []
    for engine, remat in (("vmap", False), ("book_keeping", True)):
        network = tiny(scale_shift=True, attention_factors=(), remat=remat)
        params = awake(network)

        def loss(params, x, step, label, apply=network.apply):
            return jnp.mean((apply(params, x[None], step[None], label[None]) - 1) ** 2)

        grad_fn = clipped_grad(
            loss,
            l2_clip_norm=CLIP_NORM,
            batch_argnums=(1, 2, 3),
            return_grad_norms=True,
            engine=engine,
        )
        options = {"xla_backend_optimization_level": 0}
        compiled = jax.jit(grad_fn, compiler_options=options)
        results.append(compiled(params, *tiny_batch()))
    (expected, expected_aux), (total, aux) = results
    norms = np.asarray(expected_aux.grad_norms)
    assert norms.min() < CLIP_NORM < norms.max()
    np.testing.assert_allclose(aux.grad_norms, norms, rtol=1e-4)
    largest = max(abs(leaf).max() for leaf in jax.tree.leaves(expected))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-4 * largest),
        total,
        expected,
    )


KEYS = jax.random.split(jax.random.key(9), 3)


@pytest.mark.slow
@pytest.mark.parametrize("remat", [False, True])
def test_dropout_is_of_training_and_of_each_image(out, remat):
    network = tiny(dropout=0.5, remat=remat)
    assert network.drops
    assert not tiny().drops
    assert shapes_of(network) == shapes_of(tiny())
    apply = functools.partial(jax.jit(network.apply), awake(network), *tiny_batch())
    np.testing.assert_allclose(apply(), out, rtol=0, atol=1e-5 if remat else 0)
    dropped, again = apply(KEYS), apply(KEYS)
    np.testing.assert_array_equal(dropped, again)
    assert np.all(np.abs(dropped - out).max(axis=(1, 2, 3)) > 1e-2)
    moved = np.abs(apply(KEYS.at[1].set(KEYS[0])) - dropped).max(axis=(1, 2, 3))
    assert moved[1] > 1e-2
    assert moved[[0, 2]].max() < 1e-6


@pytest.mark.slow
def test_dropout_keeps_the_mean_of_a_block():
    """The last convolution is linear in what is dropped in front of it."""
    _, block = build_layer(
        lambda: adm_blocks.ResidualBlock(
            32, 32, 8, scale_shift=True, dropout=0.4, number=3, **F32
        )
    )
    x = jax.random.normal(jax.random.key(3), (1, 2, 2, 32))
    embedding = jax.random.normal(jax.random.key(4), (1, 8))
    num = 4000
    many = [jnp.repeat(a, num, axis=0) for a in (x, embedding)]
    found = jax.jit(block)(*many, jax.random.split(jax.random.key(5), num))
    error = (np.mean(found, axis=0) - block(x, embedding)[0]) / (
        np.std(found, axis=0) / np.sqrt(num)
    )
    # Rejects a right program with probability below 1e-6.
    assert np.abs(error).max() < 6
    assert np.std(found, axis=0).min() > 0.1


def test_each_block_drops_by_itself():
    module = adm.ADM(
        adm.Settings(
            base_channels=32,
            channel_multipliers=(1, 1),
            num_res_blocks=1,
            attention_factors=(),
            head_channels=32,
            resample_in_blocks=True,
        ),
        1,
        1,
        0,
        **F32,
    )
    blocks = [
        node
        for _, node in nnx.iter_graph(module)
        if isinstance(node, adm_blocks.ResidualBlock)
    ]
    assert {block.number for block in blocks} == set(range(len(blocks)))
    assert len(blocks) == 2 + 1 + 2 + 4 + 1


@pytest.mark.slow
def test_engines_give_the_same_clipped_sum_with_dropout():
    """Each of an example's draws drops other features, in whatever parts they come."""
    batch_size, clip_norm, results = 4, 3.2, []
    images = jax.random.normal(jax.random.key(1), (batch_size, 4, 4, 1))
    label = jnp.arange(batch_size) % 2
    batch = images, label, jax.random.split(jax.random.key(2), batch_size)
    at_level_0 = {"xla_backend_optimization_level": 0}

    def loss_of(network, **options):
        of_example = losses.make_loss(
            make_denoiser(network.apply, EDM()),
            EDM().loss_weight,
            LogNormal(),
            noise_multiplicity=2,
            label_dropout=0.0,
            null=2,
            **{"drops": network.drops} | options,
        )
        return lambda params, image, label, key: of_example(
            params, {"image": image, "condition": label}, key
        )

    for engine, microbatch_size, options, remat in (
        ("vmap", None, {}, False),
        ("scan", 2, {"draws_at_once": 1}, False),
        ("book_keeping", 2, {}, False),
        ("book_keeping", None, {"draws_at_once": 1}, True),
    ):
        network = tiny(
            channel_multipliers=(1,), attention_factors=(), dropout=0.3, remat=remat
        )
        grad_fn = clipped_grad(
            loss_of(network, **options),
            l2_clip_norm=clip_norm,
            batch_argnums=(1, 2, 3),
            return_values=True,
            return_grad_norms=True,
            engine=engine,
            microbatch_size=microbatch_size,
        )
        compiled = jax.jit(grad_fn, compiler_options=at_level_0)
        results.append(compiled(awake(network), *batch))
    of_batch = jax.vmap(loss_of(network, drops=False), in_axes=(None, 0, 0, 0))
    plain = jax.jit(of_batch, compiler_options=at_level_0)(awake(network), *batch)
    (expected, expected_aux), *others = results
    norms = np.asarray(expected_aux.grad_norms)
    assert norms.min() < clip_norm < norms.max()
    assert np.abs(plain / expected_aux.values - 1).min() > 1e-3
    largest = max(abs(leaf).max() for leaf in jax.tree.leaves(expected))
    for total, aux in others:
        np.testing.assert_allclose(aux.values, expected_aux.values, rtol=1e-4)
        np.testing.assert_allclose(aux.grad_norms, norms, rtol=1e-4)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-4 * largest),
            total,
            expected,
        )


def build_layer(make):
    """A layer's parameters, random, and the layer as a function of them."""
    graph, state = nnx.split(make())
    params = random_like(state)
    return params, lambda *args: nnx.merge(graph, params)(*args)


def official_block(torch, params, x, embedding, scale_shift, resample):
    """A residual block in PyTorch's own layers, from the paper's description."""
    functional = torch.nn.functional

    def tensor(name, kind):
        return torch.tensor(np.asarray(params[name][kind][...]))

    def norm(name, x):
        return functional.group_norm(
            x, 32, tensor(name, "scale"), tensor(name, "bias"), 1e-5
        )

    def conv(name, x):
        kernel = tensor(name, "kernel").permute(3, 2, 0, 1)
        return functional.conv2d(x, kernel, tensor(name, "bias"), padding=1)

    def dense(name, x):
        return functional.linear(x, tensor(name, "kernel").T, tensor(name, "bias"))

    move = {
        "none": lambda x: x,
        "down": lambda x: functional.avg_pool2d(x, 2),
        "up": lambda x: functional.interpolate(x, scale_factor=2, mode="nearest"),
    }[resample]
    x = torch.tensor(np.moveaxis(np.asarray(x), -1, 1))
    condition = dense(
        "embedding", functional.silu(torch.tensor(np.asarray(embedding)))
    )[:, :, None, None]
    h = conv("conv_a", move(functional.silu(norm("norm_a", x))))
    if scale_shift:
        gain, shift = condition.chunk(2, dim=1)
        h = norm("norm_b", h) * (1 + gain) + shift
    else:
        h = norm("norm_b", h + condition)
    x = move(x)
    if "shortcut" in params:
        kernel = tensor("shortcut", "kernel").T[:, :, None, None]
        x = functional.conv2d(x, kernel, tensor("shortcut", "bias"))
    return np.moveaxis((x + conv("conv_b", functional.silu(h))).numpy(), 1, -1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("resample", "scale_shift", "out_channels"),
    [("none", False, 32), ("none", True, 64), ("down", True, 64), ("up", False, 64)],
)
def test_residual_block_is_that_of_pytorch_layers(resample, scale_shift, out_channels):
    torch = pytest.importorskip("torch")
    params, block = build_layer(
        lambda: adm_blocks.ResidualBlock(
            64,
            out_channels,
            8,
            scale_shift=scale_shift,
            dropout=0.0,
            number=0,
            resample={
                "none": None,
                "down": layers.downsample,
                "up": layers.upsample,
            }[resample],
            **F32,
        )
    )
    x = jax.random.normal(jax.random.key(3), (2, 4, 6, 64))
    embedding = jax.random.normal(jax.random.key(4), (2, 8))
    actual = jax.jit(block)(x, embedding)
    expected = official_block(torch, params, x, embedding, scale_shift, resample)
    np.testing.assert_allclose(actual, expected, atol=2e-4)


@pytest.mark.slow
@pytest.mark.parametrize("query_first", [False, True])
def test_attention_block_attends_head_by_head(query_first):
    params, block = build_layer(
        lambda: adm_blocks.AttentionBlock(
            32, num_heads=4, query_first=query_first, **F32
        )
    )
    x = jax.random.normal(jax.random.key(3), (2, 2, 3, 32))
    pixels = np.float64(x).reshape(2, 6, 32)
    # With as many groups as channels each is normalised by itself.
    normalised = (pixels - pixels.mean(axis=1, keepdims=True)) / np.sqrt(
        pixels.var(axis=1, keepdims=True) + 1e-5
    )
    weights = {
        name: {kind: np.float64(a[...]) for kind, a in layer.items()}
        for name, layer in params.items()
    }
    h = normalised * weights["norm"]["scale"] + weights["norm"]["bias"]
    projected = (
        h @ weights["query_key_value"]["kernel"] + weights["query_key_value"]["bias"]
    )
    attended = np.zeros_like(pixels)
    for head in range(4):
        # Of 96 features, where 8 of each kind begin.
        starts = [
            32 * k + 8 * head if query_first else 24 * head + 8 * k for k in range(3)
        ]
        query, key, value = (projected[..., s : s + 8] for s in starts)
        fit = np.exp(query @ key.swapaxes(1, 2) / np.sqrt(8))
        fit /= fit.sum(axis=-1, keepdims=True)
        attended[..., 8 * head : 8 * head + 8] = fit @ value
    expected = (
        pixels + attended @ weights["output"]["kernel"] + weights["output"]["bias"]
    )
    np.testing.assert_allclose(
        jax.jit(block)(x).reshape(2, 6, 32), expected, rtol=0, atol=1e-4
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"base_channels": 48}, r"adm.base_channels is 48; allowed: a multiple of 32"),
        ({"base_channels": 16}, r"adm.base_channels is 16; allowed: an integer >= 32"),
        ({"channel_multipliers": ()}, r"adm.channel_multipliers is \(\); allowed: at"),
        (
            {"channel_multipliers": (1, 0)},
            r"adm.channel_multipliers\[1\] is 0; allowed",
        ),
        ({"num_res_blocks": 0}, r"adm.num_res_blocks is 0; allowed"),
        ({"attention_factors": (3,)}, r"attention_factors\[0\] is 3; allowed: 1, 2, 4"),
        ({"attention_factors": (16,)}, r"attention_factors\[0\] is 16; allowed: 1, 2"),
        ({"head_channels": -1}, r"adm.head_channels is -1; allowed"),
        ({"num_heads": 0}, r"adm.num_heads is 0; allowed"),
        ({"scale_shift": 2}, r"adm.scale_shift is 2; allowed: True, False"),
        ({"remat": "yes"}, r"adm.remat is 'yes'; allowed: True, False"),
        ({"dropout": 1.0}, r"adm.dropout is 1.0; allowed: a finite number >= 0 and < "),
    ],
)
def test_bad_setting_is_refused(changes, message):
    with pytest.raises(InputError, match=message):
        adm.Settings(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"head_channels": 48},
            r"adm.head_channels is 48; .* at 64 channels: a divisor",
        ),
        (
            {"head_channels": 0, "num_heads": 5},
            r"adm.num_heads is 5; allowed with atten",
        ),
        (
            {"channel_multipliers": (1, 1, 1, 1)},
            r"image is 4x4 pixels; .* divisible by 8",
        ),
    ],
)
def test_setting_that_does_not_fit_is_refused(changes, message):
    with pytest.raises(InputError, match=message):
        tiny(**changes)


def test_unknown_dtype_is_refused():
    config = base.get_config().network
    config.name, config.dtype = "adm", "float16"
    with pytest.raises(InputError, match=r"network.dtype is 'float16'; allowed"):
        build_network(config, (32, 32, 3), of_classes(10))
