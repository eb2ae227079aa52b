"""Laws of latents made before the first step: the same end, and whose they are."""

import dataclasses
import errno
import hashlib
import os
import re
import shutil
import stat
import types

import jax
import numpy as np
import pytest
from official_files import diffusers, write_diffusers
from random_params import random_like

from dpdm_jax import data, devices, rngs
from dpdm_jax.conditions import of_classes
from dpdm_jax.errors import InputError
from dpdm_jax.initial import read_initial
from dpdm_jax.models import partition
from dpdm_jax.models.encoding import as_read, make_encoder
from dpdm_jax.models.identity import named_leaves
from dpdm_jax.models.model import build_model
from dpdm_jax.networks.codecs import KEPT, build_codec
from dpdm_jax.release.build import release
from dpdm_jax.training import latents, loop
from dpdm_jax.training.loop import train
from dpdm_jax.training.run import Run
from dpdm_jax.training.secrets import fixed_secrets

SHAPE = (8, 8, 1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, config_of):
    """Weights of an autoencoder. Read-only."""
    codec = build_codec(config_of().codec, SHAPE)
    weights = random_like(jax.eval_shape(codec.init, jax.random.key(0)), 0.1)
    folder = tmp_path_factory.mktemp("public") / "signs-vae"
    return write_diffusers(folder, diffusers(weights), 0.5)


@pytest.fixture(scope="module")
def config_of(tiny_config):
    """Makes a config of a perceptron on 4x4 latents, of 3 steps."""

    def make(**overrides):
        latent = {
            "codec__name": "kl",
            "codec__public": "street signs",
            "codec__kl__base_channels": 32,
            "codec__kl__num_res_blocks": 1,
            "codec__kl__attention_factors": (),
            "codec__kl__latent_channels": 2,
            "codec__kl__scale_factor": 0.5,
            "diffusion__parameterization": "edm",
            "privacy__fixed_keys_seed": 3,
            "train__num_steps": 3,
        }
        return tiny_config(**latent | overrides)

    return make


@pytest.fixture
def run_of(config_of, folder, tmp_path, monkeypatch):
    """Trains with laws kept somewhere; returns the last state and the folder."""
    seen = []
    with_laws = loop.with_laws

    def watched(run):
        found = with_laws(run)
        seen.append(found)
        return found

    monkeypatch.setattr(loop, "with_laws", watched)

    def run(cache, name=None, **overrides):
        workdir = tmp_path / (name or cache)
        config = config_of(codec__weights=str(folder), codec__cache=cache, **overrides)
        return train(config, workdir, read_initial=read_initial), workdir

    run.seen = seen
    return run


def assert_equal(one, other):
    for name in ("params", "ema_params", "opt_state"):
        trees = (getattr(state, name) for state in (one, other))
        jax.tree.map(np.testing.assert_array_equal, *trees)


def folders(workdir):
    """The folders of laws in a run directory."""
    return sorted((workdir / "latents").iterdir())


@pytest.mark.slow
def test_the_end_is_the_same_wherever_laws_come_from(run_of):
    expected, off = run_of("off")
    in_memory, memory = run_of("memory")
    on_disk, disk = run_of("disk")
    assert_equal(in_memory, expected)
    assert_equal(on_disk, expected)
    assert not (off / "latents").exists()
    assert not (memory / "latents").exists()
    assert len(folders(disk)) == 1
    plain, *others = run_of.seen
    assert plain.source.spec["image"].dtype == np.uint8
    for run in others:
        assert run.source.spec == run.model.example
        assert run.encode is as_read


@pytest.mark.slow
def test_private_steps_change_attention_and_classes_and_nothing_else(run_of):
    """DP-LDM: autoencoder, ResBlocks and all else of the U-Net keep their bits."""
    state, _ = run_of(
        "off",
        network__name="latent_unet",
        network__latent_unet__base_channels=32,
        network__latent_unet__channel_multipliers=(1,),
        network__latent_unet__num_res_blocks=1,
        network__latent_unet__attention_factors=(1,),
        network__latent_unet__context_width=5,
        diffusion__parameterization="ddpm",
        diffusion__noise_levels="time_mixture",
        train__trainable="attention,condition",
    )
    (run,) = run_of.seen
    first = named_leaves(run.model.init(rngs.stream(run.config.seed, "init")))
    for trained in (state.params, state.ema_params):
        now = named_leaves(partition.join(trained, jax.device_get(run.fixed)))
        assert set(now) == set(first)
        changed = {
            name
            for name, value in now.items()
            if not name.startswith(KEPT) and not np.array_equal(value, first[name])
        }
        assert changed == set(named_leaves(trained))
        assert all(re.search("attention|context/label", name) for name in changed)
        assert any("label" in name for name in changed)
        frozen = " ".join(set(now) - changed)
        for part in (KEPT, "stem", "/block_0/conv_a", "embedding/hidden", "head"):
            assert part in frozen


@pytest.mark.slow
def test_images_of_people_have_laws_of_their_own(run_of, tmp_path):
    """Whoever they are of; and a step encodes all that it sees of a person."""
    rng = np.random.default_rng(0)
    np.savez(
        tmp_path / "train.npz",
        images=rng.integers(0, 256, (40, *SHAPE), np.uint8),
        labels=np.arange(40) % 10,
        person=rng.integers(0, 8, 40),
    )
    people = {
        "data__source": "npz",
        "data__path": str(tmp_path),
        "data__num_examples": 0,
        "data__group": "person",
        "train__images_per_group": 2,
        "train__batch_size": 4,
        "train__microbatch_size": 4,
    }
    expected, _ = run_of("off", **people)
    in_memory, _ = run_of("memory", **people)
    assert_equal(in_memory, expected)
    for run in run_of.seen:
        assert len(run.source) == 40
        assert len(run.groups) == run.plan.num_examples == 8


@pytest.mark.slow
def test_a_run_that_was_stopped_sees_the_views_it_would_have(run_of):
    views = {"diffusion__views__flip": True, "diffusion__views__crop": 2}
    expected, workdir = run_of("auto", name="whole", **views)
    run_of("auto", name="stopped", train__stop_after_steps=2, **views)
    state, _ = run_of("off", name="stopped", **views)
    assert_equal(state, expected)
    assert not (workdir / "latents").exists()
    without, _ = run_of("off")
    with pytest.raises(AssertionError):
        assert_equal(without, expected)


@pytest.mark.slow
def test_laws_on_a_disk_are_for_their_owner_and_never_published(run_of):
    _, workdir = run_of("disk")
    (laws,) = folders(workdir)
    for folder in (laws, laws.parent):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    kept = list(laws.iterdir())
    assert len(kept) == 3
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in kept)
    (run,) = run_of.seen
    content = data.bind(data.load_source(run.config.data, "train"))[1]
    assert content.hex() not in laws.name

    config = run.config.copy_and_resolve_references()
    config.release.allow_not_private = True
    published = release(config, workdir)
    hidden = {hashlib.sha256(path.read_bytes()).digest() for path in kept}
    for path in published.rglob("*"):
        assert path.name not in {"latents", laws.name, *(p.name for p in kept)}
        assert path.is_dir() or hashlib.sha256(path.read_bytes()).digest() not in hidden
    config.release.samples = "../latents"
    with pytest.raises(InputError, match="allowed: the name of one folder"):
        release(config, workdir)


@pytest.mark.slow
def test_laws_are_found_again_made_anew_or_removed(run_of, caplog):
    stopped = {"train__stop_after_steps": 2}
    _, workdir = run_of("disk", **stopped)
    (laws,) = folders(workdir)
    times = [path.stat().st_mtime_ns for path in sorted(laws.iterdir())]
    damaged_run = workdir.with_name("damaged")
    shutil.copytree(workdir, damaged_run)
    # Of another codec, and of a process that was killed.
    for name in ("other", f".{laws.name}.0123"):
        shutil.copytree(laws, laws.with_name(name))
    expected, _ = run_of("disk")
    assert folders(workdir) == [laws]
    assert [path.stat().st_mtime_ns for path in sorted(laws.iterdir())] == times
    assert "damaged" not in caplog.text

    (laws,) = folders(damaged_run)
    damaged = bytearray((laws / "1.npy").read_bytes())
    damaged[-1] ^= 1
    (laws / "1.npy").write_bytes(damaged)
    state, _ = run_of("disk", name="damaged")
    assert_equal(state, expected)
    assert "is damaged, and is made anew" in caplog.text


@pytest.fixture(scope="module")
def run(config_of, tmp_path_factory):
    """What laws are made of: a run of a few images, which takes no steps."""
    config = config_of(codec__cache="disk", train__microbatch_size=4)
    model = build_model(config, SHAPE, of_classes(3))
    params = random_like(model.shapes, 0.1)
    mesh = devices.data_mesh()
    rng = np.random.default_rng(0)
    source = data.ArraySource(
        rng.integers(0, 256, (6, *SHAPE), np.uint8), np.arange(6) % 3, 3
    )
    return Run(
        config=config,
        workdir=tmp_path_factory.mktemp("run"),
        plan=types.SimpleNamespace(total_steps=1, expected_batch_size=1, unit=None),
        source=source,
        groups=None,
        encode=make_encoder(model, mesh),
        content=data.bind(source)[1],
        model=model,
        fixed=devices.place(model.split(params)[1], devices.replicated(mesh)),
        mesh=mesh,
        secrets=fixed_secrets(0),
        ledger=None,
        checkpoints=None,
    )


def with_source(run, source):
    return dataclasses.replace(run, source=source, content=data.bind(source)[1])


def of_others(run):
    """Runs whose laws are others: of one image, of weights, and of the secrets."""
    examples = run.source.examples(np.arange(6))
    examples["image"][2, 3, 3] ^= 1
    fixed = jax.tree.map(lambda x: x, run.fixed)
    fixed[KEPT]["to_latent"]["bias"] += 1.0
    return [
        with_source(run, data.MemorySource(examples, run.source.condition)),
        dataclasses.replace(run, fixed=fixed),
        dataclasses.replace(run, secrets=fixed_secrets(1)),
    ]


def every_law(run):
    return np.asarray(latents.with_laws(run).source.examples(np.arange(6))["image"])


def test_one_image_has_a_part_in_its_own_law_alone(run):
    """Neighbouring data: laws differ in one row, and nothing else changes."""
    laws = every_law(run)
    assert laws.shape == (6, 4, 4, 4)
    differ = every_law(of_others(run)[0]) != laws
    assert differ.any(axis=(1, 2, 3)).tolist() == [i == 2 for i in range(6)]
    examples = jax.tree.map(
        lambda x: x[[0, 1, 3, 4, 5]], run.source.examples(np.arange(6))
    )
    fewer = with_source(run, data.MemorySource(examples, run.source.condition))
    rest = latents.with_laws(fewer).source.examples(np.arange(5))
    np.testing.assert_allclose(
        rest["image"], laws[[0, 1, 3, 4, 5]], rtol=1e-5, atol=1e-6
    )
    np.testing.assert_array_equal(rest["condition"], [0, 1, 0, 1, 2])


@pytest.mark.slow
def test_laws_of_other_weights_data_or_runs_are_not_taken(run):
    every_law(run)
    names = {folders(run.workdir)[0].name}
    for other in of_others(run):
        # Where a folder of the first one's laws is, too.
        every_law(run)
        every_law(other)
        (found,) = folders(run.workdir)
        names.add(found.name)
    assert len(names) == 4


@pytest.mark.parametrize("failing", ["encode", "write"])
def test_a_failure_in_the_middle_leaves_nothing(run, tmp_path, monkeypatch, failing):
    run = dataclasses.replace(run, workdir=tmp_path)
    if failing == "encode":
        parts = latents._parts

        def one(run):
            yield next(parts(run))
            raise KeyboardInterrupt

        monkeypatch.setattr(latents, "_parts", one)
        expected, words = KeyboardInterrupt, None
    else:

        def full(*args):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(latents.files, "sync_tree", full)
        expected, words = InputError, "cannot be written .No space left"
    with pytest.raises(expected, match=words):
        latents.with_laws(run)
    assert folders(tmp_path) == []


def test_laws_changed_while_steps_read_them_are_refused(run, tmp_path):
    source = latents.with_laws(dataclasses.replace(run, workdir=tmp_path)).source
    (laws,) = folders(tmp_path)
    with open(laws / "1.npy", "r+b") as file:
        file.seek(-4, os.SEEK_END)
        file.write(b"abcd")
    source.examples(np.array([0, 1]))
    with pytest.raises(InputError, match="data was changed while the run reads it"):
        source.examples(np.array([1, 5]))
