"""What a reader of a release can do with it."""

import json
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest

import dpdm_jax
from dpdm_jax import command_line, modes
from dpdm_jax.conditions import of_classes
from dpdm_jax.errors import InputError
from dpdm_jax.models.model import build_model
from dpdm_jax.release import bundle
from dpdm_jax.release.build import release
from dpdm_jax.release.model import ReleasedModel, open_as_run
from dpdm_jax.sampling import run as sampling_run


def images_of(folder):
    with np.load(folder / sampling_run.ARCHIVE) as archive:
        return archive["images"], archive["labels"]


@pytest.mark.slow
def test_the_images_are_those_of_the_checkpoint_bit_for_bit(released, trained):
    images, labels = images_of(trained / "samples" / "samples")
    made, classes = dpdm_jax.load_release(released).sample(30)
    assert made.dtype == np.uint8
    np.testing.assert_array_equal(made, images)
    np.testing.assert_array_equal(classes, labels)
    with np.load(released / "samples.npz") as archive:
        np.testing.assert_array_equal(archive["images"], images)


@pytest.mark.slow
def test_labels_seeds_and_presets(released):
    model = dpdm_jax.load_release(str(released))
    asked = [3, 1, 4, 1, 5, 9, 2, 6]
    first, labels = model.sample(8, labels=asked)
    assert first.shape == (8, 8, 8, 1)
    assert labels.tolist() == asked
    assert labels.dtype == np.int32
    again, _ = model.sample(8, labels=np.array(asked))
    np.testing.assert_array_equal(first, again)
    assert (model.sample(8, labels=asked, seed=1)[0] != first).any()
    assert (model.sample(8, labels=asked, preset="ddim")[0] != first).any()
    assert model.sample(3, labels="7")[1].tolist() == [7, 7, 7]
    assert model.sample(2, labels=np.int64(7))[1].tolist() == [7, 7]
    assert model.sample(2, labels="seven")[1].tolist() == [7, 7]


@pytest.mark.slow
def test_another_seed_compiles_nothing_anew(released):
    model = dpdm_jax.load_release(released)
    compiled = []

    def count(event, duration, **facts):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(facts)

    jax.monitoring.register_event_duration_secs_listener(count)
    try:
        model.sample(7, seed=0, batch_size=7)
        assert compiled
        compiled.clear()
        model.sample(7, seed=1, batch_size=7)
        assert not compiled
    finally:
        jax.monitoring.unregister_event_duration_listener(count)


@pytest.mark.slow
def test_settings_of_the_program_around_change_no_image(released):
    expected, _ = dpdm_jax.load_release(released).sample(8)
    with (
        jax.enable_x64(True),
        jax.default_prng_impl("rbg"),
        jax.threefry_partitionable(False),
        jax.numpy_rank_promotion("raise"),
    ):
        made, _ = dpdm_jax.load_release(released).sample(8)
    np.testing.assert_array_equal(made, expected)


@pytest.mark.slow
def test_half_precision_storage_hardly_changes_images(make_config, workdir, released):
    folder = release(make_config(release__dtype="float16"), workdir)
    whole, _ = dpdm_jax.load_release(released).sample(8)
    half, _ = dpdm_jax.load_release(folder).sample(8)
    assert np.abs(whole.astype(int) - half).mean() < 4


@pytest.mark.slow
def test_without_classes_there_are_no_labels(released):
    labelled = dpdm_jax.load_release(released)
    config = labelled.config.copy_and_resolve_references()
    config.sampler.guidance = 0.0
    model = build_model(config, (8, 8, 1), of_classes(0))
    params = model.init(jax.random.key(0))
    images, labels = ReleasedModel(config, model, params, {}, {}).sample(2)
    assert images.shape == (2, 8, 8, 1)
    assert labels is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_images": 0}, "num_images is 0"),
        ({"num_images": 2, "labels": [1]}, r"shape \(1,\)"),
        ({"num_images": 2, "labels": [1, 10]}, "class 10"),
        ({"num_images": 2, "labels": 10}, "class 10"),
        ({"num_images": 2, "labels": 1.0}, r"sample\.labels is 1\.0; allowed"),
        ({"num_images": 2, "labels": [0.5, 1.5]}, "float64"),
        ({"num_images": 2, "labels": "all"}, "'all'"),
        ({"num_images": 2, "seed": -1}, "seed is -1"),
        ({"num_images": 2, "preset": "best"}, "allowed: ddim, ddim_stochastic"),
        ({"num_images": 2, "batch_size": 0}, "batch_size is 0"),
    ],
)
def test_bad_arguments(released, arguments, message):
    with pytest.raises(InputError, match=message):
        dpdm_jax.load_release(released).sample(**arguments)


def test_damaged_releases_are_not_loaded(bundle_copy, tmp_path):
    with pytest.raises(InputError, match="is no intact release"):
        dpdm_jax.load_release(tmp_path / "nothing")
    content = bytearray((bundle_copy / "params.safetensors").read_bytes())
    content[-1] ^= 1
    (bundle_copy / "params.safetensors").write_bytes(content)
    with pytest.raises(InputError, match="differs from its checksum"):
        dpdm_jax.load_release(bundle_copy)


def test_what_hubs_and_systems_do_to_a_folder_does_not_matter(released, tmp_path):
    """Links to a cache's files, a model card, and what is hidden, are no damage."""
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "main"
    for number, name in enumerate(bundle.file_names(released)):
        blob, link = blobs / str(number), snapshot / name
        for path in blob, link:
            path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(released / name, blob)
        link.symlink_to(blob)
    for name in "README.md", ".gitattributes", ".DS_Store", ".git/HEAD":
        (snapshot / name).parent.mkdir(exist_ok=True)
        (snapshot / name).write_text(name)
    assert dpdm_jax.load_release(snapshot).manifest["name"] == "digits"
    with open(blobs / "0", "ab") as file:
        file.write(b" ")
    with pytest.raises(InputError, match="differs from its checksum"):
        dpdm_jax.load_release(snapshot)


def test_what_is_read_must_be_listed(bundle_copy):
    path = bundle_copy / bundle.CHECKSUMS
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(x for x in lines if "params.safetensors" not in x))
    with pytest.raises(
        InputError, match=r"params\.safetensors is missing in SHA256SUMS"
    ):
        dpdm_jax.load_release(bundle_copy)


@pytest.mark.slow
def test_jobs_that_sample_in_one_directory_take_turns(
    released, trained, commands, tmp_path
):
    flags = f"--config=configs/released.py:{released}", f"--workdir={tmp_path / 'run'}"
    jobs = [commands.start(*flags, "--mode=sample") for _ in range(2)]
    for job in jobs:
        done = job.wait()
        assert done.returncode == 0, done.stderr
    made, _ = images_of(tmp_path / "run" / "samples" / "samples")
    np.testing.assert_array_equal(made, images_of(trained / "samples" / "samples")[0])


@pytest.mark.slow
def test_the_modes_read_a_release(released, trained, tmp_path, capsys):
    config = command_line.load_config(f"configs/released.py:{released}")
    assert config.name == "digits_released"
    modes.sample(config, tmp_path / "run")
    modes.sample(config, tmp_path / "run")  # again: there already
    made, _ = images_of(tmp_path / "run" / "samples" / "samples")
    np.testing.assert_array_equal(made, images_of(trained / "samples" / "samples")[0])
    for mode in (modes.train, modes.run, modes.release):
        with pytest.raises(InputError, match="allowed: --mode=sample"):
            mode(config, tmp_path / "run")


def test_a_run_directory_holds_one_release(
    make_config, released, trained, workdir, tmp_path
):
    config = command_line.load_config(f"configs/released.py:{released}")
    with pytest.raises(InputError, match="other checkpoints"):
        open_as_run(released, config, trained)
    config.network.mlp.hidden_width = 9
    with pytest.raises(InputError, match="another model"):
        open_as_run(released, config, tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("variant", ["", "nowhere"])
def test_config_of_no_release(variant):
    with pytest.raises(InputError, match="with the folder of a release"):
        command_line.load_config(f"configs/released.py:{variant}")


def test_config_of_another_version(bundle_copy):
    path = bundle_copy / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"train": "fast"}))
    with pytest.raises(InputError, match="with the folder of a release"):
        command_line.load_config(f"configs/released.py:{bundle_copy}")


@pytest.mark.slow
def test_importing_the_package_stays_light():
    code = (
        "import dpdm_jax, sys; assert 'jax' not in sys.modules;"
        "print(dpdm_jax.load_release.__name__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout == "load_release\n"
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = dpdm_jax.nothing


def test_a_release_can_be_moved(released, tmp_path):
    moved = shutil.copytree(released, tmp_path / "elsewhere" / "model")
    assert bundle.identity(moved) == bundle.identity(released)
    dpdm_jax.load_release(moved)
