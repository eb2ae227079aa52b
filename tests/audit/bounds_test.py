import sys

import numpy as np
import pytest

from dpdm_jax.audit import bounds
from dpdm_jax.errors import InputError


def test_one_run_where_all_guesses_are_right():
    # The other half, 100 of 200, chose the threshold: 50 guesses of 50 right, which has
    # probability q^50 under epsilon = log(q / (1 - q)).
    q = 0.05 ** (1 / 50)
    found = bounds.one_run(np.ones(100), np.zeros(100), 1e-12, 0.05, seed=1)
    assert found == pytest.approx(np.log(q / (1 - q)), abs=1e-3)
    assert found == bounds.most_of_one_run(200, 1e-12, 0.05)


@pytest.mark.parametrize("delta", [0.0, 0.2])
def test_many_runs_where_all_guesses_are_right(delta):
    # Clopper and Pearson: no error in 50, each rate at half of the error.
    rate = 1 - 0.025 ** (1 / 50)
    found = bounds.many_runs(np.ones(100), np.zeros(100), delta, 0.05, seed=1)
    assert found == pytest.approx(np.log((1 - rate - delta) / rate))


def test_no_bound_where_there_is_nothing_to_see():
    # Error rate 1 % each; the seeds are fixed.
    inside, outside = np.random.default_rng(0).normal(size=(2, 300))
    assert bounds.one_run(inside, outside, 1e-5, 0.01, seed=0) == 0
    assert bounds.many_runs(inside, outside, 0.05, 0.01, seed=0) == 0


def test_missing_library_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "jax_privacy", None)
    with pytest.raises(InputError, match=r"not installed; allowed: .*'audit'"):
        bounds.check_installed()
