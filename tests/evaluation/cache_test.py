"""What is kept for the next time, and what happens where nothing can be kept."""

import logging
import pathlib

import numpy as np
import pytest

from dpdm_jax.errors import InputError
from dpdm_jax.evaluation import cache

_ARRAYS = {"a": np.arange(3)}


def test_a_cache_that_cannot_be_written_ends_nothing(tmp_path, caplog):
    (tmp_path / "file").touch()
    with caplog.at_level(logging.WARNING):
        cache.keep_arrays(tmp_path / "file" / "cache" / "x.npz", _ARRAYS)
    (said,) = caplog.messages
    assert said.startswith("x.npz is not kept for the next time: ")
    cache.keep_arrays(tmp_path / "cache" / "x.npz", _ARRAYS)
    assert cache.read_arrays(tmp_path / "cache" / "x.npz")["a"].tolist() == [0, 1, 2]


def test_what_a_run_goes_on_from_must_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"):
        cache.write_arrays(tmp_path / "file" / "x.npz", _ARRAYS)


def test_a_user_without_a_home_has_no_cache(monkeypatch):
    def home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(pathlib.Path, "home", home)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert not cache.default_folder().parent.exists()
    assert cache.read_arrays(cache.default_folder() / "x.npz") is None
