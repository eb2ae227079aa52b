"""An autoencoder's training, from a config to the run that begins with it."""

import dataclasses
import json
import math
import signal
import time
import types

import jax
import numpy as np
import pytest

from dpdm_jax import data, modes
from dpdm_jax.autoencoding import train as train_lib
from dpdm_jax.autoencoding.checkpoints import Checkpoints, read_trained
from dpdm_jax.autoencoding.step import make_training
from dpdm_jax.autoencoding.train import _Order, is_finished, train
from dpdm_jax.errors import InputError
from dpdm_jax.networks.codecs import KEPT, build_codec
from dpdm_jax.privacy import read_ledger
from dpdm_jax.run_dir import AUTOENCODER as FOLDER

SHAPE = (8, 8, 1)
PUBLIC = "characters of fonts"
SETTINGS = {
    "data__public": PUBLIC,
    "codec__name": "kl",
    "codec__kl__base_channels": 32,
    "codec__kl__num_res_blocks": 1,
    "codec__kl__attention_factors": (),
    "codec__kl__latent_channels": 2,
    "codec__training__batch_size": 8,
    "codec__training__num_steps": 4,
    "codec__training__adversarial_start": 2,
    "codec__training__discriminator_width": 2,
    "codec__training__discriminator_layers": 1,
    "codec__training__scale_images": 150,
    "diffusion__parameterization": "edm",
}


@pytest.fixture(scope="module", autouse=True)
def steps_are_compiled_once():
    made = {}

    def make_once(codec, settings, mesh):
        # A codec has what its config says; its steps take no data.
        key = (codec.sample_shape, codec.identity, settings, mesh)
        if key not in made:
            made[key] = make_training(codec, settings, mesh)
        return made[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dpdm_jax.autoencoding.train.make_training", make_once)
        yield


@pytest.fixture(scope="module")
def make(tiny_config):
    return lambda **overrides: tiny_config(**SETTINGS | overrides)


@pytest.fixture(scope="module")
def trained(make, tmp_path_factory):
    """A run directory with a trained autoencoder. Read-only."""
    workdir = tmp_path_factory.mktemp("autoencoder") / "run"
    shown = []
    train(make(), workdir, lambda *seen: shown.append(seen))
    ((images, made, step),) = shown
    assert images.shape == made.shape == (16, *SHAPE)
    assert images.dtype == made.dtype == np.uint8
    assert step == 4
    return workdir


def params_of(workdir, config):
    return read_trained(workdir / FOLDER, build_codec(config.codec, SHAPE))[0]


@pytest.mark.slow
def test_latents_of_public_images_have_a_standard_deviation_of_one(trained, make):
    config = make()
    assert is_finished(trained)
    assert not is_finished(trained.parent)
    codec = build_codec(config.codec, SHAPE)
    params, public = read_trained(trained / FOLDER, codec)
    assert public == PUBLIC
    source = data.load_source(config.data, "train")
    images = source.examples(np.arange(150))["image"]
    law = jax.jit(codec.posterior)(params, images / np.float32(127.5) - 1)
    variance = np.mean(law.mean**2 + law.std**2) - np.mean(law.mean) ** 2
    # Measured with one draw of each.
    assert abs(np.sqrt(variance) - 1) < 0.05
    steps = [
        json.loads(line)
        for line in (trained / FOLDER / "metrics.jsonl").read_text().splitlines()
    ]
    assert [s["step"] for s in steps] == [1, 2, 3, 4]
    assert ["discriminator" in s for s in steps] == [False, False, True, True]


@pytest.mark.slow
@pytest.mark.parametrize("std", [0.0, math.nan])
def test_latents_that_cannot_be_scaled(make, tmp_path, monkeypatch, std):
    monkeypatch.setattr(train_lib, "_latents_std", lambda job, params: std)
    with pytest.raises(InputError, match=f"the standard deviation {std}, and cannot"):
        train(make(codec__training__num_steps=1), tmp_path)
    assert not is_finished(tmp_path)


@pytest.mark.slow
def test_two_ends_of_a_training_are_one(trained, make, tmp_path):
    """Killed behind its third step, of which its second has a checkpoint."""
    config = make()

    def kill(*seen):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(make(log__snapshot_every_steps=3), tmp_path, kill)
    checkpoints = Checkpoints(tmp_path / FOLDER)
    assert checkpoints.newest() == 2
    checkpoints.close()
    assert not is_finished(tmp_path)
    with pytest.raises(InputError, match="not trained to its end"):
        params_of(tmp_path, config)
    train(config, tmp_path)
    jax.tree.map(
        np.testing.assert_array_equal,
        params_of(tmp_path, config),
        params_of(trained, config),
    )


@pytest.mark.slow
def test_a_signal_keeps_what_was_done(commands, tmp_path):
    flags = [
        f"--config.{name.replace('__', '.')}={value!r}".replace("'", "")
        if isinstance(value, str)
        else f"--config.{name.replace('__', '.')}={value!r}"
        for name, value in SETTINGS.items()
    ]
    process = commands.start(
        "--mode=autoencoder",
        f"--workdir={tmp_path}",
        *flags,
        "--config.codec.training.num_steps=100000",
        "--config.checkpoint.every_steps=1",
        "--config.log.tensorboard=False",
        "--config.log.snapshot_every_steps=0",
    )
    folder = tmp_path / FOLDER / "checkpoints"
    while process.poll() is None and not (folder / "2").exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    ended = process.wait()
    assert ended.returncode == 128 + signal.SIGTERM
    checkpoints = Checkpoints(tmp_path / FOLDER)
    step = checkpoints.newest()
    assert step >= 2
    assert "scale" not in checkpoints.read_meta(step)
    checkpoints.close()


@pytest.mark.slow
def test_a_run_trains_its_autoencoder_first_and_begins_with_it(make, tmp_path):
    config = make(
        train__num_steps=2,
        sample__num_images=50,
        sampler__num_steps=2,
        evaluate__metrics=("logreg",),
        evaluate__seeds=1,
        evaluate__epochs=1,
    )
    workdir = tmp_path / "run"
    modes.run(config, workdir)
    codec = read_ledger(workdir / "privacy.json").codec
    assert (codec.kind, codec.name, codec.public_data) == ("run", "run", PUBLIC)
    picture = workdir / "samples/snapshots/autoencoder_0000004.png"
    assert picture.is_file()
    # What is done is not done again.
    before = (workdir / FOLDER / "metrics.jsonl").read_bytes()
    modes.run(config, workdir)
    assert (workdir / FOLDER / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"data__public": ""}, "data.public is '' and an autoencoder is trained"),
        (
            {
                "codec__name": "pixels",
                **{k: None for k in SETTINGS if k.startswith("codec__kl")},
                **{k: None for k in SETTINGS if k.startswith("codec__training")},
            },
            "codec.name is 'pixels', of which nothing is trained",
        ),
        (
            {"codec__training__discriminator_layers": 3},
            "discriminator_layers is 3, for sides of 24 pixels and more; allowed with "
            "images of 8",
        ),
        (
            {"codec__training__perceptual_weights": "lpips.pth"},
            "perceptual_weights is set with images of 8 pixels",
        ),
        ({"codec__training__error": "l3"}, "codec.training.error is 'l3'"),
        ({"codec__training__scale_images": -1}, "scale_images is -1"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_a_file_is_written(
    tiny_config, tmp_path, overrides, message
):
    merged = {k: v for k, v in (SETTINGS | overrides).items() if v is not None}
    with pytest.raises(InputError, match=message.replace("(", r"\(")):
        train(tiny_config(**merged), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_training_that_diverges_ends_with_its_last_sound_checkpoint(
    make, tmp_path, monkeypatch
):
    def losing_weights(*arguments):
        training = make_training(*arguments)

        def step_at(done, start):
            take = training.step_at(done, start)

            def stepped(*given):
                state, numbers = take(*given)
                lost = jax.tree.map(lambda x: x * np.nan, state.params)
                params = lost if done == 3 else state.params
                return dataclasses.replace(state, params=params), numbers

            return stepped

        return types.SimpleNamespace(init=training.init, step_at=step_at)

    monkeypatch.setattr("dpdm_jax.autoencoding.train.make_training", losing_weights)
    with pytest.raises(
        InputError, match=r"after step 4, .* lower codec\.training\.learning_rate"
    ):
        train(make(), tmp_path)
    checkpoints = Checkpoints(tmp_path / FOLDER)
    assert checkpoints.newest() == 2
    checkpoints.close()


def test_the_plan_of_a_run_says_that_its_autoencoder_comes_first(
    make, tmp_path, capsys
):
    modes.plan(make(), tmp_path, as_json=False, compile_for=None)
    lines = capsys.readouterr().out.splitlines()
    (line,) = (line for line in lines if line.startswith("autoencoder "))
    assert line.endswith(
        "  trained first, num_steps 4, batch_size 8, perceptual_term False"
    )
    given = make(codec__weights="somewhere")
    modes.plan(given, tmp_path, as_json=True, compile_for=None)
    assert "autoencoder" not in json.loads(capsys.readouterr().out)


@pytest.mark.slow
def test_another_training_is_not_gone_on_with(trained, make):
    for overrides, message in (
        ({"codec__training__learning_rate": 1e-3}, "another settings.learning_rate"),
        ({"seed": 1}, "another seed"),
        ({"data__public": "others"}, "another public"),
    ):
        with pytest.raises(InputError, match=message):
            train(make(**overrides), trained)
    with pytest.raises(InputError, match=r"decoder/stem/kernel of .* has the shape"):
        params_of(trained, make(codec__kl__inner_channels=2))
    with pytest.raises(InputError, match=r"codec of .* is kl"):
        params_of(trained, make(codec__kl__scale_factor=2.0))


def test_every_image_comes_once_in_a_round():
    order = _Order(10, 4, seed=3)
    seen = np.concatenate([order.batch(step) for step in range(5)])
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10))
    assert seen[:10].tolist() != seen[10:].tolist()
    np.testing.assert_array_equal(_Order(10, 4, seed=3).batch(3), seen[12:16])
    assert _Order(10, 4, seed=4).batch(0).tolist() != seen[:4].tolist()


@pytest.mark.slow
def test_a_damaged_checkpoint_is_refused(make, tmp_path):
    config = make(codec__training__num_steps=1)
    train(config, tmp_path)
    array = max(
        (tmp_path / FOLDER / "checkpoints/1/params").rglob("d/*"),
        key=lambda path: path.stat().st_size,
    )
    content = bytearray(array.read_bytes())
    content[len(content) // 2] ^= 255
    array.write_bytes(content)
    with pytest.raises(InputError, match=r"cannot be read|not what was written"):
        params_of(tmp_path, config)


@pytest.mark.slow
def test_the_autoencoder_is_among_a_models_parameters(trained, make):
    assert set(params_of(trained, make())) == {KEPT}
