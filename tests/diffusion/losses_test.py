import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from dpdm_jax.diffusion.denoiser import Denoiser, Prediction, make_denoiser
from dpdm_jax.diffusion.losses import Draws, denoising_loss, draw, make_loss
from dpdm_jax.diffusion.noise_levels import CosineTime, LogNormal
from dpdm_jax.diffusion.parameterizations import EDM
from dpdm_jax.diffusion.views import Views

SHAPE = (4, 4, 2)
NULL = 3
PARAMS = {"w": jnp.float32(0.7), "label": jnp.array([0.1, -0.4, 0.9, 2.0])}
IMAGE = jax.random.uniform(jax.random.key(5), SHAPE, minval=-1.0)


def network(params, x, c_noise, label):
    shift = params["label"][label] + jnp.sin(c_noise)
    return jnp.tanh(params["w"] * x + shift[:, None, None, None])


DENOISE = make_denoiser(network, EDM())


def example(label, image=IMAGE):
    return {"image": image, "condition": jnp.int32(label)}


def loss_fn(
    denoise=DENOISE,
    multiplicity=4,
    dropout=0.0,
    null=NULL,
    stratified=False,
    **options,
):
    return make_loss(
        denoise,
        EDM().loss_weight,
        LogNormal(),
        noise_multiplicity=multiplicity,
        label_dropout=dropout,
        null=null,
        stratified=stratified,
        **options,
    )


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def draws_of(key, multiplicity=4, dropout=0.0, stratified=False):
    return draw(
        key,
        SHAPE,
        LogNormal(),
        noise_multiplicity=multiplicity,
        label_dropout=dropout,
        stratified=stratified,
    )


class Spy:
    """A denoiser that predicts zero and remembers what it was called with."""

    def __init__(self):
        self.calls = []
        self.keys = []

    def prepare(self, params, label):
        return label

    def predict(self, params, x, sigma, label, *keys):
        self.calls.append((x, sigma, label))
        self.keys.append(keys)
        return Prediction(jnp.zeros_like(x), 2.0 * x)


@pytest.mark.parametrize("multiplicity", [1, 4])
def test_draws_have_one_label_decision_and_k_of_the_rest(multiplicity):
    draws = draws_of(jax.random.key(0), multiplicity, 0.5)
    assert draws.drop_label.shape == ()
    assert draws.drop_label.dtype == jnp.bool_
    assert draws.sigma.shape == (multiplicity,)
    assert draws.noise.shape == (multiplicity, *SHAPE)
    assert len(np.unique(draws.sigma)) == multiplicity
    assert len(np.unique(draws.noise)) == draws.noise.size


def test_noise_is_standard_normal():
    noise = draws_of(jax.random.key(1), 2000).noise
    # Rejects a right program with probability 1e-6.
    assert stats.kstest(np.ravel(noise), "norm").pvalue > 1e-6


def test_stratified_draws_are_ordered_in_sigma():
    sigma = draws_of(jax.random.key(0), 16, 0.0, True).sigma
    assert np.all(np.diff(sigma) > 0)


@pytest.mark.parametrize("dropout", [0.0, 0.1, 0.5, 1.0])
def test_rate_of_label_dropout(dropout):
    num = 20_000
    keys = jax.random.split(jax.random.key(2), num)
    dropped = jax.jit(jax.vmap(lambda k: draws_of(k, 1, dropout).drop_label))(keys)
    # Rejects a right program with probability 1e-6; exact at 0 and 1.
    low, high = stats.binom.interval(1 - 1e-6, num, dropout)
    assert low <= int(dropped.sum()) <= high


def test_loss_by_hand():
    draws = Draws(jnp.bool_(False), jnp.array([0.5, 2.0]), jnp.full((2, 1, 2, 1), 3.0))
    image = jnp.array([[[1.0], [-0.5]]])
    spy = Spy()
    loss = denoising_loss(
        spy, lambda s: 10.0 * s, {}, image, jnp.int32(1), draws, null=NULL
    )
    ((noisy, sigma, label),) = spy.calls
    np.testing.assert_allclose(noisy[0], image + 1.5)
    np.testing.assert_allclose(noisy[1], image + 6.0)
    np.testing.assert_array_equal(sigma, [0.5, 2.0])
    np.testing.assert_array_equal(label, [1, 1])
    # The prediction is 0, so the mean square over pixels is (1 + 0.25) / 2.
    np.testing.assert_allclose(loss, (5.0 + 20.0) / 2 * 0.625, rtol=1e-6)


def test_bound_is_added_to_each_draws_loss():
    draws = Draws(jnp.bool_(False), jnp.array([0.5, 2.0]), jnp.full((2, 1, 2, 1), 3.0))
    image = jnp.array([[[1.0], [-0.5]]])

    def bound(predicted, seen, sigma):
        np.testing.assert_array_equal(seen, image)
        np.testing.assert_array_equal(predicted.clean, 0.0)
        return sigma * predicted.more[:, 0, 0, 0]

    loss = denoising_loss(
        Spy(), lambda s: 10.0 * s, {}, image, jnp.int32(1), draws, None, bound=bound
    )
    # Twice the first noisy pixels, 2.5 and 7, weighed by the noise levels.
    expected = (5.0 + 20.0) / 2 * 0.625 + (0.5 * 5.0 + 2.0 * 14.0) / 2
    np.testing.assert_allclose(loss, expected, rtol=1e-6)


@pytest.mark.slow
def test_loss_is_the_mean_of_the_losses_of_its_draws():
    draws = draws_of(jax.random.key(3), 5)

    @jax.jit
    @jax.value_and_grad
    def loss_and_grad(params, draws):
        weight = EDM().loss_weight
        return denoising_loss(
            DENOISE, weight, params, IMAGE, jnp.int32(2), draws, null=NULL
        )

    together = loss_and_grad(PARAMS, draws)
    singles = [
        loss_and_grad(
            PARAMS,
            Draws(draws.drop_label, draws.sigma[k : k + 1], draws.noise[k : k + 1]),
        )
        for k in range(5)
    ]
    mean = jax.tree.map(lambda *leaves: sum(leaves) / 5, *singles)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        together,
        mean,
    )
    assert len({float(value) for value, _ in singles}) == 5


@pytest.mark.slow
def test_label_is_dropped_for_all_draws_or_none():
    spy = Spy()
    loss = loss_fn(spy, multiplicity=6, dropout=0.5)
    for seed in range(20):
        loss(PARAMS, example(1), jax.random.key(seed))
    labels = np.array([label for _, _, label in spy.calls])
    assert labels.shape == (20, 6)
    assert np.all(labels == labels[:, :1])
    # All 20 alike has probability 2e-6.
    assert set(labels[:, 0]) == {1, NULL}


@pytest.mark.slow
def test_dropped_label_is_the_null_label():
    key = jax.random.key(4)
    dropped = loss_fn(dropout=1.0)(PARAMS, example(1), key)
    null = loss_fn(dropout=0.0)(PARAMS, example(NULL), key)
    kept = loss_fn(dropout=0.0)(PARAMS, example(1), key)
    assert dropped == null
    assert dropped != kept


def test_unlabelled_data_keep_their_label_whatever_the_dropout():
    spy = Spy()
    loss_fn(spy, dropout=1.0, null=None)(PARAMS, example(0), jax.random.key(0))
    ((_, _, label),) = spy.calls
    np.testing.assert_array_equal(label, np.zeros(4))


@pytest.mark.slow
@pytest.mark.parametrize("stratified", [False, True])
def test_bound_loss_uses_the_draws_of_its_key(stratified):
    key = jax.random.key(6)
    draws = draws_of(key, 3, 0.5, stratified)
    expected = denoising_loss(
        DENOISE, EDM().loss_weight, PARAMS, IMAGE, jnp.int32(0), draws, NULL
    )
    loss = loss_fn(multiplicity=3, dropout=0.5, stratified=stratified)
    assert loss(PARAMS, example(0), key) == expected
    assert loss(PARAMS, example(0), jax.random.key(7)) != expected


@pytest.mark.slow
@pytest.mark.parametrize("views", [Views(), Views(crop=2, flip=True, count=3)])
def test_draws_in_parts_are_all_draws(views):
    key = jax.random.key(6)
    losses = [
        jax.value_and_grad(
            loss_fn(multiplicity=6, dropout=0.5, views=views, draws_at_once=at_once)
        )
        for at_once in (0, 2, 6)
    ]
    found = [loss(PARAMS, example(0), key) for loss in losses]
    for other in found[1:]:
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7),
            other,
            found[0],
        )


def test_activations_of_parts_are_not_kept_together():
    image = jnp.zeros((16, 16, 1))

    def wide(params, x, sigma, label):
        hidden = jnp.tanh(params["w"] * x * jnp.linspace(-1, 1, 64))
        return Prediction(jnp.sin(hidden).sum(axis=-1, keepdims=True))

    def needed(multiplicity, at_once):
        loss = loss_fn(Denoiser(wide), multiplicity=multiplicity, draws_at_once=at_once)
        compiled = jax.jit(jax.grad(loss)).lower(
            PARAMS, example(0, image), jax.random.key(0)
        )
        return compiled.compile().memory_analysis().temp_size_in_bytes

    # An eighth of the draws at once: half of the memory leaves room for their noise.
    assert needed(64, 8) < needed(64, 0) / 2


@pytest.mark.slow
def test_each_draw_has_a_view_of_its_own_and_is_asked_for_it():
    spy = Spy()
    loss_fn(spy, multiplicity=8, views=Views(flip=True, count=4))(
        PARAMS, example(0), jax.random.key(0)
    )
    draws = draws_of(jax.random.key(0), 8)
    ((noisy, sigma, _),) = spy.calls
    seen = noisy - sigma[:, None, None, None] * draws.noise
    flipped = [bool(np.allclose(view, IMAGE[:, ::-1], atol=1e-5)) for view in seen]
    plain = [bool(np.allclose(view, IMAGE, atol=1e-5)) for view in seen]
    assert all(a != b for a, b in zip(flipped, plain, strict=True))
    assert flipped[::2] == flipped[1::2]
    assert set(flipped) == {True, False}


def test_a_network_that_drops_gets_a_key_for_each_draw():
    key = jax.random.key(5)
    spies = []
    for drops in (False, True):
        spies.append(Spy())
        views = Views(flip=True)
        loss = loss_fn(spies[-1], dropout=0.5, drops=drops, views=views)
        loss(PARAMS, example(1), key)
    plain, dropping = spies
    # All else that is drawn is as without.
    jax.tree.map(np.testing.assert_array_equal, plain.calls, dropping.calls)
    assert plain.keys == [()]
    ((keys,),) = dropping.keys
    assert keys.shape == (4,)
    # None follows from the example's key in another way.
    known = [key, *(jax.random.fold_in(key, i) for i in range(6))]
    data = [jax.random.key_data(k).tolist() for k in (*keys, *known)]
    assert len(np.unique(data, axis=0)) == len(data)


@pytest.mark.slow
def test_noise_levels_are_the_given_ones():
    spy = Spy()
    make_loss(
        spy,
        EDM().loss_weight,
        CosineTime(min_log_snr=-0.1, max_log_snr=0.1),
        noise_multiplicity=50,
        label_dropout=0.0,
        null=None,
    )(PARAMS, example(0), jax.random.key(0))
    ((_, sigma, _),) = spy.calls
    assert np.all((np.exp(-0.051) < sigma) & (sigma < np.exp(0.051)))


@pytest.mark.slow
@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30])
def test_loss_of_an_example_ignores_the_rest_of_the_batch(bad):
    images = jax.random.uniform(jax.random.key(8), (5, *SHAPE), minval=-1.0)
    labels = jnp.array([0, 1, 2, 0, 1])
    keys = jax.random.split(jax.random.key(9), 5)
    batch_loss = jax.jit(jax.vmap(loss_fn(dropout=0.3), (None, 0, 0)))
    losses = batch_loss(PARAMS, {"image": images, "condition": labels}, keys)
    other = {"image": images.at[2].set(bad), "condition": labels.at[2].set(0)}
    changed = batch_loss(PARAMS, other, keys.at[2].set(jax.random.key(0)))
    others = np.array([0, 1, 3, 4])
    np.testing.assert_array_equal(losses[others], changed[others])
    assert losses[2] != changed[2]
