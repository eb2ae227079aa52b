import importlib.util

import jax
import pytest

from dpdm_jax.compilation import targets
from dpdm_jax.errors import InputError

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason='libtpu is not installed (pip install -e ".[tpu]")',
)


def test_cpu():
    target = targets.find_target("cpu")
    assert target.devices == tuple(jax.devices("cpu"))
    assert target.device_limits is None


@pytest.mark.parametrize("name", ["", "tpu", "v5e", "v5e:", "v5e:8", "v5e:0x2", "CPU"])
def test_malformed_names(name):
    with pytest.raises(InputError, match="allowed: cpu, or a TPU slice"):
        targets.find_target(name)


def test_without_libtpu(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"needs libtpu .*: cpu"):
        targets.find_target("v5e:2x2")


@needs_libtpu
@pytest.mark.parametrize("name", ["v9:2x2", "v5e:3x9"])
def test_slices_that_libtpu_does_not_know(name):
    with pytest.raises(InputError, match=rf"'{name}' \(.+\); allowed: cpu, or a TPU"):
        targets.find_target(name)


@needs_libtpu
def test_slices():
    eight = targets.find_target("v5e:2x4")
    assert (len(eight.devices), eight.num_chips) == (8, 8)
    assert eight.device_limits == targets.CHIPS["v5e"]
    # Two cores make a chip, which its memory and speed are shared by.
    halves = targets.find_target("v4:2x2x1")
    assert (len(halves.devices), halves.num_chips) == (8, 4)
    assert halves.device_limits.hbm_bytes == targets.CHIPS["v4"].hbm_bytes / 2
    assert len(targets.find_target("v6e:1x1").devices) == 1
    unknown = targets.find_target("v3:2x2")
    assert unknown.device_limits is None
