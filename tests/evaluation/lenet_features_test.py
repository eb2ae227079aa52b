import runpy
import sys

import numpy as np
import pytest

from dpdm_jax.errors import InputError
from dpdm_jax.evaluation import cache, lenet_features

NUM_STEPS = 3


def train(images, labels, **settings):
    return lenet_features.train(images, labels, 10, num_steps=NUM_STEPS, **settings)


@pytest.fixture(scope="module")
def enlarged(digits):
    """The inner 6x6 pixels, as large as the network needs them."""
    images, labels = digits[0]
    return images[:, 1:7, 1:7].repeat(3, axis=1).repeat(3, axis=2), labels


@pytest.mark.slow
@pytest.mark.optimized  # trains long enough to gain by it
def test_learns_the_digits(enlarged):
    network = lenet_features.train(*enlarged, 10, num_steps=60)
    assert network.settings["accuracy"] > 0.6  # chance: 0.1
    assert network.settings["task"] == "labels"
    found = np.asarray(network(enlarged[0][:8]))
    assert found.shape == (8, 128)
    assert np.ptp(found, axis=0).max() > 0.1


@pytest.fixture(scope="module")
def few(digits):
    """Images to train on for a few steps, and their labels."""
    return [array[:300] for array in digits[0]]


@pytest.mark.slow
def test_learns_the_same_way_each_time(few):
    images, labels = few
    first, again = train(images, labels), train(images, labels)
    assert first.fingerprint == again.fingerprint
    np.testing.assert_array_equal(first(images[:8]), again(images[:8]))
    assert train(images, labels, seed=1).fingerprint != first.fingerprint


@pytest.mark.slow
@pytest.mark.optimized
def test_learns_rotations_without_labels(enlarged):
    network = lenet_features.train(enlarged[0], None, 0, num_steps=60)
    assert network.settings["task"] == "rotations"
    assert network.settings["accuracy"] > 0.5  # chance: 0.25


@pytest.mark.slow
def test_is_kept_for_next_time(few, tmp_path, monkeypatch):
    images, labels = few
    trained = train(images, labels, cache_folder=tmp_path)
    (path,) = tmp_path.iterdir()
    monkeypatch.setattr(lenet_features, "_train", None)
    read = train(images, labels, cache_folder=tmp_path)
    assert read.fingerprint == trained.fingerprint
    assert read.settings == trained.settings
    with pytest.raises(TypeError):  # other data: nothing is kept of it
        train(images, labels[::-1].copy(), cache_folder=tmp_path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(TypeError):  # damaged: trains anew
        train(images, labels, cache_folder=tmp_path)
    assert path.stat().st_mode & 0o077 == 0


@pytest.mark.slow
def test_two_devices_compute_the_same(few, tmp_path, commands, monkeypatch):
    program = f"""
import sys, jax, numpy as np
from dpdm_jax.evaluation import features, lenet_features
network = lenet_features.train(
    *(np.load(f)["a"] for f in sys.argv[1:3]), 10, num_steps={NUM_STEPS}
)
network.batch_size = 7  # becomes 8 on two devices
images = np.load(sys.argv[1])["a"][:20]
found = np.concatenate(list(features.compute(network, images, np.arange(20))))
np.savez(sys.argv[3], devices=jax.local_device_count(), a=found)
"""
    script = tmp_path / "program.py"
    script.write_text(program)
    files = [tmp_path / name for name in ("images.npz", "labels.npz")]
    for file, array in zip(files, few, strict=True):
        np.savez(file, a=array)
    one, two = ([*map(str, files), str(tmp_path / f"{n}.npz")] for n in (1, 2))
    monkeypatch.setattr(sys, "argv", [str(script), *one])
    runpy.run_path(str(script))
    # In a process of its own, since the number of devices is fixed at start.
    env = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    done = commands.run(*two, module=str(script), env=env)
    assert done.returncode == 0, done.stderr
    results = [np.load(arguments[-1]) for arguments in (one, two)]
    assert [r["devices"] for r in results] == [1, 2]
    assert results[0]["a"].shape == (20, 128)
    np.testing.assert_allclose(results[0]["a"], results[1]["a"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("size", "prepared"), [(8, 24), (17, 34), (18, 18), (63, 63), (64, 32), (130, 32)]
)
def test_sizes(size, prepared):
    images = np.random.default_rng(0).integers(0, 256, (2, size, size, 3), np.uint8)
    small = lenet_features.prepare(images)
    assert small.shape == (2, prepared, prepared, 3)
    assert small.dtype == np.uint8
    factor = size // prepared
    if factor > 1:
        block = images[1, factor : 2 * factor, :factor].mean(axis=(0, 1))
        np.testing.assert_array_equal(small[1, 1, 0], np.rint(block))
    if size < prepared:
        np.testing.assert_array_equal(
            small[:, :: prepared // size, 1 :: prepared // size], images
        )


@pytest.mark.slow
def test_colour_of_an_odd_size():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (40, 20, 20, 3), np.uint8)
    network = lenet_features.train(images, np.arange(40) % 2, 2, num_steps=2)
    assert network(images).shape == (40, 128)


@pytest.mark.parametrize(
    ("shape", "labels"), [((7, 7, 1), np.arange(4) % 2), ((8, 9, 1), None)]
)
def test_refuses_shapes(shape, labels):
    with pytest.raises(InputError, match="allowed for the metrics whose names end in"):
        lenet_features.train(np.zeros((4, *shape), np.uint8), labels, 2)


def test_checksums_tell_arrays_apart():
    sums = {
        cache.checksum(np.zeros(4, np.uint8)),
        cache.checksum(np.zeros((2, 2), np.uint8)),
        cache.checksum(np.zeros(1, np.float32)),
        cache.checksum("a", "b"),
        cache.checksum("ab"),
    }
    assert len(sums) == 5
