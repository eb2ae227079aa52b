"""Grids of noise levels on which samplers step, from the largest to the smallest."""

import numpy as np


def edm_grid(
    num_steps: int, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0
) -> np.ndarray:
    """Grid that is uniform in sigma^(1/rho) (Karras et al. 2022, eq. 5).

    Args:
        num_steps: number of grid points N >= 2.
        sigma_min: smallest noise level, > 0.
        sigma_max: largest noise level.
        rho: how strongly the points crowd at small noise.

    Returns:
        float64 [N], decreasing from sigma_max to sigma_min, both exact.
    """
    ends = np.array([sigma_max, sigma_min], np.float64) ** (1.0 / rho)
    grid = np.linspace(ends[0], ends[1], num_steps) ** rho
    grid[0], grid[-1] = sigma_max, sigma_min
    return grid


def log_uniform_grid(num_steps: int, sigma_min: float, sigma_max: float) -> np.ndarray:
    """Grid that is uniform in ln sigma; arguments and result as in ``edm_grid``."""
    return np.geomspace(sigma_max, sigma_min, num_steps)


def cosine_grid(num_steps: int, sigma_min: float, sigma_max: float) -> np.ndarray:
    """Grid that is uniform in t = (2 / pi) arctan(sigma), the time of v-prediction.

    Arguments and result as in ``edm_grid``.
    """
    grid = np.tan(np.linspace(np.arctan(sigma_max), np.arctan(sigma_min), num_steps))
    grid[0], grid[-1] = sigma_max, sigma_min
    return grid
