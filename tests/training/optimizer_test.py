import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpdm_jax import command_line
from dpdm_jax.errors import InputError
from dpdm_jax.training.optimizer import build_optimizer


def config_of(**fields):
    config = command_line.load_config("configs/mnist.py").train
    for name, value in fields.items():
        config[name] = value
    return config


def steps_of(config, gradients, num_steps=100):
    optimizer = build_optimizer(config, num_steps)
    params = jnp.zeros(2)
    state = optimizer.init(params)
    moves = []
    for gradient in gradients:
        update, state = optimizer.update(jnp.asarray(gradient), state, params)
        moves.append(np.asarray(update))
    return np.array(moves)


def test_the_papers_adam():
    gradients = np.random.default_rng(0).normal(size=(5, 2)).astype(np.float32)
    m, v, expected = np.zeros(2), np.zeros(2), []
    for n, g in enumerate(gradients, 1):
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        m_hat, v_hat = m / (1 - 0.9**n), v / (1 - 0.999**n)
        expected.append(-3e-4 * m_hat / (np.sqrt(v_hat) + 1e-8))
    np.testing.assert_allclose(steps_of(config_of(), gradients), expected, rtol=1e-4)


def test_noise_alone_moves_weights_as_far_as_is_published():
    """DP-LDM on CelebA at 64 pixels (arXiv 2305.15759): a random walk of Adam.

    The authors' code states how far blocks of attention had moved: 7 to 8, 15.6 to 16.1
    and 31.1 to 31.3 at widths of 128, 256 and 512, about 86 together. So does noise of
    the same steps and rate, weight decay aside: what moves them is the noise.
    """
    config = command_line.load_config("configs/celeba_64_ldm.py:eps=10")
    config.train.weight_decay = 0.0
    num_steps, width = 1400, 4000
    optimizer = build_optimizer(config.train, num_steps)
    # Of the mean gradient: noise multiplier, clip norm, batch size.
    stddev = 1.245 * config.privacy.l2_clip_norm / config.train.batch_size

    def step(carry, key):
        params, state = carry
        noise = stddev * jax.random.normal(key, (width,))
        update, state = optimizer.update(noise, state, params)
        return (params + update, state), None

    start = jnp.zeros(width)
    keys = jax.random.split(jax.random.key(0), num_steps)
    (moved, _), _ = jax.lax.scan(step, (start, optimizer.init(start)), keys)
    # 4,000 weights: three standard deviations of their root mean square are 3.4 %.
    rms = float(jnp.sqrt(jnp.mean(moved**2)))
    assert rms == pytest.approx(8.19e-4 * num_steps**0.5, rel=0.05)
    for channels, published in ((128, 7.5), (256, 15.8), (512, 31.2)):
        weights = 4 * channels**2 + 6 * channels  # of a block of attention
        assert rms * weights**0.5 == pytest.approx(published, rel=0.1)
    assert rms * 7_959_808**0.5 == pytest.approx(85.8, rel=0.05)


def test_weight_decay_is_that_of_pytorchs_adamw():
    torch = pytest.importorskip("torch")
    gradients = np.random.default_rng(0).normal(size=(5, 2)).astype(np.float32)
    ours = np.ones(2, np.float32)
    optimizer = build_optimizer(config_of(weight_decay=0.1, learning_rate=0.01), 5)
    state = optimizer.init(ours)
    theirs = torch.nn.Parameter(torch.ones(2))
    official = torch.optim.AdamW([theirs], lr=0.01, weight_decay=0.1)
    for gradient in gradients:
        update, state = optimizer.update(gradient, state, ours)
        ours = ours + np.asarray(update)
        theirs.grad = torch.tensor(gradient)
        official.step()
    np.testing.assert_allclose(ours, theirs.detach(), rtol=1e-5)
    with pytest.raises(InputError, match=r"weight_decay is 0\.1 and"):
        build_optimizer(config_of(weight_decay=0.1, optimizer="sgd"), 5)


def rates(num_steps, **fields):
    config = config_of(optimizer="sgd", learning_rate=1.0, **fields)
    return -steps_of(config, np.ones((num_steps, 2)), num_steps)[:, 0]


def test_schedules():
    np.testing.assert_allclose(rates(10), 1.0)
    linear = rates(100, schedule="linear")
    np.testing.assert_allclose(linear[[0, 50]], [1.0, 0.525], rtol=1e-5)
    cosine = rates(100, schedule="cosine")
    np.testing.assert_allclose(cosine[[0, 50]], [1.0, 0.525], rtol=1e-5)
    assert (np.diff(cosine) < 0).all()
    assert 0.05 <= cosine[-1] < 0.06


def test_warm_up():
    warm = rates(20, warmup_steps=4)
    np.testing.assert_allclose(warm[:6], [0, 0.25, 0.5, 0.75, 1, 1], rtol=1e-6)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("optimizer", "lion"),
        ("schedule", "step"),
        ("learning_rate", 0.0),
        ("learning_rate", float("nan")),
        ("warmup_steps", -1),
        ("b1", 1.0),
        ("b2", -0.1),
        ("adam_eps", 0.0),
        ("weight_decay", -0.1),
    ],
)
def test_bad_fields(field, value):
    with pytest.raises(InputError, match=f"{field} is"):
        build_optimizer(config_of(**{field: value}), 10)
