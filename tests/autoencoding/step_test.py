"""Steps against PyTorch's own gradients of the same losses."""

import dataclasses

import jax
import numpy as np
import pytest
from random_params import random_like

from dpdm_jax import devices
from dpdm_jax.autoencoding.step import make_training
from dpdm_jax.images import pixels
from dpdm_jax.networks import perceptual
from dpdm_jax.networks.codecs import KEPT, kl, vq
from dpdm_jax.networks.codecs.training import Settings

latents = pytest.importorskip("torch_latents")
torch = latents.torch

SIZES = dict(
    base_channels=32,
    channel_multipliers=(1, 1),
    num_res_blocks=1,
    attention_factors=(),
    inner_channels=2,
    latent_channels=2,
)
SHAPE = (12, 12, 1)
KL = kl.KLCodec(kl.Settings(**SIZES), SHAPE)
VQ = vq.VQCodec(vq.Settings(**SIZES, num_codes=7), SHAPE)
SETTINGS = Settings(
    batch_size=2,
    num_steps=10,
    learning_rate=1e-3,
    penalty_weight=0.3,
    codebook_weight=0.6,
    adversarial_weight=0.7,
    adversarial_start=0,
    discriminator_width=4,
    discriminator_layers=2,
)
KEY = jax.random.key(3)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (2, *SHAPE), np.uint8)


def training_of(codec, settings=SETTINGS):
    training = make_training(codec, settings, devices.data_mesh())
    state = jax.eval_shape(training.init, jax.random.key(0))
    params = random_like(state.params, 0.2)
    judging = random_like(state.discriminator, 0.2)
    opt = [
        jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), s)
        for s in (state.opt_state, state.discriminator_opt_state)
    ]
    return training, dataclasses.replace(
        state,
        step=np.int32(0),
        params=params,
        opt_state=opt[0],
        discriminator=judging,
        discriminator_opt_state=opt[1],
    )


def place(state):
    return devices.place(state, devices.replicated(devices.data_mesh()))


def leaves_with_grad(params):
    tensors = latents.as_torch(params)
    for leaf in jax.tree.leaves(tensors):
        leaf.requires_grad_(True)
    return tensors


def conv4(p, x, stride):
    kernel = p["kernel"].permute(3, 2, 0, 1).contiguous()
    return torch.nn.functional.conv2d(x, kernel, p.get("bias"), stride, 1)


def scores(p, x):
    h = torch.nn.functional.leaky_relu(conv4(p["first"], x.movedim(-1, 1), 2), 0.2)
    for i, stride in ((1, 2), (2, 1)):
        block = p["blocks"][f"block_{i}"]
        h = conv4(block["conv"], h, stride)
        norm = block["norm"]
        h = torch.nn.functional.batch_norm(
            h, None, None, norm["scale"], norm["bias"], training=True
        )
        h = torch.nn.functional.leaky_relu(h, 0.2)
    return conv4(p["last"], h, 1)


def reconstruct(codec, p, x, noise):
    p = p[KEPT]
    h = latents.encoder(p["encoder"], x)
    h = latents.dense(p["to_latent"], h)
    if codec is VQ:
        rows = p["codes"]["embedding"]
        nearest = torch.cdist(h.detach().flatten(0, 2), rows.detach()).argmin(1)
        chosen = rows[nearest].view(h.shape)
        squares = [(chosen.detach() - h) ** 2, 0.25 * (chosen - h.detach()) ** 2]
        penalty = sum(s.mean() for s in squares)
        z = h + (chosen - h).detach()
    else:
        mean, log_variance = h.chunk(2, dim=-1)
        z = mean + torch.exp(0.5 * log_variance) * noise
        each = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance)
        penalty = each.sum(dim=(1, 2, 3)).mean()
    return latents.decoder(p["decoder"], latents.dense(p["from_latent"], z)), penalty


def adam(params, rate=1e-3):
    """The first step of Adam; nested dictionary of arrays."""

    def moved(leaf):
        gradient = leaf.grad
        return (leaf - rate * gradient / (gradient.abs() + 1e-8)).detach().numpy()

    return jax.tree.map(moved, params)


@pytest.mark.slow
@pytest.mark.parametrize("codec", [KL, VQ], ids=["kl", "vq"])
def test_a_step_is_that_of_pytorch(codec, images):
    training, state = training_of(codec)
    noise = jax.random.normal(KEY, (2, *codec.latent_shape))
    x = torch.tensor(np.asarray(pixels.to_float(images), np.float64))
    ours, judging = (leaves_with_grad(p) for p in (state.params, state.discriminator))
    made, penalty = reconstruct(codec, ours, x, torch.tensor(np.asarray(noise)))
    error = (x - made).abs().sum(dim=(1, 2, 3)).mean()
    if codec is VQ:
        error = error / x[0].numel()
    judged = -scores(judging, made).mean()
    last = ours[KEPT]["decoder"]["head"]["conv"]["kernel"]
    norms = [
        torch.autograd.grad(part, last, retain_graph=True)[0].norm()
        for part in (error, judged)
    ]
    weight = 0.7 * (norms[0] / (norms[1] + 1e-4)).clamp(0, 1e4).detach()
    weight_of_penalty = 0.6 if codec is VQ else 0.3
    loss = error + weight_of_penalty * penalty + weight * judged
    loss.backward()
    for leaf in jax.tree.leaves(judging):
        leaf.grad = None
    relu = torch.relu
    hinge = 0.5 * (
        relu(1 - scores(judging, x)).mean()
        + relu(1 + scores(judging, made.detach())).mean()
    )
    hinge.backward()

    after, numbers = training.adversarial_step(place(state), {}, images, KEY)
    expected = {
        "error": error,
        "penalty": penalty,
        "adversarial_weight": weight,
        "discriminator": hinge,
    }
    assert set(numbers) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(numbers[name], value.item(), rtol=2e-4, err_msg=name)
    for found, wanted in (
        (after.params, adam(ours)),
        (after.discriminator, adam(judging)),
    ):
        difference = [
            np.abs(np.asarray(a) - b).ravel()
            for a, b in zip(
                jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True
            )
        ]
        # Adam's first step is the sign of the gradient: where that is almost zero,
        # rounding decides.
        assert np.mean(np.concatenate(difference) > 1e-4) < 0.01


@pytest.mark.slow
def test_before_its_start_the_discriminator_is_neither_heard_nor_trained(images):
    training, state = training_of(KL)
    before = jax.tree.map(np.array, state.discriminator)
    assert training.step_at(4, start=5) is training.step
    assert training.step_at(5, start=5) is training.adversarial_step
    after, numbers = training.step(place(state), {}, images, KEY)
    assert set(numbers) == {"error", "penalty"}
    jax.tree.map(np.testing.assert_array_equal, after.discriminator, before)
    without = make_training(
        KL, dataclasses.replace(SETTINGS, adversarial_start=10), devices.data_mesh()
    )
    assert without.adversarial_step is None
    assert without.init(jax.random.key(0)).discriminator == {}


@pytest.mark.slow
def test_the_perceptual_distance_is_added_to_every_pixel():
    shape = (16, 16, 1)
    codec = kl.KLCodec(kl.Settings(**SIZES), shape)
    settings = dataclasses.replace(
        SETTINGS, adversarial_start=10, perceptual_weight=0.7
    )
    training, state = training_of(codec, settings)
    images = np.random.default_rng(0).integers(0, 256, (2, *shape), np.uint8)
    distance = perceptual.perceptual()
    weights = random_like(jax.eval_shape(distance.init, KEY), 0.05)
    noise = jax.random.normal(KEY, (2, *codec.latent_shape))
    x = pixels.to_float(images)
    made = jax.jit(codec.reconstruct)(state.params, x, noise).images
    far = np.asarray(jax.jit(distance.bind(weights))(x, made))
    assert (far > 0.01).all()
    errors = [
        training.step(place(state), given, images, KEY)[1]["error"]
        for given in ({}, weights)
    ]
    # Errors are summed over an image, of 256 numbers.
    assert errors[1] - errors[0] == pytest.approx(0.7 * 256 * far.mean(), rel=1e-4)
