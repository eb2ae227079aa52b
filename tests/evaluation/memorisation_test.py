import stat

import numpy as np
import PIL.Image
import pytest

from dpdm_jax.evaluation import memorisation
from dpdm_jax.evaluation.neighbours import Nearest


def test_equal_distributions():
    # |z| above 4.5 has a probability below 1e-5.
    rng = np.random.default_rng(0)
    result = memorisation.copying(rng.normal(5, 1, 900), rng.normal(5, 1, 700))
    assert abs(result.z) < 4.5
    assert abs(result.auc - 0.5) < 4.5 * 0.015
    assert result.close_fraction < 0.05
    assert (result.exact_copies, result.exact_copies_held_out) == (0, 0)


def test_z_has_unit_variance_under_equal_distributions():
    # The standard deviation of 400 z: 1 +- 0.035, beyond 5 of those with p < 1e-6.
    rng = np.random.default_rng(1)
    z = [memorisation.copying(*rng.normal(size=(2, 60))).z for _ in range(400)]
    assert abs(np.std(z) - 1) < 5 * 0.035


def test_copies_are_seen():
    rng = np.random.default_rng(0)
    held_out = rng.normal(5, 1, 500)
    copies = np.concatenate([np.zeros(50), rng.normal(5, 1, 450)])
    result = memorisation.copying(copies, held_out)
    assert result.exact_copies == 50
    assert result.close_fraction >= 0.1
    everything = memorisation.copying(np.zeros(500), held_out)
    assert everything.auc == 1
    assert everything.z > 20


def test_by_hand():
    result = memorisation.copying(np.array([1.0, 3.0]), np.array([2.0, 3.0]))
    # Of four pairs two have the nearer sample, one ties, one has it farther.
    assert result.auc == pytest.approx(2.5 / 4)
    assert result.median_distance == 2
    assert result.median_distance_held_out == 2.5


def test_picture_has_the_nearest_pairs_first(tmp_path):
    samples = np.array([10, 20, 30], np.uint8).reshape(3, 1, 1, 1)
    training = np.array([100, 200], np.uint8).reshape(2, 1, 1, 1)
    nearest = Nearest(np.array([3.0, 1.0, 2.0]), np.array([0, 1, 0]))
    path = tmp_path / "new" / "pairs.png"
    memorisation.write_closest_pairs(path, samples, training, nearest, num_pairs=2)
    # It shows training images: for their owner alone.
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    pixels = np.asarray(PIL.Image.open(path))
    row = pixels[pixels.shape[0] // 2]
    changes = row[np.flatnonzero(np.diff(row.astype(int), prepend=0))]
    # The sample, then its neighbour, on the background 208.
    assert [v for v in changes if v != 208] == [20, 200, 30, 100]
