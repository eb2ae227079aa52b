"""What one example can do to the clipped sum, with the real loss of a diffusion model.

One battery for every engine, with and without micro-batches, with one and with several
noise draws: on a small perceptron, and on a small convolutional network with attention,
where a bad image could spoil its neighbours inside a grouped convolution.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from float_sums import in_float64

from dpdm_jax import privacy
from dpdm_jax.diffusion.denoiser import make_denoiser
from dpdm_jax.diffusion.losses import denoising_loss, draw
from dpdm_jax.diffusion.noise_levels import LogNormal
from dpdm_jax.diffusion.parameterizations import EDM
from dpdm_jax.networks import ncsnpp as ncsnpp_network

BATCH = 5
NUM_CLASSES = 3
IMAGE_SHAPE = (4, 4, 1)
ENGINES = {
    "vmap": {"engine": "vmap"},
    "scan": {"engine": "scan"},
    "scan of 2": {"engine": "scan", "microbatch_size": 2},
    "scan of 3": {"engine": "scan", "microbatch_size": 3},
    "scan of 8": {"engine": "scan", "microbatch_size": 8},
    "book-keeping": {"engine": "book_keeping"},
    "book-keeping of 3": {"engine": "book_keeping", "microbatch_size": 3},
}
PERCEPTRONS = [
    ("perceptron", multiplicity, engine)
    for multiplicity in (1, 4)
    for engine in ENGINES
]
# The convolutional network takes long to compile; with one draw see the perceptron.
CASES = PERCEPTRONS + [
    pytest.param("ncsnpp", 4, engine, marks=pytest.mark.slow)
    for engine in ("vmap", "scan of 3", "book-keeping")
]
every_case = pytest.mark.parametrize(("network", "multiplicity", "engine"), CASES)
# For what each needs a program of its own. Engines but book-keeping never look into a
# loss, where one draw and many differ.
every_perceptron = pytest.mark.parametrize(
    ("network", "multiplicity", "engine"),
    [case for case in PERCEPTRONS if case[1] > 1 or "book-keeping" in case[2]],
)
# Of float64, in which sums are compared, and of gradients in batches of another size.
ROUNDING, OTHER_SHAPE = 1e-12, 1e-5
BAD_PIXELS = [math.nan, math.inf, -math.inf, 1e30, -1e10, 1e4, 100.0, 0.0]


def perceptron():
    size, width = math.prod(IMAGE_SHAPE), 16
    rng = np.random.default_rng(0)
    params = {
        "in": 0.3 * rng.standard_normal((size, width), np.float32),
        "label": rng.standard_normal((NUM_CLASSES + 1, width), np.float32),
        "out": {
            "w": 0.3 * rng.standard_normal((width, size), np.float32),
            "b": np.zeros(size, np.float32),
        },
    }

    def apply(params, x, c_noise, label):
        hidden = x.reshape(len(x), -1) @ params["in"] + params["label"][label]
        hidden = jnp.tanh(hidden + c_noise[:, None])
        return (hidden @ params["out"]["w"] + params["out"]["b"]).reshape(x.shape)

    return params, apply


def ncsnpp():
    settings = ncsnpp_network.Settings(
        base_width=8,
        channel_multipliers=(1,),
        num_res_blocks=1,
        attention_resolutions=IMAGE_SHAPE[:1],
    )
    network = ncsnpp_network.build(settings, IMAGE_SHAPE, NUM_CLASSES)
    # At the start most of this network has almost no gradient, so move away from it.
    rng = np.random.default_rng(1)
    params = jax.tree.map(
        lambda leaf: leaf + 0.1 * rng.standard_normal(leaf.shape, np.float32),
        network.init(jax.random.key(0)),
    )
    return params, network.apply


def jit(fun):
    # The cheapest compilation: these functions run a few times.
    return jax.jit(fun, compiler_options={"xla_backend_optimization_level": 0})


@dataclasses.dataclass(frozen=True)
class Problem:
    """A loss, its parameters and a batch of (images, labels, draws)."""

    loss: Callable[..., jax.Array]
    params: Any
    batch: tuple[Any, Any, Any]

    @functools.cached_property
    def gradients(self):
        """Each example's gradient, one after another: list of trees of float64."""
        grad = jit(jax.grad(self.loss))
        examples = [jax.tree.map(lambda x, i=i: x[i], self.batch) for i in range(BATCH)]
        return [
            jax.tree.map(np.float64, jax.device_get(grad(self.params, *example)))
            for example in examples
        ]

    @functools.cached_property
    def norms(self):
        return np.array([norm_of(gradient) for gradient in self.gradients])

    @property
    def clip(self):
        """A clip norm that shortens some gradients and leaves others."""
        return float(np.median(self.norms))


@functools.cache
def problem(network, multiplicity):
    params, apply = {"perceptron": perceptron, "ncsnpp": ncsnpp}[network]()
    denoise = make_denoiser(apply, EDM())

    def loss(params, image, label, draws):
        weight = EDM().loss_weight
        return denoising_loss(denoise, weight, params, image, label, draws, NUM_CLASSES)

    # The draws are data here: they, too, may be whatever they want.
    draw_one = functools.partial(
        draw,
        image_shape=IMAGE_SHAPE,
        noise_levels=LogNormal(),
        noise_multiplicity=multiplicity,
        label_dropout=0.3,
    )
    draws = jit(jax.vmap(draw_one))(jax.random.split(jax.random.key(2), BATCH))
    images = np.random.default_rng(3).uniform(-1, 1, (BATCH, *IMAGE_SHAPE))
    labels = np.arange(BATCH, dtype=np.int32) % NUM_CLASSES
    batch = (images.astype(np.float32), labels, jax.device_get(draws))
    return Problem(loss, params, batch)


@functools.cache
def clipped_sum(network, multiplicity, engine):
    """``(grad_fn, run)``; ``run(batch, is_padding) -> sum``, compiled."""
    p = problem(network, multiplicity)
    grad_fn = privacy.clipped_grad(
        p.loss, l2_clip_norm=p.clip, batch_argnums=(1, 2, 3), **ENGINES[engine]
    )
    compiled = jit(lambda *args, mask: grad_fn(*args, is_padding_example=mask))

    def run(batch, is_padding=None):
        mask = np.zeros(len(batch[0]), bool) if is_padding is None else is_padding
        return in_float64(compiled(p.params, *batch, mask=mask))

    return grad_fn, run


def norm_of(tree):
    leaves = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(tree)]
    return math.sqrt(sum((leaf**2).sum() for leaf in leaves))


def distance(a, b):
    return norm_of(jax.tree.map(lambda x, y: np.float64(x) - np.float64(y), a, b))


def assert_trees_equal(actual, expected):
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


def only(position):
    return np.arange(BATCH) == position


def replace(batch, position, image=None, label=None, sigma=None):
    """The batch with one example's image, label or noise levels replaced."""
    images, labels, draws = jax.tree.map(np.copy, batch)
    if image is not None:
        images[position] = image
    if label is not None:
        labels[position] = label
    if sigma is not None:
        draws.sigma[position] = sigma
    return images, labels, draws


@pytest.mark.slow
@every_case
def test_clipped_sum_is_that_of_a_loop_over_examples(network, multiplicity, engine):
    p = problem(network, multiplicity)
    factors = np.minimum(1.0, p.clip / (p.norms + 1e-6))
    assert factors.min() < 0.99
    assert factors.max() == 1.0
    expected = jax.tree.map(
        lambda *leaves: sum(f * g for f, g in zip(factors, leaves, strict=True)),
        *p.gradients,
    )
    _, run = clipped_sum(network, multiplicity, engine)
    total = run(p.batch)
    # A leaf can be zero but for rounding (the bias of attention's keys), so the scale
    # is that of the whole sum.
    for leaf, wanted in zip(
        jax.tree.leaves(total), jax.tree.leaves(expected), strict=True
    ):
        np.testing.assert_allclose(
            leaf, wanted, rtol=1e-5, atol=1e-6 * norm_of(expected)
        )


@every_case
def test_masked_example_takes_exactly_its_clipped_gradient(
    network, multiplicity, engine
):
    p = problem(network, multiplicity)
    grad_fn, run = clipped_sum(network, multiplicity, engine)
    total = run(p.batch)
    for position in range(BATCH):
        moved = distance(total, run(p.batch, only(position)))
        assert moved <= grad_fn.sensitivity("replace_special") * (1 + ROUNDING)
        # The bound is reached by whoever is clipped.
        assert moved == pytest.approx(min(p.clip, p.norms[position]), rel=1e-4)


@pytest.mark.slow
@every_perceptron
def test_removed_example_is_a_masked_one(network, multiplicity, engine):
    p = problem(network, multiplicity)
    grad_fn, run = clipped_sum(network, multiplicity, engine)
    for position in (0, 2, BATCH - 1):
        without = jax.tree.map(lambda x, i=position: np.delete(x, i, 0), p.batch)
        removed, masked = run(without), run(p.batch, only(position))
        assert distance(removed, masked) < OTHER_SHAPE * p.clip
        moved = distance(run(p.batch), removed)
        bound = grad_fn.sensitivity("add_or_remove_one")
        assert moved <= bound * (1 + OTHER_SHAPE)


@pytest.mark.slow
@every_case
@pytest.mark.parametrize("position", [0, 3])
def test_replaced_example_moves_the_sum_within_the_bound(
    network, multiplicity, engine, position
):
    p = problem(network, multiplicity)
    grad_fn, run = clipped_sum(network, multiplicity, engine)
    total, masked = run(p.batch), run(p.batch, only(position))
    one_bad_pixel = p.batch[0][position].copy()
    one_bad_pixel[2, 3, 0] = math.nan
    neighbours = [
        *[replace(p.batch, position, image=pixel) for pixel in BAD_PIXELS],
        replace(p.batch, position, image=one_bad_pixel),
        replace(p.batch, position, image=-p.batch[0][position]),
        replace(p.batch, position, image=p.batch[0][position - 1]),
        replace(p.batch, position, label=2 - p.batch[1][position]),
        replace(p.batch, position, image=1e3, label=0, sigma=1e-3),
        replace(p.batch, position, sigma=math.nan),
    ]
    for neighbour in neighbours:
        other = run(neighbour)
        assert distance(total, other) <= grad_fn.sensitivity("replace_one") * (
            1 + ROUNDING
        )
        bound = grad_fn.sensitivity("replace_special") * (1 + ROUNDING)
        assert distance(masked, other) <= bound


@every_case
def test_image_without_finite_gradient_counts_for_nothing(
    network, multiplicity, engine
):
    p = problem(network, multiplicity)
    _, run = clipped_sum(network, multiplicity, engine)
    for position, pixel in enumerate([math.nan, math.inf, -math.inf, math.nan, 1e30]):
        bad = run(replace(p.batch, position, image=pixel))
        assert_trees_equal(bad, run(p.batch, only(position)))
        assert norm_of(bad) > p.clip  # the others are still there


@every_case
def test_contents_of_padding_do_not_matter(network, multiplicity, engine):
    p = problem(network, multiplicity)
    _, run = clipped_sum(network, multiplicity, engine)
    padding = np.array([False, True, False, False, True])
    expected = run(p.batch, padding)
    for pixel in (math.nan, 1e30, 1e4):
        batch = replace(replace(p.batch, 1, image=pixel), 4, image=pixel, label=0)
        assert_trees_equal(run(batch, padding), expected)


@every_case
def test_batch_of_padding_gives_exact_zeros(network, multiplicity, engine):
    p = problem(network, multiplicity)
    _, run = clipped_sum(network, multiplicity, engine)
    for batch in (p.batch, replace(p.batch, 0, image=math.nan)):
        total = run(batch, np.ones(BATCH, bool))
        assert_trees_equal(total, jax.tree.map(np.zeros_like, p.params))


@every_perceptron
def test_batch_without_examples_gives_exact_zeros(network, multiplicity, engine):
    p = problem(network, multiplicity)
    _, run = clipped_sum(network, multiplicity, engine)
    total = run(jax.tree.map(lambda x: x[:0], p.batch))
    assert_trees_equal(total, jax.tree.map(np.zeros_like, p.params))


@pytest.mark.slow
@every_perceptron
def test_without_clipping_and_noise_the_step_is_ordinary_training(
    network, multiplicity, engine
):
    p = problem(network, multiplicity)
    grad_fn = privacy.clipped_grad(
        p.loss, l2_clip_norm=math.inf, batch_argnums=(1, 2, 3), **ENGINES[engine]
    )
    private = optax.chain(
        privacy.gaussian_noise(0.0, privacy.new_noise_key()),
        privacy.normalize_by(BATCH),
        optax.sgd(0.1),
    )
    ordinary = optax.sgd(0.1)

    def mean_loss(params):
        return jnp.mean(jax.vmap(p.loss, (None, 0, 0, 0))(params, *p.batch))

    def step(tx, gradient):
        updates, _ = tx.update(gradient, tx.init(p.params))
        return optax.apply_updates(p.params, updates)

    actual = step(private, jit(grad_fn)(p.params, *p.batch))
    expected = step(ordinary, jit(jax.grad(mean_loss))(p.params))
    assert distance(expected, p.params) > 1e-2
    assert distance(actual, expected) < 1e-5 * distance(expected, p.params)
