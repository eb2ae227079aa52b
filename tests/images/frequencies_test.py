import numpy as np
import pytest

from dpdm_jax.images.frequencies import dct_matrix, falling_spectrum


@pytest.mark.parametrize("size", [1, 2, 7, 28])
def test_transform_is_orthonormal_and_ordered_by_frequency(size):
    matrix = dct_matrix(size)
    assert matrix.dtype == np.float32
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(size), atol=1e-6)
    # A cosine of odd frequency passes through 0 at the middle pixel of an odd line.
    signs = [np.sign(row[np.abs(row) > 1e-6]) for row in matrix]
    changes_of_sign = [np.sum(np.diff(sign) != 0) for sign in signs]
    assert changes_of_sign == list(range(size))


def test_transform_of_a_known_line():
    np.testing.assert_allclose(
        dct_matrix(2) @ [1.0, 3.0], np.array([4.0, -2.0]) / np.sqrt(2), rtol=1e-6
    )


def test_spectrum_has_unit_power_and_falls_to_half_at_the_corner():
    stds = falling_spectrum(6, 9, corner=3.0)
    assert stds.shape == (6, 9, 1)
    np.testing.assert_allclose(np.mean(stds**2), 1, rtol=1e-6)
    np.testing.assert_allclose(stds[[3, 0], [0, 3], 0], stds[0, 0, 0] / 2, rtol=1e-6)
    assert np.all(np.diff(stds[:, :, 0], axis=0) < 0)
    assert np.all(np.diff(stds[:, :, 0], axis=1) < 0)
