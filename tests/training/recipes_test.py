"""Whole runs as the papers have them, cut down to seconds: train, sample, release."""

import numpy as np
import pytest
from official_files import diffusers, write_diffusers
from random_params import random_like

from dpdm_jax import command_line, rooms
from dpdm_jax.configs import digits
from dpdm_jax.initial import read_initial
from dpdm_jax.networks.codecs import build_codec
from dpdm_jax.release.build import release
from dpdm_jax.release.verify import verify
from dpdm_jax.report.page import write_report
from dpdm_jax.sampling import run as sampling_run
from dpdm_jax.training.loop import train

pytestmark = pytest.mark.slow

SMALL = {"train.batch_size": 30, "train.num_steps": 2, "train.microbatch_size": 16}
SMALL |= {"log.snapshot_every_steps": 0, "log.tensorboard": False}
SMALL |= {"checkpoint.every_steps": 2, "privacy.accountant": "rdp"}
SMALL |= {"sample.num_images": 4, "sample.batch_size": 4}


def changed(config, changes):
    config.update_from_flattened_dict(changes)
    rooms.forget_foreign(config, list(changes))
    rooms.check(config)
    return config


def images_of(folder):
    with np.load(folder / sampling_run.ARCHIVE) as archive:
        return archive["images"]


def check_release(config, workdir):
    write_report(workdir)
    assert "Trained: " in (workdir / "report.html").read_text()
    published = release(config, workdir)
    assert verify(published).failures == ()
    return " ".join((published / "PRIVACY.md").read_text().split())


def test_dp_fine_tuning(tmp_path):
    """ADM, DDPM's steps by a mixture, views, draws one by one, gradients over C."""
    config = command_line.load_config("configs/mnist_adm.py").unlock()
    config.data = digits.get_config().data
    changed(
        config,
        SMALL
        | {
            "network.adm.base_channels": 32,
            "network.adm.channel_multipliers": (1,),
            "network.adm.head_channels": 16,
            "diffusion.noise_multiplicity": 2,
            "diffusion.draws_at_once": 1,
            "diffusion.views.crop": 1,
            "diffusion.label_dropout": 0.5,
            "sampler.ddpm.respacing": "3",
            "sampler.guidance": 0.5,
        },
    )
    state = train(config, tmp_path)
    assert int(state.step) == 2
    ancestral = images_of(sampling_run.sample(config, tmp_path))
    assert ancestral.shape == (4, 8, 8, 1)
    config.sampler.update({"name": "ddim_eta", "guidance": 0.0})
    config.sample.name = "ddim"
    rooms.forget_foreign(config, ["sampler.name"])
    assert np.any(images_of(sampling_run.sample(config, tmp_path)) != ancestral)
    text = check_release(config, tmp_path)
    assert "sees 2 views of each image, cropped at random, 1 pixel beyond" in text
    assert "average over its noise draws (K = 2)" in text


def test_latent_diffusion_by_captions(tmp_path):
    """An autoencoder, a U-Net that attends to captions, and what reads them."""
    config = command_line.load_config("configs/digits_text.py").unlock()
    kl = {"base_channels": 32, "num_res_blocks": 1, "attention_factors": ()}
    kl |= {"latent_channels": 2, "scale_factor": 0.5}
    network = {"base_channels": 32, "channel_multipliers": (1,), "num_res_blocks": 1}
    network |= {"attention_factors": (1,), "context_width": 8, "num_heads": 2}
    text = {"depth": 1, "num_heads": 2, "head_channels": 4, "positions": 48}
    changed(
        config,
        SMALL
        | {"initial.parent": "", "codec.name": "kl", "network.name": "latent_unet"}
        | {f"codec.kl.{name}": value for name, value in kl.items()}
        | {f"network.latent_unet.{name}": value for name, value in network.items()}
        | {f"network.text_transformer.{name}": value for name, value in text.items()}
        | {
            "codec.public": "street signs",
            "diffusion.parameterization": "ddpm",
            "diffusion.ddpm.schedule": "ldm",
            "diffusion.noise_levels": "time_mixture",
            "diffusion.noise_multiplicity": 1,
            "train.trainable": "cross_attention,condition",
            "sampler.name": "ddim_eta",
            "sampler.grid": "ldm",
            "sampler.num_steps": 2,
            "sampler.clip_denoised": False,
            "sample.prompt": "a seven\na handwritten two",
        },
    )
    weights = random_like(build_codec(config.codec, (8, 8, 1)).shapes, 0.1)
    folder = write_diffusers(tmp_path / "signs-vae", diffusers(weights), 0.5)
    config.codec.weights = str(folder)
    workdir = tmp_path / "run"
    train(config, workdir, read_initial=read_initial)
    images = images_of(sampling_run.sample(config, workdir))
    assert images.shape == (4, 8, 8, 1)
    text = check_release(config, workdir)
    assert "chosen by cross_attention,condition" in text
    assert "an autoencoder, that of the folder signs-vae" in text
