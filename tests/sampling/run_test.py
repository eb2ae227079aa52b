"""Sampling from checkpoints into files."""

import errno
import json
import os
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

from dpdm_jax.conditions import of_classes
from dpdm_jax.configs import digits
from dpdm_jax.errors import InputError
from dpdm_jax.models.model import build_model
from dpdm_jax.sampling import maker, parts, run
from dpdm_jax.training.checkpoints import Checkpoints


def config_of(**sample):
    config = digits.network_alone()
    config.network.mlp.hidden_width = 8
    config.network.mlp.num_blocks = 1
    config.sampler.num_steps = 4
    config.sample.num_images = 30
    config.sample.batch_size = 8
    for name, value in sample.items():
        config.sample[name] = value
    return config


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    """A run directory with imported random weights. Read-only."""
    folder = tmp_path_factory.mktemp("imported") / "run"
    config = config_of()
    model = build_model(config, (8, 8, 1), of_classes(10))
    raw, ema = (model.init(jax.random.key(i)) for i in (0, 1))
    checkpoints = Checkpoints(folder, keep=1)
    checkpoints.save_imported(model, 5, raw, ema, config={}, origin={})
    checkpoints.close()
    return folder


@pytest.fixture
def workdir(imported, tmp_path):
    """A copy of it."""
    return shutil.copytree(imported, tmp_path / "run")


def read(folder):
    with np.load(folder / run.ARCHIVE) as archive:
        return archive["images"], archive["labels"]


@pytest.mark.slow
def test_files(workdir):
    folder = run.sample(config_of(png=True), workdir)
    images, labels = read(folder)
    assert images.shape == (30, 8, 8, 1)
    assert images.dtype == np.uint8
    assert labels.dtype == np.int32
    assert labels.tolist() == [i % 10 for i in range(30)]
    files = sorted((folder / "png").rglob("*.png"))
    assert len(files) == 30
    assert {f.parent.name for f in files} == {str(i) for i in range(10)}
    with Image.open(folder / "png" / "7" / "0000017.png") as image:
        np.testing.assert_array_equal(np.asarray(image), images[17, :, :, 0])
    assert Image.open(folder / run.GRID).size[0] > 100
    assert not (folder / "parts").exists()


@pytest.mark.slow
def test_formats(workdir):
    formats = "npz,png,parquet,webdataset"
    folder = run.sample(config_of(formats=formats), workdir)
    names = {"png", "parquet", "webdataset", "digests.json"}
    assert names <= {p.name for p in folder.iterdir()}
    stated = json.loads((folder / "digests.json").read_text())
    assert stated["parquet"]["num_images"] == 30
    assert list(stated["webdataset"]["files"]) == ["train-00000-of-00001.tar"]
    assert len(stated["png"]["files"]) == 30
    with pytest.raises(InputError, match=r"sample\.formats is 'gif'; allowed: npz"):
        run.sample(config_of(formats="gif"), workdir)


@pytest.mark.slow
def test_files_that_an_interruption_left_out_are_made(workdir, monkeypatch):
    whole = run.sample(config_of(name="whole"), workdir)

    def fail(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    replace = os.replace
    for failing in (run.GRID, run.ARCHIVE):
        with monkeypatch.context() as patch:
            patch.setattr(
                os,
                "replace",
                lambda a, b, name=failing: (fail if b.name == name else replace)(a, b),
            )
            with pytest.raises(InputError, match="No space left on device"):
                run.sample(config_of(), workdir)
    folder = run.sample(config_of(), workdir)
    for name in (run.GRID, run.ARCHIVE):
        assert (folder / name).read_bytes() == (whole / name).read_bytes()
    left = {run.GRID, run.ARCHIVE, maker.SETTINGS, ".lock"}
    assert {p.name for p in folder.iterdir()} == left


@pytest.mark.slow
def test_resumed_sampling_gives_the_same_images(workdir, monkeypatch):
    monkeypatch.setattr(parts, "PART_SIZE", 10)
    whole, _ = read(run.sample(config_of(name="whole"), workdir))
    make = maker.make_generator
    calls = []

    def failing_generator(*args, **kwargs):
        generate = make(*args, **kwargs)

        def call(key, params, indices, labels):
            calls.append(len(indices))
            if len(calls) == 4:
                raise KeyboardInterrupt
            return generate(key, params, indices, labels)

        return call

    monkeypatch.setattr(maker, "make_generator", failing_generator)
    with pytest.raises(KeyboardInterrupt):
        run.sample(config_of(name="cut"), workdir)
    (made,) = (workdir / "samples" / "cut" / "parts").glob("*.npz")
    made.write_bytes(b"damaged")  # and a damaged part is made anew
    resumed, _ = read(run.sample(config_of(name="cut"), workdir))
    np.testing.assert_array_equal(resumed, whole)


@pytest.mark.slow
def test_more_images_extend_the_same_ones(workdir):
    few, _ = read(run.sample(config_of(num_images=12), workdir))
    many, _ = read(run.sample(config_of(num_images=25), workdir))
    assert len(many) == 25
    # Other batches of the compiled program may round the last bit otherwise.
    assert np.abs(many[:12].astype(int) - few).max() <= 1


def test_ema_and_raw_weights_differ(workdir):
    ema, _ = read(run.sample(config_of(name="ema"), workdir))
    raw, _ = read(run.sample(config_of(name="raw", weights="raw"), workdir))
    assert (ema != raw).any()


def test_other_settings_are_refused_and_nothing_is_lost(workdir):
    folder = run.sample(config_of(), workdir)
    before = (folder / run.ARCHIVE).read_bytes()
    for change in ({"seed": 1}, {"weights": "raw"}, {"labels": "3"}):
        with pytest.raises(InputError, match="other settings"):
            run.sample(config_of(**change), workdir)
    assert (folder / run.ARCHIVE).read_bytes() == before
    settings = json.loads((folder / "settings.json").read_text())
    assert settings["sampler"]["num_steps"] == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_images": 0}, "sample.num_images is 0"),
        ({"batch_size": 0}, "sample.batch_size is 0"),
        ({"weights": "best"}, "allowed: ema, raw"),
        ({"rounding": "up"}, "sample.rounding"),
        ({"step": 3}, "no checkpoint of step 3; allowed: 5"),
        ({"name": "../x"}, "sample.name"),
        ({"name": ""}, "sample.name"),
        ({"labels": "11"}, "class 11"),
    ],
)
def test_bad_settings(workdir, change, message):
    with pytest.raises(InputError, match=message):
        run.sample(config_of(**change), workdir)
    assert not (workdir / "samples").exists()


def test_checkpoint_of_another_model(workdir):
    config = config_of()
    config.network.mlp.hidden_width = 9
    with pytest.raises(InputError, match="another model: its parameters"):
        run.sample(config, workdir)
    config = config_of()
    config.diffusion.parameterization = "v"
    with pytest.raises(InputError, match="parameterization"):
        run.sample(config, workdir)


def test_no_checkpoint(tmp_path):
    with pytest.raises(InputError, match="holds no checkpoint"):
        run.sample(config_of(), tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()
